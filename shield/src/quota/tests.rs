#![allow(clippy::unwrap_used)]

use arqon_proto::{names::RoomId, v1::TenantRecord};

use super::*;

struct Fleet {
    shields: Vec<Quotas>,
    tenant: Tenant,
    now: Instant,
}

impl Fleet {
    fn new(shields: usize, limits: TenantLimits) -> Self {
        let pool = NodeId::parse("main").unwrap();
        let quotas = |number| {
            let node = NodeId::parse(&format!("shield-{number}")).unwrap();
            Quotas::new(&node, &pool, TenantLimits::default(), &Metrics::default())
        };
        Self {
            shields: (0..shields).map(quotas).collect(),
            tenant: tenant(limits),
            now: Instant::now() + Duration::from_secs(60),
        }
    }

    /// Lets a second pass, with these rooms on each.
    fn second(&mut self, rooms: &[Vec<&str>]) {
        self.now += Duration::from_secs(1);
        let told: Vec<_> = self
            .shields
            .iter()
            .enumerate()
            .map(|(at, quotas)| {
                quotas.tick(self.now, |_, hashes| {
                    let here = rooms.get(at).cloned().unwrap_or_default();
                    let hash = |room: &&str| room_hash(room);
                    RoomsHere {
                        count: here.len(),
                        hashes: if hashes {
                            here.iter().map(hash).collect()
                        } else {
                            Vec::new()
                        },
                    }
                })
            })
            .collect();
        self.tell(told);
    }

    fn tell(&self, told: Vec<ShieldLoad>) {
        for load in told {
            for quotas in &self.shields {
                quotas.hear(load.clone(), self.now);
            }
        }
    }

    fn rooms(&self, shield: usize, room: &str) -> usize {
        let quota = self.shields[shield].of(&self.tenant);
        quota.rooms_for(&RoomId::parse(room).unwrap()).rooms
    }

    /// Of a great many PUBLISHes in a second, how many pass.
    fn flood(&self, shield: usize) -> usize {
        let quota = self.shields[shield].of(&self.tenant);
        let session = SessionUse::default();
        let step = |at: u64| self.now + Duration::from_millis(at);
        let all = (0..1_000).flat_map(|at| std::iter::repeat_n(at, 10));
        let passed = all.filter(|at| quota.publish(&session, 10, step(*at)).is_ok());
        passed.count()
    }
}

fn tenant(limits: TenantLimits) -> Tenant {
    Tenant {
        id: TenantId::parse("acme").unwrap(),
        record: TenantRecord {
            limits: Some(limits),
            ..TenantRecord::default()
        },
    }
}

#[test]
fn connections_are_shared_and_the_last_ones_go_to_whoever_asks() {
    let mut fleet = Fleet::new(
        2,
        TenantLimits {
            max_connections: 10,
            ..TenantLimits::default()
        },
    );
    fleet.second(&[]);
    let mut places = Vec::new();
    let mut first_round = [0; 2];
    for round in 0..8 {
        for (shield, came) in first_round.iter_mut().enumerate() {
            // The second is where nearly all want to be.
            let wanted = if shield == 0 { 1 } else { 20 };
            for _ in 0..wanted {
                if let Ok(place) = fleet.shields[shield].enter(&fleet.tenant) {
                    places.push(place);
                    *came += usize::from(round == 0);
                }
            }
        }
        assert!(places.len() <= 12, "{}", places.len());
        fleet.second(&[]);
    }
    assert_eq!(
        first_round,
        [1, 5],
        "no more than its part before it is told"
    );
    assert!(places.len() >= 10, "{}", places.len());
    // Who leaves makes room, on the other Shield too.
    places.clear();
    fleet.second(&[]);
    fleet.second(&[]);
    assert!(fleet.shields[0].enter(&fleet.tenant).is_ok());
}

#[test]
fn many_that_come_are_told_of_soon() {
    let fleet = Fleet::new(
        2,
        TenantLimits {
            max_connections: 100,
            ..TenantLimits::default()
        },
    );
    fleet.tell(fleet.shields.iter().map(Quotas::tell_soon).collect());
    let places: Vec<_> = (0..100)
        .filter_map(|_| fleet.shields[0].enter(&fleet.tenant).ok())
        .collect();
    assert_eq!(places.len(), 50);
    let waker = std::task::Waker::noop();
    let mut cx = std::task::Context::from_waker(waker);
    let mut grown = std::pin::pin!(fleet.shields[0].grown());
    assert!(grown.as_mut().poll(&mut cx).is_ready());
    fleet.tell(vec![fleet.shields[0].tell_soon()]);
    let more = (0..100).filter_map(|_| fleet.shields[0].enter(&fleet.tenant).ok());
    assert_eq!(more.collect::<Vec<_>>().len(), 25);
    // The other knows that half is gone.
    let others = (0..100).filter_map(|_| fleet.shields[1].enter(&fleet.tenant).ok());
    assert_eq!(others.collect::<Vec<_>>().len(), 25);
}

#[test]
fn a_rate_is_one_for_all_shields() {
    let mut fleet = Fleet::new(
        2,
        TenantLimits {
            messages_per_sec: 1_000,
            ..TenantLimits::default()
        },
    );
    let _places: Vec<_> = fleet
        .shields
        .iter()
        .map(|quotas| quotas.enter(&fleet.tenant).unwrap())
        .collect();
    fleet.second(&[]);
    let mut used = Vec::new();
    for _ in 0..12 {
        used.push(fleet.flood(0) + fleet.flood(1));
        fleet.second(&[]);
    }
    // Each had all of it until it heard of the other.
    assert!(used[0] <= 4_000, "{used:?}");
    for used in &used[4..] {
        assert!((950..=1_050).contains(used), "{used}");
    }
    // One alone has all of it again.
    let mut alone = 0;
    for _ in 0..16 {
        alone = fleet.flood(0);
        fleet.second(&[]);
    }
    assert!((950..=1_050).contains(&alone), "{alone}");
}

#[test]
fn a_room_on_two_shields_is_one() {
    let mut fleet = Fleet::new(
        2,
        TenantLimits {
            max_rooms: 3,
            ..TenantLimits::default()
        },
    );
    let _held: Vec<_> = fleet
        .shields
        .iter()
        .map(|quotas| quotas.of(&fleet.tenant))
        .collect();
    let both = [vec!["a", "b"], vec!["a", "b"]];
    fleet.second(&both);
    fleet.second(&both);
    fleet.second(&both);
    assert_eq!((fleet.rooms(0, "c"), fleet.rooms(1, "c")), (3, 3));
    let full = [vec!["a", "b", "c"], vec!["a", "b"]];
    fleet.second(&full);
    fleet.second(&full);
    // The third is taken; whoever has it elsewhere may have it here.
    assert_eq!((fleet.rooms(0, "d"), fleet.rooms(1, "d")), (3, 2));
    assert_eq!(fleet.rooms(1, "c"), 3);
    let apart = [vec!["a"], vec!["b"]];
    fleet.second(&apart);
    fleet.second(&apart);
    assert_eq!((fleet.rooms(0, "d"), fleet.rooms(1, "d")), (2, 2));
}

#[test]
fn shields_of_another_pool_and_those_that_are_gone_do_not_count() {
    let mut fleet = Fleet::new(
        1,
        TenantLimits {
            max_connections: 10,
            ..TenantLimits::default()
        },
    );
    let load = |shield: &str, pool: &str, goodbye| ShieldLoad {
        shield: shield.to_owned(),
        pool: pool.to_owned(),
        goodbye,
        asks: false,
        tenants: vec![TenantUse {
            tenant: "acme".to_owned(),
            sessions: 9,
            ..TenantUse::default()
        }],
    };
    let most = |fleet: &Fleet| {
        let places = (0..20).filter_map(|_| fleet.shields[0].enter(&fleet.tenant).ok());
        places.collect::<Vec<_>>().len()
    };
    let _held = fleet.shields[0].of(&fleet.tenant);
    fleet.tell(vec![
        load("shield-9", "other", false),
        load("shield-0", "main", false),
    ]);
    assert_eq!(most(&fleet), 10);
    fleet.tell(vec![load("shield-9", "main", false)]);
    assert_eq!(most(&fleet), 1);
    fleet.tell(vec![load("shield-9", "main", true)]);
    assert_eq!(most(&fleet), 10);
    fleet.tell(vec![load("shield-9", "main", false)]);
    for _ in 0..7 {
        fleet.second(&[]);
    }
    assert_eq!(most(&fleet), 10, "silent for too long");
}

#[test]
fn a_changed_record_holds_at_once() {
    let fleet = Fleet::new(
        1,
        TenantLimits {
            max_connections: 1,
            ..TenantLimits::default()
        },
    );
    let quotas = &fleet.shields[0];
    let _first = quotas.enter(&fleet.tenant).unwrap();
    assert!(quotas.enter(&fleet.tenant).is_err());
    quotas.update(&tenant(TenantLimits {
        max_connections: 2,
        max_payload_bytes: 77,
        ..TenantLimits::default()
    }));
    let second = quotas.enter(&fleet.tenant).unwrap();
    assert_eq!(second.quota().limits().max_payload_bytes, 77);
    quotas.update(&tenant(TenantLimits::default()));
    assert!(quotas.enter(&fleet.tenant).is_ok());
}

#[test]
fn of_many_tenants_those_nearest_to_their_quotas_are_told() {
    let mut fleet = Fleet::new(1, TenantLimits::default());
    let quotas = &fleet.shields[0];
    let mut places = Vec::new();
    for number in 0..TOLD_TENANTS + 200 {
        let mut tenant = tenant(TenantLimits {
            max_connections: if number < 200 { 1_000 } else { 10 },
            ..TenantLimits::default()
        });
        tenant.id = TenantId::parse(&format!("t-{number}")).unwrap();
        places.push(quotas.enter(&tenant).unwrap());
    }
    fleet.now += Duration::from_secs(1);
    let told = fleet.shields[0].tick(fleet.now, |_, _| RoomsHere::default());
    assert_eq!(told.tenants.len(), TOLD_TENANTS);
    let small = |told: &&TenantUse| told.tenant.trim_start_matches("t-").parse().unwrap_or(0) < 200;
    assert_eq!(told.tenants.iter().filter(small).count(), 0);
    drop(places);
    fleet.second(&[]);
    fleet.second(&[]);
    assert!(fleet.shields[0].lock().tenants.is_empty(), "forgotten");
}
