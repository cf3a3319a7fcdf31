//! Up to which version each Shield incarnation's changes are known.

use std::collections::BTreeMap;

use arqon_proto::v1;

/// Version by epoch. One with more of everything is the newer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Coverage(BTreeMap<u64, u64>);

// === impl Coverage ===

impl Coverage {
    pub(super) fn of(list: &[v1::PresenceCoverage]) -> Self {
        let mut coverage = Self::default();
        for part in list {
            let seq = coverage.0.entry(part.epoch).or_default();
            *seq = (*seq).max(part.seq);
        }
        coverage
    }

    /// Whether nothing known to `other` is missing here.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let mut parts = other.0.iter();
        parts.all(|(epoch, seq)| self.0.get(epoch).is_some_and(|ours| ours >= seq))
    }

    /// Takes over what `other` knows beyond this.
    pub(super) fn join(&mut self, other: &Self) {
        for (epoch, seq) in &other.0 {
            let ours = self.0.entry(*epoch).or_default();
            *ours = (*ours).max(*seq);
        }
    }

    /// Forgets incarnations that are gone.
    pub(super) fn remove(&mut self, gone: &[u64]) {
        for epoch in gone {
            self.0.remove(epoch);
        }
    }
}
