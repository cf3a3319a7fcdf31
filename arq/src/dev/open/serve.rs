//! HTTP for the page: one task, a few connections, small bodies.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::guard::{Guard, Refusal};
use super::{answers, page, peer};
use crate::Globals;
use crate::failure::{Doing, Result};

/// A browser opens six; one that opens hundreds waits.
const MAX_CONNECTIONS: usize = 64;
/// Other users of this machine, each of whom is told once; more are not answered. They take no
/// place of the browser's.
const MAX_STRANGERS: usize = 8;
/// The largest question is a token.
const MAX_BODY: usize = 64 * 1024;
/// How long a request line and its headers may take.
const HEADER_LIMIT: Duration = Duration::from_secs(10);

type Answer = Response<Full<Bytes>>;

/// The server of one run.
pub(super) struct Server<'a> {
    guard: Guard,
    globals: &'a Globals,
}

impl<'a> Server<'a> {
    pub(super) fn new(guard: Guard, globals: &'a Globals) -> Self {
        Self { guard, globals }
    }

    /// Serves for ever.
    pub(super) async fn run(&self, listener: TcpListener) -> Result {
        let mut connections = FuturesUnordered::new();
        let mut strangers = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                    match accepted {
                        Ok((stream, from)) => {
                            let own = stream
                                .local_addr()
                                .is_ok_and(|local| peer::is_own(from, local));
                            if own {
                                connections.push(self.connection(stream, true));
                            } else if strangers.len() < MAX_STRANGERS {
                                strangers.push(self.connection(stream, false));
                            }
                        }
                        // Out of files, or a client that left at once: neither ends the console.
                        Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                    }
                }
                Some(()) = connections.next() => {}
                Some(()) = strangers.next() => {}
            }
        }
    }

    async fn connection(&self, stream: TcpStream, own: bool) {
        let service = service_fn(async |request| {
            let answer = match own {
                true => self.answer(request).await,
                false => refused(&Refusal::new(
                    StatusCode::FORBIDDEN,
                    "this console belongs to another user of this machine",
                    "`arq dev open` of your own serves you",
                )),
            };
            Ok::<_, Infallible>(answer)
        });
        // A connection that breaks is the browser's affair.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_LIMIT)
            // A stranger is told once.
            .keep_alive(own)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let outcome = match request.uri().path() {
            "/" => self.page(&request),
            "/api/session" | "/api/token" | "/api/refusal" => self.api(request).await,
            _ => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "there is nothing here",
                "the console is at /",
            )),
        };
        outcome.unwrap_or_else(|refusal| refused(&refusal))
    }

    fn page(&self, request: &Request<Incoming>) -> Result<Answer, Refusal> {
        self.guard.origin(request.headers())?;
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "the page takes GET",
                "open it in a browser",
            ));
        }
        // Read anew: the ports of an ArqonBus may have changed since the start.
        let policy = self
            .globals
            .local_context()
            .and_then(|context| page::policy(&page::socket_url(&context.settings.shield_url)))
            .map_err(|failure| page::failed(&failure))?;
        let mut answer = Response::new(Full::new(Bytes::from_static(page::HTML)));
        *answer.headers_mut() = page::headers("text/html; charset=utf-8", Some(&policy));
        Ok(answer)
    }

    async fn api(&self, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let origin = self.guard.admit(request.method(), request.headers())?;
        let path = request.uri().path().to_owned();
        let body = Limited::new(request.into_body(), MAX_BODY)
            .collect()
            .await
            .map_err(|_| {
                Refusal::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("the question is over {MAX_BODY} bytes, or broke off"),
                    "a token is smaller",
                )
            })?
            .to_bytes();
        let context = self
            .globals
            .local_context()
            .map_err(|failure| page::failed(&failure))?;
        let answer = match path.as_str() {
            "/api/session" => answers::session(&context),
            "/api/token" => answers::token(&context, &self.globals.output, &read(&body)?)?,
            _ => answers::refusal(&context, &origin, &read(&body)?)
                .await
                .map_err(|failure| page::failed(&failure))?,
        };
        Ok(with_json(StatusCode::OK, &answer))
    }
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .doing("the question does not hold")
        .map_err(|failure| Refusal::new(StatusCode::BAD_REQUEST, failure.message, ""))
}

fn refused(refusal: &Refusal) -> Answer {
    with_json(
        refusal.status,
        &json!({"error": refusal.error, "hint": refusal.hint}),
    )
}

fn with_json(status: StatusCode, value: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(value.to_string())));
    *answer.status_mut() = status;
    *answer.headers_mut() = page::headers("application/json", None);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        answer
            .headers_mut()
            .insert(hyper::header::ALLOW, HeaderValue::from_static("GET, POST"));
    }
    answer
}
