//! `arq`, the command line tool of ArqonBus for developers and operators.
//!
//! One file per noun: each holds what its command takes (clap) and what it does. Data goes to
//! stdout, all else to stderr. Exit codes: 0 done, 1 failed, 2 typed wrongly, 64 the manifest
//! does not hold.

mod admin;
mod auth;
mod bench;
mod completions;
mod config;
mod context;
mod decode;
mod dev;
mod doctor;
mod duration;
mod failure;
mod frame_json;
mod help;
mod http;
mod man;
mod misread;
mod nearest;
mod otlp;
mod output;
mod policy;
mod pool;
mod presence;
mod progress;
mod publish;
mod session;
mod sessions;
mod shields;
mod size;
mod spine;
mod status;
mod stops;
mod sub;
mod tenant;
mod trace;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::context::{Choice, Context};
use crate::failure::Result;
use crate::otlp::Otlp;
use crate::output::Output;

/// The command line tool of ArqonBus: run it, see into it, keep its tenants.
///
/// Start with `arq dev up` (or `arq dev up --native`, without Docker), then try `arq sub lobby` and `arq pub lobby hello`.
#[derive(Debug, Parser)]
#[command(
    name = "arq",
    version,
    about,
    max_term_width = 100,
    disable_help_subcommand = true
)]
struct Cli {
    /// The folder of this ArqonBus [default: the nearest `.arqon` upward]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    state: Option<PathBuf>,
    /// The context to speak to [default: the one in use, see `arq context list`]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        conflicts_with = "state",
        help_heading = "Global options"
    )]
    context: Option<String>,
    /// Print JSON instead of text; its fields are stable
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// Send a trace of this command to a receiver of OTLP: gRPC, or HTTP where the URL has a path
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help_heading = "Global options"
    )]
    otlp: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Dev),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Sub(sub::Sub),
    Pub(publish::Publish),
    Presence(presence::Presence),
    Trace(trace::Trace),
    Decode(decode::Decode),
    Auth(auth::Auth),
    Context(context::ContextArgs),
    Session(sessions::Session),
    Tenant(tenant::Tenant),
    Pool(pool::Pool),
    Policy(policy::Policy),
    Spine(spine::Spine),
    Config(config::Config),
    Bench(bench::Bench),
    Completions(completions::Completions),
    Man(man::ManArgs),
    Version(version::Version),
    Help(help::Help),
}

/// What every command is given.
#[derive(Debug)]
struct Globals {
    /// Which context was named.
    choice: Choice,
    /// How to print.
    output: Output,
    /// The trace of the command.
    otlp: Otlp,
}

impl Globals {
    /// Reads the context.
    fn context(&self) -> Result<Context> {
        Context::load(&self.choice)
    }

    /// Reads the context of this machine's own ArqonBus, whichever is in use.
    fn local_context(&self) -> Result<Context> {
        Context::local(&self.choice)
    }

    /// Runs what waits for the network.
    fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        // The one provider of the workspace; a second call finds it installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?
            .block_on(async {
                let traced = self.otlp.begin()?;
                let outcome = work.await;
                if let Some(traced) = traced {
                    self.otlp.end(traced, &outcome, &self.output).await;
                }
                outcome
            })
    }
}

fn main() -> ExitCode {
    // Not for people, so not for clap either: what compiles policies starts itself with this word.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == policy::COMPILE)
    {
        return arqon_policy::compile::child_main();
    }
    // clap has rules of its own: it colours a dumb terminal where CI is set.
    let colour = if output::colours_wanted() {
        clap::ColorChoice::Auto
    } else {
        clap::ColorChoice::Never
    };
    let parsed = Cli::command().color(colour).try_get_matches();
    let parsed = parsed.and_then(|words| Ok((name_of(&words), Cli::from_arg_matches(&words)?)));
    let (command, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return misread::told(&error),
    };
    let globals = Globals {
        choice: Choice {
            state: cli.state,
            name: cli.context,
        },
        output: Output::new(cli.json),
        otlp: Otlp::new(cli.otlp, command),
    };
    let outcome = match cli.command {
        Command::Dev(args) => dev::run(args, &globals),
        Command::Status(args) => status::run(&args, &globals),
        Command::Doctor(args) => doctor::run(&args, &globals),
        Command::Sub(args) => sub::run(&args, &globals),
        Command::Pub(args) => publish::run(&args, &globals),
        Command::Presence(args) => presence::run(&args, &globals),
        Command::Trace(args) => trace::run(&args, &globals),
        Command::Decode(args) => decode::run(&args, &globals),
        Command::Auth(args) => auth::run(args, &globals),
        Command::Context(args) => context::run(args, &globals),
        Command::Session(args) => sessions::run(args, &globals),
        Command::Tenant(args) => tenant::run(args, &globals),
        Command::Pool(args) => pool::run(args, &globals),
        Command::Policy(args) => policy::run(args, &globals),
        Command::Spine(args) => spine::run(args, &globals),
        Command::Config(args) => config::run(args, &globals),
        Command::Bench(args) => bench::run(args, &globals),
        Command::Completions(args) => completions::run(&args, &globals),
        Command::Man(args) => man::run(&args, &globals),
        Command::Version(args) => version::run(&args, &globals),
        Command::Help(args) => help::run(&args, &globals),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            globals.output.failure(&failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Every command, with the words that lead to it.
fn command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// The words of a command, such as `arq tenant create`.
fn name_of(mut words: &clap::ArgMatches) -> String {
    let mut name = "arq".to_owned();
    while let Some((word, rest)) = words.subcommand() {
        name.push(' ');
        name.push_str(word);
        words = rest;
    }
    name
}
