//! Text made from the schema: a template, the reference, the values in force.

use std::fmt::Write as _;

use toml::Table;

use super::schema::{Default, KEYS, Key, Kind, Role, SECTIONS};

/// A commented manifest: required keys set to `required` (by path), the rest as comments.
#[must_use]
pub fn template(role: Role, required: &[(&str, &str)]) -> String {
    let mut out = String::from(
        "# Manifest of an ArqonBus node. `arq config docs` explains every key,\n# `arq config check` tests this file. Lines with # show defaults.\n",
    );
    for section in SECTIONS {
        let of_role =
            |key: &&Key| key.is_for(role) && key.path.split('.').next() == Some(section.name);
        let keys = KEYS.iter().filter(of_role);
        if keys.clone().next().is_none() {
            continue;
        }
        let _ = write!(out, "\n# {}\n", section.doc);
        let optional = keys.clone().all(|key| key.default == Default::Absent)
            && !required
                .iter()
                .any(|(path, _)| path.starts_with(&format!("{}.", section.name)));
        let _ = writeln!(
            out,
            "{}[{}]",
            if optional { "# " } else { "" },
            section.name
        );
        for key in keys {
            let name = key.path.rsplit('.').next().unwrap_or(key.path);
            match (
                required.iter().find(|(path, _)| *path == key.path),
                key.default,
            ) {
                (Some((_, value)), _) => {
                    let _ = writeln!(out, "{name} = {value}");
                }
                (None, Default::Required) => {
                    let _ = writeln!(out, "{name} = {}", key.example);
                }
                (None, Default::Value(value)) => {
                    let _ = writeln!(out, "# {name} = {value}");
                }
                (None, Default::Absent) => {
                    let _ = writeln!(out, "# {name} = {}", key.example);
                }
            }
        }
    }
    out
}

/// The reference of all keys as Markdown.
#[must_use]
pub fn docs() -> String {
    let mut out = String::from(
        "# Manifest reference\n\nStrict TOML: an unknown key is an error, and all mistakes are reported in one run (exit status 64).\nRelative paths start at the manifest's folder. No environment variable has any effect.\n",
    );
    for section in SECTIONS {
        let _ = write!(
            out,
            "\n## `[{}]`\n\n{}\n\n| key | takes | default | meaning |\n|---|---|---|---|\n",
            section.name, section.doc
        );
        for key in KEYS
            .iter()
            .filter(|key| key.path.split('.').next() == Some(section.name))
        {
            let name = key.path.rsplit('.').next().unwrap_or(key.path);
            let default = match key.default {
                Default::Required => "required".to_owned(),
                Default::Absent => "absent".to_owned(),
                Default::Value(value) => format!("`{value}`"),
            };
            let _ = writeln!(
                out,
                "| `{name}` | {} | {default} | {} |",
                takes(key.kind),
                key.doc
            );
        }
    }
    out
}

/// The values in force for a manifest's text, one `section.key = value` a line,
/// each followed by `# default` where the manifest does not set it.
#[must_use]
pub fn effective(table: &Table) -> Vec<(&'static str, String, bool)> {
    let role = Role::of(table);
    KEYS.iter()
        .filter(|key| key.is_for(role))
        .filter_map(|key| {
            let (section, name) = key.path.split_once('.')?;
            let given = table.get(section).and_then(|section| section.get(name));
            match (given, key.default) {
                (Some(value), _) => Some((key.path, value.to_string(), false)),
                (None, Default::Value(value)) => Some((key.path, value.to_owned(), true)),
                (None, _) => None,
            }
        })
        .collect()
}

fn takes(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Name => "name".to_owned(),
        Kind::Address => "address:port".to_owned(),
        Kind::File => "file".to_owned(),
        Kind::Folder => "folder".to_owned(),
        Kind::SecretFile => "secret file (mode 0600)".to_owned(),
        Kind::Integer { min, max } => format!("{min} to {max}"),
        Kind::Boolean => "true or false".to_owned(),
        Kind::Choice(words) => words
            .iter()
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(" or "),
        Kind::TextList => "list of texts".to_owned(),
    }
}
