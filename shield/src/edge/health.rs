//! Whether this Shield takes sessions, and if not, why.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arqon_proto::codes::ErrorCode;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};

use crate::{control::Tenants, session::Sessions};

/// Why no session is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unready {
    /// A drain is under way.
    Draining,
    /// The tenants were not read to the end yet.
    TenantsUnknown,
    /// The control plane was not heard for too long.
    ControlStale,
    /// `session.max_sessions` is reached.
    Full,
}

/// Whether this Shield takes sessions.
#[derive(Debug)]
pub struct Readiness {
    tenants: Arc<Tenants>,
    sessions: Arc<Sessions>,
    max_sessions: usize,
    draining: AtomicBool,
}

// === impl Unready ===

impl Unready {
    /// What a client is refused with.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Draining | Self::TenantsUnknown => ErrorCode::NotReady,
            Self::ControlStale => ErrorCode::ControlStale,
            Self::Full => ErrorCode::SessionLimit,
        }
    }

    /// For people who look at `/readyz`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::TenantsUnknown => "the tenants were not read from the control plane yet",
            Self::ControlStale => "the control plane was not heard for too long",
            Self::Full => "session.max_sessions is reached",
        }
    }
}

// === impl Readiness ===

impl Readiness {
    /// Ready as soon as the tenants are.
    pub fn new(tenants: Arc<Tenants>, sessions: Arc<Sessions>, max_sessions: usize) -> Self {
        Self {
            tenants,
            sessions,
            max_sessions,
            draining: AtomicBool::new(false),
        }
    }

    /// From here on no session is accepted.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether a drain is under way.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why a session would be refused now; None: it would not.
    pub fn refusal(&self) -> Option<Unready> {
        if self.draining() {
            Some(Unready::Draining)
        } else if !self.tenants.ready() {
            Some(Unready::TenantsUnknown)
        } else if self.tenants.stale() {
            Some(Unready::ControlStale)
        } else if self.sessions.count() >= self.max_sessions {
            Some(Unready::Full)
        } else {
            None
        }
    }

    /// The answer of `/readyz`.
    pub(super) fn response(&self) -> Response {
        let refusal = self.refusal();
        let reasons: Vec<_> = refusal.iter().map(|unready| unready.reason()).collect();
        let status = if refusal.is_none() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        json(
            status,
            &serde_json::json!({ "ready": refusal.is_none(), "reasons": reasons }),
        )
    }
}

/// The answer of `/healthz`: the process runs and answers.
pub(super) async fn healthz() -> Response {
    json(StatusCode::OK, &serde_json::json!({ "healthy": true }))
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, body: &impl serde::Serialize) -> Response {
    let body = serde_json::to_string(body).expect("our own types have string keys");
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body).into_response()
}
