//! Keys that an issuer publishes as a JWKS document, fetched rarely.
//!
//! One `JwksSource` for each URL, shared by the tenants that name it. A token
//! with a known key never waits: the document is fetched again behind its back
//! when it is due. A token with an unknown key has it fetched at most once per
//! `min_interval`, whoever asks, which is also the negative cache. All who wait
//! share one fetch, and the fetch does not die with them. While fetching fails,
//! the last keys serve for `serve_stale` and no longer.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arqon_telemetry::{Metrics, labels::Outcome};
use reqwest::{Url, redirect};
use tokio::time::Instant;

use super::keys::KeySet;

/// An issuer that has not answered by then counts as failed. Below the
/// handshake timeout, so that the client still gets its answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Large issuers publish a few kilobytes.
const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
/// Enough for a missing slash or a moved path on the same host.
const MAX_REDIRECTS: usize = 3;
/// An issuer that is down for longer stops its tokens: a key it withdrew
/// meanwhile must not live for ever.
const SERVE_STALE: Duration = Duration::from_secs(3600);
/// Handshakes that may wait for one document. One issuer that hangs must not
/// take the handshakes of all the other tenants.
const MAX_WAITING: usize = 128;

/// The pace of fetching.
#[derive(Clone, Copy, Debug)]
pub(super) struct JwksPace {
    /// A document older than this is fetched again when it is next used.
    pub(super) refresh: Duration,
    /// Least time between two fetches of one document.
    pub(super) min_interval: Duration,
    /// For how long the last keys serve while fetching fails.
    pub(super) serve_stale: Duration,
}

/// All sources that some tenant's record names.
pub(super) struct JwksSources {
    shared: Arc<Shared>,
    sources: Mutex<HashMap<String, Weak<JwksSource>>>,
}

struct Shared {
    pace: JwksPace,
    metrics: Metrics,
    /// Made at the first fetch, since it reads the system's root certificates.
    http: OnceLock<Result<reqwest::Client, String>>,
}

/// The document behind one URL.
pub(super) struct JwksSource {
    url: String,
    shared: Arc<Shared>,
    snapshot: RwLock<Snapshot>,
    /// Held during a fetch.
    flight: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Snapshot {
    keys: Option<(Arc<KeySet>, Instant)>,
    /// When the last fetch ended, well or not.
    attempted: Option<Instant>,
    /// Why the last fetch failed; None after a good one.
    failure: Option<String>,
}

/// Why a document could not be fetched. Told to the log, never to a client.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the URL is not valid")]
    Url,
    #[error("the URL is neither https nor http on a loopback address")]
    Insecure,
    #[error("no HTTP client: {0}")]
    Client(String),
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    #[error("the answer has status {0}")]
    Status(u16),
    #[error("the document is over {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge,
    #[error("the document is not a JWKS")]
    Document(#[source] serde_json::Error),
}

// === impl JwksPace ===

impl JwksPace {
    pub(super) fn new(refresh: Duration, min_interval: Duration) -> Self {
        Self {
            refresh,
            min_interval,
            serve_stale: SERVE_STALE.max(refresh * 2),
        }
    }
}

// === impl JwksSources ===

impl JwksSources {
    pub(super) fn new(pace: JwksPace, metrics: Metrics) -> Self {
        let shared = Shared {
            pace,
            metrics,
            http: OnceLock::new(),
        };
        Self {
            shared: Arc::new(shared),
            sources: Mutex::default(),
        }
    }

    /// The source for this URL. It lives as long as somebody holds it.
    pub(super) fn get(&self, url: &str) -> Arc<JwksSource> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = sources.get(url).and_then(Weak::upgrade) {
            return source;
        }
        // A source is made when a tenant's record changes: seldom enough to look at all.
        sources.retain(|_, source| source.strong_count() > 0);
        let source = Arc::new(JwksSource {
            url: url.to_owned(),
            shared: Arc::clone(&self.shared),
            snapshot: RwLock::default(),
            flight: tokio::sync::Mutex::default(),
            waiting: AtomicUsize::new(0),
        });
        sources.insert(url.to_owned(), Arc::downgrade(&source));
        source
    }
}

// === impl JwksSource ===

impl JwksSource {
    /// The keys to look this kid up in. The error says why there are none.
    pub(super) async fn keys_for(
        self: &Arc<Self>,
        kid: Option<&str>,
    ) -> Result<Arc<KeySet>, String> {
        let now = Instant::now();
        let pace = self.shared.pace;
        match self.usable(now) {
            Some((keys, age)) if keys.has(kid) => {
                if age >= pace.refresh && self.may_attempt(now) {
                    if age >= pace.refresh * 2 {
                        // Nobody used it for long: a withdrawn key must not get in by being first.
                        return self.fetched(now).await;
                    }
                    tokio::spawn(Arc::clone(self).fetch_once(now));
                }
                Ok(keys)
            }
            Some((keys, _)) if !self.may_attempt(now) => Ok(keys),
            None if !self.may_attempt(now) => Err(self.failure()),
            _ => self.fetched(now).await,
        }
    }

    /// The keys after a fetch that ended after `since`.
    async fn fetched(self: &Arc<Self>, since: Instant) -> Result<Arc<KeySet>, String> {
        let seat = Seat::take(self);
        if seat.is_some() {
            // A task of its own: a client that gives up must not cancel the fetch, or
            // it would be repeated for the next one within the interval.
            let _ = tokio::spawn(Arc::clone(self).fetch_once(since)).await;
        }
        match self.usable(Instant::now()) {
            Some((keys, _)) => Ok(keys),
            None if seat.is_none() => Err("too many wait for the document".to_owned()),
            None => Err(self.failure()),
        }
    }

    async fn fetch_once(self: Arc<Self>, since: Instant) {
        let _flight = self.flight.lock().await;
        if self.read().attempted.is_some_and(|at| at >= since) {
            return;
        }
        let result = self.fetch().await;
        let outcome = match &result {
            Ok(_) => Outcome::Ok,
            Err(FetchError::Request(error)) if error.is_timeout() => Outcome::TimedOut,
            Err(_) => Outcome::Failed,
        };
        self.shared
            .metrics
            .jwks_fetches
            .get_or_create(&outcome)
            .inc();
        let now = Instant::now();
        let mut snapshot = self
            .snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        snapshot.attempted = Some(now);
        match result {
            Ok(keys) => {
                tracing::debug!(url = self.url, keys = keys.len(), "Fetched a JWKS document");
                snapshot.keys = Some((Arc::new(keys), now));
                snapshot.failure = None;
            }
            Err(error) => {
                let error = arqon_telemetry::log::chain(&error);
                tracing::warn!(url = self.url, error, "Cannot fetch a JWKS document");
                snapshot.failure = Some(error);
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let url = Url::parse(&self.url).map_err(|_| FetchError::Url)?;
        if !is_secure(&url) {
            return Err(FetchError::Insecure);
        }
        let client = self
            .shared
            .http
            .get_or_init(|| client().map_err(|error| arqon_telemetry::log::chain(&error)))
            .as_ref()
            .map_err(|error| FetchError::Client(error.clone()))?;
        let mut response = client
            .get(url)
            .header("accept", "application/jwk-set+json, application/json")
            .send()
            .await
            .map_err(FetchError::Request)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut document = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(FetchError::Request)? {
            if document.len() + chunk.len() > MAX_DOCUMENT_BYTES {
                return Err(FetchError::TooLarge);
            }
            document.extend_from_slice(&chunk);
        }
        KeySet::from_jwks(&document).map_err(FetchError::Document)
    }

    /// The last keys and their age, unless they are too old.
    fn usable(&self, now: Instant) -> Option<(Arc<KeySet>, Duration)> {
        let snapshot = self.read();
        let (keys, at) = snapshot.keys.as_ref()?;
        let age = now.saturating_duration_since(*at);
        (age <= self.shared.pace.serve_stale || snapshot.failure.is_none())
            .then(|| (Arc::clone(keys), age))
    }

    fn may_attempt(&self, now: Instant) -> bool {
        self.read()
            .attempted
            .is_none_or(|at| now.saturating_duration_since(at) >= self.shared.pace.min_interval)
    }

    fn failure(&self) -> String {
        self.read()
            .failure
            .clone()
            .unwrap_or_else(|| "the document was not fetched yet".to_owned())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Snapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those who wait for one document.
struct Seat<'a>(&'a AtomicUsize);

impl<'a> Seat<'a> {
    fn take(source: &'a JwksSource) -> Option<Self> {
        let seat = Self(&source.waiting);
        (source.waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(seat)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keys decide who may speak as whom, so they travel under TLS, or not at all
/// over a network.
fn is_secure(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.has_host(),
        "http" => url.host_str().is_some_and(|host| {
            let address = host.trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
        }),
        _ => false,
    }
}

fn client() -> Result<reqwest::Client, reqwest::Error> {
    let same_host = redirect::Policy::custom(|attempt| {
        let moved = attempt.previous().first().is_none_or(|origin| {
            let to = attempt.url();
            (
                origin.scheme(),
                origin.host_str(),
                origin.port_or_known_default(),
            ) != (to.scheme(), to.host_str(), to.port_or_known_default())
        });
        if moved {
            attempt.error("redirected to another host")
        } else if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("redirected too often")
        } else {
            attempt.follow()
        }
    });
    let roots = arqon_telemetry::roots::system().into_iter();
    let roots = roots.filter_map(|der| reqwest::Certificate::from_der(&der).ok());
    reqwest::Client::builder()
        .redirect(same_host)
        .tls_certs_only(roots)
        .timeout(FETCH_TIMEOUT)
        // HTTP_PROXY and its kin must change nothing.
        .no_proxy()
        .dns_resolver(arqon_resolver::Names)
        .pool_max_idle_per_host(1)
        .user_agent(concat!("arqon-shield/", env!("CARGO_PKG_VERSION")))
        .build()
}
