//! One client session: its socket, its queue, its protocol.
//!
//! One task owns the socket; everyone else holds the session's `Outbox`.
//! Flow in: frame → `state` → actions → Spine. Flow out: outbox → `wire` →
//! socket, all that waits in one vectored write. The rules live in `state`,
//! which does no input or output.

mod frame;
mod outbox;
mod registry;
#[cfg(test)]
pub(crate) mod testing;

pub use frame::Frame;
pub use outbox::{Outbox, OutboxLimits, Overflow};
pub use registry::{Registration, Sessions};
