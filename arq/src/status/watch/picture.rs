//! The state of everything at one moment, in the order it is shown, before it is text or JSON.

use arqon_proto::v1::Latency;
use arqon_spine::admin::ServerStatus;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::rates::{PolicyRates, Rate, TenantRates};

/// What is shown at one moment.
#[derive(Debug, Clone)]
pub(super) struct Picture {
    pub(super) at: OffsetDateTime,
    /// True at the beginning, and after NATS was lost, until everybody had time to report.
    pub(super) listening: bool,
    /// NATS is lost: why, and for how many seconds.
    pub(super) lost: Option<(String, u64)>,
    /// What is not well, one line each; the loss of NATS is not among them.
    pub(super) problems: Vec<String>,
    pub(super) total: Total,
    /// Each list in the order of activity.
    pub(super) shields: Vec<Shield>,
    pub(super) tenants: Vec<Tenant>,
    /// A Shield has more tenants than it names, so some are shown with less than they have.
    pub(super) unnamed_tenants: bool,
    pub(super) policies: Vec<Policies>,
    pub(super) brains: Vec<Brain>,
    pub(super) servers: Vec<ServerStatus>,
}

/// Over all Shields that are heard.
#[derive(Debug, Clone, Default)]
pub(super) struct Total {
    pub(super) sessions: u64,
    /// Rooms with members, counted on each Shield.
    pub(super) rooms: u64,
    pub(super) ready: usize,
    pub(super) messages_in: Rate,
    pub(super) messages_out: Rate,
    pub(super) errors: Rate,
    /// Latencies of several Shields make none of all: this is the one with the highest p99.
    pub(super) slowest: Option<(String, Latency)>,
}

/// How a Shield is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShieldState {
    Ready,
    NotReady,
    Draining,
    /// It does not report, for so many seconds. Its numbers are the last it told.
    Silent(u64),
}

/// One Shield.
#[derive(Debug, Clone)]
pub(super) struct Shield {
    pub(super) id: String,
    pub(super) state: ShieldState,
    pub(super) version: String,
    pub(super) pool: String,
    pub(super) sessions: u32,
    pub(super) rooms: u32,
    pub(super) messages_in: Rate,
    pub(super) messages_out: Rate,
    pub(super) errors: Rate,
    pub(super) slow_readers: Rate,
    pub(super) auth_failures: Rate,
    /// None where nothing was delivered in that time.
    pub(super) delivery: Option<Latency>,
    pub(super) uptime_ms: u64,
}

/// One tenant over all Shields that are heard.
#[derive(Debug, Clone)]
pub(super) struct Tenant {
    pub(super) id: String,
    pub(super) suspended: bool,
    /// Empty where there is no record of it: it was deleted just now.
    pub(super) pool: String,
    pub(super) sessions: u64,
    pub(super) rooms: u64,
    pub(super) rates: TenantRates,
}

/// The policies of one Shield.
#[derive(Debug, Clone)]
pub(super) struct Policies {
    pub(super) shield: String,
    pub(super) active: u32,
    pub(super) broken: u32,
    pub(super) quarantined: u32,
    pub(super) rates: PolicyRates,
}

/// One Brain.
#[derive(Debug, Clone)]
pub(super) struct Brain {
    pub(super) id: String,
    pub(super) warm: bool,
    /// It does not report, for so many seconds.
    pub(super) silent_secs: Option<u64>,
    pub(super) version: String,
    pub(super) members: u64,
    pub(super) tenants: u32,
    pub(super) shields: u32,
    pub(super) share: u32,
    pub(super) uptime_ms: u64,
}

// === impl Picture ===

impl Picture {
    /// Whether all is well, as far as can be told.
    pub(super) fn healthy(&self) -> bool {
        self.lost.is_none() && self.problems.is_empty()
    }

    /// As `arq status --watch --json` prints it: a line each, its fields stable. Where a field
    /// means the same as in `arq status --json`, it has the same name.
    pub(super) fn json(&self) -> Value {
        let total = &self.total;
        let policies = |shield: &str| {
            let found = self.policies.iter().find(|row| row.shield == shield);
            found.map(Policies::json)
        };
        let shields = self.shields.iter().map(|shield| {
            json!({
                "id": shield.id,
                "ready": shield.state == ShieldState::Ready,
                "draining": shield.state == ShieldState::Draining,
                "silent_secs": shield.state.silent_secs(),
                "version": shield.version,
                "pool": shield.pool,
                "sessions": shield.sessions,
                "rooms": shield.rooms,
                "messages_in_per_sec": shield.messages_in,
                "messages_out_per_sec": shield.messages_out,
                "errors_per_sec": shield.errors,
                "slow_readers_per_sec": shield.slow_readers,
                "auth_failures_per_sec": shield.auth_failures,
                "delivery": shield.delivery.as_ref().map(latency_json),
                "uptime_ms": shield.uptime_ms,
                "policies": policies(&shield.id),
            })
        });
        let tenants = self.tenants.iter().map(|tenant| {
            json!({
                "id": tenant.id,
                "suspended": tenant.suspended,
                "pool": tenant.pool,
                "sessions": tenant.sessions,
                "rooms": tenant.rooms,
                "messages_in_per_sec": tenant.rates.messages_in,
                "messages_out_per_sec": tenant.rates.messages_out,
                "errors_per_sec": tenant.rates.errors,
            })
        });
        let brains = self.brains.iter().map(|brain| {
            json!({
                "id": brain.id,
                "warm": brain.warm,
                "silent_secs": brain.silent_secs,
                "version": brain.version,
                "members": brain.members,
                "tenants": brain.tenants,
                "shields": brain.shields,
                "share": brain.share,
                "uptime_ms": brain.uptime_ms,
            })
        });
        let servers = self.servers.iter().map(|server| {
            json!({
                "name": server.name,
                "version": server.version,
                "connections": server.connections,
                "slow_consumers": server.slow_consumers,
                "memory_bytes": server.memory_bytes,
                "uptime_secs": server.uptime_secs,
            })
        });
        json!({
            "time": arqon_proto::headers::timestamp(self.at),
            "healthy": self.healthy(),
            "listening": self.listening,
            "problems": self.problems,
            "nats_lost": self.lost.as_ref().map(|(why, secs)| json!({"why": why, "secs": secs})),
            "sessions": total.sessions,
            "rooms": total.rooms,
            "shields_ready": total.ready,
            "messages_in_per_sec": total.messages_in,
            "messages_out_per_sec": total.messages_out,
            "errors_per_sec": total.errors,
            "slowest_delivery": total.slowest.as_ref().map(|(shield, latency)| {
                let mut object = latency_json(latency);
                object["shield"] = json!(shield);
                object
            }),
            "shields": shields.collect::<Vec<_>>(),
            "tenants": tenants.collect::<Vec<_>>(),
            "unnamed_tenants": self.unnamed_tenants,
            "brains": brains.collect::<Vec<_>>(),
            "nats": servers.collect::<Vec<_>>(),
        })
    }
}

// === impl Policies ===

impl Policies {
    fn json(&self) -> Value {
        let rates = &self.rates;
        json!({
            "active": self.active,
            "broken": self.broken,
            "quarantined": self.quarantined,
            "allowed_per_sec": rates.allowed,
            "blocked_per_sec": rates.blocked,
            "transformed_per_sec": rates.transformed,
            "faults_per_sec": rates.faults,
            "unavailable_per_sec": rates.unavailable,
        })
    }
}

fn latency_json(latency: &Latency) -> Value {
    json!({
        "count": latency.count,
        "p50_us": latency.p50_us,
        "p95_us": latency.p95_us,
        "p99_us": latency.p99_us,
    })
}

// === impl ShieldState ===

impl ShieldState {
    pub(super) fn silent_secs(self) -> Option<u64> {
        match self {
            Self::Silent(secs) => Some(secs),
            _ => None,
        }
    }
}
