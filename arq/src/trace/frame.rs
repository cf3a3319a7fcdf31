//! A message of NATS read as what Shield publishes: pure.

use std::collections::BTreeMap;

use arqon_proto::headers::{
    NATS_BEACON, NATS_ORIGIN, TRACEPARENT, X_TIMESTAMP, X_TWIST_ID, reserved,
};
use arqon_proto::names::{RoomId, TenantId, parse_room_subject};
use arqon_proto::v1::envelope::Body;
use arqon_proto::v1::{Envelope, Opcode};
use arqon_spine::nats::{self, HeaderMap};
use bytes::Bytes;
use prost::Message as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Where a message stands among those that one Shield published to one room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// One run of numbering, by chance: another for each room, and for each time a Shield begins
    /// anew. It is not the incarnation that a Shield's beats tell.
    pub(super) run: u64,
    /// The number, from 1.
    pub(super) seq: u64,
}

/// What came on the subject of a room.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) room: RoomId,
    /// When it came, by the clock of this host.
    pub(super) received: OffsetDateTime,
    /// None: no Shield published it, and none delivers it.
    pub(super) origin: Option<Origin>,
    pub(super) kind: Kind,
}

/// What it is.
#[derive(Debug)]
pub(super) enum Kind {
    /// A message.
    Message(Box<Message>),
    /// No message: the number of the last one.
    Beacon(Origin),
    /// Nothing that belongs there: why, and the bytes.
    Malformed(String, Bytes),
}

/// A message, in the words of this command.
#[derive(Debug)]
pub(super) struct Message {
    /// When Shield took it, as it says.
    pub(super) timestamp: String,
    pub(super) user: String,
    pub(super) session: String,
    pub(super) twist_id: String,
    pub(super) traceparent: Option<String>,
    /// Microseconds from Shield's time-stamp until it came here; negative where the clocks of the
    /// two hosts differ by more than it took.
    pub(super) latency_us: Option<i64>,
    /// The application's.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) payload: Bytes,
}

// === impl Frame ===

impl Frame {
    /// Reads what came; None if its subject is no room of the tenant.
    pub(super) fn read(
        message: nats::Message,
        tenant: &TenantId,
        received: OffsetDateTime,
    ) -> Option<Self> {
        let (of, room) = parse_room_subject(message.subject.as_str()).ok()?;
        if of != *tenant {
            return None;
        }
        let headers = message.headers.unwrap_or_default();
        let origin = value(&headers, NATS_ORIGIN).and_then(Origin::parse);
        let beacon = value(&headers, NATS_BEACON).and_then(Origin::parse);
        let kind = match beacon {
            Some(last) if origin.is_none() && message.payload.is_empty() => Kind::Beacon(last),
            _ => {
                let trace = value(&headers, TRACEPARENT);
                match read_envelope(&room, message.payload.clone(), trace, received) {
                    Ok(message) => Kind::Message(Box::new(message)),
                    Err(problem) => Kind::Malformed(problem, message.payload),
                }
            }
        };
        Some(Self {
            room,
            received,
            origin,
            kind,
        })
    }
}

fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(nats::HeaderValue::as_str)
}

fn read_envelope(
    room: &RoomId,
    bytes: Bytes,
    trace: Option<&str>,
    received: OffsetDateTime,
) -> Result<Message, String> {
    let envelope = Envelope::decode(bytes).map_err(|error| format!("no Envelope: {error}"))?;
    let Some(Body::Message(message)) = envelope.body else {
        let op = Opcode::try_from(envelope.op).map_or_else(
            |_| envelope.op.to_string(),
            |op| op.as_str_name().trim_start_matches("OPCODE_").to_owned(),
        );
        return Err(format!("no MESSAGE, but {op}"));
    };
    if envelope.room != room.as_str() {
        return Err(format!("its Envelope is of room `{}`", envelope.room));
    }
    let Some(sender) = message.sender else {
        return Err("a MESSAGE without a sender".to_owned());
    };
    let mut headers: BTreeMap<String, String> = envelope.headers;
    let mut own = |name: &str| headers.remove(name);
    let timestamp = own(X_TIMESTAMP).unwrap_or_default();
    let twist_id = own(X_TWIST_ID).unwrap_or_default();
    // The sender's context; where it has none, that of a trace Shield began.
    let traceparent = own(TRACEPARENT).or_else(|| trace.map(str::to_owned));
    headers.retain(|name, _| !reserved(name));
    Ok(Message {
        latency_us: latency(&timestamp, received),
        timestamp,
        user: sender.user,
        session: sender.session,
        twist_id,
        traceparent,
        headers,
        payload: envelope.payload,
    })
}

fn latency(timestamp: &str, received: OffsetDateTime) -> Option<i64> {
    let sent = OffsetDateTime::parse(timestamp, &Rfc3339).ok()?;
    i64::try_from((received - sent).whole_microseconds()).ok()
}

// === impl Message ===

impl Message {
    /// The trace's id, as tracing tools ask for it.
    pub(super) fn trace_id(&self) -> Option<&str> {
        let mut parts = self.traceparent.as_deref()?.split('-');
        parts.nth(1).filter(|id| id.len() == 32)
    }
}

// === impl Origin ===

impl Origin {
    /// Reads `<run> <seq>`; what follows is of no interest here.
    fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split(' ');
        let (run, seq) = (parts.next()?, parts.next()?);
        if run.len() != 16 {
            return None;
        }
        Some(Self {
            run: u64::from_str_radix(run, 16).ok()?,
            seq: seq.parse().ok()?,
        })
    }

    /// The run as the header has it.
    pub(super) fn run_hex(self) -> String {
        format!("{:016x}", self.run)
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use arqon_proto::v1::{self, Sender};

    use super::*;

    /// A message as Shield publishes it, 1.5 ms before it comes here.
    pub(in crate::trace) fn published(payload: &'static [u8]) -> nats::Message {
        let headers = [
            (X_TIMESTAMP, "2026-05-28T20:26:40.000001Z"),
            (X_TWIST_ID, "01997d0c-8c00-7000-8000-00000000abcd"),
            (
                TRACEPARENT,
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ),
            ("content-type", "text/plain"),
        ];
        let envelope = Envelope {
            op: Opcode::Message.into(),
            room: "lobby".to_owned(),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            payload: Bytes::from_static(payload),
            body: Some(Body::Message(v1::Message {
                sender: Some(Sender {
                    user: "alice".to_owned(),
                    session: "01997d0c-8c00-7000-8000-00009c0d1e2f".to_owned(),
                }),
            })),
            ..Envelope::default()
        };
        let headers = [(NATS_ORIGIN, "00000000000000ff 42 1780000000000001")];
        nats("acme.lobby", &headers, envelope.encode_to_vec())
    }

    pub(in crate::trace) fn nats(
        subject: &str,
        headers: &[(&str, &str)],
        payload: Vec<u8>,
    ) -> nats::Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        nats::Message {
            subject: subject.into(),
            reply: None,
            length: payload.len(),
            payload: payload.into(),
            headers: Some(map),
            status: None,
            description: None,
        }
    }

    pub(in crate::trace) fn read(message: nats::Message) -> Option<Frame> {
        let received = OffsetDateTime::parse("2026-05-28T20:26:40.001501Z", &Rfc3339).unwrap();
        Frame::read(message, &TenantId::parse("acme").unwrap(), received)
    }

    #[test]
    fn a_message_is_read_with_all_that_tells_its_way() {
        let frame = read(published(b"hello")).unwrap();
        let origin = Origin { run: 255, seq: 42 };
        assert_eq!((frame.room.as_str(), frame.origin), ("lobby", Some(origin)));
        let Kind::Message(message) = frame.kind else {
            panic!()
        };
        assert_eq!(message.user, "alice");
        assert_eq!(message.latency_us, Some(1_500));
        assert_eq!(message.trace_id(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(message.headers.len(), 1, "{:?}", message.headers);
        assert_eq!(&message.payload[..], b"hello");
    }

    #[test]
    fn what_is_no_message_is_said_to_be_none() {
        let problem = |bytes: Vec<u8>| match read(nats("acme.lobby", &[], bytes)).unwrap().kind {
            Kind::Malformed(problem, _) => problem,
            other => panic!("{other:?}"),
        };
        assert!(problem(vec![0xff]).starts_with("no Envelope: "));
        let mut envelope = Envelope {
            op: Opcode::Ping.into(),
            ..Envelope::default()
        };
        assert_eq!(problem(envelope.encode_to_vec()), "no MESSAGE, but PING");
        assert_eq!(problem(Vec::new()), "no MESSAGE, but UNSPECIFIED");
        envelope.body = Some(Body::Message(v1::Message { sender: None }));
        envelope.room = "other".to_owned();
        assert_eq!(
            problem(envelope.encode_to_vec()),
            "its Envelope is of room `other`"
        );
        envelope.room = "lobby".to_owned();
        assert_eq!(
            problem(envelope.encode_to_vec()),
            "a MESSAGE without a sender"
        );
    }

    #[test]
    fn a_beacon_is_no_message_and_other_subjects_are_no_rooms() {
        let beacon = [(NATS_BEACON, "00000000000000ff 42")];
        let frame = read(nats("acme.lobby", &beacon, Vec::new())).unwrap();
        assert!(matches!(frame.kind, Kind::Beacon(Origin { seq: 42, .. })));
        for subject in ["acme._presence.events", "globex.lobby", "acme", "_INBOX.x"] {
            assert!(read(nats(subject, &[], Vec::new())).is_none(), "{subject}");
        }
    }

    #[test]
    fn an_origin_is_what_shields_write() {
        for (text, seq) in [
            ("00000000000000ff 1", Some(1)),
            ("00000000000000ff 1 1780000000000001", Some(1)),
            ("ff 1", None),
            ("00000000000000ff", None),
            ("00000000000000ff x", None),
            ("", None),
        ] {
            assert_eq!(
                Origin::parse(text).map(|origin| origin.seq),
                seq,
                "{text:?}"
            );
        }
    }
}
