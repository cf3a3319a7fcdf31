//! A peer that has a Shield's credentials and says what no Shield would: lost, repeated, forged.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arqon_harness::{Signal, Spine, TestTenant, eventually, resident_bytes, signal, unix_now};
use arqon_proto::names::{NodeId, SessionId};
use arqon_proto::presence::{entry_hash, tenant_hash};
use arqon_proto::v1::presence_change::Change;
use arqon_proto::v1::{
    PresenceChange, PresenceChanges, PresenceEntry, PresenceKey, PresenceOrder, PresencePage,
    PresenceSummary, ShieldBeat, TenantDigest, presence_order::Order,
};
use arqon_spine::connect::{Connection, TenantOptions, connect_tenant};
use arqon_spine::control::ControlStore;
use arqon_spine::credentials::{FleetKey, mint_tenant_user};
use arqon_spine::state::Role;
use arqon_spine::subjects;
use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message as _;

use crate::presence::Stage;

/// What a Shield is to Brain, made by hand.
struct Peer {
    id: NodeId,
    epoch: u64,
    account: String,
    tenant: Connection,
    control: ControlStore,
    _control: Connection,
    entries: Vec<PresenceEntry>,
    seq: u64,
    started: Instant,
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// The incarnation of a Shield that started this many seconds from now.
fn epoch(seconds: i64) -> u64 {
    let at = i64::try_from(now_ms()).unwrap() + seconds * 1_000;
    u64::try_from(at).unwrap() << 16 | 7
}

impl Peer {
    async fn new(spine: &Spine, acme: &TestTenant, id: &str, epoch: u64) -> Self {
        let id = NodeId::parse(id).unwrap();
        let creds = spine.state().creds(Role::Shield, &id).unwrap();
        let control = spine.connect(&creds).await;
        let pool = NodeId::parse("default").unwrap();
        let fleet = FleetKey::read(&spine.state().fleet_key_path(&pool)).unwrap();
        let ttl = Duration::from_secs(600);
        let user = mint_tenant_user(&fleet, &acme.account, &acme.id, id.as_str(), ttl);
        let options = TenantOptions::default();
        let tenant = connect_tenant(&[spine.url()], user, id.as_str(), options)
            .await
            .unwrap();
        Self {
            id,
            epoch,
            account: acme.account.clone(),
            control: ControlStore::new(&control),
            _control: control,
            tenant,
            entries: Vec::new(),
            seq: 0,
            started: Instant::now(),
        }
    }

    /// A session of this user joins; the batch that says so.
    fn join(&mut self, room: &str, user: &str) -> PresenceChanges {
        self.seq += 1;
        let entry = PresenceEntry {
            key: Some(PresenceKey {
                room: room.to_owned(),
                user: user.to_owned(),
                session: Bytes::copy_from_slice(SessionId::new().as_bytes()),
            }),
            seq: self.seq,
            joined_at_ms: now_ms(),
            last_active_at_ms: now_ms(),
            ..PresenceEntry::default()
        };
        self.entries.push(entry.clone());
        self.batch(self.seq, vec![Change::Put(entry)])
    }

    fn batch(&self, first_seq: u64, changes: Vec<Change>) -> PresenceChanges {
        PresenceChanges {
            shield: self.id.to_string(),
            epoch: self.epoch,
            first_seq,
            changes: changes
                .into_iter()
                .map(|change| PresenceChange {
                    change: Some(change),
                })
                .collect(),
            ..PresenceChanges::default()
        }
    }

    async fn say(&self, changes: &PresenceChanges) {
        let bytes = Bytes::from(changes.encode_to_vec());
        self.tenant
            .client
            .publish(subjects::PRESENCE_CHANGE, bytes)
            .await
            .unwrap();
        self.tenant.client.flush().await.unwrap();
    }

    fn digest(&self) -> u64 {
        self.entries.iter().fold(0, |digest, entry| {
            let key = entry.key.as_ref().unwrap();
            let session = uuid_of(&key.session);
            digest ^ entry_hash(self.epoch, &key.room, session, entry.seq)
        })
    }

    /// One report; `time_ms` is the clock it claims.
    async fn beat_at(&self, time_ms: u64) {
        let digest = self.digest();
        let count = self.entries.len() as u64;
        let here = count > 0;
        let beat = ShieldBeat {
            shield: self.id.to_string(),
            incarnation: format!("{:016x}", self.epoch),
            ready: true,
            pool: "default".to_owned(),
            time_ms,
            // A beat whose uptime did not grow is an old one.
            uptime_ms: 1_000 + u64::try_from(self.started.elapsed().as_millis()).unwrap(),
            presence: Some(PresenceSummary {
                epoch: self.epoch,
                root: if here {
                    tenant_hash(&self.account, self.seq, digest)
                } else {
                    0
                },
                tenants: u32::from(here),
                entries: count,
                recent: vec![TenantDigest {
                    account: self.account.clone(),
                    seq: self.seq,
                    count,
                    digest,
                }],
            }),
            ..ShieldBeat::default()
        };
        self.control.publish_beat(&self.id, &beat).await.unwrap();
    }

    async fn beat(&self) {
        self.beat_at(now_ms()).await;
    }

    /// Answers one wish for a snapshot.
    async fn serve_snapshots(&self, orders: &mut arqon_spine::nats::Subscriber) {
        while let Ok(Some(message)) =
            tokio::time::timeout(Duration::from_millis(50), orders.next()).await
        {
            let order = PresenceOrder::decode(message.payload).unwrap();
            let Some(Order::Sync(sync)) = order.order else {
                continue;
            };
            let mut entries = self.entries.clone();
            entries.sort_by_key(|entry| {
                let key = entry.key.clone().unwrap();
                (key.room, key.user, key.session)
            });
            let page = PresencePage {
                shield: self.id.to_string(),
                epoch: self.epoch,
                seq: self.seq,
                request: sync.request,
                number: 0,
                last: true,
                entries,
            };
            let brain = NodeId::parse(&sync.brain).unwrap();
            self.tenant
                .client
                .publish(subjects::presence_page(&brain), page.encode_to_vec().into())
                .await
                .unwrap();
        }
    }

    async fn orders(&self, acme: &TestTenant) -> arqon_spine::nats::Subscriber {
        let subject = subjects::presence_orders(&acme.id, &self.id);
        let orders = self.tenant.client.subscribe(subject).await.unwrap();
        self.tenant.client.flush().await.unwrap();
        orders
    }
}

fn uuid_of(bytes: &[u8]) -> SessionId {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    );
    SessionId::parse(&text).unwrap()
}

#[tokio::test]
async fn batches_that_are_repeated_reordered_or_lost_are_repaired() {
    let stage = Stage::new().await;
    let watch = stage.watch().await;
    let mut peer = Peer::new(&stage.spine, &stage.acme, "peer", epoch(0)).await;
    let mut orders = peer.orders(&stage.acme).await;
    peer.beat().await;
    let one = peer.join("lobby", "one");
    let two = peer.join("lobby", "two");
    // Said until it is heard: the beat that puts the peer in force may come after it.
    eventually!({
        peer.beat().await;
        peer.say(&one).await;
        peer.serve_snapshots(&mut orders).await;
        watch.now().members.contains_key("one")
    });
    peer.say(&one).await;
    peer.say(&two).await;
    peer.say(&one).await;
    peer.say(&two).await;
    eventually!({
        peer.beat().await;
        peer.serve_snapshots(&mut orders).await;
        watch.sees(&["one", "two"])
    });
    assert!(stage.brain.metric("duplicates_total").await >= 2.0);
    // In the wrong order: the first is a gap.
    let three = peer.join("lobby", "three");
    let four = peer.join("lobby", "four");
    peer.say(&four).await;
    peer.say(&three).await;
    eventually!({
        peer.beat().await;
        peer.serve_snapshots(&mut orders).await;
        watch.sees(&["four", "one", "three", "two"])
    });
    // The last one is lost: only the beat tells.
    peer.join("lobby", "lost");
    eventually!({
        peer.beat().await;
        peer.serve_snapshots(&mut orders).await;
        watch.sees(&["four", "lost", "one", "three", "two"])
    });
    assert!(stage.brain.metric("gaps_total").await >= 1.0);
    assert!(stage.brain.metric("syncs_done_total").await >= 2.0);
    assert_eq!(watch.now().left, [""; 0], "nobody left: {:?}", watch.now());
    // Silence: all of them leave.
    eventually!(watch.sees(&[]), "{:?}", watch.now());
}

#[tokio::test]
async fn a_forged_incarnation_is_not_shown_and_counted() {
    let stage = Stage::new().await;
    let watch = stage.watch().await;
    let alice = stage.full("alice").await;
    eventually!(watch.sees(&["alice"]), "{:?}", watch.now());
    // It may speak for the tenant, as every Shield of its pool; but it does not report.
    let mut peer = Peer::new(&stage.spine, &stage.acme, "nobody", epoch(0)).await;
    let forged = peer.join("lobby", "forged");
    peer.say(&forged).await;
    eventually!(stage.brain.metric("forged_total").await >= 1.0);
    // Nor does another incarnation of the real one.
    let mut twin = Peer::new(&stage.spine, &stage.acme, "shield-1", epoch(60)).await;
    let forged = twin.join("lobby", "forged");
    twin.say(&forged).await;
    eventually!(stage.brain.metric("forged_total").await >= 2.0);
    let bytes = Bytes::from_static(b"\xff\xff no message");
    peer.tenant
        .client
        .publish(subjects::PRESENCE_CHANGE, bytes)
        .await
        .unwrap();
    eventually!(stage.brain.metric("malformed_total").await >= 1.0);
    let bob = stage.full("bob").await;
    eventually!(watch.sees(&["alice", "bob"]), "{:?}", watch.now());
    drop((alice, bob));
}

#[tokio::test]
async fn of_two_shields_with_one_id_the_newer_is_shown() {
    let stage = Stage::new().await;
    let watch = stage.watch().await;
    let mut old = Peer::new(&stage.spine, &stage.acme, "twin", epoch(-100)).await;
    let mut new = Peer::new(&stage.spine, &stage.acme, "twin", epoch(-10)).await;
    let of_old = old.join("lobby", "of-old");
    eventually!({
        old.beat().await;
        old.say(&of_old).await;
        watch.sees(&["of-old"])
    });
    let of_new = new.join("lobby", "of-new");
    eventually!({
        old.beat().await;
        new.beat().await;
        new.say(&of_new).await;
        watch.sees(&["of-new"])
    });
    eventually!({
        old.beat().await;
        new.beat().await;
        stage.brain.metric("shield_conflicts_total").await >= 1.0
    });
    assert!(watch.sees(&["of-new"]), "{:?}", watch.now());
    // The newer falls silent; the older is in force again, asked for what it has.
    let mut orders = old.orders(&stage.acme).await;
    eventually!({
        old.beat().await;
        old.serve_snapshots(&mut orders).await;
        watch.sees(&["of-old"])
    });
}

#[tokio::test]
async fn a_clock_that_is_years_off_does_no_lasting_harm() {
    let stage = Stage::new().await;
    let watch = stage.watch().await;
    let years = 10 * 365 * 86_400;
    for off in [years, -years] {
        let mut peer = Peer::new(&stage.spine, &stage.acme, "odd", epoch(off)).await;
        let skewed = stage.brain.metric("clock_skew_total").await;
        let odd = peer.join("lobby", "odd");
        let clock = u64::try_from(unix_now() + off).unwrap() * 1_000;
        eventually!({
            peer.beat_at(clock).await;
            peer.say(&odd).await;
            watch.sees(&["odd"])
        });
        eventually!({
            peer.beat_at(clock).await;
            stage.brain.metric("clock_skew_total").await > skewed
        });
        eventually!(watch.sees(&[]), "{:?}", watch.now());
    }
    // Started again with a right clock under the same id, after one from the future.
    let mut peer = Peer::new(&stage.spine, &stage.acme, "odd", epoch(0)).await;
    let right = peer.join("lobby", "right");
    eventually!({
        peer.beat().await;
        peer.say(&right).await;
        watch.sees(&["right"])
    });
}

#[tokio::test]
async fn a_brain_or_link_that_stands_still_under_a_flood_stays_small_and_catches_up() {
    let stage = Stage::new().await;
    let mut peer = Peer::new(&stage.spine, &stage.acme, "flood", epoch(0)).await;
    let mut orders = peer.orders(&stage.acme).await;
    let first = peer.join("lobby", "first");
    eventually!({
        peer.beat().await;
        peer.say(&first).await;
        peer.serve_snapshots(&mut orders).await;
        stage.brain.metric("members").await == 1.0
    });
    let link = stage.brain.link_pid().expect("a link runs");
    for whom in [stage.brain.program.pid(), link] {
        signal(whom, Signal::STOP);
        // One session changes its meta 100,000 times: 500 batches of 200 changes.
        let mut entry = peer.entries.pop().unwrap();
        for _ in 0..500 {
            let first = peer.seq + 1;
            let mut changes = Vec::new();
            for _ in 0..200 {
                peer.seq += 1;
                entry.seq = peer.seq;
                changes.push(Change::Put(entry.clone()));
            }
            let batch = peer.batch(first, changes);
            peer.say(&batch).await;
        }
        peer.entries.push(entry);
        for pid in [stage.brain.program.pid(), link] {
            let bytes = resident_bytes(pid);
            assert!(bytes < 300 << 20, "{bytes} bytes in process {pid}");
        }
        signal(whom, Signal::CONT);
        let late = peer.join("lobby", &format!("late-{whom}"));
        peer.say(&late).await;
        let there = peer.entries.len() as f64;
        eventually!({
            peer.beat().await;
            peer.serve_snapshots(&mut orders).await;
            stage.brain.metric("members").await == there
                && stage.brain.status("/readyz").await == Some(200)
        });
        let bytes = resident_bytes(stage.brain.program.pid());
        assert!(bytes < 400 << 20, "{bytes} bytes after it");
    }
    assert_eq!(
        stage.brain.metric("link_restarts_total").await,
        0.0,
        "it never hung for long"
    );
}
