//! The numbers this Shield gives to what it publishes, and the beacons it owes.
//!
//! A number is taken in two steps, `next` and `commit`, under the publisher's
//! lock: what was never handed to the connection uses none. A room silent for
//! long is forgotten after its beacon, and gets a new incarnation if it is
//! published to again, so memory is bounded by the rooms in use. Pure.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use arqon_proto::names::{RoomId, TenantId, room_subject};
use arqon_spine::nats;

use super::origin::{Incarnation, Origin};

/// A room not published to for so long is forgotten. Long against a pause in a
/// conversation, short against the life of a process.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// The outgoing side of all rooms of one tenant.
#[derive(Debug)]
pub(super) struct Numbering {
    tenant: TenantId,
    rooms: HashMap<RoomId, Outgoing>,
    beacon_after: Duration,
}

#[derive(Debug)]
struct Outgoing {
    subject: nats::Subject,
    incarnation: Incarnation,
    last: u64,
    published_at: Instant,
    /// The beacon for `last` was sent.
    told: bool,
}

// === impl Numbering ===

impl Numbering {
    pub(super) fn new(tenant: TenantId, beacon_after: Duration) -> Self {
        Self {
            tenant,
            rooms: HashMap::new(),
            beacon_after,
        }
    }

    /// The subject and origin of the room's next message, if it is handed over.
    pub(super) fn next(&mut self, room: &RoomId, now: Instant) -> (nats::Subject, Origin) {
        let outgoing = match self.rooms.get_mut(room) {
            Some(outgoing) => outgoing,
            None => self.rooms.entry(room.clone()).or_insert(Outgoing {
                subject: room_subject(&self.tenant, room).into(),
                incarnation: Incarnation::new(),
                last: 0,
                published_at: now,
                told: true,
            }),
        };
        let origin = Origin {
            incarnation: outgoing.incarnation,
            seq: outgoing.last + 1,
        };
        (outgoing.subject.clone(), origin)
    }

    /// The message of `next` was handed over.
    pub(super) fn commit(&mut self, room: &RoomId, now: Instant) {
        if let Some(outgoing) = self.rooms.get_mut(room) {
            outgoing.last += 1;
            outgoing.published_at = now;
            outgoing.told = false;
        }
    }

    /// The beacons due: rooms silent for long enough since their last message.
    /// They stay due until `told`. Looks at every room, once a second.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(RoomId, Origin)> {
        let mut beacons = Vec::new();
        self.rooms.retain(|room, outgoing| {
            let silent = now.saturating_duration_since(outgoing.published_at);
            if !outgoing.told && silent >= self.beacon_after {
                let origin = Origin {
                    incarnation: outgoing.incarnation,
                    seq: outgoing.last,
                };
                beacons.push((room.clone(), origin));
            }
            !outgoing.told || silent < FORGET_AFTER
        });
        beacons
    }

    /// The subject for a beacon, if it is still right: nothing was published since `due`.
    pub(super) fn still_last(&self, room: &RoomId, origin: Origin) -> Option<nats::Subject> {
        let outgoing = self.rooms.get(room)?;
        let same = outgoing.incarnation == origin.incarnation && outgoing.last == origin.seq;
        same.then(|| outgoing.subject.clone())
    }

    /// The beacon was handed over.
    pub(super) fn told(&mut self, room: &RoomId) {
        if let Some(outgoing) = self.rooms.get_mut(room) {
            outgoing.told = true;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const AFTER: Duration = Duration::from_secs(5);

    fn numbering() -> Numbering {
        Numbering::new(TenantId::parse("acme").unwrap(), AFTER)
    }

    fn publish(numbering: &mut Numbering, room: &RoomId, now: Instant) -> Origin {
        let origin = numbering.next(room, now).1;
        numbering.commit(room, now);
        origin
    }

    #[test]
    fn numbers_rise_by_one_and_only_when_handed_over() {
        let mut numbering = numbering();
        let (room, now) = (RoomId::parse("lobby").unwrap(), Instant::now());
        let first = publish(&mut numbering, &room, now);
        assert_eq!(first.seq, 1);
        assert_eq!(numbering.next(&room, now).1.seq, 2);
        assert_eq!(numbering.next(&room, now).1.seq, 2, "not committed");
        let second = publish(&mut numbering, &room, now);
        assert_eq!((second.incarnation, second.seq), (first.incarnation, 2));
        let other = publish(&mut numbering, &RoomId::parse("other").unwrap(), now);
        assert_eq!(other.seq, 1);
    }

    #[test]
    fn a_beacon_is_owed_once_after_silence() {
        let mut numbering = numbering();
        let (room, start) = (RoomId::parse("lobby").unwrap(), Instant::now());
        publish(&mut numbering, &room, start);
        let last = publish(&mut numbering, &room, start + Duration::from_secs(4));
        assert!(numbering.due(start + AFTER).is_empty(), "not silent yet");
        let later = start + Duration::from_secs(9);
        assert_eq!(numbering.due(later), vec![(room.clone(), last)]);
        assert_eq!(
            numbering.due(later),
            vec![(room.clone(), last)],
            "still owed"
        );
        assert!(numbering.still_last(&room, last).is_some());
        numbering.told(&room);
        assert!(numbering.due(later + AFTER).is_empty());
        let more = publish(&mut numbering, &room, later + AFTER);
        assert_eq!(more.incarnation, last.incarnation);
    }

    #[test]
    fn a_message_after_told_owes_a_beacon_again() {
        let mut numbering = numbering();
        let (room, start) = (RoomId::parse("lobby").unwrap(), Instant::now());
        let first = publish(&mut numbering, &room, start);
        numbering.due(start + AFTER);
        numbering.told(&room);
        let second = publish(&mut numbering, &room, start + AFTER * 2);
        assert!(numbering.still_last(&room, first).is_none());
        assert_eq!(numbering.due(start + AFTER * 3), vec![(room, second)]);
    }

    #[test]
    fn a_silent_room_is_forgotten_and_comes_back_as_a_new_incarnation() {
        let mut numbering = numbering();
        let (room, start) = (RoomId::parse("lobby").unwrap(), Instant::now());
        let first = publish(&mut numbering, &room, start);
        assert_eq!(numbering.due(start + FORGET_AFTER).len(), 1, "owed first");
        numbering.told(&room);
        assert!(numbering.due(start + FORGET_AFTER).is_empty());
        assert!(numbering.rooms.is_empty());
        let again = publish(&mut numbering, &room, start + FORGET_AFTER);
        assert_eq!(again.seq, 1);
        assert_ne!(again.incarnation, first.incarnation);
    }
}
