//! The trace of one publication, which ends where its fate is known: at the
//! hand-over, or with the answer of the barrier.

use arqon_proto::names::{RoomId, TenantId, TwistId, room_subject};
use arqon_telemetry::{Span, trace::Attributes};

/// The spans of a publication that is or may be traced, and what they say.
#[derive(Debug)]
pub struct Publication {
    /// Of all of it.
    pub span: Span,
    /// Of the way to the Spine, once it is on it.
    pub spine: Span,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where it goes.
    pub room: RoomId,
    /// The message's X-Twist-ID.
    pub twist: TwistId,
    /// Bytes of its payload.
    pub bytes: usize,
}

// === impl Publication ===

impl Publication {
    /// Ends its spans; `outcome` is the code of what went wrong. Where the
    /// whole is found, if it was exported.
    pub fn end(self, outcome: Result<(), &str>) -> Option<arqon_telemetry::TraceContext> {
        let Self {
            span,
            spine,
            tenant,
            room,
            twist,
            bytes,
        } = self;
        let describe = |found: &mut Attributes| {
            found.text("messaging.system", "nats");
            found.text("messaging.operation.type", "send");
            found.text("messaging.operation.name", "publish");
            found.text("messaging.destination.name", room_subject(&tenant, &room));
            found.text("messaging.message.id", twist.to_string());
            found.number("messaging.message.body.size", bytes);
            found.text("arqon.tenant", tenant.as_str());
            found.text("arqon.room", room.as_str());
        };
        spine.end(outcome, describe);
        span.end(outcome, describe)
    }
}
