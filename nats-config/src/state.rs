//! The state folder: every key of a platform, and nothing else.
//!
//! ```text
//! operator/identity.nk    the operator; needed only to make signing keys anew
//! operator/signing.nk     signs accounts
//! sys/account.pub         public keys of the fixed accounts; their identity
//! control/account.pub     seeds are never kept, since signing keys do the work
//! brain/account.pub
//! sys/control-plane.nk    scoped keys: each signs the users of one role
//! control/{shield,brain,admin}.nk
//! brain/brain.nk
//! debug/{read,write}.nk
//! pools/<pool>/fleet-<n>.nk   the pool's fleet keys, newest highest
//! pools/<pool>/fleet.nk       a copy of the one in force: Shields read this
//! users/<name>.creds      credentials handed to services
//! ```
//!
//! Folders are 0700, files 0600; others' access is refused, not repaired.

mod pools;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arqon_proto::names::NodeId;
use nkeys::{KeyPair, KeyPairType};

use crate::accounts::{self, ControlKeys, TenantKeys};
use crate::claims::{AccountClaims, ClaimsError, Operator, OperatorClaims, OperatorKind, VERSION};
use crate::credentials::{CredentialsError, MintedUser, mint_user, write_creds};
use crate::{files, sys};

/// An account the platform itself needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FixedAccount {
    /// The server's own.
    Sys,
    /// KV, orders, beats.
    Control,
    /// Presence.
    Brain,
}

/// A role and the key that signs its users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Pushes accounts, in SYS.
    ControlPlane,
    /// A Shield, on CONTROL.
    Shield,
    /// A Brain, on CONTROL.
    ControlBrain,
    /// Writes, on CONTROL.
    Admin,
    /// A Brain, in BRAIN.
    Brain,
}

/// An opened state folder. Keys are read when they are used.
#[derive(Debug, Clone)]
pub struct StateFolder {
    root: PathBuf,
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is none.
    #[error("{} is no state folder of the Spine", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Others can read a secret.
    #[error("{} is open to others (mode {mode:03o}); it must be {wanted:03o}", path.display())]
    Open {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What it should be.
        wanted: u32,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A file does not hold the key it should.
    #[error("{} does not hold {wanted}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// Credentials could not be made.
    #[error("cannot make credentials")]
    Credentials(#[from] CredentialsError),
    /// Claims could not be signed.
    #[error("cannot sign claims")]
    Claims(#[from] ClaimsError),
    /// The pool has no fleet key here.
    #[error("pool `{pool}` has no fleet key in {}", path.display())]
    NoPool {
        /// The pool.
        pool: String,
        /// Where it should be.
        path: PathBuf,
    },
}

// === impl StateFolder ===

impl StateFolder {
    /// Opens an existing folder.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let root = path.into();
        if !root.join("operator/signing.nk").is_file() {
            return Err(StateError::Missing { path: root });
        }
        refuse_open(&root, 0o700)?;
        Ok(StateFolder { root })
    }

    /// Opens the folder, first making every key that is missing.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let state = StateFolder { root: path.into() };
        for folder in [
            "", "operator", "sys", "control", "brain", "debug", "pools", "users",
        ] {
            create_folder(&state.root.join(folder))?;
        }
        state.make_key("operator/identity.nk", KeyPair::new_operator)?;
        state.make_key("operator/signing.nk", KeyPair::new_operator)?;
        for account in [
            FixedAccount::Sys,
            FixedAccount::Control,
            FixedAccount::Brain,
        ] {
            let path = state.root.join(account.folder()).join("account.pub");
            if !path.exists() {
                write_file(&path, KeyPair::new_account().public_key().as_bytes())?;
            }
        }
        for role in Role::ALL {
            state.make_key(role.file(), KeyPair::new_account)?;
        }
        state.make_key("debug/read.nk", KeyPair::new_account)?;
        state.make_key("debug/write.nk", KeyPair::new_account)?;
        refuse_open(&state.root, 0o700)?;
        Ok(state)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The operator's JWT, signed by its identity key.
    pub fn operator_jwt(&self) -> Result<String, StateError> {
        let identity = self.key("operator/identity.nk", KeyPairType::Operator)?;
        let claims = OperatorClaims::new(
            identity.public_key(),
            "arqonbus",
            Operator {
                signing_keys: vec![self.operator_signing_key()?.public_key()],
                system_account: self.account(FixedAccount::Sys)?,
                strict_signing_key_usage: true,
                kind: OperatorKind::Operator,
                version: VERSION,
            },
        );
        Ok(claims.sign(&identity)?)
    }

    /// The key that signs accounts.
    pub fn operator_signing_key(&self) -> Result<KeyPair, StateError> {
        self.key("operator/signing.nk", KeyPairType::Operator)
    }

    /// The public key of a fixed account, `A…`.
    pub fn account(&self, account: FixedAccount) -> Result<String, StateError> {
        let path = self.root.join(account.folder()).join("account.pub");
        let text = read_file(&path)?.trim().to_owned();
        match nkeys::from_public_key(&text) {
            Ok(_) if text.starts_with('A') => Ok(text),
            _ => Err(StateError::Key {
                path,
                wanted: "an account's public key",
            }),
        }
    }

    /// The claims of a fixed account.
    pub fn account_claims(&self, account: FixedAccount) -> Result<AccountClaims, StateError> {
        let key = self.account(account)?;
        let public = |role| Ok::<_, StateError>(self.role_key(role)?.public_key());
        Ok(match account {
            FixedAccount::Sys => accounts::system_account(&key, &public(Role::ControlPlane)?),
            FixedAccount::Control => accounts::control_account(
                &key,
                &ControlKeys {
                    shield: public(Role::Shield)?,
                    brain: public(Role::ControlBrain)?,
                    admin: public(Role::Admin)?,
                },
            ),
            FixedAccount::Brain => accounts::brain_account(&key, &public(Role::Brain)?),
        })
    }

    /// The key that signs the users of a role.
    pub fn role_key(&self, role: Role) -> Result<KeyPair, StateError> {
        self.key(role.file(), KeyPairType::Account)
    }

    /// The keys every tenant's account lists besides its pool's.
    pub fn tenant_keys(&self) -> Result<TenantKeys, StateError> {
        Ok(TenantKeys {
            debug_read: self.debug_key(false)?.public_key(),
            debug_write: self.debug_key(true)?.public_key(),
            brain_account: self.account(FixedAccount::Brain)?,
        })
    }

    /// The key that signs people's users in tenants.
    pub fn debug_key(&self, write: bool) -> Result<KeyPair, StateError> {
        let file = if write {
            "debug/write.nk"
        } else {
            "debug/read.nk"
        };
        self.key(file, KeyPairType::Account)
    }

    /// Mints a user of a role; `None` never expires.
    pub fn mint(
        &self,
        role: Role,
        name: &NodeId,
        ttl: Option<Duration>,
    ) -> Result<MintedUser, StateError> {
        let account = self.account(role.account())?;
        Ok(mint_user(
            &self.role_key(role)?,
            &account,
            name.as_str(),
            ttl,
        )?)
    }

    /// The `.creds` file of a service of a role, minted if it is not there yet.
    pub fn creds(&self, role: Role, name: &NodeId) -> Result<PathBuf, StateError> {
        let path = self
            .root
            .join("users")
            .join(format!("{}-{name}.creds", role.name()));
        if !path.exists() {
            write_creds(&path, &self.mint(role, name, None)?)?;
        }
        Ok(path)
    }

    fn make_key(&self, file: &str, make: fn() -> KeyPair) -> Result<(), StateError> {
        let path = self.root.join(file);
        if path.exists() {
            return Ok(());
        }
        write_seed(&path, &make())
    }

    fn key(&self, file: &str, kind: KeyPairType) -> Result<KeyPair, StateError> {
        let path = self.root.join(file);
        let text = read_file(&path)?;
        let wanted = match kind {
            KeyPairType::Operator => "an operator seed (`SO…`)",
            _ => "an account seed (`SA…`)",
        };
        match KeyPair::from_seed(text.trim()) {
            Ok(key) if key.public_key().starts_with(prefix(&kind)) => Ok(key),
            _ => Err(StateError::Key { path, wanted }),
        }
    }
}

fn prefix(kind: &KeyPairType) -> char {
    match kind {
        KeyPairType::Operator => 'O',
        _ => 'A',
    }
}

fn create_folder(path: &Path) -> Result<(), StateError> {
    sys::create_private_folder(path).map_err(|source| StateError::Io {
        action: "create",
        path: path.to_owned(),
        source,
    })
}

fn read_file(path: &Path) -> Result<String, StateError> {
    refuse_open(path, 0o600)?;
    fs::read_to_string(path).map_err(|source| StateError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    files::write_private(path, bytes).map_err(|source| StateError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn write_seed(path: &Path, key: &KeyPair) -> Result<(), StateError> {
    let seed = key.seed().map_err(|_| StateError::Key {
        path: path.to_owned(),
        wanted: "a seed",
    })?;
    write_file(path, seed.as_bytes())
}

fn refuse_open(path: &Path, wanted: u32) -> Result<(), StateError> {
    let metadata = fs::metadata(path).map_err(|source| StateError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    match sys::open_to_others(&metadata) {
        None => Ok(()),
        Some(mode) => Err(StateError::Open {
            path: path.to_owned(),
            mode,
            wanted,
        }),
    }
}

// === impl FixedAccount ===

impl FixedAccount {
    /// All of them, in the order a server is given them.
    pub const ALL: [FixedAccount; 3] = [
        FixedAccount::Sys,
        FixedAccount::Control,
        FixedAccount::Brain,
    ];

    fn folder(self) -> &'static str {
        match self {
            FixedAccount::Sys => "sys",
            FixedAccount::Control => "control",
            FixedAccount::Brain => "brain",
        }
    }
}

// === impl Role ===

impl Role {
    /// All of them.
    pub const ALL: [Role; 5] = [
        Role::ControlPlane,
        Role::Shield,
        Role::ControlBrain,
        Role::Admin,
        Role::Brain,
    ];

    /// The account its users belong to.
    pub fn account(self) -> FixedAccount {
        match self {
            Role::ControlPlane => FixedAccount::Sys,
            Role::Shield | Role::ControlBrain | Role::Admin => FixedAccount::Control,
            Role::Brain => FixedAccount::Brain,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Role::ControlPlane => "control-plane",
            Role::Shield => "shield",
            Role::ControlBrain => "control-brain",
            Role::Admin => "admin",
            Role::Brain => "brain",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Role::ControlPlane => "sys/control-plane.nk",
            Role::Shield => "control/shield.nk",
            Role::ControlBrain => "control/brain.nk",
            Role::Admin => "control/admin.nk",
            Role::Brain => "brain/brain.nk",
        }
    }
}
