//! OTLP by gRPC to a real server: spans, metrics, headers of a file.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arqon_proto::names::TenantId;
use arqon_spine::manifest::{OtlpProtocol, OtlpTarget, Telemetry as Settings};
use arqon_telemetry::otlp::{Identity, StartError};
use arqon_telemetry::trace::Kind;
use arqon_telemetry::{Metrics, Telemetry};
use opentelemetry_proto::tonic::collector::{
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

/// What came, as `header: name of a span or metric`.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<String>>>);

impl Receiver {
    async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let receiver = Self::default();
        let routes = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()))
            .add_service(MetricsServiceServer::new(receiver.clone()));
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(routes.serve_with_incoming(incoming));
        (receiver, addr)
    }

    fn note<T>(&self, request: &Request<T>, name: &str) {
        let who = request.metadata().get("x-who").map(|who| who.to_str());
        let who = who.transpose().unwrap().unwrap_or("nobody");
        self.0.lock().unwrap().push(format!("{who}: {name}"));
    }

    fn has(&self, line: &str) -> bool {
        self.0.lock().unwrap().iter().any(|found| found == line)
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = &request.get_ref().resource_spans[0].scope_spans[0].spans;
        let names: Vec<_> = spans.iter().map(|span| span.name.clone()).collect();
        names.iter().for_each(|name| self.note(&request, name));
        let rejected_spans = i64::from(names.iter().any(|name| name == "unwanted"));
        Ok(Response::new(ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess {
                rejected_spans,
                error_message: String::new(),
            }),
        }))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let metrics = &request.get_ref().resource_metrics[0].scope_metrics[0].metrics;
        let names: Vec<_> = metrics.iter().map(|metric| metric.name.clone()).collect();
        names.iter().for_each(|name| self.note(&request, name));
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn settings(addr: SocketAddr, headers: Option<&tempfile::NamedTempFile>) -> Settings {
    let target = OtlpTarget {
        endpoint: format!("http://{addr}"),
        protocol: OtlpProtocol::Grpc,
    };
    Settings {
        traces: Some(target.clone()),
        metrics: Some(target),
        metrics_interval: Duration::from_millis(50),
        headers_file: headers.map(|file| file.path().to_owned()),
        timeout: Duration::from_secs(5),
        traces_percent: 100,
        traces_fan_out: 10,
        traces_per_tenant: 100,
        traces_queue: 100,
        top_tenants: 5,
        nats_monitors: Vec::new(),
    }
}

fn identity() -> Identity {
    Identity {
        service: "arqon-test",
        instance: "test-1".to_owned(),
        version: "1".to_owned(),
        incarnation: None,
    }
}

fn start(settings: &Settings, metrics: &Metrics) -> Result<Telemetry, StartError> {
    Telemetry::start(settings, &identity(), metrics.telemetry(), metrics.clone())
}

fn headers(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

async fn eventually(mut what: impl FnMut() -> bool) {
    for _ in 0..300 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not in time");
}

#[tokio::test]
async fn spans_and_metrics_arrive_with_the_headers_of_the_file() {
    let (receiver, addr) = Receiver::start().await;
    let metrics = Metrics::default();
    let file = headers("# who sends\n\nx-who: shield-1\n");
    let telemetry = start(&settings(addr, Some(&file)), &metrics).unwrap();
    let tenant = metrics.tenants().of(&TenantId::parse("acme").unwrap());
    let begin = |name| {
        let tracer = telemetry.tracer();
        tracer.begin(name, Kind::Server, &tenant, None, || 1)
    };
    begin("wanted").end(Ok(()), |_| {});
    eventually(|| receiver.has("shield-1: wanted")).await;
    eventually(|| receiver.has("shield-1: arqon_shield_messages_in")).await;
    let exported = || metrics.telemetry().spans_exported.get();
    eventually(|| exported() == 1).await;
    // What the receiver refuses in an answer that is else fine is no success.
    begin("unwanted").end(Ok(()), |_| {});
    eventually(|| metrics.encode().contains("export_failed\"} 1")).await;
    assert_eq!(exported(), 1);
    // What was ended just before the end is sent too.
    begin("last").end(Ok(()), |_| {});
    telemetry.finish().await;
    assert!(receiver.has("shield-1: last"));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_no_error_and_is_found_later() {
    let (_, addr) = Receiver::start().await;
    let nowhere = SocketAddr::new(addr.ip(), 1);
    let metrics = Metrics::default();
    let telemetry = start(&settings(nowhere, None), &metrics).unwrap();
    let tenant = metrics.tenants().of(&TenantId::parse("acme").unwrap());
    let tracer = telemetry.tracer();
    tracer
        .begin("lost", Kind::Server, &tenant, None, || 1)
        .end(Ok(()), |_| {});
    eventually(|| metrics.encode().contains("export_failed\"} 1")).await;
    let failed = "arqon_telemetry_exports_failed_total{signal=\"metrics\"}";
    eventually(|| metrics.encode().contains(failed)).await;
}

#[tokio::test]
async fn headers_that_are_none_are_told_before_anything_is_sent() {
    let (_, addr) = Receiver::start().await;
    for (text, line) in [("x-who shield", 1), ("# fine\n: x", 2), ("a: \u{1}", 1)] {
        let file = headers(text);
        let error = start(&settings(addr, Some(&file)), &Metrics::default()).unwrap_err();
        assert!(
            matches!(error, StartError::Header { line: found, .. } if found == line),
            "{error:?}"
        );
        assert!(!error.to_string().contains("shield"), "no secret: {error}");
    }
}
