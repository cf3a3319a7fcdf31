//! Composition: a manifest in, a running Shield out, and its orderly end.
//!
//! Bind early, serve late: both ports are taken before anything else is begun,
//! so that a mistake shows at once; sessions are accepted when the tenants
//! were read. A drain goes: unready → stop accepting → GOAWAY → close what is
//! left shortly before the limit → close the Spine.

mod limits;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arqon_policy::{Policies, compile::CompileCommand};
use arqon_proto::codes::CloseCode;
use arqon_spine::{
    connect::{self, ConnectError},
    manifest::Manifest,
    server,
};
use arqon_telemetry::{
    Metrics, Telemetry,
    log::chain,
    otlp::{self, Identity},
};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    auth::Verifier,
    control::{self, Control, ControlContext, ControlParams, Revocations, Tenants},
    edge::{self, Certificate, Edge, Readiness, Status, TenantStatus, TlsError},
    policy::{self, Deployer, DeployerParams, Machinery, PolicyStartError},
    quota::Quotas,
    session::{self, SessionContext, Sessions},
    spine::{SpineError, SpineParams, SpinePool},
};

/// A Spine that does not answer by then is tried in the background.
const FIRST_CONTACT: Duration = Duration::from_secs(5);
/// Kept free at the end of a drain for sessions that are being closed.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long the last words about presence may take, each.
const PARTING: Duration = Duration::from_secs(1);
/// How long the Spine's connections have to send what they hold.
const SPINE_SHUTDOWN: Duration = Duration::from_secs(5);

/// A running Shield. Dropping it ends its listeners and closes its sessions
/// without ado; `drain` ends them in order.
pub struct Shield {
    manifest: Arc<Manifest>,
    public_addr: SocketAddr,
    admin_addr: SocketAddr,
    parts: Parts,
    /// Of sessions and handshakes.
    tasks: TaskTracker,
    /// Ends the public listener.
    accepting: CancellationToken,
    _stop_accepting: DropGuard,
    /// Ends the admin listener.
    _stop_admin: DropGuard,
    control: Arc<Control>,
    telemetry: Telemetry,
    certificate: Option<Arc<Certificate>>,
}

/// What the drain, the status and the edge all look at.
#[derive(Clone)]
struct Parts {
    tenants: Arc<Tenants>,
    revocations: Arc<Revocations>,
    sessions: Arc<Sessions>,
    pool: Arc<SpinePool>,
    readiness: Arc<Readiness>,
    policies: Policies,
    deployer: Arc<Deployer>,
    metrics: Metrics,
    drain: CancellationToken,
}

/// Why a Shield does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be taken.
    #[error("cannot listen on {address} (`{setting}`)")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The manifest's key of it.
        setting: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error("no TLS")]
    Tls(#[from] TlsError),
    /// The fleet key cannot be used.
    #[error("no access to the Spine")]
    Spine(#[from] SpineError),
    /// Traces or metrics cannot be sent as the manifest wants it.
    #[error("no telemetry")]
    Telemetry(#[from] otlp::StartError),
    /// Policies cannot run here.
    #[error("no policies")]
    Policies(#[from] PolicyStartError),
    /// The servers refuse this node's credentials.
    #[error("the Spine refuses the credentials of `spine.control_creds_file`")]
    Refused(#[source] ConnectError),
    /// The server is too old.
    #[error("the nats-server at {server} cannot be used")]
    Version {
        /// The server.
        server: String,
        /// Its version, and which would do.
        #[source]
        source: server::ServerError,
    },
}

// === impl Shield ===

impl Shield {
    /// Starts a Shield. It is ready when it has read its tenants and policies.
    /// Policies are compiled by this program itself.
    ///
    /// # Errors
    /// See [`StartError`]. A Spine that cannot be reached is none: the Shield
    /// stays unready and goes on trying.
    pub async fn start(manifest: Manifest) -> Result<Self, StartError> {
        Self::start_with(manifest, policy::own_compile_command()).await
    }

    /// As [`Shield::start`], within a program that is no `arqon-shield`.
    ///
    /// # Errors
    /// As [`Shield::start`].
    pub async fn start_with(
        manifest: Manifest,
        compile: CompileCommand,
    ) -> Result<Self, StartError> {
        // A second Shield in this process finds it installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        limits::raise_open_files(&manifest);

        let certificate = manifest.tls.as_ref().map(Certificate::load).transpose()?;
        let tls = certificate.clone().map(edge::acceptor).transpose()?;
        let send_buffer = Some(manifest.session.send_buffer_bytes);
        let public = bind(
            &manifest,
            manifest.listen.public,
            "listen.public",
            send_buffer,
        )?;
        let admin = bind(&manifest, manifest.listen.admin, "listen.admin", None)?;
        let local = |listener: &TcpListener, setting, address| {
            listener.local_addr().map_err(|source| StartError::Bind {
                address,
                setting,
                source,
            })
        };
        let public_addr = local(&public, "listen.public", manifest.listen.public)?;
        let admin_addr = local(&admin, "listen.admin", manifest.listen.admin)?;
        let metrics = Metrics::new(manifest.telemetry.top_tenants);
        let params = SpineParams::from_manifest(&manifest);
        let telemetry = Telemetry::start(
            &manifest.telemetry,
            &Identity {
                service: "arqon-shield",
                instance: manifest.node.id.to_string(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                incarnation: Some(control::incarnation(params.presence.epoch)),
            },
            metrics.telemetry(),
            metrics.clone(),
        )?;
        metrics.set_tracer(telemetry.tracer().clone());
        first_contact(&manifest).await?;

        let quotas = Arc::new(Quotas::new(
            &manifest.node.id,
            &manifest.node.pool,
            manifest.quotas,
            &metrics,
        ));
        let pool = SpinePool::new(params, quotas, &metrics)?;
        let Machinery {
            host,
            compiler,
            policies,
            audit,
        } = Machinery::new(&manifest, compile)?;
        let deployer = Deployer::start(DeployerParams {
            node: manifest.node.id.clone(),
            incarnation: control::incarnation(pool.presence().epoch()),
            host,
            compiler,
            policies: policies.clone(),
            audit,
            metrics: metrics.clone(),
        });
        let tenants = Arc::new(Tenants::new());
        let sessions = Arc::new(Sessions::new());
        let max_sessions = manifest.session.max_sessions;
        let readiness = Readiness::new(Arc::clone(&tenants), Arc::clone(&sessions), max_sessions);
        // A token is taken until its leeway is over, and a session opened then has its grace.
        let slack = manifest.tokens.leeway + manifest.tokens.grace;
        let parts = Parts {
            tenants,
            revocations: Arc::new(Revocations::new(slack)),
            sessions,
            pool,
            readiness: Arc::new(readiness),
            policies,
            deployer: Arc::new(deployer),
            metrics,
            drain: CancellationToken::new(),
        };
        let scheme = if tls.is_some() { "wss" } else { "ws" };
        let control = Arc::new(Control::start(
            ControlParams::from_manifest(&manifest, format!("{scheme}://{public_addr}/v1/socket")),
            Arc::clone(&parts.tenants),
            parts.control_context(),
        ));

        let manifest = Arc::new(manifest);
        let tasks = TaskTracker::new();
        let accepting = CancellationToken::new();
        let edge = parts.edge(&manifest, tls, &tasks);
        tokio::spawn(edge::serve(
            public,
            Arc::new(edge),
            tasks.clone(),
            accepting.clone(),
        ));
        if let Some(certificate) = &certificate {
            tokio::spawn(edge::watch(
                Arc::clone(certificate),
                parts.metrics.clone(),
                accepting.clone(),
            ));
        }
        let stop_admin = CancellationToken::new();
        let status = parts.status_source(Arc::clone(&manifest), public_addr, &control);
        let routes =
            edge::admin_router(parts.metrics.clone(), Arc::clone(&parts.readiness), status);
        let stopped = stop_admin.clone().cancelled_owned();
        tokio::spawn(async move {
            let served = axum::serve(admin, routes).with_graceful_shutdown(stopped);
            if let Err(error) = served.await {
                tracing::error!(%error, "Admin listener ended");
            }
        });
        tracing::info!(
            node = %manifest.node.id, pool = %manifest.node.pool, version = env!("CARGO_PKG_VERSION"),
            public = %public_addr, admin = %admin_addr, tls = manifest.tls.is_some(),
            "Shield started"
        );
        Ok(Self {
            manifest,
            public_addr,
            admin_addr,
            parts,
            tasks,
            _stop_accepting: accepting.clone().drop_guard(),
            accepting,
            _stop_admin: stop_admin.drop_guard(),
            control,
            telemetry,
            certificate,
        })
    }

    /// Where clients connect.
    pub fn public_addr(&self) -> SocketAddr {
        self.public_addr
    }

    /// Where the admin listener is.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// The tenants' connections to the Spine.
    pub fn pool(&self) -> &Arc<SpinePool> {
        &self.parts.pool
    }

    /// All sessions.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.parts.sessions
    }

    /// What is bound here.
    pub fn policies(&self) -> &Policies {
        &self.parts.policies
    }

    /// All metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }

    /// Whether sessions are accepted.
    pub fn readiness(&self) -> &Arc<Readiness> {
        &self.parts.readiness
    }

    /// Has the certificate's files looked at now, as SIGHUP asks for.
    pub fn reload(&self) {
        match &self.certificate {
            Some(certificate) => certificate.look_now(),
            None => tracing::info!("Asked to reload, but without TLS there is nothing to"),
        }
    }

    /// Ends when the control plane orders a drain.
    pub async fn ordered_to_drain(&self) {
        self.parts.drain.cancelled().await;
    }

    /// Ends this Shield in order, within `drain.timeout`. Returns how many
    /// sessions the limit cut short.
    pub async fn drain(mut self) -> usize {
        let telemetry = std::mem::replace(&mut self.telemetry, Telemetry::off());
        let Parts {
            sessions,
            pool,
            readiness,
            drain,
            ..
        } = &self.parts;
        let began = Instant::now();
        let limit = self.manifest.drain.timeout;
        let left = || limit.saturating_sub(began.elapsed());
        tracing::info!(
            sessions = sessions.count(),
            limit_secs = limit.as_secs(),
            "Draining"
        );
        readiness.set_draining();
        drain.cancel();
        self.accepting.cancel();

        let last_words = LAST_WORDS.min(limit / 4);
        let deadline = limit - last_words;
        let spread = self.manifest.drain.spread.min(deadline);
        sessions.goaway_all(Duration::ZERO, spread, deadline);
        let _ = timeout(
            deadline.saturating_sub(began.elapsed()),
            sessions.wait_empty(),
        )
        .await;
        // Also where there is none: a handshake under way may still become one.
        let stayed = sessions.close_all(CloseCode::GoingAway);
        if stayed > 0 {
            tracing::info!(sessions = stayed, "Closing sessions that stayed");
        }
        self.tasks.close();
        let _ = timeout(left(), self.tasks.wait()).await;
        let cut = sessions.count();
        if cut > 0 {
            tracing::warn!(sessions = cut, "Drain cut short by drain.timeout_secs");
        }
        // What Brains are told last: they need not wait for silence.
        let flushed = async {
            while !pool.presence().is_flushed() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(PARTING, flushed).await;
        if !self.control.goodbye(PARTING).await {
            tracing::info!("Nobody to say goodbye to: Brains will notice by silence");
        }
        if timeout(SPINE_SHUTDOWN, pool.shutdown()).await.is_err() {
            tracing::warn!("The Spine did not take the last messages in time");
        }
        if timeout(PARTING, telemetry.finish()).await.is_err() {
            tracing::info!("The last telemetry was not taken in time");
        }
        tracing::info!(took_ms = began.elapsed().as_millis(), "Drained");
        cut
    }
}

impl Drop for Shield {
    fn drop(&mut self) {
        // After a drain there are none.
        self.parts.sessions.close_all(CloseCode::GoingAway);
    }
}

// === impl Parts ===

impl Parts {
    fn control_context(&self) -> ControlContext {
        ControlContext {
            pool: Arc::clone(&self.pool),
            sessions: Arc::clone(&self.sessions),
            deployer: Arc::clone(&self.deployer),
            revocations: Arc::clone(&self.revocations),
            metrics: self.metrics.clone(),
            drain: self.drain.clone(),
        }
    }

    fn edge(
        &self,
        manifest: &Manifest,
        tls: Option<tokio_rustls::TlsAcceptor>,
        tasks: &TaskTracker,
    ) -> Edge {
        let verifier = Arc::new(Verifier::new(
            Arc::clone(&self.tenants),
            Arc::clone(&self.revocations),
            manifest,
            self.metrics.clone(),
        ));
        let context = Arc::new(SessionContext::new(
            manifest,
            Arc::clone(&self.pool),
            Arc::clone(&self.tenants),
            self.policies.clone(),
            Arc::clone(&self.sessions),
            Arc::clone(&verifier),
            self.metrics.clone(),
        ));
        let tasks = tasks.clone();
        Edge {
            listen: manifest.listen.clone(),
            json: manifest.session.json,
            tls,
            verifier,
            readiness: Arc::clone(&self.readiness),
            quotas: Arc::clone(self.pool.quotas()),
            open: Box::new(move |socket, read_ahead, admitted, arrival| {
                let context = Arc::clone(&context);
                let edge::Admitted { identity, place } = admitted;
                let session = session::run(socket, read_ahead, identity, place, &arrival, context);
                tasks.spawn(session);
            }),
            metrics: self.metrics.clone(),
        }
    }

    fn status_source(
        &self,
        manifest: Arc<Manifest>,
        public: SocketAddr,
        control: &Control,
    ) -> edge::StatusSource {
        let parts = self.clone();
        let started = Instant::now();
        let incarnation = control.incarnation().to_owned();
        Arc::new(move || Status {
            incarnation: incarnation.clone(),
            uptime_secs: started.elapsed().as_secs(),
            ..parts.status(&manifest, public)
        })
    }

    fn status(&self, manifest: &Manifest, public: SocketAddr) -> Status {
        let mut tenants = std::collections::BTreeMap::<String, TenantStatus>::new();
        for (tenant, sessions) in self.sessions.counts() {
            tenants.entry(tenant.to_string()).or_default().sessions = sessions;
        }
        let links = self.pool.stats();
        for link in &links {
            let tenant = tenants.entry(link.tenant.to_string()).or_default();
            tenant.rooms = link.rooms;
            tenant.spine = Some(format!("{:?}", link.state).to_lowercase());
        }
        let refusal = self.readiness.refusal();
        Status {
            id: manifest.node.id.to_string(),
            pool: manifest.node.pool.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: String::new(),
            uptime_secs: 0,
            ready: refusal.is_none(),
            reasons: refusal
                .iter()
                .map(|unready| unready.reason().to_owned())
                .collect(),
            draining: self.readiness.draining(),
            public: public.to_string(),
            tls: manifest.tls.is_some(),
            sessions: self.sessions.count(),
            rooms: links.iter().map(|link| link.rooms).sum(),
            tenants_known: self.tenants.count(),
            tenants: tenants
                .into_iter()
                .map(|(id, tenant)| TenantStatus { id, ..tenant })
                .collect(),
        }
    }
}

fn bind(
    manifest: &Manifest,
    address: SocketAddr,
    setting: &'static str,
    send_buffer: Option<usize>,
) -> Result<TcpListener, StartError> {
    edge::bind(address, manifest.listen.backlog, send_buffer).map_err(|source| StartError::Bind {
        address,
        setting,
        source,
    })
}

/// Looks at the Spine once, for mistakes that trying again would not mend.
async fn first_contact(manifest: &Manifest) -> Result<(), StartError> {
    let spine = &manifest.spine;
    let name = format!("{}/start", manifest.node.id);
    let contact = connect::connect_creds(&spine.servers, &spine.control_creds_file, &name);
    let connection = match timeout(FIRST_CONTACT, contact).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error @ (ConnectError::Refused { .. } | ConnectError::Credentials { .. }))) => {
            return Err(StartError::Refused(error));
        }
        Ok(Err(error)) => {
            tracing::warn!(
                error = chain(&error),
                "Cannot reach the Spine yet, trying on"
            );
            return Ok(());
        }
        Err(_) => {
            tracing::warn!(servers = ?spine.servers, "The Spine does not answer yet, trying on");
            return Ok(());
        }
    };
    let version = connection.client.server_info().version;
    let checked = server::check_version(&version);
    let server = connection.server.clone();
    connection.close().await;
    checked
        .map(|_| ())
        .map_err(|source| StartError::Version { server, source })
}
