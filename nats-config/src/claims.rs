//! JWT claims of NATS operator mode, typed, signed and read.
//!
//! Wire form: `base64url(header).base64url(claims).base64url(signature)`, the
//! signature by the issuer's ed25519 nkey over the first two parts. The shapes
//! are those nats-server accepts; tests push each of them to a real server.
//! Absent and zero mean different things to the server, hence the many
//! `skip_serializing_if`: a scoped user must carry no permission at all.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::KeyPair;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha512_256};

const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// Version of the claims format; the only one the servers we support write.
pub const VERSION: u32 = 2;

/// A limit that does not limit.
pub const UNLIMITED: i64 = -1;

/// Claims of an operator: `O…`, self-signed.
pub type OperatorClaims = Claims<Operator>;
/// Claims of an account: `A…`, signed by the operator.
pub type AccountClaims = Claims<Account>;
/// Claims of a user: `U…`, signed by a signing key of its account.
pub type UserClaims = Claims<User>;
/// Claims of a request to the server, self-signed by an operator key.
pub type GenericClaims = Claims<Generic>;

/// The claims common to all kinds, around the `nats` object of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims<B> {
    /// When it stops being valid, seconds since the Unix epoch; absent: never.
    #[serde(rename = "exp", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// When it was made, seconds since the Unix epoch.
    #[serde(rename = "iat")]
    pub issued_at: u64,
    /// Public key of the signer; written by [`Claims::sign`].
    #[serde(rename = "iss", default)]
    pub issuer: String,
    /// Hash of the other claims; written by [`Claims::sign`], checked by nobody.
    #[serde(rename = "jti", default)]
    pub id: String,
    /// Name for people and for `{{name()}}` in templates.
    #[serde(default)]
    pub name: String,
    /// Public key of the one it is about.
    #[serde(rename = "sub")]
    pub subject: String,
    /// What it grants.
    #[serde(rename = "nats")]
    pub body: B,
}

/// The `nats` object of an operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operator {
    /// Keys that sign accounts in the operator's name, `O…`.
    pub signing_keys: Vec<String>,
    /// The SYS account, `A…`.
    pub system_account: String,
    /// Accounts and users must be signed by signing keys, never by identity keys.
    pub strict_signing_key_usage: bool,
    /// Always `operator`.
    #[serde(rename = "type")]
    pub kind: OperatorKind,
    /// Always [`VERSION`].
    pub version: u32,
}

/// The `nats` object of an account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// Subjects taken from other accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    /// Subjects offered to other accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<Export>,
    /// Every limit, written out: an absent one is 0 to the server.
    pub limits: AccountLimits,
    /// Keys that sign users in the account's name, each with what its users may do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signing_keys: Vec<Scope>,
    /// User key (or `*`) to the time up to which its JWTs are void.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revocations: BTreeMap<String, u64>,
    /// `name:value` pairs, names in lower case, for `{{account-tag(name)}}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Always `account`.
    #[serde(rename = "type")]
    pub kind: AccountKind,
    /// Always [`VERSION`].
    pub version: u32,
}

/// The `nats` object of a user under a scoped key: it carries no right of its
/// own (the server refuses it otherwise), the key's template says all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// The account, `A…`: the signer is only one of its signing keys.
    pub issuer_account: String,
    /// Always `user`.
    #[serde(rename = "type")]
    pub kind: UserKind,
    /// Always [`VERSION`].
    pub version: u32,
}

/// The `nats` object of a request to the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generic {
    /// Accounts to delete.
    pub accounts: Vec<String>,
    /// Always `generic`.
    #[serde(rename = "type")]
    pub kind: GenericKind,
    /// Always [`VERSION`].
    pub version: u32,
}

macro_rules! kind {
    ($name:ident, $variant:ident) => {
        /// The one value of `type` for this kind of claims.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            /// The only value.
            #[default]
            $variant,
        }
    };
}
kind!(OperatorKind, Operator);
kind!(AccountKind, Account);
kind!(UserKind, User);
kind!(GenericKind, Generic);

/// Limits of an account. All are always written; [`UNLIMITED`] is no limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccountLimits {
    /// Subscriptions of one connection.
    pub subs: i64,
    /// Bytes in all; never enforced by the server.
    pub data: i64,
    /// Bytes of one message, headers included; more closes the connection.
    pub payload: i64,
    /// Imports.
    pub imports: i64,
    /// Exports.
    pub exports: i64,
    /// Whether exports may have wildcards.
    pub wildcards: bool,
    /// Client connections; 0 refuses and closes all.
    pub conn: i64,
    /// Leaf node connections.
    pub leaf: i64,
    /// Refuses bearer users, whose JWT alone would be enough.
    pub disallow_bearer: bool,
    /// JetStream memory.
    pub mem_storage: i64,
    /// JetStream disk.
    pub disk_storage: i64,
    /// JetStream streams.
    pub streams: i64,
    /// JetStream consumers.
    pub consumer: i64,
}

/// A scoped signing key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scope {
    /// Always `user_scope`.
    pub kind: ScopeKind,
    /// Public key, `A…`.
    pub key: String,
    /// Name of the role, for people.
    pub role: String,
    /// Text for people.
    #[serde(default)]
    pub description: String,
    /// What each of its users may do.
    pub template: Template,
}

/// The one value of a scope's `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScopeKind {
    /// The only value.
    #[default]
    UserScope,
}

/// The rights of the users of a scoped key. Subjects may use `{{subject()}}`,
/// `{{name()}}` and `{{account-tag(x)}}`; what these expand to is put in
/// verbatim, so a value of `>` would be a wildcard: only parsed names get in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// May publish.
    #[serde(
        rename = "pub",
        default,
        skip_serializing_if = "Permission::is_unlimited"
    )]
    pub publish: Permission,
    /// May subscribe.
    #[serde(
        rename = "sub",
        default,
        skip_serializing_if = "Permission::is_unlimited"
    )]
    pub subscribe: Permission,
    /// May answer requests it received.
    #[serde(rename = "resp", default, skip_serializing_if = "Option::is_none")]
    pub responses: Option<Responses>,
    /// Subscriptions of one connection.
    pub subs: i64,
    /// Bytes in all; never enforced by the server.
    pub data: i64,
    /// Bytes of one message, headers included.
    pub payload: i64,
    /// Kinds of connection, for example `STANDARD`; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_connection_types: Vec<ConnectionType>,
}

/// Subjects allowed and denied. An empty `allow` allows all that is not denied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Permission {
    /// Allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Denied, whatever is allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// Permission to answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Responses {
    /// Answers per request.
    pub max: i64,
    /// How long answers are allowed, in nanoseconds.
    pub ttl: u64,
}

/// A kind of connection to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ConnectionType {
    /// Plain NATS over TCP.
    Standard,
    /// The server's own WebSocket listener.
    Websocket,
}

/// Whether an import or export is requests or a flow of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareKind {
    /// Messages flow from the exporter.
    Stream,
    /// Messages flow to the exporter, answers back.
    Service,
}

/// Subjects offered to other accounts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Export {
    /// Name for people.
    pub name: String,
    /// The subjects.
    pub subject: String,
    /// Direction.
    #[serde(rename = "type")]
    pub kind: ShareKind,
    /// Which token (from 1) must be the importer's account: no account can
    /// import, and so speak or listen, as another.
    pub account_token_position: u32,
}

/// Subjects taken from another account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Import {
    /// Name for people.
    pub name: String,
    /// The exporting account, `A…`.
    pub account: String,
    /// The subjects as exported.
    pub subject: String,
    /// The subjects as seen here.
    pub local_subject: String,
    /// Direction.
    #[serde(rename = "type")]
    pub kind: ShareKind,
}

/// Why claims could not be signed or read.
#[derive(Debug, thiserror::Error)]
pub enum ClaimsError {
    /// The key refused to sign.
    #[error("cannot sign the claims of {subject}")]
    Sign {
        /// Whom the claims are about.
        subject: String,
        /// The reason.
        source: nkeys::error::Error,
    },
    /// The claims are no JSON of their kind.
    #[error("the claims are not of the expected kind")]
    Json(#[from] serde_json::Error),
    /// Not three base64url parts with the nkey header.
    #[error("not a NATS JWT: {0}")]
    Form(&'static str),
    /// The signature does not fit the issuer named inside.
    #[error("the signature is not that of issuer {issuer}")]
    Signature {
        /// The issuer named inside.
        issuer: String,
        /// The reason.
        source: nkeys::error::Error,
    },
}

// === impl Claims ===

impl<B: Serialize> Claims<B> {
    /// Claims about `subject`, made now, never expiring.
    pub fn new(subject: impl Into<String>, name: impl Into<String>, body: B) -> Self {
        Claims {
            expires_at: None,
            issued_at: now(),
            issuer: String::new(),
            id: String::new(),
            name: name.into(),
            subject: subject.into(),
            body,
        }
    }

    /// Signs them and returns the JWT.
    pub fn sign(mut self, key: &KeyPair) -> Result<String, ClaimsError> {
        self.issuer = key.public_key();
        self.id = String::new();
        self.id = BASE32_NOPAD.encode(&Sha512_256::digest(serde_json::to_vec(&self)?));
        let signed = format!(
            "{}.{}",
            BASE64URL_NOPAD.encode(HEADER.as_bytes()),
            BASE64URL_NOPAD.encode(&serde_json::to_vec(&self)?)
        );
        let signature = key
            .sign(signed.as_bytes())
            .map_err(|source| ClaimsError::Sign {
                subject: self.subject,
                source,
            })?;
        Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
    }
}

impl<B: DeserializeOwned> Claims<B> {
    /// Reads a JWT and verifies that the issuer it names signed it. Whether
    /// that issuer is to be trusted is the caller's to judge.
    pub fn decode(jwt: &str) -> Result<Self, ClaimsError> {
        let (signed, signature) = jwt
            .trim()
            .rsplit_once('.')
            .ok_or(ClaimsError::Form("three parts expected"))?;
        let (_, claims) = signed
            .split_once('.')
            .ok_or(ClaimsError::Form("three parts expected"))?;
        let form = |_| ClaimsError::Form("parts are not base64url");
        let claims: Self =
            serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).map_err(form)?)?;
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(form)?;
        KeyPair::from_public_key(&claims.issuer)
            .and_then(|key| key.verify(signed.as_bytes(), &signature))
            .map_err(|source| ClaimsError::Signature {
                issuer: claims.issuer.clone(),
                source,
            })?;
        Ok(claims)
    }
}

// === impl User ===

impl User {
    /// A user of `account` whose rights are its signing key's template.
    pub fn scoped(account: impl Into<String>) -> Self {
        User {
            issuer_account: account.into(),
            kind: UserKind::User,
            version: VERSION,
        }
    }
}

// === impl Generic ===

impl Generic {
    /// The body of a request to delete `account`.
    pub fn delete(account: impl Into<String>) -> Self {
        Generic {
            accounts: vec![account.into()],
            kind: GenericKind::Generic,
            version: VERSION,
        }
    }
}

// === impl Scope ===

impl Scope {
    /// The key `key` whose users play `role`.
    pub fn new(key: impl Into<String>, role: &str, template: Template) -> Self {
        Scope {
            kind: ScopeKind::UserScope,
            key: key.into(),
            role: role.to_owned(),
            description: String::new(),
            template,
        }
    }
}

// === impl Permission ===

impl Permission {
    /// Allows exactly these.
    pub fn allow<S: Into<String>>(subjects: impl IntoIterator<Item = S>) -> Self {
        Permission {
            allow: subjects.into_iter().map(Into::into).collect(),
            deny: Vec::new(),
        }
    }

    /// Allows nothing.
    pub fn nothing() -> Self {
        Permission {
            allow: Vec::new(),
            deny: vec![">".to_owned()],
        }
    }

    /// Denies these too.
    #[must_use]
    pub fn but_not<S: Into<String>>(mut self, subjects: impl IntoIterator<Item = S>) -> Self {
        self.deny.extend(subjects.into_iter().map(Into::into));
        self
    }

    /// Whether it is empty, which to the server means everything is allowed.
    pub fn is_unlimited(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
