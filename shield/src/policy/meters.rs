//! What bindings did, as metrics: differences between two looks.

use std::collections::HashMap;
use std::sync::Arc;

use arqon_policy::{BindingStats, Counts, Host};
use arqon_telemetry::{
    Metrics,
    labels::{PolicyFault, PolicyState, PolicyVerdict},
};

/// Counts of the last look, by binding.
pub(super) struct Meters {
    metrics: Metrics,
    host: Host,
    seen: HashMap<Arc<str>, Counts>,
}

impl Meters {
    pub(super) fn new(metrics: Metrics, host: Host) -> Self {
        Self {
            metrics,
            host,
            seen: HashMap::new(),
        }
    }

    /// Bindings that run, and that do not.
    pub(super) fn bindings(&self, active: u32, broken: u32) {
        let gauge = |state| self.metrics.policy_bindings.get_or_create_owned(&state);
        gauge(PolicyState::Active).set(active.into());
        gauge(PolicyState::Broken).set(broken.into());
    }

    pub(super) fn look(&mut self, stats: &[BindingStats]) {
        let metrics = &self.metrics;
        let mut seen = HashMap::with_capacity(stats.len());
        let mut quarantined = 0;
        for stats in stats {
            let (now, none) = (&stats.counts, Counts::default());
            let before = self.seen.get(&stats.key).unwrap_or(&none);
            for (verdict, now, before) in [
                (PolicyVerdict::Allow, now.allowed, before.allowed),
                (PolicyVerdict::Block, now.blocked, before.blocked),
                (
                    PolicyVerdict::Transform,
                    now.transformed,
                    before.transformed,
                ),
            ] {
                let runs = metrics.policy_runs.get_or_create_owned(&verdict);
                runs.inc_by(now.saturating_sub(before));
            }
            for (class, now) in &now.classes {
                let before = before.classes.iter().find(|(c, _)| c == class);
                let faults = metrics
                    .policy_faults
                    .get_or_create_owned(&PolicyFault(class.as_str()));
                faults.inc_by(now.saturating_sub(before.map_or(0, |(_, count)| *count)));
            }
            quarantined += stats.quarantined;
            seen.insert(stats.key.clone(), now.clone());
        }
        self.seen = seen;
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.policy_quarantined.set(gauge(quarantined));
        metrics.policy_instances.set(gauge(self.host.instances()));
    }
}
