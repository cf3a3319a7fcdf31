//! The nats-server program: found, checked for its version, and run.

mod process;

use std::path::{Path, PathBuf};
use std::process::Command;

pub use process::{Io, Process, ProcessError};

/// The oldest nats-server we accept: entries with a time to live came with it.
pub const MINIMUM_VERSION: &str = "2.11.0";

const PROGRAM: &str = "nats-server";
const REMEDY: &str = "run scripts/setup, which puts a fitting one into .tools/bin";

/// A usable nats-server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsServerBinary {
    /// The program.
    pub path: PathBuf,
    /// Its version, without a leading `v`.
    pub version: String,
}

/// Why there is no usable nats-server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// None was found.
    #[error(
        "no nats-server in PATH nor in .tools/bin; at least {MINIMUM_VERSION} is needed: {REMEDY}"
    )]
    NotFound,
    /// The one found is too old.
    #[error(
        "nats-server {found} at {} is too old; at least {MINIMUM_VERSION} is needed: {REMEDY}",
        path.display()
    )]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// What it prints as its version is none.
    #[error(
        "cannot tell the version of nats-server from `{found}`; at least {MINIMUM_VERSION} is needed: {REMEDY}"
    )]
    NoVersion {
        /// What it printed.
        found: String,
    },
    /// It cannot be run.
    #[error("cannot run {}", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
}

/// Finds a nats-server that is new enough: in `PATH`, then in `.tools/bin` of
/// this folder, of the running program's folder, or of a folder above either.
pub fn find() -> Result<NatsServerBinary, ServerError> {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates: Vec<PathBuf> = std::env::split_paths(&in_path).collect();
    for start in [std::env::current_dir(), std::env::current_exe()]
        .into_iter()
        .flatten()
    {
        candidates.extend(start.ancestors().map(|folder| folder.join(".tools/bin")));
    }
    let mut first_problem = None;
    for path in candidates.iter().map(|folder| folder.join(PROGRAM)) {
        if !path.is_file() {
            continue;
        }
        match inspect(&path) {
            Ok(binary) => return Ok(binary),
            Err(problem) => first_problem = first_problem.or(Some(problem)),
        }
    }
    Err(first_problem.unwrap_or(ServerError::NotFound))
}

/// Runs a nats-server for its version and checks it.
pub fn inspect(path: &Path) -> Result<NatsServerBinary, ServerError> {
    let output = Command::new(path)
        .arg("--version")
        .output()
        .map_err(|source| ServerError::Run {
            path: path.to_owned(),
            source,
        })?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match check_version(&text) {
        Ok(version) => Ok(NatsServerBinary {
            path: path.to_owned(),
            version,
        }),
        Err(ServerError::TooOld { found, .. }) => Err(ServerError::TooOld {
            path: path.to_owned(),
            found,
        }),
        Err(other) => Err(other),
    }
}

/// Checks a version as a server prints or announces it (`nats-server: v2.15.1`,
/// `2.15.1`, `v2.12.0-RC.1`) and returns it bare.
pub fn check_version(text: &str) -> Result<String, ServerError> {
    let version = text
        .rsplit([' ', ':'])
        .next()
        .unwrap_or_default()
        .trim_start_matches('v');
    match (numbers(version), numbers(MINIMUM_VERSION)) {
        (Some(found), Some(minimum)) if found >= minimum => Ok(version.to_owned()),
        (Some(_), _) => Err(ServerError::TooOld {
            path: PathBuf::from(PROGRAM),
            found: version.to_owned(),
        }),
        _ => Err(ServerError::NoVersion {
            found: text.to_owned(),
        }),
    }
}

fn numbers(version: &str) -> Option<[u64; 3]> {
    let release = version.split(['-', '+']).next()?;
    let mut parts = release.split('.').map(str::parse);
    let mut next = || parts.next()?.ok();
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn versions() {
        assert_eq!(check_version("nats-server: v2.15.1").unwrap(), "2.15.1");
        assert_eq!(check_version("2.11.0").unwrap(), "2.11.0");
        assert_eq!(check_version("v2.12.0-RC.1").unwrap(), "2.12.0-RC.1");
        for old in ["nats-server: v2.9.10", "2.10.29", "1.99.99"] {
            let error = check_version(old).unwrap_err().to_string();
            assert!(error.contains("too old"), "{error}");
            assert!(error.contains(MINIMUM_VERSION), "{error}");
            assert!(error.contains("scripts/setup"), "{error}");
        }
        for none in ["", "nats-server", "2.x.1", "command not found"] {
            assert!(matches!(
                check_version(none),
                Err(ServerError::NoVersion { .. })
            ));
        }
    }

    #[test]
    fn the_one_of_this_workspace_is_found() {
        let found = find().unwrap();
        assert!(found.path.is_file());
    }
}
