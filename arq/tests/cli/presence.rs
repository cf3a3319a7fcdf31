//! `arq` and presence: a real Brain beside the Shield.

use std::io::{BufRead, BufReader};
use std::sync::{Arc, Mutex};

use crate::common::{Bus, Folder, Listener, build_shield, signal_pid, until};

#[test]
fn people_come_are_seen_and_leave() {
    let mut bus = Bus::start_with_brains(2);

    // Nobody, told three ways.
    let empty = bus.folder.until_ok(&["--json", "presence", "lobby"]).json();
    assert_eq!(
        (&empty["count"], &empty["members"]),
        (&0.into(), &serde_json::json!([]))
    );
    let text = bus.arq(&["presence", "lobby"]).ok().err;
    assert!(text.contains("nobody is in lobby"), "{text}");
    assert_eq!(bus.arq(&["presence", "lobby", "--count"]).ok().out, "0\n");

    // One watcher hears another user of presence: `--watch` itself is not seen.
    let watch = |user| {
        let arguments = ["--json", "presence", "lobby", "--watch", "--user", user];
        let mut child = bus.folder.command(&arguments).spawn().unwrap();
        let frames: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let seen = frames.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                seen.lock()
                    .unwrap()
                    .push(serde_json::from_str(&line).unwrap());
            }
        });
        (child, frames)
    };
    let (mut child, frames) = watch("owl");
    let count = |op: &str| {
        let frames = frames.lock().unwrap();
        frames.iter().filter(|frame| frame["op"] == op).count()
    };
    until("the watcher knows the room", || {
        count("PRESENCE_STATE") == 1
    });
    assert_eq!(bus.arq(&["presence", "lobby", "--count"]).ok().out, "0\n");

    // A trace sees who comes and leaves, of the rooms and the user that were asked for.
    let tracer = Listener::start(&bus.folder, &["trace", "lobby", "--presence"]);
    let of_bob = Listener::start(&bus.folder, &["trace", "user:bob", "--presence"]);
    for tracer in [&tracer, &of_bob] {
        until("it listens", || tracer.with("kind", "listening").len() == 1);
    }
    let alice = bus.hear(&["lobby", "--presence", "--user", "alice"]);
    let told = |field: &str| {
        let told = tracer.with("kind", "presence");
        told.iter().any(|event| event[field][0] == "alice")
    };
    until("she comes", || told("here"));
    drop(alice);
    until("she leaves", || told("left"));
    assert!(of_bob.with("kind", "presence").is_empty());
    drop((tracer, of_bob));

    // The Brains are counted, both warm.
    until("both Brains report", || {
        let status = bus.arq(&["--json", "status"]).ok().json();
        let brains = status["brains"].as_array().unwrap();
        brains.len() == 2 && brains.iter().all(|brain| brain["warm"] == true)
    });
    let status = bus.arq(&["status"]).ok().out;
    assert!(
        status.contains("brain-1") && status.contains("warm"),
        "{status}"
    );
    let doctor = bus.arq(&["doctor"]).ok().out;
    assert!(doctor.contains("a Brain answers"), "{doctor}");

    // Their death ends everything, as that of any part.
    let brain = bus.part("brain-2");
    signal_pid(brain, "KILL");
    assert_eq!(bus.child.wait().unwrap().code(), Some(1));
    let said = std::fs::read_to_string(bus.folder.path().join("up.err")).unwrap();
    assert!(
        said.contains("arq: brain-2 ended by itself (signal 9)"),
        "{said}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn without_a_brain_presence_is_unavailable_and_said_to_be() {
    let bus = Bus::start();
    let answer = bus.arq(&["presence", "lobby"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.err.contains("PRESENCE_UNAVAILABLE"), "{answer:?}");
    assert!(answer.err.contains("hint: no Brain answers"), "{answer:?}");
    let doctor = bus.arq(&["doctor"]).ok().out;
    assert!(doctor.contains("no Brain runs"), "{doctor}");
    let status = bus.arq(&["status"]).ok().err;
    assert!(status.contains("no Brain is heard"), "{status}");
}

#[test]
fn a_missing_release_is_said_with_its_remedy() {
    build_shield();
    // A copy of arq far from the tree: nothing beside it.
    let folder = Folder::new();
    let alone = folder.path().join("arq");
    std::fs::copy(env!("CARGO_BIN_EXE_arq"), &alone).unwrap();
    let shield = std::path::Path::new(env!("CARGO_BIN_EXE_arq")).with_file_name("arqon-shield");
    let path = format!(
        "{}:{}",
        shield.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let output = std::process::Command::new(&alone)
        .args(["dev", "up", "--native", "--port-base", "0", "--state"])
        .arg(folder.state())
        .env("PATH", path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("there is no Brain"), "{said}");
    assert!(
        said.contains("scripts/brain") && said.contains("--no-brain"),
        "{said}"
    );
}
