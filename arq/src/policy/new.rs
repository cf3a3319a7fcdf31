//! `arq policy new`: a folder with a policy to begin with.

use std::path::PathBuf;

use arqon_policy::shipped::template;
use arqon_proto::names::PolicyName;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::place;
use crate::Globals;
use crate::failure::{Doing, Failure, Result};

/// Make a folder with a policy to begin with
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq policy new greeter --lang rust\n  arq policy new greeter --lang c --dir policies/greeter"
)]
pub(super) struct New {
    /// Its name: 1 to 63 of a-z, 0-9 and -
    name: String,
    /// In which language
    #[arg(long, value_enum, default_value = "rust")]
    lang: Lang,
    /// The folder, which must be empty or not there [default: the name]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The languages of templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Lang {
    Rust,
    C,
    Zig,
}

impl Lang {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::C => "c",
            Self::Zig => "zig",
        }
    }
}

/// Where a template speaks of itself.
const PLACEHOLDER: &str = "POLICY_NAME";

/// Does what was asked.
pub(super) fn run(args: &New, globals: &Globals) -> Result {
    let name = place::parse_name(&args.name)?;
    let folder = args
        .dir
        .clone()
        .unwrap_or_else(|| PathBuf::from(name.as_str()));
    let taken = std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some())
        || folder.is_file();
    if taken {
        return Err(Failure::new(format!("{} is not empty", folder.display()))
            .hint("--dir DIR names another folder"));
    }
    let mut files = Vec::new();
    for (path, content) in template(args.lang.as_str()) {
        let file = folder.join(path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).doing(format!("cannot make {}", parent.display()))?;
        }
        std::fs::write(&file, named(content, &name))
            .doing(format!("cannot write {}", file.display()))?;
        files.push(file);
    }
    if globals.output.json {
        return globals.output.object(&json!({
            "name": name.as_str(),
            "lang": args.lang.as_str(),
            "folder": folder,
            "files": files,
        }));
    }
    for file in &files {
        globals.output.line(file.display().to_string())?;
    }
    let folder = folder.display();
    globals.output.note(format!(
        "next: arq policy build {folder} && arq policy test {folder}/{name}.wasm --cases {folder}/cases.toml"
    ));
    Ok(())
}

/// A file of a template with the policy's name in it.
fn named(content: &str, name: &PolicyName) -> String {
    content.replace(PLACEHOLDER, name.as_str())
}
