//! User tokens, right ones and every kind of wrong one.
//!
//! Made by hand from header, claims and signature, so that what Shield's own
//! JWT library would refuse to write can be written.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value, json};

use crate::keys::IssuerKey;

/// A token being written. Starts valid: every method makes it something else.
#[derive(Clone, Debug)]
pub struct Token {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signature: Signature,
}

#[derive(Clone, Debug)]
enum Signature {
    Rs256(&'static IssuerKey),
    /// HMAC with the public key's PEM as the secret: the classic confusion.
    Hs256(Vec<u8>),
    Empty,
}

/// Seconds since the Unix epoch.
pub fn unix_now() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock stands after 1970");
    i64::try_from(now.as_secs()).expect("seconds fit")
}

// === impl Token ===

impl Token {
    /// A valid token of user `alice`, for ten minutes.
    pub fn new(issuer: &str, tenant: &str, kid: &str, key: &'static IssuerKey) -> Self {
        let mut token = Self {
            header: Map::new(),
            claims: Map::new(),
            signature: Signature::Rs256(key),
        };
        token.header.insert("typ".into(), "JWT".into());
        token.header.insert("alg".into(), "RS256".into());
        token.header.insert("kid".into(), kid.into());
        let now = unix_now();
        token
            .claim("iss", issuer)
            .claim("aud", "arqon")
            .claim("sub", "alice")
            .claim("tenant", tenant)
            .claim("iat", now)
            .claim("exp", now + 600)
    }

    /// Sets the `sub`.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.claim("sub", user)
    }

    /// Sets the `role`.
    #[must_use]
    pub fn role(self, role: &str) -> Self {
        self.claim("role", role)
    }

    /// Sets `rooms.join`.
    #[must_use]
    pub fn join(self, patterns: &[&str]) -> Self {
        self.room_patterns("join", patterns)
    }

    /// Sets `rooms.publish`.
    #[must_use]
    pub fn publish(self, patterns: &[&str]) -> Self {
        self.room_patterns("publish", patterns)
    }

    fn room_patterns(mut self, key: &str, patterns: &[&str]) -> Self {
        let rooms = self.claims.entry("rooms").or_insert_with(|| json!({}));
        rooms[key] = json!(patterns);
        self
    }

    /// Sets `exp` so many seconds after now.
    #[must_use]
    pub fn ttl(self, seconds: i64) -> Self {
        self.claim("exp", unix_now() + seconds)
    }

    /// Sets `iat`, in seconds relative to now.
    #[must_use]
    pub fn issued(self, seconds: i64) -> Self {
        self.claim("iat", unix_now() + seconds)
    }

    /// Sets `nbf`, in seconds relative to now.
    #[must_use]
    pub fn not_before(self, seconds: i64) -> Self {
        self.claim("nbf", unix_now() + seconds)
    }

    /// Expired an hour ago.
    #[must_use]
    pub fn expired(self) -> Self {
        self.issued(-7_200).ttl(-3_600)
    }

    /// Sets any claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a claim out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Sets a header field, or with null leaves it out.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        match value.into() {
            Value::Null => self.header.remove(name),
            value => self.header.insert(name.to_owned(), value),
        };
        self
    }

    /// Signs with another key.
    #[must_use]
    pub fn signed_by(mut self, key: &'static IssuerKey) -> Self {
        self.signature = Signature::Rs256(key);
        self
    }

    /// `alg: none` and no signature.
    #[must_use]
    pub fn unsigned(mut self) -> Self {
        self.signature = Signature::Empty;
        self.header("alg", "none")
    }

    /// `alg: HS256`, with the issuer's public key as the secret.
    #[must_use]
    pub fn hmac_with_public_key(mut self, key: &IssuerKey) -> Self {
        self.signature = Signature::Hs256(key.public_pem().into_bytes());
        self.header("alg", "HS256")
    }

    /// The token's text.
    pub fn sign(self) -> String {
        let part = |fields: Map<String, Value>| {
            BASE64URL_NOPAD.encode(Value::Object(fields).to_string().as_bytes())
        };
        let signed = format!("{}.{}", part(self.header), part(self.claims));
        let signature = match &self.signature {
            Signature::Rs256(key) => key.sign(signed.as_bytes()),
            Signature::Hs256(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, signed.as_bytes()).as_ref().to_vec()
            }
            Signature::Empty => Vec::new(),
        };
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
    }
}
