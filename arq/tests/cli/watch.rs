//! `arq status --watch`: what it refuses, what it prints, and that it gives a terminal back.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use crate::common::{Bus, Folder, Listener, signal, until};

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = Folder::new();
    for (arguments, code, said) in [
        (
            vec!["status", "--watch", "--every", "0"],
            2,
            "longer than nothing",
        ),
        (
            vec!["status", "--watch", "--every", "2h"],
            2,
            "over an hour",
        ),
        (
            vec!["status", "--watch", "--every", "soon"],
            2,
            "no length of time",
        ),
        (vec!["status", "--every", "2s"], 2, "--watch"),
        (vec!["status", "--watch"], 1, "hint: `arq dev up` makes one"),
    ] {
        let answer = folder.arq(&arguments);
        assert_eq!(answer.code, code, "{arguments:?}: {answer:?}");
        assert!(answer.err.contains(said), "{arguments:?}: {answer:?}");
        assert_eq!(answer.out, "", "{arguments:?}");
    }
}

#[test]
fn rates_are_told_line_by_line_block_by_block_and_on_a_screen() {
    let bus = Bus::start();
    let mut watcher = Listener::start(&bus.folder, &["status", "--watch"]);
    let member = bus.hear(&["lobby", "--user", "alice"]);
    until("messages are counted", || {
        bus.arq(&["pub", "lobby", "hello"]).ok();
        let lines = watcher.all();
        lines
            .iter()
            .any(|line| line["messages_in_per_sec"].as_f64() > Some(0.0))
    });
    let line = watcher.all().pop().unwrap();
    assert_eq!(
        (&line["healthy"], &line["nats_lost"]),
        (&true.into(), &serde_json::Value::Null)
    );
    assert_eq!(line["shields"][0]["id"], "shield-1");
    assert!(
        line["shields"][0]["messages_out_per_sec"].is_number(),
        "{line}"
    );
    assert!(line["nats"][0]["connections"].as_u64() > Some(0), "{line}");
    let acme = &line["tenants"][0];
    assert_eq!(acme["id"], "acme", "the busiest stands first");
    assert!(acme["errors_per_sec"].is_number(), "{line}");
    signal(&watcher.child, "TERM");
    assert_eq!(watcher.child.wait().unwrap().code(), Some(0));

    let blocks = bus.arq(&["status", "--watch", "--for", "4s"]).ok();
    assert!(
        blocks
            .out
            .starts_with("ArqonBus: healthy  1 of 1 Shield ready"),
        "{}",
        blocks.out
    );
    assert!(
        blocks.out.contains("\n\nArqonBus: "),
        "a second one: {}",
        blocks.out
    );
    assert!(!blocks.out.contains('\x1b'), "{}", blocks.out);

    for (key, colour) in [("q", true), ("\x03", false)] {
        let screen = on_a_terminal(&bus.folder, key, colour);
        let taken = screen.find("\x1b[?1049h").unwrap();
        let given_back = screen.rfind("\x1b[?1049l").unwrap();
        let drawn = &screen[taken..given_back];
        assert!(
            drawn.contains("shield-1") && drawn.contains("q ends"),
            "{screen:?}"
        );
        assert_eq!(drawn.contains("\x1b[32m"), colour, "{screen:?}");
        assert!(
            screen.rfind("\x1b[?25h") > screen.rfind("\x1b[?25l"),
            "the cursor is back"
        );
        assert!(screen[given_back..].contains("ended: 0 "), "{screen:?}");
        let modes = &screen[given_back..];
        assert!(
            modes.contains(" icanon") && modes.contains(" echo "),
            "{screen:?}"
        );
    }
    drop(member);
}

/// Runs it on a terminal, presses a key when it has drawn, and gives all that the terminal got.
fn on_a_terminal(folder: &Folder, key: &str, colour: bool) -> String {
    let arq = format!(
        "stty rows 24 cols 80; {} {} --state '{}' status --watch; echo \"ended: $? $(stty -a)\"",
        if colour { "" } else { "NO_COLOR=1" },
        env!("CARGO_BIN_EXE_arq"),
        folder.state().display()
    );
    let mut child = Command::new("script")
        .args(["--quiet", "--flush", "--command", &arq, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut screen = Vec::new();
    let mut pressed = false;
    let mut buffer = [0; 4_096];
    loop {
        let read = stdout.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        screen.extend_from_slice(&buffer[..read]);
        if !pressed && String::from_utf8_lossy(&screen).contains("shield-1") {
            stdin.write_all(key.as_bytes()).unwrap();
            stdin.flush().unwrap();
            pressed = true;
        }
    }
    child.wait().unwrap();
    String::from_utf8_lossy(&screen).into_owned()
}

#[test]
fn the_loss_of_nats_is_told_and_outlived() {
    // `arq dev up` ends when a part ends, so NATS is run by hand; no Shield is needed.
    let mut bus = Bus::start();
    bus.arq(&["dev", "down"]).ok();
    bus.child.wait().unwrap();
    let server = Server(start_nats(&bus.folder));
    bus.folder.until_ok(&["tenant", "list"]);

    let watcher = Listener::start(&bus.folder, &["status", "--watch"]);
    let tracer = Listener::start(&bus.folder, &["trace", "lobby"]);
    let lost = || {
        let line = watcher.all().pop();
        line.map(|line| !line["nats_lost"].is_null())
    };
    until("it watches", || lost() == Some(false));
    until("it listens", || tracer.with("kind", "listening").len() == 1);
    drop(server);
    until("the loss is told", || lost() == Some(true));
    let line = watcher.all().pop().unwrap();
    assert_eq!(line["healthy"], false);
    until("the gap is told", || {
        tracer.with("reason", "lost_connection").len() == 1
    });

    let _server = Server(start_nats(&bus.folder));
    until("it watches again", || lost() == Some(false));
    until("it listens again", || {
        tracer.with("kind", "listening").len() == 2
    });
    signal(&tracer.child, "INT");
    let (code, said) = tracer.wait();
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("warning: the connection to NATS was lost"),
        "{said}"
    );
    assert!(said.contains("; 1 break of the connection"), "{said}");
}

/// Killed at the end.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_nats(folder: &Folder) -> Child {
    let binary = arqon_spine::server::find().unwrap();
    Command::new(binary.path)
        .arg("-c")
        .arg(folder.state().join("nats/nats.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
