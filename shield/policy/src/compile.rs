//! Compiles in a child process with limits: compile time and memory grow out
//! of proportion to some inputs, and a crash of the compiler ends the child
//! and nothing else.

use std::{
    ffi::OsString,
    io::{self, Read, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use crate::{
    Digest, Host, HostError, Module, ShapeLimits,
    cache::{Cache, CacheError, MAX_CODE_BYTES},
    check::{self, Finding},
};

mod child;

pub use child::child_main;

/// What is kept of what the child writes about its failure.
const MAX_STDERR_BYTES: u64 = 4 << 10;
const MAGIC: &[u8; 8] = b"ARQCODE1";
const FRAME_BYTES: usize = 8 + 32 + 32;

/// How the compile child is started: the program and its first arguments. What
/// the engine and the limits need is added.
#[derive(Clone, Debug)]
pub struct CompileCommand {
    /// The program, as a path.
    pub program: PathBuf,
    /// Its first arguments, none of which may begin with `--`.
    pub args: Vec<OsString>,
}

/// How to compile.
#[derive(Clone)]
pub struct CompilerOptions {
    /// The child.
    pub command: CompileCommand,
    /// Where machine code is kept; nowhere without it.
    pub cache_dir: Option<PathBuf>,
    /// Seals what is kept. Must not be known to who can write to the folder.
    pub cache_key: [u8; 32],
    /// Wall-clock time of one compilation. Half of it is the limit of CPU time.
    pub timeout: Duration,
}

/// Makes modules of components, one at a time.
pub struct Compiler {
    host: Host,
    options: CompilerOptions,
    cache: Option<Cache>,
    limits: ShapeLimits,
    /// Deployments must not take more than one core from the traffic.
    turn: Mutex<()>,
}

/// A module, and what it took.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Ready to start.
    pub module: Module,
    /// From the component to the module.
    pub took: Duration,
    /// Whether the machine code was in the cache.
    pub cached: bool,
}

/// Why there is no module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The component is not one that policies may be.
    #[error("the component is refused: {}", Self::list(.0))]
    Refused(Vec<Finding>),
    /// The child did not start.
    #[error("the compiler does not start: {0}")]
    Spawn(String),
    /// It was not done in time.
    #[error("the compiler was stopped after {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// It used up its CPU time.
    #[error("the compiler used more than {} s of CPU time", .0.as_secs())]
    TooSlow(Duration),
    /// It ended by a signal: killed from outside, crashed, or out of memory.
    #[error("the compiler was ended by signal {signal}: {stderr}")]
    Killed {
        /// The signal.
        signal: i32,
        /// The beginning of what it wrote.
        stderr: String,
    },
    /// It refused the component, or failed.
    #[error("the compiler failed: {0}")]
    Failed(String),
    /// What it wrote is not machine code of this component.
    #[error("the compiler's output is not usable: {0}")]
    Output(&'static str),
    /// The engine does not take the code, or the component.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl CompileError {
    /// Whether the same component would be refused again, whatever the state of
    /// this machine.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    fn list(findings: &[Finding]) -> String {
        let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
        texts.join("; ")
    }
}

impl Compiler {
    /// A compiler for this host.
    ///
    /// # Errors
    ///
    /// If the cache's folder cannot be had, or others can write to it.
    pub fn new(host: Host, options: CompilerOptions) -> Result<Self, CacheError> {
        let cache = match &options.cache_dir {
            Some(folder) => Some(Cache::open(
                folder,
                options.cache_key,
                &host.compatibility(),
            )?),
            None => None,
        };
        Ok(Self {
            host,
            options,
            cache,
            limits: ShapeLimits::default(),
            turn: Mutex::new(()),
        })
    }

    /// Checks the component, and loads its machine code from the cache or from
    /// a child. Blocks for as long as that takes, at most the timeout for each
    /// call that is before it.
    ///
    /// # Errors
    ///
    /// See [`CompileError`]. Nothing of it harms later calls.
    pub fn module(&self, component: &[u8]) -> Result<Compiled, CompileError> {
        let start = Instant::now();
        check::check(component, &self.limits).map_err(CompileError::Refused)?;
        let digest = Digest::of(component);
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = self.cache.as_ref().and_then(|cache| cache.get(&digest)) {
            match self.load(digest, &code) {
                Ok(module) => {
                    return Ok(Compiled {
                        module,
                        took: start.elapsed(),
                        cached: true,
                    });
                }
                Err(error) => {
                    tracing::warn!(%digest, %error, "cached machine code does not load: compiling again");
                }
            }
        }
        let code = self.compile(component, digest)?;
        let module = self.load(digest, &code)?;
        if let Some(cache) = &self.cache {
            cache.put(&digest, &code);
        }
        Ok(Compiled {
            module,
            took: start.elapsed(),
            cached: false,
        })
    }

    #[allow(unsafe_code)]
    fn load(&self, digest: Digest, code: &[u8]) -> Result<Module, CompileError> {
        // SAFETY: the code is what a child of this program made of a component
        // that passed the check, and came over a pipe with its digest or out of
        // the cache with its seal.
        Ok(unsafe { self.host.load(digest, code) }?)
    }

    fn cpu_limit(&self) -> Duration {
        Duration::from_secs((self.options.timeout.as_secs() / 2).max(1))
    }

    fn compile(&self, component: &[u8], digest: Digest) -> Result<Vec<u8>, CompileError> {
        let host = self.host.options();
        let mut command = Command::new(&self.options.command.program);
        command
            .args(&self.options.command.args)
            .args(child::args(host, self.cpu_limit()))
            // Secrets of the environment are not for a process that reads
            // hostile bytes.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // So that whatever it started ends with it.
            .process_group(0);
        let child = command.spawn().map_err(|error| {
            let program = self.options.command.program.display();
            CompileError::Spawn(format!("{program}: {error}"))
        })?;
        let frame = Running::new(child, component)?.wait(self.options.timeout, self.cpu_limit())?;
        unframe(frame, digest)
    }
}

/// A child that is killed when this goes.
struct Running {
    child: Child,
    output: mpsc::Receiver<io::Result<Vec<u8>>>,
    stderr: mpsc::Receiver<String>,
}

impl Running {
    fn new(mut child: Child, component: &[u8]) -> Result<Self, CompileError> {
        let (output_to, output) = mpsc::channel();
        let (stderr_to, stderr) = mpsc::channel();
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let running = Self {
            child,
            output,
            stderr,
        };
        let (Some(mut stdin), Some(stdout), Some(mut errors)) = pipes else {
            return Err(CompileError::Spawn("it has no pipes".to_owned()));
        };
        let component = component.to_vec();
        // Each thread ends with its pipe, at the latest when the child is killed.
        let threads = [
            thread::Builder::new()
                .name("policy-in".to_owned())
                .spawn(move || {
                    // A child that does not read says why on its own.
                    let _ = stdin.write_all(&component);
                }),
            thread::Builder::new()
                .name("policy-out".to_owned())
                .spawn(move || {
                    let mut bytes = Vec::new();
                    let most = (FRAME_BYTES + MAX_CODE_BYTES + 1) as u64;
                    let read = stdout.take(most).read_to_end(&mut bytes);
                    let _ = output_to.send(read.map(|_| bytes));
                }),
            thread::Builder::new()
                .name("policy-err".to_owned())
                .spawn(move || {
                    let mut bytes = Vec::new();
                    let _ = (&mut errors).take(MAX_STDERR_BYTES).read_to_end(&mut bytes);
                    let _ = stderr_to.send(String::from_utf8_lossy(&bytes).trim().to_owned());
                    // The child must not wait for a full pipe.
                    let _ = io::copy(&mut errors, &mut io::sink());
                }),
        ];
        for started in threads {
            started.map_err(|error| CompileError::Spawn(format!("no thread: {error}")))?;
        }
        Ok(running)
    }

    fn wait(mut self, timeout: Duration, cpu: Duration) -> Result<Vec<u8>, CompileError> {
        let deadline = Instant::now() + timeout;
        let output = match self.output.recv_timeout(timeout) {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(_)) => return Err(CompileError::Output("it cannot be read")),
            Err(mpsc::RecvTimeoutError::Timeout) => return Err(CompileError::TimedOut(timeout)),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(CompileError::Output("nobody reads it"));
            }
        };
        if output.len() > FRAME_BYTES + MAX_CODE_BYTES {
            return Err(CompileError::Output("it is too long"));
        }
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() >= deadline => {
                    return Err(CompileError::TimedOut(timeout));
                }
                // It closed its output, so it is about to end.
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                Err(error) => return Err(CompileError::Failed(error.to_string())),
            }
        };
        if status.success() {
            return Ok(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let stderr = self
            .stderr
            .recv_timeout(left.min(Duration::from_secs(1)))
            .unwrap_or_default();
        Err(failure(status, cpu, stderr))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let group = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failure(status: ExitStatus, cpu: Duration, stderr: String) -> CompileError {
    match status.signal() {
        Some(signal) if signal == rustix::process::Signal::XCPU.as_raw() => {
            CompileError::TooSlow(cpu)
        }
        Some(signal) => CompileError::Killed { signal, stderr },
        None if stderr.is_empty() => CompileError::Failed(status.to_string()),
        None => CompileError::Failed(stderr),
    }
}

/// What the child writes: enough to know that the code is whole, and of this
/// component. It says nothing about who wrote it; that is what the pipe says.
fn frame(digest: Digest, code: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_BYTES + code.len());
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(digest.as_bytes());
    frame.extend_from_slice(&Sha256::digest(code));
    frame.extend_from_slice(code);
    frame
}

fn unframe(mut frame: Vec<u8>, digest: Digest) -> Result<Vec<u8>, CompileError> {
    if frame.len() <= FRAME_BYTES || &frame[..8] != MAGIC {
        return Err(CompileError::Output("it is no machine code"));
    }
    if frame[8..40] != digest.as_bytes()[..] {
        return Err(CompileError::Output("it is of another component"));
    }
    if frame[40..FRAME_BYTES] != Sha256::digest(&frame[FRAME_BYTES..])[..] {
        return Err(CompileError::Output("it is not whole"));
    }
    frame.drain(..FRAME_BYTES);
    Ok(frame)
}
