//! Which operations are traced: a share of all, fewer where many members hear a
//! message, and no more than so many a second for each tenant.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::metrics::{TelemetryMetrics, TenantMeter};

/// Deliveries of one message are spans of many Shields, and failures are wanted
/// where nothing else is: both have more room, but not so much that one tenant
/// could push out the spans of all others.
const ROOM: u32 = 10;
/// Failures of strangers a second: enough to see what an attack looks like.
const STRANGERS_PER_SECOND: u32 = 10;

/// The rules, from the manifest.
#[derive(Debug)]
pub struct Sampling {
    /// Of one operation, 0 to 1.
    share: f64,
    /// Members up to which that share holds.
    fan_out: u32,
    /// Traces a second for one tenant.
    per_tenant: u32,
    strangers: Bucket,
}

/// How many were taken of late: a token bucket in one word, in milliseconds of
/// its refill. Empty when new means full.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

// === impl Sampling ===

impl Sampling {
    /// Rules: of a hundred operations these many, up to so many members, and a
    /// cap a second for each tenant.
    pub fn new(percent: u8, fan_out: u32, per_tenant: u32) -> Self {
        Self {
            share: f64::from(percent.min(100)) / 100.0,
            fan_out: fan_out.max(1),
            per_tenant,
            strangers: Bucket::default(),
        }
    }

    pub(super) fn decide(
        &self,
        tenant: &TenantMeter,
        members: impl FnOnce() -> usize,
        metrics: &TelemetryMetrics,
    ) -> bool {
        if !self.chosen(members, rand::random()) {
            return false;
        }
        let taken = tenant.traces.take(self.per_tenant, now_millis());
        let counter = if taken {
            &metrics.traces_sampled
        } else {
            &metrics.traces_capped
        };
        counter.inc();
        taken
    }

    /// Whether the die falls for it. It is thrown first: counting members may
    /// take a lock.
    fn chosen(&self, members: impl FnOnce() -> usize, die: f64) -> bool {
        die < self.share && {
            let members = members().max(1) as f64;
            die * members < self.share * f64::from(self.fan_out)
        }
    }

    pub(super) fn takes_delivery(&self, tenant: &TenantMeter) -> bool {
        let rate = self.per_tenant.saturating_mul(ROOM);
        tenant.deliveries.take(rate, now_millis())
    }

    pub(super) fn takes_failure(&self, tenant: &TenantMeter) -> bool {
        let rate = self.per_tenant.saturating_mul(ROOM);
        tenant.failures.take(rate, now_millis())
    }

    pub(super) fn takes_stranger(&self) -> bool {
        self.strangers.take(STRANGERS_PER_SECOND, now_millis())
    }
}

// === impl Bucket ===

impl Bucket {
    /// Takes one of `rate` a second, of which two seconds' worth may be saved.
    fn take(&self, rate: u32, now_millis: u64) -> bool {
        // GCRA: the word is when the bucket will be full again, in microseconds.
        let cost = 1_000_000 / u64::from(rate.max(1));
        let now = now_millis * 1_000;
        let burst = 2_000_000;
        let update = |full_at: u64| {
            let next = full_at.max(now) + cost;
            (next <= now + burst.max(cost)).then_some(next)
        };
        rate > 0
            && self
                .0
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update)
                .is_ok()
    }
}

/// Since this process first asked.
fn now_millis() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share_of(sampling: &Sampling, members: usize) -> f64 {
        let throws = 10_000;
        let chosen = (0..throws).filter(|n| {
            let die = f64::from(*n) / f64::from(throws);
            sampling.chosen(|| members, die)
        });
        chosen.count() as f64 / f64::from(throws)
    }

    #[test]
    fn small_rooms_are_traced_at_the_full_rate_and_large_ones_at_less() {
        let all = Sampling::new(100, 10, 1);
        for (members, share) in [(0, 1.0), (1, 1.0), (10, 1.0), (100, 0.1), (1_000, 0.01)] {
            assert!((share_of(&all, members) - share).abs() < 1e-3, "{members}");
        }
        let some = Sampling::new(1, 10, 1);
        assert!((share_of(&some, 1) - 0.01).abs() < 1e-3);
        assert!((share_of(&some, 20) - 0.005).abs() < 1e-3);
        assert!(share_of(&Sampling::new(0, 10, 1), 1) == 0.0);
    }

    #[test]
    fn a_bucket_gives_its_rate_and_a_burst_of_two_seconds() {
        let bucket = Bucket::default();
        let taken = |now| (0..1_000).filter(|_| bucket.take(10, now)).count();
        assert_eq!(taken(5_000), 20);
        assert_eq!(taken(5_000), 0);
        assert_eq!(taken(5_100), 1);
        assert_eq!(taken(6_100), 10);
        assert_eq!(taken(100_000), 20);
        assert!(!Bucket::default().take(0, 1), "none a second");
    }
}
