//! A histogram without a lock: what is observed per message must not queue.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

/// Counts of durations by bucket, and their sum. Clones count together.
#[derive(Clone)]
pub struct Histogram(Arc<Inner>);

struct Inner {
    /// Upper bounds in seconds, rising.
    bounds: &'static [f64],
    /// The same in nanoseconds.
    nanos: Box<[u64]>,
    /// One more than there are bounds: the last is for what is above all.
    counts: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

/// What a histogram had counted at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(Vec<u64>);

// === impl Histogram ===

impl Histogram {
    /// A histogram with these upper bounds, in seconds and rising.
    pub fn new(bounds: &'static [f64]) -> Self {
        let nanos = bounds.iter().map(|bound| (bound * 1e9).round() as u64);
        Self(Arc::new(Inner {
            bounds,
            nanos: nanos.collect(),
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_nanos: AtomicU64::new(0),
        }))
    }

    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let inner = &*self.0;
        let bucket = inner.nanos.partition_point(|bound| *bound < nanos);
        inner.counts[bucket].fetch_add(1, Ordering::Relaxed);
        inner.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts(self.0.counts.iter().map(load).collect())
    }

    /// The value that a share of all observations between two counts did not
    /// exceed, read off the buckets as Prometheus does it. None without any.
    pub fn quantile(&self, share: f64, before: &Counts, now: &Counts) -> Option<Duration> {
        let between: Vec<u64> = (0..now.0.len())
            .map(|at| now.0[at].saturating_sub(before.0.get(at).copied().unwrap_or(0)))
            .collect();
        let all: u64 = between.iter().sum();
        if all == 0 {
            return None;
        }
        let rank = share * all as f64;
        let mut below = 0.0;
        for (at, count) in between.iter().enumerate() {
            let count = *count as f64;
            if below + count >= rank && count > 0.0 {
                let lower = at.checked_sub(1).map_or(0.0, |at| self.0.bounds[at]);
                // Nothing is known of what is above the last bound but that.
                let upper = self.0.bounds.get(at).copied().unwrap_or(lower);
                let inside = (rank - below) / count;
                return Some(Duration::from_secs_f64(lower + (upper - lower) * inside));
            }
            below += count;
        }
        None
    }
}

impl Counts {
    /// How many were counted since another time.
    pub fn since(&self, before: &Self) -> u64 {
        let sum = |counts: &Self| counts.0.iter().sum::<u64>();
        sum(self).saturating_sub(sum(before))
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Histogram").field(&self.counts()).finish()
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Counts(counts) = self.counts();
        let upper = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = upper.zip(counts.iter().copied()).collect();
        let sum = self.0.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9;
        let count = counts.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: &[f64] = &[0.001, 0.01, 0.1];

    #[test]
    fn a_bound_belongs_to_its_bucket_and_what_is_above_all_to_the_last() {
        let histogram = Histogram::new(BOUNDS);
        for millis in [1, 2, 10, 11, 100, 101, 5_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        assert_eq!(histogram.counts(), Counts(vec![1, 2, 2, 2]));
    }

    #[test]
    fn quantiles_are_of_what_came_between() {
        let histogram = Histogram::new(BOUNDS);
        histogram.observe(Duration::from_secs(9));
        let before = histogram.counts();
        assert_eq!(histogram.quantile(0.5, &before, &before), None);
        for _ in 0..100 {
            histogram.observe(Duration::from_millis(5));
        }
        let now = histogram.counts();
        assert_eq!(now.since(&before), 100);
        let median = histogram.quantile(0.5, &before, &now);
        assert_eq!(median, Some(Duration::from_micros(5_500)));
        histogram.observe(Duration::from_secs(9));
        let now = histogram.counts();
        let last = histogram.quantile(1.0, &before, &now);
        assert_eq!(last, Some(Duration::from_millis(100)), "the last bound");
    }
}
