//! The signals that end a command that goes on and on, in good order.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Doing, Result};

/// Ctrl-C, a request to end, or a terminal that was closed.
#[derive(Debug)]
pub(crate) struct Stops {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stops {
    /// From here on they no longer end the process by themselves.
    pub(crate) fn new() -> Result<Self> {
        let open = |kind| signal(kind).doing("cannot hear signals");
        Ok(Self {
            interrupt: open(SignalKind::interrupt())?,
            terminate: open(SignalKind::terminate())?,
            hangup: open(SignalKind::hangup())?,
        })
    }

    /// Returns at the first of them.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
