//! A tenant's budget of policy CPU: a bucket of CPU time that fills with the clock.

use std::time::{Duration, Instant};

/// The bucket holds what flows in within one second. A run is charged after
/// it, so the level may fall below nothing; then the next message waits.
#[derive(Debug)]
pub(crate) struct Meter {
    /// Nanoseconds of CPU for each nanosecond of the clock.
    cores: f64,
    /// Nanoseconds.
    level: f64,
    filled: Instant,
}

/// The least wait that is told: less would only be asked again.
const LEAST_WAIT: Duration = Duration::from_millis(1);

impl Meter {
    /// A full one. `cores` is kept above nothing: else no message could ever pass.
    pub(crate) fn new(cores: f64, now: Instant) -> Self {
        let cores = if cores.is_finite() {
            cores.max(0.001)
        } else {
            1.0
        };
        Self {
            cores,
            level: cores * 1e9,
            filled: now,
        }
    }

    /// How long to wait, if there is nothing left.
    pub(crate) fn refused(&mut self, now: Instant) -> Option<Duration> {
        self.fill(now);
        if self.level > 0.0 {
            return None;
        }
        let wait = Duration::from_nanos((-self.level / self.cores).ceil() as u64 + 1);
        Some(wait.max(LEAST_WAIT))
    }

    /// Takes what a run has cost.
    pub(crate) fn charge(&mut self, cost: Duration) {
        self.level -= cost.as_nanos() as f64;
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled).as_nanos() as f64;
        self.level = (self.level + since * self.cores).min(self.cores * 1e9);
        // Two threads may come with times in the wrong order.
        self.filled = self.filled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_of_one_second_then_the_rate() {
        let mut now = Instant::now();
        let mut meter = Meter::new(0.1, now);
        let mut passed = 0;
        while meter.refused(now).is_none() {
            meter.charge(MS);
            passed += 1;
        }
        assert!((100..=101).contains(&passed), "{passed}");
        for _ in 0..50 {
            let wait = meter.refused(now).expect("empty");
            now += wait;
            assert_eq!(meter.refused(now), None, "the wait that was told suffices");
            meter.charge(MS);
        }
        now += Duration::from_secs(3600);
        let mut passed = 0;
        while meter.refused(now).is_none() {
            meter.charge(MS);
            passed += 1;
        }
        assert!((100..=101).contains(&passed), "no more than the burst");
    }

    #[test]
    fn time_that_goes_back_gives_nothing() {
        let now = Instant::now() + Duration::from_secs(10);
        let mut meter = Meter::new(0.1, now);
        meter.charge(Duration::from_millis(150));
        assert!(meter.refused(now - Duration::from_secs(5)).is_some());
        assert!(meter.refused(now).is_some());
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_one_burst_and_one_run(
            steps in prop::collection::vec((0_u64..200_000, 1_u64..5_000), 1..500),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut meter = Meter::new(0.1, now);
            let mut used = Duration::ZERO;
            for (gap, cost) in steps {
                now += Duration::from_micros(gap);
                if meter.refused(now).is_none() {
                    used += Duration::from_micros(cost);
                    meter.charge(Duration::from_micros(cost));
                }
            }
            let most = (now - start).mul_f64(0.1) + 105 * MS;
            prop_assert!(used <= most, "{:?} > {:?}", used, most);
        }
    }
}
