//! A policy in force: which one, for which messages, with what configuration.

use std::{fmt, sync::Arc};

use arqon_proto::names::{PolicyName, RoomPattern, TenantId};
use bytes::Bytes;

use crate::{Digest, Fault, Limits, Module};

/// A policy in force.
#[derive(Clone)]
pub struct Binding {
    /// Its key in the bucket: unique.
    pub key: Arc<str>,
    /// Its name, unique within its scope.
    pub name: String,
    /// Whose messages; none: everybody's.
    pub tenant: Option<TenantId>,
    /// Which rooms; none: all.
    pub rooms: Option<RoomPattern>,
    /// The policy.
    pub policy: PolicyName,
    /// Number of its version.
    pub version: u32,
    /// Digest of its version.
    pub digest: Digest,
    /// Revision of the record.
    pub revision: u64,
    /// Lower ones run first.
    pub order: i32,
    /// Runs and counts, and changes nothing.
    pub shadow: bool,
    /// Whether instances serve several messages.
    pub isolation: Isolation,
    /// What it may use.
    pub limits: Limits,
    /// Whether the sender is told its name and the policy's reason.
    pub show_reason: bool,
    /// What each instance is configured with.
    pub config: Bytes,
    /// What runs; or why nothing can, and its messages are blocked.
    pub module: Result<Module, Fault>,
}

/// Whether an instance serves several messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Isolation {
    /// One after another, of one binding and one tenant.
    #[default]
    Binding,
    /// One only. It is started on the session's thread.
    Message,
}

impl Binding {
    /// Sorts the bindings of one scope: by order, equal ones by name. The key
    /// last, so that the order never depends on how they were listed.
    pub(crate) fn rank(&self) -> (i32, &str, &str) {
        (self.order, &self.name, &self.key)
    }

    /// Whether the instances, counts and quarantines of `other` stay good for
    /// this one.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.key == other.key
            && self.revision == other.revision
            && self.digest == other.digest
            // A retry may have made what was missing.
            && self.module.is_ok() == other.module.is_ok()
    }
}

// Configurations may hold what only the operator should read.
impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding")
            .field("key", &self.key)
            .field("revision", &self.revision)
            .field("policy", &self.policy)
            .field("version", &self.version)
            .field("digest", &self.digest)
            .field("rooms", &self.rooms)
            .field("order", &self.order)
            .field("shadow", &self.shadow)
            .field("module", &self.module.as_ref().map(Module::digest))
            .finish_non_exhaustive()
    }
}
