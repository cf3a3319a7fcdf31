//! Quotas: what tenants may use, held over all Shields of the pool.
//!
//! Each Shield tells once a second what tenants with quotas use on it, and
//! reckons its own part of each quota from what the others told. Nobody is
//! asked on the way of a message or a connection. While the control plane
//! cannot be heard, what was told last stands.

mod bucket;
mod rooms;
mod share;
mod tenant;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arqon_proto::{
    names::{NodeId, TenantId},
    v1::{ShieldLoad, TenantLimits, TenantUse},
};
use arqon_telemetry::Metrics;
use tokio::sync::Notify;

pub(crate) use self::rooms::hash as room_hash;
use self::share::{Elsewhere, Used};
pub use self::tenant::{Full, Place, SessionUse, TenantQuota};
use crate::control::Tenant;

/// A Shield that has told nothing for so long is gone.
const FORGET_AFTER: Duration = Duration::from_secs(5);
/// Tenants told of at once: those that use most of their quotas.
const TOLD_TENANTS: usize = 1_000;
/// A Shield that has not heard itself after so many reports hears nobody.
const DEAF_AFTER: u32 = 5;
/// What was used is measured over this time at least.
const MEASURE_OVER: Duration = Duration::from_millis(900);

/// The quotas of all tenants with sessions here.
#[derive(Debug)]
pub struct Quotas {
    node: String,
    pool: String,
    /// What holds where a tenant's record says nothing.
    defaults: TenantLimits,
    state: Mutex<State>,
    /// Told when others should hear soon of what is used here.
    soon: Notify,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    tenants: HashMap<TenantId, Entry>,
    shields: HashMap<String, Shield>,
    /// Reports since this Shield heard its own.
    unheard: u32,
}

#[derive(Debug)]
struct Entry {
    quota: Arc<TenantQuota>,
    /// What others know of.
    told: TenantUse,
    /// What had passed when it was last measured.
    measured: Option<Measured>,
}

/// What a tenant's counters showed at some time.
#[derive(Clone, Copy, Debug)]
struct Measured {
    at: Instant,
    messages: u64,
    bytes: u64,
    too_many: u64,
    too_large: u64,
}

/// What another Shield told last.
#[derive(Debug)]
struct Shield {
    heard: Instant,
    /// When rates were let fade last.
    rated: Instant,
    tenants: HashMap<String, TenantUse>,
}

/// Rooms of a tenant here: how many have members, and their hashes where they
/// are asked for.
#[derive(Debug, Default)]
pub(crate) struct RoomsHere {
    pub(crate) count: usize,
    pub(crate) hashes: Vec<u32>,
}

// === impl Quotas ===

impl Quotas {
    /// Quotas of a Shield that has heard of no other yet.
    pub fn new(node: &NodeId, pool: &NodeId, defaults: TenantLimits, metrics: &Metrics) -> Self {
        Self {
            node: node.to_string(),
            pool: pool.to_string(),
            defaults,
            state: Mutex::default(),
            soon: Notify::new(),
            metrics: metrics.clone(),
        }
    }

    /// The quotas of a tenant. Hold them: those that nobody holds are forgotten.
    pub fn of(&self, tenant: &Tenant) -> Arc<TenantQuota> {
        let mut state = self.lock();
        if let Some(entry) = state.tenants.get(&tenant.id) {
            return Arc::clone(&entry.quota);
        }
        let limits = self.limits(tenant);
        let entry = Entry {
            quota: Arc::new(TenantQuota::new(limits)),
            told: TenantUse {
                tenant: tenant.id.to_string(),
                ..TenantUse::default()
            },
            measured: None,
        };
        let quota = Arc::clone(&entry.quota);
        state.tenants.insert(tenant.id.clone(), entry);
        state.share(&tenant.id);
        quota
    }

    /// Takes a place for a session of the tenant.
    ///
    /// # Errors
    /// If it has as many as it may here.
    pub fn enter(&self, tenant: &Tenant) -> Result<Place, Full> {
        let quota = self.of(tenant);
        let place = quota.enter();
        let part = quota.parts.sessions.load(Ordering::Relaxed);
        if part != u64::MAX {
            // Half of the part is used: others may have some to give.
            let state = self.lock();
            let told = state.tenants.get(&tenant.id);
            let told = told.map_or(0, |entry| u64::from(entry.told.sessions));
            if 2 * quota.sessions().saturating_sub(told) >= part.saturating_sub(told).max(1) {
                self.soon.notify_one();
            }
        }
        place
    }

    /// The tenant has another record.
    pub fn update(&self, tenant: &Tenant) {
        let limits = self.limits(tenant);
        let mut state = self.lock();
        if let Some(entry) = state.tenants.get(&tenant.id)
            && entry.quota.limits() != limits
        {
            entry.quota.set_limits(limits);
            state.share(&tenant.id);
        }
    }

    /// Ends when others should hear soon of what is used here.
    pub(crate) async fn grown(&self) {
        self.soon.notified().await;
    }

    /// Another Shield told what it uses.
    pub(crate) fn hear(&self, mut load: ShieldLoad, now: Instant) {
        if load.shield == self.node {
            let mut state = self.lock();
            state.unheard = 0;
            for tenant in state.shared() {
                state.share_counts(&tenant);
            }
            return;
        }
        if load.pool != self.pool {
            return;
        }
        load.tenants.truncate(TOLD_TENANTS);
        for told in &mut load.tenants {
            told.room_hashes.truncate(rooms::SAMPLE);
        }
        let mut state = self.lock();
        if load.asks {
            self.soon.notify_one();
        }
        let touched: HashSet<String> = load
            .tenants
            .iter()
            .map(|use_| use_.tenant.clone())
            .collect();
        if load.goodbye {
            state.shields.remove(&load.shield);
        } else {
            let before = state.shields.remove(&load.shield);
            let fades = before
                .as_ref()
                .is_some_and(|shield| now.saturating_duration_since(shield.rated) >= MEASURE_OVER);
            let rated = match &before {
                Some(shield) if !fades => shield.rated,
                _ => now,
            };
            let mut tenants: HashMap<_, _> = load
                .tenants
                .into_iter()
                .map(|told| (told.tenant.clone(), told))
                .collect();
            for (tenant, before) in before.into_iter().flat_map(|shield| shield.tenants) {
                let told = tenants
                    .entry(tenant)
                    .or_insert_with_key(|tenant| TenantUse {
                        tenant: tenant.clone(),
                        ..TenantUse::default()
                    });
                remember(told, &before, fades);
            }
            // Of whoever uses nothing any more nothing is left at last.
            tenants.retain(|_, told| is_used(told));
            let shield = Shield {
                heard: now,
                rated,
                tenants,
            };
            state.shields.insert(load.shield, shield);
        }
        // Counts hold at once; rates go by the second.
        let here: Vec<_> = state
            .tenants
            .keys()
            .filter(|tenant| touched.contains(tenant.as_str()))
            .cloned()
            .collect();
        for tenant in here {
            state.share_counts(&tenant);
        }
        self.metrics
            .quota_shields
            .set(i64::try_from(state.shields.len() + 1).unwrap_or(i64::MAX));
    }

    /// Looks at what is used and reckons the parts anew; to be called once a
    /// second while others can be heard. What others should know.
    pub(crate) fn tick(
        &self,
        now: Instant,
        rooms: impl Fn(&TenantId, bool) -> RoomsHere,
    ) -> ShieldLoad {
        let mut state = self.lock();
        state.unheard = state.unheard.saturating_add(1);
        if state.unheard == DEAF_AFTER {
            tracing::warn!(
                "This Shield does not hear what others use, so quotas hold for it alone. Is the account CONTROL in the NATS servers' configuration of an older version?"
            );
        }
        state
            .shields
            .retain(|_, shield| now.saturating_duration_since(shield.heard) < FORGET_AFTER);
        // Whoever is gone is forgotten once nothing of it is used.
        state
            .tenants
            .retain(|_, entry| Arc::strong_count(&entry.quota) > 1 || entry.told.sessions > 0);
        let shared = state.shared();
        let asked: Vec<_> = shared
            .iter()
            .filter_map(|tenant| Some((tenant, state.rooms_wanted(tenant)?)))
            .collect();
        drop(state);
        // Without the lock, which every new session takes, and which stands below that of rooms.
        let mut rooms: HashMap<_, _> = asked
            .into_iter()
            .map(|(tenant, hashes)| (tenant, rooms(tenant, hashes)))
            .collect();
        let mut state = self.lock();
        for tenant in &shared {
            state.measure(tenant, now, rooms.remove(tenant));
            state.share(tenant);
        }
        self.metrics
            .quota_shields
            .set(i64::try_from(state.shields.len() + 1).unwrap_or(i64::MAX));
        self.load(&mut state, false)
    }

    /// The control plane is heard from here on. Who was known before is not
    /// forgotten for the time in which nobody could be heard.
    pub(crate) fn begin(&self, now: Instant) -> ShieldLoad {
        let mut state = self.lock();
        for shield in state.shields.values_mut() {
            shield.heard = now;
        }
        state.unheard = 0;
        ShieldLoad {
            asks: true,
            ..self.load(&mut state, false)
        }
    }

    /// What others should know at once: sessions only, for rates are measured
    /// over a second.
    pub(crate) fn tell_soon(&self) -> ShieldLoad {
        let mut state = self.lock();
        // The own part rises when others have had the time to hear it: with the next report,
        // or when this one comes back.
        for entry in state.tenants.values_mut() {
            entry.told.sessions = clamp(entry.quota.sessions());
        }
        self.load(&mut state, false)
    }

    /// The last word of a process.
    pub(crate) fn goodbye(&self) -> ShieldLoad {
        self.load(&mut self.lock(), true)
    }

    fn load(&self, state: &mut State, goodbye: bool) -> ShieldLoad {
        let mut told: Vec<_> = state
            .tenants
            .values()
            .filter(|entry| is_shared(&entry.quota.limits()) && is_used(&entry.told))
            .map(|entry| (entry.fullness(), &entry.told))
            .collect();
        if told.len() > TOLD_TENANTS {
            told.select_nth_unstable_by(TOLD_TENANTS, |a, b| b.0.total_cmp(&a.0));
            told.truncate(TOLD_TENANTS);
        }
        ShieldLoad {
            shield: self.node.clone(),
            pool: self.pool.clone(),
            tenants: told.into_iter().map(|(_, told)| told.clone()).collect(),
            goodbye,
            asks: false,
        }
    }

    /// The record's limits, and the platform's where it says nothing.
    fn limits(&self, tenant: &Tenant) -> TenantLimits {
        let own = tenant.record.limits.unwrap_or_default();
        let or = |own: u32, default: u32| if own == 0 { default } else { own };
        let all = &self.defaults;
        TenantLimits {
            max_connections: or(own.max_connections, all.max_connections),
            max_rooms: or(own.max_rooms, all.max_rooms),
            max_members_per_room: or(own.max_members_per_room, all.max_members_per_room),
            messages_per_sec: or(own.messages_per_sec, all.messages_per_sec),
            bytes_per_sec: or(own.bytes_per_sec, all.bytes_per_sec),
            session_messages_per_sec: or(
                own.session_messages_per_sec,
                all.session_messages_per_sec,
            ),
            session_bytes_per_sec: or(own.session_bytes_per_sec, all.session_bytes_per_sec),
            ..own
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// The tenants whose use others must hear of.
    fn shared(&self) -> Vec<TenantId> {
        let tenants = self.tenants.iter();
        tenants
            .filter(|(_, entry)| is_shared(&entry.quota.limits()) || is_used(&entry.told))
            .map(|(tenant, _)| tenant.clone())
            .collect()
    }

    /// Whether the hashes of a tenant's rooms are wanted; None: nor is their count.
    fn rooms_wanted(&self, tenant: &TenantId) -> Option<bool> {
        let entry = self.tenants.get(tenant)?;
        let most = u64::from(entry.quota.limits().max_rooms);
        if most == 0 {
            return None;
        }
        let here = u64::from(entry.told.rooms);
        let elsewhere = self.sum_elsewhere(tenant, |told| told.rooms.into());
        // Also before anybody else was heard of: they need them as soon as they have any.
        Some(2 * (here.saturating_mul(2).max(here.saturating_add(elsewhere))) >= most)
    }

    fn sum_elsewhere(&self, tenant: &TenantId, of: fn(&TenantUse) -> u64) -> u64 {
        let told = self.used_elsewhere(tenant).map(of);
        // Saturating: what is told may be a lie.
        told.fold(0, u64::saturating_add)
    }

    /// Looks at what a tenant uses here.
    fn measure(&mut self, tenant: &TenantId, now: Instant, rooms: Option<RoomsHere>) {
        let Some(entry) = self.tenants.get_mut(tenant) else {
            return;
        };
        let quota = &entry.quota;
        entry.told.sessions = clamp(quota.sessions());
        let rooms = rooms.unwrap_or_default();
        entry.told.rooms = clamp(rooms.count as u64);
        entry.told.room_hashes = rooms::sample(rooms.hashes);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let passed = &quota.passed;
        let seen = Measured {
            at: now,
            messages: load(&passed.messages),
            bytes: load(&passed.bytes),
            too_many: load(&passed.too_many),
            too_large: load(&passed.too_large),
        };
        let Some(before) = entry.measured else {
            entry.measured = Some(seen);
            return;
        };
        let span = now.saturating_duration_since(before.at);
        if span < MEASURE_OVER {
            return;
        }
        let rate = |now: u64, then: u64| ((now - then) as f64 / span.as_secs_f64()).round() as u64;
        entry.told.messages_per_sec = clamp(rate(seen.messages, before.messages));
        entry.told.bytes_per_sec = rate(seen.bytes, before.bytes);
        entry.told.wants_messages = seen.too_many > before.too_many;
        entry.told.wants_bytes = seen.too_large > before.too_large;
        entry.measured = Some(seen);
    }

    /// Reckons this Shield's parts of all quotas of a tenant.
    fn share(&mut self, tenant: &TenantId) {
        self.share_counts(tenant);
        let shields = self.shields.len() as u64;
        let sum = |of: fn(&TenantUse) -> u64| self.sum_elsewhere(tenant, of);
        let sessions = sum(|told| told.sessions.into());
        let Some(Entry { quota, told, .. }) = self.tenants.get(tenant) else {
            return;
        };
        let limits = quota.limits();
        let messages = Used {
            here: told.messages_per_sec.into(),
            elsewhere: sum(|told| told.messages_per_sec.into()),
            hungry: sum(|told| told.wants_messages.into()),
        };
        let bytes = Used {
            here: told.bytes_per_sec,
            elsewhere: sum(|told| told.bytes_per_sec),
            hungry: sum(|told| told.wants_bytes.into()),
        };
        for (part, limit, used) in [
            (&quota.parts.messages, limits.messages_per_sec, messages),
            (&quota.parts.bytes, limits.bytes_per_sec, bytes),
        ] {
            let rate = match u64::from(limit) {
                0 => u64::MAX,
                limit => {
                    let fair = share::fair(limit, quota.sessions(), sessions, shields);
                    share::rate(limit, fair, used)
                }
            };
            part.store(rate, Ordering::Relaxed);
        }
    }

    /// As `share`, of what is counted only.
    fn share_counts(&mut self, tenant: &TenantId) {
        let shields = self.shields.len() as u64;
        let elsewhere: Vec<&TenantUse> = self.used_elsewhere(tenant).collect();
        let Some(Entry { quota, told, .. }) = self.tenants.get(tenant) else {
            return;
        };
        let limits = quota.limits();
        let part = |limit: u32, told: u32, used: u64| match limit {
            0 => u64::MAX,
            limit => share::count(limit.into(), told.into(), Elsewhere { shields, used }),
        };
        let sessions = self.sum_elsewhere(tenant, |told| told.sessions.into());
        let most = part(limits.max_connections, told.sessions, sessions);
        quota.parts.sessions.store(most, Ordering::Relaxed);
        if limits.max_rooms == 0 {
            quota.parts.rooms.store(u64::MAX, Ordering::Relaxed);
            return;
        }
        let all = elsewhere.iter().copied().chain([told]);
        let distinct = rooms::distinct(all.map(|told| (told.rooms.into(), &told.room_hashes[..])));
        let only_elsewhere = distinct.saturating_sub(told.rooms.into());
        let most = part(limits.max_rooms, told.rooms, only_elsewhere);
        quota.parts.rooms.store(most, Ordering::Relaxed);
        let hashes = elsewhere.iter().flat_map(|told| told.room_hashes.iter());
        let known: HashSet<u32> = hashes.copied().collect();
        if !(known.is_empty() && quota.rooms_elsewhere.load().is_empty()) {
            quota.rooms_elsewhere.store(Arc::new(known));
        }
    }

    fn used_elsewhere<'a>(&'a self, tenant: &'a TenantId) -> impl Iterator<Item = &'a TenantUse> {
        self.shields
            .values()
            .filter_map(|shield| shield.tenants.get(tenant.as_str()))
    }
}

// === impl Entry ===

impl Entry {
    /// How much of its nearest quota is used here.
    fn fullness(&self) -> f64 {
        let limits = self.quota.limits();
        let told = &self.told;
        let of = |used: u64, limit: u32| match limit {
            0 => 0.0,
            limit => used as f64 / f64::from(limit),
        };
        of(told.sessions.into(), limits.max_connections)
            .max(of(told.rooms.into(), limits.max_rooms))
            .max(of(told.messages_per_sec.into(), limits.messages_per_sec))
            .max(of(told.bytes_per_sec, limits.bytes_per_sec))
    }
}

/// Whether others must hear of what the tenant uses.
fn is_shared(limits: &TenantLimits) -> bool {
    limits.max_connections > 0
        || limits.max_rooms > 0
        || limits.messages_per_sec > 0
        || limits.bytes_per_sec > 0
}

/// What was used elsewhere of late counts on for a while, or whoever speaks in
/// bursts would have the whole rate on each Shield each time.
fn remember(told: &mut TenantUse, before: &TenantUse, fades: bool) {
    let faded = |rate: u64| if fades { rate / 4 * 3 } else { rate };
    let messages = clamp(faded(before.messages_per_sec.into()));
    told.messages_per_sec = told.messages_per_sec.max(messages);
    told.bytes_per_sec = told.bytes_per_sec.max(faded(before.bytes_per_sec));
}

fn is_used(told: &TenantUse) -> bool {
    told.sessions > 0 || told.rooms > 0 || told.messages_per_sec > 0 || told.bytes_per_sec > 0
}

fn clamp(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Quotas without any limit but those of the tenants.
    pub(crate) fn quotas() -> Arc<Quotas> {
        let name = NodeId::parse("main").expect("a valid name");
        let metrics = Metrics::default();
        Arc::new(Quotas::new(&name, &name, TenantLimits::default(), &metrics))
    }
}

#[cfg(test)]
mod tests;
