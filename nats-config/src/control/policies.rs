//! Policies on CONTROL: records and their keys, components in the object
//! store, what Shields report, and the stream of what was blocked.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, consumer, object_store, stream};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, StreamExt};
use prost::Message as _;
use sha2::Digest as _;
use tokio::io::AsyncReadExt as _;
use tokio::sync::OnceCell;

use arqon_proto::names::{NodeId, PolicyName, TenantId};
use arqon_proto::v1::{self, policy_entry::Entry};

use super::records::{RecordEvent, RecordStream};
use super::{BoxError, ControlError, ControlStore, KIND, Record, typed};
use crate::subjects;

const REPORT: &str = "policies";
const AUDIT: &str = "audit";

/// How long audits are kept.
const AUDIT_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How many bytes of them; the oldest give way.
const AUDIT_BYTES: i64 = 256 << 20;

/// A megabyte takes milliseconds; whoever waits longer is better told.
const OBJECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A Shield waits this long for the stream to take its audits.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest object that is put or read: a component, or a configuration.
pub const MAX_OBJECT_BYTES: usize = 4 << 20;

/// A key of KV bucket `policies`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKey {
    /// `policy.<name>`: a policy's versions.
    Policy(PolicyName),
    /// `platform.<binding>`.
    Platform(PolicyName),
    /// `tenant.<TenantID>.<binding>`.
    Tenant(TenantId, PolicyName),
    /// Anything else. Whoever wrote it meant something that this program does
    /// not know, so it counts as a record that cannot be read.
    Foreign(String),
}

/// Whose messages a record is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PolicyScope {
    /// Nobody's: nothing is in force by it.
    Nobody,
    /// Everybody's.
    Platform,
    /// One tenant's.
    Tenant(TenantId),
}

/// A change of a policy's or a binding's record.
pub type PolicyRecordEvent = RecordEvent<v1::PolicyEntry>;

/// All records of policies at one time.
#[derive(Clone, Debug, Default)]
pub struct PolicyRecords {
    /// What can be read, by key, with its revision.
    pub entries: Vec<(PolicyKey, v1::PolicyEntry, u64)>,
    /// What cannot, with its revision.
    pub unreadable: Vec<(PolicyKey, u64)>,
}

/// The object store, opened at first use.
#[derive(Clone, Default)]
pub(super) struct Objects(Arc<OnceCell<object_store::ObjectStore>>);

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(subjects::STORE_WASM)
    }
}

// === impl PolicyKey ===

impl PolicyKey {
    /// Reads a key; whatever is not of the known forms is [`PolicyKey::Foreign`].
    pub fn read(key: &str) -> Self {
        Self::known(key).unwrap_or_else(|| Self::Foreign(key.to_owned()))
    }

    fn known(key: &str) -> Option<Self> {
        let (kind, rest) = key.split_once('.')?;
        let name = |text| PolicyName::parse(text).ok();
        match kind {
            "policy" => Some(Self::Policy(name(rest)?)),
            "platform" => Some(Self::Platform(name(rest)?)),
            "tenant" => {
                let (tenant, binding) = rest.split_once('.')?;
                Some(Self::Tenant(TenantId::parse(tenant).ok()?, name(binding)?))
            }
            _ => None,
        }
    }

    /// The key of a binding of this scope; `None`: the platform's.
    pub fn binding(tenant: Option<&TenantId>, name: PolicyName) -> Self {
        match tenant {
            Some(tenant) => Self::Tenant(tenant.clone(), name),
            None => Self::Platform(name),
        }
    }

    /// Whose messages a record under this key is about.
    pub fn scope(&self) -> PolicyScope {
        match self {
            Self::Policy(_) => PolicyScope::Nobody,
            Self::Platform(_) => PolicyScope::Platform,
            Self::Tenant(tenant, _) => PolicyScope::Tenant(tenant.clone()),
            Self::Foreign(key) => match key.split('.').collect::<Vec<_>>()[..] {
                // A name of a policy that is none puts nothing in force either.
                ["policy", ..] => PolicyScope::Nobody,
                ["tenant", tenant, ..] => match TenantId::parse(tenant) {
                    Ok(tenant) => PolicyScope::Tenant(tenant),
                    Err(_) => PolicyScope::Platform,
                },
                _ => PolicyScope::Platform,
            },
        }
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(name) => write!(f, "policy.{name}"),
            Self::Platform(name) => write!(f, "platform.{name}"),
            Self::Tenant(tenant, name) => write!(f, "tenant.{tenant}.{name}"),
            Self::Foreign(key) => f.write_str(key),
        }
    }
}

impl Record for v1::PolicyEntry {
    type Id = PolicyKey;
    const BUCKET: &'static str = subjects::BUCKET_POLICIES;
    // A binding nobody can read must not look like none.
    const UNREADABLE_IS_DELETED: bool = false;

    fn key(&self) -> &str {
        &self.key
    }

    fn parse_key(key: &str) -> Option<PolicyKey> {
        Some(PolicyKey::read(key))
    }

    fn fits(&self, id: &PolicyKey) -> bool {
        let named = match (id, &self.entry) {
            (PolicyKey::Policy(name), Some(Entry::Policy(policy))) => policy.name == name.as_str(),
            (PolicyKey::Platform(name), Some(Entry::Binding(binding))) => {
                binding.name == name.as_str() && binding.tenant.is_empty()
            }
            (PolicyKey::Tenant(tenant, name), Some(Entry::Binding(binding))) => {
                binding.name == name.as_str() && binding.tenant == tenant.as_str()
            }
            _ => false,
        };
        named && self.key == id.to_string()
    }
}

// === impl ControlStore ===

impl ControlStore {
    /// A policy's or a binding's record and its revision.
    pub async fn get_policy(
        &self,
        key: &PolicyKey,
    ) -> Result<Option<(v1::PolicyEntry, u64)>, ControlError> {
        self.policies.get(&key.to_string()).await
    }

    /// Writes a new record; [`ControlError::Conflict`] if there is one.
    pub async fn create_policy(&self, entry: &v1::PolicyEntry) -> Result<u64, ControlError> {
        self.policies.create(entry).await
    }

    /// Replaces a record if it is still at `revision`; returns the new one.
    pub async fn put_policy(
        &self,
        entry: &v1::PolicyEntry,
        revision: u64,
    ) -> Result<u64, ControlError> {
        self.policies.put(entry, revision).await
    }

    /// Deletes a record if it is still at `revision`; returns the revision at
    /// which it is gone.
    pub async fn delete_policy(&self, key: &PolicyKey, revision: u64) -> Result<u64, ControlError> {
        let key = key.to_string();
        let failed = |source: BoxError| ControlError::Write {
            bucket: subjects::BUCKET_POLICIES,
            key: key.clone(),
            source,
        };
        let mut headers = HeaderMap::new();
        // What the client's own delete sends; it does not tell the revision.
        headers.insert("KV-Operation", "DEL");
        headers.insert(
            async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
            revision.to_string(),
        );
        let subject = format!("$KV.{}.{key}", subjects::BUCKET_POLICIES);
        let published = async {
            let ack = self
                .context
                .publish_with_headers(subject, headers, Bytes::new());
            ack.await?.await
        };
        match published.await {
            Ok(ack) => Ok(ack.sequence),
            Err(error)
                if error.kind() == jetstream::context::PublishErrorKind::WrongLastSequence =>
            {
                Err(ControlError::Conflict {
                    bucket: subjects::BUCKET_POLICIES,
                    key: key.clone(),
                })
            }
            Err(error) => Err(failed(error.into())),
        }
    }

    /// All records of policies, by key.
    pub async fn list_policies(&self) -> Result<PolicyRecords, ControlError> {
        let mut found = std::collections::BTreeMap::new();
        let mut events = self.watch_policies().await?;
        while let Some(event) = events.next().await {
            match event? {
                RecordEvent::Put(entry, revision) => {
                    found.insert(PolicyKey::read(&entry.key), (Some(entry), revision));
                }
                RecordEvent::Unreadable(key, revision) => {
                    found.insert(key, (None, revision));
                }
                RecordEvent::Deleted(key, _) => {
                    found.remove(&key);
                }
                RecordEvent::Synced => {
                    let mut records = PolicyRecords::default();
                    for (key, (entry, revision)) in found {
                        match entry {
                            Some(entry) => records.entries.push((key, entry, revision)),
                            None => records.unreadable.push((key, revision)),
                        }
                    }
                    return Ok(records);
                }
            }
        }
        Err(ControlError::Closed)
    }

    /// All records of policies, then [`RecordEvent::Synced`], then every change;
    /// ends after the first error.
    pub async fn watch_policies(&self) -> Result<RecordStream<v1::PolicyEntry>, ControlError> {
        self.policies.watch().await
    }

    /// Puts bytes into the object store under their SHA-256, unless they are
    /// there already and whole; returns the digest.
    pub async fn put_object(&self, bytes: &[u8]) -> Result<[u8; 32], ControlError> {
        let digest: [u8; 32] = sha2::Sha256::digest(bytes).into();
        let name = object_name(&digest);
        if bytes.len() > MAX_OBJECT_BYTES {
            return Err(ControlError::TooLarge { object: name });
        }
        match self.get_object(&digest).await {
            Ok(_) => return Ok(digest),
            Err(ControlError::NoObject { .. } | ControlError::BadObject { .. }) => {}
            Err(error) => return Err(error),
        }
        let store = self.object_store().await?;
        let mut reader = bytes;
        let put = store.put(name.as_str(), &mut reader);
        match tokio::time::timeout(OBJECT_TIMEOUT, put).await {
            Ok(Ok(_)) => Ok(digest),
            Ok(Err(source)) => Err(object_failed(&name, source.into())),
            Err(elapsed) => Err(object_failed(&name, elapsed.into())),
        }
    }

    /// Reads the object of this SHA-256. What is returned has it: the store's
    /// own word is not taken for it.
    pub async fn get_object(&self, digest: &[u8; 32]) -> Result<Bytes, ControlError> {
        let name = object_name(digest);
        let read = self.read_object(&name);
        let bytes = tokio::time::timeout(OBJECT_TIMEOUT, read)
            .await
            .map_err(|elapsed| object_failed(&name, elapsed.into()))??;
        if <[u8; 32]>::from(sha2::Sha256::digest(&bytes)) != *digest {
            return Err(ControlError::BadObject {
                object: name,
                problem: "its bytes have another SHA-256 than its name says".to_owned(),
            });
        }
        Ok(bytes)
    }

    async fn read_object(&self, name: &str) -> Result<Bytes, ControlError> {
        let store = self.object_store().await?;
        let object = match store.get(name).await {
            Ok(object) => object,
            Err(error) if error.kind() == object_store::GetErrorKind::NotFound => {
                return Err(ControlError::NoObject {
                    object: name.to_owned(),
                });
            }
            Err(source) => return Err(object_failed(name, source.into())),
        };
        let said = object.info.size;
        if said > MAX_OBJECT_BYTES {
            return Err(ControlError::TooLarge {
                object: name.to_owned(),
            });
        }
        let mut bytes = BytesMut::with_capacity(said);
        // One byte more than was said shows that there is more.
        let mut object = pin!(object.take(said as u64 + 1));
        loop {
            match object.read_buf(&mut bytes).await {
                Ok(0) => break,
                Ok(_) => {}
                // The client's own check of the digest ends here too.
                Err(source) if source.kind() == std::io::ErrorKind::InvalidData => {
                    return Err(bad_object(name, &source));
                }
                Err(source) => {
                    let source: BoxError = source.into();
                    return Err(object_failed(name, source));
                }
            }
        }
        if bytes.len() != said {
            return Err(bad_object(
                name,
                &format!("{} bytes of {said}", bytes.len()),
            ));
        }
        Ok(bytes.freeze())
    }

    async fn object_store(&self) -> Result<&object_store::ObjectStore, ControlError> {
        self.objects
            .0
            .get_or_try_init(|| async {
                self.context
                    .get_object_store(subjects::STORE_WASM)
                    .await
                    .map_err(|source| ControlError::Bucket {
                        bucket: subjects::STORE_WASM.to_owned(),
                        source: source.into(),
                    })
            })
            .await
    }

    /// Publishes a page of how a Shield stands with policies.
    pub async fn publish_policy_report(
        &self,
        id: &NodeId,
        report: &v1::PolicyReport,
    ) -> Result<(), ControlError> {
        self.publish(
            subjects::shield_policies(id),
            REPORT,
            report.encode_to_vec(),
        )
        .await
    }

    /// How all Shields stand with policies, as [`Self::subscribe_beats`].
    pub async fn subscribe_policy_reports(
        &self,
    ) -> Result<BoxStream<'static, v1::PolicyReport>, ControlError> {
        let messages = self
            .subscribe(subjects::shields_policies().to_owned())
            .await?;
        Ok(messages
            .filter_map(|message| async move {
                let report = v1::PolicyReport::decode(typed(&message, REPORT)?).ok()?;
                let id = NodeId::parse(&report.shield).ok()?;
                (message.subject.as_str() == subjects::shield_policies(&id)).then_some(report)
            })
            .boxed())
    }

    /// Writes what was blocked into the stream, and returns when it is kept.
    pub async fn publish_audit(
        &self,
        id: &NodeId,
        audit: &v1::PolicyAudit,
    ) -> Result<(), ControlError> {
        let subject = subjects::shield_audit(id);
        let failed = |source: BoxError| ControlError::Publish {
            subject: subject.clone(),
            source,
        };
        let mut headers = HeaderMap::new();
        headers.insert(KIND, AUDIT);
        let payload = audit.encode_to_vec().into();
        let kept = async {
            let ack = self
                .context
                .publish_with_headers(subject.clone(), headers, payload);
            ack.await?.await
        };
        match tokio::time::timeout(AUDIT_TIMEOUT, kept).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(source)) => Err(failed(source.into())),
            Err(elapsed) => Err(failed(elapsed.into())),
        }
    }

    /// What was blocked, from a time on; admin only. With `follow` it goes on
    /// until dropped, else it ends with what is kept now.
    pub async fn read_audit(
        &self,
        from: SystemTime,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<v1::PolicyAudit, ControlError>>, ControlError> {
        let failed = |source: BoxError| ControlError::Subscribe {
            subject: subjects::shield_audits().to_owned(),
            source,
        };
        let stream = self
            .context
            .get_stream(subjects::STREAM_AUDIT)
            .await
            .map_err(|source| failed(source.into()))?;
        let consumer = stream
            .create_consumer(consumer::pull::OrderedConfig {
                deliver_policy: consumer::DeliverPolicy::ByStartTime {
                    start_time: from.into(),
                },
                ..Default::default()
            })
            .await
            .map_err(|source| failed(source.into()))?;
        let pending = consumer.cached_info().num_pending;
        if pending == 0 && !follow {
            return Ok(futures_util::stream::empty().boxed());
        }
        let messages = consumer
            .messages()
            .await
            .map_err(|source| failed(source.into()))?;
        let closed = self.closed.clone();
        let last = move |message: &jetstream::Message| {
            !follow && message.info().is_ok_and(|info| info.pending == 0)
        };
        // The last one that was there is told too, and ends it.
        let until_last = futures_util::stream::unfold(Some(messages), move |messages| async move {
            let mut messages = messages?;
            let message = messages.next().await?;
            let over = !message.as_ref().is_ok_and(|message| !last(message));
            Some((message, (!over).then_some(messages)))
        });
        Ok(until_last
            .take_until(async move { closed.closed().await })
            .filter_map(|message| async move {
                let message = match message {
                    Ok(message) => message,
                    Err(source) => {
                        return Some(Err(ControlError::Watch {
                            bucket: subjects::STREAM_AUDIT,
                            source: source.into(),
                        }));
                    }
                };
                // One Shield could write what names another.
                let audit = v1::PolicyAudit::decode(typed(&message, AUDIT)?).ok()?;
                let id = NodeId::parse(&audit.shield).ok()?;
                (message.subject.as_str() == subjects::shield_audit(&id)).then_some(Ok(audit))
            })
            .boxed())
    }
}

/// The object store of components.
pub(super) fn objects(replicas: usize) -> object_store::Config {
    object_store::Config {
        bucket: subjects::STORE_WASM.to_owned(),
        num_replicas: replicas,
        ..Default::default()
    }
}

/// The stream of what was blocked: bounded in age and bytes, the oldest gives way.
pub(super) fn audits(replicas: usize) -> stream::Config {
    stream::Config {
        name: subjects::STREAM_AUDIT.to_owned(),
        subjects: vec![subjects::shield_audits().to_owned()],
        max_age: AUDIT_AGE,
        max_bytes: AUDIT_BYTES,
        discard: stream::DiscardPolicy::Old,
        num_replicas: replicas,
        ..Default::default()
    }
}

fn object_name(digest: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(digest)
}

fn object_failed(name: &str, source: BoxError) -> ControlError {
    ControlError::Object {
        object: name.to_owned(),
        source,
    }
}

fn bad_object(name: &str, problem: &impl fmt::Display) -> ControlError {
    ControlError::BadObject {
        object: name.to_owned(),
        problem: problem.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn keys_are_what_they_render_to() {
        for key in ["policy.blocklist", "platform.words", "tenant.acme.words"] {
            let read = PolicyKey::read(key);
            assert!(!matches!(read, PolicyKey::Foreign(_)), "{key}");
            assert_eq!(read.to_string(), key);
        }
        for key in [
            "",
            "x",
            "policy.",
            "policy.A",
            "tenant.acme",
            "tenant.acme.a.b",
            "room.acme.x",
        ] {
            assert_eq!(PolicyKey::read(key), PolicyKey::Foreign(key.to_owned()));
        }
    }

    #[test]
    fn what_is_not_understood_is_about_more_rather_than_less() {
        let scope = |key| PolicyKey::read(key).scope();
        let acme = PolicyScope::Tenant(TenantId::parse("acme").unwrap());
        assert_eq!(scope("policy.blocklist"), PolicyScope::Nobody);
        assert_eq!(scope("policy.NO"), PolicyScope::Nobody);
        assert_eq!(scope("tenant.acme.words"), acme);
        assert_eq!(scope("tenant.acme.a.b"), acme);
        assert_eq!(scope("tenant.NO.words"), PolicyScope::Platform);
        assert_eq!(scope("platform.NO"), PolicyScope::Platform);
        assert_eq!(scope("room.acme.lobby"), PolicyScope::Platform);
    }
}
