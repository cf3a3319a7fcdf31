//! `arq --otlp`: a command is a trace, which other clients are told.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use crate::common::{Bus, Folder, free_port};

/// Takes one export over HTTP: its request line and its body.
fn receiver() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let (sender, exports) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        let (head, length) = loop {
            let read = stream.read(&mut buffer).unwrap();
            bytes.extend_from_slice(&buffer[..read]);
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
                    .unwrap_or(0);
                if bytes.len() >= end + 4 + length {
                    break (head, bytes[end + 4..].to_vec());
                }
            }
            assert!(read > 0, "the request ends early");
        };
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        let line = head.lines().next().unwrap_or_default().to_owned();
        let _ = sender.send((line, length));
    });
    (url, exports)
}

#[test]
fn a_publish_is_traced_and_its_receiver_is_told_of_the_same_trace() {
    let bus = Bus::start();
    let listener = bus.hear(&["lobby", "--count", "1"]);
    let (url, exports) = receiver();
    let told = bus
        .arq(&["--otlp", &url, "pub", "lobby", "hello", "--ack"])
        .ok();
    let trace = told
        .err
        .lines()
        .find_map(|line| line.strip_prefix("trace ")?.split(' ').next())
        .unwrap_or_else(|| panic!("no trace in {told:?}"));
    let (line, body) = exports.recv().unwrap();
    assert_eq!(line, "post /v1/traces http/1.1");
    let has = |text: &[u8]| body.windows(text.len()).any(|window| window == text);
    assert!(has(b"arq pub"), "the command is in the span");
    listener.hears("hello");
    let heard = listener.frames("MESSAGE").pop().unwrap();
    let parent = heard["headers"]["traceparent"].as_str().unwrap();
    assert!(parent.contains(trace), "{parent} is not of {trace}");
}

#[test]
fn a_receiver_that_is_not_there_or_no_url_is_told_and_harms_nothing() {
    let bus = Bus::start();
    let url = format!("http://127.0.0.1:{}", free_port());
    let told = bus
        .arq(&["--otlp", &url, "pub", "lobby", "hello", "--ack"])
        .ok();
    assert!(
        told.err.contains(&format!("was not taken by {url}")),
        "{told:?}"
    );
    let folder = Folder::new();
    let answer = folder.arq(&["--otlp", "not a url", "pub", "lobby", "hello"]);
    assert_eq!(answer.code, 2, "{answer:?}");
    assert!(answer.err.contains("hint: give the URL"), "{answer:?}");
}
