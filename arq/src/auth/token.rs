//! The claims of a development token, from what was typed to what is signed.

use arqon_proto::names::{RoomPattern, TenantId, UserId};
use clap::{Args, ValueEnum};
use jsonwebtoken::{Algorithm, Header};
use serde::{Deserialize, Serialize};

use super::DevelopmentKey;
use crate::context::Context;
use crate::duration::{now_secs, parse_secs};
use crate::failure::{Doing, Failure, Result};

/// The claims of `arq auth gen`; also what `arq sub` and `arq pub` sign for themselves.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokenOptions {
    /// The tenant [default: the context's]
    #[arg(long, value_name = "ID")]
    pub(crate) tenant: Option<String>,
    /// The user, the token's `sub` [default: the context's]
    #[arg(long, value_name = "ID")]
    pub(crate) user: Option<String>,
    /// What the token may do
    #[arg(long, value_enum, default_value_t = Role::User)]
    pub(crate) role: Role,
    /// How long it holds; a negative one makes a token that has expired
    #[arg(long, value_name = "TIME", default_value = "1h", allow_hyphen_values = true, value_parser = parse_secs)]
    pub(crate) ttl: i64,
    /// The rooms as JSON: {"join":["lobby","team.*"],"publish":["lobby"]}
    #[arg(long, value_name = "JSON", conflicts_with_all = ["join", "publish"])]
    pub(crate) rooms: Option<String>,
    /// A room pattern it may join, repeatable [default: all rooms]
    ///
    /// `*` stands for one token of a name, a trailing `>` for the rest. With --join and
    /// without --publish the token may publish nowhere.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) join: Vec<String>,
    /// A room pattern it may publish to, repeatable
    #[arg(long, value_name = "PATTERN")]
    pub(crate) publish: Vec<String>,
    /// The token's id, by which it can be revoked [default: a new UUIDv7]
    #[arg(long, value_name = "ID")]
    pub(crate) jti: Option<String>,
    /// The `iss` claim [default: the context's]
    #[arg(long, value_name = "ISS")]
    pub(crate) issuer: Option<String>,
    /// The `aud` claim [default: the context's]
    #[arg(long, value_name = "AUD")]
    pub(crate) audience: Option<String>,
}

/// The roles of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Join rooms, publish to joined rooms
    User,
    /// Join rooms only
    Observer,
    /// Also publish to rooms it has not joined
    Service,
    /// As a user; `arq session` and not a token lists and kicks sessions
    Admin,
}

/// The `rooms` claim.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rooms {
    /// Patterns that may be joined.
    #[serde(default)]
    pub(crate) join: Vec<String>,
    /// Patterns that may be published to.
    #[serde(default)]
    pub(crate) publish: Vec<String>,
}

/// What is signed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) aud: String,
    pub(crate) sub: String,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    pub(crate) tenant: String,
    pub(crate) role: Role,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rooms: Option<Rooms>,
    pub(crate) jti: String,
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self {
            tenant: None,
            user: None,
            role: Role::User,
            ttl: 3_600,
            rooms: None,
            join: Vec::new(),
            publish: Vec::new(),
            jti: None,
            issuer: None,
            audience: None,
        }
    }
}

impl TokenOptions {
    /// Checks what was typed and fills in the context's defaults.
    pub(crate) fn claims(&self, context: &Context) -> Result<Claims> {
        let settings = &context.settings;
        let tenant = self.tenant.as_deref().unwrap_or(&settings.default_tenant);
        TenantId::parse(tenant)
            .map_err(|error| Failure::usage(format!("`{tenant}` is no tenant id: {error}")))?;
        let user = self.user.as_deref().unwrap_or(&settings.default_user);
        UserId::parse(user)
            .map_err(|error| Failure::usage(format!("`{user}` is no user id: {error}")))?;
        let now = now_secs();
        let (iat, exp) = match u64::try_from(self.ttl) {
            Ok(0) => return Err(Failure::usage("--ttl must not be nothing")),
            Ok(ttl) => (now, now + ttl),
            Err(_) => {
                let exp = now.saturating_sub(self.ttl.unsigned_abs());
                (exp.saturating_sub(60), exp)
            }
        };
        Ok(Claims {
            iss: self
                .issuer
                .clone()
                .unwrap_or_else(|| settings.issuer.clone()),
            aud: self
                .audience
                .clone()
                .unwrap_or_else(|| settings.audience.clone()),
            sub: user.to_owned(),
            iat,
            exp,
            tenant: tenant.to_owned(),
            role: self.role,
            rooms: self.rooms()?,
            jti: self
                .jti
                .clone()
                .unwrap_or_else(|| uuid::Uuid::now_v7().to_string()),
        })
    }

    fn rooms(&self) -> Result<Option<Rooms>> {
        let rooms = match &self.rooms {
            Some(text) => serde_json::from_str::<Rooms>(text).map_err(|error| {
                Failure::usage(format!("--rooms does not hold: {error}")).hint(
                    "write for instance --rooms '{\"join\":[\"lobby\"],\"publish\":[\"lobby\"]}'",
                )
            })?,
            None if self.join.is_empty() && self.publish.is_empty() => return Ok(None),
            None => Rooms {
                join: self.join.clone(),
                publish: self.publish.clone(),
            },
        };
        for pattern in rooms.join.iter().chain(&rooms.publish) {
            RoomPattern::parse(pattern).map_err(|error| {
                Failure::usage(format!("`{pattern}` is no room pattern: {error}"))
                    .hint("`*` stands for one token of a name, a trailing `>` for the rest: `team.*`, `game.>`")
            })?;
        }
        Ok(Some(rooms))
    }
}

/// Signs claims with RS256.
pub(crate) fn sign(key: &DevelopmentKey, kid: Option<&str>, claims: &Claims) -> Result<String> {
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(kid.unwrap_or(&key.kid).to_owned());
    jsonwebtoken::encode(&header, claims, &key.signing).doing("cannot sign the token")
}
