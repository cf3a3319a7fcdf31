//! The connection to CONTROL: beats and digests in, beats and asks out.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arqon_proto::names::NodeId;
use arqon_proto::v1;
use arqon_spine::connect::{Connection, connect_creds};
use arqon_spine::control::{ControlError, ControlStore};
use arqon_telemetry::log::chain;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use crate::commands::Command;
use crate::counters::Counter;
use crate::identity::now_ms;
use crate::inbound::{self, Event, Which};
use crate::outbox::Outbox;
use crate::pipe::Job;
use crate::spine::{Broken, Paced, Side, came, heed};

/// Shields whose clocks were complained of. Beyond, all are forgotten.
const COMPLAINTS: usize = 1024;

/// What the connection needs.
#[derive(Debug)]
pub(crate) struct ControlSide {
    pub(crate) id: NodeId,
    pub(crate) servers: Vec<String>,
    pub(crate) creds: PathBuf,
    /// How long the server may be silent.
    pub(crate) patience: Duration,
    /// CONTROL while it is connected.
    pub(crate) store: watch::Sender<Option<ControlStore>>,
}

/// What comes.
enum Report {
    Beat(Box<v1::ShieldBeat>),
    Digests(v1::PresenceDigests),
    Brain(v1::BrainBeat),
}

// === impl ControlSide ===

impl Side for ControlSide {
    const WHICH: Which = Which::Control;

    async fn serve(&self, outbox: &Outbox) -> Result<(), Broken> {
        let name = format!("{}/control", self.id);
        let connection = connect_creds(&self.servers, &self.creds, &name).await?;
        let served = self.used(connection, outbox).await;
        self.store.send_replace(None);
        served
    }
}

impl ControlSide {
    async fn used(&self, mut connection: Connection, outbox: &Outbox) -> Result<(), Broken> {
        let store = ControlStore::new(&connection);
        let beats = store.subscribe_beats().await?;
        let digests = store.subscribe_presence().await?;
        let brains = store.subscribe_brain_beats().await?;
        let mut reports = stream::select_all([
            beats.map(|beat| Report::Beat(Box::new(beat))).boxed(),
            digests.map(Report::Digests).boxed(),
            brains.map(Report::Brain).boxed(),
        ]);
        let mut pulse = match came(Which::Control, &connection, self.patience, outbox).await {
            Ok(pulse) => pulse,
            Err(broken) => {
                connection.abort().await;
                return Err(broken);
            }
        };
        self.store.send_replace(Some(store));

        let mut watched = true;
        let mut objections = Paced::default();
        let mut refusals = Paced::default();
        let mut clocks = HashMap::new();
        let ended = loop {
            tokio::select! {
                report = reports.next() => {
                    let Some(report) = report else { break Ok(()) };
                    pulse.heard();
                    tell(report, outbox, &mut clocks, &mut refusals);
                }
                () = pulse.stopped() => match reports.next().now_or_never() {
                    // It had come, and was not yet read.
                    Some(Some(report)) => {
                        pulse.heard();
                        tell(report, outbox, &mut clocks, &mut refusals);
                    }
                    // Its streams may not end before 15 s, but nothing comes of them now.
                    _ => {
                        connection.abort().await;
                        break Err(Broken::Silent);
                    }
                },
                event = connection.events.recv(), if watched => match event {
                    Some(event) => {
                        if !heed(Which::Control, &event, outbox, &mut objections) {
                            connection.abort().await;
                        }
                    }
                    None => watched = false,
                },
            }
        };
        while let Some(event) = connection.events.try_recv() {
            heed(Which::Control, &event, outbox, &mut objections);
        }
        outbox.push([Event::spine(Which::Control, false)]);
        ended
    }
}

fn tell(
    report: Report,
    outbox: &Outbox,
    clocks: &mut HashMap<String, Paced>,
    refusals: &mut Paced,
) {
    let event = match &report {
        Report::Beat(beat) => {
            if let Some(off_ms) = inbound::skew(beat, now_ms()) {
                outbox.count(Counter::ClockSkew, 1);
                if clocks.len() >= COMPLAINTS {
                    clocks.clear();
                }
                let paced = clocks.entry(beat.shield.clone()).or_default();
                if paced.now(Instant::now()).is_some() {
                    warn!(shield = beat.shield, off_ms, "A Shield's clock is off ours");
                }
            }
            inbound::beat(beat)
        }
        Report::Digests(digests) => inbound::digests(digests),
        Report::Brain(beat) => inbound::brain(beat),
    };
    match event {
        Ok(event) => outbox.push([event]),
        Err(refused) => {
            outbox.count(refused.counter(), 1);
            if let Some(unsaid) = refusals.now(Instant::now()) {
                warn!(reason = ?refused, unsaid, "A report was refused");
            }
        }
    }
}

/// Publishes what Brain says, in order. While there is no connection it is
/// dropped: beats and asks are only worth something now.
pub(crate) async fn publish(
    mut jobs: mpsc::UnboundedReceiver<Job>,
    id: NodeId,
    mut stores: watch::Receiver<Option<ControlStore>>,
    outbox: Outbox,
) {
    while let Some(job) = jobs.recv().await {
        let Some(store) = stores.borrow_and_update().clone() else {
            outbox.count(Counter::Dropped, 1);
            continue;
        };
        let Job { command, _spent } = job;
        let sending = async {
            match command {
                Command::Ask { shield, ask } => store.publish_ask(&id, &shield, &ask).await,
                Command::Beat(mut beat) => {
                    beat.time_ms = now_ms();
                    store.publish_brain_beat(&id, &beat).await
                }
                Command::Serve(_)
                | Command::Order { .. }
                | Command::Events { .. }
                | Command::Spans(_) => Ok(()),
            }
        };
        let sent = tokio::select! {
            sent = sending => sent,
            // A client that is stuck would hold what belongs to the next.
            _ = stores.changed() => Err(ControlError::Closed),
        };
        if let Err(error) = sent {
            outbox.count(Counter::Dropped, 1);
            debug!(error = chain(&error), "Cannot publish on CONTROL");
        }
    }
}
