//! The record of a running development ArqonBus: who runs, and which processes are its own.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::context::{Context, create_folder, write_private};
use crate::failure::{Doing, Failure, Result};

/// A process, told apart from a later one of the same id by its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// What it is here: `arq`, `nats`, `shield` or `brain-1`.
    pub(crate) name: String,
    /// Its id.
    pub(crate) pid: u32,
    /// Its start, in clock ticks since boot.
    started: u64,
}

impl Process {
    /// A process that runs now.
    pub(crate) fn of(name: &str, pid: u32) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            pid,
            started: start_of(pid)?,
        })
    }

    /// Whether it still runs.
    pub(crate) fn alive(&self) -> bool {
        start_of(self.pid) == Some(self.started)
    }

    /// Sends a signal, if it still runs.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.alive()) {
            // It may end between the look and the signal, which is what was wanted.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for its end.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.alive() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

/// The start of a process that is no zombie, field 22 of /proc/<pid>/stat.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name in parentheses may hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// What `up.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The `arq dev up` that runs everything.
    pub(crate) supervisor: Process,
    /// What it started.
    pub(crate) children: Vec<Process>,
}

impl Record {
    fn file(context: &Context) -> PathBuf {
        context.dev_folder().join("up.json")
    }

    /// The record, if there is one.
    pub(crate) fn read(context: &Context) -> Option<Self> {
        let text = std::fs::read(Self::file(context)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes it.
    pub(crate) fn write(&self, context: &Context) -> Result {
        write_private(&Self::file(context), &serde_json::to_vec_pretty(self)?)
    }

    /// Removes it.
    pub(crate) fn remove(context: &Context) {
        let _ = std::fs::remove_file(Self::file(context));
    }
}

/// Stops the parts that a killed `arq dev up` left running; tells how many.
pub(crate) fn stop_leftovers(context: &Context, record: &Record) -> usize {
    let left: Vec<&Process> = record
        .children
        .iter()
        .rev()
        .filter(|child| child.alive())
        .collect();
    for child in &left {
        child.signal(Signal::TERM);
        if !child.wait(Duration::from_secs(10)) {
            child.signal(Signal::KILL);
            child.wait(Duration::from_secs(5));
        }
    }
    Record::remove(context);
    left.len()
}

/// Held by the one `arq dev up` of a folder; the kernel lets go of it however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; None where another process has it.
    pub(crate) fn take(context: &Context) -> Result<Option<Self>> {
        create_folder(&context.dev_folder())?;
        let path = context.dev_folder().join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .doing(format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(Failure::new(format!(
                "cannot lock {}: {error}",
                path.display()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let me = Process::of("arq", std::process::id()).unwrap();
        assert!(me.alive());
        let other = Process {
            started: me.started + 1,
            ..me
        };
        assert!(!other.alive());
    }

    #[test]
    fn one_lock_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let context = Context::at(folder.path()).unwrap();
        let first = Lock::take(&context).unwrap();
        assert!(first.is_some());
        assert!(Lock::take(&context).unwrap().is_none());
        drop(first);
        assert!(Lock::take(&context).unwrap().is_some());
    }
}
