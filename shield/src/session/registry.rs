//! The sessions of this Shield, by tenant.
//!
//! A map with register, unregister and the few orders that concern many
//! sessions at once; what a session does is none of its business.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arqon_proto::{
    codes::CloseCode,
    envelope,
    names::{SessionId, TenantId, UserId},
    v1,
};
use tokio::sync::watch;

use super::{
    farewell::Farewells,
    frame::{Frame, Shared},
    outbox::Outbox,
    revoked::{Meant, Tags},
};
use crate::auth::Identity;

/// All sessions of this Shield.
#[derive(Debug)]
pub struct Sessions {
    table: Mutex<Table>,
    count: watch::Sender<usize>,
    farewells: Farewells,
}

#[derive(Debug, Default)]
struct Table {
    tenants: HashMap<TenantId, HashMap<SessionId, Live>>,
    /// Set by a drain: what a session that slips in late is told,
    goaway: Option<Frame>,
    /// and with what it is closed, once all others were.
    closed: Option<CloseCode>,
}

/// A session that is registered.
#[derive(Debug)]
struct Live {
    outbox: Arc<Outbox>,
    /// Whose token is in force; the session holds the same.
    identity: Arc<Identity>,
    tags: Tags,
}

/// Which sessions are meant. One of no tenant and no session is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Those of this tenant.
    pub tenant: Option<TenantId>,
    /// Those of this user.
    pub user: Option<UserId>,
    /// This one.
    pub session: Option<SessionId>,
}

/// Keeps a session registered while it lives.
#[derive(Debug)]
pub struct Registration {
    sessions: Arc<Sessions>,
    tenant: TenantId,
    session: SessionId,
}

// === impl Sessions ===

impl Default for Sessions {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            count: watch::Sender::new(0),
            farewells: Farewells::new(),
        }
    }
}

impl Sessions {
    /// No sessions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a session until the registration is dropped.
    pub fn register(
        self: &Arc<Self>,
        identity: &Arc<Identity>,
        outbox: &Arc<Outbox>,
    ) -> Registration {
        let tenant = &identity.tenant.id;
        // It hashes, so before the lock.
        let tags = Tags::of(identity);
        let mut table = self.lock();
        if let Some(goaway) = &table.goaway {
            outbox.push_control(goaway.clone());
        }
        if let Some(code) = table.closed {
            outbox.close(code);
        }
        table.tenants.entry(tenant.clone()).or_default().insert(
            outbox.session(),
            Live {
                outbox: outbox.clone(),
                identity: identity.clone(),
                tags,
            },
        );
        self.count.send_modify(|count| *count += 1);
        Registration {
            sessions: self.clone(),
            tenant: tenant.clone(),
            session: outbox.session(),
        }
    }

    /// Sessions of all tenants.
    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Sessions of one tenant.
    pub fn count_of(&self, tenant: &TenantId) -> usize {
        self.lock().tenants.get(tenant).map_or(0, HashMap::len)
    }

    /// Sessions of each tenant that has any, in no order.
    pub fn counts(&self) -> Vec<(TenantId, usize)> {
        let table = self.lock();
        let counts = table.tenants.iter();
        counts.map(|(id, all)| (id.clone(), all.len())).collect()
    }

    /// Bytes that wait in the queues of all sessions.
    pub fn waiting_bytes(&self) -> u64 {
        // Outside the lock, which every new session takes.
        self.all().iter().map(|outbox| outbox.waiting_bytes()).sum()
    }

    /// Closes all sessions of a tenant; how many there were.
    pub fn close_tenant(&self, tenant: &TenantId, code: CloseCode) -> usize {
        let all: Vec<_> = match self.lock().tenants.get(tenant) {
            Some(sessions) => sessions.values().map(|live| live.outbox.clone()).collect(),
            None => Vec::new(),
        };
        all.iter().for_each(|outbox| outbox.cut(code));
        all.len()
    }

    /// Closes those of the sessions meant whose token is revoked; how many there
    /// were. Tokens are judged outside the lock, which every new session takes.
    pub fn close_revoked(&self, meant: &Meant, is_revoked: impl Fn(&Identity) -> bool) -> usize {
        let mut revoked = self.lock().meant(meant);
        revoked.retain(|(_, identity)| is_revoked(identity));
        let table = self.lock();
        // One that has refreshed meanwhile is not closed for the token it had before.
        revoked.retain(|(session, identity)| {
            let live = table.live(&identity.tenant.id, *session);
            live.is_some_and(|live| Arc::ptr_eq(&live.identity, identity) && live.cut_as_revoked())
        });
        revoked.len()
    }

    /// Closes the sessions that are meant with KICKED; how many there were.
    pub fn kick(&self, filter: &SessionFilter) -> usize {
        let meant = self.matching(filter);
        let kick = |(outbox, _): &(Arc<Outbox>, _)| outbox.cut(CloseCode::Kicked);
        meant.iter().for_each(kick);
        meant.len()
    }

    /// The sessions that are meant and whose token is in force, the oldest
    /// first, `limit` at most; and how many there are.
    pub fn list(
        &self,
        filter: &SessionFilter,
        limit: usize,
    ) -> (Vec<(SessionId, Arc<Identity>)>, usize) {
        let mut found: Vec<_> = self
            .matching(filter)
            .into_iter()
            .map(|(outbox, identity)| (outbox.session(), identity))
            .collect();
        let total = found.len();
        // The ids ascend with time.
        found.sort_unstable_by_key(|(session, _)| *session);
        found.truncate(limit);
        (found, total)
    }

    fn matching(&self, filter: &SessionFilter) -> Vec<(Arc<Outbox>, Arc<Identity>)> {
        let table = self.lock();
        let meant = |(session, live): &(&SessionId, &Live)| {
            filter.session.is_none_or(|wanted| wanted == **session)
                && filter
                    .user
                    .as_ref()
                    .is_none_or(|user| *user == live.identity.user)
        };
        table
            .of(filter.tenant.as_ref())
            .filter(meant)
            .map(|(_, live)| (live.outbox.clone(), live.identity.clone()))
            .collect()
    }

    /// Closes every session, and every one that still comes; how many there were.
    pub fn close_all(&self, code: CloseCode) -> usize {
        let all = {
            let mut table = self.lock();
            table.closed = Some(code);
            table.outboxes()
        };
        all.iter().for_each(|outbox| outbox.close(code));
        all.len()
    }

    /// Sends GOAWAY to every session, and to every one that still comes.
    pub fn goaway_all(&self, retry_after: Duration, spread: Duration, deadline: Duration) {
        let frame = Frame::envelope(&envelope::goaway(v1::Goaway {
            retry_after_ms: millis(retry_after),
            spread_ms: millis(spread),
            deadline_ms: millis(deadline),
        }));
        let all = {
            let mut table = self.lock();
            table.goaway = Some(frame.clone());
            table.outboxes()
        };
        let frame = Shared::new(frame);
        for outbox in all {
            outbox.push_control(frame.in_encoding(outbox.encoding()).clone());
        }
        self.farewells.end();
    }

    /// Who waits to learn why it was closed.
    pub(super) fn farewells(&self) -> &Farewells {
        &self.farewells
    }

    /// Ends when no session is left.
    pub async fn wait_empty(&self) {
        let mut count = self.count.subscribe();
        count
            .wait_for(|count| *count == 0)
            .await
            .expect("the sender lives as long as self");
    }

    fn all(&self) -> Vec<Arc<Outbox>> {
        self.lock().outboxes()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.of(None).map(|(_, live)| live.outbox.clone()).collect()
    }

    /// The sessions of a tenant, or of all.
    fn of(&self, tenant: Option<&TenantId>) -> impl Iterator<Item = (&SessionId, &Live)> {
        let one = tenant.and_then(|tenant| self.tenants.get(tenant));
        let all = tenant.is_none().then(|| self.tenants.values());
        one.into_iter().chain(all.into_iter().flatten()).flatten()
    }
}

impl Table {
    /// The sessions that revocations may mean.
    fn meant(&self, meant: &Meant) -> Vec<(SessionId, Arc<Identity>)> {
        let found = |(session, live): (&SessionId, &Live)| (*session, live.identity.clone());
        let Some(tenants) = meant.tenants() else {
            return self.of(None).map(found).collect();
        };
        let mut all = Vec::new();
        for (tenant, tokens) in tenants {
            let meant = self.of(Some(tenant));
            all.extend(meant.filter(|(_, live)| tokens.means(live.tags)).map(found));
        }
        all
    }

    fn live(&self, tenant: &TenantId, session: SessionId) -> Option<&Live> {
        self.tenants.get(tenant)?.get(&session)
    }
}

impl Live {
    /// False if it is being closed already.
    fn cut_as_revoked(&self) -> bool {
        let first = !self.outbox.is_closing();
        self.outbox.cut(CloseCode::TokenRevokedClose);
        first
    }
}

impl Registration {
    /// Another token is in force from here on, of the same tenant and user.
    pub fn set_identity(&self, identity: &Arc<Identity>) {
        let tags = Tags::of(identity);
        let mut table = self.sessions.lock();
        let sessions = table.tenants.get_mut(&self.tenant);
        if let Some(live) = sessions.and_then(|all| all.get_mut(&self.session)) {
            live.identity = identity.clone();
            live.tags = tags;
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut table = self.sessions.lock();
        let Some(sessions) = table.tenants.get_mut(&self.tenant) else {
            return;
        };
        let known = sessions.remove(&self.session).is_some();
        if sessions.is_empty() {
            table.tenants.remove(&self.tenant);
        }
        if known {
            self.sessions.count.send_modify(|count| *count -= 1);
        }
    }
}

fn millis(span: Duration) -> u32 {
    span.as_millis().try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use arqon_spine::control::RevocationKey;
    use arqon_telemetry::Metrics;

    use super::{super::outbox::*, *};
    use crate::auth::testing::{identity, tenant};

    fn user(of: &str, name: &str) -> Arc<Identity> {
        Arc::new(identity(&tenant(of, Vec::new()), name))
    }

    fn closing(outbox: &Outbox) -> Option<CloseCode> {
        outbox.closing()
    }

    fn outbox() -> Arc<Outbox> {
        let metrics = Metrics::default();
        let bounds = Bounds {
            max_bytes: 1024,
            max_messages: 16,
            tenant_max_bytes: 1 << 20,
            max_unconfirmed: 8,
            max_rooms: 8,
        };
        let limits = Arc::new(OutboxLimits::new(bounds, &metrics));
        let tenant = TenantId::parse("acme").expect("a valid name");
        Arc::new(Outbox::new(SessionId::new(), &tenant, limits))
    }

    #[tokio::test]
    async fn sessions_are_counted_per_tenant_until_dropped() {
        let sessions = Arc::new(Sessions::new());
        let acme = TenantId::parse("acme").expect("a valid name");
        let other = TenantId::parse("other").expect("a valid name");
        let first = sessions.register(&user("acme", "ann"), &outbox());
        let second = sessions.register(&user("acme", "ann"), &outbox());
        let third = sessions.register(&user("other", "ann"), &outbox());
        assert_eq!(sessions.count(), 3);
        assert_eq!(sessions.count_of(&acme), 2);
        assert_eq!(sessions.close_tenant(&acme, CloseCode::TenantGone), 2);
        drop((first, second));
        assert_eq!(sessions.count_of(&acme), 0);
        assert_eq!(sessions.counts(), [(other, 1)]);
        drop(third);
        sessions.wait_empty().await;
    }
    #[tokio::test]
    async fn a_revocation_closes_by_the_token_that_is_in_force() {
        let sessions = Arc::new(Sessions::new());
        let outboxes = [outbox(), outbox(), outbox()];
        let of = |jti: &str, tenant: &str| {
            let mut identity = Identity::clone(&user(tenant, "ann"));
            identity.jti = Some(jti.into());
            Arc::new(identity)
        };
        let _first = sessions.register(&of("one", "acme"), &outboxes[0]);
        let refreshed = sessions.register(&of("one", "acme"), &outboxes[1]);
        let _other = sessions.register(&of("one", "other"), &outboxes[2]);
        refreshed.set_identity(&of("two", "acme"));
        let acme = TenantId::parse("acme").expect("a valid name");
        let is = |identity: &Identity| identity.jti.as_deref() == Some("one");
        let meant = |jti: &str| {
            let mut meant = Meant::default();
            meant.add(&RevocationKey::jti(&acme, jti));
            meant
        };
        let all = |_: &Identity| true;
        assert_eq!(sessions.close_revoked(&meant("three"), all), 0);
        assert_eq!(sessions.close_revoked(&meant("one"), is), 1);
        let codes = outboxes.each_ref().map(|outbox| closing(outbox));
        assert_eq!(codes, [Some(CloseCode::TokenRevokedClose), None, None]);
        assert_eq!(sessions.close_revoked(&Meant::everybody(), is), 1);
        // Those closed already are not counted again.
        let mut tenant = Meant::default();
        tenant.add(&RevocationKey::All(acme.clone()));
        assert_eq!(sessions.close_revoked(&tenant, all), 1);
    }

    #[tokio::test]
    async fn who_refreshes_while_its_old_token_is_judged_is_not_closed_for_it() {
        let sessions = Arc::new(Sessions::new());
        let outbox = outbox();
        let registration = sessions.register(&user("acme", "ann"), &outbox);
        let refreshes = |_: &Identity| {
            registration.set_identity(&user("acme", "ann"));
            true
        };
        assert_eq!(sessions.close_revoked(&Meant::everybody(), refreshes), 0);
        assert_eq!(closing(&outbox), None);
    }

    #[tokio::test]
    async fn who_registers_after_the_last_close_of_a_drain_is_told_and_closed_too() {
        let sessions = Arc::new(Sessions::new());
        sessions.goaway_all(Duration::ZERO, Duration::ZERO, Duration::ZERO);
        assert_eq!(sessions.close_all(CloseCode::GoingAway), 0);
        let late = outbox();
        let _registration = sessions.register(&user("acme", "ann"), &late);
        let (frames, code) = super::super::testing::read(&late);
        assert_eq!((frames.len(), code), (1, Some(CloseCode::GoingAway)));
    }

    #[tokio::test]
    async fn a_filter_means_the_sessions_that_fit_all_it_says() {
        let sessions = Arc::new(Sessions::new());
        let outboxes = [outbox(), outbox(), outbox(), outbox()];
        let users = [
            ("acme", "ann"),
            ("acme", "bob"),
            ("other", "ann"),
            ("acme", "ann"),
        ];
        let held: Vec<_> = users
            .iter()
            .zip(&outboxes)
            .map(|((tenant, name), outbox)| sessions.register(&user(tenant, name), outbox))
            .collect();
        let acme = TenantId::parse("acme").ok();
        let ann = UserId::parse("ann").ok();
        let filter = SessionFilter {
            tenant: acme.clone(),
            user: ann,
            session: None,
        };
        let (found, total) = sessions.list(&filter, 1);
        assert_eq!((found.len(), total), (1, 2));
        assert_eq!(found[0].0, outboxes[0].session(), "the oldest first");
        assert_eq!(sessions.list(&SessionFilter::default(), 9).1, 4);
        let one = SessionFilter {
            tenant: acme,
            session: Some(outboxes[2].session()),
            ..SessionFilter::default()
        };
        assert_eq!(sessions.kick(&one), 0, "of another tenant");
        assert_eq!(sessions.kick(&filter), 2);
        let codes = outboxes.each_ref().map(|outbox| closing(outbox));
        let kicked = Some(CloseCode::Kicked);
        assert_eq!(codes, [kicked, None, None, kicked]);
        drop(held);
        assert_eq!(sessions.list(&filter, 9).1, 0);
    }
}
