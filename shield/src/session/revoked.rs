//! Whose sessions revocations may mean, found without a hash under the lock of
//! all sessions.
//!
//! The key of a revocation holds a hash of a user or a jti. Each session keeps
//! the first bytes of its own two, so a look at thousands compares numbers. Whom
//! they single out is judged by the token itself after that, so a chance match
//! closes nobody.

use std::collections::{HashMap, HashSet};

use arqon_proto::names::TenantId;
use arqon_spine::control::{RevocationKey, TokenDigest};

use crate::auth::Identity;

/// The first bytes of a digest.
type Tag = u64;

/// The tags of a session's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tags {
    user: Tag,
    jti: Option<Tag>,
}

/// Whose sessions must be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meant {
    everybody: bool,
    tenants: HashMap<TenantId, OfTenant>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OfTenant {
    all: bool,
    users: HashSet<Tag>,
    jtis: HashSet<Tag>,
}

// === impl Tags ===

impl Tags {
    pub(super) fn of(identity: &Identity) -> Self {
        let tag = |text: &str| tag(&RevocationKey::digest(text));
        Self {
            user: tag(identity.user.as_str()),
            jti: identity.jti.as_deref().map(tag),
        }
    }
}

// === impl Meant ===

impl Meant {
    /// Those of all tenants.
    pub fn everybody() -> Self {
        Self {
            everybody: true,
            ..Self::default()
        }
    }

    /// Those whom a revocation under this key may mean, too.
    pub fn add(&mut self, key: &RevocationKey) {
        let Some(tenant) = key.tenant() else {
            self.everybody = true;
            return;
        };
        let of = self.tenants.entry(tenant.clone()).or_default();
        match key {
            RevocationKey::Jti(_, digest) => drop(of.jtis.insert(tag(digest))),
            RevocationKey::User(_, digest) => drop(of.users.insert(tag(digest))),
            RevocationKey::All(_) | RevocationKey::Foreign(..) => of.all = true,
        }
    }

    /// Whether nobody is meant.
    pub fn is_empty(&self) -> bool {
        !self.everybody && self.tenants.is_empty()
    }

    /// By tenant; None: those of all tenants.
    pub(super) fn tenants(&self) -> Option<&HashMap<TenantId, OfTenant>> {
        (!self.everybody).then_some(&self.tenants)
    }
}

// === impl OfTenant ===

impl OfTenant {
    pub(super) fn means(&self, tags: Tags) -> bool {
        self.all
            || self.users.contains(&tags.user)
            || tags.jti.is_some_and(|jti| self.jtis.contains(&jti))
    }
}

fn tag(digest: &TokenDigest) -> Tag {
    let first = digest.first_chunk().expect("a digest is longer");
    Tag::from_be_bytes(*first)
}
