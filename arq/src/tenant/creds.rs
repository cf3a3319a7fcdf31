//! Credentials with which a person looks into one tenant by any NATS tool.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::parse;
use crate::Globals;
use crate::admin::{audit, explain, with};
use crate::context::write_private;
use crate::duration::words;
use crate::failure::{Failure, Result};

/// Longer ones belong to no person.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// Write a short-lived NATS credentials file, to look into a tenant with any NATS tool
#[derive(Debug, Args)]
pub(super) struct CredsArgs {
    /// The tenant
    id: String,
    /// May publish too, as any user of this tenant
    #[arg(long)]
    write: bool,
    /// How long they hold
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = crate::duration::parse)]
    ttl: Duration,
    /// Where to, `-` for stdout [default: ./<tenant>.creds]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Does what was asked.
pub(super) fn run(args: &CredsArgs, globals: &Globals) -> Result {
    let id = parse(&args.id)?;
    if args.ttl > LONGEST {
        return Err(
            Failure::usage("--ttl is over 7 days").hint("make new ones when these have expired")
        );
    }
    let output = &globals.output;
    let (user, servers, spine_folder) = with(globals, async |context, admin| {
        let user = admin
            .creds(&id, args.write, args.ttl)
            .await
            .map_err(explain)?;
        Ok((user, context.settings.nats.clone(), context.spine_folder()))
    })?;
    let text = user
        .to_creds()
        .ok_or_else(|| Failure::new("the minted user has no seed"))?;
    let entry = json!({
        "action": "tenant creds",
        "tenant": id.as_str(),
        "write": args.write,
        "user": user.public_key,
        "ttl_secs": args.ttl.as_secs(),
    });
    if let Some(entry) = entry.as_object() {
        audit(&spine_folder, entry.clone())?;
    }
    if args.write {
        output.warn(format!(
            "these may publish as any user of {id}, past every check of Shield; this was written to the audit log"
        ));
    }
    if args
        .out
        .as_deref()
        .is_some_and(|file| file.as_os_str() == "-")
    {
        return output.line(text.trim_end());
    }
    let file = args.out.clone().unwrap_or_else(|| {
        PathBuf::from(format!(
            "{id}{}.creds",
            if args.write { "-write" } else { "" }
        ))
    });
    write_private(&file, text.as_bytes())?;
    if output.json {
        return output.object(&json!({
            "file": file,
            "tenant": id.as_str(),
            "write": args.write,
            "user": user.public_key,
            "ttl_secs": args.ttl.as_secs(),
            "servers": servers,
        }));
    }
    output.line(file.display().to_string())?;
    let may = if args.write {
        "reads and writes"
    } else {
        "reads"
    };
    output.note(format!(
        "it {may} {id}.> for {}; with the nats tool:",
        words(args.ttl.as_secs())
    ));
    output.note(format!(
        "  nats --server {} --creds {} sub '{id}.>'",
        servers
            .first()
            .map_or("nats://127.0.0.1:4222", String::as_str),
        file.display()
    ));
    Ok(())
}
