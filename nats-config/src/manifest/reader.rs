//! Reads a TOML table against the schema and collects every problem.

use std::path::{Path, PathBuf};

use arqon_proto::names::NodeId;
use toml::{Table, Value};

use super::schema::{Default, KEYS, Key, Kind, Role, SECTIONS};
use super::{Problem, SecretMode};

pub(super) struct Reader<'a> {
    table: &'a Table,
    base: &'a Path,
    secrets: SecretMode,
    role: Role,
    problems: Vec<Problem>,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(super) fn new(table: &'a Table, base: &'a Path, secrets: SecretMode, role: Role) -> Self {
        Self {
            table,
            base,
            secrets,
            role,
            problems: Vec::new(),
        }
    }

    /// All problems, unknown keys included.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        self.unknown_keys();
        self.problems.sort_by(|a, b| a.path.cmp(&b.path));
        self.problems
    }

    pub(super) fn problem(&mut self, path: &str, value: Option<String>, remedy: impl Into<String>) {
        self.problems.push(Problem {
            path: path.to_owned(),
            value,
            remedy: remedy.into(),
        });
    }

    pub(super) fn present(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    pub(super) fn text(&mut self, path: &'static str) -> String {
        match self.take(path) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        }
    }

    pub(super) fn integer(&mut self, path: &'static str) -> u64 {
        match self.take(path) {
            Some(Value::Integer(number)) => u64::try_from(number).unwrap_or_default(),
            _ => 0,
        }
    }

    pub(super) fn boolean(&mut self, path: &'static str) -> bool {
        matches!(self.take(path), Some(Value::Boolean(true)))
    }

    pub(super) fn list(&mut self, path: &'static str) -> Vec<String> {
        match self.take(path) {
            Some(Value::Array(items)) => items
                .into_iter()
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn file(&mut self, path: &'static str) -> PathBuf {
        let text = self.text(path);
        self.base.join(text)
    }

    /// The value in force: the one given if it is valid, else the default.
    fn take(&mut self, path: &'static str) -> Option<Value> {
        let key = KEYS.iter().find(|key| key.path == path)?;
        if let Some(value) = self.find(path) {
            let value = value.clone();
            match self.check(key, &value) {
                Ok(()) => return Some(value),
                Err(remedy) => self.problem(path, Some(value.to_string()), remedy),
            }
        } else if key.default == Default::Required {
            self.problem(path, None, format!("set it, for instance {}", key.example));
        }
        default_value(key)
    }

    fn find(&self, path: &str) -> Option<&'a Value> {
        let (section, name) = path.split_once('.')?;
        self.table.get(section)?.as_table()?.get(name)
    }

    fn check(&self, key: &Key, value: &Value) -> Result<(), String> {
        match (key.kind, value) {
            (Kind::Text, Value::String(text)) if !text.is_empty() => Ok(()),
            (Kind::Text, _) => Err(format!(
                "write a text that is not empty, for instance {}",
                key.example
            )),
            (Kind::Name, Value::String(text)) => NodeId::parse(text).map(drop).map_err(|_| {
                format!(
                    "use 1 to 63 of a-z, 0-9 and -, not at the ends, for instance {}",
                    key.example
                )
            }),
            (Kind::Name, _) => Err(format!(
                "write a name in quotes, for instance {}",
                key.example
            )),
            (Kind::Address, Value::String(text))
                if text.parse::<std::net::SocketAddr>().is_ok() =>
            {
                Ok(())
            }
            (Kind::Address, _) => Err(format!(
                "write an IP address and a port, for instance {}",
                key.example
            )),
            (Kind::File | Kind::SecretFile, Value::String(text)) if !text.is_empty() => {
                self.check_file(&self.base.join(text), key.kind == Kind::SecretFile)
            }
            (Kind::Folder, Value::String(text)) if !text.is_empty() => Ok(()),
            (Kind::Folder, _) => Err("give the path of a folder, as text".to_owned()),
            (Kind::File | Kind::SecretFile, _) => Err(format!(
                "write the path of a file in quotes, for instance {}",
                key.example
            )),
            (Kind::Integer { min, max }, Value::Integer(number)) => match u64::try_from(*number) {
                Ok(number) if (min..=max).contains(&number) => Ok(()),
                _ => Err(format!("use {min} to {max}")),
            },
            (Kind::Integer { min, max }, _) => Err(format!(
                "write a whole number from {min} to {max}, without quotes"
            )),
            (Kind::Boolean, Value::Boolean(_)) => Ok(()),
            (Kind::Boolean, _) => Err("write true or false, without quotes".to_owned()),
            (Kind::Choice(words), Value::String(text)) if words.contains(&text.as_str()) => Ok(()),
            (Kind::Choice(words), _) => Err(format!("use one of {}", words.join(", "))),
            (Kind::TextList, Value::Array(items))
                if items
                    .iter()
                    .all(|item| item.as_str().is_some_and(|text| !text.is_empty())) =>
            {
                Ok(())
            }
            (Kind::TextList, _) => Err(format!(
                "write a list of texts, for instance {}",
                key.example
            )),
        }
    }

    fn check_file(&self, path: &Path, secret: bool) -> Result<(), String> {
        if self.secrets == SecretMode::Unchecked {
            return Ok(());
        }
        let metadata = std::fs::metadata(path).map_err(|error| {
            format!(
                "name a file that can be read: {} ({})",
                path.display(),
                error.kind()
            )
        })?;
        if !metadata.is_file() {
            return Err(format!("name a file; {} is none", path.display()));
        }
        if secret {
            crate::sys::check_secret(path, &metadata)?;
        }
        std::fs::File::open(path)
            .map(drop)
            .map_err(|error| format!("let this user read {} ({})", path.display(), error.kind()))
    }

    fn unknown_keys(&mut self) {
        for (section, value) in self.table {
            if !SECTIONS.iter().any(|known| known.name == section) {
                let remedy = match nearest(section, SECTIONS.iter().map(|known| known.name)) {
                    Some(name) => format!("there is no such section; did you mean [{name}]?"),
                    None => "there is no such section; remove it".to_owned(),
                };
                self.problem(section, None, remedy);
                continue;
            }
            let Some(keys) = value.as_table() else {
                self.problem(
                    section,
                    Some(value.to_string()),
                    format!("write it as a section: [{section}]"),
                );
                continue;
            };
            for (name, value) in keys {
                let path = format!("{section}.{name}");
                if let Some(key) = KEYS.iter().find(|key| key.path == path) {
                    if !key.is_for(self.role) {
                        self.problem(&path, Some(value.to_string()), misplaced(self.role));
                    }
                    continue;
                }
                let candidates = KEYS
                    .iter()
                    .filter_map(|key| key.path.strip_prefix(section.as_str())?.strip_prefix('.'));
                let remedy = match nearest(name, candidates) {
                    Some(near) => format!("there is no such key; did you mean `{section}.{near}`?"),
                    None => "there is no such key; remove it".to_owned(),
                };
                self.problem(&path, Some(value.to_string()), remedy);
            }
        }
    }
}

fn misplaced(role: Role) -> &'static str {
    match role {
        Role::Shield => "remove it: it belongs in a Brain's manifest",
        Role::Brain => {
            "remove it: it belongs in a Shield's manifest; one with [brain] is a Brain's"
        }
    }
}

fn default_value(key: &Key) -> Option<Value> {
    match key.default {
        Default::Required | Default::Absent => None,
        Default::Value(text) => {
            let mut table: Table = format!("value = {text}")
                .parse()
                .expect("a default of the schema is TOML");
            table.remove("value")
        }
    }
}

/// The candidate within two edits, if there is one.
fn nearest<'n>(word: &str, candidates: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    candidates
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, _)| *edits <= 2)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
