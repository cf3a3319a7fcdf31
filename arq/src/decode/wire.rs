//! What Shield and Brain tell each other, as JSON.

use arqon_proto::v1::presence_change::Change;
use arqon_proto::v1::presence_order::Order;
use arqon_proto::v1::{
    PresenceActive, PresenceAnswer, PresenceChanges, PresenceCoverage, PresenceEntry,
    PresenceEvents, PresenceKey, PresenceOrder, PresencePage, PresenceQuery, PresenceRoomEvent,
    PresenceTrace, PresenceTraceKind,
};
use bytes::Bytes;
use clap::ValueEnum;
use prost::{DecodeError, Message};
use serde_json::{Value, json};

use crate::frame_json::members;

/// What the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A frame between client and Shield, or a message of a room
    Envelope,
    /// What a Brain tells of a tenant's rooms, on `<tenant>._presence.events`
    Events,
    /// What a Brain tells one Shield, on `<tenant>._presence.shield.<shield>`
    Order,
    /// Changes of a Shield's sessions, on `_arq.presence.change`
    Changes,
    /// A page of a Shield's snapshot, on `_arq.presence.page.<brain>`
    Page,
    /// A Shield's question, on `_arq.presence.query`
    Query,
}

impl Kind {
    /// The kind of what travels on a subject, in the tenant's account or in BRAIN.
    pub(crate) fn of_subject(subject: &str) -> Self {
        let tokens: Vec<&str> = subject.split('.').collect();
        match tokens[..] {
            [_, "_presence", "events"] | ["presence-events", _, "events"] => Self::Events,
            [_, "_presence", "shield", _] | ["presence-events", _, "shield", _] => Self::Order,
            ["_arq", "presence", "change"] | ["presence", _, "change"] => Self::Changes,
            ["_arq", "presence", "page", _] | ["presence", _, "page", _] => Self::Page,
            ["_arq", "presence", "query"] | ["presence", _, "query"] => Self::Query,
            _ => Self::Envelope,
        }
    }

    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Envelope => "Envelope",
            Self::Events => "PresenceEvents",
            Self::Order => "PresenceOrder",
            Self::Changes => "PresenceChanges",
            Self::Page => "PresencePage",
            Self::Query => "PresenceQuery",
        }
    }

    /// The fields; None for an Envelope, which has a form of its own.
    pub(crate) fn json(self, bytes: Bytes) -> Option<Result<Value, DecodeError>> {
        Some(match self {
            Self::Envelope => return None,
            Self::Events => PresenceEvents::decode(bytes).map(|it| events(&it)),
            Self::Order => PresenceOrder::decode(bytes).map(order),
            Self::Changes => PresenceChanges::decode(bytes).map(|it| changes(&it)),
            Self::Page => PresencePage::decode(bytes).map(|it| page(&it)),
            Self::Query => PresenceQuery::decode(bytes).map(|it| query(&it)),
        })
    }
}

/// Digests and incarnations are told apart by sight in this form, and JSON has no such numbers.
fn hex(number: u64) -> Value {
    json!(format!("{number:016x}"))
}

fn key(key: Option<&PresenceKey>) -> Value {
    let Some(key) = key else { return Value::Null };
    let session: String = match uuid::Uuid::from_slice(&key.session) {
        Ok(session) => session.to_string(),
        Err(_) => key
            .session
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    };
    json!({"room": key.room, "user": key.user, "session": session})
}

fn entry(entry: &PresenceEntry) -> Value {
    json!({
        "key": key(entry.key.as_ref()),
        "seq": entry.seq,
        "meta": entry.meta.as_ref().map(|map| &map.meta),
        "joined_at_ms": entry.joined_at_ms,
        "last_active_at_ms": entry.last_active_at_ms,
    })
}

fn changes(told: &PresenceChanges) -> Value {
    let changes = told.changes.iter().map(|change| match &change.change {
        Some(Change::Put(put)) => json!({"put": entry(put)}),
        Some(Change::Remove(gone)) => json!({"remove": key(Some(gone))}),
        None => Value::Null,
    });
    let active = told.active.iter().map(
        |PresenceActive {
             key: which, at_ms, ..
         }| json!({"key": key(which.as_ref()), "at_ms": at_ms}),
    );
    json!({
        "shield": told.shield,
        "epoch": hex(told.epoch),
        "first_seq": told.first_seq,
        "changes": changes.collect::<Vec<_>>(),
        "active": active.collect::<Vec<_>>(),
        "traces": traces(&told.traces),
    })
}

fn page(page: &PresencePage) -> Value {
    json!({
        "shield": page.shield,
        "epoch": hex(page.epoch),
        "seq": page.seq,
        "request": hex(page.request),
        "number": page.number,
        "last": page.last,
        "entries": page.entries.iter().map(entry).collect::<Vec<_>>(),
    })
}

fn query(query: &PresenceQuery) -> Value {
    json!({
        "shield": query.shield,
        "epoch": hex(query.epoch),
        "id": hex(query.id),
        "room": query.room,
        "count_only": query.count_only,
        "after_seq": query.after_seq,
    })
}

fn coverage(coverage: &[PresenceCoverage]) -> Value {
    coverage
        .iter()
        .map(|one| json!({"epoch": hex(one.epoch), "seq": one.seq}))
        .collect()
}

fn order(order: PresenceOrder) -> Value {
    match order.order {
        Some(Order::Sync(sync)) => json!({"sync": {
            "brain": sync.brain,
            "epoch": hex(sync.epoch),
            "request": hex(sync.request),
        }}),
        Some(Order::Answer(answer)) => json!({"answer": self::answer(&answer)}),
        None => json!({}),
    }
}

fn answer(answer: &PresenceAnswer) -> Value {
    json!({
        "id": hex(answer.id),
        "room": answer.room,
        "number": answer.number,
        "last": answer.last,
        "digest": hex(answer.digest),
        "coverage": coverage(&answer.coverage),
        "count": answer.count,
        "truncated": answer.truncated,
        "members": members(&answer.members),
    })
}

fn room_event(event: &PresenceRoomEvent) -> Value {
    json!({
        "room": event.room,
        "before": hex(event.before),
        "after": hex(event.after),
        "count": event.count,
        "truncated": event.truncated,
        "members": members(&event.members),
        "left": event.left,
    })
}

fn events(events: &PresenceEvents) -> Value {
    let range = events.range.as_ref().map(|range| {
        let rooms = range.rooms.iter().map(
            |room| json!({"room": room.room, "digest": hex(room.digest), "count": room.count}),
        );
        json!({"from": range.from, "to": range.to, "rooms": rooms.collect::<Vec<_>>()})
    });
    json!({
        "brain": events.brain,
        "coverage": coverage(&events.coverage),
        "gone": events.gone.iter().map(|epoch| hex(*epoch)).collect::<Vec<_>>(),
        "rooms": events.rooms.iter().map(room_event).collect::<Vec<_>>(),
        "range": range,
        "traces": traces(&events.traces),
    })
}

fn traces(traces: &[PresenceTrace]) -> Value {
    traces
        .iter()
        .map(|trace| {
            let kind = match PresenceTraceKind::try_from(trace.kind) {
                Ok(kind) => json!(
                    kind.as_str_name()
                        .trim_start_matches("PRESENCE_TRACE_KIND_")
                        .to_ascii_lowercase()
                ),
                Err(_) => json!(trace.kind),
            };
            json!({"room": trace.room, "traceparent": trace.traceparent, "kind": kind})
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_subject_tells_what_travels_on_it() {
        for (subject, kind) in [
            ("acme.lobby", Kind::Envelope),
            ("acme._presence.events", Kind::Events),
            ("acme._presence.shield.shield-1", Kind::Order),
            ("_arq.presence.change", Kind::Changes),
            ("presence.AABB.page.brain-1", Kind::Page),
            ("presence.AABB.query", Kind::Query),
            ("presence-events.AABB.events", Kind::Events),
        ] {
            assert_eq!(Kind::of_subject(subject), kind, "{subject}");
        }
    }

    #[test]
    fn a_change_shows_who_came_and_who_left() {
        let session = Bytes::copy_from_slice(uuid::Uuid::nil().as_bytes());
        let key = PresenceKey {
            room: "lobby".to_owned(),
            session,
            user: "alice".to_owned(),
        };
        let put = PresenceEntry {
            key: Some(key.clone()),
            seq: 7,
            ..PresenceEntry::default()
        };
        let told = PresenceChanges {
            shield: "shield-1".to_owned(),
            epoch: 255,
            first_seq: 7,
            changes: [Change::Put(put), Change::Remove(key)]
                .map(|change| arqon_proto::v1::PresenceChange {
                    change: Some(change),
                })
                .to_vec(),
            traces: vec![PresenceTrace {
                room: "lobby".to_owned(),
                traceparent: "00-1-2-01".to_owned(),
                kind: PresenceTraceKind::Activity.into(),
            }],
            ..PresenceChanges::default()
        };
        let bytes = Bytes::from(told.encode_to_vec());
        let shown = Kind::Changes.json(bytes.clone()).unwrap().unwrap();
        assert_eq!(shown["epoch"], "00000000000000ff");
        assert_eq!(shown["changes"][0]["put"]["key"]["user"], "alice");
        assert_eq!(
            shown["changes"][1]["remove"]["session"],
            "00000000-0000-0000-0000-000000000000"
        );
        assert_eq!(
            shown["traces"][0],
            json!({"room": "lobby", "traceparent": "00-1-2-01", "kind": "activity"})
        );
        assert!(
            Kind::Events
                .json(Bytes::from_static(b"\xff"))
                .unwrap()
                .is_err()
        );
        assert!(Kind::Envelope.json(bytes).is_none());
    }
}
