//! The frames in `brain/testdata/`, which ExUnit reads too, are what the link
//! makes of the golden vectors and what it makes golden vectors of.

#![allow(clippy::unwrap_used)]

mod vectors;

use std::fs;
use std::path::Path;

#[test]
fn the_frames_are_what_the_link_sends_and_takes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let frames = vectors::frames(&root.join("proto/testdata"));
    for (name, frame) in &frames {
        let path = root.join("brain/testdata").join(format!("{name}.etf"));
        let found = fs::read(path).unwrap_or_default();
        assert!(found == *frame, "{name} is stale: run scripts/gen");
    }
    // Each event and each command of brain/README.md.
    for tag in [
        "hello", "batch", "credit", "pong", "spine", "changes", "put", "gone", "active", "page",
        "query", "beat", "digests", "brain", "dirty", "counted", "ping", "serve", "sync", "ask",
        "answer", "events", "spans", "numbers", "scrape", "scraped",
    ] {
        let atom = [&[119, u8::try_from(tag.len()).unwrap()], tag.as_bytes()].concat();
        let has = |frame: &Vec<u8>| frame.windows(atom.len()).any(|window| window == atom);
        assert!(frames.values().any(has), "no frame holds {tag}");
    }
}
