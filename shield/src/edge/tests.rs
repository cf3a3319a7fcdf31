//! The edge over real sockets: every refusal as a client sees it, the limits
//! of handshakes, and what a session is opened with.

#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arqon_proto::{codes::ErrorCode, names::TenantId, v1::TenantState};
use arqon_spine::manifest::{Manifest, SecretMode, Tls};
use arqon_telemetry::{
    Metrics,
    labels::{Code, ConnectionRefusal},
};
use bytes::Bytes;
use rustls_pki_types::{ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{Certificate, Edge, Readiness, Socket, acceptor, bind, serve};
use crate::{
    auth::{Identity, Verifier, testing::*},
    control::{Revocations, Tenants},
    session::Sessions,
};

const PATIENCE: Duration = Duration::from_secs(30);

type Opened = (Socket, Bytes, Identity);

/// A public listener whose sessions come out at `opened`.
struct Front {
    address: SocketAddr,
    opened: mpsc::UnboundedReceiver<Opened>,
    readiness: Arc<Readiness>,
    metrics: Metrics,
    _stop: DropGuard,
}

/// An answer taken apart.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: String,
}

// === impl Front ===

impl Front {
    async fn start() -> Self {
        Self::with("", None, true).await
    }

    async fn with(listen: &str, tls: Option<Tls>, tenants_read: bool) -> Self {
        let text = format!(
            "[node]\nid = \"shield-1\"\n[listen]\n{listen}\n[spine]\n\
             control_creds_file = \"creds\"\nfleet_key_file = \"key\"\n"
        );
        let manifest = Manifest::parse(&text, Path::new("."), SecretMode::Unchecked).unwrap();
        let metrics = Metrics::default();
        let tenants = Arc::new(Tenants::new());
        if tenants_read {
            let mut records = HashMap::new();
            for (name, signer, state) in [
                ("acme", &*FIRST, TenantState::Active),
                ("globex", &*SECOND, TenantState::Active),
                ("asleep", &*FIRST, TenantState::Suspended),
            ] {
                let mut record = tenant(name, vec![pem_issuer(signer)]).record.clone();
                record.created_at_ms = 0;
                record.set_state(state);
                records.insert(TenantId::parse(name).unwrap(), record);
            }
            tenants.replace(records);
        }
        let sessions = Arc::new(Sessions::new());
        let readiness = Arc::new(Readiness::new(Arc::clone(&tenants), sessions, 1000));
        let (open, opened) = mpsc::unbounded_channel();
        let edge = Edge {
            json: manifest.session.json,
            tls: tls.map(|tls| acceptor(Certificate::load(&tls).unwrap()).unwrap()),
            verifier: Arc::new(Verifier::new(
                tenants,
                Arc::new(Revocations::new(manifest.tokens.grace)),
                &manifest,
                metrics.clone(),
            )),
            listen: manifest.listen,
            readiness: Arc::clone(&readiness),
            quotas: crate::quota::testing::quotas(),
            open: Box::new(move |socket, read_ahead, admitted, _| {
                let _ = open.send((socket, read_ahead, admitted.identity));
            }),
            metrics: metrics.clone(),
        };
        let listener = bind("127.0.0.1:0".parse().unwrap(), 128, Some(65_536)).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(
            listener,
            Arc::new(edge),
            TaskTracker::new(),
            stop.clone(),
        ));
        Self {
            address,
            opened,
            readiness,
            metrics,
            _stop: stop.drop_guard(),
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends a request and reads the answer to its end.
    async fn ask(&self, request: &str) -> Answer {
        ask_over(self.connect().await, request).await
    }

    async fn upgrade(&self, headers: &[&str]) -> Answer {
        self.ask(&upgrade(headers)).await
    }

    async fn with_token(&self, token: &str) -> Answer {
        self.upgrade(&[&format!("Authorization: Bearer {token}")])
            .await
    }

    fn refusals(&self, reason: ConnectionRefusal) -> u64 {
        self.metrics
            .connections_refused
            .get_or_create(&reason)
            .get()
    }
}

// === impl Answer ===

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let status = lines.next().unwrap_or_default().split(' ').nth(1);
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_ascii_lowercase(), value.to_owned()))
        });
        Self {
            status: status.and_then(|status| status.parse().ok()).unwrap_or(0),
            headers: headers.collect(),
            body: body.to_owned(),
        }
    }

    fn code(&self) -> (u16, String) {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        assert!(!body["message"].as_str().unwrap().is_empty());
        (self.status, body["name"].as_str().unwrap().to_owned())
    }

    fn refused_with(&self, status: u16, name: &str) {
        assert_eq!(self.code(), (status, name.to_owned()), "{self:?}");
    }
}

async fn ask_over(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut text))
        .await
        .unwrap();
    Answer::parse(&String::from_utf8(text).unwrap())
}

/// Reads up to the end of the head only, as a session goes on.
async fn ask_head(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, stream.read_u8()).await.unwrap();
        match byte {
            Ok(byte) => text.push(byte),
            Err(_) => break,
        }
    }
    Answer::parse(&String::from_utf8(text).unwrap())
}

fn upgrade(headers: &[&str]) -> String {
    format!(
        "GET /v1/socket HTTP/1.1\r\nHost: shield\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n",
        headers
            .iter()
            .map(|line| format!("{line}\r\n"))
            .collect::<String>()
    )
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn good_token() -> String {
    FIRST.token(&claims_at(now()))
}

fn token_with(claim: &str, value: Value) -> String {
    let mut claims = claims_at(now());
    claims[claim] = value;
    FIRST.token(&claims)
}

#[tokio::test]
async fn a_good_token_opens_a_session_with_what_followed_the_handshake() {
    let mut front = Front::start().await;
    let mut stream = front.connect().await;
    let header = format!("authorization: bearer {}", good_token());
    // The first bytes of the session in the same packet.
    let request = upgrade(&[&header]) + "first";
    let answer = ask_head(&mut stream, &request).await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.headers["upgrade"], "websocket");
    assert_eq!(answer.headers["connection"], "Upgrade");
    // The example of RFC 6455 §1.3.
    assert_eq!(
        answer.headers["sec-websocket-accept"],
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    assert!(!answer.headers.contains_key("sec-websocket-protocol"));

    let (mut socket, read_ahead, identity) = front.opened.recv().await.unwrap();
    assert_eq!(
        (identity.tenant.id.as_str(), identity.user.as_str()),
        ("acme", "alice")
    );
    assert_eq!(&read_ahead[..], b"first");
    socket.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    assert_eq!(front.metrics.handshakes.get(), 0);
}

#[tokio::test]
async fn a_browser_offers_its_token_as_a_subprotocol() {
    let mut front = Front::start().await;
    for lines in [
        vec![format!(
            "Sec-WebSocket-Protocol: arqon.v1, arqon.bearer.{}",
            good_token()
        )],
        vec![
            format!("Sec-WebSocket-Protocol: arqon.bearer.{}", good_token()),
            "Sec-WebSocket-Protocol: chat,arqon.v1".to_owned(),
        ],
    ] {
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let mut stream = front.connect().await;
        let answer = ask_head(&mut stream, &upgrade(&lines)).await;
        assert_eq!(answer.status, 101);
        // The token is never sent back.
        assert_eq!(answer.headers["sec-websocket-protocol"], "arqon.v1");
        front.opened.recv().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_websocket_is_told_so() {
    let front = Front::start().await;
    let plain = "GET /v1/socket HTTP/1.1\r\nHost: shield\r\n\r\n";
    let answer = front.ask(plain).await;
    answer.refused_with(426, "NOT_A_WEBSOCKET");
    assert_eq!(answer.headers["upgrade"], "websocket");
    assert_eq!(answer.headers["sec-websocket-version"], "13");
    assert_eq!(answer.headers["connection"], "close");

    for (from, to, status) in [
        ("GET", "POST", 426),
        ("Version: 13", "Version: 8", 426),
        ("Upgrade: WebSocket", "Upgrade: h2c", 426),
        (
            "Connection: keep-alive, Upgrade",
            "Connection: keep-alive",
            426,
        ),
        ("HTTP/1.1", "HTTP/1.0", 426),
        ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "no base64!", 400),
    ] {
        let request = upgrade(&[]).replace(from, to);
        front
            .ask(&request)
            .await
            .refused_with(status, "NOT_A_WEBSOCKET");
    }
    let offers = "Sec-WebSocket-Protocol: arqon.v2, mqtt";
    front
        .upgrade(&[offers])
        .await
        .refused_with(400, "UNSUPPORTED_SUBPROTOCOL");
}

#[tokio::test]
async fn tokens_are_refused_with_the_public_code_and_counted_with_the_exact_one() {
    let front = Front::start().await;
    let missing = front.upgrade(&[]).await;
    missing.refused_with(401, "TOKEN_MISSING");
    assert_eq!(missing.headers["www-authenticate"], "Bearer");
    assert_eq!(missing.headers["cache-control"], "no-store");
    front
        .upgrade(&["Authorization: Basic YTpi"])
        .await
        .refused_with(401, "TOKEN_MISSING");
    // Never from the URL.
    let in_url = upgrade(&[]).replace("socket", &format!("socket?token={}", good_token()));
    front.ask(&in_url).await.refused_with(401, "TOKEN_MISSING");

    let mut foreign = claims_at(now());
    foreign["tenant"] = json!("globex");
    let none = unsigned(&json!({"alg": "none"}), &claims_at(now())) + ".";
    let other_key = FIRST.sign(&json!({"alg": "RS256", "kid": "x"}), &claims_at(now()));
    for (token, status, public, exact) in [
        ("x".to_owned(), 401, "TOKEN_MALFORMED", "TOKEN_MALFORMED"),
        (
            token_with("exp", json!(now() - 9)),
            401,
            "TOKEN_EXPIRED",
            "TOKEN_EXPIRED",
        ),
        (
            token_with("nbf", json!(now() + 900)),
            401,
            "TOKEN_NOT_YET_VALID",
            "TOKEN_NOT_YET_VALID",
        ),
        (
            token_with("aud", json!("x")),
            401,
            "TOKEN_UNTRUSTED",
            "TOKEN_WRONG_AUDIENCE",
        ),
        (
            token_with("iss", json!("x")),
            401,
            "TOKEN_UNTRUSTED",
            "TOKEN_WRONG_ISSUER",
        ),
        (
            token_with("tenant", json!("x")),
            401,
            "TOKEN_UNTRUSTED",
            "TOKEN_UNKNOWN_TENANT",
        ),
        (
            token_with("tenant", json!("asleep")),
            403,
            "TENANT_SUSPENDED",
            "TENANT_SUSPENDED",
        ),
        (
            FIRST.token(&foreign),
            401,
            "TOKEN_UNTRUSTED",
            "TOKEN_WRONG_KEY",
        ),
        (none, 401, "TOKEN_UNTRUSTED", "TOKEN_WRONG_ALGORITHM"),
        (other_key, 401, "TOKEN_UNTRUSTED", "TOKEN_UNKNOWN_KEY"),
    ] {
        let answer = front.with_token(&token).await;
        answer.refused_with(status, public);
        if status == 401 {
            let challenge = &answer.headers["www-authenticate"];
            assert!(
                challenge.starts_with("Bearer error=\"invalid_token\""),
                "{challenge}"
            );
            assert!(challenge.contains(public), "{challenge}");
        }
        let counted = front
            .metrics
            .auth_failures
            .get_or_create(&Code(exact))
            .get();
        assert_eq!(counted, 1, "{exact}");
    }
    let twice = format!("Authorization: Bearer {}", good_token());
    front
        .upgrade(&[&twice, &twice])
        .await
        .refused_with(401, "TOKEN_MALFORMED");
}

#[tokio::test]
async fn only_the_origins_of_the_manifest_may_connect() {
    let origins = "allowed_origins = [\"https://app.example\"]";
    let mut front = Front::with(origins, None, true).await;
    let token = format!("Authorization: Bearer {}", good_token());
    front
        .upgrade(&[&token, "Origin: https://evil.example"])
        .await
        .refused_with(403, "ORIGIN_FORBIDDEN");
    for lines in [
        vec![token.as_str(), "Origin: https://app.example"],
        vec![&token],
    ] {
        let mut stream = front.connect().await;
        assert_eq!(ask_head(&mut stream, &upgrade(&lines)).await.status, 101);
        front.opened.recv().await.unwrap();
    }
}

#[tokio::test]
async fn nobody_is_let_in_before_the_tenants_are_read_nor_while_draining() {
    let unread = Front::with("", None, false).await;
    let answer = unread.with_token(&good_token()).await;
    answer.refused_with(503, "NOT_READY");
    let retry: u64 = answer.headers["retry-after"].parse().unwrap();
    assert!((1..=5).contains(&retry));
    let ready = unread.ask("GET /readyz HTTP/1.1\r\nHost: s\r\n\r\n").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("tenants"), "{ready:?}");
    let health = unread.ask("GET /healthz HTTP/1.1\r\nHost: s\r\n\r\n").await;
    assert_eq!(health.status, 200);

    let front = Front::start().await;
    let ready = front.ask("GET /readyz HTTP/1.1\r\nHost: s\r\n\r\n").await;
    assert_eq!(
        (ready.status, ready.body.as_str()),
        (200, r#"{"ready":true,"reasons":[]}"#)
    );
    front.readiness.set_draining();
    front
        .with_token(&good_token())
        .await
        .refused_with(503, "NOT_READY");
    let nothing = front.ask("GET / HTTP/1.1\r\nHost: s\r\n\r\n").await;
    assert_eq!(nothing.status, 404);
}

#[tokio::test]
async fn a_head_over_the_limit_is_not_read() {
    let front = Front::with("max_request_header_bytes = 8192", None, true).await;
    let large = format!("X-Large: {}", "x".repeat(20_000));
    let answer = front.upgrade(&[&large]).await;
    assert!([0, 431].contains(&answer.status), "{answer:?}");
    let garbage = front.ask("\u{16}\u{3}\u{1}garbage\r\n\r\n").await;
    assert_eq!(garbage.status, 400);
    assert!(front.refusals(ConnectionRefusal::Http) >= 1);
}

#[tokio::test]
async fn who_says_nothing_takes_no_place() {
    let front = Front::with("max_handshakes = 1", None, true).await;
    let _silent = [front.connect().await, front.connect().await];
    let header = format!("Authorization: Bearer {}", good_token());
    let mut stream = front.connect().await;
    let request = upgrade(&[&header]);
    // Well below the limit of a handshake, at which a place would be free again.
    let asked = timeout(Duration::from_secs(5), ask_head(&mut stream, &request));
    let answer = asked.await.unwrap();
    assert_eq!(answer.status, 101, "{answer:?}");
}

#[tokio::test]
async fn a_slow_client_takes_a_place_no_longer_than_the_limit() {
    let listen = "handshake_timeout_secs = 1\nmax_handshakes = 1";
    let mut front = Front::with(listen, None, true).await;
    // One that says nothing takes no place; one that begins and stops takes the only one.
    let mut silent = front.connect().await;
    let mut slow = front.connect().await;
    slow.write_all(b"GET /v1/so").await.unwrap();
    let header = format!("Authorization: Bearer {}", good_token());
    let waiting = async {
        loop {
            // It waits in turn behind the slow one, and may itself run out of time.
            let mut stream = front.connect().await;
            if ask_head(&mut stream, &upgrade(&[&header])).await.status == 101 {
                return stream;
            }
        }
    };
    let _stream = timeout(PATIENCE, waiting).await.unwrap();
    front.opened.recv().await.unwrap();
    for stream in [&mut silent, &mut slow] {
        let ended = timeout(PATIENCE, stream.read(&mut [0; 64])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)));
    }
    assert!(front.refusals(ConnectionRefusal::TimedOut) >= 1);
    assert_eq!(front.refusals(ConnectionRefusal::Silent), 1);
}

#[tokio::test]
async fn past_those_that_wait_the_answer_is_503_at_once() {
    let front = Front::with("max_handshakes = 1", None, true).await;
    // One place and eight that wait for it.
    let mut present = Vec::new();
    for _ in 0..9 {
        let mut stream = front.connect().await;
        stream.write_all(b"GET").await.unwrap();
        present.push(stream);
    }
    let answer = front.with_token(&good_token()).await;
    answer.refused_with(503, "OVERLOADED");
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(front.refusals(ConnectionRefusal::Overloaded), 1);
}

#[tokio::test]
async fn who_comes_faster_than_the_rate_is_sent_away_before_anyone_looks_at_his_token() {
    let listen = "accept_rate = 1\naccept_burst = 2\nhandshake_timeout_secs = 1";
    let front = Front::with(listen, None, true).await;
    // Connections that say nothing use up no turn.
    let _silent = [front.connect().await, front.connect().await];
    let mut looked_at = 0;
    let answer = loop {
        let answer = front.with_token("no.token.at-all").await;
        if answer.status == 503 {
            break answer;
        }
        looked_at += 1;
    };
    assert!(looked_at >= 2, "a burst of two is served at once");
    answer.refused_with(503, "OVERLOADED");
    let wait: u64 = answer.headers["retry-after"].parse().unwrap();
    assert!((1..=6).contains(&wait), "{wait}");
    assert_eq!(front.refusals(ConnectionRefusal::Paced), 1);
    let malformed = Code(ErrorCode::TokenMalformed.name());
    let judged = front.metrics.auth_failures.get_or_create(&malformed).get();
    assert_eq!(judged, looked_at);
}

#[tokio::test]
async fn a_flood_of_silence_costs_the_silent_their_sockets_and_nobody_else_a_place() {
    let front = Front::with("max_handshakes = 1", None, true).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(front.connect().await);
    }
    let header = format!("Authorization: Bearer {}", good_token());
    let mut stream = front.connect().await;
    let answer = ask_head(&mut stream, &upgrade(&[&header])).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    // Eight may be silent; the longest silent gave way, one of them to who spoke then.
    assert_eq!(front.refusals(ConnectionRefusal::GaveWay), 13);
    for stream in &mut silent[..13] {
        let ended = timeout(PATIENCE, stream.read(&mut [0; 64])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)));
    }
    // The others are still waited for.
    let answer = ask_head(silent.last_mut().unwrap(), &upgrade(&[&header])).await;
    assert_eq!(answer.status, 101, "{answer:?}");
}

#[tokio::test]
async fn past_a_rate_of_refusals_connections_are_closed_without_a_word() {
    let listen = "accept_rate = 1\naccept_burst = 1\nhandshake_timeout_secs = 1";
    let front = Front::with(listen, None, true).await;
    let (mut told, mut untold) = (0, 0);
    // A burst of 256 is told, and one a second beside it.
    for _ in 0..600 {
        if untold == 8 {
            break;
        }
        let mut stream = front.connect().await;
        let mut answer = Vec::new();
        // It may be closed before it has said all.
        let _ = stream.write_all(upgrade(&[]).as_bytes()).await;
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap();
        match Answer::parse(&String::from_utf8(answer).unwrap()).status {
            0 => untold += 1,
            503 => told += 1,
            401 => {}
            status => panic!("{status}"),
        }
    }
    assert!(told >= 256 && untold == 8, "{told}, {untold}");
    assert_eq!(front.refusals(ConnectionRefusal::Paced), told);
    assert_eq!(front.refusals(ConnectionRefusal::Untold), untold);
}

#[tokio::test]
async fn tls_leads_to_the_same_session() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["shield.example".to_owned()]).unwrap();
    let tls = Tls {
        certificate_file: folder.path().join("cert.pem"),
        key_file: folder.path().join("key.pem"),
    };
    std::fs::write(&tls.certificate_file, made.cert.pem()).unwrap();
    std::fs::write(&tls.key_file, made.signing_key.serialize_pem()).unwrap();
    let mut front = Front::with("", Some(tls), true).await;

    let mut roots = rustls::RootCertStore::empty();
    let certificate = made.cert.pem();
    let certificate =
        rustls_pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("shield.example").unwrap();
    let stream = front.connect().await;
    let mut stream = connector.connect(name.clone(), stream).await.unwrap();
    let header = format!("Authorization: Bearer {}", good_token());
    let answer = ask_head(&mut stream, &upgrade(&[&header])).await;
    assert_eq!(answer.status, 101);
    let (mut socket, _, _) = front.opened.recv().await.unwrap();
    assert!(matches!(socket, Socket::Tls(_)));
    socket.write_all(b"hello").await.unwrap();
    socket.flush().await.unwrap();
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");

    let stream = connector
        .connect(name, front.connect().await)
        .await
        .unwrap();
    ask_over(stream, &upgrade(&[]))
        .await
        .refused_with(401, "TOKEN_MISSING");

    // Plain text to a TLS port is no handshake, and harms nobody.
    let plain = front.upgrade(&[]).await;
    assert_ne!(plain.status, 101);
    assert_eq!(front.refusals(ConnectionRefusal::Tls), 1);
}

#[test]
fn a_socket_is_small() {
    assert!(size_of::<Socket>() <= 40, "{}", size_of::<Socket>());
}
