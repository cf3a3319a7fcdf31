//! A rate that is kept by telling each who comes when its turn is.
//!
//! The generic cell rate algorithm (ITU-T I.371): one number, no queue, no
//! timer. Who would have to wait too long is told how long instead.

use std::time::{Duration, Instant};

use crate::sync::{AtomicU64, Ordering};

/// So many turns a second, and some at once after a quiet time.
#[derive(Debug)]
pub(crate) struct Pace {
    start: Instant,
    interval_ns: u64,
    /// How far turns may run ahead of the rate.
    slack_ns: u64,
    /// When the next turn would be at an even rate, nanoseconds since `start`.
    next_ns: AtomicU64,
}

// === impl Pace ===

impl Pace {
    pub(crate) fn new(per_second: u32, burst: u32, start: Instant) -> Self {
        let interval_ns = 1_000_000_000 / u64::from(per_second.max(1));
        Self {
            start,
            interval_ns,
            slack_ns: interval_ns * u64::from(burst.max(1) - 1),
            next_ns: AtomicU64::new(0),
        }
    }

    /// Takes a turn and tells how long to wait for it, `patience` at most;
    /// without one, how long the line is.
    pub(crate) fn take(&self, now: Instant, patience: Duration) -> Result<Duration, Duration> {
        let now_ns = nanos(now.saturating_duration_since(self.start));
        let patience_ns = nanos(patience);
        let wait_of = |next_ns: u64| next_ns.saturating_sub(now_ns + self.slack_ns);
        let taken = self
            .next_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next_ns| {
                let next_ns = next_ns.max(now_ns);
                (wait_of(next_ns) <= patience_ns).then(|| next_ns + self.interval_ns)
            });
        match taken {
            Ok(before) => Ok(Duration::from_nanos(wait_of(before.max(now_ns)))),
            Err(before) => Err(Duration::from_nanos(wait_of(before.max(now_ns)))),
        }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    #[test]
    fn a_burst_goes_at_once_and_the_rest_in_turn() {
        let start = Instant::now();
        let pace = Pace::new(10, 3, start);
        let waits: Vec<_> = (0..6).map(|_| pace.take(start, PATIENCE)).collect();
        let wait = |ms| Ok(Duration::from_millis(ms));
        assert_eq!(
            waits,
            [wait(0), wait(0), wait(0), wait(100), wait(200), wait(300)]
        );
        // After a quiet time there is a burst again, and not two.
        let later = start + Duration::from_secs(3600);
        let waits: Vec<_> = (0..4).map(|_| pace.take(later, PATIENCE)).collect();
        assert_eq!(waits, [wait(0), wait(0), wait(0), wait(100)]);
    }

    #[test]
    fn who_would_wait_too_long_takes_no_turn_and_is_told_the_line() {
        let start = Instant::now();
        let pace = Pace::new(1, 1, start);
        let last = (0..3).map(|_| pace.take(start, PATIENCE)).last();
        assert_eq!(last, Some(Ok(PATIENCE)));
        for _ in 0..100 {
            assert_eq!(pace.take(start, PATIENCE), Err(Duration::from_secs(3)));
        }
        let later = start + Duration::from_secs(1);
        assert_eq!(pace.take(later, PATIENCE), Ok(PATIENCE));
    }

    proptest! {
        /// In any span no more turns begin than the rate and one burst allow.
        #[test]
        fn the_rate_holds(
            per_second in 1_u32..1000,
            burst in 1_u32..50,
            gaps in proptest::collection::vec(0_u64..50_000_000, 1..300),
        ) {
            let start = Instant::now();
            let pace = Pace::new(per_second, burst, start);
            let mut now = start;
            let mut turns = Vec::new();
            for gap in gaps {
                now += Duration::from_nanos(gap);
                if let Ok(wait) = pace.take(now, PATIENCE) {
                    turns.push((now + wait).duration_since(start).as_secs_f64());
                }
            }
            for (at, from) in turns.iter().enumerate() {
                for (to, until) in turns.iter().enumerate().skip(at) {
                    let allowed = (until - from) * f64::from(per_second) + f64::from(burst);
                    prop_assert!((to - at + 1) as f64 <= allowed + 1.001);
                }
            }
        }
    }
}
