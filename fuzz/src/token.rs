//! What somebody who has no key sends as a token.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use arqon_proto::{
    codes::ErrorCode,
    names::TenantId,
    v1::{Issuer, PemKey, PemKeys, TenantRecord, TenantState, issuer},
};
use arqon_shield::{
    auth::Verifier,
    control::{Revocations, Tenants},
};
use arqon_spine::manifest::{Manifest, SecretMode};
use arqon_telemetry::Metrics;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt as _;
use serde_json::Value;

const MANIFEST: &str = r#"
[node]
id = "shield-1"
[spine]
control_creds_file = "c"
fleet_key_file = "f"
"#;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let manifest = Manifest::parse(MANIFEST, Path::new("/"), SecretMode::Unchecked)
        .expect("the least that a manifest is");
    let record = TenantRecord {
        id: "acme".to_owned(),
        state: TenantState::Active.into(),
        created_at_ms: 1,
        pool: "default".to_owned(),
        issuers: vec![Issuer {
            iss: "https://issuer.example".to_owned(),
            keys: Some(issuer::Keys::Pem(PemKeys {
                keys: vec![PemKey {
                    kid: "main".to_owned(),
                    // Nobody has the private half.
                    pem: include_str!("issuer.pub.pem").to_owned(),
                }],
            })),
            ..Issuer::default()
        }],
        ..TenantRecord::default()
    };
    let tenants = Tenants::new();
    let acme = TenantId::parse("acme").expect("a tenant");
    tenants.replace(HashMap::from([(acme, record)]));
    let revocations = Arc::new(Revocations::new(Duration::ZERO));
    Verifier::new(
        Arc::new(tenants),
        revocations,
        &manifest,
        Metrics::default(),
    )
});

/// As it is, and as header and claims in JSON, a line each, with the third line
/// as signature. None is accepted, and which of the checks before the signature
/// it passed is as an independent reading says.
///
/// # Panics
/// Where that does not hold.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    refused(text);
    let mut lines = text.splitn(3, '\n');
    let mut next = || lines.next().unwrap_or_default();
    let (header, claims) = (next(), next());
    let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
    refused(&format!("{}.{}.{}", encode(header), encode(claims), next()));
}

fn refused(token: &str) {
    let verified = VERIFIER.verify(token).now_or_never();
    let verified = verified.expect("keys of the record are at hand");
    let failure = verified.expect_err("nobody could have signed it");
    assert!(
        failure.detail.len() < 1024 && (token.len() < 32 || !failure.detail.contains(token)),
        "no token in a log: {}",
        failure.detail
    );
    let parsed = match failure.code {
        ErrorCode::TokenMalformed | ErrorCode::TokenWrongAlgorithm => false,
        ErrorCode::TokenUnknownTenant
        | ErrorCode::TokenWrongIssuer
        | ErrorCode::TokenUnknownKey
        | ErrorCode::TokenWrongKey => true,
        other => panic!("{other:?} is of tokens whose signature holds"),
    };
    let header = part(token, 0);
    let alg = header.as_ref().and_then(|header| header.get("alg"));
    if parsed {
        assert_eq!(alg.and_then(Value::as_str), Some("RS256"));
        assert!(
            header
                .as_ref()
                .is_some_and(|header| header.get("crit").is_none_or(Value::is_null))
        );
        assert_eq!(token.split('.').count(), 3);
        let claims = part(token, 1).expect("claims are JSON");
        for claim in ["iss", "aud", "sub", "tenant", "iat", "exp"] {
            assert!(claims.get(claim).is_some(), "{claim} is missing");
        }
    }
    if failure.code == ErrorCode::TokenWrongAlgorithm {
        assert_ne!(alg.and_then(Value::as_str), Some("RS256"));
    }
}

fn part(token: &str, index: usize) -> Option<Value> {
    let part = token.split('.').nth(index)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
