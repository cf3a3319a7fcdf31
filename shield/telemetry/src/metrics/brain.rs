//! What a Brain shows. It counts itself, in the BEAM, and tells its link once a
//! second; the link gives the numbers their names and sends them on. Beside
//! them stand the numbers of the NATS servers, which the link asks for.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Exposition, ProcessMetrics, TelemetryMetrics, catalogue};
use crate::labels::{ServerName, SyncReason};

/// A number that the catalogue does not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no number of a Brain is called `{0}`")]
pub struct UnknownNumber(pub String);

/// By NATS server.
type ServerGauge = Family<ServerName, Gauge>;
/// By NATS server.
type ServerCounter = Family<ServerName, Counter>;

macro_rules! brain {
    (
        counters: $($(#[doc = $help:literal])+ $counter:ident,)+
        gauges: $($(#[doc = $gauge_help:literal])+ $gauge:ident,)+
    ) => {
        catalogue! {
            /// All metrics of a Brain.
            Numbers, BRAIN, "arqon_brain";
            $($(#[doc = $help])+ $counter: Counter = Counter::default(),)+
            $($(#[doc = $gauge_help])+ $gauge: Gauge = Gauge::default(),)+
            /// Snapshots wanted, by reason.
            syncs: Family<SyncReason, Counter> = Family::default(),
        }

        impl Numbers {
            /// Takes over what Brain has counted since it began.
            fn set(&self, name: &str, value: u64) -> Result<(), UnknownNumber> {
                match name {
                    $(stringify!($counter) => self.$counter.inner().store(value, Ordering::Relaxed),)+
                    $(stringify!($gauge) => {
                        self.$gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
                    })+
                    other => {
                        let reason = other.strip_prefix("syncs_").and_then(SyncReason::named);
                        let reason = reason.ok_or_else(|| UnknownNumber(other.to_owned()))?;
                        let counter = self.syncs.get_or_create_owned(&reason);
                        counter.inner().store(value, Ordering::Relaxed);
                    }
                }
                Ok(())
            }
        }
    };
}

brain! {
    counters:
    /// Changes of presence applied.
    changes,
    /// Batches of changes that were known already.
    duplicates,
    /// Batches of changes that did not follow on the version held.
    gaps,
    /// Beats that were old, or of an incarnation that has ended.
    stale_epoch,
    /// Changes, pages and marks of an incarnation that no beat has put in force.
    forged,
    /// Snapshots that were fetched whole, each a repair.
    syncs_done,
    /// Tenants whose version was right and whose digest was not.
    digest_mismatches,
    /// Beats of a Shield id of which a newer incarnation is in force.
    shield_conflicts,
    /// Tenants that a Shield no longer listed, with their entries.
    tenants_dropped,
    /// Messages and terms that could not be read.
    malformed,
    /// Messages over a limit.
    oversized,
    /// Messages that the client library dropped.
    slow_consumer,
    /// Beats of a Shield whose clock is far off.
    clock_skew,
    /// What a full queue refused.
    dropped,
    /// Events sent to watchers.
    events,
    /// Queries answered.
    answers,
    /// Queries that waited for a change.
    parked,
    /// Starts of the link after the first.
    link_restarts,
    /// Traces of joins, changes and messages that went on here.
    traces,
    /// Traces that ended here, because too many waited or spans would have held presence back.
    traces_dropped,
    /// Reductions of the BEAM, its measure of work.
    beam_reductions,
    /// Garbage collections of the BEAM.
    beam_garbage_collections,
    /// Words that those reclaimed.
    beam_reclaimed_words,
    gauges:
    /// Sessions in rooms.
    members,
    /// Rooms somebody is seen in.
    rooms,
    /// Tenants with somebody in a room.
    tenants,
    /// Shields in force.
    shields,
    /// Tenants this Brain emits events for.
    share,
    /// 1 if this Brain answers queries, else 0.
    warm,
    /// Parts whose version is behind what a beat told.
    waiting,
    /// Longest mailbox of a shard.
    mailbox_max,
    /// Bytes that the BEAM has allocated.
    beam_memory_bytes,
    /// Processes in the BEAM.
    beam_processes,
    /// Atoms in the BEAM; it ends at its limit of them.
    beam_atoms,
    /// Processes of the BEAM that could run and wait.
    beam_run_queue,
    /// Seconds since the BEAM began.
    beam_uptime_seconds,
}

catalogue! {
    /// The numbers of NATS servers.
    NatsMetrics, NATS, "arqon_nats";
    /// 1 if the server's monitoring endpoint answered the last time, else 0.
    up: ServerGauge = Family::default(),
    /// Connections open now, of clients.
    connections: ServerGauge = Family::default(),
    /// Connections opened since start.
    connections_opened: ServerCounter = Family::default(),
    /// Subscriptions of all clients now.
    subscriptions: ServerGauge = Family::default(),
    /// Clients that were cut off because they read too slowly.
    slow_consumers: ServerCounter = Family::default(),
    /// Messages received.
    messages_in: ServerCounter = Family::default(),
    /// Messages sent.
    messages_out: ServerCounter = Family::default(),
    /// Bytes received.
    bytes_in: ServerCounter = Family::default(),
    /// Bytes sent.
    bytes_out: ServerCounter = Family::default(),
    /// Bytes of memory that are really there.
    memory_bytes: ServerGauge = Family::default(),
    /// CPU in use, in percent of one core.
    cpu_percent: ServerGauge = Family::default(),
    /// Routes to other servers of the cluster.
    routes: ServerGauge = Family::default(),
    /// Seconds since the server began.
    uptime_seconds: ServerGauge = Family::default(),
}

impl NatsMetrics {
    /// Ends the series of a server that is known by another name now.
    pub fn forget(&self, server: &ServerName) {
        let gauges = [
            &self.up,
            &self.connections,
            &self.subscriptions,
            &self.memory_bytes,
            &self.cpu_percent,
            &self.routes,
            &self.uptime_seconds,
        ];
        let counters = [
            &self.connections_opened,
            &self.slow_consumers,
            &self.messages_in,
            &self.messages_out,
            &self.bytes_in,
            &self.bytes_out,
        ];
        for gauge in gauges {
            gauge.remove(server);
        }
        for counter in counters {
            counter.remove(server);
        }
    }
}

/// The metrics of a Brain and its link. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct BrainMetrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    brain: Numbers,
    nats: NatsMetrics,
    telemetry: Arc<TelemetryMetrics>,
    process: ProcessMetrics,
    /// When the BEAM began, known once it has told its numbers.
    began: OnceLock<SystemTime>,
    /// When it told them last.
    heard: Mutex<Option<Instant>>,
}

/// A BEAM that tells nothing for so long hangs: it tells once a second.
const HANGS: Duration = Duration::from_secs(10);

// === impl BrainMetrics ===

impl BrainMetrics {
    /// A fresh set of metrics, all zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        Self(Arc::new(Inner {
            brain: Numbers::register(&mut registry),
            nats: NatsMetrics::register(&mut registry),
            telemetry: Arc::new(TelemetryMetrics::register(&mut registry)),
            process: ProcessMetrics::register(&mut registry),
            began: OnceLock::new(),
            heard: Mutex::default(),
            registry,
        }))
    }

    /// Takes over a number as Brain tells it: a count since it began, or a
    /// measure. `syncs_<reason>` is the labelled one.
    ///
    /// # Errors
    /// If the catalogue has no such number.
    pub fn set(&self, name: &str, value: u64) -> Result<(), UnknownNumber> {
        self.0.brain.set(name, value)
    }

    /// All numbers of Brain were told, by one that began so long ago.
    pub fn told(&self, uptime: Duration) {
        let now = SystemTime::now();
        let _ = self.0.began.set(now.checked_sub(uptime).unwrap_or(now));
        *self.heard() = Some(Instant::now());
    }

    fn heard(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The numbers of NATS servers.
    pub fn nats(&self) -> &NatsMetrics {
        &self.0.nats
    }

    /// How telemetry itself fares.
    pub fn telemetry(&self) -> &Arc<TelemetryMetrics> {
        &self.0.telemetry
    }
}

impl Default for BrainMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Exposition for BrainMetrics {
    fn is_ready(&self) -> bool {
        self.0.began.get().is_some()
    }

    /// A link that was started again goes on with what Brain had counted.
    fn since(&self) -> Option<SystemTime> {
        self.0.began.get().copied()
    }

    fn with_registry(&self, use_it: &mut dyn FnMut(&Registry)) {
        self.0.process.look();
        // What its link goes on telling is what it was; that it answers is not.
        if self.heard().is_some_and(|heard| heard.elapsed() > HANGS) {
            self.0.brain.warm.set(0);
        }
        use_it(&self.0.registry);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_number_of_the_catalogue_can_be_told_and_no_other() {
        let metrics = BrainMetrics::new();
        for definition in BRAIN.iter().filter(|definition| definition.label.is_none()) {
            let name = definition.name.strip_prefix("arqon_brain_").unwrap();
            metrics.set(name, 7).unwrap();
            let line = format!("{} 7\n", definition.prometheus_name());
            assert!(metrics.encode().contains(&line), "{line}");
        }
        metrics.set("syncs_gap", 3).unwrap();
        let text = metrics.encode();
        assert!(text.contains("arqon_brain_syncs_total{reason=\"gap\"} 3"));
        for wrong in ["member", "syncs", "syncs_whim", ""] {
            let error = metrics.set(wrong, 1).unwrap_err();
            assert_eq!(error, UnknownNumber(wrong.to_owned()));
        }
    }
}
