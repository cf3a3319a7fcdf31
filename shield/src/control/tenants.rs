//! The tenants as last read: who they are, and how fresh that is.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arqon_proto::{
    names::TenantId,
    v1::{self, TenantState},
};
use tokio::sync::{broadcast, watch};

/// A snapshot is stale after so long without the control plane.
pub const STALE_AFTER: Duration = Duration::from_secs(30);

/// Changes kept for a follower that is slow to read; it can look up the rest.
const CHANGES: usize = 1024;

/// One tenant, as last read. Never changed, only replaced.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    /// The tenant.
    pub id: TenantId,
    /// Its record.
    pub record: v1::TenantRecord,
}

/// A difference between two snapshots.
#[derive(Clone, Debug, PartialEq)]
pub enum TenantChange {
    /// New, or another record.
    Put(Arc<Tenant>),
    /// Deleted, or moved to another pool.
    Gone(TenantId),
}

/// The tenants that this Shield's pool serves.
#[derive(Debug)]
pub struct Tenants {
    snapshot: RwLock<HashMap<TenantId, Arc<Tenant>>>,
    changes: broadcast::Sender<TenantChange>,
    freshness: watch::Sender<Freshness>,
    /// The newest revision of the bucket that is in force.
    revision: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    /// Never read to the end.
    Unread,
    /// Read to the end and followed since.
    Fresh,
    /// Not followed since then.
    Since(Instant),
}

// === impl Tenant ===

impl Tenant {
    /// Whether its sessions are accepted.
    pub fn is_active(&self) -> bool {
        self.record.state() == TenantState::Active
    }
}

// === impl Tenants ===

impl Tenants {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            snapshot: RwLock::default(),
            changes: broadcast::Sender::new(CHANGES),
            freshness: watch::Sender::new(Freshness::Unread),
            revision: AtomicU64::new(0),
        }
    }

    /// The newest revision of the bucket that is in force here.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// What was told as of this revision is in force.
    pub(super) fn set_revision(&self, revision: u64) {
        self.revision.store(revision, Ordering::Relaxed);
    }

    /// The tenant, if this pool serves it; it may be suspended.
    pub fn get(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        self.read().get(id).cloned()
    }

    /// All tenants of the pool, in no order.
    pub fn all(&self) -> Vec<Arc<Tenant>> {
        self.read().values().cloned().collect()
    }

    /// How many tenants the pool has.
    pub fn count(&self) -> usize {
        self.read().len()
    }

    /// Follows the changes from here on.
    pub fn subscribe(&self) -> broadcast::Receiver<TenantChange> {
        self.changes.subscribe()
    }

    /// Whether all tenants were read at least once.
    pub fn ready(&self) -> bool {
        *self.freshness.borrow() != Freshness::Unread
    }

    /// Returns when all tenants were read once.
    pub async fn wait_ready(&self) {
        let mut freshness = self.freshness.subscribe();
        // The sender lives as long as self.
        let _ = freshness.wait_for(|now| *now != Freshness::Unread).await;
    }

    /// Whether the snapshot is too old to admit anyone by.
    pub fn stale(&self) -> bool {
        self.age().is_some_and(|age| age > STALE_AFTER)
    }

    /// How long the control plane has not been heard; None while it is.
    pub fn age(&self) -> Option<Duration> {
        match *self.freshness.borrow() {
            Freshness::Unread | Freshness::Fresh => None,
            Freshness::Since(lost) => Some(lost.elapsed()),
        }
    }

    /// Replaces the snapshot by one read to the end.
    pub fn replace(&self, records: HashMap<TenantId, v1::TenantRecord>) -> Vec<TenantChange> {
        let before: HashSet<TenantId> = self.read().keys().cloned().collect();
        let gone = before.iter().filter(|id| !records.contains_key(*id));
        let mut changes: Vec<_> = gone.filter_map(|id| self.delete(id)).collect();
        changes.extend(
            records
                .into_iter()
                .filter_map(|(id, record)| self.put(id, record)),
        );
        self.freshness.send_replace(Freshness::Fresh);
        changes
    }

    /// Takes over a record; None if nothing changed.
    pub(super) fn put(&self, id: TenantId, record: v1::TenantRecord) -> Option<TenantChange> {
        let tenant = Arc::new(Tenant { id, record });
        {
            let mut snapshot = self
                .snapshot
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let old = snapshot.insert(tenant.id.clone(), tenant.clone());
            if old.is_some_and(|old| old == tenant) {
                return None;
            }
        }
        Some(self.tell(TenantChange::Put(tenant)))
    }

    /// Forgets a tenant; None if it was not known.
    pub(super) fn delete(&self, id: &TenantId) -> Option<TenantChange> {
        {
            let mut snapshot = self
                .snapshot
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            snapshot.remove(id)?;
        }
        Some(self.tell(TenantChange::Gone(id.clone())))
    }

    /// The control plane is no longer heard, and was last heard then.
    pub(crate) fn lost(&self, heard: Instant) {
        self.freshness.send_if_modified(|freshness| {
            let lost = *freshness == Freshness::Fresh;
            if lost {
                *freshness = Freshness::Since(heard);
            }
            lost
        });
    }

    fn tell(&self, change: TenantChange) -> TenantChange {
        // Nobody may be following.
        let _ = self.changes.send(change.clone());
        change
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<TenantId, Arc<Tenant>>> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Tenants {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn id(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    fn record(name: &str) -> v1::TenantRecord {
        v1::TenantRecord {
            id: name.to_owned(),
            state: TenantState::Active.into(),
            ..Default::default()
        }
    }

    #[test]
    fn unread_is_not_empty_and_a_full_read_makes_ready() {
        let tenants = Tenants::new();
        assert!(!tenants.ready());
        tenants.lost(Instant::now());
        assert!(!tenants.ready(), "a failed first read changes nothing");
        tenants.replace(HashMap::new());
        assert!(tenants.ready() && !tenants.stale());
        tenants.lost(Instant::now());
        assert!(tenants.ready() && tenants.age().is_some() && !tenants.stale());
        // What counts is when it was heard, not when that was noticed.
        tenants.replace(HashMap::new());
        if let Some(heard) = Instant::now().checked_sub(STALE_AFTER * 2) {
            tenants.lost(heard);
            assert!(tenants.stale());
        }
    }

    #[test]
    fn a_full_read_tells_only_what_differs() {
        let tenants = Tenants::new();
        let read = |names: &[&str]| {
            let records = names.iter().map(|name| (id(name), record(name)));
            tenants.replace(records.collect())
        };
        assert_eq!(read(&["a", "b"]).len(), 2);
        assert_eq!(read(&["a", "b"]).len(), 0);
        assert_eq!(read(&["b"]), [TenantChange::Gone(id("a"))]);
        let mut suspended = record("b");
        assert_eq!(tenants.put(id("b"), suspended.clone()), None);
        suspended.state = TenantState::Suspended.into();
        let change = tenants.put(id("b"), suspended);
        assert!(matches!(change, Some(TenantChange::Put(tenant)) if !tenant.is_active()));
        assert_eq!(tenants.count(), 1);
    }
}
