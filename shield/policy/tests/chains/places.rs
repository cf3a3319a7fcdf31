//! Instances: few, kept, replaced, and never a reason to block.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arqon_policy::{Binding, Decision, Isolation, Limits, PoliciesOptions};
use arqon_proto::names::RoomId;

use crate::rig::{CAPS, Rig, Who, at_once, blocked, until};

/// 2,000 tenants, each with two policies of the platform and one of its own,
/// on 24 slots, from four threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tenants_share_few_slots() {
    const TENANTS: usize = 2_000;
    let options = PoliciesOptions {
        tenant_cpu: 100.0,
        judge_threads: 4,
        ..PoliciesOptions::default()
    };
    let rig = Arc::new(Rig::with(24, &options));
    let mut bindings = vec![
        rig.binding("platform.a", "A"),
        rig.binding("platform.b", "A"),
    ];
    for tenant in 0..TENANTS {
        let mut own = rig.binding(&format!("tenant.t{tenant}.own"), "A");
        if tenant % 10 == 0 {
            own.isolation = Isolation::Message;
        }
        bindings.push(own);
    }
    rig.set(bindings);
    let passed = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..TENANTS)
        .map(|tenant| {
            let (rig, passed) = (Arc::clone(&rig), Arc::clone(&passed));
            tokio::spawn(async move {
                let who = Who::new(&format!("t{tenant}"), "ann");
                for _ in 0..3 {
                    let decision = rig.send(&who, "x").await;
                    assert_eq!(decision, Decision::Pass, "tenant {tenant}");
                    passed.fetch_add(1, Relaxed);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(passed.load(Relaxed), 3 * TENANTS as u64);
    assert!(rig.host.instances() <= 24);
    let faults: u64 = rig
        .policies
        .stats()
        .iter()
        .map(|stats| stats.counts.faults + stats.counts.unavailable)
        .sum();
    assert_eq!(faults, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_sessions_of_one_tenant_share_its_instances() {
    let options = PoliciesOptions {
        tenant_cpu: 100.0,
        judge_threads: 4,
        ..PoliciesOptions::default()
    };
    let rig = Arc::new(Rig::with(64, &options));
    rig.set([rig.binding("platform.a", "P")]);
    let tasks: Vec<_> = (0..500)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move {
                let who = Who::new("acme", "ann");
                for _ in 0..20 {
                    assert_eq!(rig.send(&who, "A").await, Decision::Pass);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(rig.stats("platform.a").counts.allowed, 10_000);
    let instances = rig.stats("platform.a").instances;
    // One for each thread, one that came too late, and a successor for each.
    assert!(instances <= 10, "{instances} for four threads");
}

#[tokio::test]
async fn with_an_instance_the_answer_is_there_at_once() {
    let rig = Rig::new();
    rig.set([
        rig.binding("platform.a", "A"),
        rig.binding("tenant.acme.b", "A"),
    ]);
    let ann = Who::new("acme", "ann");
    assert_eq!(at_once(rig.send(&ann, "x")), None, "made elsewhere");
    assert_eq!(rig.send(&ann, "x").await, Decision::Pass);
    for _ in 0..100 {
        assert_eq!(at_once(rig.send(&ann, "x")), Some(Decision::Pass));
    }
}

#[tokio::test]
async fn a_successor_is_there_before_it_is_needed() {
    let rig = Rig::new();
    let recycled = Binding {
        limits: Limits {
            recycle_after: 16,
            wall: Duration::from_secs(10),
            ..Limits::default()
        },
        ..rig.binding("platform.a", "A")
    };
    rig.set([recycled]);
    let ann = Who::new("acme", "ann");
    for round in 0..10 {
        // 14 runs, and the spare is asked for; it needs no message to come.
        let first = if round == 0 { 14 } else { 14 - 2 };
        for _ in 0..first {
            assert_eq!(rig.send(&ann, "x").await, Decision::Pass);
        }
        until(|| rig.stats("platform.a").instances == 2).await;
        for n in 0..4 {
            let decision = at_once(rig.send(&ann, "x"));
            assert_eq!(
                decision,
                Some(Decision::Pass),
                "message {n} of round {round}"
            );
        }
        assert_eq!(rig.stats("platform.a").instances, 1, "the old one is gone");
    }
}

#[tokio::test]
async fn who_leaves_while_it_waits_takes_nothing_along() {
    let options = PoliciesOptions {
        tenant_cpu: 100.0,
        nursery_threads: 1,
        judge_threads: 2,
    };
    let rig = Rig::with(8, &options);
    rig.set([rig.binding("platform.a", "A")]);
    let room = RoomId::parse("lobby").expect("a room");
    for round in 0..200 {
        let who = Who::new(&format!("t{round}"), "ann");
        let mut draft = arqon_policy::Draft::default();
        let judging = rig
            .policies
            .judge(who.subject(&room), &mut draft, &who.sender, &CAPS);
        let short = Duration::from_micros(round * 5);
        // Both ends of the race are fine: an answer, or none.
        if let Ok(decision) = tokio::time::timeout(short, judging).await {
            assert_eq!(decision, Decision::Pass);
        }
    }
    for tenant in 0..20 {
        let who = Who::new(&format!("u{tenant}"), "ann");
        assert_eq!(rig.send(&who, "A").await, Decision::Pass);
    }
    assert!(rig.host.instances() <= 8);
}

#[tokio::test]
async fn others_may_fill_the_host_for_a_while() {
    let options = PoliciesOptions {
        tenant_cpu: 100.0,
        nursery_threads: 1,
        judge_threads: 1,
    };
    let rig = Arc::new(Rig::with(8, &options));
    rig.set([rig.binding("platform.a", "A")]);
    let mut others = Vec::new();
    while let Ok(instance) = rig.module.start(b"A", &Limits::default()) {
        others.push(instance);
    }
    let waiting = {
        let rig = Arc::clone(&rig);
        tokio::spawn(async move { rig.send(&Who::new("acme", "ann"), "A").await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiting.is_finished());
    others.pop();
    assert_eq!(waiting.await.expect("no panic"), Decision::Pass);
}

#[tokio::test]
async fn the_last_one_puts_out_the_light() {
    let rig = Rig::new();
    rig.set([rig.binding("platform.a", "P")]);
    let ann = Who::new("acme", "ann");
    assert_eq!(rig.send(&ann, "A").await, Decision::Pass);
    assert_eq!(blocked(rig.send(&ann, "T").await).1, "trap");
    assert_eq!(rig.host.instances(), 0, "after a fault, none is kept");
    assert_eq!(rig.send(&ann, "A").await, Decision::Pass);
    assert_eq!(rig.host.instances(), 1);
    let Rig { host, policies, .. } = rig;
    drop(policies);
    until(|| host.instances() == 0).await;
}
