//! One span, from its beginning to its export.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span as Record, Status, span::SpanKind, status::StatusCode},
};

use super::{TraceContext, Tracer};
use crate::metrics::TenantMeter;

/// The flags of a span that is recorded, without what is not known of its parent.
pub(super) const SAMPLED: u32 = 1;

/// How a span stands to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An operation inside this process.
    Internal,
    /// The answer to a request from outside.
    Server,
    /// A request to another service.
    Client,
    /// The sending of a message.
    Producer,
    /// The receipt of a message.
    Consumer,
}

/// An operation that is or may be recorded. Ended by `end`; one that is dropped
/// was given up.
#[derive(Debug, Default)]
#[must_use = "a span that is dropped says that its operation was given up"]
pub struct Span(Option<Box<Live>>);

#[derive(Debug)]
struct Live {
    tracer: Tracer,
    name: &'static str,
    kind: Kind,
    parent: Option<TraceContext>,
    own: TraceContext,
    start: SystemTime,
    /// Of one that is not sampled: bounds the failures that are told.
    failures: Option<Arc<TenantMeter>>,
}

/// What is to be known of a span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes(Vec<KeyValue>);

// === impl Span ===

impl Span {
    /// A span of which nothing is recorded.
    pub const fn none() -> Self {
        Self(None)
    }

    pub(super) fn new(
        tracer: Tracer,
        name: &'static str,
        kind: Kind,
        parent: Option<TraceContext>,
        sampled: bool,
        start: SystemTime,
    ) -> Self {
        let own = TraceContext {
            trace_id: parent.map_or_else(some_trace_id, |parent| parent.trace_id),
            span_id: some_span_id(),
            sampled,
        };
        Self(Some(Box::new(Live {
            tracer,
            name,
            kind,
            parent,
            own,
            start,
            failures: None,
        })))
    }

    pub(super) fn bounded_by(mut self, failures: Option<Arc<TenantMeter>>) -> Self {
        if let Some(live) = &mut self.0 {
            live.failures = failures;
        }
        self
    }

    /// Where what follows from it belongs; None if it is not recorded.
    pub fn context(&self) -> Option<TraceContext> {
        let live = self.0.as_deref().filter(|live| live.own.sampled)?;
        Some(live.own)
    }

    /// Begins a part of it. Only what is sampled has parts.
    pub fn child(&self, name: &'static str, kind: Kind) -> Self {
        self.child_at(name, kind, SystemTime::now)
    }

    /// A part that began a while ago.
    pub fn child_at(
        &self,
        name: &'static str,
        kind: Kind,
        since: impl FnOnce() -> SystemTime,
    ) -> Self {
        match self.0.as_deref().filter(|live| live.own.sampled) {
            Some(live) => {
                let parent = Some(live.own);
                Self::new(live.tracer.clone(), name, kind, parent, true, since())
            }
            None => Self::none(),
        }
    }

    /// Ends it. A failure, named by its code, is exported though it was not
    /// sampled, all else only if it was. `attributes` is asked only then. Returns where it is to be found.
    pub fn end(
        self,
        outcome: Result<(), &str>,
        attributes: impl FnOnce(&mut Attributes),
    ) -> Option<TraceContext> {
        self.end_at(outcome, SystemTime::now, attributes)
    }

    /// As `end`, of what ended a while ago.
    pub fn end_at(
        mut self,
        outcome: Result<(), &str>,
        at: impl FnOnce() -> SystemTime,
        attributes: impl FnOnce(&mut Attributes),
    ) -> Option<TraceContext> {
        let live = self.0.take()?;
        if !live.own.sampled && (outcome.is_ok() || !live.may_fail()) {
            return None;
        }
        let mut found = Attributes::default();
        attributes(&mut found);
        let status = outcome.err().map(|code| {
            found.text("error.type", code);
            Status {
                message: code.to_owned(),
                code: StatusCode::Error as i32,
            }
        });
        live.export(at(), found, status);
        Some(live.own)
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(live) = self.0.take()
            && live.own.sampled
        {
            let mut attributes = Attributes::default();
            attributes.flag("arqon.given_up", true);
            live.export(SystemTime::now(), attributes, None);
        }
    }
}

// === impl Live ===

impl Live {
    fn may_fail(&self) -> bool {
        let tenant = self.failures.as_ref();
        tenant.is_none_or(|tenant| self.tracer.takes_failure(tenant))
    }

    fn export(&self, end: SystemTime, attributes: Attributes, status: Option<Status>) {
        let start = nanos(self.start);
        self.tracer.export(Record {
            trace_id: self.own.trace_id.to_be_bytes().to_vec(),
            span_id: self.own.span_id.to_be_bytes().to_vec(),
            parent_span_id: self
                .parent
                .map(|parent| parent.span_id.to_be_bytes().to_vec())
                .unwrap_or_default(),
            flags: SAMPLED,
            name: self.name.to_owned(),
            kind: self.kind.number(),
            start_time_unix_nano: start,
            // A clock may be set back between the two.
            end_time_unix_nano: nanos(end).max(start),
            attributes: attributes.0,
            status,
            ..Record::default()
        });
    }
}

// === impl Kind ===

impl Kind {
    pub(super) const fn number(self) -> i32 {
        match self {
            Self::Internal => SpanKind::Internal as i32,
            Self::Server => SpanKind::Server as i32,
            Self::Client => SpanKind::Client as i32,
            Self::Producer => SpanKind::Producer as i32,
            Self::Consumer => SpanKind::Consumer as i32,
        }
    }
}

// === impl Attributes ===

impl Attributes {
    /// A text. Never a token, a payload or a user.
    pub fn text(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.put(key.into(), Value::StringValue(value.into()));
    }

    /// A whole number.
    pub fn number(&mut self, key: impl Into<String>, value: usize) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.put(key.into(), Value::IntValue(value));
    }

    /// Yes or no.
    pub fn flag(&mut self, key: impl Into<String>, value: bool) {
        self.put(key.into(), Value::BoolValue(value));
    }

    pub(crate) fn into_inner(self) -> Vec<KeyValue> {
        self.0
    }

    fn put(&mut self, key: String, value: Value) {
        self.0.push(KeyValue {
            key,
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        });
    }
}

fn some_trace_id() -> u128 {
    rand::random::<u128>().max(1)
}

fn some_span_id() -> u64 {
    rand::random::<u64>().max(1)
}

pub(crate) fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        labels::SpanDrop,
        metrics::{Metrics, TenantMeter},
        trace::Sampling,
    };

    fn tracer(percent: u8, queue: usize) -> (Tracer, mpsc::Receiver<Record>, Metrics) {
        let metrics = Metrics::default();
        let (sender, receiver) = mpsc::channel(queue);
        let sampling = Sampling::new(percent, 10, 100);
        let tracer = Tracer::new(sampling, sender, Arc::clone(metrics.telemetry()));
        (tracer, receiver, metrics)
    }

    fn parent(sampled: bool) -> TraceContext {
        TraceContext {
            trace_id: 7,
            span_id: 9,
            sampled,
        }
    }

    #[test]
    fn the_clients_flag_has_no_say() {
        let tenant = Arc::new(TenantMeter::default());
        let begin = |tracer: &Tracer, flag| {
            tracer.begin("a", Kind::Server, &tenant, Some(parent(flag)), || 1)
        };
        let (none, mut out, _metrics) = tracer(0, 8);
        assert_eq!(begin(&none, true).end(Ok(()), |_| {}), None);
        assert!(out.try_recv().is_err());
        let (all, mut out, _metrics) = tracer(100, 8);
        let found = begin(&all, false).end(Ok(()), |_| {}).unwrap();
        assert_eq!(found.trace_id, 7, "but its trace is kept");
        assert_eq!(out.try_recv().unwrap().parent_span_id, 9_u64.to_be_bytes());
    }

    #[test]
    fn a_failure_is_exported_though_it_was_not_sampled() {
        let (tracer, mut out, _metrics) = tracer(0, 8);
        let tenant = Arc::new(TenantMeter::default());
        let span = tracer.begin("a", Kind::Producer, &tenant, None, || 1);
        assert_eq!(span.context(), None, "what follows is not sampled");
        assert!(span.child("b", Kind::Internal).0.is_none());
        span.end(Err("ACK_UNKNOWN"), |a| a.number("n", 3));
        let record = out.try_recv().unwrap();
        assert_eq!(record.status.unwrap().message, "ACK_UNKNOWN");
        let keys: Vec<_> = record.attributes.iter().map(|a| a.key.as_str()).collect();
        assert_eq!(keys, ["n", "error.type"]);
    }

    #[test]
    fn failures_of_one_tenant_have_a_bound() {
        let (tracer, mut out, metrics) = tracer(0, 10_000);
        let tenant = Arc::new(TenantMeter::default());
        for _ in 0..5_000 {
            tracer
                .begin("a", Kind::Server, &tenant, None, || 1)
                .end(Err("POLICY_FAULT"), |_| {});
        }
        let told = std::iter::from_fn(|| out.try_recv().ok()).count();
        // Ten times the cap, for the two seconds of a burst, and a little for the time it takes.
        assert!((2_000..4_000).contains(&told), "{told}");
        let dropped = &metrics.telemetry().spans_dropped;
        let dropped = dropped.get_or_create_owned(&SpanDrop::TenantCap).get();
        assert_eq!(dropped as usize + told, 5_000);
    }

    #[test]
    fn parts_belong_to_the_whole_and_what_is_given_up_says_so() {
        let (tracer, mut out, _metrics) = tracer(100, 8);
        let tenant = Arc::new(TenantMeter::default());
        let whole = tracer.begin("a", Kind::Producer, &tenant, None, || 1);
        let own = whole.context().unwrap();
        drop(whole.child("b", Kind::Internal));
        let part = out.try_recv().unwrap();
        assert_eq!(part.parent_span_id, own.span_id.to_be_bytes());
        assert_eq!(part.trace_id, own.trace_id.to_be_bytes());
        assert_eq!(part.attributes[0].key, "arqon.given_up");
        whole.end(Ok(()), |_| {});
        assert!(out.try_recv().unwrap().parent_span_id.is_empty());
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (tracer, _out, metrics) = tracer(100, 1);
        let tenant = Arc::new(TenantMeter::default());
        for _ in 0..3 {
            tracer
                .begin("a", Kind::Server, &tenant, None, || 1)
                .end(Ok(()), |_| {});
        }
        let dropped = &metrics.telemetry().spans_dropped;
        let dropped = dropped.get_or_create_owned(&SpanDrop::QueueFull);
        assert_eq!(dropped.get(), 2);
    }

    #[test]
    fn nothing_is_recorded_where_there_is_no_receiver() {
        let tenant = Arc::new(TenantMeter::default());
        let tracer = Tracer::off();
        let span = tracer.begin("a", Kind::Server, &tenant, Some(parent(true)), || 1);
        assert!(span.0.is_none());
        assert!(tracer.follow("b", Kind::Consumer, parent(true)).0.is_none());
    }
}
