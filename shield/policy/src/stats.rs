//! What bindings did.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{Digest, Fault, FaultClass, Verdict};

/// A run longer than this is counted as slow: the far limit of what a policy
/// may add to a message.
pub const SLOW: Duration = Duration::from_millis(2);

/// What one binding did, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingStats {
    /// Its key.
    pub key: Arc<str>,
    /// The revision that runs.
    pub revision: u64,
    /// The digest that runs.
    pub digest: Digest,
    /// Whether it only watches.
    pub shadow: bool,
    /// Whether it cannot run at all.
    pub broken: bool,
    /// Tenants it is quarantined for.
    pub quarantined: usize,
    /// Its instances that are alive.
    pub instances: usize,
    /// Since it was first bound here, over all of its revisions.
    pub counts: Counts,
}

/// What was done. A shadow's counts say what it would have done.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages allowed.
    pub allowed: u64,
    /// Messages blocked by verdict.
    pub blocked: u64,
    /// Messages changed.
    pub transformed: u64,
    /// Messages it failed on.
    pub faults: u64,
    /// Messages for which it could not run.
    pub unavailable: u64,
    /// The last two by class; classes that never came are left out.
    pub classes: Vec<(FaultClass, u64)>,
    /// Runs over [`SLOW`].
    pub slow: u64,
    /// CPU time of all runs.
    pub cost: Duration,
}

/// The counters themselves. They count up by relaxed additions only.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    allowed: AtomicU64,
    blocked: AtomicU64,
    transformed: AtomicU64,
    classes: [AtomicU64; FaultClass::ALL.len()],
    slow: AtomicU64,
    cost_ns: AtomicU64,
}

impl Counters {
    pub(crate) fn result(&self, result: &Result<Verdict, Fault>) {
        let counter = match result {
            Ok(Verdict::Allow) => &self.allowed,
            Ok(Verdict::Block(_)) => &self.blocked,
            Ok(Verdict::Transform(_)) => &self.transformed,
            Err(fault) => &self.classes[fault.class as usize],
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn cost(&self, cost: Duration) {
        let ns = u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX);
        self.cost_ns.fetch_add(ns, Relaxed);
        if cost > SLOW {
            self.slow.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Counts {
        let classes: Vec<_> = FaultClass::ALL
            .into_iter()
            .map(|class| (class, self.classes[class as usize].load(Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let sum = |of_message: bool| {
            let some = classes
                .iter()
                .filter(|(class, _)| class.is_of_message() == of_message);
            some.map(|(_, count)| count).sum()
        };
        Counts {
            allowed: self.allowed.load(Relaxed),
            blocked: self.blocked.load(Relaxed),
            transformed: self.transformed.load(Relaxed),
            faults: sum(true),
            unavailable: sum(false),
            classes,
            slow: self.slow.load(Relaxed),
            cost: Duration::from_nanos(self.cost_ns.load(Relaxed)),
        }
    }
}

/// Lets ten lines of one binding a second into the log: a policy that writes
/// must not fill it.
#[derive(Debug, Default)]
pub(crate) struct LogGate(AtomicU64);

impl LogGate {
    const LINES: u64 = 10;

    /// `second` is any count of seconds.
    pub(crate) fn open(&self, second: u64) -> bool {
        let next = self.0.fetch_update(Relaxed, Relaxed, |state| {
            let (of, lines) = (state >> 8, state & 0xff);
            match of == second {
                true if lines >= Self::LINES => None,
                true => Some(state + 1),
                false => Some((second << 8) | 1),
            }
        });
        next.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_the_place_of_their_number() {
        for (place, class) in FaultClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, place);
        }
    }

    #[test]
    fn faults_and_what_could_not_run_are_told_apart() {
        let counters = Counters::default();
        for class in [FaultClass::Trap, FaultClass::Trap, FaultClass::Quarantined] {
            counters.result(&Err(Fault::new(class, "")));
        }
        counters.result(&Ok(Verdict::Block(String::new())));
        counters.cost(Duration::from_millis(3));
        counters.cost(Duration::from_millis(1));
        let counts = counters.read();
        assert_eq!((counts.faults, counts.unavailable), (2, 1));
        assert_eq!((counts.blocked, counts.slow), (1, 1));
        assert_eq!(counts.cost, Duration::from_millis(4));
        assert_eq!(
            counts.classes,
            [(FaultClass::Trap, 2), (FaultClass::Quarantined, 1)]
        );
    }

    #[test]
    fn ten_lines_a_second() {
        let gate = LogGate::default();
        let passed = (0..100).filter(|_| gate.open(7)).count();
        assert_eq!(passed, 10);
        assert!(gate.open(8));
    }
}
