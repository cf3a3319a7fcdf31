//! An Envelope as text, for people.

use std::fmt::{self, Write as _};

use crate::v1::envelope::Body;
use crate::v1::{Envelope, GapReason, Opcode, PresenceMember, PresenceMode};

/// Bytes of a payload that are shown.
const MAX_PAYLOAD_SHOWN: usize = 4096;

/// All fields of an Envelope, one a line, in a form for terminals: what comes
/// from tenants is escaped, and a token is never shown.
#[must_use]
pub fn to_text(envelope: &Envelope) -> String {
    let mut out = Lines(String::new());
    match Opcode::try_from(envelope.op) {
        Ok(op) => out.line("op", op.as_str_name().trim_start_matches("OPCODE_")),
        Err(_) => out.line("op", format_args!("{} (unknown)", envelope.op)),
    }
    if !envelope.room.is_empty() {
        out.quoted("room", &envelope.room);
    }
    if envelope.r#ref != 0 {
        out.line("ref", envelope.r#ref);
    }
    for (name, value) in &envelope.headers {
        out.line("header", format_args!("{name:?}: {value:?}"));
    }
    if let Some(body) = &envelope.body {
        out.body(body);
    }
    if !envelope.payload.is_empty() {
        out.payload(&envelope.payload);
    }
    out.0
}

struct Lines(String);

impl Lines {
    fn line(&mut self, name: &str, value: impl fmt::Display) {
        let _ = writeln!(self.0, "{name:<24} {value}");
    }

    fn quoted(&mut self, name: &str, value: &str) {
        self.line(name, format_args!("{value:?}"));
    }

    fn payload(&mut self, payload: &[u8]) {
        self.line("payload", format_args!("{} bytes", payload.len()));
        let shown = &payload[..payload.len().min(MAX_PAYLOAD_SHOWN)];
        // A cut may fall inside a character; that one is not shown then.
        match std::str::from_utf8(shown) {
            Ok(text) => self.quoted("  text", text),
            Err(e) if payload.len() > shown.len() && e.error_len().is_none() => {
                self.quoted(
                    "  text",
                    &String::from_utf8_lossy(&shown[..e.valid_up_to()]),
                );
            }
            Err(_) => {
                for chunk in shown.chunks(16) {
                    let hex: Vec<_> = chunk.iter().map(|b| format!("{b:02x}")).collect();
                    self.line("  hex", hex.join(" "));
                }
            }
        }
        if payload.len() > shown.len() {
            self.line("", "… cut here");
        }
    }

    fn body(&mut self, body: &Body) {
        match body {
            Body::Join(b) => {
                if let Some(echo) = b.echo {
                    self.line("join.echo", echo);
                }
                self.presence_mode("join.presence", b.presence);
                self.map("join.meta", &b.meta);
            }
            Body::Publish(b) => self.line("publish.ack", b.ack),
            Body::PresenceGet(b) => self.line("presence_get.count_only", b.count_only),
            Body::PresenceSet(b) => self.map("presence_set.meta", &b.meta),
            Body::Refresh(b) => {
                self.line(
                    "refresh.token",
                    format_args!("{} bytes, not shown", b.token.len()),
                );
            }
            Body::Welcome(b) => self.welcome(b),
            Body::Joined(b) => {
                self.line("joined.echo", b.echo);
                self.presence_mode("joined.presence", b.presence);
            }
            Body::Left(b) if b.code == 0 => self.line("left", "by request"),
            Body::Left(b) => {
                self.line("left", format_args!("{} {}", b.code, b.name.escape_debug()))
            }
            Body::Ack(b) => self.quoted("ack.twist_id", &b.twist_id),
            Body::Error(b) => {
                self.line(
                    "error",
                    format_args!("{} {}", b.code, b.name.escape_debug()),
                );
                self.quoted("error.message", &b.message);
                self.line("error.retryable", b.retryable);
                if b.retry_after_ms != 0 {
                    self.line("error.retry_after_ms", b.retry_after_ms);
                }
                if !b.policy.is_empty() {
                    self.quoted("error.policy", &b.policy);
                    self.quoted("error.reason", &b.reason);
                }
            }
            Body::Message(b) => {
                if let Some(sender) = &b.sender {
                    self.quoted("sender.user", &sender.user);
                    self.quoted("sender.session", &sender.session);
                }
            }
            Body::Gap(b) => {
                match GapReason::try_from(b.reason) {
                    Ok(reason) => {
                        self.line("gap.reason", short(reason.as_str_name(), "GAP_REASON_"))
                    }
                    Err(_) => self.line("gap.reason", b.reason),
                }
                match b.missed {
                    Some(missed) => self.line("gap.missed", missed),
                    None => self.line("gap.missed", "not known"),
                }
            }
            Body::PresenceState(b) => {
                self.members("presence_state", &b.members);
                self.line("presence_state.count", b.count);
                self.line("presence_state.last_page", b.last_page);
                self.line("presence_state.truncated", b.truncated);
            }
            Body::PresenceUpdate(b) => {
                self.members("presence_update", &b.members);
                self.line("presence_update.count", b.count);
            }
            Body::PresenceLeave(b) => {
                for user in &b.users {
                    self.quoted("presence_leave.user", user);
                }
                self.line("presence_leave.count", b.count);
            }
            Body::PresenceCount(b) => self.line("presence_count.count", b.count),
            Body::TokenExpiring(b) => self.line("token_expiring.expires_at", b.expires_at),
            Body::Refreshed(b) => self.line("refreshed.expires_at", b.expires_at),
            Body::Goaway(b) => {
                self.line("goaway.retry_after_ms", b.retry_after_ms);
                self.line("goaway.spread_ms", b.spread_ms);
                self.line("goaway.deadline_ms", b.deadline_ms);
            }
        }
    }

    fn welcome(&mut self, b: &crate::v1::Welcome) {
        self.quoted("welcome.session_id", &b.session_id);
        self.quoted("welcome.user", &b.user);
        self.quoted("welcome.tenant", &b.tenant);
        self.line("welcome.protocol_version", b.protocol_version);
        if let Some(limits) = &b.limits {
            self.line("limits.max_payload_bytes", limits.max_payload_bytes);
            self.line("limits.max_frame_bytes", limits.max_frame_bytes);
            self.line("limits.max_rooms", limits.max_rooms);
            self.line("limits.max_headers", limits.max_headers);
            self.line("limits.max_header_bytes", limits.max_header_bytes);
        }
        self.line("welcome.heartbeat_secs", b.heartbeat_secs);
        self.line("welcome.server_time_ms", b.server_time_ms);
        self.line("welcome.token_expires_at", b.token_expires_at);
        for feature in &b.features {
            self.quoted("welcome.feature", feature);
        }
        self.quoted("welcome.shield_id", &b.shield_id);
    }

    fn presence_mode(&mut self, name: &str, mode: i32) {
        match PresenceMode::try_from(mode) {
            Ok(mode) => self.line(name, short(mode.as_str_name(), "PRESENCE_MODE_")),
            Err(_) => self.line(name, mode),
        }
    }

    fn members(&mut self, name: &str, members: &[PresenceMember]) {
        for member in members {
            self.quoted(&format!("{name}.user"), &member.user);
            for session in &member.sessions {
                self.quoted("  session", &session.session);
                self.line("  joined_at_ms", session.joined_at_ms);
                self.line("  last_active_at_ms", session.last_active_at_ms);
                self.map("  meta", &session.meta);
            }
        }
    }

    fn map(&mut self, name: &str, map: &std::collections::BTreeMap<String, String>) {
        for (key, value) in map {
            self.line(name, format_args!("{key:?}: {value:?}"));
        }
    }
}

fn short<'a>(value: &'a str, prefix: &str) -> &'a str {
    value.strip_prefix(prefix).unwrap_or(value)
}
