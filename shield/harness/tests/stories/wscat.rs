//! The first thing a person tries: `wscat`, as the README tells.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use arqon_harness::{Spine, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

/// Where `scripts/setup --test` puts it.
fn wscat() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap();
    let program = root.join(".tools/npm/node_modules/.bin/wscat");
    assert!(
        program.exists(),
        "{} is missing: run `scripts/setup --test` first",
        program.display()
    );
    program
}

/// Starts it with pipes for a terminal; it ends when its input does.
fn start(url: &str, headers: &[String]) -> Child {
    start_with(url, &[], headers)
}

fn start_with(url: &str, options: &[&str], headers: &[String]) -> Child {
    let mut command = Command::new(wscat());
    command.args(["--connect", url]).args(options);
    for header in headers {
        command.args(["-H", header]);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("wscat starts (it needs node)")
}

/// Reads its output until each of these texts was in it.
async fn prints(child: &mut Child, wanted: &[&str]) -> Vec<u8> {
    let output = child.stdout.as_mut().unwrap();
    let mut printed = Vec::new();
    within(&format!("wscat to print {wanted:?}"), async {
        loop {
            let text = String::from_utf8_lossy(&printed).into_owned();
            if wanted.iter().all(|wanted| text.contains(wanted)) {
                return;
            }
            let more = output.read_buf(&mut printed).await.unwrap();
            assert_ne!(more, 0, "wscat ended after {text:?}");
        }
    })
    .await;
    printed
}

#[tokio::test]
async fn wscat_connects_with_a_token_and_is_welcomed() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let url = format!("ws://{}/v1/socket", shield.addr());

    let header = format!("Authorization: Bearer {}", acme.token().sign());
    let mut child = start(&url, &[header]);
    // Text fields of a binary frame are readable as they stand.
    let welcome = prints(&mut child, &["alice", "acme", "shield-1"]).await;
    // Field 1 of an Envelope is its opcode: WELCOME is 64.
    assert_eq!(&welcome[..2], [0x08, 64], "{welcome:02x?}");

    // A line typed is a text frame, which is answered by a typed ERROR.
    child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"hello\n")
        .await
        .unwrap();
    prints(&mut child, &["TEXT_FRAME"]).await;
    drop(child.stdin.take());
    let status = within("wscat to end", child.wait()).await.unwrap();
    assert!(status.success(), "{status}");

    // Without a token, and with a wrong one, it says why it was not let in.
    let expired = format!("Authorization: Bearer {}", acme.token().expired().sign());
    for headers in [vec![], vec![expired]] {
        let mut child = start(&url, &headers);
        // Kept open: at the end of its input wscat gives up before it is answered.
        let _input = child.stdin.take();
        let output = within("wscat to end", child.wait_with_output())
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("401"), "{text}");
    }
}

#[tokio::test]
async fn wscat_and_a_person_talk_by_json() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().with("session.json = true").start().await;
    let url = format!("ws://{}/v1/socket", shield.addr());
    let header = format!("Authorization: Bearer {}", acme.token().sign());
    let mut child = start_with(&url, &["-s", "arqon.v1+json"], &[header]);
    prints(&mut child, &["\"OPCODE_WELCOME\"", "\"user\":\"alice\""]).await;
    let mut types = child.stdin.take().unwrap();
    types
        .write_all(b"{\"op\":\"OPCODE_JOIN\",\"room\":\"lobby\",\"ref\":1}\n")
        .await
        .unwrap();
    prints(&mut child, &["\"OPCODE_JOINED\"", "\"ref\":\"1\""]).await;
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    bob.join("lobby").await;
    bob.publish("lobby", "hello").await;
    prints(
        &mut child,
        &["\"OPCODE_MESSAGE\"", "\"payload\":\"aGVsbG8=\""],
    )
    .await;
    bob.hears("lobby", "hello").await;
    types
        .write_all(b"{\"op\":\"OPCODE_PUBLISH\",\"room\":\"lobby\",\"payload\":\"aGk=\"}\n")
        .await
        .unwrap();
    bob.hears("lobby", "hi").await;
    types
        .write_all(b"{\"op\":\"JOIN\",\"ref\":2}\n")
        .await
        .unwrap();
    prints(&mut child, &["JSON_INVALID", "`op`"]).await;
    drop(types);
    within("wscat to end", child.wait()).await.unwrap();
}
