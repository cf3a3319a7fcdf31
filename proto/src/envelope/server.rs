//! What a server sends.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::client::frame;
use crate::codes::ErrorCode;
use crate::names::TwistId;
use crate::v1::envelope::Body;
use crate::v1::{
    Ack, Envelope, Error, Gap, GapReason, Goaway, Joined, Left, Message, Opcode, PresenceCount,
    PresenceLeave, PresenceState, PresenceUpdate, Refreshed, Sender, TokenExpiring, Welcome,
};

/// WELCOME: the first frame of a session.
#[must_use]
pub fn welcome(body: Welcome) -> Envelope {
    frame(Opcode::Welcome, "", 0, Some(Body::Welcome(body)))
}

/// JOINED: the room's messages flow from here on.
#[must_use]
pub fn joined(room: &str, reference: u64, body: Joined) -> Envelope {
    frame(Opcode::Joined, room, reference, Some(Body::Joined(body)))
}

/// LEFT: by request (`None`) or by the server, with why.
#[must_use]
pub fn left(room: &str, reference: u64, why: Option<ErrorCode>) -> Envelope {
    let body = why.map_or_else(Left::default, |code| Left {
        code: code.public().number().into(),
        name: code.public().name().to_owned(),
    });
    frame(Opcode::Left, room, reference, Some(Body::Left(body)))
}

/// ACK: the Spine has the message.
#[must_use]
pub fn ack(room: &str, reference: u64, twist: &TwistId) -> Envelope {
    let body = Ack {
        twist_id: twist.to_string(),
    };
    frame(Opcode::Ack, room, reference, Some(Body::Ack(body)))
}

/// ERROR. `detail` replaces the code's help text; it is dropped where the
/// code is told as another one, for it might tell what that one hides.
#[must_use]
pub fn error(
    code: ErrorCode,
    room: &str,
    reference: u64,
    detail: Option<String>,
    retry_after_ms: u32,
) -> Envelope {
    let public = code.public();
    let body = Error {
        code: public.number().into(),
        name: public.name().to_owned(),
        message: detail
            .filter(|_| public == code)
            .unwrap_or_else(|| public.help().to_owned()),
        retryable: public.retryable(),
        retry_after_ms,
        policy: String::new(),
        reason: String::new(),
    };
    frame(Opcode::Error, room, reference, Some(Body::Error(body)))
}

/// ERROR of a message that a policy blocked, which the sender may see.
#[must_use]
pub fn blocked(
    code: ErrorCode,
    room: &str,
    reference: u64,
    policy: String,
    reason: String,
) -> Envelope {
    let mut envelope = error(code, room, reference, None, 0);
    if let Some(Body::Error(body)) = &mut envelope.body {
        body.policy = policy;
        body.reason = reason;
    }
    envelope
}

/// MESSAGE: what every member of the room receives.
#[must_use]
pub fn message(
    room: &str,
    headers: BTreeMap<String, String>,
    payload: Bytes,
    sender: Sender,
) -> Envelope {
    let body = Message {
        sender: Some(sender),
    };
    Envelope {
        headers,
        payload,
        ..frame(Opcode::Message, room, 0, Some(Body::Message(body)))
    }
}

/// GAP: messages of the room may have been missed.
#[must_use]
pub fn gap(room: &str, reason: GapReason, missed: Option<u64>) -> Envelope {
    let body = Gap {
        reason: reason.into(),
        missed,
    };
    frame(Opcode::Gap, room, 0, Some(Body::Gap(body)))
}

/// PRESENCE_STATE: a page of members.
#[must_use]
pub fn presence_state(room: &str, reference: u64, body: PresenceState) -> Envelope {
    let body = Body::PresenceState(body);
    frame(Opcode::PresenceState, room, reference, Some(body))
}

/// PRESENCE_UPDATE: members came or changed.
#[must_use]
pub fn presence_update(room: &str, body: PresenceUpdate) -> Envelope {
    let body = Body::PresenceUpdate(body);
    frame(Opcode::PresenceUpdate, room, 0, Some(body))
}

/// PRESENCE_LEAVE: members left.
#[must_use]
pub fn presence_leave(room: &str, body: PresenceLeave) -> Envelope {
    let body = Body::PresenceLeave(body);
    frame(Opcode::PresenceLeave, room, 0, Some(body))
}

/// PRESENCE_COUNT: how many users are in the room.
#[must_use]
pub fn presence_count(room: &str, reference: u64, count: u32) -> Envelope {
    let body = Body::PresenceCount(PresenceCount { count });
    frame(Opcode::PresenceCount, room, reference, Some(body))
}

/// TOKEN_EXPIRING, with the second since the Unix epoch at which it does.
#[must_use]
pub fn token_expiring(expires_at: u64) -> Envelope {
    let body = Body::TokenExpiring(TokenExpiring { expires_at });
    frame(Opcode::TokenExpiring, "", 0, Some(body))
}

/// REFRESHED, with the second since the Unix epoch at which the new token expires.
#[must_use]
pub fn refreshed(reference: u64, expires_at: u64) -> Envelope {
    let body = Body::Refreshed(Refreshed { expires_at });
    frame(Opcode::Refreshed, "", reference, Some(body))
}

/// GOAWAY: reconnect, spread out.
#[must_use]
pub fn goaway(body: Goaway) -> Envelope {
    frame(Opcode::Goaway, "", 0, Some(Body::Goaway(body)))
}

/// PONG, with the payload of the PING.
#[must_use]
pub fn pong(reference: u64, payload: Bytes) -> Envelope {
    Envelope {
        payload,
        ..frame(Opcode::Pong, "", reference, None)
    }
}
