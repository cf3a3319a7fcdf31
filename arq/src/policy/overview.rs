//! Bindings and what each Shield makes of them, for `arq status` and `arq policy show`.

use std::collections::BTreeMap;
use std::time::Duration;

use arqon_proto::v1::policy_entry::Entry;
use arqon_proto::v1::{
    Policy, PolicyBinding, PolicyBindingState, PolicyCounts, PolicyReport, PolicyVersionState,
};
use arqon_spine::admin::{Admin, Expected, ShieldReports, WaitFor};
use arqon_spine::control::{PolicyKey, PolicyRecords, PolicyScope};
use serde_json::{Value, json};

use super::deploy::explain;
use super::place::scope_words;
use super::version::hex;
use crate::failure::{Doing, Result};
use crate::output::Output;

/// Records and reports of one time.
#[derive(Debug, Default)]
pub(crate) struct Overview {
    /// By key: the order of a chain is told by [`Overview::bindings`].
    records: PolicyRecords,
    /// The newest report of each Shield.
    reports: BTreeMap<String, PolicyReport>,
}

/// A binding with its key and revision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<'a> {
    pub(super) key: &'a PolicyKey,
    pub(super) binding: &'a PolicyBinding,
    pub(super) revision: u64,
}

impl Overview {
    /// Reads the records, and listens to the Shields' reports for some time.
    pub(crate) async fn look(admin: &Admin, listen: Duration) -> Result<Self> {
        let reports = async {
            let mut reports = ShieldReports::open(admin.control())
                .await
                .doing("cannot listen to the Shields")?;
            // No component has this digest, so everybody is listened to until the time is over.
            let nothing = Expected::Version([0; 32]);
            let wait = WaitFor {
                census: listen,
                patience: listen,
            };
            reports
                .wait(&nothing, wait, |_| {})
                .await
                .doing("cannot hear the Shields")?;
            let reports = reports.reports();
            Ok::<_, crate::failure::Failure>(
                reports
                    .map(|report| (report.shield.clone(), report.clone()))
                    .collect(),
            )
        };
        let (records, reports) = tokio::try_join!(records(admin), reports)?;
        Ok(Self { records, reports })
    }

    /// Only the records.
    pub(super) async fn records(admin: &Admin) -> Result<Self> {
        Ok(Self {
            records: records(admin).await?,
            reports: BTreeMap::new(),
        })
    }

    /// The bindings in the order in which they judge: the platform's, then each tenant's.
    pub(super) fn bindings(&self) -> Vec<Bound<'_>> {
        let mut all: Vec<Bound<'_>> = self
            .records
            .entries
            .iter()
            .filter_map(|(key, entry, revision)| match &entry.entry {
                Some(Entry::Binding(binding)) => Some(Bound {
                    key,
                    binding,
                    revision: *revision,
                }),
                _ => None,
            })
            .collect();
        all.sort_by_key(|bound| {
            let binding = bound.binding;
            (&binding.tenant, binding.order, &binding.name)
        });
        all
    }

    pub(super) fn policies(&self) -> impl Iterator<Item = &Policy> {
        let entries = self.records.entries.iter();
        entries.filter_map(|(_, entry, _)| match &entry.entry {
            Some(Entry::Policy(policy)) => Some(policy),
            _ => None,
        })
    }

    pub(super) fn unreadable(&self) -> &[(PolicyKey, u64)] {
        &self.records.unreadable
    }

    /// A binding on each Shield.
    pub(super) fn on_shields(
        &self,
        key: &PolicyKey,
    ) -> impl Iterator<Item = (&str, &PolicyBindingState)> {
        let key = key.to_string();
        self.reports.iter().filter_map(move |(shield, report)| {
            let state = report.bindings.iter().find(|state| state.key == key)?;
            Some((shield.as_str(), state))
        })
    }

    /// A version on each Shield.
    pub(super) fn version_on_shields(
        &self,
        digest: &[u8],
    ) -> impl Iterator<Item = (&str, &PolicyVersionState)> {
        self.reports.iter().filter_map(move |(shield, report)| {
            let state = report
                .versions
                .iter()
                .find(|state| state.digest == digest)?;
            Some((shield.as_str(), state))
        })
    }

    /// What a binding did on all Shields.
    pub(super) fn counts(&self, key: &PolicyKey) -> PolicyCounts {
        let mut sum = PolicyCounts::default();
        for (_, state) in self.on_shields(key) {
            let counts = state.counts.unwrap_or_default();
            sum.allowed = sum.allowed.saturating_add(counts.allowed);
            sum.blocked = sum.blocked.saturating_add(counts.blocked);
            sum.transformed = sum.transformed.saturating_add(counts.transformed);
            sum.faults = sum.faults.saturating_add(counts.faults);
            sum.unavailable = sum.unavailable.saturating_add(counts.unavailable);
        }
        sum
    }

    /// What is not well, one line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self
            .unreadable()
            .iter()
            .map(|(key, _)| format!("the record {key} cannot be read{}", blocks(key)))
            .collect();
        for bound in self.bindings() {
            for (shield, state) in self.on_shields(bound.key) {
                if state.active.is_empty() {
                    problems.push(format!(
                        "policy {} does not run on {shield}, so it blocks there: {}",
                        bound.key, state.error
                    ));
                } else if !state.error.is_empty() {
                    problems.push(format!(
                        "the last change of policy {} does not run on {shield}, what was before does: {}",
                        bound.key, state.error
                    ));
                }
                if state.quarantined > 0 {
                    problems.push(format!(
                        "policy {} is quarantined on {shield} for {}",
                        bound.key,
                        crate::output::counted(state.quarantined as usize, "tenant")
                    ));
                }
            }
        }
        problems
    }

    /// The bindings as `arq status --json` prints them.
    pub(crate) fn json(&self) -> Value {
        self.bindings()
            .into_iter()
            .map(|bound| self.bound_json(bound))
            .collect()
    }

    pub(super) fn bound_json(&self, bound: Bound<'_>) -> Value {
        let binding = bound.binding;
        let shields = self.on_shields(bound.key).map(|(shield, state)| {
            json!({
                "shield": shield,
                "active": hex(&state.active),
                "active_revision": state.active_revision,
                "error": state.error,
                "quarantined": state.quarantined,
                "counts": counts_json(&state.counts.unwrap_or_default()),
            })
        });
        json!({
            "key": bound.key.to_string(),
            "name": binding.name,
            "tenant": binding.tenant,
            "rooms": binding.rooms,
            "policy": binding.policy,
            "version": binding.version,
            "digest": hex(&binding.digest),
            "order": binding.order,
            "shadow": binding.shadow,
            "show_reason": binding.show_reason,
            "revision": bound.revision,
            "changed_at_ms": binding.changed_at_ms,
            "changed_by": binding.changed_by,
            "counts": counts_json(&self.counts(bound.key)),
            "shields": shields.collect::<Vec<_>>(),
        })
    }

    /// The table of `arq status`.
    pub(crate) fn show(&self, output: &Output) -> Result {
        let rows = self.bindings().into_iter().map(|bound| {
            let binding = bound.binding;
            let counts = self.counts(bound.key);
            vec![
                binding.name.clone(),
                scope_words(bound.key),
                rooms_words(binding),
                version_words(binding),
                self.state_words(bound),
                counts.allowed.to_string(),
                counts.blocked.to_string(),
                counts.transformed.to_string(),
                self.fault_words(bound.key),
            ]
        });
        output.table(
            &[
                "policy", "for", "rooms", "version", "state", "allowed", "blocked", "changed",
                "faults",
            ],
            rows.collect(),
            "no policy is in force; `arq policy add blocklist --words malware --platform` makes one",
        )
    }

    /// How it is on how many Shields.
    fn state_words(&self, bound: Bound<'_>) -> String {
        let mode = if bound.binding.shadow {
            "watches"
        } else {
            "enforced"
        };
        let reported = self.reports.len();
        if reported == 0 {
            return mode.to_owned();
        }
        let runs = self
            .on_shields(bound.key)
            .filter(|(_, state)| state.active_revision >= bound.revision)
            .count();
        format!("{mode} on {runs} of {reported}")
    }

    /// Faults and blocks for want of a policy that runs, with the Shields that had them.
    fn fault_words(&self, key: &PolicyKey) -> String {
        let parts: Vec<(&str, u64)> = self
            .on_shields(key)
            .filter_map(|(shield, state)| {
                let counts = state.counts?;
                let faults = counts.faults.saturating_add(counts.unavailable);
                (faults > 0).then_some((shield, faults))
            })
            .collect();
        let sum = parts
            .iter()
            .fold(0_u64, |sum, (_, faults)| sum.saturating_add(*faults));
        if self.reports.len() < 2 || parts.is_empty() {
            return sum.to_string();
        }
        let parts: Vec<String> = parts
            .iter()
            .map(|(shield, faults)| format!("{shield} {faults}"))
            .collect();
        format!("{sum} ({})", parts.join(", "))
    }
}

async fn records(admin: &Admin) -> Result<PolicyRecords> {
    admin.policies().list().await.map_err(explain)
}

/// What a record that cannot be read does.
pub(super) fn blocks(key: &PolicyKey) -> String {
    match key.scope() {
        PolicyScope::Nobody => String::new(),
        PolicyScope::Platform => ", so all messages are blocked".to_owned(),
        PolicyScope::Tenant(tenant) => format!(", so all messages of tenant {tenant} are blocked"),
    }
}

pub(super) fn rooms_words(binding: &PolicyBinding) -> String {
    match binding.rooms.as_str() {
        "" => "all".to_owned(),
        rooms => rooms.to_owned(),
    }
}

/// `blocklist v3`.
pub(super) fn version_words(binding: &PolicyBinding) -> String {
    format!("{} v{}", binding.policy, binding.version)
}

pub(crate) fn counts_json(counts: &PolicyCounts) -> Value {
    json!({
        "allowed": counts.allowed,
        "blocked": counts.blocked,
        "transformed": counts.transformed,
        "faults": counts.faults,
        "unavailable": counts.unavailable,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arqon_proto::v1::PolicyEntry;

    use super::*;

    fn overview() -> Overview {
        let binding = |key: &str, order: i32| {
            let key = PolicyKey::read(key);
            let (tenant, name) = match &key {
                PolicyKey::Tenant(tenant, name) => (tenant.to_string(), name.to_string()),
                PolicyKey::Platform(name) => (String::new(), name.to_string()),
                _ => panic!(),
            };
            let binding = PolicyBinding {
                name,
                tenant,
                order,
                ..PolicyBinding::default()
            };
            let entry = PolicyEntry {
                key: key.to_string(),
                entry: Some(Entry::Binding(binding)),
            };
            (key, entry, 5)
        };
        let report = |shield: &str, faults: u64, active: bool| {
            let state = PolicyBindingState {
                key: "tenant.acme.a".to_owned(),
                active: if active {
                    vec![1; 32].into()
                } else {
                    Default::default()
                },
                active_revision: if active { 5 } else { 0 },
                error: if active { "" } else { "no slot" }.to_owned(),
                counts: Some(PolicyCounts {
                    allowed: 1,
                    faults,
                    ..PolicyCounts::default()
                }),
                ..PolicyBindingState::default()
            };
            let report = PolicyReport {
                shield: shield.to_owned(),
                bindings: vec![state],
                ..PolicyReport::default()
            };
            (shield.to_owned(), report)
        };
        Overview {
            records: PolicyRecords {
                entries: vec![
                    binding("tenant.acme.a", 1),
                    binding("tenant.acme.b", 0),
                    binding("platform.z", 9),
                    binding("platform.y", 9),
                ],
                unreadable: vec![(PolicyKey::read("tenant.globex.x"), 3)],
            },
            reports: [report("s1", 0, true), report("s2", 3, false)].into(),
        }
    }

    #[test]
    fn bindings_are_told_in_the_order_in_which_they_judge() {
        let overview = overview();
        let keys: Vec<String> = overview
            .bindings()
            .iter()
            .map(|bound| bound.key.to_string())
            .collect();
        assert_eq!(
            keys,
            ["platform.y", "platform.z", "tenant.acme.b", "tenant.acme.a"]
        );
    }

    #[test]
    fn faults_are_told_per_shield_and_problems_named() {
        let overview = overview();
        let key = PolicyKey::read("tenant.acme.a");
        assert_eq!(overview.fault_words(&key), "3 (s2 3)");
        assert_eq!(overview.counts(&key).allowed, 2);
        let bound = overview.bindings()[3];
        assert_eq!(overview.state_words(bound), "enforced on 1 of 2");
        let problems = overview.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("globex are blocked"), "{problems:?}");
        assert!(problems[1].contains("does not run on s2"), "{problems:?}");
    }
}
