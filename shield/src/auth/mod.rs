//! User tokens: from a JWT to a verified identity.
//!
//! Trust is per tenant. The look-up runs tenant record → issuer → `kid` and
//! never across, so that two tenants with an equal issuer and `kid` but other
//! keys stay apart. RS256 only, whatever the token says. Beyond its shape no
//! claim is judged before the signature holds, so that only the issuer's own
//! tokens learn more than "not trusted".

mod grants;
mod jwks;
mod keys;
mod token;
mod trust;

#[cfg(test)]
mod jwks_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arqon_proto::{
    codes::ErrorCode,
    names::{RoomId, UserId},
};
use arqon_spine::manifest::Manifest;
use arqon_telemetry::{Metrics, labels::Code};

use crate::control::{Revocations, Tenant, Tenants};
use trust::Trust;

pub use grants::{Role, RoomGrants};

/// Judges tokens for this Shield.
pub struct Verifier {
    tenants: Arc<Tenants>,
    revocations: Arc<Revocations>,
    trust: Trust,
    metrics: Metrics,
}

/// Who a session speaks for. Kept for its whole life, so it is small.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The tenant as it was when the token was verified.
    pub tenant: Arc<Tenant>,
    /// The token's `sub`.
    pub user: UserId,
    /// What kind of client it is.
    pub role: Role,
    /// The rooms the token covers.
    pub rooms: RoomGrants,
    /// The token's own id, if it has one.
    pub jti: Option<Box<str>>,
    /// Seconds since the Unix epoch.
    pub issued_at: u64,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error)]
#[error("token refused with {code}: {detail}")]
pub struct AuthFailure {
    /// The exact code. Clients are told `code.public()`.
    pub code: ErrorCode,
    /// For the log: holds names out of the token, never the token itself.
    pub detail: String,
}

// === impl Verifier ===

impl Verifier {
    /// A verifier for the tenants of this node's pool.
    pub fn new(
        tenants: Arc<Tenants>,
        revocations: Arc<Revocations>,
        manifest: &Manifest,
        metrics: Metrics,
    ) -> Self {
        Self {
            tenants,
            revocations,
            trust: Trust::new(&manifest.tokens, &manifest.node.pool, metrics.clone()),
            metrics,
        }
    }

    /// Judges a token, now. A refusal is counted; logging it is the caller's.
    pub async fn verify(&self, token: &str) -> Result<Identity, AuthFailure> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let verified = self
            .trust
            .verify(token, |id| self.tenants.get(id), now)
            .await
            .and_then(|identity| match self.is_revoked(&identity) {
                false => Ok(identity),
                true => Err(AuthFailure::new(
                    ErrorCode::TokenRevoked,
                    format!(
                        "tenant {}, user {:?}",
                        identity.tenant.id,
                        identity.user.as_str()
                    ),
                )),
            });
        if let Err(failure) = &verified {
            self.metrics
                .auth_failures
                .get_or_create(&Code(failure.code.name()))
                .inc();
        }
        verified
    }

    /// Whether a token that was verified has been revoked since.
    pub fn is_revoked(&self, identity: &Identity) -> bool {
        self.revocations.is_revoked(identity)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

// === impl Identity ===

impl Identity {
    /// Whether this session may join the room.
    pub fn may_join(&self, room: &RoomId) -> bool {
        self.rooms.may_join(room)
    }

    /// Whether this session may publish to the room, were it joined.
    pub fn may_publish(&self, room: &RoomId) -> bool {
        self.role.may_publish() && self.rooms.may_publish(room)
    }
}

// === impl AuthFailure ===

impl AuthFailure {
    fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}
