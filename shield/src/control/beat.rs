//! The report a Shield makes of itself, and the gauges that follow from the same look.

use std::time::Instant;

use arqon_proto::{names::TenantId, v1};

use super::{ControlContext, ControlParams, Tenants};
use crate::spine::LinkState;

/// Tenants named in one beat: those with most sessions.
const TENANTS: usize = 100;

/// What is reported of a process from its start to its end.
#[derive(Debug)]
pub(super) struct Reporter {
    incarnation: String,
    started: Instant,
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
        }
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
