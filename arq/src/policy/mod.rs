//! `arq policy`: Wasm policies, from an empty folder to every Shield.
//!
//! Offline commands need nothing but a file: [`new`], [`build`], [`check`], [`test`], [`bench`].
//! The others change or read CONTROL; whatever they bind runs here first ([`local`]), and what
//! Shields make of it is waited for and told ([`acks`]).

mod acks;
mod add;
mod bench;
mod bind;
mod build;
mod cases;
mod check;
mod component;
mod deploy;
mod junit;
mod list;
mod local;
mod logs;
mod new;
mod overview;
mod place;
mod push;
mod settings;
mod test;
mod version;

use clap::{Args, Subcommand};

use crate::Globals;
use crate::failure::Result;

pub(crate) use local::COMPILE;
pub(crate) use overview::{Overview, counts_json};

/// Policies: what may be published, decided by Wasm components in every Shield
///
/// `add` puts a ready-made one in force in one command. To write one: `new`, `build`, `check`,
/// `test`, `push`, `bind`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq policy add blocklist --words malware,virus --platform\n  arq policy list\n  arq policy new greeter --lang rust"
)]
pub(crate) struct Policy {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(Box<add::Add>),
    List(list::List),
    Show(list::Show),
    Versions(list::Versions),
    Bind(Box<bind::Bind>),
    Unbind(bind::Unbind),
    Rollback(bind::Rollback),
    Push(push::Push),
    Logs(logs::Logs),
    New(new::New),
    Build(build::Build),
    Check(check::Check),
    Test(test::Test),
    Bench(bench::Bench),
}

/// Does what was asked.
pub(crate) fn run(policy: Policy, globals: &Globals) -> Result {
    match policy.command {
        Command::Add(args) => add::run(&args, globals),
        Command::List(args) => list::list(&args, globals),
        Command::Show(args) => list::show(&args, globals),
        Command::Versions(args) => list::versions(&args, globals),
        Command::Bind(args) => bind::bind(&args, globals),
        Command::Unbind(args) => bind::unbind(&args, globals),
        Command::Rollback(args) => bind::rollback(&args, globals),
        Command::Push(args) => push::run(&args, globals),
        Command::Logs(args) => logs::run(&args, globals),
        Command::New(args) => new::run(&args, globals),
        Command::Build(args) => build::run(&args, globals),
        Command::Check(args) => check::run(&args, globals),
        Command::Test(args) => test::run(&args, globals),
        Command::Bench(args) => bench::run(&args, globals),
    }
}
