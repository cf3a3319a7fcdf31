//! The presence of all tenants of this Shield, and what beats say of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arqon_proto::{names::TenantId, presence::tenant_hash, v1};
use arqon_telemetry::Metrics;

use super::tenant::{PresenceSettings, TenantPresence};

/// Tenants named in a beat because they changed lately.
const RECENT: usize = 64;
/// What lately is: a few beats, since any one may be lost.
const LATELY: Duration = Duration::from_secs(5);
/// Tenants on one page of digests: some 90 bytes each.
const PAGE: usize = 400;

/// The presence of this Shield.
#[derive(Debug)]
pub struct Presence {
    settings: PresenceSettings,
    metrics: Metrics,
    tenants: Mutex<HashMap<TenantId, Arc<TenantPresence>>>,
}

// === impl Presence ===

impl Presence {
    /// Nobody is here.
    pub fn new(settings: PresenceSettings, metrics: &Metrics) -> Self {
        Self {
            settings,
            metrics: metrics.clone(),
            tenants: Mutex::default(),
        }
    }

    /// This process, as versions of presence name it.
    pub fn epoch(&self) -> u64 {
        self.settings.epoch
    }

    /// The presence of a tenant, whose account is this. It stays for the life
    /// of the process, for its versions must never begin again.
    pub(crate) fn of(&self, tenant: &TenantId, account: &str) -> Arc<TenantPresence> {
        let mut tenants = self.lock();
        let presence = tenants.entry(tenant.clone()).or_insert_with(|| {
            let (settings, metrics) = (self.settings, &self.metrics);
            Arc::new(TenantPresence::new(tenant.clone(), settings, metrics))
        });
        presence.set_account(account);
        presence.clone()
    }

    /// The tenant is gone, or suspended: it can't be told of any more.
    pub(crate) fn gone(&self, tenant: &TenantId) {
        if let Some(presence) = self.lock().get(tenant) {
            presence.clear();
        }
    }

    /// What a beat says.
    pub(crate) fn summary(&self) -> v1::PresenceSummary {
        let now = Instant::now();
        let mut summary = v1::PresenceSummary {
            epoch: self.settings.epoch,
            ..Default::default()
        };
        let mut recent = Vec::new();
        let mut rooms = 0;
        for presence in self.all() {
            let (account, of, changed_at) = presence.summary();
            rooms += presence.watched();
            if of.count > 0 {
                summary.root ^= tenant_hash(&account, of.seq, of.digest);
                summary.tenants += 1;
                summary.entries += of.count;
            }
            let lately = changed_at.filter(|at| now.duration_since(*at) < LATELY);
            if let Some(changed_at) = lately {
                recent.push((changed_at, digest(account, of)));
            }
        }
        recent.sort_by_key(|(changed_at, _)| std::cmp::Reverse(*changed_at));
        summary.recent = recent
            .into_iter()
            .take(RECENT)
            .map(|(_, digest)| digest)
            .collect();
        let entries = i64::try_from(summary.entries).unwrap_or(i64::MAX);
        self.metrics.presence_entries.set(entries);
        let rooms = i64::try_from(rooms).unwrap_or(i64::MAX);
        self.metrics.presence_rooms.set(rooms);
        summary
    }

    /// The digests of all tenants, in pages.
    pub(crate) fn digests(&self, shield: &str) -> Vec<v1::PresenceDigests> {
        let mut root = 0;
        let mut tenants = Vec::new();
        for presence in self.all() {
            let (account, of, _) = presence.summary();
            if of.count > 0 {
                root ^= tenant_hash(&account, of.seq, of.digest);
                tenants.push(digest(account, of));
            }
        }
        let last = tenants.len().saturating_sub(1) / PAGE;
        (0..=last)
            .map(|number| v1::PresenceDigests {
                shield: shield.to_owned(),
                epoch: self.settings.epoch,
                root,
                number: number as u32,
                last: number == last,
                tenants: tenants
                    .iter()
                    .skip(number * PAGE)
                    .take(PAGE)
                    .cloned()
                    .collect(),
            })
            .collect()
    }

    /// Whether every change was handed to the Spine.
    pub(crate) fn is_flushed(&self) -> bool {
        self.all().iter().all(|presence| presence.is_flushed())
    }

    fn all(&self) -> Vec<Arc<TenantPresence>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<TenantPresence>>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(account: String, of: super::writer::Summary) -> v1::TenantDigest {
    v1::TenantDigest {
        account,
        seq: of.seq,
        count: of.count,
        digest: of.digest,
    }
}
