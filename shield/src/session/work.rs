//! Requests that take time: entering a room, publishing, verifying a token.
//!
//! Boxed, since a session has one under way now and then and none mostly.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use arqon_proto::{codes::ErrorCode, names::RoomId};
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
    spine::{AckRequest, LinkState, Member, SpinePool, TenantLink},
};

/// A request under way.
pub(super) type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// How a request ended. The link is what the session uses from then on.
pub(super) enum Outcome {
    Joined {
        request: JoinRequest,
        result: Result<(), ErrorCode>,
        link: Option<Arc<TenantLink>>,
    },
    Published {
        room: RoomId,
        reference: u64,
        result: Result<(), Unpublished>,
        link: Option<Arc<TenantLink>>,
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
pub(super) fn join(way: Way, request: JoinRequest, member: Member, joined: Frame) -> Work {
    Box::pin(async move {
        let link = way.link().await;
        let result = match &link {
            Ok(link) => link.join_announced(&request.room, member, joined).await,
            Err(code) => Err(*code),
        };
        Outcome::Joined {
            request,
            result,
            link: link.ok(),
        }
    })
}

/// Publishes a message. `unconfirmed`, if an ACK is wanted, counts this one already.
pub(super) fn publish(
    way: Way,
    gate: Option<Gate>,
    request: PublishRequest,
    outbox: &Arc<Outbox>,
    unconfirmed: Option<Arc<AtomicU32>>,
) -> Work {
    let PublishRequest {
        room,
        reference,
        mut message,
        publisher,
        caps,
        twist,
        ack: _,
    } = request;
    let ack = unconfirmed.clone().map(|in_flight| AckRequest {
        outbox: outbox.clone(),
        room: room.clone(),
        reference,
        twist,
        in_flight,
    });
    Box::pin(async move {
        let passed = match gate {
            Some(gate) => {
                let subject = publisher.subject(&way.tenant.id, &room);
                gate.pass(subject, &mut message, &caps).await
            }
            None => Ok(()),
        };
        let (result, link) = match passed {
            Ok(()) => match way.link().await {
                Ok(link) => {
                    let message = message.encode_to_vec().into();
                    let result = link.publish(&room, message, ack).await;
                    (result.map_err(Unpublished::Code), Some(link))
                }
                Err(code) => (Err(Unpublished::Code(code)), None),
            },
            Err(blocked) => (Err(blocked), way.link),
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
    async fn link(self) -> Result<Arc<TenantLink>, ErrorCode> {
        match self.link {
            // A link closes for good when its tenant goes.
            Some(link) if link.state() != LinkState::Closed => Ok(link),
            _ => self.pool.link(&self.tenant).await.map_err(|error| {
                tracing::debug!(tenant = %self.tenant.id, %error, "No way to the Spine");
                ErrorCode::SpineUnavailable
            }),
        }
    }
}
