//! Where instances are made: on threads of their own, so that what a policy
//! does while it starts costs no session its thread.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    Fault, FaultClass, Instance,
    lane::Lane,
    slots::{Slot, Slots},
    sys,
};

/// How long the nursery looks for a slot. Instances in use come free within
/// milliseconds.
const SLOT_PATIENCE: Duration = Duration::from_secs(5);

/// The queue. Each lane is in it once at most, so it is as long as there are
/// pairs of binding and tenant; served in turn, so that one tenant's many
/// messages wait behind each other and not before those of others.
pub(crate) struct Nursery {
    queue: Mutex<Queue>,
    wake: Condvar,
    slots: Arc<Slots>,
    parallel: usize,
}

#[derive(Default)]
struct Queue {
    lanes: VecDeque<Arc<Lane>>,
    ended: bool,
}

impl Nursery {
    /// `parallel`: instances of one lane that can be of use at the same time.
    pub(crate) fn start(
        slots: Arc<Slots>,
        threads: usize,
        parallel: usize,
    ) -> std::io::Result<Arc<Self>> {
        let nursery = Arc::new(Self {
            queue: Mutex::default(),
            wake: Condvar::new(),
            slots,
            parallel: parallel.max(1),
        });
        for number in 0..threads.max(1) {
            let of_thread = Arc::clone(&nursery);
            let thread = std::thread::Builder::new().name(format!("policy-nursery-{number}"));
            if let Err(error) = thread.spawn(move || of_thread.run()) {
                nursery.end();
                return Err(error);
            }
        }
        Ok(nursery)
    }

    pub(crate) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    pub(crate) fn parallel(&self) -> usize {
        self.parallel
    }

    pub(crate) fn add(&self, lane: Arc<Lane>) {
        self.lock().lanes.push_back(lane);
        self.wake.notify_one();
    }

    /// Ends the threads. Who still waits gets no instance.
    pub(crate) fn end(&self) {
        let mut queue = self.lock();
        queue.ended = true;
        let lanes = std::mem::take(&mut queue.lanes);
        drop(queue);
        self.wake.notify_all();
        drop(lanes);
    }

    fn run(self: Arc<Self>) {
        while let Some(lane) = self.next() {
            self.make(&lane);
        }
    }

    fn next(&self) -> Option<Arc<Lane>> {
        let mut queue = self.lock();
        loop {
            if queue.ended {
                return None;
            }
            if let Some(lane) = queue.lanes.pop_front() {
                return Some(lane);
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn make(self: &Arc<Self>, lane: &Arc<Lane>) {
        let owed = lane.settle();
        let before = sys::thread_cpu();
        // A panic must not take the thread, and everybody's instances with it.
        let made = catch_unwind(AssertUnwindSafe(|| self.instance(lane)));
        let made = made
            .unwrap_or_else(|_| Err(Fault::new(FaultClass::Configure, "the host failed over it")));
        if owed || made.is_err() {
            let cost = sys::thread_cpu().saturating_sub(before);
            lane.budget.charge(lane.binding().shadow, cost);
        }
        match made {
            Ok((mut instance, slot)) => {
                lane.core.log_lines(&mut instance);
                lane.born(instance, slot, self);
            }
            Err(fault) => lane.failed(&fault, Instant::now()),
        }
    }

    fn instance(&self, lane: &Arc<Lane>) -> Result<(Instance, Slot), Fault> {
        let binding = lane.binding();
        let module = binding.module.as_ref().map_err(Clone::clone)?;
        let until = Instant::now() + SLOT_PATIENCE;
        let no_slot = || Fault::new(FaultClass::NoSlot, "no slot came free in time");
        let slot = self.slots.wait(lane, until).ok_or_else(no_slot)?;
        loop {
            match module.start(&binding.config, &binding.limits) {
                Ok(instance) => return Ok((instance, slot)),
                // Others start instances of their own, to try a policy out.
                Err(fault) if fault.class == FaultClass::NoSlot => {
                    if Instant::now() >= until {
                        return Err(fault);
                    }
                    if !self.slots.evict() {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
