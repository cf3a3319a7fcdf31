//! Pools: Shields that share a fleet key, and the tenants that list it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arqon_proto::names::NodeId;
use arqon_proto::v1;
use futures_util::StreamExt;

use super::{Admin, AdminError, now_ms, tenant_id};
use crate::control::ControlError;

/// Shields beat once a second; one that missed three is not there.
const CENSUS: Duration = Duration::from_millis(3500);

/// How far the rotation of a fleet key has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RotateStep {
    /// A new key was made, or one from an interrupted rotation is taken up.
    KeyReady {
        /// Its public key, `A…`.
        public: String,
    },
    /// Every tenant of the pool lists both keys.
    BothListed {
        /// How many tenants.
        tenants: usize,
    },
    /// The file Shields read holds the new key; those on other hosts need a copy.
    InForce {
        /// The file.
        path: PathBuf,
    },
    /// A Shield signs with the new key.
    Switched {
        /// The Shield.
        shield: String,
    },
    /// The old key works nowhere any more.
    OldRemoved {
        /// How many tenants.
        tenants: usize,
    },
}

impl Admin {
    /// Creates a pool and its first fleet key; one that exists is left as it is.
    pub async fn create_pool(&self, name: &NodeId) -> Result<(v1::PoolRecord, bool), AdminError> {
        if let Some((record, _)) = self.control.get_pool(name).await? {
            return Ok((record, true));
        }
        let key = self.state.ensure_fleet_key(name)?;
        let record = v1::PoolRecord {
            name: name.to_string(),
            fleet_keys: vec![key.public().to_owned()],
            created_at_ms: now_ms(),
        };
        match self.control.create_pool(&record).await {
            Ok(_) => Ok((record, false)),
            Err(ControlError::Conflict { .. }) => Ok((self.require_pool(name).await?.0, true)),
            Err(error) => Err(error.into()),
        }
    }

    /// All pools, by name.
    pub async fn list_pools(&self) -> Result<Vec<v1::PoolRecord>, AdminError> {
        let records = self.control.list_pools().await?;
        Ok(records.into_iter().map(|(record, _)| record).collect())
    }

    /// Replaces a pool's fleet key while its Shields run: both keys are listed,
    /// Shields switch, the old one is removed. Waits up to `patience` for the
    /// Shields; if some stay behind, both keys go on working and the call can
    /// be repeated.
    pub async fn rotate_pool_key(
        &self,
        name: &NodeId,
        patience: Duration,
        mut progress: impl FnMut(RotateStep),
    ) -> Result<v1::PoolRecord, AdminError> {
        let (mut record, mut revision) = self.require_pool(name).await?;
        if record.fleet_keys.len() < 2 {
            let key = self.state.new_fleet_key(name)?;
            record.fleet_keys.insert(0, key.public().to_owned());
            revision = self.control.put_pool(&record, revision).await?;
        }
        let new = record.fleet_keys.first().cloned().unwrap_or_default();
        progress(RotateStep::KeyReady {
            public: new.clone(),
        });
        let tenants = self.settle_pool(name).await?;
        progress(RotateStep::BothListed { tenants });

        self.state.use_fleet_key(name, &new)?;
        progress(RotateStep::InForce {
            path: self.state.fleet_key_path(name),
        });
        self.wait_for_shields(name, &new, patience, &mut progress)
            .await?;

        record.fleet_keys.truncate(1);
        self.control.put_pool(&record, revision).await?;
        let tenants = self.settle_pool(name).await?;
        self.state.forget_other_fleet_keys(name, &new)?;
        progress(RotateStep::OldRemoved { tenants });
        Ok(record)
    }

    /// Orders the Shields of a pool to read the key file, until all sign with
    /// `key`. A Shield says so only once its tenant connections have moved.
    async fn wait_for_shields(
        &self,
        pool: &NodeId,
        key: &str,
        patience: Duration,
        progress: &mut impl FnMut(RotateStep),
    ) -> Result<(), AdminError> {
        let mut beats = self.control.subscribe_beats().await?;
        let census_ends = Instant::now() + CENSUS;
        let deadline = census_ends + patience;
        let mut heard: BTreeMap<String, Instant> = BTreeMap::new();
        let mut switched: BTreeSet<String> = BTreeSet::new();
        let mut order_at = Instant::now();
        loop {
            let now = Instant::now();
            heard.retain(|_, at| now.duration_since(*at) < CENSUS);
            let behind: Vec<String> = heard
                .keys()
                .filter(|shield| !switched.contains(*shield))
                .cloned()
                .collect();
            if behind.is_empty() && now >= census_ends {
                return Ok(());
            }
            if now >= deadline {
                return Err(AdminError::ShieldsBehind {
                    pool: pool.clone(),
                    shields: behind,
                });
            }
            // Repeated, for a Shield that starts or reconnects meanwhile.
            if now >= order_at {
                let order = v1::ReloadFleetKey {
                    pool: pool.to_string(),
                    fleet_key: key.to_owned(),
                };
                self.control
                    .send_order(None, v1::control::Order::ReloadFleetKey(order))
                    .await?;
                order_at = now + Duration::from_secs(1);
            }
            let beat = match tokio::time::timeout(Duration::from_millis(100), beats.next()).await {
                Err(_) => continue,
                Ok(None) => return Err(ControlError::Closed.into()),
                Ok(Some(beat)) => beat,
            };
            if beat.pool != pool.as_str() {
                continue;
            }
            heard.insert(beat.shield.clone(), Instant::now());
            if beat.fleet_key == key {
                if switched.insert(beat.shield.clone()) {
                    progress(RotateStep::Switched {
                        shield: beat.shield,
                    });
                }
            } else {
                switched.remove(&beat.shield);
            }
        }
    }

    /// Makes the accounts of a pool's tenants equal to their records and the
    /// pool's keys; returns how many there are.
    async fn settle_pool(&self, name: &NodeId) -> Result<usize, AdminError> {
        let mut tenants = 0;
        for record in self.list().await? {
            if record.pool != name.as_str() {
                continue;
            }
            let id = tenant_id(&record)?;
            let lock = self.lock(&id);
            let _held = lock.lock().await;
            self.settle(&id, false).await?;
            tenants += 1;
        }
        Ok(tenants)
    }

    async fn require_pool(&self, name: &NodeId) -> Result<(v1::PoolRecord, u64), AdminError> {
        self.control
            .get_pool(name)
            .await?
            .ok_or_else(|| AdminError::NoPool {
                pool: name.to_string(),
            })
    }
}
