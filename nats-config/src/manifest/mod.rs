//! The node's manifest, `config.toml`: one strict schema for every service.
//!
//! Reading never stops at the first mistake: each is reported with its key, the
//! value found and what would be valid. No environment variable has any effect.

mod brain;
mod quotas;
mod reader;
mod render;
pub mod schema;
mod telemetry;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arqon_proto::names::NodeId;
use arqon_proto::v1;
use toml::Table;

pub use brain::BrainManifest;
pub use render::{docs, effective, template};

use reader::Reader;
pub use schema::Role;
pub use telemetry::{OtlpProtocol, OtlpTarget, Telemetry, is_http, parse_headers};

/// Exit status of a program whose manifest is wrong (`EX_USAGE`).
pub const EXIT_BAD_MANIFEST: u8 = 64;

/// The most that `tokens.max_ttl_secs` may be: no Shield accepts a token for longer.
pub const MAX_TOKEN_TTL_SECS: u64 = 604_800;

/// A manifest that passed every check.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// `[node]`
    pub node: Node,
    /// `[listen]`
    pub listen: Listen,
    /// `[tls]`; None: plain text.
    pub tls: Option<Tls>,
    /// `[spine]`
    pub spine: Spine,
    /// `[tokens]`
    pub tokens: Tokens,
    /// `[session]`
    pub session: Session,
    /// `[rooms]`
    pub rooms: Rooms,
    /// `[quotas]`: what holds where a tenant's record says nothing; 0 is no limit.
    pub quotas: v1::TenantLimits,
    /// `[presence]`
    pub presence: Presence,
    /// `[policy]`
    pub policy: Policy,
    /// `[drain]`
    pub drain: Drain,
    /// `[telemetry]`
    pub telemetry: Telemetry,
    /// `[log]`
    pub log: Log,
}

/// Who the node is.
#[derive(Debug, Clone)]
pub struct Node {
    /// Unique in the fleet.
    pub id: NodeId,
    /// The pool it serves.
    pub pool: NodeId,
}

/// Where it listens.
#[derive(Debug, Clone)]
pub struct Listen {
    /// `/v1/socket`, `/healthz`, `/readyz`.
    pub public: SocketAddr,
    /// `/metrics`, `/status`.
    pub admin: SocketAddr,
    /// Listen backlog.
    pub backlog: u32,
    /// Handshakes under way at once.
    pub max_handshakes: usize,
    /// Handshakes begun a second.
    pub accept_rate: u32,
    /// Of those, at once after a quiet time.
    pub accept_burst: u32,
    /// From accept to session.
    pub handshake_timeout: Duration,
    /// HTTP request headers read before authentication.
    pub max_request_header_bytes: usize,
    /// Accepted Origin headers; empty: all.
    pub allowed_origins: Vec<String>,
}

/// TLS files.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Chain, PEM.
    pub certificate_file: PathBuf,
    /// Private key, PEM.
    pub key_file: PathBuf,
}

/// The NATS side.
#[derive(Debug, Clone)]
pub struct Spine {
    /// Server URLs.
    pub servers: Vec<String>,
    /// CONTROL credentials.
    pub control_creds_file: PathBuf,
    /// Seed of the fleet key.
    pub fleet_key_file: PathBuf,
    /// Life of minted users.
    pub user_ttl: Duration,
    /// Idle time of a tenant connection.
    pub idle_close: Duration,
    /// Longest wait for a confirmation.
    pub ack_timeout: Duration,
    /// Messages waiting per subscription.
    pub pump_capacity: usize,
}

/// What tokens are accepted.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Default audience.
    pub audience: String,
    /// Largest `exp − iat`.
    pub max_ttl: Duration,
    /// Clock tolerance.
    pub leeway: Duration,
    /// From expiry to close.
    pub grace: Duration,
    /// Accept development issuers.
    pub allow_development: bool,
    /// Pace of JWKS refresh.
    pub jwks_refresh: Duration,
    /// Least time between fetches caused by unknown keys.
    pub jwks_min_interval: Duration,
}

/// What happens to a session that reads too slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// Close with 4002.
    CloseAndReconnect,
    /// Drop its oldest messages, tell it by GAP.
    DropOldest,
    /// Keep one message of each room, the latest, and tell it by GAP.
    LatestOnly,
}

/// One session.
#[derive(Debug, Clone)]
pub struct Session {
    /// Pace of pings.
    pub heartbeat: Duration,
    /// From WELCOME to the first frame of the client.
    pub first_frame_timeout: Duration,
    /// Whether `arqon.v1+json` is spoken.
    pub json: bool,
    /// Largest frame read.
    pub max_frame_bytes: usize,
    /// Largest payload.
    pub max_payload_bytes: usize,
    /// Rooms at once.
    pub max_rooms: usize,
    /// Headers on a message.
    pub max_headers: usize,
    /// Bytes of those.
    pub max_header_bytes: usize,
    /// Bound of the outgoing queue, bytes.
    pub queue_max_bytes: usize,
    /// Bound of the outgoing queue, frames.
    pub queue_max_messages: usize,
    /// Bound of the outgoing queues of a tenant's sessions together, bytes.
    pub tenant_queue_max_bytes: usize,
    /// What happens at the bound.
    pub overflow: Overflow,
    /// A socket that takes nothing for so long is closed.
    pub write_timeout: Duration,
    /// A slow reader may take its close frame for so long.
    pub farewell: Duration,
    /// `SO_SNDBUF`.
    pub send_buffer_bytes: usize,
    /// Offences within a minute.
    pub max_offences: u32,
    /// Acknowledged publishes under way.
    pub max_unconfirmed: u32,
    /// Sessions on the node.
    pub max_sessions: usize,
}

/// Rooms of the node.
#[derive(Debug, Clone)]
pub struct Rooms {
    /// Rooms of a tenant with members here.
    pub max_per_tenant: usize,
    /// A subscription outlives its last member by this.
    pub linger: Duration,
    /// Joins of a tenant's sessions a second.
    pub joins_per_sec: u32,
    /// Silence after which the last sequence number is told.
    pub beacon_after: Duration,
}

/// Where policies run.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Guard pages instead of bounds checks.
    pub guarded: bool,
    /// Instances alive at once.
    pub slots: u32,
    /// Compiled policies; `None`: a temporary folder.
    pub cache_dir: Option<PathBuf>,
    /// CPU for one tenant, percent of one core.
    pub tenant_cpu_percent: u32,
    /// Limit of one compilation.
    pub compile_timeout: Duration,
}

/// Presence as a Shield's sessions take part in it.
#[derive(Debug, Clone)]
pub struct Presence {
    /// From the last session's end to PRESENCE_LEAVE.
    pub leave_delay: Duration,
    /// Bytes of a meta.
    pub max_meta_bytes: usize,
    /// Changes are gathered so long.
    pub flush: Duration,
    /// Longest wait for a Brain's answer.
    pub query_timeout: Duration,
    /// Members on a page of PRESENCE_STATE.
    pub page_members: usize,
}

/// How it stops.
#[derive(Debug, Clone)]
pub struct Drain {
    /// Longest drain.
    pub timeout: Duration,
    /// Span of reconnects.
    pub spread: Duration,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// For machines.
    Json,
}

/// What is logged.
#[derive(Debug, Clone)]
pub struct Log {
    /// Form of lines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

/// One mistake in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `section.key`; empty for the file as a whole.
    pub path: String,
    /// The value found, as TOML.
    pub value: Option<String>,
    /// What would be valid.
    pub remedy: String,
}

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read the manifest {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file holds mistakes.
    #[error("{} in the manifest {}:{}", count(problems.len()), path.display(), list(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All of them, by key.
        problems: Vec<Problem>,
    },
}

/// Whether files that the manifest names are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretMode {
    /// They must exist, and secrets must be private.
    Checked,
    /// Only the manifest's own text is judged.
    Unchecked,
}

// === impl Manifest ===

impl Manifest {
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
        parse(text, base, secrets, Role::Shield, read)
    }
}

impl Role {
    /// The role that a manifest says by its sections.
    #[must_use]
    pub fn of(table: &Table) -> Self {
        if table.contains_key("brain") {
            Self::Brain
        } else {
            Self::Shield
        }
    }
}

/// Checks the text of a manifest of whichever role it says; all problems, by key.
#[must_use]
pub fn problems(text: &str, base: &Path, secrets: SecretMode) -> Vec<Problem> {
    let role = text.parse().map_or(Role::Shield, |table| Role::of(&table));
    let checked = match role {
        Role::Shield => Manifest::parse(text, base, secrets).map(drop),
        Role::Brain => BrainManifest::parse(text, base, secrets).map(drop),
    };
    checked.err().unwrap_or_default()
}

fn load<M>(
    path: &Path,
    parse: impl FnOnce(&str, &Path, SecretMode) -> Result<M, Vec<Problem>>,
) -> Result<M, ManifestError> {
    let text = std::fs::read_to_string(path).map_err(|source| ManifestError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let base = path.parent().unwrap_or(Path::new("."));
    parse(&text, base, SecretMode::Checked).map_err(|problems| ManifestError::Invalid {
        path: path.to_owned(),
        problems,
    })
}

fn parse<M>(
    text: &str,
    base: &Path,
    secrets: SecretMode,
    role: Role,
    read: impl FnOnce(&mut Reader<'_>) -> Option<M>,
) -> Result<M, Vec<Problem>> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error
            .span()
            .map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        vec![Problem {
            path: String::new(),
            value: line.map(|line| format!("line {line}")),
            remedy: format!("write valid TOML: {}", error.message()),
        }]
    })?;
    let mut reader = Reader::new(&table, base, secrets, role);
    let manifest = read(&mut reader);
    let problems = reader.finish();
    match manifest {
        Some(manifest) if problems.is_empty() => Ok(manifest),
        _ => Err(problems),
    }
}

/// Reads every key, so that every problem is met; None only beside a problem.
fn read(from: &mut Reader<'_>) -> Option<Manifest> {
    let id = from.text("node.id");
    let pool = from.text("node.pool");
    let public = from.text("listen.public");
    let admin = from.text("listen.admin");
    let listen = Listen {
        public: public.parse().ok()?,
        admin: admin.parse().ok()?,
        backlog: u32::try_from(from.integer("listen.backlog")).ok()?,
        max_handshakes: size(from, "listen.max_handshakes"),
        accept_rate: u32::try_from(from.integer("listen.accept_rate")).ok()?,
        accept_burst: u32::try_from(from.integer("listen.accept_burst")).ok()?,
        handshake_timeout: seconds(from, "listen.handshake_timeout_secs"),
        max_request_header_bytes: size(from, "listen.max_request_header_bytes"),
        allowed_origins: from.list("listen.allowed_origins"),
    };
    let tls = read_tls(from);
    let spine = read_spine(from);
    let tokens = Tokens {
        audience: from.text("tokens.audience"),
        max_ttl: seconds(from, "tokens.max_ttl_secs"),
        leeway: seconds(from, "tokens.leeway_secs"),
        grace: seconds(from, "tokens.grace_secs"),
        allow_development: from.boolean("tokens.allow_development"),
        jwks_refresh: seconds(from, "tokens.jwks_refresh_secs"),
        jwks_min_interval: seconds(from, "tokens.jwks_min_interval_secs"),
    };
    let session = read_session(from)?;
    let rooms = Rooms {
        max_per_tenant: size(from, "rooms.max_per_tenant"),
        linger: seconds(from, "rooms.linger_secs"),
        joins_per_sec: u32::try_from(from.integer("rooms.joins_per_sec")).ok()?,
        beacon_after: millis(from, "rooms.beacon_after_ms"),
    };
    let quotas = quotas::read(from);
    let presence = Presence {
        leave_delay: millis(from, "presence.leave_delay_ms"),
        max_meta_bytes: size(from, "presence.max_meta_bytes"),
        flush: millis(from, "presence.flush_ms"),
        query_timeout: millis(from, "presence.query_timeout_ms"),
        page_members: size(from, "presence.page_members"),
    };
    let policy = Policy {
        guarded: from.text("policy.memory") == "guarded",
        slots: from.integer("policy.slots") as u32,
        cache_dir: from
            .present("policy.cache_dir")
            .then(|| from.file("policy.cache_dir")),
        tenant_cpu_percent: from.integer("policy.tenant_cpu_percent") as u32,
        compile_timeout: seconds(from, "policy.compile_timeout_secs"),
    };
    let drain = Drain {
        timeout: seconds(from, "drain.timeout_secs"),
        spread: seconds(from, "drain.spread_secs"),
    };
    let telemetry = telemetry::read(from);
    let log = read_log(from);
    let node = Node {
        id: NodeId::parse(&id).ok()?,
        pool: NodeId::parse(&pool).ok()?,
    };
    Some(Manifest {
        node,
        listen,
        tls,
        spine,
        tokens,
        session,
        rooms,
        quotas,
        presence,
        policy,
        drain,
        telemetry,
        log,
    })
}

fn read_log(from: &mut Reader<'_>) -> Log {
    Log {
        format: if from.text("log.format") == "json" {
            LogFormat::Json
        } else {
            LogFormat::Pretty
        },
        level: from.text("log.level"),
    }
}

fn read_tls(from: &mut Reader<'_>) -> Option<Tls> {
    let (certificate, key) = ("tls.certificate_file", "tls.key_file");
    match (from.present(certificate), from.present(key)) {
        (false, false) => return None,
        (true, false) => from.problem(
            key,
            None,
            "name the key of tls.certificate_file, or remove both",
        ),
        (false, true) => from.problem(
            certificate,
            None,
            "name the certificate of tls.key_file, or remove both",
        ),
        (true, true) => {}
    }
    Some(Tls {
        certificate_file: from.file(certificate),
        key_file: from.file(key),
    })
}

fn read_servers(from: &mut Reader<'_>) -> Vec<String> {
    let servers = from.list("spine.servers");
    if servers.is_empty() && from.present("spine.servers") {
        from.problem(
            "spine.servers",
            Some("[]".to_owned()),
            "name at least one server, for instance [\"nats://127.0.0.1:4222\"]",
        );
    }
    for server in &servers {
        if server.parse::<async_nats::ServerAddr>().is_err()
            || !(server.starts_with("nats://") || server.starts_with("tls://"))
        {
            from.problem(
                "spine.servers",
                Some(format!("{server:?}")),
                "write nats://HOST:PORT or tls://HOST:PORT",
            );
        }
    }
    servers
}

fn read_spine(from: &mut Reader<'_>) -> Spine {
    Spine {
        servers: read_servers(from),
        control_creds_file: from.file("spine.control_creds_file"),
        fleet_key_file: from.file("spine.fleet_key_file"),
        user_ttl: seconds(from, "spine.user_ttl_secs"),
        idle_close: seconds(from, "spine.idle_close_secs"),
        ack_timeout: millis(from, "spine.ack_timeout_ms"),
        pump_capacity: size(from, "spine.pump_capacity"),
    }
}

fn read_session(from: &mut Reader<'_>) -> Option<Session> {
    let max_frame_bytes = size(from, "session.max_frame_bytes");
    let max_payload_bytes = size(from, "session.max_payload_bytes");
    let queue_max_bytes = size(from, "session.queue_max_bytes");
    if max_payload_bytes > max_frame_bytes {
        from.problem(
            "session.max_payload_bytes",
            Some(max_payload_bytes.to_string()),
            format!("use at most session.max_frame_bytes, {max_frame_bytes}: a payload travels in one frame"),
        );
    }
    if queue_max_bytes < 2 * max_frame_bytes {
        from.problem(
            "session.queue_max_bytes",
            Some(queue_max_bytes.to_string()),
            format!(
                "use at least {}, twice session.max_frame_bytes",
                2 * max_frame_bytes
            ),
        );
    }
    Some(Session {
        heartbeat: seconds(from, "session.heartbeat_secs"),
        first_frame_timeout: seconds(from, "session.first_frame_timeout_secs"),
        json: from.boolean("session.json"),
        max_frame_bytes,
        max_payload_bytes,
        max_rooms: size(from, "session.max_rooms"),
        max_headers: size(from, "session.max_headers"),
        max_header_bytes: size(from, "session.max_header_bytes"),
        queue_max_bytes,
        queue_max_messages: size(from, "session.queue_max_messages"),
        tenant_queue_max_bytes: size(from, "session.tenant_queue_max_bytes"),
        overflow: match from.text("session.overflow").as_str() {
            "drop_oldest" => Overflow::DropOldest,
            "latest_only" => Overflow::LatestOnly,
            _ => Overflow::CloseAndReconnect,
        },
        write_timeout: seconds(from, "session.write_timeout_secs"),
        farewell: seconds(from, "session.farewell_secs"),
        send_buffer_bytes: size(from, "session.send_buffer_bytes"),
        max_offences: u32::try_from(from.integer("session.max_offences")).ok()?,
        max_unconfirmed: u32::try_from(from.integer("session.max_unconfirmed")).ok()?,
        max_sessions: size(from, "session.max_sessions"),
    })
}

/// Whether a secret's file is as the manifest asks: readable by its owner alone.
/// For files that are read again while the node runs.
///
/// # Errors
/// What is to be done about it.
pub fn check_secret_file(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    crate::sys::check_secret(path, &metadata)
}

fn size(from: &mut Reader<'_>, path: &'static str) -> usize {
    usize::try_from(from.integer(path)).unwrap_or(usize::MAX)
}

fn millis(from: &mut Reader<'_>, path: &'static str) -> Duration {
    Duration::from_millis(from.integer(path))
}

fn seconds(from: &mut Reader<'_>, path: &'static str) -> Duration {
    Duration::from_secs(from.integer(path))
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() {
            "the file"
        } else {
            &self.path
        };
        match &self.value {
            Some(value) => write!(f, "{path} = {value}: {}", self.remedy),
            None => write!(f, "{path}: {}", self.remedy),
        }
    }
}

fn count(problems: usize) -> String {
    if problems == 1 {
        "1 problem".to_owned()
    } else {
        format!("{problems} problems")
    }
}

fn list(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n  {problem}"))
        .collect()
}

#[cfg(test)]
mod tests;
