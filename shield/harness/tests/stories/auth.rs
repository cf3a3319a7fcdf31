//! Who gets in: every wrong token is refused before the upgrade, with the
//! public code for the client and the exact one in the metrics.

use arqon_harness::http::Answer;
use arqon_harness::{
    JwksServer, RawPeer, Spine, TenantParams, TestShield, Token, eventually, issuer_key, raw,
};
use arqon_proto::codes::ErrorCode;
use arqon_proto::v1::Opcode;

/// Refused with this exact code; checks all that a client and an operator see.
async fn is_refused(shield: &TestShield, what: &str, headers: &[&str], exact: ErrorCode) -> Answer {
    let counted = shield.metric("auth_failures_total", exact.name()).await;
    let answer = match RawPeer::ask(shield.addr(), "/v1/socket", headers).await {
        Err(answer) => answer,
        Ok(_) => panic!("{what}: accepted"),
    };
    let public = exact.public();
    assert_eq!(
        Some(answer.status),
        public.http_status(),
        "{what}: {answer:?}"
    );
    let body: serde_json::Value = serde_json::from_str(&answer.body)
        .unwrap_or_else(|_| panic!("{what}: the body is JSON: {answer:?}"));
    assert_eq!(body["name"], public.name(), "{what}: {answer:?}");
    assert_eq!(body["code"], public.number(), "{what}: {answer:?}");
    if answer.status == 401 {
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.starts_with("Bearer"), "{what}: {answer:?}");
    }
    if public != exact {
        let text = format!("{answer:?}");
        assert!(
            !text.contains(exact.name()),
            "{what}: told too much: {text}"
        );
    }
    let now = shield.metric("auth_failures_total", exact.name()).await;
    assert_eq!(now, counted + 1.0, "{what}: {} is counted", exact.name());
    answer
}

async fn token_is_refused(
    shield: &TestShield,
    what: &str,
    token: &str,
    exact: ErrorCode,
) -> Answer {
    let authorization = format!("Authorization: Bearer {token}");
    is_refused(shield, what, &[&authorization], exact).await
}

#[tokio::test]
async fn each_wrong_token_is_refused_before_the_upgrade_with_its_code() {
    use ErrorCode as E;
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let other = spine.tenant("other").await;
    let shield = spine.shield().start().await;
    let token = || acme.token();
    let unknown = || Token::new("https://issuer.test/nobody", "nobody", "k", issuer_key(0));

    // The control: but for what is wrong with each, they are right.
    shield.connect(&token().sign()).await.ping().await;
    shield
        .connect(
            &token()
                .role("observer")
                .not_before(-10)
                .claim("jti", "a-token")
                .sign(),
        )
        .await
        .ping()
        .await;
    shield
        .connect(
            &token()
                .claim("aud", serde_json::json!(["else", "arqon"]))
                .sign(),
        )
        .await
        .ping()
        .await;

    is_refused(&shield, "no token", &[], E::TokenMissing).await;
    is_refused(
        &shield,
        "empty",
        &["Authorization: Bearer"],
        E::TokenMissing,
    )
    .await;

    let good = token().sign();
    let (head, rest) = good.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let forged = token().claim("role", "admin").sign();
    let forged_claims = forged.split('.').nth(1).unwrap();
    let foreign = issuer_key(7);
    let mut reversed: Vec<char> = signature.chars().collect();
    reversed.reverse();
    let reversed: String = reversed.into_iter().collect();

    for (what, text, exact) in [
        ("a word", "secret".to_owned(), E::TokenMalformed),
        ("two parts", format!("{head}.{claims}"), E::TokenMalformed),
        ("four parts", format!("{good}.x"), E::TokenMalformed),
        (
            "no base64",
            format!("{head}.%%%.{signature}"),
            E::TokenMalformed,
        ),
        (
            "claims are no JSON",
            format!("{head}.AAAA.{signature}"),
            E::TokenMalformed,
        ),
        ("no iss", token().without("iss").sign(), E::TokenMalformed),
        ("no aud", token().without("aud").sign(), E::TokenMalformed),
        ("no sub", token().without("sub").sign(), E::TokenMalformed),
        ("no exp", token().without("exp").sign(), E::TokenMalformed),
        ("no iat", token().without("iat").sign(), E::TokenMalformed),
        (
            "no tenant",
            token().without("tenant").sign(),
            E::TokenMalformed,
        ),
        (
            "sub is a number",
            token().claim("sub", 5).sign(),
            E::TokenMalformed,
        ),
        (
            "exp is a text",
            token().claim("exp", "tomorrow").sign(),
            E::TokenMalformed,
        ),
        ("an empty sub", token().user("").sign(), E::TokenMalformed),
        (
            "a sub of 129 bytes",
            token().user(&"u".repeat(129)).sign(),
            E::TokenMalformed,
        ),
        (
            "a sub with a line end",
            token().user("al\nice").sign(),
            E::TokenMalformed,
        ),
        (
            "an unknown role",
            token().role("root").sign(),
            E::TokenMalformed,
        ),
        (
            "rooms of another shape",
            token().claim("rooms", "all").sign(),
            E::TokenMalformed,
        ),
        (
            "a bad room pattern",
            token().join(&["a.>.b"]).sign(),
            E::TokenMalformed,
        ),
        ("expired", token().expired().sign(), E::TokenExpired),
        (
            "not yet valid",
            token().not_before(120).sign(),
            E::TokenNotYetValid,
        ),
        (
            "issued in the future",
            token().issued(120).ttl(300).sign(),
            E::TokenNotYetValid,
        ),
        (
            "a life of two days",
            token().ttl(2 * 86_400).sign(),
            E::TokenLifetimeTooLong,
        ),
        (
            "another key",
            token().signed_by(foreign).sign(),
            E::TokenWrongKey,
        ),
        (
            "another tenant's key",
            token().signed_by(other.key).sign(),
            E::TokenWrongKey,
        ),
        (
            "claims exchanged",
            format!("{head}.{forged_claims}.{signature}"),
            E::TokenWrongKey,
        ),
        (
            "no signature",
            format!("{head}.{claims}."),
            E::TokenWrongKey,
        ),
        (
            "signature reversed",
            format!("{head}.{claims}.{reversed}"),
            E::TokenWrongKey,
        ),
        (
            "alg none",
            token().unsigned().sign(),
            E::TokenWrongAlgorithm,
        ),
        (
            "alg NONE",
            token().unsigned().header("alg", "NONE").sign(),
            E::TokenWrongAlgorithm,
        ),
        (
            "HS256 with the public key",
            token().hmac_with_public_key(acme.key).sign(),
            E::TokenWrongAlgorithm,
        ),
        (
            "RS512 in the header",
            token().header("alg", "RS512").sign(),
            E::TokenWrongAlgorithm,
        ),
        (
            "ES256 in the header",
            token().header("alg", "ES256").sign(),
            E::TokenWrongAlgorithm,
        ),
        (
            "another audience",
            token().claim("aud", "else").sign(),
            E::TokenWrongAudience,
        ),
        (
            "another issuer",
            token().claim("iss", "https://evil.test").sign(),
            E::TokenWrongIssuer,
        ),
        (
            "the other tenant's issuer",
            other.token().claim("tenant", "acme").sign(),
            E::TokenWrongIssuer,
        ),
        ("an unknown tenant", unknown().sign(), E::TokenUnknownTenant),
        (
            "a tenant of no grammar",
            token().claim("tenant", ">").sign(),
            E::TokenUnknownTenant,
        ),
        (
            "a reserved tenant",
            token().claim("tenant", "sys").sign(),
            E::TokenUnknownTenant,
        ),
        (
            "an unknown kid",
            token().header("kid", "other").sign(),
            E::TokenUnknownKey,
        ),
        (
            "issued before the tenant was made",
            token().issued(-7_200).sign(),
            E::TokenBeforeTenant,
        ),
    ] {
        token_is_refused(&shield, what, &text, exact).await;
    }

    // One answer for all that is not trusted: the same bytes, whoever asks.
    let a = token_is_refused(&shield, "a", &unknown().sign(), E::TokenUnknownTenant).await;
    let b = token_is_refused(
        &shield,
        "b",
        &token().signed_by(foreign).sign(),
        E::TokenWrongKey,
    )
    .await;
    assert_eq!((a.status, a.body), (b.status, b.body));

    assert_eq!(shield.metric("sessions_opened_total", "").await, 3.0);
}

#[tokio::test]
async fn the_token_travels_in_a_header_or_a_subprotocol_and_never_in_the_url() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let good = acme.token().sign();
    let addr = shield.addr();
    let ask =
        |path: String, header: String| async move { RawPeer::ask(addr, &path, &[&header]).await };

    let browser = format!("Sec-WebSocket-Protocol: arqon.v1, arqon.bearer.{good}");
    let mut peer = ask("/v1/socket".into(), browser).await.unwrap();
    assert_eq!(
        peer.answer.header("sec-websocket-protocol"),
        Some("arqon.v1")
    );
    assert_eq!(peer.envelope().await.op(), Opcode::Welcome);

    let lower = format!("authorization: bearer {good}");
    let mut peer = ask("/v1/socket".into(), lower).await.unwrap();
    assert_eq!(
        peer.answer.header("sec-websocket-protocol"),
        None,
        "none was offered"
    );
    assert_eq!(peer.envelope().await.op(), Opcode::Welcome);
    // The handshake answers the client's key (the example of RFC 6455).
    assert_eq!(
        peer.answer.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );

    for name in ["token", "access_token", "jwt", "authorization"] {
        let path = format!("/v1/socket?{name}={good}");
        let answer = ask(path, "X-Nothing: 1".into()).await.err().unwrap();
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.body.contains("TOKEN_MISSING"), "{answer:?}");
    }
    let basic = ask("/v1/socket".into(), format!("Authorization: Basic {good}")).await;
    assert!(basic.err().unwrap().body.contains("TOKEN_MISSING"));
    assert!(raw::UPGRADE.iter().all(|line| !line.contains(&good)));
}

#[tokio::test]
async fn equal_issuer_and_kid_with_different_keys_stay_apart() {
    let spine = Spine::start().await;
    let named = |id: &'static str, key| TenantParams {
        issuer: "https://id.example".into(),
        kid: "2026".into(),
        key: issuer_key(key),
        ..spine.tenant_params(id)
    };
    let acme = spine.create_tenant(named("acme", 0)).await;
    let other = spine.create_tenant(named("other", 1)).await;
    let shield = spine.shield().start().await;
    shield.connect(&acme.token().sign()).await.ping().await;
    shield.connect(&other.token().sign()).await.ping().await;

    // Signed by the one, claimed for the other: same issuer, same kid.
    for (from, to) in [(&acme, "other"), (&other, "acme")] {
        let stolen = from.token().claim("tenant", to).sign();
        token_is_refused(&shield, to, &stolen, ErrorCode::TokenWrongKey).await;
    }
}

#[tokio::test]
async fn a_suspended_tenant_is_told_so_only_after_a_valid_signature() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let other = spine.tenant("other").await;
    let shield = spine.shield().start().await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    let mut bob = shield.connect(&other.token().sign()).await;
    alice.join("lobby").await;
    bob.join("lobby").await;

    spine.suspend("acme").await;
    let (code, _) = alice.closed().await;
    assert_eq!(code, Some(4501), "live sessions end with TENANT_GONE");
    eventually!(
        RawPeer::open(shield.addr(), &acme.token().sign())
            .await
            .is_err()
    );
    let suspended = ErrorCode::TenantSuspended;
    let answer = token_is_refused(&shield, "good", &acme.token().sign(), suspended).await;
    assert_eq!(answer.status, 403);
    let foreign = acme.token().signed_by(issuer_key(7)).sign();
    token_is_refused(&shield, "no oracle", &foreign, ErrorCode::TokenWrongKey).await;
    let expired = acme.token().issued(-30).ttl(-10).sign();
    let answer = RawPeer::open(shield.addr(), &expired).await.err().unwrap();
    assert_eq!(answer.status, 401, "{answer:?}");

    // The other tenant notices nothing; the suspended one comes back.
    bob.publish("lobby", "still here").await;
    bob.hears("lobby", "still here").await;
    spine.resume("acme").await;
    eventually!(
        RawPeer::open(shield.addr(), &acme.token().sign())
            .await
            .is_ok()
    );
    let mut alice = shield.connect(&acme.token().sign()).await;
    alice.join("lobby").await;
    alice.publish("lobby", "back").await;
    alice.hears("lobby", "back").await;
}

#[tokio::test]
async fn a_deleted_tenant_ends_and_a_new_one_of_its_name_refuses_old_tokens() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let old = acme.token().sign();
    let mut alice = shield.connect(&old).await;
    alice.join("lobby").await;

    spine.delete("acme").await;
    let (code, _) = alice.closed().await;
    assert_eq!(code, Some(4501));
    eventually!(RawPeer::open(shield.addr(), &old).await.is_err());
    token_is_refused(&shield, "deleted", &old, ErrorCode::TokenUnknownTenant).await;

    // Seconds are the grain of `iat`: the new tenant is younger than the token by one at least.
    let issued = arqon_harness::unix_now();
    eventually!(arqon_harness::unix_now() > issued + 1);
    let again = spine.tenant("acme").await;
    eventually!(
        RawPeer::open(shield.addr(), &again.token().sign())
            .await
            .is_ok()
    );
    token_is_refused(&shield, "old", &old, ErrorCode::TokenBeforeTenant).await;
    let mut alice = shield.connect(&again.token().sign()).await;
    alice.join("lobby").await;
    alice.publish("lobby", "a new life").await;
    alice.hears("lobby", "a new life").await;
}

#[tokio::test]
async fn keys_of_a_jwks_url_rotate_while_shield_runs() {
    let spine = Spine::start().await;
    let (first, second) = (issuer_key(2), issuer_key(3));
    let jwks = JwksServer::start(&[("one", first)]).await.unwrap();
    let acme = spine
        .create_tenant(TenantParams {
            kid: "one".into(),
            key: first,
            jwks_url: Some(jwks.url()),
            ..spine.tenant_params("acme")
        })
        .await;
    let shield = spine
        .shield()
        .with("tokens.jwks_refresh_secs = 10\ntokens.jwks_min_interval_secs = 1")
        .start()
        .await;

    // Cached: many connections, one fetch.
    for _ in 0..20 {
        shield.connect(&acme.token().sign()).await.ping().await;
    }
    assert_eq!(
        jwks.requests(),
        1,
        "the document is not fetched once per request"
    );

    // A storm of tokens with a kid that nobody has does not become a storm of fetches.
    let unknown = acme.token().header("kid", "nobody").sign();
    for _ in 0..50 {
        token_is_refused(&shield, "unknown kid", &unknown, ErrorCode::TokenUnknownKey).await;
    }
    let fetched = jwks.requests();
    assert!(fetched < 40, "{fetched} fetches for 50 unknown kids");

    // The issuer adds a key: its first token is the reason to fetch.
    jwks.publish(&[("one", first), ("two", second)]);
    let new = || acme.token().header("kid", "two").signed_by(second).sign();
    eventually!(RawPeer::open(shield.addr(), &new()).await.is_ok());
    shield.connect(&acme.token().sign()).await.ping().await;

    // The issuer is down for a while: known keys go on working.
    jwks.fail();
    let fetched = jwks.requests();
    eventually!({
        shield.connect(&new()).await.ping().await;
        jwks.requests() > fetched
    });
    shield.connect(&new()).await.ping().await;

    // The issuer withdraws the first key.
    jwks.publish(&[("two", second)]);
    eventually!(
        RawPeer::open(shield.addr(), &acme.token().sign())
            .await
            .is_err()
    );
    shield.connect(&new()).await.ping().await;
}

#[tokio::test]
async fn a_tenant_whose_keys_cannot_be_fetched_is_not_served_and_holds_up_nobody() {
    let spine = Spine::start().await;
    let jwks = JwksServer::start(&[]).await.unwrap();
    jwks.fail();
    let broken = spine
        .create_tenant(TenantParams {
            jwks_url: Some(jwks.url()),
            ..spine.tenant_params("broken")
        })
        .await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    token_is_refused(
        &shield,
        "broken",
        &broken.token().sign(),
        ErrorCode::TokenKeysUnavailable,
    )
    .await;
    shield.connect(&acme.token().sign()).await.ping().await;
}

#[tokio::test]
async fn a_shield_serves_the_tenants_of_its_pool_only() {
    let spine = Spine::start().await;
    spine.create_pool("north").await;
    let acme = spine.tenant("acme").await;
    let polar = spine
        .create_tenant(TenantParams {
            pool: "north".into(),
            ..spine.tenant_params("polar")
        })
        .await;
    let shield = spine.shield().start().await;
    let north = spine.shield().id("shield-n").pool("north").start().await;
    shield.connect(&acme.token().sign()).await.ping().await;
    north.connect(&polar.token().sign()).await.ping().await;
    let unknown = ErrorCode::TokenUnknownTenant;
    token_is_refused(&shield, "polar here", &polar.token().sign(), unknown).await;
    token_is_refused(&north, "acme there", &acme.token().sign(), unknown).await;
}
