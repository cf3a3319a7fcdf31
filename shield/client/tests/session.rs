//! What the client makes of a server's frames, and above all of a server that
//! misbehaves.

#![allow(clippy::unwrap_used)]

mod server;

use arqon_client::{ClientError, RawMessage};
use arqon_proto::codes::{CloseCode, ErrorCode};
use arqon_proto::envelope;
use arqon_proto::names::TwistId;
use arqon_proto::v1::{Join, Joined, Opcode, Welcome};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use server::{message, receive, scripted, send};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

#[tokio::test]
async fn what_comes_before_an_answer_is_kept_in_order() {
    let (mut client, task) = scripted(async |mut socket| {
        send(
            &mut socket,
            envelope::welcome(Welcome {
                user: "alice".into(),
                ..Welcome::default()
            }),
        )
        .await;
        let join = receive(&mut socket).await;
        assert_ne!(join.r#ref, 0);
        send(&mut socket, message("one")).await;
        send(&mut socket, message("two")).await;
        send(
            &mut socket,
            envelope::joined(
                "lobby",
                join.r#ref,
                Joined {
                    echo: true,
                    presence: 1,
                },
            ),
        )
        .await;
        let publish = receive(&mut socket).await;
        assert!(publish.r#ref > join.r#ref);
        send(&mut socket, message("three")).await;
        let twist = TwistId::new();
        send(&mut socket, envelope::ack("lobby", publish.r#ref, &twist)).await;
        let publish = receive(&mut socket).await;
        assert_eq!((publish.r#ref, publish.body), (0, None));
        let ping = receive(&mut socket).await;
        send(&mut socket, envelope::pong(ping.r#ref, ping.payload)).await;
        let leave = receive(&mut socket).await;
        send(&mut socket, envelope::left("lobby", leave.r#ref, None)).await;
        let refresh = receive(&mut socket).await;
        send(&mut socket, envelope::refreshed(refresh.r#ref, 9)).await;
        socket
    })
    .await;
    assert!(client.join("lobby", Join::default()).await.unwrap().echo);
    assert_eq!(client.welcome().await.unwrap().user, "alice");
    assert!(client.publish("lobby", "x", true).await.unwrap().is_some());
    assert!(client.publish("lobby", "x", false).await.unwrap().is_none());
    client.ping("hi").await.unwrap();
    assert_eq!(client.leave("lobby").await.unwrap().code, 0);
    assert_eq!(client.refresh("t2").await.unwrap().expires_at, 9);
    for expected in ["one", "two", "three"] {
        assert_eq!(client.recv().await.unwrap().unwrap().payload, expected);
    }
    drop(task.await.unwrap());
}

#[tokio::test]
async fn an_error_frame_rejects_a_request_and_the_session_lives() {
    let (mut client, _task) = scripted(async |mut socket| {
        let join = receive(&mut socket).await;
        let error = envelope::error(ErrorCode::RoomLimit, "lobby", join.r#ref, None, 20);
        send(&mut socket, error).await;
        let odd = receive(&mut socket).await;
        send(&mut socket, envelope::pong(odd.r#ref, Bytes::new())).await;
        socket.next().await
    })
    .await;
    let error = client.join("lobby", Join::default()).await.unwrap_err();
    assert_eq!(error.error_code(), Some(ErrorCode::RoomLimit));
    match error {
        ClientError::Rejected(r) => {
            assert_eq!((r.code, r.retryable, r.retry_after_ms), (3003, true, 20));
        }
        other => panic!("{other}"),
    }
    let error = client.join("lobby", Join::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn the_servers_close_is_told_once_and_answered() {
    let (mut client, task) = scripted(async |mut socket| {
        send(&mut socket, message("last")).await;
        let frame = CloseFrame {
            code: 4002.into(),
            reason: "SLOW_READER".into(),
        };
        socket.close(Some(frame)).await.unwrap();
        // The client's half of the close, then the end.
        let answer = socket.next().await;
        (
            matches!(answer, Some(Ok(RawMessage::Close(_)))),
            socket.next().await.is_none(),
        )
    })
    .await;
    assert_eq!(client.recv().await.unwrap().unwrap().payload, "last");
    let error = client.recv().await.unwrap_err();
    assert_eq!(error.close_code(), Some(CloseCode::SlowReader));
    assert!(matches!(&error, ClientError::Closed { reason, .. } if reason == "SLOW_READER"));
    assert_eq!(
        error.to_string(),
        "closed by the server with 4002 \"SLOW_READER\""
    );
    let closed_for_sending = client.send(envelope::leave("a", 1)).await;
    assert!(matches!(closed_for_sending, Err(ClientError::Lost(_))));
    drop(client);
    assert_eq!(task.await.unwrap(), (true, true));
}

#[tokio::test]
async fn a_close_in_good_order_is_an_end_and_no_error() {
    let (mut client, _task) = scripted(async |mut socket| {
        let frame = CloseFrame {
            code: 1000.into(),
            reason: "".into(),
        };
        socket.close(Some(frame)).await.unwrap();
        socket.next().await
    })
    .await;
    assert_eq!(client.recv().await.unwrap(), None);

    // Ours: what is still on the way is read and dropped.
    let (client, task) = scripted(async |mut socket| {
        for _ in 0..100 {
            send(&mut socket, message("late")).await;
        }
        let mut codes = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            if let RawMessage::Close(Some(frame)) = message {
                codes.push(u16::from(frame.code));
            }
        }
        codes
    })
    .await;
    client.close().await.unwrap();
    assert_eq!(task.await.unwrap(), [1000]);
}

#[tokio::test]
async fn a_connection_that_just_ends_is_lost() {
    let (mut client, task) = scripted(async |socket| drop(socket)).await;
    task.await.unwrap();
    assert!(matches!(client.recv().await, Err(ClientError::Lost(_))));

    let (mut client, _task) = scripted(async |mut socket| drop(receive(&mut socket).await)).await;
    let error = client.join("lobby", Join::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Lost(_)), "{error}");

    let (mut client, _task) = scripted(async |mut socket| {
        drop(receive(&mut socket).await);
        socket.close(None).await
    })
    .await;
    let error = client.join("lobby", Join::default()).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Closed { code: 1005, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn frames_that_are_not_of_the_protocol_are_told_and_survived() {
    let (mut client, _task) = scripted(async |mut socket| {
        socket.send(RawMessage::Text("hi".into())).await.unwrap();
        socket
            .send(RawMessage::Binary(Bytes::from_static(b"\xff")))
            .await
            .unwrap();
        send(&mut socket, envelope::leave("lobby", 1)).await;
        socket
            .send(RawMessage::Ping(Bytes::from_static(b"p")))
            .await
            .unwrap();
        send(&mut socket, message("good")).await;
        socket.next().await
    })
    .await;
    assert!(matches!(client.recv().await, Err(ClientError::Protocol(_))));
    let code = |r| match r {
        Err(ClientError::Frame(code)) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(client.recv().await), ErrorCode::EnvelopeUndecodable);
    assert_eq!(code(client.recv().await), ErrorCode::UnknownOpcode);
    assert_eq!(client.recv().await.unwrap().unwrap().op(), Opcode::Message);
}

#[tokio::test]
async fn pings_are_answered_while_the_client_only_reads() {
    let (mut client, task) = scripted(async |mut socket| {
        socket
            .send(RawMessage::Ping(Bytes::from_static(b"beat")))
            .await
            .unwrap();
        let pong = socket.next().await.unwrap().unwrap();
        send(&mut socket, message("alive")).await;
        pong
    })
    .await;
    assert_eq!(client.recv().await.unwrap().unwrap().payload, "alive");
    assert_eq!(
        task.await.unwrap(),
        RawMessage::Pong(Bytes::from_static(b"beat"))
    );
}

#[tokio::test]
async fn the_halves_work_apart_and_lose_nothing() {
    let (mut client, task) = scripted(async |mut socket| {
        let ping = receive(&mut socket).await;
        send(&mut socket, message("kept")).await;
        send(&mut socket, envelope::pong(ping.r#ref, ping.payload)).await;
        let publish = receive(&mut socket).await;
        send(&mut socket, message("after")).await;
        while let Some(Ok(_)) = socket.next().await {}
        publish
    })
    .await;
    client.ping("").await.unwrap();
    let (mut sender, mut receiver) = client.split();
    let publish = envelope::publish("lobby", 5, Bytes::from_static(b"x"), false);
    let sending = publish.clone();
    let writing = tokio::spawn(async move {
        sender.send(sending).await.unwrap();
        sender
    });
    let kept = receiver.recv().await.unwrap().unwrap();
    let after = receiver.recv_bytes().await.unwrap().unwrap();
    writing.await.unwrap().close().await.unwrap();
    assert_eq!(receiver.recv().await.unwrap(), None);
    assert_eq!(kept.payload, "kept");
    assert_eq!(after, message("after").encode_to_vec());
    assert_eq!(task.await.unwrap(), publish);
}
