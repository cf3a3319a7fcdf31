//! A whole bus under faults drawn by a seed, and a judge of what its clients saw.
//!
//! `plan` (pure) draws the faults; `world` runs the processes and the proxies
//! and carries the faults out; `guest` is a client that comes back as an SDK
//! does; `history` is all that was said and heard, in one order; `checker`
//! (pure) judges it; `quiet` heals everything and asks for the truth.
//!
//! The seed repeats the faults and what clients intend, not how threads run.

pub mod checker;
mod guest;
pub mod history;
pub mod plan;
mod quiet;
mod run;
pub mod show;
mod world;

pub use run::{Options, Outcome, run};

/// Tenants; each has the same rooms and the same users.
pub const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
/// Rooms of each tenant.
pub const ROOMS: [&str; 3] = ["lobby", "den", "attic"];
/// Clients of each tenant. The last two are one user.
pub const CLIENTS: u8 = 6;
/// Shields.
pub const SHIELDS: usize = 2;
/// Brains.
pub const BRAINS: usize = 2;
/// Servers of the Spine.
pub const SERVERS: usize = 3;
/// The servers that each Shield may connect to. After a few faults all would be
/// on one server otherwise, and routes would carry nothing.
pub const SERVERS_OF: [[usize; 2]; SHIELDS] = [[0, 1], [2, 1]];
/// Ways for clients to each Shield, which break apart from each other.
pub const DOORS: usize = 2;
