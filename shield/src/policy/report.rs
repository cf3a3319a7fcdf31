//! What is told of policies: the report after each change, the summary in beats.

use std::collections::HashMap;

use arqon_policy::{BindingStats, Counts};
use arqon_proto::v1;

use super::state::{State, Version};

/// Versions and bindings on one page.
const PAGE: usize = 200;
/// Bytes of an error's text.
const MAX_ERROR_BYTES: usize = 512;

/// Who reports.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    pub(super) shield: String,
    pub(super) incarnation: String,
}

impl Reporter {
    /// All pages of report `number`.
    pub(super) fn pages(
        &self,
        number: u64,
        state: &State,
        stats: &[BindingStats],
    ) -> Vec<v1::PolicyReport> {
        let stats: HashMap<&str, &BindingStats> =
            stats.iter().map(|stats| (&*stats.key, stats)).collect();
        let versions = state.versions().map(|(digest, version)| {
            let (ready, error, compile_ms) = match version {
                Version::Ready { compile_ms, .. } => (true, "", *compile_ms),
                Version::Failed { error, .. } => (false, error.as_str(), 0),
                Version::Queued { .. } | Version::Working { .. } => (false, "", 0),
            };
            Item::Version(v1::PolicyVersionState {
                digest: digest.as_bytes().to_vec().into(),
                ready,
                error: cut(error),
                compile_ms,
            })
        });
        let bindings = state.entries().map(|(key, entry)| {
            let key = key.to_string();
            let stats = stats.get(key.as_str());
            let active = entry.active.as_ref();
            Item::Binding(v1::PolicyBindingState {
                revision: entry.revision,
                active: active.map_or_else(Default::default, |active| {
                    active.digest.as_bytes().to_vec().into()
                }),
                active_revision: active.map_or(0, |active| active.revision),
                error: entry
                    .error()
                    .map_or_else(String::new, |fault| cut(&fault.to_string())),
                quarantined: stats.map_or(0, |stats| clamp(stats.quarantined)),
                counts: stats.map(|stats| counts(&stats.counts)),
                key,
            })
        });
        let items: Vec<Item> = versions.chain(bindings).collect();
        let mut chunks: Vec<&[Item]> = items.chunks(PAGE).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let last = chunks.len() - 1;
        let pages = chunks.into_iter().enumerate().map(|(page, items)| {
            let mut report = v1::PolicyReport {
                shield: self.shield.clone(),
                incarnation: self.incarnation.clone(),
                number,
                page: clamp(page),
                last: page == last,
                revision: state.revision(),
                ..Default::default()
            };
            for item in items {
                match item {
                    Item::Version(version) => report.versions.push(version.clone()),
                    Item::Binding(binding) => report.bindings.push(binding.clone()),
                }
            }
            report
        });
        pages.collect()
    }
}

/// One line of a report.
enum Item {
    Version(v1::PolicyVersionState),
    Binding(v1::PolicyBindingState),
}

/// The policies in short.
pub(super) fn summary(state: &State) -> v1::PolicySummary {
    let (mut active, mut broken) = (0, 0);
    for (_, entry) in state.entries() {
        match entry.active {
            Some(_) => active += 1,
            None => broken += 1,
        }
    }
    v1::PolicySummary {
        revision: state.revision(),
        active,
        broken,
        ..Default::default()
    }
}

/// Adds what changes with every message.
pub(super) fn complete(summary: &mut v1::PolicySummary, stats: &[BindingStats]) {
    let mut total = v1::PolicyCounts::default();
    let mut quarantined = 0;
    for stats in stats {
        let counts = counts(&stats.counts);
        total.allowed += counts.allowed;
        total.blocked += counts.blocked;
        total.transformed += counts.transformed;
        total.faults += counts.faults;
        total.unavailable += counts.unavailable;
        quarantined += stats.quarantined;
    }
    summary.quarantined = clamp(quarantined);
    summary.counts = Some(total);
}

fn counts(counts: &Counts) -> v1::PolicyCounts {
    v1::PolicyCounts {
        allowed: counts.allowed,
        blocked: counts.blocked,
        transformed: counts.transformed,
        faults: counts.faults,
        unavailable: counts.unavailable,
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_ERROR_BYTES)].to_owned()
}

fn clamp(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
