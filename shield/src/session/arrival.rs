//! How a session came to be.

use std::{sync::Arc, time::SystemTime};

use arqon_telemetry::{Span, TraceContext, Tracer, metrics::TenantMeter, trace::Kind};

use super::frame::Encoding;

/// What is known of a connection from before it became a session.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// It was accepted.
    pub since: SystemTime,
    /// Its token came, and was judged.
    pub judged: (SystemTime, SystemTime),
    /// The client's own trace.
    pub parent: Option<TraceContext>,
    /// What it speaks, as the upgrade agreed.
    pub encoding: Encoding,
}

// === impl Arrival ===

impl Arrival {
    /// One that came just now.
    pub fn now() -> Self {
        let now = SystemTime::now();
        Self {
            since: now,
            judged: (now, now),
            parent: None,
            encoding: Encoding::Binary,
        }
    }

    /// The span of the connect, with the check of the token in it.
    pub(super) fn span(&self, tracer: &Tracer, tenant: &Arc<TenantMeter>) -> Span {
        let Self {
            since,
            judged: (began, ended),
            parent,
            encoding: _,
        } = *self;
        let name = "shield.connect";
        let span = tracer.begin_at(name, Kind::Server, tenant, parent, || 1, || since);
        let auth = span.child_at("shield.auth", Kind::Internal, || began);
        auth.end_at(Ok(()), || ended, |_| {});
        span
    }
}
