//! OTLP out: spans as they end, metrics at their pace.
//!
//! Two tasks, none of them on any other's path. Spans come by a bounded queue
//! and leave in batches; what the receiver does not take is dropped and
//! counted. Metrics are running totals, so a failed export is made good by the
//! next one. A receiver that is away is told of once, and once when it is back.
//!
//! The exporters of opentelemetry-otlp are not used: they add headers and
//! settings from `OTEL_*`, and no environment variable has a say here.

mod metrics;
mod sender;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arqon_spine::manifest;
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::InstrumentationScope,
    metrics::v1::{ResourceMetrics, ScopeMetrics},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as Record},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    labels::{Signal, SpanDrop},
    log::chain,
    metrics::{Exposition, TelemetryMetrics},
    trace::{Attributes, Sampling, Tracer},
};

pub use sender::SendError;
use sender::Sender;

/// Spans of one export.
const BATCH: usize = 512;
/// Spans wait this long for others.
const GATHER: Duration = Duration::from_millis(500);

/// Who tells.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `arqon-shield`, `arqon-brain` or `arq`.
    pub service: &'static str,
    /// `node.id`.
    pub instance: String,
    /// The version of the program.
    pub version: String,
    /// The process, where a node tells its processes apart.
    pub incarnation: Option<String>,
}

/// Why telemetry cannot be sent as the manifest wants it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file cannot be read.
    #[error("cannot read {} (`telemetry.headers_file`)", path.display())]
    Headers {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line of it is none.
    #[error("line {line} of {} is no `name: value` (`telemetry.headers_file`)", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// The endpoint cannot be used.
    #[error("cannot send to {endpoint} (`{setting}`)")]
    Endpoint {
        /// The URL.
        endpoint: String,
        /// The manifest's key of it.
        setting: &'static str,
        /// Why.
        #[source]
        source: SendError,
    },
}

/// Telemetry that is being sent. Dropping it ends it without a last export.
#[derive(Debug)]
pub struct Telemetry {
    tracer: Tracer,
    tasks: Vec<(oneshot::Sender<()>, JoinHandle<()>)>,
}

// === impl Telemetry ===

impl Telemetry {
    /// Telemetry that is sent nowhere.
    pub fn off() -> Self {
        Self {
            tracer: Tracer::off(),
            tasks: Vec::new(),
        }
    }

    /// Starts what the manifest asks for, within a Tokio runtime. A receiver
    /// that is not there is no error.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(
        settings: &manifest::Telemetry,
        identity: &Identity,
        counted: &Arc<TelemetryMetrics>,
        metrics: impl Exposition + 'static,
    ) -> Result<Self, StartError> {
        let headers = match &settings.headers_file {
            Some(path) if settings.traces.is_some() || settings.metrics.is_some() => {
                sender::read_headers(path)?
            }
            _ => Vec::new(),
        };
        let sender = |target: &manifest::OtlpTarget, setting| {
            Sender::new(target, &headers, settings.timeout).map_err(|source| StartError::Endpoint {
                endpoint: target.endpoint.clone(),
                setting,
                source,
            })
        };
        let resource = identity.resource();
        let mut this = Self::off();
        if let Some(target) = &settings.traces {
            let sender = sender(target, "telemetry.traces_endpoint")?;
            let (queue, spans) = mpsc::channel(settings.traces_queue);
            let sampling = Sampling::new(
                settings.traces_percent,
                settings.traces_fan_out,
                settings.traces_per_tenant,
            );
            this.tracer = Tracer::new(sampling, queue, Arc::clone(counted));
            let spans = SpanExport {
                spans,
                outage: Outage::new(sender, Signal::Traces, Arc::clone(counted)),
                resource: resource.clone(),
            };
            this.spawn(|stop| spans.run(stop));
        }
        if let Some(target) = &settings.metrics {
            let sender = sender(target, "telemetry.metrics_endpoint")?;
            let metrics = MetricExport {
                metrics: Box::new(metrics),
                every: settings.metrics_interval,
                started: SystemTime::now(),
                outage: Outage::new(sender, Signal::Metrics, Arc::clone(counted)),
                resource,
            };
            this.spawn(|stop| metrics.run(stop));
        }
        Ok(this)
    }

    /// What begins spans.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Sends what is left and ends. Give it a time limit.
    pub async fn finish(mut self) {
        let tasks = std::mem::take(&mut self.tasks).into_iter();
        // All are told first: one whose receiver hangs must not keep another's last words.
        let tasks: Vec<_> = tasks
            .map(|(stop, task)| {
                let _ = stop.send(());
                task
            })
            .collect();
        for task in tasks {
            let _ = task.await;
        }
    }

    fn spawn<F>(&mut self, run: impl FnOnce(oneshot::Receiver<()>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        self.tasks.push((stop, tokio::spawn(run(stopped))));
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        for (_, task) in &self.tasks {
            task.abort();
        }
    }
}

// === impl Identity ===

impl Identity {
    fn resource(&self) -> Resource {
        let mut attributes = Attributes::default();
        attributes.text("service.namespace", "arqonbus");
        attributes.text("service.name", self.service);
        attributes.text("service.instance.id", self.instance.clone());
        attributes.text("service.version", self.version.clone());
        if let Some(incarnation) = &self.incarnation {
            attributes.text("arqon.incarnation", incarnation.clone());
        }
        Resource {
            attributes: attributes.into_inner(),
            ..Resource::default()
        }
    }
}

fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope {
        name: "arqon".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    })
}

/// The task that sends spans.
struct SpanExport {
    spans: mpsc::Receiver<Record>,
    outage: Outage,
    resource: Resource,
}

impl SpanExport {
    async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                got = self.spans.recv_many(&mut batch, BATCH) => {
                    if got == 0 {
                        return;
                    }
                }
                _ = &mut stop => break,
            }
            // A trace's spans end within moments of each other: they go together.
            let until = Instant::now() + GATHER;
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                tokio::select! {
                    got = self.spans.recv_many(&mut batch, room) => if got == 0 { break },
                    () = tokio::time::sleep_until(until) => break,
                    _ = &mut stop => {
                        self.send(std::mem::take(&mut batch)).await;
                        return self.rest().await;
                    }
                }
            }
            self.send(std::mem::take(&mut batch)).await;
        }
        self.rest().await;
    }

    async fn rest(mut self) {
        self.spans.close();
        let mut batch = Vec::new();
        while self.spans.recv_many(&mut batch, BATCH).await > 0 {
            self.send(std::mem::take(&mut batch)).await;
        }
    }

    async fn send(&mut self, spans: Vec<Record>) {
        let count = spans.len() as u64;
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: scope(),
                    spans,
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        };
        let sent = self.outage.sender.traces(request).await;
        let refused = self.outage.note(sent, count);
        let counted = &self.outage.counted;
        counted.spans_exported.inc_by(count - refused);
        if refused > 0 {
            counted
                .spans_dropped
                .get_or_create(&SpanDrop::ExportFailed)
                .inc_by(refused);
        }
    }
}

/// The task that sends metrics.
struct MetricExport {
    metrics: Box<dyn Exposition>,
    every: Duration,
    started: SystemTime,
    outage: Outage,
    resource: Resource,
}

impl MetricExport {
    async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.send().await,
                _ = &mut stop => return self.send().await,
            }
        }
    }

    async fn send(&mut self) {
        if !self.metrics.is_ready() {
            return;
        }
        let mut points = Vec::new();
        let started = self.metrics.since().unwrap_or(self.started);
        let now = SystemTime::now();
        self.metrics.with_registry(&mut |registry| {
            points = metrics::points(registry, started, now);
        });
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: scope(),
                    metrics: points,
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        };
        let sent = self.outage.sender.metrics(request).await;
        self.outage.note(sent, 0);
    }
}

/// A receiver and whether it is away: told once.
struct Outage {
    sender: Sender,
    signal: Signal,
    counted: Arc<TelemetryMetrics>,
    since: Option<Instant>,
    dropped: u64,
}

impl Outage {
    fn new(sender: Sender, signal: Signal, counted: Arc<TelemetryMetrics>) -> Self {
        Self {
            sender,
            signal,
            counted,
            since: None,
            dropped: 0,
        }
    }

    /// Counts an export of so many spans; gives back how many were not taken.
    fn note(&mut self, sent: Result<u64, SendError>, count: u64) -> u64 {
        let (endpoint, signal) = (self.sender.endpoint(), self.signal);
        match sent {
            Ok(rejected) => {
                self.counted.exports.get_or_create(&signal).inc();
                if let Some(since) = self.since.take() {
                    let away_secs = since.elapsed().as_secs();
                    let dropped = std::mem::take(&mut self.dropped);
                    tracing::info!(
                        endpoint,
                        ?signal,
                        away_secs,
                        dropped,
                        "Telemetry is taken again"
                    );
                }
                if rejected > 0 {
                    tracing::debug!(endpoint, ?signal, rejected, "The receiver took only a part");
                }
                rejected.min(count)
            }
            Err(error) => {
                self.counted.exports_failed.get_or_create(&signal).inc();
                self.dropped += count;
                if self.since.is_none() {
                    self.since = Some(Instant::now());
                    let error = chain(&error);
                    tracing::warn!(
                        endpoint,
                        ?signal,
                        error,
                        "Telemetry is not taken; going on without"
                    );
                }
                count
            }
        }
    }
}
