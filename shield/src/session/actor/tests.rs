//! Whole sessions on a real nats-server, each on a socket of its own.

#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, time::SystemTime};

use arqon_policy::{Host, HostOptions, Policies, PoliciesOptions};
use arqon_proto::{
    codes::ErrorCode,
    envelope::decode_server,
    v1::{self, envelope::Body},
};
use arqon_spine::manifest::{Manifest, Overflow, SecretMode};
use arqon_telemetry::Metrics;
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role, frame::CloseFrame},
    },
};

use super::*;
use crate::{
    auth::{Verifier, testing::*},
    control::{Revocations, Tenant, Tenants},
    quota::testing,
    session::Sessions,
    spine::{
        SpineParams, SpinePool,
        testing::{PATIENCE, Spine, until},
    },
};

/// Long enough never to be seen.
const NEVER: Duration = Duration::from_secs(10_000);

/// What sessions need, on a nats-server of its own.
struct Ground {
    spine: Spine,
    tenants: Arc<Tenants>,
    sessions: Arc<Sessions>,
    metrics: Metrics,
    ctx: SessionContext,
}

/// The client's side.
struct Peer<S> {
    socket: WebSocketStream<S>,
    session: JoinHandle<()>,
}

// === impl Ground ===

/// The real engine, with nothing bound.
fn no_policies() -> Policies {
    let host = Host::new(&HostOptions::default()).unwrap();
    Policies::new(&host, &PoliciesOptions::default()).unwrap().0
}

impl Ground {
    async fn new() -> Self {
        Self::with("").await
    }

    /// With further lines of the manifest's `[session]`.
    async fn with(more: &str) -> Self {
        let spine = Spine::start().await;
        let text = format!(
            "[node]\nid = \"shield-1\"\npool = \"main\"\n\
             [spine]\ncontrol_creds_file = \"none\"\nfleet_key_file = \"none\"\n[session]\n{more}"
        );
        let manifest =
            Manifest::parse(&text, &std::env::temp_dir(), SecretMode::Unchecked).unwrap();
        let metrics = Metrics::default();
        let tenants = Arc::new(Tenants::new());
        let sessions = Arc::new(Sessions::new());
        let ctx = SessionContext::new(
            &manifest,
            SpinePool::new(spine.params("shield-1"), testing::quotas(), &metrics).unwrap(),
            tenants.clone(),
            no_policies(),
            sessions.clone(),
            Arc::new(Verifier::new(
                tenants.clone(),
                Arc::new(Revocations::new(manifest.tokens.grace)),
                &manifest,
                metrics.clone(),
            )),
            metrics.clone(),
        );
        let ground = Self {
            spine,
            tenants,
            sessions,
            metrics,
            ctx,
        };
        ground.put(v1::TenantState::Active);
        ground
    }

    /// Sets the tenant's record.
    fn put(&self, state: v1::TenantState) {
        let record = v1::TenantRecord {
            issuers: vec![pem_issuer(&FIRST)],
            state: state.into(),
            ..self.spine.tenant.record.clone()
        };
        let records = HashMap::from([(self.spine.tenant.id.clone(), record)]);
        self.tenants.replace(records);
    }

    fn tenant(&self) -> Arc<Tenant> {
        self.tenants.get(&self.spine.tenant.id).unwrap()
    }

    /// A token of this user, with further claims.
    fn token(&self, user: &str, ttl: u64, more: &[(&str, serde_json::Value)]) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap().as_secs();
        let mut claims = claims_at(now);
        claims["sub"] = user.into();
        claims["iat"] = now.into();
        claims["exp"] = (now + ttl).into();
        for (claim, value) in more {
            claims[*claim] = value.clone();
        }
        FIRST.token(&claims)
    }

    async fn identity(&self, user: &str, ttl: u64) -> Identity {
        let token = self.token(user, ttl, &[]);
        self.ctx.verifier.verify(&token).await.unwrap()
    }

    /// Ends the set-up: sessions hold the context from here on.
    fn share(self) -> (Arc<SessionContext>, Self) {
        (Arc::new(self.ctx.clone()), self)
    }

    fn closed(&self, reason: &'static str) -> u64 {
        let closed = &self.metrics.sessions_closed;
        closed.get_or_create(&CloseReason(reason)).get()
    }
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await;
    (listener.accept().await.unwrap().0, client.unwrap())
}

/// A session over TCP that was told WELCOME.
async fn open(ctx: &Arc<SessionContext>, identity: Identity) -> Peer<TcpStream> {
    let (server, client) = tcp().await;
    Peer::open(server, client, identity, ctx).await
}

// === impl Peer ===

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Peer<S> {
    async fn open(server: S, client: S, identity: Identity, ctx: &Arc<SessionContext>) -> Self {
        let session = Session::new(
            server,
            Bytes::new(),
            identity.clone(),
            testing::quotas().enter(&identity.tenant).unwrap(),
            &Arrival::now(),
            ctx.clone(),
        );
        let session = tokio::spawn(session);
        let socket = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let mut peer = Self { socket, session };
        assert_eq!(peer.hears().await.op(), Opcode::Welcome);
        peer
    }

    async fn send(&mut self, envelope: v1::Envelope) {
        let bytes = envelope.encode_to_vec();
        self.socket.send(Message::binary(bytes)).await.unwrap();
    }

    /// The next Envelope.
    async fn hears(&mut self) -> v1::Envelope {
        loop {
            match self.next().await {
                Message::Binary(bytes) => return decode_server(bytes).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn next(&mut self) -> Message {
        let next = timeout(PATIENCE, self.socket.next()).await.unwrap();
        next.unwrap().unwrap()
    }

    async fn hears_error(&mut self) -> (String, u64) {
        let envelope = self.hears().await;
        match envelope.body {
            Some(Body::Error(error)) => (error.name, envelope.r#ref),
            other => panic!("{other:?}"),
        }
    }

    async fn join(&mut self, room: &str, echo: bool) {
        let options = v1::Join {
            echo: Some(echo),
            ..Default::default()
        };
        self.send(envelope::join(room, 1, options)).await;
        assert_eq!(self.hears().await.op(), Opcode::Joined);
    }

    async fn publish(&mut self, room: &str, reference: u64, text: &str, ack: bool) {
        let payload = Bytes::copy_from_slice(text.as_bytes());
        let asked = envelope::publish(room, reference, payload, ack);
        self.send(asked).await;
    }

    /// The close frame, once whatever comes before it is read; the session has ended then.
    async fn closed(&mut self) -> Option<CloseFrame> {
        let frame = loop {
            if let Message::Close(frame) = self.next().await {
                break frame;
            }
        };
        while let Ok(Some(Ok(_))) = timeout(PATIENCE, self.socket.next()).await {}
        timeout(PATIENCE, &mut self.session).await.unwrap().unwrap();
        frame
    }

    async fn closed_with(&mut self) -> u16 {
        self.closed().await.unwrap().code.into()
    }
}

#[tokio::test]
async fn a_message_goes_round_and_a_closing_client_leaves_its_rooms() {
    let (ctx, ground) = Ground::new().await.share();
    let mut alice = open(&ctx, ground.identity("alice", 600).await).await;
    let mut bob = open(&ctx, ground.identity("bob", 600).await).await;
    assert_eq!(ground.sessions.count_of(&ground.tenant().id), 2);
    alice.join("lobby", true).await;
    bob.join("lobby", false).await;
    bob.publish("lobby", 2, "hello", true).await;
    let heard = alice.hears().await;
    assert_eq!(
        (heard.op(), heard.payload.as_ref()),
        (Opcode::Message, &b"hello"[..])
    );
    let ack = bob.hears().await;
    assert_eq!((ack.op(), ack.r#ref), (Opcode::Ack, 2));
    alice
        .send(envelope::ping(9, Bytes::from_static(b"x")))
        .await;
    let pong = alice.hears().await;
    assert_eq!(
        (pong.op(), pong.r#ref, pong.payload.as_ref()),
        (Opcode::Pong, 9, &b"x"[..])
    );
    alice.send(envelope::leave("lobby", 10)).await;
    let left = alice.hears().await;
    assert_eq!((left.op(), left.r#ref), (Opcode::Left, 10));

    bob.socket.send(Message::Close(None)).await.unwrap();
    assert_eq!(bob.closed().await, None);
    assert_eq!(ground.closed("client"), 1);
    assert_eq!(ground.sessions.count(), 1);
    until("the room is empty", || {
        ctx.pool.stats().iter().all(|link| link.rooms == 0)
    })
    .await;
    // A connection that breaks is the same to everyone else.
    drop(alice.socket);
    timeout(PATIENCE, alice.session).await.unwrap().unwrap();
    assert_eq!(ground.closed("connection_lost"), 1);
    assert_eq!(
        (ground.sessions.count(), ground.metrics.sessions.get()),
        (0, 0)
    );
}

#[tokio::test]
async fn a_stopped_task_leaves_and_unregisters_too() {
    let (ctx, ground) = Ground::new().await.share();
    let mut alice = open(&ctx, ground.identity("alice", 600).await).await;
    alice.join("lobby", true).await;
    alice.session.abort();
    until("it is unregistered", || ground.sessions.count() == 0).await;
    until("the room is empty", || {
        ctx.pool.stats().iter().all(|link| link.rooms == 0)
    })
    .await;
    assert_eq!(ground.closed("aborted"), 1);
}

#[tokio::test]
async fn broken_framing_closes_by_the_rfcs_codes() {
    let (ctx, ground) = Ground::new().await.share();
    for (bytes, code, reason) in [
        // 1 GiB announced; unmasked; compressed.
        (
            &[0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4][..],
            1009,
            "message_too_big",
        ),
        (&[0x82, 1, 7], 1002, "protocol"),
        (&[0xc2, 0x81, 1, 2, 3, 4, 5], 1002, "protocol"),
    ] {
        let before = ground.closed(reason);
        let mut alice = open(&ctx, ground.identity("alice", 600).await).await;
        alice.socket.get_mut().write_all(bytes).await.unwrap();
        assert_eq!(alice.closed_with().await, code);
        assert_eq!(ground.closed(reason), before + 1);
    }
}

#[tokio::test]
async fn offences_are_answered_and_then_close() {
    let ground = Ground::with("max_offences = 3").await;
    let (ctx, ground) = ground.share();
    let mut alice = open(&ctx, ground.identity("alice", 600).await).await;
    let mut bob = open(&ctx, ground.identity("bob", 600).await).await;
    for _ in 0..3 {
        alice.socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(alice.hears_error().await.0, "TEXT_FRAME");
    }
    alice.send(envelope::leave("lobby", 4)).await;
    assert_eq!(
        alice.hears_error().await,
        ("NOT_JOINED".to_owned(), 4),
        "no offence"
    );
    alice.socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(alice.hears_error().await.0, "TEXT_FRAME");
    assert_eq!(
        alice.closed_with().await,
        CloseCode::TooManyOffences.number()
    );
    let counted = ground
        .metrics
        .errors
        .get_or_create(&Code("TEXT_FRAME"))
        .get();
    assert_eq!(counted, 4);
    bob.join("lobby", true).await;
}

#[tokio::test]
async fn a_silent_client_is_closed_and_one_that_answers_is_not() {
    let mut ground = Ground::new().await;
    ground.ctx.heartbeat = Duration::from_millis(500);
    let (ctx, ground) = ground.share();
    let mut alice = open(&ctx, ground.identity("alice", 600).await).await;
    let mut bob = open(&ctx, ground.identity("bob", 600).await).await;
    // Bob's library answers pings while it is asked for messages; Alice's is not asked.
    for _ in 0..6 {
        assert!(bob.next().await.is_ping());
    }
    assert_eq!(ground.closed("HEARTBEAT_LOST"), 1);
    assert_eq!(ground.sessions.count(), 1);
    assert_eq!(alice.closed_with().await, CloseCode::HeartbeatLost.number());
}

#[tokio::test]
async fn a_token_is_warned_of_refreshed_and_at_last_expires() {
    let mut ground = Ground::new().await;
    ground.ctx.token_grace = Duration::ZERO;
    let (ctx, ground) = ground.share();
    let mut alice = open(&ctx, ground.identity("alice", 3).await).await;
    assert_eq!(alice.hears().await.op(), Opcode::TokenExpiring);
    alice.join("lobby", true).await;
    alice.join("news", true).await;
    let stranger = ground.token("bob", 600, &[]);
    alice.send(envelope::refresh(5, &stranger)).await;
    assert_eq!(alice.hears_error().await, ("TOKEN_MISMATCH".to_owned(), 5));
    alice.send(envelope::refresh(6, "no.such.token")).await;
    assert_eq!(alice.hears_error().await, ("TOKEN_MALFORMED".to_owned(), 6));
    // Narrower rooms, and a longer life.
    let rooms = serde_json::json!({"join": ["news"], "publish": []});
    let narrowed = ground.token("alice", 4, &[("rooms", rooms)]);
    alice.send(envelope::refresh(7, &narrowed)).await;
    let refreshed = alice.hears().await;
    assert_eq!((refreshed.op(), refreshed.r#ref), (Opcode::Refreshed, 7));
    let left = alice.hears().await;
    assert_eq!((left.op(), left.room.as_str()), (Opcode::Left, "lobby"));
    let Some(Body::Left(why)) = left.body else {
        panic!("no reason");
    };
    assert_eq!(why.code, u32::from(ErrorCode::JoinForbidden.number()));
    alice.publish("news", 8, "no", false).await;
    assert_eq!(
        alice.hears_error().await,
        ("PUBLISH_FORBIDDEN".to_owned(), 8)
    );
    assert_eq!(
        alice.hears().await.op(),
        Opcode::TokenExpiring,
        "for the new one"
    );
    assert_eq!(
        alice.closed_with().await,
        CloseCode::TokenExpiredClose.number()
    );
}

#[tokio::test]
async fn no_token_is_taken_while_a_revocation_of_it_could_not_be_known() {
    let (ctx, ground) = Ground::new().await.share();
    let mut alice = open(&ctx, ground.identity("alice", 600).await).await;
    let token = ground.token("alice", 600, &[]);
    let long_ago = Instant::now().checked_sub(crate::control::STALE_AFTER + LINGER);
    ground.tenants.lost(long_ago.unwrap());
    // More often than offences are borne.
    for reference in 1..=30 {
        alice.send(envelope::refresh(reference, &token)).await;
        let stale = ("CONTROL_STALE".to_owned(), reference);
        assert_eq!(alice.hears_error().await, stale);
    }
    ground.put(v1::TenantState::Active);
    alice.send(envelope::refresh(31, &token)).await;
    let refreshed = alice.hears().await;
    assert_eq!((refreshed.op(), refreshed.r#ref), (Opcode::Refreshed, 31));
}

#[tokio::test]
async fn orders_for_a_tenant_and_for_all_reach_every_session() {
    let (ctx, ground) = Ground::new().await.share();
    let mut alice = open(&ctx, ground.identity("alice", 600).await).await;
    ground.sessions.goaway_all(NEVER, NEVER, NEVER);
    assert_eq!(alice.hears().await.op(), Opcode::Goaway);
    let late = ground.identity("late", 600).await;
    let mut late = open(&ctx, late).await;
    assert_eq!(
        late.hears().await.op(),
        Opcode::Goaway,
        "told to one that slips in"
    );
    let identity = ground.identity("early", 600).await;
    let gone = ground
        .sessions
        .close_tenant(&ground.tenant().id, CloseCode::TenantGone);
    assert_eq!(gone, 2);
    for peer in [&mut alice, &mut late] {
        assert_eq!(peer.closed_with().await, CloseCode::TenantGone.number());
    }
    // One whose token was judged before the tenant was suspended.
    ground.put(v1::TenantState::Suspended);
    let mut early = open(&ctx, identity).await;
    assert_eq!(early.hears().await.op(), Opcode::Goaway);
    assert_eq!(early.closed_with().await, CloseCode::TenantGone.number());
    ground.sessions.wait_empty().await;
}

#[tokio::test]
async fn a_stalled_reader_is_given_up_and_a_slow_one_is_told() {
    let ground =
        Ground::with("queue_max_messages = 16\nwrite_timeout_secs = 1\nfarewell_secs = 2").await;
    let (ctx, ground) = ground.share();
    let frame = Frame::binary(&[7; 1000]);
    let room = RoomId::parse("lobby").unwrap();
    let fill = |session: &Session<DuplexStream>| {
        let outbox = session.outbox.clone();
        move |count: usize| {
            (0..count).for_each(|_| {
                outbox.push_message(&room, Overflow::CloseAndReconnect, &frame);
            });
        }
    };
    let start = async |user| {
        let (server, client) = duplex(2048);
        let identity = ground.identity(user, 600).await;
        let session = Session::new(
            server,
            Bytes::new(),
            identity.clone(),
            testing::quotas().enter(&identity.tenant).unwrap(),
            &Arrival::now(),
            ctx.clone(),
        );
        let fill = fill.clone()(&session);
        (tokio::spawn(session), client, fill)
    };
    // Stalled: nothing is read while its socket waits, so nothing can be told.
    let (session, client, fill_stalled) = start("alice").await;
    fill_stalled(16);
    until("some is written", || ground.metrics.bytes_out.get() > 0).await;
    fill_stalled(100);
    until("the session is over", || ground.closed("SLOW_READER") == 1).await;
    assert_eq!(ground.metrics.farewells.get(), 1);
    timeout(PATIENCE, session).await.unwrap().unwrap();
    assert_eq!(ground.metrics.farewells.get(), 0);
    drop(client);
    // Slow: it reads after the overflow.
    let (session, client, fill_slow) = start("bob").await;
    fill_slow(100);
    let socket = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let mut bob = Peer { socket, session };
    assert_eq!(bob.closed_with().await, CloseCode::SlowReader.number());
    assert_eq!(ground.closed("SLOW_READER"), 2);
}

#[tokio::test]
async fn who_is_being_closed_wins_no_time_by_reading_a_little() {
    let ground = Ground::with("queue_max_messages = 1000\nwrite_timeout_secs = 300").await;
    let (ctx, ground) = ground.share();
    let (server, mut client) = duplex(2048);
    let identity = ground.identity("alice", 600).await;
    let session = Session::new(
        server,
        Bytes::new(),
        identity.clone(),
        testing::quotas().enter(&identity.tenant).unwrap(),
        &Arrival::now(),
        ctx.clone(),
    );
    let outbox = session.outbox.clone();
    let session = tokio::spawn(session);
    let room = RoomId::parse("lobby").unwrap();
    let frame = Frame::binary(&[7; 50_000]);
    (0..10).for_each(|_| outbox.push_message(&room, Overflow::CloseAndReconnect, &frame));
    until("some is written", || ground.metrics.bytes_out.get() > 0).await;
    outbox.cut(CloseCode::Kicked);
    // Of the frame that was begun: at this pace it would last for over half an hour.
    let mut byte = [0];
    let reads = async {
        while timeout(PATIENCE, client.read(&mut byte))
            .await
            .unwrap()
            .unwrap()
            == 1
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        ended = timeout(PATIENCE, session) => ended.unwrap().unwrap(),
        () = reads => panic!("all of it was read"),
    }
    assert_eq!(ground.sessions.count(), 0);
}

#[tokio::test]
async fn a_client_is_read_again_once_the_answers_to_its_pings_are_out() {
    let mut ground = Ground::new().await;
    // Nothing else is to wake the session.
    ground.ctx.heartbeat = NEVER;
    ground.ctx.first_frame_timeout = NEVER;
    ground.ctx.write_timeout = NEVER;
    let (ctx, ground) = ground.share();
    let (server, client) = duplex(2048);
    let identity = ground.identity("alice", 600).await;
    let mut alice = Peer::open(server, client, identity, &ctx).await;
    // The pongs to these fill the pipe and what may wait for it; the rest are not read.
    const PINGS: u8 = 60;
    for number in 0..PINGS {
        let ping = Message::Ping(vec![number; 125].into());
        timeout(PATIENCE, alice.socket.send(ping))
            .await
            .unwrap()
            .unwrap();
    }
    let mut expected = 0;
    while expected < PINGS {
        if let Message::Pong(payload) = alice.next().await
            && !payload.is_empty()
        {
            assert_eq!(payload[..], [expected; 125]);
            expected += 1;
        }
    }
    drop(ground);
}

#[tokio::test]
async fn unconfirmed_publishes_hold_reading_back_and_all_are_answered_in_order() {
    let mut ground = Ground::new().await;
    ground.ctx.max_unconfirmed = 2;
    let (ctx, ground) = ground.share();
    let mut alice = open(&ctx, ground.identity("alice", 600).await).await;
    alice.join("lobby", false).await;
    for n in 1..=500 {
        alice.publish("lobby", n, "hello", true).await;
    }
    for n in 1..=500 {
        let ack = alice.hears().await;
        assert_eq!((ack.op(), ack.r#ref), (Opcode::Ack, n));
    }
}

#[tokio::test]
async fn the_writing_side_goes_on_while_a_join_waits() {
    // A server that takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut ground = Ground::new().await;
    ground.ctx.pool = SpinePool::new(
        SpineParams {
            servers: vec![format!("nats://{}", silent.local_addr().unwrap())],
            ack_timeout: Duration::from_secs(3),
            ..ground.spine.params("shield-2")
        },
        testing::quotas(),
        &ground.metrics,
    )
    .unwrap();
    let (ctx, ground) = ground.share();
    let mut alice = open(&ctx, ground.identity("alice", 600).await).await;
    alice
        .send(envelope::join("lobby", 1, v1::Join::default()))
        .await;
    alice.send(envelope::ping(2, Bytes::new())).await;
    let (_asked, _) = timeout(PATIENCE, silent.accept()).await.unwrap().unwrap();
    ground.sessions.goaway_all(NEVER, NEVER, NEVER);
    assert_eq!(alice.hears().await.op(), Opcode::Goaway, "while JOIN waits");
    assert_eq!(
        alice.hears_error().await,
        ("SPINE_UNAVAILABLE".to_owned(), 1)
    );
    assert_eq!(
        alice.hears().await.op(),
        Opcode::Pong,
        "after JOIN, in order"
    );
}

#[tokio::test]
async fn a_close_that_crosses_another_and_one_that_is_never_answered_both_end() {
    let (ctx, ground) = Ground::new().await.share();
    let mut alice = open(&ctx, ground.identity("alice", 600).await).await;
    // A client that takes the close frame and keeps its side open, silent.
    let bob = open(&ctx, ground.identity("bob", 600).await).await;
    alice.socket.send(Message::Close(None)).await.unwrap();
    ground.sessions.close_all(CloseCode::GoingAway);
    timeout(PATIENCE, alice.session).await.unwrap().unwrap();
    ground.sessions.wait_empty().await;
    timeout(PATIENCE, bob.session).await.unwrap().unwrap();
    drop(bob.socket);
}

/// Memory is the product: what stands here is paid for each idle connection.
#[test]
fn a_session_is_small() {
    let sizes = [
        ("future", size_of::<Session<TcpStream>>(), 1024),
        ("wire", size_of::<Wire<TcpStream>>(), 512),
        ("state", size_of::<State>(), 192),
        ("outbox", size_of::<Outbox>(), 192),
        ("timer", size_of::<Sleep>(), 128),
        ("entry", size_of::<Entry>(), 40),
    ];
    for (what, size, most) in sizes {
        println!("{what}: {size} bytes");
        assert!(size <= most, "{what} grew to {size} bytes");
    }
}
