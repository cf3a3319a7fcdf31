//! The program `arqon-shield`: a manifest in, a Shield until a signal comes.
//!
//! Exit status: 0 after a drain, a good `--check` or a `--ready` that is, 64
//! for a manifest that cannot be used (before any port is opened), 1 for
//! anything else.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use arqon_shield::{app::Shield, policy};
use arqon_spine::manifest::{EXIT_BAD_MANIFEST, Manifest};
use arqon_spine::ready;
use arqon_telemetry::log;
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Shield, the WebSocket edge of ArqonBus.
///
/// SIGTERM and SIGINT drain it; a second one ends it at once. SIGHUP has it read
/// its certificate again.
#[derive(Debug, Parser)]
#[command(name = "arqon-shield", version)]
struct Args {
    /// The node's manifest. `arq config docs` describes it
    #[arg(long, value_name = "PATH", default_value = "config.toml")]
    config: PathBuf,
    /// Check the manifest and the files it names, and exit
    #[arg(long)]
    check: bool,
    /// Ask the Shield that runs with this manifest whether it is ready, and exit
    #[arg(long, conflicts_with = "check")]
    ready: bool,
}

fn main() -> ExitCode {
    // Before anything else is begun: it reads what may be hostile.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == policy::COMPILE_POLICY)
    {
        return arqon_policy::compile::child_main();
    }
    let args = Args::parse();
    let manifest = match Manifest::load(&args.config) {
        Ok(manifest) => manifest,
        Err(error) => {
            eprintln!("arqon-shield: {}", log::chain(&error));
            return ExitCode::from(EXIT_BAD_MANIFEST);
        }
    };
    if args.check {
        println!("{} can be used", args.config.display());
        return ExitCode::SUCCESS;
    }
    if args.ready {
        // The admin listener: it speaks no TLS.
        return match ready::ask(manifest.listen.admin) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("arqon-shield: {}: {error}", manifest.listen.admin);
                ExitCode::FAILURE
            }
        };
    }
    match run(manifest) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("arqon-shield: {}", log::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(manifest: Manifest) -> anyhow::Result<ExitCode> {
    log::init(&manifest.log)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Set on purpose: left alone, tokio would look at TOKIO_WORKER_THREADS.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let code = runtime.block_on(serve(manifest));
    // Whatever a drain cut short is not waited for again.
    runtime.shutdown_background();
    code
}

async fn serve(manifest: Manifest) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    // From here on: one that comes while it starts must not end it.
    let mut hangup = listen(SignalKind::hangup())?;
    let shield = tokio::select! {
        shield = Shield::start(manifest) => shield?,
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    loop {
        tokio::select! {
            () = signals.next() => break,
            () = shield.ordered_to_drain() => break,
            _ = hangup.recv() => shield.reload(),
        }
    }
    tokio::select! {
        _cut = shield.drain() => Ok(ExitCode::SUCCESS),
        () = signals.next() => {
            tracing::warn!("Second signal, ending at once");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("cannot listen for signals")
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Signals ===

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
