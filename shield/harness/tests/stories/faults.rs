//! What breaks, and what must hold while it does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arqon_harness::{
    Client, Proxy, RawPeer, Spine, TestShield, TestTenant, error_of, eventually, http, raw::op,
    text_of, within,
};
use arqon_proto::codes::{CloseCode, ErrorCode};
use arqon_proto::envelope;
use arqon_proto::names::NodeId;
use arqon_proto::v1::{Envelope, GapReason, Join, Opcode, Sender, control::Order, envelope::Body};
use arqon_spine::connect::{TenantOptions, connect_tenant};
use arqon_spine::credentials::mint_tenant_user;
use arqon_spine::nats::HeaderMap;
use arqon_spine::subjects;
use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message as _;
use tokio::task::JoinHandle;

fn without_echo() -> Join {
    Join {
        echo: Some(false),
        ..Join::default()
    }
}

/// How acknowledged publishes ended: by ref, the twist id or the code's name.
type Outcomes = BTreeMap<u64, Result<String, String>>;

/// Reads until each of these refs is answered.
async fn outcomes(client: &mut Client, refs: &[u64]) -> Outcomes {
    let mut outcomes = Outcomes::new();
    while outcomes.len() < refs.len() {
        let frame = client.next().await;
        let outcome = match &frame.body {
            Some(Body::Ack(ack)) => Ok(ack.twist_id.clone()),
            Some(Body::Error(error)) => Err(error.name.clone()),
            _ => continue,
        };
        assert!(refs.contains(&frame.r#ref), "{frame:?}");
        let before = outcomes.insert(frame.r#ref, outcome);
        assert_eq!(before, None, "one answer for each publish");
    }
    outcomes
}

/// Publishes until one is acknowledged: the Spine is back.
async fn until_acknowledged(client: &mut Client, room: &str) {
    eventually!({
        let reference = client.publish_with(room, "are you there", &[]).await;
        outcomes(client, &[reference]).await[&reference].is_ok()
    });
}

/// The twist ids that a plain NATS client saw, straight from the server.
struct Observer {
    seen: Arc<std::sync::Mutex<HashSet<String>>>,
    task: JoinHandle<()>,
}

impl Observer {
    async fn new(spine: &Spine, tenant: &TestTenant) -> Self {
        let ttl = Duration::from_secs(3_600);
        let user = spine
            .admin()
            .await
            .creds(&tenant.id, true, ttl)
            .await
            .unwrap();
        let options = TenantOptions::default();
        let connection = connect_tenant(&[spine.url()], user, "observer", options)
            .await
            .unwrap();
        let mut messages = connection
            .client
            .subscribe(format!("{}.>", tenant.id))
            .await
            .unwrap();
        // A round trip: from here on it misses nothing.
        let own = subjects::barrier(&connection.user);
        let mut barrier = connection.client.subscribe(own.clone()).await.unwrap();
        connection.client.publish(own, Bytes::new()).await.unwrap();
        within("a round trip", barrier.next()).await.unwrap();
        let seen = Arc::new(std::sync::Mutex::new(HashSet::new()));
        let seeing = seen.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                if let Ok(frame) = envelope::decode_server(message.payload) {
                    let twist = frame.headers.get("X-Twist-ID").cloned();
                    seeing.lock().unwrap().extend(twist);
                }
            }
            drop(connection);
        });
        Self { seen, task }
    }

    fn saw(&self, twist: &str) -> bool {
        self.seen.lock().unwrap().contains(twist)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn service(shield: &TestShield, tenant: &TestTenant, user: &str) -> Client {
    shield
        .connect(&tenant.token().user(user).role("service").sign())
        .await
}

#[tokio::test]
async fn an_ack_is_never_false_when_the_spine_is_lost_between_publish_and_ack() {
    let mut spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let proxy = Proxy::start(spine.addr()).await.unwrap();
    let shield = spine
        .shield()
        .via(&proxy.url())
        .with("spine.ack_timeout_ms = 20000")
        .start()
        .await;
    let mut alice = service(&shield, &acme, "alice").await;
    until_acknowledged(&mut alice, "lobby").await;

    for round in 0..12 {
        // The publish never reaches the server, which dies.
        proxy.pause_up();
        let mut refs = Vec::new();
        for number in 0..=round {
            refs.push(
                alice
                    .publish_with("lobby", format!("held {number}"), &[])
                    .await,
            );
        }
        alice.ping().await;
        if round % 3 == 0 {
            spine.kill();
        }
        proxy.cut().await;
        proxy.resume();
        for (reference, outcome) in outcomes(&mut alice, &refs).await {
            assert!(
                outcome.is_err(),
                "round {round}: false ACK of {reference}: {outcome:?}"
            );
        }
        if round % 3 == 0 {
            spine.restart();
        }
        until_acknowledged(&mut alice, "lobby").await;

        // The server has it, but its answer is lost.
        let observer = Observer::new(&spine, &acme).await;
        let twist = arqon_proto::names::TwistId::new().to_string();
        proxy.pause_down();
        let reference = alice
            .publish_with("lobby", "kept", &[("X-Twist-ID", &twist)])
            .await;
        eventually!(observer.saw(&twist));
        if round % 3 == 1 {
            spine.kill();
        }
        proxy.cut().await;
        proxy.resume();
        let outcome = outcomes(&mut alice, &[reference]).await;
        let unknown = Err(ErrorCode::AckUnknown.name().to_owned());
        assert_eq!(outcome[&reference], unknown, "round {round}");
        if round % 3 == 1 {
            spine.restart();
        }
        until_acknowledged(&mut alice, "lobby").await;
    }

    // In the middle of a stream: what was acknowledged, the server had.
    let observer = Observer::new(&spine, &acme).await;
    for round in 0..30 {
        let mut refs = Vec::new();
        for number in 0..60 {
            refs.push(
                alice
                    .publish_with("lobby", format!("stream {number}"), &[])
                    .await,
            );
            if number == 10 + round {
                proxy.cut().await;
            }
        }
        let outcomes = outcomes(&mut alice, &refs).await;
        for twist in outcomes.values().flatten() {
            eventually!(
                observer.saw(twist),
                "round {round}: {twist} was acknowledged"
            );
        }
        until_acknowledged(&mut alice, "lobby").await;
    }
    assert_eq!(
        shield.metric("sessions_opened_total", "").await,
        1.0,
        "the session lived on"
    );
}

#[tokio::test]
async fn a_spine_that_answers_too_late_gets_no_late_ack() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine
        .shield()
        .with("spine.ack_timeout_ms = 300")
        .start()
        .await;
    let mut alice = service(&shield, &acme, "alice").await;
    alice.join_with("lobby", without_echo()).await.unwrap();
    for _ in 0..5 {
        until_acknowledged(&mut alice, "lobby").await;
        spine.freeze().await;
        let reference = alice.publish_with("lobby", "anyone?", &[]).await;
        let outcome = outcomes(&mut alice, &[reference]).await;
        assert_eq!(
            outcome[&reference],
            Err(ErrorCode::AckUnknown.name().to_owned())
        );
        spine.thaw();
    }
    until_acknowledged(&mut alice, "lobby").await;
}

#[tokio::test]
async fn a_lost_spine_is_told_at_once_and_its_rooms_come_back() {
    let mut spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let first = spine.shield().start().await;
    let second = spine.shield().id("shield-2").start().await;
    let mut alice = first.connect(&acme.token().sign()).await;
    let mut bob = second.connect(&acme.token().user("bob").sign()).await;
    for room in ["lobby", "news"] {
        alice.join(room).await;
        bob.join(room).await;
    }

    for round in 0..3 {
        spine.kill();
        eventually!({
            let reference = alice.publish_with("lobby", "lost", &[]).await;
            let outcome = outcomes(&mut alice, &[reference]).await;
            outcome[&reference] == Err(ErrorCode::SpineUnavailable.name().to_owned())
        });
        // The session lives: it is answered, and others get in.
        alice.ping().await;
        let mut late = first.connect(&acme.token().user("late").sign()).await;
        late.ping().await;
        let refusal = late.join_with("news", Join::default()).await;
        if let Err(refusal) = refusal {
            assert_eq!(refusal.name, ErrorCode::SpineUnavailable.name());
            assert!(refusal.retryable);
        }
        drop(late);

        spine.restart();
        for client in [&mut alice, &mut bob] {
            let mut rooms = HashSet::new();
            while rooms.len() < 2 {
                let frame = client.next().await;
                let Some(Body::Gap(gap)) = &frame.body else {
                    panic!("GAP is due, not {frame:?}");
                };
                assert_eq!(gap.reason(), GapReason::SpineReconnected);
                assert!(rooms.insert(frame.room), "one GAP for each room");
            }
        }
        for room in ["lobby", "news"] {
            let text = format!("round {round}");
            alice.publish(room, &text).await;
            alice.hears(room, &text).await;
            bob.hears(room, &text).await;
        }
    }
}

/// Publishes numbers into a room until told to stop; gives how many.
fn speak(mut client: Client, room: &'static str, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut number = 0;
        while !stop.load(Ordering::SeqCst) {
            client.publish(room, number.to_string()).await;
            number += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        client.publish(room, "end").await;
        // Once PONG is here, all before was taken.
        client.ping().await;
        number
    })
}

/// Publishes with acknowledgement, one at a time; each must be acknowledged.
fn speak_acknowledged(
    mut client: Client,
    room: &'static str,
    stop: Arc<AtomicBool>,
) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut number = 0;
        while !stop.load(Ordering::SeqCst) {
            let reference = client.publish_with(room, number.to_string(), &[]).await;
            let ack = client.expect(Opcode::Ack).await;
            assert_eq!(ack.r#ref, reference);
            number += 1;
        }
        client.publish(room, "end").await;
        client.ping().await;
        number
    })
}

/// Hears until as many publishers ended: each in order, nothing lost, nothing twice.
fn hear(mut client: Client, publishers: usize) -> JoinHandle<HashMap<String, u64>> {
    tokio::spawn(async move {
        let (mut next, mut ended) = (HashMap::<String, u64>::new(), 0);
        while ended < publishers {
            let frame = client.expect(Opcode::Message).await;
            let Some(Body::Message(message)) = &frame.body else {
                unreachable!("MESSAGE has its body");
            };
            let user = message.sender.clone().unwrap().user;
            let expected = next.entry(user.clone()).or_default();
            match text_of(&frame).as_str() {
                "end" => ended += 1,
                text => {
                    assert_eq!(text, expected.to_string(), "of {user}");
                    *expected += 1;
                }
            }
        }
        client.ping().await;
        next
    })
}

/// Several publishers and hearers over two Shields, while something goes on.
struct Traffic {
    stop: Arc<AtomicBool>,
    speakers: Vec<(String, JoinHandle<u64>)>,
    hearers: Vec<JoinHandle<HashMap<String, u64>>>,
}

impl Traffic {
    async fn over(shields: &[&TestShield], tenant: &TestTenant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut speakers, mut hearers) = (Vec::new(), Vec::new());
        for shield in shields {
            for _ in 0..2 {
                let mut client = shield.connect(&tenant.token().user("hearer").sign()).await;
                client.join("lobby").await;
                hearers.push(hear(client, 2 * shields.len()));
            }
        }
        for (index, shield) in shields.iter().enumerate() {
            let user = format!("plain-{index}");
            let client = service(shield, tenant, &user).await;
            speakers.push((user, speak(client, "lobby", stop.clone())));
            let user = format!("acknowledged-{index}");
            let client = service(shield, tenant, &user).await;
            speakers.push((user, speak_acknowledged(client, "lobby", stop.clone())));
        }
        Self {
            stop,
            speakers,
            hearers,
        }
    }

    /// Ends it: everyone heard everything, once and in order.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let mut said = HashMap::new();
        for (user, speaker) in self.speakers {
            said.insert(user, within("a publisher", speaker).await.unwrap());
        }
        for hearer in self.hearers {
            let heard = within("a hearer", hearer).await.unwrap();
            assert_eq!(heard, said);
        }
        said.values().sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_forced_rotations_lose_nothing_repeat_nothing_and_keep_order() {
    const ROTATIONS: usize = 200;
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let proxy = Proxy::start(spine.addr()).await.unwrap();
    // Of old and new connection one is always the slow one.
    proxy.slow_every_second(Duration::from_millis(8));
    let first = spine.shield().via(&proxy.url()).start().await;
    let second = spine.shield().id("shield-2").start().await;
    let traffic = Traffic::over(&[&first, &second], &acme).await;

    for rotation in 0..ROTATIONS {
        if rotation < 10 {
            // As an administrator would: by an order to all Shields.
            let order = arqon_proto::v1::RotateCredentials {
                tenant: "acme".to_owned(),
            };
            spine.order(None, Order::RotateCredentials(order)).await;
            for shield in [&first, &second] {
                eventually!(shield.metric("rotations_total", "ok").await > rotation as f64);
            }
        } else {
            let (one, two) = tokio::join!(
                within("a rotation", first.inner().pool().rotate(None)),
                within("a rotation", second.inner().pool().rotate(Some(&acme.id))),
            );
            assert_eq!((one, two), (0, 0), "rotation {rotation}: so many failed");
        }
    }
    let said = traffic.end().await;
    for shield in [&first, &second] {
        assert_eq!(
            shield.metric("rotations_total", "ok").await,
            ROTATIONS as f64
        );
        assert_eq!(shield.metric("rotations_total", "failed").await, 0.0);
        assert_eq!(shield.metric("spine_reconnects_total", "").await, 0.0);
    }
    assert!(
        said > ROTATIONS as u64,
        "{said} messages during {ROTATIONS} rotations"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pools_key_is_replaced_under_live_publishers() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let first = spine.shield().start().await;
    let second = spine.shield().id("shield-2").start().await;
    let pool = NodeId::parse("default").unwrap();
    let old = spine.state().fleet_key(&pool).unwrap();
    let traffic = Traffic::over(&[&first, &second], &acme).await;

    let admin = spine.admin().await;
    let mut steps = Vec::new();
    let record = within(
        "the rotation of a pool's key",
        admin.rotate_pool_key(&pool, Duration::from_secs(25), |step| steps.push(step)),
    )
    .await
    .unwrap_or_else(|error| panic!("{error:?} after {steps:?}"));
    traffic.end().await;
    for shield in [&first, &second] {
        assert_eq!(
            shield.metric("spine_reconnects_total", "").await,
            0.0,
            "{steps:?}"
        );
    }

    // The old key opens nothing any more, the new one does.
    let new = spine.state().fleet_key(&pool).unwrap();
    assert_eq!(record.fleet_keys, [new.public().to_owned()]);
    assert_ne!(old.public(), new.public());
    let connect = async |key| {
        let ttl = Duration::from_secs(60);
        let user = mint_tenant_user(key, &acme.account, &acme.id, "shield-1", ttl);
        connect_tenant(&[spine.url()], user, "x", TenantOptions::default()).await
    };
    assert!(connect(&old).await.is_err());
    assert!(connect(&new).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lived_credentials_rotate_by_themselves_before_they_expire() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine
        .shield()
        .with("spine.user_ttl_secs = 10")
        .start()
        .await;
    let traffic = Traffic::over(&[&shield], &acme).await;
    eventually!(shield.metric("rotations_total", "ok").await >= 2.0);
    traffic.end().await;
    assert_eq!(shield.metric("spine_reconnects_total", "").await, 0.0);
}

/// A peer in `lobby` with the smallest receive buffer, which does not read.
async fn stalled(shield: &TestShield, tenant: &TestTenant) -> RawPeer {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let stream = within("a connection", socket.connect(shield.addr()))
        .await
        .unwrap();
    let authorization = format!(
        "Authorization: Bearer {}",
        tenant.token().user("slow").sign()
    );
    let mut peer = RawPeer::ask_over(stream, "/v1/socket", &[&authorization])
        .await
        .unwrap();
    assert_eq!(peer.envelope().await.op(), Opcode::Welcome);
    peer.send_envelope(&envelope::join("lobby", 1, Join::default()))
        .await
        .unwrap();
    assert_eq!(peer.envelope().await.op(), Opcode::Joined);
    peer
}

const SMALL_QUEUE: &str = "session.queue_max_bytes = 262144\nsession.send_buffer_bytes = 4096\n\
                           session.heartbeat_secs = 300\nsession.write_timeout_secs = 60";

#[tokio::test]
async fn a_slow_reader_is_closed_with_4002_and_its_neighbours_notice_nothing() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().with(SMALL_QUEUE).start().await;
    let mut slow = stalled(&shield, &acme).await;
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    bob.join("lobby").await;

    let mut number = 0;
    eventually!({
        let text = format!("{number:08}{}", "x".repeat(8_000));
        bob.publish("lobby", &text).await;
        bob.hears("lobby", &text).await;
        number += 1;
        shield.metric("queue_dropped_total", "slow_reader").await > 0.0
    });
    for round in 0..20 {
        let text = format!("after {round}");
        bob.publish("lobby", &text).await;
        bob.hears("lobby", &text).await;
    }
    // It learns why, once it reads again.
    let mut expected = 0;
    let code = loop {
        let frame = slow
            .frame()
            .await
            .expect("a close frame comes before the end");
        match frame.opcode {
            op::CLOSE => break u16::from_be_bytes([frame.payload[0], frame.payload[1]]),
            op::BINARY => {
                let message = envelope::decode_server(frame.payload).unwrap();
                if message.op() == Opcode::Message {
                    assert!(text_of(&message).starts_with(&format!("{expected:08}")));
                    expected += 1;
                }
            }
            _ => {}
        }
    };
    assert_eq!(code, CloseCode::SlowReader.number());
    assert!(expected < number);
    eventually!(shield.metric("sessions", "").await == 1.0);
    assert_eq!(
        shield.metric("sessions_closed_total", "SLOW_READER").await,
        1.0
    );
    bob.ping().await;
}

#[tokio::test]
async fn with_drop_oldest_a_slow_reader_is_told_how_many_it_missed() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let manifest = format!("{SMALL_QUEUE}\nsession.overflow = \"drop_oldest\"");
    let shield = spine.shield().with(&manifest).start().await;
    let mut slow = stalled(&shield, &acme).await;
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    bob.join("lobby").await;

    let mut number = 0_u64;
    eventually!({
        let text = format!("{number:08}{}", "x".repeat(8_000));
        bob.publish("lobby", &text).await;
        bob.hears("lobby", &text).await;
        number += 1;
        shield.metric("queue_dropped_total", "drop_oldest").await > 20.0
    });
    bob.publish("lobby", "end").await;
    bob.hears("lobby", "end").await;

    // What comes is in order, and every hole is told with its exact size.
    let (mut expected, mut missed) = (0_u64, 0);
    loop {
        let frame = slow.envelope().await;
        match &frame.body {
            Some(Body::Message(_)) if text_of(&frame) == "end" => break,
            Some(Body::Message(_)) => {
                let got: u64 = text_of(&frame)[..8].parse().unwrap();
                missed += got - expected;
                expected = got + 1;
            }
            Some(Body::Gap(gap)) => {
                assert_eq!(
                    (frame.room.as_str(), gap.reason()),
                    ("lobby", GapReason::SlowReader)
                );
                expected += gap.missed.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        (expected, missed),
        (number, 0),
        "each loss was told, neither more nor less"
    );
    // The session lives on.
    slow.send_envelope(&envelope::publish(
        "lobby",
        0,
        Bytes::from_static(b"here"),
        false,
    ))
    .await
    .unwrap();
    bob.hears("lobby", "here").await;
    assert_eq!(text_of(&slow.envelope().await), "here");
}

#[tokio::test]
async fn a_drain_says_goaway_and_loses_nothing_for_those_who_read() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let manifest = "drain.timeout_secs = 3\ndrain.spread_secs = 1";
    let leaving = spine.shield().with(manifest).start().await;
    let staying = spine.shield().id("shield-2").start().await;
    let mut reader = leaving.connect(&acme.token().user("reader").sign()).await;
    let mut idle = leaving.connect(&acme.token().user("idle").sign()).await;
    let mut bob = staying.connect(&acme.token().user("bob").sign()).await;
    reader.join("lobby").await;
    bob.join("lobby").await;
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = service(&staying, &acme, "publisher").await;
    let speaking = speak(publisher, "lobby", stop.clone());
    reader.hears("lobby", "0").await;

    let addr = leaving.addr();
    let draining = tokio::spawn(leaving.drain());
    let (mut expected, mut goaway) = (1_u64, false);
    // The session works until its end.
    let code = loop {
        match within("a frame", reader.recv()).await {
            Ok(Some(frame)) => match frame.op() {
                Opcode::Message => {
                    assert_eq!(text_of(&frame), expected.to_string());
                    expected += 1;
                }
                Opcode::Goaway => {
                    goaway = true;
                    let Some(Body::Goaway(body)) = &frame.body else {
                        unreachable!()
                    };
                    assert_eq!(body.spread_ms, 1_000);
                    let refused = RawPeer::open_if_listening(addr, &acme.token().sign()).await;
                    assert!(refused.is_none(), "no new session while draining");
                }
                other => panic!("{other:?}"),
            },
            Err(error) => break error.close_code(),
            Ok(None) => panic!("closed without a code"),
        }
    };
    assert!(goaway);
    assert_eq!(code, Some(CloseCode::GoingAway));
    let (code, frames) = idle.closed().await;
    assert_eq!(code, Some(CloseCode::GoingAway.number()));
    assert_eq!(
        frames.iter().map(Envelope::op).collect::<Vec<_>>(),
        [Opcode::Goaway]
    );
    within("the drain to end", draining).await.unwrap();
    assert!(
        http::get(addr, "/healthz", &[]).await.is_err(),
        "it listens no more"
    );

    stop.store(true, Ordering::SeqCst);
    let said = within("the publisher", speaking).await.unwrap();
    assert!(expected <= said);
    for number in 0..said {
        bob.hears("lobby", &number.to_string()).await;
    }
    bob.hears("lobby", "end").await;
}

#[tokio::test]
async fn a_client_that_went_silent_is_closed_after_two_heartbeats() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine
        .shield()
        .with("session.heartbeat_secs = 1")
        .start()
        .await;
    let mut dead = RawPeer::open(shield.addr(), &acme.token().sign())
        .await
        .unwrap();
    let mut alive = RawPeer::open(shield.addr(), &acme.token().sign())
        .await
        .unwrap();
    assert_eq!(alive.envelope().await.op(), Opcode::Welcome);
    let answering = tokio::spawn(async move {
        let mut answered = 0;
        while answered < 6 {
            let frame = alive.frame().await.expect("one who answers is not closed");
            if frame.opcode == op::PING {
                alive.send(op::PONG, &frame.payload).await.unwrap();
                answered += 1;
            }
        }
    });
    let (mut pings, mut code) = (0, None);
    while let Some(frame) = dead.frame().await {
        match frame.opcode {
            op::PING => pings += 1,
            op::CLOSE => code = Some(u16::from_be_bytes([frame.payload[0], frame.payload[1]])),
            _ => {}
        }
    }
    assert_eq!(code, Some(CloseCode::HeartbeatLost.number()));
    assert!((1..=3).contains(&pings), "{pings} pings before the close");
    within("one who answers", answering).await.unwrap();
}

/// A frame as another Shield would have published it.
fn foreign(number: u64) -> Bytes {
    let sender = Sender {
        user: "far".into(),
        session: arqon_proto::names::SessionId::new().to_string(),
    };
    let text = Bytes::from(number.to_string());
    envelope::message("lobby", BTreeMap::new(), text, sender)
        .encode_to_vec()
        .into()
}

#[tokio::test]
async fn numbers_of_a_publishing_shield_that_jump_repeat_or_restart_are_understood() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    alice.join("lobby").await;
    // One who may write into the tenant plays a Shield far away.
    let ttl = Duration::from_secs(600);
    let user = spine
        .admin()
        .await
        .creds(&acme.id, true, ttl)
        .await
        .unwrap();
    let options = TenantOptions::default();
    let far = connect_tenant(&[spine.url()], user, "far", options)
        .await
        .unwrap();
    let publish = async |header: &'static str, origin: String, payload: Bytes| {
        let mut headers = HeaderMap::new();
        headers.insert(header, origin);
        far.client
            .publish_with_headers("acme.lobby", headers, payload)
            .await
            .unwrap();
    };
    let (one, two) = ("00000000000000a1", "00000000000000a2");
    let say = async |incarnation: &str, number: u64| {
        publish(
            "Arqon-Origin",
            format!("{incarnation} {number}"),
            foreign(number),
        )
        .await;
    };
    let gap_of = |frame: &Envelope| match &frame.body {
        Some(Body::Gap(gap)) => (gap.reason(), gap.missed),
        other => panic!("GAP is due, not {other:?}"),
    };

    say(one, 7).await;
    alice.hears("lobby", "7").await;
    // Repeated and late: dropped.
    say(one, 7).await;
    say(one, 6).await;
    say(one, 8).await;
    alice.hears("lobby", "8").await;
    // A jump: told, then heard.
    say(one, 12).await;
    assert_eq!(gap_of(&alice.next().await), (GapReason::Sequence, Some(3)));
    alice.hears("lobby", "12").await;
    // Another life of a Shield counts anew.
    say(two, 1).await;
    alice.hears("lobby", "1").await;
    say(one, 13).await;
    alice.hears("lobby", "13").await;
    // A beacon: what it names is either known or lost.
    publish("Arqon-Beacon", format!("{one} 13"), Bytes::new()).await;
    publish("Arqon-Beacon", format!("{two} 4"), Bytes::new()).await;
    assert_eq!(gap_of(&alice.next().await), (GapReason::Sequence, Some(3)));
    publish("Arqon-Beacon", format!("{two} 4"), Bytes::new()).await;
    say(two, 5).await;
    alice.hears("lobby", "5").await;
    alice.ping().await;
    assert!(shield.metric("duplicates_dropped_total", "").await >= 2.0);
}

#[tokio::test]
async fn errors_are_counted_by_name() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    alice.publish_with("lobby", "not joined", &[]).await;
    let error = alice.expect_error(ErrorCode::NotJoined).await;
    assert!(!error_of(&error).retryable);
    assert_eq!(shield.metric("errors_total", "NOT_JOINED").await, 1.0);
    assert_eq!(shield.metric("frames_in_total", "publish").await, 1.0);
}
