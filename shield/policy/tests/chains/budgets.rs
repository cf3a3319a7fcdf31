//! Who suffers when a policy fails or costs: the one who makes it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arqon_policy::{Decision, FaultClass, PoliciesOptions};
use arqon_proto::codes::ErrorCode;

use crate::rig::{Rig, Who, blocked, class, shadow, until};

fn is_limited(decision: &Decision) -> bool {
    matches!(decision, Decision::Limited { retry_after } if !retry_after.is_zero())
}

#[tokio::test]
async fn one_who_traps_a_platform_policy_stands_alone() {
    let rig = Rig::new();
    rig.set([rig.binding("platform.a", "P")]);
    let mallory = Who::new("acme", "mallory");
    let (ann, bob) = (Who::new("acme", "ann"), Who::new("other", "bob"));
    let mut faults = 0;
    let mut limited = 0;
    for _ in 0..200 {
        match rig.send(&mallory, "T").await {
            decision if is_limited(&decision) => limited += 1,
            decision => {
                let want = (ErrorCode::PolicyFault, "trap", None);
                assert_eq!(blocked(decision), want);
                faults += 1;
            }
        }
        assert_eq!(rig.send(&ann, "A").await, Decision::Pass, "same tenant");
        assert_eq!(rig.send(&bob, "A").await, Decision::Pass, "another");
    }
    assert!(limited > 0, "ten faults, then a wait");
    assert_eq!(
        faults,
        rig.stats("platform.a").counts.faults,
        "limited: not run"
    );
    assert!(
        is_limited(&rig.send(&mallory, "A").await),
        "whatever it sends"
    );
    assert_eq!(rig.policies.quarantined(), 0);
    assert_eq!(rig.policies.limited(), (limited + 1, 0));
    // Another session of the same user has a budget of its own.
    let again = Who::new("acme", "mallory");
    assert_eq!(rig.send(&again, "A").await, Decision::Pass);
}

#[tokio::test]
async fn a_loop_ends_and_counts() {
    let rig = Rig::new();
    rig.set([rig.binding("platform.a", "P")]);
    let mallory = Who::new("acme", "mallory");
    assert_eq!(class(rig.send(&mallory, "L").await), "timeout");
    let counts = rig.stats("platform.a").counts;
    assert_eq!(counts.classes, [(FaultClass::Timeout, 1)]);
    assert!(counts.cost >= Duration::from_millis(1), "{counts:?}");
    assert_eq!(
        rig.send(&Who::new("acme", "ann"), "A").await,
        Decision::Pass
    );
}

#[tokio::test]
async fn what_fails_for_several_rests_and_is_tried_again() {
    let rig = Rig::new();
    rig.set([rig.binding("platform.a", "P")]);
    let senders = [
        Who::new("acme", "ann"),
        Who::new("acme", "bob"),
        Who::new("acme", "bob"),
    ];
    let mut sent = 0;
    'all: loop {
        for who in &senders {
            sent += 1;
            assert_eq!(class(rig.send(who, "T").await), "trap");
            if rig.policies.quarantined() == 1 {
                break 'all;
            }
        }
        assert!(sent < 20, "not quarantined");
    }
    assert_eq!(sent, 10);
    let counts = |rig: &Rig| rig.stats("platform.a").counts;
    let faults = counts(&rig).faults;
    let carol = Who::new("acme", "carol");
    let resting = (ErrorCode::PolicyUnavailable, "quarantined", None);
    let decision = rig.send(&carol, "A").await;
    assert_eq!(
        blocked(decision),
        resting,
        "it does not run, so even good ones are blocked"
    );
    assert_eq!(counts(&rig).faults, faults);
    let dave = Who::new("other", "dave");
    assert_eq!(rig.send(&dave, "A").await, Decision::Pass, "another tenant");
    assert_eq!(rig.stats("platform.a").quarantined, 1);

    // The first try fails, so another follows; that one succeeds.
    loop {
        match rig.send(&carol, "T").await {
            Decision::Blocked(block) if block.class == "quarantined" => {}
            decision => {
                assert_eq!(class(decision), "trap", "the try");
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(blocked(rig.send(&carol, "A").await), resting, "rests again");
    while rig.send(&carol, "A").await != Decision::Pass {
        assert_eq!(rig.policies.quarantined(), 1);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(rig.policies.quarantined(), 0);
    assert_eq!(counts(&rig).faults, faults + 1, "one try at a time");
    for who in &senders {
        assert_eq!(rig.send(who, "A").await, Decision::Pass);
    }
}

#[tokio::test]
async fn who_waits_when_it_goes_to_rest_is_not_run() {
    let rig = Arc::new(Rig::new());
    rig.set([rig.binding("platform.a", "P")]);
    let sending: Vec<_> = (0..200)
        .map(|number| {
            let rig = Arc::clone(&rig);
            let who = Who::new("acme", &format!("u{}", number % 50));
            tokio::spawn(async move { class(rig.send(&who, "T").await) })
        })
        .collect();
    let mut classes = BTreeMap::<_, usize>::new();
    for one in sending {
        *classes.entry(one.await.expect("no panic")).or_default() += 1;
    }
    assert!(classes["trap"] >= 10, "{classes:?}");
    assert!(classes["trap"] <= 30, "{classes:?}");
    assert_eq!(classes["trap"] + classes["quarantined"], 200);
}

#[tokio::test]
async fn what_refuses_its_configuration_blocks_until_another_comes() {
    for config in ["F no such word", "Z"] {
        let rig = Rig::new();
        rig.set([rig.binding("tenant.acme.a", config)]);
        let (ann, bob) = (Who::new("acme", "ann"), Who::new("other", "bob"));
        let first = blocked(rig.send(&ann, "x").await);
        assert_eq!(first, (ErrorCode::PolicyUnavailable, "configure", None));
        assert_eq!(
            class(rig.send(&ann, "x").await),
            "quarantined",
            "not each time"
        );
        assert_eq!(rig.send(&bob, "x").await, Decision::Pass);
        let mut next = rig.binding("tenant.acme.a", "A");
        next.revision = 2;
        rig.set([next]);
        assert_eq!(rig.send(&ann, "x").await, Decision::Pass, "at once");
        assert_eq!(rig.policies.quarantined(), 0);
        assert_eq!(rig.policies.limited(), (0, 0), "no sender's fault");
    }
}

#[tokio::test]
async fn a_tenant_pays_for_itself() {
    let options = PoliciesOptions {
        tenant_cpu: 0.002,
        ..PoliciesOptions::default()
    };
    let rig = Rig::with(32, &options);
    rig.set([rig.binding("platform.a", "P")]);
    let (ann, bob) = (Who::new("acme", "ann"), Who::new("other", "bob"));
    let spent = loop {
        let decision = rig.send(&ann, "A").await;
        if decision != Decision::Pass {
            break decision;
        }
    };
    assert!(is_limited(&spent), "{spent:?}");
    assert!(is_limited(&rig.send(&Who::new("acme", "carol"), "A").await));
    assert_eq!(rig.send(&bob, "A").await, Decision::Pass, "another tenant");
    let (senders, tenants) = rig.policies.limited();
    assert!(senders == 0 && tenants >= 2);
    let Decision::Limited { retry_after } = spent else {
        unreachable!("asserted above");
    };
    tokio::time::sleep(retry_after).await;
    while is_limited(&rig.send(&ann, "A").await) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_shadow_spends_a_budget_of_its_own() {
    let options = PoliciesOptions {
        tenant_cpu: 0.05,
        ..PoliciesOptions::default()
    };
    let rig = Rig::with(32, &options);
    rig.set([
        shadow(rig.binding("platform.a", "L")),
        rig.binding("platform.b", "A"),
    ]);
    let ann = Who::new("acme", "ann");
    for _ in 0..300 {
        assert_eq!(rig.send(&ann, "x").await, Decision::Pass);
    }
    let watched = rig.stats("platform.a").counts.faults;
    assert!(
        (10..300).contains(&watched),
        "{watched}: then it is skipped"
    );
    assert_eq!(rig.stats("platform.b").counts.allowed, 300);
}

#[tokio::test]
async fn a_flood_of_blocks_is_few_events() {
    let mut rig = Rig::new();
    rig.set([rig.binding("platform.a", "B malware")]);
    let floods = Who::new("acme", "floods");
    for _ in 0..3_000 {
        assert_eq!(class(rig.send(&floods, "malware").await), "verdict");
    }
    for _ in 0..1_000 {
        let one = Who::new("acme", "many");
        assert_eq!(class(rig.send(&one, "malware").await), "verdict");
    }
    let (mut told, mut lost) = (0, 0);
    let mut of_second = BTreeMap::<u64, usize>::new();
    let mut first = None;
    while told + lost < 4_000 {
        let batch = rig.audits.next().await;
        lost += batch.lost;
        for event in batch.events {
            told += u64::from(event.count);
            *of_second.entry(event.time_ms / 1000).or_default() += 1;
            first.get_or_insert(event);
        }
    }
    assert_eq!(told + lost, 4_000, "each is told or counted");
    assert!(
        of_second.values().all(|events| *events <= 200),
        "{of_second:?}"
    );
    let first = first.expect("an event");
    assert_eq!(first.session, floods.session);
    assert_eq!((&*first.binding, first.class), ("platform.a", "verdict"));
    assert_eq!(first.reason, "B malware");
    assert_eq!(first.payload_digest, arqon_policy::Digest::of(b"malware"));
    assert_eq!(first.payload_bytes, 7);
    assert!(first.count > 1, "coalesced");
    assert_eq!(rig.policies.limited(), (0, 0), "a verdict is no fault");
    until(|| rig.audits.take() == arqon_policy::AuditBatch::default()).await;
}
