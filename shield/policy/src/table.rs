//! What is bound where: one table, replaced as a whole, and the chain of each
//! tenant that is made of it.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, atomic::Ordering::SeqCst},
    time::Instant,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use arqon_proto::names::{RoomId, TenantId};

use crate::{
    Binding,
    lane::{Budget, Core, Lane},
    rooms::RoomIndex,
    slots::Slots,
    stats::BindingStats,
};

/// A binding with its tenants.
pub(crate) struct Active {
    pub(crate) core: Arc<Core>,
    lanes: Mutex<HashMap<TenantId, Arc<Lane>>>,
}

/// The bindings of one scope, in their order.
#[derive(Default)]
pub(crate) struct Part {
    rooms: RoomIndex,
    actives: Vec<Arc<Active>>,
}

/// All bindings.
#[derive(Default)]
pub(crate) struct Table {
    generation: u64,
    platform: Arc<Part>,
    tenants: HashMap<TenantId, Arc<Part>>,
    by_key: HashMap<Arc<str>, Arc<Active>>,
}

/// The bindings of one tenant, of one generation of the table.
pub(crate) struct Chain {
    generation: u64,
    parts: [Arc<Part>; 2],
    lanes: Box<[OnceLock<Arc<Lane>>]>,
    tenant: Arc<Tenant>,
}

/// What is kept of a tenant, whatever is bound. As many as have sent messages
/// that a policy judged; a token decides who that can be.
pub(crate) struct Tenant {
    name: TenantId,
    pub(crate) budget: Arc<Budget>,
}

/// A tenant, and the chain it had last.
struct Place {
    tenant: Arc<Tenant>,
    chain: ArcSwapOption<Chain>,
    /// Held while a chain is made, so that none of an older table replaces one
    /// of a newer.
    making: Mutex<()>,
}

const SHARDS: usize = 16;

/// All tenants. In shards, since each message looks here.
pub(crate) struct Tenants {
    hasher: RandomState,
    shards: [RwLock<HashMap<TenantId, Arc<Place>>>; SHARDS],
    cores: f64,
}

impl Active {
    fn new(core: Arc<Core>) -> Arc<Self> {
        Arc::new(Self {
            core,
            lanes: Mutex::default(),
        })
    }

    fn lane(&self, tenant: &Tenant, slots: &Slots, epoch: Instant) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(&tenant.name) {
            return Arc::clone(lane);
        }
        let (core, budget) = (Arc::clone(&self.core), Arc::clone(&tenant.budget));
        let lane = Lane::new(core, budget, tenant.name.clone(), slots, epoch);
        lanes.insert(tenant.name.clone(), Arc::clone(&lane));
        lane
    }

    /// Drops what idles, and keeps nothing from now on.
    pub(crate) fn close(&self) {
        self.core.closed.store(true, SeqCst);
        let lanes = {
            let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *lanes)
        };
        for lane in lanes.values() {
            drop(lane.clear());
        }
    }
}

impl Part {
    fn new(mut actives: Vec<Arc<Active>>) -> Arc<Self> {
        actives.sort_by(|a, b| a.core.binding.rank().cmp(&b.core.binding.rank()));
        let patterns = actives
            .iter()
            .map(|active| active.core.binding.rooms.clone());
        Arc::new(Self {
            rooms: RoomIndex::new(patterns),
            actives,
        })
    }
}

impl Table {
    /// The next table, and what of this one is no part of it. Of two bindings
    /// with one key, the last counts.
    pub(crate) fn next(&self, bindings: Vec<Arc<Binding>>) -> (Self, Vec<Arc<Active>>) {
        let mut by_key = HashMap::with_capacity(bindings.len());
        for binding in bindings {
            let old = self.by_key.get(&binding.key);
            let active = match old {
                Some(old) if old.core.binding.same_as(&binding) => Arc::clone(old),
                Some(old) => Active::new(Core::new(binding, Arc::clone(&old.core.counters))),
                None => Active::new(Core::new(binding, Arc::default())),
            };
            by_key.insert(Arc::clone(&active.core.binding.key), active);
        }
        let mut platform = Vec::new();
        let mut tenants: HashMap<TenantId, Vec<_>> = HashMap::new();
        for active in by_key.values() {
            match &active.core.binding.tenant {
                None => platform.push(Arc::clone(active)),
                Some(tenant) => tenants
                    .entry(tenant.clone())
                    .or_default()
                    .push(Arc::clone(active)),
            }
        }
        let stays = |old: &&Arc<Active>| {
            let new = by_key.get(&old.core.binding.key);
            new.is_some_and(|new| Arc::ptr_eq(new, old))
        };
        let gone = self.by_key.values().filter(|old| !stays(old));
        let gone = gone.cloned().collect();
        let next = Self {
            generation: self.generation + 1,
            platform: Part::new(platform),
            tenants: tenants
                .into_iter()
                .map(|(tenant, actives)| (tenant, Part::new(actives)))
                .collect(),
            by_key,
        };
        (next, gone)
    }

    pub(crate) fn binds(&self, tenant: &TenantId) -> bool {
        !self.platform.actives.is_empty() || self.tenants.contains_key(tenant)
    }

    pub(crate) fn actives(&self) -> impl Iterator<Item = &Arc<Active>> {
        self.by_key.values()
    }

    pub(crate) fn stats(&self) -> Vec<BindingStats> {
        let actives = self.actives().map(|active| {
            let (core, binding) = (&active.core, &active.core.binding);
            BindingStats {
                key: Arc::clone(&binding.key),
                revision: binding.revision,
                digest: binding.digest,
                shadow: binding.shadow,
                broken: binding.module.is_err(),
                quarantined: core.quarantined.load(SeqCst),
                instances: core.instances.load(SeqCst),
                counts: core.counters.read(),
            }
        });
        let mut stats: Vec<_> = actives.collect();
        stats.sort_by(|a, b| a.key.cmp(&b.key));
        stats
    }
}

impl Chain {
    fn new(table: &Table, tenant: &Arc<Tenant>) -> Self {
        let own = table.tenants.get(&tenant.name);
        let parts = [
            Arc::clone(&table.platform),
            own.map(Arc::clone).unwrap_or_default(),
        ];
        let lanes = parts.iter().map(|part| part.actives.len()).sum();
        Self {
            generation: table.generation,
            parts,
            lanes: std::iter::repeat_with(OnceLock::new).take(lanes).collect(),
            tenant: Arc::clone(tenant),
        }
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.tenant.budget
    }

    /// Whether a binding for this room can do more than watch; none: there is
    /// no binding.
    pub(crate) fn enforces(&self, room: &RoomId) -> Option<bool> {
        let mut any = None;
        for (_, active) in self.of(room) {
            any = Some(!active.core.binding.shadow);
            if any == Some(true) {
                break;
            }
        }
        any
    }

    /// The bindings for a room, in their order; the number is for [`Chain::lane`].
    pub(crate) fn of<'a>(
        &'a self,
        room: &'a RoomId,
    ) -> impl Iterator<Item = (usize, &'a Arc<Active>)> {
        let [platform, own] = &self.parts;
        let first = platform.rooms.of(room);
        let first = first.map(move |place| (place, &platform.actives[place]));
        let after = platform.actives.len();
        let then = own.rooms.of(room);
        first.chain(then.map(move |place| (after + place, &own.actives[place])))
    }

    pub(crate) fn lane(
        &self,
        number: usize,
        active: &Active,
        slots: &Slots,
        epoch: Instant,
    ) -> &Arc<Lane> {
        self.lanes[number].get_or_init(|| active.lane(&self.tenant, slots, epoch))
    }
}

impl Tenants {
    pub(crate) fn new(cores: f64) -> Arc<Self> {
        Arc::new(Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| RwLock::default()),
            cores,
        })
    }

    /// The chain of the table that counts now, if anything is bound for this tenant.
    pub(crate) fn chain(&self, name: &TenantId, table: &ArcSwap<Table>) -> Option<Arc<Chain>> {
        let now = table.load();
        if !now.binds(name) {
            return None;
        }
        let place = self.place(name);
        if let Some(chain) = &*place.chain.load()
            && chain.generation == now.generation
        {
            return Some(Arc::clone(chain));
        }
        let _making = place.making.lock().unwrap_or_else(PoisonError::into_inner);
        let chain = Arc::new(Chain::new(&table.load(), &place.tenant));
        place.chain.store(Some(Arc::clone(&chain)));
        Some(chain)
    }

    /// Forgets chains of older tables: a tenant that sends nothing any more
    /// would keep what is no longer bound.
    pub(crate) fn sweep(&self, table: &Table) {
        for shard in &self.shards {
            let places: Vec<_> = {
                let places = shard.read().unwrap_or_else(PoisonError::into_inner);
                places.values().map(Arc::clone).collect()
            };
            for place in places {
                let _making = place.making.lock().unwrap_or_else(PoisonError::into_inner);
                let chain = place.chain.load_full();
                if chain.is_some_and(|chain| chain.generation < table.generation) {
                    place.chain.store(None);
                }
            }
        }
    }

    fn place(&self, name: &TenantId) -> Arc<Place> {
        let shard = &self.shards[self.hasher.hash_one(name) as usize % SHARDS];
        let known = shard.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = known.get(name) {
            return Arc::clone(place);
        }
        drop(known);
        let mut places = shard.write().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(name.clone()).or_insert_with(|| {
            Arc::new(Place {
                tenant: Arc::new(Tenant {
                    name: name.clone(),
                    budget: Arc::new(Budget::new(self.cores, Instant::now())),
                }),
                chain: ArcSwapOption::empty(),
                making: Mutex::default(),
            })
        });
        Arc::clone(place)
    }
}
