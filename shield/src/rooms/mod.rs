//! The rooms of one tenant on this Shield, and who is in them.
//!
//! `Rooms` is the table; a `Room` is its members and what it has seen of each
//! publishing Shield. A room is *waiting* until its subscription is proven by a
//! server round trip, and *live* from then on; when the connection is lost, all
//! wait again. Lock order: table, room, outbox. Nothing here awaits or does I/O.

mod inspect;
#[cfg(test)]
mod model;
mod overflow;
mod room;
mod table;

pub(crate) use overflow::OverflowRules;
pub use room::Member;
pub(crate) use room::{Delivery, Room};
pub(crate) use table::{Entered, Limit, Rooms};
