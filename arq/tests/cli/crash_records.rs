//! Tenants, policies and keys on a real nats-server, while `arq`, the server or
//! both are killed with SIGKILL at any moment of a change.
//!
//! `ARQON_CRASH_ROUNDS` is how many, `ARQON_CRASH_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Child;
use std::time::{Duration, Instant};

use arqon_proto::names::{NodeId, TenantId};
use arqon_proto::v1::{PolicyEntry, TenantRecord, TenantState, issuer::Keys, policy_entry::Entry};
use arqon_spine::admin::Admin;
use arqon_spine::connect::{TenantOptions, connect_tenant};
use arqon_spine::credentials::mint_tenant_user;
use arqon_spine::server::{self, Io, Process};
use arqon_spine::server_config::ServerParams;
use arqon_spine::state::StateFolder;

use crate::common::{Answer, Folder, PATIENCE, until};

const TENANTS: [&str; 4] = ["ada", "bea", "cleo", "dora"];
const POLICY: &str = "words";

/// A Spine whose server can be killed, and the tool that changes it.
struct Ground {
    // First, so that it ends before its folder goes.
    server: Process,
    state: StateFolder,
    folder: Folder,
    runtime: tokio::runtime::Runtime,
    chance: Chance,
    /// Accounts of tenants that are no more.
    deleted: BTreeSet<(String, String)>,
    /// How long each kind of change took, when nothing was killed.
    took: BTreeMap<&'static str, Duration>,
}

/// All records.
#[derive(Clone, Debug, PartialEq)]
struct Records {
    tenants: BTreeMap<String, TenantRecord>,
    policies: BTreeMap<String, PolicyEntry>,
}

/// A change by one command.
#[derive(Clone, Debug)]
enum Change {
    Create(&'static str),
    Limits(&'static str, u32),
    Suspend(&'static str),
    Resume(&'static str),
    Delete(&'static str),
    Push(&'static str),
    Bind(&'static str, u32),
    RotateKeys,
    RetireKeys,
    RotatePool,
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Tool,
    Server,
    Both,
}

/// Numbers that follow from a seed (SplitMix64).
struct Chance(u64);

// === impl Chance ===

impl Chance {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.next(all.len() as u64)).unwrap()]
    }
}

// === impl Change ===

impl Change {
    /// One that makes sense on these records.
    fn choose(chance: &mut Chance, records: &Records) -> Self {
        let there: Vec<&'static str> = TENANTS
            .into_iter()
            .filter(|id| records.tenants.contains_key(*id))
            .collect();
        let tenant = match there.is_empty() {
            true => return Self::Create(chance.of(&TENANTS)),
            false => chance.of(&there),
        };
        let number = u32::try_from(1 + chance.next(1000)).unwrap();
        match chance.next(22) {
            0..5 => Self::Create(chance.of(&TENANTS)),
            5..8 => Self::Limits(tenant, number),
            8..10 => Self::Suspend(tenant),
            10..12 => Self::Resume(tenant),
            12..14 => Self::Delete(tenant),
            14..16 => Self::Push(chance.of(&["blocklist", "redact", "size-and-shape"])),
            16..18 if !records.policies.is_empty() => Self::Bind(tenant, number),
            16..19 => Self::RotateKeys,
            19..21 => Self::RetireKeys,
            _ => Self::RotatePool,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Limits(..) => "limits",
            Self::Suspend(_) => "suspend",
            Self::Resume(_) => "resume",
            Self::Delete(_) => "delete",
            Self::Push(_) => "push",
            Self::Bind(..) => "bind",
            Self::RotateKeys => "rotate keys",
            Self::RetireKeys => "retire keys",
            Self::RotatePool => "rotate pool",
        }
    }

    fn arguments(&self) -> Vec<String> {
        let line = match self {
            Self::Create(id) => format!("tenant create {id}"),
            Self::Limits(id, rooms) => format!("tenant limits {id} --max-rooms {rooms}"),
            Self::Suspend(id) => format!("tenant suspend {id}"),
            Self::Resume(id) => format!("tenant resume {id}"),
            Self::Delete(id) => format!("tenant delete {id} --force"),
            Self::Push(component) => format!("policy push {component} --name {POLICY}"),
            Self::Bind(id, order) => format!(
                "policy bind {POLICY} --version 1 --tenant {id} --order {order} --config words.toml"
            ),
            Self::RotateKeys => "auth keys rotate".to_owned(),
            Self::RetireKeys => "auth keys retire --force".to_owned(),
            Self::RotatePool => "pool rotate-key default".to_owned(),
        };
        line.split(' ').map(str::to_owned).collect()
    }

    /// The record of the tenant as it may be: as before, or as wished. Of a new
    /// one only what is not up to chance.
    fn allows(
        &self,
        id: &str,
        before: Option<&TenantRecord>,
        after: Option<&TenantRecord>,
    ) -> bool {
        if after == before {
            return true;
        }
        let wished = |wish: fn(&mut TenantRecord, u32), number| {
            let mut wished = before.cloned();
            if let Some(record) = &mut wished {
                wish(record, number);
            }
            after == wished.as_ref()
        };
        match self {
            Self::Create(target) if *target == id && before.is_none() => {
                after.is_some_and(|record| {
                    record.id == id
                        && record.state() == TenantState::Active
                        && record.account.len() == 56
                        && record.pool == "default"
                        && !record.issuers.is_empty()
                        && record.limits.is_some()
                })
            }
            Self::Limits(target, rooms) if *target == id => wished(
                |record, rooms| record.limits.get_or_insert_default().max_rooms = rooms,
                *rooms,
            ),
            Self::Suspend(target) if *target == id => {
                wished(|record, _| record.set_state(TenantState::Suspended), 0)
            }
            Self::Resume(target) if *target == id => {
                wished(|record, _| record.set_state(TenantState::Active), 0)
            }
            Self::Delete(target) if *target == id => after.is_none(),
            // One tenant after the other: each has the key more or less, whole.
            Self::RotateKeys | Self::RetireKeys => {
                let (Some(before), Some(after)) = (before, after) else {
                    return false;
                };
                let mut other_keys = after.clone();
                other_keys.issuers.clone_from(&before.issuers);
                let (had, has) = (kids(before), kids(after));
                other_keys == *before
                    && match self {
                        Self::RotateKeys => has.is_superset(&had) && has.len() == had.len() + 1,
                        _ => has.is_subset(&had) && has.len() + 1 == had.len(),
                    }
            }
            _ => false,
        }
    }

    /// The same for a record of policies.
    fn allows_policy(
        &self,
        key: &str,
        before: Option<&PolicyEntry>,
        after: Option<&PolicyEntry>,
    ) -> bool {
        if after == before {
            return true;
        }
        let entry = after.and_then(|after| after.entry.as_ref());
        let former = before.and_then(|before| before.entry.as_ref());
        match (self, entry) {
            (Self::Push(_), Some(Entry::Policy(policy))) => {
                let had = match former {
                    Some(Entry::Policy(former)) => former.versions.len(),
                    _ => 0,
                };
                policy.versions.len() == had + 1
            }
            (Self::Bind(id, order), Some(Entry::Binding(binding))) => {
                key.contains(&format!(".{id}.")) && i64::from(binding.order) == i64::from(*order)
            }
            _ => false,
        }
    }

    /// Whether the records are as wished.
    fn is_done(&self, records: &Records, signs: &str, old: Option<&str>) -> bool {
        let tenant = |id: &str| records.tenants.get(id);
        match self {
            Self::Create(id) => tenant(id).is_some(),
            Self::Limits(id, rooms) => {
                tenant(id).is_some_and(|record| record.limits.unwrap_or_default().max_rooms == *rooms)
            }
            Self::Suspend(id) => {
                tenant(id).is_some_and(|record| record.state() == TenantState::Suspended)
            }
            Self::Resume(id) => {
                tenant(id).is_some_and(|record| record.state() == TenantState::Active)
            }
            Self::Delete(id) => tenant(id).is_none(),
            Self::Push(_) => records.policies.values().any(|entry| {
                matches!(&entry.entry, Some(Entry::Policy(policy)) if !policy.versions.is_empty())
            }),
            Self::Bind(id, order) => records.policies.iter().any(|(key, entry)| {
                key.contains(&format!(".{id}."))
                    && matches!(&entry.entry, Some(Entry::Binding(binding))
                        if i64::from(binding.order) == i64::from(*order))
            }),
            Self::RotateKeys => records.tenants.values().all(|record| {
                old.is_some_and(|old| kids(record).contains(old)) || kids(record).contains(signs)
            }),
            Self::RetireKeys => old.is_none(),
            Self::RotatePool => true,
        }
    }

    /// What the command says the second time, where it was done the first time.
    fn again(&self, answer: &Answer) -> bool {
        let said = match self {
            Self::Delete(_) => "there is no tenant",
            Self::RotateKeys => "the key before this one is still trusted",
            Self::RetireKeys => "there is no old key to retire",
            _ => return false,
        };
        answer.err.contains(said) && answer.err.contains("hint: ")
    }
}

/// The names of the keys that a tenant trusts.
fn kids(record: &TenantRecord) -> BTreeSet<String> {
    let pems = record
        .issuers
        .iter()
        .filter_map(|issuer| match &issuer.keys {
            Some(Keys::Pem(pem)) => Some(&pem.keys),
            _ => None,
        });
    pems.flatten().map(|key| key.kid.clone()).collect()
}

// === impl Ground ===

impl Ground {
    fn new(seed: u64) -> Self {
        let folder = Folder::new();
        folder.arq(&["spine", "init"]).ok();
        let state = StateFolder::open(folder.state().join("spine")).unwrap();
        let store = folder.path().join("nats/store");
        std::fs::create_dir_all(&store).unwrap();
        let binary = server::find().expect("a nats-server (scripts/setup fetches one)");
        let log = Io::File(folder.path().join("nats.log"));
        let server = Process::start(&binary, &state, ServerParams::single(store), log).unwrap();
        let settings = format!(
            "nats = [{:?}]\nshield_url = \"ws://127.0.0.1:1/v1/socket\"\n\
             admin_url = \"http://127.0.0.1:1\"\ndefault_tenant = \"ada\"\ndefault_user = \"dev\"\n\
             audience = \"arqon\"\nissuer = \"arqon-development\"\n",
            server.url()
        );
        std::fs::write(folder.state().join("context.toml"), settings).unwrap();
        std::fs::write(folder.path().join("words.toml"), "words = [\"malware\"]\n").unwrap();
        folder.arq(&["auth", "gen"]).ok();
        folder.arq(&["pool", "create", "default"]).ok();
        folder
            .arq(&["policy", "push", "blocklist", "--name", POLICY])
            .ok();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self {
            server,
            state,
            folder,
            runtime,
            chance: Chance(seed),
            deleted: BTreeSet::new(),
            took: BTreeMap::new(),
        }
    }

    /// All records, each readable, and each version's component there as it was pushed.
    fn records(&self) -> Records {
        let servers = [self.server.url()];
        let mut records = None;
        // A server that has just started may still be reading its store.
        until("the records are read", || {
            let read = async {
                let admin = Admin::connect(&self.state, &servers).await.ok()?;
                let tenants = admin.list().await.ok()?;
                let policies = admin.policies().list().await.ok()?;
                assert!(policies.unreadable.is_empty(), "{:?}", policies.unreadable);
                let mut kept = BTreeMap::new();
                for (key, entry, _) in policies.entries {
                    if let Some(Entry::Policy(policy)) = &entry.entry {
                        for version in &policy.versions {
                            let digest = version.digest[..].try_into().unwrap();
                            admin.control().get_object(&digest).await.unwrap();
                        }
                    }
                    kept.insert(key.to_string(), entry);
                }
                admin.close().await;
                let tenants = tenants.into_iter();
                Some(Records {
                    tenants: tenants.map(|record| (record.id.clone(), record)).collect(),
                    policies: kept,
                })
            };
            records = self.runtime.block_on(read);
            records.is_some()
        });
        records.unwrap()
    }

    /// The key that signs and the one before it, as whoever verifies sees them.
    fn development_keys(&self) -> (String, Option<String>) {
        let jwks = self.folder.arq(&["--json", "auth", "jwks"]).ok().json();
        let kid = |index: usize| jwks["keys"][index]["kid"].as_str().map(str::to_owned);
        (kid(0).unwrap(), kid(1))
    }

    fn start(&self, change: &Change) -> Child {
        let arguments = change.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.folder.command(&arguments).spawn().unwrap()
    }

    fn end(&self, mut child: Child) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            assert!(
                Instant::now() < deadline,
                "arq goes on for ever without NATS"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait_with_output().unwrap().into()
    }

    /// Has the change begun, and kills the victim at some moment of it.
    fn interrupt(&mut self, change: &Change, victim: Victim) -> Answer {
        let usual = self.took.get(change.kind()).copied();
        let usual = usual.unwrap_or(Duration::from_millis(200));
        let after = Duration::from_micros(
            self.chance
                .next(u64::try_from(usual.as_micros()).unwrap().max(1)),
        );
        let mut child = self.start(change);
        std::thread::sleep(after);
        if victim != Victim::Tool {
            self.server.kill().unwrap();
        }
        if victim != Victim::Server {
            child.kill().unwrap();
        }
        let answer = self.end(child);
        if victim != Victim::Tool {
            self.server.restart().unwrap();
        }
        answer
    }

    /// Does the change once more; what it says is success, or that it was done.
    fn again(&mut self, change: &Change) -> Answer {
        let begun = Instant::now();
        let answer = self.end(self.start(change));
        if answer.code == 0 {
            self.took.insert(change.kind(), begun.elapsed());
        }
        answer
    }

    /// Which of these accounts, each with its tenant, a Shield's user gets into. All
    /// at once: a server takes seconds to refuse an account that it does not know.
    fn connect(&self, accounts: &[(&str, &str)]) -> Vec<bool> {
        let fleet = self.state.fleet_key(&NodeId::parse("default").unwrap());
        let fleet = fleet.unwrap();
        let servers = [self.server.url()];
        let connecting = accounts.iter().map(async |(account, tenant)| {
            let id = TenantId::parse(tenant).unwrap();
            let user = mint_tenant_user(&fleet, account, &id, "shield-1", PATIENCE);
            match connect_tenant(&servers, user, "story", TenantOptions::default()).await {
                Ok(connection) => {
                    connection.close().await;
                    true
                }
                Err(_) => false,
            }
        });
        self.runtime
            .block_on(futures_util::future::join_all(connecting))
    }

    /// After a reassertion, who is active gets in, and nobody else.
    fn check_accounts(&self, records: &Records, moment: &str) {
        self.folder.until_ok(&["tenant", "reassert"]);
        let there = records.tenants.values().map(|record| {
            let active = record.state() == TenantState::Active;
            ((&*record.account, &*record.id), active)
        });
        let gone = self.deleted.iter();
        let gone = gone.map(|(account, tenant)| ((&**account, &**tenant), false));
        let (accounts, wanted): (Vec<_>, Vec<_>) = there.chain(gone).unzip();
        let seen = self.connect(&accounts);
        assert_eq!(seen, wanted, "{moment}: who gets into {accounts:?}");
    }

    /// Accounts without a record, from now on.
    fn note_deleted(&mut self, before: &Records, after: &Records) {
        for record in before.tenants.values() {
            let kept = after.tenants.get(&record.id);
            if kept.is_none_or(|kept| kept.account != record.account) {
                let gone = (record.account.clone(), record.id.clone());
                self.deleted.insert(gone);
            }
        }
    }

    fn round(&mut self, number: u64) {
        let before = self.records();
        let change = Change::choose(&mut self.chance, &before);
        let victim = self
            .chance
            .of(&[Victim::Tool, Victim::Tool, Victim::Server, Victim::Both]);
        let moment = format!("round {number}, {change:?}, {victim:?} killed");
        println!("{moment}");
        let said = self.interrupt(&change, victim);
        if victim == Victim::Server && said.code != 0 {
            assert!(said.err.contains("arq: "), "{moment}: {said:?}");
        }

        let left = self.records();
        for id in before.tenants.keys().chain(left.tenants.keys()) {
            let (was, is) = (before.tenants.get(id), left.tenants.get(id));
            assert!(
                change.allows(id, was, is),
                "{moment}: {was:?} became {is:?}"
            );
        }
        for key in before.policies.keys().chain(left.policies.keys()) {
            let (was, is) = (before.policies.get(key), left.policies.get(key));
            assert!(
                change.allows_policy(key, was, is),
                "{moment}: {was:?} became {is:?}"
            );
        }
        StateFolder::open(self.state.path())
            .unwrap()
            .tenant_keys()
            .unwrap();
        let (signs, _) = self.development_keys();
        for record in left.tenants.values() {
            assert!(
                kids(record).contains(&signs),
                "{moment}: {} does not trust the key that signs",
                record.id
            );
        }
        self.note_deleted(&before, &left);
        self.check_accounts(&left, &moment);

        let answer = self.again(&change);
        let refused = answer.code == 1 && change.again(&answer);
        assert!(answer.code == 0 || refused, "{moment}, then: {answer:?}");
        let after = self.records();
        let (signs, old) = self.development_keys();
        assert!(
            change.is_done(&after, &signs, old.as_deref()),
            "{moment}, then {answer:?}: {after:?}"
        );
        self.note_deleted(&left, &after);
        self.check_accounts(&after, &moment);
    }
}

#[test]
fn no_kill_leaves_a_record_or_a_key_half_written() {
    let number = |name: &str, usual: u64| {
        std::env::var(name).map_or(usual, |number| number.parse().unwrap())
    };
    let seed = number("ARQON_CRASH_SEED", u64::from(std::process::id()));
    println!("ARQON_CRASH_SEED={seed}");
    let mut ground = Ground::new(seed);
    for id in TENANTS {
        let arguments = ["tenant", "create", id];
        ground.folder.arq(&arguments).ok();
    }
    for round in 1..=number("ARQON_CRASH_ROUNDS", 10) {
        ground.round(round);
    }
}

#[test]
fn a_resolver_that_lost_or_half_lost_its_accounts_is_filled_from_the_records() {
    let mut ground = Ground::new(1);
    for id in TENANTS {
        ground.folder.arq(&["tenant", "create", id]).ok();
    }
    ground.folder.arq(&["tenant", "suspend", "dora"]).ok();
    let records = ground.records();
    let accounts = ground.folder.path().join("nats/store/accounts");
    let file = |id: &str| {
        let account = &records.tenants[id].account;
        let name = format!("{account}.jwt");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&accounts).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(
                    std::fs::read_dir(&path)
                        .unwrap()
                        .map(|inner| inner.unwrap().path()),
                );
            } else {
                found.push(path);
            }
        }
        let is = |path: &std::path::PathBuf| path.file_name().unwrap().to_str() == Some(&name);
        found.into_iter().find(is).expect("the account's file")
    };
    // As a server that was killed while it wrote them.
    let (ada, bea, cleo) = (file("ada"), file("bea"), file("cleo"));
    let whole = std::fs::read(&ada).unwrap();
    ground.server.kill().unwrap();
    std::fs::write(&ada, &whole[..whole.len() / 2]).unwrap();
    std::fs::write(&bea, b"").unwrap();
    std::fs::remove_file(&cleo).unwrap();
    ground.server.restart().unwrap();
    ground.check_accounts(&records, "files cut short");

    ground.server.kill().unwrap();
    std::fs::remove_dir_all(&accounts).unwrap();
    ground.server.restart().unwrap();
    let ada = &records.tenants["ada"];
    assert_eq!(
        ground.connect(&[(&ada.account, "ada")]),
        [false],
        "it is lost"
    );
    ground.check_accounts(&records, "all accounts lost");
    assert_eq!(ground.records(), records, "the records are untouched");
}
