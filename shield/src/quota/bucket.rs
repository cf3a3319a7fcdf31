//! A rate kept by when the next may come.
//!
//! The generic cell rate algorithm (ITU-T I.371), as [`crate::pace`] has it,
//! with a cost for each and nobody waiting. The rate is an argument: it changes
//! while the fleet shares it.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// As much may come at once as in this time at an even rate.
const BURST_NS: u64 = 1_000_000_000;

/// The most that is owed, for a message larger than a second's worth. So who was
/// held to a rate that is soon raised again waits no longer.
const LONGEST_NS: u64 = 60 * BURST_NS;

/// What all buckets count from, so that each is one number.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What is left of a rate.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// When it is full again, nanoseconds since `START`.
    full_ns: AtomicU64,
}

// === impl Bucket ===

impl Bucket {
    /// Takes `cost` of `rate` a second, or tells when it may be tried again. What
    /// is more than a second's worth passes when nothing is owed, and is owed then,
    /// a minute's worth at most.
    pub(super) fn take(&self, now: Instant, cost: u64, rate: u64) -> Result<(), Duration> {
        let now_ns = nanos(now);
        let cost_ns = cost_ns(cost, rate);
        let taken = self
            .full_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_ns| {
                let owed = full_ns.saturating_sub(now_ns);
                let after = owed.saturating_add(cost_ns);
                (after <= BURST_NS || owed == 0).then(|| now_ns.saturating_add(after))
            });
        taken.map(drop).map_err(|full_ns| {
            let owed = full_ns.saturating_sub(now_ns);
            let until_room = owed.saturating_add(cost_ns).saturating_sub(BURST_NS);
            Duration::from_nanos(until_room.min(owed).max(1))
        })
    }

    /// Gives back what was taken for nothing.
    pub(super) fn give_back(&self, cost: u64, rate: u64) {
        let cost_ns = cost_ns(cost, rate);
        // A rate that changed meanwhile must not make it go round.
        let _ = self
            .full_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_ns| {
                Some(full_ns.saturating_sub(cost_ns))
            });
    }
}

fn cost_ns(cost: u64, rate: u64) -> u64 {
    let cost_ns = u128::from(cost) * 1_000_000_000 / u128::from(rate.max(1));
    u64::try_from(cost_ns).unwrap_or(u64::MAX).min(LONGEST_NS)
}

fn nanos(now: Instant) -> u64 {
    let since = now.saturating_duration_since(*START);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(secs: f64) -> Duration {
        Duration::from_secs_f64(secs)
    }

    #[test]
    fn a_second_is_had_at_once_and_then_the_rate() {
        let bucket = Bucket::default();
        let now = *START + secs(10.0);
        for _ in 0..10 {
            assert_eq!(bucket.take(now, 1, 10), Ok(()));
        }
        let wait = bucket.take(now, 1, 10).expect_err("used up");
        assert_eq!(wait, secs(0.1));
        assert_eq!(bucket.take(now + wait, 1, 10), Ok(()));
        assert!(bucket.take(now + wait, 1, 10).is_err());
        // After a pause there is a second's worth again, and not two.
        let later = now + secs(3_600.0);
        let passed = (0..30).filter(|_| bucket.take(later, 1, 10).is_ok());
        assert_eq!(passed.count(), 10);
    }

    #[test]
    fn what_is_larger_than_a_second_passes_when_nothing_is_owed() {
        let bucket = Bucket::default();
        let now = *START + secs(10.0);
        assert_eq!(bucket.take(now, 5_000, 1_000), Ok(()));
        assert_eq!(bucket.take(now, 1, 1_000), Err(secs(4.001)));
        let wait = bucket.take(now, 5_000, 1_000).expect_err("owed");
        assert_eq!(wait, secs(5.0));
        assert_eq!(bucket.take(now + wait, 5_000, 1_000), Ok(()));
    }

    #[test]
    fn nobody_owes_more_than_a_minute() {
        let bucket = Bucket::default();
        let now = *START + secs(10.0);
        assert_eq!(bucket.take(now, 60_000, 1), Ok(()));
        assert!(bucket.take(now + secs(58.0), 1, 1_000_000).is_err());
        assert_eq!(bucket.take(now + secs(60.0), 1, 1_000_000), Ok(()));
    }

    #[test]
    fn what_was_taken_for_nothing_comes_back() {
        let bucket = Bucket::default();
        let now = *START + secs(10.0);
        assert_eq!(bucket.take(now, 10, 10), Ok(()));
        bucket.give_back(1, 10);
        assert_eq!(bucket.take(now, 1, 10), Ok(()));
        assert!(bucket.take(now, 1, 10).is_err());
    }

    proptest! {
        /// Whatever comes when: no more passes than a second's worth and the rate,
        /// and who comes back as told finds room.
        #[test]
        fn no_more_passes_than_the_rate(
            steps in prop::collection::vec((0_u64..400, 1_u64..20), 1..200),
            rate in 20_u64..1_000,
        ) {
            let bucket = Bucket::default();
            let start = *START + secs(10.0);
            let mut now = start;
            let mut passed = 0;
            for (pause_ms, cost) in steps {
                now += Duration::from_millis(pause_ms);
                match bucket.take(now, cost, rate) {
                    Ok(()) => passed += cost,
                    Err(wait) => {
                        now += wait;
                        prop_assert_eq!(bucket.take(now, cost, rate), Ok(()));
                        passed += cost;
                    }
                }
                let most = rate as f64 * (1.0 + (now - start).as_secs_f64());
                prop_assert!(passed as f64 <= most + 1.0, "{passed} of {most}");
            }
        }
    }
}
