//! Text made from the schema: a template, the reference, the values in force.

use std::fmt::Write as _;

use toml::Table;

use super::schema::{Default, KEYS, Key, Kind, Role, SECTIONS};

/// Units of whole numbers, by how their keys end.
const UNITS: [(&str, &str); 4] = [
    ("_secs", "s"),
    ("_ms", "ms"),
    ("_bytes", "bytes"),
    ("_percent", "%"),
];

const INTRODUCTION: &str = r#"<!-- Generated from the manifest's schema by scripts/gen. Do not edit. -->
# Manifest reference

Each Shield and each Brain takes one file of strict TOML, and nothing else: no environment variable has any effect.
An unknown key is an error, and all mistakes are reported in one run, with status 64, before a port opens.
Relative paths start at the manifest's folder. Secrets are in files of their own that others may not read.

`arq config init` writes one with all keys, `arq config check FILE` tests it, `arq config show` tells the values in force.
It is read once, at the start, and so are credentials. The files of a Shield's certificate are taken again when they change,
and the fleet key's file when its rotation is ordered.
A Shield that works, where `arq spine creds shield shield-1` and the pool's fleet key were put beside it:

```toml
[node]
id = "shield-1"

[listen]
public = "0.0.0.0:443"

[tls]
certificate_file = "tls/chain.pem"
key_file = "tls/key.pem"

[spine]
servers = ["nats://nats-1:4222", "nats://nats-2:4222", "nats://nats-3:4222"]
control_creds_file = "creds/shield-1.creds"
fleet_key_file = "keys/fleet.nk"
```

And a Brain:

```toml
[node]
id = "brain-1"

[spine]
servers = ["nats://nats-1:4222", "nats://nats-2:4222", "nats://nats-3:4222"]
control_creds_file = "creds/brain-1.creds"

[brain]
creds_file = "creds/brain-1-presence.creds"
```
"#;

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
                    let _ = writeln!(out, "{name} = {}", example(key, role));
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
    let mut out = String::from(INTRODUCTION);
    for section in SECTIONS {
        let _ = write!(
            out,
            "\n## `[{}]`\n\n{}{}\n\n| key | takes | default | meaning |\n|---|---|---|---|\n",
            section.name,
            section.doc,
            whose(section.name)
        );
        for key in of_section(section.name) {
            let name = key.path.rsplit('.').next().unwrap_or(key.path);
            let default = match key.default {
                Default::Required => "required".to_owned(),
                Default::Absent => "absent".to_owned(),
                Default::Value(value) => format!("`{value}`"),
            };
            let _ = writeln!(
                out,
                "| `{name}` | {} | {default} | {} |",
                takes(key),
                key.doc
            );
        }
    }
    out
}

fn of_section(name: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter()
        .filter(move |key| key.path.split('.').next() == Some(name))
}

/// Whose manifests have the section, where not all have.
fn whose(section: &str) -> &'static str {
    let has = |role| of_section(section).any(|key| key.is_for(role));
    match (has(Role::Shield), has(Role::Brain)) {
        (true, false) => " Of Shields only.",
        // Its own words say that it is a Brain's.
        _ => "",
    }
}

/// What `arq config init` shows for a key that has to be given. Both roles have
/// credentials on CONTROL, of a kind and name of their own.
fn example(key: &Key, role: Role) -> &'static str {
    match (role, key.path) {
        (Role::Brain, "spine.control_creds_file") => r#""creds/brain-1.creds""#,
        _ => key.example,
    }
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

/// The values of a key, with their unit where the name says one.
fn takes(key: &Key) -> String {
    let unit = UNITS.iter().find(|(end, _)| key.path.ends_with(end));
    match key.kind {
        Kind::Text => "text".to_owned(),
        Kind::Name => "name".to_owned(),
        Kind::Address => "address:port".to_owned(),
        Kind::File => "file".to_owned(),
        Kind::Folder => "folder".to_owned(),
        Kind::SecretFile => "secret file (mode 0600)".to_owned(),
        Kind::Integer { min, max } => match unit {
            Some((_, unit)) => format!("{min} to {max} {unit}"),
            None => format!("{min} to {max}"),
        },
        Kind::Boolean => "true or false".to_owned(),
        Kind::Choice(words) => words
            .iter()
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(" or "),
        Kind::TextList => "list of texts".to_owned(),
    }
}
