//! The Spine: everything that knows NATS.
//!
//! Bottom up: [`claims`] are the JWTs of operator mode, [`accounts`] says which
//! account may do what, [`state`] keeps the keys, [`server_config`] and
//! [`server`] run a server from them, [`credentials`] mints users, [`connect`]
//! opens connections that never reconnect by themselves, [`control`] is the
//! data on the CONTROL account, and [`admin`] creates and changes tenants.
//! [`manifest`] is the configuration of every service, [`ports`] finds it ports
//! of this machine, and [`ready`] asks it whether it is.
//! Nothing outside this crate builds a subject, a claim or a connection.

pub mod accounts;
pub mod admin;
pub mod claims;
pub mod connect;
pub mod control;
pub mod credentials;
pub mod files;
pub mod manifest;
pub mod ports;
pub mod ready;
pub mod server;
pub mod server_config;
pub mod state;
pub mod subjects;
mod sys;

/// The NATS client, re-exported so that no other crate chooses its version.
pub use async_nats as nats;
