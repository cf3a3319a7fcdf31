//! `[telemetry]`, the same in every node's manifest.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use super::seconds;

/// Where telemetry goes, and how much of it there is.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Of traces; None: there are none.
    pub traces: Option<OtlpTarget>,
    /// Of metrics; None: they are only to be scraped.
    pub metrics: Option<OtlpTarget>,
    /// Pace of exported metrics.
    pub metrics_interval: Duration,
    /// Lines `name: value`, sent with every export.
    pub headers_file: Option<PathBuf>,
    /// Longest export.
    pub timeout: Duration,
    /// Of a hundred operations, those that are traced.
    pub traces_percent: u8,
    /// Members of a room up to which its messages are traced at that rate.
    pub traces_fan_out: u32,
    /// Traces of a tenant that are begun in a second, at most.
    pub traces_per_tenant: u32,
    /// Spans that wait for an export.
    pub traces_queue: usize,
    /// Tenants with metrics of their own.
    pub top_tenants: usize,
    /// Base URLs of the monitoring endpoints of NATS servers.
    pub nats_monitors: Vec<String>,
}

/// A receiver of OTLP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpTarget {
    /// Its URL, used as it stands.
    pub endpoint: String,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
}

/// The transports of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC.
    Grpc,
    /// Protobuf in the body of a POST.
    Http,
}

pub(super) fn read(from: &mut Reader<'_>) -> Telemetry {
    Telemetry {
        traces: target(
            from,
            "telemetry.traces_endpoint",
            "telemetry.traces_protocol",
        ),
        metrics: target(
            from,
            "telemetry.metrics_endpoint",
            "telemetry.metrics_protocol",
        ),
        metrics_interval: seconds(from, "telemetry.metrics_interval_secs"),
        headers_file: from
            .present("telemetry.headers_file")
            .then(|| from.file("telemetry.headers_file")),
        timeout: super::millis(from, "telemetry.timeout_ms"),
        traces_percent: from.integer("telemetry.traces_percent") as u8,
        traces_fan_out: from.integer("telemetry.traces_fan_out") as u32,
        traces_per_tenant: from.integer("telemetry.traces_per_tenant") as u32,
        traces_queue: from.integer("telemetry.traces_queue") as usize,
        top_tenants: from.integer("telemetry.top_tenants") as usize,
        nats_monitors: monitors(from),
    }
}

fn target(
    from: &mut Reader<'_>,
    endpoint: &'static str,
    protocol: &'static str,
) -> Option<OtlpTarget> {
    let protocol = match from.text(protocol).as_str() {
        "grpc" => OtlpProtocol::Grpc,
        _ => OtlpProtocol::Http,
    };
    if !from.present(endpoint) {
        return None;
    }
    let url = from.text(endpoint);
    check_url(from, endpoint, &url);
    Some(OtlpTarget {
        endpoint: url,
        protocol,
    })
}

fn monitors(from: &mut Reader<'_>) -> Vec<String> {
    let urls = from.list("telemetry.nats_monitors");
    for url in &urls {
        check_url(from, "telemetry.nats_monitors", url);
    }
    urls
}

fn check_url(from: &mut Reader<'_>, key: &'static str, url: &str) {
    let host = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .and_then(|rest| rest.split('/').next());
    // Credentials would stand in logs; they belong in telemetry.headers_file.
    if host.is_none_or(|host| host.is_empty() || host.contains('@'))
        || url.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        from.problem(
            key,
            Some(format!("{url:?}")),
            "write http://HOST:PORT or https://HOST:PORT, with a path where the receiver has one; credentials go into telemetry.headers_file",
        );
    }
}
