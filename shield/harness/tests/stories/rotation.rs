//! Credentials and keys change under live publishers, and nobody notices.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arqon_harness::{Client, Proxy, Spine, TestShield, TestTenant, eventually, text_of, within};
use arqon_proto::names::NodeId;
use arqon_proto::v1::{Opcode, control::Order, envelope::Body};
use arqon_spine::connect::{TenantOptions, connect_tenant};
use arqon_spine::credentials::mint_tenant_user;
use tokio::task::JoinHandle;

/// Publishes numbers into a room until told to stop; gives how many.
pub(crate) fn speak(
    mut client: Client,
    room: &'static str,
    stop: Arc<AtomicBool>,
) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut number = 0;
        while !stop.load(Ordering::SeqCst) {
            client.publish(room, number.to_string()).await;
            number += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        client.publish(room, "end").await;
        // Once PONG is here, all before was taken.
        client.ping().await;
        number
    })
}

/// Publishes with acknowledgement, one at a time; each must be acknowledged.
fn speak_acknowledged(
    mut client: Client,
    room: &'static str,
    stop: Arc<AtomicBool>,
) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut number = 0;
        while !stop.load(Ordering::SeqCst) {
            let reference = client.publish_with(room, number.to_string(), &[]).await;
            let ack = client.expect(Opcode::Ack).await;
            assert_eq!(ack.r#ref, reference);
            number += 1;
        }
        client.publish(room, "end").await;
        client.ping().await;
        number
    })
}

/// Hears until as many publishers ended: each in order, nothing lost, nothing twice.
pub(crate) fn hear(mut client: Client, publishers: usize) -> JoinHandle<HashMap<String, u64>> {
    tokio::spawn(async move {
        let (mut next, mut ended) = (HashMap::<String, u64>::new(), 0);
        while ended < publishers {
            let frame = client.expect(Opcode::Message).await;
            let Some(Body::Message(message)) = &frame.body else {
                unreachable!("MESSAGE has its body");
            };
            let user = message.sender.clone().unwrap().user;
            let expected = next.entry(user.clone()).or_default();
            match text_of(&frame).as_str() {
                "end" => ended += 1,
                text => {
                    assert_eq!(text, expected.to_string(), "of {user}");
                    *expected += 1;
                }
            }
        }
        client.ping().await;
        next
    })
}

/// Several publishers and hearers over two Shields, while something goes on.
struct Traffic {
    stop: Arc<AtomicBool>,
    speakers: Vec<(String, JoinHandle<u64>)>,
    hearers: Vec<JoinHandle<HashMap<String, u64>>>,
}

impl Traffic {
    async fn over(shields: &[&TestShield], tenant: &TestTenant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut speakers, mut hearers) = (Vec::new(), Vec::new());
        for shield in shields {
            for _ in 0..2 {
                let mut client = shield.connect(&tenant.token().user("hearer").sign()).await;
                client.join("lobby").await;
                hearers.push(hear(client, 2 * shields.len()));
            }
        }
        for (index, shield) in shields.iter().enumerate() {
            let user = format!("plain-{index}");
            let client = shield.service(tenant, &user).await;
            speakers.push((user, speak(client, "lobby", stop.clone())));
            let user = format!("acknowledged-{index}");
            let client = shield.service(tenant, &user).await;
            speakers.push((user, speak_acknowledged(client, "lobby", stop.clone())));
        }
        Self {
            stop,
            speakers,
            hearers,
        }
    }

    /// Ends it: everyone heard everything, once and in order.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let mut said = HashMap::new();
        for (user, speaker) in self.speakers {
            said.insert(user, within("a publisher", speaker).await.unwrap());
        }
        for hearer in self.hearers {
            let heard = within("a hearer", hearer).await.unwrap();
            assert_eq!(heard, said);
        }
        said.values().sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_forced_rotations_lose_nothing_repeat_nothing_and_keep_order() {
    const ROTATIONS: usize = 200;
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let proxy = Proxy::start(spine.addr()).await.unwrap();
    // Of old and new connection one is always the slow one.
    proxy.slow_every_second(Duration::from_millis(8));
    let first = spine.shield().via(&proxy.url()).start().await;
    let second = spine.shield().id("shield-2").start().await;
    let traffic = Traffic::over(&[&first, &second], &acme).await;

    for rotation in 0..ROTATIONS {
        if rotation < 10 {
            // As an administrator would: by an order to all Shields.
            let order = arqon_proto::v1::RotateCredentials {
                tenant: "acme".to_owned(),
            };
            spine.order(None, Order::RotateCredentials(order)).await;
            for shield in [&first, &second] {
                eventually!(shield.metric("rotations_total", "ok").await > rotation as f64);
            }
        } else {
            let (one, two) = tokio::join!(
                within("a rotation", first.inner().pool().rotate(None)),
                within("a rotation", second.inner().pool().rotate(Some(&acme.id))),
            );
            assert_eq!((one, two), (0, 0), "rotation {rotation}: so many failed");
        }
    }
    let said = traffic.end().await;
    for shield in [&first, &second] {
        assert_eq!(
            shield.metric("rotations_total", "ok").await,
            ROTATIONS as f64
        );
        assert_eq!(shield.metric("rotations_total", "failed").await, 0.0);
        assert_eq!(shield.metric("spine_reconnects_total", "").await, 0.0);
    }
    assert!(
        said > ROTATIONS as u64,
        "{said} messages during {ROTATIONS} rotations"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pools_key_is_replaced_under_live_publishers() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let first = spine.shield().start().await;
    let second = spine.shield().id("shield-2").start().await;
    let pool = NodeId::parse("default").unwrap();
    let old = spine.state().fleet_key(&pool).unwrap();
    let traffic = Traffic::over(&[&first, &second], &acme).await;

    let admin = spine.admin().await;
    let mut steps = Vec::new();
    let record = within(
        "the rotation of a pool's key",
        admin.rotate_pool_key(&pool, Duration::from_secs(25), |step| steps.push(step)),
    )
    .await
    .unwrap_or_else(|error| panic!("{error:?} after {steps:?}"));
    traffic.end().await;
    for shield in [&first, &second] {
        assert_eq!(
            shield.metric("spine_reconnects_total", "").await,
            0.0,
            "{steps:?}"
        );
    }

    // The old key opens nothing any more, the new one does.
    let new = spine.state().fleet_key(&pool).unwrap();
    assert_eq!(record.fleet_keys, [new.public().to_owned()]);
    assert_ne!(old.public(), new.public());
    let connect = async |key| {
        let ttl = Duration::from_secs(60);
        let user = mint_tenant_user(key, &acme.account, &acme.id, "shield-1", ttl);
        connect_tenant(&[spine.url()], user, "x", TenantOptions::default()).await
    };
    assert!(connect(&old).await.is_err());
    assert!(connect(&new).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lived_credentials_rotate_by_themselves_before_they_expire() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine
        .shield()
        .with("spine.user_ttl_secs = 10")
        .start()
        .await;
    let traffic = Traffic::over(&[&shield], &acme).await;
    eventually!(shield.metric("rotations_total", "ok").await >= 2.0);
    traffic.end().await;
    assert_eq!(shield.metric("spine_reconnects_total", "").await, 0.0);
}
