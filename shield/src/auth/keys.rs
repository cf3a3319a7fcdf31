//! Public keys of an issuer, decoded once.

use std::fmt;

use arqon_proto::v1::PemKeys;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde::Deserialize;

/// Keys kept of one issuer. A document with more is a mistake or an attack.
const MAX_KEYS: usize = 64;

/// The keys of one issuer.
#[derive(Default)]
pub(super) struct KeySet(Vec<NamedKey>);

struct NamedKey {
    kid: Option<String>,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct JwksDocument {
    keys: Vec<serde_json::Value>,
}

/// The members of a JWK that matter for RS256 (RFC 7517, RFC 7518 §6.3.1).
#[derive(Deserialize)]
struct RsaJwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    n: String,
    e: String,
}

// === impl KeySet ===

impl KeySet {
    /// The keys of a tenant's record. A key that cannot be read is left out
    /// and given to `unusable` with its kid.
    pub(super) fn from_pem(keys: &PemKeys, mut unusable: impl FnMut(&str, String)) -> Self {
        let mut set = Vec::new();
        for entry in keys.keys.iter().take(MAX_KEYS) {
            match DecodingKey::from_rsa_pem(entry.pem.as_bytes()) {
                Ok(key) => set.push(NamedKey {
                    kid: (!entry.kid.is_empty()).then(|| entry.kid.clone()),
                    key,
                }),
                Err(error) => unusable(&entry.kid, error.to_string()),
            }
        }
        Self(set)
    }

    /// The RSA signing keys of a JWKS document. Others are passed over, as the
    /// RFC asks; a document that is no JWKS is an error.
    pub(super) fn from_jwks(document: &[u8]) -> Result<Self, serde_json::Error> {
        let document: JwksDocument = serde_json::from_slice(document)?;
        let keys = document
            .keys
            .into_iter()
            .filter_map(|value| NamedKey::from_jwk(serde_json::from_value(value).ok()?))
            .take(MAX_KEYS)
            .collect();
        Ok(Self(keys))
    }

    /// The keys a token of this kid may be signed with. Without a kid there
    /// must be no choice.
    pub(super) fn candidates(&self, kid: Option<&str>) -> impl Iterator<Item = &DecodingKey> {
        let unnamed = kid.is_none() && self.0.len() == 1;
        self.0
            .iter()
            .filter(move |named| unnamed || (kid.is_some() && named.kid.as_deref() == kid))
            .map(|named| &named.key)
    }

    /// Whether there is a key for this kid.
    pub(super) fn has(&self, kid: Option<&str>) -> bool {
        self.candidates(kid).next().is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|named| &named.kid))
            .finish()
    }
}

// === impl NamedKey ===

impl NamedKey {
    fn from_jwk(jwk: RsaJwk) -> Option<Self> {
        let for_rs256 = jwk.kty == "RSA"
            && jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
            && jwk.alg.as_deref().is_none_or(|alg| alg == "RS256");
        if !for_rs256 {
            return None;
        }
        let modulus = URL_SAFE_NO_PAD.decode(&jwk.n).ok()?;
        let exponent = URL_SAFE_NO_PAD.decode(&jwk.e).ok()?;
        Some(Self {
            kid: jwk.kid,
            key: DecodingKey::from_rsa_raw_components(&modulus, &exponent),
        })
    }
}
