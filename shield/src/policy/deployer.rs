//! The task that brings into force what the records ask for.
//!
//! It never waits for anything slow itself: one version at a time is fetched
//! and compiled beside it, and bindings are tried beside it, so that a new
//! binding of a version that is there waits for no compilation.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arqon_policy::{Digest, Host, Module, Policies, compile::Compiler};
use arqon_proto::{names::NodeId, v1};
use arqon_spine::control::{ControlStore, PolicyRecordEvent};
use arqon_telemetry::{Metrics, log::chain};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::meters::Meters;
use super::report::{self, Reporter};
use super::state::{State, Trial, Tried, VersionError};
use super::{audit, modules, trial};

/// Changes that wait. The watch waits behind them, in its own bounded queue.
const COMMANDS: usize = 256;
/// Reports follow each other at this distance at least.
const REPORT_GAP: Duration = Duration::from_millis(100);
/// A report that is not taken by then is made anew over the next connection.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often counts are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The shortest sleep before something that is due is looked at again.
const NAP: Duration = Duration::from_millis(100);

/// What a deployer works with.
pub struct DeployerParams {
    /// This Shield.
    pub node: NodeId,
    /// This process, as in its beats.
    pub incarnation: String,
    /// Where policies run.
    pub host: Host,
    /// What makes modules of components.
    pub compiler: Compiler,
    /// Where bindings are put in force.
    pub policies: Policies,
    /// What they block.
    pub audit: arqon_policy::AuditReceiver,
    /// Counts and gauges.
    pub metrics: Metrics,
}

/// Brings policies into force until dropped.
pub struct Deployer {
    commands: mpsc::Sender<Command>,
    settled: watch::Receiver<bool>,
    summary: Arc<Mutex<v1::PolicySummary>>,
    policies: Policies,
    _tasks: [AbortOnDropHandle<()>; 2],
}

enum Command {
    /// Everything, over a new connection; answered when it is acted on.
    Read(
        Vec<PolicyRecordEvent>,
        Box<ControlStore>,
        oneshot::Sender<()>,
    ),
    Changed(Box<PolicyRecordEvent>),
    Report,
    Lost,
}

type VersionDone = (Digest, Result<(Module, u32), VersionError>);

struct Task {
    params: Parts,
    state: State,
    commands: mpsc::Receiver<Command>,
    store: watch::Sender<Option<ControlStore>>,
    settled: watch::Sender<bool>,
    summary: Arc<Mutex<v1::PolicySummary>>,
    meters: Meters,
    version: Lane<VersionDone>,
    trials: Lane<Option<(Vec<Tried>, Vec<Trial>)>>,
    object: Lane<Option<Tried>>,
    /// The table in force is not what the state says.
    dirty: bool,
    read: bool,
    /// A report is due.
    report: bool,
    reported: Option<Instant>,
    number: u64,
}

struct Parts {
    node: NodeId,
    reporter: Reporter,
    compiler: Arc<Compiler>,
    policies: Policies,
    metrics: Metrics,
}

/// At most one job.
struct Lane<T>(Option<JoinHandle<T>>);

// === impl Deployer ===

impl Deployer {
    /// Starts with nothing known: nothing is in force, and nothing settled.
    pub fn start(params: DeployerParams) -> Self {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (settled, is_settled) = watch::channel(false);
        let (store, stores) = watch::channel(None);
        let summary = Arc::new(Mutex::new(v1::PolicySummary::default()));
        let reporter = Reporter {
            shield: params.node.to_string(),
            incarnation: params.incarnation,
        };
        let audit = audit::write(
            params.audit,
            params.node.clone(),
            reporter.clone(),
            stores,
            params.metrics.clone(),
        );
        let task = Task {
            meters: Meters::new(params.metrics.clone(), params.host),
            params: Parts {
                node: params.node,
                reporter,
                compiler: Arc::new(params.compiler),
                policies: params.policies.clone(),
                metrics: params.metrics,
            },
            state: State::default(),
            commands: receiver,
            store,
            settled,
            summary: summary.clone(),
            version: Lane(None),
            trials: Lane(None),
            object: Lane(None),
            dirty: false,
            read: false,
            report: false,
            reported: None,
            number: 0,
        };
        let tasks = [tokio::spawn(audit), tokio::spawn(task.run())];
        Self {
            commands,
            settled: is_settled,
            summary,
            policies: params.policies,
            _tasks: tasks.map(AbortOnDropHandle::new),
        }
    }

    /// Takes over all records, read to the end over a new connection. When it
    /// returns, whatever was bound since blocks until it is made.
    pub(crate) async fn read(&self, events: Vec<PolicyRecordEvent>, store: ControlStore) {
        let (done, acted) = oneshot::channel();
        self.send(Command::Read(events, Box::new(store), done))
            .await;
        // An error means that the task is gone: it would have panicked.
        let _ = acted.await;
    }

    /// Takes over one change.
    pub(crate) async fn changed(&self, event: PolicyRecordEvent) {
        self.send(Command::Changed(Box::new(event))).await;
    }

    /// Sends a report soon.
    pub(crate) async fn report(&self) {
        self.send(Command::Report).await;
    }

    /// The connection is over.
    pub(crate) async fn lost(&self) {
        self.send(Command::Lost).await;
    }

    /// Returns once all records were read and each binding made, or has failed.
    pub(crate) async fn settled(&self) {
        let _ = self.settled.clone().wait_for(|settled| *settled).await;
    }

    /// The policies in short.
    pub(crate) fn summary(&self) -> v1::PolicySummary {
        let summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner);
        let mut summary = *summary;
        report::complete(&mut summary, &self.policies.stats());
        summary
    }

    async fn send(&self, command: Command) {
        // Fails only where the task is gone.
        let _ = self.commands.send(command).await;
    }
}

impl std::fmt::Debug for Deployer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deployer").finish_non_exhaustive()
    }
}

// === impl Task ===

impl Task {
    async fn run(mut self) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.begin();
            self.put_in_force();
            self.tell().await;
            let wake = self.wake();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                done = self.version.done() => match done {
                    Some((digest, result)) => self.version_done(digest, result),
                    None => self.state.forgotten(Instant::now()),
                },
                done = self.trials.done() => match done.flatten() {
                    Some((tried, left)) => {
                        self.tried(tried);
                        self.state.put_back(left);
                    }
                    None => self.state.forgotten(Instant::now()),
                },
                done = self.object.done() => match done.flatten() {
                    Some(tried) => self.tried(vec![tried]),
                    None => self.state.forgotten(Instant::now()),
                },
                () = tokio::time::sleep_until(wake.into()) => {}
                _ = look.tick() => self.meters.look(&self.params.policies.stats()),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Read(events, store, acted) => {
                self.state.replace(events);
                self.store.send_replace(Some(*store));
                self.read = true;
                self.changed();
                self.put_in_force();
                // Nobody may wait any more.
                let _ = acted.send(());
            }
            Command::Changed(event) => {
                self.state.apply(*event);
                self.changed();
            }
            Command::Report => self.report = true,
            Command::Lost => {
                self.store.send_replace(None);
            }
        }
    }

    fn changed(&mut self) {
        self.dirty = true;
        self.report = true;
        let gone = self.state.prune();
        if !gone.is_empty() {
            // A big module takes a while to drop.
            tokio::task::spawn_blocking(move || drop(gone));
        }
    }

    /// Begins whatever is due and has a free lane.
    fn begin(&mut self) {
        let now = Instant::now();
        let store = self.store.borrow().clone();
        if self.trials.is_free() {
            let trials = self.state.next_trials(false, now);
            if !trials.is_empty() {
                self.trials.begin(trial::here(trials));
            }
        }
        let Some(store) = store else { return };
        if self.object.is_free()
            && let Some(trial) = self.state.next_trials(true, now).pop()
        {
            self.object.begin(trial::object(store.clone(), trial));
        }
        if self.version.is_free()
            && let Some(digest) = self.state.next_version(now)
        {
            let compiler = self.params.compiler.clone();
            self.version
                .begin(async move { (digest, modules::make(store, compiler, digest).await) });
        }
    }

    fn version_done(&mut self, digest: Digest, result: Result<(Module, u32), VersionError>) {
        match &result {
            Ok((_, ms)) => {
                info!(%digest, compile_ms = ms, "Version of a policy is ready");
                if *ms > 0 {
                    let took = Duration::from_millis((*ms).into());
                    self.params.metrics.policy_compile_seconds.observe(took);
                }
            }
            Err(VersionError::Fetch(error) | VersionError::Broken(error)) => {
                warn!(%digest, error, "Version of a policy cannot be used");
            }
        }
        self.state.version_done(digest, result, Instant::now());
        self.changed();
    }

    fn tried(&mut self, tried: Vec<Tried>) {
        for tried in tried {
            match &tried.result {
                Ok(_) => info!(binding = %tried.key, revision = tried.revision, "Policy in force"),
                Err(fault) => {
                    warn!(binding = %tried.key, revision = tried.revision, %fault, "Policy cannot be put in force");
                }
            }
            self.state.tried(tried, Instant::now());
        }
        self.changed();
    }

    fn put_in_force(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.params.policies.set(self.state.table());
            let summary = report::summary(&self.state);
            self.meters.bindings(summary.active, summary.broken);
            *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = summary;
        }
        if self.read && !*self.settled.borrow() && self.state.settled() {
            self.settled.send_replace(true);
        }
    }

    /// Sends a report, if one is due and not too soon.
    async fn tell(&mut self) {
        let soon = |at: Instant| at.elapsed() < REPORT_GAP;
        if !self.report || self.reported.is_some_and(soon) {
            return;
        }
        let Some(store) = self.store.borrow().clone() else {
            return;
        };
        self.number += 1;
        let stats = self.params.policies.stats();
        let pages = self.params.reporter.pages(self.number, &self.state, &stats);
        let told = async {
            for page in &pages {
                store.publish_policy_report(&self.params.node, page).await?;
            }
            Ok::<_, arqon_spine::control::ControlError>(())
        };
        match tokio::time::timeout(REPORT_TIMEOUT, told).await {
            Ok(Ok(())) => {
                self.report = false;
                self.reported = Some(Instant::now());
            }
            Ok(Err(error)) => {
                debug!(error = chain(&error), "Report on policies not sent");
                self.store.send_replace(None);
            }
            Err(_) => {
                debug!("Report on policies not taken in time");
                self.store.send_replace(None);
            }
        }
    }

    fn wake(&self) -> Instant {
        let now = Instant::now();
        let retry = self.state.next_retry();
        let report = match self.reported {
            Some(reported) if self.report => Some(reported + REPORT_GAP),
            _ => None,
        };
        // Something may be due for which there is no lane or no connection.
        let retry = retry.map(|retry| retry.max(now + NAP));
        let next = retry.into_iter().chain(report).min();
        next.unwrap_or(now + LOOK)
    }
}

// === impl Lane ===

impl<T: Send + 'static> Lane<T> {
    fn is_free(&self) -> bool {
        self.0.is_none()
    }

    fn begin(&mut self, job: impl Future<Output = T> + Send + 'static) {
        self.0 = Some(tokio::spawn(job));
    }

    /// The job's result; `None` if it ended without one. Never, where there is none.
    async fn done(&mut self) -> Option<T> {
        let Some(job) = &mut self.0 else {
            return std::future::pending().await;
        };
        let done = job.await.ok();
        self.0 = None;
        done
    }
}

impl<T> Drop for Lane<T> {
    fn drop(&mut self) {
        if let Some(job) = &self.0 {
            job.abort();
        }
    }
}
