//! `arq policy logs`: what was blocked, as the audit stream keeps it.

use std::time::{Duration, SystemTime};

use arqon_proto::v1::{PolicyAudit, PolicyEvent};
use arqon_spine::admin::Admin;
use clap::Args;
use data_encoding::HEXLOWER;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::place;
use crate::Globals;
use crate::admin::with;
use crate::duration::moment;
use crate::failure::{Doing, Result};
use crate::output::{Output, Paint};
use crate::sub::printable;

/// Show what was blocked: who, where, by which policy and why; never the payload
///
/// One line for each sender, binding, class and second. The stream keeps 30 days and 256 MiB at
/// most.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq policy logs --since 15m --tenant acme\n  arq policy logs --follow --json"
)]
pub(super) struct Logs {
    /// Go on, and show what comes
    #[arg(long, short)]
    follow: bool,
    /// From how long ago [default: 1h; with --follow: now]
    #[arg(long, value_name = "TIME", value_parser = crate::duration::parse)]
    since: Option<Duration>,
    /// Of one tenant only
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Of one binding only
    #[arg(long, value_name = "NAME")]
    binding: Option<String>,
}

/// Does what was asked.
pub(super) fn run(args: &Logs, globals: &Globals) -> Result {
    let tenant = args
        .tenant
        .as_deref()
        .map(place::parse_tenant)
        .transpose()?;
    let binding = args.binding.as_deref().map(place::parse_name).transpose()?;
    let chosen = |event: &PolicyEvent| {
        let name = event.binding.rsplit('.').next().unwrap_or_default();
        tenant.as_ref().is_none_or(|id| id.as_str() == event.tenant)
            && binding
                .as_ref()
                .is_none_or(|wanted| wanted.as_str() == name)
    };
    let since = args.since.unwrap_or(if args.follow {
        Duration::ZERO
    } else {
        Duration::from_secs(3600)
    });
    // Before whatever there can be: all of it.
    let from = SystemTime::now()
        .checked_sub(since)
        .unwrap_or(SystemTime::UNIX_EPOCH);
    with(globals, async |_, admin| {
        let shown = follow(admin, from, args.follow, chosen, &globals.output);
        tokio::select! {
            shown = shown => match shown? {
                0 if !globals.output.json => {
                    globals.output.note("nothing was blocked in that time");
                    Ok(())
                }
                _ => Ok(()),
            },
            // The usual end of following.
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

/// Shows events until the stream ends; tells how many.
async fn follow(
    admin: &Admin,
    from: SystemTime,
    follow: bool,
    chosen: impl Fn(&PolicyEvent) -> bool,
    output: &Output,
) -> Result<usize> {
    let mut audits = admin
        .control()
        .read_audit(from, follow)
        .await
        .doing("cannot read the audit stream")?;
    let mut shown = 0;
    while let Some(audit) = audits.next().await {
        let audit = audit.doing("cannot read the audit stream")?;
        for event in audit.events.iter().filter(|event| chosen(event)) {
            shown += 1;
            if output.json {
                output.object_line(&event_json(&audit, event))?;
            } else {
                output.line(event_line(&audit, event, output))?;
            }
        }
        if audit.lost > 0 {
            output.warn(format!(
                "{}: {} more events found no place",
                audit.shield, audit.lost
            ));
        }
    }
    Ok(shown)
}

fn event_line(audit: &PolicyAudit, event: &PolicyEvent, output: &Output) -> String {
    let paint = match event.class.as_str() {
        "verdict" => Paint::Yellow,
        _ => Paint::Red,
    };
    let did = if event.shadow {
        "would block"
    } else {
        "blocked"
    };
    // Users and reasons are of others' making.
    let reason = printable(event.reason.as_bytes());
    format!(
        "{} {} {}/{} {did} {} of {} by {} ({} v{}) on {}{}{}",
        output.paint(Paint::Dim, &moment(event.time_ms / 1_000)),
        output.paint(paint, &event.class),
        event.tenant,
        event.room,
        event.count,
        output.paint(Paint::Cyan, &printable(event.user.as_bytes())),
        event.binding,
        event.policy,
        event.version,
        audit.shield,
        if reason.is_empty() { "" } else { ": " },
        reason
    )
}

fn event_json(audit: &PolicyAudit, event: &PolicyEvent) -> Value {
    json!({
        "time_ms": event.time_ms,
        "shield": audit.shield,
        "tenant": event.tenant,
        "room": event.room,
        "user": event.user,
        "session": event.session,
        "binding": event.binding,
        "policy": event.policy,
        "version": event.version,
        "class": event.class,
        "reason": event.reason,
        "payload_digest": HEXLOWER.encode(&event.payload_digest),
        "payload_bytes": event.payload_bytes,
        "count": event.count,
        "shadow": event.shadow,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_and_why_and_controls_no_terminal() {
        let event = PolicyEvent {
            tenant: "acme".to_owned(),
            room: "lobby".to_owned(),
            user: "eve\u{1b}[2J".to_owned(),
            binding: "platform.blocklist".to_owned(),
            policy: "blocklist".to_owned(),
            version: 2,
            class: "verdict".to_owned(),
            reason: "word \u{7}malware".to_owned(),
            count: 3,
            ..PolicyEvent::default()
        };
        let audit = PolicyAudit {
            shield: "shield-1".to_owned(),
            ..PolicyAudit::default()
        };
        let output = Output {
            json: false,
            colour: false,
            colour_stderr: false,
        };
        let line = event_line(&audit, &event, &output);
        assert!(
            line.starts_with("1970-01-01T00:00:00Z verdict acme/lobby blocked 3 of eve"),
            "{line}"
        );
        assert!(!line.contains(['\u{1b}', '\u{7}']), "{line}");
        let shadow = PolicyEvent {
            shadow: true,
            ..event
        };
        assert!(event_line(&audit, &shadow, &output).contains("would block 3"));
    }
}
