//! Policies judge what tenants publish, and change while they do.

use std::time::Duration;

use arqon_harness::{Client, Proxy, Spine, TestShield, TestTenant, eventually, text_of, within};
use arqon_proto::v1::{self, Opcode, envelope::Body};
use arqon_spine::control::ControlStore;
use futures_util::StreamExt as _;

const MALWARE: &str = r#"{"words":["malware"]}"#;

pub(crate) async fn member(
    shield: &TestShield,
    tenant: &TestTenant,
    user: &str,
    room: &str,
) -> Client {
    let mut client = shield.connect(&tenant.token().user(user).sign()).await;
    client.join(room).await;
    client
}

/// Publishes, and reads past deliveries to the answer: the code that refused it, if any.
pub(crate) async fn publish(client: &mut Client, room: &str, text: &str) -> Result<(), v1::Error> {
    let reference = client.publish_with(room, text, &[]).await;
    loop {
        let frame = client.next().await;
        match &frame.body {
            Some(Body::Ack(_)) if frame.r#ref == reference => return Ok(()),
            Some(Body::Error(error)) if frame.r#ref == reference => return Err(error.clone()),
            _ => {}
        }
    }
}

async fn refused(client: &mut Client, room: &str, text: &str) -> String {
    let error = publish(client, room, text).await;
    error.expect_err("the message is refused").name
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_platform_blocks_nobody_hears_in_any_tenant() {
    let spine = Spine::start().await;
    let (acme, globex) = (spine.tenant("acme").await, spine.tenant("globex").await);
    let shield = spine.shield().start().await;
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    let mut bob = member(&shield, &acme, "bob", "lobby").await;
    let mut carol = member(&shield, &globex, "carol", "lobby").await;
    publish(&mut alice, "lobby", "free malware").await.unwrap();
    bob.hears("lobby", "free malware").await;

    let blocklist = spine.push_shipped("blocklist").await.config(MALWARE);
    spine.enforce(&blocklist, &["shield-1"]).await;
    let error = publish(&mut alice, "lobby", "free MalWare here")
        .await
        .unwrap_err();
    assert_eq!(error.name, "POLICY_BLOCKED");
    assert_eq!(error.message, "Message blocked by policy");
    assert!(
        !error.retryable && error.policy.is_empty() && error.reason.is_empty(),
        "{error:?}"
    );
    assert_eq!(
        refused(&mut carol, "lobby", "malware").await,
        "POLICY_BLOCKED"
    );
    // What comes next is what comes after: the blocked one was not published.
    publish(&mut alice, "lobby", "free software").await.unwrap();
    bob.hears("lobby", "free software").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_shows_its_reason_tells_the_sender_which_and_why() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let config = r#"{"words":["malware"],"reason":"no malware, please"}"#;
    let blocklist = spine.push_shipped("blocklist").await.config(config);
    let blocklist = blocklist.named("house-rules").shown();
    spine.enforce(&blocklist, &["shield-1"]).await;
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    let error = publish(&mut alice, "lobby", "malware").await.unwrap_err();
    assert_eq!(error.policy, "house-rules");
    assert!(error.reason.contains("no malware, please"), "{error:?}");
    assert_eq!(error.message, "Message blocked by policy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_reaches_its_tenant_and_its_rooms_and_no_others() {
    let spine = Spine::start().await;
    let (acme, globex) = (spine.tenant("acme").await, spine.tenant("globex").await);
    let shield = spine.shield().start().await;
    let blocklist = spine.push_shipped("blocklist").await.config(MALWARE);
    let binding = blocklist.tenant(&acme.id).rooms("public.*");
    spine.enforce(&binding, &["shield-1"]).await;
    let mut alice = member(&shield, &acme, "alice", "public.lobby").await;
    alice.join("staff").await;
    alice.join("public.a.b").await;
    let mut carol = member(&shield, &globex, "carol", "public.lobby").await;
    assert_eq!(
        refused(&mut alice, "public.lobby", "malware").await,
        "POLICY_BLOCKED"
    );
    publish(&mut alice, "staff", "malware").await.unwrap();
    publish(&mut alice, "public.a.b", "malware").await.unwrap();
    publish(&mut carol, "public.lobby", "malware")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_what_everybody_hears_and_the_platforms_headers_stay() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let redact = spine.push_shipped("redact").await;
    let redact = redact.config(r#"{"emails":true,"cards":true,"replacement":"[gone]"}"#);
    spine.enforce(&redact, &["shield-1"]).await;
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    let mut bob = member(&shield, &acme, "bob", "lobby").await;
    alice
        .publish_with("lobby", "write to ada@example.org", &[("color", "blue")])
        .await;
    let heard = bob.expect(Opcode::Message).await;
    assert_eq!(text_of(&heard), "write to [gone]");
    assert_eq!(heard.headers.get("color").map(String::as_str), Some("blue"));
    assert!(heard.headers.contains_key("X-Timestamp") && heard.headers.contains_key("X-Twist-ID"));
    let Some(Body::Message(message)) = &heard.body else {
        panic!("{heard:?}")
    };
    assert_eq!(message.sender.as_ref().unwrap().user, "alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_counts_and_changes_nothing() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let blocklist = spine
        .push_shipped("blocklist")
        .await
        .config(MALWARE)
        .shadow();
    let change = spine.enforce(&blocklist, &["shield-1"]).await;
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    publish(&mut alice, "lobby", "malware").await.unwrap();
    let report = spine.acted_on("shield-1", change.revision).await;
    let counts = report.bindings[0].counts.unwrap();
    assert_eq!((counts.blocked, counts.allowed), (1, 0), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_block_ends_the_chain_and_the_platform_comes_first() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let blocklist = spine.push_shipped("blocklist").await;
    let platform = blocklist.clone().named("platform").order(900).shown();
    let platform = platform.config(r#"{"words":["both","first"]}"#);
    let tenant = blocklist.named("tenant").tenant(&acme.id).order(-5).shown();
    let tenant = tenant.config(r#"{"words":["both","second"]}"#);
    spine.enforce(&tenant, &["shield-1"]).await;
    let platform = spine.enforce(&platform, &["shield-1"]).await;
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    for (text, by) in [
        ("both", "platform"),
        ("first", "platform"),
        ("second", "tenant"),
    ] {
        assert_eq!(
            publish(&mut alice, "lobby", text).await.unwrap_err().policy,
            by
        );
    }
    let report = spine.acted_on("shield-1", platform.revision).await;
    let second = report
        .bindings
        .iter()
        .find(|state| state.key.starts_with("tenant."))
        .unwrap();
    let counts = second.counts.unwrap();
    assert_eq!((counts.blocked, counts.allowed), (1, 0), "{counts:?}");
}

/// From the acknowledgement on, on every Shield, nothing passes; and nothing is
/// lost or refused that should pass while chains are swapped.
#[tokio::test(flavor = "multi_thread")]
async fn what_every_shield_acknowledged_is_enforced_and_good_messages_never_notice() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let one = spine.shield().start().await;
    let two = spine.shield().id("shield-2").start().await;
    let blocklist = spine.push_shipped("blocklist").await;
    let shields = ["shield-1", "shield-2"];
    let mut alice = member(&one, &acme, "alice", "lobby").await;
    let mut bob = member(&two, &acme, "bob", "lobby").await;
    let mut writer = member(&one, &acme, "writer", "steady").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let steady = tokio::spawn(async move {
        let mut sent = 0_u32;
        while !stopped.is_cancelled() {
            publish(&mut writer, "steady", &format!("good {sent}"))
                .await
                .unwrap();
            sent += 1;
        }
        sent
    });
    for round in 0..10 {
        let config = format!(r#"{{"words":["word{round}"]}}"#);
        spine
            .enforce(&blocklist.clone().config(&config), &shields)
            .await;
        let now = format!("word{round}");
        assert_eq!(refused(&mut alice, "lobby", &now).await, "POLICY_BLOCKED");
        assert_eq!(refused(&mut bob, "lobby", &now).await, "POLICY_BLOCKED");
        if round > 0 {
            publish(&mut bob, "lobby", &format!("word{}", round - 1))
                .await
                .unwrap();
        }
    }
    stop.cancel();
    assert!(
        steady.await.unwrap() > 0,
        "messages were published meanwhile"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shield_that_starts_later_judges_from_its_first_message() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let blocklist = spine.push_shipped("blocklist").await.config(MALWARE);
    spine.bind(&blocklist).await;
    let shield = spine.shield().start().await;
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    assert_eq!(
        refused(&mut alice, "lobby", "malware").await,
        "POLICY_BLOCKED"
    );
    publish(&mut alice, "lobby", "software").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shield_killed_in_mid_deploy_comes_back_with_what_is_bound() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let params = spine.shield();
    let first = params.clone().spawn().await;
    let blocklist = spine.push_shipped("blocklist").await.config(MALWARE);
    spine.bind(&blocklist).await;
    drop(first); // killed, whatever it was doing
    let second = params.spawn().await;
    let mut alice = second.connect(&acme.token().user("alice").sign()).await;
    alice.join("lobby").await;
    assert_eq!(
        refused(&mut alice, "lobby", "malware").await,
        "POLICY_BLOCKED"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_whose_component_is_nowhere_blocks_its_scope_and_no_other() {
    let spine = Spine::start().await;
    let (acme, globex) = (spine.tenant("acme").await, spine.tenant("globex").await);
    let blocklist = spine.push_shipped("blocklist").await.config(MALWARE);
    let change = spine.bind(&blocklist.tenant(&acme.id)).await;
    let digest = &change.after.as_ref().unwrap().digest;
    let name = arqon_policy::Digest::from_bytes(digest)
        .unwrap()
        .to_string();
    let store = spine
        .raw_control()
        .await
        .get_object_store("wasm")
        .await
        .unwrap();
    store.delete(name).await.unwrap();
    let shield = spine.shield().start().await;
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    let mut carol = member(&shield, &globex, "carol", "lobby").await;
    assert_eq!(
        refused(&mut alice, "lobby", "software").await,
        "POLICY_UNAVAILABLE"
    );
    publish(&mut carol, "lobby", "malware").await.unwrap();
    let report = spine.acted_on("shield-1", change.revision).await;
    assert!(!report.bindings[0].error.is_empty(), "{report:?}");
    // It is tried again, and heals when the component is there.
    spine.push_shipped("blocklist").await;
    eventually!(publish(&mut alice, "lobby", "software").await.is_ok());
    assert_eq!(
        refused(&mut alice, "lobby", "malware").await,
        "POLICY_BLOCKED"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_refused_leaves_the_old_binding_in_force() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let blocklist = spine.push_shipped("blocklist").await;
    spine
        .enforce(&blocklist.clone().config(MALWARE), &["shield-1"])
        .await;
    let change = spine.bind(&blocklist.config(r#"{"wrods":["spam"]}"#)).await;
    let report = spine.acted_on("shield-1", change.revision).await;
    let state = &report.bindings[0];
    assert!(state.error.contains("wrods"), "{state:?}");
    assert!(
        state.active_revision < change.revision && !state.active.is_empty(),
        "{state:?}"
    );
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    assert_eq!(
        refused(&mut alice, "lobby", "malware").await,
        "POLICY_BLOCKED"
    );
    publish(&mut alice, "lobby", "spam").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_blocks_its_scope_and_no_other() {
    let spine = Spine::start().await;
    let (acme, globex) = (spine.tenant("acme").await, spine.tenant("globex").await);
    let shield = spine.shield().start().await;
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    let mut carol = member(&shield, &globex, "carol", "lobby").await;
    publish(&mut alice, "lobby", "software").await.unwrap();
    let bucket = spine
        .raw_control()
        .await
        .get_key_value("policies")
        .await
        .unwrap();
    bucket
        .put("tenant.acme.broken", "no record".into())
        .await
        .unwrap();
    eventually!(publish(&mut alice, "lobby", "software").await.is_err());
    assert_eq!(
        refused(&mut alice, "lobby", "software").await,
        "POLICY_UNAVAILABLE"
    );
    publish(&mut carol, "lobby", "software").await.unwrap();
    bucket.delete("tenant.acme.broken").await.unwrap();
    eventually!(publish(&mut alice, "lobby", "software").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_is_removed_while_in_use_ends_with_the_message_it_judges() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let blocklist = spine.push_shipped("blocklist").await.config(MALWARE);
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    for _ in 0..5 {
        let change = spine.enforce(&blocklist, &["shield-1"]).await;
        assert_eq!(
            refused(&mut alice, "lobby", "malware").await,
            "POLICY_BLOCKED"
        );
        spine.unbind(&change, &["shield-1"]).await;
        publish(&mut alice, "lobby", "malware").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_are_followed_again_after_the_server_was_restarted() {
    let mut spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let blocklist = spine.push_shipped("blocklist").await;
    spine
        .enforce(&blocklist.clone().config(MALWARE), &["shield-1"])
        .await;
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    spine.kill();
    spine.restart();
    spine
        .enforce(&blocklist.config(r#"{"words":["spam"]}"#), &["shield-1"])
        .await;
    eventually!(publish(&mut alice, "lobby", "software").await.is_ok());
    assert_eq!(refused(&mut alice, "lobby", "spam").await, "POLICY_BLOCKED");
    publish(&mut alice, "lobby", "malware").await.unwrap();
}

/// The path to CONTROL is frozen, not cut: connections stay open and say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_frozen_control_plane_tenants_with_policies_stop_and_others_go_on() {
    let spine = Spine::start().await;
    let (acme, globex) = (spine.tenant("acme").await, spine.tenant("globex").await);
    let proxy = Proxy::start(spine.addr()).await.unwrap();
    let shield = spine.shield().via(&proxy.url()).start().await;
    let control = proxy.accepted(); // so far it has only spoken to CONTROL
    let blocklist = spine.push_shipped("blocklist").await;
    let binding = blocklist.tenant(&acme.id).config(MALWARE);
    spine.enforce(&binding, &["shield-1"]).await;
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    let mut carol = member(&shield, &globex, "carol", "lobby").await;
    publish(&mut alice, "lobby", "software").await.unwrap();
    publish(&mut carol, "lobby", "software").await.unwrap();

    proxy.freeze_first(control);
    let change = spine.bind(&binding.config(r#"{"words":["spam"]}"#)).await;
    assert_eq!(
        refused(&mut alice, "lobby", "malware").await,
        "POLICY_BLOCKED"
    );
    eventually!(match publish(&mut alice, "lobby", "spam").await {
        Ok(()) => false, // the old chain, as it may be for 30 s
        Err(error) => {
            assert_eq!(error.name, "CONTROL_STALE");
            assert!(error.retryable);
            true
        }
    });
    publish(&mut carol, "lobby", "spam").await.unwrap();

    proxy.resume();
    spine.acted_on("shield-1", change.revision).await;
    eventually!(publish(&mut alice, "lobby", "malware").await.is_ok());
    assert_eq!(refused(&mut alice, "lobby", "spam").await, "POLICY_BLOCKED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_audited_by_digest_and_a_flood_of_them_is_one_line_a_second() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let blocklist = spine.push_shipped("blocklist").await.config(MALWARE);
    spine.enforce(&blocklist, &["shield-1"]).await;
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    let secret = "malware of a kind that must not be told";
    for _ in 0..500 {
        assert_eq!(refused(&mut alice, "lobby", secret).await, "POLICY_BLOCKED");
    }
    let control = spine.control().await;
    let mut events;
    eventually!({
        events = audited(&control).await;
        events
            .iter()
            .map(|event: &v1::PolicyEvent| event.count)
            .sum::<u32>()
            == 500
    });
    assert!(events.len() < 100, "{} events for one sender", events.len());
    let event = &events[0];
    assert_eq!(
        (
            event.tenant.as_str(),
            event.room.as_str(),
            event.user.as_str()
        ),
        ("acme", "lobby", "alice")
    );
    assert_eq!(
        (
            event.binding.as_str(),
            event.policy.as_str(),
            event.class.as_str()
        ),
        ("platform.blocklist", "blocklist", "verdict")
    );
    assert_eq!(
        event.payload_digest,
        arqon_policy::Digest::of(secret.as_bytes())
            .as_bytes()
            .to_vec()
    );
    assert!(!format!("{events:?}").contains("must not be told"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_makes_a_policy_fail_is_alone_with_it() {
    let spine = Spine::start().await;
    let (acme, globex) = (spine.tenant("acme").await, spine.tenant("globex").await);
    let shield = spine.shield().start().await;
    let faulty = spine.push("faulty", &faulty_component()).await;
    spine.enforce(&faulty, &["shield-1"]).await;
    let mut mallory = member(&shield, &acme, "mallory", "lobby").await;
    let mut alice = member(&shield, &acme, "alice", "lobby").await;
    let mut carol = member(&shield, &globex, "carol", "lobby").await;
    let mut limited = false;
    for round in 0..60 {
        let error = publish(
            &mut mallory,
            "lobby",
            if round % 2 == 0 { "trap" } else { "loop" },
        )
        .await
        .unwrap_err();
        match error.name.as_str() {
            "POLICY_FAULT" => assert_eq!(
                error.message.split(':').next(),
                Some("Message blocked by policy")
            ),
            "RATE_LIMITED" => {
                assert!(error.retry_after_ms > 0);
                limited = true;
            }
            _ => panic!("{error:?}"),
        }
        publish(&mut alice, "lobby", "software").await.unwrap();
        publish(&mut carol, "lobby", "software").await.unwrap();
    }
    assert!(limited, "a sender of sixty faults is limited");
    tokio::time::sleep(Duration::from_millis(10)).await;
    publish(&mut alice, "lobby", "software").await.unwrap();
}

async fn audited(control: &ControlStore) -> Vec<v1::PolicyEvent> {
    let stored = control
        .read_audit(std::time::UNIX_EPOCH, false)
        .await
        .unwrap();
    let batches: Vec<_> = within("the audit", stored.collect()).await;
    batches
        .into_iter()
        .flat_map(|batch: Result<v1::PolicyAudit, _>| batch.unwrap().events)
        .collect()
}

/// Traps on a payload that begins with `t`, loops on `l`, allows all else.
pub(crate) fn faulty_component() -> Vec<u8> {
    let core = wat::parse_str(include_str!("../faulty.wat")).unwrap();
    arqon_policy::wrap::componentize(&core).unwrap()
}
