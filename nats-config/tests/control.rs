//! Records in KV: read to the end, then every change, and an end when it breaks.
#![allow(clippy::unwrap_used)]

mod common;

use arqon_proto::v1;
use arqon_spine::control::{ControlError, ControlStore, PoolEvent, RecordStream, TenantEvent};
use arqon_spine::nats::jetstream;
use arqon_spine::state::Role;
use common::{PATIENCE, Spine, create, node, tenant};
use futures_util::StreamExt;

async fn event(
    watch: &mut RecordStream<v1::TenantRecord>,
) -> Option<Result<TenantEvent, ControlError>> {
    tokio::time::timeout(PATIENCE, watch.next()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_bucket_is_read_at_once() {
    let (spine, admin) = Spine::start().await;
    let shield = spine.role(Role::Shield, "shield-1").await;
    let store = ControlStore::new(&shield);
    let mut watch = store.watch_tenants().await.unwrap();
    assert_eq!(
        event(&mut watch).await.unwrap().unwrap(),
        TenantEvent::Synced
    );
    let acme = create(&admin, "acme").await;
    assert!(
        matches!(event(&mut watch).await, Some(Ok(TenantEvent::Put(record, _))) if record == acme)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_then_the_mark_then_changes() {
    let (spine, admin) = Spine::start().await;
    let shield = spine.role(Role::Shield, "shield-1").await;
    let store = ControlStore::new(&shield);
    // Opened while empty: what it remembers of the bucket must not matter.
    assert!(store.list_tenants().await.unwrap().is_empty());
    for name in ["acme", "globex", "initech"] {
        create(&admin, name).await;
    }
    admin.delete(&tenant("globex")).await.unwrap();
    let mut watch = store.watch_tenants().await.unwrap();
    let mut names = Vec::new();
    loop {
        match event(&mut watch).await.unwrap().unwrap() {
            TenantEvent::Put(record, _) => names.push(record.id),
            TenantEvent::Deleted(id, _) => assert_eq!(id, tenant("globex")),
            TenantEvent::Unreadable(..) => panic!("told of tenants as deleted"),
            TenantEvent::Synced => break,
        }
    }
    names.sort();
    assert_eq!(names, ["acme", "initech"]);
    let listed = store.list_tenants().await.unwrap();
    let listed: Vec<_> = listed.iter().map(|(record, _)| &record.id).collect();
    assert_eq!(listed, ["acme", "initech"]);

    let suspended = admin.suspend(&tenant("acme")).await.unwrap();
    assert!(
        matches!(event(&mut watch).await, Some(Ok(TenantEvent::Put(record, _))) if record == suspended)
    );
    admin.delete(&tenant("acme")).await.unwrap();
    assert!(
        matches!(event(&mut watch).await, Some(Ok(TenantEvent::Deleted(id, _))) if id == tenant("acme"))
    );

    let mut pools = store.watch_pools().await.unwrap();
    let first = tokio::time::timeout(PATIENCE, pools.next()).await.unwrap();
    assert!(matches!(first, Some(Ok(PoolEvent::Put(pool, _))) if pool.name == "main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_ends_the_watch_with_an_error() {
    let (mut spine, admin) = Spine::start().await;
    create(&admin, "acme").await;
    let shield = spine.role(Role::Shield, "shield-1").await;
    let store = ControlStore::new(&shield);
    let mut watch = store.watch_tenants().await.unwrap();
    let mut orders = store.subscribe_orders(&node("shield-1")).await.unwrap();
    while event(&mut watch).await.unwrap().unwrap() != TenantEvent::Synced {}
    spine.server.kill().unwrap();
    assert!(matches!(
        event(&mut watch).await,
        Some(Err(ControlError::Closed))
    ));
    assert!(event(&mut watch).await.is_none());
    let ended = tokio::time::timeout(PATIENCE, orders.next()).await.unwrap();
    assert!(ended.is_none());

    spine.server.restart().unwrap();
    let shield = spine.role(Role::Shield, "shield-1").await;
    let store = ControlStore::new(&shield);
    let mut watch = store.watch_tenants().await.unwrap();
    assert!(
        matches!(event(&mut watch).await, Some(Ok(TenantEvent::Put(record, _))) if record.id == "acme")
    );
    assert_eq!(
        event(&mut watch).await.unwrap().unwrap(),
        TenantEvent::Synced
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_not_readable_serves_nobody() {
    let (spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    let raw = spine.role(Role::Admin, "arq").await;
    let kv = jetstream::new(raw.client.clone())
        .get_key_value("tenants")
        .await
        .unwrap();
    let shield = spine.role(Role::Shield, "shield-1").await;
    let store = ControlStore::new(&shield);
    let mut watch = store.watch_tenants().await.unwrap();
    while event(&mut watch).await.unwrap().unwrap() != TenantEvent::Synced {}
    kv.put("acme", "\u{ff}\u{ff}".into()).await.unwrap();
    assert!(
        matches!(event(&mut watch).await, Some(Ok(TenantEvent::Deleted(id, _))) if id == tenant("acme"))
    );
    assert!(matches!(
        store.get_tenant(&tenant("acme")).await,
        Err(ControlError::Read { .. })
    ));
    // Nor one under another's name.
    let bytes = prost::Message::encode_to_vec(&acme);
    kv.put("globex", bytes.into()).await.unwrap();
    assert!(
        matches!(event(&mut watch).await, Some(Ok(TenantEvent::Deleted(id, _))) if id == tenant("globex"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_do_not_overwrite_each_other() {
    let (_spine, admin) = Spine::start().await;
    let store = admin.control();
    let mut record = create(&admin, "acme").await;
    assert!(matches!(
        store.create_tenant(&record).await,
        Err(ControlError::Conflict { .. })
    ));
    let (_, revision) = store.get_tenant(&tenant("acme")).await.unwrap().unwrap();
    record.pool = "other".to_owned();
    let next = store.put_tenant(&record, revision).await.unwrap();
    assert!(next > revision);
    assert!(matches!(
        store.put_tenant(&record, revision).await,
        Err(ControlError::Conflict { .. })
    ));
    assert!(store.get_tenant(&tenant("none")).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_named() {
    let spine = Spine::bare();
    let shield = spine.role(Role::Shield, "shield-1").await;
    let error = ControlStore::new(&shield)
        .watch_tenants()
        .await
        .err()
        .unwrap();
    assert_eq!(error.to_string(), "cannot open KV bucket `tenants`");
}
