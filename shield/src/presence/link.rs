//! Presence on a tenant's connection: what is sent, and what is heard.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arqon_proto::{
    names::{NodeId, TenantId},
    v1::{self, presence_order::Order},
};
use arqon_spine::{nats, subjects};
use futures_util::StreamExt;
use prost::Message;
use tokio::sync::{Semaphore, watch};
use tracing::debug;

use super::tenant::TenantPresence;
use crate::spine::LinkState;

/// How often views are looked at while time matters to one.
const RESTLESS: Duration = Duration::from_millis(25);
/// Marks of activity wait so long for changes to travel with.
const MARKS: Duration = Duration::from_secs(5);
/// Handing a message over takes longer only where the server takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);
/// Snapshots of one tenant that are sent at once.
const SNAPSHOTS: usize = 2;
/// Requests remembered, so that one that comes over two connections, as during
/// a rotation, is answered once.
const REQUESTS: usize = 32;
/// Pages sent before others have their turn on the connection.
const PAGES: usize = 4;

/// Sends what the tenant's sessions change and ask, until the link is closed.
/// `client` is the connection of the moment, while it is up.
pub(crate) async fn run(
    presence: Arc<TenantPresence>,
    node: NodeId,
    mut state: watch::Receiver<LinkState>,
    client: impl Fn() -> Option<nats::Client> + Send,
) {
    let mut marked = Instant::now();
    loop {
        let pause = if presence.is_restless() {
            RESTLESS
        } else {
            MARKS
        };
        tokio::select! {
            () = presence.work.notified() => {}
            () = tokio::time::sleep(pause) => {}
            changed = state.changed() => {
                if changed.is_err() || *state.borrow_and_update() == LinkState::Closed {
                    return;
                }
            }
        }
        let with_marks = marked.elapsed() >= MARKS;
        if with_marks {
            marked = Instant::now();
        }
        if let Some(client) = client() {
            flush(&presence, &node, &client, with_marks).await;
            ask(&presence, &node, &client).await;
        } else {
            // Questions that nobody can hear are answered by their time-out.
            presence.on_time();
        }
        tokio::time::sleep(presence.settings().flush).await;
    }
}

async fn flush(presence: &TenantPresence, node: &NodeId, client: &nats::Client, with_marks: bool) {
    while let Some(batch) = presence.take_batch(with_marks) {
        let changes = v1::PresenceChanges {
            shield: node.to_string(),
            epoch: presence.settings().epoch,
            first_seq: batch.first_seq,
            changes: batch.changes,
            active: batch.active,
            traces: batch.traces,
        };
        // What is lost here is a gap in the numbers, which Brains mend.
        if !publish(client, subjects::PRESENCE_CHANGE.to_owned(), &changes).await {
            return;
        }
    }
}

async fn ask(presence: &TenantPresence, node: &NodeId, client: &nats::Client) {
    for question in presence.on_time() {
        let query = v1::PresenceQuery {
            shield: node.to_string(),
            epoch: presence.settings().epoch,
            id: question.id,
            room: question.room.to_string(),
            count_only: question.count_only,
            after_seq: question.after_seq,
        };
        presence.metrics().presence_queries.inc();
        if !publish(client, subjects::PRESENCE_QUERY.to_owned(), &query).await {
            return;
        }
    }
}

async fn publish(client: &nats::Client, subject: String, body: &impl Message) -> bool {
    let published = client.publish(subject, body.encode_to_vec().into());
    matches!(tokio::time::timeout(PATIENCE, published).await, Ok(Ok(())))
}

/// Subscribes a new connection to what Brains say, and follows them until it
/// ends. False: the connection is over.
pub(crate) async fn listen(
    presence: &Arc<TenantPresence>,
    client: &nats::Client,
    tenant: &TenantId,
    node: &NodeId,
) -> bool {
    let events = client
        .subscribe(subjects::presence_room_events(tenant))
        .await;
    let orders = client
        .subscribe(subjects::presence_orders(tenant, node))
        .await;
    let (Ok(events), Ok(orders)) = (events, orders) else {
        return false;
    };
    tokio::spawn(hear_events(presence.clone(), events));
    let snapshots = Snapshots {
        presence: presence.clone(),
        client: client.clone(),
        node: node.clone(),
        at_once: Arc::new(Semaphore::new(SNAPSHOTS)),
    };
    tokio::spawn(hear_orders(snapshots, orders));
    true
}

async fn hear_events(presence: Arc<TenantPresence>, mut events: nats::Subscriber) {
    while let Some(message) = events.next().await {
        match v1::PresenceEvents::decode(message.payload) {
            Ok(events) => presence.on_events(&events),
            Err(_) => malformed(&presence, "events"),
        }
    }
}

async fn hear_orders(snapshots: Snapshots, mut orders: nats::Subscriber) {
    let presence = snapshots.presence.clone();
    while let Some(message) = orders.next().await {
        let order = v1::PresenceOrder::decode(message.payload);
        match order.ok().and_then(|order| order.order) {
            Some(Order::Answer(answer)) => presence.on_answer(answer),
            Some(Order::Sync(sync)) => snapshots.wanted(sync),
            None => malformed(&presence, "order"),
        }
    }
}

fn malformed(presence: &TenantPresence, what: &str) {
    presence.metrics().presence_malformed.inc();
    debug!(what, "What came from Brain cannot be read");
}

/// Who sends the snapshots that are asked for over one connection.
struct Snapshots {
    presence: Arc<TenantPresence>,
    client: nats::Client,
    node: NodeId,
    at_once: Arc<Semaphore>,
}

/// The requests answered lately.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<VecDeque<u64>>);

// === impl Requests ===

impl Requests {
    /// Whether this is new.
    fn add(&self, request: u64) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&request) {
            return false;
        }
        if known.len() >= REQUESTS {
            known.pop_front();
        }
        known.push_back(request);
        true
    }
}

// === impl Snapshots ===

impl Snapshots {
    fn wanted(&self, sync: v1::PresenceSync) {
        let Ok(brain) = NodeId::parse(&sync.brain) else {
            return malformed(&self.presence, "sync");
        };
        let settings = self.presence.settings();
        // The other Shield of this id, or one that was.
        if sync.epoch != settings.epoch || !self.presence.requests.add(sync.request) {
            return;
        }
        // Brain asks again for what it does not get.
        let Ok(turn) = self.at_once.clone().try_acquire_owned() else {
            return;
        };
        let (presence, client) = (self.presence.clone(), self.client.clone());
        let node = self.node.clone();
        tokio::spawn(async move {
            let _turn = turn;
            send_snapshot(&presence, &client, &node, &brain, sync.request).await;
        });
    }
}

async fn send_snapshot(
    presence: &TenantPresence,
    client: &nats::Client,
    node: &NodeId,
    brain: &NodeId,
    request: u64,
) {
    let settings = presence.settings();
    let mut snapshot = presence.snapshot();
    presence.metrics().presence_snapshots.inc();
    for number in 0.. {
        let (entries, last) = snapshot.next_page(settings.message_bytes);
        let page = v1::PresencePage {
            shield: node.to_string(),
            epoch: settings.epoch,
            seq: snapshot.seq,
            request,
            number,
            last,
            entries,
        };
        if !publish(client, subjects::presence_page(brain), &page).await || last {
            return;
        }
        if number as usize % PAGES == PAGES - 1 {
            tokio::task::yield_now().await;
        }
    }
}
