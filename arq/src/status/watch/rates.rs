//! Rates of one Shield process, from the counters of its beats.
//!
//! A rate is the growth of a counter between two beats of the same process over the time between
//! them by that process's own clock: neither the way of the beats nor a clock that is set changes
//! it. Beats that were missed in between do no harm either.

use std::collections::BTreeMap;

use arqon_proto::v1::{PolicyCounts, ShieldBeat};

/// So many a second; None where that cannot be told.
pub(super) type Rate = Option<f64>;

/// A sum in which what cannot be told is left out; None where nothing can.
pub(super) fn sum(rates: impl IntoIterator<Item = Rate>) -> Rate {
    rates.into_iter().flatten().reduce(|a, b| a + b)
}

/// Rates of a Shield, of its tenants and of its policies.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) messages_in: Rate,
    pub(super) messages_out: Rate,
    pub(super) errors: Rate,
    pub(super) slow_readers: Rate,
    pub(super) auth_failures: Rate,
    pub(super) policies: PolicyRates,
    /// Of those tenants that both beats name.
    pub(super) tenants: BTreeMap<String, TenantRates>,
}

/// Rates of a tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct TenantRates {
    pub(super) messages_in: Rate,
    pub(super) messages_out: Rate,
    pub(super) errors: Rate,
}

/// What all policies do.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct PolicyRates {
    pub(super) allowed: Rate,
    pub(super) blocked: Rate,
    pub(super) transformed: Rate,
    pub(super) faults: Rate,
    pub(super) unavailable: Rate,
}

/// Turns the beats of one Shield into rates.
#[derive(Debug)]
pub(super) struct Meter {
    /// What the next rates are counted from.
    base: ShieldBeat,
    rates: Rates,
}

// === impl Rates ===

impl Rates {
    /// From one beat to a later one of the same process.
    fn between(base: &ShieldBeat, last: &ShieldBeat, secs: f64) -> Self {
        let rate = |before, after| Some(per_second(before, after, secs));
        let tenants = last.tenants.iter().filter_map(|load| {
            let before = base
                .tenants
                .iter()
                .find(|before| before.tenant == load.tenant)?;
            let rates = TenantRates {
                messages_in: rate(before.messages_in, load.messages_in),
                messages_out: rate(before.messages_out, load.messages_out),
                errors: rate(before.errors, load.errors),
            };
            Some((load.tenant.clone(), rates))
        });
        let counts = |beat: &ShieldBeat| -> PolicyCounts {
            let summary = beat.policies.as_ref();
            summary.and_then(|it| it.counts).unwrap_or_default()
        };
        let (before, after) = (counts(base), counts(last));
        Self {
            messages_in: rate(base.messages_in, last.messages_in),
            messages_out: rate(base.messages_out, last.messages_out),
            errors: rate(base.errors, last.errors),
            slow_readers: rate(base.slow_readers, last.slow_readers),
            auth_failures: rate(base.auth_failures, last.auth_failures),
            policies: PolicyRates {
                allowed: rate(before.allowed, after.allowed),
                blocked: rate(before.blocked, after.blocked),
                transformed: rate(before.transformed, after.transformed),
                faults: rate(before.faults, after.faults),
                unavailable: rate(before.unavailable, after.unavailable),
            },
            tenants: tenants.collect(),
        }
    }
}

/// A counter that fell was begun anew, as a tenant's are when its connection was given up and made
/// again: what it shows was counted since, so it is the least that happened.
fn per_second(before: u64, after: u64, secs: f64) -> f64 {
    let grown = after.checked_sub(before).unwrap_or(after);
    grown as f64 / secs
}

// === impl Meter ===

impl Meter {
    /// Begins at a beat; nothing can be told yet.
    pub(super) fn new(base: ShieldBeat) -> Self {
        Self {
            base,
            rates: Rates::default(),
        }
    }

    /// The rates from the last call to the newest beat; without a new one, those of the last call.
    pub(super) fn advance(&mut self, last: &ShieldBeat) {
        if self.base.incarnation != last.incarnation {
            *self = Self::new(last.clone());
            return;
        }
        let Some(millis @ 1..) = last.uptime_ms.checked_sub(self.base.uptime_ms) else {
            return;
        };
        let secs = millis as f64 / 1_000.0;
        self.rates = Rates::between(&self.base, last, secs);
        self.base = last.clone();
    }

    pub(super) fn rates(&self) -> &Rates {
        &self.rates
    }
}

#[cfg(test)]
mod tests {
    use arqon_proto::v1::{PolicySummary, TenantLoad};

    use super::*;

    fn beat(incarnation: &str, uptime_ms: u64, messages_in: u64, tenant: &str) -> ShieldBeat {
        ShieldBeat {
            incarnation: incarnation.to_owned(),
            uptime_ms,
            messages_in,
            tenants: vec![TenantLoad {
                tenant: tenant.to_owned(),
                messages_in,
                ..TenantLoad::default()
            }],
            policies: Some(PolicySummary {
                counts: Some(PolicyCounts {
                    blocked: messages_in * 2,
                    ..PolicyCounts::default()
                }),
                ..PolicySummary::default()
            }),
            ..ShieldBeat::default()
        }
    }

    #[test]
    fn nothing_is_told_of_one_beat() {
        let mut meter = Meter::new(beat("a", 1_000, 5, "acme"));
        meter.advance(&beat("a", 1_000, 5, "acme"));
        assert_eq!(*meter.rates(), Rates::default());
    }

    #[test]
    fn growth_is_told_by_the_clock_of_the_process() {
        let mut meter = Meter::new(beat("a", 1_000, 5, "acme"));
        meter.advance(&beat("a", 3_500, 30, "acme"));
        assert_eq!(meter.rates().messages_in, Some(10.0));
        assert_eq!(meter.rates().policies.blocked, Some(20.0));
        assert_eq!(meter.rates().tenants["acme"].messages_in, Some(10.0));
        assert_eq!(meter.rates().errors, Some(0.0));
        // No newer beat, or one that comes late: what was known stays.
        meter.advance(&beat("a", 3_500, 30, "acme"));
        meter.advance(&beat("a", 2_000, 6, "acme"));
        assert_eq!(meter.rates().messages_in, Some(10.0));
        meter.advance(&beat("a", 4_500, 30, "acme"));
        assert_eq!(meter.rates().messages_in, Some(0.0));
    }

    #[test]
    fn a_restart_is_no_rate() {
        let mut meter = Meter::new(beat("a", 90_000, 5_000, "acme"));
        meter.advance(&beat("b", 91_000, 9_000, "acme"));
        assert_eq!(*meter.rates(), Rates::default());
        meter.advance(&beat("b", 92_000, 9_004, "acme"));
        assert_eq!(meter.rates().messages_in, Some(4.0));
    }

    #[test]
    fn a_tenant_that_was_not_named_before_has_no_rate_yet() {
        let mut meter = Meter::new(beat("a", 1_000, 5, "acme"));
        meter.advance(&beat("a", 2_000, 6, "globex"));
        assert!(meter.rates().tenants.is_empty());
        meter.advance(&beat("a", 3_000, 8, "globex"));
        assert_eq!(meter.rates().tenants["globex"].messages_in, Some(2.0));
    }

    #[test]
    fn a_counter_that_was_begun_anew_tells_what_it_counted_since() {
        let mut meter = Meter::new(beat("a", 1_000, 500, "acme"));
        let mut next = beat("a", 2_000, 600, "acme");
        next.tenants[0].messages_in = 3;
        meter.advance(&next);
        assert_eq!(meter.rates().tenants["acme"].messages_in, Some(3.0));
    }

    #[test]
    fn a_sum_leaves_out_what_is_not_known() {
        assert_eq!(sum([None, Some(1.0), Some(2.0)]), Some(3.0));
        assert_eq!(sum([None, None]), None);
        assert_eq!(sum([]), None);
    }
}
