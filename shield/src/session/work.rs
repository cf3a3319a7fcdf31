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
    trace::{Attributes, Kind},
};
use prost::Message as _;

use super::{
    frame::Frame,
    gate::Gate,
    outbox::Outbox,
    state::{JoinRequest, PublishRequest, RefreshRequest, Unpublished},
};
use crate::{
    auth::{Identity, Verifier},
    control::Tenant,
    spine::{AckRequest, LinkState, Member, SpinePool, Stamp, TenantLink},
};

/// A request under way.
pub(super) type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// How a request ended. The link is what the session uses from then on.
pub(super) enum Outcome {
    Joined {
        request: JoinRequest,
        result: Result<(), ErrorCode>,
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
            Ok(link) => {
                let spine = span.child("shield.spine", Kind::Client);
                let result = link.join_announced(&request.room, member, joined).await;
                spine.end(result.map_err(ErrorCode::name), |found| {
                    found.text("messaging.system", "nats");
                    found.text("messaging.operation.name", "subscribe");
                });
                result
            }
            Err(code) => Err(*code),
        };
        span.end(result.map_err(ErrorCode::name), |found| {
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
        spans: Default::default(),
    });
    let stamp = Stamp {
        sent_us: at.unix_micros(),
        trace: span.context(),
    };
    Box::pin(async move {
        let tenant = way.tenant.id.clone();
        let bytes = message.payload.len();
        let passed = match gate {
            Some(gate) => {
                let policy = span.child("shield.policy", Kind::Internal);
                let began = Instant::now();
                let subject = publisher.subject(&way.tenant.id, &room);
                let passed = gate.pass(subject, &mut message, &caps).await;
                metrics.policy_seconds.observe(began.elapsed());
                policy.end(passed.as_ref().map(drop).map_err(Unpublished::name), |_| {});
                passed
            }
            None => Ok(()),
        };
        let describe = |found: &mut Attributes| {
            describe(found, &tenant, &room);
            found.text("messaging.operation.type", "send");
            found.text("messaging.operation.name", "publish");
            found.text("messaging.message.id", twist.to_string());
            found.number("messaging.message.body.size", bytes);
        };
        let (result, link) = match passed {
            Ok(()) => match way.link(stamp.trace) {
                Ok(link) => {
                    let message = message.encode_to_vec().into();
                    let mut spans = [span.child("shield.spine", Kind::Client), span];
                    if let Some(ack) = &mut ack {
                        // They end when the server is known to have it.
                        ack.spans = std::mem::take(&mut spans);
                    }
                    let result = link.publish(&room, message, stamp, &mut ack).await;
                    match &result {
                        Ok(()) => metrics.publish_seconds.observe(at.instant.elapsed()),
                        Err(_) => {
                            if let Some(ack) = &mut ack {
                                spans = std::mem::take(&mut ack.spans);
                            }
                        }
                    }
                    for span in spans {
                        span.end(result.map_err(ErrorCode::name), describe);
                    }
                    (result.map_err(Unpublished::Code), Some(link))
                }
                Err(code) => {
                    span.end(Err(code.name()), describe);
                    (Err(Unpublished::Code(code)), None)
                }
            },
            Err(blocked) => {
                let told = span.end(Err(blocked.name()), describe);
                if let Some(told) = told {
                    let (trace_id, span_id, code) = (told.trace(), told.span(), blocked.name());
                    tracing::debug!(%tenant, trace_id, span_id, code, "Message not published");
                }
                (Err(blocked), way.link)
            }
        };
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
pub(super) fn refresh(verifier: Arc<Verifier>, request: RefreshRequest) -> Work {
    Box::pin(async move {
        let result = verifier.verify(&request.token).await;
        let result = result.map_err(|failure| {
            tracing::info!(code = %failure.code, detail = failure.detail, "Token of REFRESH refused");
            failure.code
        });
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
