//! From a URL to a session, or to an error that says what went wrong.

#![allow(clippy::unwrap_used)]

mod server;

use std::sync::Arc;
use std::time::Duration;

use arqon_client::{Client, ClientError, ConnectParams, RawMessage, TokenIn, tls_config};
use arqon_proto::codes::ErrorCode;
use arqon_proto::envelope;
use arqon_proto::v1::Welcome;
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use server::{accept, serve_one, url};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn the_request_carries_token_and_subprotocol() {
    for (token_in, path) in [
        (TokenIn::Authorization, ""),
        (TokenIn::Subprotocol, "/other?x=1"),
    ] {
        let (address, task) = serve_one(async |stream| {
            let (_, path, headers) = accept(stream).await;
            (path, headers)
        })
        .await;
        let params = ConnectParams {
            token_in,
            source_addr: Some("127.0.0.9".parse().unwrap()),
            ..ConnectParams::new(format!("ws://{address}{path}"), "a.b.c")
        };
        Client::connect(params).await.unwrap();
        let (seen_path, headers) = task.await.unwrap();
        let header = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(header("host"), Some(address.to_string()));
        assert!(!seen_path.contains("a.b.c"));
        if token_in == TokenIn::Authorization {
            assert_eq!(seen_path, "/v1/socket");
            assert_eq!(header("authorization").unwrap(), "Bearer a.b.c");
            assert_eq!(header("sec-websocket-protocol").unwrap(), "arqon.v1");
        } else {
            assert_eq!(seen_path, "/other?x=1");
            assert_eq!(header("authorization"), None);
            let offered = header("sec-websocket-protocol").unwrap();
            assert_eq!(offered, "arqon.v1, arqon.bearer.a.b.c");
        }
    }
}

#[tokio::test]
async fn the_source_address_is_the_one_asked_for() {
    let (address, task) = serve_one(async |stream| {
        let peer = stream.peer_addr().unwrap();
        accept(stream).await;
        peer
    })
    .await;
    let params = ConnectParams {
        source_addr: Some("127.0.0.7".parse().unwrap()),
        ..ConnectParams::new(url(address), "t")
    };
    Client::connect(params).await.unwrap();
    assert_eq!(task.await.unwrap().ip().to_string(), "127.0.0.7");
    let params = ConnectParams {
        source_addr: Some("::1".parse().unwrap()),
        ..ConnectParams::new(url(address), "t")
    };
    let error = Client::connect(params).await.unwrap_err();
    assert!(matches!(error, ClientError::NoAddress(_)), "{error}");
}

#[tokio::test]
async fn no_subprotocol_and_no_token_may_be_sent() {
    let (address, task) = serve_one(async |stream| accept(stream).await.2).await;
    let params = ConnectParams {
        url: url(address),
        subprotocol: None,
        ..ConnectParams::default()
    };
    Client::connect(params).await.unwrap();
    let headers = task.await.unwrap();
    assert!(!headers.contains_key("authorization"));
    assert!(!headers.contains_key("sec-websocket-protocol"));
}

#[tokio::test]
async fn nothing_can_be_smuggled_into_the_request() {
    for (token, token_in) in [
        ("a\r\nX-Other: 1", TokenIn::Authorization),
        ("a\r\n\r\nGET /", TokenIn::Subprotocol),
        ("ä", TokenIn::Authorization),
    ] {
        let params = ConnectParams {
            token_in,
            ..ConnectParams::new("ws://127.0.0.1:1", token)
        };
        let error = Client::connect(params).await.unwrap_err();
        assert!(matches!(error, ClientError::InvalidHeader(_)), "{error}");
        assert!(!error.to_string().contains(token));
    }
}

/// Reads a request to its end, then answers these parts one by one.
async fn answer(mut stream: TcpStream, parts: &[&str]) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
    }
    for part in parts {
        stream.write_all(part.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        // So that the parts arrive apart; that they do decides nothing.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn answered(parts: &'static [&'static str]) -> ClientError {
    let (address, _task) = serve_one(async |stream| answer(stream, parts).await).await;
    Client::connect(ConnectParams::new(url(address), "t"))
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_refusal_is_told_whole_however_it_arrives() {
    let body = r#"{"code":1003,"name":"TOKEN_EXPIRED"}"#;
    for parts in [
        &[
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 36\r\n\r\n",
            "{\"code\":1003,\"name\":\"TOKEN_",
            "EXPIRED\"}",
        ][..],
        &[
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 36\r\n\r\n{\"code\":1003,\"name\":\"TOKEN_EXPIRED\"}HTTP/1.1 200",
        ],
        &[
            "HTTP/1.1 401 Unau",
            "thorized\r\nConnection: close\r\n\r\n{\"code\":1003,\"name\":\"TOKEN_EXPIRED\"}",
        ],
    ] {
        let error = answered(parts).await;
        assert_eq!(error.error_code(), Some(ErrorCode::TokenExpired));
        match error {
            ClientError::Refused {
                status: 401,
                code,
                body: told,
                retry_after_secs: None,
            } => {
                assert_eq!((&*code, &*told), ("TOKEN_EXPIRED", body));
            }
            other => panic!("{other}"),
        }
    }
    let busy =
        answered(&["HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"]).await;
    match busy {
        ClientError::Refused {
            status: 503,
            code,
            retry_after_secs: Some(7),
            ..
        } => assert_eq!(code, ""),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_answer_that_is_no_upgrade_is_an_error() {
    for parts in [
        &["garbage\r\n\r\n"][..],
        &["HTTP/1.1 101 Yes\r\n\r\n"],
        &["HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"],
        &[
            "HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n",
        ],
    ] {
        let error = answered(parts).await;
        assert!(
            matches!(error, ClientError::Handshake(_)),
            "{parts:?}: {error}"
        );
    }
    let error = answered(&["HTTP/1.1 4"]).await;
    assert!(matches!(error, ClientError::Lost(_)), "{error}");
    let endless: &'static [&'static str] =
        vec![&*"HTTP/1.1 401 x\r\na: b\r\n".repeat(2000).leak()].leak();
    let error = answered(endless).await;
    assert!(
        matches!(error, ClientError::Handshake(_) | ClientError::Lost(_)),
        "{error}"
    );
}

#[tokio::test]
async fn an_unasked_subprotocol_is_refused() {
    let (address, _task) = serve_one(async |stream| accept(stream).await.0.next().await).await;
    let params = ConnectParams {
        subprotocol: Some("other".to_owned()),
        ..ConnectParams::new(url(address), "t")
    };
    let error = Client::connect(params).await.unwrap_err();
    assert!(matches!(error, ClientError::Handshake(_)), "{error}");
}

#[tokio::test]
async fn connecting_ends_in_time_or_says_where_it_failed() {
    let (address, _task) = serve_one(async |stream| {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let params = ConnectParams {
        timeout: Duration::from_millis(50),
        ..ConnectParams::new(url(address), "t")
    };
    let error = Client::connect(params).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout(_)), "{error}");

    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let error = Client::connect(ConnectParams::new(url(closed), "t"))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    let error = Client::connect(ConnectParams::new("http://a", "t"))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::InvalidUrl(_)), "{error}");
}

#[tokio::test]
async fn frames_with_the_answer_to_the_upgrade_are_not_lost() {
    let (address, _task) = serve_one(async |stream| {
        // Corked: 101 and WELCOME leave in one write.
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (mut from_client, mut to_client) = stream.into_split();
        let (mut duplex_read, mut duplex_write) = tokio::io::split(theirs);
        let up =
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut duplex_write).await });
        let (mut socket, ..) = accept(ours).await;
        let welcome = envelope::welcome(Welcome::default()).encode_to_vec();
        socket
            .send(RawMessage::Binary(welcome.into()))
            .await
            .unwrap();
        let mut both = vec![0; 64 << 10];
        let length = duplex_read.read(&mut both).await.unwrap();
        to_client.write_all(&both[..length]).await.unwrap();
        up.await
    })
    .await;
    let mut client = Client::connect(ConnectParams::new(url(address), "t"))
        .await
        .unwrap();
    client.welcome().await.unwrap();
}

#[tokio::test]
async fn tls_trusts_the_given_certificates_and_no_other() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let private = rustls_pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let (mut socket, ..) = accept(tls).await;
                let welcome = envelope::welcome(Welcome::default()).encode_to_vec();
                socket
                    .send(RawMessage::Binary(welcome.into()))
                    .await
                    .unwrap();
                while let Some(Ok(_)) = socket.next().await {}
            });
        }
    });

    let trusting = |pem: String| ConnectParams {
        tls_ca_pem: Some(pem.into_bytes()),
        source_addr: Some("127.0.0.1".parse().unwrap()),
        ..ConnectParams::new(format!("wss://localhost:{port}"), "t")
    };
    let mut client = Client::connect(trusting(key.cert.pem())).await.unwrap();
    client.welcome().await.unwrap();
    client.close().await.unwrap();
    let shared = ConnectParams {
        tls: Some(tls_config(Some(key.cert.pem().as_bytes())).unwrap()),
        tls_ca_pem: None,
        ..trusting(String::new())
    };
    Client::connect(shared).await.unwrap();

    let error = Client::connect(trusting(other.cert.pem()))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error}");
    let by_address = ConnectParams {
        url: format!("wss://127.0.0.1:{port}"),
        ..trusting(key.cert.pem())
    };
    let error = Client::connect(by_address).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Tls { .. }),
        "the certificate is for localhost: {error}"
    );
    for bad in [
        "",
        "nonsense",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let error = Client::connect(trusting(bad.to_owned())).await.unwrap_err();
        assert!(
            matches!(error, ClientError::InvalidCertificates(_)),
            "{bad:?}: {error}"
        );
    }
}
