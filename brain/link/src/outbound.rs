//! From commands to messages of BRAIN, none larger than it should be.

use std::collections::HashMap;

use arqon_proto::names::NodeId;
use arqon_proto::v1;
use arqon_spine::subjects;
use bytes::Bytes;
use prost::Message as _;
use prost::encoding::encoded_len_varint;

use crate::inbound::MAX_TRACES;
use v1::presence_order::Order;

/// Bytes of one message, unless one room or one member alone is larger.
pub const MAX_MESSAGE: usize = 256 * 1024;

/// Bytes of a message's frame that are not counted one by one.
const SLACK: usize = 64;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its subject.
    pub subject: String,
    /// Its body.
    pub payload: Bytes,
}

/// An order to one Shield. An answer becomes pages, one at least; of a member
/// that no message can hold (`max_payload`) fewer sessions are told.
#[must_use]
pub fn order(account: &str, shield: &NodeId, order: Order, max_payload: usize) -> Vec<Outgoing> {
    let subject = subjects::brain_orders(account, shield);
    let orders = match order {
        Order::Sync(sync) => vec![Order::Sync(sync)],
        Order::Answer(answer) => pages(answer, max_payload)
            .into_iter()
            .map(Order::Answer)
            .collect(),
    };
    let message = |order| Outgoing {
        subject: subject.clone(),
        payload: v1::PresenceOrder { order: Some(order) }
            .encode_to_vec()
            .into(),
    };
    orders.into_iter().map(message).collect()
}

/// What changed in rooms, or their digests: split by room, each message with
/// the whole coverage and the traces of its rooms. A room that no message can
/// hold is told by its count.
#[must_use]
pub fn events(account: &str, mut events: v1::PresenceEvents, max_payload: usize) -> Vec<Outgoing> {
    let rooms = std::mem::take(&mut events.rooms);
    let range = events.range.take();
    let mut traces: HashMap<String, Vec<v1::PresenceTrace>> = HashMap::new();
    for trace in events.traces.drain(..).take(MAX_TRACES) {
        traces.entry(trace.room.clone()).or_default().push(trace);
    }
    let base = events.encoded_len() + SLACK;
    let most = max_payload.saturating_sub(base);
    let rooms = rooms.into_iter().map(|mut room| {
        if framed(room.encoded_len()) > most {
            room.members.clear();
            room.left.clear();
            room.truncated = true;
        }
        let mut traces = traces.remove(&room.room).unwrap_or_default();
        // Presence goes before: a trace that finds no place ends here.
        if framed(room.encoded_len()) + traces_len(&traces) > most {
            traces.clear();
        }
        (room, traces)
    });
    let len = |(room, traces): &(v1::PresenceRoomEvent, Vec<v1::PresenceTrace>)| {
        framed(room.encoded_len()) + traces_len(traces)
    };
    let mut told: Vec<v1::PresenceEvents> = chunks(rooms, base, len)
        .into_iter()
        .map(|rooms| {
            let (rooms, traces): (_, Vec<_>) = rooms.into_iter().unzip();
            v1::PresenceEvents {
                rooms,
                traces: traces.into_iter().flatten().collect(),
                ..events.clone()
            }
        })
        .collect();
    for range in range.into_iter().flat_map(|range| ranges(range, base)) {
        told.push(v1::PresenceEvents {
            range: Some(range),
            ..events.clone()
        });
    }
    if told.is_empty() {
        told.push(events);
    }
    let subject = subjects::brain_events(account);
    let message = |events: v1::PresenceEvents| Outgoing {
        subject: subject.clone(),
        payload: events.encode_to_vec().into(),
    };
    told.into_iter().map(message).collect()
}

fn traces_len(traces: &[v1::PresenceTrace]) -> usize {
    traces.iter().map(|trace| framed(trace.encoded_len())).sum()
}

fn pages(mut answer: v1::PresenceAnswer, max_payload: usize) -> Vec<v1::PresenceAnswer> {
    let members = std::mem::take(&mut answer.members);
    let base = answer.encoded_len() + SLACK;
    let most = max_payload.saturating_sub(base);
    let members = members.into_iter().map(|mut member| {
        while framed(member.encoded_len()) > most && member.sessions.pop().is_some() {}
        member
    });
    let mut chunks = chunks(members, base, |member| framed(member.encoded_len()));
    if chunks.is_empty() {
        chunks.push(Vec::new());
    }
    let last = chunks.len() - 1;
    let page = |(number, members)| v1::PresenceAnswer {
        number: u32::try_from(number).unwrap_or(u32::MAX),
        last: number == last,
        members,
        ..answer.clone()
    };
    chunks.into_iter().enumerate().map(page).collect()
}

/// A range of names in parts, each from where the one before it ended.
fn ranges(range: v1::PresenceDigestRange, base: usize) -> Vec<v1::PresenceDigestRange> {
    // The names of two rooms at its ends.
    let base = base + 512;
    let mut parts = chunks(range.rooms.into_iter(), base, |room| {
        framed(room.encoded_len())
    });
    if parts.is_empty() {
        parts.push(Vec::new());
    }
    let last = parts.len() - 1;
    let mut from = range.from;
    let mut ranges = Vec::with_capacity(parts.len());
    for (index, rooms) in parts.into_iter().enumerate() {
        let to = match rooms.last() {
            Some(room) if index < last => room.room.clone(),
            _ => range.to.clone(),
        };
        ranges.push(v1::PresenceDigestRange {
            from: std::mem::replace(&mut from, to.clone()),
            to,
            rooms,
        });
    }
    ranges
}

/// Items in messages of at most [`MAX_MESSAGE`] bytes, `base` included; an item
/// that is larger goes alone.
fn chunks<T>(
    items: impl Iterator<Item = T>,
    base: usize,
    len: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    let mut chunks: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let len = len(&item);
        match chunks.last_mut() {
            Some(chunk) if bytes + len <= MAX_MESSAGE => {
                chunk.push(item);
                bytes += len;
            }
            _ => {
                chunks.push(vec![item]);
                bytes = base + len;
            }
        }
    }
    chunks
}

/// Bytes of an embedded message with its tag and length.
fn framed(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const ACCOUNT: &str = "ACME";
    const SERVER_MAX: usize = 1024 * 1024;

    fn member(user: String, bytes: usize, sessions: usize) -> v1::PresenceMember {
        let session = v1::PresenceMeta {
            session: "x".repeat(bytes / sessions.max(1)),
            ..Default::default()
        };
        v1::PresenceMember {
            user,
            sessions: vec![session; sessions],
            session_count: u32::try_from(sessions).unwrap(),
        }
    }

    fn answers(messages: &[Outgoing]) -> Vec<v1::PresenceAnswer> {
        let decode = |message: &Outgoing| {
            let order = v1::PresenceOrder::decode(message.payload.clone()).unwrap();
            match order.order.unwrap() {
                Order::Answer(answer) => answer,
                other => panic!("{other:?}"),
            }
        };
        messages.iter().map(decode).collect()
    }

    fn told(messages: &[Outgoing]) -> Vec<v1::PresenceEvents> {
        let decode =
            |message: &Outgoing| v1::PresenceEvents::decode(message.payload.clone()).unwrap();
        messages.iter().map(decode).collect()
    }

    proptest! {
        #[test]
        fn the_pages_of_an_answer_are_all_of_it(sizes in prop::collection::vec(0..60_000usize, 0..40)) {
            let members: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(index, size)| member(index.to_string(), *size, 1))
                .collect();
            let answer = v1::PresenceAnswer {
                id: 7,
                room: "lobby".to_owned(),
                digest: 9,
                coverage: vec![v1::PresenceCoverage { epoch: 1, seq: 2 }],
                count: 40,
                members: members.clone(),
                ..Default::default()
            };
            let shield = NodeId::parse("shield-1").unwrap();
            let messages = order(ACCOUNT, &shield, Order::Answer(answer.clone()), SERVER_MAX);
            prop_assert!(messages.iter().all(|m| m.payload.len() <= MAX_MESSAGE));
            let pages = answers(&messages);
            let mut all = Vec::new();
            for (number, page) in pages.iter().enumerate() {
                prop_assert_eq!(page.number as usize, number);
                prop_assert_eq!(page.last, number == pages.len() - 1);
                prop_assert_eq!(&page.coverage, &answer.coverage);
                all.extend(page.members.clone());
            }
            prop_assert_eq!(all, members);
        }

        #[test]
        fn the_parts_of_a_range_leave_no_gap(count in 0..20_000usize) {
            let rooms: Vec<_> = (0..count)
                .map(|index| v1::PresenceRoomDigest {
                    room: format!("room-{index:06}"),
                    digest: 1 << 58,
                    count: 3,
                })
                .collect();
            let range = v1::PresenceDigestRange {
                from: "a".to_owned(),
                to: String::new(),
                rooms: rooms.clone(),
            };
            let whole = v1::PresenceEvents { range: Some(range), ..Default::default() };
            let messages = events(ACCOUNT, whole, SERVER_MAX);
            prop_assert!(messages.iter().all(|m| m.payload.len() <= MAX_MESSAGE));
            let mut from = "a".to_owned();
            let mut all = Vec::new();
            for events in told(&messages) {
                let part = events.range.unwrap();
                prop_assert_eq!(&part.from, &from);
                prop_assert!(part.rooms.iter().all(|room| room.room > part.from));
                prop_assert!(part.to.is_empty() || part.rooms.iter().all(|room| room.room <= part.to));
                from = part.to;
                all.extend(part.rooms);
            }
            prop_assert_eq!(from, "");
            prop_assert_eq!(all, rooms);
        }
    }

    #[test]
    fn events_are_split_by_room_and_each_part_has_the_coverage() {
        let room = |name: &str, bytes| v1::PresenceRoomEvent {
            room: name.to_owned(),
            count: 5,
            members: vec![member("alice".to_owned(), bytes, 1)],
            ..Default::default()
        };
        let whole = v1::PresenceEvents {
            brain: "brain-1".to_owned(),
            coverage: vec![v1::PresenceCoverage { epoch: 1, seq: 2 }],
            gone: vec![3],
            rooms: vec![
                room("a", 100_000),
                room("b", 100_000),
                room("c", 100_000),
                room("larger-than-a-message", 500_000),
                room("larger-than-the-server-takes", 1_100_000),
                room("d", 1),
            ],
            ..Default::default()
        };
        let parts = told(&events(ACCOUNT, whole.clone(), SERVER_MAX));
        let names: Vec<Vec<&str>> = parts
            .iter()
            .map(|part| part.rooms.iter().map(|room| &*room.room).collect())
            .collect();
        assert_eq!(
            names,
            [
                vec!["a", "b"],
                vec!["c"],
                vec!["larger-than-a-message"],
                vec!["larger-than-the-server-takes", "d"]
            ]
        );
        for part in &parts {
            assert_eq!((&part.coverage, &part.gone), (&whole.coverage, &whole.gone));
        }
        let cut = &parts[3].rooms[0];
        assert!(cut.truncated && cut.members.is_empty());
        assert_eq!(cut.count, 5);
        assert!(!parts[2].rooms[0].truncated);
    }

    #[test]
    fn traces_go_with_their_rooms_and_never_before_them() {
        let trace = |room: &str, n: usize| v1::PresenceTrace {
            room: room.to_owned(),
            traceparent: format!("00-{:032x}-{n:016x}-01", 7),
            kind: v1::PresenceTraceKind::Change.into(),
        };
        let room = |name: &str, bytes| v1::PresenceRoomEvent {
            room: name.to_owned(),
            members: vec![member("alice".to_owned(), bytes, 1)],
            ..Default::default()
        };
        let whole = v1::PresenceEvents {
            rooms: vec![room("a", 200_000), room("b", 200_000), room("c", 1)],
            traces: vec![
                trace("b", 1),
                trace("a", 2),
                trace("b", 3),
                trace("elsewhere", 4),
            ],
            ..Default::default()
        };
        let parts = told(&events(ACCOUNT, whole, SERVER_MAX));
        let traces: Vec<_> = parts.iter().map(|part| part.traces.clone()).collect();
        assert_eq!(
            traces,
            [vec![trace("a", 2)], vec![trace("b", 1), trace("b", 3)]]
        );

        // So many that they would need a message of their own.
        let name = "r".repeat(150);
        let full = v1::PresenceEvents {
            rooms: vec![room(&name, SERVER_MAX - 10_000)],
            traces: (1..=1000).map(|n| trace(&name, n)).collect(),
            ..Default::default()
        };
        let parts = told(&events(ACCOUNT, full, SERVER_MAX));
        assert_eq!((parts.len(), parts[0].traces.len()), (1, 0));
        assert!(!parts[0].rooms[0].truncated);
        let many = v1::PresenceEvents {
            rooms: vec![room(&name, 1)],
            traces: (1..=1000).map(|n| trace(&name, n)).collect(),
            ..Default::default()
        };
        let parts = told(&events(ACCOUNT, many, SERVER_MAX));
        assert_eq!(parts[0].traces.len(), MAX_TRACES);
    }

    #[test]
    fn events_without_rooms_are_told_once() {
        let gone = v1::PresenceEvents {
            gone: vec![3],
            ..Default::default()
        };
        assert_eq!(told(&events(ACCOUNT, gone.clone(), SERVER_MAX)), [gone]);
    }

    #[test]
    fn of_a_member_too_large_fewer_sessions_are_told() {
        let answer = v1::PresenceAnswer {
            members: vec![member("alice".to_owned(), 2_000_000, 20)],
            ..Default::default()
        };
        let shield = NodeId::parse("shield-1").unwrap();
        let messages = order(ACCOUNT, &shield, Order::Answer(answer), SERVER_MAX);
        assert!(messages[0].payload.len() <= SERVER_MAX);
        let member = &answers(&messages)[0].members[0];
        assert_eq!((member.sessions.len(), member.session_count), (10, 20));
    }
}
