//! `--otlp URL`: a command as a trace, which goes on through Shield.
//!
//! The command is one span; the sessions that it opens and what it joins and
//! publishes are its children. Without the option nothing of this exists.

use std::sync::OnceLock;
use std::time::Duration;

use arqon_proto::names::TenantId;
use arqon_spine::manifest::{OtlpProtocol, OtlpTarget, Telemetry as Settings, is_http};
use arqon_telemetry::otlp::Identity;
use arqon_telemetry::trace::Kind;
use arqon_telemetry::{Metrics, Span, Telemetry, TraceContext};

use crate::failure::{Exit, Failure, Result, chain};
use crate::output::Output;

/// A receiver that does not take it by then has no trace of the command.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the trace goes, and where it is found.
#[derive(Debug)]
pub(crate) struct Otlp {
    /// The URL of `--otlp`.
    url: Option<String>,
    /// The command's words, such as `arq tenant create`.
    command: String,
    began: OnceLock<TraceContext>,
}

/// A command that is being traced.
pub(crate) struct Traced {
    telemetry: Telemetry,
    metrics: Metrics,
    span: Span,
}

// === impl Otlp ===

impl Otlp {
    /// Of this command, if there is a URL.
    pub(crate) fn new(url: Option<String>, command: String) -> Self {
        Self {
            url,
            command,
            began: OnceLock::new(),
        }
    }

    /// Begins the command's span, within the runtime; None without `--otlp`.
    pub(crate) fn begin(&self) -> Result<Option<Traced>> {
        let Some(url) = &self.url else {
            return Ok(None);
        };
        let hint = "give the URL of a receiver of OTLP, such as --otlp http://127.0.0.1:4317";
        if !is_http(url) {
            return Err(Failure::usage(format!("`{url}` is no URL of a receiver")).hint(hint));
        }
        let metrics = Metrics::default();
        let identity = Identity {
            service: "arq",
            instance: std::process::id().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: None,
        };
        let settings = settings(url);
        let telemetry =
            Telemetry::start(&settings, &identity, metrics.telemetry(), metrics.clone());
        let telemetry = telemetry.map_err(|error| {
            Failure::usage(format!("cannot send traces to {url}: {}", chain(&error))).hint(hint)
        })?;
        let nobody = TenantId::parse("arq").map_err(|error| Failure::new(error.to_string()))?;
        let meter = metrics.tenants().of(&nobody);
        let span = telemetry
            .tracer()
            .begin("arq", Kind::Client, &meter, None, || 1);
        if let Some(context) = span.context() {
            let _ = self.began.set(context);
        }
        Ok(Some(Traced {
            telemetry,
            metrics,
            span,
        }))
    }

    /// Sends the command's span; says where it is found.
    pub(crate) async fn end<T>(&self, traced: Traced, outcome: &Result<T>, output: &Output) {
        let Traced {
            telemetry,
            metrics,
            span,
        } = traced;
        let failed = outcome
            .as_ref()
            .map(drop)
            .map_err(|failure| match failure.exit {
                Exit::Failed => "failed",
                Exit::Usage => "usage",
                Exit::BadManifest => "bad_manifest",
            });
        let told = span.end(failed, |found| {
            found.text("arq.command", self.command.clone())
        });
        let _ = tokio::time::timeout(PATIENCE, telemetry.finish()).await;
        let (Some(told), Some(url)) = (told, &self.url) else {
            return;
        };
        let (trace, taken) = (told.trace(), metrics.telemetry().spans_exported.get() > 0);
        output.note(if taken {
            format!("trace {trace} at {url}")
        } else {
            format!("trace {trace} was not taken by {url}")
        });
    }

    /// What is told to Shield.
    pub(crate) fn traceparent(&self) -> Option<String> {
        self.began.get().map(ToString::to_string)
    }
}

fn settings(url: &str) -> Settings {
    // The one with a path is the one of HTTP, as in `…/v1/traces`.
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let has_path = rest
        .split_once('/')
        .is_some_and(|(_, path)| !path.is_empty());
    let protocol = if has_path {
        OtlpProtocol::Http
    } else {
        OtlpProtocol::Grpc
    };
    Settings {
        traces: Some(OtlpTarget {
            endpoint: url.to_owned(),
            protocol,
        }),
        metrics: None,
        metrics_interval: Duration::from_secs(60),
        headers_file: None,
        timeout: PATIENCE,
        traces_percent: 100,
        traces_fan_out: 1,
        traces_per_tenant: 1,
        traces_queue: 64,
        top_tenants: 0,
        nats_monitors: Vec::new(),
    }
}
