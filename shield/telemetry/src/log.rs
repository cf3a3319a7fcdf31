//! The log, set up from the manifest alone: no environment variable has a say.
//!
//! Lines go to standard error. They begin with a capital, have no final stop,
//! carry facts as fields, and never hold a token or a payload.

use std::{error::Error, fmt::Write as _, io::IsTerminal as _};

use arqon_spine::manifest::{Log, LogFormat};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Prefixes of the targets that are ours.
const OURS: [&str; 2] = ["arqon", "arq"];

/// The log was set up before in this process.
#[derive(Debug, thiserror::Error)]
#[error("the log is set up already")]
pub struct AlreadySetUp;

/// Sets up the log of this process. A panic becomes a line of it too.
///
/// # Errors
/// [`AlreadySetUp`] at the second call.
pub fn init(log: &Log) -> Result<(), AlreadySetUp> {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // Left unset this would look at NO_COLOR.
        .with_ansi(log.format == LogFormat::Pretty && std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter(&log.level));
    match log.format {
        LogFormat::Pretty => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(|_| AlreadySetUp)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str();
        tracing::error!(place, message, "Panicked");
    }));
    Ok(())
}

/// Ours at the level asked for; libraries say less, as few of their lines are
/// about this service.
fn filter(level: &str) -> Targets {
    // The manifest's schema admits only these names.
    let level: LevelFilter = level.parse().unwrap_or(LevelFilter::INFO);
    let libraries = match level {
        LevelFilter::TRACE => LevelFilter::DEBUG,
        LevelFilter::DEBUG => LevelFilter::INFO,
        other => other.min(LevelFilter::WARN),
    };
    Targets::new()
        .with_targets(OURS.map(|target| (target, level)))
        .with_default(libraries)
}

/// An error and all its sources in one line, `outermost: …: root cause`.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        // Libraries that repeat their source in their own text would be told twice.
        if !line.ends_with(&text) {
            let _ = write!(line, ": {text}");
        }
        source = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the door")]
    struct Door(#[source] Key);

    #[derive(Debug, thiserror::Error)]
    #[error("the key is lost")]
    struct Key;

    #[test]
    fn a_chain_names_every_cause_once() {
        assert_eq!(chain(&Door(Key)), "cannot open the door: the key is lost");
    }

    #[test]
    fn libraries_say_less_than_we_do() {
        let filter = filter("info");
        assert!(filter.would_enable("arqon_shield::edge", &tracing::Level::INFO));
        assert!(!filter.would_enable("arqon_shield::edge", &tracing::Level::DEBUG));
        assert!(!filter.would_enable("async_nats", &tracing::Level::INFO));
        assert!(filter.would_enable("async_nats", &tracing::Level::WARN));
    }
}
