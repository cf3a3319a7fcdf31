//! The bounds of every outbox of a Shield, and what is counted.

use arqon_spine::manifest::Session;
use arqon_telemetry::{
    Counter, Metrics,
    labels::{GapReason, QueueDrop},
};

use super::backlog::Backlogs;

/// The numbers that the limits follow from.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of MESSAGE frames of one session.
    pub max_bytes: usize,
    /// MESSAGE frames of one session.
    pub max_messages: usize,
    /// Bytes of MESSAGE frames of all sessions of a tenant.
    pub tenant_max_bytes: usize,
    /// Acknowledgements that a session may be owed.
    pub max_unconfirmed: usize,
    /// Rooms of a session.
    pub max_rooms: usize,
}

/// The bounds of every outbox of a Shield, and what is counted.
#[derive(Debug)]
pub struct OutboxLimits {
    /// Bytes of MESSAGE frames.
    pub(super) max_bytes: usize,
    /// MESSAGE frames.
    pub(super) max_messages: usize,
    /// The reserve of all other frames, in bytes.
    pub(super) reserve_bytes: usize,
    /// The reserve of all other frames, in frames.
    pub(super) reserve_frames: usize,
    /// What all sessions of a tenant may have waiting.
    pub(super) backlogs: Backlogs,
    pub(super) counters: Counters,
}

#[derive(Debug)]
pub(super) struct Counters {
    pub(super) drop_oldest: Counter,
    pub(super) latest_only: Counter,
    pub(super) slow_reader: Counter,
    pub(super) session_ended: Counter,
    pub(super) gaps: Counter,
    pub(super) gaps_latest_only: Counter,
    pub(super) slow_consumers: Counter,
}

// === impl OutboxLimits ===

impl OutboxLimits {
    /// Limits whose drops are counted in these metrics.
    ///
    /// The reserve is derived from what a well-behaved session can be owed at
    /// once: an answer for each unconfirmed publish, and a GAP and a LEFT for each room.
    pub fn new(bounds: Bounds, metrics: &Metrics) -> Self {
        // Beside those: WELCOME, GOAWAY, pings, and answers to one burst of requests.
        let reserve_frames = 256 + bounds.max_unconfirmed + 2 * bounds.max_rooms;
        let dropped = |reason| metrics.queue_dropped.get_or_create_owned(&reason);
        Self {
            max_bytes: bounds.max_bytes.min(u32::MAX as usize / 2),
            max_messages: bounds.max_messages.min(u32::MAX as usize / 2),
            // A room name of 200 bytes, a code's name and its help fit.
            reserve_bytes: reserve_frames * 512,
            reserve_frames,
            backlogs: Backlogs::new(
                bounds.tenant_max_bytes as u64,
                metrics.tenant_backlog_full.clone(),
            ),
            counters: Counters {
                drop_oldest: dropped(QueueDrop::DropOldest),
                latest_only: dropped(QueueDrop::LatestOnly),
                slow_reader: dropped(QueueDrop::SlowReader),
                session_ended: dropped(QueueDrop::SessionEnded),
                gaps: metrics.gaps.get_or_create_owned(&GapReason::SlowReader),
                gaps_latest_only: metrics.gaps.get_or_create_owned(&GapReason::LatestOnly),
                slow_consumers: metrics.slow_consumers.clone(),
            },
        }
    }
}

// === impl Bounds ===

impl From<&Session> for Bounds {
    fn from(session: &Session) -> Self {
        Self {
            max_bytes: session.queue_max_bytes,
            max_messages: session.queue_max_messages,
            tenant_max_bytes: session.tenant_queue_max_bytes,
            max_unconfirmed: session.max_unconfirmed as usize,
            max_rooms: session.max_rooms,
        }
    }
}
