//! What was typed wrongly, in the form of all our errors: one line and a hint.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Prints what clap has to say: help and version as they are, errors as ours.
pub(crate) fn told(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    // A command that only has others: they are listed.
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
    } else {
        Output::new(false).failure(&failure(error, std::env::args_os().skip(1)));
    }
    ExitCode::from(Exit::Usage as u8)
}

/// The first paragraph of clap's text is the message; a tip that names something similar is the hint.
fn failure(error: &clap::Error, typed: impl Iterator<Item = OsString>) -> Failure {
    let text = error.render().to_string();
    let paragraphs: Vec<String> = text
        .split("\n\n")
        .map(|part| part.lines().map(str::trim).collect::<Vec<_>>().join(" "))
        .collect();
    let message = paragraphs.first().map_or("", String::as_str);
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let tip = paragraphs
        .iter()
        .filter_map(|part| part.strip_prefix("tip: "))
        // How to pass it as a value is what few want who misspell an option.
        .find(|tip| tip.contains("similar"));
    let hint = tip.map_or_else(
        || format!("`{} --help` tells what it takes", command(typed)),
        ToOwned::to_owned,
    );
    Failure::usage(message).hint(hint)
}

/// The command that was typed, as far as there is one.
fn command(typed: impl Iterator<Item = OsString>) -> String {
    let root = crate::command();
    let mut command = &root;
    let mut words = "arq".to_owned();
    for word in typed {
        if let Some(next) = word.to_str().and_then(|word| command.find_subcommand(word)) {
            command = next;
            words = format!("{words} {}", command.get_name());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn whatever_is_mistyped_is_one_line_and_a_hint() {
        let cases = [
            ("tennant list", "tennant", "'tenant'"),
            ("tenant crate", "crate", "'create'"),
            ("status --jsno", "--jsno", "'--json'"),
            ("status --xyzzy", "--xyzzy", "`arq status --help`"),
            ("xyzzy", "xyzzy", "`arq --help`"),
            ("tenant create", "<ID>", "`arq tenant create --help`"),
            ("sub lobby --for", "--for", "`arq sub --help`"),
            ("sub lobby --for never", "never", "`arq sub --help`"),
            ("completions tcsh", "tcsh", "'zsh'"),
            ("sub a b", "'b'", "`arq sub --help`"),
            (
                "--state a --context b status",
                "--context",
                "`arq status --help`",
            ),
        ];
        for (typed, named, hinted) in cases {
            let words = ["arq"].into_iter().chain(typed.split(' '));
            let error = crate::command().try_get_matches_from(words).unwrap_err();
            let failure = failure(&error, typed.split(' ').map(OsString::from));
            let hint = failure.hint.unwrap();
            assert!(
                failure.message.contains(named),
                "{typed}: {}",
                failure.message
            );
            assert!(hint.contains(hinted), "{typed}: {hint}");
            for line in [failure.message, hint] {
                assert!(
                    !line.contains('\n') && !line.is_empty(),
                    "{typed}: {line:?}"
                );
            }
        }
    }
}
