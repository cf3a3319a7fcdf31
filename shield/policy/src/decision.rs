//! Who sends what under which limits, and what becomes of it.

use std::time::Duration;

use arqon_proto::{
    codes::ErrorCode,
    headers::HeaderLimits,
    names::{RoomId, SessionId, TenantId, UserId},
};

/// Whose message it is, and where it goes. No policy can change any of it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// The room.
    pub room: &'a RoomId,
    /// The publisher.
    pub user: &'a UserId,
    /// The publisher's role.
    pub role: &'a str,
    /// The publisher's session.
    pub session: SessionId,
}

/// What a change may not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Bytes of a payload.
    pub max_payload: usize,
    /// Application headers.
    pub headers: HeaderLimits,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// It may be published as the draft now is.
    Pass,
    /// Nobody may receive it.
    Blocked(Block),
    /// A budget is spent; nobody may receive it.
    Limited {
        /// When to try again.
        retry_after: Duration,
    },
}

/// A block, as the sender may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// `POLICY_BLOCKED`, `POLICY_FAULT` or `POLICY_UNAVAILABLE`.
    pub code: ErrorCode,
    /// `verdict`, or the class of the fault: for metrics, not for the sender.
    pub class: &'static str,
    /// What the binding lets the sender know.
    pub shown: Option<Shown>,
}

/// What a binding with `show_reason` tells the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The binding's name.
    pub binding: String,
    /// The policy's reason.
    pub reason: String,
}
