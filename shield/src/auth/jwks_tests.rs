//! JWKS documents against a real HTTP server on a loopback address.

#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arqon_proto::{
    codes::ErrorCode,
    v1::{Issuer, issuer},
};
use arqon_telemetry::{Metrics, labels::Outcome};
use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use http::StatusCode;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{AuthFailure, Identity, jwks::JwksPace, testing::*, trust::Trust};
use crate::control::Tenant;

/// Long enough never to pass within a test.
const LONG: Duration = Duration::from_secs(3600);

/// An issuer's web server.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    answer: Arc<Mutex<(StatusCode, String)>>,
    requests: Arc<AtomicUsize>,
    /// Each answer takes one.
    allowed: Arc<Semaphore>,
}

impl Server {
    async fn start(keys: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            answer: Arc::default(),
            requests: Arc::default(),
            allowed: Arc::new(Semaphore::new(1000)),
        };
        server.publish(keys);
        let router = Router::new()
            .route("/keys", get(Self::keys))
            .route("/moved", get(async || Redirect::temporary("/keys")))
            .route("/loop", get(async || Redirect::temporary("/loop")))
            .route("/away", get(Self::away))
            .with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    async fn keys(State(server): State<Self>) -> Response {
        server.requests.fetch_add(1, Ordering::SeqCst);
        server.allowed.acquire().await.unwrap().forget();
        server.answer.lock().unwrap().clone().into_response()
    }

    /// The same server, but by another name.
    async fn away(State(server): State<Self>) -> Response {
        Redirect::temporary(&format!("http://localhost:{}/keys", server.address.port()))
            .into_response()
    }

    fn publish(&self, keys: Value) {
        *self.answer.lock().unwrap() = (StatusCode::OK, json!({ "keys": keys }).to_string());
    }

    fn fail(&self, status: StatusCode, body: &str) {
        *self.answer.lock().unwrap() = (status, body.to_owned());
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn tenant(&self) -> Arc<Tenant> {
        self.tenant_at("/keys")
    }

    fn tenant_at(&self, path: &str) -> Arc<Tenant> {
        of_url(&format!("http://{}{path}", self.address))
    }
}

fn of_url(url: &str) -> Arc<Tenant> {
    let issuer = Issuer {
        iss: "https://issuer.example".to_owned(),
        keys: Some(issuer::Keys::JwksUrl(url.to_owned())),
        ..Issuer::default()
    };
    tenant("acme", vec![issuer])
}

fn trust(refresh: Duration, min_interval: Duration, serve_stale: Duration) -> (Trust, Metrics) {
    let pace = JwksPace {
        refresh,
        min_interval,
        serve_stale,
    };
    let metrics = Metrics::default();
    let trust = Trust::with_pace(&tokens(), &pool(), pace, metrics.clone());
    (trust, metrics)
}

async fn verify(trust: &Trust, acme: &Arc<Tenant>, token: &str) -> Result<Identity, AuthFailure> {
    trust.verify(token, |_| Some(Arc::clone(acme)), NOW).await
}

fn token(signer: &Signer, kid: &str) -> String {
    signer.sign(&json!({"alg": "RS256", "kid": kid}), &claims())
}

#[tokio::test]
async fn keys_are_fetched_once_and_kept() {
    let server = Server::start(json!([FIRST.jwk("one"), SECOND.jwk("two")])).await;
    let (trust, metrics) = trust(LONG, LONG, LONG);
    let acme = server.tenant();
    for _ in 0..3 {
        verify(&trust, &acme, &token(&FIRST, "one")).await.unwrap();
        verify(&trust, &acme, &token(&SECOND, "two")).await.unwrap();
    }
    let crossed = verify(&trust, &acme, &token(&FIRST, "two")).await;
    assert_eq!(crossed.unwrap_err().code, ErrorCode::TokenWrongKey);
    assert_eq!(server.requests(), 1);
    assert_eq!(metrics.jwks_fetches.get_or_create(&Outcome::Ok).get(), 1);
}

#[tokio::test]
async fn many_at_once_share_one_fetch_that_outlives_the_first() {
    let server = Server::start(json!([FIRST.jwk("one")])).await;
    server.allowed.forget_permits(1000);
    let (trust, _) = trust(LONG, Duration::ZERO, LONG);
    let trust = Arc::new(trust);
    let acme = server.tenant();
    let attempts: Vec<_> = (0..50)
        .map(|_| {
            let (trust, acme) = (Arc::clone(&trust), Arc::clone(&acme));
            tokio::spawn(async move { verify(&trust, &acme, &token(&FIRST, "one")).await })
        })
        .collect();
    while server.requests() == 0 {
        tokio::task::yield_now().await;
    }
    // The client whose token began the fetch goes away.
    attempts[0].abort();
    server.allowed.add_permits(1000);
    for attempt in attempts.into_iter().skip(1) {
        attempt.await.unwrap().unwrap();
    }
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn an_unknown_key_is_looked_for_once_per_interval() {
    let server = Server::start(json!([FIRST.jwk("one")])).await;
    let (trust, _) = trust(LONG, LONG, LONG);
    let acme = server.tenant();
    for kid in ["a", "b", "c"] {
        let refused = verify(&trust, &acme, &token(&FIRST, kid)).await;
        assert_eq!(refused.unwrap_err().code, ErrorCode::TokenUnknownKey);
    }
    verify(&trust, &acme, &token(&FIRST, "one")).await.unwrap();
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_rotated_key_is_found_and_the_old_one_goes() {
    let server = Server::start(json!([FIRST.jwk("one")])).await;
    let (trust, _) = trust(LONG, Duration::ZERO, LONG);
    let acme = server.tenant();
    verify(&trust, &acme, &token(&FIRST, "one")).await.unwrap();
    server.publish(json!([SECOND.jwk("two")]));
    verify(&trust, &acme, &token(&SECOND, "two")).await.unwrap();
    let refused = verify(&trust, &acme, &token(&FIRST, "one")).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::TokenUnknownKey);
}

#[tokio::test]
async fn a_due_document_is_fetched_before_a_withdrawn_key_gets_in() {
    let server = Server::start(json!([FIRST.jwk("one")])).await;
    let (trust, _) = trust(Duration::ZERO, Duration::ZERO, LONG);
    let acme = server.tenant();
    verify(&trust, &acme, &token(&FIRST, "one")).await.unwrap();
    server.publish(json!([SECOND.jwk("two")]));
    let refused = verify(&trust, &acme, &token(&FIRST, "one")).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::TokenUnknownKey);
}

#[tokio::test]
async fn stale_keys_serve_while_fetching_fails_but_not_for_ever() {
    for (serve_stale, served) in [(LONG, true), (Duration::ZERO, false)] {
        let server = Server::start(json!([FIRST.jwk("one")])).await;
        let (trust, metrics) = trust(Duration::ZERO, Duration::ZERO, serve_stale);
        let acme = server.tenant();
        verify(&trust, &acme, &token(&FIRST, "one")).await.unwrap();
        server.fail(StatusCode::INTERNAL_SERVER_ERROR, "down");
        let verified = verify(&trust, &acme, &token(&FIRST, "one")).await;
        match verified {
            Ok(_) => assert!(served),
            Err(failure) => {
                assert!(!served);
                assert_eq!(failure.code, ErrorCode::TokenKeysUnavailable);
                assert!(failure.detail.contains("500"), "{failure}");
            }
        }
        assert_eq!(
            metrics.jwks_fetches.get_or_create(&Outcome::Failed).get(),
            1
        );
        // And again, once the issuer is back.
        server.publish(json!([FIRST.jwk("one")]));
        verify(&trust, &acme, &token(&FIRST, "one")).await.unwrap();
    }
}

#[tokio::test]
async fn a_document_that_is_none_is_refused() {
    let large = format!("{{\"keys\":[],\"pad\":\"{}\"}}", "x".repeat(300 * 1024));
    for body in ["", "[]", "{\"keys\":1}", "<html>", large.as_str()] {
        let server = Server::start(json!([])).await;
        server.fail(StatusCode::OK, body);
        let (trust, _) = trust(LONG, LONG, LONG);
        let refused = verify(&trust, &server.tenant(), &token(&FIRST, "one")).await;
        assert_eq!(refused.unwrap_err().code, ErrorCode::TokenKeysUnavailable);
    }
}

#[tokio::test]
async fn keys_of_another_kind_are_passed_over() {
    let mut encryption = SECOND.jwk("one");
    encryption["use"] = json!("enc");
    let mut other_algorithm = SECOND.jwk("one");
    other_algorithm["alg"] = json!("RS512");
    let server = Server::start(json!([
        {"kty": "EC", "kid": "one", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "oct", "kid": "one", "k": "c2VjcmV0"},
        7,
        encryption,
        other_algorithm,
        FIRST.jwk("one"),
    ]))
    .await;
    let (trust, _) = trust(LONG, LONG, LONG);
    verify(&trust, &server.tenant(), &token(&FIRST, "one"))
        .await
        .unwrap();
    let refused = verify(&trust, &server.tenant(), &token(&SECOND, "one")).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::TokenWrongKey);
}

#[tokio::test]
async fn a_redirect_stays_on_its_host() {
    let server = Server::start(json!([FIRST.jwk("one")])).await;
    let (trust, _) = trust(LONG, LONG, LONG);
    let moved = server.tenant_at("/moved");
    verify(&trust, &moved, &token(&FIRST, "one")).await.unwrap();
    for path in ["/away", "/loop", "/none"] {
        let refused = verify(&trust, &server.tenant_at(path), &token(&FIRST, "one")).await;
        assert_eq!(
            refused.unwrap_err().code,
            ErrorCode::TokenKeysUnavailable,
            "{path}"
        );
    }
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn keys_never_travel_in_the_open() {
    let (trust, _) = trust(LONG, LONG, LONG);
    for url in [
        "http://192.0.2.1/keys",
        "http://localhost.example/keys",
        "http://127.0.0.1.example/keys",
        "file:///etc/passwd",
        "ftp://127.0.0.1/keys",
        "no url",
        "",
    ] {
        let refused = verify(&trust, &of_url(url), &token(&FIRST, "one"))
            .await
            .unwrap_err();
        assert_eq!(refused.code, ErrorCode::TokenKeysUnavailable, "{url}");
        assert!(refused.detail.contains("the URL is"), "{refused}");
    }
}

#[tokio::test]
async fn a_server_whose_certificate_nobody_vouches_for_is_not_believed() {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/keys", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        acceptor.accept(stream).await.map(|_| ())
    });
    let (trust, _) = trust(LONG, LONG, LONG);
    let refused = verify(&trust, &of_url(&url), &token(&FIRST, "one"))
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::TokenKeysUnavailable);
    assert!(refused.detail.contains("certificate"), "{refused}");
    // It was the client that turned away.
    assert!(server.await.unwrap().is_err());
}
