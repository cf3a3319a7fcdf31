//! Policies: the Wasm host, what it accepts, and what happens when a policy fails.
//!
//! The only crate that names Wasmtime. From the inside out:
//!
//! - [`check`] says whether bytes are a policy, without running anything;
//!   [`wrap`] makes a component of a core module.
//! - [`Host`] is the engine. [`compile`] turns a component into machine code in
//!   a child process, [`Host::load`] makes a [`Module`] of that, and
//!   [`Module::start`] an [`Instance`], which judges one message at a time.
//! - [`Policies`] holds what is bound where. [`Policies::judge`] sends a message
//!   through its chain, and is the one place where a failure becomes a block.
//!
//! Nothing here knows NATS or WebSocket.

mod audit;
mod binding;
mod cache;
pub mod check;
pub mod compile;
mod decision;
mod engine;
mod fault;
mod host;
mod instance;
mod judge;
mod lane;
mod limits;
mod message;
mod meter;
mod nursery;
mod policies;
mod quarantine;
mod reaper;
mod rooms;
mod sender;
pub mod shipped;
mod slots;
mod state;
mod stats;
mod sys;
mod table;
mod ticker;
mod wire;
pub mod wrap;

pub use engine::HostOptions;

pub use audit::{
    AuditBatch, AuditEvent, AuditReceiver, MAX_AUDIT_REASON_BYTES, MAX_EVENTS_PER_SECOND,
    MAX_EVENTS_WAITING,
};
pub use binding::{Binding, Isolation};
pub use cache::CacheError;
pub use decision::{Block, Caps, Decision, Shown, Subject};
pub use fault::{Fault, FaultClass};
pub use host::{Host, HostError, Module};
pub use instance::{Instance, Ran};
pub use limits::{
    Limits, MAX_CONFIG_BYTES, MAX_LOG_BYTES, MAX_LOG_LINES, MAX_REASON_BYTES, ShapeLimits,
};
pub use message::{Digest, Draft, Message, Rewrite, Verdict};
pub use policies::{Policies, PoliciesOptions};
pub use sender::Sender;
pub use state::LogLine;
pub use stats::{BindingStats, Counts, SLOW};
pub use wire::LogLevel;
