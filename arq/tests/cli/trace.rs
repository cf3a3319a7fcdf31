//! `arq trace`: what it refuses, and what it shows of whom.

use serde_json::{Value, json};

use crate::common::{Bus, Folder, Listener, signal, until};

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = Folder::new();
    for arguments in [
        vec!["trace"],
        vec!["trace", "a..b"],
        vec!["trace", "_presence.>"],
        vec!["trace", "user:"],
        vec!["trace", "user:alice", "--user", "bob"],
        vec!["trace", "lobby", "--tenant", "Bad"],
        vec!["trace", "lobby", "--payload=much"],
        vec!["trace", "lobby", "--count", "0"],
    ] {
        let answer = folder.arq(&arguments);
        assert_eq!(answer.code, 2, "{arguments:?}: {answer:?}");
        assert!(answer.err.starts_with("arq: "), "{arguments:?}: {answer:?}");
        assert_eq!(answer.out, "", "{arguments:?}");
    }
}

#[test]
fn it_takes_the_keys_of_an_admin() {
    let folder = Folder::new();
    let answer = folder.arq(&["trace", "lobby"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(
        answer.err.contains("there is no Spine state in"),
        "{answer:?}"
    );

    folder.arq(&["spine", "init"]).ok();
    std::fs::remove_file(folder.state().join("spine/debug/read.nk")).unwrap();
    let answer = folder.arq(&["trace", "lobby"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(
        answer
            .err
            .contains("this state folder may not look into tenants"),
        "{answer:?}"
    );
    assert!(
        answer.err.contains("\nhint: only an admin may"),
        "{answer:?}"
    );
    assert!(
        !folder.state().join("spine/audit.log").exists(),
        "nothing was done"
    );
}

#[test]
fn metadata_is_shown_and_payloads_only_when_asked_for() {
    let bus = Bus::start();
    let start = |arguments: &[&str]| {
        let tracer = Listener::start(&bus.folder, &[&["trace"], arguments].concat());
        until("it listens", || tracer.with("kind", "listening").len() == 1);
        tracer
    };
    let everything = start(&[">"]);
    let whole = start(&["lobby", "--payload=6", "--headers", "--count", "2"]);
    let of_bob = start(&["user:bob"]);
    let elsewhere = start(&[">", "--tenant", "globex"]);

    for user in ["alice", "bob"] {
        bus.arq(&["pub", "lobby", "secret words", "--user", user])
            .ok();
    }
    bus.arq(&["pub", "team.a", "secret words", "--user", "bob"])
        .ok();
    bus.arq(&["pub", "lobby", "other words", "--tenant", "globex"])
        .ok();
    // As who holds credentials that write may, past Shield.
    publish_past_shield(&bus, "acme.lobby", b"\xff\xff");

    let messages = |tracer: &Listener| tracer.with("kind", "message");
    until("all of it is seen", || {
        messages(&everything).len() == 3
            && everything.with("kind", "malformed").len() == 1
            && messages(&of_bob).len() == 2
            && messages(&elsewhere).len() == 1
    });
    let seen = messages(&everything);
    let first = &seen[0];
    assert_eq!(
        (&first["room"], &first["user"]),
        (&json!("lobby"), &json!("alice"))
    );
    assert_eq!(
        (&first["payload_bytes"], &first["seq"]),
        (&json!(12), &json!(1))
    );
    assert_eq!(first["twist_id"].as_str().unwrap().len(), 36);
    assert_eq!(first["session"].as_str().unwrap().len(), 36);
    assert_eq!(first["run"].as_str().unwrap().len(), 16);
    // Both clocks are this host's.
    assert!(first["latency_us"].as_i64() > Some(0), "{first}");
    assert!(
        seen.iter()
            .all(|message| !message.to_string().contains("secret")),
        "{seen:?}"
    );
    assert_eq!(messages(&elsewhere)[0]["payload_bytes"], 11);
    let malformed = &everything.with("kind", "malformed")[0];
    assert_eq!(
        (&malformed["room"], &malformed["seq"]),
        (&json!("lobby"), &Value::Null)
    );

    let shown = messages(&whole);
    assert_eq!(
        (&shown[1]["payload"], &shown[1]["payload_cut"]),
        (&json!("secret"), &json!(true))
    );
    assert_eq!(shown[1]["headers"], json!({}));
    let (code, said) = whole.wait();
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("2 messages of 2 users in 1 room, 24 B"),
        "{said}"
    );

    signal(&everything.child, "INT");
    let (code, said) = everything.wait();
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("3 messages of 2 users in 2 rooms, 36 B"),
        "{said}"
    );
    assert!(said.contains("; 1 malformed"), "{said}");

    let none = bus.arq(&["trace", "quiet", "--count", "1", "--for", "1s"]);
    assert_eq!(none.code, 1, "{none:?}");
    assert!(none.err.contains("saw 0 of 1 messages in time"), "{none:?}");
    let unknown = bus.arq(&["trace", "lobby", "--tenant", "nobody"]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert!(
        unknown.err.contains("there is no tenant `nobody`\nhint: "),
        "{unknown:?}"
    );
    bus.arq(&["tenant", "suspend", "globex"]).ok();
    let suspended = bus.arq(&["trace", "lobby", "--tenant", "globex"]);
    assert!(
        suspended.err.contains("tenant globex is suspended"),
        "{suspended:?}"
    );
    assert!(
        suspended.err.contains("hint: `arq tenant resume globex`"),
        "{suspended:?}"
    );

    // Each look is on record, and what was looked at.
    let audit = std::fs::read_to_string(bus.folder.state().join("spine/audit.log")).unwrap();
    let entries = audit
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let entries: Vec<Value> = entries.filter(|entry| entry["action"] == "trace").collect();
    assert_eq!(entries.len(), 5, "{audit}");
    let payloads = entries
        .iter()
        .filter(|entry| entry["payload"] == true)
        .count();
    let of_bob = entries.iter().filter(|entry| entry["of"] == "bob").count();
    assert_eq!((payloads, of_bob), (1, 1), "{audit}");
}

#[test]
fn a_line_is_for_people() {
    let bus = Bus::start();
    let child = bus
        .folder
        .command(&["trace", "lobby", "--payload", "--count", "1"])
        .spawn()
        .unwrap();
    let log = bus.folder.state().join("spine/audit.log");
    until("it was let in", || log.exists());
    until("it has seen one", || {
        bus.arq(&["pub", "lobby", "hello", "--user", "alice"]).ok();
        let pid = child.id();
        !crate::common::runs(pid)
    });
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let (line, payload) = out.trim_end().split_once('\n').unwrap();
    assert!(line.contains(" lobby alice/"), "{out}");
    assert!(line.contains(" 5 B 0 headers +"), "{out}");
    assert_eq!(payload, "    payload hello");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("listening to lobby of acme; Ctrl-C ends\n"),
        "{said}"
    );
}

fn publish_past_shield(bus: &Bus, subject: &'static str, payload: &'static [u8]) {
    bus.arq(&["tenant", "creds", "acme", "--write"]).ok();
    let creds = bus.folder.path().join("acme-write.creds");
    let nats = bus.ready["nats"][0].as_str().unwrap().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let connection = arqon_spine::connect::connect_creds(&[nats], &creds, "test")
            .await
            .unwrap();
        connection
            .client
            .publish(subject, payload.into())
            .await
            .unwrap();
        connection.client.flush().await.unwrap();
        connection.close().await;
    });
}
