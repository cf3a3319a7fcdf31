//! Numbers of single tenants, with a bound on how many tenants are named.
//!
//! A session counts on its tenant's meter: plain atomics, no labels. What was
//! counted since the last look is then put under the tenant's name if it is one
//! of the busiest, and under `other` if it is not. So each event is in exactly
//! one series, and each series only rises while it is there.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arqon_proto::names::TenantId;

use super::ShieldMetrics;
use crate::{labels::TenantName, trace::Bucket};

/// Who is named is decided again at this pace.
const RANK_EVERY: Duration = Duration::from_secs(60);

/// What sessions of one tenant count on.
#[derive(Debug, Default)]
pub struct TenantMeter {
    /// Messages published.
    pub messages_in: AtomicU64,
    /// Messages written to sessions.
    pub messages_out: AtomicU64,
    /// Bytes of frames received.
    pub bytes_in: AtomicU64,
    /// Bytes of frames written.
    pub bytes_out: AtomicU64,
    /// ERROR frames.
    pub errors: AtomicU64,
    /// Sessions opened.
    pub opened: AtomicU64,
    /// Sessions closed.
    pub closed: AtomicU64,
    /// Bounds the traces that are begun for the tenant.
    pub(crate) traces: Bucket,
    /// Bounds the deliveries that are traced for it.
    pub(crate) deliveries: Bucket,
    /// Bounds its failures that are told though they were not sampled.
    pub(crate) failures: Bucket,
}

/// What a meter showed at some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantNumbers {
    /// See [`TenantMeter`].
    pub messages_in: u64,
    /// See [`TenantMeter`].
    pub messages_out: u64,
    /// See [`TenantMeter`].
    pub bytes_in: u64,
    /// See [`TenantMeter`].
    pub bytes_out: u64,
    /// See [`TenantMeter`].
    pub errors: u64,
    /// See [`TenantMeter`].
    pub opened: u64,
    /// See [`TenantMeter`].
    pub closed: u64,
}

/// The meters of all tenants with sessions here.
#[derive(Debug)]
pub struct TenantMeters {
    named: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<TenantId, Entry>,
    ranked: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    meter: Arc<TenantMeter>,
    /// What is in a series already.
    told: TenantNumbers,
    /// Messages of late; halved at each ranking.
    busy: u64,
    name: Option<TenantName>,
}

// === impl TenantMeter ===

impl TenantMeter {
    /// What it shows.
    pub fn numbers(&self) -> TenantNumbers {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        TenantNumbers {
            messages_in: load(&self.messages_in),
            messages_out: load(&self.messages_out),
            bytes_in: load(&self.bytes_in),
            bytes_out: load(&self.bytes_out),
            errors: load(&self.errors),
            // Before `opened`: a session between the two is seen as open, never as -1.
            closed: load(&self.closed),
            opened: load(&self.opened),
        }
    }
}

// === impl TenantMeters ===

impl TenantMeters {
    /// Meters of which this many tenants are named.
    pub fn new(named: usize) -> Self {
        Self {
            named,
            state: Mutex::default(),
        }
    }

    /// The meter of a tenant. Hold it: an idle one that nobody holds is forgotten.
    pub fn of(&self, tenant: &TenantId) -> Arc<TenantMeter> {
        let mut state = self.lock();
        if let Some(entry) = state.entries.get(tenant) {
            return Arc::clone(&entry.meter);
        }
        let meter = Arc::<TenantMeter>::default();
        let entry = Entry {
            meter: Arc::clone(&meter),
            told: TenantNumbers::default(),
            busy: 0,
            name: None,
        };
        state.entries.insert(tenant.clone(), entry);
        meter
    }

    /// What the meter of a tenant shows, if it has one.
    pub fn numbers(&self, tenant: &TenantId) -> TenantNumbers {
        let state = self.lock();
        let entry = state.entries.get(tenant);
        entry.map_or_else(TenantNumbers::default, |entry| entry.meter.numbers())
    }

    /// Puts what was counted since the last time into the series.
    pub(super) fn collect(&self, into: &ShieldMetrics) {
        self.collect_at(into, Instant::now());
    }

    fn collect_at(&self, into: &ShieldMetrics, now: Instant) {
        let mut state = self.lock();
        let due = |at: Instant| now.saturating_duration_since(at) >= RANK_EVERY;
        let mut free = self.named.saturating_sub(
            state
                .entries
                .values()
                .filter(|entry| entry.name.is_some())
                .count(),
        );
        for (tenant, entry) in &mut state.entries {
            entry.tell(into);
            // After: a series begins at zero, or its first rise would be seen by nobody.
            if free > 0 && entry.name.is_none() {
                entry.become_named(tenant, into);
                free -= usize::from(entry.name.is_some());
            }
        }
        if state.ranked.is_none_or(due) {
            // The first look has nothing to rank by.
            if state.ranked.replace(now).is_some() {
                state.rank(self.named, into);
            }
        }
        let others = state.entries.values().filter(|entry| entry.name.is_none());
        let gauge = into.tenant_sessions.get_or_create_owned(&TenantName::OTHER);
        gauge.set(others.map(Entry::open).sum());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn rank(&mut self, named: usize, into: &ShieldMetrics) {
        let mut order: Vec<(u64, bool, &TenantId)> = self
            .entries
            .iter()
            // Of equals, who is named stays.
            .map(|(tenant, entry)| (entry.busy, entry.name.is_some(), tenant))
            .collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        let busiest: std::collections::HashSet<TenantId> = order
            .iter()
            .take(named)
            .map(|(_, _, tenant)| (*tenant).clone())
            .collect();
        self.entries.retain(|tenant, entry| {
            let alive = Arc::strong_count(&entry.meter) > 1 || entry.busy > 0;
            let stays = alive && busiest.contains(tenant);
            if !stays && let Some(name) = entry.name.take() {
                into.forget_tenant(&name);
            }
            if stays && entry.name.is_none() {
                entry.become_named(tenant, into);
            }
            entry.busy /= 2;
            alive
        });
    }
}

// === impl Entry ===

impl Entry {
    /// From the next look on, what it counts is under its own name.
    fn become_named(&mut self, tenant: &TenantId, into: &ShieldMetrics) {
        self.name = TenantName::of(tenant);
        if let Some(name) = &self.name {
            into.begin_tenant(name);
        }
        self.tell_open(into);
    }

    fn tell(&mut self, into: &ShieldMetrics) {
        let now = self.meter.numbers();
        let told = std::mem::replace(&mut self.told, now);
        let other = TenantName::OTHER;
        let name = self.name.as_ref().unwrap_or(&other);
        let messages = now.messages_in - told.messages_in + now.messages_out - told.messages_out;
        self.busy += messages + (now.opened - told.opened);
        let add = |family: &super::TenantCounter, now: u64, told: u64| {
            if now > told {
                family.get_or_create(name).inc_by(now - told);
            }
        };
        add(&into.tenant_messages_in, now.messages_in, told.messages_in);
        add(
            &into.tenant_messages_out,
            now.messages_out,
            told.messages_out,
        );
        add(&into.tenant_bytes_in, now.bytes_in, told.bytes_in);
        add(&into.tenant_bytes_out, now.bytes_out, told.bytes_out);
        add(&into.tenant_errors, now.errors, told.errors);
        add(&into.tenant_sessions_opened, now.opened, told.opened);
        add(&into.tenant_sessions_closed, now.closed, told.closed);
        self.tell_open(into);
    }

    fn tell_open(&self, into: &ShieldMetrics) {
        if let Some(name) = &self.name {
            let gauge = into.tenant_sessions.get_or_create_owned(name);
            gauge.set(self.open());
        }
    }

    /// Sessions open when it was last looked at.
    fn open(&self) -> i64 {
        let open = self.told.opened.saturating_sub(self.told.closed);
        i64::try_from(open).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::Metrics;

    fn tenant(number: usize) -> TenantId {
        TenantId::parse(&format!("t-{number}")).unwrap()
    }

    fn series(metrics: &Metrics) -> usize {
        let text = metrics.encode();
        text.lines()
            .filter(|line| line.contains("{tenant=\""))
            .count()
    }

    #[test]
    fn ten_thousand_tenants_are_a_bounded_number_of_series_that_add_up() {
        let metrics = Metrics::new(20);
        let meters: Vec<_> = (0..10_000)
            .map(|number| metrics.tenants().of(&tenant(number)))
            .collect();
        let mut now = Instant::now();
        let mut published = 0;
        for round in 0..10_u64 {
            for (number, meter) in meters.iter().enumerate() {
                // Another dozen is busy each round, so that names change hands.
                let busy = number as u64 / 12 == round;
                let count = if busy { 1_000 } else { 1 };
                published += count;
                meter.messages_in.fetch_add(count, Ordering::Relaxed);
                meter.opened.fetch_add(1, Ordering::Relaxed);
                meter.bytes_in.fetch_add(10, Ordering::Relaxed);
                meter.bytes_out.fetch_add(10, Ordering::Relaxed);
                meter.messages_out.fetch_add(1, Ordering::Relaxed);
                meter.errors.fetch_add(1, Ordering::Relaxed);
                meter.closed.fetch_add(1, Ordering::Relaxed);
            }
            now += RANK_EVERY;
            metrics.tenants().collect_at(&metrics, now);
            assert!(series(&metrics) <= 8 * 21, "{}", series(&metrics));
        }
        let counted: u64 = meters
            .iter()
            .map(|meter| meter.numbers().messages_in)
            .sum::<u64>();
        assert_eq!(counted, published);
        // Whoever was busy last is named.
        let text = metrics.encode();
        assert!(text.contains("tenant=\"t-110\""), "{text}");
        assert!(text.contains("tenant=\"other\""));
    }

    #[test]
    fn every_event_is_in_one_series() {
        let metrics = Metrics::new(1);
        let busy = metrics.tenants().of(&tenant(1));
        let quiet = metrics.tenants().of(&tenant(2));
        for _ in 0..3 {
            busy.messages_in.fetch_add(5, Ordering::Relaxed);
            quiet.messages_in.fetch_add(1, Ordering::Relaxed);
            let _ = metrics.encode();
            let _ = metrics.encode();
        }
        let value = |name: &str| {
            let label = TenantName::new(name);
            metrics.tenant_messages_in.get_or_create_owned(&label).get()
        };
        let named = value("t-1") + value("t-2");
        assert_eq!(named + value("other"), 18);
        // What was counted before a name is with the others.
        assert!(
            named == 10 || named == 2,
            "one of the two is named: {named}"
        );
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let metrics = Metrics::new(2);
        let meter = metrics.tenants().of(&tenant(1));
        meter.messages_in.fetch_add(1, Ordering::Relaxed);
        drop(meter);
        let mut now = Instant::now();
        for _ in 0..4 {
            metrics.tenants().collect_at(&metrics, now);
            now += RANK_EVERY;
        }
        let text = metrics.encode();
        assert!(!text.contains("tenant=\"t-1\""), "{text}");
        assert!(text.contains("arqon_shield_tenant_messages_in_total{tenant=\"other\"} 1"));
        assert!(metrics.tenants().lock().entries.is_empty());
    }
}
