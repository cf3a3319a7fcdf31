//! The life of a link: dormant, connecting, up, down, closed.
//!
//! One task per link owns the connection of the moment and is the only one to
//! subscribe, rotate and reconnect. It carries no message. Once up, it ends
//! only by idleness or order; a lost connection is opened again for ever, with
//! growing pauses, and every room is told of the gap once it is live again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arqon_proto::{
    codes::ErrorCode,
    names::{RoomId, parse_room_subject},
    v1,
};
use arqon_spine::connect::SpineEvent;
use arqon_telemetry::{
    labels::{GapReason, Outcome},
    log::chain,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    barrier::Unproven,
    connection::{Choice, Connection, OpenError},
    link::{LinkState, Shared},
    rotation::{OldEnd, Rotation, Step},
};

/// The first pause between attempts to connect, doubled up to the longest; a
/// server that restarts is back within a second.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// See `FIRST_PAUSE`.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// New subscriptions proven by one barrier at most.
const BATCH: usize = 256;
/// Barriers in a row without an answer after which a connection is given up.
const SILENCES: usize = 3;
/// Turns given to the client's event task after a barrier: an error that the
/// server sent before the barrier came back is queued by then.
const EVENT_TURNS: usize = 16;
/// A credential is rotated at this part of its life, give or take `JITTER`.
const ROTATE_AT: f64 = 0.8;
/// Spreads the rotations of tenants connected at the same time.
const JITTER: f64 = 0.05;
/// A failed rotation is tried again after this part of the credential's life.
const ROTATE_AGAIN: f64 = 0.04;

/// What a link asks of its driver.
#[derive(Debug)]
pub(super) enum Command {
    /// Connect if dormant.
    Wake,
    /// A room is wanted.
    Subscribe(RoomId),
    /// Rotate the credentials; true once new ones are in force.
    Rotate(oneshot::Sender<bool>),
    /// Another account: connect anew.
    Rebuild,
    /// End for good.
    Close,
}

/// Why a stretch of a link's life is over.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Idle,
    Lost,
    Closed,
}

/// A proof of new subscriptions, and the rooms it is for.
type Proof = (Vec<RoomId>, Result<(), Unproven>);

/// Runs a link until it is closed.
pub(super) async fn run(shared: Arc<Shared>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut end = End::Idle;
    loop {
        if end == End::Idle {
            shared.set_state(LinkState::Dormant);
            end = dormant(&mut commands).await;
        }
        if end == End::Closed {
            break;
        }
        end = match connect(&shared, &mut commands, end == End::Lost).await {
            Err(end) => end,
            Ok(connection) => Serving::new(&shared, connection).run(&mut commands).await,
        };
    }
    shared.set_state(LinkState::Closed);
    shared.publisher.set_line(None);
    shared.set_key_in_use(None);
    shared.rooms.give_up_waiting(ErrorCode::SpineUnavailable);
}

/// Waits for a use of the link. The reason it returns for stands for what comes next.
async fn dormant(commands: &mut mpsc::UnboundedReceiver<Command>) -> End {
    loop {
        match commands.recv().await {
            Some(Command::Wake | Command::Subscribe(_)) => return End::Idle,
            Some(Command::Rotate(done)) => drop(done.send(true)),
            Some(Command::Rebuild) => {}
            Some(Command::Close) | None => return End::Closed,
        }
    }
}

/// Connects, as often as it takes, and brings all rooms to life.
async fn connect(
    shared: &Arc<Shared>,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    again: bool,
) -> Result<Connection, End> {
    let first = if again {
        LinkState::Down
    } else {
        LinkState::Connecting
    };
    shared.set_state(first);
    let mut pause = FIRST_PAUSE;
    let mut idle_since = Instant::now();
    loop {
        let attempt = async {
            let mut connection = shared.open(Choice::default()).await?;
            restore(shared, &mut connection).await?;
            Ok::<_, OpenError>(connection)
        };
        let error = match until_closed(commands, attempt).await? {
            Ok(connection) => {
                if again {
                    shared.counters.metrics.spine_reconnects.inc();
                    info!(tenant = %shared.tenant, server = connection.server(), "Spine connection is back");
                }
                return Ok(connection);
            }
            Err(error) => error,
        };
        if pause == FIRST_PAUSE {
            warn!(tenant = %shared.tenant, error = chain(&error), "Cannot connect to the Spine, trying on");
        } else {
            debug!(tenant = %shared.tenant, error = chain(&error), "Still no connection to the Spine");
        }
        shared.set_state(LinkState::Down);
        let wait = pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        until_closed(commands, tokio::time::sleep(wait)).await?;
        pause = (pause * 2).min(LONGEST_PAUSE);

        shared
            .rooms
            .expire(Instant::now().into_std(), shared.params.linger);
        if shared.used.swap(false, Ordering::Relaxed) || shared.rooms.len() > 0 {
            idle_since = Instant::now();
        } else if idle_since.elapsed() >= shared.params.idle_close {
            return Err(End::Idle);
        }
    }
}

/// Performs `work`, and whatever of the orders can be done without a connection.
async fn until_closed<T>(
    commands: &mut mpsc::UnboundedReceiver<Command>,
    work: impl Future<Output = T>,
) -> Result<T, End> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Close) | None => return Err(End::Closed),
                // The connection that is being opened has fresh credentials.
                Some(Command::Rotate(done)) => drop(done.send(true)),
                // All rooms of the table are subscribed to once connected.
                Some(Command::Subscribe(_) | Command::Wake | Command::Rebuild) => {}
            },
            result = &mut work => return Ok(result),
        }
    }
}

/// Subscribes to every room, and brings all to life once the server knows.
async fn restore(shared: &Shared, connection: &mut Connection) -> Result<(), OpenError> {
    let rooms = shared.rooms.all();
    for room in &rooms {
        if !connection.subscribe(room, false).await {
            return Err(OpenError::Lost);
        }
    }
    let proof = connection.barrier.round_trip().await;
    proof.map_err(|_| OpenError::Lost)?;
    for _ in 0..EVENT_TURNS {
        tokio::task::yield_now().await;
    }
    while let Some(event) = connection.events().try_recv() {
        if let SpineEvent::ServerError(text) = event {
            refused(shared, &text).inspect(|room| connection.unsubscribe(room));
        }
    }
    for room in rooms {
        shared.rooms.settle(room.id(), &shared.counters);
    }
    // A record may have changed while this was opened.
    if connection.account != shared.record.load().record.account {
        return Err(OpenError::Lost);
    }
    shared.set_key_in_use(Some(connection.fleet_key.clone()));
    shared.publisher.set_line(Some(connection.line()));
    shared.set_state(LinkState::Up);
    Ok(())
}

/// If the server refused a subscription, nobody can be in that room.
fn refused(shared: &Shared, text: &str) -> Option<RoomId> {
    const DENIED: &str = "Permissions Violation for Subscription to \"";
    let Some((_, rest)) = text.split_once(DENIED) else {
        warn!(tenant = %shared.tenant, text, "Error from the Spine");
        if text.contains("maximum subscriptions exceeded") {
            // The server does not say which subscription it dropped.
            let reason = v1::GapReason::ShieldOverloaded;
            let rooms = &shared.rooms;
            rooms.lost_everywhere(reason, GapReason::Overflow, &shared.counters);
        }
        return None;
    };
    let (subject, _) = rest.split_once('"')?;
    warn!(tenant = %shared.tenant, subject, "The Spine refused a subscription");
    let (tenant, room) = parse_room_subject(subject).ok()?;
    if tenant != shared.tenant {
        return None;
    }
    shared.rooms.refuse(&room, ErrorCode::JoinRefused);
    Some(room)
}

// === impl Shared ===

impl Shared {
    /// Opens a connection for the account of the present record.
    pub(super) async fn open(&self, choice: Choice) -> Result<Connection, OpenError> {
        let _opening = self.openings.acquire().await.map_err(|_| OpenError::Lost)?;
        let account = self.record.load().record.account.clone();
        let fleet_key = self.fleet_key.load_full();
        let (tenant, counters) = (&self.tenant, &self.counters);
        let open = Connection::open(&self.params, &fleet_key, tenant, &account, choice, counters);
        // Large, and of use for milliseconds of a link's life.
        Box::pin(open).await
    }
}

// === impl Serving ===

/// A link that is up.
struct Serving<'a> {
    shared: &'a Arc<Shared>,
    current: Connection,
    rotation: Rotation,
    rotate_at: Option<Instant>,
    /// Who waits for the rotation to end.
    rotating: Vec<oneshot::Sender<bool>>,
    proofs: JoinSet<Proof>,
    silences: usize,
    idle_since: Instant,
}

impl<'a> Serving<'a> {
    fn new(shared: &'a Arc<Shared>, current: Connection) -> Self {
        Self {
            rotate_at: rotate_at(&current),
            shared,
            current,
            rotation: Rotation::Idle,
            rotating: Vec::new(),
            proofs: JoinSet::new(),
            silences: 0,
            idle_since: Instant::now(),
        }
    }

    async fn run(mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> End {
        let mut tick = tokio::time::interval(self.shared.tick());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Rooms that came to the table while the others were restored.
        self.prove_missing().await;
        let end = loop {
            let end = tokio::select! {
                command = commands.recv() => self.on_command(command, commands).await,
                event = self.current.events().recv() => self.on_event(event).await,
                Some(Ok(proof)) = self.proofs.join_next() => self.on_proof(proof).await,
                step = self.rotation.step() => self.on_step(step).await,
                () = at(self.rotate_at) => {
                    self.rotate(Choice::default());
                    None
                }
                _ = tick.tick() => self.on_tick(commands.is_empty()).await,
            };
            if let Some(end) = end {
                break end;
            }
        };
        self.finish(&end).await;
        end
    }

    async fn on_command(
        &mut self,
        command: Option<Command>,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> Option<End> {
        match command {
            None | Some(Command::Close) => return Some(End::Closed),
            Some(Command::Wake) => {}
            Some(Command::Rebuild) => {
                info!(tenant = %self.shared.tenant, "The tenant has another account, connecting anew");
                return Some(End::Lost);
            }
            Some(Command::Rotate(done)) => {
                self.rotating.push(done);
                self.rotate(Choice::default());
            }
            Some(Command::Subscribe(room)) => {
                let mut rooms = vec![room];
                let mut then = None;
                while rooms.len() < BATCH {
                    match commands.try_recv() {
                        Ok(Command::Subscribe(room)) => rooms.push(room),
                        Ok(Command::Wake) => {}
                        Ok(other) => {
                            then = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                self.prove(rooms).await;
                if let Some(command) = then {
                    return Box::pin(self.on_command(Some(command), commands)).await;
                }
            }
        }
        None
    }

    async fn on_event(&mut self, event: Option<SpineEvent>) -> Option<End> {
        match event {
            None | Some(SpineEvent::Disconnected | SpineEvent::Closed) => {
                self.take_over_early().await
            }
            Some(SpineEvent::ServerError(text)) => {
                if let Some(room) = refused(self.shared, &text) {
                    self.unsubscribe(&room);
                }
                None
            }
            Some(SpineEvent::SlowConsumer { sid, dropped }) => {
                let room = self.current.room_of(sid).cloned();
                self.overflow(room, dropped);
                None
            }
            Some(SpineEvent::LameDuck) => {
                info!(tenant = %self.shared.tenant, server = self.current.server(), "The NATS server is stopping, moving to another");
                self.rotate(Choice {
                    prefer: None,
                    avoid: Some(self.current.server().to_owned()),
                });
                None
            }
        }
    }

    async fn on_next_event(&mut self, event: Option<SpineEvent>) {
        match event {
            None | Some(SpineEvent::Disconnected | SpineEvent::Closed) => {
                self.rotation_failed("the new connection ended").await;
            }
            Some(SpineEvent::ServerError(text)) => {
                if let Some(room) = refused(self.shared, &text) {
                    self.unsubscribe(&room);
                }
            }
            Some(SpineEvent::SlowConsumer { sid, dropped }) => {
                let next = self.rotation.next();
                let room = next.and_then(|next| next.room_of(sid).cloned());
                self.overflow(room, dropped);
            }
            Some(SpineEvent::LameDuck) => {}
        }
    }

    /// The pump could not keep up, and the client dropped messages of a room.
    fn overflow(&self, room: Option<RoomId>, dropped: u64) {
        let shared = self.shared;
        shared.counters.metrics.spine_slow_consumer.inc();
        let room = room.and_then(|room| shared.rooms.get(&room));
        let name = room.as_ref().map_or("", |room| room.id().as_str());
        warn!(tenant = %shared.tenant, room = name, dropped, "Messages came faster than they could be carried");
        let (reason, label) = (v1::GapReason::ShieldOverloaded, GapReason::Overflow);
        match room {
            Some(room) => room.lost(reason, label, &shared.counters),
            None => shared
                .rooms
                .lost_everywhere(reason, label, &shared.counters),
        }
    }

    /// Subscribes to rooms that are not yet, and asks for a proof.
    async fn prove(&mut self, rooms: Vec<RoomId>) {
        let connection = match self.rotation.next() {
            // What is new during a hand-over lives on the new connection only.
            Some(next) => next,
            None => &mut self.current,
        };
        for id in &rooms {
            if let Some(room) = self.shared.rooms.get(id) {
                // A connection that is over tells so by its events.
                connection.subscribe(&room, false).await;
            }
        }
        let barrier = connection.barrier.clone();
        self.proofs
            .spawn(async move { (rooms, barrier.round_trip().await) });
    }

    /// Asks for proof of the rooms that are in the table but not subscribed to.
    async fn prove_missing(&mut self) {
        let rooms = self.shared.rooms.all();
        let rooms: Vec<_> = rooms
            .iter()
            .map(|room| room.id())
            .filter(|room| !self.is_subscribed(room))
            .cloned()
            .collect();
        if !rooms.is_empty() {
            self.prove(rooms).await;
        }
    }

    async fn on_proof(&mut self, (rooms, proof): Proof) -> Option<End> {
        match proof {
            Ok(()) => {
                self.silences = 0;
                for _ in 0..EVENT_TURNS {
                    tokio::task::yield_now().await;
                }
                while let Some(event) = self.current.events().try_recv() {
                    if let Some(end) = self.on_event(Some(event)).await {
                        return Some(end);
                    }
                }
                let shared = self.shared;
                for room in rooms.iter().filter(|room| self.is_subscribed(room)) {
                    shared.rooms.settle(room, &shared.counters);
                }
            }
            Err(Unproven::TimedOut) => {
                self.silences += 1;
                if self.silences >= SILENCES {
                    warn!(tenant = %self.shared.tenant, "The Spine does not answer, connecting anew");
                    self.current.abort().await;
                    return Some(End::Lost);
                }
                self.prove(rooms).await;
            }
            // If the present connection is meant, its events tell; if another, it is gone.
            Err(Unproven::Lost) => self.prove_missing().await,
        }
        None
    }

    async fn on_tick(&mut self, quiet: bool) -> Option<End> {
        let shared = self.shared;
        let now = Instant::now();
        for room in shared.rooms.expire(now.into_std(), shared.params.linger) {
            self.unsubscribe(&room);
        }
        // Whoever publishes meanwhile may fill the connection's queue; beacons can wait.
        let beacons = shared.publisher.send_beacons();
        let _ = tokio::time::timeout(shared.tick(), beacons).await;

        if shared.used.swap(false, Ordering::Relaxed) || shared.rooms.len() > 0 {
            self.idle_since = now;
        }
        let idle = now.duration_since(self.idle_since) >= shared.params.idle_close;
        (idle && quiet && self.rotation.is_idle()).then_some(End::Idle)
    }

    /// Starts a rotation, unless one is under way.
    fn rotate(&mut self, choice: Choice) {
        self.rotate_at = None;
        if self.rotation.is_idle() {
            let prefer = choice
                .avoid
                .is_none()
                .then(|| self.current.server().to_owned());
            let choice = Choice { prefer, ..choice };
            self.rotation = Rotation::open(self.shared, choice);
        }
    }

    async fn on_step(&mut self, step: Step) -> Option<End> {
        match step {
            Step::Opened(Ok(mut next)) => {
                if next.account != self.shared.record.load().record.account {
                    return Some(End::Lost);
                }
                for room in self.shared.rooms.all() {
                    let held = self.current.is_subscribed(room.id());
                    if !next.subscribe(&room, held).await {
                        break; // it is over, which the hand-over finds out
                    }
                }
                self.rotation = Rotation::hand_over(self.shared, &self.current, next);
            }
            Step::Opened(Err(OpenError::NoOther)) => {
                debug!(tenant = %self.shared.tenant, "There is no other NATS server to move to");
                self.rotation = Rotation::Idle;
                self.rotation_over(false);
            }
            Step::Opened(Err(error)) => self.rotation_failed(&chain(&error)).await,
            Step::HandedOver(Err(error)) => self.rotation_failed(&chain(&error)).await,
            Step::HandedOver(Ok(end)) => self.take_over(end).await,
            Step::Event(event) => self.on_next_event(event).await,
        }
        None
    }

    /// The last step of a rotation: the old is carried to its end, the new let go.
    async fn take_over(&mut self, old_end: OldEnd) {
        let Rotation::HandingOver { next, .. } = std::mem::take(&mut self.rotation) else {
            return;
        };
        let shared = self.shared;
        let old = std::mem::replace(&mut self.current, *next);
        let gone = old.only_here(&self.current);
        old.close().await;
        if old_end == OldEnd::Unknown {
            let reason = v1::GapReason::SpineReconnected;
            let rooms = &shared.rooms;
            rooms.lost_everywhere(reason, GapReason::SpineReconnected, &shared.counters);
        }
        self.current.pump.release();
        shared.set_key_in_use(Some(self.current.fleet_key.clone()));
        self.rotate_at = rotate_at(&self.current);
        self.rotation_over(true);
        debug_assert!(gone.is_empty(), "every room of the old is on the new");
    }

    /// The old connection is lost while a new one is at hand: it takes over at once.
    async fn take_over_early(&mut self) -> Option<End> {
        let Some(next) = self.rotation.next() else {
            return Some(End::Lost);
        };
        let line = next.line();
        if next.barrier.round_trip().await.is_err() {
            return Some(End::Lost);
        }
        self.shared.publisher.set_line(Some(line));
        self.take_over(OldEnd::Unknown).await;
        self.shared.counters.metrics.spine_reconnects.inc();
        None
    }

    /// The old connection stays; rooms that were only on the new one move to it.
    async fn rotation_failed(&mut self, why: &str) {
        warn!(tenant = %self.shared.tenant, why, "Rotation of the tenant's credentials failed, the old ones stay");
        let rotation = std::mem::take(&mut self.rotation);
        if let Rotation::HandingOver { next, task } = rotation {
            // No switch of publishers may follow.
            task.abort();
            let _ = task.await;
            // What went out by the new one is with the server before more goes out by the old.
            let line = self.current.line();
            if self.shared.publisher.switch(line.clone()).await.is_err() {
                self.shared.publisher.set_line(Some(line));
            }
            for room in next.only_here(&self.current) {
                self.shared.rooms.unsettle(&room);
            }
            next.close().await;
            self.prove_missing().await;
        }
        let life = self.current.life.unwrap_or(LONGEST_PAUSE);
        let pause = life.mul_f64(ROTATE_AGAIN).max(LONGEST_PAUSE);
        self.rotate_at = Some(Instant::now() + pause);
        self.rotation_over(false);
    }

    fn rotation_over(&mut self, rotated: bool) {
        let outcome = if rotated {
            Outcome::Ok
        } else {
            Outcome::Failed
        };
        self.shared.counters.rotation(outcome);
        for done in self.rotating.drain(..) {
            let _ = done.send(rotated);
        }
        if self.rotate_at.is_none() {
            self.rotate_at = rotate_at(&self.current);
        }
    }

    fn unsubscribe(&mut self, room: &RoomId) {
        self.current.unsubscribe(room);
        if let Some(next) = self.rotation.next() {
            next.unsubscribe(room);
        }
    }

    fn is_subscribed(&mut self, room: &RoomId) -> bool {
        let next = self.rotation.next();
        next.is_some_and(|next| next.is_subscribed(room)) || self.current.is_subscribed(room)
    }

    /// The end of the stretch: nothing is handed over any more, what came is carried.
    async fn finish(mut self, end: &End) {
        let shared = self.shared;
        if *end == End::Closed {
            // What sessions published is with the server before the socket closes.
            let _ = self.current.barrier.round_trip().await;
        }
        let state = match end {
            End::Lost => LinkState::Down,
            // Set first, so that whoever finds no line knows to wake the link.
            End::Idle => LinkState::Dormant,
            End::Closed => LinkState::Closed,
        };
        shared.set_state(state);
        shared.publisher.set_line(None);
        shared.set_key_in_use(None);
        if let Rotation::HandingOver { next, task } = std::mem::take(&mut self.rotation) {
            task.abort();
            let _ = task.await;
            shared.publisher.set_line(None);
            next.abort().await;
        }
        self.current.close().await;
        shared.rooms.unsettle_all();
        for done in self.rotating {
            // A new connection has new credentials.
            let _ = done.send(*end != End::Closed);
        }
    }
}

/// When the credentials of a connection are to be rotated.
fn rotate_at(connection: &Connection) -> Option<Instant> {
    let life = connection.life?;
    let part = ROTATE_AT + JITTER * (2.0 * rand::random::<f64>() - 1.0);
    Some(Instant::now() + life.mul_f64(part))
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
