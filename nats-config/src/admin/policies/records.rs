//! Changes of records, without any I/O.

use arqon_proto::names::{PolicyName, RoomPattern, TenantId};
use arqon_proto::v1;
use bytes::Bytes;

use crate::control::PolicyKey;

/// Versions kept in a policy's record.
pub const MAX_VERSIONS: usize = 50;
/// Steps kept in a binding's record.
pub const MAX_HISTORY: usize = 10;

/// What a binding is to be.
#[derive(Debug, Clone)]
pub struct BindPolicy {
    /// Its name.
    pub name: PolicyName,
    /// The tenant; `None`: the whole platform.
    pub tenant: Option<TenantId>,
    /// Which rooms; `None`: all.
    pub rooms: Option<RoomPattern>,
    /// The policy.
    pub policy: PolicyName,
    /// The version, one of the policy's.
    pub version: v1::PolicyVersion,
    /// The configuration, however large.
    pub config: Bytes,
    /// Lower ones run first.
    pub order: i32,
    /// Runs and counts, and changes nothing.
    pub shadow: bool,
    /// Whether instances serve several messages.
    pub isolation: v1::PolicyIsolation,
    /// What it may use; zeros: the defaults.
    pub limits: v1::PolicyLimits,
    /// Whether the sender is told the policy's reason.
    pub show_reason: bool,
    /// Who binds.
    pub by: String,
}

/// Why a change makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// There is nothing to go back to.
    #[error("binding `{name}` has no earlier state")]
    NoHistory {
        /// The binding.
        name: String,
    },
    /// The version has no digest.
    #[error("version {number} of policy `{policy}` has no usable digest")]
    BadVersion {
        /// The policy.
        policy: String,
        /// The version's number.
        number: u32,
    },
}

// === impl BindPolicy ===

impl BindPolicy {
    /// Where it stands.
    pub fn key(&self) -> PolicyKey {
        PolicyKey::binding(self.tenant.as_ref(), self.name.clone())
    }
}

/// Adds a version, numbered by this function; returns the policy, the version,
/// and whether the component was a version already.
pub(super) fn add_version(
    mut policy: v1::Policy,
    name: &PolicyName,
    mut pushed: v1::PolicyVersion,
) -> (v1::Policy, v1::PolicyVersion, bool) {
    name.as_str().clone_into(&mut policy.name);
    let same = |version: &&v1::PolicyVersion| version.digest == pushed.digest;
    if let Some(version) = policy.versions.iter().find(same).cloned() {
        return (policy, version, true);
    }
    let newest = policy.versions.iter().map(|version| version.number).max();
    pushed.number = newest.unwrap_or(0) + 1;
    policy.versions.insert(0, pushed.clone());
    policy.versions.truncate(MAX_VERSIONS);
    (policy, pushed, false)
}

/// The binding as wished; what was in force goes into its history.
pub(super) fn bind(
    before: Option<&v1::PolicyBinding>,
    wish: BindPolicy,
    config_digest: Bytes,
    now_ms: u64,
) -> Result<v1::PolicyBinding, RecordError> {
    if wish.version.digest.len() != 32 {
        return Err(RecordError::BadVersion {
            policy: wish.policy.to_string(),
            number: wish.version.number,
        });
    }
    let config = if config_digest.is_empty() {
        wish.config
    } else {
        Bytes::new()
    };
    let mut after = v1::PolicyBinding {
        name: wish.name.to_string(),
        tenant: wish
            .tenant
            .map(|tenant| tenant.to_string())
            .unwrap_or_default(),
        rooms: wish
            .rooms
            .map(|rooms| rooms.as_str().to_owned())
            .unwrap_or_default(),
        policy: wish.policy.to_string(),
        version: wish.version.number,
        digest: wish.version.digest,
        config,
        config_digest,
        order: wish.order,
        shadow: wish.shadow,
        isolation: wish.isolation.into(),
        limits: Some(wish.limits),
        show_reason: wish.show_reason,
        changed_at_ms: now_ms,
        changed_by: wish.by,
        history: Vec::new(),
    };
    let Some(before) = before else {
        return Ok(after);
    };
    after.history.clone_from(&before.history);
    // A step is a version of the same policy with a configuration: another
    // policy's version under this one's name would be a lie.
    if before.policy != after.policy {
        after.history.clear();
    } else if step(before, 0) != step(&after, 0) {
        after.history.insert(0, step(before, now_ms));
        after.history.truncate(MAX_HISTORY);
    }
    Ok(after)
}

/// The binding with the newest step of its history in force, and that step gone
/// from it: rolling back again goes further back, never forth.
pub(super) fn rollback(
    before: &v1::PolicyBinding,
    by: &str,
    now_ms: u64,
) -> Result<v1::PolicyBinding, RecordError> {
    let mut after = before.clone();
    if after.history.is_empty() {
        return Err(RecordError::NoHistory {
            name: before.name.clone(),
        });
    }
    let step = after.history.remove(0);
    after.version = step.version;
    after.digest = step.digest;
    after.config = step.config;
    after.config_digest = step.config_digest;
    after.changed_at_ms = now_ms;
    by.clone_into(&mut after.changed_by);
    Ok(after)
}

fn step(binding: &v1::PolicyBinding, until_ms: u64) -> v1::PolicyStep {
    v1::PolicyStep {
        version: binding.version,
        digest: binding.digest.clone(),
        config: binding.config.clone(),
        config_digest: binding.config_digest.clone(),
        until_ms,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn name(text: &str) -> PolicyName {
        PolicyName::parse(text).unwrap()
    }

    fn version(byte: u8) -> v1::PolicyVersion {
        v1::PolicyVersion {
            number: byte.into(),
            digest: vec![byte; 32].into(),
            ..Default::default()
        }
    }

    fn wish(byte: u8, config: &str) -> BindPolicy {
        BindPolicy {
            name: name("words"),
            tenant: None,
            rooms: None,
            policy: name("blocklist"),
            version: version(byte),
            config: config.to_owned().into(),
            order: 0,
            shadow: false,
            isolation: v1::PolicyIsolation::Unspecified,
            limits: v1::PolicyLimits::default(),
            show_reason: false,
            by: "me".to_owned(),
        }
    }

    #[test]
    fn versions_are_numbered_and_the_same_bytes_are_the_same_version() {
        let blocklist = name("blocklist");
        let mut policy = v1::Policy::default();
        for byte in 1..=60 {
            let (next, added, existed) = add_version(policy, &blocklist, version(byte));
            assert_eq!((added.number, existed), (byte.into(), false));
            policy = next;
        }
        assert_eq!(policy.versions.len(), MAX_VERSIONS);
        assert_eq!(policy.versions[0].number, 60);
        let before = policy.clone();
        let (after, found, existed) = add_version(policy, &blocklist, version(55));
        assert_eq!((after, found.number, existed), (before, 55, true));
    }

    #[test]
    fn a_rollback_goes_back_step_by_step_and_ends() {
        let first = bind(None, wish(1, "a"), Bytes::new(), 10).unwrap();
        let second = bind(Some(&first), wish(2, "b"), Bytes::new(), 20).unwrap();
        // A change of something else is no step.
        let mut same = wish(2, "b");
        same.order = 7;
        let third = bind(Some(&second), same, Bytes::new(), 30).unwrap();
        assert_eq!(third.history, second.history);
        let fourth = bind(Some(&third), wish(3, "c"), Bytes::new(), 40).unwrap();
        let back = rollback(&fourth, "you", 50).unwrap();
        assert_eq!((back.version, &back.config[..]), (2, &b"b"[..]));
        assert_eq!((back.changed_by.as_str(), back.changed_at_ms), ("you", 50));
        let back = rollback(&back, "you", 60).unwrap();
        assert_eq!((back.version, &back.config[..]), (1, &b"a"[..]));
        assert!(rollback(&back, "you", 70).is_err());
    }

    #[test]
    fn history_is_bounded_and_ends_with_the_policy() {
        let mut binding = bind(None, wish(0, "x"), Bytes::new(), 0).unwrap();
        for byte in 1..=20 {
            binding = bind(Some(&binding), wish(byte, "x"), Bytes::new(), byte.into()).unwrap();
        }
        assert_eq!(binding.history.len(), MAX_HISTORY);
        assert_eq!(binding.history[0].version, 19);
        let mut other = wish(1, "x");
        other.policy = name("redact");
        let other = bind(Some(&binding), other, Bytes::new(), 30).unwrap();
        assert!(other.history.is_empty());
        let mut broken = wish(1, "x");
        broken.version.digest.clear();
        assert!(bind(None, broken, Bytes::new(), 0).is_err());
    }
}
