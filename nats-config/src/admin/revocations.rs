//! Tokens revoked, and which revocations are in force.

use arqon_proto::names::{TenantId, UserId};
use arqon_proto::v1::{self, revocation::Tokens};

use super::{Admin, AdminError, now_ms};
use crate::control::{ControlError, RevocationKey, RevocationRecords};
use crate::manifest::MAX_TOKEN_TTL_SECS;

/// Which tokens of a tenant are to be refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevokeTokens {
    /// One.
    Jti {
        /// Its `jti`.
        jti: String,
        /// Its `exp`, if that is known; seconds since the Unix epoch.
        expires_at: Option<u64>,
    },
    /// Those of a user, issued up to a moment.
    User {
        /// The user.
        user: UserId,
        /// Seconds since the Unix epoch.
        issued_before: u64,
    },
    /// All that were issued up to a moment.
    All {
        /// Seconds since the Unix epoch.
        issued_before: u64,
    },
}

/// A revocation that is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Revoked {
    /// Its record.
    pub record: v1::Revocation,
    /// The revision that Shields must have reached.
    pub revision: u64,
}

impl Admin {
    /// Has tokens of a tenant refused, and sessions with them closed. With
    /// another revocation of the same tokens it becomes the wider one of both.
    pub async fn revoke(
        &self,
        tenant: &TenantId,
        tokens: RevokeTokens,
        by: &str,
    ) -> Result<Revoked, AdminError> {
        self.require(tenant).await?;
        let key = key_of(tenant, &tokens);
        loop {
            let (before, revision) = self.control().get_revocation(&key).await?;
            let now_ms = now_ms();
            let record = merged(&key, tenant, &tokens, before, by, now_ms);
            match self
                .control()
                .put_revocation(&record, revision, now_ms / 1_000)
                .await
            {
                Ok(revision) => {
                    // It is in force, whether old ones go or not.
                    if let Err(error) = self.control().prune_revocations(now_ms / 1_000).await {
                        tracing::debug!(%error, "Revocations that have ended stay");
                    }
                    return Ok(Revoked { record, revision });
                }
                // Of two at once, the second takes over what the first wrote.
                Err(ControlError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The revocations in force, and those that nobody can read.
    pub async fn revocations(&self) -> Result<RevocationRecords, AdminError> {
        let now = now_ms() / 1_000;
        let mut records = self.control().list_revocations().await?;
        records
            .entries
            .retain(|(_, record, _)| record.expires_at > now);
        Ok(records)
    }

    /// Takes away the records that nobody can read; which they were.
    pub async fn drop_unreadable_revocations(&self) -> Result<Vec<RevocationKey>, AdminError> {
        let unreadable = self.control().list_revocations().await?.unreadable;
        let mut dropped = Vec::new();
        for (key, revision) in unreadable {
            match self.control().delete_revocation(&key, revision).await {
                Ok(()) => dropped.push(key),
                // Somebody has written a good one there meanwhile.
                Err(ControlError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(dropped)
    }
}

fn key_of(tenant: &TenantId, tokens: &RevokeTokens) -> RevocationKey {
    match tokens {
        RevokeTokens::Jti { jti, .. } => RevocationKey::jti(tenant, jti),
        RevokeTokens::User { user, .. } => RevocationKey::user(tenant, user),
        RevokeTokens::All { .. } => RevocationKey::All(tenant.clone()),
    }
}

/// The record that refuses what `tokens` says and what `before` said.
fn merged(
    key: &RevocationKey,
    tenant: &TenantId,
    tokens: &RevokeTokens,
    before: Option<v1::Revocation>,
    by: &str,
    now_ms: u64,
) -> v1::Revocation {
    let (means, issued_before, expires_at) = match tokens {
        RevokeTokens::Jti { jti, expires_at } => (
            Tokens::Jti(jti.clone()),
            0,
            expires_at.unwrap_or(now_ms / 1_000 + MAX_TOKEN_TTL_SECS),
        ),
        RevokeTokens::User {
            user,
            issued_before,
        } => (
            Tokens::User(user.to_string()),
            *issued_before,
            issued_before + MAX_TOKEN_TTL_SECS,
        ),
        RevokeTokens::All { issued_before } => (
            Tokens::All(v1::RevokeAll {}),
            *issued_before,
            issued_before + MAX_TOKEN_TTL_SECS,
        ),
    };
    let before = before.unwrap_or_default();
    v1::Revocation {
        key: key.to_string(),
        tenant: tenant.to_string(),
        tokens: Some(means),
        issued_before: issued_before.max(before.issued_before),
        expires_at: expires_at.max(before.expires_at),
        revoked_at_ms: now_ms,
        revoked_by: by.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::control::Record;

    #[test]
    fn of_two_revocations_the_wider_one_stays() {
        let tenant = TenantId::parse("acme").unwrap();
        let user = |issued_before| RevokeTokens::User {
            user: UserId::parse("ann").unwrap(),
            issued_before,
        };
        let jti = |expires_at| RevokeTokens::Jti {
            jti: "one".to_owned(),
            expires_at,
        };
        let all = |issued_before| RevokeTokens::All { issued_before };
        let now = 2_000_000;
        let cases = [
            (user(900), user(1_000), 1_000, 1_000 + MAX_TOKEN_TTL_SECS),
            (user(1_000), user(900), 1_000, 1_000 + MAX_TOKEN_TTL_SECS),
            (all(1_000), all(900), 1_000, 1_000 + MAX_TOKEN_TTL_SECS),
            (jti(Some(5_000)), jti(None), 0, 2_000 + MAX_TOKEN_TTL_SECS),
            (jti(None), jti(Some(5_000)), 0, 2_000 + MAX_TOKEN_TTL_SECS),
            (jti(Some(6_000)), jti(Some(5_000)), 0, 6_000),
        ];
        for (first, second, issued_before, expires_at) in cases {
            let key = key_of(&tenant, &first);
            let before = merged(&key, &tenant, &first, None, "a", now);
            assert!(before.fits(&key));
            let after = merged(&key, &tenant, &second, Some(before), "b", now);
            assert!(after.fits(&key));
            assert_eq!(
                (
                    after.issued_before,
                    after.expires_at,
                    after.revoked_by.as_str()
                ),
                (issued_before, expires_at, "b"),
                "{first:?}, {second:?}"
            );
        }
    }
}
