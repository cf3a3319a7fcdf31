//! Revocations on CONTROL: which tokens are refused though they are good.
//!
//! One record per key, and the key holds a hash, since a jti and a user are any
//! text. The server drops a record by itself once all tokens it means have
//! expired (`Nats-TTL`); whoever reads one also looks at its `expires_at`.

use std::fmt;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, kv};
use futures_util::stream::StreamExt;
use sha2::Digest as _;

use arqon_proto::names::{TenantId, UserId};
use arqon_proto::v1::{self, revocation::Tokens};

use super::records::{RecordEvent, RecordStream, decode, encode};
use super::{BoxError, ControlError, ControlStore, Record};
use crate::subjects;

/// How long the server tells of a record that it dropped: longer than a watch
/// takes to be read to its end, so that none waits for what is gone.
const MARKERS: Duration = Duration::from_secs(60);

/// Kept beyond `expires_at`, for clocks differ and an expired token has a leeway
/// and a grace of up to five minutes each.
const KEPT_LONGER: u64 = 900;

/// SHA-256 of a jti or a user.
pub type TokenDigest = [u8; 32];

/// A key of KV bucket `revocations`: all that is known of a record that cannot
/// be read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RevocationKey {
    /// `jti.<TenantID>.<hash>`: one token.
    Jti(TenantId, TokenDigest),
    /// `user.<TenantID>.<hash>`: tokens of a user.
    User(TenantId, TokenDigest),
    /// `all.<TenantID>`: tokens of a tenant.
    All(TenantId),
    /// Anything else. Whoever wrote it meant something that this program does
    /// not know, so it counts as a record that cannot be read: of a tenant,
    /// where the second token names one, and else of the platform.
    Foreign(Option<TenantId>, String),
}

/// A change of a revocation.
pub type RevocationEvent = RecordEvent<v1::Revocation>;

/// All revocations at one time.
#[derive(Clone, Debug, Default)]
pub struct RevocationRecords {
    /// What can be read, by key, with its revision. Some may have expired.
    pub entries: Vec<(RevocationKey, v1::Revocation, u64)>,
    /// What cannot, with its revision.
    pub unreadable: Vec<(RevocationKey, u64)>,
}

// === impl RevocationKey ===

impl RevocationKey {
    /// The key of one token.
    pub fn jti(tenant: &TenantId, jti: &str) -> Self {
        Self::Jti(tenant.clone(), Self::digest(jti))
    }

    /// The key of a user.
    pub fn user(tenant: &TenantId, user: &UserId) -> Self {
        Self::User(tenant.clone(), Self::digest(user.as_str()))
    }

    /// What stands for a jti or a user.
    pub fn digest(text: &str) -> TokenDigest {
        sha2::Sha256::digest(text).into()
    }

    /// Reads a key; whatever is not of the known forms is [`RevocationKey::Foreign`].
    pub fn read(key: &str) -> Self {
        Self::known(key).unwrap_or_else(|| {
            let tenant = key.split('.').nth(1);
            let tenant = tenant.and_then(|tenant| TenantId::parse(tenant).ok());
            Self::Foreign(tenant, key.to_owned())
        })
    }

    fn known(key: &str) -> Option<Self> {
        let (kind, rest) = key.split_once('.')?;
        if kind == "all" {
            return Some(Self::All(TenantId::parse(rest).ok()?));
        }
        let (tenant, hash) = rest.split_once('.')?;
        let (tenant, hash) = (TenantId::parse(tenant).ok()?, from_hex(hash)?);
        match kind {
            "jti" => Some(Self::Jti(tenant, hash)),
            "user" => Some(Self::User(tenant, hash)),
            _ => None,
        }
    }

    /// The tenant it is about; `None`: the platform.
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Jti(tenant, _) | Self::User(tenant, _) | Self::All(tenant) => Some(tenant),
            Self::Foreign(tenant, _) => tenant.as_ref(),
        }
    }
}

impl fmt::Display for RevocationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, tenant, hash) = match self {
            Self::Jti(tenant, hash) => ("jti", tenant, hash),
            Self::User(tenant, hash) => ("user", tenant, hash),
            Self::All(tenant) => return write!(f, "all.{tenant}"),
            Self::Foreign(_, key) => return f.write_str(key),
        };
        write!(f, "{kind}.{tenant}.")?;
        hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn from_hex(text: &str) -> Option<TokenDigest> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut hash = TokenDigest::default();
    if text.len() != hash.len() * 2 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}

impl Record for v1::Revocation {
    type Id = RevocationKey;
    const BUCKET: &'static str = subjects::BUCKET_REVOCATIONS;
    // A revocation nobody can read must not look like none.
    const UNREADABLE_IS_DELETED: bool = false;

    fn key(&self) -> &str {
        &self.key
    }

    fn parse_key(key: &str) -> Option<RevocationKey> {
        Some(RevocationKey::read(key))
    }

    fn fits(&self, id: &RevocationKey) -> bool {
        let means = match (id, &self.tokens) {
            (RevocationKey::Jti(_, hash), Some(Tokens::Jti(jti))) => {
                RevocationKey::digest(jti) == *hash
            }
            (RevocationKey::User(_, hash), Some(Tokens::User(user))) => {
                RevocationKey::digest(user) == *hash && self.issued_before > 0
            }
            (RevocationKey::All(_), Some(Tokens::All(_))) => self.issued_before > 0,
            _ => false,
        };
        // Without its end it would look as if it had expired.
        means
            && self.expires_at > 0
            && id.tenant().is_some_and(|id| id.as_str() == self.tenant)
            && self.key == id.to_string()
    }
}

// === impl ControlStore ===

impl ControlStore {
    /// What stands under a key, readable or not, and the revision at which a
    /// change is to be written; 0 where there was never anything.
    pub async fn get_revocation(
        &self,
        key: &RevocationKey,
    ) -> Result<(Option<v1::Revocation>, u64), ControlError> {
        let store = self.revocations.store().await?;
        let entry = store
            .entry(key.to_string())
            .await
            .map_err(|source| ControlError::Read {
                bucket: subjects::BUCKET_REVOCATIONS,
                key: key.to_string(),
                source: source.into(),
            })?;
        let Some(entry) = entry else {
            return Ok((None, 0));
        };
        let record = match entry.operation {
            kv::Operation::Put => decode(&entry).ok(),
            kv::Operation::Delete | kv::Operation::Purge => None,
        };
        Ok((record, entry.revision))
    }

    /// Writes a revocation if its key is still at `revision`; returns the new
    /// one. The server drops it after it has expired. `now`: seconds since the
    /// Unix epoch.
    pub async fn put_revocation(
        &self,
        record: &v1::Revocation,
        revision: u64,
        now: u64,
    ) -> Result<u64, ControlError> {
        let failed = |source: BoxError| ControlError::Write {
            bucket: subjects::BUCKET_REVOCATIONS,
            key: record.key.clone(),
            source,
        };
        let mut headers = HeaderMap::new();
        if self.expires().await? {
            let left = (record.expires_at + KEPT_LONGER).saturating_sub(now).max(1);
            headers.insert(async_nats::header::NATS_MESSAGE_TTL, format!("{left}s"));
        }
        headers.insert(
            async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
            revision.to_string(),
        );
        let subject = format!("$KV.{}.{}", subjects::BUCKET_REVOCATIONS, record.key);
        let published = async {
            let ack = self
                .context
                .publish_with_headers(subject, headers, encode(record));
            ack.await?.await
        };
        match published.await {
            Ok(ack) => Ok(ack.sequence),
            Err(error)
                if error.kind() == jetstream::context::PublishErrorKind::WrongLastSequence =>
            {
                Err(ControlError::Conflict {
                    bucket: subjects::BUCKET_REVOCATIONS,
                    key: record.key.clone(),
                })
            }
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Takes a revocation away, if its key is still at `revision`.
    pub async fn delete_revocation(
        &self,
        key: &RevocationKey,
        revision: u64,
    ) -> Result<(), ControlError> {
        let key = key.to_string();
        let store = self.revocations.store().await?;
        match store.delete_expect_revision(&key, Some(revision)).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {
                Err(ControlError::Conflict {
                    bucket: subjects::BUCKET_REVOCATIONS,
                    key,
                })
            }
            Err(error) => Err(ControlError::Write {
                bucket: subjects::BUCKET_REVOCATIONS,
                key,
                source: error.into(),
            }),
        }
    }

    /// All revocations, by key.
    pub async fn list_revocations(&self) -> Result<RevocationRecords, ControlError> {
        let mut found = std::collections::BTreeMap::new();
        let mut events = self.watch_revocations().await?;
        while let Some(event) = events.next().await {
            match event? {
                RecordEvent::Put(record, revision) => {
                    found.insert(RevocationKey::read(&record.key), (Some(record), revision));
                }
                RecordEvent::Unreadable(key, revision) => {
                    found.insert(key, (None, revision));
                }
                RecordEvent::Deleted(key, _) => {
                    found.remove(&key);
                }
                RecordEvent::Synced => {
                    let mut records = RevocationRecords::default();
                    for (key, (record, revision)) in found {
                        match record {
                            Some(record) => records.entries.push((key, record, revision)),
                            None => records.unreadable.push((key, revision)),
                        }
                    }
                    return Ok(records);
                }
            }
        }
        Err(ControlError::Closed)
    }

    /// All revocations, then [`RecordEvent::Synced`], then every change; ends
    /// after the first error.
    pub async fn watch_revocations(&self) -> Result<RecordStream<v1::Revocation>, ControlError> {
        self.revocations.watch().await
    }

    /// Deletes what has ended, from a bucket that does not do it itself; `now`:
    /// seconds since the Unix epoch.
    pub async fn prune_revocations(&self, now: u64) -> Result<(), ControlError> {
        if self.expires().await? {
            return Ok(());
        }
        for (key, record, revision) in self.list_revocations().await?.entries {
            if record.expires_at + KEPT_LONGER <= now {
                self.delete_revocation(&key, revision).await?;
            }
        }
        Ok(())
    }

    /// Whether records may have a time to live. A bucket of an older version
    /// takes none until it is told to, and the oldest servers cannot be told.
    pub(super) async fn expires(&self) -> Result<bool, ControlError> {
        let failed = |source: BoxError| ControlError::Bucket {
            bucket: subjects::BUCKET_REVOCATIONS.to_owned(),
            source,
        };
        let store = self.revocations.store().await?;
        let mut stream = store.stream.clone();
        if stream.cached_info().config.allow_message_ttl {
            return Ok(true);
        }
        let mut config = stream
            .info()
            .await
            .map_err(|source| failed(source.into()))?
            .config
            .clone();
        if config.allow_message_ttl {
            return Ok(true);
        }
        config.allow_message_ttl = true;
        config.subject_delete_marker_ttl = Some(MARKERS);
        let updated = self.context.update_stream(config).await;
        Ok(updated.is_ok())
    }
}

/// How long the server tells of what it dropped from a bucket; `None`: its
/// records have no time to live.
pub(super) fn markers(bucket: &str) -> Option<Duration> {
    (bucket == subjects::BUCKET_REVOCATIONS).then_some(MARKERS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn acme() -> TenantId {
        TenantId::parse("acme").unwrap()
    }

    #[test]
    fn a_key_is_safe_whatever_the_text_and_reads_back() {
        let user = UserId::parse("a.*>/ ü").unwrap();
        for key in [
            RevocationKey::jti(&acme(), "*.>\u{0}\n"),
            RevocationKey::jti(&acme(), ""),
            RevocationKey::user(&acme(), &user),
            RevocationKey::All(acme()),
        ] {
            let text = key.to_string();
            let safe = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            assert!(text.bytes().all(|b| safe(b) || b == b'.'), "{text}");
            assert_eq!(RevocationKey::read(&text), key);
        }
    }

    #[test]
    fn a_key_that_is_none_is_its_tenants_or_the_platforms() {
        for (key, tenant) in [
            ("jti.acme.00", Some(acme())),
            ("issuer.acme.x", Some(acme())),
            ("all.acme.x", Some(acme())),
            ("all.Acme", None),
            ("all", None),
            ("nonsense", None),
        ] {
            let read = RevocationKey::read(key);
            assert_eq!(read, RevocationKey::Foreign(tenant, key.to_owned()));
            assert_eq!(read.to_string(), key);
        }
    }

    #[test]
    fn a_record_fits_only_the_key_that_says_the_same() {
        let key = RevocationKey::jti(&acme(), "one");
        let good = v1::Revocation {
            key: key.to_string(),
            tenant: "acme".to_owned(),
            tokens: Some(Tokens::Jti("one".to_owned())),
            expires_at: 1,
            ..Default::default()
        };
        assert!(good.fits(&key));
        let wrong = |change: &dyn Fn(&mut v1::Revocation)| {
            let mut record = good.clone();
            change(&mut record);
            record
        };
        for record in [
            wrong(&|r| r.tenant = "globex".to_owned()),
            wrong(&|r| r.tokens = Some(Tokens::Jti("two".to_owned()))),
            wrong(&|r| r.tokens = Some(Tokens::User("one".to_owned()))),
            wrong(&|r| r.tokens = None),
            wrong(&|r| r.expires_at = 0),
            wrong(&|r| r.key = "all.acme".to_owned()),
        ] {
            assert!(!record.fits(&key), "{record:?}");
        }
        let all = RevocationKey::All(acme());
        let without_time = v1::Revocation {
            key: all.to_string(),
            tokens: Some(Tokens::All(v1::RevokeAll {})),
            ..good
        };
        assert!(!without_time.fits(&all));
    }
}
