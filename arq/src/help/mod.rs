//! `arq help`: the help of a command, or a cheat sheet of what people want to do.

use clap::{Args, Command};
use serde_json::json;

use crate::Globals;
use crate::failure::{Failure, Result};
use crate::nearest::nearest;
use crate::output::Paint;

/// Cheat sheets, and the help of a command
#[derive(Debug, Args)]
pub(crate) struct Help {
    /// A topic, or the words of a command; without any, the topics are listed
    words: Vec<String>,
}

/// A cheat sheet: one screen, whose first line says what it is for. Every line of it that begins
/// with `arq` is parsed by a test.
struct Topic {
    name: &'static str,
    text: &'static str,
}

macro_rules! topics {
    ($($name:literal),* $(,)?) => {
        [$(Topic { name: $name, text: include_str!(concat!("topics/", $name, ".txt")) }),*]
    };
}

const TOPICS: [Topic; 13] = topics![
    "getting-started",
    "tokens",
    "rooms",
    "presence",
    "policies",
    "tenants",
    "contexts",
    "debugging",
    "compose",
    "production",
    "json",
    "exit-codes",
    "shell",
];

/// Does what was asked.
pub(crate) fn run(help: &Help, globals: &Globals) -> Result {
    let topic = match &help.words[..] {
        [] => return list(globals),
        [word] => TOPICS.iter().find(|topic| topic.name == word),
        _ => None,
    };
    match (find(crate::command(), &help.words), topic) {
        (Ok(command), topic) => {
            let colour = globals.output.colour;
            let mut text = rendered(command, colour);
            if let Some(topic) = topic {
                text = format!("{}\n\n{}", text.trim_end(), topic.text);
            }
            globals.output.line(text.trim_end())
        }
        (Err(_), Some(topic)) if globals.output.json => {
            let object = json!({"topic": topic.name, "text": topic.text});
            globals.output.object(&object)
        }
        (Err(_), Some(topic)) => globals.output.line(topic.text.trim_end()),
        (Err(failure), None) => Err(failure),
    }
}

fn rendered(mut command: Command, colour: bool) -> String {
    let help = command.render_long_help();
    if colour {
        help.ansi().to_string()
    } else {
        help.to_string()
    }
}

impl Topic {
    fn summary(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default()
    }
}

fn list(globals: &Globals) -> Result {
    let output = &globals.output;
    if output.json {
        let topics: Vec<_> = TOPICS
            .iter()
            .map(|topic| json!({"topic": topic.name, "summary": topic.summary()}))
            .collect();
        return output.object(&json!({ "topics": topics }));
    }
    output.line("Cheat sheets; `arq help TOPIC` shows one:\n")?;
    for topic in &TOPICS {
        let name = output.paint(Paint::Cyan, &format!("{:16}", topic.name));
        output.line(format!("  {name} {}", topic.summary()))?;
    }
    output.line("\n`arq --help` lists the commands, `arq help COMMAND` explains one.")
}

/// The command of these words.
pub(crate) fn find(root: Command, words: &[String]) -> Result<Command> {
    let mut command = root;
    for (depth, word) in words.iter().enumerate() {
        let Some(next) = command.find_subcommand(word).cloned() else {
            return Err(unknown(&command, word, depth));
        };
        command = next;
    }
    Ok(command)
}

fn unknown(command: &Command, word: &str, depth: usize) -> Failure {
    let commands = command.get_subcommands().map(Command::get_name);
    let topics = TOPICS.iter().map(|topic| topic.name).filter(|_| depth == 0);
    let meant = nearest(word, commands.chain(topics));
    let name = command.get_bin_name().unwrap_or("arq");
    let (what, others) = if depth == 0 {
        (
            "topic or command",
            "`arq help` lists the topics, `arq --help` the commands".to_owned(),
        )
    } else {
        ("command", format!("`{name} --help` lists them"))
    };
    let hint = meant.map_or(others, |meant| {
        let rest = name.strip_prefix("arq").unwrap_or_default();
        format!("did you mean `arq help{rest} {meant}`?")
    });
    let of = if depth == 0 {
        String::new()
    } else {
        format!(" of `{name}`")
    };
    Failure::usage(format!("there is no {what} `{word}`{of}")).hint(hint)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The words of a line as a shell would take them, up to a comment, a pipe or a redirection.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quote = None;
        for letter in line.chars() {
            match (quote, letter) {
                (Some(open), _) if letter == open => quote = None,
                (Some(_), _) => word.get_or_insert_default().push(letter),
                (None, '\'' | '"') => {
                    word.get_or_insert_default();
                    quote = Some(letter);
                }
                (None, ' ') => words.extend(word.take()),
                (None, '#') if word.is_none() => break,
                (None, '|' | '>' | '<' | '&' | ';') => break,
                (None, _) => word.get_or_insert_default().push(letter),
            }
        }
        assert!(quote.is_none(), "an open quote: {line}");
        words.extend(word);
        words
    }

    #[test]
    fn every_command_of_a_sheet_can_be_typed() {
        let mut seen = 0;
        for topic in &TOPICS {
            let mut here = 0;
            let commands = topic.text.lines().flat_map(|line| {
                let line = line.split(" # ").next().unwrap_or_default();
                line.split(" | ").map(str::trim)
            });
            for line in commands {
                if !line.starts_with("arq ") {
                    continue;
                }
                here += 1;
                if let Err(error) = crate::command().try_get_matches_from(words(line)) {
                    let asked = !error.use_stderr();
                    assert!(asked, "{}: `{line}`: {error}", topic.name);
                }
            }
            assert!(here > 0, "{} shows no command", topic.name);
            seen += here;
        }
        assert!(seen > 60, "only {seen} commands were found");
    }

    #[test]
    fn a_sheet_is_one_screen_of_plain_text() {
        for topic in &TOPICS {
            let lines = topic.text.lines().count();
            assert!((5..=40).contains(&lines), "{}: {lines} lines", topic.name);
            for line in topic.text.lines() {
                assert!(line.chars().count() <= 100, "{}: {line}", topic.name);
                assert!(!line.contains('\t') && !line.ends_with(' '), "{line:?}");
            }
            assert!(topic.summary().chars().count() <= 80, "{}", topic.name);
        }
    }

    #[test]
    fn the_nearest_is_named() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let hint = |text| {
            find(crate::command(), &words(text))
                .unwrap_err()
                .hint
                .unwrap()
        };
        assert_eq!(hint("tokesn"), "did you mean `arq help tokens`?");
        assert_eq!(hint("tennant"), "did you mean `arq help tenant`?");
        assert_eq!(
            hint("tenant crate"),
            "did you mean `arq help tenant create`?"
        );
        assert_eq!(hint("tenant xyzzy"), "`arq tenant --help` lists them");
    }
}
