//! `arq pool`: Shields that share a fleet key, and the tenants they serve.

use std::time::Duration;

use arqon_proto::names::NodeId;
use arqon_proto::v1::PoolRecord;
use arqon_spine::admin::{AdminError, RotateStep};
use arqon_spine::control::ControlError;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::Globals;
use crate::admin::{explain, with};
use crate::duration::moment;
use crate::failure::{Failure, Result};
use crate::output::counted;
use crate::progress::Progress;

/// Pools: Shields that share a fleet key, and the tenants they serve
#[derive(Debug, Args)]
pub(crate) struct Pool {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a pool and its first fleet key; one that exists stays as it is
    ///
    /// On a fresh server this makes the control plane's buckets too.
    Create {
        /// The pool's name
        name: String,
        /// Copies of the control plane's data where it is made: 1, or 3 on a cluster
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
        replicas: u8,
    },
    /// Show all pools
    List,
    /// Replace a pool's fleet key while its Shields run; no message is lost
    ///
    /// Both keys are listed in every tenant, the Shields switch, then the old key is removed.
    /// Where a Shield does not switch in time both keys go on working, and the command can be
    /// run again.
    RotateKey {
        /// The pool's name
        name: String,
        /// How long to wait for the Shields
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = crate::duration::parse)]
        wait: Duration,
    },
}

/// Does what was asked.
pub(crate) fn run(pool: Pool, globals: &Globals) -> Result {
    match pool.command {
        Command::Create { name, replicas } => create(&parse(&name)?, replicas, globals),
        Command::List => list(globals),
        Command::RotateKey { name, wait } => rotate(&parse(&name)?, wait, globals),
    }
}

/// A pool's name as it was typed.
pub(crate) fn parse(name: &str) -> Result<NodeId> {
    NodeId::parse(name).map_err(|error| {
        Failure::usage(format!("`{name}` is no pool name: {error}"))
            .hint("use 1 to 63 of a-z, 0-9 and -, not - at the ends")
    })
}

fn pool_json(record: &PoolRecord) -> Value {
    json!({
        "name": record.name,
        "fleet_keys": record.fleet_keys,
        "created_at_ms": record.created_at_ms,
    })
}

fn create(name: &NodeId, replicas: u8, globals: &Globals) -> Result {
    let (record, existed, key_file) = with(globals, async |_, admin| {
        // Only where there are none: existing ones may have another number of copies.
        if let Err(AdminError::Control(ControlError::Bucket { .. })) = admin.list_pools().await {
            admin.control().ensure_buckets(replicas.into()).await?;
        }
        let (record, existed) = admin.create_pool(name).await.map_err(explain)?;
        Ok((record, existed, admin.state().fleet_key_path(name)))
    })?;
    if globals.output.json {
        let mut object = pool_json(&record);
        object["existed"] = existed.into();
        object["fleet_key_file"] = json!(key_file);
        return globals.output.object(&object);
    }
    let what = if existed {
        "was there already"
    } else {
        "is made"
    };
    globals.output.note(format!(
        "pool {name} {what}; its Shields need the key file {}",
        key_file.display()
    ));
    Ok(())
}

fn list(globals: &Globals) -> Result {
    let (pools, tenants) = with(globals, async |_, admin| {
        Ok((
            admin.list_pools().await.map_err(explain)?,
            admin.list().await.map_err(explain)?,
        ))
    })?;
    if globals.output.json {
        return globals
            .output
            .object(&pools.iter().map(pool_json).collect::<Vec<_>>());
    }
    let rows = pools
        .iter()
        .map(|pool| {
            let served = tenants
                .iter()
                .filter(|tenant| tenant.pool == pool.name)
                .count();
            let rotating = if pool.fleet_keys.len() > 1 {
                "rotating"
            } else {
                "one key"
            };
            vec![
                pool.name.clone(),
                served.to_string(),
                rotating.to_owned(),
                pool.fleet_keys
                    .first()
                    .map(|key| short_key(key))
                    .unwrap_or_default(),
                moment(pool.created_at_ms / 1_000),
            ]
        })
        .collect();
    globals.output.table(
        &["pool", "tenants", "state", "fleet key", "created"],
        rows,
        "no pools; `arq pool create` makes one",
    )
}

/// The beginning of a public key, enough to tell keys apart.
pub(crate) fn short_key(key: &str) -> String {
    key.get(..12)
        .map_or_else(|| key.to_owned(), |short| format!("{short}…"))
}

fn rotate(name: &NodeId, wait: Duration, globals: &Globals) -> Result {
    let output = globals.output;
    let record = with(globals, async |_, admin| {
        let progress = Progress::waiting("waiting for the Shields");
        admin
            .rotate_pool_key(name, wait, |step| {
                let said = match step {
                    RotateStep::KeyReady { public } => format!("new key {}", short_key(&public)),
                    RotateStep::BothListed { tenants } => {
                        format!("both keys are listed in {}", counted(tenants, "tenant"))
                    }
                    RotateStep::InForce { path } => format!(
                        "{} holds the new key; copy it to Shields on other hosts now",
                        path.display()
                    ),
                    RotateStep::Switched { shield } => format!("{shield} signs with the new key"),
                    RotateStep::OldRemoved { tenants } => {
                        format!("the old key is removed from {}", counted(tenants, "tenant"))
                    }
                };
                progress.aside(|| output.note(said));
            })
            .await
            .map_err(explain)
    })?;
    if output.json {
        return output.object(&pool_json(&record));
    }
    output.note(format!("pool {name} has a new fleet key"));
    Ok(())
}
