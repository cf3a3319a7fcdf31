//! Joining, publishing, acknowledging, limits.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arqon_proto::{codes::ErrorCode, envelope, headers, names::TenantId, v1};
use arqon_spine::{
    connect::{TenantOptions, connect_user},
    nats::HeaderMap,
    subjects::room_subject,
};
use arqon_telemetry::Metrics;
use bytes::Bytes;

use super::super::{testing::*, *};
use crate::{control::Tenant, session::Frame};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_hear_each_other_in_order_and_not_other_rooms() {
    let spine = Spine::start().await;
    let (_pool_a, link_a, _) = spine.link(spine.params("shield-a")).await;
    let (_pool_b, link_b, _) = spine.link(spine.params("shield-b")).await;
    let (alice, bob, carol) = (Ear::new(), Ear::new(), Ear::new());
    alice.join(&link_a, "lobby").await;
    bob.join(&link_b, "lobby").await;
    carol.join(&link_b, "kitchen").await;
    for n in 0..500 {
        alice
            .publish(&link_a, "lobby", &n.to_string())
            .await
            .unwrap();
    }
    let expected: Vec<_> = (0..500).map(|n| n.to_string()).collect();
    for ear in [&alice, &bob] {
        ear.hears_texts("lobby", 500).await;
        assert_eq!(ear.texts("lobby"), expected);
        assert_eq!(ear.gaps(), []);
    }
    bob.publish(&link_b, "kitchen", "end").await.unwrap();
    carol.hears_texts("kitchen", 1).await;
    assert_eq!(carol.heard().len(), 1, "nothing of the lobby");
}

#[tokio::test]
async fn a_session_without_echo_hears_all_but_itself() {
    let spine = Spine::start().await;
    let (_pool, link, _) = spine.link(spine.params("shield-a")).await;
    let (quiet, other) = (Ear::new(), Ear::new());
    link.join(&room("lobby"), quiet.member(false))
        .await
        .unwrap();
    other.join(&link, "lobby").await;
    quiet.publish(&link, "lobby", "mine").await.unwrap();
    other.publish(&link, "lobby", "yours").await.unwrap();
    other.hears_texts("lobby", 2).await;
    assert_eq!(quiet.texts("lobby"), ["yours"]);
    link.leave(&room("lobby"), quiet.session);
    other.publish(&link, "lobby", "later").await.unwrap();
    other.hears_texts("lobby", 3).await;
    assert_eq!(quiet.texts("lobby"), ["yours"]);
}

#[tokio::test]
async fn joined_is_told_before_the_first_message() {
    let spine = Spine::start().await;
    let (_pool, link, _) = spine.link(spine.params("shield-a")).await;
    let flood = Ear::new();
    flood.join(&link, "lobby").await;
    let publisher = {
        let (flood, link) = (flood.clone(), link.clone());
        tokio::spawn(async move {
            for n in 0.. {
                flood.publish(&link, "lobby", &n.to_string()).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    for _ in 0..50 {
        let ear = Ear::new();
        let joined = envelope::joined("lobby", 1, v1::Joined::default());
        let joined = Frame::envelope(&joined);
        let lobby = room("lobby");
        link.join_announced(&lobby, ear.member(true), joined)
            .await
            .unwrap();
        ear.hears_texts("lobby", 1).await;
        assert_eq!(ear.heard()[0], Heard::Joined);
        link.leave(&lobby, ear.session);
    }
    publisher.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_share_barriers() {
    let spine = Spine::start().await;
    let (_pool, link, _) = spine.link(spine.params("shield-a")).await;
    let ear = Ear::new();
    ear.join(&link, "lobby").await;
    let client = link.shared().publisher.client().unwrap();
    let before = client.statistics().out_messages.load(Ordering::Relaxed);
    const COUNT: u64 = 2_000;
    for n in 1..=COUNT {
        ear.publish_acked(&link, "lobby", &n.to_string(), n)
            .await
            .unwrap();
    }
    assert_eq!(ear.all_answered().await as u64, COUNT);
    let sent = client.statistics().out_messages.load(Ordering::Relaxed) - before;
    assert!(
        sent < COUNT + COUNT / 2,
        "{} barriers for {COUNT} ACKs",
        sent - COUNT
    );
}

#[tokio::test]
async fn rooms_are_limited_before_the_server_would_drop_them() {
    let spine = Spine::start().await;
    let params = SpineParams {
        max_rooms: 2,
        linger: Duration::from_secs(60),
        ..spine.params("shield-a")
    };
    let (_pool, link, _) = spine.link(params).await;
    let ear = Ear::new();
    ear.join(&link, "a").await;
    ear.join(&link, "b").await;
    let third = room("c");
    let refused = link.join(&third, ear.member(true)).await;
    assert_eq!(refused, Err(ErrorCode::RoomLimit));
    link.leave(&room("a"), ear.session);
    // Its subscription lingers, and yet there is room at once.
    ear.join(&link, "c").await;
    ear.publish(&link, "c", "here").await.unwrap();
    ear.hears_texts("c", 1).await;
    assert_eq!(link.rooms(), 2);
}

#[tokio::test]
async fn a_message_over_the_accounts_limit_is_refused_and_harms_nobody() {
    let spine = Spine::start().await;
    let (_pool, link, _) = spine.link(spine.params("shield-a")).await;
    let ear = Ear::new();
    ear.join(&link, "lobby").await;
    let limit = spine.params("x").max_message_bytes;
    let lobby = room("lobby");
    let frame = |text: &str| message(&lobby, ear.session, text);
    let overhead = frame("").len() + 4; // a longer length takes more bytes
    let header = "NATS/1.0\r\nArqon-Origin: 0123456789abcdef 1 0\r\n\r\n".len();
    let largest = limit - header - overhead;
    let refused = link
        .publish(
            &lobby,
            frame(&"x".repeat(limit)),
            Stamp::default(),
            &mut None,
        )
        .await;
    assert_eq!(refused, Err(ErrorCode::PayloadTooLarge));
    ear.publish(&link, "lobby", &"x".repeat(largest))
        .await
        .unwrap();
    ear.hears_texts("lobby", 1).await;
    assert_eq!((ear.texts("lobby")[0].len(), ear.gaps()), (largest, vec![]));
}

#[tokio::test]
async fn malformed_frames_are_dropped_and_counted() {
    let spine = Spine::start().await;
    let (_pool, link, metrics) = spine.link(spine.params("shield-a")).await;
    let ear = Ear::new();
    ear.join(&link, "lobby").await;
    let user = spine
        .admin
        .creds(&spine.tenant.id, true, PATIENCE)
        .await
        .unwrap();
    let options = TenantOptions::default();
    let raw = connect_user(&[spine.server.url()], user, "debug", &options)
        .await
        .unwrap();
    let subject = room_subject(&spine.tenant.id, &room("lobby"));
    let origin = |seq: u64| {
        let mut headers = HeaderMap::new();
        headers.insert(headers::NATS_ORIGIN, format!("00000000000000ff {seq}"));
        headers
    };
    let good = message(&room("lobby"), ear.session, "good");
    let wrong_room = message(&room("kitchen"), ear.session, "elsewhere");
    let wrong_kind =
        prost::Message::encode_to_vec(&envelope::joined("lobby", 0, v1::Joined::default()));
    let raw = &raw.client;
    raw.publish(subject.clone(), good.clone()).await.unwrap(); // no origin
    for (seq, payload) in [
        (1, Bytes::from_static(b"\xff\xff")),
        (2, wrong_room),
        (3, wrong_kind.into()),
        (4, good),
    ] {
        raw.publish_with_headers(subject.clone(), origin(seq), payload)
            .await
            .unwrap();
    }
    ear.hears_texts("lobby", 1).await;
    assert_eq!(ear.heard(), [Heard::Message("lobby".into(), "good".into())]);
    assert_eq!(metrics.malformed_spine_frames.get(), 4);
}

/// The account lets its users subscribe below its own tenant's name only, so a
/// link of a wrong name is refused by the server itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_the_server_refuses_fails_the_join() {
    let spine = Spine::start().await;
    let impostor = Arc::new(Tenant {
        id: TenantId::parse("other").unwrap(),
        record: spine.tenant.record.clone(),
    });
    let pool = SpinePool::new(
        spine.params("shield-a"),
        crate::quota::testing::quotas(),
        &Metrics::default(),
    )
    .unwrap();
    let link = pool.link(&impostor, None).unwrap();
    let ear = Ear::new();
    for name in ["lobby", "kitchen", "lobby"] {
        let refused = link.join(&room(name), ear.member(true)).await;
        assert_eq!(refused, Err(ErrorCode::JoinRefused));
    }
    assert_eq!((link.rooms(), ear.heard().len()), (0, 0));
    assert_eq!(link.state(), LinkState::Up);
}
