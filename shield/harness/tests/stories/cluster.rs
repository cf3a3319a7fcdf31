//! More than one NATS server: one is lost, or two lose each other without anybody being disconnected.

use arqon_harness::{Client, Spine, eventually};
use arqon_proto::codes::ErrorCode;
use arqon_proto::v1::{GapReason, Opcode, envelope::Body};

use crate::lost_spine::{outcomes, until_acknowledged};

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_server_of_a_cluster_costs_a_gap_and_no_session() {
    let mut spine = Spine::cluster().await;
    let acme = spine.tenant("acme").await;
    // Each begins at another server and knows all.
    let (one, two, three) = (spine.url_of(0), spine.url_of(1), spine.url_of(2));
    let via = |shield: &str, first: &str| {
        let servers = [first, &one, &two, &three].map(|url| format!("{url:?}"));
        let servers = servers.join(", ");
        spine
            .shield()
            .id(shield)
            .with(&format!("spine.servers = [{servers}]"))
    };
    let (left, right) = (via("shield-1", &one), via("shield-2", &two));
    let (left, right) = (left.start().await, right.start().await);
    let mut alice = left.connect(&acme.token().sign()).await;
    let mut bob = right.connect(&acme.token().user("bob").sign()).await;
    alice.join("lobby").await;
    bob.join("lobby").await;
    for server in 0..3 {
        hear_each_other(&mut alice, &mut bob, "before").await;
        spine.kill_server(server);
        hear_each_other(&mut alice, &mut bob, "with one server less").await;
        spine.restart_server(server);
    }
    hear_each_other(&mut alice, &mut bob, "after").await;
    let mut reconnects = 0.0;
    for shield in [&left, &right] {
        assert_eq!(shield.metric("sessions", "").await, 1.0);
        reconnects += shield.metric("spine_reconnects_total", "").await;
    }
    assert!(
        reconnects >= 1.0,
        "somebody was on a server that was killed"
    );
}

/// Publishes until both hear the same new message. What comes meanwhile is a
/// message, a GAP that says why, or a refusal.
async fn hear_each_other(alice: &mut Client, bob: &mut Client, text: &str) {
    let number = std::sync::atomic::AtomicUsize::new(0);
    eventually!({
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let text = format!("{text} {number}");
        let reference = alice.publish_with("lobby", &text, &[]).await;
        let outcome = outcomes(alice, &[reference]).await;
        outcome[&reference].is_ok() && hears_within_a_second(bob, &text).await
    });
}

async fn hears_within_a_second(client: &mut Client, text: &str) -> bool {
    let wait = async {
        loop {
            let frame = client.recv().await.expect("the session lives");
            let frame = frame.expect("the session lives");
            match &frame.body {
                Some(Body::Message(_)) if arqon_harness::text_of(&frame) == text => return,
                Some(Body::Message(_)) => {}
                Some(Body::Gap(gap)) => assert!(
                    [GapReason::SpineReconnected, GapReason::Sequence].contains(&gap.reason())
                ),
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(1), wait)
        .await
        .is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broken_route_loses_is_declared_with_its_number() {
    let (spine, route) = Spine::pair_over_proxy().await;
    let acme = spine.tenant("acme").await;
    let near = spine.shield().via(&spine.url_of(0)).start().await;
    let far = spine.shield().id("shield-2").via(&spine.url_of(1));
    let far = far.start().await;
    let mut alice = near.connect(&acme.token().sign()).await;
    let mut bob = far.connect(&acme.token().user("bob").sign()).await;
    alice.join("lobby").await;
    bob.join("lobby").await;
    let mut published = 0_u64;
    let (mut heard, mut missed) = (0_u64, 0_u64);
    for _ in 0..3 {
        // Interest travels between the servers for a moment.
        let mut whole = 0;
        while whole < 5 {
            publish(&mut alice, &mut published).await;
            match next(&mut bob, &mut heard, &mut missed).await {
                true => whole += 1,
                false => whole = 0,
            }
        }
        route.cut().await;
        route.refuse(true);
        for _ in 0..20 {
            // The server that alice's Shield is connected to has it: nobody was disconnected.
            publish(&mut alice, &mut published).await;
        }
        route.refuse(false);
    }
    eventually!({
        publish(&mut alice, &mut published).await;
        next(&mut bob, &mut heard, &mut missed).await && heard + missed == published
    });
    assert!(missed >= 60, "{missed} of {published}");
    for shield in [&near, &far] {
        assert_eq!(shield.metric("spine_reconnects_total", "").await, 0.0);
    }
    assert!(far.metric("gaps_total", "sequence_jump").await >= 3.0);
}

async fn publish(alice: &mut Client, published: &mut u64) {
    let reference = alice
        .publish_with("lobby", published.to_string(), &[])
        .await;
    let outcome = outcomes(alice, &[reference]).await;
    assert!(outcome[&reference].is_ok(), "{outcome:?}");
    *published += 1;
}

/// Takes what comes within a while; whether a message did. All before it was
/// heard or declared as lost.
async fn next(bob: &mut Client, heard: &mut u64, missed: &mut u64) -> bool {
    let wait = async {
        loop {
            let frame = bob.recv().await.expect("the session lives");
            let frame = frame.expect("the session lives");
            match &frame.body {
                Some(Body::Message(_)) => {
                    let number: u64 = arqon_harness::text_of(&frame).parse().expect("a number");
                    if *heard + *missed == 0 {
                        // Interest was still on its way to the other server.
                        *missed = number;
                    }
                    assert_eq!(
                        number,
                        *heard + *missed,
                        "every hole is told before what follows"
                    );
                    *heard += 1;
                    return;
                }
                Some(Body::Gap(gap)) => {
                    assert_eq!(gap.reason(), GapReason::Sequence);
                    *missed += gap.missed.expect("the number is known");
                }
                other => panic!("{other:?}"),
            }
        }
    };
    let patience = std::time::Duration::from_millis(500);
    tokio::time::timeout(patience, wait).await.is_ok()
}

#[tokio::test]
async fn a_server_that_lost_its_accounts_serves_again_after_a_reassert() {
    let mut spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    alice.join("lobby").await;
    spine.kill();
    let accounts = spine.folder().join("nats").join("store").join("accounts");
    assert!(accounts.is_dir());
    std::fs::remove_dir_all(&accounts).unwrap();
    spine.restart();
    let reference = alice.publish_with("lobby", "lost", &[]).await;
    let outcome = outcomes(&mut alice, &[reference]).await;
    assert_eq!(
        outcome[&reference],
        Err(ErrorCode::SpineUnavailable.name().to_owned())
    );
    alice.ping().await;
    let done = spine.admin().await.reassert().await.unwrap();
    assert_eq!(done.pushed, ["acme"]);
    let gap = alice.expect(Opcode::Gap).await;
    assert_eq!(gap.room, "lobby");
    until_acknowledged(&mut alice, "lobby").await;
}
