//! The manifest of a Brain, read by its link.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arqon_proto::names::NodeId;

use super::reader::Reader;
use super::{
    Log, ManifestError, Problem, Role, SecretMode, Telemetry, load, millis, parse, seconds, size,
};

/// A Brain's manifest that passed every check.
#[derive(Debug, Clone)]
pub struct BrainManifest {
    /// Unique in the fleet.
    pub id: NodeId,
    /// NATS servers.
    pub servers: Vec<String>,
    /// Credentials of the CONTROL account.
    pub control_creds_file: PathBuf,
    /// Credentials of the BRAIN account.
    pub creds_file: PathBuf,
    /// `/healthz`, `/readyz`, `/metrics`.
    pub listen: SocketAddr,
    /// Processes that share the tenants; 0: one for each core.
    pub shards: usize,
    /// Changes of a room are told together.
    pub tick: Duration,
    /// Counts of large rooms are told.
    pub count_tick: Duration,
    /// Users up to which members are told.
    pub full_limit: usize,
    /// Bytes of members up to which they are told.
    pub state_max_bytes: usize,
    /// Sessions listed of one user.
    pub sessions_listed: usize,
    /// Silence after which a Shield's members are hidden.
    pub down_after: Duration,
    /// Silence after which a Shield is forgotten.
    pub forget_after: Duration,
    /// Pace of room digests.
    pub digest: Duration,
    /// Snapshots fetched at once.
    pub repairs: usize,
    /// `[telemetry]`
    pub telemetry: Telemetry,
    /// `[log]`
    pub log: Log,
}

// === impl BrainManifest ===

impl BrainManifest {
    /// Reads and checks a manifest, and the files it names.
    ///
    /// # Errors
    /// All problems at once, see [`ManifestError`].
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        load(path, Self::parse)
    }

    /// Checks the text of a manifest. Relative paths start at `base`.
    ///
    /// # Errors
    /// All problems, by key.
    pub fn parse(text: &str, base: &Path, secrets: SecretMode) -> Result<Self, Vec<Problem>> {
        parse(text, base, secrets, Role::Brain, read)
    }
}

/// Reads every key, so that every problem is met; None only beside a problem.
fn read(from: &mut Reader<'_>) -> Option<BrainManifest> {
    let id = from.text("node.id");
    let listen = from.text("brain.listen");
    let servers = super::read_servers(from);
    let manifest = |id, listen, from: &mut Reader<'_>| BrainManifest {
        id,
        servers,
        control_creds_file: from.file("spine.control_creds_file"),
        creds_file: from.file("brain.creds_file"),
        listen,
        shards: size(from, "brain.shards"),
        tick: millis(from, "brain.tick_ms"),
        count_tick: millis(from, "brain.count_tick_ms"),
        full_limit: size(from, "brain.full_limit"),
        state_max_bytes: size(from, "brain.state_max_bytes"),
        sessions_listed: size(from, "brain.sessions_listed"),
        down_after: millis(from, "brain.down_after_ms"),
        forget_after: seconds(from, "brain.forget_after_secs"),
        digest: seconds(from, "brain.digest_secs"),
        repairs: size(from, "brain.repairs"),
        telemetry: super::telemetry::read(from),
        log: super::read_log(from),
    };
    let nobody = NodeId::parse("unnamed").ok()?;
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let known = NodeId::parse(&id).unwrap_or(nobody);
    Some(manifest(known, listen.parse().unwrap_or(nowhere), from))
}
