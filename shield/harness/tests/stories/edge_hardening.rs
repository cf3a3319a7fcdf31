//! What the edge grants a stranger and a client, each limit by itself.

use std::process::Command;
use std::time::Duration;

use arqon_client::ConnectParams;
use arqon_harness::raw::{self, op};
use arqon_harness::{
    Client, Program, RawPeer, Spine, TestShield, TestTenant, error_of, eventually, free_addr, http,
    shield_program, within,
};
use arqon_proto::codes::CloseCode;
use arqon_proto::envelope;
use arqon_proto::v1::Opcode;
use bytes::Bytes;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::bad_input::{Neighbour, stage};

/// Between two bytes of one who trickles.
const DRIP: Duration = Duration::from_millis(50);

fn bearer(tenant: &TestTenant) -> String {
    format!(
        "Authorization: Bearer {}",
        tenant.token().user("mallory").sign()
    )
}

async fn welcomed(shield: &TestShield, tenant: &TestTenant) -> RawPeer {
    let mut peer = RawPeer::ask(shield.addr(), "/v1/socket", &[&bearer(tenant)])
        .await
        .unwrap();
    assert_eq!(peer.envelope().await.op(), Opcode::Welcome);
    peer
}

/// Sends one byte after the other until the other side ends the connection.
async fn trickle(mut stream: TcpStream, bytes: impl Iterator<Item = u8>) {
    for byte in bytes {
        let written = stream.write_all(&[byte]).await;
        let mut answer = [0; 512];
        let ended = tokio::select! {
            read = stream.read(&mut answer) => !matches!(read, Ok(1..)),
            () = tokio::time::sleep(DRIP) => false,
        };
        if ended || written.is_err() {
            return;
        }
    }
    panic!("all of it was taken");
}

#[tokio::test]
async fn no_compression_is_agreed_and_none_is_taken() {
    let (_spine, acme, shield) = stage("").await;
    let mut bob = Neighbour::new(&shield, &acme).await;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";
    let mut peer = RawPeer::ask(shield.addr(), "/v1/socket", &[&bearer(&acme), offer])
        .await
        .unwrap();
    assert_eq!(peer.answer.header("sec-websocket-extensions"), None);
    assert_eq!(peer.envelope().await.op(), Opcode::Welcome);
    // RSV1: a message that is deflated.
    let mut frame = raw::masked(
        true,
        op::BINARY,
        &envelope::ping(1, Bytes::new()).encode_to_vec(),
    );
    frame[0] |= 0x40;
    peer.send_bytes(&frame).await.unwrap();
    assert_eq!(peer.close_code().await, Some(1002));
    bob.is_unharmed().await;
}

#[tokio::test]
async fn a_frame_has_64_kib_and_a_larger_one_is_not_waited_for() {
    let (_spine, acme, shield) = stage("").await;
    let mut bob = Neighbour::new(&shield, &acme).await;
    let mut peer = welcomed(&shield, &acme).await;
    peer.send(op::BINARY, &[0xff; 65_536]).await.unwrap();
    let refused = peer.envelope().await;
    assert_eq!(error_of(&refused).name, "ENVELOPE_UNDECODABLE");
    // The header alone: its length is enough.
    let header = raw::header(true, op::BINARY, 65_537, true);
    peer.send_bytes(&header).await.unwrap();
    peer.send_bytes(&[1, 2, 3, 4]).await.unwrap();
    assert_eq!(peer.close_code().await, Some(1009));
    bob.is_unharmed().await;
}

#[tokio::test]
async fn heads_over_16_kib_or_100_lines_are_refused_before_a_token_is_judged() {
    let (_spine, acme, shield) = stage("").await;
    let mut bob = Neighbour::new(&shield, &acme).await;
    let ask = async |lines: Vec<String>| {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        RawPeer::ask(shield.addr(), "/v1/socket", &lines).await
    };
    let long = |bytes: usize| format!("X-Long: {}", "v".repeat(bytes));
    assert!(ask(vec![bearer(&acme), long(14_000)]).await.is_ok());
    let expired = format!("Authorization: Bearer {}", acme.token().expired().sign());
    let answer = ask(vec![expired.clone(), long(17_000)])
        .await
        .err()
        .unwrap();
    assert_eq!(answer.status, 431, "{answer:?}");
    let many = (0..120).map(|number| format!("X-{number}: v"));
    let answer = ask(many.chain([expired.clone()]).collect())
        .await
        .err()
        .unwrap();
    assert_eq!(answer.status, 431, "{answer:?}");
    assert_eq!(
        shield.metric("auth_failures_total", "TOKEN_EXPIRED").await,
        0.0
    );
    // Below the limits it is judged.
    let answer = ask(vec![expired, long(10_000)]).await.err().unwrap();
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(
        shield.metric("auth_failures_total", "TOKEN_EXPIRED").await,
        1.0
    );
    bob.is_unharmed().await;
}

#[tokio::test]
async fn a_page_of_another_origin_gets_nowhere_with_a_good_token() {
    let origins = "listen.allowed_origins = [\"https://app.example\"]\nsession.json = true";
    let (_spine, acme, shield) = stage(origins).await;
    let token = acme.token().sign();
    // As a browser asks: it has no other place for a token.
    let offer = format!("Sec-WebSocket-Protocol: arqon.v1+json, arqon.bearer.{token}");
    for origin in [
        "https://evil.example",
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil.example",
        "null",
    ] {
        let origin = format!("Origin: {origin}");
        let answer = RawPeer::ask(shield.addr(), "/v1/socket", &[&offer, &origin])
            .await
            .err()
            .unwrap();
        assert_eq!(answer.status, 403, "{origin}: {answer:?}");
        assert!(answer.body.contains("ORIGIN_FORBIDDEN"), "{answer:?}");
    }
    for lines in [
        vec![offer.as_str(), "Origin: https://app.example"],
        vec![&offer],
    ] {
        let peer = RawPeer::ask(shield.addr(), "/v1/socket", &lines)
            .await
            .unwrap();
        assert_eq!(
            peer.answer.header("sec-websocket-protocol"),
            Some("arqon.v1+json")
        );
    }
}

#[tokio::test]
async fn a_session_that_never_speaks_is_closed_and_a_pong_is_enough() {
    let limits = "session.first_frame_timeout_secs = 1\nsession.heartbeat_secs = 300";
    let (_spine, acme, shield) = stage(limits).await;
    let mut bob = Neighbour::new(&shield, &acme).await;
    let mut listener = welcomed(&shield, &acme).await;
    let ping = within("the first ping", listener.frame()).await.unwrap();
    assert_eq!(ping.opcode, op::PING);
    listener.send(op::PONG, &ping.payload).await.unwrap();

    let mut mute = welcomed(&shield, &acme).await;
    let mut half = welcomed(&shield, &acme).await;
    half.send_bytes(&raw::header(true, op::BINARY, 100, true))
        .await
        .unwrap();
    for peer in [&mut mute, &mut half] {
        let code = within("the end of a silent session", peer.close_code()).await;
        assert_eq!(code, Some(CloseCode::FirstFrameMissed.number()));
    }
    let closed = shield
        .metric("sessions_closed_total", "FIRST_FRAME_MISSED")
        .await;
    assert_eq!(closed, 2.0);
    listener
        .send_envelope(&envelope::ping(1, Bytes::new()))
        .await
        .unwrap();
    assert_eq!(listener.envelope().await.op(), Opcode::Pong);
    bob.is_unharmed().await;
}

#[tokio::test]
async fn an_idle_session_and_one_that_trickles_a_frame_end_after_two_heartbeats() {
    let limits = "session.first_frame_timeout_secs = 300\nsession.heartbeat_secs = 1";
    let (_spine, acme, shield) = stage(limits).await;
    let mut answering = shield.connect(&acme.token().user("bob").sign()).await;
    let mut idle = welcomed(&shield, &acme).await;
    idle.send_envelope(&envelope::ping(1, Bytes::new()))
        .await
        .unwrap();
    assert_eq!(idle.envelope().await.op(), Opcode::Pong);
    let trickling = welcomed(&shield, &acme).await;
    let bytes = raw::masked(true, op::BINARY, &vec![7; 60_000]);
    let (mut reading, mut writing) = tokio::io::split(trickling.into_stream());
    let drops = tokio::spawn(async move {
        let mut sent = 0;
        for byte in bytes {
            if writing.write_all(&[byte]).await.is_err() {
                break;
            }
            sent += 1;
            tokio::time::sleep(DRIP).await;
        }
        sent
    });
    // One that answers its pings lives meanwhile, for it is read all the time.
    let ends = async {
        let code = idle.close_code().await;
        assert_eq!(code, Some(CloseCode::HeartbeatLost.number()));
        let mut all = Vec::new();
        // A reset may overtake the end.
        let _ = reading.read_to_end(&mut all).await;
        (all, drops.await.unwrap())
    };
    let (all, sent) = within("both to end", async {
        tokio::select! {
            ended = ends => ended,
            frame = answering.recv() => panic!("{frame:?}"),
        }
    })
    .await;
    let code = CloseCode::HeartbeatLost;
    let close = [
        &[0x88, 2 + code.name().len() as u8][..],
        &code.number().to_be_bytes(),
    ]
    .concat();
    assert!(
        all.windows(close.len()).any(|bytes| bytes == close),
        "{all:02x?}"
    );
    assert!(sent < 60_000, "all of it was taken");
    answering.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_trickle_in_hold_a_place_each_and_no_longer_than_the_limit() {
    let limits = "listen.handshake_timeout_secs = 1\nlisten.max_handshakes = 4";
    let (_spine, acme, shield) = stage(limits).await;
    let mut bob = Neighbour::new(&shield, &acme).await;
    // Fewer than there are places: nobody else waits.
    let line = b"GET /v1/socket HTTP/1.1\r\nX-Slow: ".iter().copied();
    let endless = || line.clone().chain(std::iter::repeat_n(b'x', 10_000));
    let mut slow = Vec::new();
    for _ in 0..3 {
        let stream = TcpStream::connect(shield.addr()).await.unwrap();
        slow.push(tokio::spawn(trickle(stream, endless())));
    }
    eventually!(shield.metric("handshakes", "").await >= 1.0);
    drop(shield.connect(&acme.token().sign()).await);
    // More than there are places: they wait their turn, and none is served for long.
    for _ in 0..20 {
        let stream = TcpStream::connect(shield.addr()).await.unwrap();
        slow.push(tokio::spawn(trickle(stream, endless())));
    }
    bob.is_unharmed().await;
    for one in slow {
        within("the end of a slow request", one).await.unwrap();
    }
    eventually!(shield.metric("handshakes", "").await == 0.0);
    assert!(
        shield
            .metric("connections_refused_total", "timed_out")
            .await
            >= 20.0
    );
    shield.connect(&acme.token().sign()).await.ping().await;
    bob.is_unharmed().await;
}

#[tokio::test]
async fn no_log_holds_a_token_whatever_is_logged_and_however_it_came() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let (public, admin) = (free_addr(), free_addr());
    let manifest = spine
        .shield()
        .with(&format!(
            "listen.public = \"{public}\"\nlisten.admin = \"{admin}\"\nsession.json = true\n\
             log.level = \"debug\""
        ))
        .write();
    let log = spine.folder().join("shield.log");
    let mut program = Program::start(
        Command::new(shield_program()).arg("--config").arg(manifest),
        &log,
    );
    eventually!(
        http::get(public, "/readyz", &[])
            .await
            .is_ok_and(|it| it.status == 200)
    );
    let good = acme.token().sign();
    let expired = acme.token().expired().sign();
    let garbage = format!("{}x", good);
    let mut tokens = vec![good.clone(), expired.clone(), garbage];
    for token in &tokens {
        let by_header = format!("Authorization: Bearer {token}");
        let by_offer = format!("Sec-WebSocket-Protocol: arqon.v1+json, arqon.bearer.{token}");
        for line in [by_header, by_offer] {
            let _ = RawPeer::ask(public, "/v1/socket", &[&line]).await;
        }
        // Never taken from the URL, and not logged from there either.
        let path = format!("/v1/socket?token={token}");
        let answer = RawPeer::ask(public, &path, &[]).await.err().unwrap();
        assert_eq!(answer.status, 401);
        // What is refused before a token is looked for.
        let _ = http::get(
            public,
            "/v1/socket",
            &[&format!("Authorization: Bearer {token}")],
        )
        .await;
    }
    let params = ConnectParams::new(format!("ws://{public}"), good.clone());
    let mut client = Client::connect(params).await.unwrap();
    let fresh = acme.token().ttl(60).sign();
    for token in [&fresh, &expired] {
        client.send(envelope::refresh(1, token)).await;
        client.next().await;
    }
    tokens.push(fresh.clone());
    let offer = "Sec-WebSocket-Protocol: arqon.v1+json";
    let bearer = format!("Authorization: Bearer {good}");
    let mut person = RawPeer::ask(public, "/v1/socket", &[&bearer, offer])
        .await
        .unwrap();
    for refresh in [
        format!(r#"{{"op":"OPCODE_REFRESH","refresh":{{"token":"{expired}"}}}}"#),
        format!(r#"{{"op":"OPCODE_REFRESH","refresh":"{fresh}"}}"#),
        format!(r#"{{"op":"OPCODE_REFRESH","{fresh}":1}}"#),
    ] {
        person.send(op::TEXT, refresh.as_bytes()).await.unwrap();
        while person.frame().await.unwrap().opcode != op::TEXT {}
    }
    person
        .send(op::TEXT, br#"{"op":"OPCODE_PING"}"#)
        .await
        .unwrap();
    while person.frame().await.unwrap().opcode != op::TEXT {}
    program.terminate();
    program.wait().await;
    let log = program.log();
    assert!(
        log.contains("Refused a connection") && log.contains("Session opened"),
        "{log}"
    );
    for token in &tokens {
        for part in token.split('.').skip(1) {
            assert!(!log.contains(part), "{part} is in the log");
        }
    }
}
