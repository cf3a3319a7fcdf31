//! A whole Spine for one story: keys, a real nats-server, tenants.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use arqon_proto::names::{NodeId, TenantId};
use arqon_proto::v1;
use arqon_spine::admin::{Admin, CreateTenant, RevokeTokens, Revoked, WaitFor};
use arqon_spine::connect::{Connection, connect_creds};
use arqon_spine::control::ControlStore;
use arqon_spine::server::{self, Io, Process};
use arqon_spine::server_config::{ClusterParams, ServerParams};
use arqon_spine::state::{Role, StateFolder};
use tempfile::TempDir;

use crate::brain::BrainParams;
use crate::keys::{IssuerKey, issuer_key};
use crate::proxy::Proxy;
use crate::shield::ShieldParams;
use crate::token::Token;
use crate::{http, within};

/// The Spine of one story. Dropping it kills the server and deletes its folder.
#[derive(Debug)]
pub struct Spine {
    // First, so that it ends before its folder goes.
    process: Process,
    /// The further servers of a cluster.
    others: Vec<Process>,
    state: StateFolder,
    folder: TempDir,
    /// Which key each tenant's issuer has, by id.
    keys: Mutex<Vec<String>>,
}

/// A tenant to be made.
#[derive(Clone, Debug)]
pub struct TenantParams {
    /// Its id.
    pub id: String,
    /// Its pool.
    pub pool: String,
    /// The `iss` it trusts.
    pub issuer: String,
    /// The `kid` of the issuer's key.
    pub kid: String,
    /// The issuer's key.
    pub key: &'static IssuerKey,
    /// Where the issuer's keys are fetched; None: given as PEM.
    pub jwks_url: Option<String>,
    /// Its limits.
    pub limits: v1::TenantLimits,
}

/// A tenant and what signs its tokens.
#[derive(Clone, Debug)]
pub struct TestTenant {
    /// Its id.
    pub id: TenantId,
    /// Its NATS account, `A…`.
    pub account: String,
    /// The `iss` it trusts.
    pub issuer: String,
    /// The `kid` of the issuer's key.
    pub kid: String,
    /// The issuer's key.
    pub key: &'static IssuerKey,
}

// === impl Spine ===

impl Spine {
    /// A fresh Spine with the pool `default` and no tenant.
    ///
    /// # Panics
    /// If there is no usable nats-server, or it does not start.
    pub async fn start() -> Self {
        // Shown with a story that fails. A second story finds it set already.
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
            .try_init();
        let (folder, state) = new_state();
        let binary = server::find().expect("a nats-server (scripts/setup fetches one)");
        let store = folder.path().join("nats").join("store");
        std::fs::create_dir_all(&store).expect("a folder for the server");
        let log = Io::File(folder.path().join("nats.log"));
        let params = ServerParams {
            http: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            ..ServerParams::single(store)
        };
        let process = Process::start(&binary, &state, params, log).expect("nats-server starts");
        Self::of(process, Vec::new(), state, folder, 1).await
    }

    /// As [`Spine::start`], of three servers that know each other; `url` is the first's.
    ///
    /// # Panics
    /// As there.
    pub async fn cluster() -> Self {
        let (folder, state) = new_state();
        let mut all: Vec<_> = (1..=3).map(|n| clustered(&folder, n)).collect();
        ServerParams::choose_all(&mut all).expect("free ports");
        let mut servers = all.into_iter().map(|params| start(&state, &folder, params));
        let first = servers.next().expect("there are three");
        let others = servers.collect();
        Self::of(first, others, state, folder, 3).await
    }

    /// Two servers whose only way to each other leads through a proxy.
    ///
    /// # Panics
    /// As there.
    pub async fn pair_over_proxy() -> (Self, Proxy) {
        let (folder, state) = new_state();
        let mut first = clustered(&folder, 1);
        first.choose_ports().expect("free ports");
        let listen = first.cluster.as_ref().expect("it has routes").listen;
        let proxy = Proxy::start(listen).await.expect("a proxy");
        let mut second = clustered(&folder, 2);
        if let Some(cluster) = &mut second.cluster {
            cluster.routes.push(proxy.addr.to_string());
        }
        second.choose_ports().expect("free ports");
        let first = start(&state, &folder, first);
        let others = vec![start(&state, &folder, second)];
        (Self::of(first, others, state, folder, 1).await, proxy)
    }

    /// As [`Spine::cluster`], where each two servers reach each other by a proxy
    /// only: of the first and second, the first and third, the second and third.
    ///
    /// # Panics
    /// As there.
    pub async fn cluster_over_proxies() -> (Self, Vec<Proxy>) {
        let (folder, state) = new_state();
        let mut all: Vec<_> = (1..=3).map(|n| clustered(&folder, n)).collect();
        let mut listens = Vec::new();
        let mut routes = Vec::new();
        for params in &mut all {
            params.choose_ports().expect("free ports");
            let cluster = params.cluster.as_mut().expect("it has routes");
            // Each dials those before it. What servers tell each other of a
            // third must lead nowhere, or they would go past the proxies.
            cluster.advertise = Some("127.0.0.1:9".to_owned());
            cluster.routes.clear();
            for listen in &listens {
                let proxy = Proxy::start(*listen).await.expect("a proxy");
                cluster.routes.push(proxy.addr.to_string());
                routes.push(proxy);
            }
            listens.push(cluster.listen);
        }
        let mut servers = all.into_iter().map(|params| start(&state, &folder, params));
        let first = servers.next().expect("there are three");
        let others = servers.collect();
        (Self::of(first, others, state, folder, 3).await, routes)
    }

    async fn of(
        process: Process,
        others: Vec<Process>,
        state: StateFolder,
        folder: TempDir,
        replicas: usize,
    ) -> Self {
        let spine = Self {
            process,
            others,
            state,
            folder,
            keys: Mutex::default(),
        };
        let admin = spine.admin().await;
        within(
            "the first pool",
            admin.bootstrap(replicas, &node("default")),
        )
        .await
        .expect("buckets and a pool are made");
        spine
    }

    /// The address of one of the servers of a cluster, from 0 on.
    pub fn url_of(&self, server: usize) -> String {
        match server.checked_sub(1) {
            None => self.process.url(),
            Some(other) => self.others[other].url(),
        }
    }

    /// Kills one of them.
    pub fn kill_server(&mut self, server: usize) {
        self.server(server).kill().expect("the server is killed");
    }

    /// The process of one of them, if it runs.
    pub fn pid_of(&self, server: usize) -> Option<u32> {
        match server.checked_sub(1) {
            None => self.process.pid(),
            Some(other) => self.others[other].pid(),
        }
    }

    /// Tells it to let its clients go and to end.
    pub fn lame_duck(&mut self, server: usize) {
        // One that has just ended needs no telling.
        let _ = self.server(server).lame_duck();
    }

    /// Starts it again.
    pub fn restart_server(&mut self, server: usize) {
        self.server(server)
            .restart()
            .expect("the server starts again");
    }

    fn server(&mut self, server: usize) -> &mut Process {
        match server.checked_sub(1) {
            None => &mut self.process,
            Some(other) => &mut self.others[other],
        }
    }

    /// The server's address for NATS clients.
    pub fn url(&self) -> String {
        self.process.url()
    }

    /// The server's socket address.
    pub fn addr(&self) -> SocketAddr {
        self.process.params().listen
    }

    /// The keys.
    pub fn state(&self) -> &StateFolder {
        &self.state
    }

    /// The story's temporary folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves the folder there when this is dropped.
    pub fn keep_folder(&mut self) {
        self.folder.disable_cleanup(true);
    }

    /// Kills the server as a crash would.
    pub fn kill(&mut self) {
        self.process.kill().expect("the server is killed");
    }

    /// Starts it again on the same port.
    pub fn restart(&mut self) {
        self.process.restart().expect("the server starts again");
    }

    /// Freezes it: when this returns, none of its threads runs any more.
    pub async fn freeze(&self) {
        self.process.pause().expect("the server is stopped");
        let pid = self.process.pid().expect("the server runs");
        crate::eventually!(all_threads_stopped(pid));
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.resume().expect("the server goes on");
    }

    /// A new connection of the administrator.
    pub async fn admin(&self) -> Admin {
        within(
            "the administrator",
            Admin::connect(&self.state, &[self.url()]),
        )
        .await
        .expect("the administrator connects")
    }

    /// What a tenant of this id is made of, with an issuer and a key of its own.
    pub fn tenant_params(&self, id: &str) -> TenantParams {
        // In order of mention, the same for the same id.
        let mut keys = self.keys.lock().expect("no story panics here");
        let index = keys.iter().position(|known| known == id);
        let index = index.unwrap_or_else(|| {
            keys.push(id.to_owned());
            keys.len() - 1
        });
        TenantParams {
            id: id.to_owned(),
            pool: "default".to_owned(),
            issuer: format!("https://issuer.test/{id}"),
            kid: format!("{id}-key"),
            key: issuer_key(index),
            jwks_url: None,
            limits: v1::TenantLimits::default(),
        }
    }

    /// A tenant with an issuer and a key of its own.
    pub async fn tenant(&self, id: &str) -> TestTenant {
        self.create_tenant(self.tenant_params(id)).await
    }

    /// A tenant as described.
    pub async fn create_tenant(&self, params: TenantParams) -> TestTenant {
        let id = TenantId::parse(&params.id).expect("a tenant id");
        let keys = match params.jwks_url {
            Some(url) => v1::issuer::Keys::JwksUrl(url),
            None => v1::issuer::Keys::Pem(v1::PemKeys {
                keys: vec![v1::PemKey {
                    kid: params.kid.clone(),
                    pem: params.key.public_pem(),
                }],
            }),
        };
        let issuer = v1::Issuer {
            iss: params.issuer.clone(),
            keys: Some(keys),
            ..v1::Issuer::default()
        };
        let create = CreateTenant {
            id: id.clone(),
            pool: node(&params.pool),
            issuers: vec![issuer],
            limits: params.limits,
        };
        let created = within("a tenant", self.admin().await.create_tenant(create))
            .await
            .unwrap_or_else(|error| panic!("tenant {id} is created: {error:?}"));
        TestTenant {
            id,
            account: created.record.account,
            issuer: params.issuer,
            kid: params.kid,
            key: params.key,
        }
    }

    /// Suspends a tenant.
    pub async fn suspend(&self, id: &str) {
        let id = TenantId::parse(id).expect("a tenant id");
        self.admin().await.suspend(&id).await.expect("suspended");
    }

    /// Lets a suspended tenant go on.
    pub async fn resume(&self, id: &str) {
        let id = TenantId::parse(id).expect("a tenant id");
        self.admin().await.resume(&id).await.expect("resumed");
    }

    /// Deletes a tenant.
    pub async fn delete(&self, id: &str) {
        let id = TenantId::parse(id).expect("a tenant id");
        self.admin().await.delete(&id).await.expect("deleted");
    }

    /// Changes what a tenant may use; it is in force on every Shield when this returns.
    pub async fn limits(&self, tenant: &TestTenant, change: impl Fn(&mut v1::TenantLimits)) {
        let admin = self.admin().await;
        let changed = admin.change_limits(&tenant.id, change, WaitFor::default());
        let changed = changed.await.expect("limits are changed");
        let shields = changed.shields.unwrap_or_default();
        let missing = shields.iter().any(|answer| answer.said.is_none());
        assert!(!missing, "not in force: {shields:?}");
    }

    /// Has tokens of a tenant revoked; it is written when this returns.
    pub async fn revoke(&self, tenant: &TestTenant, tokens: RevokeTokens) -> Revoked {
        let admin = self.admin().await;
        let revoked = admin.revoke(&tenant.id, tokens, "story").await;
        revoked.expect("a revocation is written")
    }

    /// How many connections of a tenant's account the server has.
    pub async fn connections(&self, tenant: &TestTenant) -> u64 {
        let monitor = self.process.params().http.expect("a monitoring endpoint");
        let path = format!("/connz?acc={}", tenant.account);
        let answer = within("/connz", http::get(monitor, &path, &[])).await;
        let answer = answer.expect("the server tells its connections").body;
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        answer["num_connections"].as_u64().expect("a number")
    }

    /// A pool.
    pub async fn create_pool(&self, name: &str) {
        self.admin()
            .await
            .create_pool(&node(name))
            .await
            .expect("a pool is created");
    }

    /// CONTROL, as the administrator sees it.
    pub async fn control(&self) -> ControlStore {
        let creds = self
            .state
            .creds(Role::Admin, &node("story"))
            .expect("the administrator's credentials");
        ControlStore::new(&self.connect(&creds).await)
    }

    /// Gives an order to all Shields, or to one.
    pub async fn order(&self, shield: Option<&str>, order: v1::control::Order) {
        let shield = shield.map(node);
        let control = self.control().await;
        control
            .send_order(shield.as_ref(), order)
            .await
            .expect("an order is sent");
    }

    /// A plain NATS connection with the credentials of a file.
    pub async fn connect(&self, creds: &Path) -> Connection {
        within(
            "a NATS connection",
            connect_creds(&[self.url()], creds, "story"),
        )
        .await
        .expect("the credentials are accepted")
    }

    /// A Shield of this Spine, to be changed and started.
    pub fn shield(&self) -> ShieldParams {
        ShieldParams::new(self)
    }

    /// A Brain of this Spine, to be changed and started.
    pub fn brain(&self, id: &str) -> BrainParams {
        BrainParams::new(self, id)
    }
}

// === impl TestTenant ===

impl TestTenant {
    /// A valid token of user `alice`, to be changed and signed.
    pub fn token(&self) -> Token {
        Token::new(&self.issuer, self.id.as_str(), &self.kid, self.key)
    }
}

fn new_state() -> (TempDir, StateFolder) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state = StateFolder::create(folder.path().join("spine")).expect("fresh keys");
    (folder, state)
}

/// The settings of a server with routes to others, none of which it knows yet.
fn clustered(folder: &TempDir, number: usize) -> ServerParams {
    let name = format!("n{number}");
    let store = folder.path().join(&name).join("store");
    std::fs::create_dir_all(&store).expect("a folder for the server");
    let mut params = ServerParams::single(store);
    params.name = name;
    params.cluster = Some(ClusterParams {
        name: "arqon".to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        routes: Vec::new(),
        advertise: None,
    });
    params
}

fn start(state: &StateFolder, folder: &TempDir, params: ServerParams) -> Process {
    let binary = server::find().expect("a nats-server (scripts/setup fetches one)");
    let log = Io::File(folder.path().join(format!("{}.log", params.name)));
    Process::start(&binary, state, params, log).expect("nats-server starts")
}

/// A stop signal is sent in a moment, and takes effect thread by thread.
fn all_threads_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads.flatten().all(|thread| {
        std::fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| {
            stat.rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('T'))
        })
    })
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::parse(name).expect("a node's name")
}
