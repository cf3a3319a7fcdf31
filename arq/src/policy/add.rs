//! `arq policy add`: a policy that is shipped inside `arq`, pushed and bound in one command.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::acks::Waiting;
use super::component::{Component, find_shipped};
use super::deploy::{self, Wish};
use super::place::{self, Manner, Scope};
use super::settings;
use crate::Globals;
use crate::failure::{Failure, Result};
use crate::size;

/// Put a ready-made policy in force, in one command
///
/// The component is inside `arq`: pushed if this platform does not have it yet, then bound. What
/// every Shield makes of it is waited for and told. One that is there already by this name is
/// replaced.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq policy add blocklist --words malware,virus --platform\n  arq policy add size-and-shape --max-payload 16KiB --json-payload declared --tenant acme\n  arq policy add redact --emails --cards --tenant acme --room 'public.*'"
)]
pub(super) struct Add {
    #[command(subcommand)]
    which: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    Blocklist(Blocklist),
    SizeAndShape(SizeAndShape),
    Redact(Redact),
}

/// Block messages that hold one of these words or patterns
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  arq policy add blocklist --words malware,virus --tenant acme --shadow"
)]
struct Blocklist {
    /// A word, repeatable and with commas
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    words: Vec<String>,
    /// A regular expression, repeatable
    #[arg(long, value_name = "REGEX")]
    pattern: Vec<String>,
    /// Tell capital letters from small ones
    #[arg(long)]
    match_case: bool,
    /// Find words inside of longer ones too
    #[arg(long)]
    inside_words: bool,
    /// Look into the application headers too
    #[arg(long)]
    headers: bool,
    /// What the sender is told with --show-reason [default: a word of the blocklist]
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Block messages that are too large, or of a kind that was not agreed
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  arq policy add size-and-shape --max-payload 16KiB --content-type application/json --json-payload declared --platform"
)]
struct SizeAndShape {
    /// The largest payload
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_payload: Option<usize>,
    /// A content type that may pass, such as application/json or `text/*`; repeatable and with commas
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    content_type: Vec<String>,
    /// The header that says the content type [default: content-type]
    #[arg(long, value_name = "NAME")]
    content_type_header: Option<String>,
    /// Block what says no content type
    #[arg(long)]
    require_content_type: bool,
    /// Whose payload must be well-formed JSON
    #[arg(long, value_name = "WHEN", value_enum)]
    json_payload: Option<JsonPayload>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum JsonPayload {
    /// Nobody's
    Never,
    /// That of messages whose content type says so
    Declared,
    /// That of every message
    Always,
}

/// Replace e-mail addresses, card numbers and what matches patterns
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  arq policy add redact --emails --cards --pattern 'iban=[A-Z]{2}[0-9]{20}' --tenant acme"
)]
struct Redact {
    /// E-mail addresses
    #[arg(long)]
    emails: bool,
    /// Card numbers with a right check digit
    #[arg(long)]
    cards: bool,
    /// A name and a regular expression, repeatable
    #[arg(long, value_name = "NAME=REGEX")]
    pattern: Vec<String>,
    /// What stands there instead [default: [redacted]]
    #[arg(long, value_name = "TEXT", hide_default_value = true)]
    replacement: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// What all have.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    scope: Scope,
    /// The binding's name [default: the policy's]
    #[arg(long, value_name = "NAME", help_heading = "Binding")]
    name: Option<String>,
    /// More of the configuration: TOML or JSON; flags add to it
    #[arg(long, value_name = "FILE", help_heading = "Binding")]
    config: Option<PathBuf>,
    #[command(flatten)]
    manner: Manner,
    #[command(flatten)]
    waiting: Waiting,
}

impl Which {
    /// The shipped policy's name, what the flags say, and what all have.
    fn parts(&self) -> Result<(&'static str, Map<String, Value>, &Common)> {
        let mut flags = Map::new();
        let mut set = |key: &str, value: Value| {
            flags.insert(key.to_owned(), value);
        };
        let (name, common) = match self {
            Self::Blocklist(args) => {
                if !args.words.is_empty() {
                    set("words", json!(args.words));
                }
                if !args.pattern.is_empty() {
                    set("patterns", json!(args.pattern));
                }
                if args.match_case {
                    set("ignore_case", false.into());
                }
                if args.inside_words {
                    set("whole_word", false.into());
                }
                if args.headers {
                    set("headers", true.into());
                }
                if let Some(reason) = &args.reason {
                    set("reason", json!(reason));
                }
                ("blocklist", &args.common)
            }
            Self::SizeAndShape(args) => {
                if let Some(bytes) = args.max_payload {
                    set("max_payload_bytes", json!(bytes));
                }
                if !args.content_type.is_empty() {
                    set("content_types", json!(args.content_type));
                }
                if let Some(header) = &args.content_type_header {
                    set("content_type_header", json!(header));
                }
                if args.require_content_type {
                    set("require_content_type", true.into());
                }
                if let Some(when) = args.json_payload {
                    let when = match when {
                        JsonPayload::Never => "never",
                        JsonPayload::Declared => "declared",
                        JsonPayload::Always => "always",
                    };
                    set("json", when.into());
                }
                ("size-and-shape", &args.common)
            }
            Self::Redact(args) => {
                let named = args.emails || args.cards || !args.pattern.is_empty();
                // Of its own accord the policy replaces both. Whoever names one means that one;
                // beside a file, flags only add.
                if args.emails || (named && args.common.config.is_none()) {
                    set("emails", args.emails.into());
                }
                if args.cards || (named && args.common.config.is_none()) {
                    set("cards", args.cards.into());
                }
                if !args.pattern.is_empty() {
                    let patterns = args.pattern.iter().map(|text| named_pattern(text));
                    set("patterns", patterns.collect::<Result<Vec<_>>>()?.into());
                }
                if let Some(text) = &args.replacement {
                    set("replacement", json!(text));
                }
                ("redact", &args.common)
            }
        };
        if flags.is_empty() && common.config.is_none() {
            return Err(Failure::usage(format!("{name} is not told what to do")).hint(match self {
                Self::Blocklist(_) => "--words malware,virus names words, --pattern a regular expression, --config FILE both",
                Self::SizeAndShape(_) => "--max-payload, --content-type and --json-payload say what may pass, --config FILE all",
                Self::Redact(_) => "--emails, --cards and --pattern say what to replace, --config FILE all",
            }));
        }
        Ok((name, flags, common))
    }
}

fn named_pattern(text: &str) -> Result<Value> {
    match text.split_once('=') {
        Some((name, pattern)) if !name.is_empty() && !pattern.is_empty() => {
            Ok(json!({"name": name, "pattern": pattern}))
        }
        _ => Err(Failure::usage(format!("`{text}` is no NAME=REGEX"))
            .hint("for instance --pattern 'iban=[A-Z]{2}[0-9]{20}'")),
    }
}

/// Does what was asked.
pub(super) fn run(args: &Add, globals: &Globals) -> Result {
    let (name, flags, common) = args.which.parts()?;
    let shipped = find_shipped(name)
        .ok_or_else(|| Failure::new(format!("this arq was built without the policy {name}")))?;
    let key = common.scope.key(common.name.as_deref().unwrap_or(name))?;
    let config = settings::merged(common.config.as_deref(), flags)?;
    let wish = Wish {
        key,
        policy: place::parse_name(name)?,
        component: Some(Component::of_shipped(shipped)),
        version: None,
        config: Some(config),
        manner: &common.manner,
    };
    deploy::run(wish, &common.waiting, globals)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        add: Add,
    }

    /// What the flags of a line say.
    fn flags(words: &[&str]) -> Result<Value> {
        let line = ["add"].iter().chain(words).chain(&["--platform"]);
        let line = Line::try_parse_from(line).unwrap();
        let (_, flags, _) = line.add.which.parts()?;
        Ok(flags.into())
    }

    #[test]
    fn flags_say_what_the_configuration_does() {
        let blocklist = [
            "blocklist",
            "--words",
            "a,b",
            "--words",
            "c",
            "--pattern",
            "x{1,2}",
            "--match-case",
        ];
        assert_eq!(
            flags(&blocklist).unwrap(),
            json!({"words": ["a", "b", "c"], "patterns": ["x{1,2}"], "ignore_case": false})
        );
        let shape = [
            "size-and-shape",
            "--max-payload",
            "16KiB",
            "--content-type",
            "application/json,text/*",
            "--json-payload",
            "declared",
        ];
        assert_eq!(
            flags(&shape).unwrap(),
            json!({"max_payload_bytes": 16384, "content_types": ["application/json", "text/*"], "json": "declared"})
        );
        let redact = [
            "redact",
            "--emails",
            "--pattern",
            "iban=A=B",
            "--replacement",
            "-",
        ];
        assert_eq!(
            flags(&redact).unwrap(),
            json!({"emails": true, "cards": false, "patterns": [{"name": "iban", "pattern": "A=B"}], "replacement": "-"})
        );
    }

    #[test]
    fn without_anything_to_do_it_is_refused() {
        for name in ["blocklist", "size-and-shape", "redact"] {
            let failure = flags(&[name]).unwrap_err();
            assert!(failure.hint.is_some(), "{name}");
        }
        assert!(flags(&["redact", "--pattern", "iban"]).is_err());
    }
}
