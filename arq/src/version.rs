//! `arq version`: what this `arq` is, what it speaks, and what it was built from.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::Globals;
use crate::failure::Result;

/// What this arq is, what it speaks, and what it was built from
#[derive(Debug, Args)]
pub(crate) struct Version {}

#[derive(Debug, Serialize)]
struct Told {
    version: &'static str,
    /// The commit, where it was known when this was built.
    commit: Option<&'static str>,
    /// When the commit was made, or `SOURCE_DATE_EPOCH`.
    date: Option<String>,
    profile: &'static str,
    target: &'static str,
    /// Whether it runs without any library of the system.
    static_linked: bool,
    rustc: &'static str,
    protocol: &'static str,
    policy_abi: &'static str,
    brain_pipe: Option<u64>,
    nats_server_minimum: &'static str,
    dependencies: BTreeMap<&'static str, &'static str>,
}

/// When the commit was made that this was built from, where that was known.
pub(crate) fn date() -> Option<String> {
    let seconds = env!("ARQ_BUILD_SECONDS").parse().ok()?;
    let date = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    date.format(&Rfc3339).ok()
}

fn told() -> Told {
    let abi = arqon_policy::wrap::HOST_MODULE.rsplit_once('@');
    Told {
        version: env!("CARGO_PKG_VERSION"),
        commit: Some(env!("ARQ_BUILD_COMMIT")).filter(|commit| !commit.is_empty()),
        date: date(),
        profile: env!("ARQ_BUILD_PROFILE"),
        target: env!("ARQ_BUILD_TARGET"),
        static_linked: cfg!(target_feature = "crt-static"),
        rustc: env!("ARQ_BUILD_RUSTC"),
        protocol: arqon_proto::envelope::SUBPROTOCOL,
        policy_abi: abi.map_or("unknown", |(_, version)| version),
        brain_pipe: env!("ARQ_BUILD_PIPE").parse().ok(),
        nats_server_minimum: arqon_spine::server::MINIMUM_VERSION,
        dependencies: env!("ARQ_BUILD_DEPENDENCIES")
            .split(',')
            .filter_map(|entry| entry.split_once(' '))
            .collect(),
    }
}

/// Does what was asked.
pub(crate) fn run(_: &Version, globals: &Globals) -> Result {
    let told = told();
    if globals.output.json {
        return globals.output.object(&told);
    }
    let linked = if told.static_linked {
        "static"
    } else {
        "dynamic"
    };
    let dependencies: Vec<String> = told
        .dependencies
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    globals.output.pairs(&[
        ("arq", told.version.to_owned()),
        ("commit", told.commit.unwrap_or("unknown").to_owned()),
        ("date", told.date.unwrap_or_else(|| "unknown".to_owned())),
        (
            "build",
            format!("{}, {}, {linked}", told.profile, told.target),
        ),
        ("rustc", told.rustc.to_owned()),
        ("protocol", told.protocol.to_owned()),
        ("policy ABI", told.policy_abi.to_owned()),
        (
            "Brain's pipe",
            told.brain_pipe
                .map_or_else(|| "unknown".to_owned(), |pipe| pipe.to_string()),
        ),
        (
            "nats-server",
            format!("{} or newer", told.nats_server_minimum),
        ),
        ("built with", dependencies.join("\n")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_build_knows_is_told() {
        let told = told();
        assert!(told.brain_pipe.is_some());
        assert!(told.rustc.starts_with("rustc "), "{}", told.rustc);
        assert_eq!(told.policy_abi.split('.').count(), 3, "{}", told.policy_abi);
        for name in [
            "async-nats",
            "rustls",
            "aws-lc-rs",
            "wasmtime",
            "tokio",
            "prost",
        ] {
            assert!(
                told.dependencies.contains_key(name),
                "{:?}",
                told.dependencies
            );
        }
    }
}
