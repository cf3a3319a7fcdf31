//! What happens seldom, and is then seen in the metrics: an operator's alerts
//! stand on these.

use arqon_harness::{Client, RawPeer, Spine, TestShield, TestTenant, eventually, seen_as, within};
use arqon_proto::envelope;
use arqon_proto::names::NodeId;
use arqon_proto::v1::{Opcode, PresenceMode};
use arqon_spine::state::Role;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;

use crate::endings::stalled;
use crate::policies::{faulty_component, member, publish};
use crate::presence::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_takes_its_time_is_under_way() {
    let spine = Spine::start().await;
    let shield = spine.shield().start().await;
    let mut slow = tokio::net::TcpStream::connect(shield.addr()).await.unwrap();
    slow.write_all(b"GET /v1/socket HTTP/1.1\r\n")
        .await
        .unwrap();
    eventually!(shield.metric("handshakes", "").await == 1.0);
    drop(slow);
    eventually!(shield.metric("handshakes", "").await == 0.0);
}

/// Waits until Shield answers what was sent before, past all else that it tells.
async fn answers(client: &mut Client) {
    let ping = envelope::ping(client.reference(), bytes::Bytes::new());
    client.send(ping).await;
    while client.next().await.op() != Opcode::Pong {}
}

/// A session with a full queue that does not read.
async fn full(shield: &TestShield, acme: &TestTenant) -> (RawPeer, Client) {
    let slow = stalled(shield, acme).await;
    let mut alice = shield.connect(&acme.token().user("alice").sign()).await;
    alice.join("lobby").await;
    for _ in 0..40 {
        publish(&mut alice, "lobby", &"x".repeat(16_000))
            .await
            .unwrap();
    }
    (slow, alice)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_reader_that_stands_still_is_seen() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine
        .shield()
        .with(
            "session.queue_max_bytes = 262144\nsession.send_buffer_bytes = 4096\n\
             session.overflow = \"drop_oldest\"\nsession.write_timeout_secs = 60",
        )
        .start()
        .await;
    let (slow, _alice) = full(&shield, &acme).await;
    // Looked at every five seconds.
    eventually!(shield.metric("queue_bytes", "").await > 200_000.0);
    assert!(shield.metric("queue_dropped_total", "drop_oldest").await > 0.0);
    drop(slow);
    eventually!(shield.metric("queue_bytes", "").await == 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_that_does_not_fit_into_a_queue_is_told_later() {
    let stage = Stage::with(
        "session.send_buffer_bytes = 4096\nsession.write_timeout_secs = 60\n\
         presence.max_meta_bytes = 4096",
        "",
    )
    .await;
    let mut crowd = Vec::new();
    let meta = "m".repeat(4_000);
    for number in 0..40 {
        let mut one = stage.user(&format!("user-{number}")).await;
        let options = seen_as(PresenceMode::Count, &[("text", &meta)]);
        one.join_with("lobby", options).await.unwrap();
        crowd.push(one);
    }
    let mut slow = stalled(&stage.shield, &stage.acme).await;
    for reference in 10..40 {
        let ask = envelope::presence_get("lobby", reference, false);
        slow.send_envelope(&ask).await.unwrap();
    }
    eventually!(stage.shield.metric("presence_postponed_total", "").await > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_presence_that_nobody_takes_are_dropped_and_brain_is_right_again() {
    let stage = Stage::with(
        "presence.leave_delay_ms = 0\npresence.max_meta_bytes = 4096",
        "",
    )
    .await;
    let watcher = stage.watch().await;
    let mut alice = stage.user("alice").await;
    let seen = seen_as(PresenceMode::Count, &[]);
    alice.join_with("lobby", seen).await.unwrap();
    eventually!(watcher.sees(&["alice"]), "{:?}", watcher.now());
    stage.spine.freeze().await;
    for number in 0..600 {
        let text = format!("{number:04}{}", "m".repeat(4_000));
        let meta = [("text".to_owned(), text)].into();
        alice.send(envelope::presence_set("lobby", 0, meta)).await;
    }
    answers(&mut alice).await;
    stage.spine.thaw();
    eventually!(
        stage
            .shield
            .metric("presence_changes_dropped_total", "")
            .await
            > 0.0
    );
    let last = |seen: &arqon_harness::Seen| {
        let text = format!("{seen:?}");
        text.contains("0599mmm")
    };
    eventually!(watcher.knows(last), "{:?}", watcher.now());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_brain_never_says_is_malformed() {
    let stage = Stage::new().await;
    let mut alice = stage.user("alice").await;
    let seen = seen_as(PresenceMode::Full, &[]);
    alice.join_with("lobby", seen).await.unwrap();
    let id = NodeId::parse("brain-9").unwrap();
    let creds = stage.spine.state().creds(Role::Brain, &id).unwrap();
    let brain = stage.spine.connect(&creds).await;
    let subject = format!("presence-events.{}.events", stage.acme.account);
    eventually!({
        let garbage = bytes::Bytes::from_static(&[0xff; 8]);
        brain
            .client
            .publish(subject.clone(), garbage)
            .await
            .unwrap();
        stage.shield.metric("presence_malformed_total", "").await > 0.0
    });
    let reference = alice.publish_with("lobby", "still here", &[]).await;
    loop {
        let frame = alice.next().await;
        if frame.op() == Opcode::Ack && frame.r#ref == reference {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_for_most_is_quarantined_and_seen_to_be() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let faulty = spine.push("faulty", &faulty_component()).await;
    spine.enforce(&faulty, &["shield-1"]).await;
    let mut senders = Vec::new();
    for user in ["mallory", "trudy", "oscar"] {
        senders.push(member(&shield, &acme, user, "lobby").await);
    }
    eventually!({
        for sender in &mut senders {
            publish(sender, "lobby", "trap").await.unwrap_err();
        }
        shield.metric("policy_quarantined", "").await == 1.0
    });
    assert!(shield.metric("policy_faults_total", "quarantined").await > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_blocks_than_an_audit_can_hold_are_counted_at_least() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let blocklist = spine.push_shipped("blocklist").await;
    let blocklist = blocklist.config(r#"{"words":["malware"]}"#);
    spine.enforce(&blocklist, &["shield-1"]).await;
    let mut senders = Vec::new();
    for number in 0..300 {
        senders.push(member(&shield, &acme, &format!("user-{number}"), "lobby").await);
    }
    eventually!({
        for sender in &mut senders {
            sender.publish("lobby", "malware").await;
        }
        shield.metric("policy_audit_lost_total", "").await > 0.0
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_lies_about_its_age_is_delivered_and_not_timed() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let mut alice = shield.connect(&acme.token().user("alice").sign()).await;
    alice.join("lobby").await;
    let client = shield.inner().pool().nats_client(&acme.id).unwrap();
    let sender = arqon_proto::v1::Sender {
        user: "mallory".to_owned(),
        session: alice.welcome.session_id.clone(),
    };
    for (seq, sent_us) in [(1_u64, 1_u64), (2, u64::MAX), (3, 1_000_000)] {
        let text = format!("number {seq}");
        let payload = bytes::Bytes::from(text.clone());
        let message = envelope::message("lobby", [].into(), payload, sender.clone());
        let mut headers = arqon_spine::nats::HeaderMap::new();
        let origin = format!("aaaaaaaaaaaaaaaa {seq} {sent_us}");
        headers.insert("Arqon-Origin", origin.as_str());
        let subject = format!("{}.lobby", acme.id);
        let encoded = message.encode_to_vec().into();
        let sent = client.publish_with_headers(subject, headers, encoded);
        sent.await.unwrap();
        alice.hears("lobby", &text).await;
    }
    alice.ping().await;
    assert_eq!(shield.metric("deliver_seconds_count", "").await, 0.0);
    publish(&mut alice, "lobby", "honest").await.unwrap();
    eventually!(shield.metric("deliver_seconds_count", "").await > 0.0);
    assert!(shield.metric("deliver_seconds_sum", "").await < 60.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_faster_than_they_can_be_carried_are_a_slow_consumer() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine
        .shield()
        .with("spine.pump_capacity = 256")
        .start()
        .await;
    let mut alice = shield.connect(&acme.token().user("alice").sign()).await;
    alice.join("lobby").await;
    let client = shield.inner().pool().nats_client(&acme.id).unwrap();
    let flood = async {
        while shield.inner().metrics().spine_slow_consumer.get() == 0 {
            for _ in 0..2_000 {
                let subject = format!("{}.lobby", acme.id);
                let _ = client
                    .publish(subject, bytes::Bytes::from_static(b"x"))
                    .await;
            }
        }
    };
    within("a slow consumer", flood).await;
    answers(&mut alice).await;
}
