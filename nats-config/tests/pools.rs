//! A pool's fleet key replaced while its Shields run.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use arqon_proto::v1;
use arqon_spine::admin::{AdminError, RotateStep};
use arqon_spine::connect::{ConnectError, TenantOptions, connect_tenant};
use arqon_spine::control::ControlStore;
use arqon_spine::credentials::{FleetKey, mint_tenant_user};
use arqon_spine::state::Role;
use common::{Spine, barrier, create, ends, node, tenant, wish};
use futures_util::StreamExt;

/// What a Shield does about its fleet key: beats, and on order reads the file.
async fn shield(spine: &Spine, id: &str, obeys: bool) -> tokio::task::JoinHandle<()> {
    let connection = spine.role(Role::Shield, id).await;
    let id = node(id);
    let path = spine.state.fleet_key_path(&node("main"));
    let store = ControlStore::new(&connection);
    let mut orders = store.subscribe_orders(&id).await.unwrap();
    tokio::spawn(async move {
        let _connection = connection;
        let mut key = FleetKey::read(&path).unwrap();
        loop {
            let beat = v1::ShieldBeat {
                shield: id.to_string(),
                pool: "main".to_owned(),
                fleet_key: key.public().to_owned(),
                ..Default::default()
            };
            if store.publish_beat(&id, &beat).await.is_err() {
                return;
            }
            tokio::select! {
                order = orders.next() => match order {
                    Some(v1::control::Order::ReloadFleetKey(_)) if obeys => {
                        key = FleetKey::read(&path).unwrap();
                    }
                    Some(_) => {}
                    None => return,
                },
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_live_and_the_old_key_dies() {
    let (spine, admin) = Spine::start().await;
    admin.create_pool(&node("other")).await.unwrap();
    let mut elsewhere = wish("globex");
    elsewhere.pool = node("other");
    let globex = admin.create_tenant(elsewhere).await.unwrap().record;
    let acme = create(&admin, "acme").await;
    let old = spine.state.fleet_key(&node("main")).unwrap();
    let connection = spine.fleet(&acme).await;
    let apart = spine.fleet(&globex).await;
    let shields = [
        shield(&spine, "s1", true).await,
        shield(&spine, "s2", true).await,
    ];

    let mut steps = Vec::new();
    let record = admin
        .rotate_pool_key(&node("main"), Duration::from_secs(30), |step| {
            steps.push(step)
        })
        .await
        .unwrap();
    let new = spine.state.fleet_key(&node("main")).unwrap();
    assert_ne!(new.public(), old.public());
    assert_eq!(record.fleet_keys, [new.public().to_owned()]);
    assert!(matches!(steps[0], RotateStep::KeyReady { .. }));
    assert_eq!(steps[1], RotateStep::BothListed { tenants: 1 });
    assert!(matches!(steps[2], RotateStep::InForce { .. }));
    for id in ["s1", "s2"] {
        assert!(steps.contains(&RotateStep::Switched {
            shield: id.to_owned()
        }));
    }
    assert_eq!(steps.last(), Some(&RotateStep::OldRemoved { tenants: 1 }));

    // Connections under the old key are cut, new ones refused.
    ends(connection.events).await;
    let user = mint_tenant_user(
        &old,
        &acme.account,
        &tenant("acme"),
        "shield-1",
        Duration::from_secs(60),
    );
    let outcome = connect_tenant(&spine.servers(), user, "test", TenantOptions::default()).await;
    assert!(
        matches!(outcome, Err(ConnectError::Refused { .. })),
        "{outcome:?}"
    );
    barrier(&spine.fleet(&acme).await).await;
    barrier(&apart).await;
    shields.iter().for_each(|shield| shield.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shield_that_stays_behind_keeps_the_old_key_alive() {
    let (spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    let connection = spine.fleet(&acme).await;
    let stubborn = shield(&spine, "s1", false).await;
    let outcome = admin
        .rotate_pool_key(&node("main"), Duration::from_millis(10), |_| {})
        .await;
    let Err(AdminError::ShieldsBehind { shields, .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(shields, ["s1"]);
    barrier(&connection).await;
    stubborn.abort();
    let _ = stubborn.await;

    // Repeated, it takes up where it was.
    let obedient = shield(&spine, "s1", true).await;
    let before = admin.list_pools().await.unwrap()[0].clone();
    assert_eq!(before.fleet_keys.len(), 2);
    let after = admin
        .rotate_pool_key(&node("main"), Duration::from_secs(30), |_| {})
        .await
        .unwrap();
    assert_eq!(after.fleet_keys, before.fleet_keys[..1]);
    ends(connection.events).await;
    obedient.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn created_once() {
    let (_spine, admin) = Spine::start().await;
    let (first, existed) = admin.create_pool(&node("blue")).await.unwrap();
    assert!(!existed);
    let (again, existed) = admin.create_pool(&node("blue")).await.unwrap();
    assert!(existed);
    assert_eq!(first, again);
    let names: Vec<_> = admin
        .list_pools()
        .await
        .unwrap()
        .into_iter()
        .map(|p| p.name)
        .collect();
    assert_eq!(names, ["blue", "main"]);
    let error = admin
        .rotate_pool_key(&node("green"), Duration::ZERO, |_| {})
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "there is no pool `green`");
}
