//! What each Shield made of a change: waited for, told as it comes, and shown as a table.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arqon_spine::admin::{
    Admin, Expected, PolicyChange, ShieldOutcome, ShieldReport, ShieldReports, ShieldState, WaitFor,
};
use clap::Args;
use serde_json::{Value, json};

use crate::failure::{Doing, Result};
use crate::output::Output;
use crate::progress::Progress;

/// Whether Shields are waited for, and how long.
#[derive(Debug, Args)]
#[command(next_help_heading = "Waiting")]
pub(super) struct Waiting {
    /// Wait this long for the Shields' answers
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = crate::duration::parse)]
    timeout: Duration,
    /// Do not wait: what Shields make of it is not known, and nothing is taken back
    #[arg(long)]
    no_wait: bool,
}

/// Ears for the answers, open before the change is made.
pub(super) struct Acks {
    reports: Option<ShieldReports>,
    timeout: Duration,
    opened: Instant,
}

/// The answers.
#[derive(Debug)]
pub(super) struct Table {
    outcome: ShieldOutcome,
    /// From the change to the answer.
    took: BTreeMap<String, Duration>,
}

impl Acks {
    /// Begins to listen, if there will be any waiting.
    pub(super) async fn open(admin: &Admin, waiting: &Waiting) -> Result<Self> {
        let reports = if waiting.no_wait {
            None
        } else {
            Some(
                ShieldReports::open(admin.control())
                    .await
                    .doing("cannot listen to the Shields")?,
            )
        };
        Ok(Self {
            reports,
            timeout: waiting.timeout,
            opened: Instant::now(),
        })
    }

    /// The change was written now.
    pub(super) fn changed(&mut self) {
        self.opened = Instant::now();
    }

    /// Waits for the answers of all live Shields; `None`: nobody is waited for.
    pub(super) async fn wait(&mut self, expected: &Expected) -> Result<Option<Table>> {
        let Some(reports) = &mut self.reports else {
            return Ok(None);
        };
        let wait = WaitFor {
            patience: self.timeout,
            ..WaitFor::default()
        };
        let began = self.opened;
        let mut took = BTreeMap::new();
        let answered = |report: &ShieldReport| {
            took.insert(report.shield.clone(), began.elapsed());
        };
        let progress = Progress::waiting("waiting for the Shields");
        let outcome = reports
            .wait(expected, wait, answered)
            .await
            .doing("cannot hear the Shields any longer")?;
        drop(progress);
        Ok(Some(Table { outcome, took }))
    }
}

/// What is waited for after a change.
pub(super) fn expected(change: &PolicyChange) -> Expected {
    match change.after {
        Some(_) => Expected::Binding(change.key.clone(), change.revision),
        None => Expected::Gone(change.key.clone(), change.revision),
    }
}

impl Table {
    /// Whether a Shield said that it cannot.
    pub(super) fn any_failed(&self) -> bool {
        self.outcome.any_failed()
    }

    /// What is not as it should be, in a few words.
    pub(super) fn problem(&self) -> Option<String> {
        let named = |missing: bool| -> Vec<&str> {
            let is = |state: &ShieldState| match state {
                ShieldState::Missing => missing,
                ShieldState::Failed { .. } => !missing,
                ShieldState::Compiled { .. } | ShieldState::Active => false,
            };
            let shields = self.outcome.shields.iter();
            shields
                .filter(|report| is(&report.state))
                .map(|report| report.shield.as_str())
                .collect()
        };
        let (failed, missing) = (named(false), named(true));
        let mut parts = Vec::new();
        if !failed.is_empty() {
            parts.push(format!("it fails on {}", failed.join(", ")));
        }
        if !missing.is_empty() {
            parts.push(format!(
                "nothing was heard of it from {}",
                missing.join(", ")
            ));
        }
        (!parts.is_empty()).then(|| parts.join(", and "))
    }

    /// How many Shields it is so on.
    pub(super) fn shields(&self) -> usize {
        self.outcome.shields.len()
    }

    /// The first reason of a failure.
    pub(super) fn why(&self) -> Option<&str> {
        self.outcome
            .shields
            .iter()
            .find_map(|report| match &report.state {
                ShieldState::Failed { error, .. } => Some(error.as_str()),
                _ => None,
            })
    }

    /// Rows for people.
    pub(super) fn show(&self, output: &Output) -> Result {
        let rows = self.outcome.shields.iter().map(|report| {
            let took = self
                .took
                .get(&report.shield)
                .map_or_else(|| "-".to_owned(), |took| format!("{} ms", took.as_millis()));
            vec![
                report.shield.clone(),
                word(&report.state).to_owned(),
                took,
                why(&report.state),
            ]
        });
        output.table(
            &["shield", "state", "after", "why"],
            rows.collect(),
            "no Shield is live; each takes it up when it starts",
        )
    }

    /// As `--json` prints it.
    pub(super) fn json(&self) -> Value {
        self.outcome
            .shields
            .iter()
            .map(|report| {
                let took = self.took.get(&report.shield).map(Duration::as_millis);
                let mut object = json!({
                    "shield": report.shield,
                    "state": word(&report.state),
                    "after_ms": took.and_then(|ms| u64::try_from(ms).ok()),
                });
                match &report.state {
                    ShieldState::Compiled { compile_ms } => {
                        object["compile_ms"] = (*compile_ms).into();
                    }
                    ShieldState::Failed {
                        error,
                        old_in_force,
                    } => {
                        object["error"] = error.clone().into();
                        object["old_in_force"] = (*old_in_force).into();
                    }
                    ShieldState::Active | ShieldState::Missing => {}
                }
                object
            })
            .collect()
    }
}

fn word(state: &ShieldState) -> &'static str {
    match state {
        ShieldState::Compiled { .. } => "compiled",
        ShieldState::Active => "active",
        ShieldState::Failed { .. } => "failed",
        ShieldState::Missing => "missing",
    }
}

fn why(state: &ShieldState) -> String {
    match state {
        ShieldState::Compiled { compile_ms: 0 } => "it had it already".to_owned(),
        ShieldState::Compiled { compile_ms } => format!("compiled in {compile_ms} ms"),
        ShieldState::Active => String::new(),
        ShieldState::Failed {
            error,
            old_in_force: true,
        } => format!("{error} (what was in force before goes on there)"),
        ShieldState::Failed { error, .. } => error.clone(),
        ShieldState::Missing => "it is live and has not answered".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(states: &[ShieldState]) -> Table {
        let shields = states
            .iter()
            .enumerate()
            .map(|(index, state)| ShieldReport {
                shield: format!("shield-{}", index + 1),
                state: state.clone(),
            });
        Table {
            outcome: ShieldOutcome {
                shields: shields.collect(),
            },
            took: BTreeMap::new(),
        }
    }

    #[test]
    fn the_problem_names_the_shields() {
        let failed = ShieldState::Failed {
            error: "no words".to_owned(),
            old_in_force: true,
        };
        assert_eq!(table(&[]).problem(), None);
        assert_eq!(table(&[ShieldState::Active]).problem(), None);
        let mixed = table(&[ShieldState::Active, failed, ShieldState::Missing]);
        assert_eq!(
            mixed.problem().unwrap_or_default(),
            "it fails on shield-2, and nothing was heard of it from shield-3"
        );
        assert_eq!(mixed.why(), Some("no words"));
        assert!(mixed.any_failed());
        assert!(!table(&[ShieldState::Missing]).any_failed());
        assert_eq!(mixed.json()[1]["old_in_force"], true);
    }
}
