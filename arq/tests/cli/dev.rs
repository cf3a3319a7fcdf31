//! `arq dev`: logs and restarts of a running bus, and what a machine without Docker is told.

use crate::common::{Answer, Bus, Folder, Listener, until};

#[test]
fn without_docker_native_is_offered() {
    let folder = Folder::new();
    let empty = tempfile::tempdir().unwrap();
    let answer: crate::common::Answer = folder
        .command(&["dev", "up"])
        .env("PATH", empty.path())
        .output()
        .unwrap()
        .into();
    assert_eq!(answer.code, 1);
    assert_eq!(
        answer.err,
        "arq: there is no Docker on this machine\n\
         hint: `arq dev up --native` runs everything without Docker\n"
    );
    assert!(!folder.state().exists(), "nothing was made");
}

#[test]
fn options_of_one_way_are_refused_by_the_other() {
    let folder = Folder::new();
    for (arguments, named) in [
        (&["dev", "up", "--brains", "2"][..], "--native"),
        (&["dev", "up", "--no-brain"], "--native"),
        (&["dev", "up", "--native", "--profile", "core"], "--profile"),
        (
            &["dev", "up", "--otlp-traces", "http://127.0.0.1:4317"],
            "--native",
        ),
    ] {
        let answer = folder.arq(arguments);
        assert_eq!(answer.code, 2, "{arguments:?}: {answer:?}");
        assert!(answer.err.contains(named), "{arguments:?}: {answer:?}");
    }
}

#[test]
fn logs_and_restart_say_where_nothing_is() {
    let folder = Folder::new();
    let logs = folder.arq(&["dev", "logs"]);
    assert_eq!(logs.code, 1);
    assert!(logs.err.contains("there are no logs in"), "{logs:?}");
    assert!(logs.err.contains("hint: `arq dev up`"), "{logs:?}");
    let restart = folder.arq(&["dev", "restart"]);
    assert_eq!(restart.code, 1);
    assert!(restart.err.contains("no `arq dev up` runs"), "{restart:?}");
}

#[test]
fn a_restart_ends_no_start_and_two_at_once_are_both_answered() {
    let folder = Folder::new();
    let mut early = folder.command(&["dev", "restart", "nats"]);
    let record = folder.state().join("dev/up.json");
    let early = std::thread::spawn(move || {
        until("the first part is on record", || record.exists());
        Answer::from(early.output().unwrap())
    });
    let bus = Bus::start_in(folder, &["--port-base", "0", "--no-brain"]);
    early.join().unwrap().ok();
    let asked: Vec<_> = (0..3)
        .map(|_| bus.folder.command(&["dev", "restart", "shield"]).spawn())
        .collect();
    for child in asked {
        Answer::from(child.unwrap().wait_with_output().unwrap()).ok();
    }
}

#[test]
fn parts_restart_one_by_one_and_are_ready_then() {
    let bus = Bus::start();
    let listener = bus.hear(&["lobby"]);
    let (nats, shield) = (bus.part("nats"), bus.part("shield"));

    let answer = bus.arq(&["--json", "dev", "restart", "shield"]).ok().json();
    assert_eq!(answer["restarted"], serde_json::json!(["shield"]));
    assert_eq!(bus.part("nats"), nats, "what was not named goes on");
    assert_ne!(bus.part("shield"), shield);
    // Ready when the command returns; the listener has come back or does so.
    until("the listener is back", || listener.count("JOINED") == 2);
    bus.arq(&["pub", "lobby", "after the restart"]).ok();
    listener.hears("after the restart");

    let all = bus.arq(&["dev", "restart"]).ok();
    assert!(all.err.contains("restarted nats, shield"), "{all:?}");
    assert_ne!(bus.part("nats"), nats);
    bus.arq(&["pub", "lobby", "after all"]).ok();

    let unknown = bus.arq(&["dev", "restart", "sheild"]);
    assert_eq!(unknown.code, 2);
    assert_eq!(
        unknown.err,
        "arq: there is no part `sheild`\nhint: did you mean `shield`?\n"
    );

    let two = bus.arq(&["dev", "logs", "shield", "--lines", "2"]).ok();
    assert_eq!(two.out.lines().count(), 2, "{two:?}");
    assert!(two.out.lines().all(|line| line.starts_with("shield | ")));
    let follower = Listener::start(&bus.folder, &["dev", "logs", "--follow"]);
    until("both parts are shown", || {
        !follower.with("part", "nats").is_empty() && !follower.with("part", "shield").is_empty()
    });
    let before = follower.with("part", "shield").len();
    bus.arq(&["dev", "restart", "shield"]).ok();
    until("what comes later is shown", || {
        follower.with("part", "shield").len() > before
    });
}
