//! The numbers of the NATS servers, as their monitoring endpoints tell them.
//!
//! Asked at a pace of their own; a server that does not answer is `up` 0 and
//! one line in the log, and nothing here is on anybody's path.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arqon_telemetry::labels::ServerName;
use arqon_telemetry::log::chain;
use arqon_telemetry::metrics::{BrainMetrics, NatsMetrics};
use arqon_telemetry::roots;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, StatusCode, Url};
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

/// Pace.
const EVERY: Duration = Duration::from_secs(10);
/// The whole of one request.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer. A server with a thousand routes stays far below.
const MOST: usize = 1024 * 1024;
/// Characters of a server's name that are shown.
const NAME: usize = 64;

/// Why nothing can be asked.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The URL is none.
    #[error("{url} is no URL (`telemetry.nats_monitors`)")]
    Url {
        /// As the manifest has it.
        url: String,
    },
    /// The HTTP client cannot be made.
    #[error("the HTTP client of `telemetry.nats_monitors` cannot be made")]
    Client(#[source] reqwest::Error),
}

/// Why a server told nothing.
#[derive(Debug, thiserror::Error)]
enum Silent {
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    #[error("the answer was {0}")]
    Status(StatusCode),
    #[error("the answer is longer than {MOST} bytes")]
    Long,
    #[error("the answer is not that of a NATS server")]
    Answer(#[source] serde_json::Error),
}

/// One server.
#[derive(Debug)]
pub(crate) struct Monitor {
    client: Client,
    varz: Url,
    /// By which it is shown before it has told its own name.
    place: String,
    label: ServerName,
    down: Option<Instant>,
    metrics: BrainMetrics,
}

/// What a server tells of itself, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Varz {
    #[serde(default)]
    server_name: String,
    connections: u64,
    total_connections: u64,
    subscriptions: u64,
    slow_consumers: u64,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
    mem: u64,
    cpu: f64,
    routes: u64,
    uptime: String,
}

/// The monitors of a manifest.
///
/// # Errors
/// See [`MonitorError`].
pub(crate) fn monitors(
    urls: &[String],
    metrics: &BrainMetrics,
) -> Result<Vec<Monitor>, MonitorError> {
    if urls.is_empty() {
        return Ok(Vec::new());
    }
    let mut client = Client::builder()
        // HTTP_PROXY has no say here.
        .no_proxy()
        .redirect(Policy::none())
        .timeout(PATIENCE);
    let secure = urls.iter().any(|url| url.starts_with("https://"));
    let roots = secure.then(roots::system).into_iter().flatten();
    client = client.tls_certs_only(roots.filter_map(|der| Certificate::from_der(&der).ok()));
    let client = client.build().map_err(MonitorError::Client)?;
    let monitor = |url: &String| Monitor::new(url, client.clone(), metrics.clone());
    urls.iter().map(monitor).collect()
}

// === impl Monitor ===

impl Monitor {
    fn new(url: &str, client: Client, metrics: BrainMetrics) -> Result<Self, MonitorError> {
        let wrong = || MonitorError::Url {
            url: url.to_owned(),
        };
        let varz = format!("{}/varz", url.trim_end_matches('/'));
        let varz: Url = varz.parse().map_err(|_| wrong())?;
        let host = varz.host_str().ok_or_else(wrong)?;
        let port = varz.port_or_known_default().ok_or_else(wrong)?;
        let place = format!("{host}:{port}");
        Ok(Self {
            label: ServerName::new(&place),
            client,
            varz,
            place,
            down: None,
            metrics,
        })
    }

    /// Asks for ever.
    pub(crate) async fn run(mut self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let told = self.ask().await;
            self.note(told);
        }
    }

    async fn ask(&self) -> Result<Varz, Silent> {
        let request = self.client.get(self.varz.clone()).send();
        let mut response = request.await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(Silent::Status(response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MOST {
                return Err(Silent::Long);
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(Silent::Answer)
    }

    fn note(&mut self, told: Result<Varz, Silent>) {
        let nats = self.metrics.nats();
        let url = self.varz.as_str();
        match told {
            Ok(varz) => {
                let label = ServerName::new(&name(&varz.server_name, &self.place));
                if label != self.label {
                    nats.forget(&self.label);
                    self.label = label;
                }
                varz.tell(nats, &self.label);
                if let Some(since) = self.down.take() {
                    let away_secs = since.elapsed().as_secs();
                    info!(url, away_secs, "The NATS server's monitor answers again");
                }
            }
            Err(error) => {
                nats.up.get_or_create(&self.label).set(0);
                if self.down.is_none() {
                    self.down = Some(Instant::now());
                    warn!(
                        url,
                        error = chain(&error),
                        "A NATS server's monitor tells nothing"
                    );
                }
            }
        }
    }
}

// === impl Varz ===

impl Varz {
    fn tell(&self, nats: &NatsMetrics, server: &ServerName) {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for (gauge, value) in [
            (&nats.up, 1),
            (&nats.connections, whole(self.connections)),
            (&nats.subscriptions, whole(self.subscriptions)),
            (&nats.memory_bytes, whole(self.mem)),
            (&nats.cpu_percent, self.cpu.round() as i64),
            (&nats.routes, whole(self.routes)),
            (&nats.uptime_seconds, whole(seconds(&self.uptime))),
        ] {
            gauge.get_or_create(server).set(value);
        }
        for (counter, value) in [
            (&nats.connections_opened, self.total_connections),
            (&nats.slow_consumers, self.slow_consumers),
            (&nats.messages_in, self.in_msgs),
            (&nats.messages_out, self.out_msgs),
            (&nats.bytes_in, self.in_bytes),
            (&nats.bytes_out, self.out_bytes),
        ] {
            // The server counts; it begins anew when it does.
            let counter = counter.get_or_create(server);
            counter.inner().store(value, Ordering::Relaxed);
        }
    }
}

/// A name as it may stand in a label, whoever made it up.
fn name(told: &str, place: &str) -> String {
    if told.is_empty() {
        return place.to_owned();
    }
    let plain = |c: char| match c {
        '"' | '\\' => '_',
        c if c.is_ascii_graphic() => c,
        _ => '_',
    };
    told.chars().take(NAME).map(plain).collect()
}

/// Such as `1y2d3h4m5s`, a year being 365 days.
fn seconds(uptime: &str) -> u64 {
    let (mut all, mut number) = (0_u64, 0_u64);
    for c in uptime.chars() {
        let unit = match c {
            'y' => 365 * 86_400,
            'd' => 86_400,
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            c => {
                let digit = c.to_digit(10).unwrap_or(0);
                number = number.saturating_mul(10).saturating_add(digit.into());
                continue;
            }
        };
        all = all.saturating_add(std::mem::take(&mut number).saturating_mul(unit));
    }
    all
}

fn failed(error: reqwest::Error) -> Silent {
    // The URL is told beside the error.
    Silent::Request(error.without_url())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_are_read() {
        for (text, value) in [
            ("0s", 0),
            ("59s", 59),
            ("2m5s", 125),
            ("3h0m1s", 10_801),
            ("1d2h3m4s", 93_784),
            ("2y1d0h0m0s", 731 * 86_400),
            ("", 0),
            ("soon", 0),
            ("99999999999999999999y", u64::MAX),
        ] {
            assert_eq!(seconds(text), value, "{text}");
        }
    }

    #[test]
    fn a_name_is_short_and_plain() {
        assert_eq!(name("nats-1", "127.0.0.1:8222"), "nats-1");
        assert_eq!(name("", "127.0.0.1:8222"), "127.0.0.1:8222");
        assert_eq!(name("a\"b\\c\nd ü", ""), "a_b_c_d__");
        assert_eq!(name(&"x".repeat(1000), "").len(), NAME);
    }

    #[test]
    fn what_is_no_url_is_told() {
        let metrics = BrainMetrics::new();
        let urls = ["http://[".to_owned()];
        let error = monitors(&urls, &metrics).map(drop);
        assert!(matches!(error, Err(MonitorError::Url { .. })), "{error:?}");
        let urls = ["http://[::1]:8222/".to_owned()];
        let made = monitors(&urls, &metrics).map(|mut made| made.remove(0).varz.to_string());
        assert_eq!(made.ok().as_deref(), Some("http://[::1]:8222/varz"));
    }
}
