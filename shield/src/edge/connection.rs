//! One connection, from its first byte to `101` or to a refusal.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use arqon_proto::{codes::ErrorCode, headers};
use arqon_telemetry::{
    TraceContext,
    labels::{Code, ConnectionRefusal},
};
use axum::{
    Router,
    body::Body,
    extract::{Extension, Request, State},
    response::{IntoResponse as _, Response},
    routing::{any, get},
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header, request::Parts};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tower_service::Service as _;

use super::{
    Admitted, Edge, Socket,
    health::healthz,
    listener::{Places, Silence, refused, turn_away},
    refusal::Refusal,
    upgrade::{Offer, Terms},
};
use crate::{
    quota,
    session::{Arrival, Encoding},
};

/// How long a client that is sent away has to take the answer.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// What is read from it meanwhile: unread bytes at close would turn into a
/// reset that overtakes the answer.
const REFUSAL_READ_BYTES: u64 = 64 * 1024;

/// Where the request leaves who was admitted, for the connection to find.
type Proved = Arc<Mutex<Option<(Admitted, Arrival)>>>;

/// Who is at the other end, and since when.
#[derive(Clone, Copy, Debug)]
struct Peer {
    address: SocketAddr,
    since: Instant,
}

/// The routes of the public listener.
pub(super) fn router(edge: &Arc<Edge>) -> Router {
    Router::new()
        .route("/v1/socket", any(socket))
        .route("/healthz", get(healthz))
        .route(
            "/readyz",
            get(async |State(edge): State<Arc<Edge>>| edge.readiness.response()),
        )
        .fallback(async || StatusCode::NOT_FOUND.into_response())
        .with_state(Arc::clone(edge))
}

/// Brings a connection to its session, or answers and closes it.
pub(super) async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    since: Instant,
    edge: &Arc<Edge>,
    router: Router,
    mut silence: Silence,
    places: &Arc<Places>,
) {
    let until = since + edge.listen.handshake_timeout;
    let spoke = AtomicBool::new(false);
    let attempt = async {
        // A connection that says nothing waits here and takes no place. By a look at its first byte:
        // `readable` tells of an accepted socket at once that it is.
        let mut byte = [0];
        tokio::select! {
            biased;
            first = stream.peek(&mut byte) => {
                if !matches!(first, Ok(1)) {
                    return None;
                }
            }
            () = silence.over() => {
                refused(edge, ConnectionRefusal::GaveWay);
                return None;
            }
        }
        drop(silence);
        spoke.store(true, Ordering::Relaxed);
        let Some(_present) = places.enter() else {
            turn_away(
                stream,
                ConnectionRefusal::Overloaded,
                Duration::ZERO,
                edge,
                places,
            )
            .await;
            return None;
        };
        // By the first byte, so that connections that say nothing use up no turn.
        let patience = edge.listen.handshake_timeout / 2;
        match places.pace.take(std::time::Instant::now(), patience) {
            Ok(wait) if wait.is_zero() => {}
            Ok(wait) => tokio::time::sleep(wait).await,
            Err(line) => {
                turn_away(stream, ConnectionRefusal::Paced, line, edge, places).await;
                return None;
            }
        }
        let _place = places.running.acquire().await.ok()?;
        edge.metrics.handshakes.inc();
        let _count = scopeguard(|| {
            edge.metrics.handshakes.dec();
        });
        let socket = secure(stream, edge).await?;
        request(socket, Peer { address, since }, edge, router).await
    };
    match timeout_at(until, attempt).await {
        Ok(Some((socket, read_ahead, admitted, arrival))) => {
            edge.metrics.handshake_seconds.observe(since.elapsed());
            (edge.open)(socket, read_ahead, admitted, arrival);
        }
        Ok(None) => {}
        Err(_) if spoke.load(Ordering::Relaxed) => refused(edge, ConnectionRefusal::TimedOut),
        Err(_) => refused(edge, ConnectionRefusal::Silent),
    }
}

/// Tells a client for which there is no place to come back later.
pub(super) async fn refuse(stream: TcpStream, line: Duration, edge: &Edge) {
    let refusal = Refusal::new(ErrorCode::Overloaded, "no place").in_line(line);
    let answer = refusal.to_http();
    let _ = timeout(REFUSAL_TIMEOUT, async {
        let socket = secure(stream, edge).await?;
        say(socket, &answer).await.ok()
    })
    .await;
}

async fn say(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    answer: &[u8],
) -> std::io::Result<()> {
    socket.write_all(answer).await?;
    socket.shutdown().await?;
    let mut rest = socket.take(REFUSAL_READ_BYTES);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

async fn secure(stream: TcpStream, edge: &Edge) -> Option<Socket> {
    let Some(acceptor) = &edge.tls else {
        return Some(Socket::Plain(stream));
    };
    match acceptor.accept(stream).await {
        Ok(stream) => Some(Socket::Tls(Box::new(stream))),
        Err(error) => {
            refused(edge, ConnectionRefusal::Tls);
            tracing::debug!(%error, "Cannot agree on TLS");
            None
        }
    }
}

/// Serves the one request of a connection.
async fn request(
    socket: Socket,
    peer: Peer,
    edge: &Edge,
    router: Router,
) -> Option<(Socket, Bytes, Admitted, Arrival)> {
    let proved = Proved::default();
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Arc::clone(&proved));
        request.extensions_mut().insert(peer);
        let answering = router.clone().call(request);
        async {
            let mut response = answering.await?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                // A place is for one request: an idle connection must not keep it.
                // hyper's own switch for this would spoil the answer `101` too.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .max_buf_size(edge.listen.max_request_header_bytes)
        // The whole handshake has its own limit.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(socket), service)
        // Leaves the socket open and gives it back bare.
        .without_shutdown()
        .await;
    let parts = match served {
        Ok(parts) => parts,
        Err(error) => {
            refused(edge, ConnectionRefusal::Http);
            tracing::debug!(%error, "Cannot serve a request");
            return None;
        }
    };
    let mut socket = parts.io.into_inner();
    let admitted = proved.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some((admitted, arrival)) = admitted else {
        let _ = socket.shutdown().await;
        return None;
    };
    // Copied, so that hyper's buffer is not kept alive by a few bytes.
    let read_ahead = Bytes::copy_from_slice(&parts.read_buf);
    Some((socket, read_ahead, admitted, arrival))
}

/// `GET /v1/socket`.
async fn socket(
    State(edge): State<Arc<Edge>>,
    Extension(proved): Extension<Proved>,
    Extension(peer): Extension<Peer>,
    request: Parts,
) -> Response {
    let now = SystemTime::now();
    let mut arrival = Arrival {
        since: now.checked_sub(peer.since.elapsed()).unwrap_or(now),
        judged: (now, now),
        parent: parent_of(&request),
        encoding: Encoding::Binary,
    };
    match admit(&edge, &request).await {
        Ok((offer, admitted)) => {
            arrival.judged.1 = SystemTime::now();
            arrival.encoding = offer.encoding;
            *proved.lock().unwrap_or_else(PoisonError::into_inner) = Some((admitted, arrival));
            offer.accept()
        }
        Err(refusal) => {
            let Refusal { code, detail, .. } = &refusal;
            let tracer = edge.metrics.tracer();
            let span = tracer.failed_stranger("shield.connect", arrival.parent, arrival.since);
            let told = span.end(Err(code.name()), |found| {
                found.text("network.protocol.name", "websocket");
            });
            let peer = peer.address;
            match told {
                Some(told) => {
                    let (trace_id, span_id) = (told.trace(), told.span());
                    tracing::info!(%peer, %code, detail, trace_id, span_id, "Refused a connection");
                }
                None => tracing::info!(%peer, %code, detail, "Refused a connection"),
            }
            refusal.into_response()
        }
    }
}

/// The client's own trace, if the request says one that can be read.
fn parent_of(request: &Parts) -> Option<TraceContext> {
    let parent = request.headers.get(headers::TRACEPARENT)?;
    parent.to_str().ok()?.parse().ok()
}

async fn admit<'a>(edge: &Edge, request: &'a Parts) -> Result<(Offer<'a>, Admitted), Refusal> {
    let count = |refusal: Refusal| {
        let code = Code(refusal.code.name());
        let family = match refusal.code.http_status() {
            Some(401) => &edge.metrics.auth_failures,
            _ => &edge.metrics.upgrade_refusals,
        };
        family.get_or_create(&code).inc();
        refusal
    };
    // Before any work on the request's own.
    if let Some(unready) = edge.readiness.refusal() {
        return Err(count(Refusal::new(unready.code(), unready.reason())));
    }
    let offer = Offer::read(
        &request.method,
        request.version,
        &request.headers,
        Terms {
            allowed_origins: &edge.listen.allowed_origins,
            json: edge.json,
        },
    )
    .map_err(count)?;
    let Some(token) = offer.token else {
        let missing = Refusal::new(ErrorCode::TokenMissing, "no bearer token");
        return Err(count(missing));
    };
    // Counts its refusals itself, as it does for REFRESH.
    let identity = match edge.verifier.verify(token).await {
        Ok(identity) => identity,
        Err(failure) => return Err(Refusal::new(failure.code, failure.detail)),
    };
    match edge.quotas.enter(&identity.tenant) {
        Ok(place) => Ok((offer, Admitted { identity, place })),
        Err(quota::Full) => {
            let label = Code(ErrorCode::SessionLimit.name());
            edge.metrics.quota_hits.get_or_create(&label).inc();
            let detail = format!(
                "tenant {} has as many sessions as it may",
                identity.tenant.id
            );
            // Not 503: a proxy would take this Shield out of service for everybody.
            let refusal = Refusal::new(ErrorCode::SessionLimit, detail)
                .with_status(StatusCode::TOO_MANY_REQUESTS);
            Err(count(refusal))
        }
    }
}

/// Runs `end` when it is dropped, also when the future around it is.
fn scopeguard<F: FnMut()>(end: F) -> impl Drop {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(end)
}
