#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;

const MINIMAL: &str = r#"
[node]
id = "shield-1"
[spine]
control_creds_file = "creds/shield-1.creds"
fleet_key_file = "keys/fleet.nk"
"#;

fn parse(text: &str) -> Result<Manifest, Vec<Problem>> {
    Manifest::parse(text, Path::new("/etc/arqon"), SecretMode::Unchecked)
}

#[test]
fn required_keys_alone_make_a_manifest_and_the_rest_is_default() {
    let manifest = parse(MINIMAL).unwrap();

    assert_eq!(manifest.node.pool.as_str(), "default");
    assert_eq!(
        manifest.spine.control_creds_file,
        Path::new("/etc/arqon/creds/shield-1.creds")
    );
    assert_eq!(manifest.session.heartbeat, Duration::from_secs(25));
    assert_eq!(manifest.session.overflow, Overflow::CloseAndReconnect);
    assert!(manifest.tls.is_none());
    assert!(!manifest.tokens.allow_development);
}

#[test]
fn five_mistakes_are_five_problems_with_key_value_and_remedy() {
    let text = r#"
[node]
id = "Shield_1"
[listen]
public = "8080"
blacklog = 1
[spine]
control_creds_file = "c"
fleet_key_file = "f"
user_ttl_secs = 1
[log]
level = "loud"
"#;
    let problems = parse(text).unwrap_err();

    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "listen.blacklog = 1: there is no such key; did you mean `listen.backlog`?",
            "listen.public = \"8080\": write an IP address and a port, for instance \"127.0.0.1:8080\"",
            "log.level = \"loud\": use one of error, warn, info, debug, trace",
            "node.id = \"Shield_1\": use 1 to 63 of a-z, 0-9 and -, not at the ends, for instance \"shield-1\"",
            "spine.user_ttl_secs = 1: use 10 to 86400",
        ]
    );
}

#[test]
fn an_empty_manifest_names_every_required_key() {
    let problems = parse("").unwrap_err();
    let paths: Vec<&str> = problems
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "node.id",
            "spine.control_creds_file",
            "spine.fleet_key_file"
        ]
    );
}

#[test]
fn bad_toml_tells_the_line() {
    let problems = parse("[node]\nid = \n").unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].value.as_deref(), Some("line 2"));
}

#[test]
fn keys_that_contradict_each_other_are_reported() {
    let text = format!(
        "{MINIMAL}[session]\nmax_frame_bytes = 40000\nqueue_max_bytes = 65536\n[tls]\nkey_file = \"k\"\n"
    );
    let problems = parse(&text).unwrap_err();
    let paths: Vec<&str> = problems
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "session.max_payload_bytes",
            "session.queue_max_bytes",
            "tls.certificate_file"
        ]
    );
}

#[test]
fn wrong_types_unknown_sections_and_a_section_as_a_value_are_reported() {
    let text = "sessions = 1\nlog = 3\n[node]\nid = 5\n[spine]\nservers = []\ncontrol_creds_file = \"a\"\nfleet_key_file = \"b\"\n[rooms]\nlinger_secs = \"5\"\n";
    let problems = parse(text).unwrap_err();
    let paths: Vec<&str> = problems
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "log",
            "node.id",
            "rooms.linger_secs",
            "sessions",
            "spine.servers"
        ]
    );
}

#[test]
fn files_are_looked_at_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("open.creds"), "x").unwrap();
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    let text = "[node]\nid = \"a\"\n[spine]\ncontrol_creds_file = \"open.creds\"\nfleet_key_file = \"absent\"\n[tls]\ncertificate_file = \"folder\"\nkey_file = \"folder\"\n";
    let problems = Manifest::parse(text, dir.path(), SecretMode::Checked).unwrap_err();

    let paths: Vec<&str> = problems
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    let mut expected = vec![
        "spine.fleet_key_file",
        "tls.certificate_file",
        "tls.key_file",
    ];
    if cfg!(unix) {
        expected.insert(0, "spine.control_creds_file");
        assert!(problems[0].remedy.contains("chmod 600"), "{}", problems[0]);
    }
    assert_eq!(paths, expected);
}

#[test]
fn the_template_is_a_valid_manifest() {
    let text = template(Role::Shield, &[("node.id", "\"shield-9\"")]);
    assert_eq!(parse(&text).unwrap().node.id.as_str(), "shield-9");

    // Uncommenting every default must change nothing and be valid.
    let all: String = text
        .lines()
        .map(|line| {
            let key = line.strip_prefix("# ").filter(|rest| {
                rest.starts_with('[')
                    || rest
                        .split(" = ")
                        .next()
                        .is_some_and(|name| !name.contains(' ') && rest.contains(" = "))
            });
            format!("{}\n", key.unwrap_or(line))
        })
        .collect();
    let full = parse(&all).unwrap();
    assert!(full.tls.is_some());
    assert_eq!(full.spine.user_ttl, parse(&text).unwrap().spine.user_ttl);
}

#[test]
fn every_key_belongs_to_a_section_and_every_default_is_valid() {
    for key in schema::KEYS {
        let section = key.path.split('.').next().unwrap();
        assert!(
            schema::SECTIONS.iter().any(|known| known.name == section),
            "{}",
            key.path
        );
        assert!(
            key.doc.ends_with('.'),
            "{} lacks a whole sentence",
            key.path
        );
    }
    let table: Table = MINIMAL.parse().unwrap();
    let lines: String =
        effective(&table)
            .iter()
            .fold(String::new(), |mut text, (path, value, _)| {
                let (section, name) = path.split_once('.').unwrap();
                text.push_str(&format!("{section}.{name} = {value}\n"));
                text
            });
    parse(&lines).unwrap();
    assert!(docs().contains("| `backlog` | 128 to 65535 | `1024` |"));
}

const BRAIN: &str = r#"
[node]
id = "brain-1"
[spine]
control_creds_file = "creds/control.creds"
[brain]
creds_file = "creds/brain.creds"
"#;

#[test]
fn a_manifest_with_brain_is_a_brains_and_has_no_keys_of_a_shield() {
    let parse =
        |text: &str| BrainManifest::parse(text, Path::new("/etc/arqon"), SecretMode::Unchecked);
    let manifest = parse(BRAIN).unwrap();
    assert_eq!(manifest.id.as_str(), "brain-1");
    assert_eq!(
        manifest.creds_file,
        Path::new("/etc/arqon/creds/brain.creds")
    );
    assert_eq!(manifest.full_limit, 500);
    assert_eq!(manifest.forget_after, Duration::from_secs(60));

    let mixed = format!("{BRAIN}tick_ms = 1\n[rooms]\nlinger_secs = 5\n");
    let lines: Vec<String> = parse(&mixed)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        lines,
        [
            "brain.tick_ms = 1: use 10 to 10000",
            "rooms.linger_secs = 5: remove it: it belongs in a Shield's manifest; one with [brain] is a Brain's",
        ]
    );
    assert_eq!(
        problems(&mixed, Path::new("/etc/arqon"), SecretMode::Unchecked).len(),
        2
    );
}

#[test]
fn a_shield_does_not_start_by_the_manifest_of_a_brain() {
    let lines: Vec<String> = super::parse(
        &format!("{MINIMAL}[brain]\ncreds_file = \"b\"\n"),
        Path::new("/etc/arqon"),
        SecretMode::Unchecked,
        Role::Shield,
        read,
    )
    .unwrap_err()
    .iter()
    .map(ToString::to_string)
    .collect();
    assert_eq!(
        lines,
        ["brain.creds_file = \"b\": remove it: it belongs in a Brain's manifest"]
    );
}

#[test]
fn the_template_of_a_brain_is_a_valid_manifest() {
    let text = template(Role::Brain, &[("node.id", "\"brain-9\"")]);
    let manifest = BrainManifest::parse(&text, Path::new("/etc"), SecretMode::Unchecked).unwrap();
    assert_eq!(manifest.id.as_str(), "brain-9");
    assert!(!text.contains("fleet_key_file"));
}
