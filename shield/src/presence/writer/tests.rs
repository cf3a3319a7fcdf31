#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use v1::presence_change::Change;

use super::*;

const EPOCH: u64 = 7;

/// What a Brain holds of this Shield, by its own rules.
#[derive(Debug, Default, PartialEq)]
struct Brain {
    seq: u64,
    table: BTreeMap<(String, String, Vec<u8>), v1::PresenceEntry>,
}

impl Brain {
    /// Applies what is new of a batch; false: there is a gap before it.
    fn apply(&mut self, batch: &Batch) -> bool {
        if batch.first_seq > self.seq + 1 {
            return false;
        }
        for (seq, change) in (batch.first_seq..).zip(&batch.changes) {
            if seq <= self.seq {
                continue;
            }
            match change.change.clone().unwrap() {
                Change::Put(entry) => {
                    assert_eq!(entry.seq, seq, "an entry carries its change's number");
                    self.table.insert(place(entry.key.as_ref().unwrap()), entry);
                }
                Change::Remove(key) => {
                    assert!(self.table.remove(&place(&key)).is_some());
                }
            }
            self.seq = seq;
        }
        true
    }

    fn fetch(&mut self, mut snapshot: Snapshot, page: usize) {
        self.table.clear();
        self.seq = snapshot.seq;
        let mut last_place = None;
        loop {
            let (entries, last) = snapshot.next_page(page);
            for entry in entries {
                let place = place(entry.key.as_ref().unwrap());
                assert!(Some(&place) > last_place.as_ref(), "pages are in order");
                last_place = Some(place.clone());
                self.table.insert(place, entry);
            }
            if last {
                return;
            }
        }
    }

    fn summary(&self) -> Summary {
        let hashes = self.table.iter().map(|((room, _, session), entry)| {
            let session = SessionId::from_bytes(session).unwrap();
            entry_hash(EPOCH, room, session, entry.seq)
        });
        Summary {
            seq: self.seq,
            count: self.table.len() as u64,
            digest: hashes.fold(0, |digest, hash| digest ^ hash),
        }
    }
}

fn place(key: &v1::PresenceKey) -> (String, String, Vec<u8>) {
    (key.room.clone(), key.user.clone(), key.session.to_vec())
}

fn room(number: usize) -> RoomId {
    RoomId::parse(&format!("room-{number}")).unwrap()
}

fn user(number: usize) -> UserId {
    UserId::parse(&format!("user-{number}")).unwrap()
}

fn meta(text: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("k".to_owned(), text.to_owned())])
}

/// The encoded size of a message with these changes, as it goes out.
fn size(batch: Batch) -> usize {
    let changes = v1::PresenceChanges {
        shield: "s".repeat(63),
        epoch: u64::MAX,
        first_seq: batch.first_seq,
        changes: batch.changes,
        active: batch.active,
        traces: Vec::new(),
    };
    changes.encoded_len()
}

#[test]
fn a_session_that_comes_changes_and_goes_leaves_nothing_but_its_numbers() {
    let mut writer = Writer::new(EPOCH);
    let session = SessionId::new();
    writer.put(&room(1), session, &user(1), meta("a"), 100);
    let joined = writer.summary();
    assert_eq!((joined.seq, joined.count), (1, 1));
    writer.put(&room(1), session, &user(1), meta("b"), 200);
    let changed = writer.summary();
    assert_eq!((changed.seq, changed.count), (2, 1));
    assert_ne!(changed.digest, joined.digest);
    let batch = writer.take_batch(65_536).unwrap();
    let Some(Change::Put(entry)) = &batch.changes[1].change else {
        panic!("{batch:?}");
    };
    assert_eq!(
        (entry.joined_at_ms, entry.last_active_at_ms),
        (100, 200),
        "another meta is no other join"
    );
    assert!(writer.remove(&room(1), session));
    assert!(!writer.remove(&room(1), session), "it left once");
    let gone = writer.summary();
    assert_eq!((gone.seq, gone.count, gone.digest), (3, 0, 0));
}

#[test]
fn what_is_dropped_is_a_gap_and_what_follows_is_numbered_rightly() {
    let mut writer = Writer::new(EPOCH);
    let mut brain = Brain::default();
    for _ in 0..=PENDING {
        writer.put(&room(1), SessionId::new(), &user(1), meta(""), 1);
    }
    assert_eq!(writer.take_dropped(), PENDING as u64 + 1);
    assert!(!writer.has_changes());
    writer.put(&room(1), SessionId::new(), &user(1), meta(""), 1);
    let batch = writer.take_batch(65_536).unwrap();
    assert_eq!(batch.first_seq, PENDING as u64 + 2);
    assert!(!brain.apply(&batch), "the gap shows");
    brain.fetch(writer.snapshot(), 65_536);
    assert_eq!(brain.summary(), writer.summary());
}

#[test]
fn pending_changes_are_bounded_in_bytes_too() {
    let mut writer = Writer::new(EPOCH);
    let large = meta(&"x".repeat(4_000));
    for _ in 0..(PENDING_BYTES / 4_000 + 1) {
        writer.put(&room(1), SessionId::new(), &user(1), large.clone(), 1);
        assert!(writer.pending_bytes <= PENDING_BYTES);
    }
    assert!(writer.take_dropped() > 0);
}

/// NATS cuts the connection of a whole tenant for one message that is too large.
#[test]
fn no_message_is_larger_than_asked_for_however_many_entries_it_has() {
    let mut writer = Writer::new(EPOCH);
    for number in 0..5_000 {
        writer.put(
            &room(0),
            SessionId::new(),
            &user(number),
            BTreeMap::new(),
            1,
        );
    }
    let most = 80_000;
    let mut snapshot = writer.snapshot();
    loop {
        let (entries, last) = snapshot.next_page(most);
        let page = v1::PresencePage {
            entries,
            ..v1::PresencePage::default()
        };
        assert!(page.encoded_len() <= most, "{}", page.encoded_len());
        if last {
            break;
        }
    }
    let mut changes = 0;
    while let Some(batch) = writer.take_batch(most) {
        changes += batch.changes.len();
        let size = size(batch);
        assert!(size <= most + 100, "{size}");
    }
    assert_eq!(changes, 5_000);
}

#[test]
fn marks_of_activity_are_rare_and_no_part_of_the_version() {
    let mut writer = Writer::new(EPOCH);
    let session = SessionId::new();
    writer.put(&room(1), session, &user(1), meta("a"), 1_000);
    writer.take_batch(65_536).unwrap();
    let before = writer.summary();
    writer.active(&room(1), session, 2_000);
    writer.active(&room(2), session, 100_000);
    assert!(!writer.has_marks(), "too early, or not there");
    writer.active(&room(1), session, 20_000);
    let batch = writer.take_batch(65_536).unwrap();
    assert_eq!((batch.first_seq, batch.changes.len()), (2, 0));
    assert_eq!(batch.active[0].at_ms, 20_000);
    assert_eq!(writer.summary(), before);
    assert_eq!(writer.take_batch(65_536), None);
}

#[test]
fn a_cleared_table_keeps_counting() {
    let mut writer = Writer::new(EPOCH);
    for number in 0..3 {
        writer.put(&room(number), SessionId::new(), &user(1), meta(""), 1);
    }
    let mut brain = Brain::default();
    assert!(brain.apply(&writer.take_batch(65_536).unwrap()));
    writer.clear();
    let cleared = writer.summary();
    assert_eq!((cleared.count, cleared.digest), (0, 0));
    writer.put(&room(1), SessionId::new(), &user(1), meta(""), 1);
    let batch = writer.take_batch(65_536).unwrap();
    assert!(batch.first_seq > 4 && !brain.apply(&batch));
    brain.fetch(writer.snapshot(), 100);
    assert_eq!(brain.summary(), writer.summary());
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize, usize, String),
    Remove(usize, usize),
    Send(usize),
    Lose,
    Again,
    Snapshot(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize, 0..6_usize, "[a-z]{0,80}").prop_map(|(r, s, m)| Step::Put(r, s, m)),
        4 => (0..3_usize, 0..6_usize).prop_map(|(r, s)| Step::Remove(r, s)),
        4 => (1..600_usize).prop_map(Step::Send),
        1 => Just(Step::Lose),
        1 => Just(Step::Again),
        1 => (1..600_usize).prop_map(Step::Snapshot),
    ]
}

proptest! {
    /// Whatever is lost, doubled or fetched: a Brain at the writer's version
    /// has the writer's table, and the writer's digest is that table's.
    #[test]
    fn equal_versions_are_equal_tables(steps in prop::collection::vec(step(), 0..200)) {
        let sessions: Vec<_> = (0..6).map(|_| SessionId::new()).collect();
        let mut writer = Writer::new(EPOCH);
        let mut brain = Brain::default();
        let mut present = BTreeSet::new();
        let mut last = None;
        let mut version = 0;
        for step in steps {
            match step {
                Step::Put(r, s, text) => {
                    writer.put(&room(r), sessions[s], &user(s % 3), meta(&text), 1);
                    present.insert((r, s));
                }
                Step::Remove(r, s) => {
                    prop_assert_eq!(
                        writer.remove(&room(r), sessions[s]),
                        present.remove(&(r, s))
                    );
                }
                Step::Send(bytes) => {
                    if let Some(batch) = writer.take_batch(bytes) {
                        brain.apply(&batch);
                        last = Some(batch);
                    }
                }
                Step::Lose => drop(writer.take_batch(300)),
                Step::Again => {
                    if let Some(batch) = &last {
                        brain.apply(batch);
                    }
                }
                Step::Snapshot(bytes) => brain.fetch(writer.snapshot(), bytes),
            }
            let now = writer.summary();
            prop_assert!(now.seq >= version, "numbers never begin again");
            version = now.seq;
            prop_assert_eq!(now.count, present.len() as u64);
            if brain.seq == now.seq {
                prop_assert_eq!(brain.summary(), now);
            }
        }
        while let Some(batch) = writer.take_batch(500) {
            if !brain.apply(&batch) {
                brain.fetch(writer.snapshot(), 200);
            }
        }
        if brain.seq != writer.summary().seq {
            brain.fetch(writer.snapshot(), 200);
        }
        prop_assert_eq!(brain.summary(), writer.summary());
    }
}
