//! What all sessions of a Shield share.

use std::{fmt, sync::Arc, time::Duration};

use arqon_policy::Policies;
use arqon_proto::{headers::HeaderLimits, v1};
use arqon_spine::manifest::Manifest;
use arqon_telemetry::{Counter, Metrics, labels::Opcode};

use super::{
    outbox::{Bounds, Load, OutboxLimits},
    registry::Sessions,
    state::SessionLimits,
};
use crate::{auth::Verifier, control::Tenants, spine::SpinePool};

/// Made once; every session holds it by `Arc`.
#[derive(Clone)]
pub struct SessionContext {
    pub(super) shield_id: String,
    pub(super) limits: Arc<SessionLimits>,
    pub(super) outbox: Arc<OutboxLimits>,
    pub(super) heartbeat: Duration,
    pub(super) first_frame_timeout: Duration,
    pub(super) token_grace: Duration,
    pub(super) write_timeout: Duration,
    pub(super) farewell: Duration,
    pub(super) max_unconfirmed: u32,
    pub(super) pool: Arc<SpinePool>,
    pub(super) tenants: Arc<Tenants>,
    pub(super) policies: Policies,
    pub(super) sessions: Arc<Sessions>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) metrics: Metrics,
    pub(super) counters: Counters,
}

/// Counters of the hot path, resolved once.
#[derive(Clone)]
pub(super) struct Counters {
    /// By opcode number.
    frames_in: [Counter; 8],
    messages_out: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
}

// === impl SessionContext ===

impl SessionContext {
    /// The context that this manifest describes.
    pub fn new(
        manifest: &Manifest,
        pool: Arc<SpinePool>,
        tenants: Arc<Tenants>,
        policies: Policies,
        sessions: Arc<Sessions>,
        verifier: Arc<Verifier>,
        metrics: Metrics,
    ) -> Self {
        let session = &manifest.session;
        Self {
            shield_id: manifest.node.id.to_string(),
            limits: Arc::new(SessionLimits {
                max_frame_bytes: session.max_frame_bytes as u32,
                max_payload_bytes: session.max_payload_bytes as u32,
                max_rooms: session.max_rooms as u32,
                headers: HeaderLimits {
                    max_headers: session.max_headers,
                    max_header_bytes: session.max_header_bytes,
                },
                max_meta_bytes: manifest.presence.max_meta_bytes,
                max_offences: session.max_offences,
            }),
            outbox: Arc::new(OutboxLimits::new(Bounds::from(session), &metrics)),
            heartbeat: session.heartbeat,
            first_frame_timeout: session.first_frame_timeout,
            token_grace: manifest.tokens.grace,
            write_timeout: session.write_timeout,
            farewell: session.farewell,
            max_unconfirmed: session.max_unconfirmed,
            pool,
            tenants,
            policies,
            sessions,
            verifier,
            counters: Counters::new(&metrics),
            metrics,
        }
    }
}

impl fmt::Debug for SessionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionContext")
            .field("shield_id", &self.shield_id)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

// === impl Counters ===

impl Counters {
    fn new(metrics: &Metrics) -> Self {
        let frames_in = std::array::from_fn(|number| {
            let opcode = v1::Opcode::try_from(number as i32).unwrap_or_default();
            metrics
                .frames_in
                .get_or_create_owned(&Opcode(opcode_label(opcode)))
        });
        Self {
            frames_in,
            messages_out: metrics.messages_out.clone(),
            bytes_in: metrics.bytes_in.clone(),
            bytes_out: metrics.bytes_out.clone(),
        }
    }

    pub(super) fn frame_in(&self, opcode: v1::Opcode) {
        if let Some(counter) = self.frames_in.get(opcode as usize) {
            counter.inc();
        }
    }

    pub(super) fn bytes_in(&self, bytes: u64) {
        self.bytes_in.inc_by(bytes);
    }

    pub(super) fn written(&self, written: Load) {
        self.messages_out.inc_by(written.messages.into());
        self.bytes_out.inc_by(written.bytes());
    }
}

fn opcode_label(opcode: v1::Opcode) -> &'static str {
    use v1::Opcode;
    match opcode {
        Opcode::Join => "join",
        Opcode::Leave => "leave",
        Opcode::Publish => "publish",
        Opcode::PresenceGet => "presence_get",
        Opcode::PresenceSet => "presence_set",
        Opcode::Refresh => "refresh",
        Opcode::Ping => "ping",
        // Undecodable frames and opcodes that no client sends.
        _ => "invalid",
    }
}
