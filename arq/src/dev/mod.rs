//! `arq dev`: a whole ArqonBus on this machine, for development.

mod children;
mod compose;
mod init;
mod layout;
mod logs;
mod open;
pub(crate) mod ports;
mod record;
mod restart;
mod telemetry;
mod up;

use std::time::Duration;

use clap::{Args, Subcommand};
use rustix::process::Signal;
use serde_json::json;

use self::compose::{Profile, Stack};
use self::ports::PortOptions;
use self::record::{Lock, Record};
use self::telemetry::TelemetryOptions;
use crate::Globals;
use crate::context::{Context, Settings};
use crate::failure::{Doing, Exit, Failure, Result};
use crate::nearest::nearest;
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
    /// Start a whole ArqonBus: by Docker Compose, or with --native without Docker
    ///
    /// On first use this makes the keys, the configuration, the pool `default`, the tenants `acme`
    /// and `globex` and a key pair for tokens, and puts what `arq` needs into the folder `.arqon`.
    /// Later starts find everything as it was. It serves 127.0.0.1 only. By Compose it starts
    /// everything, waits until it is ready, and returns; with --native it runs NATS, Shield and
    /// Brain in the foreground, until Ctrl-C.
    Up(UpArgs),
    /// Stop what `arq dev up` runs; what it keeps stays
    Down,
    /// Restart parts, or all of them, and wait until they are ready
    Restart {
        /// The parts, such as `shield`; `arq dev status` shows their names [default: all]
        parts: Vec<String>,
    },
    /// Show what the parts say
    Logs {
        /// The parts [default: all]
        parts: Vec<String>,
        /// Go on as they say more, until Ctrl-C
        #[arg(long, short)]
        follow: bool,
        /// The last N lines of each [default: all]
        #[arg(long, value_name = "N")]
        lines: Option<usize>,
    },
    /// Make the keys, and what each part in a container reads; what is there stays
    ///
    /// The one-shots `init` and `tenants` of `compose.yaml` run it, so nobody has to.
    Init(init::InitArgs),
    /// Tell whether it runs, and where
    Status,
    /// Show a console in the browser: join rooms, send, see messages and who is there
    ///
    /// Serves the page on 127.0.0.1 until Ctrl-C. The address that it prints holds a key to
    /// development tokens; each start has a new one. Without a bus it waits for one.
    Open(open::Open),
    /// Stop it and delete everything it made: keys, tenants, configuration, logs
    Reset {
        /// Do not ask
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
struct UpArgs {
    /// Run the programs themselves, as child processes, without Docker
    #[arg(long, conflicts_with = "profile")]
    native: bool,
    /// How much to start by Compose [default: full, or as it was started before]
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Do not show the logs of the parts, or the progress of Compose
    #[arg(long, short)]
    quiet: bool,
    /// With --native: how many Brains to run, 3 at most; they keep presence
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = brain_count, requires = "native")]
    brains: usize,
    /// With --native: run no Brain; messages flow, presence is unavailable
    #[arg(long, conflicts_with = "brains", requires = "native")]
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
    let context = globals.local_context()?;
    match dev.command {
        Command::Up(args) => up(context, args, globals),
        Command::Down => {
            let stopped = match Stack::read(&context) {
                Some(stack) => stack.down()?,
                None => stop(&context)?,
            };
            if globals.output.json {
                return globals.output.object(&json!({"stopped": stopped}));
            }
            globals
                .output
                .note(if stopped { "stopped" } else { "nothing runs" });
            Ok(())
        }
        Command::Restart { parts } => {
            let restarted = match Stack::read(&context) {
                Some(stack) => stack.restart(&parts)?,
                None => restart::run(&context, &parts)?,
            };
            if globals.output.json {
                return globals.output.object(&json!({"restarted": restarted}));
            }
            globals
                .output
                .note(format!("restarted {}", restarted.join(", ")));
            Ok(())
        }
        Command::Logs {
            parts,
            follow,
            lines,
        } => match Stack::read(&context) {
            Some(stack) => stack.logs(&parts, follow, lines, &globals.output),
            None => logs::run(&context, &parts, follow, lines, &globals.output),
        },
        Command::Status => match Stack::read(&context) {
            Some(stack) => stack.status(&context, &globals.output),
            None => status(&context, globals),
        },
        Command::Init(args) => init::run(context, &args, globals),
        Command::Open(args) => open::run(&args, &context, globals),
        Command::Reset { force } => reset(&context, force, globals),
    }
}

fn up(context: Context, args: UpArgs, globals: &Globals) -> Result {
    let runs = Record::read(&context).is_some_and(|record| record.supervisor.alive());
    if runs {
        return up::already_up(&context, &globals.output);
    }
    if !args.native {
        if args.telemetry.any() {
            return Err(
                Failure::usage("--otlp-traces and --otlp-metrics are for --native")
                    .hint("by Compose, --profile full has Jaeger and Prometheus"),
            );
        }
        return compose::up(
            context,
            args.profile,
            args.ports,
            args.quiet,
            &globals.output,
        );
    }
    if Stack::read(&context).is_some() {
        return Err(Failure::new(format!(
            "{} has the state of an ArqonBus in Docker",
            context.folder.display()
        ))
        .hint(
            "`arq dev up` starts it, `arq dev reset` deletes it, --state DIR names another folder",
        ));
    }
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

/// Whether all parts that were named are there.
fn known(named: &[String], there: &[String]) -> Result {
    for name in named {
        if !there.contains(name) {
            let near = nearest(name, there.iter().map(String::as_str));
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", there.join(", ")),
            };
            return Err(Failure::usage(format!("there is no part `{name}`")).hint(hint));
        }
    }
    Ok(())
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
    // Else the record that goes here could be that of an `arq dev up` which just begins.
    let Some(_lock) = Lock::take(context)? else {
        return Err(
            Failure::new("`arq dev up` is about to start here").hint("try again when it runs")
        );
    };
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
        if globals.output.json {
            return globals.output.object(&json!({"deleted": made}));
        }
        globals
            .output
            .note(format!("nothing to delete in {folder}"));
        return Ok(());
    }
    let stack = Stack::read(context);
    // Docker has one such project on a machine, whichever folder started it.
    let volumes = match &stack {
        Some(_) => ", and the volumes of the Compose project arqonbus of this machine",
        None => "",
    };
    if !force
        && !globals.output.confirm(&format!(
            "Delete all keys, tenants and logs in {folder}{volumes}?"
        ))
    {
        return Err(Failure::new("nothing was deleted").hint("--force deletes without asking"));
    }
    match stack {
        Some(stack) => stack.reset()?,
        None => {
            stop(context)?;
        }
    }
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
