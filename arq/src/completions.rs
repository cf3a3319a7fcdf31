//! `arq completions`: what a shell needs to complete the words of `arq`.

use clap::Args;
use clap_complete::Shell;
use serde_json::json;

use crate::Globals;
use crate::failure::Result;

/// What a shell needs to complete commands and options
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(arq completions bash)                                      # this Bash; ~/.bashrc for all
  arq completions zsh > ~/.zfunc/_arq                                 # a folder of $fpath
  arq completions fish > ~/.config/fish/completions/arq.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// Does what was asked.
pub(crate) fn run(completions: &Completions, globals: &Globals) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(completions.shell, &mut crate::command(), "arq", &mut script);
    if globals.output.json {
        let shell = completions.shell.to_string();
        let script = String::from_utf8_lossy(&script);
        return globals
            .output
            .object(&json!({"shell": shell, "script": script}));
    }
    globals.output.bytes(&script)
}
