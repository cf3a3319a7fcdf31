//! Where a development ArqonBus sends its traces and metrics.

use clap::Args;

use super::layout::quoted;

/// Receivers as they can be asked for. What is not asked for stays as the manifests have it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Telemetry")]
pub(crate) struct TelemetryOptions {
    /// Send traces to this OTLP receiver, for instance http://127.0.0.1:4317; kept until another is
    /// named. A URL with a path is spoken to by HTTP, one without by gRPC. `off` ends it
    #[arg(long, value_name = "URL", value_parser = receiver)]
    otlp_traces: Option<Receiver>,
    /// Send metrics every 5 s to this one, for instance
    /// http://127.0.0.1:9090/api/v1/otlp/v1/metrics, which is Prometheus
    #[arg(long, value_name = "URL", value_parser = receiver)]
    otlp_metrics: Option<Receiver>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Receiver {
    Off,
    Url(String),
}

fn receiver(text: &str) -> std::result::Result<Receiver, String> {
    if text == "off" {
        return Ok(Receiver::Off);
    }
    // The rest is checked with the manifest.
    if text.starts_with("http://") || text.starts_with("https://") {
        Ok(Receiver::Url(text.to_owned()))
    } else {
        Err(
            "write http://HOST:PORT or https://HOST:PORT with the receiver's path, or off"
                .to_owned(),
        )
    }
}

impl TelemetryOptions {
    /// Whether anything was asked for.
    pub(super) fn any(&self) -> bool {
        self.otlp_traces.is_some() || self.otlp_metrics.is_some()
    }

    /// What they mean in `[telemetry]` of each manifest; None where a key is to go.
    pub(super) fn keys(&self) -> Vec<(&'static str, Option<String>)> {
        let mut keys = Vec::new();
        match &self.otlp_traces {
            Some(Receiver::Url(url)) => {
                keys.push(("traces_endpoint", Some(quoted(url))));
                keys.push(("traces_protocol", Some(quoted(protocol(url)))));
            }
            Some(Receiver::Off) => keys.push(("traces_endpoint", None)),
            None => {}
        }
        match &self.otlp_metrics {
            Some(Receiver::Url(url)) => {
                keys.push(("metrics_endpoint", Some(quoted(url))));
                keys.push(("metrics_protocol", Some(quoted(protocol(url)))));
                // Who develops wants to see at once what a change does.
                keys.push(("metrics_interval_secs", Some("5".to_owned())));
            }
            Some(Receiver::Off) => keys.push(("metrics_endpoint", None)),
            None => {}
        }
        keys
    }
}

fn protocol(url: &str) -> &'static str {
    let path = url
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('/'));
    match path {
        Some((_, path)) if !path.is_empty() => "http",
        _ => "grpc",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_asked_for_becomes_keys_and_nothing_else_does() {
        assert_eq!(TelemetryOptions::default().keys(), []);
        let asked = TelemetryOptions {
            otlp_traces: Some(receiver("http://127.0.0.1:4317").unwrap()),
            otlp_metrics: Some(receiver("off").unwrap()),
        };
        assert_eq!(
            asked.keys(),
            [
                (
                    "traces_endpoint",
                    Some("\"http://127.0.0.1:4317\"".to_owned())
                ),
                ("traces_protocol", Some("\"grpc\"".to_owned())),
                ("metrics_endpoint", None),
            ]
        );
        assert!(receiver("127.0.0.1:4317").is_err());
    }

    #[test]
    fn a_path_means_http() {
        assert_eq!(protocol("http://127.0.0.1:4317"), "grpc");
        assert_eq!(protocol("http://127.0.0.1:4317/"), "grpc");
        assert_eq!(protocol("http://127.0.0.1:4318/v1/traces"), "http");
    }
}
