//! Order, duplicates and loss, told by one header:
//! `Arqon-Origin: <incarnation> <seq> <microseconds since the Unix epoch>`.
//!
//! The publishing Shield counts the messages of each room; a receiving Shield
//! compares. `seq` not above the last one: a duplicate, dropped. A jump: a
//! loss, declared as GAP. The first message seen of an incarnation is its
//! base, so a new incarnation resets the count. Pure: no clock, no socket.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Incarnations remembered for one room. Each Shield that publishes to it is
/// one; beyond that, the one silent longest is forgotten, and starts from a
/// new base if it speaks again.
const REMEMBERED: usize = 256;

/// A message that says to be older, or as much younger, was not stamped by a Shield.
pub(crate) const CREDIBLE: Duration = Duration::from_secs(60);

/// One run of numbering by one Shield: never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Incarnation(u64);

/// Where a message stands among those of its incarnation in its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Who counts.
    pub(crate) incarnation: Incarnation,
    /// The number, from 1.
    pub(crate) seq: u64,
}

/// An origin and when the message was published, as a header tells both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamped {
    /// Where it stands.
    pub(crate) origin: Origin,
    /// Microseconds since the Unix epoch by the publishing Shield's clock; 0 if it does not say.
    pub(crate) sent_us: u64,
}

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Deliver it.
    Deliver,
    /// Drop it: it was delivered, or declared missing, before.
    Duplicate,
    /// Declare so many messages missing, then deliver it.
    Gap(u64),
}

/// What a room has seen of each incarnation.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    /// The one that spoke last comes last, so that the usual look-up ends at once.
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    incarnation: Incarnation,
    last: u64,
    /// A loss was declared without a number; a jump right after is part of it.
    declared: bool,
}

// === impl Incarnation ===

impl Incarnation {
    /// A new one, by chance: 64 random bits do not repeat within a fleet's life.
    pub(crate) fn new() -> Self {
        Self(rand::random())
    }
}

impl Default for Incarnation {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

// === impl Origin ===

impl Origin {
    /// Reads a header's value; None if it is not exactly what `Display` writes.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let (incarnation, seq) = value.split_once(' ')?;
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if incarnation.len() != 16 || !incarnation.bytes().all(lower_hex) {
            return None;
        }
        let canonical = !seq.is_empty() && !seq.starts_with('0');
        if !canonical || !seq.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Self {
            incarnation: Incarnation(u64::from_str_radix(incarnation, 16).ok()?),
            seq: seq.parse().ok()?,
        })
    }
}

// === impl Stamped ===

impl Stamped {
    /// When the message was published; None if a Shield cannot have said so.
    pub(crate) fn sent(self) -> Option<SystemTime> {
        let sent = UNIX_EPOCH.checked_add(Duration::from_micros(self.sent_us))?;
        let now = SystemTime::now();
        let off = match now.duration_since(sent) {
            Ok(age) => age,
            Err(ahead) => ahead.duration(),
        };
        (self.sent_us > 0 && off <= CREDIBLE).then_some(sent)
    }

    /// Reads a header's value; the time may be missing.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let after_seq = value.match_indices(' ').nth(1).map(|(at, _)| at);
        let (origin, sent) = match after_seq {
            Some(at) => (&value[..at], &value[at + 1..]),
            None => (value, "0"),
        };
        let digits = !sent.is_empty() && sent.bytes().all(|b| b.is_ascii_digit());
        Some(Self {
            origin: Origin::parse(origin)?,
            sent_us: digits.then(|| sent.parse().ok()).flatten()?,
        })
    }
}

impl fmt::Display for Stamped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.origin, self.sent_us)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.incarnation, self.seq)
    }
}

// === impl Tracker ===

impl Tracker {
    /// Judges a message.
    pub(crate) fn message(&mut self, origin: Origin) -> Verdict {
        let Some(known) = self.recall(origin) else {
            return Verdict::Deliver;
        };
        if origin.seq <= known.last {
            return Verdict::Duplicate;
        }
        let missed = origin.seq - known.last - 1;
        let declared = std::mem::take(&mut known.declared);
        known.last = origin.seq;
        if missed == 0 || declared {
            Verdict::Deliver
        } else {
            Verdict::Gap(missed)
        }
    }

    /// Judges a beacon, which names the last number used: how many are missing.
    pub(crate) fn beacon(&mut self, origin: Origin) -> Option<u64> {
        let known = self.recall(origin)?;
        let missed = origin.seq.saturating_sub(known.last);
        let declared = std::mem::take(&mut known.declared);
        known.last = known.last.max(origin.seq);
        (missed > 0 && !declared).then_some(missed)
    }

    /// A loss of unknown size was declared to the room: a jump that shows next
    /// is that loss. What was seen before stays a duplicate.
    pub(crate) fn loss_declared(&mut self) {
        for known in &mut self.known {
            known.declared = true;
        }
    }

    /// What is known of the incarnation; None if this is its base.
    fn recall(&mut self, origin: Origin) -> Option<&mut Known> {
        let position = self
            .known
            .iter()
            .rposition(|known| known.incarnation == origin.incarnation);
        match position {
            Some(position) => {
                if position + 1 != self.known.len() {
                    self.known[position..].rotate_left(1);
                }
                self.known.last_mut()
            }
            None => {
                if self.known.len() == REMEMBERED {
                    self.known.remove(0);
                }
                self.known.push(Known {
                    incarnation: origin.incarnation,
                    last: origin.seq,
                    declared: false,
                });
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn origin(incarnation: u64, seq: u64) -> Origin {
        Origin {
            incarnation: Incarnation(incarnation),
            seq,
        }
    }

    #[test]
    fn the_header_is_read_back_and_nothing_else_is_taken() {
        let one = origin(0x0123_4567_89ab_cdef, 42);
        assert_eq!(one.to_string(), "0123456789abcdef 42");
        assert_eq!(Origin::parse(&one.to_string()), Some(one));
        for bad in [
            "",
            " ",
            "0123456789abcdef",
            "0123456789abcdef ",
            "0123456789abcdef 0",
            "0123456789abcdef 042",
            "0123456789abcdef +1",
            "0123456789abcdef 1 2",
            "0123456789ABCDEF 1",
            "123456789abcdef 1",
            "0123456789abcdef 18446744073709551616",
        ] {
            assert_eq!(Origin::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_time_is_read_with_it_and_may_be_missing() {
        let one = origin(0x0123_4567_89ab_cdef, 42);
        let stamped = Stamped {
            origin: one,
            sent_us: 1_796_022_921_000_001,
        };
        assert_eq!(stamped.to_string(), "0123456789abcdef 42 1796022921000001");
        assert_eq!(Stamped::parse(&stamped.to_string()), Some(stamped));
        let without = Stamped::parse(&one.to_string()).unwrap();
        assert_eq!((without.origin, without.sent_us), (one, 0));
        for bad in [
            "0123456789abcdef 1 ",
            "0123456789abcdef 1 x",
            "0123456789abcdef 1 -1",
            "0123456789abcdef 1 2 3",
            "0123456789abcdef 1 99999999999999999999",
        ] {
            assert_eq!(Stamped::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_a_time_that_a_shield_can_have_said_is_one() {
        let stamped = |sent_us| Stamped {
            origin: origin(1, 1),
            sent_us,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = u64::try_from(now.as_micros()).unwrap();
        let second = 1_000_000;
        for known in [now, now - 50 * second, now + 50 * second] {
            assert!(stamped(known).sent().is_some());
        }
        for unknown in [0, 1, now - 70 * second, now + 70 * second, u64::MAX] {
            assert_eq!(stamped(unknown).sent(), None, "{unknown}");
        }
    }

    #[test]
    fn first_seen_is_the_base_and_a_jump_is_a_gap() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.message(origin(1, 41)), Verdict::Deliver);
        assert_eq!(tracker.message(origin(1, 42)), Verdict::Deliver);
        assert_eq!(tracker.message(origin(1, 42)), Verdict::Duplicate);
        assert_eq!(tracker.message(origin(1, 40)), Verdict::Duplicate);
        assert_eq!(tracker.message(origin(1, 45)), Verdict::Gap(2));
        assert_eq!(tracker.message(origin(1, 43)), Verdict::Duplicate);
        assert_eq!(tracker.message(origin(2, 1)), Verdict::Deliver);
        assert_eq!(tracker.message(origin(1, 46)), Verdict::Deliver);
    }

    #[test]
    fn a_beacon_tells_a_loss_at_the_end_once() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.beacon(origin(1, 7)), None, "the base");
        assert_eq!(tracker.message(origin(1, 8)), Verdict::Deliver);
        assert_eq!(tracker.beacon(origin(1, 8)), None);
        assert_eq!(tracker.beacon(origin(1, 10)), Some(2));
        assert_eq!(tracker.beacon(origin(1, 10)), None);
        assert_eq!(tracker.beacon(origin(1, 9)), None);
        assert_eq!(tracker.message(origin(1, 10)), Verdict::Duplicate);
        assert_eq!(tracker.message(origin(1, 11)), Verdict::Deliver);
    }

    #[test]
    fn a_declared_loss_is_not_declared_again() {
        let mut tracker = Tracker::default();
        tracker.message(origin(1, 1));
        tracker.message(origin(2, 1));
        tracker.loss_declared();
        assert_eq!(tracker.message(origin(1, 1)), Verdict::Duplicate);
        assert_eq!(tracker.message(origin(1, 5)), Verdict::Deliver);
        assert_eq!(tracker.message(origin(1, 7)), Verdict::Gap(1));
        assert_eq!(tracker.beacon(origin(2, 9)), None);
        assert_eq!(tracker.beacon(origin(2, 10)), Some(1));
    }

    #[test]
    fn the_number_of_incarnations_is_bounded_and_the_silent_go_first() {
        let mut tracker = Tracker::default();
        for incarnation in 0..REMEMBERED as u64 {
            tracker.message(origin(incarnation, 10));
        }
        assert_eq!(tracker.message(origin(0, 10)), Verdict::Duplicate);
        assert_eq!(tracker.message(origin(9_999, 1)), Verdict::Deliver);
        assert_eq!(tracker.known.len(), REMEMBERED);
        assert_eq!(tracker.message(origin(0, 10)), Verdict::Duplicate);
        assert_eq!(
            tracker.message(origin(1, 10)),
            Verdict::Deliver,
            "forgotten"
        );
    }

    proptest! {
        /// Whatever is lost, repeated or late: delivered numbers rise, and each
        /// number between the base and the end is delivered or declared, once.
        #[test]
        fn all_is_delivered_or_declared_exactly_once(
            stream in prop::collection::vec((0u64..3, 1u64..60), 1..300),
        ) {
            let mut tracker = Tracker::default();
            let mut ledger: Vec<Option<(u64, u64)>> = vec![None; 3]; // base, accounted for up to
            for (incarnation, seq) in stream {
                let slot = &mut ledger[usize::try_from(incarnation).unwrap()];
                match tracker.message(origin(incarnation, seq)) {
                    Verdict::Deliver => match slot {
                        None => *slot = Some((seq, seq)),
                        Some((_, last)) => {
                            prop_assert_eq!(seq, *last + 1);
                            *last = seq;
                        }
                    },
                    Verdict::Duplicate => {
                        let (_, last) = slot.unwrap();
                        prop_assert!(seq <= last);
                    }
                    Verdict::Gap(missed) => {
                        let (_, last) = slot.as_mut().unwrap();
                        prop_assert!(missed > 0);
                        prop_assert_eq!(seq, *last + missed + 1);
                        *last = seq;
                    }
                }
            }
        }

        /// A rotation: the old stream is read to its end, then the new one, which
        /// overlaps it. Nothing is lost, doubled or out of order.
        #[test]
        fn an_overlapping_rotation_is_seamless(
            total in 1u64..200,
            cut in 0u64..200,
            overlap in 0u64..50,
        ) {
            let cut = cut.min(total);
            let start = cut.saturating_sub(overlap) + 1;
            let mut tracker = Tracker::default();
            let mut heard = Vec::new();
            for seq in (1..=cut).chain(start..=total) {
                match tracker.message(origin(1, seq)) {
                    Verdict::Deliver => heard.push(seq),
                    Verdict::Duplicate => {}
                    Verdict::Gap(missed) => prop_assert!(false, "gap of {missed} at {seq}"),
                }
            }
            prop_assert_eq!(heard, (1..=total).collect::<Vec<_>>());
        }

        /// A beacon after the last message finds every loss.
        #[test]
        fn a_beacon_accounts_for_the_rest(lost in prop::collection::btree_set(2u64..40, 0..20)) {
            let mut tracker = Tracker::default();
            let (mut heard, mut missed) = (0, 0);
            for seq in (1..40).filter(|seq| !lost.contains(seq)) {
                match tracker.message(origin(7, seq)) {
                    Verdict::Gap(n) => { missed += n; heard += 1; }
                    Verdict::Deliver => heard += 1,
                    Verdict::Duplicate => prop_assert!(false),
                }
            }
            missed += tracker.beacon(origin(7, 39)).unwrap_or(0);
            prop_assert_eq!(heard + missed, 39);
            prop_assert_eq!(missed, lost.len() as u64);
        }
    }
}
