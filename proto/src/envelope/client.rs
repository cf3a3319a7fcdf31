//! What a client sends.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::v1::envelope::Body;
use crate::v1::{Envelope, Join, Opcode, PresenceGet, PresenceSet, Publish, Refresh};

/// JOIN: enter a room.
#[must_use]
pub fn join(room: &str, reference: u64, options: Join) -> Envelope {
    frame(Opcode::Join, room, reference, Some(Body::Join(options)))
}

/// LEAVE: leave a room.
#[must_use]
pub fn leave(room: &str, reference: u64) -> Envelope {
    frame(Opcode::Leave, room, reference, None)
}

/// PUBLISH: send to a room.
#[must_use]
pub fn publish(room: &str, reference: u64, payload: Bytes, ack: bool) -> Envelope {
    let body = ack.then_some(Body::Publish(Publish { ack }));
    Envelope {
        payload,
        ..frame(Opcode::Publish, room, reference, body)
    }
}

/// PRESENCE_GET: who is in a room.
#[must_use]
pub fn presence_get(room: &str, reference: u64, count_only: bool) -> Envelope {
    let body = Body::PresenceGet(PresenceGet { count_only });
    frame(Opcode::PresenceGet, room, reference, Some(body))
}

/// PRESENCE_SET: what others see of this session in a room.
#[must_use]
pub fn presence_set(room: &str, reference: u64, meta: BTreeMap<String, String>) -> Envelope {
    let body = Body::PresenceSet(PresenceSet { meta });
    frame(Opcode::PresenceSet, room, reference, Some(body))
}

/// REFRESH: swap the session's token.
#[must_use]
pub fn refresh(reference: u64, token: &str) -> Envelope {
    let body = Body::Refresh(Refresh {
        token: token.to_owned(),
    });
    frame(Opcode::Refresh, "", reference, Some(body))
}

/// PING, answered by PONG with the same payload.
#[must_use]
pub fn ping(reference: u64, payload: Bytes) -> Envelope {
    Envelope {
        payload,
        ..frame(Opcode::Ping, "", reference, None)
    }
}

pub(super) fn frame(op: Opcode, room: &str, reference: u64, body: Option<Body>) -> Envelope {
    Envelope {
        op: op.into(),
        room: room.to_owned(),
        r#ref: reference,
        body,
        ..Envelope::default()
    }
}
