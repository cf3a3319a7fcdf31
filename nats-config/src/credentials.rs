//! Users: the fleet key that mints them for tenants, and `.creds` files.
//!
//! A tenant user is minted for one connection and dies with it: a new key pair
//! each time, a short life, and no right beyond the fleet key's template.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arqon_proto::names::TenantId;
use nkeys::{KeyPair, KeyPairType};

use crate::claims::{self, ClaimsError, User, UserClaims};
use crate::files;

/// A pool's signing key: mints users for every tenant whose account lists it.
#[derive(Clone)]
pub struct FleetKey {
    key: KeyPair,
    public: String,
}

/// A user and the key it signs the server's nonce with.
#[derive(Clone)]
pub struct MintedUser {
    /// The user's JWT.
    pub jwt: String,
    /// The user's key, needed to sign the nonce.
    pub key_pair: KeyPair,
    /// The user's public key, `U…`.
    pub public_key: String,
    /// When the server will close its connections; `None`: never.
    pub expires_at: Option<SystemTime>,
}

/// Why a key or a credential could not be read, written or minted.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file holds no seed of the kind wanted.
    #[error("{} does not hold {wanted}", path.display())]
    Seed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The file is not in the `.creds` format.
    #[error("{} is no .creds file: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The JWT inside cannot be read, or not be signed.
    #[error("bad user JWT for {subject}")]
    Claims {
        /// The file or the user.
        subject: String,
        /// The reason.
        source: ClaimsError,
    },
}

/// Mints a user of `tenant`'s account for one connection of `node`, valid for
/// `ttl` (whole seconds, at least 1).
pub fn mint_tenant_user(
    fleet: &FleetKey,
    account: &str,
    tenant: &TenantId,
    node: &str,
    ttl: Duration,
) -> MintedUser {
    let user = KeyPair::new_user();
    let public_key = user.public_key();
    let expires_at = claims::now() + ttl.as_secs().max(1);
    // A scoped key's users must claim nothing, and nats-jwt writes -1 for
    // "unlimited", which is a claim; 0 is none.
    let jwt = nats_jwt::Token::new_user(account.to_owned(), public_key.clone())
        .name(format!("{node}/{tenant}"))
        .max_subscriptions(0)
        .max_data(0)
        .max_payload(0)
        .expires(i64::try_from(expires_at).unwrap_or(i64::MAX))
        .sign(&fleet.key);
    MintedUser {
        jwt,
        key_pair: user,
        public_key,
        expires_at: Some(UNIX_EPOCH + Duration::from_secs(expires_at)),
    }
}

/// Mints a user of `account` under the scoped key `signer`; `None` never expires.
pub fn mint_user(
    signer: &KeyPair,
    account: &str,
    name: &str,
    ttl: Option<Duration>,
) -> Result<MintedUser, CredentialsError> {
    let user = KeyPair::new_user();
    let public_key = user.public_key();
    let mut claims = UserClaims::new(public_key.clone(), name, User::scoped(account));
    claims.expires_at = ttl.map(|ttl| claims.issued_at + ttl.as_secs().max(1));
    let expires_at = claims
        .expires_at
        .map(|at| UNIX_EPOCH + Duration::from_secs(at));
    let jwt = claims
        .sign(signer)
        .map_err(|source| CredentialsError::Claims {
            subject: name.to_owned(),
            source,
        })?;
    Ok(MintedUser {
        jwt,
        key_pair: user,
        public_key,
        expires_at,
    })
}

/// Writes a user to a `.creds` file that only its owner can read.
pub fn write_creds(path: &Path, user: &MintedUser) -> Result<(), CredentialsError> {
    let write = |source| CredentialsError::Write {
        path: path.to_owned(),
        source,
    };
    let text = user.to_creds().ok_or(CredentialsError::Seed {
        path: path.to_owned(),
        wanted: "a user with a seed",
    })?;
    files::write_private(path, text.as_bytes()).map_err(write)
}

/// Reads a user from a `.creds` file.
pub fn read_creds(path: &Path) -> Result<MintedUser, CredentialsError> {
    let text = std::fs::read_to_string(path).map_err(|source| CredentialsError::Read {
        path: path.to_owned(),
        source,
    })?;
    let format = |problem| CredentialsError::Format {
        path: path.to_owned(),
        problem,
    };
    let jwt = section(&text, "NATS USER JWT").ok_or_else(|| format("no user JWT"))?;
    let seed = section(&text, "USER NKEY SEED").ok_or_else(|| format("no user seed"))?;
    let key_pair = KeyPair::from_seed(seed).map_err(|_| format("the seed is not valid"))?;
    let claims = UserClaims::decode(jwt).map_err(|source| CredentialsError::Claims {
        subject: path.display().to_string(),
        source,
    })?;
    let public_key = key_pair.public_key();
    if claims.subject != public_key {
        return Err(format("JWT and seed belong to different users"));
    }
    Ok(MintedUser {
        jwt: jwt.to_owned(),
        key_pair,
        public_key,
        expires_at: claims
            .expires_at
            .map(|at| UNIX_EPOCH + Duration::from_secs(at)),
    })
}

/// The one line between `-----BEGIN name-----` and the closing dashes.
fn section<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with("---") && line.contains(&format!("BEGIN {name}")))?;
    lines.find(|line| !line.is_empty() && !line.starts_with("---"))
}

// === impl FleetKey ===

impl FleetKey {
    /// Reads the seed of an account signing key (`SA…`) from a file.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let text = std::fs::read_to_string(path).map_err(|source| CredentialsError::Read {
            path: path.to_owned(),
            source,
        })?;
        KeyPair::from_seed(text.trim())
            .ok()
            .and_then(FleetKey::new)
            .ok_or(CredentialsError::Seed {
                path: path.to_owned(),
                wanted: "a fleet key (an account seed, `SA…`)",
            })
    }

    /// A fleet key from a key pair; `None` if it is no account key.
    pub fn new(key: KeyPair) -> Option<Self> {
        let public = key.public_key();
        matches!(key.key_pair_type(), KeyPairType::Account).then_some(FleetKey { key, public })
    }

    /// The public key, `A…`, as accounts list it.
    pub fn public(&self) -> &str {
        &self.public
    }
}

impl fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

// === impl MintedUser ===

impl MintedUser {
    /// The text of a `.creds` file; `None` if the key pair holds no seed.
    pub fn to_creds(&self) -> Option<String> {
        let seed = self.key_pair.seed().ok()?;
        Some(format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\
             NKEY Seed printed below can be used to sign and prove identity.\n\
             NKEYs are sensitive and should be treated as secrets.\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n\n\
             *************************************************************\n",
            self.jwt
        ))
    }
}

impl fmt::Debug for MintedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintedUser")
            .field("public_key", &self.public_key)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
