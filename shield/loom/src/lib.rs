//! Files of Shield as they are, on loom's types: their tests go through every
//! interleaving of threads, and through what weaker memory orders allow.
//!
//! Only what is shared without one lock around it needs that. The files take
//! these types from `crate::sync`, which is `shield/src/sync.rs` there.

#[path = "../../src/spine/feeds.rs"]
#[allow(dead_code, reason = "not all of it is of interest here")]
mod feeds;
#[path = "../../src/pace.rs"]
#[allow(dead_code, reason = "not all of it is of interest here")]
mod pace;
pub mod readers;
mod sync;
pub mod turns;
