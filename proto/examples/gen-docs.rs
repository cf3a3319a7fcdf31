//! Writes `docs/codes.md` and `docs/protocol.md`; with `--check` only says
//! whether they are what they should be. Called by `scripts/gen`.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

const PAGES: [(&str, &str); 2] = [
    (
        "codes.md",
        include_str!(concat!(env!("OUT_DIR"), "/codes.md")),
    ),
    (
        "protocol.md",
        include_str!(concat!(env!("OUT_DIR"), "/protocol.md")),
    ),
];

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let check = match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--check"] => true,
        _ => {
            eprintln!("usage: gen-docs [--check]");
            return Ok(ExitCode::from(2));
        }
    };
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut stale = false;
    for (page, text) in PAGES {
        let path = docs.join(page);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        if check {
            eprintln!("proto/docs/{page} is stale: run scripts/gen");
            stale = true;
        } else {
            fs::write(path, text)?;
            println!("proto/docs/{page}");
        }
    }
    Ok(if stale {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
