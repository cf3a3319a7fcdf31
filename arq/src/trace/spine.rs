//! The way into a tenant: a user of its account that may only listen, minted for one connection.

use std::time::Duration;

use arqon_proto::names::{RoomPattern, TenantId};
use arqon_proto::v1::TenantState;
use arqon_spine::admin::AdminError;
use arqon_spine::connect::{ConnectError, Connection, TenantOptions, connect_tenant};
use arqon_spine::credentials::MintedUser;
use arqon_spine::nats::{Client, Subscriber};
use arqon_spine::subjects;
use futures_util::StreamExt;

use super::Wanted;
use crate::admin::{audit, connect, explain};
use crate::context::Context;
use crate::failure::{Doing, Failure, Result};

/// How long a minted user holds. It never leaves this process; when it has expired the next
/// connection has another.
const TTL: Duration = Duration::from_secs(24 * 3_600);

/// How long the server may take to have the subscriptions.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that listens.
pub(super) struct Tap {
    pub(super) connection: Connection,
    pub(super) messages: Subscriber,
    /// Only where presence is wanted.
    pub(super) presence: Option<Subscriber>,
}

/// Why there is none.
pub(super) enum Trouble {
    /// It will not change by waiting.
    Lasting(Failure),
    /// Perhaps it will.
    Passing(Failure),
}

/// Refuses a state folder that may not do this before anything is asked of anybody.
pub(super) fn check_rights(context: &Context) -> Result {
    let state = context.spine_state()?;
    state
        .debug_key(false)
        .map(drop)
        .doing("this state folder may not look into tenants")
        .hint("only an admin may: who has the folder that `arq spine init` made, with spine/debug/read.nk in it")
}

/// Opens one. It is written to the audit log each time.
pub(super) async fn open(context: &Context, wanted: &Wanted) -> Result<Tap, Trouble> {
    let user = Box::pin(mint(context, &wanted.tenant)).await?;
    let entry = serde_json::json!({
        "action": "trace",
        "tenant": wanted.tenant.as_str(),
        "rooms": wanted.rooms.as_str(),
        "of": wanted.user.as_ref().map(|user| user.as_str()),
        "payload": wanted.shape.payload.is_some(),
        "headers": wanted.shape.headers,
        "presence": wanted.presence,
        "user": user.public_key,
        "ttl_secs": TTL.as_secs(),
    });
    if let serde_json::Value::Object(entry) = entry {
        // What cannot be audited is not done.
        audit(&context.spine_folder(), entry).map_err(Trouble::Lasting)?;
    }
    let servers = &context.settings.nats;
    let connection = connect_tenant(servers, user, "arq trace", TenantOptions::default())
        .await
        .map_err(|error| Trouble::Passing(refused(&wanted.tenant, error)))?;
    let opened = Box::pin(tap(&connection, wanted)).await;
    match opened {
        Ok((messages, presence)) => Ok(Tap {
            connection,
            messages,
            presence,
        }),
        Err(failure) => {
            connection.close().await;
            Err(Trouble::Passing(failure))
        }
    }
}

async fn mint(context: &Context, tenant: &TenantId) -> Result<MintedUser, Trouble> {
    let admin = connect(context).await.map_err(Trouble::Passing)?;
    let minted = async {
        if admin.show(tenant).await?.state() == TenantState::Suspended {
            return Ok(None);
        }
        admin.creds(tenant, false, TTL).await.map(Some)
    };
    let minted = minted.await;
    admin.close().await;
    match minted {
        Ok(Some(user)) => Ok(user),
        Ok(None) => {
            let failure = Failure::new(format!(
                "tenant {tenant} is suspended, so NATS lets nobody in"
            ));
            let hint = format!("`arq tenant resume {tenant}` lets it in again");
            Err(Trouble::Passing(failure.hint(hint)))
        }
        Err(error @ (AdminError::NoTenant { .. } | AdminError::State(_))) => {
            Err(Trouble::Lasting(explain(error)))
        }
        Err(error) => Err(Trouble::Passing(explain(error))),
    }
}

async fn tap(connection: &Connection, wanted: &Wanted) -> Result<(Subscriber, Option<Subscriber>)> {
    let client = &connection.client;
    let messages = client
        .subscribe(pattern(&wanted.tenant, &wanted.rooms))
        .await?;
    let presence = if wanted.presence {
        let subject = subjects::presence_room_events(&wanted.tenant);
        Some(client.subscribe(subject).await?)
    } else {
        None
    };
    settle(client, &connection.user).await?;
    Ok((messages, presence))
}

/// Waits until the server has the subscriptions. This user may publish nothing, so no message can
/// come back to it; but the client pings when it gives a subscription up, and ends its stream at
/// the answer.
async fn settle(client: &Client, user: &str) -> Result {
    let mut last = client.subscribe(subjects::barrier(user)).await?;
    last.drain().await?;
    tokio::time::timeout(PATIENCE, last.next())
        .await
        .map(drop)
        .map_err(|_| Failure::new("NATS does not answer"))
}

/// `acme.team.*` for rooms `team.*`.
fn pattern(tenant: &TenantId, rooms: &RoomPattern) -> String {
    format!("{tenant}.{rooms}")
}

fn refused(tenant: &TenantId, error: ConnectError) -> Failure {
    match error {
        error @ ConnectError::AccountFull { .. } => Failure::from(error).hint(format!(
            "was {tenant} suspended just now? `arq tenant show {tenant}` tells"
        )),
        error => error.into(),
    }
}
