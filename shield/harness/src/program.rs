//! The real program `arqon-shield` as a child process, for what only a process
//! can show: its environment, its exit status, its signals.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::within;

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: PathBuf,
    /// Where its own lines begin.
    begins: usize,
}

/// The program `arqon-shield` of this build.
///
/// # Panics
/// If it was not built: `cargo test` builds only what the tests link to.
pub fn shield_program() -> PathBuf {
    let program = programs().join("arqon-shield");
    assert!(
        program.is_file(),
        "{} is missing: run `cargo build --workspace` first",
        program.display()
    );
    program
}

/// Where cargo puts programs: the folder of this one, or for a test the one above.
pub(crate) fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("a program has a path");
    let folder = own.parent().expect("a program lies in a folder");
    match folder.file_name() {
        Some(name) if name == "deps" => folder.parent().unwrap_or(folder).to_owned(),
        _ => folder.to_owned(),
    }
}

/// A loopback address that nobody listens on and nobody else is given.
pub fn free_addr() -> SocketAddr {
    let port = arqon_spine::ports::free_port().expect("a free port");
    SocketAddr::from(([127, 0, 0, 1], port))
}

// === impl Program ===

impl Program {
    /// Starts `command` with its output going to the end of the file `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log);
        let file = file.expect("a log file");
        let begins = file.metadata().expect("its length").len();
        let errors = file.try_clone().expect("a second handle");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .expect("the program is started");
        Self {
            child,
            log: log.to_owned(),
            begins: usize::try_from(begins).expect("a short log"),
        }
    }

    /// What it has written so far; what others before it wrote there is not told.
    pub fn log(&self) -> String {
        let all = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(all.get(self.begins..).unwrap_or_default()).into_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        signal(self.pid(), Signal::TERM);
    }

    /// Kills it as a crash would, and waits until it is gone.
    pub fn kill(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Waits until it ends.
    pub async fn wait(&mut self) -> ExitStatus {
        within("the program to end", async {
            loop {
                if let Some(status) = self.ended() {
                    return status;
                }
                tokio::time::sleep(crate::GLANCE).await;
            }
        })
        .await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        let log = self.log();
        if let Some(line) = secret_in(&log)
            && !std::thread::panicking()
        {
            panic!("a secret is in {}: {line}", self.log.display());
        }
    }
}

/// The first line that holds a token, a credential or a seed. No log may.
pub fn secret_in(log: &str) -> Option<&str> {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_secret = |word: &str| {
        let jwt = word.starts_with("eyJ") && word.matches('.').count() >= 2;
        let base32 = |c: char| matches!(c, 'A'..='Z' | '2'..='7');
        let seed = word.len() == 58 && word.starts_with('S') && word.chars().all(base32);
        jwt || seed
    };
    log.lines().find(|line| {
        let words = line.split(|c: char| !part(c));
        words.into_iter().any(is_secret)
    })
}

/// Sends a signal to a process that is ours.
///
/// # Panics
/// If there is no such process.
pub fn signal(pid: u32, signal: Signal) {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(raw.expect("a process id"), signal).expect("a signal is sent");
}

/// Memory of a process that is in RAM, bytes; 0 where it has ended.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
        })
        .map_or(0, |kib| kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_seeds_are_found_and_ids_are_not() {
        let seed = format!("SU{}", "A2".repeat(28));
        for secret in ["token=eyJhbGciOi.eyJpc3Mi.c2ln", seed.as_str()] {
            let log = format!("fine\n{{\"x\":\"{secret}\"}}\n");
            assert!(secret_in(&log).is_some(), "{secret}");
        }
        let fine = "account=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA eyJ v1.2.3";
        assert_eq!(secret_in(fine), None);
    }
}
