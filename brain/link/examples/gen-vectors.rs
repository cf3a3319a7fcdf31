//! Writes the frames of `brain/testdata/`; with `--check` only says whether
//! they are what they should be. Called by `scripts/gen`.

#![allow(clippy::unwrap_used)]

#[path = "../tests/vectors/mod.rs"]
mod vectors;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let check = match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--check"] => true,
        _ => {
            eprintln!("usage: gen-vectors [--check]");
            return Ok(ExitCode::from(2));
        }
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = root.join("brain/testdata");
    let mut stale: BTreeSet<String> = fs::read_dir(&folder)?
        .filter_map(|file| file.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".etf"))
        .collect();
    let mut changed = Vec::new();
    for (name, frame) in vectors::frames(&root.join("proto/testdata")) {
        let name = format!("{name}.etf");
        if !stale.remove(&name) || fs::read(folder.join(&name))? != frame {
            if !check {
                fs::write(folder.join(&name), frame)?;
            }
            changed.push(name);
        }
    }
    for name in &stale {
        if !check {
            fs::remove_file(folder.join(name))?;
        }
        changed.push(name.clone());
    }
    for name in &changed {
        println!("brain/testdata/{name}");
    }
    if check && !changed.is_empty() {
        eprintln!("these are stale: run scripts/gen");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
