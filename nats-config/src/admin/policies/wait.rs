//! What each Shield says of a version or a binding.

use std::collections::BTreeMap;

use arqon_proto::v1;

use super::super::roll::{Roll, Said, WaitFor};
use crate::control::{ControlError, ControlStore, PolicyKey};

/// Beats and reports of Shields, from when this was opened.
#[derive(Debug)]
pub struct ShieldReports(Roll<Told>);

/// What one Shield has told.
#[derive(Debug, Default)]
struct Told {
    /// The newest report that is complete.
    report: Option<v1::PolicyReport>,
    /// Pages of a newer one.
    pages: Vec<v1::PolicyReport>,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The version of this digest is compiled, and its dry run passed.
    Version([u8; 32]),
    /// The binding is in force at this revision or a later one.
    Binding(PolicyKey, u64),
    /// The binding is gone, as of this revision.
    Gone(PolicyKey, u64),
}

/// One Shield's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShieldReport {
    /// The Shield.
    pub shield: String,
    /// Its answer.
    pub state: ShieldState,
}

/// What one Shield made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShieldState {
    /// It has compiled the version, in so many milliseconds; 0: it had it already.
    Compiled {
        /// Milliseconds.
        compile_ms: u32,
    },
    /// The binding is as it was wished.
    Active,
    /// It is not, and why.
    Failed {
        /// Why.
        error: String,
        /// Whether an earlier state of the binding goes on there; otherwise its
        /// messages are blocked.
        old_in_force: bool,
    },
    /// It was live and has not answered.
    Missing,
}

/// What all live Shields made of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShieldOutcome {
    /// By name.
    pub shields: Vec<ShieldReport>,
}

// === impl ShieldOutcome ===

impl ShieldOutcome {
    /// Whether every live Shield did it.
    pub fn all_done(&self) -> bool {
        let done = |state: &ShieldState| {
            matches!(state, ShieldState::Compiled { .. } | ShieldState::Active)
        };
        self.shields.iter().all(|shield| done(&shield.state))
    }

    /// Whether one said that it cannot.
    pub fn any_failed(&self) -> bool {
        let failed = |state: &ShieldState| matches!(state, ShieldState::Failed { .. });
        self.shields.iter().any(|shield| failed(&shield.state))
    }
}

// === impl ShieldReports ===

impl ShieldReports {
    /// Begins to listen; to be opened before the change that is waited for.
    pub async fn open(control: &ControlStore) -> Result<Self, ControlError> {
        let reports = control.subscribe_policy_reports().await?;
        Ok(Self(Roll::open(control, reports).await?))
    }

    /// Waits until every live Shield has answered, one way or the other.
    /// `progress` is called once for each answer as it comes.
    pub async fn wait(
        &mut self,
        expected: &Expected,
        wait: WaitFor,
        mut progress: impl FnMut(&ShieldReport),
    ) -> Result<ShieldOutcome, ControlError> {
        let mut states: BTreeMap<String, ShieldState> = BTreeMap::new();
        let order = v1::control::Order::ReportPolicies(v1::ReportPolicies {});
        let answered = |name: &str, told: &Told| {
            let state = told.report.as_ref().and_then(|r| expected.judge(r));
            if let Some(state) = state
                && states.get(name) != Some(&state)
            {
                progress(&ShieldReport {
                    shield: name.to_owned(),
                    state: state.clone(),
                });
                states.insert(name.to_owned(), state);
            }
            states.contains_key(name)
        };
        self.0.wait(wait, Some(order), answered).await?;
        let shields = self.0.said().map(|(name, _)| ShieldReport {
            shield: name.clone(),
            state: states.get(name).cloned().unwrap_or(ShieldState::Missing),
        });
        Ok(ShieldOutcome {
            shields: shields.collect(),
        })
    }

    /// The newest complete report of each Shield heard so far.
    pub fn reports(&self) -> impl Iterator<Item = &v1::PolicyReport> {
        self.0.said().filter_map(|(_, told)| told.report.as_ref())
    }
}

impl Said for Told {
    type Word = v1::PolicyReport;

    fn speaker(page: &v1::PolicyReport) -> (&str, &str) {
        (&page.shield, &page.incarnation)
    }

    fn hear(&mut self, page: v1::PolicyReport) {
        self.page(page);
    }
}

// === impl Told ===

impl Told {
    /// Takes over one page; a page that does not continue what is there begins anew.
    fn page(&mut self, page: v1::PolicyReport) {
        let next = self.pages.len();
        let follows = self.pages.first().is_none_or(|p| p.number == page.number)
            && usize::try_from(page.page).is_ok_and(|number| number == next);
        if !follows {
            self.pages.clear();
            if page.page != 0 {
                return;
            }
        }
        let last = page.last;
        self.pages.push(page);
        if !last {
            return;
        }
        let mut pages = self.pages.drain(..);
        let mut whole = pages.next();
        for page in pages {
            if let Some(whole) = &mut whole {
                whole.versions.extend(page.versions);
                whole.bindings.extend(page.bindings);
            }
        }
        let newer = |old: &v1::PolicyReport| {
            whole
                .as_ref()
                .is_some_and(|whole| whole.number >= old.number)
        };
        if self.report.as_ref().is_none_or(newer) {
            self.report = whole;
        }
    }
}

// === impl Expected ===

impl Expected {
    /// What a report says about it; `None`: nothing yet.
    fn judge(&self, report: &v1::PolicyReport) -> Option<ShieldState> {
        match self {
            Expected::Version(digest) => {
                let found = report
                    .versions
                    .iter()
                    .find(|v| v.digest[..] == digest[..])?;
                if found.ready {
                    Some(ShieldState::Compiled {
                        compile_ms: found.compile_ms,
                    })
                } else if found.error.is_empty() {
                    None
                } else {
                    Some(ShieldState::Failed {
                        error: found.error.clone(),
                        old_in_force: false,
                    })
                }
            }
            Expected::Binding(key, revision) => {
                let key = key.to_string();
                let found = report.bindings.iter().find(|b| b.key == key)?;
                if found.revision < *revision {
                    None
                } else if !found.error.is_empty() {
                    Some(ShieldState::Failed {
                        error: found.error.clone(),
                        old_in_force: !found.active.is_empty(),
                    })
                } else if found.active_revision >= *revision {
                    Some(ShieldState::Active)
                } else {
                    None
                }
            }
            Expected::Gone(key, revision) => {
                let key = key.to_string();
                let there = report.bindings.iter().any(|b| b.key == key);
                (report.revision >= *revision && !there).then_some(ShieldState::Active)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn page(number: u64, page: u32, last: bool, digests: &[u8]) -> v1::PolicyReport {
        let versions = digests.iter().map(|byte| v1::PolicyVersionState {
            digest: vec![*byte; 32].into(),
            ready: true,
            ..Default::default()
        });
        v1::PolicyReport {
            number,
            page,
            last,
            versions: versions.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_report_counts_once_all_its_pages_came_in_order() {
        let mut shield = Told::default();
        shield.page(page(1, 1, true, &[9]));
        assert!(shield.report.is_none(), "its first page is missing");
        shield.page(page(2, 0, false, &[1]));
        assert!(shield.report.is_none());
        shield.page(page(2, 1, true, &[2]));
        assert_eq!(shield.report.as_ref().unwrap().versions.len(), 2);
        // The pages of two reports never make one.
        shield.page(page(3, 0, false, &[1]));
        shield.page(page(4, 1, true, &[2]));
        assert_eq!(shield.report.as_ref().unwrap().number, 2);
        shield.page(page(1, 0, true, &[]));
        assert_eq!(shield.report.as_ref().unwrap().number, 2);
    }

    #[test]
    fn what_a_shield_says_is_judged() {
        let key = PolicyKey::read("platform.words");
        let report = |revision, active_revision, error: &str| v1::PolicyReport {
            revision,
            bindings: vec![v1::PolicyBindingState {
                key: key.to_string(),
                revision,
                active: vec![1; if active_revision > 0 { 32 } else { 0 }].into(),
                active_revision,
                error: error.to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let bound = Expected::Binding(key.clone(), 5);
        assert_eq!(bound.judge(&report(4, 4, "")), None);
        assert_eq!(bound.judge(&report(5, 4, "")), None);
        assert_eq!(bound.judge(&report(5, 5, "")), Some(ShieldState::Active));
        let failed = |active_revision| match bound.judge(&report(5, active_revision, "no")) {
            Some(ShieldState::Failed { old_in_force, .. }) => old_in_force,
            other => panic!("{other:?}"),
        };
        assert!(failed(4) && !failed(0));
        let gone = Expected::Gone(key.clone(), 5);
        assert_eq!(gone.judge(&report(6, 4, "")), None);
        let empty = v1::PolicyReport {
            revision: 5,
            ..Default::default()
        };
        assert_eq!(gone.judge(&empty), Some(ShieldState::Active));
        assert_eq!(Expected::Gone(key, 6).judge(&empty), None);
    }
}
