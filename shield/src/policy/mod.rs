//! Policies on this Shield: from the records on CONTROL to what is in force.
//!
//! [`wanted`] reads a record, and [`state`] says what is in force while versions
//! are fetched, compiled and tried: pure parts. [`deployer`] is the task around them, [`modules`] and
//! [`trial`] its slow work, [`report`] and [`audit`] what is told of it.
//!
//! Whatever is not known to be harmless blocks: a binding that was not made
//! yet, one that cannot be made, a record nobody can read.

mod audit;
mod deployer;
mod meters;
mod modules;
mod report;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod trial;
mod wanted;

use std::path::{Path, PathBuf};
use std::time::Duration;

use arqon_policy::{
    AuditReceiver, CacheError, Host, HostError, HostOptions, Policies, PoliciesOptions,
    compile::{CompileCommand, Compiler, CompilerOptions},
};
use arqon_spine::manifest::Manifest;
use sha2::Digest as _;

pub use deployer::{Deployer, DeployerParams};

/// Says what the cache's seal is for: the fleet's seed has another use.
const CACHE_KEY_DOMAIN: &[u8] = b"arqon-shield policy cache v1\0";

/// Between attempts to write audits.
const PAUSE: Duration = Duration::from_secs(1);

/// What runs policies, before anything is bound.
pub struct Machinery {
    /// The engine.
    pub host: Host,
    /// What makes modules.
    pub compiler: Compiler,
    /// What judges.
    pub policies: Policies,
    /// What it blocks.
    pub audit: AuditReceiver,
}

/// Why policies cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum PolicyStartError {
    /// The engine does not start.
    #[error("policies cannot run on this machine")]
    Host(#[from] HostError),
    /// The folder for compiled policies cannot be used.
    #[error("`policy.cache_dir` cannot be used")]
    Cache(#[from] CacheError),
    /// Threads cannot be started.
    #[error("no threads for policies")]
    Threads(#[source] std::io::Error),
    /// The fleet key, with which the cache is sealed, cannot be read.
    #[error("cannot read {}", path.display())]
    FleetKey {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

// === impl Machinery ===

impl Machinery {
    /// As the manifest says; versions are compiled by `command`.
    ///
    /// # Errors
    /// See [`PolicyStartError`].
    pub fn new(manifest: &Manifest, command: CompileCommand) -> Result<Self, PolicyStartError> {
        let settings = &manifest.policy;
        let host = Host::new(&HostOptions {
            guarded: settings.guarded,
            slots: settings.slots,
            ..HostOptions::default()
        })?;
        let options = CompilerOptions {
            command,
            cache_dir: settings.cache_dir.clone(),
            cache_key: cache_key(&manifest.spine.fleet_key_file)?,
            timeout: settings.compile_timeout,
        };
        let compiler = Compiler::new(host.clone(), options)?;
        let options = PoliciesOptions {
            tenant_cpu: f64::from(settings.tenant_cpu_percent) / 100.0,
            ..PoliciesOptions::default()
        };
        let (policies, audit) =
            Policies::new(&host, &options).map_err(PolicyStartError::Threads)?;
        Ok(Self {
            host,
            compiler,
            policies,
            audit,
        })
    }
}

/// This program as a compiler of policies. On Linux the very file that runs,
/// even if an upgrade has put another one in its place.
#[must_use]
pub fn own_compile_command() -> CompileCommand {
    let program = if cfg!(target_os = "linux") {
        PathBuf::from("/proc/self/exe")
    } else {
        std::env::current_exe().unwrap_or_else(|_| PathBuf::from("arqon-shield"))
    };
    CompileCommand {
        program,
        args: vec![COMPILE_POLICY.into()],
    }
}

/// The hidden subcommand that compiles one policy.
pub const COMPILE_POLICY: &str = "compile-policy";

/// Sealed with a secret that does not lie in the cache's folder.
fn cache_key(fleet_key_file: &Path) -> Result<[u8; 32], PolicyStartError> {
    let seed = std::fs::read(fleet_key_file).map_err(|source| PolicyStartError::FleetKey {
        path: fleet_key_file.to_owned(),
        source,
    })?;
    let mut hash = sha2::Sha256::new();
    hash.update(CACHE_KEY_DOMAIN);
    hash.update(seed.trim_ascii());
    Ok(hash.finalize().into())
}
