//! The wire side of Brain, a port program: it owns NATS, Protobuf, the hashes
//! and the manifest, and contains no presence logic.
//!
//! Pure: [`etf`] is the pipe's format, [`inbound`] makes events of what comes
//! from NATS, [`commands`] reads what comes from Brain, [`outbound`] makes
//! messages of it, [`queue`] holds events while Brain has no credit for them.
//! Around them: `pipe` (standard input and output), `brain` and `control` (the
//! connections), [`monitors`] (the numbers of NATS servers), [`app`] (composition).

pub mod app;
mod brain;
pub mod commands;
mod control;
pub mod counters;
pub mod etf;
pub mod identity;
pub mod inbound;
pub mod monitors;
mod names;
pub mod outbound;
mod outbox;
mod pipe;
pub mod queue;
mod spine;
