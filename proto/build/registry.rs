//! `codes.toml`: reading, checking, and what is generated from it. Used by
//! `build.rs` and, for its checks, by `tests/codes.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Deserialize;

/// All of `codes.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registry {
    /// What an ERROR frame or an HTTP answer carries.
    pub(crate) error: Vec<ErrorEntry>,
    /// What a WebSocket close carries.
    pub(crate) close: Vec<CloseEntry>,
    /// What a client library raises by itself.
    pub(crate) client: Vec<ClientEntry>,
}

/// One `[[error]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ErrorEntry {
    number: u16,
    pub(crate) name: String,
    retry: Retry,
    pub(crate) http: Option<u16>,
    pub(crate) public: Option<String>,
    pub(crate) help: String,
    #[serde(default)]
    pub(crate) retired: bool,
}

/// One `[[close]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CloseEntry {
    pub(crate) number: u16,
    pub(crate) name: String,
    pub(crate) help: String,
    #[serde(default)]
    pub(crate) retired: bool,
}

/// One `[[client]]`. Nothing in Rust raises these: they are kept here so that the numbers of every
/// SDK agree, and none meets one of the wire's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientEntry {
    number: u16,
    name: String,
    retry: Retry,
    help: String,
    #[serde(default)]
    retired: bool,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Retry {
    Never,
    Later,
    NewToken,
}

impl Retry {
    const fn for_people(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Later => "later",
            Self::NewToken => "new token",
        }
    }
}

/// The ranges of error numbers, for the check and as headings of the table.
const ERROR_RANGES: [(u16, u16, &str); 6] = [
    (1000, 1999, "Authentication"),
    (2000, 2999, "Protocol"),
    (3000, 3499, "Rooms and publishing"),
    (3500, 3599, "Presence"),
    (3600, 3699, "Policy"),
    (3700, 3799, "Quota, Spine and control"),
];

/// Close codes from here on tell the client to stay away.
const STAY_AWAY: u16 = 4500;

impl Registry {
    /// Reads the text of `codes.toml`.
    pub(crate) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Everything that is wrong, one line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let errors = self.error.iter().map(|e| (e.number, &e.name, &e.help));
        let closes = self.close.iter().map(|c| (c.number, &c.name, &c.help));
        let clients = self.client.iter().map(|c| (c.number, &c.name, &c.help));
        let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
        for (number, name, help) in errors.chain(closes).chain(clients) {
            if !numbers.insert(number) {
                problems.push(format!("{name}: number {number} is taken"));
            }
            if !names.insert(name) {
                problems.push(format!("{name}: the name is taken"));
            }
            if !upper_snake(name) {
                problems.push(format!("{name}: not UPPER_SNAKE"));
            }
            if help.trim().is_empty() || help.ends_with('.') {
                problems.push(format!("{name}: help must be given and end without a stop"));
            }
        }
        for error in &self.error {
            error.problems(self, &mut problems);
        }
        for close in &self.close {
            if !(4000..=4999).contains(&close.number) {
                problems.push(format!("{}: a close code is 4000 to 4999", close.name));
            }
        }
        for client in &self.client {
            if !(5000..=5999).contains(&client.number) {
                problems.push(format!("{}: a client's code is 5000 to 5999", client.name));
            }
        }
        problems
    }

    /// The source of module `codes`.
    pub(crate) fn render_rust(&self) -> String {
        let mut out = String::new();
        let errors: Vec<_> = self
            .error
            .iter()
            .map(|e| (e.number, &*e.name, &*e.help))
            .collect();
        render_enum(
            &mut out,
            "ErrorCode",
            "A code of an ERROR frame or of a refusal before the upgrade.",
            &errors,
        );
        let closes: Vec<_> = self
            .close
            .iter()
            .map(|c| (c.number, &*c.name, &*c.help))
            .collect();
        render_enum(
            &mut out,
            "CloseCode",
            "A code of a WebSocket close.",
            &closes,
        );

        out.push_str("impl ErrorCode {\n    const fn info(self) -> Info {\n        match self {\n");
        for error in &self.error {
            let variant = camel(&error.name);
            let public = camel(error.public.as_ref().unwrap_or(&error.name));
            let retry = match error.retry {
                Retry::Never => "Never",
                Retry::Later => "Later",
                Retry::NewToken => "NewToken",
            };
            let _ = writeln!(
                out,
                "            Self::{variant} => Info {{ public: Self::{public}, retry: Retry::{retry}, http: {:?} }},",
                error.http
            );
        }
        out.push_str("        }\n    }\n}\n");
        out
    }

    /// The table for people.
    pub(crate) fn render_markdown(&self) -> String {
        let mut out = String::from(
            "<!-- Generated from codes.toml by scripts/gen. Do not edit. -->\n# Codes\n\n\
             An `ERROR` frame and an HTTP refusal carry an error code; a WebSocket close carries a\n\
             close code. Numbers and names are stable; texts are not.\n\n\
             Retry: **never**, the same request cannot succeed; **later**, it may succeed unchanged;\n\
             **new token**, get another token first. A code with a *told as* appears in logs and\n\
             metrics only; the client gets the code named there, so that it cannot tell tenants apart.\n",
        );
        for (low, high, title) in ERROR_RANGES {
            let rows: Vec<_> = self
                .error
                .iter()
                .filter(|e| (low..=high).contains(&e.number))
                .collect();
            let _ = write!(
                out,
                "\n## {title} ({low}–{high})\n\n\
                 | number | name | retry | HTTP | told as | what happened, what to do |\n\
                 |---|---|---|---|---|---|\n"
            );
            for e in rows {
                let retry = e.retry.for_people();
                let http = e.http.map(|h| h.to_string()).unwrap_or_default();
                let public = e
                    .public
                    .as_ref()
                    .map(|p| format!("`{p}`"))
                    .unwrap_or_default();
                let _ = writeln!(
                    out,
                    "| {} | `{}` | {retry} | {http} | {public} | {} |",
                    e.number,
                    e.name,
                    help_text(&e.help, e.retired)
                );
            }
        }
        for (title, stay_away) in [
            ("Close codes: reconnect (4000–4499)", false),
            ("Close codes: do not reconnect (4500–4999)", true),
        ] {
            let _ = write!(
                out,
                "\n## {title}\n\n| number | name | what happened, what to do |\n|---|---|---|\n"
            );
            for c in self
                .close
                .iter()
                .filter(|c| (c.number >= STAY_AWAY) == stay_away)
            {
                let _ = writeln!(
                    out,
                    "| {} | `{}` | {} |",
                    c.number,
                    c.name,
                    help_text(&c.help, c.retired)
                );
            }
        }
        out.push_str(
            "\n## Raised by a client library, never sent (5000–5999)\n\n\
             | number | name | retry | what happened, what to do |\n|---|---|---|---|\n",
        );
        for c in &self.client {
            let _ = writeln!(
                out,
                "| {} | `{}` | {} | {} |",
                c.number,
                c.name,
                c.retry.for_people(),
                help_text(&c.help, c.retired)
            );
        }
        out.push_str(
            "\nOf the codes of RFC 6455, Shield uses 1000 (the client asked), 1002 (illegal framing)\n\
             and 1009 (a frame over `limits.max_frame_bytes`).\n",
        );
        out
    }
}

impl ErrorEntry {
    fn problems(&self, registry: &Registry, problems: &mut Vec<String>) {
        let name = &self.name;
        if !ERROR_RANGES
            .iter()
            .any(|(low, high, _)| (*low..=*high).contains(&self.number))
        {
            problems.push(format!("{name}: {} is in no range of errors", self.number));
        }
        if self
            .http
            .is_some_and(|status| !(400..=599).contains(&status))
        {
            problems.push(format!("{name}: http must be 400 to 599"));
        }
        let Some(public) = &self.public else { return };
        let by_name: BTreeMap<_, _> = registry.error.iter().map(|e| (&e.name, e)).collect();
        match by_name.get(public) {
            None => problems.push(format!("{name}: public {public} is no error")),
            Some(target) if target.public.is_some() => {
                problems.push(format!("{name}: public {public} is itself told as another"));
            }
            // A status of its own would be the very oracle that `public` closes.
            Some(target) if target.http != self.http => {
                problems.push(format!("{name}: http differs from that of {public}"));
            }
            Some(_) => {}
        }
    }
}

fn render_enum(out: &mut String, ty: &str, doc: &str, entries: &[(u16, &str, &str)]) {
    let _ = writeln!(
        out,
        "/// {doc}\n#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]\n#[repr(u16)]\npub enum {ty} {{"
    );
    for (number, name, help) in entries {
        let _ = writeln!(
            out,
            "    /// `{name}`: {help}.\n    {} = {number},",
            camel(name)
        );
    }
    let _ = writeln!(
        out,
        "}}\n\nimpl {ty} {{\n    /// Every code, in the order of the registry.\n    pub const ALL: &'static [Self] = &["
    );
    for (_, name, _) in entries {
        let _ = writeln!(out, "        Self::{},", camel(name));
    }
    out.push_str("    ];\n");
    for (method, doc, pick) in [
        ("name", "The stable name, UPPER_SNAKE.", 0),
        ("help", "What happened and what to do, for people.", 1),
    ] {
        let _ = writeln!(
            out,
            "\n    /// {doc}\n    #[must_use]\n    pub const fn {method}(self) -> &'static str {{\n        match self {{"
        );
        for (_, name, help) in entries {
            let text = if pick == 0 { name } else { help };
            let _ = writeln!(out, "            Self::{} => {text:?},", camel(name));
        }
        out.push_str("        }\n    }\n");
    }
    for (method, argument, doc, by_number) in [
        (
            "from_number",
            "number: u16",
            "The code of this number.",
            true,
        ),
        ("from_name", "name: &str", "The code of this name.", false),
    ] {
        let scrutinee = if by_number { "number" } else { "name" };
        let _ = writeln!(
            out,
            "\n    /// {doc}\n    #[must_use]\n    pub fn {method}({argument}) -> Option<Self> {{\n        match {scrutinee} {{"
        );
        for (number, name, _) in entries {
            let pattern = if by_number {
                number.to_string()
            } else {
                format!("{name:?}")
            };
            let _ = writeln!(out, "            {pattern} => Some(Self::{}),", camel(name));
        }
        out.push_str("            _ => None,\n        }\n    }\n");
    }
    out.push_str("}\n\n");
}

fn help_text(help: &str, retired: bool) -> String {
    let help = help.replace('|', "\\|");
    if retired {
        format!("Retired. {help}")
    } else {
        help
    }
}

fn upper_snake(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.split('_').all(|word| {
            !word.is_empty()
                && word
                    .chars()
                    .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
        })
}

fn camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let (first, rest) = word.split_at(word.len().min(1));
            format!("{first}{}", rest.to_ascii_lowercase())
        })
        .collect()
}
