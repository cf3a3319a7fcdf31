//! A compact JWT taken apart, and its claims checked for shape.
//!
//! Nothing here is trusted yet: the signature is checked with the key that the
//! tenant's record names, and the claims are judged after that.

use arqon_proto::{
    codes::ErrorCode,
    names::{TenantId, UserId},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de};

use super::{
    AuthFailure,
    grants::{Role, RoomGrants},
};

/// A token over this is not looked at. The largest that fits a request header
/// by default, so that REFRESH takes what the upgrade takes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The one algorithm, whatever the token says.
const ALGORITHM: &str = "RS256";

/// A token whose parts are well formed.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// The key it names.
    pub(super) kid: Option<String>,
    pub(super) claims: Claims,
    /// What is signed: header and claims as they came.
    pub(super) message: &'a [u8],
    /// base64url, not looked at yet.
    pub(super) signature: &'a str,
}

/// The claims of a token, well formed and untrusted.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) issuer: String,
    pub(super) audiences: Vec<String>,
    /// None: no tenant can have this name.
    pub(super) tenant: Option<TenantId>,
    pub(super) user: UserId,
    pub(super) role: Role,
    pub(super) rooms: RoomGrants,
    pub(super) jti: Option<String>,
    pub(super) issued_at: u64,
    pub(super) expires_at: u64,
    pub(super) not_before: Option<u64>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood; we understand none.
    crit: Option<de::IgnoredAny>,
}

/// The claims as JSON. A claim that is present must be of its type: `null` is
/// no way to say "all rooms".
#[derive(Deserialize)]
struct RawClaims {
    iss: String,
    aud: Audience,
    sub: String,
    tenant: String,
    iat: NumericDate,
    exp: NumericDate,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<NumericDate>,
    #[serde(default, deserialize_with = "present")]
    jti: Option<String>,
    #[serde(default, deserialize_with = "present")]
    role: Option<String>,
    #[serde(default, deserialize_with = "present")]
    rooms: Option<RawRooms>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRooms {
    #[serde(default)]
    join: Vec<String>,
    #[serde(default)]
    publish: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Seconds since the Unix epoch. RFC 7519 allows a fraction; it is cut off.
#[derive(Clone, Copy)]
struct NumericDate(u64);

// === impl Token ===

impl<'a> Token<'a> {
    /// Takes a token apart.
    pub(super) fn parse(text: &'a str) -> Result<Self, AuthFailure> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(malformed(format!("over {MAX_TOKEN_BYTES} bytes")));
        }
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("not three parts"));
        };
        let message = &text.as_bytes()[..header.len() + 1 + claims.len()];

        let header: Header = json(header, "header")?;
        if header.alg != ALGORITHM {
            return Err(AuthFailure::new(
                ErrorCode::TokenWrongAlgorithm,
                format!("alg is {:?}", shortened(&header.alg)),
            ));
        }
        if header.crit.is_some() {
            return Err(malformed("the header has crit"));
        }
        let raw: RawClaims = json(claims, "claims")?;
        Ok(Self {
            kid: header.kid,
            claims: Claims::try_from(raw)?,
            message,
            signature,
        })
    }
}

impl TryFrom<RawClaims> for Claims {
    type Error = AuthFailure;

    fn try_from(raw: RawClaims) -> Result<Self, AuthFailure> {
        let user = UserId::parse(&raw.sub).map_err(|error| malformed(format!("sub: {error}")))?;
        let role = match raw.role.as_deref() {
            None => Role::User,
            Some(role) => Role::parse(role)
                .ok_or_else(|| malformed(format!("role is {:?}", shortened(role))))?,
        };
        let rooms = match raw.rooms {
            None => RoomGrants::all(),
            Some(rooms) => RoomGrants::parse(&rooms.join, &rooms.publish).map_err(malformed)?,
        };
        if raw
            .jti
            .as_ref()
            .is_some_and(|jti| jti.len() > MAX_JTI_BYTES)
        {
            return Err(malformed(format!("jti is over {MAX_JTI_BYTES} bytes")));
        }
        Ok(Self {
            issuer: raw.iss,
            audiences: match raw.aud {
                Audience::One(audience) => vec![audience],
                Audience::Many(audiences) => audiences,
            },
            tenant: TenantId::parse(&raw.tenant).ok(),
            user,
            role,
            rooms,
            jti: raw.jti,
            issued_at: raw.iat.0,
            expires_at: raw.exp.0,
            not_before: raw.nbf.map(|date| date.0),
        })
    }
}

/// A jti is kept by its session and becomes a key of the revocations.
const MAX_JTI_BYTES: usize = 128;

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Above this (2^53) a JSON number is no longer exact.
        const LAST: f64 = 9_007_199_254_740_992.0;
        let number = serde_json::Number::deserialize(deserializer)?;
        if let Some(seconds) = number.as_u64() {
            return Ok(Self(seconds));
        }
        match number.as_f64() {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Some(seconds) if (0.0..LAST).contains(&seconds) => Ok(Self(seconds as u64)),
            _ => Err(de::Error::custom("not a time")),
        }
    }
}

fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn json<T: de::DeserializeOwned>(part: &str, what: &str) -> Result<T, AuthFailure> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|error| malformed(format!("{what}: not base64url: {error}")))?;
    // serde_json's text may quote the token; its category and place do not.
    serde_json::from_slice(&bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => malformed(format!("{what}: {}", missing(&error))),
        _ => malformed(format!("{what}: not JSON")),
    })
}

/// "missing field `aud`" tells the operator what to mend and holds nothing of the token.
fn missing(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("missing field") || text.starts_with("duplicate field") {
        text.split(" at line").next().unwrap_or_default().to_owned()
    } else {
        format!("a member of a wrong type at byte {}", error.column())
    }
}

/// Text of a stranger, short enough for a log line.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

fn malformed(detail: impl Into<String>) -> AuthFailure {
    AuthFailure::new(ErrorCode::TokenMalformed, detail)
}
