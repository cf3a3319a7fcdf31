//! The report a Shield makes of itself, and the gauges that follow from the same look.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use arqon_proto::{codes::ErrorCode, names::TenantId, v1};
use arqon_telemetry::{
    Counter, Family, Metrics,
    labels::Code,
    metrics::{Counts, TenantNumbers},
};

use super::{ControlContext, ControlParams, Tenants};
use crate::spine::LinkState;

/// Beats over which deliveries are timed: ten seconds.
const LATELY: usize = 10;
/// Tenants named in one beat: those with most sessions.
const TENANTS: usize = 100;

/// What is reported of a process from its start to its end.
#[derive(Debug)]
pub(super) struct Reporter {
    incarnation: String,
    started: Instant,
    /// What the beats before this one saw of deliveries, the oldest first.
    looks: Mutex<VecDeque<Counts>>,
}

/// A process as its reports name it.
pub(crate) fn incarnation(epoch: u64) -> String {
    format!("{epoch:016x}")
}

// === impl Reporter ===

impl Reporter {
    /// A process that starts now.
    pub(super) fn new(epoch: u64) -> Self {
        Self {
            incarnation: incarnation(epoch),
            started: Instant::now(),
            looks: Mutex::default(),
        }
    }

    /// This process, new at each start.
    pub(super) fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// The beat of this second.
    pub(super) fn beat(
        &self,
        params: &ControlParams,
        tenants: &Tenants,
        context: &ControlContext,
        goodbye: bool,
    ) -> v1::ShieldBeat {
        let draining = context.drain.is_cancelled();
        let links = context.pool.stats();
        let mut counts = context.sessions.counts();
        counts.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let rooms_of = |tenant: &TenantId| {
            let link = links.iter().find(|link| link.tenant == *tenant);
            link.map_or(0, |link| link.rooms)
        };
        let loads = counts
            .iter()
            .take(TENANTS)
            .map(|(tenant, sessions)| v1::TenantLoad {
                tenant: tenant.to_string(),
                sessions: clamp(*sessions),
                rooms: clamp(rooms_of(tenant)),
                ..numbers(context.metrics.tenants().numbers(tenant))
            });
        v1::ShieldBeat {
            shield: params.node.to_string(),
            incarnation: self.incarnation.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            ready: tenants.ready() && !tenants.stale() && !draining,
            draining,
            sessions: clamp(context.sessions.count()),
            rooms: clamp(links.iter().map(|link| link.rooms).sum()),
            pool: params.pool.to_string(),
            fleet_key: context.pool.fleet_key_in_force(),
            tenants: loads.collect(),
            messages_in: context.metrics.messages_in.get(),
            messages_out: context.metrics.messages_out.get(),
            public_address: params.public_address.clone(),
            presence: Some(context.pool.presence().summary()),
            goodbye,
            time_ms: now_ms(),
            policies: Some(context.deployer.summary()),
            errors: sum(&context.metrics.errors),
            delivery: self.delivery(&context.metrics),
            slow_readers: context.metrics.slow_consumers.get(),
            auth_failures: sum(&context.metrics.auth_failures),
            revocations: context.revocations.summary(),
            tenants_revision: tenants.revision(),
        }
    }

    /// How long deliveries took of late; None where there was none.
    fn delivery(&self, metrics: &Metrics) -> Option<v1::Latency> {
        let histogram = &metrics.deliver_seconds;
        let now = histogram.counts();
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() >= LATELY {
            looks.pop_front();
        }
        let before = looks.front().cloned().unwrap_or_default();
        looks.push_back(now.clone());
        drop(looks);
        let quantile = |share| {
            let took = histogram.quantile(share, &before, &now)?;
            Some(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
        };
        Some(v1::Latency {
            count: now.since(&before),
            p50_us: quantile(0.5)?,
            p95_us: quantile(0.95)?,
            p99_us: quantile(0.99)?,
        })
    }
}

/// A family over all codes.
fn sum(family: &Family<Code, Counter>) -> u64 {
    let of = |code: &ErrorCode| family.get(&Code(code.name())).map(|counter| counter.get());
    ErrorCode::ALL.iter().filter_map(of).sum()
}

fn numbers(of: TenantNumbers) -> v1::TenantLoad {
    v1::TenantLoad {
        messages_in: of.messages_in,
        messages_out: of.messages_out,
        errors: of.errors,
        ..v1::TenantLoad::default()
    }
}

/// Sets the gauges that nothing else moves.
pub(super) fn set_gauges(tenants: &Tenants, context: &ControlContext) {
    let links = context.pool.stats();
    let rooms: usize = links.iter().map(|link| link.rooms).sum();
    let up = links
        .iter()
        .filter(|link| link.state == LinkState::Up)
        .count();
    let metrics = &context.metrics;
    metrics.rooms.set(gauge(rooms));
    metrics.tenant_links.set(gauge(up));
    metrics.tenants_known.set(gauge(tenants.count()));
    metrics.control_stale.set(i64::from(tenants.stale()));
    let revoked = context.revocations.summary().unwrap_or_default();
    metrics.revocations.set(revoked.in_force.into());
    metrics
        .revocations_unreadable
        .set(revoked.unreadable.into());
}

/// Sets what must be asked of every session.
pub(super) fn set_queue_bytes(context: &ControlContext) {
    let bytes = i64::try_from(context.sessions.waiting_bytes());
    context.metrics.queue_bytes.set(bytes.unwrap_or(i64::MAX));
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

fn clamp(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
