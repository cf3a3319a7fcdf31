//! Tenants and pools, created and changed while everything runs.
//!
//! The record in KV is the truth; the account on the server follows from it
//! and can be asserted again at any time. The server takes whatever it is given
//! and says 200 to accounts it will never honour, so nothing here counts as
//! done until a user has connected, or has been refused.
//!
//! Two of us may work on one tenant at once. Records change by revision only,
//! and whoever pushes reads the record again afterwards and pushes anew if it
//! moved: the last one to push always pushed the newest record.

mod census;
mod limits;
mod policies;
mod pools;
mod push;
mod revocations;
mod roll;
mod servers;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arqon_proto::names::{NameError, NodeId, RoomPattern, TenantId};
use arqon_proto::v1;
use nkeys::KeyPair;

use crate::accounts::DEFAULT_MAX_FRAME_BYTES;
use crate::claims::ClaimsError;
use crate::connect::{ConnectError, Connection, TenantOptions, connect_user};
use crate::control::{BoxError, ControlError, ControlStore};
use crate::credentials::{CredentialsError, MintedUser, mint_user};
use crate::state::{FixedAccount, Role, StateError, StateFolder};

pub use census::{Answer, Census, ShieldSessions};
pub use limits::LimitsChanged;
pub use policies::{
    BindPolicy, Expected, INLINE_CONFIG_BYTES, MAX_HISTORY, MAX_VERSIONS, Policies, PolicyChange,
    PolicyError, PushedVersion, RecordError, ShieldOutcome, ShieldReport, ShieldReports,
    ShieldState,
};
pub use pools::RotateStep;
pub use revocations::{RevokeTokens, Revoked};
pub use roll::WaitFor;
pub use servers::ServerStatus;

/// Life of the two users of one [`Admin`]: longer than any command runs.
const OWN_TTL: Duration = Duration::from_secs(24 * 3600);

/// Rules of a tenant for slow readers; the oldest beyond are forgotten.
pub const MAX_OVERFLOW_RULES: usize = 32;

/// The control plane: a connection to SYS, one to CONTROL, and the keys.
#[derive(Debug)]
pub struct Admin {
    state: StateFolder,
    servers: Vec<String>,
    system: Connection,
    control_connection: Connection,
    control: ControlStore,
    max_frame_bytes: u32,
    tenants: Mutex<HashMap<TenantId, Arc<tokio::sync::Mutex<()>>>>,
}

/// What a new tenant is to be.
#[derive(Debug, Clone)]
pub struct CreateTenant {
    /// Its name.
    pub id: TenantId,
    /// The pool that serves it.
    pub pool: NodeId,
    /// Who may sign its tokens.
    pub issuers: Vec<v1::Issuer>,
    /// What it may use.
    pub limits: v1::TenantLimits,
}

/// A tenant that exists now.
#[derive(Debug, Clone, PartialEq)]
pub struct Created {
    /// Its record.
    pub record: v1::TenantRecord,
    /// It existed before, and is unchanged.
    pub existed: bool,
    /// Milliseconds from the call until a user of it had connected.
    pub verified_ms: u64,
}

/// What [`Admin::reassert`] found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reasserted {
    /// Tenants whose account was missing or different, and was pushed.
    pub pushed: Vec<String>,
    /// Tenants whose account was right.
    pub unchanged: usize,
    /// Accounts on the server that belong to no tenant, `A…`.
    pub orphans: Vec<String>,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The keys cannot be used.
    #[error("cannot use the state folder")]
    State(#[from] StateError),
    /// No connection to an account of ours.
    #[error("cannot connect to {account}")]
    Connect {
        /// The account.
        account: &'static str,
        /// The reason.
        source: ConnectError,
    },
    /// CONTROL could not be read or written.
    #[error("CONTROL failed")]
    Control(#[from] ControlError),
    /// An account could not be signed.
    #[error("cannot sign the account of tenant `{tenant}`")]
    Sign {
        /// The tenant.
        tenant: String,
        /// The reason.
        source: ClaimsError,
    },
    /// A user could not be minted.
    #[error("cannot mint a user of tenant `{tenant}`")]
    Mint {
        /// The tenant.
        tenant: TenantId,
        /// The reason.
        source: CredentialsError,
    },
    /// The server did not take a request on SYS, or did not answer.
    #[error("the server did not accept `{request}`")]
    System {
        /// The subject of the request.
        request: String,
        /// The reason.
        source: BoxError,
    },
    /// The account was taken but does not work.
    #[error("the account of tenant `{tenant}` does not work on {server}: {problem}")]
    Unverified {
        /// The tenant.
        tenant: TenantId,
        /// The server.
        server: String,
        /// What was seen.
        problem: String,
        /// The reason, if there is one further down.
        source: Option<Box<ConnectError>>,
    },
    /// No such tenant.
    #[error("there is no tenant `{tenant}`")]
    NoTenant {
        /// The tenant.
        tenant: TenantId,
    },
    /// No such pool.
    #[error("there is no pool `{pool}`")]
    NoPool {
        /// The pool.
        pool: String,
    },
    /// A stored name is none.
    #[error("the record of `{name}` holds a bad name")]
    Name {
        /// The name.
        name: String,
        /// The reason.
        source: NameError,
    },
    /// Shields did not switch to the new fleet key; the old one still works.
    #[error("these Shields of pool `{pool}` did not switch to the new fleet key: {}", shields.join(", "))]
    ShieldsBehind {
        /// The pool.
        pool: NodeId,
        /// The Shields.
        shields: Vec<String>,
    },
}

// === impl Admin ===

impl Admin {
    /// Connects to SYS and CONTROL with users minted for this purpose.
    pub async fn connect(state: &StateFolder, servers: &[String]) -> Result<Self, AdminError> {
        let name = NodeId::parse("arq").map_err(|source| AdminError::Name {
            name: "arq".to_owned(),
            source,
        })?;
        let connect = async |role, account| {
            let user = state.mint(role, &name, Some(OWN_TTL))?;
            connect_user(servers, user, "arq", &TenantOptions::default())
                .await
                .map_err(|source| AdminError::Connect { account, source })
        };
        let (system, control_connection) = tokio::try_join!(
            connect(Role::ControlPlane, "SYS"),
            connect(Role::Admin, "CONTROL")
        )?;
        let control = ControlStore::new(&control_connection);
        if let Err(error) = control.upgrade().await {
            tracing::warn!(%error, "CONTROL lacks something that could not be created");
        }
        Ok(Admin {
            state: state.clone(),
            servers: servers.to_vec(),
            control,
            system,
            control_connection,
            max_frame_bytes: DEFAULT_MAX_FRAME_BYTES,
            tenants: Mutex::default(),
        })
    }

    /// Sizes accounts for client frames of up to `bytes`.
    #[must_use]
    pub fn with_max_frame_bytes(mut self, bytes: u32) -> Self {
        self.max_frame_bytes = bytes;
        self
    }

    /// CONTROL, over the admin's connection.
    pub fn control(&self) -> &ControlStore {
        &self.control
    }

    /// The keys.
    pub fn state(&self) -> &StateFolder {
        &self.state
    }

    /// Creates what a fresh server lacks: the buckets (with `replicas` copies),
    /// and a first pool.
    pub async fn bootstrap(&self, replicas: usize, pool: &NodeId) -> Result<(), AdminError> {
        self.control.ensure_buckets(replicas).await?;
        self.create_pool(pool).await?;
        Ok(())
    }

    /// Creates a tenant: account pushed, verified by connecting, record
    /// written. One that exists is left as it is, and its account asserted.
    pub async fn create_tenant(&self, tenant: CreateTenant) -> Result<Created, AdminError> {
        let started = Instant::now();
        let lock = self.lock(&tenant.id);
        let _held = lock.lock().await;
        if let Some((record, _)) = self.control.get_tenant(&tenant.id).await? {
            self.settle(&tenant.id, false).await?;
            return Ok(created(record, true, started));
        }
        let record = v1::TenantRecord {
            id: tenant.id.to_string(),
            // Its seed is dropped here: signing keys do all the work.
            account: KeyPair::new_account().public_key(),
            state: v1::TenantState::Active.into(),
            created_at_ms: now_ms(),
            pool: tenant.pool.to_string(),
            issuers: tenant.issuers,
            limits: Some(tenant.limits),
            overflow: Vec::new(),
        };
        let written = async {
            self.push(&tenant.id, &record, true).await?;
            self.verify(&tenant.id, &record).await?;
            Ok::<_, AdminError>(self.control.create_tenant(&record).await?)
        };
        match written.await {
            Ok(_) => Ok(created(record, false, started)),
            Err(error) => {
                // Nobody knows the account without its record.
                if let Err(error) = self.delete_account(&record.account).await {
                    tracing::warn!(tenant = %tenant.id, %error, "Unused account could not be deleted");
                }
                match (error, self.control.get_tenant(&tenant.id).await?) {
                    // Another admin was faster.
                    (AdminError::Control(ControlError::Conflict { .. }), Some((record, _))) => {
                        Ok(created(record, true, started))
                    }
                    (error, _) => Err(error),
                }
            }
        }
    }

    /// All tenants, by id.
    pub async fn list(&self) -> Result<Vec<v1::TenantRecord>, AdminError> {
        let records = self.control.list_tenants().await?;
        Ok(records.into_iter().map(|(record, _)| record).collect())
    }

    /// One tenant's record.
    pub async fn show(&self, id: &TenantId) -> Result<v1::TenantRecord, AdminError> {
        Ok(self.require(id).await?.0)
    }

    /// Refuses a tenant's sessions: NATS closes and refuses its connections.
    pub async fn suspend(&self, id: &TenantId) -> Result<v1::TenantRecord, AdminError> {
        self.change(id, |record| record.set_state(v1::TenantState::Suspended))
            .await
    }

    /// Accepts a suspended tenant's sessions again.
    pub async fn resume(&self, id: &TenantId) -> Result<v1::TenantRecord, AdminError> {
        self.change(id, |record| record.set_state(v1::TenantState::Active))
            .await
    }

    /// Replaces who may sign a tenant's tokens.
    pub async fn set_issuers(
        &self,
        id: &TenantId,
        issuers: Vec<v1::Issuer>,
    ) -> Result<v1::TenantRecord, AdminError> {
        self.change(id, |record| record.issuers.clone_from(&issuers))
            .await
    }

    /// Sets what becomes of messages for slow readers of some rooms, in front of
    /// the rules there are; `None` takes the rule of exactly these rooms away.
    pub async fn set_overflow(
        &self,
        id: &TenantId,
        rooms: &RoomPattern,
        overflow: Option<v1::Overflow>,
    ) -> Result<v1::TenantRecord, AdminError> {
        self.change(id, |record| {
            record.overflow.retain(|rule| rule.rooms != rooms.as_str());
            if let Some(overflow) = overflow {
                let rule = v1::RoomOverflow {
                    rooms: rooms.as_str().to_owned(),
                    overflow: overflow.into(),
                };
                record.overflow.insert(0, rule);
                record.overflow.truncate(MAX_OVERFLOW_RULES);
            }
        })
        .await
    }

    /// Deletes a tenant: account first, so that a failure in between can be
    /// repeated; NATS closes its connections.
    pub async fn delete(&self, id: &TenantId) -> Result<v1::TenantRecord, AdminError> {
        let lock = self.lock(id);
        let _held = lock.lock().await;
        let (record, _) = self.require(id).await?;
        self.delete_account(&record.account).await?;
        self.control.delete_tenant(id).await?;
        Ok(record)
    }

    /// Mints a user for a person: reads the tenant's subjects, and with `write`
    /// publishes there as anyone.
    pub async fn creds(
        &self,
        id: &TenantId,
        write: bool,
        ttl: Duration,
    ) -> Result<MintedUser, AdminError> {
        let (record, _) = self.require(id).await?;
        let key = self.state.debug_key(write)?;
        let name = if write { "debug-write" } else { "debug-read" };
        mint_user(&key, &record.account, name, Some(ttl)).map_err(|source| AdminError::Mint {
            tenant: id.clone(),
            source,
        })
    }

    /// Compares every account on the server with its record and pushes those
    /// that differ, after a store was lost or someone wrote to it.
    pub async fn reassert(&self) -> Result<Reasserted, AdminError> {
        let mut report = Reasserted::default();
        let mut unknown: BTreeSet<String> = self.accounts_on_server().await?.into_iter().collect();
        for account in FixedAccount::ALL {
            unknown.remove(&self.state.account(account)?);
        }
        for (record, _) in self.control.list_tenants().await? {
            unknown.remove(&record.account);
            let id = tenant_id(&record)?;
            let lock = self.lock(&id);
            let _held = lock.lock().await;
            if self.settle(&id, false).await? {
                report.pushed.push(record.id);
            } else {
                report.unchanged += 1;
            }
        }
        report.orphans = unknown.into_iter().collect();
        Ok(report)
    }

    /// Closes both connections.
    pub async fn close(&self) {
        self.system.close().await;
        self.control_connection.close().await;
    }

    /// Changes a record, and the account with it.
    async fn change(
        &self,
        id: &TenantId,
        change: impl Fn(&mut v1::TenantRecord),
    ) -> Result<v1::TenantRecord, AdminError> {
        let lock = self.lock(id);
        let _held = lock.lock().await;
        loop {
            let (mut record, revision) = self.require(id).await?;
            let before = record.clone();
            change(&mut record);
            if record != before {
                match self.control.put_tenant(&record, revision).await {
                    Err(ControlError::Conflict { .. }) => continue,
                    written => written?,
                };
            }
            self.settle(id, false).await?;
            return Ok(record);
        }
    }

    /// Makes the account equal to the record and verifies it, until the record
    /// no longer moves. Returns whether something had to be pushed.
    async fn settle(&self, id: &TenantId, force: bool) -> Result<bool, AdminError> {
        let mut pushed = false;
        let (mut record, mut revision) = self.require(id).await?;
        loop {
            pushed |= self.push(id, &record, force).await?;
            let (now, at) = self.require(id).await?;
            if at == revision {
                break;
            }
            (record, revision) = (now, at);
        }
        if pushed {
            self.verify(id, &record).await?;
        }
        Ok(pushed)
    }

    async fn require(&self, id: &TenantId) -> Result<(v1::TenantRecord, u64), AdminError> {
        self.control
            .get_tenant(id)
            .await?
            .ok_or_else(|| AdminError::NoTenant { tenant: id.clone() })
    }

    /// The lock under which one tenant's account is pushed.
    fn lock(&self, id: &TenantId) -> Arc<tokio::sync::Mutex<()>> {
        self.tenants
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(id.clone())
            .or_default()
            .clone()
    }
}

fn created(record: v1::TenantRecord, existed: bool, started: Instant) -> Created {
    Created {
        record,
        existed,
        verified_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

fn tenant_id(record: &v1::TenantRecord) -> Result<TenantId, AdminError> {
    TenantId::parse(&record.id).map_err(|source| AdminError::Name {
        name: record.id.clone(),
        source,
    })
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}
