//! The admin listener: metrics, health and the state of this node. On loopback
//! unless the manifest says otherwise, and never for clients.

use std::sync::Arc;

use arqon_telemetry::Metrics;
use axum::{Router, response::IntoResponse as _, routing::get};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};

use super::health::{Readiness, healthz, json};

/// What `/status` tells, and `arq status` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `node.id`.
    pub id: String,
    /// `node.pool`.
    pub pool: String,
    /// The version of this program.
    pub version: String,
    /// This process, new at each start.
    pub incarnation: String,
    /// Seconds since start.
    pub uptime_secs: u64,
    /// Whether it takes sessions.
    pub ready: bool,
    /// Why not; empty if it does.
    pub reasons: Vec<String>,
    /// Whether a drain is under way.
    pub draining: bool,
    /// Where clients connect.
    pub public: String,
    /// Whether they do so by TLS.
    pub tls: bool,
    /// Sessions in all.
    pub sessions: usize,
    /// Rooms with members here, in all.
    pub rooms: usize,
    /// Tenants known from the control plane.
    pub tenants_known: usize,
    /// Tenants with sessions or rooms here, by name.
    pub tenants: Vec<TenantStatus>,
}

/// One tenant on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantStatus {
    /// The TenantID.
    pub id: String,
    /// Sessions.
    pub sessions: usize,
    /// Rooms with members here.
    pub rooms: usize,
    /// The state of its connection to the Spine, if it has one.
    pub spine: Option<String>,
}

/// Where `/status` gets its answer from.
pub type StatusSource = Arc<dyn Fn() -> Status + Send + Sync>;

/// The routes of the admin listener.
pub fn admin_router(metrics: Metrics, readiness: Arc<Readiness>, status: StatusSource) -> Router {
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Router::new()
        .route(
            "/metrics",
            get(async move || ([(header::CONTENT_TYPE, open_metrics)], metrics.encode())),
        )
        .route("/healthz", get(healthz))
        .route("/readyz", get(async move || readiness.response()))
        .route(
            "/status",
            get(async move || json(StatusCode::OK, &status())),
        )
        .fallback(async || StatusCode::NOT_FOUND.into_response())
}
