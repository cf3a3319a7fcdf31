//! The processes that `arq dev up` runs: started, listened to, and stopped in order.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::record::Process;
use crate::context::create_folder;
use crate::failure::{Doing, Failure, Result};
use crate::output::{Output, Paint, escaped};

/// How many of the last lines are shown of a process that died.
const LAST_LINES: usize = 12;

/// What is to be started.
#[derive(Clone)]
pub(super) struct Program {
    /// Its name here, at most 7 letters: the prefix of its lines.
    pub(super) name: &'static str,
    /// The colour of the prefix.
    pub(super) paint: Paint,
    /// The file.
    pub(super) file: PathBuf,
    /// What it is given.
    pub(super) arguments: Vec<String>,
    /// What it finds in its environment beside what is there.
    pub(super) environment: Vec<(&'static str, String)>,
    /// Where its lines are kept.
    pub(super) log: PathBuf,
}

/// A running process whose output is shown.
pub(super) struct Running {
    pub(super) name: &'static str,
    pub(super) process: Process,
    child: Child,
    readers: Vec<JoinHandle<()>>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    log: PathBuf,
    /// What it was started as, to start it so again.
    pub(super) program: Program,
}

impl Program {
    /// Starts it, in a process group of its own: a Ctrl-C in the terminal reaches `arq` only,
    /// which then stops everything in the right order.
    pub(super) fn start(self, output: Output, quiet: bool) -> Result<Running> {
        let program = self.clone();
        if let Some(folder) = self.log.parent() {
            create_folder(folder)?;
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .doing(format!("cannot write {}", self.log.display()))?;
        let log = Arc::new(Mutex::new(log));
        let mut child = Command::new(&self.file)
            .args(&self.arguments)
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .doing(format!("cannot start {}", self.file.display()))?;
        let process = child
            .id()
            .and_then(|pid| Process::of(self.name, pid))
            .ok_or_else(|| Failure::new(format!("{} ended at once", self.name)))?;
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let prefix =
            (!quiet).then(|| output.paint_stderr(self.paint, &format!("{:7} |", self.name)));
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(tokio::spawn(relay(
                stdout,
                prefix.clone(),
                log.clone(),
                last_lines.clone(),
            )));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(tokio::spawn(relay(stderr, prefix, log, last_lines.clone())));
        }
        Ok(Running {
            name: self.name,
            process,
            child,
            readers,
            last_lines,
            log: self.log,
            program,
        })
    }
}

impl Running {
    /// Waits for its end.
    pub(super) async fn ended(&mut self) -> ExitStatus {
        // It fails only where it was reaped already, which is after its end.
        self.child.wait().await.unwrap_or_default()
    }

    /// The failure that its end is, with what it said last.
    pub(super) async fn died(&mut self, status: ExitStatus, quiet: bool) -> Failure {
        for reader in self.readers.drain(..) {
            let _ = tokio::time::timeout(Duration::from_secs(2), reader).await;
        }
        let mut message = format!("{} ended by itself ({})", self.name, ending(status));
        if quiet {
            let lines = self
                .last_lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for line in lines.iter() {
                message.push_str("\n    ");
                message.push_str(line);
            }
        }
        Failure::new(message).hint(format!("its whole log is {}", self.log.display()))
    }

    /// Asks it to stop, waits, and kills it where it does not.
    pub(super) async fn stop(mut self, limit: Duration, output: &Output) -> Result {
        self.process.signal(Signal::TERM);
        let status = match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) => status?,
            Err(_) => {
                output.warn(format!(
                    "{} did not stop within {} s and is killed",
                    self.name,
                    limit.as_secs()
                ));
                self.child.kill().await?;
                return Err(Failure::new(format!("{} had to be killed", self.name)));
            }
        };
        for reader in self.readers.drain(..) {
            let _ = tokio::time::timeout(Duration::from_secs(2), reader).await;
        }
        if !status.success() {
            output.warn(format!("{} stopped with {}", self.name, ending(status)));
        }
        Ok(())
    }

    /// Kills it at once.
    pub(super) async fn kill(mut self) {
        let _ = self.child.kill().await;
    }
}

fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    }
}

async fn relay(
    from: impl AsyncRead + Unpin,
    prefix: Option<String>,
    log: Arc<Mutex<File>>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match from.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            // A full disk must not stop the bus; the line is still shown.
            let _ = writeln!(log, "{text}");
        }
        if let Some(prefix) = &prefix {
            // What a part says may quote a client.
            let _ = writeln!(std::io::stderr().lock(), "{prefix} {}", escaped(text));
        }
        let mut last_lines = last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        if last_lines.len() == LAST_LINES {
            last_lines.pop_front();
        }
        last_lines.push_back(text.to_owned());
    }
}

/// A program beside this one, else in PATH.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|me| me.parent().map(|folder| folder.join(name)));
    let in_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .map(|folder| folder.join(name));
    beside
        .into_iter()
        .chain(in_path)
        .find(|file| is_program(file))
}

/// A built release of Brain: unpacked beside this program, or in the tree it was built in.
pub(crate) fn find_brain() -> Option<PathBuf> {
    let me = std::env::current_exe().ok()?;
    me.ancestors()
        .skip(1)
        .flat_map(|folder| {
            [
                folder.join("brain/bin/brain"),
                folder.join("brain/_build/prod/rel/brain/bin/brain"),
            ]
        })
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
