//! `arq tenant limits`: what a tenant may use.

use std::time::Duration;

use arqon_proto::v1::TenantLimits;
use arqon_spine::admin::{LimitsChanged, WaitFor};
use clap::Args;
use serde_json::{Value, json};

use super::parse;
use crate::Globals;
use crate::admin::{explain, with};
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::shields::{heard, in_force};

/// Which tenant, and what to change.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq tenant limits acme\n  arq tenant limits acme --max-connections 500 --messages-per-sec 1000\n  arq tenant limits acme --messages-per-sec 0"
)]
pub(super) struct LimitsArgs {
    /// The tenant
    id: String,
    #[command(flatten)]
    limits: LimitOptions,
    /// Wait this long for the Shields
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::duration::parse)]
    timeout: Duration,
}

/// Limits as they can be asked for; 0 stands for the platform's.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitOptions {
    /// Sessions at once, over all Shields; 0: the platform's
    #[arg(long, value_name = "N")]
    max_connections: Option<u32>,
    /// Rooms with members, over all Shields; 0: the platform's
    #[arg(long, value_name = "N")]
    max_rooms: Option<u32>,
    /// Rooms one session may be in; 0: the platform's
    #[arg(long, value_name = "N")]
    max_rooms_per_session: Option<u32>,
    /// Members of one room, on one Shield; 0: the platform's
    #[arg(long, value_name = "N")]
    max_members_per_room: Option<u32>,
    /// Messages published a second, over all Shields; 0: the platform's
    #[arg(long, value_name = "N")]
    messages_per_sec: Option<u32>,
    /// Bytes of their payloads and headers a second; 0: the platform's
    #[arg(long, value_name = "BYTES")]
    bytes_per_sec: Option<u32>,
    /// Messages one session may publish a second; 0: the platform's
    #[arg(long, value_name = "N")]
    session_messages_per_sec: Option<u32>,
    /// Bytes of their payloads and headers a second; 0: the platform's
    #[arg(long, value_name = "BYTES")]
    session_bytes_per_sec: Option<u32>,
    /// Bytes of one payload; 0: the platform's
    #[arg(long, value_name = "BYTES")]
    max_payload_bytes: Option<u32>,
    /// Bytes of all headers of one message; 0: the platform's
    #[arg(long, value_name = "BYTES")]
    max_header_bytes: Option<u32>,
}

impl LimitOptions {
    /// Whether none is given.
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Puts those that were given into the limits.
    pub(super) fn put(&self, limits: &mut TenantLimits) {
        let put = |limit: &mut u32, given: Option<u32>| *limit = given.unwrap_or(*limit);
        put(&mut limits.max_connections, self.max_connections);
        put(&mut limits.max_rooms, self.max_rooms);
        put(
            &mut limits.max_rooms_per_session,
            self.max_rooms_per_session,
        );
        put(&mut limits.max_members_per_room, self.max_members_per_room);
        put(&mut limits.messages_per_sec, self.messages_per_sec);
        put(&mut limits.bytes_per_sec, self.bytes_per_sec);
        put(
            &mut limits.session_messages_per_sec,
            self.session_messages_per_sec,
        );
        put(
            &mut limits.session_bytes_per_sec,
            self.session_bytes_per_sec,
        );
        put(&mut limits.max_payload_bytes, self.max_payload_bytes);
        put(&mut limits.max_header_bytes, self.max_header_bytes);
    }
}

/// Does what was asked.
pub(super) fn run(args: &LimitsArgs, globals: &Globals) -> Result {
    let id = parse(&args.id)?;
    let LimitsChanged {
        record,
        shields,
        account_behind,
    } = with(globals, async |_, admin| {
        if args.limits.is_empty() {
            return Ok(LimitsChanged {
                record: admin.show(&id).await.map_err(explain)?,
                shields: None,
                account_behind: false,
            });
        }
        let wait = WaitFor {
            patience: args.timeout,
            ..WaitFor::default()
        };
        let progress = Progress::waiting("waiting for the Shields");
        let change = |limits: &mut TenantLimits| args.limits.put(limits);
        let changed = admin.change_limits(&id, change, wait).await;
        drop(progress);
        changed.map_err(explain)
    })?;
    let limits = record.limits.unwrap_or_default();
    if globals.output.json {
        globals.output.object(&json(&limits))?;
    } else {
        globals.output.pairs(&pairs(&limits))?;
    }
    let Some(shields) = shields else {
        return Ok(());
    };
    let (there, missing) = heard(&shields);
    if missing.is_empty() {
        in_force(&there, globals);
        return Ok(());
    }
    let and = match account_behind {
        true => "; then `arq tenant reassert` lowers the size of messages in NATS too",
        false => "",
    };
    Err(Failure::new(format!(
        "changed, but nothing was heard of it from {}",
        missing.join(", ")
    ))
    .hint(format!(
        "it holds there once that Shield hears the control plane{and}"
    )))
}

/// As `--json` prints them.
pub(super) fn json(limits: &TenantLimits) -> Value {
    json!({
        "max_connections": limits.max_connections,
        "max_rooms": limits.max_rooms,
        "max_rooms_per_session": limits.max_rooms_per_session,
        "max_members_per_room": limits.max_members_per_room,
        "messages_per_sec": limits.messages_per_sec,
        "bytes_per_sec": limits.bytes_per_sec,
        "session_messages_per_sec": limits.session_messages_per_sec,
        "session_bytes_per_sec": limits.session_bytes_per_sec,
        "max_payload_bytes": limits.max_payload_bytes,
        "max_header_bytes": limits.max_header_bytes,
    })
}

/// As people read them.
pub(super) fn pairs(limits: &TenantLimits) -> [(&'static str, String); 10] {
    let limit = |value: u32| match value {
        0 => "the platform's".to_owned(),
        value => value.to_string(),
    };
    [
        ("max connections", limit(limits.max_connections)),
        ("max rooms", limit(limits.max_rooms)),
        ("max rooms/session", limit(limits.max_rooms_per_session)),
        ("max members/room", limit(limits.max_members_per_room)),
        ("messages/s", limit(limits.messages_per_sec)),
        ("bytes/s", limit(limits.bytes_per_sec)),
        ("messages/s/session", limit(limits.session_messages_per_sec)),
        ("bytes/s/session", limit(limits.session_bytes_per_sec)),
        ("max payload bytes", limit(limits.max_payload_bytes)),
        ("max header bytes", limit(limits.max_header_bytes)),
    ]
}
