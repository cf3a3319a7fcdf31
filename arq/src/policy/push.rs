//! `arq policy push`: a component into CONTROL, as a version that every Shield fetches.

use std::path::PathBuf;

use arqon_proto::v1::PolicyIsolation;
use arqon_spine::admin::Expected;
use clap::Args;
use serde_json::json;

use super::acks::{Acks, Table, Waiting};
use super::check::shape_json;
use super::component::{Component, tell};
use super::deploy::explain;
use super::local::Local;
use super::place;
use super::settings;
use crate::Globals;
use crate::admin::{by, with};
use crate::failure::{Failure, Result};

/// Store a component as the newest version of a policy; nothing is in force by it
///
/// It is checked and compiled here first. Then every live Shield fetches it, compiles it and runs
/// it once; what came of that is waited for and told. Exit code 1 where a Shield cannot have it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq policy push greeter.wasm --name greeter --note 'greets in French too'\n  arq policy push blocklist"
)]
pub(super) struct Push {
    /// The component, a core module, or the name of a shipped policy
    component: PathBuf,
    /// The policy's name [default: the file's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What is new in it, for people
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Try this configuration here before pushing: TOML, JSON, or any other file as it is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    waiting: Waiting,
}

/// Does what was asked.
pub(super) fn run(args: &Push, globals: &Globals) -> Result {
    let output = &globals.output;
    let component = Component::find(&args.component)?;
    let name = place::parse_name(args.name.as_deref().unwrap_or(&component.name))?;
    let shape = component.checked(output)?;
    if !output.json {
        tell(&shape.lints, false, output);
    }
    let local = Local::new()?;
    match &args.config {
        Some(file) => {
            let config = settings::read(file)?;
            let limits = place::limits(&Default::default());
            local.rehearse(&component, &config, &limits, PolicyIsolation::Binding)?;
        }
        None => {
            local.compile(&component.bytes)?;
        }
    }
    let (pushed, table) = with(globals, async |_, admin| {
        let mut acks = Acks::open(admin, &args.waiting).await?;
        let note = args
            .note
            .clone()
            .unwrap_or_else(|| component.note().unwrap_or_default());
        let pushed = admin
            .policies()
            .push_version(&name, &component.bytes, &by(), &note)
            .await
            .map_err(explain)?;
        if !output.json {
            output.note(format!(
                "{name} version {} {}: {}",
                pushed.version.number,
                if pushed.existed {
                    "was there already"
                } else {
                    "is stored"
                },
                component.digest()
            ));
        }
        acks.changed();
        let expected = Expected::Version(*component.digest().as_bytes());
        let table = acks.wait(&expected).await?;
        Ok((pushed, table))
    })?;
    let failed = table.as_ref().and_then(Table::problem);
    if output.json {
        let mut object = shape_json(&component, &shape);
        object["policy"] = name.as_str().into();
        object["version"] = pushed.version.number.into();
        object["existed"] = pushed.existed.into();
        object["shields"] = table.as_ref().map_or(json!(null), Table::json);
        output.object(&object)?;
    } else {
        if let Some(table) = &table {
            table.show(output)?;
        }
        if failed.is_none() {
            output.note(format!("next: arq policy bind {name} --tenant acme"));
        }
    }
    match failed {
        None => Ok(()),
        Some(problem) => Err(Failure::new(format!(
            "version {} of {name} is stored, but {problem}",
            pushed.version.number
        ))
        .hint("a Shield tries again every 10 s; `arq policy versions NAME` looks again")),
    }
}
