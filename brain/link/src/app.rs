//! The link as a whole: from a manifest to the end of standard input.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use arqon_spine::control::ControlStore;
use arqon_spine::manifest::BrainManifest;
use arqon_spine::nats;
use arqon_telemetry::metrics::BrainMetrics;
use arqon_telemetry::otlp::{self, StartError};
use arqon_telemetry::{Telemetry, log};
use futures_util::future::{join, select_all, try_join};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::info;

use crate::brain::{self, BrainSide};
use crate::control::{self, ControlSide};
use crate::identity::Identity;
use crate::monitors::{MonitorError, monitors};
use crate::outbox::Outbox;
use crate::pipe::{self, Jobs};
use crate::spine::{keep, patience};

/// Pace at which counts are told.
const COUNTS: Duration = Duration::from_secs(1);
/// A Brain that has not pinged for so long hangs, and answers nothing. It pings
/// once a second.
const HANGS: Duration = Duration::from_millis(2_500);
/// Pace at which that is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// For the last commands to be published, and for them to be written.
const FLUSH: Duration = Duration::from_secs(2);
/// For the last spans and metrics, beside it.
const EXPORT: Duration = Duration::from_secs(1);

/// What the manifest asks for cannot be had: its mistake, told before anything else happens.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Of telemetry.
    #[error(transparent)]
    Telemetry(#[from] StartError),
    /// Of NATS servers' monitors.
    #[error(transparent)]
    Monitors(#[from] MonitorError),
}

/// Runs until standard input ends.
///
/// # Errors
/// [`SetupError`] for a manifest that cannot be used, else how the pipe broke.
pub fn run(manifest: BrainManifest) -> anyhow::Result<()> {
    log::init(&manifest.log)?;
    // One thread: the work for a message is less than what it costs to hand it
    // to another. It leaves the other cores to Brain, too.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(serve(manifest));
    // Whatever is still under way is of no use to anybody.
    runtime.shutdown_background();
    ended
}

async fn serve(manifest: BrainManifest) -> anyhow::Result<()> {
    ignore_signals()?;
    let identity = Identity::new(&manifest);
    let metrics = BrainMetrics::new();
    let telemetry = telemetry(&manifest, &identity, &metrics)?;
    let monitors = monitors(&manifest.telemetry.nats_monitors, &metrics);
    let monitors = monitors.map_err(SetupError::from)?;
    let outbox = Outbox::default();
    let (serve, wished) = watch::channel(false);
    let (pinged, pings) = watch::channel(None);
    let (serves, serving) = watch::channel(false);
    let (client, clients) = watch::channel(None);
    let (store, stores) = watch::channel(None);
    let (to_brain, brain_jobs) = mpsc::unbounded_channel();
    let (to_control, control_jobs) = mpsc::unbounded_channel();
    let jobs = Jobs {
        serve,
        pinged,
        brain: to_brain,
        control: to_control,
        tracer: telemetry.tracer().clone(),
        metrics,
    };
    let hello = identity.hello(&manifest);
    let mut pipe = pipe::start(hello, identity, outbox.clone(), jobs)
        .context("cannot start the threads of the pipe")?;
    info!(id = %manifest.id, "Link started");

    let id = manifest.id.clone();
    let patience = patience(&manifest);
    let brain_side = BrainSide {
        id: id.clone(),
        servers: manifest.servers.clone(),
        creds: manifest.creds_file,
        patience,
        serve: serving,
        client,
    };
    let control_side = ControlSide {
        id: id.clone(),
        servers: manifest.servers,
        creds: manifest.control_creds_file,
        patience,
        store,
    };
    let endless = [
        tokio::spawn(keep(brain_side, outbox.clone())),
        tokio::spawn(keep(control_side, outbox.clone())),
        tokio::spawn(tell_counts(outbox.clone())),
        tokio::spawn(attend(wished, pings, serves)),
    ];
    let monitors = monitors.into_iter().map(|one| tokio::spawn(one.run()));
    let endless = endless.into_iter().chain(monitors);
    let brain_publisher = brain::publish(brain_jobs, clients.clone(), outbox.clone());
    let control_publisher = control::publish(control_jobs, id, stores.clone(), outbox);
    let mut publishers = try_join(
        tokio::spawn(brain_publisher),
        tokio::spawn(control_publisher),
    );
    tokio::select! {
        biased;
        ended = pipe.recv() => ended.unwrap_or(Ok(()))?,
        // A task that panicked would leave Brain with a link that is deaf or mute.
        _ = select_all(endless) => anyhow::bail!("a task of the link ended"),
        _ = &mut publishers => anyhow::bail!("a task of the link ended"),
    }

    let flushed = timeout(FLUSH, async {
        // They end with the commands, whose sender the pipe has dropped.
        let _ = publishers.await;
        // Taken out first: a borrow that lived through the flush would block the task that tells
        // of a lost connection, and with it this one thread for ever.
        let (client, store) = (clients.borrow().clone(), stores.borrow().clone());
        flush(client, store).await;
    });
    let exported = timeout(EXPORT, telemetry.finish());
    let (flushed, exported) = join(flushed, exported).await;
    let (flushed, exported) = (flushed.is_ok(), exported.is_ok());
    info!(flushed, exported, "Brain has closed the pipe, ending");
    Ok(())
}

fn telemetry(
    manifest: &BrainManifest,
    identity: &Identity,
    metrics: &BrainMetrics,
) -> Result<Telemetry, SetupError> {
    let who = otlp::Identity {
        service: "arqon-brain",
        instance: identity.id.to_string(),
        version: identity.version.clone(),
        incarnation: Some(format!("{:016x}", identity.incarnation)),
    };
    let counted = metrics.telemetry();
    let started = Telemetry::start(&manifest.telemetry, &who, counted, metrics.clone())?;
    Ok(started)
}

async fn flush(client: Option<nats::Client>, store: Option<ControlStore>) {
    // A connection that fails now has nothing left to lose.
    if let Some(client) = client {
        let _ = client.flush().await;
    }
    if let Some(store) = store {
        let _ = store.flush().await;
    }
}

/// Queries are taken while Brain wants them and lives: those that a hung one
/// took would be lost to the others of the queue group.
async fn attend(
    mut wished: watch::Receiver<bool>,
    pings: watch::Receiver<Option<Instant>>,
    serves: watch::Sender<bool>,
) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            // At once: a Brain that says that it is ready is believed. The pipe's end is no news.
            Ok(()) = wished.changed() => {}
        }
        let hangs = pings.borrow().is_some_and(|at| at.elapsed() > HANGS);
        let serve = *wished.borrow() && !hangs;
        serves.send_if_modified(|serves| std::mem::replace(serves, serve) != serve);
    }
}

async fn tell_counts(outbox: Outbox) {
    let mut ticks = interval(COUNTS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        outbox.tell_counts();
    }
}

/// See the program's help: only the end of standard input ends it.
fn ignore_signals() -> anyhow::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        // A handler stays for the life of the process; nobody needs to hear of it.
        drop(signal(kind).context("cannot listen for signals")?);
    }
    Ok(())
}
