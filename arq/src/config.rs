//! `arq config`: the node's manifest.

use std::path::{Path, PathBuf};

use arqon_spine::manifest::{self, Problem};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use crate::Globals;
use crate::failure::{Doing, Exit, Failure, Result};
use crate::output::{Paint, counted};

/// The manifest of a node, config.toml
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented manifest with every key
    Init {
        /// Where to, `-` for stdout [default: the context's config.toml, or brain.toml there]
        file: Option<PathBuf>,
        /// What the node is
        #[arg(long, value_enum, default_value = "shield")]
        role: Role,
        /// The node's id [default: shield-1 or brain-1]
        #[arg(long)]
        id: Option<String>,
        /// Overwrite the file
        #[arg(long)]
        force: bool,
    },
    /// Report every mistake of a manifest; exit 64 if there is one
    Check {
        /// The manifest [default: the context's config.toml]
        file: Option<PathBuf>,
        /// Judge the text only, not the files it names
        #[arg(long)]
        text_only: bool,
    },
    /// Show the values in force, defaults included
    Show {
        /// The manifest [default: the context's config.toml]
        file: Option<PathBuf>,
    },
    /// Print the reference of all keys as Markdown
    Docs,
}

/// The kinds of node that have a manifest.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    /// Holds the sessions of clients
    Shield,
    /// Keeps presence
    Brain,
}

/// Does what was asked.
pub(crate) fn run(config: Config, globals: &Globals) -> Result {
    match config.command {
        Command::Init {
            file,
            role,
            id,
            force,
        } => init(file, role, id, force, globals),
        Command::Check { file, text_only } => check(&chosen(file, globals)?, text_only, globals),
        Command::Show { file } => show(&chosen(file, globals)?, globals),
        Command::Docs if globals.output.json => globals.output.object(&reference()),
        Command::Docs => globals.output.line(manifest::docs().trim_end()),
    }
}

fn chosen(file: Option<PathBuf>, globals: &Globals) -> Result<PathBuf> {
    match file {
        Some(file) => Ok(file),
        None => Ok(globals.context()?.manifest_file()),
    }
}

fn init(
    file: Option<PathBuf>,
    role: Role,
    id: Option<String>,
    force: bool,
    globals: &Globals,
) -> Result {
    let (role, usual) = match role {
        Role::Shield => (manifest::Role::Shield, "shield-1"),
        Role::Brain => (manifest::Role::Brain, "brain-1"),
    };
    let id = id.as_deref().unwrap_or(usual);
    arqon_proto::names::NodeId::parse(id).map_err(|error| {
        Failure::usage(format!("`{id}` is no node id: {error}")).hint("write for instance shield-1")
    })?;
    let text = manifest::template(role, &[("node.id", &format!("{id:?}"))]);
    if file.as_deref().is_some_and(|file| file.as_os_str() == "-") {
        return globals.output.line(text.trim_end());
    }
    let file = match (file, role) {
        (Some(file), _) => file,
        (None, manifest::Role::Shield) => globals.context()?.manifest_file(),
        (None, manifest::Role::Brain) => globals.context()?.folder.join("brain.toml"),
    };
    if file.exists() && !force {
        return Err(Failure::new(format!("{} exists already", file.display()))
            .hint("--force overwrites it; `-` in place of a file prints to stdout"));
    }
    if let Some(folder) = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder).doing(format!("cannot make {}", folder.display()))?;
    }
    crate::context::write(&file, text.as_bytes())?;
    if globals.output.json {
        return globals.output.object(&json!({"file": file}));
    }
    globals.output.note(format!(
        "wrote {}; `arq config docs` explains every key",
        file.display()
    ));
    Ok(())
}

fn check(file: &Path, text_only: bool, globals: &Globals) -> Result {
    let text = std::fs::read_to_string(file)
        .doing(format!("cannot read {}", file.display()))
        .map_err(|failure| bad_manifest(failure).hint("`arq config init` writes one"))?;
    let base = file.parent().unwrap_or(Path::new("."));
    let files = if text_only {
        manifest::SecretMode::Unchecked
    } else {
        manifest::SecretMode::Checked
    };
    let problems = manifest::problems(&text, base, files);
    let output = &globals.output;
    if output.json {
        let listed: Vec<Value> = problems
            .iter()
            .map(
                |Problem {
                     path,
                     value,
                     remedy,
                 }| json!({"key": path, "value": value, "remedy": remedy}),
            )
            .collect();
        output.object(&json!({"file": file, "problems": listed}))?;
        return if problems.is_empty() {
            Ok(())
        } else {
            Err(Failure::told(Exit::BadManifest))
        };
    }
    if problems.is_empty() {
        return output.line(format!(
            "{} {}",
            output.paint(Paint::Green, "no problem found in"),
            file.display()
        ));
    }
    for problem in &problems {
        output.line(problem.to_string())?;
    }
    let count = counted(problems.len(), "problem");
    Err(
        bad_manifest(Failure::new(format!("{count} in {}", file.display())))
            .hint("`arq config docs` explains every key"),
    )
}

fn bad_manifest(failure: Failure) -> Failure {
    Failure {
        exit: Exit::BadManifest,
        ..failure
    }
}

fn show(file: &Path, globals: &Globals) -> Result {
    let text = std::fs::read_to_string(file)
        .doing(format!("cannot read {}", file.display()))
        .map_err(|failure| bad_manifest(failure).hint("`arq config init` writes one"))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        bad_manifest(Failure::new(format!(
            "{} is no TOML: {}",
            file.display(),
            error.message()
        )))
    })?;
    let effective = manifest::effective(&table);
    if globals.output.json {
        let mut values = Map::new();
        for (key, value, default) in effective {
            values.insert(
                key.to_owned(),
                json!({"value": json_value(&value), "default": default}),
            );
        }
        return globals.output.object(&values);
    }
    let rows = effective
        .into_iter()
        .map(|(key, value, default)| {
            vec![
                key.to_owned(),
                value,
                if default { "default" } else { "set" }.to_owned(),
            ]
        })
        .collect();
    globals
        .output
        .table(&["key", "value", "from"], rows, "no keys")
}

/// A TOML value as JSON; what cannot be read stays text.
fn json_value(text: &str) -> Value {
    #[derive(serde::Deserialize)]
    struct Holder {
        value: toml::Value,
    }
    toml::from_str::<Holder>(&format!("value = {text}"))
        .ok()
        .and_then(|holder| serde_json::to_value(holder.value).ok())
        .unwrap_or_else(|| json!(text))
}

fn reference() -> Value {
    use manifest::schema::{Default, KEYS};
    KEYS.iter()
        .map(|key| {
            let default = match key.default {
                Default::Value(value) => json_value(value),
                Default::Required | Default::Absent => Value::Null,
            };
            json!({
                "key": key.path,
                "required": key.default == Default::Required,
                "default": default,
                "meaning": key.doc,
            })
        })
        .collect()
}
