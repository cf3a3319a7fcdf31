//! The tenants this Shield knows. Ready means informed: nothing is served
//! before the bucket was read to its end once, since unreadable is not empty.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use arqon_proto::{names::TenantId, v1::TenantRecord};
use tokio::sync::broadcast;

/// Changes a slow listener may lag behind. One that lags is told so by its
/// receiver and looks at all its tenants again.
const CHANGES_KEPT: usize = 1024;

/// One version of a tenant's record. Another version is another `Arc`.
#[derive(Debug)]
pub struct Tenant {
    /// Its name.
    pub id: TenantId,
    /// What the control plane says about it.
    pub record: TenantRecord,
}

/// What happened to a tenant.
#[derive(Clone, Debug)]
pub enum TenantChange {
    /// It is new or its record changed.
    Put(Arc<Tenant>),
    /// It is gone.
    Deleted(TenantId),
}

/// All tenants, kept up to date by the control plane's watcher.
#[derive(Debug)]
pub struct Tenants {
    tenants: RwLock<HashMap<TenantId, Arc<Tenant>>>,
    ready: AtomicBool,
    stale: AtomicBool,
    changes: broadcast::Sender<TenantChange>,
}

// === impl Tenants ===

impl Tenants {
    /// No tenants, and not ready.
    pub fn new() -> Self {
        Self {
            tenants: RwLock::default(),
            ready: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            changes: broadcast::Sender::new(CHANGES_KEPT),
        }
    }

    /// The tenant as last heard of.
    pub fn get(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        self.tenants
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.tenants
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<TenantChange> {
        self.changes.subscribe()
    }

    /// Whether the bucket was read to its end once.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether the control plane was not heard for too long.
    pub fn stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    /// Takes in a record. An equal one changes nothing.
    pub fn put(&self, id: TenantId, record: TenantRecord) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        if tenants.get(&id).is_some_and(|known| known.record == record) {
            return;
        }
        let tenant = Arc::new(Tenant {
            id: id.clone(),
            record,
        });
        tenants.insert(id, Arc::clone(&tenant));
        // Sent under the lock, so that listeners hear changes in their order.
        let _ = self.changes.send(TenantChange::Put(tenant));
    }

    /// Forgets a tenant.
    pub fn remove(&self, id: &TenantId) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        if tenants.remove(id).is_some() {
            let _ = self.changes.send(TenantChange::Deleted(id.clone()));
        }
    }

    /// The bucket was read to its end.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// The control plane is silent for too long, or heard again.
    pub fn set_stale(&self, stale: bool) {
        self.stale.store(stale, Ordering::Release);
    }
}

impl Default for Tenants {
    fn default() -> Self {
        Self::new()
    }
}
