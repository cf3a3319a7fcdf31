//! Typed records in a KV bucket: one Protobuf message per key, and a watch that
//! says when everything that was there has been read.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use async_nats::jetstream;
use async_nats::jetstream::kv::{CreateErrorKind, Entry, Operation, Store, UpdateErrorKind, Watch};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::OnceCell;

use arqon_proto::names::{NodeId, TenantId};
use arqon_proto::v1;

use super::ControlError;
use crate::connect::Closed;
use crate::subjects;

/// A change of a tenant's record.
pub type TenantEvent = RecordEvent<v1::TenantRecord>;
/// A change of a pool's record.
pub type PoolEvent = RecordEvent<v1::PoolRecord>;

/// Events of a watch; ends after the first error.
pub type RecordStream<R> = BoxStream<'static, Result<RecordEvent<R>, ControlError>>;

/// What a watch tells.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordEvent<R: Record> {
    /// The record as it now is, with its revision.
    Put(R, u64),
    /// There is no usable record of this name: deleted at this revision, or, of
    /// a kind that serves nobody then, not readable (which is logged).
    Deleted(R::Id, u64),
    /// The record is there and cannot be read (which is logged). Told only of
    /// kinds whose absence would permit something.
    Unreadable(R::Id, u64),
    /// Everything that was stored when the watch began has been told.
    Synced,
}

/// A Protobuf message that lives in a bucket under its own name.
pub trait Record: prost::Message + Default + Clone + PartialEq + Send + Sync + 'static {
    /// The name's type.
    type Id: fmt::Display + Clone + fmt::Debug + PartialEq + Send + Sync + 'static;
    /// The bucket.
    const BUCKET: &'static str;
    /// Whether a record that cannot be read is told as one that was deleted.
    const UNREADABLE_IS_DELETED: bool = true;
    /// The key it lives under, as the message itself says.
    fn key(&self) -> &str;
    /// Reads a key.
    fn parse_key(key: &str) -> Option<Self::Id>;
    /// Whether the contents fit the key they live under.
    fn fits(&self, id: &Self::Id) -> bool {
        self.key() == id.to_string()
    }
}

impl Record for v1::TenantRecord {
    type Id = TenantId;
    const BUCKET: &'static str = subjects::BUCKET_TENANTS;
    fn key(&self) -> &str {
        &self.id
    }
    fn parse_key(key: &str) -> Option<TenantId> {
        TenantId::parse(key).ok()
    }
}

impl Record for v1::PoolRecord {
    type Id = NodeId;
    const BUCKET: &'static str = subjects::BUCKET_POOLS;
    fn key(&self) -> &str {
        &self.name
    }
    fn parse_key(key: &str) -> Option<NodeId> {
        NodeId::parse(key).ok()
    }
}

/// One bucket, opened at first use.
#[derive(Debug)]
pub(super) struct Bucket<R> {
    context: jetstream::Context,
    closed: Closed,
    store: Arc<OnceCell<Store>>,
    record: PhantomData<fn() -> R>,
}

struct Watching<R: Record> {
    watch: Watch,
    closed: Closed,
    ready: VecDeque<Result<RecordEvent<R>, ControlError>>,
    /// The newest revision when the watch began, until it has been told.
    target: Option<u64>,
    over: bool,
}

// === impl Bucket ===

impl<R> Clone for Bucket<R> {
    fn clone(&self) -> Self {
        Bucket {
            context: self.context.clone(),
            closed: self.closed.clone(),
            store: self.store.clone(),
            record: PhantomData,
        }
    }
}

impl<R: Record> Bucket<R> {
    pub(super) fn new(context: jetstream::Context, closed: Closed) -> Self {
        Bucket {
            context,
            closed,
            store: Arc::default(),
            record: PhantomData,
        }
    }

    pub(super) async fn store(&self) -> Result<&Store, ControlError> {
        self.store
            .get_or_try_init(|| async {
                self.context
                    .get_key_value(R::BUCKET)
                    .await
                    .map_err(|source| ControlError::Bucket {
                        bucket: R::BUCKET.to_owned(),
                        source: source.into(),
                    })
            })
            .await
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<(R, u64)>, ControlError> {
        let failed = |source| ControlError::Read {
            bucket: R::BUCKET,
            key: key.to_owned(),
            source,
        };
        let entry = self
            .store()
            .await?
            .entry(key)
            .await
            .map_err(|source| failed(source.into()))?;
        match entry {
            Some(entry) if entry.operation == Operation::Put => {
                let record = decode(&entry).map_err(failed)?;
                Ok(Some((record, entry.revision)))
            }
            _ => Ok(None),
        }
    }

    pub(super) async fn create(&self, record: &R) -> Result<u64, ControlError> {
        self.store()
            .await?
            .create(record.key(), encode(record))
            .await
            .map_err(|source| match source.kind() {
                CreateErrorKind::AlreadyExists => conflict::<R>(record.key()),
                _ => ControlError::Write {
                    bucket: R::BUCKET,
                    key: record.key().to_owned(),
                    source: source.into(),
                },
            })
    }

    pub(super) async fn put(&self, record: &R, revision: u64) -> Result<u64, ControlError> {
        self.store()
            .await?
            .update(record.key(), encode(record), revision)
            .await
            .map_err(|source| match source.kind() {
                UpdateErrorKind::WrongLastRevision => conflict::<R>(record.key()),
                _ => ControlError::Write {
                    bucket: R::BUCKET,
                    key: record.key().to_owned(),
                    source: source.into(),
                },
            })
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), ControlError> {
        self.store()
            .await?
            .delete(key)
            .await
            .map_err(|source| ControlError::Write {
                bucket: R::BUCKET,
                key: key.to_owned(),
                source: source.into(),
            })
    }

    pub(super) async fn list(&self) -> Result<Vec<(R, u64)>, ControlError> {
        let mut records = BTreeMap::new();
        let mut events = self.watch().await?;
        while let Some(event) = events.next().await {
            match event? {
                RecordEvent::Put(record, revision) => {
                    records.insert(record.key().to_owned(), (record, revision));
                }
                RecordEvent::Deleted(id, _) | RecordEvent::Unreadable(id, _) => {
                    records.remove(&id.to_string());
                }
                RecordEvent::Synced => return Ok(records.into_values().collect()),
            }
        }
        Err(ControlError::Closed)
    }

    pub(super) async fn watch(&self) -> Result<RecordStream<R>, ControlError> {
        let store = self.store().await?;
        let failed = |source| ControlError::Watch {
            bucket: R::BUCKET,
            source,
        };
        let watch = store
            .watch_with_history(">")
            .await
            .map_err(|source| failed(source.into()))?;
        // Asked after the watch began: whatever is stored by now, it will tell.
        // (`Store::status` would tell what it was when the bucket was opened.)
        let info = store
            .stream
            .get_info()
            .await
            .map_err(|source| failed(source.into()))?;
        let mut watching = Watching {
            watch,
            closed: self.closed.clone(),
            ready: VecDeque::new(),
            target: Some(info.state.last_sequence),
            over: false,
        };
        if info.state.messages == 0 {
            watching.synced();
        }
        Ok(stream::unfold(watching, |mut watching| async {
            let event = watching.next().await?;
            Some((event, watching))
        })
        .boxed())
    }
}

// === impl Watching ===

impl<R: Record> Watching<R> {
    async fn next(&mut self) -> Option<Result<RecordEvent<R>, ControlError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            let next = tokio::select! {
                biased;
                () = self.closed.closed() => None,
                next = self.watch.next() => next,
            };
            match next {
                Some(Ok(entry)) => self.told(&entry),
                Some(Err(source)) => self.end(ControlError::Watch {
                    bucket: R::BUCKET,
                    source: source.into(),
                }),
                None => self.end(ControlError::Closed),
            }
        }
    }

    fn told(&mut self, entry: &Entry) {
        let revision = entry.revision;
        let id = R::parse_key(&entry.key);
        let event = match entry.operation {
            Operation::Put => match decode::<R>(entry) {
                Ok(record) => Some(RecordEvent::Put(record, revision)),
                Err(error) => {
                    tracing::error!(bucket = R::BUCKET, key = entry.key, %error, "Record is not readable");
                    id.map(|id| match R::UNREADABLE_IS_DELETED {
                        true => RecordEvent::Deleted(id, revision),
                        false => RecordEvent::Unreadable(id, revision),
                    })
                }
            },
            Operation::Delete | Operation::Purge => id.map(|id| RecordEvent::Deleted(id, revision)),
        };
        // A key that is no name is never told.
        self.ready.extend(event.map(Ok));
        if entry.delta == 0 || self.target.is_some_and(|target| entry.revision >= target) {
            self.synced();
        }
    }

    fn synced(&mut self) {
        if self.target.take().is_some() {
            self.ready.push_back(Ok(RecordEvent::Synced));
        }
    }

    fn end(&mut self, error: ControlError) {
        self.over = true;
        self.ready.push_back(Err(error));
    }
}

pub(super) fn encode<R: Record>(record: &R) -> Bytes {
    record.encode_to_vec().into()
}

/// Decodes an entry and checks that it stands under its own name.
pub(super) fn decode<R: Record>(entry: &Entry) -> Result<R, super::BoxError> {
    let record = R::decode(entry.value.clone())?;
    match R::parse_key(&entry.key) {
        Some(id) if record.fits(&id) => Ok(record),
        _ => Err(format!("the record calls itself `{}`", record.key()).into()),
    }
}

fn conflict<R: Record>(key: &str) -> ControlError {
    ControlError::Conflict {
        bucket: R::BUCKET,
        key: key.to_owned(),
    }
}
