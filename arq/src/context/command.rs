//! `arq context`: several ArqonBus by name, so that one `arq` serves development and production.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Choice, Context, FILE, LOCAL, Registry, create_folder, write_private};
use crate::Globals;
use crate::auth::DevelopmentKey;
use crate::failure::{Doing, Failure, Result};
use crate::output::Paint;

/// Several ArqonBus by name: development here, production there
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq context add prod --shield-url wss://bus.example/v1/socket --token-file ~/prod.jwt\n  arq context add ops --folder /srv/arqon-admin\n  arq --context prod sub lobby\n  arq context use prod"
)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Give an ArqonBus a name: by its addresses, or by a folder that has them
    Add {
        /// Its name: 1 to 63 of a-z, 0-9 and -, not - at the ends
        name: String,
        /// A folder that `arq` uses already, such as an admin's with the Spine's keys
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
        #[command(flatten)]
        set: SettingOptions,
    },
    /// Change where a context leads
    Set {
        /// Its name
        name: String,
        #[command(flatten)]
        set: SettingOptions,
    },
    /// Commands that name no context go to this one from now on
    ///
    /// `local` stands for the nearest `.arqon` upward from the current folder, as in the beginning.
    Use {
        /// Its name, or `local`
        name: String,
    },
    /// Show all contexts, and which one is in use
    List,
    /// Show where a context leads
    Show {
        /// Its name [default: the one in use]
        name: Option<String>,
    },
    /// Forget a context; a folder that was given to it stays
    Remove {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long)]
        force: bool,
    },
}

/// What a context can be told.
#[derive(Debug, Args)]
#[command(next_help_heading = "Where it leads")]
struct SettingOptions {
    /// Where clients connect to Shield
    #[arg(long, value_name = "URL", value_parser = |url: &str| is_url(url, &["ws", "wss"]))]
    shield_url: Option<String>,
    /// Shield's admin listener
    #[arg(long, value_name = "URL", value_parser = |url: &str| is_url(url, &["http", "https"]))]
    admin_url: Option<String>,
    /// A NATS server, for what admins do; may be given again
    #[arg(long, value_name = "URL", value_parser = |url: &str| is_url(url, &["nats", "tls"]))]
    nats: Vec<String>,
    /// A NATS server's monitoring endpoint
    #[arg(long, value_name = "URL", value_parser = |url: &str| is_url(url, &["http", "https"]))]
    nats_monitor: Option<String>,
    /// File with the token that sessions are opened with; it is read each time
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of the authority that signed Shield's certificate
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The tenant where a command names none
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// The user of signed tokens where a command names none
    #[arg(long, value_name = "ID")]
    user: Option<String>,
}

fn is_url(text: &str, schemes: &[&str]) -> std::result::Result<String, String> {
    let has_host = |rest: &str| {
        !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    match text.split_once("://") {
        Some((scheme, rest)) if schemes.contains(&scheme) && has_host(rest) => Ok(text.to_owned()),
        _ => Err(format!(
            "a URL with {}:// is wanted",
            schemes.join(":// or ")
        )),
    }
}

impl SettingOptions {
    fn is_empty(&self) -> bool {
        self.shield_url.is_none()
            && self.admin_url.is_none()
            && self.nats.is_empty()
            && self.nats_monitor.is_none()
            && self.token_file.is_none()
            && self.ca_file.is_none()
            && self.tenant.is_none()
            && self.user.is_none()
    }

    fn apply(self, context: &mut Context) -> Result {
        let settings = &mut context.settings;
        if let Some(url) = self.shield_url {
            settings.shield_url = url;
        }
        if let Some(url) = self.admin_url {
            settings.admin_url = url;
        }
        if !self.nats.is_empty() {
            settings.nats = self.nats;
        }
        if let Some(url) = self.nats_monitor {
            settings.nats_monitor = Some(url);
        }
        if let Some(file) = self.token_file {
            settings.token_file = Some(readable(&file)?);
        }
        if let Some(file) = self.ca_file {
            settings.ca_file = Some(readable(&file)?);
        }
        if let Some(tenant) = self.tenant {
            settings.default_tenant = crate::tenant::parse(&tenant)?.to_string();
        }
        if let Some(user) = self.user {
            settings.default_user = user;
        }
        Ok(())
    }
}

/// The whole path of a file that can be read now.
fn readable(file: &Path) -> Result<PathBuf> {
    let opened = std::fs::File::open(file).doing(format!("cannot read {}", file.display()))?;
    if opened.metadata()?.is_dir() {
        return Err(Failure::usage(format!("{} is a folder", file.display()))
            .hint("name the file within it"));
    }
    Ok(std::path::absolute(file)?)
}

/// Does what was asked.
pub(crate) fn run(args: ContextArgs, globals: &Globals) -> Result {
    match args.command {
        Command::Add { name, folder, set } => add(&name, folder, set, globals),
        Command::Set { name, set } => change(&name, set, globals),
        Command::Use { name } => select(&name, globals),
        Command::List => list(globals),
        Command::Show { name } => show(name, globals),
        Command::Remove { name, force } => remove(&name, force, globals),
    }
}

fn add(name: &str, folder: Option<PathBuf>, set: SettingOptions, globals: &Globals) -> Result {
    parse(name)?;
    let mut registry = Registry::read()?;
    if registry.has(name) {
        return Err(Failure::new(format!("there is a context `{name}` already"))
            .hint(format!("`arq context set {name}` changes it")));
    }
    let given = folder.is_some();
    let folder = match folder {
        Some(folder) if folder.is_dir() => std::path::absolute(folder)?,
        Some(folder) => {
            return Err(
                Failure::new(format!("there is no folder {}", folder.display()))
                    .hint("name one with a context.toml, such as the `.arqon` of `arq dev up`"),
            );
        }
        None if set.shield_url.is_none() && set.nats.is_empty() => {
            return Err(Failure::usage(format!("where is `{name}`?")).hint(
                "--shield-url URL for sessions, --nats URL for an admin, or --folder DIR of a context that is there",
            ));
        }
        None => registry.own_folder(name),
    };
    let mut context = Context::read(Some(name.to_owned()), folder.clone())?;
    if !given {
        create_folder(&folder)?;
    }
    if !set.is_empty() {
        set.apply(&mut context)?;
        save(&context)?;
    }
    registry.add(name, folder)?;
    tell(&context, "is added", globals)
}

/// Only its owner may read where it leads.
fn save(context: &Context) -> Result {
    context.save()?;
    let file = context.folder.join(FILE);
    let text = std::fs::read(&file).doing(format!("cannot read {}", file.display()))?;
    write_private(&file, &text)
}

fn change(name: &str, set: SettingOptions, globals: &Globals) -> Result {
    if set.is_empty() {
        return Err(Failure::usage("nothing to change was named")
            .hint("`arq context set --help` lists what can be"));
    }
    let folder = Registry::read()?.folder(name)?;
    let mut context = Context::read(Some(name.to_owned()), folder)?;
    set.apply(&mut context)?;
    save(&context)?;
    tell(&context, "is changed", globals)
}

fn tell(context: &Context, what: &str, globals: &Globals) -> Result {
    let name = context.name.as_deref().unwrap_or(LOCAL);
    if globals.output.json {
        return globals.output.object(&as_json(name, context, false));
    }
    globals.output.note(format!(
        "context {name} {what}: {}; try `arq --context {name} doctor`, or `arq context use {name}`",
        context.settings.shield_url
    ));
    Ok(())
}

fn select(name: &str, globals: &Globals) -> Result {
    let mut registry = Registry::read()?;
    registry.select(name)?;
    let context = Context::load(&Choice {
        state: None,
        name: Some(name.to_owned()),
    })?;
    if globals.output.json {
        return globals.output.object(&as_json(name, &context, true));
    }
    globals
        .output
        .note(format!("commands go to {} from now on", context.place()));
    Ok(())
}

fn list(globals: &Globals) -> Result {
    let registry = Registry::read()?;
    let current = registry.current().unwrap_or(LOCAL);
    let mut contexts = vec![(LOCAL, Context::local(&Choice::default()))];
    contexts.extend(registry.all().map(|(name, folder)| {
        (
            name,
            Context::read(Some(name.to_owned()), folder.to_owned()),
        )
    }));
    if globals.output.json {
        let all: Vec<Value> = contexts
            .iter()
            .map(|(name, context)| match context {
                Ok(context) => as_json(name, context, *name == current),
                Err(failure) => {
                    json!({"name": name, "in_use": *name == current, "error": failure.message})
                }
            })
            .collect();
        return globals.output.object(&all);
    }
    let rows = contexts
        .iter()
        .map(|(name, context)| {
            let mark = if *name == current { "*" } else { "" };
            let mut row = vec![mark.to_owned(), (*name).to_owned()];
            row.extend(match context {
                Ok(context) => vec![
                    context.settings.shield_url.clone(),
                    context.settings.default_tenant.clone(),
                    powers(context).join(", "),
                ],
                Err(failure) => vec![
                    globals.output.paint(Paint::Red, &failure.message),
                    String::new(),
                    String::new(),
                ],
            });
            row
        })
        .collect();
    globals
        .output
        .table(&["", "context", "shield", "tenant", "has"], rows, "")
}

/// What commands can do with what is in the folder.
fn powers(context: &Context) -> Vec<&'static str> {
    let mut powers = Vec::new();
    if context.spine_folder().is_dir() {
        powers.push("admin's keys");
    }
    if DevelopmentKey::exists(context) {
        powers.push("development key");
    }
    if context.settings.token_file.is_some() {
        powers.push("token");
    }
    powers
}

fn as_json(name: &str, context: &Context, in_use: bool) -> Value {
    let settings = &context.settings;
    json!({
        "name": name,
        "in_use": in_use,
        "folder": context.folder,
        "shield_url": settings.shield_url,
        "admin_url": settings.admin_url,
        "nats": settings.nats,
        "nats_monitor": settings.nats_monitor,
        "tenant": settings.default_tenant,
        "user": settings.default_user,
        "token_file": settings.token_file,
        "ca_file": settings.ca_file,
        "has_admin_keys": context.spine_folder().is_dir(),
        "has_development_key": DevelopmentKey::exists(context),
    })
}

fn show(name: Option<String>, globals: &Globals) -> Result {
    let registry = Registry::read()?;
    let current = registry.current().unwrap_or(LOCAL).to_owned();
    let context = match name {
        Some(name) => Context::load(&Choice {
            state: None,
            name: Some(name),
        })?,
        None => globals.context()?,
    };
    let name = context.name.as_deref().unwrap_or(LOCAL);
    let in_use = name == current;
    if globals.output.json {
        return globals.output.object(&as_json(name, &context, in_use));
    }
    let settings = &context.settings;
    let file = |file: &Option<PathBuf>| {
        file.as_ref()
            .map(|file| file.display().to_string())
            .unwrap_or_default()
    };
    let has = powers(&context);
    globals.output.pairs(&[
        (
            "context",
            format!("{name}{}", if in_use { " (in use)" } else { "" }),
        ),
        ("folder", context.folder.display().to_string()),
        ("shield", settings.shield_url.clone()),
        ("admin listener", settings.admin_url.clone()),
        ("NATS", settings.nats.join(", ")),
        (
            "NATS monitoring",
            settings.nats_monitor.clone().unwrap_or_default(),
        ),
        ("tenant", settings.default_tenant.clone()),
        ("user", settings.default_user.clone()),
        ("token file", file(&settings.token_file)),
        ("authority", file(&settings.ca_file)),
        ("has", has.join(", ")),
    ])
}

fn remove(name: &str, force: bool, globals: &Globals) -> Result {
    let mut registry = Registry::read()?;
    let folder = registry.folder(name)?;
    let shared = registry
        .all()
        .any(|(other, place)| other != name && place == folder);
    let own = folder == registry.own_folder(name) && !shared;
    if own
        && !force
        && !globals.output.confirm(&format!(
            "Delete the context {name} and {}?",
            folder.display()
        ))
    {
        return Err(Failure::new("nothing was deleted").hint("--force deletes without asking"));
    }
    registry.remove(name)?;
    if own && folder.exists() {
        std::fs::remove_dir_all(&folder).doing(format!("cannot delete {}", folder.display()))?;
    }
    if globals.output.json {
        return globals
            .output
            .object(&json!({"name": name, "removed": true, "folder_deleted": own}));
    }
    globals.output.note(format!(
        "context {name} is forgotten{}",
        if own {
            String::new()
        } else {
            format!("; {} stays as it is", folder.display())
        }
    ));
    Ok(())
}

fn parse(name: &str) -> Result {
    if name == LOCAL {
        return Err(
            Failure::usage("`local` is the nearest `.arqon`, and no other context")
                .hint("give it another name"),
        );
    }
    arqon_proto::names::NodeId::parse(name)
        .map(|_| ())
        .map_err(|error| {
            Failure::usage(format!("`{name}` is no name of a context: {error}"))
                .hint("use 1 to 63 of a-z, 0-9 and -, not - at the ends")
        })
}
