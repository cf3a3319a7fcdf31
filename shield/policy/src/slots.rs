//! The places for instances: a bounded number, and idle instances give way.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use crate::lane::{Held, Lane};

/// What stands for "no idle instance".
const NONE_IDLE: u64 = u64::MAX;

/// Places for instances of all bindings and tenants.
pub(crate) struct Slots {
    /// Instances that may be alive. The rest, up to `most`, is for those that
    /// cannot wait.
    usual: usize,
    most: usize,
    state: Mutex<State>,
    /// Threads that wait for a slot.
    waiting: AtomicUsize,
    freed: Condvar,
}

struct State {
    alive: usize,
    /// The lanes that have instances. It is looked through when a slot is
    /// needed and none is free, so only when an instance is made.
    lanes: HashMap<u64, Entry>,
    next: u64,
}

struct Entry {
    lane: Weak<Lane>,
    seat: Arc<Seat>,
}

/// What the slots know of one lane.
pub(crate) struct Seat {
    id: u64,
    /// When its oldest idle instance was used last, or [`NONE_IDLE`].
    oldest: AtomicU64,
    /// Its instances that are alive.
    alive: AtomicUsize,
    /// The same of the whole binding.
    of_binding: Arc<AtomicUsize>,
}

/// The right to one instance.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    seat: Arc<Seat>,
}

impl Slots {
    pub(crate) fn new(most: usize, reserve: usize) -> Arc<Self> {
        let reserve = reserve.min(most / 2);
        Arc::new(Self {
            usual: most - reserve,
            most,
            state: Mutex::new(State {
                alive: 0,
                lanes: HashMap::new(),
                next: 0,
            }),
            waiting: AtomicUsize::new(0),
            freed: Condvar::new(),
        })
    }

    pub(crate) fn seat(&self, of_binding: Arc<AtomicUsize>) -> Arc<Seat> {
        let mut state = self.lock();
        state.next += 1;
        Arc::new(Seat {
            id: state.next,
            oldest: AtomicU64::new(NONE_IDLE),
            alive: AtomicUsize::new(0),
            of_binding,
        })
    }

    /// A slot, once there is one: a free one, that of the instance that idles
    /// longest, or the next that comes free before `until`.
    pub(crate) fn wait(self: &Arc<Self>, lane: &Arc<Lane>, until: Instant) -> Option<Slot> {
        if let Some(slot) = self.free_or_evicted(lane, self.usual) {
            return Some(slot);
        }
        self.waiting.fetch_add(1, SeqCst);
        let slot = loop {
            // Counted as waiting before it looks: who makes an instance idle
            // after that look wakes this thread.
            if let Some(slot) = self.free_or_evicted(lane, self.usual) {
                break Some(slot);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break None;
            }
            let state = self.lock();
            // The look was without the lock; a short sleep bounds what that may miss.
            let nap = left.min(Duration::from_millis(5));
            drop(self.freed.wait_timeout(state, nap));
        };
        self.waiting.fetch_sub(1, SeqCst);
        slot
    }

    /// A slot now, if need be one of those kept for this.
    pub(crate) fn now(self: &Arc<Self>, lane: &Arc<Lane>) -> Option<Slot> {
        self.free_or_evicted(lane, self.most)
    }

    /// Whether somebody waits for a slot.
    pub(crate) fn wanted(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// Tells those who wait that an instance became idle.
    pub(crate) fn idle(&self) {
        if self.wanted() {
            drop(self.lock());
            self.freed.notify_one();
        }
    }

    /// Drops the instance that idles longest.
    pub(crate) fn evict(&self) -> bool {
        self.oldest().is_some()
    }

    fn free_or_evicted(self: &Arc<Self>, lane: &Arc<Lane>, most: usize) -> Option<Slot> {
        let mut state = self.lock();
        if state.alive < most {
            state.alive += 1;
            state.enter(lane);
            return Some(Slot {
                slots: Arc::clone(self),
                seat: Arc::clone(lane.seat()),
            });
        }
        drop(state);
        // Its place in the pool must be free before the next one starts.
        let mut slot = self.oldest()?.into_slot();
        let mut state = self.lock();
        state.leave(&slot.seat);
        state.enter(lane);
        slot.seat = Arc::clone(lane.seat());
        Some(slot)
    }

    /// Takes the instance that idles longest out of its lane. Lanes are locked
    /// under the lock of the slots, never the other way round.
    fn oldest(&self) -> Option<Held> {
        // Dropping a lane drops its instances, which takes the lock: not under it.
        let mut lanes = Vec::new();
        let state = self.lock();
        loop {
            let (_, entry) = state
                .lanes
                .values()
                .map(|entry| (entry.seat.oldest.load(SeqCst), entry))
                .filter(|(oldest, _)| *oldest != NONE_IDLE)
                .min_by_key(|(oldest, _)| *oldest)?;
            let Some(lane) = entry.lane.upgrade() else {
                entry.seat.oldest.store(NONE_IDLE, SeqCst);
                continue;
            };
            // None: it was taken meanwhile, and `oldest` says so now.
            let held = lane.evict();
            lanes.push(lane);
            if held.is_some() {
                drop(state);
                return held;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// To be called under the lane's lock with each change of what idles there.
    pub(crate) fn set_oldest(&self, used: Option<u64>) {
        self.oldest.store(used.unwrap_or(NONE_IDLE), SeqCst);
    }
}

impl State {
    fn enter(&mut self, lane: &Arc<Lane>) {
        let seat = lane.seat();
        seat.alive.fetch_add(1, SeqCst);
        seat.of_binding.fetch_add(1, SeqCst);
        self.lanes.entry(seat.id).or_insert_with(|| Entry {
            lane: Arc::downgrade(lane),
            seat: Arc::clone(seat),
        });
    }

    fn leave(&mut self, seat: &Seat) {
        seat.of_binding.fetch_sub(1, SeqCst);
        if seat.alive.fetch_sub(1, SeqCst) == 1 {
            self.lanes.remove(&seat.id);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        state.alive -= 1;
        state.leave(&self.seat);
        drop(state);
        if self.slots.wanted() {
            self.slots.freed.notify_one();
        }
    }
}
