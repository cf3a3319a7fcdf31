//! What `arq` keeps in files, killed with SIGKILL at each call that writes.
//!
//! strace counts the calls and sends the signal at the n-th, so the moments are
//! all there are and the same in each run. `ARQON_CRASH_POINTS` is how many of
//! them are taken of each kind of call (all: `--full` of scripts/test).

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use arqon_spine::credentials::{FleetKey, read_creds};
use arqon_spine::state::{FixedAccount, StateFolder};

use crate::common::{Answer, Folder};

/// Calls by which files come, change and go. `write` is also how anything is said.
const CALLS: [&str; 6] = ["write", "fsync", "rename", "mkdir", "link", "unlink"];

/// How many moments of each kind of call are taken, spread evenly.
fn points() -> usize {
    std::env::var("ARQON_CRASH_POINTS").map_or(3, |points| points.parse().unwrap())
}

/// A command under strace with these of its options; output is thrown away.
fn traced(folder: &Folder, options: &[&str], arguments: &[&str]) -> Option<i32> {
    let arq = folder.command(arguments);
    let status = Command::new("strace")
        .args(["-qq", "-f"])
        .args(options)
        .arg(arq.get_program())
        .args(arq.get_args())
        .current_dir(folder.path())
        .env("XDG_CONFIG_HOME", folder.path().join("config-home"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("strace runs (scripts/setup --test installs it)");
    status.code()
}

/// The same command, not disturbed.
fn plain(folder: &Folder, arguments: &[&str]) -> Answer {
    folder
        .command(arguments)
        .env("XDG_CONFIG_HOME", folder.path().join("config-home"))
        .output()
        .unwrap()
        .into()
}

/// How often the main thread of the command makes the call.
fn count(folder: &Folder, call: &str, arguments: &[&str]) -> usize {
    let log = folder.path().join("calls.log");
    let trace = format!("trace={call}");
    let code = traced(
        folder,
        &["-e", &trace, "-o", log.to_str().unwrap()],
        arguments,
    );
    assert_eq!(code, Some(0), "{arguments:?} with nothing in its way");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    let main = text.split(' ').next().unwrap_or_default();
    text.lines().filter(|line| line.starts_with(main)).count()
}

/// Every file below, by its path.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

/// Each file with a name that is read is whole, and no secret was ever open to
/// others; what holds a key, with its content.
fn check(folder: &Folder) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = Vec::new();
    files(folder.path(), &mut found);
    let mut keys = BTreeMap::new();
    for path in found {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let shown = path.display();
        let half = name.ends_with(".tmp");
        let is = |ending: &str| name.ends_with(ending) || name.contains(&format!("{ending}."));
        if is(".nk") || is(".creds") || (is(".pem") && !name.contains(".pub.")) {
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{shown} is open to others");
        }
        if half {
            continue;
        }
        let content = std::fs::read(&path).unwrap();
        let text = String::from_utf8(content.clone()).unwrap();
        if name.ends_with(".nk") {
            // An operator's seed is none of an account, and as long.
            let whole =
                text.len() == 58 && (text.starts_with("SO") || FleetKey::read(&path).is_ok());
            assert!(whole, "{shown} holds no seed: {} bytes", text.len());
            keys.insert(path, content);
        } else if name.ends_with(".creds") {
            read_creds(&path).unwrap_or_else(|error| panic!("{shown}: {error:?}"));
            keys.insert(path, content);
        } else if name == "account.pub" {
            assert_eq!(text.len(), 56, "{shown}");
            keys.insert(path, content);
        } else if name.ends_with(".pem") {
            let end = if name.contains(".pub.") {
                "PUBLIC"
            } else {
                "PRIVATE"
            };
            let last = format!("-----END {end} KEY-----");
            assert_eq!(text.trim_end().lines().last(), Some(&*last), "{shown}");
            if end == "PRIVATE" {
                keys.insert(path, content);
            }
        } else if name.ends_with(".toml") {
            toml::from_str::<toml::Table>(&text).unwrap_or_else(|error| panic!("{shown}: {error}"));
            assert!(text.ends_with('\n'), "{shown} ends in the middle");
        } else if name == "nats.conf" {
            assert!(text.trim_end().ends_with('}'), "{shown} ends in the middle");
        }
    }
    keys
}

/// Kills the command at its moments, each in a folder that `prepared` has made,
/// and repeats it. What it says then is `again`'s to judge, where it is no success.
fn at_each_moment(prepared: &[&[&str]], arguments: &[&str], again: fn(&Answer) -> bool) {
    let ready = || {
        let folder = Folder::new();
        for arguments in prepared {
            plain(&folder, arguments).ok();
        }
        folder
    };
    let mut killed = 0;
    for call in CALLS {
        let calls = count(&ready(), call, arguments);
        let step = calls.div_ceil(points()).max(1);
        for nth in (1..=calls).step_by(step) {
            let folder = ready();
            let before = check(&folder);
            let inject = format!("inject={call}:signal=KILL:when={nth}");
            let trace = format!("trace={call}");
            let code = traced(&folder, &["-e", &trace, "-e", &inject], arguments);
            killed += usize::from(code != Some(0));
            let moment = format!("{arguments:?} killed at {call} {nth} of {calls}");
            println!("{moment}");
            let left = check(&folder);
            let answer = plain(&folder, arguments);
            let fine = answer.code == 0 || (again(&answer) && answer.err.contains("hint: "));
            assert!(fine, "{moment}, then: {answer:?}");
            let after = check(&folder);
            // Only a rotation and a retirement take keys away.
            if arguments[0] != "auth" {
                for (path, key) in before.iter().chain(&left) {
                    assert_eq!(after.get(path), Some(key), "{moment}: {}", path.display());
                }
            }
        }
    }
    assert!(killed >= 3, "{arguments:?} was killed {killed} times");
}

fn never(_: &Answer) -> bool {
    false
}

#[test]
fn the_keys_of_a_spine_are_whole_and_stay() {
    at_each_moment(&[], &["spine", "init"], never);
    let folder = Folder::new();
    plain(&folder, &["spine", "init"]).ok();
    let state = StateFolder::open(folder.state().join("spine")).unwrap();
    for account in FixedAccount::ALL {
        state.account_claims(account).unwrap();
    }
    state.operator_jwt().unwrap();
    at_each_moment(
        &[&["spine", "init"]],
        &[
            "spine",
            "creds",
            "shield",
            "shield-1",
            "--out",
            "shield-1.creds",
        ],
        |answer| answer.err.contains("exists"),
    );
}

#[test]
fn configuration_is_whole_or_as_before() {
    let exists = |answer: &Answer| answer.err.contains("exists already");
    at_each_moment(&[], &["config", "init"], exists);
    at_each_moment(
        &[&["spine", "init"]],
        &["spine", "config", "--out", "nats.conf"],
        never,
    );
    at_each_moment(
        &[&["config", "init"]],
        &["context", "add", "here", "--folder", ".arqon"],
        |answer| answer.err.contains("already"),
    );
}

#[test]
fn development_keys_are_whole_and_one_always_signs() {
    at_each_moment(&[], &["auth", "gen"], never);
    let rotated = |answer: &Answer| {
        answer
            .err
            .contains("the key before this one is still trusted")
    };
    at_each_moment(&[&["auth", "gen"]], &["auth", "keys", "rotate"], rotated);
    let retired = |answer: &Answer| answer.err.contains("there is no old key to retire");
    at_each_moment(
        &[&["auth", "gen"], &["auth", "keys", "rotate"]],
        &["auth", "keys", "retire", "--force"],
        retired,
    );
}

#[test]
fn what_containers_read_is_whole_and_stays() {
    at_each_moment(
        &[],
        &[
            "dev", "init", "--parts", "parts", "--nats", "nats", "--shield", "shield",
        ],
        never,
    );
}
