//! Accounts onto the server, and proof that they work there.

use std::time::{Duration, Instant};

use arqon_proto::names::{NodeId, TenantId};
use arqon_proto::v1;
use futures_util::StreamExt;
use nkeys::KeyPair;
use serde::Deserialize;

use super::{Admin, AdminError};
use crate::accounts;
use crate::claims::{AccountClaims, Generic, GenericClaims, now};
use crate::connect::{ConnectError, Connection, TenantOptions, connect_tenant};
use crate::control::BoxError;
use crate::credentials::{FleetKey, mint_tenant_user};
use crate::state::FixedAccount;
use crate::subjects;

/// Within how long a push must have reached every server; takes milliseconds.
const SPREAD: Duration = Duration::from_secs(3);

/// An answer on SYS takes a millisecond; a server that has none says nothing.
const ANSWER: Duration = Duration::from_secs(5);

/// Life of the user that verifies an account.
const PROBE_TTL: Duration = Duration::from_secs(60);

/// The server tells a refusal apart from silence only after its resolver's 1.9 s.
const REFUSAL: Duration = Duration::from_secs(10);

/// An answer on SYS.
#[derive(Debug, Deserialize)]
struct Answer<T> {
    server: ServerInfo,
    data: Option<T>,
    error: Option<Problem>,
}

#[derive(Debug, Deserialize)]
struct ServerInfo {
    id: String,
}

#[derive(Debug, Deserialize)]
struct Problem {
    description: String,
}

#[derive(Debug, Deserialize)]
struct Code {
    code: u16,
    #[serde(default)]
    message: String,
}

/// What the server made of an account.
#[derive(Debug, Deserialize)]
struct AccountInfo {
    #[serde(default)]
    expired: bool,
    #[serde(default)]
    imports: Vec<ImportInfo>,
}

#[derive(Debug, Deserialize)]
struct ImportInfo {
    subject: String,
    account: String,
    #[serde(default)]
    invalid: bool,
}

impl Admin {
    /// Pushes a tenant's account unless the server has it already (or `force`);
    /// returns whether it pushed.
    pub(super) async fn push(
        &self,
        id: &TenantId,
        record: &v1::TenantRecord,
        force: bool,
    ) -> Result<bool, AdminError> {
        let keys = self.pool_keys(record).await?;
        let mut claims = accounts::tenant_account(
            record,
            id,
            &keys,
            &self.state.tenant_keys()?,
            self.max_frame_bytes,
        );
        let operator = self.state.operator_signing_key()?;
        if !force && let Some(current) = self.look_up(&record.account).await? {
            if current.body == claims.body && current.issuer == operator.public_key() {
                return Ok(false);
            }
            // Servers of a cluster settle on the newest by the second.
            claims.issued_at = now().max(current.issued_at + 1);
        }
        self.push_claims(claims, &operator).await?;
        Ok(true)
    }

    /// Pushes an account.
    pub(super) async fn push_claims(
        &self,
        claims: AccountClaims,
        operator: &KeyPair,
    ) -> Result<(), AdminError> {
        let tenant = claims.name.clone();
        let jwt = claims
            .sign(operator)
            .map_err(|source| AdminError::Sign { tenant, source })?;
        self.ask_code("$SYS.REQ.CLAIMS.UPDATE", jwt).await
    }

    /// Deletes an account, known to the server or not.
    pub(super) async fn delete_account(&self, account: &str) -> Result<(), AdminError> {
        let operator = self.state.operator_signing_key()?;
        let jwt = GenericClaims::new(operator.public_key(), "delete", Generic::delete(account))
            .sign(&operator)
            .map_err(|source| AdminError::Sign {
                tenant: account.to_owned(),
                source,
            })?;
        self.ask_code("$SYS.REQ.CLAIMS.DELETE", jwt).await
    }

    /// Every account in the server's store.
    pub(super) async fn accounts_on_server(&self) -> Result<Vec<String>, AdminError> {
        self.ask("$SYS.REQ.CLAIMS.LIST", String::new()).await
    }

    /// Connects to every server as a Shield would, or is refused if the tenant
    /// is suspended; sends itself a message; looks for dropped imports.
    pub(super) async fn verify(
        &self,
        id: &TenantId,
        record: &v1::TenantRecord,
    ) -> Result<(), AdminError> {
        let Some(fleet) = self.newest_fleet_key(record).await? else {
            return Ok(());
        };
        let mut unreachable = None;
        let mut verified = false;
        for server in &self.servers {
            match self.verify_on(server, id, record, &fleet).await {
                Ok(()) => verified = true,
                Err(AdminError::Unverified {
                    source: Some(source),
                    ..
                }) if self.servers.len() > 1 && source.is_unreachable() => {
                    unreachable = Some(server.clone());
                }
                Err(error) => return Err(error),
            }
        }
        match unreachable {
            Some(server) if !verified => Err(AdminError::Unverified {
                tenant: id.clone(),
                server,
                problem: "no server can be reached".to_owned(),
                source: None,
            }),
            _ => Ok(()),
        }
    }

    /// Tries until it works: the servers of a cluster hear of an account one
    /// after the other.
    async fn verify_on(
        &self,
        server: &str,
        id: &TenantId,
        record: &v1::TenantRecord,
        fleet: &FleetKey,
    ) -> Result<(), AdminError> {
        let deadline = Instant::now() + SPREAD;
        loop {
            match self.verify_once(server, id, record, fleet).await {
                Err(AdminError::Unverified { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn verify_once(
        &self,
        server: &str,
        id: &TenantId,
        record: &v1::TenantRecord,
        fleet: &FleetKey,
    ) -> Result<(), AdminError> {
        let failed = |problem: &str, source| AdminError::Unverified {
            tenant: id.clone(),
            server: server.to_owned(),
            problem: problem.to_owned(),
            source,
        };
        let suspended = record.state() != v1::TenantState::Active;
        let user = mint_tenant_user(fleet, &record.account, id, "arq", PROBE_TTL);
        let options = TenantOptions {
            read_buffer_capacity: 4096,
            ..TenantOptions::default()
        };
        let servers = [server.to_owned()];
        let connecting = connect_tenant(&servers, user, "arq/verify", options);
        let connection = match tokio::time::timeout(REFUSAL, connecting).await {
            Err(_) => return Err(failed("connecting takes too long", None)),
            Ok(Err(ConnectError::AccountFull { .. })) if suspended => return Ok(()),
            Ok(Err(source)) => return Err(failed("a user cannot connect", Some(Box::new(source)))),
            Ok(Ok(connection)) => connection,
        };
        let server_id = connection.client.server_info().server_id;
        let heard = hears_itself(&connection).await;
        connection.close().await;
        if suspended {
            return Err(failed("it is suspended, yet a user could connect", None));
        }
        if !heard {
            return Err(failed("a user does not hear its own inbox", None));
        }
        let info = self.account_info(&record.account, &server_id).await?;
        if info.expired {
            return Err(failed("the server holds it for expired", None));
        }
        // The server lists services of its own among them.
        let brain = self.state.account(FixedAccount::Brain)?;
        let account = &record.account;
        let works = |subject: String| {
            info.imports.iter().any(|import| {
                !import.invalid && import.account == brain && import.subject == subject
            })
        };
        if works(subjects::presence_in(account)) && works(subjects::presence_out(account)) {
            Ok(())
        } else {
            Err(failed("the server dropped its imports from BRAIN", None))
        }
    }

    /// The account as the server has it, if it has.
    async fn look_up(&self, account: &str) -> Result<Option<AccountClaims>, AdminError> {
        let subject = format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP");
        let jwt = self.request(&subject, String::new()).await?;
        // What cannot be read must be replaced just as what is missing.
        Ok(std::str::from_utf8(&jwt)
            .ok()
            .and_then(|jwt| AccountClaims::decode(jwt).ok()))
    }

    async fn pool_keys(&self, record: &v1::TenantRecord) -> Result<Vec<String>, AdminError> {
        let no_pool = || AdminError::NoPool {
            pool: record.pool.clone(),
        };
        let name = NodeId::parse(&record.pool).map_err(|_| no_pool())?;
        let (pool, _) = self.control.get_pool(&name).await?.ok_or_else(no_pool)?;
        Ok(pool.fleet_keys)
    }

    /// The newest fleet key of the tenant's pool whose seed is in the state folder.
    async fn newest_fleet_key(
        &self,
        record: &v1::TenantRecord,
    ) -> Result<Option<FleetKey>, AdminError> {
        let Ok(pool) = NodeId::parse(&record.pool) else {
            return Ok(None);
        };
        for public in self.pool_keys(record).await? {
            if let Some(key) = self.state.fleet_key_by_public(&pool, &public)? {
                return Ok(Some(key));
            }
        }
        tracing::warn!(pool = %pool, "No fleet key of this pool here, accounts are not verified");
        Ok(None)
    }

    /// What one server makes of an account. All servers answer, and one where
    /// nobody has used the account yet knows nothing of it.
    async fn account_info(&self, account: &str, server: &str) -> Result<AccountInfo, AdminError> {
        let subject = format!("$SYS.REQ.ACCOUNT.{account}.INFO");
        let inbox = self.system.client.new_inbox();
        let asking = async {
            let mut answers = self.system.client.subscribe(inbox.clone()).await?;
            let client = &self.system.client;
            client
                .publish_with_reply(subject.clone(), inbox, "".into())
                .await?;
            while let Some(answer) = answers.next().await {
                let answer: Answer<AccountInfo> = serde_json::from_slice(&answer.payload)?;
                if answer.server.id == server
                    && let Some(info) = answer.data
                {
                    return Ok(info);
                }
            }
            Err::<_, BoxError>("the connection to SYS is closed".into())
        };
        tokio::time::timeout(ANSWER, asking)
            .await
            .map_err(|_| refused(&subject, "no answer"))?
            .map_err(|source| refused(&subject, source))
    }

    /// Asks on SYS for something that is answered with a code.
    async fn ask_code(&self, subject: &str, body: String) -> Result<(), AdminError> {
        let answer: Code = self.ask(subject, body).await?;
        if answer.code == 200 {
            return Ok(());
        }
        Err(refused(
            subject,
            format!("{} ({})", answer.message, answer.code),
        ))
    }

    async fn ask<T: for<'a> Deserialize<'a>>(
        &self,
        subject: &str,
        body: String,
    ) -> Result<T, AdminError> {
        let answer = self.request(subject, body).await?;
        let answer: Answer<T> =
            serde_json::from_slice(&answer).map_err(|source| refused(subject, source))?;
        match answer {
            Answer {
                error: Some(problem),
                ..
            } => Err(refused(subject, problem.description)),
            Answer {
                data: Some(data), ..
            } => Ok(data),
            _ => Err(refused(subject, "the answer is empty")),
        }
    }

    async fn request(&self, subject: &str, body: String) -> Result<bytes::Bytes, AdminError> {
        let asked = self.system.client.request(subject.to_owned(), body.into());
        let answer = tokio::time::timeout(ANSWER, asked)
            .await
            .map_err(|_| refused(subject, "no answer"))?
            .map_err(|source| refused(subject, source))?;
        Ok(answer.payload)
    }
}

pub(super) fn refused(subject: &str, reason: impl Into<BoxError>) -> AdminError {
    AdminError::System {
        request: subject.to_owned(),
        source: reason.into(),
    }
}

/// Whether a message to the connection's own inbox comes back.
async fn hears_itself(connection: &Connection) -> bool {
    let subject = subjects::barrier(&connection.user);
    let Ok(mut inbox) = connection.client.subscribe(subject.clone()).await else {
        return false;
    };
    let sent = connection.client.publish(subject, "verify".into()).await;
    sent.is_ok()
        && matches!(
            tokio::time::timeout(ANSWER, inbox.next()).await,
            Ok(Some(_))
        )
}
