//! `arq dev`: a whole ArqonBus on this machine, for development.

mod children;
mod layout;
pub(crate) mod ports;
mod record;
mod telemetry;
mod up;

use std::time::Duration;

use clap::{Args, Subcommand};
use rustix::process::Signal;
use serde_json::json;

use self::ports::PortOptions;
use self::record::{Lock, Record};
use self::telemetry::TelemetryOptions;
use crate::Globals;
use crate::context::{Context, Settings};
use crate::failure::{Doing, Exit, Failure, Result};
use crate::output::Paint;

pub(crate) use children::find_brain;
pub(crate) use layout::development_issuer;

/// A whole ArqonBus on this machine, for development
#[derive(Debug, Args)]
pub(crate) struct Dev {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start NATS, Shield and Brain here, in the foreground; Ctrl-C stops them
    ///
    /// On first use this makes the folder `.arqon`: the keys, the configuration, the pool
    /// `default`, the tenants `acme` and `globex` and a key pair for tokens. Later starts find
    /// everything as it was. It serves 127.0.0.1 only.
    Up(UpArgs),
    /// Stop what `arq dev up` runs
    Down,
    /// Tell whether it runs, and where
    Status,
    /// Stop it and delete everything it made: keys, tenants, configuration, logs
    Reset {
        /// Do not ask
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
struct UpArgs {
    /// Run the programs themselves, as child processes; today the only way, and the default
    #[arg(long)]
    native: bool,
    /// Do not show the logs of the parts; they are kept in `.arqon/logs` all the same
    #[arg(long, short)]
    quiet: bool,
    /// How many Brains to run, 3 at most; they keep presence
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = brain_count)]
    brains: usize,
    /// Run no Brain: messages flow, presence is unavailable
    #[arg(long, conflicts_with = "brains")]
    no_brain: bool,
    #[command(flatten)]
    ports: PortOptions,
    #[command(flatten)]
    telemetry: TelemetryOptions,
}

fn brain_count(text: &str) -> std::result::Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| *count <= ports::MAX_BRAINS)
        .ok_or_else(|| format!("a number from 0 to {}", ports::MAX_BRAINS))
}

/// Does what was asked.
pub(crate) fn run(dev: Dev, globals: &Globals) -> Result {
    let context = globals.context()?;
    match dev.command {
        Command::Up(args) => {
            let brains = if args.no_brain { 0 } else { args.brains };
            globals.wait(Box::pin(up::run(
                context,
                args.ports,
                brains,
                &args.telemetry,
                args.quiet,
                globals,
            )))
        }
        Command::Down => {
            let stopped = stop(&context)?;
            if globals.output.json {
                return globals.output.object(&json!({"stopped": stopped}));
            }
            globals
                .output
                .note(if stopped { "stopped" } else { "nothing runs" });
            Ok(())
        }
        Command::Status => status(&context, globals),
        Command::Reset { force } => reset(&context, force, globals),
    }
}

/// Stops the running `arq dev up` of a folder, or what a killed one left behind.
fn stop(context: &Context) -> Result<bool> {
    let Some(record) = Record::read(context) else {
        return Ok(false);
    };
    if record.supervisor.alive() {
        record.supervisor.signal(Signal::TERM);
        if !record.supervisor.wait(Duration::from_secs(90)) {
            return Err(Failure::new(format!(
                "`arq dev up` (pid {}) does not stop",
                record.supervisor.pid
            ))
            .hint("its terminal shows what it waits for; a second Ctrl-C there kills the parts"));
        }
        return Ok(true);
    }
    Ok(record::stop_leftovers(context, &record) > 0)
}

fn status(context: &Context, globals: &Globals) -> Result {
    let running = Record::read(context).filter(|record| record.supervisor.alive());
    let settings = &context.settings;
    let output = &globals.output;
    if output.json {
        output.object(&json!({
            "running": running.is_some(),
            "pid": running.as_ref().map(|record| record.supervisor.pid),
            "parts": running.as_ref().map(|record| {
                record.children.iter()
                    .map(|child| json!({"name": child.name, "pid": child.pid, "running": child.alive()}))
                    .collect::<Vec<_>>()
            }).unwrap_or_default(),
            "shield_url": settings.shield_url,
            "admin_url": settings.admin_url,
            "nats": settings.nats,
            "nats_monitor": settings.nats_monitor,
            "folder": context.folder,
        }))?;
        return if running.is_some() {
            Ok(())
        } else {
            Err(Failure::told(Exit::Failed))
        };
    }
    let Some(record) = running else {
        return Err(Failure::new(format!(
            "no `arq dev up` runs in {}",
            context.folder.display()
        ))
        .hint("`arq dev up` starts it"));
    };
    let mut rows = vec![vec![
        "arq dev up".to_owned(),
        record.supervisor.pid.to_string(),
        "running".to_owned(),
    ]];
    for child in &record.children {
        let state = if child.alive() {
            output.paint(Paint::Green, "running")
        } else {
            output.paint(Paint::Red, "ended")
        };
        rows.push(vec![child.name.clone(), child.pid.to_string(), state]);
    }
    output.table(&["part", "pid", "state"], rows, "")?;
    output.line("")?;
    output.pairs(&[
        ("clients", settings.shield_url.clone()),
        ("metrics", format!("{}/metrics", settings.admin_url)),
        ("NATS", nats(settings)),
        ("folder", context.folder.display().to_string()),
    ])
}

/// Where NATS is, and where it tells of itself.
fn nats(settings: &Settings) -> String {
    let servers = settings.nats.join(", ");
    match &settings.nats_monitor {
        Some(monitor) => format!("{servers} (monitoring {monitor})"),
        None => servers,
    }
}

fn reset(context: &Context, force: bool, globals: &Globals) -> Result {
    let folder = context.folder.display();
    let made = layout::made_by_dev(context);
    if made.is_empty() {
        globals
            .output
            .note(format!("nothing to delete in {folder}"));
        return Ok(());
    }
    if !force
        && !globals
            .output
            .confirm(&format!("Delete all keys, tenants and logs in {folder}?"))
    {
        return Err(Failure::new("nothing was deleted").hint("--force deletes without asking"));
    }
    stop(context)?;
    let lock = Lock::take(context)?;
    if lock.is_none() {
        return Err(Failure::new("`arq dev up` still runs here").hint("`arq dev down` stops it"));
    }
    for path in &made {
        if path.is_dir() {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        }
        .doing(format!("cannot delete {}", path.display()))?;
    }
    // Only where nothing else was put into it.
    let _ = std::fs::remove_dir(&context.folder);
    if globals.output.json {
        return globals.output.object(&json!({"deleted": made}));
    }
    globals
        .output
        .note(format!("deleted what `arq dev up` made in {folder}"));
    Ok(())
}
