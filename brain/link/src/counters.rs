//! What is told to Brain as a number, not one by one.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Messages that a subscription's full queue lost.
    SlowConsumer,
    /// Messages that are not what they should be.
    Malformed,
    /// Messages that are too large, or parts of which are.
    Oversized,
    /// Beats of a clock that is far off ours.
    ClockSkew,
    /// Messages and commands dropped at a bound of the link, or for want of a connection.
    Dropped,
}

/// Counts since they were last taken.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; Counter::ALL.len()]);

// === impl Counter ===

impl Counter {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 5] = [
        Self::SlowConsumer,
        Self::Malformed,
        Self::Oversized,
        Self::ClockSkew,
        Self::Dropped,
    ];

    /// The atom by which Brain knows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SlowConsumer => "slow_consumer",
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::ClockSkew => "clock_skew",
            Self::Dropped => "dropped",
        }
    }
}

// === impl Counters ===

impl Counters {
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        self.0[counter as usize].fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn take(&self) -> impl Iterator<Item = (Counter, u64)> {
        Counter::ALL
            .into_iter()
            .map(|counter| (counter, self.0[counter as usize].swap(0, Ordering::Relaxed)))
            .filter(|(_, n)| *n > 0)
    }
}
