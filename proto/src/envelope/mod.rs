//! The Envelope: decoding with every rule of the protocol, and a constructor
//! for each frame.

mod client;
mod server;
mod text;

use bytes::Bytes;
use prost::Message as _;

pub use client::{join, leave, ping, presence_get, presence_set, publish, refresh};
pub use server::{
    ack, blocked, error, gap, goaway, joined, left, message, pong, presence_count, presence_leave,
    presence_state, presence_update, refreshed, token_expiring, welcome,
};
pub use text::to_text;

use crate::codes::ErrorCode;
use crate::v1::envelope::Body;
use crate::v1::{Envelope, Opcode};

/// The subprotocol of the WebSocket.
pub const SUBPROTOCOL: &str = "arqon.v1";
/// The same Envelopes as canonical ProtoJSON, one a text frame: for people.
pub const SUBPROTOCOL_JSON: &str = "arqon.v1+json";
/// `protocol_version` of WELCOME.
pub const PROTOCOL_VERSION: u32 = 1;
/// Largest payload of PING and PONG.
pub const MAX_PING_PAYLOAD: usize = 125;
/// Longest room echoed in a fault: no valid one is longer, and an invalid one
/// must not be reflected at the length of a frame.
pub(crate) const MAX_ECHOED_ROOM: usize = 200;

/// What was wrong with a client's frame, as far as it can be told to it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("client frame refused with {code}")]
pub struct ClientFault {
    /// The code to answer with.
    pub code: ErrorCode,
    /// The room the frame named; empty where it named none or cannot be read.
    pub room: String,
    /// The frame's correlation id; 0 where it had none or cannot be read.
    pub reference: u64,
    /// What exactly was wrong, where there is more to tell than the code's help.
    pub detail: Option<String>,
}

/// Decodes a client's frame and checks that opcode, body, room and payload
/// fit each other. Names and sizes of what is in them are the caller's.
///
/// # Errors
/// `ENVELOPE_UNDECODABLE`, `UNKNOWN_OPCODE` (also for the server's opcodes),
/// `PROTOCOL_MISMATCH`, or `PAYLOAD_TOO_LARGE` for a PING.
pub fn decode_client(bytes: Bytes) -> Result<Envelope, ClientFault> {
    let envelope = Envelope::decode(bytes).map_err(|_| ClientFault {
        code: ErrorCode::EnvelopeUndecodable,
        room: String::new(),
        reference: 0,
        detail: None,
    })?;
    match check_client(&envelope) {
        Ok(()) => Ok(envelope),
        Err(code) => Err(ClientFault {
            code,
            reference: envelope.r#ref,
            detail: None,
            room: if envelope.room.len() <= MAX_ECHOED_ROOM {
                envelope.room
            } else {
                String::new()
            },
        }),
    }
}

/// Decodes a server's frame and checks that opcode and body fit.
///
/// # Errors
/// `ENVELOPE_UNDECODABLE`, `UNKNOWN_OPCODE` (also for the client's opcodes) or
/// `PROTOCOL_MISMATCH`.
pub fn decode_server(bytes: Bytes) -> Result<Envelope, ErrorCode> {
    let envelope = Envelope::decode(bytes).map_err(|_| ErrorCode::EnvelopeUndecodable)?;
    check_server(&envelope)?;
    Ok(envelope)
}

/// Whether `op` is one that a client sends.
#[must_use]
pub const fn is_client_opcode(op: Opcode) -> bool {
    matches!(op as i32, 1..=63)
}

fn opcode(envelope: &Envelope) -> Result<Opcode, ErrorCode> {
    Opcode::try_from(envelope.op).map_err(|_| ErrorCode::UnknownOpcode)
}

fn check_client(envelope: &Envelope) -> Result<(), ErrorCode> {
    let op = opcode(envelope)?;
    let body = envelope.body.as_ref();
    let (fits, has_room, has_payload) = match op {
        Opcode::Join => (matches!(body, None | Some(Body::Join(_))), true, false),
        Opcode::Leave => (body.is_none(), true, false),
        Opcode::Publish => (matches!(body, None | Some(Body::Publish(_))), true, true),
        Opcode::PresenceGet => (
            matches!(body, None | Some(Body::PresenceGet(_))),
            true,
            false,
        ),
        Opcode::PresenceSet => (matches!(body, Some(Body::PresenceSet(_))), true, false),
        Opcode::Refresh => (matches!(body, Some(Body::Refresh(_))), false, false),
        Opcode::Ping => (body.is_none(), false, true),
        _ => return Err(ErrorCode::UnknownOpcode),
    };
    let room_fits = has_room || envelope.room.is_empty();
    let payload_fits = has_payload || envelope.payload.is_empty();
    if !(fits && room_fits && payload_fits) {
        return Err(ErrorCode::ProtocolMismatch);
    }
    if op == Opcode::Ping && envelope.payload.len() > MAX_PING_PAYLOAD {
        return Err(ErrorCode::PayloadTooLarge);
    }
    Ok(())
}

fn check_server(envelope: &Envelope) -> Result<(), ErrorCode> {
    let body = envelope.body.as_ref();
    let fits = match opcode(envelope)? {
        Opcode::Welcome => matches!(body, Some(Body::Welcome(_))),
        Opcode::Joined => matches!(body, Some(Body::Joined(_))),
        Opcode::Left => matches!(body, Some(Body::Left(_))),
        Opcode::Ack => matches!(body, Some(Body::Ack(_))),
        Opcode::Error => matches!(body, Some(Body::Error(_))),
        Opcode::Message => matches!(body, Some(Body::Message(_))),
        Opcode::Gap => matches!(body, Some(Body::Gap(_))),
        Opcode::PresenceState => matches!(body, Some(Body::PresenceState(_))),
        Opcode::PresenceUpdate => matches!(body, Some(Body::PresenceUpdate(_))),
        Opcode::PresenceLeave => matches!(body, Some(Body::PresenceLeave(_))),
        Opcode::PresenceCount => matches!(body, Some(Body::PresenceCount(_))),
        Opcode::TokenExpiring => matches!(body, Some(Body::TokenExpiring(_))),
        Opcode::Refreshed => matches!(body, Some(Body::Refreshed(_))),
        Opcode::Goaway => matches!(body, Some(Body::Goaway(_))),
        Opcode::Pong => body.is_none(),
        _ => return Err(ErrorCode::UnknownOpcode),
    };
    if fits {
        Ok(())
    } else {
        Err(ErrorCode::ProtocolMismatch)
    }
}
