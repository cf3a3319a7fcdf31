//! `arq policy bind`, `unbind` and `rollback`: what is in force where.

use std::path::PathBuf;

use arqon_spine::admin::{Admin, PolicyChange, PolicyError};
use arqon_spine::control::PolicyKey;
use clap::Args;

use super::acks::{Acks, Waiting};
use super::deploy::{self, Wish, explain};
use super::place::{self, Manner, Scope, typed};
use super::settings;
use super::version::Version;
use crate::Globals;
use crate::admin::{by, with};
use crate::failure::Result;

/// Put a version of a policy in force, or change how it is
///
/// The configuration is tried here first; what every Shield makes of it is waited for and told. If
/// it fails on a live Shield it is taken back. Of a binding that is there already, what is not
/// named stays as it is, but for the version.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq policy bind greeter --tenant acme --config greeter.toml --room 'public.*'\n  arq policy bind greeter --tenant acme --version current --shadow=false"
)]
pub(super) struct Bind {
    /// The policy
    policy: String,
    #[command(flatten)]
    scope: Scope,
    /// The version: a number, the beginning of a digest, `newest`, or `current`: the one bound now
    #[arg(
        long,
        value_name = "VERSION",
        default_value = "newest",
        help_heading = "Binding"
    )]
    version: Version,
    /// The binding's name [default: the policy's]
    #[arg(long, value_name = "NAME", help_heading = "Binding")]
    name: Option<String>,
    /// The configuration: TOML or JSON, given as JSON; any other file as it is
    #[arg(long, value_name = "FILE", help_heading = "Binding")]
    config: Option<PathBuf>,
    #[command(flatten)]
    manner: Manner,
    #[command(flatten)]
    waiting: Waiting,
}

/// End a binding: its policy judges no more messages
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  arq policy unbind blocklist --tenant acme")]
pub(super) struct Unbind {
    /// The binding's name
    name: String,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    waiting: Waiting,
}

/// Put back the version and the configuration that were in force before
///
/// Again: those before them. A binding remembers ten. If it fails on a live Shield it is taken back.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  arq policy rollback blocklist --tenant acme")]
pub(super) struct Rollback {
    /// The binding's name
    name: String,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    waiting: Waiting,
}

/// Does what was asked.
pub(super) fn bind(args: &Bind, globals: &Globals) -> Result {
    let policy = place::parse_name(&args.policy)?;
    let key = args
        .scope
        .key(args.name.as_deref().unwrap_or(policy.as_str()))?;
    let config = args.config.as_deref().map(settings::read).transpose()?;
    let wish = Wish {
        key,
        policy,
        component: None,
        version: Some(&args.version),
        config,
        manner: &args.manner,
    };
    deploy::run(wish, &args.waiting, globals)
}

/// Does what was asked.
pub(super) fn unbind(args: &Unbind, globals: &Globals) -> Result {
    let key = args.scope.key(&args.name)?;
    let hint = "it goes on judging there until that Shield hears of it";
    change(&key, &args.waiting, globals, hint, async |admin| {
        admin.policies().unbind(&key, None).await
    })
}

/// Does what was asked.
pub(super) fn rollback(args: &Rollback, globals: &Globals) -> Result {
    let key = args.scope.key(&args.name)?;
    let hint = format!("`arq policy show {}` shows what is in force", typed(&key));
    change(&key, &args.waiting, globals, &hint, async |admin| {
        admin.policies().rollback(&key, &by(), None).await
    })
}

/// Makes a change and follows it on every Shield.
fn change(
    key: &PolicyKey,
    waiting: &Waiting,
    globals: &Globals,
    hint: &str,
    work: impl AsyncFnOnce(&Admin) -> Result<PolicyChange, PolicyError>,
) -> Result {
    let output = &globals.output;
    let outcome = with(globals, async |_, admin| {
        let mut acks = Acks::open(admin, waiting).await?;
        let change = work(admin).await.map_err(explain)?;
        acks.changed();
        if !output.json {
            output.note(match &change.after {
                None => format!("{key} is unbound"),
                Some(binding) => {
                    format!(
                        "{key} is version {} of {} again",
                        binding.version, binding.policy
                    )
                }
            });
        }
        deploy::see_through(change, admin, &mut acks, output).await
    })?;
    outcome.tell(output, hint)
}
