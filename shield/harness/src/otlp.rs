//! A receiver of OTLP over HTTP that decodes what it gets, and can be slow or refuse.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry_proto::tonic::collector::{
    metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::http;

/// A running receiver; stops when dropped.
#[derive(Debug)]
pub struct Receiver {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    manners: AtomicU8,
    requests: AtomicUsize,
    spans: Mutex<Vec<Span>>,
    metrics: Mutex<Vec<Metric>>,
}

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// It takes all.
    Takes,
    /// It answers 503.
    Refuses,
    /// It reads and never answers.
    Hangs,
}

/// A span as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// `service.name` of who sent it.
    pub service: String,
    /// `service.instance.id` of who sent it.
    pub instance: String,
    /// Its name.
    pub name: String,
    /// Its trace, hexadecimal.
    pub trace: String,
    /// Itself, hexadecimal.
    pub id: String,
    /// Its parent, hexadecimal; empty if it is the first.
    pub parent: String,
    /// The message of its status, if it says that it failed.
    pub failure: Option<String>,
    /// How long it took, nanoseconds.
    pub took: u64,
    /// What it says of itself.
    pub attributes: BTreeMap<String, String>,
}

// === impl Receiver ===

impl Receiver {
    /// Starts one on a free port that takes all.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("a port");
        let shared = Arc::<Shared>::default();
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move {
                    let _ = serving.serve(stream).await;
                });
            }
        });
        Self { addr, shared, task }
    }

    /// What a manifest says to send traces here.
    pub fn traces(&self) -> String {
        let url = format!("http://{}/v1/traces", self.addr);
        format!("telemetry.traces_endpoint = \"{url}\"\ntelemetry.traces_protocol = \"http\"\n")
    }

    /// What a manifest says to send metrics here, once a second.
    pub fn metrics_too(&self) -> String {
        let url = format!("http://{}/v1/metrics", self.addr);
        let traces = self.traces();
        format!(
            "{traces}telemetry.metrics_endpoint = \"{url}\"\ntelemetry.metrics_interval_secs = 1\n"
        )
    }

    /// Changes how it answers.
    pub fn set(&self, manners: Manners) {
        self.shared.manners.store(manners as u8, Ordering::SeqCst);
    }

    /// Requests that came.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The spans that were taken so far.
    pub fn spans(&self) -> Vec<Span> {
        lock(&self.shared.spans).clone()
    }

    /// The spans of one trace, as `name` and the name of the parent.
    pub fn tree(&self, trace: &str) -> Vec<(String, String)> {
        let mut spans = self.spans();
        spans.retain(|span| span.trace == trace);
        let name_of = |id: &str| {
            let parent = spans.iter().find(|span| span.id == id);
            parent.map_or(String::new(), |span| span.name.clone())
        };
        let mut tree: Vec<_> = spans
            .iter()
            .map(|span| (span.name.clone(), name_of(&span.parent)))
            .collect();
        tree.sort();
        tree
    }

    /// The metrics of the last export of each process.
    pub fn metrics(&self) -> Vec<Metric> {
        lock(&self.shared.metrics).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Shared ===

impl Shared {
    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let (head, mut body) = http::read_until_blank(&mut stream).await?;
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
            .unwrap_or(0);
        while body.len() < length {
            if stream.read_buf(&mut body).await? == 0 {
                return Ok(());
            }
        }
        self.requests.fetch_add(1, Ordering::SeqCst);
        let status = match self.manners.load(Ordering::SeqCst) {
            manners if manners == Manners::Takes as u8 => {
                self.take(&head, &body);
                "200 OK"
            }
            manners if manners == Manners::Refuses as u8 => "503 Service Unavailable",
            _ => std::future::pending().await,
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await
    }

    fn take(&self, head: &str, body: &[u8]) {
        assert!(
            head.contains("content-type: application/x-protobuf"),
            "{head}"
        );
        if head.starts_with("post /v1/traces ") {
            let request = ExportTraceServiceRequest::decode(body).expect("spans");
            lock(&self.spans).extend(spans(request));
        } else {
            let request = ExportMetricsServiceRequest::decode(body).expect("metrics");
            let metrics = request
                .resource_metrics
                .into_iter()
                .flat_map(|resource| resource.scope_metrics)
                .flat_map(|scope| scope.metrics);
            *lock(&self.metrics) = metrics.collect();
        }
    }
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut found = Vec::new();
    for resource in request.resource_spans {
        let of = resource.resource.unwrap_or_default();
        let of = attributes(of.attributes);
        let spans = resource
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans);
        found.extend(spans.map(|span| Span {
            service: of.get("service.name").cloned().unwrap_or_default(),
            instance: of.get("service.instance.id").cloned().unwrap_or_default(),
            name: span.name,
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            failure: span.status.map(|status| status.message),
            took: span.end_time_unix_nano - span.start_time_unix_nano,
            attributes: attributes(span.attributes),
        }));
    }
    found
}

fn attributes(list: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => format!("{other:?}"),
    };
    list.into_iter()
        .map(|item| {
            let value = item.value.and_then(|value| value.value);
            (item.key, value.map(text).unwrap_or_default())
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
