//! An Envelope as JSON: what `--json` prints of frames.

use arqon_proto::v1::envelope::Body;
use arqon_proto::v1::{Envelope, GapReason, Opcode, PresenceMember, PresenceMode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// The whole frame, field by field.
pub(crate) fn envelope(frame: &Envelope) -> Value {
    let mut object = Map::new();
    object.insert("op".to_owned(), opcode(frame.op));
    object.insert("room".to_owned(), json!(frame.room));
    object.insert("ref".to_owned(), json!(frame.r#ref));
    object.insert("headers".to_owned(), json!(frame.headers));
    payload(&mut object, &frame.payload);
    if let Some(body) = &frame.body {
        let (name, value) = body_json(body);
        object.insert(name.to_owned(), value);
    }
    Value::Object(object)
}

/// A frame of a subscription: what a reader of messages wants, flat.
pub(crate) fn message(frame: &Envelope) -> Value {
    let mut object = Map::new();
    object.insert("op".to_owned(), opcode(frame.op));
    object.insert("room".to_owned(), json!(frame.room));
    match &frame.body {
        Some(Body::Message(message)) => {
            let sender = message.sender.clone().unwrap_or_default();
            object.insert("user".to_owned(), json!(sender.user));
            object.insert("session".to_owned(), json!(sender.session));
        }
        Some(body) => {
            let (name, value) = body_json(body);
            object.insert(name.to_owned(), value);
        }
        None => {}
    }
    object.insert("headers".to_owned(), json!(frame.headers));
    payload(&mut object, &frame.payload);
    Value::Object(object)
}

/// Text as `payload`; bytes that are no UTF-8 as `payload_base64`.
fn payload(object: &mut Map<String, Value>, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert("payload".to_owned(), json!(text)),
        Err(_) => object.insert("payload_base64".to_owned(), json!(STANDARD.encode(bytes))),
    };
}

fn opcode(number: i32) -> Value {
    match Opcode::try_from(number) {
        Ok(op) => json!(op.as_str_name().trim_start_matches("OPCODE_")),
        Err(_) => json!(number),
    }
}

fn presence_mode(number: i32) -> Value {
    match PresenceMode::try_from(number) {
        Ok(mode) => json!(
            mode.as_str_name()
                .trim_start_matches("PRESENCE_MODE_")
                .to_ascii_lowercase()
        ),
        Err(_) => json!(number),
    }
}

/// How many sessions a member has; fewer may be listed.
pub(crate) fn session_count(member: &PresenceMember) -> u32 {
    let listed = u32::try_from(member.sessions.len()).unwrap_or(u32::MAX);
    member.session_count.max(listed)
}

pub(crate) fn members(members: &[PresenceMember]) -> Value {
    members
        .iter()
        .map(|member| {
            let sessions: Vec<Value> = member
                .sessions
                .iter()
                .map(|session| {
                    json!({
                        "session": session.session,
                        "meta": session.meta,
                        "joined_at_ms": session.joined_at_ms,
                        "last_active_at_ms": session.last_active_at_ms,
                    })
                })
                .collect();
            json!({
                "user": member.user,
                "session_count": session_count(member),
                "sessions": sessions,
            })
        })
        .collect()
}

fn body_json(body: &Body) -> (&'static str, Value) {
    match body {
        Body::Join(join) => (
            "join",
            json!({"echo": join.echo, "presence": presence_mode(join.presence), "meta": join.meta}),
        ),
        Body::Publish(publish) => ("publish", json!({"ack": publish.ack})),
        Body::PresenceGet(get) => ("presence_get", json!({"count_only": get.count_only})),
        Body::PresenceSet(set) => ("presence_set", json!({"meta": set.meta})),
        // A token is a secret, also in what is printed for debugging.
        Body::Refresh(refresh) => ("refresh", json!({"token_bytes": refresh.token.len()})),
        Body::Welcome(welcome) => {
            let limits = welcome.limits.unwrap_or_default();
            (
                "welcome",
                json!({
                    "session_id": welcome.session_id,
                    "user": welcome.user,
                    "tenant": welcome.tenant,
                    "protocol_version": welcome.protocol_version,
                    "limits": {
                        "max_payload_bytes": limits.max_payload_bytes,
                        "max_frame_bytes": limits.max_frame_bytes,
                        "max_rooms": limits.max_rooms,
                        "max_headers": limits.max_headers,
                        "max_header_bytes": limits.max_header_bytes,
                    },
                    "heartbeat_secs": welcome.heartbeat_secs,
                    "server_time_ms": welcome.server_time_ms,
                    "token_expires_at": welcome.token_expires_at,
                    "features": welcome.features,
                    "shield_id": welcome.shield_id,
                }),
            )
        }
        Body::Joined(joined) => (
            "joined",
            json!({"echo": joined.echo, "presence": presence_mode(joined.presence)}),
        ),
        Body::Left(left) => ("left", json!({"code": left.code, "name": left.name})),
        Body::Ack(ack) => ("ack", json!({"twist_id": ack.twist_id})),
        Body::Error(error) => (
            "error",
            json!({
                "code": error.code,
                "name": error.name,
                "message": error.message,
                "retryable": error.retryable,
                "retry_after_ms": error.retry_after_ms,
                "policy": error.policy,
                "reason": error.reason,
            }),
        ),
        Body::Message(message) => {
            let sender = message.sender.clone().unwrap_or_default();
            (
                "message",
                json!({"sender": {"user": sender.user, "session": sender.session}}),
            )
        }
        Body::Gap(gap) => {
            let reason = GapReason::try_from(gap.reason).map_or_else(
                |_| gap.reason.to_string(),
                |reason| {
                    reason
                        .as_str_name()
                        .trim_start_matches("GAP_REASON_")
                        .to_owned()
                },
            );
            ("gap", json!({"reason": reason, "missed": gap.missed}))
        }
        Body::PresenceState(state) => (
            "presence_state",
            json!({
                "members": members(&state.members),
                "count": state.count,
                "last_page": state.last_page,
                "truncated": state.truncated,
            }),
        ),
        Body::PresenceUpdate(update) => (
            "presence_update",
            json!({"members": members(&update.members), "count": update.count}),
        ),
        Body::PresenceLeave(leave) => (
            "presence_leave",
            json!({"users": leave.users, "count": leave.count}),
        ),
        Body::PresenceCount(count) => ("presence_count", json!({"count": count.count})),
        Body::TokenExpiring(expiring) => {
            ("token_expiring", json!({"expires_at": expiring.expires_at}))
        }
        Body::Refreshed(refreshed) => ("refreshed", json!({"expires_at": refreshed.expires_at})),
        Body::Goaway(goaway) => (
            "goaway",
            json!({
                "retry_after_ms": goaway.retry_after_ms,
                "spread_ms": goaway.spread_ms,
                "deadline_ms": goaway.deadline_ms,
            }),
        ),
    }
}
