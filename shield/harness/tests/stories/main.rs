//! The integration stories: real nats-server, real Shield, real sockets.
//!
//! One program, so that it is linked once and its parts run side by side.
#![allow(clippy::unwrap_used)]

mod auth;
mod bad_input;
mod environment;
mod faults;
mod isolation;
mod rooms;
mod tls;
mod wscat;
