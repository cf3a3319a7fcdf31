//! Writes `testdata/twins.json`, the good frames of the vectors as this crate
//! tells them in JSON; with `--check` only says whether it is what it should
//! be. Called by `scripts/gen`.

#![allow(clippy::unwrap_used, dead_code)]

#[path = "../tests/vectors/mod.rs"]
mod vectors;

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use arqon_proto::json;
use vectors::{Twins, vectors};

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let check = match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--check"] => true,
        _ => {
            eprintln!("usage: gen-twins [--check]");
            return Ok(ExitCode::from(2));
        }
    };
    let frames = vectors().into_iter().filter(|vector| {
        let is_frame = vector.fields.contains_key("from");
        is_frame && vector.content.is_some()
    });
    let twins: Twins = frames
        .map(|vector| {
            let text = json::encode(&vector.bytes).unwrap();
            (vector.name, serde_json::from_str(&text).unwrap())
        })
        .collect();
    let text = serde_json::to_string_pretty(&twins)? + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/twins.json");
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(ExitCode::SUCCESS);
    }
    if check {
        eprintln!("proto/testdata/twins.json is stale: run scripts/gen");
        return Ok(ExitCode::FAILURE);
    }
    fs::write(path, text)?;
    println!("proto/testdata/twins.json");
    Ok(ExitCode::SUCCESS)
}
