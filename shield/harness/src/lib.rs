//! The stage on which the integration stories play: a real nats-server, real
//! Shields, clients that keep the protocol and peers that do not.
//!
//! Everything listens on free loopback ports, lives in a temporary folder, and
//! ends when its value is dropped. Stories wait on state ([`eventually!`],
//! [`within`]) and never assert how long something took.

mod brain;
mod chance;
mod client;
pub mod http;
mod jwks;
mod keys;
pub mod moved;
pub mod nemesis;
pub mod otlp;
mod patience;
mod policy;
mod presence;
mod program;
mod proxy;
pub mod raw;
mod shield;
mod spine;
mod token;

pub use brain::{BrainParams, TestBrain};
pub use chance::Chance;
pub use client::{Client, error_of, text_of, without_echo};
pub use jwks::JwksServer;
pub use keys::{IssuerKey, issuer_key};
pub use patience::{GLANCE, PATIENCE, within};
pub use policy::TestBinding;
pub use presence::{Seen, Watcher, seen_as};
pub use program::{Program, Signal, free_addr, resident_bytes, secret_in, shield_program, signal};
pub use proxy::{Proxy, Slow};
pub use raw::RawPeer;
pub use shield::{ShieldParams, ShieldProcess, TestShield, metric_at};
pub use spine::{Spine, TenantParams, TestTenant};
pub use token::{Token, unix_now};
