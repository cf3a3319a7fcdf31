//! An issuer with real keys, for the tests of this crate.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, LazyLock};

use arqon_proto::{
    names::{NodeId, TenantId, UserId},
    v1::{Issuer, PemKey, PemKeys, TenantRecord, TenantState, issuer},
};
use arqon_spine::manifest::Tokens;
use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use std::time::Duration;

use super::{Identity, Role, RoomGrants};
use crate::control::Tenant;

/// The moment of the tests, seconds since the Unix epoch.
pub(crate) const NOW: u64 = 1_800_000_000;

/// An RSA key pair that signs tokens.
pub(crate) struct Signer(KeyPair);

/// Made once: a key costs a second on a small machine.
pub(crate) static FIRST: LazyLock<Signer> = LazyLock::new(Signer::new);
pub(crate) static SECOND: LazyLock<Signer> = LazyLock::new(Signer::new);

// === impl Signer ===

impl Signer {
    fn new() -> Self {
        Self(KeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    /// The public key as PEM.
    pub(crate) fn pem(&self) -> String {
        let der: PublicKeyX509Der<'_> = self.0.public_key().as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    /// The public key as a JWK.
    pub(crate) fn jwk(&self, kid: &str) -> Value {
        let key = self.0.public_key();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid,
            "n": encode(key.modulus().big_endian_without_leading_zero()),
            "e": encode(key.exponent().big_endian_without_leading_zero()),
        })
    }

    /// A signed token with this header and these claims.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message.as_bytes(),
                &mut signature,
            )
            .unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token of key `main` with these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.sign(
            &json!({"alg": "RS256", "typ": "JWT", "kid": "main"}),
            claims,
        )
    }
}

/// Header and claims of a token, without the signature.
pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

/// Claims that are good for tenant `acme` at `now`.
pub(crate) fn claims_at(now: u64) -> Value {
    json!({
        "iss": "https://issuer.example", "aud": "arqon", "sub": "alice",
        "tenant": "acme", "iat": now - 10, "exp": now + 600,
    })
}

/// Claims that are good for tenant `acme` at `NOW`.
pub(crate) fn claims() -> Value {
    claims_at(NOW)
}

/// `claims`, with one replaced or, by null, removed.
pub(crate) fn with(claim: &str, value: Value) -> Value {
    let mut claims = claims();
    let members = claims.as_object_mut().unwrap();
    if value.is_null() {
        members.remove(claim);
    } else {
        members.insert(claim.to_owned(), value);
    }
    claims
}

/// An issuer whose key stands in the record.
pub(crate) fn pem_issuer(signer: &Signer) -> Issuer {
    let keys = vec![PemKey {
        kid: "main".to_owned(),
        pem: signer.pem(),
    }];
    Issuer {
        iss: "https://issuer.example".to_owned(),
        keys: Some(issuer::Keys::Pem(PemKeys { keys })),
        ..Issuer::default()
    }
}

/// A tenant that trusts these issuers, made an hour before `NOW`.
pub(crate) fn tenant(id: &str, issuers: Vec<Issuer>) -> Arc<Tenant> {
    let record = TenantRecord {
        id: id.to_owned(),
        state: TenantState::Active.into(),
        created_at_ms: (NOW - 3600) * 1000,
        pool: "default".to_owned(),
        issuers,
        ..TenantRecord::default()
    };
    Arc::new(Tenant {
        id: TenantId::parse(id).unwrap(),
        record,
    })
}

/// A user of a tenant, whose token holds for ten minutes from `NOW`.
pub(crate) fn identity(tenant: &Arc<Tenant>, user: &str) -> Identity {
    Identity {
        tenant: Arc::clone(tenant),
        user: UserId::parse(user).unwrap(),
        role: Role::User,
        rooms: RoomGrants::all(),
        jti: None,
        issued_at: NOW,
        expires_at: NOW + 600,
    }
}

/// The defaults of `[tokens]`, without leeway.
pub(crate) fn tokens() -> Tokens {
    Tokens {
        audience: "arqon".to_owned(),
        max_ttl: Duration::from_secs(86_400),
        leeway: Duration::ZERO,
        grace: Duration::from_secs(5),
        allow_development: false,
        jwks_refresh: Duration::from_secs(300),
        jwks_min_interval: Duration::from_secs(10),
    }
}

/// The pool of all tenants here.
pub(crate) fn pool() -> NodeId {
    NodeId::parse("default").unwrap()
}
