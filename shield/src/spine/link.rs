//! What a session sees of the Spine: its tenant's link.
//!
//! The link outlives connections. Its driver task owns the connection of the
//! moment; sessions join and publish through the parts they share, and never
//! wait for another session.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use arqon_proto::{
    codes::ErrorCode,
    names::{RoomId, SessionId, TenantId},
};
use arqon_spine::{accounts::TEMPLATE_SUBS, credentials::FleetKey};
use arqon_telemetry::{TraceContext, metrics::TenantMeter};
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{
    barrier::AckRequest,
    counters::Counters,
    driver::{self, Command},
    publisher::{Publisher, Stamp},
    settings::SpineParams,
};
use crate::{
    control::Tenant,
    pace::Pace,
    presence::{self, TenantPresence},
    quota::{RoomsHere, TenantQuota, room_hash},
    rooms::{Entered, Limit, Member, OverflowRules, Rooms},
    session::Frame,
};

/// Of the subscriptions the template allows on one connection, these are kept
/// free for our own: the server refuses beyond without a word to anyone.
const OWN_SUBSCRIPTIONS: usize = 16;

/// Who would stand in line for longer is told to come back.
const LINE: Duration = Duration::from_secs(5);

/// A join may have to wait out a rotation, and then for its subscription.
const JOIN_PATIENCE: u32 = 3;

/// One tenant's way to the Spine. Dropping the last handle closes it.
#[derive(Debug)]
pub struct TenantLink {
    shared: Arc<Shared>,
}

/// What the link's handle and its driver share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) tenant: TenantId,
    pub(super) record: ArcSwap<Tenant>,
    pub(super) params: Arc<SpineParams>,
    pub(super) fleet_key: Arc<ArcSwap<FleetKey>>,
    /// Held while a connection is opened, so that a fleet's rotation is no storm.
    pub(super) openings: Arc<Semaphore>,
    pub(super) counters: Arc<Counters>,
    pub(super) rooms: Rooms,
    joins: Pace,
    quota: Arc<TenantQuota>,
    pub(super) publisher: Publisher,
    pub(super) presence: Arc<TenantPresence>,
    pub(super) state: watch::Sender<LinkState>,
    /// The fleet key of the connection in use.
    pub(super) key_in_use: Mutex<Option<String>>,
    /// Something was joined or published since the driver looked last.
    pub(super) used: AtomicBool,
    /// What the tenant's sessions count on; held, so that it is not forgotten.
    pub(super) meter: Arc<TenantMeter>,
    /// The traced operation for which the connection is opened, if it is.
    cause: Mutex<Option<TraceContext>>,
    commands: mpsc::UnboundedSender<Command>,
}

/// Where a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// No connection, for nobody needs one. The next use opens it.
    Dormant,
    /// The connection is being opened for a first use.
    Connecting,
    /// Rooms are live, publishing works.
    Up,
    /// The connection was lost, or cannot be opened; it is tried again and again.
    Down,
    /// The link is closed for good.
    Closed,
}

/// Leaves the room again if the join is given up.
struct Joining<'a> {
    rooms: &'a Rooms,
    room: &'a RoomId,
    session: SessionId,
    done: bool,
}

// === impl TenantLink ===

impl TenantLink {
    pub(super) fn spawn(
        tenant: Arc<Tenant>,
        params: &Arc<SpineParams>,
        fleet_key: &Arc<ArcSwap<FleetKey>>,
        openings: &Arc<Semaphore>,
        counters: &Arc<Counters>,
        presence: Arc<TenantPresence>,
        quota: Arc<TenantQuota>,
    ) -> Arc<Self> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let meter = counters.metrics.tenants().of(&tenant.id);
        let shared = Arc::new(Shared {
            tenant: tenant.id.clone(),
            params: params.clone(),
            fleet_key: fleet_key.clone(),
            openings: openings.clone(),
            counters: counters.clone(),
            rooms: Rooms::new(
                tenant.id.clone(),
                OverflowRules::of(&tenant.record, params.overflow),
            ),
            joins: Pace::new(params.joins_per_sec, params.joins_per_sec, Instant::now()),
            quota,
            publisher: Publisher::new(
                tenant.id.clone(),
                params.max_message_bytes,
                params.beacon_after,
                counters.clone(),
            ),
            record: ArcSwap::new(tenant),
            presence: presence.clone(),
            state: watch::Sender::new(LinkState::Dormant),
            key_in_use: Mutex::default(),
            used: AtomicBool::new(false),
            meter,
            cause: Mutex::default(),
            commands,
        });
        tokio::spawn(driver::run(shared.clone(), receiver));
        let line = Arc::downgrade(&shared);
        tokio::spawn(presence::run(
            presence,
            params.node.clone(),
            shared.state.subscribe(),
            move || line.upgrade()?.publisher.client_up(),
        ));
        Arc::new(Self { shared })
    }

    /// The tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.shared.tenant
    }

    /// Waits for this session's turn among the joins of the tenant; how long the
    /// line is, if it is too long.
    pub async fn turn_to_join(&self) -> Result<(), Duration> {
        match self.shared.joins.take(Instant::now(), LINE)? {
            Duration::ZERO => {}
            wait => tokio::time::sleep(wait).await,
        }
        Ok(())
    }

    /// Enters a room. Ok only after a server round trip that followed the
    /// subscription: events flow. `ROOM_LIMIT`, `JOIN_REFUSED` or `SPINE_UNAVAILABLE`.
    pub async fn join(&self, room: &RoomId, member: Member) -> Result<(), ErrorCode> {
        self.enter(room, member, None).await
    }

    /// As `join`, and queues `joined` for the member itself, in front of the
    /// room's first message and not at all on failure.
    pub async fn join_announced(
        &self,
        room: &RoomId,
        member: Member,
        joined: Frame,
    ) -> Result<(), ErrorCode> {
        self.enter(room, member, Some(joined)).await
    }

    async fn enter(
        &self,
        room: &RoomId,
        member: Member,
        joined: Option<Frame>,
    ) -> Result<(), ErrorCode> {
        let shared = &*self.shared;
        shared.used.store(true, Ordering::Relaxed);
        let mut joining = Joining {
            rooms: &shared.rooms,
            room,
            session: member.session,
            done: false,
        };
        let result = match shared
            .rooms
            .enter(room, member, joined, shared.room_limit(room))
        {
            Entered::Joined => Ok(()),
            Entered::Full => Err(ErrorCode::RoomLimit),
            Entered::Crowded => Err(ErrorCode::RoomFull),
            Entered::Waiting { answer, subscribe } => {
                if subscribe {
                    shared.order(Command::Subscribe(room.clone()));
                } else {
                    shared.order(Command::Wake);
                }
                self.wait_for(answer).await
            }
        };
        joining.done = result.is_ok();
        result
    }

    /// Leaves a room and its presence. The subscription lingers a little.
    pub fn leave(&self, room: &RoomId, session: SessionId) {
        self.shared.rooms.leave(room, session);
        self.shared.presence.leave(room, session);
    }

    /// Presence of the tenant's sessions here.
    pub(crate) fn presence(&self) -> &TenantPresence {
        &self.shared.presence
    }

    /// Publishes an encoded MESSAGE Envelope. `SPINE_UNAVAILABLE` at once while
    /// the connection is down; `PAYLOAD_TOO_LARGE` if it is over the platform's
    /// limit, NATS headers counted. On an error nothing was handed over and
    /// `ack` stays as it is; else it is taken, and its ACK or ERROR comes by its outbox.
    pub async fn publish(
        &self,
        room: &RoomId,
        message: Bytes,
        stamp: Stamp,
        ack: &mut Option<AckRequest>,
    ) -> Result<(), ErrorCode> {
        let shared = &*self.shared;
        // A plain load first: the flag is shared by all sessions of the tenant.
        if !shared.used.load(Ordering::Relaxed) {
            shared.used.store(true, Ordering::Relaxed);
        }
        match self.hand_over(room, &message, stamp, ack).await {
            Err(ErrorCode::SpineUnavailable) if self.opens_soon().await => {
                self.hand_over(room, &message, stamp, ack).await
            }
            result => result,
        }
    }

    /// Where it stands now.
    pub fn state(&self) -> LinkState {
        *self.shared.state.borrow()
    }

    /// Follows where it stands.
    pub fn watch(&self) -> watch::Receiver<LinkState> {
        self.shared.state.subscribe()
    }

    /// Rooms with at least one member here.
    pub fn rooms(&self) -> usize {
        self.shared.rooms.occupied()
    }

    /// As `rooms`, and their hashes if they are wanted.
    pub(super) fn rooms_here(&self, hashes: bool) -> RoomsHere {
        let rooms = &self.shared.rooms;
        if !hashes {
            return RoomsHere {
                count: rooms.occupied(),
                hashes: Vec::new(),
            };
        }
        let hashes: Vec<_> = rooms
            .occupied_ids()
            .iter()
            .map(|room| room_hash(room.as_str()))
            .collect();
        RoomsHere {
            count: hashes.len(),
            hashes,
        }
    }

    /// Members of a room here.
    pub(crate) fn members(&self, room: &RoomId) -> usize {
        let room = self.shared.rooms.get(room);
        room.map_or(0, |room| room.members())
    }

    /// Opens the connection, if it is not open. `cause` is the traced operation
    /// that needs it.
    pub(super) fn wake(&self, cause: Option<TraceContext>) {
        if self.state() == LinkState::Dormant {
            if cause.is_some() {
                *self.shared.cause() = cause;
            }
            self.shared.order(Command::Wake);
        }
    }

    /// Takes over a new record; another account means another connection.
    pub(super) fn set_record(&self, record: &Arc<Tenant>) {
        let old = self.shared.record.swap(record.clone());
        if old.record.overflow != record.record.overflow {
            let rules = OverflowRules::of(&record.record, self.shared.params.overflow);
            self.shared.rooms.set_rules(rules);
        }
        if old.record.account != record.record.account {
            self.shared.order(Command::Rebuild);
        }
    }

    /// Rotates the credentials; whether new ones are in force.
    pub(super) async fn rotate(&self) -> bool {
        let (sender, done) = oneshot::channel();
        self.shared.order(Command::Rotate(sender));
        done.await.unwrap_or(false)
    }

    /// The public fleet key of the connection in use, if there is one.
    pub(super) fn key_in_use(&self) -> Option<String> {
        let key = &self.shared.key_in_use;
        key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The client of the connection in use, below every check of this Shield.
    pub(super) fn client(&self) -> Option<arqon_spine::nats::Client> {
        self.shared.publisher.client()
    }

    /// Closes for good, once the server has what was published.
    pub(super) async fn close(&self) {
        self.shared.order(Command::Close);
        let mut state = self.shared.state.subscribe();
        // An error means that the driver is gone, which is the same news.
        let _ = state.wait_for(|state| *state == LinkState::Closed).await;
    }

    /// What the link and its driver share.
    #[cfg(test)]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    async fn wait_for(
        &self,
        mut answer: oneshot::Receiver<Result<(), ErrorCode>>,
    ) -> Result<(), ErrorCode> {
        let patience = match self.state() {
            LinkState::Down => self.shared.params.ack_timeout,
            _ => self.shared.params.ack_timeout * JOIN_PATIENCE,
        };
        match tokio::time::timeout(patience, &mut answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ErrorCode::SpineUnavailable),
            Err(_) => {
                // Once closed, the answer was given before or never will be.
                answer.close();
                answer
                    .try_recv()
                    .unwrap_or(Err(ErrorCode::SpineUnavailable))
            }
        }
    }

    async fn hand_over(
        &self,
        room: &RoomId,
        message: &Bytes,
        stamp: Stamp,
        ack: &mut Option<AckRequest>,
    ) -> Result<(), ErrorCode> {
        let shared = &*self.shared;
        if let Some(result) = shared.publisher.publish_now(room, message, stamp, ack) {
            return result;
        }
        let publish = shared.publisher.publish(room, message, stamp, ack);
        match tokio::time::timeout(shared.params.ack_timeout, publish).await {
            Ok(result) => result,
            Err(_) => Err(ErrorCode::SpineUnavailable),
        }
    }

    /// Waits for a connection that is opened for its first use; false where
    /// there is none to wait for.
    async fn opens_soon(&self) -> bool {
        let now = self.state();
        if !matches!(now, LinkState::Dormant | LinkState::Connecting) {
            return false;
        }
        self.wake(None);
        let mut state = self.shared.state.subscribe();
        let settled =
            state.wait_for(|state| !matches!(state, LinkState::Dormant | LinkState::Connecting));
        match tokio::time::timeout(self.shared.params.ack_timeout, settled).await {
            Ok(Ok(state)) => *state == LinkState::Up,
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

impl Drop for TenantLink {
    fn drop(&mut self) {
        self.shared.order(Command::Close);
    }
}

// === impl Shared ===

impl Shared {
    /// Rooms that this tenant may have here when this one comes in.
    fn room_limit(&self, room: &RoomId) -> Limit {
        let subscriptions =
            usize::try_from(TEMPLATE_SUBS).unwrap_or(usize::MAX) - OWN_SUBSCRIPTIONS;
        let limit = self.params.max_rooms.min(subscriptions);
        let quota = self.quota.rooms_for(room);
        let lingering = match self.quota.limits().max_rooms {
            0 => subscriptions,
            // Rooms that only linger keep their subscriptions.
            rooms => 2 * rooms as usize + OWN_SUBSCRIPTIONS,
        };
        Limit {
            occupied: limit.min(quota.rooms),
            subscriptions: subscriptions.min(lingering),
            members: quota.members,
        }
    }

    /// What the connection is opened for, if that is traced.
    pub(super) fn cause(&self) -> MutexGuard<'_, Option<TraceContext>> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order to a driver that is gone concerns nobody any more.
    fn order(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    pub(super) fn set_state(&self, state: LinkState) {
        self.state.send_replace(state);
    }

    pub(super) fn set_key_in_use(&self, key: Option<String>) {
        let mut in_use = self
            .key_in_use
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *in_use = key;
    }

    /// How often the driver looks after what is due by time.
    pub(super) fn tick(&self) -> Duration {
        let params = &self.params;
        let shortest = params
            .linger
            .min(params.beacon_after)
            .min(params.idle_close);
        (shortest / 2).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }
}

// === impl Joining ===

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.rooms.leave(self.room, self.session);
        }
    }
}
