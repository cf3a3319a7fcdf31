//! The metric catalogue: every number that ArqonBus shows, declared once.
//!
//! A field's comment is also the metric's help text and its row in the
//! documentation: what it counts, and when it moves. Handles are shared by
//! cloning; a hot path resolves its labelled counter once
//! (`get_or_create_owned`) and keeps it.

mod brain;
mod histogram;
mod process;
mod tenants;

use std::{
    hash::Hash,
    ops::Deref,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use arqon_proto::codes::ErrorCode;
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::labels::{
    AckOutcome, CloseReason, Code, ConnectionRefusal, GapReason, LabelKey, NoLabel, Opcode,
    Outcome, PolicyFault, PolicyState, PolicyVerdict, PresenceVerdict, PresenceWord, QueueDrop,
    Signal, SpanDrop, TenantName,
};

use crate::trace::Tracer;

pub use brain::{BRAIN, BrainMetrics, NATS, NatsMetrics, UnknownNumber};
pub use histogram::{Counts, Histogram};
pub use process::{PROCESS, ProcessMetrics};
pub use tenants::{TenantMeter, TenantMeters, TenantNumbers};

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

/// Metrics in both forms that they leave a process by.
pub trait Exposition: Send + Sync {
    /// Whether the numbers are known. What is counted elsewhere is not from the
    /// start, and a zero in between would be taken for a new beginning.
    fn is_ready(&self) -> bool {
        true
    }

    /// Since when is counted, if that is not when this process began.
    fn since(&self) -> Option<SystemTime> {
        None
    }

    /// All metrics, brought up to date.
    fn with_registry(&self, use_it: &mut dyn FnMut(&Registry));

    /// All metrics in the OpenMetrics text form.
    fn encode(&self) -> String {
        let mut out = String::new();
        self.with_registry(&mut |registry| {
            text::encode(&mut out, registry).expect("writing into a String never fails");
        });
        out
    }
}

/// What the catalogue needs to know of a type of metric.
pub(crate) trait Kind {
    const KIND: &'static str;
    const LABEL: Option<&'static str> = None;
    /// Shows the values that are known beforehand.
    fn begin(&self) {}
}
impl Kind for Counter {
    const KIND: &'static str = "counter";
}
impl Kind for Counter<f64, std::sync::atomic::AtomicU64> {
    const KIND: &'static str = "counter";
}
impl Kind for Gauge {
    const KIND: &'static str = "gauge";
}
impl Kind for Gauge<f64, std::sync::atomic::AtomicU64> {
    const KIND: &'static str = "gauge";
}
impl Kind for Histogram {
    const KIND: &'static str = "histogram";
}
impl<L: LabelKey + Clone + Eq + Hash, M: Kind + Clone> Kind for Family<L, M> {
    const KIND: &'static str = M::KIND;
    const LABEL: Option<&'static str> = if L::KEY.is_empty() {
        None
    } else {
        Some(L::KEY)
    };

    fn begin(&self) {
        for label in L::FIXED {
            self.get_or_create_owned(label);
        }
    }
}

impl Definition {
    /// The unit by its UCUM code, as OpenTelemetry has it; empty for plain numbers.
    pub const fn unit(&self) -> &'static str {
        unit(self.name)
    }

    /// The name that Prometheus has it under.
    pub fn prometheus_name(&self) -> String {
        match self.kind {
            "counter" => format!("{}_total", self.name),
            _ => self.name.to_owned(),
        }
    }
}

/// Names end in their unit.
const fn unit(name: &str) -> &'static str {
    if ends_with(name, "_seconds") {
        "s"
    } else if ends_with(name, "_bytes")
        || ends_with(name, "bytes_in")
        || ends_with(name, "bytes_out")
    {
        "By"
    } else {
        ""
    }
}

const fn ends_with(text: &str, end: &str) -> bool {
    let (text, end) = (text.as_bytes(), end.as_bytes());
    if text.len() < end.len() {
        return false;
    }
    let mut at = 0;
    while at < end.len() {
        if text[text.len() - end.len() + at] != end[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Declares the metrics of one part under a prefix: the struct that holds them
/// and the list of their definitions.
macro_rules! catalogue {
    (
        $(#[doc = $doc:literal])*
        $name:ident, $list:ident, $prefix:literal;
        $($(#[doc = $help:literal])+ $field:ident: $kind:ty = $make:expr,)+
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug)]
        #[allow(unreachable_pub, reason = "some parts are public, and some wrapped by one that is")]
        pub struct $name {
            $($(#[doc = $help])+ pub $field: $kind,)+
        }

        #[doc = concat!("Every metric of [`", stringify!($name), "`], in the order of declaration.")]
        pub const $list: &[$crate::metrics::Definition] = &[$($crate::metrics::Definition {
            name: concat!($prefix, "_", stringify!($field)),
            kind: <$kind as $crate::metrics::Kind>::KIND,
            label: <$kind as $crate::metrics::Kind>::LABEL,
            help: concat!($($help),+),
        },)+];

        impl $name {
            /// Fresh metrics, all zero, in this registry.
            pub(crate) fn register(registry: &mut prometheus_client::registry::Registry) -> Self {
                let registry = registry.sub_registry_with_prefix($prefix);
                $(
                    let $field: $kind = $make;
                    $crate::metrics::Kind::begin(&$field);
                    // The encoder adds the final stop.
                    let help = concat!($($help),+).trim().trim_end_matches('.');
                    registry.register(stringify!($field), help, $field.clone());
                )+
                Self { $($field,)+ }
            }
        }
    };
}
pub(crate) use catalogue;

/// Everything that exists, part by part.
pub const CATALOGUE: &[(&str, &[Definition])] = &[
    ("Shield", SHIELD),
    ("Brain", BRAIN),
    ("NATS servers, as a Brain asks them", NATS),
    ("Telemetry itself, of Shields and Brains", TELEMETRY),
    ("Processes of Shields and of Brains' links", PROCESS),
];

/// Seconds. A handshake is a few milliseconds when warm; a storm's admitted
/// set is held below 100 ms, and 10 s is the handshake timeout by default.
const HANDSHAKE_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
];

/// Seconds. A policy takes microseconds; 2 ms is the far limit, 25 ms the wall cap.
const POLICY_BUCKETS: &[f64] = &[
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005,
    0.025, 0.1,
];

/// Seconds. Handing over takes microseconds, a round trip to the server some
/// hundred, and the queue of a slow reader up to minutes.
const MESSAGE_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
    2.5, 10.0, 60.0,
];

/// Seconds. A small policy takes milliseconds, 20 s is the limit by default.
const COMPILE_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];

/// Seconds. Changes are gathered for 20 ms by a Shield and 100 ms by a Brain.
const PRESENCE_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0,
];

/// A counter by tenant.
pub type TenantCounter = Family<TenantName, Counter>;

catalogue! {
    /// All metrics of a Shield.
    ShieldMetrics, SHIELD, "arqon_shield";
    /// Sessions opened, counted when a connection became a session.
    sessions_opened: Counter = Counter::default(),
    /// Sessions closed, by reason.
    sessions_closed: Family<CloseReason, Counter> = Family::default(),
    /// Sessions open now.
    sessions: Gauge = Gauge::default(),
    /// Of those, sessions that speak JSON.
    json_sessions: Gauge = Gauge::default(),
    /// Text frames of JSON sessions that are no Envelope, each answered by JSON_INVALID.
    json_faults: Counter = Counter::default(),
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
    /// Seconds from reading a PUBLISH to handing the message to the Spine, policies included.
    publish_seconds: Histogram = Histogram::new(MESSAGE_BUCKETS),
    /// Seconds from reading a PUBLISH to the Spine's confirmation, where an acknowledgement is wanted.
    ack_seconds: Histogram = Histogram::new(MESSAGE_BUCKETS),
    /// Seconds from a Shield reading a PUBLISH to this one writing the message to a member's socket; of each write, its oldest message. Clocks of two hosts may differ.
    deliver_seconds: Histogram = Histogram::new(MESSAGE_BUCKETS),
    /// Messages written to clients, one for each member that received it.
    messages_out: Counter = Counter::default(),
    /// Bytes of WebSocket frames received from clients.
    bytes_in: Counter = Counter::default(),
    /// Bytes of WebSocket frames written to clients.
    bytes_out: Counter = Counter::default(),
    /// Messages dropped from a session's queue, by reason.
    queue_dropped: Family<QueueDrop, Counter> = Family::default(),
    /// Bytes that waited in all sessions' queues at the last look, every five seconds.
    queue_bytes: Gauge = Gauge::default(),
    /// Sessions closed, or told of a loss, because they read too slowly.
    slow_consumers: Counter = Counter::default(),
    /// Slow readers whose sessions are over and whose sockets wait now, so that they learn why.
    farewells: Gauge = Gauge::default(),
    /// Times a session's queue could not grow because too much waited for its tenant's sessions together.
    tenant_backlog_full: Counter = Counter::default(),
    /// Requests refused because a limit was reached, by code: RATE_LIMITED, ROOM_LIMIT, PAYLOAD_TOO_LARGE and their like.
    quota_hits: Family<Code, Counter> = Family::default(),
    /// Shields of the pool, this one too, over which quotas of tenants are shared: those that told of late what is used on them.
    quota_shields: Gauge = Gauge::default(),
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
    /// Seconds from a change of presence here to hearing of it from Brain.
    presence_seconds: Histogram = Histogram::new(PRESENCE_BUCKETS),
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
    /// Runs of policies that came to none, and messages for which none could run, by class; `timeout` is one that ran out of its time.
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
    /// Revocations in force: of single tokens, of users and of tenants. Sessions closed by one are `sessions_closed` with the reason TOKEN_REVOKED_CLOSE, tokens refused are `auth_failures` with TOKEN_REVOKED.
    revocations: Gauge = Gauge::default(),
    /// Revocations that cannot be read: whatever they may mean is refused.
    revocations_unreadable: Gauge = Gauge::default(),
    /// 1 while the control plane has not been heard for too long, else 0.
    control_stale: Gauge = Gauge::default(),
    /// Unix time in seconds at which the TLS certificate expires; absent without TLS.
    certificate_expiry_time_seconds: Family<NoLabel, Gauge> = Family::default(),
    /// Changes of the TLS certificate's files that were taken or, where they do not fit each other, not.
    certificate_reloads: Family<Outcome, Counter> = Family::default(),
    /// Messages published, of the busiest tenants and of all others together.
    tenant_messages_in: TenantCounter = Family::default(),
    /// Messages written to clients, by tenant.
    tenant_messages_out: TenantCounter = Family::default(),
    /// Bytes of frames received from clients, by tenant.
    tenant_bytes_in: TenantCounter = Family::default(),
    /// Bytes of frames written to clients, by tenant.
    tenant_bytes_out: TenantCounter = Family::default(),
    /// ERROR frames sent to clients, by tenant.
    tenant_errors: TenantCounter = Family::default(),
    /// Sessions opened, by tenant.
    tenant_sessions_opened: TenantCounter = Family::default(),
    /// Sessions closed, by tenant.
    tenant_sessions_closed: TenantCounter = Family::default(),
    /// Sessions open at the last look, by tenant.
    tenant_sessions: Family<TenantName, Gauge> = Family::default(),
}

catalogue! {
    /// How telemetry itself fares.
    TelemetryMetrics, TELEMETRY, "arqon_telemetry";
    /// Spans taken by the receiver of traces.
    spans_exported: Counter = Counter::default(),
    /// Spans that no receiver got, by reason.
    spans_dropped: Family<SpanDrop, Counter> = Family::default(),
    /// Exports that were taken, by signal.
    exports: Family<Signal, Counter> = Family::default(),
    /// Exports that failed, by signal.
    exports_failed: Family<Signal, Counter> = Family::default(),
    /// Operations traced because they were sampled.
    traces_sampled: Counter = Counter::default(),
    /// Operations that would have been traced, but for the tenant's cap.
    traces_capped: Counter = Counter::default(),
}

/// The metrics of a Shield's process, and its tracer. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    shield: ShieldMetrics,
    telemetry: Arc<TelemetryMetrics>,
    process: ProcessMetrics,
    tenants: TenantMeters,
    tracer: OnceLock<Tracer>,
}

// === impl Metrics ===

impl Metrics {
    /// A fresh set of metrics, all zero, that names this many tenants.
    pub fn new(named_tenants: usize) -> Self {
        let mut registry = Registry::default();
        let shield = ShieldMetrics::register(&mut registry);
        // Those of an upgrade are few too, and alerts ask for their rise.
        for code in ErrorCode::ALL {
            let family = match code.http_status() {
                Some(401) => &shield.auth_failures,
                Some(_) => &shield.upgrade_refusals,
                None => continue,
            };
            family.get_or_create_owned(&Code(code.name()));
        }
        Self(Arc::new(Inner {
            shield,
            telemetry: Arc::new(TelemetryMetrics::register(&mut registry)),
            process: ProcessMetrics::register(&mut registry),
            tenants: TenantMeters::new(named_tenants),
            tracer: OnceLock::new(),
            registry,
        }))
    }

    /// All metrics in the OpenMetrics text form.
    pub fn encode(&self) -> String {
        Exposition::encode(self)
    }

    /// The numbers of single tenants.
    pub fn tenants(&self) -> &TenantMeters {
        &self.0.tenants
    }

    /// How telemetry itself fares.
    pub fn telemetry(&self) -> &Arc<TelemetryMetrics> {
        &self.0.telemetry
    }

    /// What begins spans. It travels with the metrics, for whatever counts also traces.
    pub fn tracer(&self) -> &Tracer {
        const OFF: &Tracer = &Tracer::off();
        self.0.tracer.get().unwrap_or(OFF)
    }

    /// Spans are begun from here on. The first wins.
    pub fn set_tracer(&self, tracer: Tracer) {
        let _ = self.0.tracer.set(tracer);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(20)
    }
}

impl Exposition for Metrics {
    fn with_registry(&self, use_it: &mut dyn FnMut(&Registry)) {
        self.0.process.look();
        self.0.tenants.collect(&self.0.shield);
        use_it(&self.0.registry);
    }
}

impl Deref for Metrics {
    type Target = ShieldMetrics;

    fn deref(&self) -> &ShieldMetrics {
        &self.0.shield
    }
}

impl ShieldMetrics {
    /// Begins the series of a tenant, each at zero.
    fn begin_tenant(&self, name: &TenantName) {
        for family in self.tenant_counters() {
            drop(family.get_or_create(name));
        }
    }

    /// Ends the series of a tenant that is not named any more.
    fn forget_tenant(&self, name: &TenantName) {
        for family in self.tenant_counters() {
            family.remove(name);
        }
        self.tenant_sessions.remove(name);
    }

    fn tenant_counters(&self) -> [&TenantCounter; 7] {
        [
            &self.tenant_messages_in,
            &self.tenant_messages_out,
            &self.tenant_bytes_in,
            &self.tenant_bytes_out,
            &self.tenant_errors,
            &self.tenant_sessions_opened,
            &self.tenant_sessions_closed,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_of_the_catalogue_is_encoded_with_its_help() {
        let metrics = Metrics::default();
        metrics.sessions_opened.inc();
        metrics
            .auth_failures
            .get_or_create(&Code("TOKEN_WRONG_KEY"))
            .inc();
        let text = metrics.encode();
        for definition in SHIELD.iter().chain(TELEMETRY).chain(PROCESS) {
            // Not shown before it has a first value, unless the values of its label are known.
            let late = definition.label.is_some() || definition.name.contains("certificate");
            assert!(
                late || text.contains(&format!("# HELP {} ", definition.name)),
                "{} is missing in {text}",
                definition.name
            );
        }
        assert!(text.contains("arqon_shield_sessions_opened_total 1"));
        assert!(text.contains("arqon_shield_auth_failures_total{code=\"TOKEN_WRONG_KEY\"} 1"));
        assert!(!text.contains(".."), "{text}");
    }

    #[test]
    fn every_definition_says_what_it_is_and_names_are_unique() {
        let mut names = std::collections::HashSet::new();
        for definition in CATALOGUE.iter().flat_map(|(_, part)| *part) {
            assert!(definition.help.trim().ends_with('.'), "{definition:?}");
            assert!(names.insert(definition.name), "{definition:?}");
            let seconds = definition.kind == "histogram";
            assert!(!seconds || definition.unit() == "s", "{definition:?}");
        }
    }

    #[test]
    fn a_first_event_is_a_rise_where_values_are_known() {
        let text = Metrics::default().encode();
        for series in [
            "arqon_shield_gaps_total{reason=\"sequence_jump\"}",
            "arqon_shield_connections_refused_total{reason=\"overloaded\"}",
            "arqon_shield_auth_failures_total{code=\"TOKEN_EXPIRED\"}",
            "arqon_shield_upgrade_refusals_total{code=\"NOT_READY\"}",
            "arqon_telemetry_spans_dropped_total{reason=\"export_failed\"}",
        ] {
            assert!(text.contains(&format!("{series} 0")), "{series}");
        }
        assert!(!text.contains("certificate_expiry_time_seconds 0"));
        let brain = BrainMetrics::new().encode();
        assert!(brain.contains("arqon_brain_syncs_total{reason=\"digest\"} 0"));
    }

    #[test]
    fn clones_count_together() {
        let metrics = Metrics::default();
        metrics.clone().rooms.set(3);
        assert_eq!(metrics.rooms.get(), 3);
    }
}
