//! The revocations as last read: which tokens are refused though they are good.
//!
//! Looked at for every token, so a look-up costs two hashes at most, and nothing
//! where the tenant has no revocation. A record that cannot be read refuses all
//! that its key may mean: that token, that user, that tenant, or, where the key
//! names none of them, everybody.

use std::{
    collections::{HashMap, HashSet},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arqon_proto::{
    names::TenantId,
    v1::{self, revocation::Tokens},
};
use arqon_spine::control::{RecordEvent, RevocationEvent, RevocationKey, TokenDigest};

use crate::auth::Identity;

/// The revocations of all tenants.
#[derive(Debug)]
pub struct Revocations {
    index: RwLock<Index>,
    /// An expired token is good for so long still.
    slack: u64,
}

#[derive(Debug, Default)]
struct Index {
    tenants: HashMap<TenantId, OfTenant>,
    /// Keys that name no tenant.
    foreign: HashSet<String>,
    /// The newest that was read; None before the first read to the end.
    revision: Option<u64>,
}

#[derive(Debug, Default)]
struct OfTenant {
    all: Option<Revoked>,
    users: HashMap<TokenDigest, Revoked>,
    jtis: HashMap<TokenDigest, Revoked>,
    /// Keys of a kind that this program does not know.
    foreign: HashSet<String>,
}

/// Times are seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Revoked {
    issued_before: u64,
    expires_at: u64,
}

/// Of a record that cannot be read: every token, for ever.
const UNREADABLE: Revoked = Revoked {
    issued_before: u64::MAX,
    expires_at: u64::MAX,
};

// === impl Revocations ===

impl Revocations {
    /// None yet. `slack` is how long an expired token or session still lives.
    pub fn new(slack: Duration) -> Self {
        Self {
            index: RwLock::default(),
            slack: slack.as_secs(),
        }
    }

    /// Whether the token of this identity is refused now.
    pub fn is_revoked(&self, identity: &Identity) -> bool {
        self.is_revoked_at(identity, now())
    }

    /// As [`Self::is_revoked`], at a moment in seconds since the Unix epoch.
    pub(crate) fn is_revoked_at(&self, identity: &Identity, now: u64) -> bool {
        let index = self.read();
        if !index.foreign.is_empty() {
            return true;
        }
        let Some(tenant) = index.tenants.get(&identity.tenant.id) else {
            return false;
        };
        let covers = |revoked: &Revoked| {
            identity.issued_at <= revoked.issued_before
                && now < revoked.expires_at.saturating_add(self.slack)
        };
        let among = |map: &HashMap<TokenDigest, Revoked>, text: &str| {
            // Without a revocation there is nothing to hash for.
            !map.is_empty() && map.get(&RevocationKey::digest(text)).is_some_and(covers)
        };
        !tenant.foreign.is_empty()
            || tenant.all.as_ref().is_some_and(covers)
            || among(&tenant.users, identity.user.as_str())
            || identity
                .jti
                .as_deref()
                .is_some_and(|jti| among(&tenant.jtis, jti))
    }

    /// Replaces all by what was read to the end.
    pub(crate) fn replace(&self, events: Vec<RevocationEvent>) {
        let mut fresh = Index {
            revision: Some(0),
            ..Index::default()
        };
        events.into_iter().for_each(|event| fresh.take(event));
        *self.write() = fresh;
    }

    /// Takes over a change. Returns the key if sessions must be looked at for it.
    pub(crate) fn change(&self, event: RevocationEvent) -> Option<RevocationKey> {
        let narrows = match &event {
            RecordEvent::Put(record, _) => Some(RevocationKey::read(&record.key)),
            RecordEvent::Unreadable(key, _) => Some(key.clone()),
            RecordEvent::Deleted(..) | RecordEvent::Synced => None,
        };
        self.write().take(event);
        narrows
    }

    /// Forgets what has expired, a day later: a clock that leaps ahead and comes
    /// back must make no revoked token good.
    pub(crate) fn purge(&self) {
        let cut = now().saturating_sub(self.slack + 24 * 3600);
        let alive = |revoked: &Revoked| revoked.expires_at > cut;
        self.write().tenants.retain(|_, tenant| {
            tenant.all = tenant.all.filter(alive);
            tenant.users.retain(|_, revoked| alive(revoked));
            tenant.jtis.retain(|_, revoked| alive(revoked));
            !tenant.is_empty()
        });
    }

    /// How this Shield stands; None before the first read.
    pub(crate) fn summary(&self) -> Option<v1::RevocationSummary> {
        let index = self.read();
        let revision = index.revision?;
        let cut = now().saturating_sub(self.slack);
        let (mut in_force, mut unreadable) = (0, index.foreign.len());
        for tenant in index.tenants.values() {
            let known = tenant.users.values().chain(tenant.jtis.values());
            for revoked in known.chain(&tenant.all) {
                match *revoked == UNREADABLE {
                    true => unreadable += 1,
                    false => in_force += u32::from(revoked.expires_at > cut),
                }
            }
            unreadable += tenant.foreign.len();
        }
        Some(v1::RevocationSummary {
            revision,
            in_force,
            unreadable: u32::try_from(unreadable).unwrap_or(u32::MAX),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Index ===

impl Index {
    fn take(&mut self, event: RevocationEvent) {
        let (key, revoked, revision) = match event {
            RecordEvent::Put(record, revision) => {
                let revoked = Revoked::of(&record);
                (RevocationKey::read(&record.key), Some(revoked), revision)
            }
            RecordEvent::Unreadable(key, revision) => (key, Some(UNREADABLE), revision),
            RecordEvent::Deleted(key, revision) => (key, None, revision),
            RecordEvent::Synced => return,
        };
        self.revision = self.revision.max(Some(revision));
        let Some(tenant) = key.tenant() else {
            set(&mut self.foreign, key.to_string(), revoked.is_some());
            return;
        };
        let of = self.tenants.entry(tenant.clone()).or_default();
        match key {
            RevocationKey::All(_) => of.all = revoked,
            RevocationKey::User(_, digest) => put(&mut of.users, digest, revoked),
            RevocationKey::Jti(_, digest) => put(&mut of.jtis, digest, revoked),
            RevocationKey::Foreign(_, key) => set(&mut of.foreign, key, revoked.is_some()),
        }
    }
}

fn put(map: &mut HashMap<TokenDigest, Revoked>, digest: TokenDigest, revoked: Option<Revoked>) {
    match revoked {
        Some(revoked) => drop(map.insert(digest, revoked)),
        None => drop(map.remove(&digest)),
    }
}

fn set(keys: &mut HashSet<String>, key: String, there: bool) {
    match there {
        true => drop(keys.insert(key)),
        false => drop(keys.remove(&key)),
    }
}

// === impl OfTenant ===

impl OfTenant {
    fn is_empty(&self) -> bool {
        self.all.is_none()
            && self.users.is_empty()
            && self.jtis.is_empty()
            && self.foreign.is_empty()
    }
}

// === impl Revoked ===

impl Revoked {
    fn of(record: &v1::Revocation) -> Self {
        Self {
            // Whenever a token of this jti was issued, it is the one.
            issued_before: match record.tokens {
                Some(Tokens::Jti(_)) => u64::MAX,
                _ => record.issued_before,
            },
            expires_at: record.expires_at,
        }
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arqon_proto::names::{SessionId, UserId};
    use arqon_telemetry::Metrics;

    use super::*;
    use crate::auth::testing::{identity, tenant};
    use crate::session::{Bounds, Meant, Outbox, OutboxLimits, Sessions, testing};

    const NOW: u64 = 1_800_000_000;

    fn id(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    fn token(tenant_id: &str, user: &str, jti: Option<&str>, issued_at: u64) -> Identity {
        let mut token = identity(&tenant(tenant_id, Vec::new()), user);
        token.jti = jti.map(Into::into);
        token.issued_at = issued_at;
        token
    }

    fn record(key: &RevocationKey, tokens: Tokens, before: u64, until: u64) -> RevocationEvent {
        let record = v1::Revocation {
            key: key.to_string(),
            tenant: key.tenant().unwrap().to_string(),
            tokens: Some(tokens),
            issued_before: before,
            expires_at: until,
            ..Default::default()
        };
        RecordEvent::Put(record, 7)
    }

    fn with(events: Vec<RevocationEvent>) -> Arc<Revocations> {
        let revocations = Revocations::new(Duration::from_secs(5));
        revocations.replace(events);
        Arc::new(revocations)
    }

    #[test]
    fn each_kind_refuses_its_tokens_and_no_others() {
        let ann = UserId::parse("ann").unwrap();
        let (jti, user) = (
            RevocationKey::jti(&id("acme"), "one"),
            RevocationKey::user(&id("acme"), &ann),
        );
        let revocations = with(vec![
            record(&jti, Tokens::Jti("one".to_owned()), 0, NOW + 60),
            record(&user, Tokens::User("ann".to_owned()), NOW - 10, NOW + 60),
        ]);
        for (tenant, user, jti, issued_at, revoked) in [
            ("acme", "bob", Some("one"), NOW + 9, true),
            ("acme", "bob", Some("two"), NOW - 99, false),
            ("acme", "bob", None, NOW - 99, false),
            ("globex", "bob", Some("one"), NOW, false),
            ("acme", "ann", None, NOW - 10, true),
            ("acme", "ann", None, NOW - 9, false),
            ("globex", "ann", None, NOW - 99, false),
        ] {
            let token = token(tenant, user, jti, issued_at);
            let found = revocations.is_revoked_at(&token, NOW);
            assert_eq!(found, revoked, "{tenant} {user} {jti:?} {issued_at}");
        }
        let all = RevocationKey::All(id("acme"));
        let changed = revocations.change(record(
            &all,
            Tokens::All(v1::RevokeAll {}),
            NOW - 10,
            NOW + 60,
        ));
        assert_eq!(changed, Some(RevocationKey::All(id("acme"))));
        assert!(revocations.is_revoked_at(&token("acme", "eve", None, NOW - 10), NOW));
        assert!(!revocations.is_revoked_at(&token("acme", "eve", None, NOW - 9), NOW));
        assert!(!revocations.is_revoked_at(&token("globex", "eve", None, 0), NOW));
        let gone = revocations.change(RecordEvent::Deleted(all, 8));
        assert_eq!(gone, None, "nobody is closed by it");
        assert!(!revocations.is_revoked_at(&token("acme", "eve", None, NOW - 10), NOW));
        assert_eq!(revocations.summary().unwrap().revision, 8);
    }

    #[test]
    fn a_revocation_holds_until_its_tokens_are_past_their_grace() {
        let jti = RevocationKey::jti(&id("acme"), "one");
        let event = record(&jti, Tokens::Jti("one".to_owned()), 0, NOW);
        let revocations = with(vec![event]);
        let token = token("acme", "bob", Some("one"), 0);
        assert!(revocations.is_revoked_at(&token, NOW + 4));
        assert!(!revocations.is_revoked_at(&token, NOW + 5));
        // By the clock of this machine it has not expired yet.
        revocations.purge();
        let in_force = |revocations: &Revocations| revocations.summary().unwrap().in_force;
        assert_eq!(in_force(&revocations), u32::from(now() < NOW + 5));
        // What has just expired is kept for a day, and is not in force.
        let event = record(&jti, Tokens::Jti("one".to_owned()), 0, now() - 60);
        let old = with(vec![event]);
        old.purge();
        assert_eq!(in_force(&old), 0);
        assert_eq!(old.read().tenants.len(), 1);
        let older = with(vec![record(&jti, Tokens::Jti("one".to_owned()), 0, 1)]);
        older.purge();
        assert_eq!(older.read().tenants.len(), 0);
    }

    #[test]
    fn what_cannot_be_read_refuses_all_that_its_key_may_mean() {
        let ann = UserId::parse("ann").unwrap();
        for (key, ann_too, others_too, elsewhere_too) in [
            (RevocationKey::jti(&id("acme"), "one"), false, false, false),
            (RevocationKey::user(&id("acme"), &ann), true, false, false),
            (RevocationKey::All(id("acme")), true, true, false),
            (RevocationKey::read("issuer.acme.x"), true, true, false),
            (RevocationKey::read("issuer"), true, true, true),
        ] {
            let revocations = with(Vec::new());
            let scope = revocations.change(RecordEvent::Unreadable(key.clone(), 3));
            assert_eq!(scope.as_ref(), Some(&key));
            let far = u64::MAX / 2;
            let judge = |tenant: &str, user: &str, jti| {
                revocations.is_revoked_at(&token(tenant, user, jti, NOW), far)
            };
            let is_jti = matches!(key, RevocationKey::Jti(..));
            assert_eq!(
                judge("acme", "eve", Some("one")),
                is_jti || others_too,
                "{key}"
            );
            assert_eq!(judge("acme", "ann", None), ann_too, "{key}");
            assert_eq!(judge("acme", "eve", None), others_too, "{key}");
            assert_eq!(judge("globex", "eve", None), elsewhere_too, "{key}");
            let summary = revocations.summary().unwrap();
            assert_eq!((summary.in_force, summary.unreadable), (0, 1), "{key}");
            revocations.purge();
            assert_eq!(revocations.summary().unwrap().unreadable, 1, "{key}");
            revocations.change(RecordEvent::Deleted(key, 4));
            assert!(!judge("acme", "ann", Some("one")));
        }
    }

    /// Prints what a burst costs: `cargo test --workspace --lib a_burst -- --nocapture`.
    #[test]
    fn a_burst_of_revocations_closes_those_it_means_and_nobody_else() {
        const SESSIONS: usize = 10_000;
        const REVOKED: usize = 1_000;
        let metrics = Metrics::default();
        let bounds = Bounds {
            max_bytes: 1024,
            max_messages: 16,
            tenant_max_bytes: 1 << 20,
            max_unconfirmed: 8,
            max_rooms: 8,
        };
        let limits = Arc::new(OutboxLimits::new(bounds, &metrics));
        let sessions = Arc::new(Sessions::new());
        let acme = tenant("acme", Vec::new());
        let held: Vec<_> = (0..SESSIONS)
            .map(|index| {
                let mut identity = identity(&acme, &format!("user-{index}"));
                identity.jti = Some(format!("jti-{index}").into());
                let outbox = Outbox::new(SessionId::new(), &acme.id, limits.clone());
                let outbox = Arc::new(outbox);
                (sessions.register(&Arc::new(identity), &outbox), outbox)
            })
            .collect();
        let revocations = with(Vec::new());
        let events = (0..REVOKED).map(|index| {
            let jti = format!("jti-{}", index * 7);
            let key = RevocationKey::jti(&acme.id, &jti);
            record(&key, Tokens::Jti(jti), 0, u64::MAX)
        });
        let began = std::time::Instant::now();
        let mut closed = 0;
        let mut meant = Meant::default();
        for event in events {
            // Each by itself at first, as they come where nobody hurries.
            let key = revocations.change(event).expect("it narrows");
            let mut one = Meant::default();
            one.add(&key);
            closed += sessions.close_revoked(&one, |identity| revocations.is_revoked(identity));
            meant.add(&key);
        }
        let single = began.elapsed();
        assert_eq!(closed, REVOKED);
        let began = std::time::Instant::now();
        let again = sessions.close_revoked(&meant, |identity| revocations.is_revoked(identity));
        let together = began.elapsed();
        assert_eq!(again, 0, "each is closed once");
        let is_closing = |(_, outbox): &(_, Arc<Outbox>)| testing::read(outbox).1.is_some();
        for (index, held) in held.iter().enumerate() {
            let revoked = index.is_multiple_of(7) && index / 7 < REVOKED;
            assert_eq!(is_closing(held), revoked, "{index}");
        }
        println!("{REVOKED} revocations, {SESSIONS} sessions: {single:?}; in one: {together:?}");
    }

    #[test]
    fn unread_is_not_empty() {
        let revocations = Revocations::new(Duration::ZERO);
        assert_eq!(revocations.summary(), None);
        revocations.replace(Vec::new());
        assert_eq!(
            revocations.summary().unwrap(),
            v1::RevocationSummary::default()
        );
    }
}
