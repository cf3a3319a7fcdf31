//! The data on the CONTROL account: records of tenants and pools in KV, the
//! orders to Shields and their beats.
//!
//! Everything hangs on one [`Connection`] that never comes back: when it
//! breaks, each stream from here ends with an error at once (the client's own
//! watcher would be silent for 10 s and then repeat itself), and the owner
//! opens a new connection and reads from the start.

mod policies;
mod pulse;
mod records;
mod revocations;
mod sessions;

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use prost::Message as _;

use async_nats::jetstream;
use async_nats::{HeaderMap, Subject};

use arqon_proto::names::{NodeId, TenantId};
use arqon_proto::v1;

pub use policies::{MAX_OBJECT_BYTES, PolicyKey, PolicyRecordEvent, PolicyRecords, PolicyScope};
pub use pulse::Pulse;
pub use records::{PoolEvent, Record, RecordEvent, RecordStream, TenantEvent};
pub use revocations::{RevocationEvent, RevocationKey, RevocationRecords, TokenDigest};

use crate::connect::{Closed, Connection};
use crate::subjects;
use records::Bucket;

/// Set on every order and beat. JetStream delivers stored messages to any
/// subject a consumer names, past the consumer's own permissions; it cannot
/// add a header, so such a message is never taken for an order.
const KIND: &str = "Arqon-Kind";
const ORDER: &str = "order";
const BEAT: &str = "beat";
const PRESENCE: &str = "presence";
const ASK: &str = "ask";
const LOAD: &str = "load";

/// A cluster that has just started refuses, or does not answer at all, until it
/// has elected a leader.
const LEADER_PATIENCE: Duration = Duration::from_secs(15);

/// The CONTROL account as seen over one connection.
#[derive(Debug, Clone)]
pub struct ControlStore {
    client: async_nats::Client,
    closed: Closed,
    tenants: Bucket<v1::TenantRecord>,
    pools: Bucket<v1::PoolRecord>,
    policies: Bucket<v1::PolicyEntry>,
    revocations: Bucket<v1::Revocation>,
    context: jetstream::Context,
    objects: policies::Objects,
}

/// Why CONTROL could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The bucket is missing or may not be opened.
    #[error("cannot open KV bucket `{bucket}`")]
    Bucket {
        /// The bucket.
        bucket: String,
        /// The reason.
        source: BoxError,
    },
    /// The record cannot be read.
    #[error("cannot read `{key}` in KV bucket `{bucket}`")]
    Read {
        /// The bucket.
        bucket: &'static str,
        /// The key.
        key: String,
        /// The reason.
        source: BoxError,
    },
    /// The record cannot be written.
    #[error("cannot write `{key}` in KV bucket `{bucket}`")]
    Write {
        /// The bucket.
        bucket: &'static str,
        /// The key.
        key: String,
        /// The reason.
        source: BoxError,
    },
    /// Another writer was first: the record exists, or is at another revision.
    #[error("`{key}` in KV bucket `{bucket}` was changed by another writer")]
    Conflict {
        /// The bucket.
        bucket: &'static str,
        /// The key.
        key: String,
    },
    /// The watch broke; only a new one is complete again.
    #[error("the watch on KV bucket `{bucket}` broke")]
    Watch {
        /// The bucket.
        bucket: &'static str,
        /// The reason.
        source: BoxError,
    },
    /// There is no such object.
    #[error("there is no object `{object}`")]
    NoObject {
        /// Its name.
        object: String,
    },
    /// The object is not what its name says.
    #[error("object `{object}` is damaged: {problem}")]
    BadObject {
        /// Its name.
        object: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The object is larger than any may be.
    #[error("object `{object}` has over {MAX_OBJECT_BYTES} bytes")]
    TooLarge {
        /// Its name.
        object: String,
    },
    /// The object could not be read or written.
    #[error("object `{object}` cannot be read or written")]
    Object {
        /// Its name.
        object: String,
        /// The reason.
        source: BoxError,
    },
    /// The connection is over.
    #[error("the connection to CONTROL is closed")]
    Closed,
    /// A message could not be sent.
    #[error("cannot publish on `{subject}`")]
    Publish {
        /// The subject.
        subject: String,
        /// The reason.
        source: BoxError,
    },
    /// A subscription could not be made.
    #[error("cannot subscribe to `{subject}`")]
    Subscribe {
        /// The subject.
        subject: String,
        /// The reason.
        source: BoxError,
    },
}

/// Any error of the client, kept as a cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

// === impl ControlStore ===

impl ControlStore {
    /// CONTROL over `connection`; opens nothing yet.
    pub fn new(connection: &Connection) -> Self {
        let client = connection.client.clone();
        let context = jetstream::new(client.clone());
        ControlStore {
            tenants: Bucket::new(context.clone(), connection.closed.clone()),
            pools: Bucket::new(context.clone(), connection.closed.clone()),
            policies: Bucket::new(context.clone(), connection.closed.clone()),
            revocations: Bucket::new(context.clone(), connection.closed.clone()),
            context,
            objects: policies::Objects::default(),
            closed: connection.closed.clone(),
            client,
        }
    }

    /// Creates the buckets, the object store and the stream that are missing
    /// (admin only). `replicas` is 1 on a single server, 3 on a cluster.
    pub async fn ensure_buckets(&self, replicas: usize) -> Result<(), ControlError> {
        let mut context = jetstream::new(self.client.clone());
        context.set_timeout(Duration::from_secs(2));
        for bucket in subjects::BUCKETS {
            let config = jetstream::kv::Config {
                bucket: bucket.to_owned(),
                history: 1,
                num_replicas: replicas,
                limit_markers: revocations::markers(bucket),
                ..Default::default()
            };
            persist(bucket, || async {
                match context.create_key_value(config.clone()).await {
                    Ok(_) => Ok(()),
                    // One of an older version has another configuration.
                    Err(_)
                        if bucket == subjects::BUCKET_REVOCATIONS
                            && self.expires().await.is_ok() =>
                    {
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            })
            .await?;
        }
        let objects = policies::objects(replicas);
        persist(subjects::STORE_WASM, || {
            context.create_object_store(objects.clone())
        })
        .await?;
        let audits = policies::audits(replicas);
        persist(subjects::STREAM_AUDIT, || {
            context.get_or_create_stream(audits.clone())
        })
        .await
    }

    /// Creates what a platform of an older version lacks, with as many copies
    /// as its tenants have; nothing on a server that has no tenants yet.
    pub(crate) async fn upgrade(&self) -> Result<(), ControlError> {
        let mut context = jetstream::new(self.client.clone());
        context.set_timeout(Duration::from_secs(2));
        if context.get_stream(subjects::STREAM_AUDIT).await.is_ok() {
            return Ok(());
        }
        let tenants = format!("KV_{}", subjects::BUCKET_TENANTS);
        match context.get_stream(tenants).await {
            Ok(tenants) => {
                let replicas = tenants.cached_info().config.num_replicas;
                self.ensure_buckets(replicas).await
            }
            Err(_) => Ok(()),
        }
    }

    /// A tenant's record and its revision.
    pub async fn get_tenant(
        &self,
        id: &TenantId,
    ) -> Result<Option<(v1::TenantRecord, u64)>, ControlError> {
        self.tenants.get(id.as_str()).await
    }

    /// Writes the record of a new tenant; [`ControlError::Conflict`] if it has one.
    pub async fn create_tenant(&self, record: &v1::TenantRecord) -> Result<u64, ControlError> {
        self.tenants.create(record).await
    }

    /// Replaces a tenant's record if it is still at `revision`; returns the new one.
    pub async fn put_tenant(
        &self,
        record: &v1::TenantRecord,
        revision: u64,
    ) -> Result<u64, ControlError> {
        self.tenants.put(record, revision).await
    }

    /// Deletes a tenant's record.
    pub async fn delete_tenant(&self, id: &TenantId) -> Result<(), ControlError> {
        self.tenants.delete(id.as_str()).await
    }

    /// All tenants with their revisions, by id.
    pub async fn list_tenants(&self) -> Result<Vec<(v1::TenantRecord, u64)>, ControlError> {
        self.tenants.list().await
    }

    /// All tenants, then [`RecordEvent::Synced`], then every change; ends after
    /// the first error.
    pub async fn watch_tenants(&self) -> Result<RecordStream<v1::TenantRecord>, ControlError> {
        self.tenants.watch().await
    }

    /// A pool's record and its revision.
    pub async fn get_pool(
        &self,
        name: &NodeId,
    ) -> Result<Option<(v1::PoolRecord, u64)>, ControlError> {
        self.pools.get(name.as_str()).await
    }

    /// Writes the record of a new pool; [`ControlError::Conflict`] if it has one.
    pub async fn create_pool(&self, record: &v1::PoolRecord) -> Result<u64, ControlError> {
        self.pools.create(record).await
    }

    /// Replaces a pool's record if it is still at `revision`; returns the new one.
    pub async fn put_pool(
        &self,
        record: &v1::PoolRecord,
        revision: u64,
    ) -> Result<u64, ControlError> {
        self.pools.put(record, revision).await
    }

    /// All pools with their revisions, by name.
    pub async fn list_pools(&self) -> Result<Vec<(v1::PoolRecord, u64)>, ControlError> {
        self.pools.list().await
    }

    /// All pools, then [`RecordEvent::Synced`], then every change; ends after
    /// the first error.
    pub async fn watch_pools(&self) -> Result<RecordStream<v1::PoolRecord>, ControlError> {
        self.pools.watch().await
    }

    /// Publishes a Shield's report.
    pub async fn publish_beat(
        &self,
        id: &NodeId,
        beat: &v1::ShieldBeat,
    ) -> Result<(), ControlError> {
        self.publish(subjects::shield_beat(id), BEAT, beat.encode_to_vec())
            .await
    }

    /// The reports of all Shields. A report that names another Shield than its
    /// subject is dropped.
    pub async fn subscribe_beats(
        &self,
    ) -> Result<BoxStream<'static, v1::ShieldBeat>, ControlError> {
        let messages = self.subscribe(subjects::shield_beats().to_owned()).await?;
        Ok(messages
            .filter_map(|message| async move {
                let beat = v1::ShieldBeat::decode(typed(&message, BEAT)?).ok()?;
                let id = NodeId::parse(&beat.shield).ok()?;
                (message.subject.as_str() == subjects::shield_beat(&id)).then_some(beat)
            })
            .boxed())
    }

    /// Publishes a page of a Shield's presence digests.
    pub async fn publish_presence(
        &self,
        id: &NodeId,
        digests: &v1::PresenceDigests,
    ) -> Result<(), ControlError> {
        let subject = subjects::shield_presence(id);
        self.publish(subject, PRESENCE, digests.encode_to_vec())
            .await
    }

    /// The presence digests of all Shields, as [`Self::subscribe_beats`].
    pub async fn subscribe_presence(
        &self,
    ) -> Result<BoxStream<'static, v1::PresenceDigests>, ControlError> {
        let messages = self
            .subscribe(subjects::shield_presences().to_owned())
            .await?;
        Ok(messages
            .filter_map(|message| async move {
                let digests = v1::PresenceDigests::decode(typed(&message, PRESENCE)?).ok()?;
                let id = NodeId::parse(&digests.shield).ok()?;
                (message.subject.as_str() == subjects::shield_presence(&id)).then_some(digests)
            })
            .boxed())
    }

    /// A Brain asks a Shield for its presence digests.
    pub async fn publish_ask(
        &self,
        brain: &NodeId,
        shield: &NodeId,
        ask: &v1::PresenceAsk,
    ) -> Result<(), ControlError> {
        let subject = subjects::brain_ask(brain, shield);
        self.publish(subject, ASK, ask.encode_to_vec()).await
    }

    /// What Brains ask of one Shield.
    pub async fn subscribe_asks(
        &self,
        shield: &NodeId,
    ) -> Result<BoxStream<'static, v1::PresenceAsk>, ControlError> {
        let messages = self.subscribe(subjects::brain_asks(shield)).await?;
        Ok(messages
            .filter_map(
                |message| async move { v1::PresenceAsk::decode(typed(&message, ASK)?).ok() },
            )
            .boxed())
    }

    /// Tells what tenants use on a Shield.
    pub async fn publish_load(
        &self,
        id: &NodeId,
        load: &v1::ShieldLoad,
    ) -> Result<(), ControlError> {
        self.publish(subjects::shield_load(id), LOAD, load.encode_to_vec())
            .await
    }

    /// What tenants use on every Shield, this one too; reports under a name that
    /// is not the sender's are dropped.
    pub async fn subscribe_loads(
        &self,
    ) -> Result<BoxStream<'static, v1::ShieldLoad>, ControlError> {
        let messages = self.subscribe(subjects::shield_loads().to_owned()).await?;
        Ok(messages
            .filter_map(|message| async move {
                let load = v1::ShieldLoad::decode(typed(&message, LOAD)?).ok()?;
                let id = NodeId::parse(&load.shield).ok()?;
                (message.subject.as_str() == subjects::shield_load(&id)).then_some(load)
            })
            .boxed())
    }

    /// Publishes a Brain's report.
    pub async fn publish_brain_beat(
        &self,
        id: &NodeId,
        beat: &v1::BrainBeat,
    ) -> Result<(), ControlError> {
        self.publish(subjects::brain_beat(id), BEAT, beat.encode_to_vec())
            .await
    }

    /// The reports of all Brains, as [`Self::subscribe_beats`].
    pub async fn subscribe_brain_beats(
        &self,
    ) -> Result<BoxStream<'static, v1::BrainBeat>, ControlError> {
        let messages = self.subscribe(subjects::brain_beats().to_owned()).await?;
        Ok(messages
            .filter_map(|message| async move {
                let beat = v1::BrainBeat::decode(typed(&message, BEAT)?).ok()?;
                let id = NodeId::parse(&beat.brain).ok()?;
                (message.subject.as_str() == subjects::brain_beat(&id)).then_some(beat)
            })
            .boxed())
    }

    /// Sends an order to one Shield, or to all with `None`; admin only.
    pub async fn send_order(
        &self,
        to: Option<&NodeId>,
        order: v1::control::Order,
    ) -> Result<(), ControlError> {
        let subject = to.map_or_else(|| subjects::ctl_all().to_owned(), subjects::ctl_shield);
        let control = v1::Control { order: Some(order) };
        self.publish(subject, ORDER, control.encode_to_vec()).await
    }

    /// The orders to one Shield and those to all; ends with the connection.
    pub async fn subscribe_orders(
        &self,
        id: &NodeId,
    ) -> Result<BoxStream<'static, v1::control::Order>, ControlError> {
        let all = self.subscribe(subjects::ctl_all().to_owned()).await?;
        let own = self.subscribe(subjects::ctl_shield(id)).await?;
        Ok(stream::select(all, own)
            .filter_map(|message| async move {
                v1::Control::decode(typed(&message, ORDER)?).ok()?.order
            })
            .boxed())
    }

    /// Returns when the server has answered, so has everything sent before.
    pub async fn flush(&self) -> Result<(), ControlError> {
        self.client.flush().await.map_err(|_| ControlError::Closed)
    }

    /// Tells when the connection is over.
    pub fn closed(&self) -> &Closed {
        &self.closed
    }

    async fn publish(
        &self,
        subject: String,
        kind: &str,
        payload: Vec<u8>,
    ) -> Result<(), ControlError> {
        let mut headers = HeaderMap::new();
        headers.insert(KIND, kind);
        let failed = |source: BoxError| ControlError::Publish {
            subject: subject.clone(),
            source,
        };
        self.client
            .publish_with_headers(Subject::from(subject.clone()), headers, payload.into())
            .await
            .map_err(|source| failed(source.into()))?;
        self.client
            .flush()
            .await
            .map_err(|source| failed(source.into()))
    }

    async fn subscribe(&self, subject: String) -> Result<async_nats::Subscriber, ControlError> {
        self.client
            .subscribe(subject.clone())
            .await
            .map_err(|source| ControlError::Subscribe {
                subject,
                source: source.into(),
            })
    }
}

/// Creates something, for as long as a cluster may take to elect a leader.
async fn persist<T, E, F>(name: &str, create: impl Fn() -> F) -> Result<(), ControlError>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    let patience = Instant::now() + LEADER_PATIENCE;
    while let Err(source) = create().await {
        if Instant::now() >= patience {
            return Err(ControlError::Bucket {
                bucket: name.to_owned(),
                source: source.into(),
            });
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}

/// The payload, if the message is of this kind.
fn typed(message: &async_nats::Message, kind: &str) -> Option<Bytes> {
    let headers = message.headers.as_ref()?;
    (headers.get(KIND)?.as_str() == kind).then(|| message.payload.clone())
}
