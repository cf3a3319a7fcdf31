//! What waits for all sessions of one tenant on this Shield, in bytes.
//!
//! The bound is shared the way switches share a packet buffer (dynamic
//! thresholds, Choudhury and Hahne 1998): a queue may hold as much as is still
//! free. A single stalled reader gets up to half of the whole, many get little
//! each, and there is room for those who read, as long as fewer queues are
//! stalled than the whole has steps. The bound is never passed, and nobody looks
//! for the largest queue.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use arqon_proto::names::TenantId;
use arqon_telemetry::Counter;

/// Bytes of a queue that are not charged, so that sessions which keep up touch
/// nothing that they share.
pub(super) const FREE: u32 = 4 * 1024;
/// The charge is a multiple of this: one addition for many messages.
const STEP: u32 = 16 * 1024;

/// The backlogs of all tenants with sessions here.
#[derive(Debug)]
pub(super) struct Backlogs {
    max_bytes: u64,
    full: Counter,
    by_tenant: Mutex<HashMap<TenantId, Weak<Backlog>>>,
}

/// One tenant's. Lives while a queue of the tenant does.
#[derive(Debug)]
pub(super) struct Backlog {
    max_bytes: u64,
    bytes: AtomicU64,
    full: Counter,
}

/// What a queue of so many message bytes is charged.
pub(super) fn charge_of(message_bytes: u32) -> u32 {
    message_bytes.saturating_sub(FREE).next_multiple_of(STEP)
}

// === impl Backlogs ===

impl Backlogs {
    pub(super) fn new(max_bytes: u64, full: Counter) -> Self {
        Self {
            max_bytes,
            full,
            by_tenant: Mutex::default(),
        }
    }

    pub(super) fn of(&self, tenant: &TenantId) -> Arc<Backlog> {
        let mut all = self
            .by_tenant
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(tenant).and_then(Weak::upgrade) {
            return known;
        }
        // Tenants come seldom, sessions often: here is the time to forget.
        all.retain(|_, backlog| backlog.strong_count() > 0);
        let backlog = Arc::new(Backlog {
            max_bytes: self.max_bytes,
            bytes: AtomicU64::new(0),
            full: self.full.clone(),
        });
        all.insert(tenant.clone(), Arc::downgrade(&backlog));
        backlog
    }
}

// === impl Backlog ===

impl Backlog {
    /// Raises a queue's charge, if as much is still free as it will hold then.
    pub(super) fn raise(&self, from: u32, to: u32) -> bool {
        let more = u64::from(to - from);
        let raised = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| {
                let free = self.max_bytes.saturating_sub(bytes);
                (u64::from(to) <= free).then(|| bytes + more)
            });
        if raised.is_err() {
            self.full.inc();
        }
        raised.is_ok()
    }

    /// Gives back.
    pub(super) fn lower(&self, by: u32) {
        self.bytes.fetch_sub(by.into(), Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u64 = 1 << 20;

    fn backlog() -> Arc<Backlog> {
        let tenant = TenantId::parse("acme").expect("a valid name");
        Backlogs::new(MAX, Counter::default()).of(&tenant)
    }

    #[test]
    fn a_single_queue_gets_half_and_many_leave_room_for_one_more() {
        let one = backlog();
        let mut charge = 0;
        while one.raise(charge, charge + STEP) {
            charge += STEP;
        }
        assert_eq!(u64::from(charge), MAX / 2);

        let many = backlog();
        let mut charges = [0_u32; 50];
        loop {
            let before = charges;
            for charge in &mut charges {
                if many.raise(*charge, *charge + STEP) {
                    *charge += STEP;
                }
            }
            if charges == before {
                break;
            }
        }
        assert!(many.raise(0, STEP), "who has nothing waiting has room");
    }

    /// The number that the manifest's key and docs/limits.md tell.
    #[test]
    fn as_many_stalled_queues_as_the_bound_has_steps_leave_no_room() {
        let steps = MAX / u64::from(STEP);
        assert_eq!(steps, 64, "at the least value of the key");
        let shared = backlog();
        for stalled in 0..steps {
            assert!(shared.raise(0, STEP), "after {stalled}");
        }
        assert!(!shared.raise(0, STEP));
        assert_eq!(charge_of(FREE), 0, "the first bytes need no room");
        shared.lower(STEP);
        assert!(shared.raise(0, STEP));
    }

    #[test]
    fn a_tenant_is_one_and_forgotten_with_its_last_queue() {
        let all = Backlogs::new(MAX, Counter::default());
        let id = |name| TenantId::parse(name).expect("a valid name");
        let (one, other) = (all.of(&id("acme")), all.of(&id("globex")));
        assert!(one.raise(0, STEP));
        assert_eq!(
            (all.of(&id("acme")).bytes(), other.bytes()),
            (STEP.into(), 0)
        );
        drop((one, other));
        drop(all.of(&id("initech")));
        let initech = all.of(&id("initech"));
        assert_eq!(all.by_tenant.lock().expect("no panic").len(), 1);
        assert_eq!(initech.bytes(), 0);
    }

    proptest! {
        #[test]
        fn the_bound_holds_and_what_is_given_back_is_free(
            steps in proptest::collection::vec((0_usize..8, 0_u32..600_000), 0..200),
        ) {
            let shared = backlog();
            let mut charges = [0_u32; 8];
            for (queue, bytes) in steps {
                let (from, to) = (charges[queue], charge_of(bytes));
                if to > from {
                    if shared.raise(from, to) {
                        charges[queue] = to;
                    }
                } else {
                    shared.lower(from - to);
                    charges[queue] = to;
                }
                let sum: u64 = charges.iter().copied().map(u64::from).sum();
                prop_assert_eq!(shared.bytes(), sum);
                prop_assert!(sum <= MAX);
            }
        }
    }
}
