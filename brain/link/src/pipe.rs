//! Standard input and output: one thread for each, since both block, and since
//! a ping must be answered whatever NATS is doing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arqon_telemetry::Tracer;
use arqon_telemetry::log::chain;
use arqon_telemetry::metrics::{BrainMetrics, Exposition as _, UnknownNumber};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

use crate::commands::{Command, Frame};
use crate::counters::Counter;
use crate::etf::ReadError;
use crate::identity::Identity;
use crate::outbox::{Outbox, frame};

/// Bytes of a frame of Brain. Its credit is a quarter of it.
const MAX_FRAME: usize = 16 * 1024 * 1024;

/// Bytes of frames whose commands are not yet published. Brain's credit keeps
/// it far below; beyond, whole batches are dropped and counted.
const MAX_WAITING: usize = 2 * MAX_FRAME;

/// Why the pipe is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipeError {
    /// Brain ended in the middle of a frame.
    #[error("standard input ended within a frame")]
    Cut(#[source] io::Error),
    /// A frame larger than any that Brain makes.
    #[error("a frame of {0} bytes on standard input; {MAX_FRAME} are allowed")]
    Large(usize),
    /// A frame that is not of brain/README.md.
    #[error("a frame of {len} bytes on standard input is none of Brain's")]
    Frame {
        /// Its length.
        len: usize,
        /// What is wrong with it.
        source: ReadError,
    },
    /// A number that only one of the two knows.
    #[error("Brain and its link are not of one version")]
    Number(#[from] UnknownNumber),
    /// Nobody reads standard output.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

/// A command, and what its batch cost Brain.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) command: Command,
    /// Dropped with the last command of the batch, which gives the credit back.
    pub(crate) _spent: Arc<Spent>,
}

/// Where commands go.
#[derive(Debug)]
pub(crate) struct Jobs {
    pub(crate) serve: watch::Sender<bool>,
    /// When Brain pinged last. One that never does, as in tests, is not waited for.
    pub(crate) pinged: watch::Sender<Option<Instant>>,
    pub(crate) brain: mpsc::UnboundedSender<Job>,
    pub(crate) control: mpsc::UnboundedSender<Job>,
    pub(crate) tracer: Tracer,
    pub(crate) metrics: BrainMetrics,
}

/// What a batch cost; dropping it gives that back.
#[derive(Debug)]
pub(crate) struct Spent {
    cost: u64,
    bytes: usize,
    waiting: Arc<AtomicUsize>,
    outbox: Outbox,
}

/// Reads frames until standard input ends.
pub(crate) fn read(
    mut input: impl Read,
    identity: &Identity,
    outbox: &Outbox,
    jobs: &Jobs,
) -> Result<(), PipeError> {
    let waiting = Arc::new(AtomicUsize::new(0));
    while let Some(bytes) = read_frame(&mut input)? {
        let len = bytes.len();
        let frame = Frame::read(bytes, identity);
        match frame.map_err(|source| PipeError::Frame { len, source })? {
            Frame::Credit(n) => outbox.give(n),
            Frame::Ping(n) => {
                jobs.pinged.send_replace(Some(Instant::now()));
                outbox.pong(n);
            }
            Frame::Numbers(numbers) => jobs.note(&numbers)?,
            Frame::Scrape { id, numbers } => {
                jobs.note(&numbers)?;
                outbox.scraped(id, jobs.metrics.encode());
            }
            Frame::Batch { cost, commands } => {
                let before = waiting.fetch_add(len, Ordering::SeqCst);
                let spent = Arc::new(Spent {
                    cost,
                    bytes: len,
                    waiting: waiting.clone(),
                    outbox: outbox.clone(),
                });
                let full = before > MAX_WAITING;
                if full {
                    warn!(bytes = before, "Brain sends more than its credit allows");
                }
                for command in commands {
                    jobs.take(command, &spent, full);
                }
            }
        }
    }
    Ok(())
}

/// Writes `hello`, and then whatever there is to tell, for ever.
pub(crate) fn write(mut output: impl Write, hello: &[u8], outbox: &Outbox) -> PipeError {
    let mut bytes = Vec::new();
    frame(&mut bytes, hello);
    loop {
        if let Err(error) = output.write_all(&bytes) {
            return PipeError::Output(error);
        }
        bytes = outbox.next();
    }
}

/// Starts both threads; the first result of either is the end of the pipe.
pub(crate) fn start(
    hello: Vec<u8>,
    identity: Identity,
    outbox: Outbox,
    jobs: Jobs,
) -> io::Result<mpsc::Receiver<Result<(), PipeError>>> {
    let (over, ended) = mpsc::channel(2);
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let (out, told) = (outbox.clone(), over.clone());
    // Not through std's buffer, which looks for line ends in what are frames.
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    thread("stdout").spawn(move || {
        let ended = write(output, &hello, &out);
        // Fails only when the other thread has ended the program.
        let _ = told.blocking_send(Err(ended));
    })?;
    thread("stdin").spawn(move || {
        let ended = read(io::stdin().lock(), &identity, &outbox, &jobs);
        if let Err(error) = &ended {
            error!(error = chain(error), "The pipe from Brain is broken");
        }
        // Told first: the commands end with `jobs`, and what carries them out then.
        let _ = over.blocking_send(ended);
        drop(jobs);
    })?;
    Ok(ended)
}

fn read_frame(input: &mut impl Read) -> Result<Option<Bytes>, PipeError> {
    let mut len = [0; 4];
    // The end of Brain is an end between two frames.
    if input.read(&mut len[..1]).map_err(PipeError::Cut)? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut len[1..]).map_err(PipeError::Cut)?;
    let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
    if len > MAX_FRAME {
        return Err(PipeError::Large(len));
    }
    let mut body = vec![0; len];
    input.read_exact(&mut body).map_err(PipeError::Cut)?;
    Ok(Some(body.into()))
}

// === impl Jobs ===

impl Jobs {
    fn take(&self, command: Command, spent: &Arc<Spent>, full: bool) {
        let queue = match command {
            Command::Serve(serve) => {
                self.serve.send_replace(serve);
                return;
            }
            // Not waiting for anybody: what the exporter has no room for it counts.
            Command::Spans(spans) => {
                for span in spans {
                    self.tracer.export_made(span);
                }
                return;
            }
            _ if full => return spent.outbox.count(Counter::Dropped, 1),
            Command::Order { .. } | Command::Events { .. } => &self.brain,
            Command::Ask { .. } | Command::Beat(_) => &self.control,
        };
        let job = Job {
            command,
            _spent: spent.clone(),
        };
        // Fails only when the program is ending.
        let _ = queue.send(job);
    }

    fn note(&self, numbers: &[(String, u64)]) -> Result<(), UnknownNumber> {
        for (name, value) in numbers {
            self.metrics.set(name, *value)?;
        }
        let uptime = numbers
            .iter()
            .find(|(name, _)| name == "beam_uptime_seconds");
        let seconds = uptime.map_or(0, |(_, seconds)| *seconds);
        self.metrics.told(Duration::from_secs(seconds));
        Ok(())
    }
}

// === impl Spent ===

impl Drop for Spent {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::SeqCst);
        self.outbox.spent(self.cost);
    }
}
