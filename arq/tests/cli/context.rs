//! Named contexts: which ArqonBus a command speaks to.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Answer, Bus};

/// A home of its own, and a folder without an `.arqon` to run in.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn arq(&self, arguments: &[&str]) -> Answer {
        Command::new(env!("CARGO_BIN_EXE_arq"))
            .args(arguments)
            .env("HOME", self.folder.path())
            .env_remove("XDG_CONFIG_HOME")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
            .into()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn fails(answer: &Answer, code: i32, message: &str, hint: &str) {
    assert_eq!(answer.code, code, "{answer:?}");
    assert_eq!(answer.out, "", "{answer:?}");
    let lines: Vec<&str> = answer.err.lines().collect();
    assert_eq!(lines.len(), 2, "{answer:?}");
    assert!(
        lines[0].starts_with("arq: ") && lines[0].contains(message),
        "{answer:?}"
    );
    assert!(
        lines[1].starts_with("hint: ") && lines[1].contains(hint),
        "{answer:?}"
    );
}

#[test]
fn a_folder_that_came_with_a_repository_sends_nothing_of_its_users() {
    let home = Home::new();
    let secret = home.path("prod.jwt");
    std::fs::write(&secret, "a.b.c").unwrap();
    std::fs::create_dir(home.path(".arqon")).unwrap();
    let shield = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    shield.set_nonblocking(true).unwrap();
    let settings = format!(
        "nats = []\nshield_url = \"ws://{}\"\nadmin_url = \"http://127.0.0.1:1\"\n\
         default_tenant = \"acme\"\ndefault_user = \"dev\"\naudience = \"arqon\"\n\
         issuer = \"x\"\ntoken_file = {secret:?}\n",
        shield.local_addr().unwrap()
    );
    std::fs::write(home.path(".arqon/context.toml"), settings).unwrap();
    let refused = home.arq(&["pub", "lobby", "hi"]);
    fails(&refused, 1, "lies outside of", "arq context add NAME");
    assert!(shield.accept().is_err(), "it connected");
    // Its user knows it.
    home.arq(&["context", "add", "own", "--folder", ".arqon"])
        .ok();
    drop(shield);
    let known = home.arq(&["pub", "lobby", "hi"]);
    assert!(known.err.contains("cannot speak with"), "{known:?}");
}

#[test]
fn what_is_no_address_and_no_file_is_not_kept() {
    let home = Home::new();
    let words = ["context", "add", "prod", "--shield-url"];
    let spaced = home.arq(&[words.as_slice(), &["ws://a b"]].concat());
    fails(&spaced, 2, "ws:// or wss://", "--help");
    let folder = [&words[..], &["wss://a", "--token-file", "/"]].concat();
    fails(&home.arq(&folder), 2, "/ is a folder", "within it");
}

#[test]
fn a_context_is_added_used_changed_and_forgotten() {
    let home = Home::new();
    let none = home.arq(&["--json", "context", "list"]).ok().json();
    assert_eq!(none.as_array().unwrap().len(), 1);
    assert_eq!(none[0]["name"], "local");
    assert_eq!(none[0]["in_use"], true);

    std::fs::write(home.path("prod.jwt"), "a.b.c\n").unwrap();
    let added = home.arq(&[
        "context",
        "add",
        "prod",
        "--shield-url",
        "wss://bus.example/v1/socket",
        "--token-file",
        "prod.jwt",
        "--tenant",
        "initech",
    ]);
    assert!(added.ok().err.contains("context prod is added"));
    let one = home.arq(&["context", "show", "--json"]).ok().json();
    assert_eq!(one["name"], "local", "adding is not using");

    home.arq(&["context", "use", "prod"]).ok();
    let shown = home.arq(&["context", "show", "--json"]).ok().json();
    assert_eq!(shown["name"], "prod");
    assert_eq!(shown["tenant"], "initech");
    assert_eq!(shown["shield_url"], "wss://bus.example/v1/socket");
    assert_eq!(shown["token_file"], text(&home.path("prod.jwt")));
    let listed = home.arq(&["context", "list"]).ok().out;
    let rows: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[1][0], "local");
    assert_eq!(rows[2][..2], ["*", "prod"]);

    home.arq(&["context", "set", "prod", "--tenant", "acme"])
        .ok();
    assert_eq!(
        home.arq(&["context", "show", "prod", "--json"]).ok().json()["tenant"],
        "acme"
    );

    let own = home.path(".config/arqon/contexts/prod");
    assert!(own.is_dir());
    fails(
        &home.arq(&["context", "remove", "prod"]),
        1,
        "nothing was deleted",
        "--force",
    );
    home.arq(&["context", "remove", "prod", "--force"]).ok();
    assert!(!own.exists());
    assert_eq!(
        home.arq(&["context", "show", "--json"]).ok().json()["name"],
        "local"
    );
}

#[test]
fn what_is_wrong_is_one_line_and_a_hint() {
    let home = Home::new();
    let url = "ws://127.0.0.1:1/v1/socket";
    home.arq(&["context", "add", "production", "--shield-url", url])
        .ok();
    fails(
        &home.arq(&["--context", "prodution", "status"]),
        1,
        "there is no context `prodution`",
        "did you mean `production`?",
    );
    fails(
        &home.arq(&["context", "use", "nope"]),
        1,
        "no context `nope`",
        "context list",
    );
    fails(
        &home.arq(&["context", "add", "production", "--shield-url", url]),
        1,
        "already",
        "context set production",
    );
    fails(
        &home.arq(&["context", "add", "else"]),
        2,
        "where is `else`?",
        "--shield-url",
    );
    fails(
        &home.arq(&["context", "add", "Not OK", "--shield-url", url]),
        2,
        "is no name of a context",
        "a-z",
    );
    fails(
        &home.arq(&["context", "add", "gone", "--folder", "nowhere"]),
        1,
        "there is no folder",
        "context.toml",
    );
    fails(
        &home.arq(&["--context", "production", "dev", "down"]),
        2,
        "of this machine",
        "--state",
    );
    fails(
        &home.arq(&["--context", "production", "tenant", "list"]),
        1,
        "there is no Spine state",
        "`production` has none",
    );
    fails(
        &home.arq(&["--context", "production", "pub", "lobby", "x"]),
        1,
        "neither a token nor a development key",
        "--token-file",
    );
    fails(
        &home.arq(&[
            "--context",
            "production",
            "pub",
            "lobby",
            "x",
            "--token",
            "a.b.c",
        ]),
        1,
        "cannot speak with ws://127.0.0.1:1",
        "doctor",
    );
    assert!(
        !home.path(".config/arqon/contexts/production/dev").exists(),
        "no key was made for a context that did not have one"
    );
}

#[test]
fn two_contexts_on_one_bus_one_with_a_token_and_one_with_the_keys() {
    let bus = Bus::start();
    let home = Home::new();
    let token = bus
        .arq(&["auth", "gen", "--tenant", "globex", "--user", "gus"])
        .ok();
    std::fs::write(home.path("gus.jwt"), &token.out).unwrap();
    let url = bus.ready["shield_url"].as_str().unwrap();
    home.arq(&[
        "context",
        "add",
        "user",
        "--shield-url",
        url,
        "--token-file",
        "gus.jwt",
    ])
    .ok();
    home.arq(&[
        "context",
        "add",
        "ops",
        "--folder",
        text(&bus.folder.state()),
    ])
    .ok();
    home.arq(&["context", "use", "user"]).ok();

    home.arq(&["pub", "lobby", "by the token of a file"]).ok();
    let checks = home.arq(&["--json", "doctor"]).ok().json();
    let of = |name: &str| {
        checks["checks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|check| check["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(of("echo")["outcome"], "ok");
    assert_eq!(of("token")["detail"], "the context's");
    assert_eq!(of("NATS authentication")["outcome"], "skipped");
    fails(
        &home.arq(&["tenant", "list"]),
        1,
        "there is no Spine state",
        "`user` has none",
    );

    let tenants = home
        .arq(&["--context", "ops", "tenant", "list", "--names"])
        .ok();
    assert_eq!(tenants.out, "acme\nglobex\n");
    home.arq(&["context", "remove", "ops"]).ok();
    assert!(
        bus.folder.state().join("context.toml").exists(),
        "a folder that was given stays"
    );
}

#[test]
fn publishing_makes_no_error_on_the_way() {
    let bus = Bus::start();
    bus.arq(&["pub", "lobby", "as a user"]).ok();
    let service = bus.arq(&["auth", "gen", "--role", "service"]).ok().out;
    bus.arq(&["pub", "lobby", "as a service", "--token", service.trim()])
        .ok();
    // One error that is wanted, so that the counter is seen to count.
    let observer = bus.arq(&["auth", "gen", "--role", "observer"]).ok().out;
    let refused = bus.arq(&["pub", "lobby", "as none", "--token", observer.trim()]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let metrics = bus.ready["admin_url"].as_str().unwrap().to_owned() + "/metrics";
    let text = crate::common::get(&metrics);
    let counted: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("arqon_shield_errors_total{"))
        .collect();
    assert_eq!(counted.len(), 1, "{counted:?}");
    assert!(!counted[0].contains("NOT_JOINED"), "{counted:?}");
}
