//! What is bound on this Shield.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use arqon_proto::names::TenantId;

use crate::{
    AuditReceiver, Binding, Host, Instance,
    audit::AuditLog,
    lane::Core,
    nursery::Nursery,
    reaper::{Reaper, Retired},
    slots::Slots,
    stats::BindingStats,
    table::{Table, Tenants},
};

/// What a [`Policies`] may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoliciesOptions {
    /// CPU for the messages of one tenant, in cores.
    pub tenant_cpu: f64,
    /// Threads that make instances.
    pub nursery_threads: usize,
    /// Threads that call [`crate::Policies::judge`]: as many instances of one
    /// tenant and binding can be of use, and so many slots are kept for
    /// instances of a single message.
    pub judge_threads: usize,
}

impl Default for PoliciesOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            tenant_cpu: 0.1,
            nursery_threads: 2,
            judge_threads: threads,
        }
    }
}

/// What is bound on this Shield, and what judges its messages.
#[derive(Clone)]
pub struct Policies(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) table: ArcSwap<Table>,
    /// Held by the one who sets the next table.
    setting: Mutex<()>,
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) nursery: Arc<Nursery>,
    reaper: Reaper,
    pub(crate) audit: Arc<AuditLog>,
    pub(crate) limited: Limited,
    pub(crate) epoch: Instant,
}

/// Messages that were refused because a budget was spent.
#[derive(Debug, Default)]
pub(crate) struct Limited {
    pub(crate) senders: AtomicU64,
    pub(crate) tenants: AtomicU64,
}

impl Policies {
    /// Nothing bound yet.
    ///
    /// # Errors
    /// Where a thread cannot be started.
    pub fn new(host: &Host, options: &PoliciesOptions) -> std::io::Result<(Self, AuditReceiver)> {
        // Two more for those who try a policy out before it is bound.
        let slots = Slots::new(host.slots(), options.judge_threads + 2);
        let tenants = Tenants::new(options.tenant_cpu);
        let reaper = Reaper::start(Arc::clone(&tenants))?;
        let nursery = Nursery::start(
            Arc::clone(&slots),
            options.nursery_threads,
            options.judge_threads,
        )?;
        let (audit, receiver) = AuditLog::new();
        let inner = Inner {
            table: ArcSwap::default(),
            setting: Mutex::default(),
            tenants,
            slots,
            nursery,
            reaper,
            audit,
            limited: Limited::default(),
            epoch: Instant::now(),
        };
        Ok((Self(Arc::new(inner)), receiver))
    }

    /// Puts these bindings in force in place of all before, in one step.
    /// Messages in flight finish on what they began with. Bindings of the same
    /// key, revision and digest keep their instances and quarantines, those of
    /// the same key their counts.
    pub fn set(&self, bindings: Vec<Arc<Binding>>) {
        let inner = &*self.0;
        let _setting = inner.setting.lock().unwrap_or_else(PoisonError::into_inner);
        let old = inner.table.load_full();
        let (next, gone) = old.next(bindings);
        let now = Arc::new(next);
        inner.table.store(Arc::clone(&now));
        inner.reaper.retire(Retired {
            table: old,
            gone,
            now,
        });
    }

    /// Whether anything is bound for this tenant.
    #[must_use]
    pub fn binds(&self, tenant: &TenantId) -> bool {
        self.0.table.load().binds(tenant)
    }

    /// What each binding did, by key.
    #[must_use]
    pub fn stats(&self) -> Vec<BindingStats> {
        self.0.table.load().stats()
    }

    /// Pairs of binding and tenant that are quarantined.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        let table = self.0.table.load();
        let each = table
            .actives()
            .map(|active| active.core.quarantined.load(Relaxed));
        each.sum()
    }

    /// Messages refused because the sender's budget of faults was spent, and
    /// because its tenant's budget of CPU was.
    #[must_use]
    pub fn limited(&self) -> (u64, u64) {
        let limited = &self.0.limited;
        (limited.senders.load(Relaxed), limited.tenants.load(Relaxed))
    }
}

impl Core {
    /// Writes what a policy wrote.
    pub(crate) fn log_lines(&self, instance: &mut Instance) {
        for line in instance.take_logs() {
            if !tracing::enabled!(tracing::Level::DEBUG) || !self.log.open(seconds()) {
                return;
            }
            let (level, text) = (line.level, line.text.as_str());
            tracing::debug!(binding = %self.binding.key, ?level, text, "a policy writes");
        }
    }
}

fn seconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.as_ref().map_or(0, Duration::as_secs)
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.nursery.end();
        for active in self.table.load().actives() {
            active.close();
        }
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies")
            .field("bindings", &self.0.table.load().actives().count())
            .finish_non_exhaustive()
    }
}
