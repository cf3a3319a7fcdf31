//! What judges a message, and what that means for it.

use arqon_policy::{Decision, Draft, Isolation};
use arqon_proto::codes::ErrorCode;

use crate::rig::{Rig, Who, blocked, broken, class, in_rooms, reason, shadow};

#[tokio::test]
async fn platform_first_then_by_order_then_by_name() {
    let rig = Rig::new();
    let ann = Who::new("acme", "ann");
    let mut bindings = vec![rig.binding("tenant.acme.a", "B tenant")];
    bindings[0].order = -5;
    rig.set(bindings.clone());
    assert_eq!(reason(rig.send(&ann, "x").await), "B tenant");

    bindings.push(rig.binding("platform.b", "B platform b"));
    rig.set(bindings.clone());
    assert_eq!(reason(rig.send(&ann, "x").await), "B platform b");

    bindings.push(rig.binding("platform.a", "B platform a"));
    rig.set(bindings.clone());
    assert_eq!(reason(rig.send(&ann, "x").await), "B platform a", "by name");

    bindings[1].order = -1;
    bindings[1].revision = 2;
    rig.set(bindings.clone());
    assert_eq!(
        reason(rig.send(&ann, "x").await),
        "B platform b",
        "by order"
    );
    assert_eq!(rig.stats("platform.b").counts.blocked, 2);
    assert_eq!(
        rig.stats("tenant.acme.a").counts.blocked,
        1,
        "the first block ends it"
    );
}

#[tokio::test]
async fn a_change_feeds_the_next() {
    let rig = Rig::new();
    rig.set([
        rig.binding("platform.a", "Rchanged"),
        rig.binding("platform.b", "A"),
        rig.binding("tenant.acme.c", "E"),
    ]);
    let (decision, _) = rig.send_to(&Who::new("acme", "ann"), "lobby", "sent").await;
    assert_eq!(reason(decision), "changed");
    let (decision, draft) = rig
        .send_to(&Who::new("other", "ann"), "lobby", "sent")
        .await;
    assert_eq!(decision, Decision::Pass);
    assert_eq!(draft.payload, "changed");
    assert_eq!(draft.headers["kind"], "test", "what is not changed stays");
}

#[tokio::test]
async fn only_in_its_rooms_and_its_tenant() {
    let rig = Rig::new();
    let (ann, bob) = (Who::new("acme", "ann"), Who::new("other", "bob"));
    rig.set([
        in_rooms(rig.binding("tenant.acme.a", "B public"), "public.*"),
        in_rooms(rig.binding("platform.b", "B staff"), "staff"),
    ]);
    assert!(rig.policies.binds(&bob.tenant));
    assert_eq!(
        reason(rig.send_to(&ann, "public.a", "x").await.0),
        "B public"
    );
    assert_eq!(reason(rig.send_to(&bob, "staff", "x").await.0), "B staff");
    for (who, room) in [(&ann, "public"), (&ann, "public.a.b"), (&bob, "public.a")] {
        assert_eq!(
            rig.send_to(who, room, "x").await.0,
            Decision::Pass,
            "{room}"
        );
    }
    rig.set([rig.binding("tenant.acme.a", "B")]);
    assert!(!rig.policies.binds(&bob.tenant));
    assert_eq!(rig.send_to(&bob, "staff", "x").await.0, Decision::Pass);
}

#[tokio::test]
async fn the_sender_learns_what_the_binding_allows() {
    let rig = Rig::new();
    let ann = Who::new("acme", "ann");
    let mut binding = rig.binding("platform.a", "B secret");
    binding.show_reason = false;
    rig.set([binding]);
    let hidden = (ErrorCode::PolicyBlocked, "verdict", None);
    assert_eq!(blocked(rig.send(&ann, "x").await), hidden);

    rig.set([rig.binding("platform.b", "T")]);
    let fault = (ErrorCode::PolicyFault, "trap", None);
    assert_eq!(
        blocked(rig.send(&ann, "x").await),
        fault,
        "no detail of a fault"
    );
}

#[tokio::test]
async fn a_shadow_only_watches() {
    let mut rig = Rig::new();
    rig.set([
        shadow(rig.binding("platform.a", "B would block")),
        shadow(rig.binding("platform.b", "Rwould change")),
        shadow(rig.binding("platform.c", "T")),
        shadow(rig.binding("platform.d", "S")),
        shadow(broken(rig.binding("platform.e", "A"))),
        shadow(rig.binding("platform.f", "F")),
        rig.binding("platform.z", "P"),
    ]);
    let ann = Who::new("acme", "ann");
    for _ in 0..25 {
        let (decision, draft) = rig.send_to(&ann, "lobby", "A").await;
        assert_eq!(decision, Decision::Pass, "faults of shadows limit nobody");
        assert_eq!(draft.payload, "A");
    }
    let count = |key: &str| rig.stats(key).counts;
    assert_eq!(count("platform.a").blocked, 25);
    assert_eq!(count("platform.b").transformed, 25);
    assert_eq!(
        count("platform.c").faults,
        25,
        "one session is no quarantine"
    );
    assert_eq!(count("platform.d").faults, 25);
    assert_eq!(count("platform.e").unavailable, 25);
    assert_eq!(count("platform.f").unavailable, 25);
    assert_eq!(count("platform.z").allowed, 25);
    let batch = rig.audits.next().await;
    assert!(!batch.events.is_empty());
    assert!(batch.events.iter().all(|event| event.shadow));
}

#[tokio::test]
async fn an_illegal_change_blocks() {
    let rig = Rig::new();
    for (mode, what) in [
        ("H", "a header of the platform's"),
        ("S", "an oversize payload"),
    ] {
        rig.set([rig.binding(&format!("platform.{}", mode.to_lowercase()), mode)]);
        let decision = rig.send(&Who::new("acme", "ann"), "x").await;
        let want = (ErrorCode::PolicyFault, "bad_verdict", None);
        assert_eq!(blocked(decision), want, "{what}");
    }
}

#[tokio::test]
async fn what_cannot_run_blocks_its_scope_only() {
    let rig = Rig::new();
    let (ann, bob) = (Who::new("acme", "ann"), Who::new("other", "bob"));
    rig.set([
        broken(rig.binding("tenant.acme.a", "A")),
        rig.binding("tenant.other.b", "A"),
    ]);
    let want = (ErrorCode::PolicyUnavailable, "missing", None);
    for _ in 0..20 {
        let decision = rig.send(&ann, "x").await;
        assert_eq!(blocked(decision), want, "and it costs the sender nothing");
        assert_eq!(rig.send(&bob, "x").await, Decision::Pass);
    }
    // It came: the same record, now with a module.
    rig.set([rig.binding("tenant.acme.a", "A")]);
    assert_eq!(rig.send(&ann, "x").await, Decision::Pass);
    rig.set([broken(rig.binding("platform.a", "A"))]);
    for who in [&ann, &bob] {
        assert_eq!(class(rig.send(who, "x").await), "missing");
    }
}

#[tokio::test]
async fn an_instance_for_each_message_remembers_nothing() {
    let rig = Rig::new();
    let ann = Who::new("acme", "ann");
    let mut binding = rig.binding("platform.a", "C seen");
    rig.set([binding.clone()]);
    assert_eq!(rig.send(&ann, "x").await, Decision::Pass);
    assert_eq!(
        reason(rig.send(&ann, "x").await),
        "C seen",
        "it is the same one"
    );

    binding.isolation = Isolation::Message;
    binding.revision = 2;
    rig.set([binding]);
    for _ in 0..50 {
        assert_eq!(rig.send(&ann, "x").await, Decision::Pass);
    }
    assert_eq!(rig.stats("platform.a").instances, 0, "none is kept");
}

#[tokio::test]
async fn log_lines_of_policies_are_taken() {
    let rig = Rig::new();
    rig.set([rig.binding("platform.a", "W")]);
    for _ in 0..100 {
        assert_eq!(
            rig.send(&Who::new("acme", "ann"), "x").await,
            Decision::Pass
        );
    }
}

#[tokio::test]
async fn nothing_bound_is_no_work() {
    let rig = Rig::new();
    let ann = Who::new("acme", "ann");
    let (decision, draft) = rig.send_to(&ann, "lobby", "x").await;
    assert_eq!(decision, Decision::Pass);
    assert_ne!(draft, Draft::default());
    assert_eq!(rig.host.instances(), 0);
}
