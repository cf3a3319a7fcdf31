//! Requests that take time: entering a room, publishing, verifying a token.
//!
//! Boxed, since a session has one under way now and then and none mostly.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use arqon_proto::{
    codes::ErrorCode,
    names::{RoomId, TenantId, room_subject},
};
use arqon_telemetry::{
    Metrics, Span, TraceContext,
    metrics::TenantMeter,
    trace::{Attributes, Kind},
};
use prost::Message as _;

use super::{
    frame::Frame,
    gate::Gate,
    outbox::Outbox,
    state::{JoinRequest, PublishRequest, RefreshRequest, Unjoined, Unpublished},
};
use crate::{
    auth::{Identity, Verifier},
    control::{Tenant, Tenants},
    spine::{AckRequest, LinkState, Member, Publication, SpinePool, Stamp, TenantLink},
};

/// A request under way.
pub(super) type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// How a request ended. The link is what the session uses from then on.
pub(super) enum Outcome {
    Joined {
        request: JoinRequest,
        result: Result<(), Unjoined>,
        link: Option<Arc<TenantLink>>,
        /// The join's span, for what follows from it.
        cause: Option<TraceContext>,
    },
    Published {
        room: RoomId,
        reference: u64,
        result: Result<(), Unpublished>,
        link: Option<Arc<TenantLink>>,
        /// The publication's span, where it is traced.
        cause: Option<TraceContext>,
    },
    Refreshed {
        reference: u64,
        result: Box<Result<Identity, ErrorCode>>,
    },
}

/// The way to the tenant's link: known, or yet to be made.
pub(super) struct Way {
    pub(super) pool: Arc<SpinePool>,
    pub(super) tenant: Arc<Tenant>,
    pub(super) link: Option<Arc<TenantLink>>,
    /// What the tenant's sessions count on.
    pub(super) meter: Arc<TenantMeter>,
}

/// This session as a member of a room.
pub(super) fn member(outbox: &Arc<Outbox>, echo: bool) -> Member {
    Member {
        outbox: outbox.clone(),
        session: outbox.session(),
        echo,
    }
}

/// Enters a room. `joined` is queued for the session in front of the room's
/// first message. Given up midway, it leaves the room again.
pub(super) fn join(
    way: Way,
    request: JoinRequest,
    member: Member,
    joined: Frame,
    span: Span,
) -> Work {
    Box::pin(async move {
        let tenant = way.tenant.id.clone();
        let cause = span.context();
        let link = way.link(cause);
        let result = match &link {
            Ok(link) => enter(link, &request.room, member, joined, &span).await,
            Err(code) => Err(Unjoined::Code(*code)),
        };
        span.end(result.map_err(Unjoined::name), |found| {
            describe(found, &tenant, &request.room);
            found.text("messaging.operation.name", "subscribe");
        });
        Outcome::Joined {
            request,
            result,
            link: link.ok(),
            cause,
        }
    })
}

async fn enter(
    link: &TenantLink,
    room: &RoomId,
    member: Member,
    joined: Frame,
    span: &Span,
) -> Result<(), Unjoined> {
    link.turn_to_join().await.map_err(Unjoined::Limited)?;
    let spine = span.child("shield.spine", Kind::Client);
    let result = link.join_announced(room, member, joined).await;
    spine.end(result.map_err(ErrorCode::name), |found| {
        found.text("messaging.system", "nats");
        found.text("messaging.operation.name", "subscribe");
    });
    result.map_err(Unjoined::Code)
}

/// What every span of a room says.
fn describe(found: &mut Attributes, tenant: &TenantId, room: &RoomId) {
    found.text("messaging.system", "nats");
    found.text("messaging.destination.name", room_subject(tenant, room));
    found.text("arqon.tenant", tenant.as_str());
    found.text("arqon.room", room.as_str());
}

/// Publishes a message. `unconfirmed`, if an ACK is wanted, counts this one already.
pub(super) fn publish(
    way: Way,
    gate: Option<Gate>,
    request: PublishRequest,
    outbox: &Arc<Outbox>,
    unconfirmed: Option<Arc<AtomicU32>>,
    span: Span,
    metrics: Metrics,
) -> Work {
    let PublishRequest {
        room,
        reference,
        mut message,
        publisher,
        caps,
        twist,
        ack: _,
        at,
        parent: _,
    } = request;
    let mut ack = unconfirmed.clone().map(|in_flight| AckRequest {
        outbox: outbox.clone(),
        room: room.clone(),
        reference,
        twist,
        in_flight,
        since: at.instant,
        meter: way.meter.clone(),
        trace: None,
    });
    let stamp = Stamp {
        sent_us: at.unix_micros(),
        trace: span.context(),
    };
    let mut trace = metrics.tracer().is_on().then(|| {
        Box::new(Publication {
            span,
            spine: Span::none(),
            tenant: way.tenant.id.clone(),
            room: room.clone(),
            twist,
            bytes: message.payload.len(),
        })
    });
    Box::pin(async move {
        let passed = match gate {
            Some(gate) => {
                let policy = trace.as_ref().map_or_else(Span::none, |trace| {
                    trace.span.child("shield.policy", Kind::Internal)
                });
                let began = Instant::now();
                let subject = publisher.subject(&way.tenant.id, &room);
                let passed = gate.pass(subject, &mut message, &caps).await;
                metrics.policy_seconds.observe(began.elapsed());
                let outcome = passed.as_ref().map(drop).map_err(Unpublished::name);
                policy.end(outcome, |_| {});
                passed
            }
            None => Ok(()),
        };
        let (result, link) = match passed {
            Ok(()) => match way.link(stamp.trace) {
                Ok(link) => {
                    let message = message.encode_to_vec().into();
                    if let Some(trace) = &mut trace {
                        trace.spine = trace.span.child("shield.spine", Kind::Client);
                    }
                    if let Some(ack) = &mut ack {
                        // It ends when the server is known to have the message.
                        ack.trace = trace.take();
                    }
                    let result = link.publish(&room, message, stamp, &mut ack).await;
                    match &result {
                        Ok(()) => metrics.publish_seconds.observe(at.instant.elapsed()),
                        Err(_) => trace = ack.and_then(|ack| ack.trace).or(trace),
                    }
                    (result.map_err(Unpublished::Code), Some(link))
                }
                Err(code) => (Err(Unpublished::Code(code)), None),
            },
            Err(blocked) => (Err(blocked), way.link),
        };
        if let Some(trace) = trace {
            let outcome = result.as_ref().map(drop).map_err(Unpublished::name);
            if let (Some(told), Err(code)) = (trace.end(outcome), outcome) {
                let (trace_id, span_id) = (told.trace(), told.span());
                tracing::debug!(trace_id, span_id, code, "Message not published");
            }
        }
        if let (Err(_), Some(unconfirmed)) = (&result, unconfirmed) {
            // Refused at once: no answer of the Spine will come.
            unconfirmed.fetch_sub(1, Ordering::AcqRel);
        }
        Outcome::Published {
            room,
            reference,
            result,
            link,
            cause: stamp.trace,
        }
    })
}

/// Verifies another token.
pub(super) fn refresh(
    verifier: Arc<Verifier>,
    tenants: Arc<Tenants>,
    request: RefreshRequest,
) -> Work {
    Box::pin(async move {
        // As for a session that opens: it may have been revoked, and nobody here would know.
        let result = if tenants.stale() {
            Err(ErrorCode::ControlStale)
        } else {
            let result = verifier.verify(&request.token).await;
            result.map_err(|failure| {
                tracing::info!(code = %failure.code, detail = failure.detail, "Token of REFRESH refused");
                failure.code
            })
        };
        Outcome::Refreshed {
            reference: request.reference,
            result: Box::new(result),
        }
    })
}

// === impl Way ===

impl Way {
    fn link(self, cause: Option<TraceContext>) -> Result<Arc<TenantLink>, ErrorCode> {
        match self.link {
            // A link closes for good when its tenant goes.
            Some(link) if link.state() != LinkState::Closed => Ok(link),
            _ => self.pool.link(&self.tenant, cause).map_err(|error| {
                tracing::debug!(tenant = %self.tenant.id, %error, "No way to the Spine");
                ErrorCode::SpineUnavailable
            }),
        }
    }
}
