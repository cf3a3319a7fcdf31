//! The stage on which the integration stories play: a real nats-server, real
//! Shields, clients that keep the protocol and peers that do not.
//!
//! Everything listens on free loopback ports, lives in a temporary folder, and
//! ends when its value is dropped. Stories wait on state ([`eventually!`],
//! [`within`]) and never assert how long something took.

pub mod http;
mod jwks;
mod keys;
mod patience;
mod proxy;
mod token;

pub use jwks::JwksServer;
pub use keys::{IssuerKey, issuer_key};
pub use patience::{GLANCE, PATIENCE, within};
pub use proxy::Proxy;
pub use token::{Token, unix_now};
