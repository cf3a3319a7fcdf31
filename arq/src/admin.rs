//! The connection of commands that change or read the control plane.

use std::path::Path;

use arqon_spine::admin::{Admin, AdminError};
use arqon_spine::control::ControlError;
use serde_json::Value;

use crate::Globals;
use crate::context::Context;
use crate::duration::{moment, now_secs};
use crate::failure::{Doing, Failure, Result};

/// Opens the connection with the keys of the state folder.
pub(crate) async fn connect(context: &Context) -> Result<Admin> {
    let state = context.spine_state()?;
    Admin::connect(&state, &context.settings.nats)
        .await
        .map_err(|error| {
            let failure = Failure::from(error);
            Failure::new(format!(
                "cannot reach NATS at {}: {}",
                context.settings.nats.join(", "),
                failure.message
            ))
            .hint("does it run? `arq dev up` starts it, `arq doctor` checks each hop")
        })
}

/// Runs one piece of work over such a connection, and closes it.
pub(crate) fn with<T>(
    globals: &Globals,
    work: impl AsyncFnOnce(&Context, &Admin) -> Result<T>,
) -> Result<T> {
    globals.wait(async {
        let context = globals.context()?;
        let admin = Box::pin(connect(&context)).await?;
        let outcome = Box::pin(work(&context, &admin)).await;
        admin.close().await;
        outcome
    })
}

/// An error of the control plane, with what can be done about it.
pub(crate) fn explain(error: AdminError) -> Failure {
    let hint = match &error {
        AdminError::NoTenant { .. } => Some("`arq tenant list` shows all tenants"),
        AdminError::NoPool { .. } => {
            Some("`arq pool list` shows all pools, `arq pool create` makes one")
        }
        AdminError::ShieldsBehind { .. } => Some(
            "copy the key file to their hosts (its path was printed), then run this again; until then both keys work",
        ),
        AdminError::Control(ControlError::Bucket { .. }) => Some(
            "is this server new? `arq pool create default` makes what it misses; else its JetStream store is lost",
        ),
        _ => None,
    };
    let failure = Failure::from(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Who changes something, for people.
pub(crate) fn by() -> String {
    let user =
        std::env::var("USER").unwrap_or_else(|_| rustix::process::getuid().as_raw().to_string());
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    format!("{user}@{host}")
}

/// Appends a line to the audit log of the state folder.
pub(crate) fn audit(spine_folder: &Path, mut entry: serde_json::Map<String, Value>) -> Result {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = spine_folder.join("audit.log");
    entry.insert("at".to_owned(), moment(now_secs()).into());
    let who =
        std::env::var("USER").unwrap_or_else(|_| rustix::process::getuid().as_raw().to_string());
    entry.insert("by".to_owned(), who.into());
    // In one call: who is killed between two would spoil the next line too.
    let line = serde_json::to_string(&entry)? + "\n";
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&file)
        .and_then(|mut log| log.write_all(line.as_bytes()))
        .doing(format!("cannot write {}", file.display()))
}
