//! `arq tenant`: tenants, each an account of its own in NATS.

mod creds;
mod issuers;
mod limits;
mod overflow;

use arqon_proto::names::TenantId;
use arqon_proto::v1::{TenantLimits, TenantRecord, TenantState};
use arqon_spine::admin::CreateTenant;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::issuers::{IssuerKeys, issuer_json};
use self::limits::LimitOptions;
use crate::Globals;
use crate::admin::{explain, with};
use crate::duration::moment;
use crate::failure::{Failure, Result};

/// Tenants: each an account of its own in NATS
#[derive(Debug, Args)]
pub(crate) struct Tenant {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a tenant, usable at once; one that exists stays as it is
    Create(CreateArgs),
    /// Show all tenants
    List {
        /// Print the ids only, one a line
        #[arg(long)]
        names: bool,
    },
    /// Show one tenant
    Show {
        /// The tenant
        id: String,
    },
    /// Show or change its limits; they hold at once, over all Shields
    Limits(limits::LimitsArgs),
    /// Show or change what becomes of messages for sessions that read too slowly, by room
    Overflow(overflow::OverflowArgs),
    /// Refuse its sessions and its NATS connections until it is resumed
    Suspend {
        /// The tenant
        id: String,
    },
    /// Accept its sessions again
    Resume {
        /// The tenant
        id: String,
    },
    /// Delete it; its sessions are closed
    Delete {
        /// The tenant
        id: String,
        /// Do not ask
        #[arg(long)]
        force: bool,
    },
    /// Write a short-lived NATS credentials file, to look into it with any NATS tool
    Creds(creds::CredsArgs),
    /// Show or change who may sign its tokens
    Issuers(issuers::IssuersArgs),
    /// Push the accounts that the NATS server misses or has in an older form, from the records
    ///
    /// After the server has lost its store of accounts. What is as it should be stays.
    Reassert,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Its id: 1 to 63 of a-z, 0-9 and -, not - at the ends
    id: String,
    /// The pool whose Shields serve it
    #[arg(long, value_name = "NAME", default_value = "default")]
    pool: String,
    /// Trust tokens whose `iss` is this [default: a development context's own issuer]
    #[arg(long, value_name = "ISS", help_heading = "Issuer")]
    issuer: Option<String>,
    #[command(flatten)]
    keys: IssuerKeys,
    #[command(flatten)]
    limits: LimitOptions,
}

/// Does what was asked.
pub(crate) fn run(tenant: Tenant, globals: &Globals) -> Result {
    match tenant.command {
        Command::Create(args) => create(&args, globals),
        Command::List { names } => list(names, globals),
        Command::Show { id } => show(&parse(&id)?, globals),
        Command::Limits(args) => limits::run(&args, globals),
        Command::Overflow(args) => overflow::run(&args, globals),
        Command::Suspend { id } => suspend(&parse(&id)?, globals),
        Command::Resume { id } => resume(&parse(&id)?, globals),
        Command::Delete { id, force } => delete(&parse(&id)?, force, globals),
        Command::Creds(args) => creds::run(&args, globals),
        Command::Issuers(args) => issuers::run(&args, globals),
        Command::Reassert => reassert(globals),
    }
}

/// A tenant's id as it was typed.
pub(crate) fn parse(id: &str) -> Result<TenantId> {
    TenantId::parse(id).map_err(|error| {
        Failure::usage(format!("`{id}` is no tenant id: {error}"))
            .hint("use 1 to 63 of a-z, 0-9 and -, not - at the ends; arqon, sys, control and brain are reserved")
    })
}

fn state_word(record: &TenantRecord) -> &'static str {
    match record.state() {
        TenantState::Active => "active",
        TenantState::Suspended => "suspended",
        TenantState::Unspecified => "unknown",
    }
}

/// A tenant's record as `--json` prints it.
fn tenant_json(record: &TenantRecord) -> Value {
    json!({
        "id": record.id,
        "state": state_word(record),
        "pool": record.pool,
        "account": record.account,
        "created_at_ms": record.created_at_ms,
        "issuers": record.issuers.iter().map(issuer_json).collect::<Vec<_>>(),
        "limits": limits::json(&record.limits.unwrap_or_default()),
        "overflow": overflow::json(record),
    })
}

fn create(args: &CreateArgs, globals: &Globals) -> Result {
    let id = parse(&args.id)?;
    let pool = crate::pool::parse(&args.pool)?;
    let given = match &args.issuer {
        Some(iss) => Some(args.keys.issuer(iss)?),
        None => None,
    };
    let output = &globals.output;
    let created = with(globals, async |context, admin| {
        let issuers = match given {
            Some(issuer) => vec![issuer],
            None => issuers::default_issuers(context, output)?,
        };
        if admin
            .list_pools()
            .await
            .map_err(explain)?
            .iter()
            .all(|known| known.name != pool.as_str())
        {
            return Err(Failure::new(format!("there is no pool `{pool}`"))
                .hint("`arq pool list` shows all pools, `arq pool create` makes one"));
        }
        let mut limits = TenantLimits::default();
        args.limits.put(&mut limits);
        let create = CreateTenant {
            id: id.clone(),
            pool: pool.clone(),
            issuers,
            limits,
        };
        admin.create_tenant(create).await.map_err(explain)
    })?;
    if output.json {
        let mut object = tenant_json(&created.record);
        object["existed"] = created.existed.into();
        object["verified_ms"] = created.verified_ms.into();
        return output.object(&object);
    }
    if created.existed {
        output.note(format!(
            "tenant {id} was there already; nothing was changed"
        ));
        return Ok(());
    }
    output.note(format!(
        "tenant {id} is made; a user of it could connect after {} ms",
        created.verified_ms
    ));
    if created.record.issuers.is_empty() {
        output.note(format!(
            "it trusts no issuer of tokens yet: `arq tenant issuers {id} --add ISS --jwks URL`"
        ));
    } else if created
        .record
        .issuers
        .iter()
        .all(|issuer| issuer.development)
    {
        output.note(format!("try: arq sub lobby --tenant {id}"));
    }
    Ok(())
}

fn list(names: bool, globals: &Globals) -> Result {
    let tenants = with(globals, async |_, admin| {
        admin.list().await.map_err(explain)
    })?;
    let output = &globals.output;
    if output.json {
        return output.object(&tenants.iter().map(tenant_json).collect::<Vec<_>>());
    }
    if names {
        return tenants
            .iter()
            .try_for_each(|tenant| output.line(&tenant.id));
    }
    let rows = tenants
        .iter()
        .map(|tenant| {
            let issuers: Vec<&str> = tenant
                .issuers
                .iter()
                .map(|issuer| issuer.iss.as_str())
                .collect();
            vec![
                tenant.id.clone(),
                state_word(tenant).to_owned(),
                tenant.pool.clone(),
                if issuers.is_empty() {
                    "none".to_owned()
                } else {
                    issuers.join(", ")
                },
                moment(tenant.created_at_ms / 1_000),
            ]
        })
        .collect();
    output.table(
        &["tenant", "state", "pool", "issuers", "created"],
        rows,
        "no tenants; `arq tenant create` makes one",
    )
}

fn show(id: &TenantId, globals: &Globals) -> Result {
    let record = with(globals, async |_, admin| {
        admin.show(id).await.map_err(explain)
    })?;
    tell(&record, globals)
}

fn tell(record: &TenantRecord, globals: &Globals) -> Result {
    if globals.output.json {
        return globals.output.object(&tenant_json(record));
    }
    let issuers: Vec<String> = record.issuers.iter().map(issuers::words).collect();
    let mut pairs = vec![
        ("tenant", record.id.clone()),
        ("state", state_word(record).to_owned()),
        ("pool", record.pool.clone()),
        ("created", moment(record.created_at_ms / 1_000)),
        ("NATS account", record.account.clone()),
        ("subjects", format!("{}.>", record.id)),
        (
            "issuers",
            if issuers.is_empty() {
                "none: no token is accepted".to_owned()
            } else {
                issuers.join("\n")
            },
        ),
    ];
    pairs.extend(limits::pairs(&record.limits.unwrap_or_default()));
    globals.output.pairs(&pairs)
}

fn reassert(globals: &Globals) -> Result {
    let done = with(globals, async |_, admin| {
        admin.reassert().await.map_err(explain)
    })?;
    if globals.output.json {
        return globals.output.object(&json!({
            "pushed": done.pushed,
            "unchanged": done.unchanged,
            "orphans": done.orphans,
        }));
    }
    if !done.orphans.is_empty() {
        globals.output.warn(format!(
            "{} on the server belong to no tenant: {}",
            crate::output::counted(done.orphans.len(), "account"),
            done.orphans.join(", ")
        ));
    }
    globals.output.note(if done.pushed.is_empty() {
        "every account is as its record says".to_owned()
    } else {
        format!("pushed {}", done.pushed.join(", "))
    });
    Ok(())
}

fn suspend(id: &TenantId, globals: &Globals) -> Result {
    let record = with(globals, async |_, admin| {
        admin.suspend(id).await.map_err(explain)
    })?;
    changed(
        &record,
        &format!("tenant {id} is suspended; `arq tenant resume {id}` lets it in again"),
        globals,
    )
}

fn resume(id: &TenantId, globals: &Globals) -> Result {
    let record = with(globals, async |_, admin| {
        admin.resume(id).await.map_err(explain)
    })?;
    changed(&record, &format!("tenant {id} is active"), globals)
}

fn changed(record: &TenantRecord, note: &str, globals: &Globals) -> Result {
    if globals.output.json {
        return globals.output.object(&tenant_json(record));
    }
    globals.output.note(note);
    Ok(())
}

fn delete(id: &TenantId, force: bool, globals: &Globals) -> Result {
    if !force {
        // Whoever is asked should be asked about something that is there.
        with(globals, async |_, admin| {
            admin.show(id).await.map_err(explain)
        })?;
        if !globals
            .output
            .confirm(&format!("Delete tenant {id} and close its sessions?"))
        {
            return Err(Failure::new("nothing was deleted").hint("--force deletes without asking"));
        }
    }
    let record = with(globals, async |_, admin| {
        admin.delete(id).await.map_err(explain)
    })?;
    changed(&record, &format!("tenant {id} is deleted"), globals)
}
