//! A census on a real server: who is asked, and how often.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use arqon_proto::v1::{self, control::Order};
use arqon_spine::admin::{Census, WaitFor};
use arqon_spine::control::ControlStore;
use arqon_spine::state::Role;
use common::{PATIENCE, Spine, node};
use futures_util::StreamExt;
use tokio::sync::mpsc;

/// The CONTROL side of a Shield, as the protocol has it: it beats, tells what
/// it was ordered, and says each order's answer `pages` at a time.
async fn shield(spine: &Spine, name: &'static str, pages: u32) -> mpsc::UnboundedReceiver<u64> {
    let connection = spine.role(Role::Shield, name).await;
    let (told, orders) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let store = ControlStore::new(&connection);
        let mut ordered = store.subscribe_orders(&node(name)).await.unwrap();
        let mut beats = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                _ = beats.tick() => {
                    let beat = v1::ShieldBeat {
                        shield: name.to_owned(),
                        incarnation: "one".to_owned(),
                        ..Default::default()
                    };
                    store.publish_beat(&node(name), &beat).await.unwrap();
                }
                order = ordered.next() => {
                    let Some(Order::KickSessions(order)) = order else {
                        return;
                    };
                    told.send(order.request).unwrap();
                    for page in 0..pages {
                        let report = v1::SessionsReport {
                            shield: name.to_owned(),
                            incarnation: "one".to_owned(),
                            request: order.request,
                            page,
                            last: page + 1 == pages,
                            total: 7,
                            ..Default::default()
                        };
                        store.publish_sessions(&node(name), &report).await.unwrap();
                    }
                }
            }
        }
    });
    orders
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_repeated_to_those_alone_that_say_nothing() {
    let (spine, admin) = Spine::start().await;
    let mut quick = shield(&spine, "shield-1", 3).await;
    let mut mute = shield(&spine, "shield-2", 0).await;
    let census = Census::open(admin.control()).await.unwrap();
    let kick = |request| {
        Order::KickSessions(v1::KickSessions {
            request,
            ..Default::default()
        })
    };
    // Time to ask twice more.
    let wait = WaitFor {
        census: Duration::from_millis(500),
        patience: Duration::from_millis(3_500),
    };
    let asked = tokio::time::timeout(PATIENCE, census.ask_sessions(kick, wait));
    let answers = asked.await.unwrap().unwrap();
    let totals: Vec<_> = answers
        .iter()
        .map(|answer| {
            let total = answer.said.as_ref().map(|said| said.total);
            (answer.shield.as_str(), total)
        })
        .collect();
    assert_eq!(totals, [("shield-1", Some(7)), ("shield-2", None)]);
    let request = mute.recv().await.unwrap();
    assert_eq!(mute.recv().await, Some(request), "asked again");
    assert_eq!(quick.recv().await, Some(request));
    assert!(quick.try_recv().is_err(), "asked once");
}
