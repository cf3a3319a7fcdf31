//! One binding for one tenant: its instances, those who wait for one, and its
//! quarantine.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use arqon_proto::names::{SessionId, TenantId, UserId};
use tokio::sync::oneshot;

use crate::{
    Binding, Fault, FaultClass, Instance,
    meter::Meter,
    nursery::Nursery,
    quarantine::{Admit, Change, Quarantine},
    slots::{Seat, Slot, Slots},
    stats::{Counters, LogGate},
};

/// While others wait for a slot, an instance serves so many who wait for it,
/// and then makes room.
const TURNS: u32 = 64;

/// A binding that is in force here, without its tenants.
pub(crate) struct Core {
    pub(crate) binding: Arc<Binding>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) log: LogGate,
    /// It is in no table any more: instances are not kept.
    pub(crate) closed: AtomicBool,
    pub(crate) quarantined: AtomicUsize,
    pub(crate) instances: Arc<AtomicUsize>,
}

/// A tenant's budgets of CPU. Shadows have one of their own, so that they
/// never cost a message its place.
pub(crate) struct Budget {
    meter: Mutex<Meter>,
    shadow: Mutex<Meter>,
}

/// One binding for one tenant.
pub(crate) struct Lane {
    pub(crate) core: Arc<Core>,
    pub(crate) budget: Arc<Budget>,
    tenant: TenantId,
    seat: Arc<Seat>,
    epoch: Instant,
    state: Mutex<State>,
}

struct State {
    /// The one used last is at the end.
    idle: Vec<Held>,
    /// Those in use, or handed to one who is about to use them.
    leased: usize,
    /// Messages that wait for an instance: one for each session at most, since
    /// a session sends one message after the other.
    waiters: VecDeque<oneshot::Sender<Result<Lease, Fault>>>,
    /// The nursery has this lane in its queue, or makes an instance for it.
    queued: bool,
    /// The next instance replaces one that a fault of this tenant's has cost.
    owed: bool,
    quarantine: Quarantine,
}

/// An instance and its slot. The instance is dropped first.
pub(crate) struct Held {
    pub(crate) instance: Instance,
    slot: Slot,
    used: u64,
    /// Messages that it was handed to without a rest.
    turns: u32,
}

/// An instance in use. It goes back to its lane when this is dropped.
pub(crate) struct Lease {
    held: Option<Held>,
    lane: Arc<Lane>,
    nursery: Arc<Nursery>,
}

/// What a message gets.
pub(crate) enum Taken {
    Ready(Lease),
    Wait(oneshot::Receiver<Result<Lease, Fault>>),
    Quarantined,
}

/// What a run was, for the quarantine.
pub(crate) enum Outcome<'a> {
    Success,
    Fault(SessionId, &'a UserId),
    CannotStart,
}

impl Core {
    pub(crate) fn new(binding: Arc<Binding>, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            binding,
            counters,
            log: LogGate::default(),
            closed: AtomicBool::new(false),
            quarantined: AtomicUsize::new(0),
            instances: Arc::default(),
        })
    }
}

impl Budget {
    pub(crate) fn new(cores: f64, now: Instant) -> Self {
        Self {
            meter: Mutex::new(Meter::new(cores, now)),
            shadow: Mutex::new(Meter::new(cores, now)),
        }
    }

    pub(crate) fn refused(&self, shadow: bool, now: Instant) -> Option<Duration> {
        self.meter(shadow).refused(now)
    }

    pub(crate) fn charge(&self, shadow: bool, cost: Duration) {
        self.meter(shadow).charge(cost);
    }

    fn meter(&self, shadow: bool) -> MutexGuard<'_, Meter> {
        let meter = if shadow { &self.shadow } else { &self.meter };
        meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    pub(crate) fn new(
        core: Arc<Core>,
        budget: Arc<Budget>,
        tenant: TenantId,
        slots: &Slots,
        epoch: Instant,
    ) -> Arc<Self> {
        let seat = slots.seat(Arc::clone(&core.instances));
        Arc::new(Self {
            core,
            budget,
            tenant,
            seat,
            epoch,
            state: Mutex::new(State {
                idle: Vec::new(),
                leased: 0,
                waiters: VecDeque::new(),
                queued: false,
                owed: false,
                quarantine: Quarantine::new(epoch),
            }),
        })
    }

    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    pub(crate) fn binding(&self) -> &Binding {
        &self.core.binding
    }

    /// Asks the quarantine alone: for a message with an instance of its own.
    pub(crate) fn admit(&self, now: Instant) -> bool {
        self.lock().quarantine.admit(now) == Admit::Run
    }

    /// An instance for one message.
    pub(crate) fn take(self: &Arc<Self>, now: Instant, nursery: &Arc<Nursery>) -> Taken {
        let mut state = self.lock();
        if state.quarantine.admit(now) == Admit::Refuse {
            return Taken::Quarantined;
        }
        if let Some(held) = state.idle.pop() {
            self.tell_oldest(&state);
            return Taken::Ready(self.lease(&mut state, held, nursery));
        }
        let (sender, receiver) = oneshot::channel();
        state.waiters.push_back(sender);
        // Else one of those in use comes back, and serves it.
        if state.leased < nursery.parallel() {
            self.ask(&mut state, nursery);
        }
        Taken::Wait(receiver)
    }

    /// Tells the quarantine of a run.
    pub(crate) fn record(&self, outcome: &Outcome<'_>, now: Instant) {
        let change = self.lock().record(outcome, now);
        self.tell(change);
    }

    /// A new instance.
    pub(crate) fn born(self: &Arc<Self>, instance: Instance, slot: Slot, nursery: &Arc<Nursery>) {
        let held = Held {
            instance,
            slot,
            used: self.at(Instant::now()),
            turns: 0,
        };
        let mut state = self.lock();
        state.queued = false;
        if state.waiters.is_empty() && !self.core.closed.load(SeqCst) {
            // A spare: below the one whose time is nearly over.
            state.idle.insert(0, held);
            self.tell_oldest(&state);
            drop(state);
            nursery.slots().idle();
            return;
        }
        let excess = self.pass_on(&mut state, held, Instant::now(), nursery);
        drop(state);
        drop(excess);
    }

    /// There is no new instance, and why: all who wait are told.
    pub(crate) fn failed(&self, fault: &Fault, now: Instant) {
        let mut state = self.lock();
        state.queued = false;
        if state.leased > 0 || !state.idle.is_empty() {
            // It was a further one. Those that are there serve who waits.
            return;
        }
        let waiters = std::mem::take(&mut state.waiters);
        let change = match fault.class {
            FaultClass::NoSlot => Change::None,
            _ => state.record(&Outcome::CannotStart, now),
        };
        drop(state);
        self.tell(change);
        refuse(waiters, fault);
    }

    /// Whether the tenant pays for the next instance. Asking settles it.
    pub(crate) fn settle(&self) -> bool {
        std::mem::take(&mut self.lock().owed)
    }

    /// Gives the instance that idles longest.
    pub(crate) fn evict(&self) -> Option<Held> {
        let mut state = self.lock();
        let held = (!state.idle.is_empty()).then(|| state.idle.remove(0));
        self.tell_oldest(&state);
        held
    }

    /// Gives all that idle, for a thread that has time to drop them.
    pub(crate) fn clear(&self) -> Vec<Held> {
        let mut state = self.lock();
        let idle = std::mem::take(&mut state.idle);
        self.tell_oldest(&state);
        idle
    }

    fn give_back(self: &Arc<Self>, held: Held, nursery: &Arc<Nursery>, now: Instant) {
        let mut state = self.lock();
        state.leased -= 1;
        let excess = if std::thread::panicking() {
            // Nobody knows what state it is in.
            self.replace(&mut state, held, nursery)
        } else {
            self.pass_on(&mut state, held, now, nursery)
        };
        drop(state);
        drop(excess);
        nursery.slots().idle();
    }

    fn end(
        self: &Arc<Self>,
        mut held: Held,
        outcome: &Outcome<'_>,
        now: Instant,
        nursery: &Arc<Nursery>,
    ) {
        let mut state = self.lock();
        state.leased -= 1;
        let change = state.record(outcome, now);
        // It rests from now on, for those who wait as well.
        let refused = match change {
            Change::Entered => std::mem::take(&mut state.waiters),
            Change::None | Change::Lifted => VecDeque::new(),
        };
        let excess = match outcome {
            Outcome::Success => {
                held.used = self.at(now);
                let limits = &self.binding().limits;
                let runs = held.instance.runs();
                let spare = limits
                    .recycle_after
                    .saturating_sub(spare_before(limits.recycle_after));
                if runs == spare && state.idle.is_empty() {
                    self.ask(&mut state, nursery);
                }
                if runs >= limits.recycle_after {
                    self.replace(&mut state, held, nursery)
                } else {
                    self.pass_on(&mut state, held, now, nursery)
                }
            }
            Outcome::Fault(..) | Outcome::CannotStart => {
                state.owed = true;
                self.replace(&mut state, held, nursery)
            }
        };
        drop(state);
        self.tell(change);
        refuse(refused, &quarantined());
        drop(excess);
        nursery.slots().idle();
    }

    /// Hands an instance to the first who waits, or lets it idle. What it
    /// returns is to be dropped without the lock.
    fn pass_on(
        self: &Arc<Self>,
        state: &mut State,
        mut held: Held,
        now: Instant,
        nursery: &Arc<Nursery>,
    ) -> Option<Held> {
        if held.turns >= TURNS && nursery.slots().wanted() {
            return self.replace(state, held, nursery);
        }
        while let Some(waiter) = state.waiters.pop_front() {
            held.turns += 1;
            match waiter.send(Ok(self.lease(state, held, nursery))) {
                Ok(()) => {
                    if !state.waiters.is_empty() && state.leased < nursery.parallel() {
                        self.ask(state, nursery);
                    }
                    return None;
                }
                // Who waited is gone.
                Err(Ok(mut lease)) => {
                    state.leased -= 1;
                    held = lease.held.take()?;
                }
                Err(Err(_)) => return None,
            }
        }
        if self.core.closed.load(SeqCst) {
            return Some(held);
        }
        held.turns = 0;
        held.used = held.used.max(self.at(now));
        state.idle.push(held);
        self.tell_oldest(state);
        None
    }

    /// Gives an instance up; another one is made if somebody waits.
    fn replace(
        self: &Arc<Self>,
        state: &mut State,
        held: Held,
        nursery: &Arc<Nursery>,
    ) -> Option<Held> {
        if !state.waiters.is_empty() {
            self.ask(state, nursery);
        }
        Some(held)
    }

    /// Asks the nursery for an instance, once at a time.
    fn ask(self: &Arc<Self>, state: &mut State, nursery: &Arc<Nursery>) {
        if !std::mem::replace(&mut state.queued, true) {
            nursery.add(Arc::clone(self));
        }
    }

    fn lease(self: &Arc<Self>, state: &mut State, held: Held, nursery: &Arc<Nursery>) -> Lease {
        state.leased += 1;
        Lease {
            held: Some(held),
            lane: Arc::clone(self),
            nursery: Arc::clone(nursery),
        }
    }

    fn tell_oldest(&self, state: &State) {
        self.seat
            .set_oldest(state.idle.first().map(|held| held.used));
    }

    fn tell(&self, change: Change) {
        let (key, tenant) = (&self.binding().key, &self.tenant);
        let quarantined = &self.core.quarantined;
        match change {
            Change::None => {}
            Change::Entered => {
                quarantined.fetch_add(1, SeqCst);
                tracing::warn!(binding = %key, %tenant, "a policy is quarantined for one tenant");
            }
            Change::Lifted => {
                quarantined.fetch_sub(1, SeqCst);
                tracing::info!(binding = %key, %tenant, "a quarantine is lifted");
            }
        }
    }

    /// Any count that grows with time, for what was used longest ago.
    fn at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX - 1)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why nothing runs in quarantine.
pub(crate) fn quarantined() -> Fault {
    Fault::new(FaultClass::Quarantined, "it failed for several senders")
}

fn refuse(waiters: VecDeque<oneshot::Sender<Result<Lease, Fault>>>, fault: &Fault) {
    for waiter in waiters {
        // Who is gone needs no answer.
        let _ = waiter.send(Err(fault.clone()));
    }
}

/// How many messages before its end an instance has its successor made.
fn spare_before(recycle_after: u32) -> u32 {
    (recycle_after / 8).clamp(1, 100)
}

impl State {
    fn record(&mut self, outcome: &Outcome<'_>, now: Instant) -> Change {
        match outcome {
            Outcome::Success => self.quarantine.success(now),
            Outcome::Fault(session, user) => self.quarantine.fault(now, *session, user),
            Outcome::CannotStart => self.quarantine.cannot_start(now),
        }
    }
}

impl Held {
    /// Drops the instance and keeps its slot.
    pub(crate) fn into_slot(self) -> Slot {
        let Self { instance, slot, .. } = self;
        drop(instance);
        slot
    }
}

impl Lease {
    /// The instance.
    pub(crate) fn instance(&mut self) -> Option<&mut Instance> {
        self.held.as_mut().map(|held| &mut held.instance)
    }

    /// Ends its use, and says what came of it.
    pub(crate) fn end(mut self, outcome: &Outcome<'_>, now: Instant) {
        if let Some(held) = self.held.take() {
            self.lane.end(held, outcome, now, &self.nursery);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.lane.give_back(held, &self.nursery, Instant::now());
        }
    }
}
