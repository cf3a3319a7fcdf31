//! Credentials change under load: nothing is lost, doubled or out of order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    super::{testing::*, *},
    life,
};

const ROTATIONS: usize = 200;
const ROOMS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_rotations_lose_nothing_while_one_connection_is_slow() {
    let spine = Spine::start().await;
    // Of any two connections one after the other, one is late by 8 ms each way.
    let late = |n: usize| Duration::from_millis(if n.is_multiple_of(2) { 0 } else { 8 });
    let proxy = Proxy::start(spine.server.url(), late).await;
    let params = |node| SpineParams {
        servers: vec![proxy.url()],
        ..spine.params(node)
    };
    let (pool_a, link_a, metrics) = spine.link(params("shield-a")).await;
    let (pool_b, link_b, _) = spine.link(params("shield-b")).await;

    // An ear per Shield and room; publishers on both Shields write to all rooms.
    let mut ears = Vec::new();
    for link in [&link_a, &link_b] {
        for n in 0..ROOMS {
            let ear = Ear::new();
            ear.join(link, &format!("room-{n}")).await;
            ears.push((n, ear));
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut publishers = Vec::new();
    for (shield, link) in [("a", &link_a), ("b", &link_b)] {
        for n in 0..ROOMS {
            let (link, stop) = (link.clone(), stop.clone());
            publishers.push(tokio::spawn(async move {
                let (ear, mut sent) = (Ear::new(), 0_u64);
                while !stop.load(Ordering::Relaxed) {
                    sent += 1;
                    let text = format!("{shield}{n} {sent}");
                    let name = format!("room-{}", (n as u64 + sent) % ROOMS as u64);
                    ear.publish_acked(&link, &name, &text, sent).await.unwrap();
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
                (format!("{shield}{n}"), sent, ear.all_answered().await)
            }));
        }
    }

    for rotation in 0..ROTATIONS {
        let pool = if rotation % 2 == 0 { &pool_a } else { &pool_b };
        assert_eq!(pool.rotate(None).await, 0, "rotation {rotation} failed");
    }
    stop.store(true, Ordering::Relaxed);

    let mut total = [0; ROOMS];
    let mut sent_by = Vec::new();
    for publisher in publishers {
        let (who, sent, acked) = publisher.await.unwrap();
        assert_eq!(acked as u64, sent, "no acknowledgement of {who} was lost");
        let n: u64 = who[1..].parse().unwrap();
        for number in 1..=sent {
            total[((n + number) % ROOMS as u64) as usize] += 1;
        }
        sent_by.push((who, sent));
    }
    for (n, ear) in &ears {
        let name = format!("room-{n}");
        ear.hears_texts(&name, total[*n]).await;
        assert_eq!(ear.gaps(), [], "no gap in {name}");
        let texts = ear.texts(&name);
        assert_eq!(texts.len(), total[*n], "nothing twice in {name}");
        for (who, sent) in &sent_by {
            let numbers: Vec<u64> = texts
                .iter()
                .filter_map(|text| text.strip_prefix(who.as_str())?.trim().parse().ok())
                .collect();
            let home: u64 = who[1..].parse().unwrap();
            let expected: Vec<u64> = (1..=*sent)
                .filter(|number| (home + number) % ROOMS as u64 == *n as u64)
                .collect();
            assert_eq!(numbers, expected, "order of {who} in {name}");
        }
    }
    let rotated = metrics
        .rotations
        .get_or_create(&arqon_telemetry::labels::Outcome::Ok)
        .get();
    assert_eq!(rotated as usize, ROTATIONS / 2);
    assert!(
        metrics.duplicates_dropped.get() > 0,
        "both connections were heard"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_and_leaves_during_rotations_find_live_rooms() {
    let spine = Spine::start().await;
    let params = SpineParams {
        linger: Duration::from_millis(40),
        ..spine.params("shield-a")
    };
    let (pool, link, _) = spine.link(params).await;
    let stop = Arc::new(AtomicBool::new(false));
    let guests: Vec<_> = (0..4)
        .map(|guest| {
            let (link, stop) = (link.clone(), stop.clone());
            tokio::spawn(async move {
                let ear = Ear::new();
                let mut visits = 0;
                while !stop.load(Ordering::Relaxed) {
                    visits += 1;
                    let name = format!("guest-{guest}-{}", visits % 3);
                    ear.join(&link, &name).await;
                    let text = visits.to_string();
                    ear.publish(&link, &name, &text).await.unwrap();
                    let heard = Heard::Message(name.clone(), text);
                    ear.hears(&heard).await;
                    link.leave(&room(&name), ear.session);
                }
                assert_eq!(ear.gaps(), []);
                visits
            })
        })
        .collect();
    for _ in 0..40 {
        assert_eq!(pool.rotate(None).await, 0);
    }
    stop.store(true, Ordering::Relaxed);
    for guest in guests {
        assert!(guest.await.unwrap() > 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_rotated_before_they_expire() {
    let spine = Spine::start().await;
    let params = SpineParams {
        user_ttl: Duration::from_secs(4),
        ..spine.params("shield-a")
    };
    let (_pool, link, metrics) = spine.link(params).await;
    let ear = Ear::new();
    ear.join(&link, "lobby").await;
    let ok = arqon_telemetry::labels::Outcome::Ok;
    let mut sent = 0;
    while metrics.rotations.get_or_create(&ok).get() < 3 {
        sent += 1;
        ear.publish(&link, "lobby", &sent.to_string())
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    ear.hears_texts("lobby", sent).await;
    let expected: Vec<_> = (1..=sent).map(|n| n.to_string()).collect();
    assert_eq!((ear.texts("lobby"), ear.gaps()), (expected, vec![]));
    assert_eq!(metrics.spine_reconnects.get(), 0);
}

/// The pool's key is replaced while messages flow: Shields switch when told to,
/// and only then the old key is withdrawn, so nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pools_key_is_replaced_without_a_loss() {
    let spine = Spine::start().await;
    let (pool, link, metrics) = spine.link(spine.params("shield-a")).await;
    let (_control, _tenants, _context) = life::control(&spine, &pool, &metrics).await;
    let ear = Ear::new();
    ear.join(&link, "lobby").await;
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = {
        let (ear, link, stop) = (ear.clone(), link.clone(), stop.clone());
        tokio::spawn(async move {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                sent += 1;
                let text = sent.to_string();
                ear.publish(&link, "lobby", &text).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            sent
        })
    };
    let old = pool.fleet_key();
    let main = arqon_proto::names::NodeId::parse("main").unwrap();
    let record = spine.admin.rotate_pool_key(&main, PATIENCE, |_| {}).await;
    let keys = record.unwrap().fleet_keys;
    assert_eq!(keys, [pool.fleet_key()]);
    assert_ne!(keys[0], old);
    stop.store(true, Ordering::Relaxed);
    let sent: usize = publisher.await.unwrap();
    ear.hears_texts("lobby", sent).await;
    let expected: Vec<_> = (1..=sent).map(|n| n.to_string()).collect();
    assert_eq!((ear.texts("lobby"), ear.gaps()), (expected, vec![]));
    assert_eq!(metrics.spine_reconnects.get(), 0);
}

/// A server that is about to stop is left before it cuts anyone off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_lame_duck_mode_is_left_in_order() {
    let spine = Spine::cluster(2).await;
    let params = SpineParams {
        servers: vec![spine.server.url(), spine.others[0].url()],
        ..spine.params("shield-a")
    };
    let (_pool, link, metrics) = spine.link(params).await;
    let ear = Ear::new();
    ear.join(&link, "lobby").await;
    let port = || link.shared().publisher.client().unwrap().server_info().port;
    let before = port();
    let all = [&spine.server, &spine.others[0]];
    let used = all
        .iter()
        .find(|server| server.params().listen.port() == before);
    used.unwrap().lame_duck().unwrap();
    until("another server is used", || port() != before).await;
    ear.publish_acked(&link, "lobby", "moved", 1).await.unwrap();
    ear.hears(&Heard::Ack(1)).await;
    ear.hears_texts("lobby", 1).await;
    assert_eq!(ear.gaps(), []);
    assert_eq!(metrics.spine_reconnects.get(), 0);
}
