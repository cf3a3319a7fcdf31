//! A connection ends at the first break and never comes back by itself.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arqon_spine::connect::{ConnectError, SpineEvent, TenantOptions, connect_tenant};
use arqon_spine::credentials::{mint_tenant_user, read_creds, write_creds};
use arqon_spine::subjects;
use common::{PATIENCE, Spine, create, ends, next, node, tenant};
use futures_util::StreamExt;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_ends_it_for_good() {
    let (mut spine, admin) = Spine::start().await;
    let record = create(&admin, "acme").await;
    let connection = spine.fleet(&record).await;
    let mut room = connection.client.subscribe("acme.lobby").await.unwrap();
    connection
        .client
        .publish("acme.lobby", "1".into())
        .await
        .unwrap();
    assert_eq!(next(&mut room).await.payload, "1");
    assert!(connection.is_open());

    spine.server.kill().unwrap();
    let ended = tokio::time::timeout(PATIENCE, room.next()).await.unwrap();
    assert!(ended.is_none());
    tokio::time::timeout(PATIENCE, connection.closed.closed())
        .await
        .unwrap();
    assert!(!connection.is_open());
    ends(connection.events).await;
    // Nothing may be queued for a connection that is over.
    assert!(
        connection
            .client
            .publish("acme.lobby", "2".into())
            .await
            .is_err()
    );

    // Not even when the server is there again.
    spine.server.restart().unwrap();
    let other = spine.fleet(&record).await;
    let mut room = other.client.subscribe("acme.lobby").await.unwrap();
    common::barrier(&other).await;
    assert!(
        connection
            .client
            .publish("acme.lobby", "3".into())
            .await
            .is_err()
    );
    other
        .client
        .publish("acme.lobby", "4".into())
        .await
        .unwrap();
    assert_eq!(next(&mut room).await.payload, "4");
    // Connected once each, and never again.
    assert_eq!(other.client.statistics().connects.load(Relaxed), 1);
    assert_eq!(connection.client.statistics().connects.load(Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_left_by_abort() {
    let (spine, admin) = Spine::start().await;
    let record = create(&admin, "acme").await;
    let connection = spine.fleet(&record).await;
    let mut room = connection.client.subscribe("acme.lobby").await.unwrap();
    common::barrier(&connection).await;
    spine.server.pause().unwrap();
    // More than the sockets take: the client waits to write.
    let flood = bytes::Bytes::from(vec![0; 60 * 1024]);
    let client = connection.client.clone();
    let writer =
        tokio::spawn(
            async move { while client.publish("acme.lobby", flood.clone()).await.is_ok() {} },
        );
    // Until the client takes no more.
    while connection.client.statistics().out_bytes.load(Relaxed) < 1 << 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut before = 0;
    while connection.client.statistics().out_bytes.load(Relaxed) != before {
        before = connection.client.statistics().out_bytes.load(Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    connection.abort().await;
    assert!(connection.closed.is_closed());
    let ended = tokio::time::timeout(PATIENCE, async { while room.next().await.is_some() {} });
    ended.await.unwrap();
    ends(connection.events).await;
    tokio::time::timeout(PATIENCE, writer)
        .await
        .unwrap()
        .unwrap();
    spine.server.resume().unwrap();
    common::barrier(&spine.fleet(&record).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_delivers_what_came_and_then_ends() {
    let (spine, admin) = Spine::start().await;
    let record = create(&admin, "acme").await;
    let one = spine.fleet(&record).await;
    let other = spine.fleet(&record).await;
    let mut room = one.client.subscribe("acme.lobby").await.unwrap();
    common::barrier(&one).await;
    for n in 0..1000 {
        let payload = format!("{n}");
        one.client
            .publish("acme.lobby", payload.into())
            .await
            .unwrap();
    }
    common::barrier(&one).await;
    one.close().await;
    let mut seen = 0;
    while let Some(message) = tokio::time::timeout(PATIENCE, room.next()).await.unwrap() {
        assert_eq!(message.payload, seen.to_string());
        seen += 1;
    }
    assert_eq!(seen, 1000);
    ends(one.events).await;
    common::barrier(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_user_is_cut_and_does_not_come_back() {
    let (spine, admin) = Spine::start().await;
    let record = create(&admin, "acme").await;
    let key = spine.state.fleet_key(&node("main")).unwrap();
    let user = mint_tenant_user(
        &key,
        &record.account,
        &tenant("acme"),
        "shield-1",
        Duration::from_secs(2),
    );
    let connection = connect_tenant(&spine.servers(), user, "test", TenantOptions::default())
        .await
        .unwrap();
    assert!(connection.expires_at.is_some());
    let words = ends(connection.events).await;
    assert!(
        words
            .iter()
            .any(|w| w.contains("User Authentication Expired")),
        "{words:?}"
    );
    assert_eq!(connection.client.statistics().connects.load(Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_server_is_tried_when_one_is_down() {
    let (spine, admin) = Spine::start().await;
    let record = create(&admin, "acme").await;
    let gone = "nats://127.0.0.1:1".to_owned();
    let servers = vec![gone.clone(), spine.server.url()];
    let options = TenantOptions {
        prefer: Some(gone.clone()),
        ..TenantOptions::default()
    };
    let user = spine.fleet_user(&record);
    let connection = connect_tenant(&servers, user, "test", options)
        .await
        .unwrap();
    assert_eq!(connection.server, spine.server.url());

    let user = spine.fleet_user(&record);
    let outcome = connect_tenant(&[gone], user, "test", TenantOptions::default()).await;
    assert!(
        matches!(outcome, Err(ConnectError::Unreachable { .. })),
        "{outcome:?}"
    );
    let user = spine.fleet_user(&record);
    let outcome = connect_tenant(&[], user, "test", TenantOptions::default()).await;
    assert!(matches!(outcome, Err(ConnectError::NoServer)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_told_with_the_number_lost() {
    let (spine, admin) = Spine::start().await;
    let record = create(&admin, "acme").await;
    let user = spine.fleet_user(&record);
    let options = TenantOptions {
        subscription_capacity: 8,
        ..TenantOptions::default()
    };
    let mut connection = connect_tenant(&spine.servers(), user, "test", options)
        .await
        .unwrap();
    let mut room = connection.client.subscribe("acme.lobby").await.unwrap();
    for _ in 0..1000 {
        connection
            .client
            .publish("acme.lobby", "x".into())
            .await
            .unwrap();
    }
    common::barrier(&connection).await;
    let mut lost = 0;
    tokio::time::timeout(PATIENCE, async {
        while lost == 0 {
            // Subscriptions are numbered from 1: the room was the first.
            if let Some(SpineEvent::SlowConsumer { sid: 1, dropped }) =
                connection.events.recv().await
            {
                lost += dropped;
            }
        }
    })
    .await
    .unwrap();
    connection.close().await;
    let mut received = 0;
    while room.next().await.is_some() {
        received += 1;
    }
    assert_eq!(received, 8);
    while let Some(event) = connection.events.recv().await {
        if let SpineEvent::SlowConsumer { dropped, .. } = event {
            lost += dropped;
        }
    }
    // The client's own event queue holds 128 and overflows in silence, so a
    // burst may be told short; that it happened is always told.
    assert!((1..=992).contains(&lost), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lame_duck_is_told() {
    let (spine, admin) = Spine::start().await;
    let record = create(&admin, "acme").await;
    let mut connection = spine.fleet(&record).await;
    spine.server.lame_duck().unwrap();
    tokio::time::timeout(PATIENCE, async {
        while connection.events.recv().await != Some(SpineEvent::LameDuck) {}
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn creds_files_are_private_and_read_back() {
    use std::os::unix::fs::PermissionsExt;

    let (spine, admin) = Spine::start().await;
    let record = create(&admin, "acme").await;
    let path = spine.folder.path().join("acme.creds");
    let user = admin
        .creds(&tenant("acme"), false, Duration::from_secs(60))
        .await
        .unwrap();
    write_creds(&path, &user).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let read = read_creds(&path).unwrap();
    assert_eq!(read.public_key, user.public_key);
    assert_eq!(read.expires_at, user.expires_at);
    let connection = arqon_spine::connect::connect_creds(&spine.servers(), &path, "test")
        .await
        .unwrap();
    let mut room = connection.client.subscribe("acme.>").await.unwrap();
    let fleet = spine.fleet(&record).await;
    let mut inbox = connection
        .client
        .subscribe(format!("{}.x", subjects::inbox(&connection.user)))
        .await
        .unwrap();
    // Listeners cannot send themselves a barrier: ask until heard.
    tokio::time::timeout(PATIENCE, async {
        loop {
            fleet.client.publish("acme.lobby", "x".into()).await.unwrap();
            tokio::select! {
                message = room.next() => break assert_eq!(message.unwrap().subject.as_str(), "acme.lobby"),
                _ = inbox.next() => panic!("nobody writes there"),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    })
    .await
    .unwrap();
    std::fs::write(&path, "no creds").unwrap();
    assert!(read_creds(&path).is_err());
}

/// The oldest servers cannot be had everywhere, so a peer says it is one.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_is_named_with_what_is_needed() {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let info = r#"{"server_id":"N","server_name":"old","version":"2.9.10","host":"127.0.0.1","port":1,"headers":true,"max_payload":1048576,"nonce":"abc"}"#;
        let greeting = format!("INFO {info}\r\n");
        stream.write_all(greeting.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line == "PING" {
                lines.get_mut().write_all(b"PONG\r\n").await.unwrap();
            }
        }
    });
    let spine = tempfile::tempdir().unwrap();
    let state = arqon_spine::state::StateFolder::create(spine.path().join("s")).unwrap();
    let user = state
        .mint(arqon_spine::state::Role::Admin, &node("arq"), None)
        .unwrap();
    let outcome = connect_tenant(&[url], user, "test", TenantOptions::default()).await;
    let error = outcome.unwrap_err().to_string();
    for part in ["2.9.10", arqon_spine::server::MINIMUM_VERSION, "upgrade"] {
        assert!(error.contains(part), "{error}");
    }
}
