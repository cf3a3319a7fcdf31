//! Commands that need no server: what they print, where, and with which exit code.

use crate::common::{Answer, Folder};

#[test]
fn a_token_goes_to_stdout_alone_and_holds() {
    let folder = Folder::new();
    let first = folder.arq(&["auth", "gen", "--role", "user"]);
    assert_eq!(first.code, 0);
    assert_eq!(first.out.trim().split('.').count(), 3);
    assert_eq!(first.out.lines().count(), 1);
    assert!(
        first.err.contains("made the development key pair"),
        "{}",
        first.err
    );
    let second = folder.arq(&["auth", "gen"]);
    assert_eq!(second.err, "", "the key pair is made once");

    let inspected = folder.arq(&["auth", "inspect", first.out.trim()]);
    assert_eq!(inspected.code, 0, "{inspected:?}");
    for part in [
        "tenant     acme",
        "sub        dev",
        "role       user",
        "verified",
        "no problem found",
        "(in ",
    ] {
        assert!(inspected.out.contains(part), "{part}: {}", inspected.out);
    }
}

#[test]
fn the_private_key_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    folder.arq(&["auth", "gen"]).ok();
    let key = folder.state().join("dev/token-key.pem");
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let public = std::fs::read_to_string(folder.state().join("dev/token-key.pub.pem")).unwrap();
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----"));
    let jwks = folder.arq(&["auth", "jwks"]).json();
    assert_eq!(jwks["keys"][0]["alg"], "RS256");
    assert!(jwks["keys"][0].get("d").is_none(), "no private part");
}

#[test]
fn claims_are_as_typed() {
    let folder = Folder::new();
    let made = folder
        .arq(&[
            "--json",
            "auth",
            "gen",
            "--tenant",
            "globex",
            "--user",
            "alice",
            "--ttl",
            "90s",
            "--role",
            "service",
            "--join",
            "team.*",
            "--publish",
            "team.news",
            "--jti",
            "one",
        ])
        .json();
    let claims = &made["claims"];
    assert_eq!(claims["tenant"], "globex");
    assert_eq!(claims["sub"], "alice");
    assert_eq!(claims["role"], "service");
    assert_eq!(claims["jti"], "one");
    assert_eq!(
        claims["rooms"],
        serde_json::json!({"join": ["team.*"], "publish": ["team.news"]})
    );
    assert_eq!(
        claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(),
        90
    );
    let plain = folder.arq(&["--json", "auth", "gen"]).json();
    assert!(
        plain["claims"].get("rooms").is_none(),
        "absent means all rooms"
    );
}

#[test]
fn claims_that_cannot_hold_are_refused() {
    let folder = Folder::new();
    for arguments in [
        vec!["auth", "gen", "--tenant", "Bad"],
        vec!["auth", "gen", "--tenant", ">"],
        vec!["auth", "gen", "--user", ""],
        vec!["auth", "gen", "--ttl", "soon"],
        vec!["auth", "gen", "--ttl", "0"],
        vec!["auth", "gen", "--join", "a..b"],
        vec!["auth", "gen", "--rooms", "{\"joins\":[]}"],
        vec!["auth", "gen", "--role", "root"],
        vec!["auth", "gen", "--join", "a", "--rooms", "{}"],
    ] {
        let answer = folder.arq(&arguments);
        assert_eq!(answer.code, 2, "{arguments:?}: {answer:?}");
        assert_eq!(answer.out, "", "{arguments:?}");
        assert!(
            answer.err.contains("arq: "),
            "{arguments:?}: {}",
            answer.err
        );
    }
}

#[test]
fn problems_of_a_token_are_told() {
    let folder = Folder::new();
    let expired = folder.arq(&["auth", "gen", "--ttl", "-5m"]).ok();
    let answer = folder.arq_with_input(&["auth", "inspect"], &expired.out);
    assert_eq!(answer.code, 1);
    assert!(
        answer.out.contains("problem: it expired 5m ago"),
        "{}",
        answer.out
    );
    assert_eq!(answer.err, "");

    let forged: String = expired
        .out
        .trim()
        .rsplit_once('.')
        .map(|(rest, _)| format!("{rest}.AAAA"))
        .unwrap();
    let answer = folder.arq(&["--json", "auth", "inspect", &forged]);
    assert_eq!(answer.code, 1);
    assert_eq!(answer.json()["signature"], "wrong");

    let answer = folder.arq(&["auth", "inspect", "no token"]);
    assert_eq!(answer.code, 1);
    assert!(answer.err.contains("arq: this is no JWT"), "{}", answer.err);
    assert!(answer.err.contains("hint: "), "{}", answer.err);
}

#[test]
fn a_frame_is_shown_as_text_and_as_json() {
    let folder = Folder::new();
    // PUBLISH to `lobby` of `hi`.
    let hex = "08031205 6c6f626279 2a02 6869";
    let shown = folder.arq_with_input(&["decode", "--hex"], hex).ok();
    for part in ["PUBLISH", "lobby", "hi"] {
        assert!(shown.out.contains(part), "{part}: {}", shown.out);
    }
    let json = folder
        .arq_with_input(&["--json", "decode", "--hex"], hex)
        .json();
    assert_eq!(json["op"], "PUBLISH");
    assert_eq!(json["room"], "lobby");
    assert_eq!(json["payload"], "hi");
    let base64 = folder
        .arq_with_input(&["decode", "--base64"], "CAMSBWxvYmJ5KgJoaQ==")
        .ok();
    assert_eq!(base64.out, shown.out);
    let broken = folder.arq_with_input(&["decode", "--hex"], "0803120");
    assert_eq!(broken.code, 1);
    let broken = folder.arq_with_input(&["decode"], "not a frame");
    assert_eq!(broken.code, 1);
    assert!(
        broken.err.contains("hint: where the input is text"),
        "{}",
        broken.err
    );
    assert_eq!(folder.arq(&["decode", "/nowhere"]).code, 1);
}

const FIVE_MISTAKES: &str = r#"
[node]
id = "Shield 1"
[listen]
public = "8080"
blacklog = 1024
[spine]
control_creds_file = "a.creds"
fleet_key_file = "f.nk"
user_ttl_secs = 1
[log]
level = "loud"
"#;

#[test]
fn five_mistakes_of_a_manifest_are_five_lines_and_exit_64() {
    let folder = Folder::new();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, FIVE_MISTAKES).unwrap();
    let file = file.to_str().unwrap();
    let answer = folder.arq(&["config", "check", "--text-only", file]);
    assert_eq!(answer.code, 64, "{answer:?}");
    assert_eq!(answer.out.lines().count(), 5, "{}", answer.out);
    for key in [
        "listen.blacklog",
        "listen.public",
        "log.level",
        "node.id",
        "spine.user_ttl_secs",
    ] {
        assert!(
            answer.out.lines().any(|line| line.starts_with(key)),
            "{key}: {}",
            answer.out
        );
    }
    assert!(
        answer.err.starts_with("arq: 5 problems in "),
        "{}",
        answer.err
    );

    let json = folder.arq(&["--json", "config", "check", "--text-only", file]);
    assert_eq!(json.code, 64);
    assert_eq!(json.json()["problems"].as_array().unwrap().len(), 5);

    let answer = folder.arq(&["config", "check", "/nowhere.toml"]);
    assert_eq!(answer.code, 64);
    assert!(
        answer.err.contains("hint: `arq config init`"),
        "{}",
        answer.err
    );
}

#[test]
fn a_manifest_is_written_once_and_holds() {
    let folder = Folder::new();
    let file = folder.path().join("etc/config.toml");
    let file = file.to_str().unwrap();
    folder
        .arq(&["config", "init", file, "--id", "shield-7"])
        .ok();
    folder.arq(&["config", "check", "--text-only", file]).ok();
    let shown = folder.arq(&["config", "show", file]).ok();
    assert!(shown.out.lines().any(|line| line.starts_with("node.id")
        && line.contains("\"shield-7\"")
        && line.ends_with("set")));
    let json = folder.arq(&["--json", "config", "show", file]).json();
    assert_eq!(json["node.id"]["value"], "shield-7");
    assert_eq!(json["session.heartbeat_secs"]["default"], true);
    let again = folder.arq(&["config", "init", file]);
    assert_eq!(again.code, 1);
    assert!(again.err.contains("exists already"), "{}", again.err);
    folder.arq(&["config", "init", file, "--force"]).ok();
    assert!(
        folder
            .arq(&["config", "init", "-"])
            .ok()
            .out
            .contains("[spine]")
    );
    assert!(folder.arq(&["config", "docs"]).ok().out.contains("| key |"));
}

#[test]
fn what_is_typed_wrongly_is_exit_2_with_the_nearest_command() {
    let folder = Folder::new();
    let answer = folder.arq(&["tennant", "list"]);
    assert_eq!(answer.code, 2);
    assert!(
        answer
            .err
            .starts_with("arq: unrecognized subcommand 'tennant'"),
        "{}",
        answer.err
    );
    assert!(
        answer
            .err
            .contains("hint: a similar subcommand exists: 'tenant'"),
        "{}",
        answer.err
    );
    for arguments in [
        vec!["sub", ">"],
        vec!["sub", "a b"],
        vec!["pub", "a..b", "x"],
        vec!["sub", "_presence"],
        vec!["sub", ""],
    ] {
        let answer = folder.arq(&arguments);
        assert_eq!(answer.code, 2, "{arguments:?}: {answer:?}");
        assert!(answer.err.starts_with("arq: "), "{answer:?}");
        assert!(answer.err.contains("\nhint: "), "{answer:?}");
    }
}

#[test]
fn without_a_server_the_way_out_is_told() {
    let folder = Folder::new();
    for arguments in [
        vec!["status"],
        vec!["tenant", "list"],
        vec!["pool", "list"],
        vec!["spine", "config"],
    ] {
        let answer = folder.arq(&arguments);
        assert_eq!(answer.code, 1, "{arguments:?}: {answer:?}");
        assert!(
            answer.err.contains("arq: there is no Spine state in "),
            "{answer:?}"
        );
        assert!(answer.err.contains("hint: `arq dev up`"), "{answer:?}");
    }
    let answer = folder.arq(&["sub", "lobby", "--url", "ws://127.0.0.1:9"]);
    assert_eq!(answer.code, 1);
    assert!(
        answer
            .err
            .contains("arq: cannot speak with ws://127.0.0.1:9"),
        "{answer:?}"
    );
    let answer = folder.arq(&["dev", "status"]);
    assert_eq!(answer.code, 1);
    let answer = folder.arq(&["dev", "down"]);
    assert_eq!(answer.code, 0, "nothing to stop is no failure");
}

#[test]
fn the_doctor_names_the_first_hop_that_fails() {
    let folder = Folder::new();
    folder.arq(&["spine", "init"]).ok();
    // A port where nothing listens.
    let port = crate::common::free_port();
    std::fs::write(
        folder.state().join("context.toml"),
        format!(
            "nats = [\"nats://127.0.0.1:{port}\"]\nshield_url = \"ws://127.0.0.1:{port}/v1/socket\"\n\
             admin_url = \"http://127.0.0.1:{port}\"\ndefault_tenant = \"acme\"\ndefault_user = \"dev\"\n\
             audience = \"arqon\"\nissuer = \"arqon-development\"\n"
        ),
    )
    .unwrap();
    let answer = folder.arq(&["doctor"]);
    assert_eq!(answer.code, 1);
    assert!(
        answer
            .err
            .starts_with("arq: the first hop that fails: NATS TCP\nhint: "),
        "{answer:?}"
    );
    assert!(answer.out.contains("skipped echo"), "{}", answer.out);
    let json = folder.arq(&["--json", "doctor"]).json();
    assert_eq!(json["failed"], "NATS TCP");
}

#[test]
fn keys_are_made_once_and_the_server_configuration_holds_none() {
    let folder = Folder::new();
    let first = folder.arq(&["--json", "spine", "init"]).json();
    assert_eq!(first["existed"], false);
    let single = folder
        .arq(&["spine", "config", "--listen", "127.0.0.1:4333"])
        .ok();
    assert!(single.out.contains("127.0.0.1:4333"));
    assert!(
        !single.out.contains("SA") || !single.out.lines().any(|line| line.trim().starts_with("SA"))
    );
    let again = folder.arq(&["--json", "spine", "init"]).json();
    assert_eq!(again["existed"], true);
    assert_eq!(
        identity(&single),
        identity(&folder.arq(&["spine", "config"]).ok())
    );
    let cluster = folder
        .arq(&[
            "spine",
            "config",
            "--name",
            "n1",
            "--cluster-listen",
            "127.0.0.1:6222",
            "--route",
            "127.0.0.1:6223",
            "--route",
            "127.0.0.1:6224",
        ])
        .ok();
    for part in [
        "server_name: n1",
        "cluster {",
        "127.0.0.1:6223",
        "127.0.0.1:6224",
    ] {
        assert!(cluster.out.contains(part), "{part}: {}", cluster.out);
    }
    let creds = folder.arq(&["spine", "creds", "shield", "shield-9"]).ok();
    let text = std::fs::read_to_string(creds.out.trim()).unwrap();
    assert!(text.contains("BEGIN NATS USER JWT"));
    assert_eq!(
        folder.arq(&["spine", "creds", "shield", "Shield_9"]).code,
        2
    );
}

/// The line of a server's configuration that names the system account.
fn identity(config: &Answer) -> String {
    config
        .out
        .lines()
        .find(|line| line.starts_with("system_account"))
        .unwrap()
        .to_owned()
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_arq"))
        .args(["config", "docs"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before anything can be written to it.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_brain_gets_a_manifest_and_two_credentials() {
    let folder = Folder::new();
    folder.arq(&["spine", "init"]).ok();
    let control = folder.arq(&["spine", "creds", "brain", "brain-7"]).ok().out;
    let presence = folder
        .arq(&["spine", "creds", "presence", "brain-7"])
        .ok()
        .out;
    assert_ne!(control, presence, "two accounts, two files");
    let file = folder.path().join("brain.toml");
    let file = file.to_str().unwrap();
    folder
        .arq(&["config", "init", file, "--role", "brain", "--id", "brain-7"])
        .ok();
    let text = std::fs::read_to_string(file).unwrap();
    assert!(
        text.contains("[brain]") && text.contains("id = \"brain-7\"") && !text.contains("[tokens]"),
        "{text}"
    );
    // With the files it names in place nothing is wrong with it.
    let text = text
        .lines()
        .map(|line| match line.split(" = ").next().unwrap() {
            "control_creds_file" => format!("control_creds_file = {:?}", control.trim()),
            "creds_file" => format!("creds_file = {:?}", presence.trim()),
            _ => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n");
    std::fs::write(file, text).unwrap();
    folder.arq(&["config", "check", file]).ok();
    let shown = folder.arq(&["--json", "config", "show", file]).ok().json();
    assert_eq!(shown["brain.full_limit"]["default"], true);
}

#[test]
fn what_shield_and_brain_say_is_decoded_by_its_subject() {
    let folder = Folder::new();
    // PresenceQuery { shield: "s", room: "lobby" }
    let hex = "0a0173 22056c6f626279";
    let by_subject = [
        "--json",
        "decode",
        "--hex",
        "--subject",
        "_arq.presence.query",
    ];
    let shown = folder.arq_with_input(&by_subject, hex).ok().json();
    assert_eq!(
        (&shown["shield"], &shown["room"]),
        (&"s".into(), &"lobby".into())
    );
    let by_name = ["decode", "--hex", "--as", "query"];
    assert!(
        folder
            .arq_with_input(&by_name, hex)
            .ok()
            .out
            .contains("lobby")
    );
    let wrong = folder.arq_with_input(&["decode", "--hex", "--as", "events"], "ff");
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("this is no PresenceEvents"), "{wrong:?}");
}
