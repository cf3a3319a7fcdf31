//! HTTP before a session: what is no upgrade, and one too many.

use arqon_harness::{RawPeer, eventually, http, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bad_input::{Neighbour, stage};

#[tokio::test]
async fn what_is_no_upgrade_is_answered_in_http() {
    let (_spine, acme, shield) = stage("listen.handshake_timeout_secs = 2").await;
    let mut bob = Neighbour::new(&shield, &acme).await;
    let addr = shield.addr();
    let authorization = format!("Authorization: Bearer {}", acme.token().sign());

    let get = |path: &'static str, headers: Vec<String>| async move {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        within("an HTTP answer", http::get(addr, path, &headers))
            .await
            .unwrap()
    };
    assert_eq!(get("/healthz", vec![]).await.status, 200);
    assert_eq!(get("/readyz", vec![]).await.status, 200);
    assert_eq!(get("/", vec![]).await.status, 404);
    assert_eq!(
        get("/metrics", vec![]).await.status,
        404,
        "metrics are on the admin listener"
    );
    let plain = get("/v1/socket", vec![authorization.clone()]).await;
    assert_eq!(plain.status, 426, "{plain:?}");
    assert!(plain.body.contains("NOT_A_WEBSOCKET"), "{plain:?}");
    let long = format!("X-Long: {}", "v".repeat(40_000));
    let long = get("/v1/socket", vec![long]).await;
    assert_eq!(long.status, 431, "{long:?}");

    let other = RawPeer::ask(
        addr,
        "/v1/socket",
        &[&authorization, "Sec-WebSocket-Protocol: graphql-ws"],
    )
    .await
    .err()
    .expect("only arqon.v1 is spoken");
    assert_eq!(other.status, 400, "{other:?}");
    assert!(other.body.contains("UNSUPPORTED_SUBPROTOCOL"), "{other:?}");

    // Neither noise, nor silence, nor half a request holds a connection for long.
    let noise: &[&[u8]] = &[
        &[0; 64],
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"",
        b"GET /v1/socket HT",
    ];
    for bytes in noise {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let end = within("the end of a connection", stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{bytes:02x?}: {end:?} {answer}"
        );
    }
    bob.is_unharmed().await;
}

#[tokio::test]
async fn one_session_more_than_the_limit_is_asked_to_come_later() {
    let (_spine, acme, shield) = stage("session.max_sessions = 2").await;
    let mut bob = Neighbour::new(&shield, &acme).await;
    let second = shield.connect(&acme.token().sign()).await;
    let answer = RawPeer::open(shield.addr(), &acme.token().sign())
        .await
        .err()
        .unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains("SESSION_LIMIT"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    drop(second);
    eventually!(
        RawPeer::open(shield.addr(), &acme.token().sign())
            .await
            .is_ok()
    );
    bob.is_unharmed().await;
}
