//! What a token gives, and until when.

use arqon_harness::{Client, Spine, unix_now};
use arqon_proto::codes::{CloseCode, ErrorCode};
use arqon_proto::envelope;
use arqon_proto::v1::{Envelope, Join, Opcode, envelope::Body};

#[tokio::test]
async fn a_session_begins_with_welcome() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine
        .shield()
        .with(
            "session.max_payload_bytes = 5000\nsession.max_frame_bytes = 9000\n\
             session.max_rooms = 7\nsession.max_headers = 3\nsession.max_header_bytes = 99\n\
             session.heartbeat_secs = 11",
        )
        .start()
        .await;
    let expires = unix_now() + 300;
    let token = acme.token().user("zoë ✓").claim("exp", expires).sign();
    let alice = shield.connect(&token).await;
    let again = shield.connect(&token).await;

    let welcome = &alice.welcome;
    assert_eq!(welcome.user, "zoë ✓");
    assert_eq!(welcome.tenant, "acme");
    assert_eq!(welcome.protocol_version, 1);
    assert_eq!(welcome.heartbeat_secs, 11);
    assert_eq!(welcome.token_expires_at, expires as u64);
    assert_eq!(welcome.shield_id, "shield-1");
    assert!(welcome.server_time_ms.abs_diff(unix_now() as u64 * 1_000) < 60_000);
    assert_ne!(welcome.session_id, again.welcome.session_id);
    arqon_proto::names::SessionId::parse(&welcome.session_id).unwrap();
    let limits = welcome.limits.as_ref().unwrap();
    assert_eq!(
        (
            limits.max_payload_bytes,
            limits.max_frame_bytes,
            limits.max_rooms,
            limits.max_headers,
            limits.max_header_bytes,
        ),
        (5_000, 9_000, 7, 3, 99)
    );
}

#[tokio::test]
async fn roles_and_room_patterns_say_who_may_do_what() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let connect = |token: arqon_harness::Token| {
        let shield = &shield;
        async move { shield.connect(&token.sign()).await }
    };
    let mut witness = connect(acme.token().user("witness")).await;
    for room in ["lobby", "news.de", "news.de.sport", "private"] {
        witness.join(room).await;
    }
    let forbidden = ErrorCode::PublishForbidden;

    // An observer joins and hears, and cannot speak.
    let mut observer = connect(acme.token().user("observer").role("observer")).await;
    observer.join("lobby").await;
    observer.publish_with("lobby", "psst", &[]).await;
    observer.expect_error(forbidden).await;

    // A user speaks where it is, a service anywhere, an admin as a user.
    let mut user = connect(acme.token().user("user").role("user")).await;
    user.publish_with("lobby", "from outside", &[]).await;
    user.expect_error(ErrorCode::NotJoined).await;
    let mut service = connect(acme.token().user("service").role("service")).await;
    service.publish_with("lobby", "an announcement", &[]).await;
    service.expect(Opcode::Ack).await;
    witness.hears("lobby", "an announcement").await;
    observer.hears("lobby", "an announcement").await;
    let mut admin = connect(acme.token().user("admin").role("admin")).await;
    admin.join("private").await;
    admin.publish("private", "as admin").await;
    admin.hears("private", "as admin").await;
    witness.hears("private", "as admin").await;

    // Patterns: `*` is one token, a trailing `>` the rest.
    let mut reader = connect(
        acme.token()
            .user("reader")
            .join(&["news.*"])
            .publish(&["news.de"]),
    )
    .await;
    reader.join("news.de").await;
    for room in ["lobby", "news", "news.de.sport"] {
        let refusal = reader.join_with(room, Join::default()).await.unwrap_err();
        assert_eq!(refusal.name, ErrorCode::JoinForbidden.name(), "{room}");
    }
    reader.publish("news.de", "allowed").await;
    reader.hears("news.de", "allowed").await;
    witness.hears("news.de", "allowed").await;
    let mut wide = connect(acme.token().user("wide").join(&["news.>"])).await;
    wide.join("news.de.sport").await;
    wide.join("news.de").await;
    // `rooms` without `publish` publishes nowhere.
    wide.publish_with("news.de", "no", &[]).await;
    wide.expect_error(forbidden).await;
    // A service keeps to its patterns too.
    let mut sport = acme.token().user("sport").role("service").join(&[]);
    sport = sport.publish(&["news.*.sport"]);
    let mut sport = connect(sport).await;
    sport.publish_with("news.de.sport", "goal", &[]).await;
    sport.expect(Opcode::Ack).await;
    wide.hears("news.de.sport", "goal").await;
    witness.hears("news.de.sport", "goal").await;
    sport.publish_with("lobby", "goal", &[]).await;
    sport.expect_error(forbidden).await;
    let refusal = sport
        .join_with("news.de.sport", Join::default())
        .await
        .unwrap_err();
    assert_eq!(refusal.name, ErrorCode::JoinForbidden.name());

    // Nothing that was refused was heard.
    witness.ping().await;
    observer.ping().await;
}

async fn refresh(client: &mut Client, token: &str) -> Envelope {
    let reference = client.reference();
    client.send(envelope::refresh(reference, token)).await;
    let answer = client.next().await;
    assert_eq!(answer.r#ref, reference, "{answer:?}");
    answer
}

#[tokio::test]
async fn refresh_swaps_the_token_of_the_same_user_only() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let other = spine.tenant("other").await;
    let shield = spine.shield().start().await;
    let mut alice = shield.connect(&acme.token().ttl(120).sign()).await;
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    for room in ["lobby", "news.de", "private"] {
        alice.join(room).await;
    }
    bob.join("lobby").await;

    let expires = unix_now() + 900;
    let answer = refresh(&mut alice, &acme.token().claim("exp", expires).sign()).await;
    assert!(
        matches!(&answer.body, Some(Body::Refreshed(body)) if body.expires_at == expires as u64),
        "{answer:?}"
    );

    for (what, token, code) in [
        (
            "another user",
            acme.token().user("bob").sign(),
            ErrorCode::TokenMismatch,
        ),
        (
            "another tenant",
            other.token().sign(),
            ErrorCode::TokenMismatch,
        ),
        (
            "expired",
            acme.token().expired().sign(),
            ErrorCode::TokenExpired,
        ),
        ("no token", "no token".to_owned(), ErrorCode::TokenMalformed),
        (
            "another key",
            acme.token().signed_by(arqon_harness::issuer_key(7)).sign(),
            ErrorCode::TokenUntrusted,
        ),
    ] {
        let answer = refresh(&mut alice, &token).await;
        assert_eq!(answer.op(), Opcode::Error, "{what}: {answer:?}");
        assert_eq!(arqon_harness::error_of(&answer).name, code.name(), "{what}");
    }
    // The session goes on under the token it had.
    alice.publish("lobby", "still me").await;
    alice.hears("lobby", "still me").await;
    bob.hears("lobby", "still me").await;

    // Narrowed rooms: LEFT with a code for each that is no longer covered.
    let narrow = acme
        .token()
        .join(&["lobby", "news.>"])
        .publish(&["lobby"])
        .sign();
    let reference = alice.reference();
    alice.send(envelope::refresh(reference, &narrow)).await;
    let frames = [alice.next().await, alice.next().await];
    let left = frames
        .iter()
        .find(|frame| frame.op() == Opcode::Left)
        .unwrap();
    assert_eq!(left.room, "private");
    assert!(
        matches!(&left.body, Some(Body::Left(left)) if left.name == ErrorCode::JoinForbidden.name()),
        "{left:?}"
    );
    assert!(
        frames.iter().any(|frame| frame.op() == Opcode::Refreshed),
        "{frames:?}"
    );
    alice.publish_with("news.de", "no more", &[]).await;
    alice.expect_error(ErrorCode::PublishForbidden).await;
    alice.publish_with("private", "no more", &[]).await;
    let refused = alice.expect(Opcode::Error).await;
    let names = [
        ErrorCode::PublishForbidden.name(),
        ErrorCode::NotJoined.name(),
    ];
    assert!(
        names.contains(&arqon_harness::error_of(&refused).name.as_str()),
        "{refused:?}"
    );
    alice.publish("lobby", "here I may").await;
    alice.hears("lobby", "here I may").await;
    bob.hears("lobby", "here I may").await;
    bob.ping().await;
}

#[tokio::test]
async fn an_expiring_token_is_told_and_its_session_ends_unless_refreshed() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine
        .shield()
        .with("tokens.leeway_secs = 0\ntokens.grace_secs = 1")
        .start()
        .await;
    let short = || acme.token().ttl(6);
    let mut alice = shield.connect(&short().sign()).await;
    let mut bob = shield.connect(&short().user("bob").sign()).await;
    alice.join("lobby").await;
    bob.join("lobby").await;

    for client in [&mut alice, &mut bob] {
        let told = client.expect(Opcode::TokenExpiring).await;
        assert!(
            matches!(&told.body, Some(Body::TokenExpiring(body))
                if body.expires_at == client.welcome.token_expires_at),
            "{told:?}"
        );
    }
    let answer = refresh(&mut alice, &acme.token().sign()).await;
    assert_eq!(answer.op(), Opcode::Refreshed);

    let (code, rest) = bob.closed().await;
    assert_eq!(
        code,
        Some(CloseCode::TokenExpiredClose.number()),
        "{rest:?}"
    );
    assert!(
        unix_now() as u64 >= bob.welcome.token_expires_at,
        "not before its time"
    );
    alice.publish("lobby", "I stay").await;
    alice.hears("lobby", "I stay").await;
    alice.ping().await;
}

#[tokio::test]
async fn a_tenants_own_limits_are_told_and_kept() {
    let spine = Spine::start().await;
    let acme = spine
        .create_tenant(arqon_harness::TenantParams {
            limits: arqon_proto::v1::TenantLimits {
                max_payload_bytes: 100,
                max_rooms_per_session: 2,
                max_rooms: 3,
                ..Default::default()
            },
            ..spine.tenant_params("acme")
        })
        .await;
    let shield = spine.shield().start().await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    let limits = alice.welcome.limits.unwrap();
    assert_eq!((limits.max_payload_bytes, limits.max_rooms), (100, 2));
    alice.join("one").await;
    alice.join("two").await;
    let refusal = alice.join_with("three", Join::default()).await.unwrap_err();
    assert_eq!(refusal.name, ErrorCode::RoomLimit.name());
    alice.publish_with("one", "x".repeat(101), &[]).await;
    alice.expect_error(ErrorCode::PayloadTooLarge).await;
    alice.publish("one", "x".repeat(100)).await;
    alice.hears("one", &"x".repeat(100)).await;
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    bob.join("three").await;
    let refusal = bob.join_with("four", Join::default()).await.unwrap_err();
    assert_eq!(refusal.name, ErrorCode::RoomLimit.name());
}
