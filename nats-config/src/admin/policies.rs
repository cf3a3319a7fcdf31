//! Policies: versions pushed, bindings made, changed, taken back, and what
//! Shields say of it.
//!
//! Records change by pure functions and are written by revision: of two that
//! change one record at once, one is told [`ControlError::Conflict`] and
//! nothing is lost.

mod records;
mod wait;

use arqon_proto::names::PolicyName;
use arqon_proto::v1::{self, policy_entry::Entry};
use bytes::Bytes;

use super::now_ms;
use crate::control::{ControlError, ControlStore, PolicyKey, PolicyRecords};
use crate::subjects;

pub use records::{BindPolicy, MAX_HISTORY, MAX_VERSIONS, RecordError};
pub use wait::{Expected, ShieldOutcome, ShieldReport, ShieldReports, ShieldState};

/// The largest configuration that stands in the record itself.
pub const INLINE_CONFIG_BYTES: usize = 64 << 10;

/// Why policies could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// CONTROL could not be read or written, or another writer was first.
    #[error("CONTROL failed")]
    Control(#[from] ControlError),
    /// The change makes no sense for what is there.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// There is no such policy.
    #[error("there is no policy `{policy}`")]
    NoPolicy {
        /// The policy.
        policy: PolicyName,
    },
    /// There is no such binding.
    #[error("there is no binding `{key}`")]
    NoBinding {
        /// The key.
        key: PolicyKey,
    },
    /// The binding exists, and only a new one was wanted.
    #[error("there is a binding `{key}` already")]
    BindingExists {
        /// The key.
        key: PolicyKey,
    },
}

/// A version that is there now.
#[derive(Debug, Clone, PartialEq)]
pub struct PushedVersion {
    /// The version.
    pub version: v1::PolicyVersion,
    /// The same component was a version before.
    pub existed: bool,
    /// Revision of the policy's record.
    pub revision: u64,
}

/// A change that was written, and what it takes to take it back.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyChange {
    /// The key.
    pub key: PolicyKey,
    /// The revision it made.
    pub revision: u64,
    /// What stood there before.
    pub before: Option<v1::PolicyBinding>,
    /// What stands there now.
    pub after: Option<v1::PolicyBinding>,
}

/// Policies of one platform.
#[derive(Debug, Clone, Copy)]
pub struct Policies<'a> {
    control: &'a ControlStore,
}

impl super::Admin {
    /// Policies, over the admin's connection.
    pub fn policies(&self) -> Policies<'_> {
        Policies::new(&self.control)
    }
}

// === impl Policies ===

impl<'a> Policies<'a> {
    /// Policies over this connection, which must be an admin's.
    pub fn new(control: &'a ControlStore) -> Self {
        Self { control }
    }

    /// Puts a component into the object store and adds it as the newest version
    /// of a policy. A component that is a version already stays that version.
    /// Checking it is up to the caller.
    pub async fn push_version(
        self,
        policy: &PolicyName,
        component: &[u8],
        by: &str,
        note: &str,
    ) -> Result<PushedVersion, PolicyError> {
        // The object first: a version that is listed can be had.
        let digest = self.control.put_object(component).await?;
        let key = PolicyKey::Policy(policy.clone());
        let pushed = v1::PolicyVersion {
            number: 0,
            digest: digest.to_vec().into(),
            size: component.len() as u64,
            pushed_at_ms: now_ms(),
            pushed_by: by.to_owned(),
            note: note.to_owned(),
        };
        let stored = self.control.get_policy(&key).await?;
        let revision = stored.as_ref().map(|(_, revision)| *revision);
        let before = stored.and_then(|(entry, _)| policy_of(entry));
        let (after, version, existed) =
            records::add_version(before.unwrap_or_default(), policy, pushed);
        if existed && let Some(revision) = revision {
            return Ok(PushedVersion {
                version,
                existed,
                revision,
            });
        }
        let entry = v1::PolicyEntry {
            key: key.to_string(),
            entry: Some(Entry::Policy(after)),
        };
        let revision = self.write(&entry, revision).await?;
        Ok(PushedVersion {
            version,
            existed,
            revision,
        })
    }

    /// A policy and its versions.
    pub async fn policy(self, name: &PolicyName) -> Result<(v1::Policy, u64), PolicyError> {
        let key = PolicyKey::Policy(name.clone());
        let stored = self.control.get_policy(&key).await?;
        stored
            .and_then(|(entry, revision)| Some((policy_of(entry)?, revision)))
            .ok_or_else(|| PolicyError::NoPolicy {
                policy: name.clone(),
            })
    }

    /// A binding.
    pub async fn binding(self, key: &PolicyKey) -> Result<(v1::PolicyBinding, u64), PolicyError> {
        self.find(key)
            .await?
            .ok_or_else(|| PolicyError::NoBinding { key: key.clone() })
    }

    /// All records.
    pub async fn list(self) -> Result<PolicyRecords, PolicyError> {
        Ok(self.control.list_policies().await?)
    }

    /// Writes a binding as wished: a new one with `at` absent, else in place of
    /// the one at that revision, which is the one the wish was made from.
    pub async fn bind(
        self,
        wish: BindPolicy,
        at: Option<u64>,
    ) -> Result<PolicyChange, PolicyError> {
        let key = wish.key();
        let before = match (self.find(&key).await?, at) {
            (None, None) => None,
            (Some(_), None) => return Err(PolicyError::BindingExists { key }),
            (found, Some(at)) => Some(at_revision(&key, found, at)?),
        };
        let config_digest = if wish.config.len() > INLINE_CONFIG_BYTES {
            self.control.put_object(&wish.config).await?.to_vec().into()
        } else {
            Bytes::new()
        };
        let after = records::bind(before.as_ref(), wish, config_digest, now_ms())?;
        self.change(key, before, Some(after), at).await
    }

    /// Deletes a binding; with `at`, only at that revision. One that cannot be
    /// read is deleted too: `before` is `None` then, and it cannot be taken back.
    pub async fn unbind(
        self,
        key: &PolicyKey,
        at: Option<u64>,
    ) -> Result<PolicyChange, PolicyError> {
        let (before, revision) = match self.find(key).await {
            Ok(Some((before, revision))) => (Some(before), revision),
            Ok(None) => return Err(PolicyError::NoBinding { key: key.clone() }),
            Err(PolicyError::Control(ControlError::Read { .. })) => {
                let records = self.control.list_policies().await?;
                let mut unreadable = records.unreadable.into_iter();
                match unreadable.find(|(id, _)| id == key) {
                    Some((_, revision)) => (None, revision),
                    None => return Err(PolicyError::NoBinding { key: key.clone() }),
                }
            }
            Err(error) => return Err(error),
        };
        let revision = at.unwrap_or(revision);
        self.change(key.clone(), before, None, Some(revision)).await
    }

    /// Puts back what was in force before the last change of a binding; with
    /// `at`, only at that revision. Again: what was before that.
    pub async fn rollback(
        self,
        key: &PolicyKey,
        by: &str,
        at: Option<u64>,
    ) -> Result<PolicyChange, PolicyError> {
        let (before, revision) = self.binding(key).await?;
        let revision = at.unwrap_or(revision);
        let after = records::rollback(&before, by, now_ms())?;
        self.change(key.clone(), Some(before), Some(after), Some(revision))
            .await
    }

    /// Takes a change back, unless another was made since.
    pub async fn take_back(self, change: &PolicyChange) -> Result<PolicyChange, PolicyError> {
        let revision = change.after.as_ref().map(|_| change.revision);
        let (before, after) = (change.after.clone(), change.before.clone());
        self.change(change.key.clone(), before, after, revision)
            .await
    }

    async fn change(
        self,
        key: PolicyKey,
        before: Option<v1::PolicyBinding>,
        after: Option<v1::PolicyBinding>,
        revision: Option<u64>,
    ) -> Result<PolicyChange, PolicyError> {
        let revision = match (&after, revision) {
            (Some(binding), _) => {
                let entry = v1::PolicyEntry {
                    key: key.to_string(),
                    entry: Some(Entry::Binding(binding.clone())),
                };
                self.write(&entry, revision).await?
            }
            (None, Some(revision)) => self.control.delete_policy(&key, revision).await?,
            (None, None) => return Err(PolicyError::NoBinding { key }),
        };
        Ok(PolicyChange {
            key,
            revision,
            before,
            after,
        })
    }

    async fn write(
        self,
        entry: &v1::PolicyEntry,
        revision: Option<u64>,
    ) -> Result<u64, ControlError> {
        match revision {
            Some(revision) => self.control.put_policy(entry, revision).await,
            None => self.control.create_policy(entry).await,
        }
    }

    async fn find(self, key: &PolicyKey) -> Result<Option<(v1::PolicyBinding, u64)>, PolicyError> {
        let stored = self.control.get_policy(key).await?;
        Ok(stored.and_then(|(entry, revision)| match entry.entry? {
            Entry::Binding(binding) => Some((binding, revision)),
            Entry::Policy(_) => None,
        }))
    }
}

fn policy_of(entry: v1::PolicyEntry) -> Option<v1::Policy> {
    match entry.entry? {
        Entry::Policy(policy) => Some(policy),
        Entry::Binding(_) => None,
    }
}

fn at_revision(
    key: &PolicyKey,
    found: Option<(v1::PolicyBinding, u64)>,
    at: u64,
) -> Result<v1::PolicyBinding, ControlError> {
    match found {
        Some((binding, revision)) if revision == at => Ok(binding),
        _ => Err(ControlError::Conflict {
            bucket: subjects::BUCKET_POLICIES,
            key: key.to_string(),
        }),
    }
}
