//! `arq auth revoke`, `arq auth revocations` and `arq session`, and what is typed wrongly there.

use serde_json::Value;

use crate::common::{Answer, Bus, Folder, until};

#[track_caller]
fn refused(answer: &Answer, code: i32, named: &str, hinted: &str) {
    assert_eq!(answer.code, code, "{answer:?}");
    let (line, hint) = answer.err.trim_end().split_once('\n').unwrap();
    assert!(
        line.starts_with("arq: ") && line.contains(named),
        "{answer:?}"
    );
    assert!(
        hint.starts_with("hint: ") && hint.contains(hinted),
        "{answer:?}"
    );
    assert_eq!(answer.out, "");
}

/// Nothing runs there: what is wrong is seen before anybody is asked.
#[test]
fn what_is_typed_wrongly_is_refused_before_anything_is_done() {
    let folder = Folder::new();
    folder.arq(&["spine", "init"]).ok();
    let run = |words: &str| folder.arq(&words.split(' ').collect::<Vec<_>>());
    for (words, named, hinted) in [
        ("auth revoke --tenant acme", "--user", "--help"),
        ("auth revoke --jti one", "--tenant", "--help"),
        (
            "auth revoke --tenant acme --jti one --all",
            "--all",
            "--help",
        ),
        (
            "auth revoke --tenant acme --user a --jti b",
            "--jti",
            "--help",
        ),
        ("auth revoke --tenant Acme! --jti one", "Acme!", "a-z"),
        (
            "auth revoke --tenant acme --jti one --issued-before 1h",
            "--issued-before",
            "--help",
        ),
        (
            "auth revoke --tenant acme --all --issued-before soon",
            "soon",
            "--help",
        ),
        (
            "auth revoke --tenant acme --all --issued-before 2999-01-01T00:00:00Z --force",
            "lies in the future",
            "now",
        ),
        (
            "auth revoke --tenant acme --all --issued-before 8d --force",
            "has expired",
            "seven days",
        ),
        ("auth revocations --force", "--drop-unreadable", "--help"),
        ("session kick", "SESSION", "--help"),
        ("session kick --user ann", "--tenant", "--help"),
        ("session kick --tenant acme", "--user", "--help"),
        ("session kick no-session", "no-session", "arq session list"),
        (
            "session kick 01890a5d-ac96-774b-bcce-b302099a8057 --tenant acme --user ann",
            "--user",
            "--help",
        ),
        ("session list --limit 0", "0", "--help"),
        ("session list --limit 10001", "10001", "--help"),
        ("session list --tenant Acme!", "Acme!", "a-z"),
    ] {
        refused(&run(words), 2, named, hinted);
    }
    let long = "x".repeat(129);
    let answer = folder.arq(&["auth", "revoke", "--tenant", "acme", "--jti", &long]);
    refused(&answer, 2, "128 bytes", "arq session list");
    let answer = folder.arq(&[
        "auth", "revoke", "--tenant", "acme", "--user", "", "--force",
    ]);
    refused(&answer, 2, "no user id", "sub");
    let user = "a".repeat(129);
    refused(
        &folder.arq(&["session", "list", "--user", &user]),
        2,
        "user id",
        "sub",
    );
    let reason = "x".repeat(257);
    let kick = [
        "session", "kick", "--tenant", "acme", "--user", "ann", "--reason", &reason,
    ];
    refused(&folder.arq(&kick), 2, "256 bytes", "one line");
}

#[test]
fn a_file_that_holds_no_token_to_revoke_is_refused() {
    let folder = Folder::new();
    folder.arq(&["spine", "init"]).ok();
    let revoke = |file: &str| folder.arq(&["auth", "revoke", "--token", file]);
    refused(&revoke("missing.jwt"), 1, "missing.jwt", "`-` for stdin");
    std::fs::write(folder.path().join("garbage.jwt"), "garbage").unwrap();
    refused(&revoke("garbage.jwt"), 1, "no JWT", "arq auth gen");
    std::fs::write(folder.path().join("binary.jwt"), [0xff, 0xfe, 0]).unwrap();
    refused(&revoke("binary.jwt"), 1, "binary.jwt", "--token");
    let token = |options: &[&str]| {
        let arguments = [&["auth", "gen", "--tenant", "acme"], options].concat();
        folder.arq(&arguments).ok().out
    };
    std::fs::write(folder.path().join("old.jwt"), token(&["--ttl", "-1h"])).unwrap();
    refused(&revoke("old.jwt"), 1, "expired", "nothing to revoke");
    let text = token(&["--jti", ""]);
    let answer = folder.arq_with_input(&["auth", "revoke", "--token", "-"], &text);
    refused(&answer, 1, "no jti", "--user");
    std::fs::write(folder.path().join("good.jwt"), token(&[])).unwrap();
    let other = [
        "auth", "revoke", "--tenant", "globex", "--token", "good.jwt",
    ];
    refused(
        &folder.arq(&other),
        2,
        "of tenant acme, not of globex",
        "--tenant",
    );
}

#[test]
fn tokens_are_revoked_and_sessions_listed_and_kicked() {
    let bus = Bus::start();
    let gone = bus.arq(&["auth", "revoke", "--tenant", "nobody", "--jti", "one"]);
    refused(&gone, 1, "no tenant `nobody`", "arq tenant list");
    // Nobody to ask.
    for what in [&["--user", "ann"][..], &["--all"]] {
        let arguments = [&["auth", "revoke", "--tenant", "acme"], what].concat();
        refused(&bus.arq(&arguments), 1, "nothing was revoked", "--force");
    }
    let dropped = bus.arq(&["auth", "revocations", "--drop-unreadable"]);
    refused(&dropped, 1, "nothing was deleted", "--force");
    let listed = bus.arq(&["--json", "auth", "revocations"]).ok().json();
    assert_eq!(listed["revocations"], Value::Array(Vec::new()));

    let token = bus.arq(&["auth", "gen", "--user", "eve", "--jti", "leaked"]);
    let token = token.ok().out;
    let eve = bus.hear(&["lobby", "--token", token.trim()]);
    let ann = bus.hear(&["lobby", "--user", "ann"]);
    let bob = bus.hear(&["lobby", "--user", "bob"]);
    let sessions = bus.arq(&["--json", "session", "list", "--tenant", "acme"]);
    let sessions = sessions.ok().json();
    assert_eq!(
        (
            &sessions["total"],
            sessions["sessions"].as_array().unwrap().len()
        ),
        (&3.into(), 3)
    );
    let of = |user: &str| {
        let all = sessions["sessions"].as_array().unwrap();
        all.iter()
            .find(|info| info["user"] == user)
            .unwrap()
            .clone()
    };
    assert_eq!(of("eve")["jti"], "leaked");
    assert_eq!(
        (&of("ann")["tenant"], &of("ann")["role"]),
        (&"acme".into(), &"user".into())
    );

    // By the file, with what a copy from a header has around it.
    let pasted = format!("Authorization: Bearer {token}\n");
    let revoked = bus
        .folder
        .arq_with_input(&["--json", "auth", "revoke", "--token", "-"], &pasted)
        .ok()
        .json();
    assert_eq!(
        (&revoked["kind"], &revoked["jti"]),
        (&"jti".into(), &"leaked".into())
    );
    assert_eq!(revoked["shields"][0]["in_force"], true, "{revoked}");
    let (code, said) = eve.wait();
    assert!(code != 0 && said.contains("4503"), "{code}: {said}");
    let again = bus.arq(&["pub", "lobby", "hi", "--token", token.trim()]);
    refused(&again, 1, "TOKEN_REVOKED", "");

    let session = of("bob")["session"].as_str().unwrap().to_owned();
    let kicked = bus.arq(&["session", "kick", &session, "--reason", "ticket 17"]);
    assert_eq!(kicked.ok().err, "closed 1 session\n");
    // Its client comes back, as another session.
    until("bob is back", || bob.count("JOINED") == 2);
    refused(
        &bus.arq(&["session", "kick", &session]),
        1,
        "no session",
        "arq session list",
    );
    let none = bus.arq(&[
        "--json", "session", "kick", "--tenant", "acme", "--user", "zoe",
    ]);
    assert_eq!(none.ok().json()["closed"], 0);

    let all = [
        "auth", "revoke", "--tenant", "acme", "--user", "ann", "--force",
    ];
    let told = bus.arq(&all).ok().err;
    assert!(told.contains("in force on 1 Shield"), "{told}");
    assert!(ann.wait().1.contains("4503"));
    let listed = bus.arq(&["--json", "auth", "revocations", "--tenant", "acme"]);
    let listed = listed.ok().json();
    let kinds = listed["revocations"].as_array().unwrap().iter();
    let kinds: Vec<_> = kinds
        .map(|record| record["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["jti", "user"]);
    let globex = bus.arq(&["--json", "auth", "revocations", "--tenant", "globex"]);
    assert_eq!(globex.ok().json()["revocations"], Value::Array(Vec::new()));

    // Who did what is kept, and no token with it.
    let log = bus.folder.state().join("spine/audit.log");
    let log = std::fs::read_to_string(log).unwrap();
    for done in ["auth revoke", "session kick", "ticket 17", "leaked"] {
        assert!(log.contains(done), "{done}: {log}");
    }
    assert!(!log.contains(token.trim()));
}
