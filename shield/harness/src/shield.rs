//! Shields of a story, in this process, with manifests as files.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use arqon_client::ConnectParams;
use arqon_policy::compile::CompileCommand;
use arqon_shield::app::Shield;
use arqon_spine::manifest::Manifest;
use arqon_spine::state::Role;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use toml::{Table, Value};

use crate::client::Client;
use crate::program::{Program, free_addr, shield_program};
use crate::spine::{Spine, TestTenant, node};
use crate::{http, moved, within};

/// A Shield to be started.
#[derive(Clone, Debug)]
pub struct ShieldParams {
    folder: PathBuf,
    creds: PathBuf,
    state: arqon_spine::state::StateFolder,
    manifest: Table,
}

/// A running Shield; dropping it ends it without a drain.
pub struct TestShield {
    shield: Option<Shield>,
    addr: SocketAddr,
    admin: SocketAddr,
    tls_ca_pem: Option<Vec<u8>>,
}

/// A running Shield that is a process of its own; dropping it kills it.
#[derive(Debug)]
pub struct ShieldProcess {
    /// The process.
    pub program: Program,
    /// The public listener.
    pub addr: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
}

impl ShieldProcess {
    /// Whether it takes sessions.
    pub async fn is_ready(&self) -> bool {
        let asked = http::get(self.addr, "/readyz", &[]);
        let answer = tokio::time::timeout(std::time::Duration::from_secs(2), asked).await;
        answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200))
    }

    /// A session, past its WELCOME.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn connect(&self, token: &str) -> Client {
        let url = format!("ws://localhost:{}", self.addr.port());
        Client::connect(ConnectParams::new(url, token))
            .await
            .unwrap_or_else(|error| panic!("a session: {error:?}"))
    }
}

// === impl ShieldParams ===

impl ShieldParams {
    pub(crate) fn new(spine: &Spine) -> Self {
        let mut params = Self {
            folder: spine.folder().to_owned(),
            creds: PathBuf::new(),
            state: spine.state().clone(),
            manifest: Table::new(),
        };
        params.set("listen.public", "127.0.0.1:0");
        params.set("listen.admin", "127.0.0.1:0");
        params.set("spine.servers", vec![spine.url()]);
        // Short, so that stories of a drain need not wait for real clients.
        params.set("drain.timeout_secs", 5);
        params.set("drain.spread_secs", 0);
        // Clients of stories answer pings only while they read.
        params.set("session.first_frame_timeout_secs", 300);
        params.id("shield-1").pool("default")
    }

    /// Names it; makes its CONTROL credentials.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.creds = self
            .state
            .creds(Role::Shield, &node(id))
            .expect("a Shield's credentials");
        self.set("node.id", id);
        let creds = self.creds.display().to_string();
        self.set("spine.control_creds_file", creds);
        self
    }

    /// Puts it into a pool; gives it the pool's fleet key.
    #[must_use]
    pub fn pool(mut self, pool: &str) -> Self {
        self.set("node.pool", pool);
        let key = self.state.fleet_key_path(&node(pool));
        self.set("spine.fleet_key_file", key.display().to_string());
        self
    }

    /// Has it reach the Spine by another address, such as a proxy's.
    #[must_use]
    pub fn via(mut self, url: &str) -> Self {
        self.set("spine.servers", vec![url.to_owned()]);
        self
    }

    /// Changes the manifest: lines such as `session.max_rooms = 3`.
    ///
    /// # Panics
    /// If that is no TOML.
    #[must_use]
    pub fn with(mut self, lines: &str) -> Self {
        let changes: Table = lines.parse().expect("changes to a manifest are TOML");
        for (section, keys) in changes {
            let Value::Table(keys) = keys else {
                panic!("{section} is no section of a manifest");
            };
            for (key, value) in keys {
                self.set(&format!("{section}.{key}"), value);
            }
        }
        self
    }

    fn set(&mut self, path: &str, value: impl Into<Value>) {
        let (section, key) = path.split_once('.').expect("section.key");
        let section = self
            .manifest
            .entry(section)
            .or_insert_with(|| Table::new().into());
        if let Value::Table(section) = section {
            section.insert(key.to_owned(), value.into());
        }
    }

    /// The CONTROL credentials it is given.
    pub fn control_creds(&self) -> &PathBuf {
        &self.creds
    }

    /// Writes the manifest to a file and names it.
    pub fn write(&self) -> PathBuf {
        let id = self.manifest["node"]["id"].as_str().unwrap_or("shield");
        let path = self.folder.join(format!("{id}.toml"));
        std::fs::write(&path, self.manifest.to_string()).expect("a manifest is written");
        path
    }

    /// Starts it as a process of its own, which can crash, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn spawn(self) -> ShieldProcess {
        let started = self.launch_at(free_addr(), free_addr());
        crate::eventually!(started.is_ready().await, "{}", started.program.log());
        started
    }

    /// Starts it as a process of its own on these addresses; does not wait for it.
    pub fn launch_at(mut self, addr: SocketAddr, admin: SocketAddr) -> ShieldProcess {
        self.set("listen.public", addr.to_string());
        self.set("listen.admin", admin.to_string());
        let manifest = self.write();
        let log = manifest.with_extension("log");
        let mut command = Command::new(shield_program());
        command.arg("--config").arg(&manifest);
        let program = Program::start(&mut command, &log);
        ShieldProcess {
            program,
            addr,
            admin,
        }
    }

    /// Starts it in this process and waits until it is ready.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(self) -> TestShield {
        let manifest = Manifest::load(&self.write()).unwrap_or_else(|error| panic!("{error}"));
        let tls_ca_pem = manifest
            .tls
            .as_ref()
            .map(|tls| std::fs::read(&tls.certificate_file).expect("a certificate"));
        let shield = within(
            "a Shield to start",
            Shield::start_with(manifest, compile_command()),
        )
        .await
        .unwrap_or_else(|error| panic!("Shield starts: {error:?}"));
        let started = TestShield {
            addr: shield.public_addr(),
            admin: shield.admin_addr(),
            shield: Some(shield),
            tls_ca_pem,
        };
        crate::eventually!(started.is_ready().await);
        started
    }
}

/// The real program compiles, for this one is a test.
fn compile_command() -> CompileCommand {
    CompileCommand {
        program: shield_program(),
        args: vec![arqon_shield::policy::COMPILE_POLICY.into()],
    }
}

impl Drop for ShieldProcess {
    fn drop(&mut self) {
        moved::note_at(self.admin);
    }
}

impl Drop for TestShield {
    fn drop(&mut self) {
        if let Some(shield) = &self.shield {
            moved::note(&shield.metrics().encode());
        }
    }
}

// === impl TestShield ===

impl TestShield {
    /// The public listener.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The admin listener.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// The Shield itself.
    ///
    /// # Panics
    /// After [`TestShield::drain`].
    pub fn inner(&self) -> &Shield {
        self.shield.as_ref().expect("it runs")
    }

    /// How a client connects to it.
    pub fn params(&self, token: &str) -> ConnectParams {
        let scheme = if self.tls_ca_pem.is_some() {
            "wss"
        } else {
            "ws"
        };
        ConnectParams {
            tls_ca_pem: self.tls_ca_pem.clone(),
            ..ConnectParams::new(format!("{scheme}://localhost:{}", self.addr.port()), token)
        }
    }

    /// A session, past its WELCOME.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn connect(&self, token: &str) -> Client {
        Client::connect(self.params(token))
            .await
            .unwrap_or_else(|error| panic!("a session: {error:?}"))
    }

    /// A session with role `service`: it publishes without joining.
    pub async fn service(&self, tenant: &TestTenant, user: &str) -> Client {
        self.connect(&tenant.token().user(user).role("service").sign())
            .await
    }

    /// Whether it says that it is ready.
    pub async fn is_ready(&self) -> bool {
        let answer = match &self.tls_ca_pem {
            Some(pem) => self.ready_over_tls(pem).await,
            None => http::get(self.addr, "/readyz", &[]).await,
        };
        answer.is_ok_and(|answer| answer.status == 200)
    }

    async fn ready_over_tls(&self, ca_pem: &[u8]) -> std::io::Result<http::Answer> {
        let config = arqon_client::tls_config(Some(ca_pem)).expect("a certificate");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TcpStream::connect(self.addr).await?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        http::get_over(stream, "/readyz", &[]).await
    }

    /// A metric's value now, without its prefix; `label` is its label's value
    /// or empty. 0 where it has not moved yet.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        metric_at(self.admin, name, label).await
    }

    /// Drains it as SIGTERM would.
    pub async fn drain(mut self) {
        if let Some(shield) = self.shield.take() {
            let metrics = shield.metrics().clone();
            within("a drain", shield.drain()).await;
            moved::note(&metrics.encode());
        }
    }
}

/// As [`TestShield::metric`], of any Shield's admin listener.
///
/// # Panics
/// If it does not answer.
pub async fn metric_at(admin: SocketAddr, name: &str, label: &str) -> f64 {
    let text = within("/metrics", http::get(admin, "/metrics", &[]))
        .await
        .expect("metrics are shown")
        .body;
    moved::note(&text);
    let prefix = format!("arqon_shield_{name}");
    text.lines()
        .filter_map(|line| line.strip_prefix(&prefix)?.rsplit_once(' '))
        .find(|(labels, _)| match label {
            "" => matches!(*labels, "" | "{}"),
            label => labels.contains(&format!("\"{label}\"")),
        })
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0.0)
}
