//! The task that holds the CONTROL connection.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use arqon_proto::{
    codes::CloseCode,
    names::{NodeId, TenantId},
    v1::{TenantRecord, control::Order},
};
use arqon_spine::{
    connect::{self, ConnectError, Connection},
    control::{
        ControlError, ControlStore, Pulse, Record, RecordEvent, RevocationEvent, TenantEvent,
    },
    manifest::Manifest,
};
use arqon_telemetry::{Metrics, log::chain};
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{debug, info, warn};

use super::{
    Revocations, TenantChange, Tenants,
    beat::{Reporter, set_gauges, set_queue_bytes},
    sessions::{Answer, Kicks},
};
use crate::{
    policy::Deployer,
    quota::Quotas,
    session::{Meant, Sessions},
    spine::SpinePool,
};

/// How often a Shield reports; others count it as gone after three of these.
const BEAT: Duration = Duration::from_secs(1);
/// After a revocation came into force, a beat says so this soon; many within
/// this time share one.
const TELL_SOON: Duration = Duration::from_millis(100);
/// Shields that are asked what tenants use answer within this; before, a quota
/// would be given out anew.
const OTHERS_TELL: Duration = Duration::from_millis(200);
/// Changes of revocations taken over in a row, so that beats go on meanwhile.
const REVOKED_AT_ONCE: usize = 4096;
/// Bytes in queues are summed at every so many looks at the gauges.
const QUEUES_EVERY: u32 = 5;
/// The first pause between attempts, doubled up to the longest. Stale comes
/// after 30 s, so the longest leaves many attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// See `FIRST_PAUSE`.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A full read that takes longer is begun again on another connection.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// A server that has answered nothing for so long is given up. Shorter than
/// what the client's own pings take, and noticed while the socket stays open.
const SILENCE: Duration = Duration::from_secs(5);
/// No session is accepted before each binding was made or has failed; after
/// this long those that are neither block, and sessions are accepted.
const SETTLE: Duration = Duration::from_secs(60);

/// Who this Shield is to the control plane, and how it is reached.
#[derive(Clone, Debug)]
pub struct ControlParams {
    /// NATS servers.
    pub servers: Vec<String>,
    /// Credentials of the CONTROL account.
    pub creds: PathBuf,
    /// This Shield.
    pub node: NodeId,
    /// The pool it serves.
    pub pool: NodeId,
    /// The URL clients reach it by.
    pub public_address: String,
}

/// What the control plane acts on.
#[derive(Clone, Debug)]
pub struct ControlContext {
    /// Links are updated, rotated and closed.
    pub pool: Arc<SpinePool>,
    /// Sessions of a tenant that is gone are closed.
    pub sessions: Arc<Sessions>,
    /// Policies are brought into force.
    pub deployer: Arc<Deployer>,
    /// Filled from the control plane, and sessions follow them.
    pub revocations: Arc<Revocations>,
    /// Gauges are set.
    pub metrics: Metrics,
    /// Cancelled by the order to drain, and by whoever else begins to.
    pub drain: CancellationToken,
}

/// Holds the CONTROL connection until dropped.
#[derive(Debug)]
pub struct Control {
    goodbye: mpsc::Sender<oneshot::Sender<()>>,
    incarnation: String,
    _task: AbortOnDropHandle<()>,
}

/// Who wants goodbye to be said, and to know that it was.
type Parting = mpsc::Receiver<oneshot::Sender<()>>;

struct Task {
    params: ControlParams,
    tenants: Arc<Tenants>,
    context: ControlContext,
    reporter: Reporter,
    /// Outlives a connection: who asks again may do so over the next.
    kicks: Mutex<Kicks>,
}

/// What is left of a connection after its end.
#[derive(Default)]
struct Past {
    /// Everything was read over it.
    read: bool,
    /// When the server last answered.
    heard: Option<Instant>,
}

/// Why a CONTROL connection is of no use any more.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("no connection to CONTROL")]
    Connect(#[from] ConnectError),
    #[error("CONTROL cannot be used")]
    Control(#[from] ControlError),
    #[error("the records were not read to the end in time")]
    Slow,
    #[error("the server has not answered for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the connection to CONTROL ended")]
    Ended,
}

// === impl ControlParams ===

impl ControlParams {
    /// As this manifest says.
    pub fn from_manifest(manifest: &Manifest, public_address: String) -> Self {
        Self {
            servers: manifest.spine.servers.clone(),
            creds: manifest.spine.control_creds_file.clone(),
            node: manifest.node.id.clone(),
            pool: manifest.node.pool.clone(),
            public_address,
        }
    }
}

// === impl Control ===

impl Control {
    /// Starts to follow the control plane; `tenants` is filled from it.
    pub fn start(params: ControlParams, tenants: Arc<Tenants>, context: ControlContext) -> Self {
        let epoch = context.pool.presence().epoch();
        let (goodbye, parting) = mpsc::channel(1);
        let task = Task {
            params,
            tenants,
            context,
            reporter: Reporter::new(epoch),
            kicks: Mutex::default(),
        };
        let incarnation = task.reporter.incarnation().to_owned();
        let task = tokio::spawn(task.run(parting));
        Self {
            goodbye,
            incarnation,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Tells all that this process ends; false if the control plane does not
    /// take it in time.
    pub async fn goodbye(&self, patience: Duration) -> bool {
        let (told, answer) = oneshot::channel();
        let said = async { self.goodbye.send(told).await.is_ok() && answer.await.is_ok() };
        tokio::time::timeout(patience, said).await.unwrap_or(false)
    }

    /// This process, as its beats name it.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }
}

// === impl Task ===

impl Task {
    async fn run(self, mut parting: Parting) {
        let mut pause = FIRST_PAUSE;
        let mut gauges = interval(BEAT);
        gauges.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut past = Past::default();
        let mut looks = 0_u32;
        loop {
            let broken = {
                let serve = self.serve(&mut past, &mut parting);
                tokio::pin!(serve);
                loop {
                    tokio::select! {
                        broken = &mut serve => break broken,
                        // Also while there is no connection: staleness is a gauge too.
                        _ = gauges.tick() => {
                            set_gauges(&self.tenants, &self.context);
                            // It looks at every session, so less often.
                            if looks.is_multiple_of(QUEUES_EVERY) {
                                set_queue_bytes(&self.context);
                                self.context.revocations.purge();
                            }
                            looks = looks.wrapping_add(1);
                        }
                    }
                }
            };
            let Past { read, heard } = std::mem::take(&mut past);
            self.tenants.lost(heard.unwrap_or_else(Instant::now));
            if read {
                pause = FIRST_PAUSE;
            }
            if pause == FIRST_PAUSE {
                warn!(error = chain(&broken), "Control plane lost, trying on");
            } else {
                debug!(error = chain(&broken), "Still no control plane");
            }
            tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One connection, from its opening to its end.
    async fn serve(&self, past: &mut Past, parting: &mut Parting) -> Broken {
        let params = &self.params;
        let name = format!("{}/control", params.node);
        let connected = connect::connect_creds(&params.servers, &params.creds, &name).await;
        let connection = match connected {
            Ok(connection) => connection,
            Err(error) => return error.into(),
        };
        let broken = match self.follow(&connection, past, parting).await {
            Ok(()) => Broken::Ended,
            Err(broken) => broken,
        };
        self.context.deployer.lost().await;
        // A frozen server's socket stays open for as long as someone holds it.
        connection.abort().await;
        broken
    }

    async fn follow(
        &self,
        connection: &Connection,
        past: &mut Past,
        parting: &mut Parting,
    ) -> Result<(), Broken> {
        let params = &self.params;
        let deployer = &self.context.deployer;
        let store = ControlStore::new(connection);
        let mut pulse = Pulse::open(connection).await?;
        // Before the read, so that no order is missed that follows a change.
        let mut orders = store.subscribe_orders(&params.node).await?;
        let mut asks = store.subscribe_asks(&params.node).await?;
        let mut loads = store.subscribe_loads().await?;
        let load = self.context.pool.quotas().begin(Instant::now());
        store.publish_load(&params.node, &load).await?;
        let informed = tokio::time::Instant::now() + OTHERS_TELL;
        let opened = async {
            let (mut records, mut policies, mut revocations) = (
                store.watch_tenants().await?,
                store.watch_policies().await?,
                store.watch_revocations().await?,
            );
            let (all, read) = read_all(&mut records).await?;
            let bound = read_events(&mut policies).await?;
            let revoked = read_events(&mut revocations).await?;
            Ok::<_, Broken>((records, policies, revocations, all, read, bound, revoked))
        };
        let opened = tokio::time::timeout(READ_TIMEOUT, opened).await;
        let (mut records, mut policies, mut revocations, mut all, read, bound, revoked) =
            opened.map_err(|_| Broken::Slow)??;
        pulse.was_heard();
        past.heard = Some(pulse.heard());
        // In force before any session is accepted by what is read here.
        self.context.revocations.replace(revoked);
        self.close_revoked(&Meant::everybody());
        // Whatever is bound since the last connection blocks from here on.
        deployer.read(bound, store.clone()).await;
        all.retain(|_, record| self.serves(record));
        let count = all.len();
        // Taken over, and sessions with them, once policies are in force.
        let mut held = Some(all);
        let settled = async {
            let settled = tokio::time::timeout(SETTLE, deployer.settled()).await;
            tokio::time::sleep_until(informed).await;
            settled
        };
        tokio::pin!(settled);

        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Asked by however many Brains, the answer is for all: it goes out with a beat.
        let mut asked = false;
        let mut told_soon = false;
        let mut parted = false;
        let quotas = self.context.pool.quotas();
        // When what is used here may be told again out of turn.
        let mut tell_from = Instant::now();
        loop {
            tokio::select! {
                in_time = &mut settled, if held.is_some() => {
                    if in_time.is_err() {
                        warn!("Some policies are not made yet; their messages are blocked");
                    }
                    self.apply(self.tenants.replace(held.take().unwrap_or_default()));
                    self.tenants.set_revision(read);
                    let server = &connection.server;
                    info!(tenants = count, server, "Control plane read to the end");
                    past.read = true;
                }
                event = records.next(), if held.is_none() => {
                    self.change(event.ok_or(Broken::Ended)??);
                    // Whoever waits for it to be in force hears so.
                    if !std::mem::replace(&mut told_soon, true) {
                        beats.reset_after(TELL_SOON);
                    }
                }
                event = policies.next() => deployer.changed(event.ok_or(Broken::Ended)??).await,
                event = revocations.next() => {
                    self.revoke(event, &mut revocations)?;
                    // Once only: many in a row must not put the beat off for ever.
                    if !std::mem::replace(&mut told_soon, true) {
                        beats.reset_after(TELL_SOON);
                    }
                }
                order = orders.next() => match order.ok_or(Broken::Ended)? {
                    Order::ReportPolicies(_) => deployer.report().await,
                    Order::ListSessions(order) => {
                        let (node, incarnation) = (&params.node, self.reporter.incarnation());
                        let sessions = &self.context.sessions;
                        let answer = Answer::list(sessions, &order, node, incarnation);
                        tokio::spawn(answer.send(store.clone()));
                    }
                    Order::KickSessions(order) => {
                        let (node, incarnation) = (&params.node, self.reporter.incarnation());
                        let sessions = &self.context.sessions;
                        let answer = Answer::kick(sessions, &self.kicks, &order, node, incarnation);
                        tokio::spawn(answer.send(store.clone()));
                    }
                    order => self.obey(order),
                },
                ask = asks.next() => {
                    asked |= ask.ok_or(Broken::Ended)?.epoch == self.context.pool.presence().epoch();
                }
                load = loads.next() => quotas.hear(load.ok_or(Broken::Ended)?, Instant::now()),
                () = grown_from(quotas, tell_from), if !parted => {
                    tell_from = Instant::now() + TELL_SOON;
                    let load = quotas.tell_soon();
                    let told = store.publish_load(&params.node, &load);
                    let told = tokio::time::timeout(SILENCE, told).await;
                    told.map_err(|_| Broken::Silent)??;
                }
                answer = pulse.answer() => {
                    answer?;
                    past.heard = Some(pulse.heard());
                }
                Some(told) = parting.recv() => {
                    parted = true;
                    let beat = self.reporter.beat(params, &self.tenants, &self.context, true);
                    store.publish_beat(&params.node, &beat).await?;
                    store.publish_load(&params.node, &quotas.goodbye()).await?;
                    // The process may end as soon as it hears that this is done.
                    let _ = connection.client.flush().await;
                    // Nobody waits any more if this took too long.
                    let _ = told.send(());
                }
                _ = beats.tick(), if !parted => {
                    told_soon = false;
                    if pulse.silence() >= SILENCE {
                        return Err(Broken::Silent);
                    }
                    let said = self.speak(&store, &mut pulse, std::mem::take(&mut asked));
                    // A frozen server takes bytes only until its buffers are full.
                    let said = tokio::time::timeout(SILENCE, said).await;
                    said.map_err(|_| Broken::Silent)??;
                }
                () = connection.closed.closed() => return Ok(()),
            }
        }
    }

    /// What is said each second.
    async fn speak(
        &self,
        store: &ControlStore,
        pulse: &mut Pulse,
        asked: bool,
    ) -> Result<(), Broken> {
        let node = &self.params.node;
        pulse.send().await?;
        let beat = self
            .reporter
            .beat(&self.params, &self.tenants, &self.context, false);
        store.publish_beat(node, &beat).await?;
        let pool = &self.context.pool;
        let load = pool.quotas().tick(Instant::now(), |tenant, hashes| {
            pool.rooms_here(tenant, hashes)
        });
        store.publish_load(node, &load).await?;
        if asked {
            for page in self.context.pool.presence().digests(node.as_str()) {
                store.publish_presence(node, &page).await?;
            }
        }
        Ok(())
    }

    /// Takes over a change of the tenants.
    fn change(&self, event: TenantEvent) {
        let revision = match event {
            RecordEvent::Put(record, revision) => {
                match TenantId::parse(&record.id) {
                    Ok(id) if self.serves(&record) => self.apply(self.tenants.put(id, record)),
                    Ok(id) => self.apply(self.tenants.delete(&id)),
                    Err(_) => {}
                }
                revision
            }
            RecordEvent::Deleted(id, revision) | RecordEvent::Unreadable(id, revision) => {
                self.apply(self.tenants.delete(&id));
                revision
            }
            RecordEvent::Synced => return,
        };
        self.tenants.set_revision(revision);
    }

    fn serves(&self, record: &TenantRecord) -> bool {
        record.pool == self.params.pool.as_str()
    }

    /// Sessions and links follow what changed.
    fn apply(&self, changes: impl IntoIterator<Item = TenantChange>) {
        let ControlContext { pool, sessions, .. } = &self.context;
        for change in changes {
            let gone = match change {
                TenantChange::Put(tenant) if tenant.is_active() => {
                    pool.update(&tenant);
                    continue;
                }
                TenantChange::Put(tenant) => tenant.id.clone(),
                TenantChange::Gone(tenant) => tenant,
            };
            let closed = sessions.close_tenant(&gone, CloseCode::TenantGone);
            pool.remove(&gone);
            info!(tenant = %gone, sessions = closed, "Tenant is suspended or gone");
        }
    }

    /// Takes over changes of the revocations, `first` and those that are there
    /// already; first for tokens that come and then for sessions that are there:
    /// each of them is looked at by one of both. Sessions are looked at once for all.
    fn revoke(
        &self,
        first: Option<Result<RevocationEvent, ControlError>>,
        more: &mut (impl Stream<Item = Result<RevocationEvent, ControlError>> + Unpin),
    ) -> Result<(), Broken> {
        let mut meant = Meant::default();
        let (mut next, mut taken) = (first, 0);
        let result = loop {
            match next {
                Some(Ok(event)) => {
                    if let Some(key) = self.context.revocations.change(event) {
                        meant.add(&key);
                    }
                }
                Some(Err(error)) => break Err(error.into()),
                None => break Err(Broken::Ended),
            }
            taken += 1;
            if taken >= REVOKED_AT_ONCE {
                break Ok(());
            }
            match more.next().now_or_never() {
                Some(event) => next = event,
                None => break Ok(()),
            }
        };
        // Also where the connection ends: what was read is in force.
        self.close_revoked(&meant);
        result
    }

    fn close_revoked(&self, meant: &Meant) {
        if meant.is_empty() {
            return;
        }
        let ControlContext {
            sessions,
            revocations,
            ..
        } = &self.context;
        let closed = sessions.close_revoked(meant, |identity| revocations.is_revoked(identity));
        if closed > 0 {
            info!(sessions = closed, "Sessions of revoked tokens closed");
        }
    }

    fn obey(&self, order: Order) {
        let pool = self.context.pool.clone();
        match order {
            Order::ReloadFleetKey(order) if order.pool == self.params.pool.as_str() => {
                tokio::spawn(async move {
                    match pool.reload_fleet_key().await {
                        Ok(()) if pool.fleet_key() == order.fleet_key => {
                            info!(key = order.fleet_key, "Fleet key in force");
                        }
                        Ok(()) => warn!(
                            wanted = order.fleet_key,
                            found = pool.fleet_key(),
                            "The fleet key file holds another key than ordered"
                        ),
                        Err(error) => warn!(
                            error = chain(&error),
                            file = %pool.fleet_key_file().display(),
                            "Cannot reload the fleet key, the old one stays"
                        ),
                    }
                });
            }
            Order::ReloadFleetKey(_) => {}
            Order::RotateCredentials(order) => match TenantId::parse(&order.tenant) {
                Ok(tenant) => {
                    tokio::spawn(async move { pool.rotate(Some(&tenant)).await });
                }
                Err(_) if order.tenant.is_empty() => {
                    tokio::spawn(async move { pool.rotate(None).await });
                }
                Err(_) => warn!("An order to rotate names no tenant"),
            },
            // Obeyed where they are heard.
            Order::ReportPolicies(_) | Order::ListSessions(_) | Order::KickSessions(_) => {}
            Order::Drain(_) => {
                info!("Ordered to drain");
                self.context.drain.cancel();
            }
        }
    }
}

/// Ends when others should hear of what is used here, from then on.
async fn grown_from(quotas: &Quotas, from: Instant) {
    tokio::time::sleep_until(from.into()).await;
    quotas.grown().await;
}

/// Reads a watch up to where it only follows changes.
async fn read_all(
    events: &mut (impl Stream<Item = Result<TenantEvent, ControlError>> + Unpin),
) -> Result<(HashMap<TenantId, TenantRecord>, u64), Broken> {
    let mut records = HashMap::new();
    let mut newest = 0;
    loop {
        match events.next().await.ok_or(Broken::Ended)?? {
            RecordEvent::Put(record, revision) => {
                newest = newest.max(revision);
                if let Ok(id) = TenantId::parse(&record.id) {
                    records.insert(id, record);
                }
            }
            RecordEvent::Deleted(id, revision) | RecordEvent::Unreadable(id, revision) => {
                newest = newest.max(revision);
                records.remove(&id);
            }
            RecordEvent::Synced => return Ok((records, newest)),
        }
    }
}

/// As [`read_all`], of what follows in the same words.
async fn read_events<R: Record>(
    events: &mut (impl Stream<Item = Result<RecordEvent<R>, ControlError>> + Unpin),
) -> Result<Vec<RecordEvent<R>>, Broken> {
    let mut all = Vec::new();
    loop {
        match events.next().await.ok_or(Broken::Ended)?? {
            RecordEvent::Synced => return Ok(all),
            event => all.push(event),
        }
    }
}
