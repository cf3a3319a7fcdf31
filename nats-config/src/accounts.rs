//! Which account exists and what each of its users may do.
//!
//! | account | holds | users |
//! |---|---|---|
//! | SYS | nothing | `control-plane`: pushes accounts, no more |
//! | CONTROL | KV, object store, orders, beats | `shield`, `brain`, `admin` |
//! | BRAIN | presence in and out of all tenants | `brain` |
//! | a tenant's | its rooms | `fleet`, `debug-read`, `debug-write` |
//!
//! Every signing key is scoped: its users get the template here and cannot
//! claim more. A tenant's name gets into subjects only through the tag that
//! the operator signed into its account, never through what a minting key says.

use arqon_proto::names::TenantId;
use arqon_proto::v1;

use crate::claims::{
    Account, AccountClaims, AccountKind, AccountLimits, ConnectionType, Export, Import, Permission,
    Scope, ShareKind, Template, UNLIMITED, VERSION,
};
use crate::subjects;

/// Subscriptions one tenant connection of a Shield may have: 10,000 rooms, its
/// barrier, its inbox and what a rotation needs.
pub const TEMPLATE_SUBS: i64 = 10_016;

/// Bytes of one frame unless a manifest says otherwise.
pub const DEFAULT_MAX_FRAME_BYTES: u32 = 64 * 1024;

/// Application headers of one message take no more by any manifest
/// (`session.max_header_bytes`).
pub const MAX_HEADER_BYTES: u32 = 15_360;

/// What Shield adds to a message at most: headers of its own, the sender, the
/// NATS header.
const ADDED_BYTES: i64 = 16 * 1024;

/// A batch of presence takes up to half of the platform's size and some traces,
/// on the same connection: an account that allows less would cut it.
const LEAST_PAYLOAD: i64 = 64 * 1024;

/// Connections of one tenant: two for each Shield (rotation overlaps) of a
/// pool of 60, and some for debugging. A leaked credential can take no more.
pub const TENANT_CONNECTIONS: i64 = 128;

/// The reserved token by which this tenant is named in templates.
const TENANT: &str = "{{account-tag(tenant)}}";
const OWN_INBOX: &str = "_INBOX.{{subject()}}.>";
const OWN_NAME: &str = "{{name()}}";

/// Public keys that a tenant's account lists, besides its pool's.
#[derive(Debug, Clone)]
pub struct TenantKeys {
    /// Signs users that may only listen, `A…`.
    pub debug_read: String,
    /// Signs users that may also publish, `A…`.
    pub debug_write: String,
    /// The BRAIN account, `A…`.
    pub brain_account: String,
}

/// Public scoped keys of CONTROL, by role.
#[derive(Debug, Clone)]
pub struct ControlKeys {
    /// Signs Shields.
    pub shield: String,
    /// Signs Brains.
    pub brain: String,
    /// Signs those who write.
    pub admin: String,
}

/// Bytes of the largest NATS message of a tenant: the largest client frame plus
/// room for what Shield adds (its own headers, the sender, the NATS header).
pub fn account_payload(max_frame_bytes: u32) -> i64 {
    i64::from(max_frame_bytes) + ADDED_BYTES
}

/// Bytes of the largest NATS message of this tenant: what its own limits leave
/// of the platform's, and room for what Shields send of presence. A leaked
/// credential can send no larger one either.
pub fn tenant_payload(limits: &v1::TenantLimits, max_frame_bytes: u32) -> i64 {
    let platform = account_payload(max_frame_bytes);
    let headers = match limits.max_header_bytes {
        0 => MAX_HEADER_BYTES,
        some => some.min(MAX_HEADER_BYTES),
    };
    match limits.max_payload_bytes {
        0 => platform,
        some => (i64::from(some) + i64::from(headers) + ADDED_BYTES)
            .max(LEAST_PAYLOAD)
            .min(platform),
    }
}

/// A tenant's account, from its record. `pool_keys` are the fleet keys of its
/// pool: two while a rotation is under way.
pub fn tenant_account(
    record: &v1::TenantRecord,
    tenant: &TenantId,
    pool_keys: &[String],
    keys: &TenantKeys,
    max_frame_bytes: u32,
) -> AccountClaims {
    let payload = account_payload(max_frame_bytes);
    let suspended = record.state() != v1::TenantState::Active;
    let mut signing_keys: Vec<Scope> = pool_keys
        .iter()
        .map(|key| Scope::new(key, "fleet", fleet_template(payload)))
        .collect();
    signing_keys.push(Scope::new(
        &keys.debug_read,
        "debug-read",
        debug_read_template(payload),
    ));
    signing_keys.push(Scope::new(
        &keys.debug_write,
        "debug-write",
        debug_write_template(payload),
    ));
    let own = record.limits.unwrap_or_default();
    let limits = AccountLimits {
        // The templates keep the platform's: NATS cuts every connection whose template changes.
        payload: tenant_payload(&own, max_frame_bytes),
        imports: 8,
        conn: if suspended { 0 } else { TENANT_CONNECTIONS },
        ..no_jetstream()
    };
    let body = Account {
        imports: vec![
            Import {
                name: "presence-in".to_owned(),
                account: keys.brain_account.clone(),
                subject: subjects::presence_in(&record.account),
                local_subject: subjects::PRESENCE_LOCAL.to_owned(),
                kind: ShareKind::Service,
            },
            Import {
                name: "presence-out".to_owned(),
                account: keys.brain_account.clone(),
                subject: subjects::presence_out(&record.account),
                local_subject: subjects::presence_events(tenant),
                kind: ShareKind::Stream,
            },
        ],
        tags: vec![format!("tenant:{tenant}")],
        ..account(limits, signing_keys)
    };
    AccountClaims::new(&record.account, tenant.as_str(), body)
}

/// The SYS account; `key` signs the control plane's user.
pub fn system_account(account_key: &str, key: &str) -> AccountClaims {
    let limits = no_jetstream();
    let scope = Scope::new(key, "control-plane", system_template());
    AccountClaims::new(account_key, "SYS", account(limits, vec![scope]))
}

/// The CONTROL account: the only one with JetStream.
pub fn control_account(account_key: &str, keys: &ControlKeys) -> AccountClaims {
    let limits = AccountLimits {
        mem_storage: UNLIMITED,
        disk_storage: UNLIMITED,
        streams: UNLIMITED,
        consumer: UNLIMITED,
        ..no_jetstream()
    };
    let scopes = vec![
        Scope::new(&keys.shield, "shield", control_shield_template()),
        Scope::new(&keys.brain, "brain", control_brain_template()),
        Scope::new(&keys.admin, "admin", control_admin_template()),
    ];
    AccountClaims::new(account_key, "CONTROL", account(limits, scopes))
}

/// The BRAIN account. Both exports carry the tenant's account in their second
/// token and the server checks it: no tenant can speak or listen as another.
pub fn brain_account(account_key: &str, key: &str) -> AccountClaims {
    let limits = AccountLimits {
        exports: 2,
        ..no_jetstream()
    };
    let scope = Scope::new(key, "brain", brain_template());
    let export = |name: &str, subject: &str, kind| Export {
        name: name.to_owned(),
        subject: subject.to_owned(),
        kind,
        account_token_position: 2,
    };
    let body = Account {
        exports: vec![
            export("presence-in", "presence.*.>", ShareKind::Service),
            export("presence-out", "presence-events.*.>", ShareKind::Stream),
        ],
        ..account(limits, vec![scope])
    };
    AccountClaims::new(account_key, "BRAIN", body)
}

/// A Shield in a tenant's account: the tenant's rooms, presence towards BRAIN
/// and its own inbox; presence events it may hear but not make.
pub fn fleet_template(payload: i64) -> Template {
    Template {
        publish: Permission::allow([&tenant_subjects(), subjects::PRESENCE_LOCAL, OWN_INBOX])
            .but_not([own_presence()]),
        subscribe: Permission::allow([&tenant_subjects(), OWN_INBOX]),
        subs: TEMPLATE_SUBS,
        payload,
        ..standard()
    }
}

/// A person listening to a tenant: the rooms and presence events, no publishing.
pub fn debug_read_template(payload: i64) -> Template {
    Template {
        publish: Permission::nothing(),
        subscribe: Permission::allow([&tenant_subjects(), OWN_INBOX]),
        subs: 64,
        payload,
        ..standard()
    }
}

/// A person speaking in a tenant, as any of its users; never towards BRAIN and
/// never as BRAIN. NATS has no wildcard inside a token, so "every token of ours
/// that begins with `_`" cannot be denied in one entry: `_presence` is the one
/// there is, and Shields subscribe to no other.
pub fn debug_write_template(payload: i64) -> Template {
    Template {
        publish: Permission::allow([&tenant_subjects(), OWN_INBOX]).but_not([own_presence()]),
        ..debug_read_template(payload)
    }
}

/// The control plane in SYS: accounts pushed, listed, looked up and deleted,
/// connections looked at and cut. Not the rest of `$SYS`, by which accounts of
/// a foreign operator could be written or servers stopped.
pub fn system_template() -> Template {
    Template {
        publish: Permission::allow([
            "$SYS.REQ.CLAIMS.UPDATE",
            "$SYS.REQ.CLAIMS.LIST",
            "$SYS.REQ.CLAIMS.DELETE",
            "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP",
            "$SYS.REQ.ACCOUNT.*.INFO",
            "$SYS.REQ.ACCOUNT.*.CONNZ",
            "$SYS.REQ.SERVER.PING",
            "$SYS.REQ.SERVER.*.KICK",
        ]),
        subscribe: Permission::allow([OWN_INBOX]),
        subs: 256,
        ..standard()
    }
}

/// A Shield on CONTROL: reads every bucket and module, hears orders and what
/// tenants use elsewhere, reports under its own name.
pub fn control_shield_template() -> Template {
    let reads = subjects::BUCKETS
        .iter()
        .map(|bucket| format!("KV_{bucket}"))
        .chain([format!("OBJ_{}", subjects::STORE_WASM)])
        .flat_map(|stream| stream_reads(&stream));
    Template {
        publish: Permission::allow(
            reads.chain([format!("shield.{OWN_NAME}.>"), OWN_INBOX.to_owned()]),
        ),
        subscribe: Permission::allow([
            "ctl.all.>",
            &format!("ctl.shield.{OWN_NAME}.>"),
            &format!("brain.*.ask.{OWN_NAME}"),
            subjects::shield_loads(),
            OWN_INBOX,
        ]),
        subs: 256,
        ..standard()
    }
}

/// A Brain on CONTROL: beats, of its own name, and the Shields' beats.
pub fn control_brain_template() -> Template {
    Template {
        publish: Permission::allow([&format!("brain.{OWN_NAME}.>"), OWN_INBOX]),
        subscribe: Permission::allow([
            "ctl.all.>",
            &format!("ctl.brain.{OWN_NAME}.>"),
            "shield.*.beat",
            "shield.*.presence",
            "brain.*.beat",
            OWN_INBOX,
        ]),
        subs: 256,
        ..standard()
    }
}

/// Who may write: KV, objects and orders.
pub fn control_admin_template() -> Template {
    Template {
        publish: Permission::allow([
            "$JS.API.>",
            "$JS.ACK.>",
            "$JS.FC.>",
            // Backups: acknowledging what is read, and sending what is restored.
            "$JS.SNAPSHOT.>",
            "$KV.>",
            &format!("$O.{}.>", subjects::STORE_WASM),
            "ctl.>",
            OWN_INBOX,
        ]),
        subscribe: Permission::allow(["shield.>", "brain.>", OWN_INBOX]),
        subs: 256,
        ..standard()
    }
}

/// A Brain in its own account: hears every tenant, and speaks to each by its
/// account. Answers go the same way as events, in pages, so it needs no reply.
pub fn brain_template() -> Template {
    Template {
        publish: Permission::allow(["presence-events.>", OWN_INBOX]),
        subscribe: Permission::allow(["presence.>", OWN_INBOX]),
        ..standard()
    }
}

/// What reading one stream by watch and by key takes. JetStream has no lesser
/// right: one who may create a consumer may have it deliver stored messages to
/// any subject of CONTROL, which is why orders carry a header (see `control`).
/// Deleting consumers is not among it, or one Shield could end another's watch.
fn stream_reads(stream: &str) -> [String; 8] {
    [
        format!("$JS.API.STREAM.INFO.{stream}"),
        format!("$JS.API.STREAM.MSG.GET.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}.>"),
        format!("$JS.API.CONSUMER.CREATE.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
        format!("$JS.API.CONSUMER.INFO.{stream}.>"),
        format!("$JS.FC.{stream}.>"),
    ]
}

fn tenant_subjects() -> String {
    format!("{TENANT}.>")
}

fn own_presence() -> String {
    format!("{TENANT}.{}.>", subjects::PRESENCE_TOKEN)
}

/// Nothing allowed is nothing denied to the server, so every user of this sets
/// both permissions.
fn standard() -> Template {
    Template {
        publish: Permission::nothing(),
        subscribe: Permission::nothing(),
        responses: None,
        subs: UNLIMITED,
        data: UNLIMITED,
        payload: UNLIMITED,
        allowed_connection_types: vec![ConnectionType::Standard],
    }
}

/// No limit on connections and subscriptions; no imports, exports, leaf nodes,
/// bearers or JetStream.
fn no_jetstream() -> AccountLimits {
    AccountLimits {
        subs: UNLIMITED,
        data: UNLIMITED,
        payload: UNLIMITED,
        imports: 0,
        exports: 0,
        wildcards: true,
        conn: UNLIMITED,
        leaf: 0,
        disallow_bearer: true,
        mem_storage: 0,
        disk_storage: 0,
        streams: 0,
        consumer: 0,
    }
}

fn account(limits: AccountLimits, signing_keys: Vec<Scope>) -> Account {
    Account {
        imports: Vec::new(),
        exports: Vec::new(),
        limits,
        signing_keys,
        revocations: Default::default(),
        tags: Vec::new(),
        kind: AccountKind::Account,
        version: VERSION,
    }
}
