//! `arq tenant overflow`: what becomes of messages for sessions that read too slowly.

use arqon_proto::names::RoomPattern;
use arqon_proto::v1::{Overflow, TenantRecord};
use arqon_spine::admin::MAX_OVERFLOW_RULES;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::Globals;
use crate::admin::{explain, with};
use crate::failure::{Failure, Result};

/// Which tenant, and what to change.
#[derive(Debug, Args)]
pub(super) struct OverflowArgs {
    /// The tenant
    id: String,
    /// Rooms: `*` stands for one token, a last `>` for the rest
    #[arg(requires = "rule")]
    rooms: Option<String>,
    /// What holds for them, before every rule there is
    #[arg(value_enum)]
    rule: Option<Rule>,
    /// Take the rule of these rooms away
    #[arg(long, value_name = "ROOMS", conflicts_with = "rooms")]
    unset: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Rule {
    /// Close the session with 4002; it comes back and hears what is said from then on
    CloseAndReconnect,
    /// Drop its oldest messages, and tell it how many
    DropOldest,
    /// Let one message of a room wait, the latest, and tell how many it replaced
    LatestOnly,
}

impl From<Rule> for Overflow {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::CloseAndReconnect => Overflow::CloseAndReconnect,
            Rule::DropOldest => Overflow::DropOldest,
            Rule::LatestOnly => Overflow::LatestOnly,
        }
    }
}

pub(super) fn run(args: &OverflowArgs, globals: &Globals) -> Result {
    let id = super::parse(&args.id)?;
    let change = match (&args.rooms, args.rule, &args.unset) {
        (Some(rooms), Some(rule), _) => Some((pattern(rooms)?, Some(rule.into()))),
        (_, _, Some(rooms)) => Some((pattern(rooms)?, None)),
        _ => None,
    };
    let record = with(globals, async |_, admin| {
        let record = admin.show(&id).await.map_err(explain)?;
        let Some((rooms, overflow)) = &change else {
            return Ok(record);
        };
        let known = record
            .overflow
            .iter()
            .any(|rule| rule.rooms == rooms.as_str());
        if overflow.is_none() && !known {
            return Err(
                Failure::new(format!("tenant {id} has no rule for `{rooms}`"))
                    .hint(format!("`arq tenant overflow {id}` shows what there is")),
            );
        }
        if overflow.is_some() && !known && record.overflow.len() >= MAX_OVERFLOW_RULES {
            return Err(Failure::new(format!(
                "tenant {id} has {MAX_OVERFLOW_RULES} rules, and may not have more"
            ))
            .hint(
                "one rule may cover many rooms: `*` stands for a token, a last `>` for the rest",
            ));
        }
        admin
            .set_overflow(&id, rooms, *overflow)
            .await
            .map_err(explain)
    })?;
    if globals.output.json {
        return globals.output.object(&json(&record));
    }
    let rows = record
        .overflow
        .iter()
        .map(|rule| vec![rule.rooms.clone(), word(rule.overflow())])
        .collect();
    let empty = format!("tenant {id} has no rule: `session.overflow` of each Shield holds");
    globals.output.table(&["ROOMS", "RULE"], rows, &empty)
}

/// The rules as `--json` prints them, the first that covers a room first.
pub(super) fn json(record: &TenantRecord) -> Value {
    let rules = record.overflow.iter();
    rules
        .map(|rule| json!({"rooms": rule.rooms, "rule": word(rule.overflow())}))
        .collect()
}

fn word(overflow: Overflow) -> String {
    let name = overflow.as_str_name();
    name.trim_start_matches("OVERFLOW_").to_lowercase()
}

fn pattern(text: &str) -> Result<RoomPattern> {
    RoomPattern::parse(text).map_err(|error| {
        Failure::usage(format!("`{text}` is no pattern of rooms: {error}"))
            .hint("write a room such as `lobby`, or `ticker.*` or `ticker.>` for many")
    })
}
