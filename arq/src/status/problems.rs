//! What is not well with a fleet, as its reports and records tell it.

use arqon_proto::v1::{BrainBeat, PoolRecord, ShieldBeat, TenantRecord};

/// What is not well, one line each. The beats are of those that are heard.
pub(super) fn of<'a>(
    shields: impl Iterator<Item = &'a ShieldBeat> + Clone,
    brains: impl Iterator<Item = &'a BrainBeat> + Clone,
    tenants: impl Iterator<Item = &'a TenantRecord> + Clone,
    pools: impl Iterator<Item = &'a PoolRecord> + Clone,
) -> Vec<String> {
    let mut problems = Vec::new();
    for beat in shields.clone().filter(|beat| !beat.ready) {
        let why = if beat.draining {
            "is draining"
        } else {
            "is not ready"
        };
        problems.push(format!("{} {why}", beat.shield));
    }
    for pool in pools.clone() {
        let served = tenants.clone().any(|tenant| tenant.pool == pool.name);
        let ready = shields
            .clone()
            .any(|beat| beat.pool == pool.name && beat.ready);
        if served && !ready {
            problems.push(format!(
                "no Shield of pool {} is ready, so its tenants cannot connect",
                pool.name
            ));
        }
    }
    // No Brain at all is a choice, and told beside the problems.
    if brains.clone().next().is_some() && !brains.clone().any(|beat| beat.warm) {
        problems.push("no Brain is warm yet, so presence is unavailable".to_owned());
    }
    for tenant in tenants {
        if pools.clone().all(|pool| pool.name != tenant.pool) {
            problems.push(format!(
                "tenant {} is of pool {}, which does not exist",
                tenant.id, tenant.pool
            ));
        }
    }
    problems
}
