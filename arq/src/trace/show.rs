//! What was seen as text for people and as JSON for programs: pure.

use arqon_proto::headers::timestamp;
use arqon_proto::v1::PresenceRoomEvent;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::frame::{Frame, Kind, Message};
use crate::duration::micros;
use crate::output::{Output, Paint, counted, escaped};
use crate::size::words;

/// What of a message is shown beside its metadata.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// At most so many bytes of the payload.
    pub(super) payload: Option<usize>,
    /// The application's headers.
    pub(super) headers: bool,
}

/// A frame as lines: one, and one more for each thing that was asked for. None for a beacon.
pub(super) fn text(frame: &Frame, shape: Shape, output: &Output) -> Option<String> {
    let mut lines = match &frame.kind {
        Kind::Beacon(_) => return None,
        Kind::Message(message) => {
            let mut lines = vec![line(frame, message, output)];
            if shape.headers {
                let headers = message.headers.iter();
                lines.extend(headers.map(|(name, value)| {
                    format!("    header {}: {}", escaped(name), escaped(value))
                }));
            }
            if let Some(most) = shape.payload {
                lines.push(format!(
                    "    payload {}",
                    payload_text(&message.payload, most)
                ));
            }
            lines
        }
        Kind::Malformed(problem, bytes) => {
            let line = format!(
                "{} {} {} {}",
                output.paint(Paint::Dim, &time_of_day(&timestamp(frame.received))),
                output.paint(Paint::Bold, frame.room.as_str()),
                output.paint(Paint::Red, &format!("malformed: {}", escaped(problem))),
                words(bytes.len() as u64),
            );
            let mut lines = vec![line];
            if let Some(most) = shape.payload {
                lines.push(format!("    frame {}", payload_text(bytes, most)));
            }
            lines
        }
    };
    if frame.origin.is_none() {
        lines.push(output.paint(
            Paint::Yellow,
            "    not published by a Shield, so no Shield delivers it",
        ));
    }
    Some(lines.join("\n"))
}

fn line(frame: &Frame, message: &Message, output: &Output) -> String {
    let latency = match message.latency_us {
        None => "no X-Timestamp".to_owned(),
        Some(us) if us < 0 => {
            let skew = format!("skew -{}", micros(us.unsigned_abs()));
            output.paint(Paint::Yellow, &skew)
        }
        Some(us) => format!("+{}", micros(us.unsigned_abs())),
    };
    let mut parts = vec![
        output.paint(Paint::Dim, &time_of_day(&message.timestamp)),
        output.paint(Paint::Bold, frame.room.as_str()),
        format!(
            "{}/{}",
            output.paint(Paint::Cyan, &escaped(&message.user)),
            escaped(short(&message.session))
        ),
        words(message.payload.len() as u64),
        counted(message.headers.len(), "header"),
        latency,
        escaped(&message.twist_id),
    ];
    if let Some(origin) = frame.origin {
        parts.push(format!("{}#{}", origin.run_hex(), origin.seq));
    }
    if let Some(id) = message.trace_id() {
        parts.push(format!("trace {}", escaped(id)));
    }
    parts.join(" ")
}

/// A frame as JSON; its fields are stable. None for a beacon.
pub(super) fn json(frame: &Frame, shape: Shape) -> Option<Value> {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("room", json!(frame.room.as_str()));
    put("received", json!(timestamp(frame.received)));
    let origin = frame.origin.as_ref();
    put("run", json!(origin.map(|origin| origin.run_hex())));
    put("seq", json!(origin.map(|origin| origin.seq)));
    match &frame.kind {
        Kind::Beacon(_) => return None,
        Kind::Message(message) => {
            put("kind", json!("message"));
            put("time", json!(message.timestamp));
            put("user", json!(message.user));
            put("session", json!(message.session));
            put("twist_id", json!(message.twist_id));
            put("traceparent", json!(message.traceparent));
            put("trace_id", json!(message.trace_id()));
            put("latency_us", json!(message.latency_us));
            put("payload_bytes", json!(message.payload.len()));
            put("header_count", json!(message.headers.len()));
            if shape.headers {
                put("headers", json!(message.headers));
            }
            if let Some(most) = shape.payload {
                payload_json(&mut object, &message.payload, most);
            }
        }
        Kind::Malformed(problem, bytes) => {
            put("kind", json!("malformed"));
            put("problem", json!(problem));
            put("frame_bytes", json!(bytes.len()));
            if let Some(most) = shape.payload {
                let shown = &bytes[..bytes.len().min(most)];
                put("frame_base64", json!(STANDARD.encode(shown)));
                put("frame_cut", json!(shown.len() < bytes.len()));
            }
        }
    }
    Some(Value::Object(object))
}

/// What changed in a room, as a line.
pub(super) fn presence_text(
    event: &PresenceRoomEvent,
    at: OffsetDateTime,
    output: &Output,
) -> String {
    let users = |users: Vec<&str>, sign: &str| -> String {
        let users = users
            .into_iter()
            .map(|user| format!(" {sign}{}", escaped(user)));
        users.collect()
    };
    let here = event.members.iter().map(|member| member.user.as_str());
    let left = event.left.iter().map(String::as_str);
    format!(
        "{} {} presence: {}{}{}{}",
        output.paint(Paint::Dim, &time_of_day(&timestamp(at))),
        output.paint(Paint::Bold, &escaped(&event.room)),
        counted(event.count as usize, "user"),
        users(here.collect(), "+"),
        users(left.collect(), "-"),
        if event.truncated {
            " (too many to tell who)"
        } else {
            ""
        },
    )
}

/// The same as JSON.
pub(super) fn presence_json(event: &PresenceRoomEvent, at: OffsetDateTime) -> Value {
    let here = event.members.iter().map(|member| member.user.as_str());
    json!({
        "kind": "presence",
        "room": event.room,
        "received": timestamp(at),
        "count": event.count,
        "here": here.collect::<Vec<_>>(),
        "left": event.left,
        "truncated": event.truncated,
    })
}

/// `12:00:01.123456` of `2026-05-28T12:00:01.123456Z`.
fn time_of_day(timestamp: &str) -> String {
    escaped(timestamp.get(11..26).unwrap_or("--:--:--"))
}

/// The end of an id: it begins with the time, which those of one moment share.
fn short(id: &str) -> &str {
    id.len()
        .checked_sub(8)
        .and_then(|start| id.get(start..))
        .unwrap_or(id)
}

/// As text if all of it is, else as hexadecimal digits; at most so many bytes.
fn payload_text(payload: &[u8], most: usize) -> String {
    let (shown, more) = match std::str::from_utf8(payload) {
        Ok(text) => {
            let text = begin(text, most);
            (escaped(text), payload.len() - text.len())
        }
        Err(_) => {
            let shown = &payload[..payload.len().min(most)];
            let hex = format!("hex {}", HEXLOWER.encode(shown));
            (hex, payload.len() - shown.len())
        }
    };
    match more {
        0 => shown,
        more => format!("{shown} … {} more", words(more as u64)),
    }
}

fn payload_json(object: &mut Map<String, Value>, payload: &[u8], most: usize) {
    let shown = match std::str::from_utf8(payload) {
        Ok(text) => {
            let text = begin(text, most);
            object.insert("payload".to_owned(), json!(text));
            text.len()
        }
        Err(_) => {
            let shown = &payload[..payload.len().min(most)];
            let text = json!(STANDARD.encode(shown));
            object.insert("payload_base64".to_owned(), text);
            shown.len()
        }
    };
    object.insert("payload_cut".to_owned(), json!(shown < payload.len()));
}

/// At most so many bytes of a text, and no half letters.
fn begin(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arqon_proto::v1::PresenceMember;

    use super::super::frame::tests::{nats, published, read};
    use super::*;

    const PLAIN: Output = Output {
        json: false,
        colour: false,
        colour_stderr: false,
    };
    const META: Shape = Shape {
        payload: None,
        headers: false,
    };

    fn shown(frame: &Frame, shape: Shape) -> (String, Value) {
        (
            text(frame, shape, &PLAIN).unwrap(),
            json(frame, shape).unwrap(),
        )
    }

    #[test]
    fn a_line_has_the_metadata_and_nothing_else() {
        let (line, object) = shown(&read(published(b"secret")).unwrap(), META);
        insta::assert_snapshot!(line);
        insta::assert_snapshot!(serde_json::to_string_pretty(&object).unwrap());
    }

    #[test]
    fn what_is_asked_for_follows_and_is_cut_and_escaped() {
        let shape = Shape {
            payload: Some(8),
            headers: true,
        };
        let (lines, object) = shown(
            &read(published("a\u{1b}[2J\nä€".as_bytes())).unwrap(),
            shape,
        );
        let lines: Vec<&str> = lines.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "    header content-type: text/plain",
                "    payload a\\u{1b}[2J\\nä … 3 B more"
            ]
        );
        assert_eq!(object["payload"], "a\u{1b}[2J\nä");
        assert_eq!(object["payload_cut"], true);
        assert_eq!(object["headers"]["content-type"], "text/plain");

        let (lines, object) = shown(&read(published(b"\xff\x00\x01")).unwrap(), shape);
        assert!(lines.ends_with("    payload hex ff0001"), "{lines}");
        assert_eq!(object["payload_base64"], "/wAB");
        assert_eq!(object["payload_cut"], false);
    }

    #[test]
    fn a_clock_that_is_ahead_is_told_as_skew() {
        let mut frame = read(published(b"")).unwrap();
        if let Kind::Message(message) = &mut frame.kind {
            message.latency_us = Some(-2_500);
        }
        let (line, object) = shown(&frame, META);
        assert!(line.contains(" skew -2.5ms "), "{line}");
        assert_eq!(object["latency_us"], -2_500);
    }

    #[test]
    fn what_does_not_belong_there_is_shown_as_such() {
        let shape = Shape {
            payload: Some(2),
            ..META
        };
        let (lines, object) = shown(
            &read(nats("acme.lobby", &[], vec![0xff; 3])).unwrap(),
            shape,
        );
        let lines: Vec<&str> = lines.lines().collect();
        assert!(
            lines[0].contains(" lobby malformed: no Envelope: "),
            "{lines:?}"
        );
        assert_eq!(lines[1], "    frame hex ffff … 1 B more");
        assert!(lines[2].contains("not published by a Shield"), "{lines:?}");
        assert_eq!(
            (&object["kind"], &object["seq"]),
            (&json!("malformed"), &Value::Null)
        );
        assert_eq!(object["frame_cut"], true);
    }

    #[test]
    fn presence_tells_who_is_here_and_who_left() {
        let event = PresenceRoomEvent {
            room: "lobby".to_owned(),
            count: 3,
            members: vec![PresenceMember {
                user: "alice".to_owned(),
                ..PresenceMember::default()
            }],
            left: vec!["bob".to_owned()],
            ..PresenceRoomEvent::default()
        };
        assert_eq!(
            presence_text(&event, OffsetDateTime::UNIX_EPOCH, &PLAIN),
            "00:00:00.000000 lobby presence: 3 users +alice -bob"
        );
        let object = presence_json(&event, OffsetDateTime::UNIX_EPOCH);
        assert_eq!(object["here"], json!(["alice"]));
    }
}
