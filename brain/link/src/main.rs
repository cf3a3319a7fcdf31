//! The program `arqon-brain-link`: a manifest in, frames on standard input and
//! output until Brain closes them.
//!
//! Exit status: 0 when standard input ends, or for a `--ready` that is, 64 for
//! a manifest that cannot be used (before anything else happens), 1 for
//! anything else.

use std::{path::PathBuf, process::ExitCode};

use arqon_brain_link::app::{self, SetupError};
use arqon_spine::manifest::{BrainManifest, EXIT_BAD_MANIFEST};
use arqon_spine::ready;
use arqon_telemetry::log;
use clap::Parser;

/// The wire side of Brain. Brain starts it; brain/README.md says what it speaks.
///
/// It ends when its standard input does, not on SIGTERM or SIGINT: whoever
/// stops all of a service at once must not take the wire from a Brain that
/// still says goodbye.
#[derive(Debug, Parser)]
#[command(name = "arqon-brain-link", version)]
struct Args {
    /// The node's manifest. `arq config docs` describes it
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// Ask the Brain that runs with this manifest whether it is ready, and exit
    #[arg(long)]
    ready: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let manifest = match BrainManifest::load(&args.config) {
        Ok(manifest) => manifest,
        Err(error) => {
            eprintln!("arqon-brain-link: {}", log::chain(&error));
            return ExitCode::from(EXIT_BAD_MANIFEST);
        }
    };
    if args.ready {
        return match ready::ask(manifest.listen) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("arqon-brain-link: {}: {error}", manifest.listen);
                ExitCode::FAILURE
            }
        };
    }
    match app::run(manifest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<SetupError>() => {
            eprintln!("arqon-brain-link: {}", log::chain(error.as_ref()));
            ExitCode::from(EXIT_BAD_MANIFEST)
        }
        Err(error) => {
            tracing::error!(error = log::chain(error.as_ref()), "Ending");
            ExitCode::FAILURE
        }
    }
}
