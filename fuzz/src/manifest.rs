//! The text of a manifest.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use arqon_spine::manifest::{
    BrainManifest, Manifest, Problem, Role, SecretMode, effective, problems,
};
use toml::Table;

/// Every mistake is told with a remedy; what is accepted stays the same when it
/// is written out as `arq config show` tells it.
///
/// # Panics
/// Where that does not hold.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let role = text.parse().map_or(Role::Shield, |table| Role::of(&table));
    let told = problems(text, Path::new("/etc/arqon"), SecretMode::Unchecked);
    match (read(text, role), told) {
        (Ok(first), told) => {
            assert!(told.is_empty(), "accepted, and {told:?}");
            let shown = shown(text);
            let second = read(&shown, role);
            assert_eq!(second, Ok(first), "shown as:\n{shown}");
        }
        (Err(mistakes), told) => {
            assert_eq!(mistakes, told);
            assert!(!mistakes.is_empty(), "refused, and no reason");
            for mistake in mistakes {
                assert!(!mistake.remedy.is_empty(), "{mistake:?}");
                let _ = mistake.to_string();
            }
        }
    }
}

/// The manifest as its debug form, which has every field.
fn read(text: &str, role: Role) -> Result<String, Vec<Problem>> {
    let base = Path::new("/etc/arqon");
    match role {
        Role::Shield => Manifest::parse(text, base, SecretMode::Unchecked)
            .map(|manifest| format!("{manifest:#?}")),
        Role::Brain => BrainManifest::parse(text, base, SecretMode::Unchecked)
            .map(|manifest| format!("{manifest:#?}")),
    }
}

/// The values in force as a manifest, all of them given.
fn shown(text: &str) -> String {
    let table: Table = text.parse().expect("it was read");
    let mut sections: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (path, value, _) in effective(&table) {
        let (section, key) = path.split_once('.').expect("a section and a key");
        let lines = sections.entry(section).or_default();
        lines.push(format!("{key} = {value}"));
    }
    let mut out = String::new();
    for (section, lines) in sections {
        let _ = writeln!(out, "[{section}]\n{}", lines.join("\n"));
    }
    out
}
