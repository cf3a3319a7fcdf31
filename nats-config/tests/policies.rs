//! Policies on a real server: records by revision, objects by digest, audits
//! with bounds, and a watch that never takes "unreadable" for "none".
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, SystemTime};

use arqon_proto::names::PolicyName;
use arqon_proto::v1;
use arqon_spine::admin::{
    BindPolicy, Expected, INLINE_CONFIG_BYTES, PolicyError, ShieldReports, ShieldState, WaitFor,
};
use arqon_spine::control::{
    ControlError, ControlStore, MAX_OBJECT_BYTES, PolicyKey, PolicyRecordEvent, RecordStream,
};
use arqon_spine::nats::jetstream;
use arqon_spine::state::Role;
use common::{PATIENCE, Spine, node, tenant};
use futures_util::{StreamExt, TryStreamExt};

fn name(text: &str) -> PolicyName {
    PolicyName::parse(text).unwrap()
}

fn wish(binding: &str, version: &v1::PolicyVersion, config: &[u8]) -> BindPolicy {
    BindPolicy {
        name: name(binding),
        tenant: Some(tenant("acme")),
        rooms: None,
        policy: name("blocklist"),
        version: version.clone(),
        config: config.to_vec().into(),
        order: 0,
        shadow: false,
        isolation: v1::PolicyIsolation::Unspecified,
        limits: v1::PolicyLimits::default(),
        show_reason: true,
        by: "test".to_owned(),
    }
}

async fn event(watch: &mut RecordStream<v1::PolicyEntry>) -> PolicyRecordEvent {
    tokio::time::timeout(PATIENCE, watch.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
}

async fn raw_kv(spine: &Spine) -> jetstream::kv::Store {
    let raw = spine.role(Role::Admin, "arq").await;
    jetstream::new(raw.client.clone())
        .get_key_value("policies")
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_pushed_bound_changed_rolled_back_and_unbound() {
    let (_spine, admin) = Spine::start().await;
    let policies = admin.policies();
    let blocklist = name("blocklist");
    let first = policies.push_version(&blocklist, b"one", "me", "").await;
    let first = first.unwrap();
    assert_eq!((first.version.number, first.existed), (1, false));
    let again = policies.push_version(&blocklist, b"one", "you", "").await;
    let again = again.unwrap();
    assert_eq!(
        (again.version, again.existed),
        (first.version.clone(), true)
    );
    assert_eq!(again.revision, first.revision);
    let second = policies.push_version(&blocklist, b"two", "me", "").await;
    let second = second.unwrap();
    let (policy, _) = policies.policy(&blocklist).await.unwrap();
    let numbers: Vec<_> = policy.versions.iter().map(|v| v.number).collect();
    assert_eq!(numbers, [2, 1]);

    let bound = policies
        .bind(wish("words", &first.version, b"{}"), None)
        .await;
    let bound = bound.unwrap();
    let key = PolicyKey::read("tenant.acme.words");
    assert_eq!((&bound.key, &bound.before), (&key, &None));
    let refused = policies
        .bind(wish("words", &second.version, b"{}"), None)
        .await;
    assert!(matches!(refused, Err(PolicyError::BindingExists { .. })));
    let at = Some(bound.revision);
    let changed = policies
        .bind(wish("words", &second.version, b"{}"), at)
        .await;
    let changed = changed.unwrap();
    let late = policies
        .bind(wish("words", &first.version, b"late"), at)
        .await;
    assert!(matches!(
        late,
        Err(PolicyError::Control(ControlError::Conflict { .. }))
    ));
    assert!(changed.revision > bound.revision);
    let taken_back = policies.take_back(&changed).await.unwrap();
    assert_eq!(taken_back.after, bound.after);
    let changed = policies
        .bind(
            wish("words", &second.version, b"{}"),
            Some(taken_back.revision),
        )
        .await;
    assert_eq!(changed.unwrap().after.unwrap().version, 2);
    let back = policies.rollback(&key, "me", None).await.unwrap();
    assert_eq!(back.after.unwrap().version, 1);
    assert!(matches!(
        policies.rollback(&key, "me", None).await,
        Err(PolicyError::Record(_))
    ));
    let gone = policies.unbind(&key, None).await.unwrap();
    assert!(gone.revision > back.revision && gone.after.is_none());
    assert!(matches!(
        policies.binding(&key).await,
        Err(PolicyError::NoBinding { .. })
    ));
    let restored = policies.take_back(&gone).await.unwrap();
    assert_eq!(restored.after, gone.before);
    assert_eq!(policies.list().await.unwrap().entries.len(), 2);

    let large = vec![b'x'; INLINE_CONFIG_BYTES + 1];
    let bound = policies
        .bind(wish("large", &first.version, &large), None)
        .await;
    let bound = bound.unwrap().after.unwrap();
    assert!(bound.config.is_empty());
    let digest = bound.config_digest[..].try_into().unwrap();
    assert_eq!(admin.control().get_object(&digest).await.unwrap(), large);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_admins_one_is_told_and_nothing_is_lost() {
    let (spine, one) = Spine::start().await;
    let two = spine.admin().await;
    let blocklist = name("blocklist");
    let pushes = (0..8u8).map(|byte| {
        let admin = if byte % 2 == 0 { &one } else { &two };
        let blocklist = &blocklist;
        async move {
            let component = [byte];
            let mut conflicts = 0;
            loop {
                let policies = admin.policies();
                match policies.push_version(blocklist, &component, "me", "").await {
                    Ok(pushed) => return (pushed.version.number, conflicts),
                    Err(PolicyError::Control(ControlError::Conflict { .. })) => conflicts += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    });
    let pushed = futures_util::future::join_all(pushes).await;
    let mut numbers: Vec<_> = pushed.iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8]);
    let (policy, _) = one.policies().policy(&blocklist).await.unwrap();
    assert_eq!(policy.versions.len(), 8);

    // The same on one binding, with the loser's view of it.
    let version = &policy.versions[0];
    let bound = one
        .policies()
        .bind(wish("words", version, b"1"), None)
        .await;
    let bound = bound.unwrap();
    let (entry, revision) = one.control().get_policy(&bound.key).await.unwrap().unwrap();
    let newer = two
        .policies()
        .bind(wish("words", version, b"2"), Some(revision))
        .await;
    let newer = newer.unwrap();
    assert!(matches!(
        one.control().put_policy(&entry, revision).await,
        Err(ControlError::Conflict { .. })
    ));
    assert!(matches!(
        one.control().delete_policy(&bound.key, revision).await,
        Err(ControlError::Conflict { .. })
    ));
    assert!(matches!(
        one.policies().take_back(&bound).await,
        Err(PolicyError::Control(ControlError::Conflict { .. }))
    ));
    let (kept, _) = one.policies().binding(&bound.key).await.unwrap();
    assert_eq!(Some(kept), newer.after);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_told_as_such_and_never_as_none() {
    let (spine, admin) = Spine::start().await;
    let shield = spine.role(Role::Shield, "shield-1").await;
    let store = ControlStore::new(&shield);
    let mut watch = store.watch_policies().await.unwrap();
    assert!(matches!(event(&mut watch).await, PolicyRecordEvent::Synced));
    let kv = raw_kv(&spine).await;
    let version = v1::PolicyVersion {
        number: 1,
        digest: vec![1; 32].into(),
        ..Default::default()
    };
    let bound = admin
        .policies()
        .bind(wish("words", &version, b""), None)
        .await;
    let bound = bound.unwrap();
    assert!(matches!(
        event(&mut watch).await,
        PolicyRecordEvent::Put(..)
    ));
    let (entry, _) = store.get_policy(&bound.key).await.unwrap().unwrap();
    let bytes = prost::Message::encode_to_vec(&entry);
    for (key, value) in [
        // No Protobuf; another's record; a policy where a binding should stand;
        // a key of no known form.
        ("tenant.acme.words", vec![0xff, 0xff]),
        ("tenant.globex.words", bytes.clone()),
        ("platform.words", Vec::new()),
        ("room.acme.words", bytes),
    ] {
        let revision = kv.put(key, value.into()).await.unwrap();
        match event(&mut watch).await {
            PolicyRecordEvent::Unreadable(told, at) => {
                assert_eq!((told, at), (PolicyKey::read(key), revision));
            }
            other => panic!("{key}: {other:?}"),
        }
    }
    // So is it for one who comes later, and whoever lists.
    let mut later = store.watch_policies().await.unwrap();
    for _ in 0..4 {
        assert!(matches!(
            event(&mut later).await,
            PolicyRecordEvent::Unreadable(..)
        ));
    }
    assert_eq!(store.list_policies().await.unwrap().unreadable.len(), 4);
    // An admin can still take them away.
    for key in ["tenant.acme.words", "room.acme.words"] {
        let key = PolicyKey::read(key);
        let gone = admin.policies().unbind(&key, None).await.unwrap();
        match event(&mut watch).await {
            PolicyRecordEvent::Deleted(told, at) => assert_eq!((told, at), (key, gone.revision)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_what_their_name_says_or_an_error() {
    let (spine, admin) = Spine::start().await;
    let shield = spine.role(Role::Shield, "shield-1").await;
    let store = ControlStore::new(&shield);
    let missing = store.get_object(&[7; 32]).await;
    assert!(matches!(missing, Err(ControlError::NoObject { .. })));
    // Several chunks of 128 KiB.
    let bytes: Vec<u8> = (0..400_000u32).map(|i| i.to_le_bytes()[0]).collect();
    let digest = admin.control().put_object(&bytes).await.unwrap();
    assert_eq!(store.get_object(&digest).await.unwrap(), bytes);
    assert!(matches!(
        admin
            .control()
            .put_object(&vec![0; MAX_OBJECT_BYTES + 1])
            .await,
        Err(ControlError::TooLarge { .. })
    ));

    let raw = spine.role(Role::Admin, "arq").await;
    let objects = jetstream::new(raw.client.clone())
        .get_object_store("wasm")
        .await
        .unwrap();
    let hex = |digest: &[u8]| {
        digest
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    // Other bytes under the name.
    let mut other = &b"other"[..];
    let name = hex(&digest);
    objects.put(name.as_str(), &mut other).await.unwrap();
    assert!(matches!(
        store.get_object(&digest).await,
        Err(ControlError::BadObject { .. })
    ));
    // Whoever pushes it again mends it.
    admin.control().put_object(&bytes).await.unwrap();
    assert_eq!(store.get_object(&digest).await.unwrap(), bytes);
    // Larger than any may be: not even begun.
    let huge = vec![0u8; MAX_OBJECT_BYTES + 1];
    let name = hex(&[9; 32]);
    objects.put(name.as_str(), &mut &huge[..]).await.unwrap();
    assert!(matches!(
        store.get_object(&[9; 32]).await,
        Err(ControlError::TooLarge { .. })
    ));
    // Chunks that are gone: an error in the end, and no wrong bytes.
    let info = objects.info(hex(&digest).as_str()).await.unwrap();
    let stream = jetstream::new(raw.client.clone())
        .get_stream("OBJ_wasm")
        .await
        .unwrap();
    let chunks = format!("$O.wasm.C.{}", info.nuid);
    let last = stream.get_last_raw_message_by_subject(&chunks).await;
    stream.delete_message(last.unwrap().sequence).await.unwrap();
    assert!(store.get_object(&digest).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_complete_again_after_a_restart() {
    let (mut spine, admin) = Spine::start().await;
    let blocklist = name("blocklist");
    let pushed = admin.policies().push_version(&blocklist, b"one", "me", "");
    let version = pushed.await.unwrap().version;
    for binding in ["a", "b"] {
        let bound = admin.policies().bind(wish(binding, &version, b""), None);
        bound.await.unwrap();
    }
    admin
        .policies()
        .unbind(&PolicyKey::read("tenant.acme.a"), None)
        .await
        .unwrap();
    let shield = spine.role(Role::Shield, "shield-1").await;
    let mut watch = ControlStore::new(&shield).watch_policies().await.unwrap();
    while !matches!(event(&mut watch).await, PolicyRecordEvent::Synced) {}
    spine.server.kill().unwrap();
    let ended = tokio::time::timeout(PATIENCE, watch.try_collect::<Vec<_>>()).await;
    assert!(matches!(ended.unwrap(), Err(ControlError::Closed)));
    spine.server.restart().unwrap();
    let shield = spine.role(Role::Shield, "shield-1").await;
    let mut watch = ControlStore::new(&shield).watch_policies().await.unwrap();
    let mut keys = Vec::new();
    loop {
        match event(&mut watch).await {
            PolicyRecordEvent::Put(entry, _) => keys.push(entry.key),
            PolicyRecordEvent::Deleted(key, _) => assert_eq!(key.to_string(), "tenant.acme.a"),
            PolicyRecordEvent::Unreadable(key, _) => panic!("{key}"),
            PolicyRecordEvent::Synced => break,
        }
    }
    assert_eq!(keys, ["policy.blocklist", "tenant.acme.b"]);
}

fn audit(shield: &str, lost: u64) -> v1::PolicyAudit {
    v1::PolicyAudit {
        shield: shield.to_owned(),
        lost,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn audits_are_kept_and_read_from_a_time_on() {
    let (spine, admin) = Spine::start().await;
    let shield = spine.role(Role::Shield, "shield-1").await;
    let store = ControlStore::new(&shield);
    let id = node("shield-1");
    let read = async |from, follow| {
        let read = admin.control().read_audit(from, follow);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap()
    };
    assert_eq!(read(SystemTime::UNIX_EPOCH, false).await.count().await, 0);
    for lost in 1..=3 {
        store
            .publish_audit(&id, &audit("shield-1", lost))
            .await
            .unwrap();
    }
    // It names another than its subject does.
    store
        .publish_audit(&id, &audit("shield-2", 9))
        .await
        .unwrap();
    let kept = read(SystemTime::UNIX_EPOCH, false).await;
    let kept = tokio::time::timeout(PATIENCE, kept.try_collect::<Vec<_>>()).await;
    let kept: Vec<_> = kept.unwrap().unwrap().iter().map(|a| a.lost).collect();
    assert_eq!(kept, [1, 2, 3]);
    let mut follow = read(SystemTime::now() + Duration::from_secs(60), true).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(100), follow.next())
            .await
            .is_err()
    );
    let mut follow = read(SystemTime::UNIX_EPOCH, true).await;
    for lost in 1..=4 {
        if lost == 4 {
            store
                .publish_audit(&id, &audit("shield-1", 4))
                .await
                .unwrap();
        }
        let next = tokio::time::timeout(PATIENCE, follow.next()).await;
        assert_eq!(next.unwrap().unwrap().unwrap().lost, lost);
    }
}

fn beat(shield: &str) -> v1::ShieldBeat {
    v1::ShieldBeat {
        shield: shield.to_owned(),
        incarnation: "1".to_owned(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_hears_of_each_live_shield() {
    let (spine, admin) = Spine::start().await;
    let mut reports = ShieldReports::open(admin.control()).await.unwrap();
    let key = PolicyKey::read("platform.words");
    let state = |revision, error: &str| v1::PolicyBindingState {
        key: "platform.words".to_owned(),
        revision,
        active_revision: if error.is_empty() { revision } else { 0 },
        error: error.to_owned(),
        ..Default::default()
    };
    let mut players = Vec::new();
    for (shield, answer) in [
        ("good", Some(state(7, ""))),
        ("bad", Some(state(7, "configure refused it"))),
        ("slow", Some(state(6, ""))),
        ("silent", None),
    ] {
        let connection = spine.role(Role::Shield, shield).await;
        players.push(tokio::spawn(async move {
            let store = ControlStore::new(&connection);
            let id = node(shield);
            let mut orders = store.subscribe_orders(&id).await.unwrap();
            let mut beats = tokio::time::interval(Duration::from_millis(200));
            loop {
                tokio::select! {
                    _ = beats.tick() => store.publish_beat(&id, &beat(shield)).await.unwrap(),
                    order = orders.next() => {
                        let Some(v1::control::Order::ReportPolicies(_)) = order else { continue };
                        let Some(answer) = &answer else { continue };
                        let report = v1::PolicyReport {
                            shield: shield.to_owned(),
                            incarnation: "1".to_owned(),
                            number: 1,
                            last: true,
                            revision: answer.revision,
                            bindings: vec![answer.clone()],
                            ..Default::default()
                        };
                        store.publish_policy_report(&id, &report).await.unwrap();
                    }
                }
            }
        }));
    }
    let wait = WaitFor {
        patience: Duration::from_secs(4),
        ..WaitFor::default()
    };
    let expected = Expected::Binding(key, 7);
    let outcome = reports.wait(&expected, wait, |_| {}).await.unwrap();
    let states: Vec<_> = outcome
        .shields
        .iter()
        .map(|report| (report.shield.as_str(), &report.state))
        .collect();
    let failed = ShieldState::Failed {
        error: "configure refused it".to_owned(),
        old_in_force: false,
    };
    assert_eq!(
        states,
        [
            ("bad", &failed),
            ("good", &ShieldState::Active),
            ("silent", &ShieldState::Missing),
            ("slow", &ShieldState::Missing),
        ]
    );
    assert!(outcome.any_failed() && !outcome.all_done());
    for player in players {
        player.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_platform_gets_what_it_lacks() {
    let (spine, admin) = Spine::start().await;
    let raw = spine.role(Role::Admin, "arq").await;
    let context = jetstream::new(raw.client.clone());
    for stream in ["KV_policies", "KV_revocations", "OBJ_wasm", "AUDIT"] {
        context.delete_stream(stream).await.unwrap();
    }
    admin.close().await;
    let shield = spine.role(Role::Shield, "shield-1").await;
    let store = ControlStore::new(&shield);
    assert!(store.watch_policies().await.is_err());
    spine.admin().await;
    assert!(store.watch_policies().await.is_ok());
    store
        .publish_audit(&node("shield-1"), &audit("shield-1", 1))
        .await
        .unwrap();
    let info = context.get_stream("AUDIT").await.unwrap();
    let config = &info.cached_info().config;
    assert_eq!(config.max_age, Duration::from_secs(30 * 24 * 3600));
    assert_eq!(config.max_bytes, 256 << 20);
    assert_eq!(config.discard, jetstream::stream::DiscardPolicy::Old);
}
