//! What the two connections have in common: they are opened again for ever,
//! they prove that their subscriptions hold, and they tell their turns.

use std::time::{Duration, Instant};

use arqon_spine::connect::{ConnectError, Connection, SpineEvent};
use arqon_spine::control::ControlError;
use arqon_spine::credentials::CredentialsError;
use arqon_spine::manifest::BrainManifest;
use arqon_spine::{nats, subjects};
use arqon_telemetry::log::chain;
use futures_util::StreamExt;
use tokio::time::{Interval, MissedTickBehavior, interval};
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
    Silent,
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

/// Whether the server still answers. A server that hangs, or a cut cable, is a
/// break like any other, but one that the client notices after 15 s only; until
/// then Brain would take the Shields for dead.
#[derive(Debug)]
pub(crate) struct Pulse {
    client: nats::Client,
    subject: String,
    inbox: nats::Subscriber,
    ticks: Interval,
    patience: Duration,
    ticked: Instant,
    /// Since when nothing has come.
    waiting: Option<Instant>,
}

/// Tells of what the server says, but not of each time it does.
#[derive(Debug, Default)]
pub(crate) struct Paced {
    last: Option<Instant>,
    unsaid: u64,
}

/// How long a server may be silent: the Shields' last beats are up to a second
/// old when it hangs, and must not be too old when that is noticed.
pub(crate) fn patience(manifest: &BrainManifest) -> Duration {
    manifest.down_after / 3
}

/// Uses connections, one after the other, for ever.
pub(crate) async fn keep<S: Side>(side: S, outbox: Outbox) {
    let which = S::WHICH.name();
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        let broken = side.serve(&outbox).await;
        if broken.is_ok() && started.elapsed() > LONGEST_PAUSE {
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
    patience: Duration,
    outbox: &Outbox,
) -> Result<Pulse, Broken> {
    let subject = subjects::barrier(&connection.user);
    let mut inbox = connection.client.subscribe(subject.clone()).await?;
    let answered = async {
        let sent = connection.client.publish(subject.clone(), "".into()).await;
        sent.is_ok() && inbox.next().await.is_some()
    };
    match tokio::time::timeout(BARRIER, answered).await {
        Ok(true) => {}
        Ok(false) | Err(_) => return Err(Broken::Silent),
    }
    info!(
        which = which.name(),
        server = connection.server,
        "Connected"
    );
    outbox.push([Event::spine(which, true)]);
    let mut ticks = interval(patience / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(Pulse {
        client: connection.client.clone(),
        subject,
        inbox,
        ticks,
        patience,
        ticked: Instant::now(),
        waiting: None,
    })
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

// === impl Pulse ===

impl Pulse {
    /// Something came, so it lives.
    pub(crate) fn heard(&mut self) {
        self.waiting = None;
    }

    /// Returns when nothing has come for too long, not even an answer. It may
    /// be dropped and called again.
    pub(crate) async fn stopped(&mut self) {
        loop {
            tokio::select! {
                Some(_) = self.inbox.next() => self.waiting = None,
                _ = self.ticks.tick() => if self.tick(Instant::now()) { return },
            }
        }
    }

    fn tick(&mut self, now: Instant) -> bool {
        // Where we stood still ourselves, what has come is not yet read.
        let stood_still = now - self.ticked > self.patience;
        self.ticked = now;
        match self.waiting {
            Some(since) if !stood_still => now - since >= self.patience,
            _ => {
                self.waiting = Some(now);
                let (client, subject) = (self.client.clone(), self.subject.clone());
                // Not waited for here: its place in the queue of writes is kept,
                // and a queue that does not move is what is to be found out.
                tokio::spawn(async move { client.publish(subject, "".into()).await });
                false
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_one_number_and_objections_are_paced() {
        let outbox = Outbox::default();
        let mut paced = Paced::default();
        for _ in 0..1000 {
            let lost = SpineEvent::SlowConsumer { sid: 7, dropped: 3 };
            assert!(heed(Which::Brain, &lost, &outbox, &mut paced));
            let objection = SpineEvent::ServerError("Permissions Violation for Publish".into());
            assert!(heed(Which::Brain, &objection, &outbox, &mut paced));
        }
        assert_eq!(paced.unsaid, 999);
        outbox.tell_counts();
        let told = outbox.next();
        // {:counted, :slow_consumer, 3000}, and nothing else.
        let mut counted = crate::etf::Writer::part(64);
        counted.tagged(3, "counted");
        counted.atom("slow_consumer");
        counted.uint(3000);
        let counted = counted.finish();
        assert!(told.windows(counted.len()).any(|window| window == counted));
        assert!(told.len() < counted.len() + 32);
    }

    #[test]
    fn what_may_not_be_heard_is_no_silence() {
        let refused = "Permissions Violation for Subscription to \"presence.*.change\"".to_owned();
        let refused = SpineEvent::ServerError(refused);
        assert!(!heed(
            Which::Brain,
            &refused,
            &Outbox::default(),
            &mut Paced::default()
        ));
    }
}
