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

/// Stream of what policies blocked.
pub const STREAM_AUDIT: &str = "AUDIT";

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

/// What tenants use on one Shield.
pub fn shield_load(id: &NodeId) -> String {
    format!("shield.{id}.load")
}

/// What tenants use on every Shield.
pub fn shield_loads() -> &'static str {
    "shield.*.load"
}

/// How one Shield stands with policies.
pub fn shield_policies(id: &NodeId) -> String {
    format!("shield.{id}.policies")
}

/// How every Shield stands with policies.
pub fn shields_policies() -> &'static str {
    "shield.*.policies"
}

/// What policies of one Shield blocked.
pub fn shield_audit(id: &NodeId) -> String {
    format!("shield.{id}.audit")
}

/// What policies of every Shield blocked.
pub fn shield_audits() -> &'static str {
    "shield.*.audit"
}

/// Sessions of one Shield, to who asked for them.
pub fn shield_sessions(id: &NodeId) -> String {
    format!("shield.{id}.sessions")
}

/// Sessions of every Shield.
pub fn shields_sessions() -> &'static str {
    "shield.*.sessions"
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

/// Where a connection sends itself messages to see whether the server answers.
pub fn pulse(user: &str) -> String {
    format!("_INBOX.{user}.pulse")
}

/// Presence events of a tenant, in that tenant's account.
pub fn presence_events(tenant: &TenantId) -> String {
    format!("{tenant}.{PRESENCE_TOKEN}.>")
}

/// Where a Shield tells changes of presence, in the tenant's account.
pub const PRESENCE_CHANGE: &str = "_arq.presence.change";

/// Where a Shield asks for a room, in the tenant's account.
pub const PRESENCE_QUERY: &str = "_arq.presence.query";

/// Where a Shield sends the pages of a snapshot to a Brain, in the tenant's account.
pub fn presence_page(brain: &NodeId) -> String {
    format!("_arq.presence.page.{brain}")
}

/// Where a Shield hears what changed in a tenant's rooms, in the tenant's account.
pub fn presence_room_events(tenant: &TenantId) -> String {
    format!("{tenant}.{PRESENCE_TOKEN}.events")
}

/// Where a Shield hears Brains speak to it alone, in the tenant's account.
pub fn presence_orders(tenant: &TenantId, shield: &NodeId) -> String {
    format!("{tenant}.{PRESENCE_TOKEN}.shield.{shield}")
}

/// All changes of all tenants, in BRAIN. The second token is the account.
pub const BRAIN_CHANGES: &str = "presence.*.change";

/// All queries of all tenants, in BRAIN.
pub const BRAIN_QUERIES: &str = "presence.*.query";

/// The queue group in which Brains share the queries.
pub const BRAIN_QUEUE: &str = "brain";

/// The pages of all tenants to one Brain, in BRAIN.
pub fn brain_pages(brain: &NodeId) -> String {
    format!("presence.*.page.{brain}")
}

/// Where a Brain tells the Shields of account `A…` what changed, in BRAIN.
pub fn brain_events(account: &str) -> String {
    format!("presence-events.{account}.events")
}

/// Where a Brain speaks to one Shield of account `A…`, in BRAIN.
pub fn brain_orders(account: &str, shield: &NodeId) -> String {
    format!("presence-events.{account}.shield.{shield}")
}

/// The account in a subject of BRAIN.
#[must_use]
pub fn account_of(subject: &str) -> Option<&str> {
    subject.split('.').nth(1)
}

/// Presence digests of one Shield.
pub fn shield_presence(id: &NodeId) -> String {
    format!("shield.{id}.presence")
}

/// Presence digests of every Shield.
pub fn shield_presences() -> &'static str {
    "shield.*.presence"
}

/// Reports of one Brain.
pub fn brain_beat(id: &NodeId) -> String {
    format!("brain.{id}.beat")
}

/// Reports of every Brain.
pub fn brain_beats() -> &'static str {
    "brain.*.beat"
}

/// Where a Brain asks a Shield for its presence digests.
pub fn brain_ask(brain: &NodeId, shield: &NodeId) -> String {
    format!("brain.{brain}.ask.{shield}")
}

/// Where a Shield hears every Brain ask.
pub fn brain_asks(shield: &NodeId) -> String {
    format!("brain.*.ask.{shield}")
}

/// The presence service as BRAIN sees it from account `A…`.
pub fn presence_in(account: &str) -> String {
    format!("presence.{account}.>")
}

/// The presence events for account `A…` as BRAIN publishes them.
pub fn presence_out(account: &str) -> String {
    format!("presence-events.{account}.>")
}
