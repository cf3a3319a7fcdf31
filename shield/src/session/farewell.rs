//! Slow readers that wait to learn why they were closed.
//!
//! A client that reads nothing can't be told anything. Its session is over for
//! everyone else, and what stays is the socket, a close frame and at most one
//! message begun, until the client reads again or its time is up. How many stay
//! is bounded, for a tenant and for all; who comes beyond that is cut off
//! without a word, as the newest: those that wait already keep their places.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arqon_proto::names::TenantId;
use arqon_telemetry::Gauge;
use tokio_util::sync::CancellationToken;

/// Sockets that may wait at once.
pub(crate) const MAX_FAREWELLS: usize = 2048;
/// Of one tenant, so that its slow readers leave places to all others.
const MAX_OF_TENANT: usize = MAX_FAREWELLS / 4;

/// The places of those that wait.
#[derive(Debug)]
pub(super) struct Farewells {
    waiting: Arc<Mutex<Waiting>>,
    over: CancellationToken,
}

/// How many wait, and of whom.
#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    by_tenant: HashMap<TenantId, usize>,
}

/// Ends when the wait is over.
pub(super) type Farewell = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The place of one that waits.
struct Place {
    waiting: Arc<Mutex<Waiting>>,
    tenant: TenantId,
    gauge: Gauge,
}

// === impl Farewells ===

impl Farewells {
    pub(super) fn new() -> Self {
        Self {
            waiting: Arc::default(),
            over: CancellationToken::new(),
        }
    }

    /// A place for so long for a session of this tenant; None if there is none.
    pub(super) fn begin(
        &self,
        tenant: &TenantId,
        patience: Duration,
        gauge: &Gauge,
    ) -> Option<Farewell> {
        if self.over.is_cancelled() {
            return None;
        }
        let place = Place::take(&self.waiting, tenant, gauge)?;
        let over = self.over.clone();
        Some(Box::pin(async move {
            let _held = place;
            let _ = tokio::time::timeout(patience, over.cancelled()).await;
        }))
    }

    /// Nobody waits any more, now or later.
    pub(super) fn end(&self) {
        self.over.cancel();
    }
}

// === impl Place ===

impl Place {
    fn take(waiting: &Arc<Mutex<Waiting>>, tenant: &TenantId, gauge: &Gauge) -> Option<Self> {
        let mut all = lock(waiting);
        let of_tenant = all.by_tenant.get(tenant).copied().unwrap_or(0);
        if all.all >= MAX_FAREWELLS || of_tenant >= MAX_OF_TENANT {
            return None;
        }
        all.all += 1;
        all.by_tenant.insert(tenant.clone(), of_tenant + 1);
        gauge.inc();
        Some(Self {
            waiting: Arc::clone(waiting),
            tenant: tenant.clone(),
            gauge: gauge.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gauge.dec();
        let mut all = lock(&self.waiting);
        all.all -= 1;
        if let Some(of_tenant) = all.by_tenant.get_mut(&self.tenant) {
            *of_tenant -= 1;
            if *of_tenant == 0 {
                all.by_tenant.remove(&self.tenant);
            }
        }
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_bounded_for_each_tenant_and_for_all_and_end_with_a_drain() {
        let (all, gauge) = (Farewells::new(), Gauge::default());
        let begin = |tenant: usize| {
            let tenant = TenantId::parse(&format!("tenant-{tenant}")).expect("a valid name");
            all.begin(&tenant, Duration::from_secs(3600), &gauge)
        };
        let mut waiting: Vec<_> = (0..MAX_OF_TENANT)
            .map(|_| begin(0).expect("there are places"))
            .collect();
        assert!(begin(0).is_none(), "the tenant has its share");
        for tenant in 1..MAX_FAREWELLS / MAX_OF_TENANT {
            waiting.extend((0..MAX_OF_TENANT).map(|_| begin(tenant).expect("so has each other")));
        }
        assert_eq!(gauge.get(), MAX_FAREWELLS as i64);
        assert!(begin(8).is_none(), "no place is left at all");
        drop(waiting.pop());
        let last = begin(8).expect("a place came free");
        all.end();
        last.await;
        assert!(begin(8).is_none(), "a drain waits for nobody");
        drop(waiting);
        assert_eq!(gauge.get(), 0);
        assert!(lock(&all.waiting).by_tenant.is_empty());
    }
}
