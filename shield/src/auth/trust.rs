//! Whom each tenant trusts, and the judgement of one token.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use arqon_proto::{
    codes::ErrorCode,
    names::{NodeId, TenantId},
    v1::{TenantState, issuer},
};
use arqon_spine::manifest::Tokens;
use arqon_telemetry::Metrics;
use jsonwebtoken::{Algorithm, crypto};

use super::{
    AuthFailure, Identity,
    jwks::{JwksPace, JwksSource, JwksSources},
    keys::KeySet,
    token::{Claims, Token, shortened},
};
use crate::control::Tenant;

/// Below this many tenants nobody looks for deleted ones.
const FIRST_PURGE: usize = 1024;

pub(super) struct Trust {
    tokens: Tokens,
    pool: NodeId,
    jwks: JwksSources,
    prepared: RwLock<PreparedTenants>,
}

struct PreparedTenants {
    tenants: HashMap<TenantId, Arc<PreparedTenant>>,
    /// At this size those that are gone are removed.
    purge_at: usize,
}

/// The issuers of one version of a tenant's record, with keys decoded.
struct PreparedTenant {
    /// Compared by identity: another record is another Arc.
    of: Arc<Tenant>,
    issuers: Vec<PreparedIssuer>,
}

struct PreparedIssuer {
    iss: String,
    audiences: Vec<String>,
    development: bool,
    keys: Keys,
}

enum Keys {
    Given(Arc<KeySet>),
    Published(Arc<JwksSource>),
}

// === impl Trust ===

impl Trust {
    pub(super) fn new(tokens: &Tokens, pool: &NodeId, metrics: Metrics) -> Self {
        let pace = JwksPace::new(tokens.jwks_refresh, tokens.jwks_min_interval);
        Self::with_pace(tokens, pool, pace, metrics)
    }

    pub(super) fn with_pace(
        tokens: &Tokens,
        pool: &NodeId,
        pace: JwksPace,
        metrics: Metrics,
    ) -> Self {
        Self {
            tokens: tokens.clone(),
            pool: pool.clone(),
            jwks: JwksSources::new(pace, metrics),
            prepared: RwLock::new(PreparedTenants {
                tenants: HashMap::new(),
                purge_at: FIRST_PURGE,
            }),
        }
    }

    /// Judges a token at `now`, seconds since the Unix epoch.
    pub(super) async fn verify(
        &self,
        token: &str,
        tenant_of: impl Fn(&TenantId) -> Option<Arc<Tenant>>,
        now: u64,
    ) -> Result<Identity, AuthFailure> {
        let token = Token::parse(token)?;
        let tenant = token
            .claims
            .tenant
            .as_ref()
            .and_then(&tenant_of)
            .filter(|tenant| tenant.record.pool == self.pool.as_str())
            .ok_or_else(|| AuthFailure::new(ErrorCode::TokenUnknownTenant, "no such tenant"))?;
        let prepared = self.prepare(&tenant, tenant_of);
        let issuer = self.signer(&prepared, &token).await?;
        self.judge(&token.claims, &tenant, issuer, now)?;
        if tenant.record.state() != TenantState::Active {
            return Err(AuthFailure::new(
                ErrorCode::TenantSuspended,
                format!("tenant {}", tenant.id),
            ));
        }
        let claims = token.claims;
        Ok(Identity {
            tenant,
            user: claims.user,
            role: claims.role,
            rooms: claims.rooms,
            jti: claims.jti.map(String::into_boxed_str),
            issued_at: claims.issued_at,
            expires_at: claims.expires_at,
        })
    }

    /// The issuer of the tenant whose key the token is signed with.
    async fn signer<'a>(
        &self,
        prepared: &'a PreparedTenant,
        token: &Token<'_>,
    ) -> Result<&'a PreparedIssuer, AuthFailure> {
        let tenant = &prepared.of.id;
        let iss = shortened(&token.claims.issuer);
        let mut failure = AuthFailure::new(
            ErrorCode::TokenWrongIssuer,
            format!("tenant {tenant} does not trust issuer {iss:?}"),
        );
        for issuer in &prepared.issuers {
            if issuer.iss != token.claims.issuer {
                continue;
            }
            if issuer.development && !self.tokens.allow_development {
                failure.detail = format!(
                    "issuer {iss:?} of tenant {tenant} is for development, and tokens.allow_development is off"
                );
                continue;
            }
            let kid = token.kid.as_deref();
            let keys = match &issuer.keys {
                Keys::Given(keys) => Arc::clone(keys),
                Keys::Published(source) => match source.keys_for(kid).await {
                    Ok(keys) => keys,
                    Err(error) => {
                        failure = AuthFailure::new(
                            ErrorCode::TokenKeysUnavailable,
                            format!("issuer {iss:?} of tenant {tenant}: {error}"),
                        );
                        continue;
                    }
                },
            };
            if !keys.has(kid) {
                failure = AuthFailure::new(
                    ErrorCode::TokenUnknownKey,
                    format!(
                        "issuer {iss:?} of tenant {tenant} has no key {:?}",
                        kid.map(shortened)
                    ),
                );
                continue;
            }
            let signed = keys.candidates(kid).any(|key| {
                crypto::verify(token.signature, token.message, key, Algorithm::RS256)
                    .unwrap_or(false)
            });
            if signed {
                return Ok(issuer);
            }
            failure = AuthFailure::new(
                ErrorCode::TokenWrongKey,
                format!("issuer {iss:?} of tenant {tenant} did not sign this"),
            );
        }
        Err(failure)
    }

    /// Judges the claims of a token whose signature holds.
    fn judge(
        &self,
        claims: &Claims,
        tenant: &Tenant,
        issuer: &PreparedIssuer,
        now: u64,
    ) -> Result<(), AuthFailure> {
        let refuse = |code, detail: String| {
            let (tenant, user) = (&tenant.id, &claims.user);
            Err(AuthFailure::new(
                code,
                format!("tenant {tenant}, user {:?}: {detail}", user.as_str()),
            ))
        };
        let accepted = |audience: &String| {
            issuer.audiences.contains(audience)
                || (issuer.audiences.is_empty() && *audience == self.tokens.audience)
        };
        if !claims.audiences.iter().any(accepted) {
            let found: Vec<_> = claims
                .audiences
                .iter()
                .take(4)
                .map(|a| shortened(a))
                .collect();
            return refuse(ErrorCode::TokenWrongAudience, format!("aud is {found:?}"));
        }
        let (iat, exp) = (claims.issued_at, claims.expires_at);
        let leeway = self.tokens.leeway.as_secs();
        let Some(lifetime) = exp.checked_sub(iat) else {
            return refuse(ErrorCode::TokenMalformed, "exp lies before iat".to_owned());
        };
        if now >= exp.saturating_add(leeway) {
            return refuse(ErrorCode::TokenExpired, format!("{} s ago", now - exp));
        }
        let valid_from = iat.max(claims.not_before.unwrap_or(0));
        if valid_from > now.saturating_add(leeway) {
            return refuse(
                ErrorCode::TokenNotYetValid,
                format!("{} s too early", valid_from - now),
            );
        }
        if lifetime > self.tokens.max_ttl.as_secs() {
            return refuse(ErrorCode::TokenLifetimeTooLong, format!("{lifetime} s"));
        }
        // iat has whole seconds, so a token of the tenant's first second is its own.
        if iat < tenant.record.created_at_ms / 1000 {
            return refuse(ErrorCode::TokenBeforeTenant, format!("iat is {iat}"));
        }
        Ok(())
    }

    /// The issuers of this version of the record, decoded at its first use.
    fn prepare(
        &self,
        tenant: &Arc<Tenant>,
        tenant_of: impl Fn(&TenantId) -> Option<Arc<Tenant>>,
    ) -> Arc<PreparedTenant> {
        let current = |prepared: &Arc<PreparedTenant>| Arc::ptr_eq(&prepared.of, tenant);
        let prepared = self.prepared.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = prepared.tenants.get(&tenant.id).filter(|p| current(p)) {
            return Arc::clone(prepared);
        }
        drop(prepared);

        let fresh = Arc::new(PreparedTenant::new(tenant, &self.jwks));
        let mut prepared = self
            .prepared
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        prepared
            .tenants
            .insert(tenant.id.clone(), Arc::clone(&fresh));
        if prepared.tenants.len() >= prepared.purge_at {
            prepared.tenants.retain(|id, _| tenant_of(id).is_some());
            prepared.purge_at = FIRST_PURGE.max(prepared.tenants.len() * 2);
        }
        fresh
    }
}

// === impl PreparedTenant ===

impl PreparedTenant {
    fn new(tenant: &Arc<Tenant>, sources: &JwksSources) -> Self {
        let issuers = tenant.record.issuers.iter().map(|issuer| {
            let keys = match &issuer.keys {
                Some(issuer::Keys::JwksUrl(url)) => Keys::Published(sources.get(url)),
                Some(issuer::Keys::Pem(pem)) => {
                    Keys::Given(Arc::new(KeySet::from_pem(pem, |kid, error| {
                        tracing::warn!(
                            tenant = %tenant.id, issuer = issuer.iss, kid, error,
                            "Cannot use a key of the tenant's record"
                        );
                    })))
                }
                None => Keys::Given(Arc::default()),
            };
            PreparedIssuer {
                iss: issuer.iss.clone(),
                audiences: issuer.audiences.clone(),
                development: issuer.development,
                keys,
            }
        });
        Self {
            of: Arc::clone(tenant),
            issuers: issuers.collect(),
        }
    }
}
