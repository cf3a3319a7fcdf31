//! A Shield's side of presence, as raw NATS: sessions that only come, as fast
//! as Brain takes them. It answers Brains like a Shield does.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arqon_proto::{
    names::{NodeId, SessionId, TenantId},
    presence::{entry_hash, tenant_hash},
    v1::{self, presence_change::Change, presence_order::Order},
};
use arqon_spine::{
    connect::{self, Connection, TenantOptions},
    control::ControlStore,
    credentials::{FleetKey, mint_tenant_user},
    nats, subjects,
};
use futures_util::StreamExt;
use prost::Message;
use tokio::{sync::mpsc, task::JoinSet, time::interval};

use crate::failure::Result;

/// Changes in one message: what a Shield gathers under load.
const BATCH: usize = 100;
/// Entries on one page of a snapshot.
const PAGE: usize = 500;

/// Who writes, and where.
pub(super) struct Place {
    pub(super) servers: Vec<String>,
    pub(super) control_creds: std::path::PathBuf,
    pub(super) fleet_key: FleetKey,
    pub(super) tenant: TenantId,
    pub(super) account: String,
}

/// One Shield incarnation. Dropping it is a crash: no goodbye.
pub(super) struct Writer {
    client: nats::Client,
    state: Arc<Mutex<State>>,
    node: NodeId,
    epoch: u64,
    pub(super) answers: mpsc::UnboundedReceiver<v1::PresenceAnswer>,
    _tasks: JoinSet<()>,
    _connections: (Connection, Connection),
}

struct State {
    account: String,
    epoch: u64,
    digest: u64,
    entries: Vec<v1::PresenceEntry>,
    started: Instant,
}

// === impl Writer ===

impl Writer {
    pub(super) async fn start(place: Place, id: &str) -> Result<Self> {
        let node = NodeId::parse(id)?;
        let Place {
            servers,
            control_creds,
            fleet_key,
            tenant,
            account,
        } = place;
        let control = connect::connect_creds(&servers, &control_creds, id).await?;
        let life = Duration::from_secs(3600);
        let user = mint_tenant_user(&fleet_key, &account, &tenant, id, life);
        let options = TenantOptions::default();
        let link = connect::connect_tenant(&servers, user, id, options).await?;
        let client = link.client.clone();
        let chance = u64::from(rand::random::<u16>());
        let epoch = ((crate::duration::now_secs() * 1000) << 16) | chance;
        let state = Arc::new(Mutex::new(State {
            account,
            epoch,
            digest: 0,
            entries: Vec::new(),
            started: Instant::now(),
        }));
        let orders = client
            .subscribe(subjects::presence_orders(&tenant, &node))
            .await?;
        let (answered, answers) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let store = ControlStore::new(&control);
        tasks.spawn(beat(store, node.clone(), state.clone()));
        tasks.spawn(obey(
            orders,
            client.clone(),
            node.clone(),
            state.clone(),
            answered,
        ));
        client.flush().await?;
        Ok(Self {
            client,
            state,
            node,
            epoch,
            answers,
            _tasks: tasks,
            _connections: (control, link),
        })
    }

    /// Brings sessions into rooms, `in_room` into each, every one a user of its own.
    pub(super) async fn join(&self, rooms: &str, count: usize, in_room: usize) -> Result<u64> {
        let mut seq = 0;
        for first in (0..count).step_by(BATCH) {
            let last = count.min(first + BATCH);
            let changes = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let range = first..last;
                let put = range.map(|n| Change::Put(state.put(format!("{rooms}{}", n / in_room))));
                put.map(|put| v1::PresenceChange { change: Some(put) })
                    .collect::<Vec<_>>()
            };
            seq = self.len() as u64;
            let batch = v1::PresenceChanges {
                shield: self.node.to_string(),
                epoch: self.epoch,
                first_seq: seq + 1 - changes.len() as u64,
                changes,
                ..Default::default()
            };
            let subject = subjects::PRESENCE_CHANGE;
            self.client
                .publish(subject, batch.encode_to_vec().into())
                .await?;
        }
        self.client.flush().await?;
        Ok(seq)
    }

    /// Asks for a room; how long the last page of the answer took, and how many
    /// members it told.
    pub(super) async fn ask(&mut self, room: &str) -> Result<(Duration, usize)> {
        let query = v1::PresenceQuery {
            shield: self.node.to_string(),
            epoch: self.epoch,
            id: rand::random(),
            room: room.to_owned(),
            count_only: false,
            after_seq: self.len() as u64,
        };
        let begun = Instant::now();
        let subject = subjects::PRESENCE_QUERY;
        self.client
            .publish(subject, query.encode_to_vec().into())
            .await?;
        let mut told = 0;
        while let Some(answer) = self.answers.recv().await {
            if answer.id == query.id {
                told += answer.members.len();
                if answer.last {
                    break;
                }
            }
        }
        Ok((begun.elapsed(), told))
    }

    fn len(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.entries.len()
    }
}

async fn beat(store: ControlStore, node: NodeId, state: Arc<Mutex<State>>) {
    let mut beats = interval(Duration::from_secs(1));
    let Ok(mut asks) = store.subscribe_asks(&node).await else {
        return;
    };
    loop {
        let asked = tokio::select! {
            _ = beats.tick() => false,
            ask = asks.next() => ask.is_some(),
        };
        let (beat, digests) = {
            let state = state.lock().unwrap_or_else(PoisonError::into_inner);
            (state.beat(&node), state.digests(&node))
        };
        let told = if asked {
            store.publish_presence(&node, &digests).await
        } else {
            store.publish_beat(&node, &beat).await
        };
        if told.is_err() {
            return;
        }
    }
}

async fn obey(
    mut orders: nats::Subscriber,
    client: nats::Client,
    node: NodeId,
    state: Arc<Mutex<State>>,
    answered: mpsc::UnboundedSender<v1::PresenceAnswer>,
) {
    while let Some(message) = orders.next().await {
        let order = v1::PresenceOrder::decode(message.payload);
        match order.ok().and_then(|order| order.order) {
            Some(Order::Answer(answer)) => drop(answered.send(answer)),
            Some(Order::Sync(sync)) => {
                let pages = {
                    let state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.pages(&node, sync.request)
                };
                let Ok(brain) = NodeId::parse(&sync.brain) else {
                    continue;
                };
                for page in pages {
                    let subject = subjects::presence_page(&brain);
                    if client.publish(subject, page.into()).await.is_err() {
                        return;
                    }
                }
            }
            None => {}
        }
    }
}

// === impl State ===

impl State {
    fn put(&mut self, room: String) -> v1::PresenceEntry {
        let seq = self.entries.len() as u64 + 1;
        let session = SessionId::new();
        self.digest ^= entry_hash(self.epoch, &room, session, seq);
        let entry = v1::PresenceEntry {
            key: Some(v1::PresenceKey {
                room,
                session: bytes::Bytes::copy_from_slice(session.as_bytes()),
                user: format!("user-{seq}"),
            }),
            seq,
            meta: Some(v1::PresenceMap::default()),
            joined_at_ms: 1,
            last_active_at_ms: 1,
        };
        self.entries.push(entry.clone());
        entry
    }

    fn digest(&self) -> v1::TenantDigest {
        v1::TenantDigest {
            account: self.account.clone(),
            seq: self.entries.len() as u64,
            count: self.entries.len() as u64,
            digest: self.digest,
        }
    }

    fn root(&self) -> u64 {
        if self.entries.is_empty() {
            return 0;
        }
        tenant_hash(&self.account, self.entries.len() as u64, self.digest)
    }

    fn beat(&self, node: &NodeId) -> v1::ShieldBeat {
        v1::ShieldBeat {
            shield: node.to_string(),
            incarnation: format!("{:016x}", self.epoch),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            time_ms: crate::duration::now_secs() * 1000,
            presence: Some(v1::PresenceSummary {
                epoch: self.epoch,
                root: self.root(),
                tenants: u32::from(!self.entries.is_empty()),
                entries: self.entries.len() as u64,
                recent: Vec::new(),
            }),
            ..Default::default()
        }
    }

    fn digests(&self, node: &NodeId) -> v1::PresenceDigests {
        let all = (!self.entries.is_empty()).then(|| self.digest());
        v1::PresenceDigests {
            shield: node.to_string(),
            epoch: self.epoch,
            root: self.root(),
            number: 0,
            last: true,
            tenants: all.into_iter().collect(),
        }
    }

    fn pages(&self, node: &NodeId, request: u64) -> Vec<Vec<u8>> {
        let mut entries: Vec<&v1::PresenceEntry> = self.entries.iter().collect();
        let key = |entry: &v1::PresenceEntry| {
            let key = entry.key.clone().unwrap_or_default();
            (key.room, key.user, key.session)
        };
        entries.sort_by_cached_key(|entry| key(entry));
        let last = entries.len().saturating_sub(1) / PAGE;
        (0..=last)
            .map(|number| {
                let entries = entries.iter().skip(number * PAGE).take(PAGE);
                let page = v1::PresencePage {
                    shield: node.to_string(),
                    epoch: self.epoch,
                    seq: self.entries.len() as u64,
                    request,
                    number: number as u32,
                    last: number == last,
                    entries: entries.map(|entry| (*entry).clone()).collect(),
                };
                page.encode_to_vec()
            })
            .collect()
    }
}
