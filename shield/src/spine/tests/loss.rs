//! What may be lost is declared, and what is not proven is not acknowledged.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arqon_proto::{codes::ErrorCode, v1::GapReason};
use arqon_spine::connect::{TenantOptions, connect_user};
use futures_util::StreamExt;
use prost::Message as _;

use super::super::{testing::*, *};

const KILLS: usize = 12;

/// SIGKILL between publish and acknowledgement, again and again: whatever was
/// acknowledged had reached the server, for someone has heard it from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_server_never_yields_a_false_ack() {
    let mut spine = Spine::start().await;
    let (_pool, link, metrics) = spine.link(spine.params("shield-a")).await;
    let ears: Vec<_> = (0..3).map(|_| Ear::new()).collect();
    for ear in &ears {
        ear.join(&link, "lobby").await;
    }
    let mut observed: HashSet<String> = HashSet::new();
    let mut reference = 0_u64;
    let mut answered = (0, 0);
    for round in 0..KILLS {
        let user = spine.observer();
        let options = TenantOptions::default();
        let raw = connect_user(&[spine.server.url()], user, "observer", &options)
            .await
            .unwrap();
        let mut inbox = raw.client.subscribe("acme.lobby").await.unwrap();
        raw.client.flush().await.unwrap();
        let observer = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(message) = inbox.next().await {
                let envelope = arqon_proto::v1::Envelope::decode(message.payload).unwrap();
                seen.push(String::from_utf8(envelope.payload.to_vec()).unwrap());
            }
            seen
        });

        let stop = Arc::new(AtomicBool::new(false));
        let publishers: Vec<_> = ears
            .iter()
            .enumerate()
            .map(|(n, ear)| {
                let (ear, link, stop) = (ear.clone(), link.clone(), stop.clone());
                let mut reference = reference + 1_000_000 * n as u64;
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        reference += 1;
                        let text = reference.to_string();
                        let published = ear.publish_acked(&link, "lobby", &text, reference).await;
                        assert!(matches!(
                            published,
                            Ok(()) | Err(ErrorCode::SpineUnavailable)
                        ));
                        if published.is_err() || reference.is_multiple_of(16) {
                            tokio::time::sleep(Duration::from_micros(300)).await;
                        }
                    }
                })
            })
            .collect();
        reference += 10_000_000;
        tokio::time::sleep(Duration::from_millis(20 + 7 * round as u64)).await;
        spine.server.kill().unwrap();
        state(&link, LinkState::Down).await;
        stop.store(true, Ordering::Relaxed);
        for publisher in publishers {
            publisher.await.unwrap();
        }
        for ear in &ears {
            ear.all_answered().await;
        }
        observed.extend(
            tokio::time::timeout(PATIENCE, observer)
                .await
                .unwrap()
                .unwrap(),
        );
        spine.server.restart().unwrap();
        up(&link).await;
    }
    // What the room itself heard came from the server, too.
    observed.extend(ears[0].texts("lobby"));
    for ear in &ears {
        for heard in ear.heard() {
            match heard {
                Heard::Ack(reference) => {
                    answered.0 += 1;
                    assert!(
                        observed.contains(&reference.to_string()),
                        "false ACK of {reference}"
                    );
                }
                Heard::Unknown(_) => answered.1 += 1,
                _ => {}
            }
        }
        let gap = Heard::Gap("lobby".into(), GapReason::SpineReconnected, None);
        let told = ear.gaps().into_iter().filter(|heard| *heard == gap).count();
        assert_eq!(told, KILLS, "each loss was told");
        let texts = ear.texts("lobby");
        assert!(
            counts(&texts).values().all(|count| *count == 1),
            "nothing twice"
        );
    }
    assert!(
        answered.0 > 0 && answered.1 > 0,
        "{answered:?} proves nothing"
    );
    assert_eq!(metrics.spine_reconnects.get() as usize, KILLS);
}

/// A server that is stopped dead takes bytes and does nothing with them.
#[tokio::test]
async fn silence_is_never_taken_for_an_acknowledgement() {
    let mut spine = Spine::start().await;
    let params = SpineParams {
        ack_timeout: Duration::from_millis(200),
        ..spine.params("shield-a")
    };
    let (_pool, link, _) = spine.link(params).await;
    let ear = Ear::new();
    ear.publish_acked(&link, "lobby", "before", 1)
        .await
        .unwrap();
    ear.hears(&Heard::Ack(1)).await;
    spine.server.pause().unwrap();
    // The signal is on its way when `pause` returns; each thread stops by itself.
    let tasks = format!("/proc/{}/task", spine.server.pid().unwrap());
    let stopped = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    };
    until("every thread of the server is stopped", || {
        let mut tasks = std::fs::read_dir(&tasks).unwrap();
        tasks.all(|task| stopped(task.unwrap()))
    })
    .await;
    ear.publish_acked(&link, "lobby", "silent", 2)
        .await
        .unwrap();
    ear.hears(&Heard::Unknown(2)).await;
    ear.publish_acked(&link, "lobby", "killed", 3)
        .await
        .unwrap();
    spine.server.kill().unwrap();
    ear.hears(&Heard::Unknown(3)).await;
    assert_eq!(ear.all_answered().await, 1);
    assert_eq!(
        ear.heard(),
        [Heard::Ack(1), Heard::Unknown(2), Heard::Unknown(3)]
    );
}

#[tokio::test]
async fn a_lost_connection_refuses_at_once_and_comes_back_with_a_gap() {
    let mut spine = Spine::start().await;
    let (_pool, link, _) = spine.link(spine.params("shield-a")).await;
    let ear = Ear::new();
    ear.join(&link, "lobby").await;
    ear.publish(&link, "lobby", "before").await.unwrap();
    ear.hears_texts("lobby", 1).await;
    spine.server.kill().unwrap();
    state(&link, LinkState::Down).await;
    let refused = ear.publish(&link, "lobby", "never").await;
    assert_eq!(refused, Err(ErrorCode::SpineUnavailable));
    spine.server.restart().unwrap();
    up(&link).await;
    ear.publish(&link, "lobby", "after").await.unwrap();
    ear.hears_texts("lobby", 2).await;
    assert_eq!(
        ear.heard(),
        [
            Heard::Message("lobby".into(), "before".into()),
            Heard::Gap("lobby".into(), GapReason::SpineReconnected, None),
            Heard::Message("lobby".into(), "after".into()),
        ]
    );
}

/// What another Shield published and lost shows by its beacon at the latest.
#[tokio::test]
async fn a_beacon_declares_what_was_lost_at_the_end() {
    let spine = Spine::start().await;
    let short = |node| SpineParams {
        beacon_after: Duration::from_millis(100),
        ..spine.params(node)
    };
    let (_pool_a, link_a, _) = spine.link(short("shield-a")).await;
    let (_pool_b, link_b, _) = spine.link(short("shield-b")).await;
    let ear = Ear::new();
    ear.join(&link_b, "lobby").await;
    ear.publish(&link_a, "lobby", "one").await.unwrap();
    ear.hears_texts("lobby", 1).await;
    // Only this link's view of the room is made to miss the next two.
    let lobby = link_b.shared().rooms.get(&room("lobby")).unwrap();
    lobby.skip_next(2);
    ear.publish(&link_a, "lobby", "two").await.unwrap();
    ear.publish(&link_a, "lobby", "three").await.unwrap();
    ear.hears(&Heard::Gap("lobby".into(), GapReason::Sequence, Some(2)))
        .await;
    ear.publish(&link_a, "lobby", "four").await.unwrap();
    ear.hears_texts("lobby", 2).await;
    assert_eq!(
        (ear.texts("lobby"), ear.gaps().len()),
        (vec!["one".into(), "four".into()], 1)
    );
}

/// A pump that cannot keep up loses messages, and says so, exactly.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_overloaded_pump_declares_what_it_lost() {
    let spine = Spine::start().await;
    let params = SpineParams {
        pump_capacity: 64,
        ..spine.params("shield-slow")
    };
    let (_slow_pool, slow, metrics) = spine.link(params).await;
    let (_pool, link, _) = spine.link(spine.params("shield-a")).await;
    let ear = Ear::new();
    ear.join(&slow, "lobby").await;
    ear.publish(&link, "lobby", "0").await.unwrap();
    ear.hears_texts("lobby", 1).await;

    let lobby = slow.shared().rooms.get(&room("lobby")).unwrap();
    let (held, is_held) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let holder = std::thread::spawn(move || {
        let counters = counters::Counters::new(&arqon_telemetry::Metrics::default());
        let _delivery = lobby.deliver(&counters);
        held.send(()).unwrap();
        let _ = released.recv();
    });
    is_held.await.unwrap();
    const COUNT: usize = 5_000;
    for n in 1..=COUNT {
        ear.publish(&link, "lobby", &n.to_string()).await.unwrap();
    }
    until("the client drops messages", || {
        metrics.spine_slow_consumer.get() > 0
    })
    .await;
    release.send(()).unwrap();
    holder.join().unwrap();

    let mut extra = COUNT;
    let overloaded = Heard::Gap("lobby".into(), GapReason::ShieldOverloaded, None);
    ear.hears(&overloaded).await;
    // Further messages show how far the loss went.
    let accounted = || {
        let missed: u64 = ear
            .gaps()
            .iter()
            .map(|gap| match gap {
                Heard::Gap(_, _, missed) => missed.unwrap_or(0),
                _ => 0,
            })
            .sum();
        ear.texts("lobby").len() + missed as usize
    };
    until("the last is heard", || ear.texts("lobby").len() > 1).await;
    for _ in 0..100 {
        extra += 1;
        ear.publish(&link, "lobby", &extra.to_string())
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until("the last is heard", || {
        ear.texts("lobby").last() == Some(&extra.to_string())
    })
    .await;
    let numbers: Vec<usize> = ear
        .texts("lobby")
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    assert!(
        numbers.is_sorted_by(|a, b| a < b),
        "in order, nothing twice"
    );
    assert!(numbers.len() < extra + 1, "something was lost");
    // The overload's own GAP says no number, so at most that much is uncounted.
    assert!(accounted() <= extra + 1);
}
