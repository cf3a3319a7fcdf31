//! A link that is up: joins are proven, credentials rotated, losses told.

use std::sync::{Arc, atomic::Ordering};

use arqon_proto::{names::RoomId, v1};
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
    driver::{Command, End, LONGEST_PAUSE},
    link::{LinkState, Shared},
    restore::{late_errors, refused},
    rotation::{OldEnd, Rotation, Step},
};

/// New subscriptions proven by one barrier at most.
const BATCH: usize = 256;
/// Barriers in a row without an answer after which a connection is given up.
const SILENCES: usize = 3;
/// A credential is rotated at this part of its life, give or take `JITTER`.
const ROTATE_AT: f64 = 0.8;
/// Spreads the rotations of tenants connected at the same time.
const JITTER: f64 = 0.05;
/// A failed rotation is tried again after this part of the credential's life.
const ROTATE_AGAIN: f64 = 0.04;

/// A proof of new subscriptions, and the rooms it is for.
type Proof = (Vec<RoomId>, Result<(), Unproven>);

/// A link that is up.
pub(super) struct Serving<'a> {
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
    pub(super) fn new(shared: &'a Arc<Shared>, current: Connection) -> Self {
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

    pub(super) async fn run(mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> End {
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
            Some(SpineEvent::SlowConsumer { sid, .. }) if Connection::is_presence(sid) => {
                self.presence_overflow();
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
            Some(SpineEvent::SlowConsumer { sid, .. }) if Connection::is_presence(sid) => {
                self.presence_overflow();
            }
            Some(SpineEvent::SlowConsumer { sid, dropped }) => {
                let next = self.rotation.next();
                let room = next.and_then(|next| next.room_of(sid).cloned());
                self.overflow(room, dropped);
            }
            Some(SpineEvent::LameDuck) => {}
        }
    }

    /// What Brain said was dropped, and is asked for again.
    fn presence_overflow(&self) {
        self.shared.counters.metrics.spine_slow_consumer.inc();
        self.shared.presence.reconnected();
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
                late_errors().await;
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
