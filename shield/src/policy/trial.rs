//! A binding before it is in force: configured, and run once.

use std::time::{Duration, Instant};

use arqon_policy::{Fault, FaultClass, MAX_CONFIG_BYTES};
use arqon_spine::control::ControlStore;
use arqon_telemetry::log::chain;
use bytes::Bytes;

use super::modules::canonical;
use super::state::{Trial, Tried};
use super::wanted::Config;

/// Trials go on for this long before what they made is put in force, so that
/// of a thousand bindings none waits for all.
const SLICE: Duration = Duration::from_millis(20);

/// Tries bindings whose configuration is at hand; those the slice has no room
/// for come back.
pub(super) async fn here(trials: Vec<Trial>) -> Option<(Vec<Tried>, Vec<Trial>)> {
    let tried = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let mut done = Vec::new();
        let mut trials = trials.into_iter();
        for trial in trials.by_ref() {
            let config = match &trial.wanted.config {
                Config::Here(config) => Ok(config.clone()),
                Config::Object(_) => Err(Fault::new(FaultClass::Missing, "its configuration")),
            };
            done.push(one(&trial, config));
            if began.elapsed() >= SLICE {
                break;
            }
        }
        (done, trials.collect())
    });
    tried.await.ok()
}

/// Fetches a configuration and tries its binding.
pub(super) async fn object(store: ControlStore, trial: Trial) -> Option<Tried> {
    let config = match &trial.wanted.config {
        Config::Here(config) => Ok(config.clone()),
        Config::Object(digest) => match store.get_object(digest).await {
            Ok(config) if config.len() <= MAX_CONFIG_BYTES => Ok(config),
            Ok(config) => Err(format!(
                "the configuration has {} bytes; {MAX_CONFIG_BYTES} are the most",
                config.len()
            )),
            Err(error) => Err(format!(
                "the configuration cannot be had: {}",
                chain(&error)
            )),
        },
    };
    let config = config.map_err(|error| Fault::new(FaultClass::Missing, error));
    tokio::task::spawn_blocking(move || one(&trial, config))
        .await
        .ok()
}

fn one(trial: &Trial, config: Result<Bytes, Fault>) -> Tried {
    let result = config.and_then(|config| {
        let limits = &trial.wanted.limits;
        let mut instance = trial.module.start(&config, limits)?;
        canonical(|message| instance.run(message, limits)).result?;
        Ok(config)
    });
    Tried {
        key: trial.wanted.key.clone(),
        revision: trial.wanted.revision,
        result,
    }
}
