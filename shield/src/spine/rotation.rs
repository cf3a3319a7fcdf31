//! Make before break: a second connection takes over without a gap.
//!
//! 1. Open it, with fresh credentials; subscribe to all rooms, held.
//! 2. Its barrier: from here on the server sends it everything.
//! 3. Publishers change over, behind a barrier on the old connection.
//! 4. Both are read for a moment, then a barrier on the old: all that the
//!    server sent only there has arrived.
//! 5. The old is carried to its end, then the held feeds are released; what
//!    both brought, each room drops as duplicates.
//!
//! The driver performs steps 1 and 5, between which `hand_over` runs beside it.

use std::{future::pending, sync::Arc, time::Duration};

use arqon_spine::connect::SpineEvent;
use tokio_util::task::AbortOnDropHandle;

use super::{
    barrier::{Barrier, Unproven},
    connection::{Choice, Connection, OpenError},
    link::Shared,
    publisher::Line,
};

/// Silences of the old connection, each as long as a barrier's time-out, after
/// which its end is no longer waited for.
const PATIENCE: usize = 3;

/// How far a rotation is.
#[derive(Debug, Default)]
pub(super) enum Rotation {
    /// None is under way.
    #[default]
    Idle,
    /// The new connection is being opened.
    Opening(AbortOnDropHandle<Result<Connection, OpenError>>),
    /// Both connections are open.
    HandingOver {
        /// The new one.
        next: Box<Connection>,
        /// Ends with the hand-over.
        task: AbortOnDropHandle<Result<OldEnd, Unproven>>,
    },
}

/// How the old connection ended for its readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OldEnd {
    /// All that it was sent has arrived.
    Complete,
    /// It does not answer: something may be missing.
    Unknown,
}

/// What a rotation has come to.
#[derive(Debug)]
pub(super) enum Step {
    Opened(Result<Box<Connection>, OpenError>),
    HandedOver(Result<OldEnd, Unproven>),
    /// Something happened to the new connection meanwhile.
    Event(Option<SpineEvent>),
}

// === impl Rotation ===

impl Rotation {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// The new connection, once there is one.
    pub(super) fn next(&mut self) -> Option<&mut Connection> {
        match self {
            Self::HandingOver { next, .. } => Some(next),
            Self::Idle | Self::Opening(_) => None,
        }
    }

    /// Starts to open the new connection.
    pub(super) fn open(shared: &Arc<Shared>, choice: Choice) -> Self {
        let shared = shared.clone();
        let open = async move { shared.open(choice).await };
        Self::Opening(AbortOnDropHandle::new(tokio::spawn(open)))
    }

    /// Starts the hand-over from one connection to the other.
    pub(super) fn hand_over(shared: &Arc<Shared>, old: &Connection, next: Box<Connection>) -> Self {
        let task = hand_over(
            shared.clone(),
            old.barrier.clone(),
            next.line(),
            shared.params.overlap,
        );
        Self::HandingOver {
            next,
            task: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    /// Waits for what comes next; for ever where nothing does. Cancel safe.
    pub(super) async fn step(&mut self) -> Step {
        // A task of ours that was cancelled or panicked counts as a lost connection.
        match self {
            Self::Idle => pending().await,
            Self::Opening(task) => {
                let opened = task.await.unwrap_or(Err(OpenError::Lost));
                Step::Opened(opened.map(Box::new))
            }
            Self::HandingOver { next, task } => tokio::select! {
                event = next.events().recv() => Step::Event(event),
                end = task => Step::HandedOver(end.unwrap_or(Err(Unproven::Lost))),
            },
        }
    }
}

async fn hand_over(
    shared: Arc<Shared>,
    old: Arc<Barrier>,
    next: Line,
    overlap: Duration,
) -> Result<OldEnd, Unproven> {
    next.barrier.round_trip().await?;
    shared.publisher.switch(next).await?;
    tokio::time::sleep(overlap).await;
    for _ in 0..PATIENCE {
        match old.round_trip().await {
            Ok(()) => return Ok(OldEnd::Complete),
            Err(Unproven::Lost) => return Ok(OldEnd::Unknown),
            Err(Unproven::TimedOut) => {}
        }
    }
    Ok(OldEnd::Unknown)
}
