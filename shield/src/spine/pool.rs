//! All tenants' links: opened on first use, rotated on order, closed at the end.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use arqon_proto::names::TenantId;
use arqon_spine::credentials::{CredentialsError, FleetKey};
use arqon_telemetry::{Metrics, TraceContext};
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::{
    counters::Counters,
    link::{LinkState, TenantLink},
    settings::SpineParams,
};
use crate::{
    control::Tenant,
    presence::Presence,
    quota::{Quotas, RoomsHere, TenantQuota},
};

/// Connections opened at once: a rotation of all tenants, or a server's
/// restart, must not become a storm of handshakes.
const OPENINGS: usize = 16;

/// Links that nobody uses are forgotten this often.
const SWEEP: Duration = Duration::from_secs(30);

/// The links of this Shield.
#[derive(Debug)]
pub struct SpinePool {
    params: Arc<SpineParams>,
    fleet_key: Arc<ArcSwap<FleetKey>>,
    openings: Arc<Semaphore>,
    counters: Arc<Counters>,
    presence: Arc<Presence>,
    quotas: Arc<Quotas>,
    links: Mutex<Links>,
}

#[derive(Debug, Default)]
struct Links {
    by_tenant: HashMap<TenantId, Arc<TenantLink>>,
    closed: bool,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum SpineError {
    /// The Shield is stopping.
    #[error("the Spine connections of this Shield are closed")]
    Closed,
    /// The fleet key cannot be read.
    #[error("no fleet key to mint tenant credentials with")]
    FleetKey(#[from] CredentialsError),
}

/// One tenant as the pool sees it.
#[derive(Clone, Debug)]
pub struct LinkStats {
    /// The tenant.
    pub tenant: TenantId,
    /// Where its link stands.
    pub state: LinkState,
    /// Rooms with at least one member here.
    pub rooms: usize,
}

// === impl SpinePool ===

impl SpinePool {
    /// A pool without links. Reads the fleet key.
    ///
    /// # Errors
    /// If the fleet key cannot be read.
    pub fn new(
        params: SpineParams,
        quotas: Arc<Quotas>,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, SpineError> {
        let fleet_key = FleetKey::read(&params.fleet_key_file)?;
        let pool = Arc::new(Self {
            presence: Arc::new(Presence::new(params.presence, metrics)),
            quotas,
            params: Arc::new(params),
            fleet_key: Arc::new(ArcSwap::from_pointee(fleet_key)),
            openings: Arc::new(Semaphore::new(OPENINGS)),
            counters: Arc::new(Counters::new(metrics)),
            links: Mutex::default(),
        });
        let weak = Arc::downgrade(&pool);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                match weak.upgrade() {
                    Some(pool) => pool.sweep(),
                    None => break,
                }
            }
        });
        Ok(pool)
    }

    /// The tenant's link; its connection is opened meanwhile if it is not open,
    /// for `cause` if that is traced. What is asked of the link before it is
    /// open waits for it.
    ///
    /// # Errors
    /// If the pool was shut down.
    pub fn link(
        &self,
        tenant: &Arc<Tenant>,
        cause: Option<TraceContext>,
    ) -> Result<Arc<TenantLink>, SpineError> {
        // Before the links are locked: quotas look at links under a lock of their own.
        let quota = self.quotas.of(tenant);
        let link = {
            let mut links = self.lock();
            if links.closed {
                return Err(SpineError::Closed);
            }
            let link = links
                .by_tenant
                .entry(tenant.id.clone())
                .or_insert_with(|| self.spawn(tenant, &quota))
                .clone();
            if link.state() == LinkState::Closed {
                // Its tenant was gone for a while.
                let fresh = self.spawn(tenant, &quota);
                links.by_tenant.insert(tenant.id.clone(), fresh.clone());
                fresh
            } else {
                link
            }
        };
        link.wake(cause);
        Ok(link)
    }

    fn spawn(&self, tenant: &Arc<Tenant>, quota: &Arc<TenantQuota>) -> Arc<TenantLink> {
        TenantLink::spawn(
            tenant.clone(),
            &self.params,
            &self.fleet_key,
            &self.openings,
            &self.counters,
            self.presence.of(&tenant.id, &tenant.record.account),
            Arc::clone(quota),
        )
    }

    /// What tenants may use, and use.
    pub fn quotas(&self) -> &Arc<Quotas> {
        &self.quotas
    }

    /// The presence of all tenants' sessions.
    pub fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    /// The control plane has a new record of the tenant.
    pub fn update(&self, tenant: &Arc<Tenant>) {
        self.quotas.update(tenant);
        if let Some(link) = self.lock().by_tenant.get(&tenant.id) {
            self.presence.of(&tenant.id, &tenant.record.account);
            link.set_record(tenant);
        }
    }

    /// The tenant is gone: its link is closed.
    pub fn remove(&self, tenant: &TenantId) {
        let link = self.lock().by_tenant.remove(tenant);
        self.presence.gone(tenant);
        if let Some(link) = link {
            tokio::spawn(async move { link.close().await });
        }
    }

    /// Rotates the credentials of one tenant or of all, without a loss; how
    /// many links could not.
    pub async fn rotate(&self, tenant: Option<&TenantId>) -> usize {
        let links: Vec<_> = match tenant {
            Some(tenant) => self
                .lock()
                .by_tenant
                .get(tenant)
                .cloned()
                .into_iter()
                .collect(),
            None => self.lock().by_tenant.values().cloned().collect(),
        };
        let rotations = join_all(links.iter().map(|link| link.rotate())).await;
        rotations.into_iter().filter(|rotated| !rotated).count()
    }

    /// Reads the fleet key again and rotates every link that uses another.
    /// Rotations that fail are tried again by the links themselves.
    ///
    /// # Errors
    /// If the file cannot be read; the key in use stays.
    pub async fn reload_fleet_key(&self) -> Result<(), SpineError> {
        let fleet_key = FleetKey::read(&self.params.fleet_key_file)?;
        let public = fleet_key.public().to_owned();
        self.fleet_key.store(Arc::new(fleet_key));
        let links: Vec<_> = self.lock().by_tenant.values().cloned().collect();
        let outdated = |link: &&Arc<TenantLink>| link.key_in_use().is_some_and(|key| key != public);
        join_all(links.iter().filter(outdated).map(|link| link.rotate())).await;
        Ok(())
    }

    /// The public fleet key that a new connection is minted with.
    pub fn fleet_key(&self) -> String {
        self.fleet_key.load().public().to_owned()
    }

    /// The client of a tenant's connection in use. For tests that step below
    /// every check of Shield; nothing else has a use for it.
    #[doc(hidden)]
    pub fn nats_client(&self, tenant: &TenantId) -> Option<arqon_spine::nats::Client> {
        self.lock().by_tenant.get(tenant)?.client()
    }

    /// The public fleet key that all connections live by: an older one as long
    /// as a single connection still does, so that nobody withdraws it too early.
    pub fn fleet_key_in_force(&self) -> String {
        let newest = self.fleet_key();
        let links = self.lock();
        let mut in_use = links
            .by_tenant
            .values()
            .filter_map(|link| link.key_in_use());
        in_use.find(|key| *key != newest).unwrap_or(newest)
    }

    /// Every link there is, in no order.
    pub fn stats(&self) -> Vec<LinkStats> {
        // Rooms are counted outside the lock, which every new session takes.
        let links: Vec<_> = self.lock().by_tenant.values().cloned().collect();
        let stats = links.iter().map(|link| LinkStats {
            tenant: link.tenant().clone(),
            state: link.state(),
            rooms: link.rooms(),
        });
        stats.collect()
    }

    /// Rooms of a tenant with members here, and their hashes if they are wanted.
    pub(crate) fn rooms_here(&self, tenant: &TenantId, hashes: bool) -> RoomsHere {
        let link = self.lock().by_tenant.get(tenant).cloned();
        link.map_or_else(RoomsHere::default, |link| link.rooms_here(hashes))
    }

    /// Closes all links, each once the server has what was published by it.
    pub async fn shutdown(&self) {
        let links: Vec<_> = {
            let mut links = self.lock();
            links.closed = true;
            links.by_tenant.drain().map(|(_, link)| link).collect()
        };
        join_all(links.iter().map(|link| link.close())).await;
    }

    /// The settings.
    pub fn params(&self) -> &SpineParams {
        &self.params
    }

    /// Where the fleet key is read from.
    pub fn fleet_key_file(&self) -> &Path {
        &self.params.fleet_key_file
    }

    fn sweep(&self) {
        self.lock()
            .by_tenant
            .retain(|_, link| Arc::strong_count(link) > 1 || link.state() != LinkState::Dormant);
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
