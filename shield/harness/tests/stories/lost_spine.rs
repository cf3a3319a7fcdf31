//! The Spine breaks, or answers late, or brings numbers that do not follow.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arqon_harness::{Client, Proxy, Spine, TestTenant, eventually, within, without_echo};
use arqon_proto::codes::ErrorCode;
use arqon_proto::envelope;
use arqon_proto::v1::{Envelope, GapReason, Join, Sender, envelope::Body};
use arqon_spine::connect::{TenantOptions, connect_tenant};
use arqon_spine::nats::HeaderMap;
use arqon_spine::subjects;
use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message as _;
use tokio::task::JoinHandle;

/// How acknowledged publishes ended: by ref, the twist id or the code's name.
pub(crate) type Outcomes = BTreeMap<u64, Result<String, String>>;

/// Reads until each of these refs is answered.
pub(crate) async fn outcomes(client: &mut Client, refs: &[u64]) -> Outcomes {
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
pub(crate) async fn until_acknowledged(client: &mut Client, room: &str) {
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
    let mut alice = shield.service(&acme, "alice").await;
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
    let mut alice = shield.service(&acme, "alice").await;
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
