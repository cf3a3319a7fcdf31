//! `arq man`: manual pages, one for each command.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man;
use serde_json::json;

use crate::Globals;
use crate::failure::{Doing, Result};
use crate::output::counted;

/// Manual pages: the one of a command, or all of them into a folder
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arq man tenant create | man -l -
  arq man --out ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// The words of the command, such as `tenant create` [default: arq itself]
    command: Vec<String>,
    /// Write the page of every command into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    out: Option<PathBuf>,
}

/// Does what was asked.
pub(crate) fn run(args: &ManArgs, globals: &Globals) -> Result {
    let root = crate::command();
    let Some(folder) = &args.out else {
        let command = crate::help::find(root, &args.command)?;
        return globals.output.bytes(&page(command)?);
    };
    std::fs::create_dir_all(folder).doing(format!("cannot make {}", folder.display()))?;
    let mut files = Vec::new();
    write_all(root, folder, &mut files)?;
    if globals.output.json {
        return globals
            .output
            .object(&json!({"folder": folder, "pages": files}));
    }
    let pages = counted(files.len(), "page");
    globals
        .output
        .note(format!("{pages} in {}", folder.display()));
    Ok(())
}

fn write_all(command: Command, folder: &Path, files: &mut Vec<String>) -> Result {
    let below: Vec<Command> = command.get_subcommands().cloned().collect();
    let name = format!("{}.1", page_name(&command));
    let file = folder.join(&name);
    std::fs::write(&file, page(command)?).doing(format!("cannot write {}", file.display()))?;
    files.push(name);
    below
        .into_iter()
        .filter(|command| !command.is_hide_set())
        .try_for_each(|command| write_all(command, folder, files))
}

/// `arq-tenant-create`.
fn page_name(command: &Command) -> String {
    let words = command.get_bin_name().unwrap_or(command.get_name());
    words.replace(' ', "-")
}

fn page(command: Command) -> Result<Vec<u8>> {
    let name = page_name(&command);
    let command = command
        .display_name(&name)
        .version(env!("CARGO_PKG_VERSION"));
    let day = crate::version::date().and_then(|date| Some(date.get(..10)?.to_owned()));
    let mut page = Vec::new();
    Man::new(command)
        .title(name)
        .manual("ArqonBus")
        .source(concat!("arq ", env!("CARGO_PKG_VERSION")))
        // Not the day of the build: one commit makes one page.
        .date(day.as_deref().unwrap_or("unreleased"))
        .render(&mut page)?;
    Ok(page)
}
