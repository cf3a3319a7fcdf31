//! Shield's side of the Spine: one link per tenant, over one NATS connection each.
//!
//! Out: `link` → `publisher` (numbers, hands over) → connection; `barrier`
//! proves arrival and answers ACKs. In: connection → `pump` → room → outboxes,
//! where `origin` tells duplicates and losses. `driver` is the life of a link:
//! connect (`restore`), serve (`serving`), reconnect with a declared GAP;
//! `rotation` changes credentials without one. `pool` holds the links.
//!
//! What holds always: the order of a publisher's messages in a room is kept;
//! nothing is delivered twice; what is missing is declared by GAP; ACK is only
//! said after a server round trip on the connection that carried the message.

mod barrier;
mod connection;
pub(crate) mod counters;
mod driver;
mod feeds;
mod link;
mod numbering;
pub(crate) mod origin;
mod pool;
mod publication;
mod publisher;
mod pump;
mod restore;
mod rotation;
mod serving;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use barrier::AckRequest;
pub use link::{LinkState, TenantLink};
pub use pool::{LinkStats, SpineError, SpinePool};
pub use publication::Publication;
pub use publisher::Stamp;
pub use settings::SpineParams;

pub use crate::rooms::Member;
