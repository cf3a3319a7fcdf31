//! The real program between pipes and a real nats-server.

#![allow(clippy::unwrap_used)]

mod common;

#[path = "link/bounds.rs"]
mod bounds;
#[path = "link/messages.rs"]
mod messages;
#[path = "link/process.rs"]
mod process;
#[path = "link/shield.rs"]
mod shield;
#[path = "link/telemetry.rs"]
mod telemetry;
