//! The Spine side of a Shield against a real nats-server.
#![allow(clippy::unwrap_used)]

mod delivery;
mod life;
mod loss;
mod rotation;
