//! One session's budget of faults: who makes policies fail is the one to wait.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Faults that a sender may cause …
const FAULTS: usize = 10;
/// … within this time.
const WINDOW: Duration = Duration::from_secs(10);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A sender that behaves for so long after a wait begins anew.
const FORGIVEN: Duration = Duration::from_secs(60);

/// The budget of one session. Ten faults within ten seconds, and its
/// publishes are refused without running.
#[derive(Debug, Default)]
pub struct Sender(Mutex<Budget>);

impl Sender {
    /// A full budget.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn refused(&self, now: Instant) -> Option<Duration> {
        self.lock().refused(now)
    }

    pub(crate) fn fault(&self, now: Instant) {
        self.lock().fault(now);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Budget> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Budget {
    /// At most [`FAULTS`], oldest first.
    faults: VecDeque<Instant>,
    /// The last wait: its end and how long it was.
    wait: Option<(Instant, Duration)>,
}

impl Budget {
    /// How long this sender has to wait, if it has to.
    fn refused(&self, now: Instant) -> Option<Duration> {
        let (until, _) = self.wait?;
        let left = until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    fn fault(&mut self, now: Instant) {
        while let Some(first) = self.faults.front()
            && now.saturating_duration_since(*first) >= WINDOW
        {
            self.faults.pop_front();
        }
        self.faults.push_back(now);
        if self.faults.len() < FAULTS {
            return;
        }
        self.faults.clear();
        let length = match self.wait {
            Some((until, last)) if now.saturating_duration_since(until) < FORGIVEN => {
                (last * 2).min(LONGEST_WAIT)
            }
            _ => FIRST_WAIT,
        };
        self.wait = Some((now + length, length));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spend(budget: &mut Budget, now: Instant) {
        for _ in 0..FAULTS {
            budget.fault(now);
        }
    }

    #[test]
    fn ten_faults_in_ten_seconds_and_no_fewer() {
        let start = Instant::now();
        let mut budget = Budget::default();
        for second in 0..9 {
            budget.fault(start + Duration::from_secs(second));
            assert_eq!(budget.refused(start + Duration::from_secs(second)), None);
        }
        budget.fault(start + Duration::from_millis(9_999));
        assert_eq!(
            budget.refused(start + Duration::from_millis(9_999)),
            Some(FIRST_WAIT)
        );

        let mut slow = Budget::default();
        for second in 0..60 {
            let now = start + Duration::from_millis(1_200 * second);
            slow.fault(now);
            assert_eq!(slow.refused(now), None, "nine in ten seconds");
        }
    }

    #[test]
    fn waits_double_to_a_minute_and_are_forgiven() {
        let mut now = Instant::now();
        let mut budget = Budget::default();
        for want in [1, 2, 4, 8, 16, 32, 60, 60] {
            spend(&mut budget, now);
            assert_eq!(budget.refused(now), Some(Duration::from_secs(want)));
            now += Duration::from_secs(want);
            assert_eq!(budget.refused(now), None);
        }
        now += FORGIVEN;
        spend(&mut budget, now);
        assert_eq!(budget.refused(now), Some(FIRST_WAIT));
    }

    proptest! {
        #[test]
        fn bounded_whatever_comes(gaps in prop::collection::vec(0_u64..20_000, 1..300)) {
            let mut now = Instant::now();
            let mut budget = Budget::default();
            for gap in gaps {
                now += Duration::from_millis(gap);
                if budget.refused(now).is_none() {
                    budget.fault(now);
                }
                prop_assert!(budget.faults.len() < FAULTS);
                prop_assert!(budget.refused(now).is_none_or(|wait| wait <= LONGEST_WAIT));
            }
        }
    }
}
