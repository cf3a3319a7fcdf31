//! Every subject, bucket and inbox of the platform, spelt in one place.
//!
//! Room subjects belong to a tenant's account, `ctl.…`, `shield.…`, `brain.…`
//! and the buckets to CONTROL, `presence….` to BRAIN.

use arqon_proto::names::{NodeId, TenantId};

pub use arqon_proto::names::{parse_room_subject, room_subject};

/// KV bucket of tenant records, by TenantID.
pub const BUCKET_TENANTS: &str = "tenants";
/// KV bucket of pool records, by pool name.
pub const BUCKET_POOLS: &str = "pools";
/// KV bucket of policy bindings.
pub const BUCKET_POLICIES: &str = "policies";
/// KV bucket of revocations.
pub const BUCKET_REVOCATIONS: &str = "revocations";
/// Object store of policy modules, by digest.
pub const STORE_WASM: &str = "wasm";

/// Every KV bucket that Shields read.
pub const BUCKETS: [&str; 4] = [
    BUCKET_TENANTS,
    BUCKET_POOLS,
    BUCKET_POLICIES,
    BUCKET_REVOCATIONS,
];

/// What a tenant's account calls the presence service of BRAIN.
pub const PRESENCE_LOCAL: &str = "_arq.presence.>";

/// The reserved room token under which presence events appear in a tenant.
pub const PRESENCE_TOKEN: &str = "_presence";

/// Orders to every Shield.
pub fn ctl_all() -> &'static str {
    "ctl.all.order"
}

/// Orders to one Shield.
pub fn ctl_shield(id: &NodeId) -> String {
    format!("ctl.shield.{id}.order")
}

/// Reports of one Shield.
pub fn shield_beat(id: &NodeId) -> String {
    format!("shield.{id}.beat")
}

/// Reports of every Shield.
pub fn shield_beats() -> &'static str {
    "shield.*.beat"
}

/// The inbox prefix of user `U…`, the only inbox its template lets it use.
pub fn inbox(user: &str) -> String {
    format!("_INBOX.{user}")
}

/// Where a connection sends itself the message whose return proves that the
/// server has everything sent before it.
pub fn barrier(user: &str) -> String {
    format!("_INBOX.{user}.barrier")
}

/// Presence events of a tenant, in that tenant's account.
pub fn presence_events(tenant: &TenantId) -> String {
    format!("{tenant}.{PRESENCE_TOKEN}.>")
}

/// The presence service as BRAIN sees it from account `A…`.
pub fn presence_in(account: &str) -> String {
    format!("presence.{account}.>")
}

/// The presence events for account `A…` as BRAIN publishes them.
pub fn presence_out(account: &str) -> String {
    format!("presence-events.{account}.>")
}
