//! Sessions that read too slowly: each room's rule, the bound of a tenant, and that they learn why.

use arqon_harness::raw::op;
use arqon_harness::{RawPeer, Spine, eventually, text_of, within};
use arqon_proto::codes::CloseCode;
use arqon_proto::envelope;
use arqon_proto::names::{RoomPattern, UserId};
use arqon_proto::v1::{GapReason, Join, Opcode, Overflow, envelope::Body};

use arqon_shield::session::SessionFilter;
use arqon_spine::admin::RevokeTokens;

use crate::endings::stalled;

const SMALL: &str = "session.queue_max_bytes = 262144\nsession.send_buffer_bytes = 4096\n\
                     session.heartbeat_secs = 300\nsession.write_timeout_secs = 60";

/// The code of the close frame behind whatever comes before it.
async fn close_code(peer: &mut RawPeer) -> u16 {
    loop {
        let frame = peer
            .frame()
            .await
            .expect("a close frame comes before the end");
        if frame.opcode == op::CLOSE {
            return u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
        }
    }
}

async fn joins(peer: &mut RawPeer, room: &str) {
    peer.send_envelope(&envelope::join(room, 2, Join::default()))
        .await
        .unwrap();
    // Behind whatever waits.
    loop {
        let frame = peer.envelope().await;
        match frame.op() {
            Opcode::Message | Opcode::Gap => {}
            op => break assert_eq!((op, frame.room.as_str()), (Opcode::Joined, room)),
        }
    }
}

#[tokio::test]
async fn who_reads_again_after_its_session_is_over_learns_why() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().with(SMALL).start().await;
    let mut slow = stalled(&shield, &acme).await;
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    bob.join("lobby").await;
    let text = "x".repeat(8_000);
    eventually!({
        bob.publish("lobby", &text).await;
        bob.hears("lobby", &text).await;
        shield.metric("farewells", "").await == 1.0
    });
    assert_eq!(
        shield.metric("sessions", "").await,
        1.0,
        "its session is over for all others"
    );
    assert_eq!(
        shield.metric("sessions_closed_total", "SLOW_READER").await,
        1.0
    );
    assert_eq!(close_code(&mut slow).await, CloseCode::SlowReader.number());
    eventually!(shield.metric("farewells", "").await == 0.0);
}

/// Who is revoked, kicked or whose tenant is suspended is told nothing of what waited.
#[tokio::test]
async fn a_stalled_reader_who_must_go_hears_nothing_that_still_waited() {
    let spine = Spine::start().await;
    let admin = spine.admin().await;
    for end in ["revoked", "kicked", "suspended"] {
        let acme = spine.tenant(end).await;
        let manifest = "session.queue_max_bytes = 16777216\nsession.send_buffer_bytes = 4096\n\
                        session.heartbeat_secs = 300\nsession.write_timeout_secs = 300";
        let shield = spine.shield().id(end).with(manifest).start().await;
        let mut slow = stalled(&shield, &acme).await;
        let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
        bob.join("lobby").await;
        // Far more than sockets hold, and less than the queue does.
        let text = "x".repeat(16_000);
        for _ in 0..300 {
            bob.publish("lobby", &text).await;
            bob.hears("lobby", &text).await;
        }
        bob.publish("lobby", "the last").await;
        bob.hears("lobby", "the last").await;
        let user = UserId::parse("slow").unwrap();
        let code = match end {
            "revoked" => {
                let tokens = RevokeTokens::User {
                    user,
                    issued_before: u64::from(u32::MAX),
                };
                let revoked = admin.revoke(&acme.id, tokens, "a story");
                within("the revocation", revoked).await.unwrap();
                CloseCode::TokenRevokedClose
            }
            "kicked" => {
                let filter = SessionFilter {
                    tenant: Some(acme.id.clone()),
                    user: Some(user),
                    session: None,
                };
                assert_eq!(shield.inner().sessions().kick(&filter), 1);
                CloseCode::Kicked
            }
            _ => {
                within("the suspension", admin.suspend(&acme.id))
                    .await
                    .unwrap();
                CloseCode::TenantGone
            }
        };
        eventually!(shield.metric("queue_dropped_total", "session_ended").await > 100.0);
        // It reads again at once, and finds the end behind what was on its way.
        let mut heard = 0;
        let told = loop {
            let Some(frame) = slow.frame().await else {
                break None;
            };
            match frame.opcode {
                op::CLOSE => break Some(u16::from_be_bytes([frame.payload[0], frame.payload[1]])),
                op::BINARY => {
                    let frame = envelope::decode_server(frame.payload).unwrap();
                    assert_ne!(text_of(&frame), "the last", "{end}: after {heard}");
                    heard += 1;
                }
                _ => {}
            }
        };
        assert_eq!(told, Some(code.number()), "{end}");
    }
}

#[tokio::test]
async fn a_drain_does_not_wait_for_who_reads_nothing() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let manifest = format!("{SMALL}\nsession.farewell_secs = 600\ndrain.timeout_secs = 600");
    let shield = spine.shield().with(&manifest).start().await;
    let _slow = stalled(&shield, &acme).await;
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    bob.join("lobby").await;
    let text = "x".repeat(8_000);
    eventually!({
        bob.publish("lobby", &text).await;
        bob.hears("lobby", &text).await;
        shield.metric("farewells", "").await == 1.0
    });
    drop(bob);
    within("the drain", shield.drain()).await;
}

#[tokio::test]
async fn each_room_has_its_rule_and_a_changed_one_holds_at_once() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let admin = spine.admin().await;
    let set = async |rooms: &str, rule| {
        let rooms = RoomPattern::parse(rooms).unwrap();
        let set = admin.set_overflow(&acme.id, &rooms, Some(rule));
        within("the rule is set", set).await.unwrap();
    };
    set("lobby", Overflow::DropOldest).await;
    let shield = spine.shield().with(SMALL).start().await;
    let mut slow = stalled(&shield, &acme).await;
    joins(&mut slow, "ticker.gold").await;
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    bob.join("lobby").await;
    bob.join("ticker.gold").await;
    // Changed while somebody is in the room.
    set("ticker.>", Overflow::LatestOnly).await;
    let mut prices = 0_u64;
    eventually!({
        bob.publish("ticker.gold", &format!("{prices:08}")).await;
        bob.hears("ticker.gold", &format!("{prices:08}")).await;
        prices += 1;
        // One reads so fast that nothing of it ever waits; the other's socket is full soon.
        let filler = "x".repeat(8_000);
        bob.publish("lobby", &filler).await;
        bob.hears("lobby", &filler).await;
        shield.metric("queue_dropped_total", "latest_only").await > 20.0
            && shield.metric("queue_dropped_total", "drop_oldest").await > 20.0
    });
    bob.publish("ticker.gold", "end").await;
    bob.hears("ticker.gold", "end").await;

    let (mut expected, mut skipped) = (0_u64, 0);
    loop {
        let frame = slow.envelope().await;
        match (&frame.body, frame.room.as_str()) {
            (Some(Body::Message(_)), "ticker.gold") if text_of(&frame) == "end" => break,
            (Some(Body::Message(_)), "ticker.gold") => {
                let price: u64 = text_of(&frame).parse().unwrap();
                assert_eq!(
                    price, expected,
                    "in order, and each hole was told before it"
                );
                expected += 1;
            }
            (Some(Body::Gap(gap)), "ticker.gold") => {
                assert_eq!(gap.reason(), GapReason::LatestOnly);
                expected += gap.missed.unwrap();
                skipped += gap.missed.unwrap();
            }
            (Some(Body::Gap(gap)), "lobby") => assert_eq!(gap.reason(), GapReason::SlowReader),
            (Some(Body::Message(_)), "lobby") => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(expected, prices);
    assert!(skipped > 0);
    // The session lives on.
    joins(&mut slow, "ticker.silver").await;
    // Under the rule of the manifest a session is closed again.
    let rooms = RoomPattern::parse("lobby").unwrap();
    let unset = admin.set_overflow(&acme.id, &rooms, None);
    within("the rule is taken away", unset).await.unwrap();
    let text = "y".repeat(8_000);
    eventually!({
        bob.publish("lobby", &text).await;
        bob.hears("lobby", &text).await;
        shield.metric("slow_consumers_total", "").await > 0.0
            && shield.metric("sessions_closed_total", "SLOW_READER").await == 1.0
    });
    assert_eq!(close_code(&mut slow).await, CloseCode::SlowReader.number());
}

#[tokio::test]
async fn stalled_readers_of_one_tenant_share_a_bound_and_harm_nobody() {
    const BOUND: f64 = 1_048_576.0;
    let spine = Spine::start().await;
    let (acme, globex) = (spine.tenant("acme").await, spine.tenant("globex").await);
    let manifest = "session.tenant_queue_max_bytes = 1048576\nsession.overflow = \"drop_oldest\"\n\
                    session.send_buffer_bytes = 4096\nsession.heartbeat_secs = 300\n\
                    session.write_timeout_secs = 300";
    let shield = spine.shield().with(manifest).start().await;
    let mut slow = Vec::new();
    for _ in 0..6 {
        slow.push(stalled(&shield, &acme).await);
    }
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    let mut eve = shield.connect(&globex.token().user("eve").sign()).await;
    bob.join("lobby").await;
    eve.join("lobby").await;
    let text = "x".repeat(16_000);
    let mut most = 0.0_f64;
    eventually!({
        bob.publish("lobby", &text).await;
        bob.hears("lobby", &text).await;
        eve.publish("lobby", &text).await;
        eve.hears("lobby", &text).await;
        most = most.max(shield.metric("queue_bytes", "").await);
        shield.metric("tenant_backlog_full_total", "").await > 200.0
    });
    // The gauge is set every five seconds: one more look once all is full.
    eventually!({
        most = most.max(shield.metric("queue_bytes", "").await);
        most > BOUND / 2.0
    });
    // The free part of each queue, and what other frames of the six take.
    assert!(most <= BOUND + 6.0 * 8192.0, "{most}");
    assert_eq!(shield.metric("sessions", "").await, 8.0);
}
