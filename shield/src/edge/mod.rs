//! The HTTP edge: listeners, TLS, the upgrade to WebSocket, health.
//!
//! accept → a place among the handshakes → TLS → HTTP request → token → `101`
//! → `Edge::open`. The task of the handshake ends there with all it needed; a
//! session starts with nothing but its socket and its identity. A place is
//! held from the client's first byte on, so that silent connections take none.

mod admin;
mod connection;
mod health;
mod listener;
mod refusal;
mod socket;
mod tls;
mod upgrade;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arqon_spine::manifest::Listen;
use arqon_telemetry::Metrics;
use bytes::Bytes;
use tokio_rustls::TlsAcceptor;

use crate::{
    auth::{Identity, Verifier},
    quota::{Place, Quotas},
    session::Arrival,
};

pub use admin::{Status, StatusSource, TenantStatus, admin_router};
pub use health::{Readiness, Unready};
pub use listener::{bind, most_waiting, serve};
pub use socket::Socket;
pub use tls::{Certificate, TlsError, acceptor, watch};

/// Who may have a session.
#[derive(Debug)]
pub struct Admitted {
    /// Who it is.
    pub identity: Identity,
    /// Its place among the sessions of its tenant.
    pub place: Place,
}

/// What every connection of the public listener shares.
pub struct Edge {
    /// The manifest's `[listen]`.
    pub listen: Listen,
    /// Whether sessions may speak JSON.
    pub json: bool,
    /// None: plain text.
    pub tls: Option<TlsAcceptor>,
    /// Judges tokens.
    pub verifier: Arc<Verifier>,
    /// Whether sessions are accepted at all.
    pub readiness: Arc<Readiness>,
    /// Finds places for sessions among those of their tenant.
    pub quotas: Arc<Quotas>,
    /// Takes over an accepted socket, with what was read behind the handshake.
    pub open: Box<dyn Fn(Socket, Bytes, Admitted, Arrival) + Send + Sync>,
    /// Counts.
    pub metrics: Metrics,
}
