//! Revocations in KV: written by revision, dropped by the server when they have ended.
#![allow(clippy::unwrap_used)]

mod common;

use arqon_proto::names::UserId;
use arqon_proto::v1::{self, revocation::Tokens};
use arqon_spine::admin::{AdminError, RevokeTokens};
use arqon_spine::connect::Connection;
use arqon_spine::control::{ControlError, ControlStore, RecordEvent, RevocationKey};
use arqon_spine::nats::jetstream;
use arqon_spine::state::Role;
use common::{PATIENCE, Spine, create, node, tenant};
use futures_util::StreamExt;

fn one_token(jti: &str, expires_at: u64) -> v1::Revocation {
    v1::Revocation {
        key: RevocationKey::jti(&tenant("acme"), jti).to_string(),
        tenant: "acme".to_owned(),
        tokens: Some(Tokens::Jti(jti.to_owned())),
        expires_at,
        ..Default::default()
    }
}

fn jti(jti: &str) -> RevokeTokens {
    RevokeTokens::Jti {
        jti: jti.to_owned(),
        expires_at: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_drops_what_has_ended_and_tells_so() {
    let (spine, admin) = Spine::start().await;
    let shield = spine.role(Role::Shield, "shield-1").await;
    let mut watch = ControlStore::new(&shield)
        .watch_revocations()
        .await
        .unwrap();
    let control = admin.control();
    // As if all but the last second of its time, and what it is kept longer, had passed.
    let brief = one_token("brief", 1_000);
    let revision = control
        .put_revocation(&brief, 0, 1_000 + 899)
        .await
        .unwrap();
    let lasting = one_token("lasting", 2_000);
    control.put_revocation(&lasting, 0, 1_000).await.unwrap();
    let key = RevocationKey::read(&brief.key);
    if is_2_11(&shield) {
        // It drops the record and tells nobody: Shields go by their own clocks.
        let gone = async { while control.get_revocation(&key).await.unwrap().0.is_some() {} };
        return tokio::time::timeout(PATIENCE, gone).await.unwrap();
    }
    let gone = async {
        loop {
            match watch.next().await.unwrap().unwrap() {
                RecordEvent::Deleted(key, at) => {
                    assert_eq!(key.to_string(), brief.key);
                    return at;
                }
                RecordEvent::Unreadable(key, _) => panic!("{key}"),
                _ => {}
            }
        }
    };
    let gone = tokio::time::timeout(PATIENCE, gone).await.unwrap();
    assert!(gone > revision);
    let left = control.list_revocations().await.unwrap();
    assert!(left.unreadable.is_empty());
    let left: Vec<_> = left.entries.iter().map(|(_, record, _)| record).collect();
    assert_eq!(left, [&lasting]);
    // What was dropped can be written again.
    let (found, at) = control.get_revocation(&key).await.unwrap();
    assert_eq!(found, None);
    control.put_revocation(&brief, at, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_was_overtaken_is_told() {
    let (_spine, admin) = Spine::start().await;
    create(&admin, "acme").await;
    let control = admin.control();
    let record = one_token("one", 5_000);
    let revision = control.put_revocation(&record, 0, 0).await.unwrap();
    for stale in [0, revision - 1, revision + 1] {
        let again = control.put_revocation(&record, stale, 0).await;
        assert!(
            matches!(again, Err(ControlError::Conflict { .. })),
            "{stale}: {again:?}"
        );
    }
    // The administrator reads again, and writes.
    let revoked = admin
        .revoke(&tenant("acme"), jti("one"), "me")
        .await
        .unwrap();
    assert!(revoked.revision > revision && revoked.record.expires_at > 5_000);
    let nobody = admin.revoke(&tenant("nobody"), jti("one"), "me").await;
    assert!(
        matches!(nobody, Err(AdminError::NoTenant { .. })),
        "{nobody:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_is_told_so_and_gives_way() {
    let (spine, admin) = Spine::start().await;
    create(&admin, "acme").await;
    let acme = tenant("acme");
    let raw = jetstream::new(spine.role(Role::Admin, "raw").await.client.clone());
    let bucket = raw.get_key_value("revocations").await.unwrap();
    let ann = UserId::parse("ann").unwrap();
    let key = RevocationKey::user(&acme, &ann);
    bucket.put(key.to_string(), "garbage".into()).await.unwrap();
    bucket.put("nonsense", "garbage".into()).await.unwrap();
    // A good record under another key is none.
    let foreign = prost_bytes(&one_token("one", 5_000));
    let other = RevocationKey::jti(&acme, "two");
    bucket.put(other.to_string(), foreign.into()).await.unwrap();
    let found = admin.revocations().await.unwrap();
    assert!(found.entries.is_empty());
    assert_eq!(found.unreadable.len(), 3);

    let tokens = RevokeTokens::User {
        user: ann,
        issued_before: u64::from(u32::MAX),
    };
    admin.revoke(&acme, tokens, "me").await.unwrap();
    let dropped = admin.drop_unreadable_revocations().await.unwrap();
    assert_eq!(dropped.len(), 2);
    let found = admin.revocations().await.unwrap();
    assert_eq!((found.entries.len(), found.unreadable.len()), (1, 0));
}

fn is_2_11(connection: &Connection) -> bool {
    connection.client.server_info().version.starts_with("2.11.")
}

fn prost_bytes(record: &v1::Revocation) -> Vec<u8> {
    use prost::Message as _;
    record.encode_to_vec()
}

/// Who deletes goes by the revision that was read: what was written meanwhile stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_good_record_written_over_an_unreadable_one_is_not_dropped_with_it() {
    let (spine, admin) = Spine::start().await;
    create(&admin, "acme").await;
    let control = admin.control();
    let raw = jetstream::new(spine.role(Role::Admin, "raw").await.client.clone());
    let bucket = raw.get_key_value("revocations").await.unwrap();
    let good = one_token("one", u64::from(u32::MAX));
    bucket.put(&good.key, "garbage".into()).await.unwrap();
    let unreadable = control.list_revocations().await.unwrap().unreadable;
    let [(key, garbage)] = &unreadable[..] else {
        panic!("{unreadable:?}");
    };
    let revision = control.put_revocation(&good, *garbage, 0).await.unwrap();
    let dropped = control.delete_revocation(key, *garbage).await;
    assert!(
        matches!(dropped, Err(ControlError::Conflict { .. })),
        "{dropped:?}"
    );
    assert_eq!(
        control.get_revocation(key).await.unwrap(),
        (Some(good), revision)
    );
    control.delete_revocation(key, revision).await.unwrap();
    assert_eq!(control.get_revocation(key).await.unwrap().0, None);
}

/// A server of 2.11.0 cannot be told to, so there it is done by hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_an_older_version_learns_to_forget() {
    let (spine, admin) = Spine::start().await;
    create(&admin, "acme").await;
    let acme = tenant("acme");
    let raw = jetstream::new(spine.role(Role::Admin, "raw").await.client.clone());
    let old = |bucket: &str| jetstream::kv::Config {
        bucket: bucket.to_owned(),
        history: 1,
        ..Default::default()
    };
    let config_of = async |stream: &str| {
        let mut stream = raw.get_stream(stream).await.unwrap();
        stream.info().await.unwrap().config.clone()
    };
    raw.create_key_value(old("scratch")).await.unwrap();
    let mut wish = config_of("KV_scratch").await;
    wish.allow_message_ttl = true;
    let can_learn = raw.update_stream(wish).await.is_ok();
    for by_bootstrap in [true, false] {
        raw.delete_key_value("revocations").await.unwrap();
        raw.create_key_value(old("revocations")).await.unwrap();
        assert!(!config_of("KV_revocations").await.allow_message_ttl);
        // By starting the platform again, or with the first revocation.
        let admin = spine.admin().await;
        if by_bootstrap {
            admin.bootstrap(1, &node("main")).await.unwrap();
        } else {
            let control = admin.control();
            let ended = one_token("ended", 1_000);
            control.put_revocation(&ended, 0, 1_000).await.unwrap();
            admin.revoke(&acme, jti("one"), "me").await.unwrap();
            let left = control.list_revocations().await.unwrap().entries;
            let by_hand = left.iter().all(|(_, record, _)| *record != ended);
            assert_eq!(by_hand, !can_learn, "{left:?}");
        }
        let learnt = config_of("KV_revocations").await.allow_message_ttl;
        assert_eq!(learnt, can_learn);
    }
}
