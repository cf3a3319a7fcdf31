//! The metrics that the Spine's hot path moves, resolved once.

use arqon_telemetry::Counter;
use arqon_telemetry::{
    Metrics,
    labels::{AckOutcome, GapReason, Outcome},
};

/// Resolved counters; labelled families are looked up here and nowhere else.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    pub(crate) duplicates: Counter,
    pub(crate) malformed: Counter,
    pub(crate) messages_in: Counter,
    pub(crate) acked: Counter,
    pub(crate) unknown: Counter,
    pub(crate) metrics: Metrics,
}

// === impl Counters ===

impl Counters {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            duplicates: metrics.duplicates_dropped.clone(),
            malformed: metrics.malformed_spine_frames.clone(),
            messages_in: metrics.messages_in.clone(),
            acked: metrics.acks.get_or_create_owned(&AckOutcome::Acked),
            unknown: metrics.acks.get_or_create_owned(&AckOutcome::Unknown),
            metrics: metrics.clone(),
        }
    }

    /// A GAP was declared in a room.
    pub(crate) fn gap(&self, reason: GapReason) {
        self.metrics.gaps.get_or_create(&reason).inc();
    }

    /// A rotation ended.
    pub(crate) fn rotation(&self, outcome: Outcome) {
        self.metrics.rotations.get_or_create(&outcome).inc();
    }
}
