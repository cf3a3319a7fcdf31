//! A whole Shield on a real nats-server: start, mistakes at start, status, drain.

#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arqon_client::{Client, ClientError, ConnectParams};
use arqon_proto::{
    names::{NodeId, TenantId},
    v1,
};
use arqon_spine::{
    admin::{Admin, CreateTenant},
    manifest::{Manifest, SecretMode},
    server::{self, Io, Process},
    server_config::ServerParams,
    state::{Role, StateFolder},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{Shield, StartError};
use crate::{auth::testing::*, edge::Status};

const PATIENCE: Duration = Duration::from_secs(30);

/// A nats-server with one tenant, `acme`.
struct Ground {
    folder: TempDir,
    state: StateFolder,
    server: Process,
}

// === impl Ground ===

impl Ground {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::create(folder.path().join("spine")).unwrap();
        let params = ServerParams::single(folder.path().join("nats/store"));
        std::fs::create_dir_all(&params.store_dir).unwrap();
        let server = Process::start(&server::find().unwrap(), &state, params, Io::Null).unwrap();
        let admin = Admin::connect(&state, &[server.url()]).await.unwrap();
        admin.bootstrap(1, &pool()).await.unwrap();
        let tenant = CreateTenant {
            id: TenantId::parse("acme").unwrap(),
            pool: pool(),
            issuers: vec![pem_issuer(&FIRST)],
            limits: v1::TenantLimits::default(),
        };
        admin.create_tenant(tenant).await.unwrap();
        admin.close().await;
        Self {
            folder,
            state,
            server,
        }
    }

    /// A good manifest, with more keys of `[drain]` and further sections.
    fn manifest(&self, more: &str) -> Manifest {
        let node = NodeId::parse("shield-1").unwrap();
        let creds = self.state.creds(Role::Shield, &node).unwrap();
        let fleet_key = self.state.fleet_key_path(&pool());
        self.manifest_with(&creds, &fleet_key, more)
    }

    fn manifest_with(&self, creds: &Path, fleet_key: &Path, more: &str) -> Manifest {
        let text = format!(
            "[node]\nid = \"shield-1\"\n[listen]\npublic = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
             [spine]\nservers = [{:?}]\ncontrol_creds_file = {creds:?}\nfleet_key_file = {fleet_key:?}\n{more}",
            self.server.url(),
        );
        Manifest::parse(&text, self.folder.path(), SecretMode::Unchecked).unwrap()
    }
}

async fn ready(shield: &Shield) {
    let ready = async {
        while shield.readiness().refusal().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, ready).await.unwrap();
}

fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut claims = claims_at(now.as_secs());
    // Not before the tenant was created.
    claims["iat"] = now.as_secs().into();
    FIRST.token(&claims)
}

async fn connect(shield: &Shield) -> Client {
    let url = format!("ws://{}/v1/socket", shield.public_addr());
    Client::connect(ConnectParams::new(url, token()))
        .await
        .unwrap()
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_round_and_the_status_tells() {
    let ground = Ground::new().await;
    let shield = Shield::start(ground.manifest("")).await.unwrap();
    ready(&shield).await;
    let mut client = connect(&shield).await;
    assert_eq!(client.welcome().await.unwrap().tenant, "acme");
    client.join("lobby", v1::Join::default()).await.unwrap();
    client.publish("lobby", "hello", true).await.unwrap();
    let message = timeout(PATIENCE, client.recv())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(
        (&message.payload[..], message.room.as_str()),
        (&b"hello"[..], "lobby")
    );

    let (code, body) = get(shield.admin_addr(), "/status").await;
    let status: Status = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 200);
    assert_eq!(
        (status.id.as_str(), status.pool.as_str()),
        ("shield-1", "default")
    );
    assert!(status.ready && !status.draining && !status.incarnation.is_empty());
    assert_eq!(
        (status.sessions, status.rooms, status.tenants_known),
        (1, 1, 1)
    );
    assert_eq!(status.tenants.len(), 1);
    assert_eq!(
        (status.tenants[0].id.as_str(), status.tenants[0].sessions),
        ("acme", 1)
    );
    let (_, metrics) = get(shield.admin_addr(), "/metrics").await;
    assert!(
        metrics.contains("arqon_shield_sessions_opened_total 1"),
        "{metrics}"
    );
    assert!(metrics.ends_with("# EOF\n"));
    assert_eq!(get(shield.admin_addr(), "/readyz").await.0, 200);
    assert_eq!(get(shield.admin_addr(), "/healthz").await.0, 200);
    client.close().await.unwrap();
    assert_eq!(shield.drain().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_tells_the_clients_and_closes_those_that_stay() {
    let ground = Ground::new().await;
    let drain = "[drain]\ntimeout_secs = 4\nspread_secs = 1\n";
    let shield = Shield::start(ground.manifest(drain)).await.unwrap();
    ready(&shield).await;
    let public = shield.public_addr();
    let mut obedient = connect(&shield).await;
    let mut stubborn = connect(&shield).await;
    obedient.welcome().await.unwrap();
    stubborn.welcome().await.unwrap();

    let drained = tokio::spawn(shield.drain());
    for client in [&mut obedient, &mut stubborn] {
        let frame = timeout(PATIENCE, client.recv())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(frame.op(), v1::Opcode::Goaway);
        let Some(v1::envelope::Body::Goaway(goaway)) = frame.body else {
            panic!("{frame:?}");
        };
        assert_eq!((goaway.spread_ms, goaway.deadline_ms), (1000, 3000));
    }
    assert!(TcpStream::connect(public).await.is_err(), "still accepts");
    obedient.close().await.unwrap();
    match timeout(PATIENCE, stubborn.recv()).await.unwrap() {
        Err(ClientError::Closed { code, .. }) => assert_eq!(code, 4001),
        other => panic!("{other:?}"),
    }
    assert_eq!(timeout(PATIENCE, drained).await.unwrap().unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_end_the_start_with_a_reason() {
    let ground = Ground::new().await;
    let start = async |manifest| Shield::start(manifest).await.err();

    let taken = bind_any();
    let mut manifest = ground.manifest("");
    manifest.listen.admin = taken.local_addr().unwrap();
    let error = start(manifest).await.unwrap();
    assert!(
        matches!(
            error,
            StartError::Bind {
                setting: "listen.admin",
                ..
            }
        ),
        "{error}"
    );

    let tls = "[tls]\ncertificate_file = \"none.pem\"\nkey_file = \"none.pem\"\n";
    let error = start(ground.manifest(tls)).await.unwrap();
    assert!(matches!(error, StartError::Tls(_)), "{error}");

    let creds = ground.folder.path().join("none.creds");
    let fleet_key = ground.state.fleet_key_path(&pool());
    let error = start(ground.manifest_with(&creds, &fleet_key, ""))
        .await
        .unwrap();
    assert!(matches!(error, StartError::Refused(_)), "{error}");

    // Another operator's Shield.
    let stranger = StateFolder::create(ground.folder.path().join("stranger")).unwrap();
    let node = NodeId::parse("shield-1").unwrap();
    let creds = stranger.creds(Role::Shield, &node).unwrap();
    let error = start(ground.manifest_with(&creds, &fleet_key, ""))
        .await
        .unwrap();
    assert!(matches!(error, StartError::Refused(_)), "{error}");

    let creds = ground.state.creds(Role::Shield, &node).unwrap();
    let fleet_key = ground.folder.path().join("none.nk");
    let error = start(ground.manifest_with(&creds, &fleet_key, ""))
        .await
        .unwrap();
    assert!(matches!(error, StartError::Spine(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_spine_it_starts_unready_and_becomes_ready() {
    let mut ground = Ground::new().await;
    let manifest = ground.manifest("");
    ground.server.kill().unwrap();
    let shield = Shield::start(manifest).await.unwrap();
    let (code, body) = get(shield.public_addr(), "/readyz").await;
    assert_eq!(code, 503, "{body}");
    ground.server.restart().unwrap();
    ready(&shield).await;
    connect(&shield).await.welcome().await.unwrap();
}

fn bind_any() -> std::net::TcpListener {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap()
}
