//! `arq auth keys`, `arq tenant limits` and `arq tenant reassert`, on a bus that runs.

use crate::common::{Bus, Folder, until};

#[test]
fn another_development_key_takes_over_without_a_break() {
    let bus = Bus::start();
    let old_token = bus.arq(&["auth", "gen"]).ok().out;
    let old_token = old_token.trim();
    let listener = bus.hear(&["lobby"]);

    let rotated = bus.arq(&["--json", "auth", "keys", "rotate"]).ok().json();
    assert_eq!(rotated["tenants"], serde_json::json!(["acme", "globex"]));
    assert_ne!(rotated["kid"], rotated["old_kid"]);
    let new_token = bus.arq(&["auth", "gen"]).ok().out;
    bus.folder.until_ok(&[
        "pub",
        "lobby",
        "by the new key",
        "--token",
        new_token.trim(),
    ]);
    bus.arq(&["pub", "lobby", "by the old key", "--token", old_token])
        .ok();
    listener.hears("by the new key");
    listener.hears("by the old key");
    let jwks = bus.arq(&["auth", "jwks"]).json();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 2);

    let twice = bus.arq(&["auth", "keys", "rotate"]);
    assert_eq!(twice.code, 1);
    assert!(
        twice.err.contains("hint: `arq auth keys retire`"),
        "{twice:?}"
    );

    let asked = bus.arq(&["auth", "keys", "retire"]);
    assert_eq!(asked.code, 1);
    assert!(asked.err.contains("--force"), "{asked:?}");
    bus.arq(&["auth", "keys", "retire", "--force"]).ok();
    until("the old key is trusted no more", || {
        bus.arq(&["pub", "lobby", "late", "--token", old_token])
            .code
            != 0
    });
    let refused = bus.arq(&["pub", "lobby", "late", "--token", old_token]);
    assert!(refused.err.contains("TOKEN_"), "{refused:?}");
    bus.arq(&["pub", "lobby", "still", "--token", new_token.trim()])
        .ok();
    let keys = bus.arq(&["--json", "auth", "keys", "list"]).json();
    assert_eq!(keys.as_array().unwrap().len(), 1);
    assert_eq!(keys[0]["kid"], rotated["kid"]);
}

#[test]
fn a_rotation_that_was_cut_off_is_finished_with_the_same_key() {
    let bus = Bus::start();
    // What a run leaves behind that ended after it made the next key.
    let other = Folder::new();
    other.arq(&["auth", "gen"]).ok();
    let next = bus.folder.state().join("dev/token-key.next.pem");
    std::fs::copy(other.state().join("dev/token-key.pem"), &next).unwrap();
    let waiting = bus.arq(&["auth", "keys", "list"]).ok().out;
    assert!(waiting.contains("waits for its rotation"), "{waiting}");
    let kid = other.arq(&["auth", "jwks"]).json()["keys"][0]["kid"].clone();
    let rotated = bus.arq(&["--json", "auth", "keys", "rotate"]).ok().json();
    assert_eq!(rotated["kid"], kid);
    assert!(!next.exists());
    bus.folder.until_ok(&["pub", "lobby", "hello"]);
}

#[test]
fn a_rotation_that_was_cut_off_at_its_end_retires_no_key_that_signs() {
    let (folder, other) = (Folder::new(), Folder::new());
    folder.arq(&["auth", "gen"]).ok();
    other.arq(&["auth", "gen"]).ok();
    let key = |folder: &Folder, name: &str| folder.state().join("dev").join(name);
    // What a run leaves behind that ended between its last two steps.
    let signing = key(&folder, "token-key.pem");
    std::fs::hard_link(&signing, key(&folder, "token-key.old.pem")).unwrap();
    let next = key(&folder, "token-key.next.pem");
    std::fs::copy(key(&other, "token-key.pem"), &next).unwrap();

    let early = folder.arq(&["auth", "keys", "retire", "--force"]);
    assert_eq!(early.code, 1);
    assert!(
        early.err.contains("hint: `arq auth keys rotate` finishes"),
        "{early:?}"
    );
    let kid = other.arq(&["auth", "jwks"]).json()["keys"][0]["kid"].clone();
    let rotated = folder
        .arq(&["--json", "auth", "keys", "rotate"])
        .ok()
        .json();
    assert_eq!(rotated["kid"], kid);
    assert!(!next.exists());
    let public = |folder: &Folder| std::fs::read(key(folder, "token-key.pub.pem")).unwrap();
    // Nor does it matter where that ended before it wrote the public half.
    std::fs::write(key(&folder, "token-key.pub.pem"), "stale").unwrap();
    assert_eq!(folder.arq(&["auth", "keys", "rotate"]).code, 1);
    assert_eq!(public(&folder), public(&other));
    let retired = folder.arq(&["--json", "auth", "keys", "retire", "--force"]);
    assert_eq!(retired.ok().json()["retired_kid"], rotated["old_kid"]);
}

#[test]
fn no_key_to_rotate_is_told() {
    let folder = Folder::new();
    let answer = folder.arq(&["auth", "keys", "rotate"]);
    assert_eq!(answer.code, 1);
    assert!(
        answer.err.contains("there is no development key"),
        "{answer:?}"
    );
    let none = folder.arq(&["auth", "keys", "retire", "--force"]);
    assert!(none.err.contains("there is no development key"), "{none:?}");
}

#[test]
fn limits_are_changed_one_by_one() {
    let bus = Bus::start();
    let before = bus.arq(&["--json", "tenant", "limits", "acme"]).ok().json();
    assert_eq!(before["max_payload_bytes"], 0);
    bus.arq(&[
        "tenant",
        "limits",
        "acme",
        "--max-payload-bytes",
        "64",
        "--max-rooms",
        "9",
    ])
    .ok();
    let after = bus
        .arq(&["tenant", "limits", "acme", "--max-rooms", "0"])
        .ok()
        .out;
    let row = |name: &str| {
        let line = after.lines().find(|line| line.starts_with(name));
        line.unwrap_or_default()[name.len()..].trim().to_owned()
    };
    assert_eq!(row("max payload bytes"), "64");
    assert_eq!(row("max rooms "), "the platform's");
    // In force on every Shield when the command returns.
    let long = "x".repeat(65);
    let refused = bus.arq(&["pub", "lobby", &long]);
    assert!(refused.err.contains("PAYLOAD_TOO_LARGE"), "{refused:?}");
    bus.arq(&["pub", "lobby", &long[..64]]).ok();
    let unknown = bus.arq(&["tenant", "limits", "nobody", "--max-rooms", "1"]);
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.err.contains("hint: `arq tenant list`"),
        "{unknown:?}"
    );
}

#[test]
fn nothing_to_reassert_is_told() {
    let bus = Bus::start();
    let told = bus.arq(&["tenant", "reassert"]).ok();
    assert_eq!(told.err, "every account is as its record says\n");
    let counted = bus.arq(&["--json", "tenant", "reassert"]).ok().json();
    assert_eq!(counted["unchanged"], 2);
    assert_eq!(counted["orphans"], serde_json::json!([]));
}
