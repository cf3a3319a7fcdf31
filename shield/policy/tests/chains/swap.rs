//! Changes while messages are on their way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use arqon_policy::{Binding, Decision};

use crate::rig::{Rig, Who, at_once, class, reason, until};

/// Each message is judged by a whole chain that was in force while it was on
/// its way: never by none, never by a mix.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_message_is_judged_by_the_old_or_the_new() {
    let rig = Arc::new(Rig::new());
    // Of each pair, the first changes the payload, the second tells it.
    let chain = |rig: &Rig, number: u64| {
        let change = Binding {
            revision: number + 1,
            ..rig.binding("platform.a", &format!("R{number}"))
        };
        let tell = Binding {
            revision: number + 1,
            ..rig.binding("tenant.acme.b", "E")
        };
        [change, tell]
    };
    rig.set(chain(&rig, 0));
    let (begun, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let over = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..6)
        .map(|_| {
            let (rig, over) = (Arc::clone(&rig), Arc::clone(&over));
            let (begun, done) = (Arc::clone(&begun), Arc::clone(&done));
            tokio::spawn(async move {
                let who = Who::new("acme", "ann");
                let mut sent = 0_u64;
                while !over.load(SeqCst) {
                    let oldest = done.load(SeqCst);
                    let told = reason(rig.send(&who, "as sent").await);
                    let newest = begun.load(SeqCst);
                    let by: u64 = told.parse().expect("a chain's number");
                    assert!((oldest..=newest).contains(&by), "{oldest} {by} {newest}");
                    sent += 1;
                    tokio::task::yield_now().await;
                }
                sent
            })
        })
        .collect();
    for number in 1..=200 {
        begun.store(number, SeqCst);
        rig.set(chain(&rig, number));
        done.store(number, SeqCst);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    over.store(true, SeqCst);
    let mut sent = 0;
    for sender in senders {
        sent += sender.await.expect("no panic");
    }
    let stats = rig.stats("tenant.acme.b");
    assert_eq!(stats.counts.blocked, sent, "counted over all revisions");
    assert!(sent >= 200, "{sent}");
    // What is bound no more lets go of its instances.
    let kept = |rig: &Rig| -> usize { rig.policies.stats().iter().map(|s| s.instances).sum() };
    until(|| rig.host.instances() == kept(&rig)).await;
}

#[tokio::test]
async fn what_stays_the_same_is_kept() {
    let rig = Rig::new();
    let ann = Who::new("acme", "ann");
    let binding = rig.binding("platform.a", "C seen");
    rig.set([binding.clone()]);
    assert_eq!(rig.send(&ann, "x").await, Decision::Pass);
    rig.set([binding.clone(), rig.binding("tenant.acme.b", "A")]);
    assert_eq!(reason(rig.send(&ann, "x").await), "C seen", "its instance");
    let renewed = Binding {
        revision: 2,
        ..binding
    };
    rig.set([renewed]);
    assert_eq!(rig.send(&ann, "x").await, Decision::Pass, "a new instance");
    let counts = rig.stats("platform.a").counts;
    assert_eq!((counts.allowed, counts.blocked), (2, 1));
    until(|| rig.host.instances() == 1).await;
}

#[tokio::test]
async fn a_quarantine_outlives_changes_of_others() {
    let rig = Rig::new();
    let binding = rig.binding("platform.a", "F");
    rig.set([binding.clone()]);
    let ann = Who::new("acme", "ann");
    assert_eq!(class(rig.send(&ann, "x").await), "configure");
    assert_eq!(rig.policies.quarantined(), 1);
    rig.set([binding, rig.binding("platform.b", "A")]);
    assert_eq!(rig.policies.quarantined(), 1);
    rig.set([rig.binding("platform.b", "A")]);
    assert_eq!(rig.policies.quarantined(), 0);
    assert_eq!(rig.send(&ann, "x").await, Decision::Pass);
}

/// A tenant that is silent after a change must not keep what was bound before.
#[tokio::test]
async fn old_bindings_are_let_go_of() {
    let rig = Rig::new();
    for round in 0..3 {
        for tenant in 0..20 {
            let who = Who::new(&format!("t{tenant}"), "ann");
            rig.set([Binding {
                revision: round * 20 + tenant + 1,
                ..rig.binding("platform.a", "A")
            }]);
            assert_eq!(rig.send(&who, "x").await, Decision::Pass);
        }
    }
    let last = Arc::new(Binding {
        revision: 100,
        ..rig.binding("platform.a", "A")
    });
    rig.policies.set(vec![Arc::clone(&last)]);
    assert_eq!(rig.send(&Who::new("t0", "ann"), "x").await, Decision::Pass);
    rig.set([]);
    until(|| rig.host.instances() == 0).await;
    until(|| Arc::strong_count(&last) == 1).await;
}

/// A thousand bindings of one tenant, each for a room of its own.
#[tokio::test]
async fn a_thousand_bindings() {
    let rig = Rig::new();
    let many = (0..1000).map(|number| {
        let rooms = format!("room-{number}");
        let binding = rig.binding(&format!("tenant.acme.b{number}"), "E");
        crate::rig::in_rooms(binding, &rooms)
    });
    let mut bindings: Vec<_> = many.collect();
    bindings.push(rig.binding("platform.a", "A"));
    rig.set(bindings);
    let ann = Who::new("acme", "ann");
    for number in [0, 1, 500, 999] {
        let told = rig.send_to(&ann, &format!("room-{number}"), "here").await.0;
        assert_eq!(reason(told), "here");
        assert_eq!(
            rig.stats(&format!("tenant.acme.b{number}")).counts.blocked,
            1
        );
    }
    assert_eq!(rig.send_to(&ann, "room-1000", "x").await.0, Decision::Pass);
    assert_eq!(rig.policies.stats().len(), 1001);
    for _ in 0..500 {
        assert_eq!(
            at_once(rig.send_to(&ann, "room-1000", "x")).map(|told| told.0),
            Some(Decision::Pass)
        );
    }
}
