//! A real nats-server with a fresh state folder for each test.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub)]

use std::time::Duration;

use arqon_proto::names::{NodeId, TenantId};
use arqon_proto::v1;
use arqon_spine::admin::{Admin, CreateTenant};
use arqon_spine::claims::AccountClaims;
use arqon_spine::connect::{
    Connection, Events, SpineEvent, TenantOptions, connect_tenant, connect_user,
};
use arqon_spine::credentials::{MintedUser, mint_tenant_user};
use arqon_spine::nats;
use arqon_spine::server::{self, Io, Process};
use arqon_spine::server_config::ServerParams;
use arqon_spine::state::{Role, StateFolder};
use futures_util::StreamExt;

/// Longer than anything takes; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Spine {
    pub server: Process,
    pub state: StateFolder,
    pub folder: tempfile::TempDir,
}

impl Spine {
    /// A server with nothing in it but the fixed accounts.
    pub fn bare() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut ServerParams)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::create(folder.path().join("spine")).unwrap();
        let mut params = ServerParams::single(folder.path().join("nats/store"));
        std::fs::create_dir_all(&params.store_dir).unwrap();
        change(&mut params);
        let binary = server::find().unwrap();
        let log = Io::File(folder.path().join("nats.log"));
        let server = Process::start(&binary, &state, params, log).unwrap();
        Spine {
            server,
            state,
            folder,
        }
    }

    /// A server with buckets, pool `main`, and an admin.
    pub async fn start() -> (Self, Admin) {
        let spine = Self::bare();
        let admin = spine.admin().await;
        admin.bootstrap(1, &node("main")).await.unwrap();
        (spine, admin)
    }

    pub fn servers(&self) -> Vec<String> {
        vec![self.server.url()]
    }

    pub async fn admin(&self) -> Admin {
        Admin::connect(&self.state, &self.servers()).await.unwrap()
    }

    /// A user of pool `main`'s fleet in the tenant's account.
    pub fn fleet_user(&self, record: &v1::TenantRecord) -> MintedUser {
        let key = self.state.fleet_key(&node(&record.pool)).unwrap();
        let tenant = tenant(&record.id);
        mint_tenant_user(
            &key,
            &record.account,
            &tenant,
            "shield-1",
            Duration::from_secs(600),
        )
    }

    pub async fn fleet(&self, record: &v1::TenantRecord) -> Connection {
        let user = self.fleet_user(record);
        connect_tenant(&self.servers(), user, "test", TenantOptions::default())
            .await
            .unwrap()
    }

    pub async fn user(&self, user: MintedUser) -> Connection {
        connect_user(&self.servers(), user, "test", &TenantOptions::default())
            .await
            .unwrap()
    }

    pub async fn role(&self, role: Role, name: &str) -> Connection {
        let user = self.state.mint(role, &node(name), None).unwrap();
        self.user(user).await
    }
}

pub fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

pub fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

pub fn wish(name: &str) -> CreateTenant {
    CreateTenant {
        id: tenant(name),
        pool: node("main"),
        issuers: vec![v1::Issuer {
            iss: format!("https://{name}.example"),
            ..Default::default()
        }],
        limits: v1::TenantLimits::default(),
    }
}

pub async fn create(admin: &Admin, name: &str) -> v1::TenantRecord {
    admin.create_tenant(wish(name)).await.unwrap().record
}

/// Sends the connection's own barrier and waits for it: everything sent
/// before has then reached the server, and its errors have come back.
pub async fn barrier(connection: &Connection) {
    let subject = arqon_spine::subjects::barrier(&connection.user);
    let mut inbox = connection.client.subscribe(subject.clone()).await.unwrap();
    connection.client.publish(subject, "".into()).await.unwrap();
    tokio::time::timeout(PATIENCE, inbox.next())
        .await
        .unwrap()
        .unwrap();
}

/// The server's errors since the last call; a barrier makes them complete.
pub async fn errors(connection: &mut Connection) -> Vec<String> {
    barrier(connection).await;
    // The events task runs beside the reader: give what is queued its turn.
    let mut errors = Vec::new();
    while let Ok(Some(event)) =
        tokio::time::timeout(Duration::from_millis(50), connection.events.recv()).await
    {
        if let SpineEvent::ServerError(text) = event {
            errors.push(text);
        }
    }
    errors
}

/// Waits until the connection is over; returns the server's last words.
pub async fn ends(mut events: Events) -> Vec<String> {
    let mut errors = Vec::new();
    tokio::time::timeout(PATIENCE, async {
        while let Some(event) = events.recv().await {
            if let SpineEvent::ServerError(text) = event {
                errors.push(text);
            }
        }
    })
    .await
    .expect("the connection does not end");
    errors
}

pub async fn next(subscriber: &mut nats::Subscriber) -> nats::Message {
    tokio::time::timeout(PATIENCE, subscriber.next())
        .await
        .expect("no message comes")
        .expect("the stream has ended")
}

/// Asserts that nothing has come; call after barriers that make it complete.
pub async fn quiet(subscriber: &mut nats::Subscriber) {
    let message = tokio::time::timeout(Duration::from_millis(50), subscriber.next()).await;
    assert!(message.is_err(), "{message:?}");
}

/// Pushes an account of one's own making, past the admin.
pub async fn push_account(spine: &Spine, claims: AccountClaims) {
    let system = spine.role(Role::ControlPlane, "arq").await;
    let jwt = claims
        .sign(&spine.state.operator_signing_key().unwrap())
        .unwrap();
    let answer = system
        .client
        .request("$SYS.REQ.CLAIMS.UPDATE", jwt.into())
        .await
        .unwrap();
    let answer = String::from_utf8_lossy(&answer.payload).into_owned();
    assert!(answer.contains("\"code\":200"), "{answer}");
}

/// Waits for the server's refusal.
async fn said(connection: &mut Connection, wanted: &str) {
    tokio::time::timeout(PATIENCE, async {
        loop {
            match connection.events.recv().await {
                Some(SpineEvent::ServerError(text)) if text.contains(wanted) => break,
                Some(_) => {}
                None => panic!("the connection ended before {wanted}"),
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("no refusal: {wanted}"));
}

/// Asserts that the server refuses to let this connection publish there.
pub async fn refused_publish(connection: &mut Connection, subject: &str) {
    connection
        .client
        .publish(subject.to_owned(), "x".into())
        .await
        .unwrap();
    said(connection, &format!("Publish to \"{subject}\"")).await;
}

/// Asserts that the server refuses to let this connection subscribe there.
pub async fn refused_subscribe(connection: &mut Connection, subject: &str) {
    let _subscriber = connection
        .client
        .subscribe(subject.to_owned())
        .await
        .unwrap();
    said(connection, &format!("Subscription to \"{subject}\"")).await;
}
