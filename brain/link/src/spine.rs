//! What the two connections have in common: they are opened again for ever,
//! they prove that their subscriptions hold, and they tell their turns.

use std::time::{Duration, Instant};

use arqon_spine::connect::{ConnectError, Connection, SpineEvent};
use arqon_spine::control::ControlError;
use arqon_spine::credentials::CredentialsError;
use arqon_spine::{nats, subjects};
use arqon_telemetry::log::chain;
use futures_util::StreamExt;
use tracing::{debug, error, info, warn};

use crate::counters::Counter;
use crate::inbound::{Event, Which};
use crate::outbox::Outbox;

/// The first pause between attempts, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// See `FIRST_PAUSE`.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A barrier that takes longer tells of a server that hangs.
const BARRIER: Duration = Duration::from_secs(5);
/// Lines of one kind in the log.
const PACE: Duration = Duration::from_secs(60);

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("no connection")]
    Connect(#[from] ConnectError),
    #[error("no credentials")]
    Credentials(#[from] CredentialsError),
    #[error("cannot subscribe")]
    Control(#[from] ControlError),
    #[error("cannot subscribe")]
    Subscribe(#[from] nats::client::SubscribeError),
    #[error("the server does not answer")]
    Barrier,
    #[error("the connection ended")]
    Ended,
}

/// One way to use a connection.
pub(crate) trait Side {
    /// Which it is.
    const WHICH: Which;

    /// Opens it, tells its coming ([`came`]), and uses it to its end.
    fn serve(&self, outbox: &Outbox) -> impl Future<Output = Result<(), Broken>>;
}

/// Tells of what the server says, but not of each time it does.
#[derive(Debug, Default)]
pub(crate) struct Paced {
    last: Option<Instant>,
    unsaid: u64,
}

/// Uses connections, one after the other, for ever.
pub(crate) async fn keep<S: Side>(side: S, outbox: Outbox) {
    let which = S::WHICH.name();
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        let broken = side.serve(&outbox).await;
        if matches!(broken, Ok(()) | Err(Broken::Ended)) && started.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        let broken = broken.err().unwrap_or(Broken::Ended);
        if pause == FIRST_PAUSE {
            warn!(which, error = chain(&broken), "No connection, trying on");
        } else {
            debug!(which, error = chain(&broken), "Still no connection");
        }
        tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Returns when the server has answered, so knows all subscriptions made
/// before, and tells that the connection is up.
pub(crate) async fn came(
    which: Which,
    connection: &Connection,
    outbox: &Outbox,
) -> Result<(), Broken> {
    let subject = subjects::barrier(&connection.user);
    let mut inbox = connection.client.subscribe(subject.clone()).await?;
    let answered = async {
        let sent = connection.client.publish(subject, "".into()).await;
        sent.is_ok() && inbox.next().await.is_some()
    };
    match tokio::time::timeout(BARRIER, answered).await {
        Ok(true) => {}
        Ok(false) | Err(_) => return Err(Broken::Barrier),
    }
    info!(
        which = which.name(),
        server = connection.server,
        "Connected"
    );
    outbox.push([Event::spine(which, true)]);
    Ok(())
}

/// Acts on what happens to a connection; false: it cannot be used.
pub(crate) fn heed(which: Which, event: &SpineEvent, outbox: &Outbox, paced: &mut Paced) -> bool {
    match event {
        SpineEvent::SlowConsumer { dropped, .. } => outbox.count(Counter::SlowConsumer, *dropped),
        SpineEvent::ServerError(text) => {
            // Credentials of another account: what is not heard would pass for silence.
            if text.to_ascii_lowercase().contains("for subscription") {
                error!(which = which.name(), text, "May not hear what it must");
                return false;
            }
            if let Some(unsaid) = paced.now(Instant::now()) {
                warn!(which = which.name(), text, unsaid, "The server objects");
            }
        }
        SpineEvent::LameDuck => info!(which = which.name(), "The server is about to stop"),
        SpineEvent::Disconnected | SpineEvent::Closed => {}
    }
    true
}

// === impl Paced ===

impl Paced {
    /// How many were not said since, if this one may be.
    pub(crate) fn now(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now - last < PACE) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}
