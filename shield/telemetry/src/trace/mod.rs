//! Traces: which operations are recorded, and how a span comes to be.
//!
//! A span is made when an operation begins and is exported when it ends, if it
//! was sampled or if it failed. Whether it is sampled is decided here and
//! nowhere else: a client's flag has no say. Where no receiver is configured a
//! span is nothing, and costs a look at an `Option`.

mod context;
mod sampler;
mod span;

use std::{sync::Arc, time::SystemTime};

use opentelemetry_proto::tonic::trace::v1::Span as Record;
use tokio::sync::mpsc;

use crate::{
    labels::SpanDrop,
    metrics::{TelemetryMetrics, TenantMeter},
};

pub use context::{NotATraceparent, TraceContext};
pub use sampler::{Bucket, Sampling};
pub(crate) use span::nanos;
pub use span::{Attributes, Kind, Span};

/// What begins spans. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    sampling: Sampling,
    queue: mpsc::Sender<Record>,
    metrics: Arc<TelemetryMetrics>,
}

// === impl Tracer ===

impl Tracer {
    /// One that records nothing.
    pub const fn off() -> Self {
        Self(None)
    }

    /// One whose ended spans go into this queue.
    pub(crate) fn new(
        sampling: Sampling,
        queue: mpsc::Sender<Record>,
        metrics: Arc<TelemetryMetrics>,
    ) -> Self {
        Self(Some(Arc::new(Inner {
            sampling,
            queue,
            metrics,
        })))
    }

    /// Whether spans are recorded at all.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins an operation of a tenant that concerns so many members. `members`
    /// is asked only if it matters. The trace is the client's where it has one.
    pub fn begin(
        &self,
        name: &'static str,
        kind: Kind,
        tenant: &Arc<TenantMeter>,
        parent: Option<TraceContext>,
        members: impl FnOnce() -> usize,
    ) -> Span {
        self.begin_at(name, kind, tenant, parent, members, SystemTime::now)
    }

    /// As `begin`, of what began a while ago.
    pub fn begin_at(
        &self,
        name: &'static str,
        kind: Kind,
        tenant: &Arc<TenantMeter>,
        parent: Option<TraceContext>,
        members: impl FnOnce() -> usize,
        since: impl FnOnce() -> SystemTime,
    ) -> Span {
        let Some(inner) = &self.0 else {
            return Span::none();
        };
        let sampled = inner.sampling.decide(tenant, members, &inner.metrics);
        let failures = Some(Arc::clone(tenant)).filter(|_| !sampled);
        Span::new(self.clone(), name, kind, parent, sampled, since()).bounded_by(failures)
    }

    /// Begins what follows from a sampled operation elsewhere.
    pub fn follow(&self, name: &'static str, kind: Kind, cause: TraceContext) -> Span {
        match &self.0 {
            Some(_) if cause.sampled => Span::new(
                self.clone(),
                name,
                kind,
                Some(cause),
                true,
                SystemTime::now(),
            ),
            _ => Span::none(),
        }
    }

    /// As `follow`, for a delivery that is on its way since a while: whoever
    /// may publish past the Shields could else have one traced per message.
    pub fn follow_delivery(
        &self,
        name: &'static str,
        tenant: &TenantMeter,
        cause: TraceContext,
        since: SystemTime,
    ) -> Span {
        match &self.0 {
            Some(inner) if cause.sampled && inner.sampling.takes_delivery(tenant) => {
                Span::new(self.clone(), name, Kind::Consumer, Some(cause), true, since)
            }
            _ => Span::none(),
        }
    }

    /// Records a failure of a tenant's that nothing was begun for.
    pub fn failed(&self, name: &'static str, tenant: &Arc<TenantMeter>) -> Span {
        if !self.is_on() {
            return Span::none();
        }
        let now = SystemTime::now();
        let span = Span::new(self.clone(), name, Kind::Server, None, false, now);
        span.bounded_by(Some(Arc::clone(tenant)))
    }

    /// Records a failure of somebody who has no tenant yet, since a moment ago.
    /// What nobody has signed for is bounded together.
    pub fn failed_stranger(
        &self,
        name: &'static str,
        parent: Option<TraceContext>,
        since: SystemTime,
    ) -> Span {
        match &self.0 {
            Some(inner) if inner.sampling.takes_stranger() => {
                Span::new(self.clone(), name, Kind::Server, parent, false, since)
            }
            _ => Span::none(),
        }
    }

    /// Whether a failure of the tenant may still be told.
    fn takes_failure(&self, tenant: &TenantMeter) -> bool {
        let Some(inner) = &self.0 else {
            return false;
        };
        let taken = inner.sampling.takes_failure(tenant);
        if !taken {
            let dropped = &inner.metrics.spans_dropped;
            dropped.get_or_create(&SpanDrop::TenantCap).inc();
        }
        taken
    }

    fn export(&self, record: Record) {
        let Some(inner) = &self.0 else {
            return;
        };
        if inner.queue.try_send(record).is_err() {
            inner
                .metrics
                .spans_dropped
                .get_or_create(&SpanDrop::QueueFull)
                .inc();
        }
    }

    /// Exports a span that another part of the same program has made.
    pub fn export_made(&self, made: Made) {
        self.export(made.into_record());
    }
}

/// A span that was made elsewhere, by Brain for its link to export.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// What was done.
    pub name: String,
    /// What caused it.
    pub parent: TraceContext,
    /// Its own id, which others may have been told.
    pub span_id: u64,
    /// When it began.
    pub start_nanos: u64,
    /// When it ended.
    pub end_nanos: u64,
    /// What is to be known of it.
    pub attributes: Attributes,
}

impl Made {
    fn into_record(self) -> Record {
        Record {
            trace_id: self.parent.trace_id.to_be_bytes().to_vec(),
            span_id: self.span_id.to_be_bytes().to_vec(),
            parent_span_id: self.parent.span_id.to_be_bytes().to_vec(),
            flags: span::SAMPLED,
            name: self.name,
            kind: Kind::Consumer.number(),
            start_time_unix_nano: self.start_nanos,
            end_time_unix_nano: self.end_nanos.max(self.start_nanos),
            attributes: self.attributes.into_inner(),
            ..Record::default()
        }
    }
}
