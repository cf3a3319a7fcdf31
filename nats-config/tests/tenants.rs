//! Tenants created and changed on a running server.
#![allow(clippy::unwrap_used)]

mod common;

use arqon_proto::v1;
use arqon_spine::admin::WaitFor;
use arqon_spine::connect::{ConnectError, Connection, TenantOptions, connect_tenant};
use common::{Spine, create, ends, node, tenant, wish};

#[tokio::test(flavor = "multi_thread")]
async fn created_live_and_only_once() {
    let (spine, admin) = Spine::start().await;
    let first = admin.create_tenant(wish("acme")).await.unwrap();
    assert!(!first.existed);
    println!("first tenant verified after {} ms", first.verified_ms);
    let again = admin.create_tenant(wish("acme")).await.unwrap();
    assert!(again.existed);
    assert_eq!(again.record, first.record);
    for n in 0..5 {
        let created = admin.create_tenant(wish(&format!("t{n}"))).await.unwrap();
        println!("tenant verified after {} ms", created.verified_ms);
    }
    assert_eq!(admin.list().await.unwrap().len(), 6);
    let connection = spine.fleet(&first.record).await;
    common::barrier(&connection).await;
    assert_eq!(admin.show(&tenant("acme")).await.unwrap(), first.record);
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_at_once_and_resumed() {
    let (spine, admin) = Spine::start().await;
    let record = create(&admin, "acme").await;
    let connection = spine.fleet(&record).await;
    let suspended = admin.suspend(&tenant("acme")).await.unwrap();
    assert_eq!(suspended.state(), v1::TenantState::Suspended);
    let words = ends(connection.events).await;
    assert!(
        words
            .iter()
            .any(|w| w.contains("maximum account active connections")),
        "{words:?}"
    );
    let refused = connect_tenant(
        &spine.servers(),
        spine.fleet_user(&record),
        "test",
        TenantOptions::default(),
    )
    .await;
    assert!(
        matches!(refused, Err(ConnectError::AccountFull { .. })),
        "{refused:?}"
    );
    // Twice is once.
    admin.suspend(&tenant("acme")).await.unwrap();
    let resumed = admin.resume(&tenant("acme")).await.unwrap();
    assert_eq!(resumed, record);
    common::barrier(&spine.fleet(&record).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_and_created_anew_as_another() {
    let (spine, admin) = Spine::start().await;
    let record = create(&admin, "acme").await;
    let connection = spine.fleet(&record).await;
    admin.delete(&tenant("acme")).await.unwrap();
    ends(connection.events).await;
    assert!(admin.show(&tenant("acme")).await.is_err());
    assert!(admin.delete(&tenant("acme")).await.is_err());
    let again = create(&admin, "acme").await;
    assert_ne!(again.account, record.account);
    common::barrier(&spine.fleet(&again).await).await;
    // The old account stays dead.
    let refused = connect_tenant(
        &spine.servers(),
        spine.fleet_user(&record),
        "test",
        TenantOptions::default(),
    )
    .await;
    assert!(
        matches!(refused, Err(ConnectError::Refused { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_keeps_them() {
    let (mut spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    let globex = create(&admin, "globex").await;
    admin.suspend(&tenant("globex")).await.unwrap();
    spine.server.restart().unwrap();
    common::barrier(&spine.fleet(&acme).await).await;
    let admin = spine.admin().await;
    let records = admin.list().await.unwrap();
    assert_eq!(records[0], acme);
    assert_eq!(records[1].id, globex.id);
    assert_eq!(records[1].state(), v1::TenantState::Suspended);
    let report = admin.reassert().await.unwrap();
    assert_eq!(
        (report.unchanged, report.pushed.len(), report.orphans.len()),
        (2, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_altered_account_is_asserted_again() {
    let (mut spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    create(&admin, "globex").await;
    spine.server.stop().unwrap();
    let accounts = spine.server.params().store_dir.join("accounts");
    std::fs::remove_file(accounts.join(format!("{}.jwt", acme.account))).unwrap();
    spine.server.restart().unwrap();
    let admin = spine.admin().await;
    let report = admin.reassert().await.unwrap();
    assert_eq!(report.pushed, ["acme"]);
    assert_eq!(report.unchanged, 1);
    common::barrier(&spine.fleet(&acme).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_admins_agree() {
    let (spine, one) = Spine::start().await;
    let other = spine.admin().await;
    let (a, b) = tokio::join!(
        one.create_tenant(wish("acme")),
        other.create_tenant(wish("acme"))
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.record, b.record);
    assert!(a.existed != b.existed);
    for _ in 0..5 {
        let id = tenant("acme");
        let (a, b) = tokio::join!(one.suspend(&id), other.resume(&id));
        // Either may have lost the race for the record, or seen the other's
        // state when it verified; what counts is that both agree in the end.
        drop((a, b));
        let record = one.show(&id).await.unwrap();
        let connected = connect_tenant(
            &spine.servers(),
            spine.fleet_user(&record),
            "test",
            TenantOptions::default(),
        )
        .await;
        assert_eq!(connected.is_ok(), record.state() == v1::TenantState::Active);
    }
    let report = one.reassert().await.unwrap();
    assert_eq!(
        (report.unchanged, report.pushed.len(), report.orphans.len()),
        (1, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_two_admins_both_hold_and_nats_holds_the_tenant_to_the_size() {
    let (spine, one) = Spine::start().await;
    let record = create(&one, "acme").await;
    let other = spine.admin().await;
    let id = tenant("acme");
    let wait = WaitFor {
        census: std::time::Duration::ZERO,
        patience: std::time::Duration::ZERO,
    };
    let size = |limits: &mut v1::TenantLimits| limits.max_payload_bytes = 1_000;
    let rate = |limits: &mut v1::TenantLimits| limits.messages_per_sec = 7;
    let (a, b) = tokio::join!(
        one.change_limits(&id, size, wait),
        other.change_limits(&id, rate, wait)
    );
    assert!(!a.unwrap().account_behind && !b.unwrap().account_behind);
    let limits = one.show(&id).await.unwrap().limits.unwrap();
    assert_eq!(
        (limits.max_payload_bytes, limits.messages_per_sec),
        (1_000, 7)
    );

    // As Shield would not: more than presence needs.
    let publish = async |connection: &Connection, bytes: usize| {
        let client = &connection.client;
        client
            .publish("acme.lobby", vec![0; bytes].into())
            .await
            .unwrap();
    };
    let connection = spine.fleet(&record).await;
    publish(&connection, 65_536).await;
    common::barrier(&connection).await;
    // Raised while it is connected, and nobody is cut for that.
    let off = |limits: &mut v1::TenantLimits| limits.max_payload_bytes = 0;
    let raised = one.change_limits(&id, off, wait).await.unwrap();
    assert_eq!(raised.shields, Some(Vec::new()));
    publish(&connection, 65_537).await;
    common::barrier(&connection).await;
    let lowered = one.change_limits(&id, size, wait).await.unwrap();
    assert!(!lowered.account_behind, "no Shield is there to wait for");
    publish(&connection, 65_537).await;
    ends(connection.events).await;
    let unchanged = one.change_limits(&id, size, wait).await.unwrap();
    assert_eq!(unchanged.shields, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_pool_is_named() {
    let (_spine, admin) = Spine::start().await;
    let mut wish = wish("acme");
    wish.pool = node("nowhere");
    let error = admin.create_tenant(wish).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no pool `nowhere`");
    assert!(admin.list().await.unwrap().is_empty());
    assert!(admin.reassert().await.unwrap().orphans.is_empty());
}
