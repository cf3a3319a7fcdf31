//! Each role of the platform may do what it needs and no more, on the server.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use arqon_proto::names::{NodeId, TenantId};
use arqon_proto::v1;
use arqon_spine::control::{ControlStore, RecordEvent};
use arqon_spine::nats::jetstream;
use arqon_spine::state::Role;
use arqon_spine::subjects;
use common::{
    PATIENCE, Spine, create, next, node, quiet, refused_publish, refused_subscribe, tenant,
};
use futures_util::{FutureExt, StreamExt};

#[tokio::test(flavor = "multi_thread")]
async fn a_shield_reads_and_reports_and_no_more() {
    let (spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    let mut shield = spine.role(Role::Shield, "shield-1").await;
    for subject in [
        "$KV.tenants.acme",
        "$KV.pools.main",
        "$KV.policies.acme",
        "$KV.policies.platform.words",
        "$KV.policies.tenant.acme.words",
        "$KV.revocations.acme",
        "$O.wasm.C.x",
        "$O.wasm.M.x",
        "$JS.API.STREAM.CREATE.mine",
        "$JS.API.STREAM.CREATE.KV_tenants",
        "$JS.API.STREAM.UPDATE.KV_tenants",
        "$JS.API.STREAM.DELETE.KV_tenants",
        "$JS.API.STREAM.PURGE.KV_tenants",
        "$JS.API.STREAM.SNAPSHOT.KV_tenants",
        "$JS.API.STREAM.RESTORE.KV_tenants",
        "$JS.SNAPSHOT.RESTORE.KV_tenants.any",
        "$JS.API.STREAM.MSG.DELETE.KV_tenants",
        "$JS.API.STREAM.UPDATE.AUDIT",
        "$JS.API.STREAM.DELETE.AUDIT",
        "$JS.API.STREAM.PURGE.AUDIT",
        "$JS.API.STREAM.MSG.GET.AUDIT",
        "$JS.API.DIRECT.GET.AUDIT",
        "$JS.API.CONSUMER.CREATE.AUDIT",
        "$JS.API.STREAM.MSG.DELETE.KV_policies",
        "$JS.API.STREAM.PURGE.KV_policies",
        "$JS.API.STREAM.PURGE.OBJ_wasm",
        "$JS.API.STREAM.DELETE.OBJ_wasm",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.CONSUMER.NAMES.KV_tenants",
        "$JS.API.CONSUMER.LIST.KV_tenants",
        "$JS.API.CONSUMER.DELETE.KV_tenants.any",
        "$JS.API.CONSUMER.DURABLE.CREATE.KV_tenants.any",
        "$JS.API.CONSUMER.MSG.NEXT.KV_tenants.any",
        "$JS.API.META.LEADER.STEPDOWN",
        "$JS.API.SERVER.REMOVE",
        "$JS.API.ACCOUNT.PURGE.CONTROL",
        "shield.shield-2.beat",
        "shield.shield-2.policies",
        "shield.shield-2.load",
        "shield.shield-2.audit",
        "brain.brain-1.beat",
        "ctl.all.order",
        "ctl.shield.shield-1.order",
        "ctl.shield.shield-2.order",
        "_INBOX.other.x",
        "$SYS.REQ.CLAIMS.UPDATE",
        "$SYS.REQ.USER.INFO",
    ] {
        refused_publish(&mut shield, subject).await;
    }
    for subject in [
        ">",
        "ctl.>",
        "ctl.shield.>",
        "ctl.shield.shield-2.>",
        "shield.>",
        "shield.*.beat",
        "brain.>",
        "$KV.>",
        "$KV.tenants.>",
        "shield.*.audit",
        "$JS.>",
        "_INBOX.>",
    ] {
        refused_subscribe(&mut shield, subject).await;
    }
    assert_eq!(admin.show(&tenant("acme")).await.unwrap(), acme);

    let store = ControlStore::new(&shield);
    assert_eq!(
        store.get_tenant(&tenant("acme")).await.unwrap().unwrap().0,
        acme
    );
    let mut watch = store.watch_tenants().await.unwrap();
    let first = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert!(matches!(first, Some(Ok(RecordEvent::Put(record, _))) if record == acme));

    let mut beats = admin.control().subscribe_beats().await.unwrap();
    let mut orders = store.subscribe_orders(&node("shield-1")).await.unwrap();
    store.flush().await.unwrap();
    common::barrier(&shield).await;
    let beat = v1::ShieldBeat {
        shield: "shield-1".to_owned(),
        ..Default::default()
    };
    let told = tokio::time::timeout(PATIENCE, async {
        loop {
            store.publish_beat(&node("shield-1"), &beat).await.unwrap();
            if let Ok(Some(beat)) =
                tokio::time::timeout(Duration::from_millis(100), beats.next()).await
            {
                break beat;
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(told, beat);
    for to in [Some(node("shield-1")), None] {
        let order = v1::control::Order::Drain(v1::Drain {});
        admin
            .control()
            .send_order(to.as_ref(), order)
            .await
            .unwrap();
        let order = tokio::time::timeout(PATIENCE, orders.next()).await.unwrap();
        assert!(matches!(order, Some(v1::control::Order::Drain(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_cannot_forge_an_order() {
    let (spine, admin) = Spine::start().await;
    create(&admin, "acme").await;
    let rogue = spine.role(Role::Shield, "rogue").await;
    let victim = spine.role(Role::Shield, "victim").await;
    let store = ControlStore::new(&victim);
    let mut orders = store.subscribe_orders(&node("victim")).await.unwrap();
    let mut raw = victim.client.subscribe("ctl.all.order").await.unwrap();
    common::barrier(&victim).await;
    let stream = jetstream::new(rogue.client.clone())
        .get_stream("KV_tenants")
        .await
        .unwrap();
    stream
        .create_consumer(jetstream::consumer::push::Config {
            deliver_subject: "ctl.all.order".to_owned(),
            ack_policy: jetstream::consumer::AckPolicy::None,
            ..Default::default()
        })
        .await
        .unwrap();
    // JetStream does deliver there, past the rogue's own permissions …
    next(&mut raw).await;
    // … and it is not taken for an order.
    let order = v1::control::Order::Drain(v1::Drain {});
    admin
        .control()
        .send_order(None, order.clone())
        .await
        .unwrap();
    let told = tokio::time::timeout(PATIENCE, orders.next()).await.unwrap();
    assert_eq!(told, Some(order));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brain_beats_and_no_more() {
    let (spine, _admin) = Spine::start().await;
    let mut control = spine.role(Role::ControlBrain, "brain-1").await;
    for subject in [
        "$KV.tenants.acme",
        "$JS.API.INFO",
        "$JS.API.STREAM.INFO.KV_tenants",
        "ctl.all.order",
        "shield.shield-1.beat",
        "brain.brain-2.beat",
        "$SYS.REQ.SERVER.PING",
    ] {
        refused_publish(&mut control, subject).await;
    }
    for subject in [
        ">",
        "ctl.shield.shield-1.order",
        "brain.*.ask.shield-1",
        "$KV.>",
        "_INBOX.>",
    ] {
        refused_subscribe(&mut control, subject).await;
    }
    let mut beats = control.client.subscribe("brain.*.beat").await.unwrap();
    control
        .client
        .publish("brain.brain-1.beat", "x".into())
        .await
        .unwrap();
    next(&mut beats).await;

    let mut brain = spine.role(Role::Brain, "brain-1").await;
    for subject in [
        "acme.lobby",
        "presence.x.join",
        "_arq.presence.x",
        "$JS.API.INFO",
        "$SYS.REQ.SERVER.PING",
    ] {
        refused_publish(&mut brain, subject).await;
    }
    for subject in [">", "acme.>", "_INBOX.>", "$SYS.>"] {
        refused_subscribe(&mut brain, subject).await;
    }
}

/// One of the Brains that share the queries hears a tenant ask, and answers
/// that tenant's Shield alone, by the account the server wrote into the subject.
#[tokio::test(flavor = "multi_thread")]
async fn a_brain_answers_the_shield_that_asks_in_a_tenant() {
    let (spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    let globex = create(&admin, "globex").await;
    let brain = spine.role(Role::Brain, "brain-1").await;
    let mut asked = brain
        .client
        .queue_subscribe(subjects::BRAIN_QUERIES, subjects::BRAIN_QUEUE.to_owned())
        .await
        .unwrap();
    common::barrier(&brain).await;
    let client = brain.client.clone();
    let shield = NodeId::parse("shield-1").unwrap();
    let answerer = shield.clone();
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            let account = subjects::account_of(&message.subject).unwrap();
            let to = subjects::brain_orders(account, &answerer);
            client.publish(to, "here".into()).await.unwrap();
        }
    });
    let a = spine.fleet(&acme).await;
    let g = spine.fleet(&globex).await;
    let own = |tenant: &str| subjects::presence_orders(&TenantId::parse(tenant).unwrap(), &shield);
    let mut heard = a.client.subscribe(own("acme")).await.unwrap();
    let mut others = g.client.subscribe(own("globex")).await.unwrap();
    common::barrier(&a).await;
    common::barrier(&g).await;
    a.client
        .publish(subjects::PRESENCE_QUERY, "who".into())
        .await
        .unwrap();
    assert_eq!(next(&mut heard).await.payload, "here");
    g.client
        .publish(subjects::PRESENCE_QUERY, "who".into())
        .await
        .unwrap();
    assert_eq!(next(&mut others).await.payload, "here");
    assert!(
        heard.next().now_or_never().is_none(),
        "acme heard globex's answer"
    );
}

/// A Brain asks a Shield, which hears it and answers to all Brains.
#[tokio::test(flavor = "multi_thread")]
async fn a_brain_asks_a_shield_for_its_digests() {
    let (spine, _admin) = Spine::start().await;
    let brain = spine.role(Role::ControlBrain, "brain-1").await;
    let shield = spine.role(Role::Shield, "shield-1").await;
    let (brain_id, id) = (
        NodeId::parse("brain-1").unwrap(),
        NodeId::parse("shield-1").unwrap(),
    );
    let (of_brain, of_shield) = (ControlStore::new(&brain), ControlStore::new(&shield));
    let mut asks = of_shield.subscribe_asks(&id).await.unwrap();
    let mut digests = of_brain.subscribe_presence().await.unwrap();
    common::barrier(&brain).await;
    common::barrier(&shield).await;
    let ask = v1::PresenceAsk { epoch: 7 };
    of_brain.publish_ask(&brain_id, &id, &ask).await.unwrap();
    let heard = tokio::time::timeout(PATIENCE, asks.next()).await;
    assert_eq!(heard.unwrap(), Some(ask));
    let page = v1::PresenceDigests {
        shield: id.to_string(),
        epoch: 7,
        last: true,
        ..Default::default()
    };
    of_shield.publish_presence(&id, &page).await.unwrap();
    let heard = tokio::time::timeout(PATIENCE, digests.next()).await;
    assert_eq!(heard.unwrap(), Some(page));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_does_its_list() {
    let (spine, admin) = Spine::start().await;
    let acme = create(&admin, "acme").await;
    let mut system = spine.role(Role::ControlPlane, "arq").await;
    for subject in [
        "$SYS.REQ.SERVER.PING.VARZ",
        "$SYS.REQ.SERVER.ANY.RELOAD",
        "$SYS.REQ.SERVER.ANY.LDM",
        "$SYS.REQ.SERVER.ANY.CONNZ",
        &format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", acme.account),
        &format!("$SYS.ACCOUNT.{}.CLAIMS.UPDATE", acme.account),
        "$SYS.REQ.CLAIMS.PACK",
        "acme.lobby",
        "anything",
        "_INBOX.other.x",
    ] {
        refused_publish(&mut system, subject).await;
    }
    for subject in [">", "$SYS.>", "$SYS.ACCOUNT.>", "_INBOX.>", "acme.>"] {
        refused_subscribe(&mut system, subject).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_writes_control_and_forges_no_beat() {
    let (spine, _admin) = Spine::start().await;
    let mut admin = spine.role(Role::Admin, "arq").await;
    for subject in [
        "shield.shield-1.beat",
        "shield.shield-1.policies",
        "shield.shield-1.audit",
        "brain.brain-1.beat",
        "acme.lobby",
        "$SYS.REQ.CLAIMS.UPDATE",
    ] {
        refused_publish(&mut admin, subject).await;
    }
    for subject in [">", "_INBOX.>", "$SYS.>"] {
        refused_subscribe(&mut admin, subject).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_platforms_users_are_refused() {
    let (spine, _admin) = Spine::start().await;
    let folder = tempfile::tempdir().unwrap();
    let foreign = arqon_spine::state::StateFolder::create(folder.path().join("s")).unwrap();
    for role in Role::ALL {
        let mut user = foreign.mint(role, &node("x"), None).unwrap();
        user.jwt = {
            // Right account, wrong signer.
            let account = spine.state.account(role.account()).unwrap();
            let key = foreign.role_key(role).unwrap();
            let minted = arqon_spine::credentials::mint_user(&key, &account, "x", None).unwrap();
            user.key_pair = minted.key_pair;
            user.public_key = minted.public_key;
            minted.jwt
        };
        let outcome =
            arqon_spine::connect::connect_user(&spine.servers(), user, "test", &Default::default())
                .await;
        assert!(outcome.is_err());
    }
    let shield = spine.role(Role::Shield, "shield-1").await;
    let mut silent = shield.client.subscribe("ctl.all.order").await.unwrap();
    common::barrier(&shield).await;
    quiet(&mut silent).await;
}
