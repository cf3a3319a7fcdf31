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
    names::{SessionId, TenantId},
    v1,
};
use tokio::sync::watch;

use super::{farewell::Farewells, frame::Frame, outbox::Outbox};

/// All sessions of this Shield.
#[derive(Debug)]
pub struct Sessions {
    table: Mutex<Table>,
    count: watch::Sender<usize>,
    farewells: Farewells,
}

#[derive(Debug, Default)]
struct Table {
    tenants: HashMap<TenantId, HashMap<SessionId, Arc<Outbox>>>,
    /// Set by a drain: what a session that slips in late is told.
    goaway: Option<Frame>,
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
    pub fn register(self: &Arc<Self>, tenant: &TenantId, outbox: &Arc<Outbox>) -> Registration {
        let mut table = self.lock();
        if let Some(goaway) = &table.goaway {
            outbox.push_control(goaway.clone());
        }
        table
            .tenants
            .entry(tenant.clone())
            .or_default()
            .insert(outbox.session(), outbox.clone());
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
            Some(sessions) => sessions.values().cloned().collect(),
            None => Vec::new(),
        };
        all.iter().for_each(|outbox| outbox.close(code));
        all.len()
    }

    /// Closes every session; how many there were.
    pub fn close_all(&self, code: CloseCode) -> usize {
        let all = self.all();
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
        for outbox in all {
            outbox.push_control(frame.clone());
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
        let sessions = self.tenants.values();
        sessions.flat_map(|all| all.values().cloned()).collect()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut table = self.sessions.lock();
        let Some(sessions) = table.tenants.get_mut(&self.tenant) else {
            return;
        };
        sessions.remove(&self.session);
        if sessions.is_empty() {
            table.tenants.remove(&self.tenant);
        }
        self.sessions.count.send_modify(|count| *count -= 1);
    }
}

fn millis(span: Duration) -> u32 {
    span.as_millis().try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use arqon_telemetry::Metrics;

    use super::{super::outbox::*, *};

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
        let first = sessions.register(&acme, &outbox());
        let second = sessions.register(&acme, &outbox());
        let third = sessions.register(&other, &outbox());
        assert_eq!(sessions.count(), 3);
        assert_eq!(sessions.count_of(&acme), 2);
        assert_eq!(sessions.close_tenant(&acme, CloseCode::TenantGone), 2);
        drop((first, second));
        assert_eq!(sessions.count_of(&acme), 0);
        assert_eq!(sessions.counts(), [(other, 1)]);
        drop(third);
        sessions.wait_empty().await;
    }
}
