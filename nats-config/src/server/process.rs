//! A running nats-server: started from a configuration, watched until it
//! answers, and ended in every way a server can end.

use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::NatsServerBinary;
use crate::server_config::{ConfigError, ServerParams, render};
use crate::state::StateFolder;
use crate::sys::{self, Signal};

/// How long a server may take to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// Where the output of a server goes.
#[derive(Debug, Clone)]
pub enum Io {
    /// Nowhere.
    Null,
    /// To this process's standard error.
    Inherit,
    /// Appended to a file.
    File(PathBuf),
}

/// A running nats-server in a process group of its own. Dropping it kills it,
/// unless [`Process::detach`] was called.
#[derive(Debug)]
pub struct Process {
    binary: NatsServerBinary,
    state: StateFolder,
    params: ServerParams,
    config: PathBuf,
    io: Io,
    child: Option<Child>,
}

/// Why a server did not start or end.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The configuration cannot be made.
    #[error("cannot make the configuration of the NATS server")]
    Config(#[from] ConfigError),
    /// A file or the program cannot be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or program.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// No port could be had.
    #[error("no free port on the loopback interface")]
    NoPort(#[source] std::io::Error),
    /// It ended before it answered.
    #[error("nats-server ended with {status} before it answered{}", said(log))]
    Ended {
        /// How.
        status: ExitStatus,
        /// Its last words, if its output goes to a file.
        log: String,
    },
    /// It runs, but does not answer.
    #[error("nats-server does not answer on {listen}")]
    Silent {
        /// Where it should.
        listen: SocketAddr,
    },
    /// A signal could not be sent.
    #[error("cannot signal nats-server (process {pid})")]
    Signal {
        /// The process.
        pid: u32,
        /// The reason.
        source: std::io::Error,
    },
    /// It is not running.
    #[error("nats-server is not running")]
    NotRunning,
}

fn said(log: &str) -> String {
    if log.is_empty() {
        String::new()
    } else {
        format!(": {log}")
    }
}

// === impl Process ===

impl Process {
    /// Writes the configuration to `nats.conf` in the store folder's parent,
    /// starts the server and waits until it answers. Ports given as 0 are
    /// chosen now and kept over restarts.
    pub fn start(
        binary: &NatsServerBinary,
        state: &StateFolder,
        mut params: ServerParams,
        io: Io,
    ) -> Result<Self, ProcessError> {
        let choose = params.listen.port() == 0;
        let wanted = params.clone();
        let mut attempts = if choose { 5 } else { 1 };
        loop {
            attempts -= 1;
            params.choose_ports().map_err(ProcessError::NoPort)?;
            let config = params.store_dir.with_file_name("nats.conf");
            let mut process = Process {
                binary: binary.clone(),
                state: state.clone(),
                params: params.clone(),
                config,
                io: io.clone(),
                child: None,
            };
            match process.restart() {
                Ok(()) => return Ok(process),
                // Someone else may have taken a port chosen a moment ago.
                Err(ProcessError::Ended { .. }) if attempts > 0 => params = wanted.clone(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts it again, after it ended, with the same ports and the accounts
    /// the state folder now gives; waits until it answers.
    pub fn restart(&mut self) -> Result<(), ProcessError> {
        self.kill()?;
        let text = render(&self.state, &self.params)?;
        crate::files::write(&self.config, text.as_bytes()).map_err(|source| ProcessError::Io {
            action: "write",
            path: self.config.clone(),
            source,
        })?;
        let mut command = Command::new(&self.binary.path);
        command
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.io.stdio()?);
        sys::own_group(&mut command);
        let child = command.spawn().map_err(|source| ProcessError::Io {
            action: "run",
            path: self.binary.path.clone(),
            source,
        })?;
        self.child = Some(child);
        self.wait_ready()
    }

    /// The URL clients connect to.
    pub fn url(&self) -> String {
        format!("nats://{}", self.params.listen)
    }

    /// What it was started with, ports chosen.
    pub fn params(&self) -> &ServerParams {
        &self.params
    }

    /// Its process id, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Kills it at once, as a crash would.
    pub fn kill(&mut self) -> Result<(), ProcessError> {
        if let Some(mut child) = self.child.take() {
            let gone = child.kill().and_then(|()| child.wait());
            gone.map_err(|source| ProcessError::Signal {
                pid: child.id(),
                source,
            })?;
        }
        Ok(())
    }

    /// Asks it to end, and kills it if it does not.
    pub fn stop(&mut self) -> Result<(), ProcessError> {
        // A stopped process would not act on the request.
        self.signal(Signal::Continue)?;
        self.signal(Signal::Terminate)?;
        let deadline = Instant::now() + PATIENCE;
        while let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(Some(_)) => self.child = None,
                _ if Instant::now() > deadline => self.kill()?,
                _ => std::thread::sleep(POLL),
            }
        }
        Ok(())
    }

    /// Freezes it: connections stay, nothing answers.
    pub fn pause(&self) -> Result<(), ProcessError> {
        self.signal(Signal::Stop)
    }

    /// Lets a frozen one go on.
    pub fn resume(&self) -> Result<(), ProcessError> {
        self.signal(Signal::Continue)
    }

    /// Makes it end in its own time: no new connections, then all are closed.
    pub fn lame_duck(&self) -> Result<(), ProcessError> {
        self.signal(Signal::LameDuck)
    }

    /// Lets it outlive this value; returns its process id.
    pub fn detach(mut self) -> Option<u32> {
        self.child.take().map(|child| child.id())
    }

    fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let pid = self.pid().ok_or(ProcessError::NotRunning)?;
        sys::signal(pid, signal).map_err(|source| ProcessError::Signal { pid, source })
    }

    fn wait_ready(&mut self) -> Result<(), ProcessError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(child) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
            {
                self.child = None;
                return Err(ProcessError::Ended {
                    status,
                    log: self.io.last_words(),
                });
            }
            if greets(self.params.listen) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(ProcessError::Silent {
                    listen: self.params.listen,
                });
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing is left to do for one that cannot be killed.
        let _ = self.kill();
    }
}

/// Whether a NATS server says `INFO` there.
fn greets(listen: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&listen, Duration::from_secs(1)) else {
        return false;
    };
    let mut greeting = [0; 5];
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"INFO "
}

// === impl Io ===

impl Io {
    fn stdio(&self) -> Result<Stdio, ProcessError> {
        Ok(match self {
            Io::Null => Stdio::null(),
            Io::Inherit => Stdio::inherit(),
            Io::File(path) => File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| ProcessError::Io {
                    action: "open",
                    path: path.clone(),
                    source,
                })?
                .into(),
        })
    }

    fn last_words(&self) -> String {
        let Io::File(path) = self else {
            return String::new();
        };
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned()
    }
}
