//! The integration stories: real nats-server, real Shield, real sockets.
//!
//! One program, so that it is linked once and its parts run side by side.
#![allow(clippy::unwrap_used)]

mod auth;
mod bad_input;
mod certificates;
mod cluster;
mod edge;
mod edge_hardening;
mod endings;
mod environment;
mod isolation;
mod json;
mod lost_spine;
mod policies;
mod presence;
mod presence_crashes;
mod presence_wire;
mod quotas;
mod revocation;
mod rights;
mod rooms;
mod rotation;
mod seldom;
mod sessions;
mod slow_readers;
mod storms;
mod telemetry;
mod tenant_ends;
mod tls;
mod token_life;
mod wscat;
