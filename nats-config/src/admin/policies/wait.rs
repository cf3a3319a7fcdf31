//! What each Shield says of a version or a binding.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arqon_proto::names::NodeId;
use arqon_proto::v1;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use crate::control::{ControlError, ControlStore, PolicyKey};

/// A Shield counts as live for so long after a beat.
const LIVE: Duration = Duration::from_secs(3);
/// How often Shields that have not answered are asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Beats and reports of Shields, from when this was opened.
pub struct ShieldReports {
    control: ControlStore,
    beats: BoxStream<'static, v1::ShieldBeat>,
    reports: BoxStream<'static, v1::PolicyReport>,
    opened: Instant,
    shields: BTreeMap<String, Shield>,
}

#[derive(Debug)]
struct Shield {
    heard: Instant,
    incarnation: String,
    /// The newest that is complete.
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

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub struct WaitFor {
    /// From the opening of [`ShieldReports`]; whoever has not beaten by then is
    /// not live. Shields beat once a second and are live for three.
    pub census: Duration,
    /// From the call, for the answers of those that are.
    pub patience: Duration,
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

impl Default for WaitFor {
    fn default() -> Self {
        Self {
            census: LIVE,
            patience: Duration::from_secs(10),
        }
    }
}

// === impl ShieldReports ===

impl ShieldReports {
    /// Begins to listen; to be opened before the change that is waited for.
    pub async fn open(control: &ControlStore) -> Result<Self, ControlError> {
        let beats = control.subscribe_beats().await?;
        let reports = control.subscribe_policy_reports().await?;
        control.flush().await?;
        Ok(Self {
            control: control.clone(),
            beats,
            reports,
            opened: Instant::now(),
            shields: BTreeMap::new(),
        })
    }

    /// Waits until every live Shield has answered, one way or the other.
    /// `progress` is called once for each answer as it comes.
    pub async fn wait(
        &mut self,
        expected: &Expected,
        wait: WaitFor,
        mut progress: impl FnMut(&ShieldReport),
    ) -> Result<ShieldOutcome, ControlError> {
        let deadline = Instant::now() + wait.patience.max(wait.census);
        let census_ends = self.opened + wait.census;
        let mut told: BTreeMap<String, ShieldState> = BTreeMap::new();
        let mut asked: Option<Instant> = None;
        loop {
            let now = Instant::now();
            for (name, shield) in &self.shields {
                let Some(state) = shield.report.as_ref().and_then(|r| expected.judge(r)) else {
                    continue;
                };
                if told.get(name) != Some(&state) {
                    progress(&ShieldReport {
                        shield: name.clone(),
                        state: state.clone(),
                    });
                    told.insert(name.clone(), state);
                }
            }
            let silent = |shield: &Shield| now.duration_since(shield.heard) >= LIVE;
            let pending: Vec<&String> = self
                .shields
                .iter()
                .filter(|(name, shield)| !told.contains_key(*name) && !silent(shield))
                .map(|(name, _)| name)
                .collect();
            if (pending.is_empty() && now >= census_ends) || now >= deadline {
                break;
            }
            if asked.is_none_or(|asked| now.duration_since(asked) >= ASK_AGAIN) {
                asked = Some(now);
                self.ask(&told).await?;
            }
            let glance = tokio::time::timeout(Duration::from_millis(50), self.hear());
            if let Ok(heard) = glance.await {
                heard?;
            }
        }
        let shields = self.shields.keys().map(|name| ShieldReport {
            shield: name.clone(),
            state: told.get(name).cloned().unwrap_or(ShieldState::Missing),
        });
        Ok(ShieldOutcome {
            shields: shields.collect(),
        })
    }

    /// The newest complete report of each Shield heard so far.
    pub fn reports(&self) -> impl Iterator<Item = &v1::PolicyReport> {
        self.shields
            .values()
            .filter_map(|shield| shield.report.as_ref())
    }

    async fn ask(&self, told: &BTreeMap<String, ShieldState>) -> Result<(), ControlError> {
        let order = || v1::control::Order::ReportPolicies(v1::ReportPolicies {});
        if told.is_empty() {
            return self.control.send_order(None, order()).await;
        }
        for name in self.shields.keys().filter(|name| !told.contains_key(*name)) {
            if let Ok(id) = NodeId::parse(name) {
                self.control.send_order(Some(&id), order()).await?;
            }
        }
        Ok(())
    }

    async fn hear(&mut self) -> Result<(), ControlError> {
        tokio::select! {
            beat = self.beats.next() => {
                let beat = beat.ok_or(ControlError::Closed)?;
                if beat.goodbye {
                    self.shields.remove(&beat.shield);
                } else {
                    self.shield(beat.shield, beat.incarnation);
                }
            }
            report = self.reports.next() => {
                let report = report.ok_or(ControlError::Closed)?;
                self.shield(report.shield.clone(), report.incarnation.clone())
                    .page(report);
            }
        }
        Ok(())
    }

    fn shield(&mut self, name: String, incarnation: String) -> &mut Shield {
        let shield = self.shields.entry(name).or_insert_with(|| Shield {
            heard: Instant::now(),
            incarnation: incarnation.clone(),
            report: None,
            pages: Vec::new(),
        });
        shield.heard = Instant::now();
        if shield.incarnation != incarnation {
            // What the process before it said is no word of this one.
            shield.incarnation = incarnation;
            shield.report = None;
            shield.pages.clear();
        }
        shield
    }
}

impl Shield {
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

impl std::fmt::Debug for ShieldReports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShieldReports")
            .field("shields", &self.shields)
            .finish_non_exhaustive()
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
        let mut shield = Shield {
            heard: Instant::now(),
            incarnation: String::new(),
            report: None,
            pages: Vec::new(),
        };
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
