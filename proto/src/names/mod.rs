//! Names: one grammar, one parser, one encoder for the whole platform.
//!
//! A tenant and a room make a NATS subject, `<tenant>.<room>`, so what these
//! parsers accept is what keeps tenants apart: no accepted name holds a
//! wildcard, white space, a control or non-ASCII character, and no tenant
//! holds a dot. A subject therefore has exactly one reading, and the subjects
//! of one tenant are exactly those that begin with its name and a dot.

mod id;
mod pattern;
mod text;

pub use id::{SessionId, TwistId};
pub use pattern::RoomPattern;
pub use text::{NodeId, PolicyName, RoomId, TenantId, UserId};

/// Why a text is no name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{kind} {problem}")]
pub struct NameError {
    kind: &'static str,
    problem: Problem,
}

/// What is wrong. Never repeats the text, which may be long or hostile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
enum Problem {
    #[error("is empty")]
    Empty,
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    #[error("has a character that is not allowed: {0:?}")]
    Character(char),
    #[error("begins or ends with {0:?}")]
    Edge(char),
    #[error("is reserved")]
    Reserved,
    #[error("has an empty token")]
    EmptyToken,
    #[error("has a token longer than {0} bytes")]
    TokenTooLong(usize),
    #[error("has more than {0} tokens")]
    TooManyTokens(usize),
    #[error("begins with _, which is kept for the platform")]
    Underscore,
    #[error("has `>` elsewhere than alone at the end")]
    MisplacedRest,
    #[error("is not a UUIDv7")]
    NotUuidV7,
    #[error("is not <tenant>.<room>")]
    NotTwoParts,
}

/// The NATS subject of a room: `acme.lobby`.
#[must_use]
pub fn room_subject(tenant: &TenantId, room: &RoomId) -> String {
    let (tenant, room) = (tenant.as_str(), room.as_str());
    let mut subject = String::with_capacity(tenant.len() + 1 + room.len());
    subject.push_str(tenant);
    subject.push('.');
    subject.push_str(room);
    subject
}

/// Takes apart what [`room_subject`] made; nothing else is accepted.
///
/// # Errors
/// Where either part is no name.
pub fn parse_room_subject(subject: &str) -> Result<(TenantId, RoomId), NameError> {
    let (tenant, room) = subject.split_once('.').ok_or(NameError {
        kind: "subject",
        problem: Problem::NotTwoParts,
    })?;
    Ok((TenantId::parse(tenant)?, RoomId::parse(room)?))
}
