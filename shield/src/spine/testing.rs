//! A real nats-server, Shields' pools without sockets, and ears that hear what
//! a session would be sent.
#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arqon_proto::{
    codes::{CloseCode, ErrorCode},
    envelope,
    names::{NodeId, RoomId, SessionId, TenantId, TwistId},
    v1,
};
use arqon_spine::{
    accounts,
    admin::{Admin, CreateTenant},
    credentials::{MintedUser, mint_user},
    server::{self, Io, Process},
    server_config::{ClusterParams, ServerParams},
    state::StateFolder,
};
use arqon_telemetry::Metrics;
use bytes::Bytes;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Instant,
};

use super::*;
use crate::{
    control::Tenant,
    presence::PresenceSettings,
    session::{Bounds, Outbox, OutboxLimits, testing},
};

/// Longer than anything takes; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server with one tenant, `acme`, in pool `main`.
pub(crate) struct Spine {
    pub(crate) server: Process,
    pub(crate) others: Vec<Process>,
    pub(crate) state: StateFolder,
    pub(crate) admin: Admin,
    pub(crate) tenant: Arc<Tenant>,
    _folder: tempfile::TempDir,
}

/// One session without a socket.
#[derive(Clone)]
pub(crate) struct Ear {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) session: SessionId,
    in_flight: Arc<AtomicU32>,
    asked: Arc<AtomicU32>,
    heard: Arc<Mutex<Vec<Heard>>>,
    closed: Arc<Mutex<Option<CloseCode>>>,
}

/// A frame that a session would have been sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Message(String, String),
    Gap(String, v1::GapReason, Option<u64>),
    Ack(u64),
    Unknown(u64),
    Joined,
    Left(String, u32),
}

/// A TCP proxy that can slow each connection down on its own.
pub(crate) struct Proxy {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

// === impl Spine ===

impl Spine {
    pub(crate) async fn start() -> Self {
        Self::cluster(1).await
    }

    /// Several servers; `server` is the first, `others` are the rest.
    pub(crate) async fn cluster(size: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::create(folder.path().join("spine")).unwrap();
        let mut all: Vec<_> = (0..size)
            .map(|n| {
                let mut params = ServerParams::single(folder.path().join(format!("n{n}/store")));
                std::fs::create_dir_all(&params.store_dir).unwrap();
                params.name = format!("n{n}");
                params.cluster = (size > 1).then(|| ClusterParams {
                    name: "arqon".to_owned(),
                    listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                    routes: Vec::new(),
                    advertise: None,
                });
                params
            })
            .collect();
        ServerParams::choose_all(&mut all).unwrap();
        let binary = server::find().unwrap();
        let servers = all.into_iter().map(|params| {
            let log = Io::File(folder.path().join(format!("{}.log", params.name)));
            Process::start(&binary, &state, params, log).unwrap()
        });
        let mut servers: Vec<_> = servers.collect();
        let urls: Vec<_> = servers.iter().map(Process::url).collect();
        let admin = Admin::connect(&state, &urls).await.unwrap();
        let pool = NodeId::parse("main").unwrap();
        admin.bootstrap(size, &pool).await.unwrap();
        let tenant = create(&admin, "acme").await;
        Self {
            server: servers.remove(0),
            others: servers,
            state,
            admin,
            tenant,
            _folder: folder,
        }
    }

    pub(crate) fn params(&self, node: &str) -> SpineParams {
        let pool = NodeId::parse("main").unwrap();
        SpineParams {
            servers: vec![self.server.url()],
            node: NodeId::parse(node).unwrap(),
            fleet_key_file: self.state.fleet_key_path(&pool),
            pool,
            user_ttl: Duration::from_secs(3600),
            idle_close: Duration::from_secs(300),
            ack_timeout: Duration::from_secs(2),
            pump_capacity: 65_536,
            overflow: arqon_spine::manifest::Overflow::CloseAndReconnect,
            max_rooms: 10_000,
            joins_per_sec: 1_000_000,
            linger: Duration::from_secs(2),
            beacon_after: Duration::from_secs(5),
            max_message_bytes: accounts::account_payload(65_536).try_into().unwrap(),
            overlap: Duration::from_millis(20),
            presence: PresenceSettings {
                epoch: 1,
                leave_delay: Duration::ZERO,
                query_timeout: Duration::from_secs(2),
                flush: Duration::from_millis(5),
                page_members: 100,
                page_bytes: 32_768,
                message_bytes: 65_536,
            },
        }
    }

    /// A pool with its metrics, and the tenant's link, up.
    pub(crate) async fn link(
        &self,
        params: SpineParams,
    ) -> (Arc<SpinePool>, Arc<TenantLink>, Metrics) {
        let metrics = Metrics::default();
        let pool = SpinePool::new(params, crate::quota::testing::quotas(), &metrics).unwrap();
        let link = pool.link(&self.tenant, None).unwrap();
        up(&link).await;
        (pool, link, metrics)
    }

    /// A user who may read the tenant's subjects with any NATS client.
    pub(crate) fn observer(&self) -> MintedUser {
        let key = self.state.debug_key(false).unwrap();
        let account = &self.tenant.record.account;
        mint_user(&key, account, "observer", Some(Duration::from_secs(600))).unwrap()
    }
}

pub(crate) async fn create(admin: &Admin, name: &str) -> Arc<Tenant> {
    let id = TenantId::parse(name).unwrap();
    let wish = CreateTenant {
        id: id.clone(),
        pool: NodeId::parse("main").unwrap(),
        issuers: Vec::new(),
        limits: v1::TenantLimits::default(),
    };
    let record = admin.create_tenant(wish).await.unwrap().record;
    Arc::new(Tenant { id, record })
}

pub(crate) async fn up(link: &TenantLink) {
    state(link, LinkState::Up).await;
}

pub(crate) async fn state(link: &TenantLink, wanted: LinkState) {
    let mut state = link.watch();
    let reached = state.wait_for(|state| *state == wanted);
    tokio::time::timeout(PATIENCE, reached)
        .await
        .unwrap_or_else(|_| panic!("not {wanted:?} in time"))
        .unwrap();
}

/// Waits until something is so; panics with `what` if it never is.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "never came to pass: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn room(name: &str) -> RoomId {
    RoomId::parse(name).unwrap()
}

/// A MESSAGE as a session encodes it.
pub(crate) fn message(room: &RoomId, sender: SessionId, text: &str) -> Bytes {
    let sender = v1::Sender {
        user: "alice".to_owned(),
        session: sender.to_string(),
    };
    let payload = Bytes::copy_from_slice(text.as_bytes());
    let message = envelope::message(room.as_str(), Default::default(), payload, sender);
    message.encode_to_vec().into()
}

// === impl Ear ===

impl Ear {
    pub(crate) fn new() -> Self {
        let metrics = Metrics::default();
        let bounds = Bounds {
            max_bytes: 1 << 30,
            max_messages: 10_000_000,
            tenant_max_bytes: 1 << 40,
            max_unconfirmed: 1_000_000,
            max_rooms: 10_000,
        };
        let limits = Arc::new(OutboxLimits::new(bounds, &metrics));
        let tenant = TenantId::parse("acme").expect("a valid name");
        let session = SessionId::new();
        Self {
            outbox: Arc::new(Outbox::new(session, &tenant, limits)),
            session,
            in_flight: Arc::default(),
            asked: Arc::default(),
            heard: Arc::default(),
            closed: Arc::default(),
        }
    }

    pub(crate) fn member(&self, echo: bool) -> Member {
        Member {
            outbox: self.outbox.clone(),
            session: self.session,
            echo,
        }
    }

    pub(crate) async fn join(&self, link: &TenantLink, name: &str) {
        link.join(&room(name), self.member(true)).await.unwrap();
    }

    pub(crate) async fn publish(
        &self,
        link: &TenantLink,
        name: &str,
        text: &str,
    ) -> Result<(), ErrorCode> {
        let room = room(name);
        let message = message(&room, self.session, text);
        let stamp = Stamp::default();
        link.publish(&room, message, stamp, &mut None).await
    }

    /// Publishes and asks for an ACK by this reference.
    pub(crate) async fn publish_acked(
        &self,
        link: &TenantLink,
        name: &str,
        text: &str,
        reference: u64,
    ) -> Result<(), ErrorCode> {
        let room = room(name);
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        let ack = AckRequest {
            outbox: self.outbox.clone(),
            room: room.clone(),
            reference,
            twist: TwistId::new(),
            in_flight: self.in_flight.clone(),
            since: Instant::now().into_std(),
            meter: Default::default(),
            trace: None,
        };
        let message = message(&room, self.session, text);
        let result = link
            .publish(&room, message, Stamp::default(), &mut Some(ack))
            .await;
        match result {
            Ok(()) => self.asked.fetch_add(1, Ordering::AcqRel),
            Err(_) => self.in_flight.fetch_sub(1, Ordering::AcqRel),
        };
        result
    }

    /// Waits until all it asked acknowledgement for is answered; how often by ACK.
    pub(crate) async fn all_answered(&self) -> usize {
        let (mut acked, asked) = (0, self.asked.load(Ordering::Acquire) as usize);
        until("all is answered", || {
            let heard = self.heard();
            let unknown = heard
                .iter()
                .filter(|heard| matches!(heard, Heard::Unknown(_)));
            acked = heard
                .iter()
                .filter(|heard| matches!(heard, Heard::Ack(_)))
                .count();
            acked + unknown.count() >= asked
        })
        .await;
        assert_eq!(self.in_flight.load(Ordering::Acquire), 0);
        acked
    }

    /// Everything heard so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        let mut heard = self.heard.lock().unwrap();
        let (frames, closed) = testing::read(&self.outbox);
        heard.extend(frames.iter().filter_map(|frame| Heard::of(frame.payload())));
        if closed.is_some() {
            *self.closed.lock().unwrap() = closed;
        }
        heard.clone()
    }

    pub(crate) fn closed(&self) -> Option<CloseCode> {
        self.heard();
        *self.closed.lock().unwrap()
    }

    /// The texts of a room's messages, in order.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        let heard = self.heard().into_iter();
        heard
            .filter_map(|heard| match heard {
                Heard::Message(room, text) if room == name => Some(text),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn gaps(&self) -> Vec<Heard> {
        let heard = self.heard().into_iter();
        heard
            .filter(|heard| matches!(heard, Heard::Gap(..)))
            .collect()
    }

    pub(crate) async fn hears(&self, wanted: &Heard) {
        until(&format!("{wanted:?}"), || self.heard().contains(wanted)).await;
    }

    pub(crate) async fn hears_texts(&self, name: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.texts(name).len() < count {
            if Instant::now() > deadline {
                let (texts, gaps) = (self.texts(name).len(), self.gaps());
                let closed = self.closed();
                panic!("{texts} of {count} texts in {name}, gaps {gaps:?}, closed {closed:?}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Heard {
    fn of(payload: &[u8]) -> Option<Self> {
        use v1::envelope::Body;
        let envelope = v1::Envelope::decode(payload).unwrap();
        let text = || String::from_utf8(envelope.payload.to_vec()).unwrap();
        Some(match envelope.body? {
            Body::Message(_) => Self::Message(envelope.room.clone(), text()),
            Body::Gap(gap) => Self::Gap(envelope.room, gap.reason(), gap.missed),
            Body::Ack(_) => Self::Ack(envelope.r#ref),
            Body::Error(error) => {
                assert_eq!(error.name, "ACK_UNKNOWN");
                Self::Unknown(envelope.r#ref)
            }
            Body::Joined(_) => Self::Joined,
            Body::Left(left) => Self::Left(envelope.room, left.code),
            other => panic!("a session is never sent {other:?} by the Spine"),
        })
    }
}

// === impl Proxy ===

impl Proxy {
    /// Every byte of connection `n`, counted from 0, is late by `delay(n)`, both ways.
    pub(crate) async fn start(
        upstream: String,
        delay: impl Fn(usize) -> Duration + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = upstream.trim_start_matches("nats://").to_owned();
        let accepted = AtomicUsize::new(0);
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let late = delay(accepted.fetch_add(1, Ordering::Relaxed));
                let Ok(far) = TcpStream::connect(&upstream).await else {
                    continue;
                };
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                tokio::spawn(forward(near_in, far_out, late));
                tokio::spawn(forward(far_in, near_out, late));
            }
        });
        Self { address, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    late: Duration,
) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Bytes)>();
    tokio::spawn(async move {
        while let Some((at, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    let mut buffer = vec![0; 65_536];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let bytes = Bytes::copy_from_slice(&buffer[..read]);
        if sender.send((Instant::now() + late, bytes)).is_err() {
            break;
        }
    }
}

/// Counts how often each text was heard.
pub(crate) fn counts(texts: &[String]) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for text in texts {
        *counts.entry(text.as_str()).or_default() += 1;
    }
    counts
}
