//! One client session: its socket, its queue, its protocol.
//!
//! One task owns the socket; everyone else holds the session's `Outbox`.
//! Flow in: frame → `state` → actions → Spine. Flow out: outbox → `wire` →
//! socket, all that waits in one vectored write. The rules live in `state`,
//! which does no input or output.

mod actor;
mod arrival;
mod context;
mod echo;
mod ending;
mod farewell;
mod frame;
mod gate;
mod outbox;
mod registry;
mod revoked;
mod state;
#[cfg(test)]
pub(crate) mod testing;
mod timers;
mod wire;
mod work;

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

pub use actor::Session;
pub use arrival::Arrival;
pub use context::SessionContext;
pub use echo::Echo;
pub(crate) use farewell::MAX_FAREWELLS;
pub(crate) use frame::Shared;
pub use frame::{Encoding, Frame};
pub use outbox::{Bounds, Outbox, OutboxLimits};
pub use registry::{Registration, SessionFilter, Sessions};
pub use revoked::Meant;
pub use state::SessionLimits;

use crate::{auth::Identity, quota::Place};

/// The session of a socket whose upgrade was accepted, as a future that ends
/// with it. `read_ahead` is what was read behind the handshake.
///
/// It holds all of a session's memory, so spawn it itself: an `async` block
/// around it would keep the arguments a second time.
pub fn run<S>(
    socket: S,
    read_ahead: Bytes,
    identity: Identity,
    place: Place,
    arrival: &Arrival,
    ctx: Arc<SessionContext>,
) -> Session<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    Session::new(socket, read_ahead, identity, place, arrival, ctx)
}
