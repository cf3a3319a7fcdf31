//! Connections come and go with use, orders and the control plane.

use std::{sync::Arc, time::Duration};

use arqon_proto::{
    codes::{CloseCode, ErrorCode},
    names::NodeId,
    v1::{self, control::Order},
};
use arqon_spine::state::Role;
use arqon_telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use super::super::{testing::*, *};
use crate::{
    auth::testing::identity,
    control::{Control, ControlContext, ControlParams, Revocations, Tenants},
    session::Sessions,
};

#[tokio::test]
async fn an_unused_link_sleeps_and_wakes_for_the_next_use() {
    let spine = Spine::start().await;
    let params = SpineParams {
        idle_close: Duration::from_millis(100),
        linger: Duration::from_millis(50),
        ..spine.params("shield-a")
    };
    let (_pool, link, _) = spine.link(params).await;
    let ear = Ear::new();
    ear.join(&link, "lobby").await;
    ear.publish(&link, "lobby", "one").await.unwrap();
    ear.hears_texts("lobby", 1).await;
    link.leave(&room("lobby"), ear.session);
    for text in ["two", "three"] {
        state(&link, LinkState::Dormant).await;
        ear.publish_acked(&link, "lobby", text, 1).await.unwrap();
        ear.hears(&Heard::Ack(1)).await;
    }
    state(&link, LinkState::Dormant).await;
    ear.join(&link, "lobby").await;
    ear.publish(&link, "lobby", "four").await.unwrap();
    ear.hears_texts("lobby", 2).await;
    assert_eq!(
        (ear.texts("lobby"), ear.gaps()),
        (vec!["one".into(), "four".into()], vec![])
    );
}

#[tokio::test]
async fn a_link_that_never_connected_refuses_and_recovers() {
    let mut spine = Spine::start().await;
    spine.server.kill().unwrap();
    let params = SpineParams {
        ack_timeout: Duration::from_millis(200),
        ..spine.params("shield-a")
    };
    let pool =
        SpinePool::new(params, crate::quota::testing::quotas(), &Metrics::default()).unwrap();
    let link = pool.link(&spine.tenant, None).unwrap();
    let ear = Ear::new();
    assert_eq!(
        ear.publish(&link, "lobby", "no").await,
        Err(ErrorCode::SpineUnavailable)
    );
    let refused = link.join(&room("lobby"), ear.member(true)).await;
    assert_eq!(refused, Err(ErrorCode::SpineUnavailable));
    spine.server.restart().unwrap();
    up(&link).await;
    ear.join(&link, "lobby").await;
    ear.publish(&link, "lobby", "yes").await.unwrap();
    ear.hears_texts("lobby", 1).await;
    assert_eq!(ear.heard().len(), 1, "no gap for one that was in no room");
}

#[tokio::test]
async fn shutdown_waits_until_the_server_has_everything() {
    let spine = Spine::start().await;
    let (pool, link, _) = spine.link(spine.params("shield-a")).await;
    let (_other_pool, other, _) = spine.link(spine.params("shield-b")).await;
    let ear = Ear::new();
    ear.join(&other, "lobby").await;
    for n in 0..1000 {
        ear.publish(&link, "lobby", &n.to_string()).await.unwrap();
    }
    pool.shutdown().await;
    assert_eq!(link.state(), LinkState::Closed);
    ear.hears_texts("lobby", 1000).await;
    assert_eq!(
        ear.publish(&link, "lobby", "late").await,
        Err(ErrorCode::SpineUnavailable)
    );
    assert!(pool.link(&spine.tenant, None).is_err());
}

/// Starts the control plane of a Shield, and waits until it is informed.
pub(super) async fn control(
    spine: &Spine,
    pool: &Arc<SpinePool>,
    metrics: &Metrics,
) -> (Control, Arc<Tenants>, ControlContext) {
    let node = pool.params().node.clone();
    let tenants = Arc::new(Tenants::new());
    let params = ControlParams {
        servers: vec![spine.server.url()],
        creds: spine.state.creds(Role::Shield, &node).unwrap(),
        node: node.clone(),
        pool: NodeId::parse("main").unwrap(),
        public_address: "ws://127.0.0.1:1".to_owned(),
    };
    let (_, deployer) = crate::policy::tests::deployer(node, metrics);
    let context = ControlContext {
        deployer: Arc::new(deployer),
        revocations: Arc::new(Revocations::new(Duration::from_secs(5))),
        pool: pool.clone(),
        sessions: Arc::new(Sessions::new()),
        metrics: metrics.clone(),
        drain: CancellationToken::new(),
    };
    let control = Control::start(params, tenants.clone(), context.clone());
    tokio::time::timeout(PATIENCE, tenants.wait_ready())
        .await
        .unwrap();
    (control, tenants, context)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_tenant_loses_sessions_and_link_and_comes_back() {
    let spine = Spine::start().await;
    let (pool, link, metrics) = spine.link(spine.params("shield-a")).await;
    let (_control, tenants, context) = control(&spine, &pool, &metrics).await;
    let id = &spine.tenant.id;
    assert_eq!(tenants.get(id).unwrap().record, spine.tenant.record);
    let ear = Ear::new();
    let user = Arc::new(identity(&spine.tenant, "ann"));
    let _registered = context.sessions.register(&user, &ear.outbox);
    ear.join(&link, "lobby").await;

    spine.admin.suspend(id).await.unwrap();
    until("the session is closed", || {
        ear.closed() == Some(CloseCode::TenantGone)
    })
    .await;
    state(&link, LinkState::Closed).await;
    assert!(!tenants.get(id).unwrap().is_active());

    spine.admin.resume(id).await.unwrap();
    until("the tenant is back", || {
        tenants.get(id).is_some_and(|tenant| tenant.is_active())
    })
    .await;
    let link = pool.link(&tenants.get(id).unwrap(), None).unwrap();
    let again = Ear::new();
    again.join(&link, "lobby").await;
    again.publish(&link, "lobby", "back").await.unwrap();
    again.hears_texts("lobby", 1).await;

    spine.admin.delete(id).await.unwrap();
    until("the tenant is gone", || tenants.get(id).is_none()).await;
    state(&link, LinkState::Closed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_is_read_again_after_a_loss() {
    let mut spine = Spine::start().await;
    let (pool, _link, metrics) = spine.link(spine.params("shield-a")).await;
    let (_control, tenants, _context) = control(&spine, &pool, &metrics).await;
    let beta = create(&spine.admin, "beta").await;
    until("a new tenant is known", || tenants.get(&beta.id).is_some()).await;
    assert!(tenants.age().is_none());
    spine.server.kill().unwrap();
    until("the loss is noticed", || tenants.age().is_some()).await;
    assert!(
        tenants.ready() && tenants.get(&beta.id).is_some(),
        "the last snapshot stands"
    );
    spine.server.restart().unwrap();
    until("it is read again", || tenants.age().is_none()).await;
    assert_eq!(tenants.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beats_tell_the_truth_and_orders_are_obeyed() {
    use futures_util::StreamExt;

    let spine = Spine::start().await;
    let (pool, link, metrics) = spine.link(spine.params("shield-a")).await;
    let (_control, _tenants, context) = control(&spine, &pool, &metrics).await;
    let ear = Ear::new();
    let user = Arc::new(identity(&spine.tenant, "ann"));
    let _registered = context.sessions.register(&user, &ear.outbox);
    ear.join(&link, "lobby").await;
    ear.publish(&link, "lobby", "one").await.unwrap();

    let store = spine.admin.control();
    let mut beats = store.subscribe_beats().await.unwrap();
    let mut beat = async |so: &dyn Fn(&v1::ShieldBeat) -> bool| {
        let wait = async {
            loop {
                let beat = beats.next().await.unwrap();
                if so(&beat) {
                    return beat;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap()
    };
    let first = beat(&|beat| beat.rooms == 1 && beat.messages_in == 1).await;
    assert_eq!(
        (first.shield.as_str(), first.sessions, first.messages_in),
        ("shield-a", 1, 1)
    );
    assert_eq!(
        (first.ready, first.draining, first.incarnation.len()),
        (true, false, 16)
    );
    assert_eq!(first.tenants[0].tenant, "acme");
    assert_eq!(first.fleet_key, pool.fleet_key());

    let rotate = v1::RotateCredentials {
        tenant: "acme".to_owned(),
    };
    store
        .send_order(None, Order::RotateCredentials(rotate))
        .await
        .unwrap();
    let ok = arqon_telemetry::labels::Outcome::Ok;
    until("a rotation", || {
        metrics.rotations.get_or_create(&ok).get() == 1
    })
    .await;

    let drain = Order::Drain(v1::Drain {});
    let node = NodeId::parse("shield-a").unwrap();
    store.send_order(Some(&node), drain).await.unwrap();
    beat(&|beat| beat.draining && !beat.ready).await;
    assert!(context.drain.is_cancelled());
    assert_eq!(ear.gaps(), []);
}
