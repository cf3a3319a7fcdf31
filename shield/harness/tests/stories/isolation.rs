//! What keeps tenants apart is nats-server: every check of ours is stepped
//! around here, with the very credentials our programs use.

use std::time::Duration;

use arqon_harness::{
    Client, PATIENCE, RawPeer, Spine, TenantParams, TestTenant, eventually, within,
};
use arqon_proto::names::{NodeId, TenantId};
use arqon_proto::v1::{Opcode, control::Order};
use arqon_spine::connect::{Connection, SpineEvent, TenantOptions, connect_tenant};
use arqon_spine::credentials::{FleetKey, MintedUser, mint_tenant_user, write_creds};
use arqon_spine::nats::{Client as Nats, HeaderMap, Subscriber, jetstream};
use arqon_spine::subjects;
use bytes::Bytes;
use futures_util::StreamExt as _;

/// A plain NATS connection that counts what the server refused it.
struct Intruder {
    connection: Connection,
    refusals: Vec<String>,
}

impl Intruder {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            refusals: Vec::new(),
        }
    }

    async fn minted(spine: &Spine, user: MintedUser) -> Self {
        let options = TenantOptions::default();
        let servers = [spine.url()];
        let opened = connect_tenant(&servers, user, "intruder", options);
        Self::new(within("a NATS connection", opened).await.unwrap())
    }

    fn nats(&self) -> &Nats {
        &self.connection.client
    }

    /// Waits until the server says that it refused `what` ("Subscription to" or
    /// "Publish to") on this subject.
    async fn is_refused(&mut self, what: &str, subject: &str) {
        let wanted = format!("{what} \"{subject}\"").to_lowercase();
        let text = format!("refusal of {wanted}");
        loop {
            let found = self
                .refusals
                .iter()
                .position(|said| said.to_lowercase().contains(&wanted));
            if let Some(at) = found {
                self.refusals.remove(at);
                return;
            }
            match within(&text, self.connection.events.recv()).await {
                Some(SpineEvent::ServerError(said)) => self.refusals.push(said),
                Some(_) => {}
                None => panic!(
                    "the connection ended before the {text}: {:?}",
                    self.refusals
                ),
            }
        }
    }

    async fn may_not_subscribe(&mut self, subject: &str) {
        let _kept = self.nats().subscribe(subject.to_owned()).await.unwrap();
        self.is_refused("subscription to", subject).await;
    }

    async fn may_not_publish(&mut self, subject: &str) {
        self.nats()
            .publish(subject.to_owned(), Bytes::from_static(b"forged"))
            .await
            .unwrap();
        self.is_refused("publish to", subject).await;
    }

    async fn may(&mut self, subject: &str) -> Subscriber {
        let subscriber = self.nats().subscribe(subject.to_owned()).await.unwrap();
        self.barrier().await;
        assert_eq!(self.refusals, Vec::<String>::new());
        subscriber
    }

    /// A round trip: all that was sent before has been judged by the server.
    /// A refusal is the one answer that those who may not speak get too.
    async fn barrier(&mut self) {
        self.may_not_subscribe("judged.so.far").await;
    }
}

/// A witness of a tenant: a session in `lobby` and `lobby.upstairs`.
async fn witness(shield: &arqon_harness::TestShield, tenant: &TestTenant) -> Client {
    let mut client = shield.connect(&tenant.token().user("witness").sign()).await;
    client.join("lobby").await;
    client.join("lobby.upstairs").await;
    client
}

async fn heard_nothing(witness: &mut Client) {
    witness.publish("lobby", "nothing came before this").await;
    witness.hears("lobby", "nothing came before this").await;
    witness.ping().await;
}

fn fleet_key(spine: &Spine, pool: &str) -> FleetKey {
    spine
        .state()
        .fleet_key(&NodeId::parse(pool).unwrap())
        .unwrap()
}

fn mint(spine: &Spine, pool: &str, account: &str, tenant: &TenantId) -> MintedUser {
    let ttl = Duration::from_secs(600);
    mint_tenant_user(&fleet_key(spine, pool), account, tenant, "shield-1", ttl)
}

/// What one who may act for `acme` must not do, whoever it is.
async fn keeps_to_acme(intruder: &mut Intruder, brain_of_other: &str) {
    for subject in [
        ">",
        "*",
        "*.>",
        "*.lobby",
        "beta.>",
        "beta.lobby",
        "beta._presence.>",
        "acme*.lobby",
        "$SYS.>",
        "$SYS.ACCOUNT.*.CONNECT",
        "$JS.>",
        "$KV.>",
        "$KV.tenants.>",
        "ctl.>",
        "shield.>",
        "presence.>",
        "presence-events.>",
        "_INBOX.>",
        "_R_.>",
    ] {
        intruder.may_not_subscribe(subject).await;
    }
    for subject in [
        "beta.lobby",
        "beta._presence.join",
        "acme._presence.join",
        "acme._presence.join.lobby",
        brain_of_other,
        "presence-events.beta.join",
        "$SYS.REQ.CLAIMS.UPDATE",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.ACCOUNT.PING.CONNZ",
        "$JS.API.INFO",
        "$JS.API.STREAM.CREATE.mine",
        "$KV.tenants.acme",
        "ctl.all.order",
        "shield.shield-1.beat",
        "_INBOX.somebody",
        "lobby",
    ] {
        intruder.may_not_publish(subject).await;
    }
}

#[tokio::test]
async fn credentials_minted_for_a_tenant_reach_nothing_outside_it() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let beta = spine.tenant("beta").await;
    let shield = spine.shield().start().await;
    let mut bob = witness(&shield, &beta).await;
    let mut alice = witness(&shield, &acme).await;

    let user = mint(&spine, "default", &acme.account, &acme.id);
    let mut intruder = Intruder::minted(&spine, user).await;
    // The positive control: what is granted works.
    let mut granted = intruder.may("acme.>").await;
    alice.publish("lobby", "hello").await;
    alice.hears("lobby", "hello").await;
    let seen = within("the tenant's own message", granted.next())
        .await
        .unwrap();
    assert_eq!(seen.subject.as_str(), "acme.lobby");

    keeps_to_acme(&mut intruder, &format!("presence.{}.join", beta.account)).await;
    let context = jetstream::new(intruder.nats().clone());
    let denied = within("JetStream's refusal", context.query_account()).await;
    assert!(denied.is_err(), "{denied:?}");

    // The same key, asking for other accounts: the fixed ones do not list it.
    for account in arqon_spine::state::FixedAccount::ALL {
        let account = spine.state().account(account).unwrap();
        let user = mint(&spine, "default", &account, &acme.id);
        let refused = connect_tenant(&[spine.url()], user, "x", TenantOptions::default()).await;
        assert!(refused.is_err(), "the fleet key signs for {account}");
    }
    heard_nothing(&mut bob).await;
    heard_nothing(&mut alice).await;
}

#[tokio::test]
async fn what_is_sent_over_the_pools_own_connection_does_not_cross() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let beta = spine.tenant("beta").await;
    let shield = spine.shield().start().await;
    let mut alice = witness(&shield, &acme).await;
    let mut bob = witness(&shield, &beta).await;

    // Below every check of ours: the very connection of Shield's pool.
    let pool = shield.inner().pool();
    let nats = pool
        .nats_client(&acme.id)
        .expect("Alice's tenant has a connection");
    let mut streams = Vec::new();
    for subject in [">", "*.lobby", "beta.>", "beta.lobby", "$SYS.>"] {
        streams.push(nats.subscribe(subject).await.unwrap());
    }
    let mut own = nats.subscribe("acme.>").await.unwrap();
    let mut forged = HeaderMap::new();
    forged.insert("Arqon-Origin", "0123456789abcdef 1");
    for subject in [
        "beta.lobby",
        "beta.lobby.upstairs",
        "beta._presence.join",
        "presence.beta.x",
    ] {
        nats.publish_with_headers(subject, forged.clone(), Bytes::from_static(b"forged"))
            .await
            .unwrap();
    }
    bob.publish("lobby", "for beta only").await;
    bob.hears("lobby", "for beta only").await;
    heard_nothing(&mut bob).await;

    // The positive control on the same connection, after all of it.
    alice.publish("lobby", "for acme").await;
    alice.hears("lobby", "for acme").await;
    let seen = within("acme's own", own.next()).await.unwrap();
    assert_eq!(seen.subject.as_str(), "acme.lobby");
    for stream in &mut streams {
        let crossed = tokio::time::timeout(Duration::from_millis(50), stream.next()).await;
        assert!(crossed.is_err(), "{crossed:?}");
    }
    heard_nothing(&mut alice).await;
}

#[tokio::test]
async fn a_shields_control_credentials_only_read_and_report() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let params = spine.shield();
    let creds = params.control_creds().clone();
    let shield = params.start().await;
    let mut alice = witness(&shield, &acme).await;
    let mut intruder = Intruder::new(spine.connect(&creds).await);

    for subject in [
        ">",
        "ctl.>",
        "ctl.shield.>",
        "ctl.shield.shield-2.order",
        "shield.>",
        "$KV.>",
        "$KV.tenants.acme",
        "$JS.>",
        "acme.>",
        "acme.lobby",
        "$SYS.>",
        "presence.>",
    ] {
        intruder.may_not_subscribe(subject).await;
    }
    for subject in [
        "$KV.tenants.acme",
        "$KV.tenants.rogue",
        "$KV.pools.default",
        "ctl.all.order",
        "ctl.shield.shield-2.order",
        "shield.shield-2.beat",
        "$JS.API.STREAM.DELETE.KV_tenants",
        "$JS.API.STREAM.PURGE.KV_tenants",
        "$JS.API.STREAM.MSG.DELETE.KV_tenants",
        "$JS.API.STREAM.UPDATE.KV_tenants",
        "$JS.API.STREAM.CREATE.mine",
        "$JS.API.CONSUMER.DELETE.KV_tenants.x",
        "$SYS.REQ.CLAIMS.UPDATE",
        "acme.lobby",
        "_INBOX.somebody",
    ] {
        intruder.may_not_publish(subject).await;
    }

    // By the API, as a program would: reads work, writes do not, nothing changed.
    let control = arqon_spine::control::ControlStore::new(&intruder.connection);
    let (record, _) = control.get_tenant(&acme.id).await.unwrap().unwrap();
    assert_eq!(record.account, acme.account);
    let context = jetstream::new(intruder.nats().clone());
    let bucket = context
        .get_key_value(subjects::BUCKET_TENANTS)
        .await
        .unwrap();
    let put = bucket.put("rogue", Bytes::from_static(b"x"));
    let put = tokio::time::timeout(Duration::from_secs(10), put).await;
    assert!(!matches!(put, Ok(Ok(_))), "{put:?}");
    assert!(
        control
            .get_tenant(&TenantId::parse("rogue").unwrap())
            .await
            .unwrap()
            .is_none()
    );

    // A reader of KV can have stored records delivered to subjects of its choice.
    // Shields must not take them for orders.
    let name = "forger";
    let request = serde_json::json!({
        "stream_name": "KV_tenants",
        "config": {
            "name": name,
            "deliver_policy": "all",
            "ack_policy": "none",
            "deliver_subject": "ctl.all.order",
            "inactive_threshold": 60_000_000_000_u64,
        },
    });
    let subject = format!("$JS.API.CONSUMER.CREATE.KV_tenants.{name}");
    intruder
        .nats()
        .publish(subject, request.to_string().into())
        .await
        .unwrap();
    intruder.barrier().await;
    heard_nothing(&mut alice).await;
    assert!(shield.is_ready().await, "no forged order drains a Shield");
    assert_eq!(shield.metric("rotations_total", "ok").await, 0.0);
}

#[tokio::test]
async fn debug_credentials_stay_in_their_tenant_and_say_what_they_may() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let beta = spine.tenant("beta").await;
    let shield = spine.shield().start().await;
    let mut alice = witness(&shield, &acme).await;
    let mut bob = witness(&shield, &beta).await;
    let creds_of = async |write: bool| {
        let path = spine.folder().join(format!("acme-{write}.creds"));
        let ttl = Duration::from_secs(600);
        let user = spine
            .admin()
            .await
            .creds(&acme.id, write, ttl)
            .await
            .unwrap();
        write_creds(&path, &user).unwrap();
        Intruder::new(spine.connect(&path).await)
    };
    let brain_of_other = format!("presence.{}.join", beta.account);

    // Reading: hears its tenant as bytes that are an Envelope, says nothing.
    let mut reader = creds_of(false).await;
    let mut rooms = reader.may("acme.>").await;
    alice.publish("lobby", "for all to see").await;
    alice.hears("lobby", "for all to see").await;
    let seen = within("a message", rooms.next()).await.unwrap();
    let envelope = arqon_proto::envelope::decode_server(seen.payload).unwrap();
    assert_eq!(
        (envelope.op(), &envelope.payload[..]),
        (Opcode::Message, &b"for all to see"[..])
    );
    keeps_to_acme(&mut reader, &brain_of_other).await;
    for subject in ["acme.lobby", "_arq.presence.join", "_arq.presence.x.y"] {
        reader.may_not_publish(subject).await;
    }

    // Writing: into its rooms, never as Brain nor to Brain. What is no frame of
    // ours is dropped and counted by Shield, and harms no session.
    let mut writer = creds_of(true).await;
    keeps_to_acme(&mut writer, &brain_of_other).await;
    writer.may_not_publish("_arq.presence.join").await;
    let malformed = shield.metric("malformed_spine_frames_total", "").await;
    let mut origin = HeaderMap::new();
    origin.insert("Arqon-Origin", "0123456789abcdef 1");
    let sent: [(Option<HeaderMap>, &'static [u8]); 4] = [
        (None, b"no header"),
        (None, b""),
        (Some(origin.clone()), b"\xff\xff"),
        (Some(origin), b""),
    ];
    for (headers, bytes) in sent {
        let payload = Bytes::from_static(bytes);
        match headers {
            Some(headers) => {
                writer
                    .nats()
                    .publish_with_headers("acme.lobby", headers, payload)
                    .await
                    .unwrap();
            }
            None => writer.nats().publish("acme.lobby", payload).await.unwrap(),
        }
    }
    writer.barrier().await;
    eventually!(
        shield.metric("malformed_spine_frames_total", "").await > malformed,
        "malformed frames are counted"
    );
    heard_nothing(&mut alice).await;
    heard_nothing(&mut bob).await;
}

#[tokio::test]
async fn the_key_of_one_pool_opens_no_tenant_of_another() {
    let spine = Spine::start().await;
    spine.create_pool("north").await;
    let acme = spine.tenant("acme").await;
    let polar = spine
        .create_tenant(TenantParams {
            pool: "north".into(),
            ..spine.tenant_params("polar")
        })
        .await;
    let tries = [("north", &acme), ("default", &polar)];
    for (pool, tenant) in tries {
        let user = mint(&spine, pool, &tenant.account, &tenant.id);
        let refused = connect_tenant(&[spine.url()], user, "x", TenantOptions::default()).await;
        assert!(refused.is_err(), "{pool}'s key opens {}", tenant.id);
    }
    for (pool, tenant) in [("default", &acme), ("north", &polar)] {
        let user = mint(&spine, pool, &tenant.account, &tenant.id);
        Intruder::minted(&spine, user).await.barrier().await;
    }
}

/// Orders from anyone but the administrator do nothing; its own do.
#[tokio::test]
async fn orders_are_the_administrators() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let mut alice = witness(&shield, &acme).await;
    let rotate = Order::RotateCredentials(arqon_proto::v1::RotateCredentials::default());
    spine.order(Some("shield-2"), rotate.clone()).await;
    spine.order(Some("shield-1"), rotate).await;
    eventually!(shield.metric("rotations_total", "ok").await == 1.0);
    heard_nothing(&mut alice).await;
    assert_eq!(shield.metric("rotations_total", "ok").await, 1.0);
    let peer = RawPeer::open(shield.addr(), &acme.token().sign()).await;
    assert!(peer.is_ok(), "within {PATIENCE:?}");
}
