//! What a session tells of its operations as spans, and how long they took.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arqon_proto::{headers, names::RoomId};
use arqon_telemetry::{Span, TraceContext, trace::Kind};

use super::{Arrival, PublishRequest, Refusal, Session};
use crate::spine::origin::CREDIBLE;

impl<S> Session<S> {
    /// Has the tenant's way to the Spine opened, and tells of the connect.
    pub(super) fn connected(&mut self, arrival: &Arrival) {
        let tracer = self.ctx.metrics.tracer();
        let span = arrival.span(tracer, &self.meter);
        let cause = span.context();
        let tenant = self.state.identity().tenant.clone();
        if !self.outbox.is_closing() {
            // Whoever connects joins. Refused only while the Shield stops.
            self.link = self.ctx.pool.link(&tenant, cause).ok();
        }
        span.end(Ok(()), |found| {
            found.text("arqon.tenant", tenant.id.as_str());
            found.text("arqon.session", self.outbox.session().to_string());
            found.text("network.protocol.name", "websocket");
        });
        self.trace = cause.map(Box::new);
        let (tenant, session) = (&tenant.id, self.outbox.session());
        match cause {
            Some(own) => {
                let (trace_id, span_id) = (own.trace(), own.span());
                tracing::debug!(%tenant, %session, trace_id, span_id, "Session opened");
            }
            None => tracing::debug!(%tenant, %session, "Session opened"),
        }
    }

    /// A request that was refused before anything was begun for it.
    pub(super) fn trace_refusal(&self, refusal: &Refusal) {
        let tracer = self.ctx.metrics.tracer();
        let span = tracer.failed("shield.request", &self.meter);
        span.end(Err(refusal.code.name()), |found| {
            let tenant = &self.state.identity().tenant.id;
            found.text("arqon.tenant", tenant.as_str());
            found.text("arqon.room", refusal.room.as_str());
        });
    }

    /// The span of a publication. If it is traced the message says so, with the
    /// client's own word on sampling, which is for other clients.
    pub(super) fn begin_publish(&self, request: &mut PublishRequest) -> Span {
        let tracer = self.ctx.metrics.tracer();
        let (parent, at) = (request.parent, request.at);
        let members = || {
            let link = self.link.as_ref();
            link.map_or(1, |link| link.members(&request.room))
        };
        let span = tracer.begin_at(
            "shield.publish",
            Kind::Producer,
            &self.meter,
            parent,
            members,
            || at.wall.into(),
        );
        if let Some(own) = span.context() {
            let told = TraceContext {
                sampled: parent.is_none_or(|parent| parent.sampled),
                ..own
            };
            let headers = &mut request.message.headers;
            headers.insert(headers::TRACEPARENT.to_owned(), told.to_string());
        }
        span
    }

    /// A traced message is followed to Brain, where its sender is seen.
    pub(super) fn trace_activity(&self, room: &RoomId, cause: Option<TraceContext>) {
        if let (Some(link), Some(cause)) = (&self.link, cause) {
            link.presence()
                .trace_activity(room, self.outbox.session(), cause);
        }
    }

    /// A batch was written: how long its oldest message took to get here.
    pub(super) fn observe_delivery(&mut self) {
        let sent = std::mem::take(&mut self.batch_sent_us);
        if sent == 0 {
            return;
        }
        let now = unix_micros();
        // A clock a little behind the publisher's makes it nothing. What is further
        // off was not stamped by a Shield, and says nothing of how long it took.
        let took = Duration::from_micros(now.saturating_sub(sent));
        let ahead = Duration::from_micros(sent.saturating_sub(now));
        if took <= CREDIBLE && ahead <= CREDIBLE {
            self.ctx.metrics.deliver_seconds.observe(took);
        }
    }
}

fn unix_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}
