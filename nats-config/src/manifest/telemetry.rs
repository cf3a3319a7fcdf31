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
        headers_file: headers(from),
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
    // Credentials would stand in logs; they belong in telemetry.headers_file.
    if url.contains(['@', '?']) {
        from.problem(
            key,
            None,
            "leave out user, password and query; credentials go into telemetry.headers_file",
        );
    } else if !is_http(url) {
        from.problem(
            key,
            Some(format!("{url:?}")),
            "write http://HOST:PORT or https://HOST:PORT, with a path where the receiver has one",
        );
    }
}

/// Whether this is the whole URL of a web server.
#[must_use]
pub fn is_http(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return false;
    };
    let Some(authority) = uri.authority() else {
        return false;
    };
    // Behind the last colon stands a port; those of an IPv6 address are in brackets.
    let at = authority.as_str();
    let behind = at.rsplit_once(']').map_or(at, |(_, behind)| behind);
    let port = behind.rsplit_once(':').map(|(_, port)| port);
    matches!(uri.scheme_str(), Some("http" | "https"))
        && !authority.host().is_empty()
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Reads the headers of a file, one a line; empty lines and those with `#` are
/// none. The number of the first line that is no header.
///
/// # Errors
/// That line's number, from 1.
pub fn parse_headers(text: &str) -> Result<Vec<(String, String)>, usize> {
    let mut headers = Vec::new();
    for (line, text) in text.lines().enumerate() {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let header = text.split_once(':').and_then(|(name, value)| {
            let name = http::HeaderName::try_from(name.trim()).ok()?;
            let value = value.trim();
            let text = value.bytes().all(|b| matches!(b, b' '..=b'~'));
            // gRPC takes values of such names as base64 of something else.
            let plain = text && !name.as_str().ends_with("-bin");
            plain.then(|| (name.to_string(), value.to_owned()))
        });
        headers.push(header.ok_or(line + 1)?);
    }
    Ok(headers)
}

fn headers(from: &mut Reader<'_>) -> Option<PathBuf> {
    const KEY: &str = "telemetry.headers_file";
    if !from.present(KEY) {
        return None;
    }
    let path = from.file(KEY);
    // Where the file cannot be read that is a problem already, if files are looked at.
    if let Ok(text) = std::fs::read_to_string(&path)
        && let Err(line) = parse_headers(&text)
    {
        from.problem(
            KEY,
            Some(path.display().to_string()),
            format!("make line {line} of the file `name: value`, of visible ASCII, with no name that ends in -bin"),
        );
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_receivers_are_whole_and_hold_no_secret() {
        for good in [
            "http://127.0.0.1:4317",
            "http://[::1]:4317",
            "https://otlp.example/v1/traces",
            "http://prometheus:9090/api/v1/otlp/v1/metrics",
        ] {
            assert!(is_http(good), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:4317",
            "unix:///run/otlp",
            "http://",
            "http://:4317",
            "http://h:",
            "http://h:99999",
            "http://[",
            "ftp://h",
            "http://h h",
        ] {
            assert!(!is_http(bad), "{bad}");
        }
    }

    #[test]
    fn headers_are_names_and_values_of_visible_text() {
        let read = parse_headers("# who\n\nAuthorization: Basic abc=\nx-scope: a b\n");
        let read = read.unwrap_or_default();
        assert_eq!(read[0].0, "authorization");
        assert_eq!(read[1], ("x-scope".to_owned(), "a b".to_owned()));
        for (bad, line) in [
            ("no colon", 1),
            ("a: b\n: c", 2),
            ("a: \u{1}", 1),
            ("a: \u{e4}", 1),
            ("a b: c", 1),
            ("x-bin: AAAA", 1),
        ] {
            assert_eq!(parse_headers(bad), Err(line), "{bad}");
        }
    }
}
