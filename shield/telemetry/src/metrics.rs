//! The metric catalogue: every number a Shield shows, declared once.
//!
//! A field's comment is also the metric's help text and its row in the
//! documentation. Handles are shared by cloning `Metrics`; a hot path resolves
//! its labelled counter once (`get_or_create_owned`) and keeps it.

use std::{ops::Deref, sync::Arc};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::labels::{
    AckOutcome, CloseReason, Code, ConnectionRefusal, GapReason, Label, Opcode, Outcome,
    PolicyFault, PolicyState, PolicyVerdict, PresenceVerdict, PresenceWord, QueueDrop,
};

/// The metrics of one process. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Catalogue>);

/// One metric as the documentation shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The full name, without the `_total` that counters get in the text form.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The key of its label, if it has one.
    pub label: Option<&'static str>,
    /// What it counts, in which unit, and when it moves.
    pub help: &'static str,
}

/// What the catalogue needs to know of a type of metric.
trait Kind {
    const KIND: &'static str;
    const LABEL: Option<&'static str> = None;
}
impl Kind for Counter {
    const KIND: &'static str = "counter";
}
impl Kind for Gauge {
    const KIND: &'static str = "gauge";
}
impl Kind for Histogram {
    const KIND: &'static str = "histogram";
}
impl<L: Label, M: Kind> Kind for Family<L, M> {
    const KIND: &'static str = M::KIND;
    const LABEL: Option<&'static str> = Some(L::KEY);
}

/// Seconds. A handshake is a few milliseconds when warm; a storm's admitted
/// set is held below 100 ms, and 10 s is the handshake timeout by default.
const HANDSHAKE_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
];

/// Seconds. A policy takes microseconds; 2 ms is the far limit, 25 ms the wall cap.
const POLICY_BUCKETS: [f64; 12] = [
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005,
    0.025, 0.1,
];

/// Seconds. A small policy takes milliseconds, 20 s is the limit by default.
const COMPILE_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];

macro_rules! catalogue {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ty = $make:expr,)+) => {
        /// All metrics of a Shield.
        #[derive(Debug)]
        pub struct Catalogue {
            registry: Registry,
            $($(#[doc = $help])+ pub $field: $kind,)+
        }

        /// Every metric of the catalogue, in the order of declaration.
        pub const CATALOGUE: &[Definition] = &[$(Definition {
            name: concat!("arqon_shield_", stringify!($field)),
            kind: <$kind as Kind>::KIND,
            label: <$kind as Kind>::LABEL,
            help: concat!($($help),+),
        },)+];

        impl Catalogue {
            fn new() -> Self {
                let mut registry = Registry::with_prefix("arqon_shield");
                $(
                    let $field: $kind = $make;
                    // The encoder adds the final stop.
                    let help = concat!($($help),+).trim().trim_end_matches('.');
                    registry.register(stringify!($field), help, $field.clone());
                )+
                Self { registry, $($field,)+ }
            }
        }
    };
}

catalogue! {
    /// Sessions opened, counted when a connection became a session.
    sessions_opened: Counter = Counter::default(),
    /// Sessions closed, by reason.
    sessions_closed: Family<CloseReason, Counter> = Family::default(),
    /// Sessions open now.
    sessions: Gauge = Gauge::default(),
    /// TCP connections accepted on the public listener.
    connections_accepted: Counter = Counter::default(),
    /// TCP connections turned away before an HTTP answer of ours, by reason.
    connections_refused: Family<ConnectionRefusal, Counter> = Family::default(),
    /// Handshakes under way now: accepted, neither upgraded nor answered.
    handshakes: Gauge = Gauge::default(),
    /// Seconds from accept to upgrade, TLS and token included.
    handshake_seconds: Histogram = Histogram::new(HANDSHAKE_BUCKETS),
    /// Tokens refused, by exact code (clients may be told a more general one).
    auth_failures: Family<Code, Counter> = Family::default(),
    /// Upgrades refused for another reason than the token, by code.
    upgrade_refusals: Family<Code, Counter> = Family::default(),
    /// Frames received from clients, by opcode.
    frames_in: Family<Opcode, Counter> = Family::default(),
    /// ERROR frames sent to clients, by code.
    errors: Family<Code, Counter> = Family::default(),
    /// Messages published by clients of this Shield and handed to the Spine.
    messages_in: Counter = Counter::default(),
    /// Messages written to clients, one for each member that received it.
    messages_out: Counter = Counter::default(),
    /// Bytes of WebSocket frames received from clients.
    bytes_in: Counter = Counter::default(),
    /// Bytes of WebSocket frames written to clients.
    bytes_out: Counter = Counter::default(),
    /// Messages dropped from a session's queue, by reason.
    queue_dropped: Family<QueueDrop, Counter> = Family::default(),
    /// GAP declared, by reason, once for each room and event.
    gaps: Family<GapReason, Counter> = Family::default(),
    /// Messages from the Spine dropped because their sequence was known already.
    duplicates_dropped: Counter = Counter::default(),
    /// Messages from the Spine dropped because they are not a MESSAGE Envelope of their room.
    malformed_spine_frames: Counter = Counter::default(),
    /// Rooms with at least one member here now.
    rooms: Gauge = Gauge::default(),
    /// Tenants with a connection to the Spine now.
    tenant_links: Gauge = Gauge::default(),
    /// NATS credentials minted for a tenant, that is tokens exchanged for access to the Spine.
    token_exchanges: Counter = Counter::default(),
    /// Rotations of a tenant's NATS credentials, by outcome.
    rotations: Family<Outcome, Counter> = Family::default(),
    /// Connections of tenants to the Spine made again after a loss.
    spine_reconnects: Counter = Counter::default(),
    /// Times a connection to the Spine was told that its subscription is a slow consumer.
    spine_slow_consumer: Counter = Counter::default(),
    /// Acknowledgements asked for by clients, by outcome.
    acks: Family<AckOutcome, Counter> = Family::default(),
    /// Sessions seen in rooms here: one for each session and room with presence.
    presence_entries: Gauge = Gauge::default(),
    /// Changes of presence sent to Brain.
    presence_changes: Counter = Counter::default(),
    /// Changes of presence dropped because too many waited; Brain fetches a snapshot instead.
    presence_changes_dropped: Counter = Counter::default(),
    /// Snapshots of a tenant's presence sent to a Brain.
    presence_snapshots: Counter = Counter::default(),
    /// Questions about a room asked of Brain.
    presence_queries: Counter = Counter::default(),
    /// Events of watched rooms heard from Brain, by what they meant.
    presence_events: Family<PresenceVerdict, Counter> = Family::default(),
    /// Presence told to watchers, by what was told, once for all who hear the same.
    presence_told: Family<PresenceWord, Counter> = Family::default(),
    /// Messages of Brain that could not be read.
    presence_malformed: Counter = Counter::default(),
    /// Words about presence that did not fit into a session's queue: it is told a state later.
    presence_postponed: Counter = Counter::default(),
    /// Rooms whose presence is watched or asked for here now.
    presence_rooms: Gauge = Gauge::default(),
    /// JWKS documents fetched, by outcome.
    jwks_fetches: Family<Outcome, Counter> = Family::default(),
    /// Runs of policies that came to a verdict, by verdict.
    policy_runs: Family<PolicyVerdict, Counter> = Family::default(),
    /// Runs of policies that came to none, and messages for which none could run, by class.
    policy_faults: Family<PolicyFault, Counter> = Family::default(),
    /// Seconds that all policies of one message took together.
    policy_seconds: Histogram = Histogram::new(POLICY_BUCKETS),
    /// Instances of policies alive now.
    policy_instances: Gauge = Gauge::default(),
    /// Pairs of binding and tenant that are quarantined now.
    policy_quarantined: Gauge = Gauge::default(),
    /// Bindings known now, by whether they run or block.
    policy_bindings: Family<PolicyState, Gauge> = Family::default(),
    /// Seconds from a component to its module; none for those from the cache.
    policy_compile_seconds: Histogram = Histogram::new(COMPILE_BUCKETS),
    /// Blocked messages that no audit event tells of, for there were too many.
    policy_audit_lost: Counter = Counter::default(),
    /// Tenants known from the control plane.
    tenants_known: Gauge = Gauge::default(),
    /// 1 while the control plane has not been heard for too long, else 0.
    control_stale: Gauge = Gauge::default(),
}

// === impl Metrics ===

impl Metrics {
    /// A fresh set of metrics, all zero.
    pub fn new() -> Self {
        Self(Arc::new(Catalogue::new()))
    }

    /// All metrics in the OpenMetrics text form.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.0.registry).expect("writing into a String never fails");
        out
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Metrics {
    type Target = Catalogue;

    fn deref(&self) -> &Catalogue {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_of_the_catalogue_is_encoded_with_its_help() {
        let metrics = Metrics::new();
        metrics.sessions_opened.inc();
        metrics
            .auth_failures
            .get_or_create(&Code("TOKEN_WRONG_KEY"))
            .inc();
        let text = metrics.encode();
        for definition in CATALOGUE {
            // A labelled metric is not shown before it has a first value.
            assert!(
                definition.label.is_some()
                    || text.contains(&format!("# HELP {} ", definition.name)),
                "{} is missing in {text}",
                definition.name
            );
            assert!(definition.help.trim().ends_with('.'));
        }
        assert!(text.contains("arqon_shield_sessions_opened_total 1"));
        assert!(text.contains("arqon_shield_auth_failures_total{code=\"TOKEN_WRONG_KEY\"} 1"));
        assert!(!text.contains(".."), "{text}");
    }

    #[test]
    fn clones_count_together() {
        let metrics = Metrics::new();
        metrics.clone().rooms.set(3);
        assert_eq!(metrics.rooms.get(), 3);
    }
}
