//! Sessions that do not read, do not answer, or must go: each ends by its code.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arqon_harness::raw::op;
use arqon_harness::{
    RawPeer, Spine, TestShield, TestTenant, error_of, eventually, http, text_of, within,
};
use arqon_proto::codes::{CloseCode, ErrorCode};
use arqon_proto::envelope;
use arqon_proto::v1::{Envelope, GapReason, Join, Opcode, envelope::Body};
use bytes::Bytes;

use crate::rotation::speak;

/// A peer in `lobby` with the smallest receive buffer, which does not read.
pub(crate) async fn stalled(shield: &TestShield, tenant: &TestTenant) -> RawPeer {
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
    let publisher = staying.service(&acme, "publisher").await;
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
