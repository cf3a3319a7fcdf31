//! What the numbers of messages tell about those that were not seen.
//!
//! Each Shield counts the messages it publishes to a room (`Arqon-Origin`), and tells the last
//! number in a beacon some seconds after it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use arqon_proto::names::RoomId;

use super::frame::Origin;

/// Runs of numbering that are remembered. Beyond that all are forgotten and begun anew,
/// which hides a loss and invents none.
const REMEMBERED: usize = 65_536;

/// A reader that cannot keep up misses something at every second message; it is told this often.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// The last number seen of each run, in each room.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    last: HashMap<(RoomId, u64), u64>,
    untold: Option<Missed>,
    told_at: Option<Instant>,
    total: u64,
}

/// Messages that were not seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missed {
    pub(super) count: u64,
    /// Where, if in one room only.
    pub(super) room: Option<RoomId>,
}

impl Sequences {
    /// A message with this number was seen.
    pub(super) fn message(&mut self, room: &RoomId, origin: Origin) {
        let before = self.seen(room, origin);
        let missed = before.map_or(0, |last| origin.seq.saturating_sub(last.saturating_add(1)));
        self.missed(room, missed);
    }

    /// This was the number of the last message.
    pub(super) fn beacon(&mut self, room: &RoomId, origin: Origin) {
        let before = self.seen(room, origin);
        let missed = before.map_or(0, |last| origin.seq.saturating_sub(last));
        self.missed(room, missed);
    }

    /// What is to be told now; for some time nothing more then.
    pub(super) fn tell(&mut self, now: Instant) -> Option<Missed> {
        let quiet = self
            .told_at
            .is_some_and(|at| now.duration_since(at) < TOLD_EVERY);
        if quiet || self.untold.is_none() {
            return None;
        }
        self.told_at = Some(now);
        self.untold.take()
    }

    /// How many were missed in all.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The number before this one; numbers that go back change nothing.
    fn seen(&mut self, room: &RoomId, origin: Origin) -> Option<u64> {
        if self.last.len() >= REMEMBERED {
            self.last.clear();
        }
        let key = (room.clone(), origin.run);
        match self.last.get_mut(&key) {
            Some(last) => {
                let before = *last;
                *last = before.max(origin.seq);
                Some(before)
            }
            None => {
                self.last.insert(key, origin.seq);
                None
            }
        }
    }

    fn missed(&mut self, room: &RoomId, count: u64) {
        if count == 0 {
            return;
        }
        self.total = self.total.saturating_add(count);
        match &mut self.untold {
            Some(untold) => {
                untold.count = untold.count.saturating_add(count);
                if untold.room.as_ref() != Some(room) {
                    untold.room = None;
                }
            }
            None => {
                self.untold = Some(Missed {
                    count,
                    room: Some(room.clone()),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn origin(run: u64, seq: u64) -> Origin {
        Origin { run, seq }
    }

    #[test]
    fn a_jump_is_a_loss_and_the_first_number_is_none() {
        let lobby = RoomId::parse("lobby").unwrap();
        let mut sequences = Sequences::default();
        let now = Instant::now();
        for seq in [41, 42, 42, 40, 43] {
            sequences.message(&lobby, origin(1, seq));
        }
        sequences.message(&lobby, origin(2, 7));
        assert_eq!(sequences.tell(now), None);
        sequences.message(&lobby, origin(1, 46));
        let missed = Missed {
            count: 2,
            room: Some(lobby.clone()),
        };
        assert_eq!(sequences.tell(now), Some(missed));
        sequences.beacon(&lobby, origin(1, 46));
        assert_eq!(sequences.total(), 2);
        sequences.beacon(&lobby, origin(1, 49));
        sequences.beacon(&lobby, origin(1, 49));
        assert_eq!(sequences.total(), 5);
    }

    #[test]
    fn no_number_is_too_large() {
        let lobby = RoomId::parse("lobby").unwrap();
        let mut sequences = Sequences::default();
        for run in 1..=2 {
            for seq in [1, u64::MAX, 5, u64::MAX] {
                sequences.message(&lobby, origin(run, seq));
                sequences.beacon(&lobby, origin(run, seq));
            }
        }
        assert_eq!(sequences.total(), u64::MAX);
        assert_eq!(sequences.tell(Instant::now()).unwrap().count, u64::MAX);
    }

    #[test]
    fn losses_are_told_together() {
        let room = |name| RoomId::parse(name).unwrap();
        let mut sequences = Sequences::default();
        let start = Instant::now();
        for seq in [1, 3, 5] {
            for name in ["a", "b"] {
                sequences.message(&room(name), origin(1, seq));
            }
            if seq == 3 {
                assert_eq!(sequences.tell(start).unwrap().count, 2);
            }
        }
        assert_eq!(sequences.tell(start), None, "not again at once");
        let missed = Missed {
            count: 2,
            room: None,
        };
        assert_eq!(sequences.tell(start + TOLD_EVERY), Some(missed));
        assert_eq!(sequences.tell(start + TOLD_EVERY * 3), None);
    }

    #[test]
    fn memory_is_bounded() {
        let lobby = RoomId::parse("lobby").unwrap();
        let mut sequences = Sequences::default();
        for run in 0..REMEMBERED as u64 + 10 {
            sequences.message(&lobby, origin(run, 1));
        }
        assert!(sequences.last.len() <= REMEMBERED);
        assert_eq!(sequences.total(), 0);
    }
}
