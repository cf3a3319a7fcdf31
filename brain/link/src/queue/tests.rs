#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::etf::Reader;

fn event(kind: Kind, len: usize) -> Event {
    let mut term = Writer::part(len);
    let empty = 5;
    term.binary(&vec![0; len.saturating_sub(empty)]);
    Event {
        kind,
        term: term.finish(),
    }
}

fn changes(account: &str, len: usize) -> Event {
    let kind = Kind::Changes {
        account: account.into(),
        shield: "shield-1".into(),
    };
    event(kind, len)
}

fn beat(shield: &str, epoch: u64, len: usize) -> Event {
    event(Kind::Report(Report::Beat(shield.into(), epoch)), len)
}

/// What Brain would read of a batch: its cost, and each event's tag or,
/// for those made here, its length.
fn read(frame: Vec<u8>) -> (usize, Vec<String>) {
    let mut term = Reader::new(Bytes::from(frame)).unwrap();
    term.tuple_of(3).unwrap();
    assert_eq!(term.atom().unwrap(), "batch");
    let cost = term.uint().unwrap();
    let events = term.list(|term| {
        if term.kind()? == crate::etf::Kind::Binary {
            return Ok((term.binary()?.len() + 5).to_string());
        }
        let arity = term.tuple()?;
        let tag = term.atom()?;
        let mut words = vec![tag.clone()];
        for _ in 1..arity {
            match term.kind()? {
                crate::etf::Kind::Atom => words.push(term.atom()?),
                crate::etf::Kind::Integer => words.push(term.uint()?.to_string()),
                _ => {
                    let pairs = term.list(|term| {
                        term.tuple_of(2)?;
                        term.text()?;
                        term.text()
                    })?;
                    words.push(pairs.len().to_string());
                }
            }
        }
        Ok(words.join(" "))
    });
    term.end().unwrap();
    (usize::try_from(cost).unwrap(), events.unwrap())
}

/// Batches until there is none, giving the credit back as Brain does.
fn drain(queue: &mut Queue) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(frame) = queue.batch() {
        let (cost, events) = read(frame);
        assert!(cost > 0);
        queue.give(cost as u64);
        all.extend(events);
    }
    all
}

fn fill(queue: &mut Queue) {
    for _ in 0..BULK / 1024 {
        queue.push(changes("A", 1024));
    }
}

#[test]
fn order_is_kept_and_credit_bounds_what_is_under_way() {
    let mut queue = Queue::default();
    queue.push(Event::spine(Which::Brain, true));
    for len in 10..2000 {
        queue.push(changes("A", len));
    }
    let mut under_way = 0;
    let mut all = Vec::new();
    while let Some(frame) = queue.batch() {
        assert!(frame.len() <= BATCH + 64);
        let (cost, events) = read(frame);
        under_way += cost;
        all.extend(events);
    }
    let sizes: Vec<String> = (10..2000).map(|len: usize| len.to_string()).collect();
    assert_eq!(all[0], "spine brain up");
    assert_eq!(all[1..], sizes);
    assert!(under_way <= CREDIT);

    fill(&mut queue);
    while let Some(frame) = queue.batch() {
        under_way += read(frame).0;
    }
    assert!(under_way <= CREDIT && under_way > CREDIT - BATCH);
    queue.give(5000);
    assert!(under_way + read(queue.batch().unwrap()).0 <= CREDIT + 5000);
}

#[test]
fn an_event_larger_than_a_batch_goes_alone() {
    let mut queue = Queue::default();
    for len in [100, 3 * BATCH, 200] {
        queue.push(changes("A", len));
    }
    let batches: Vec<_> = std::iter::from_fn(|| queue.batch())
        .map(|frame| read(frame).1)
        .collect();
    assert_eq!(batches, [["100"], [&*(3 * BATCH).to_string()], ["200"]]);
}

#[test]
fn changes_without_room_leave_whose_they_were() {
    let mut queue = Queue::default();
    fill(&mut queue);
    for index in 0..3000 {
        queue.push(changes(&format!("A{}", index % 1500), 100));
    }
    queue.push(event(Kind::Page, 100));
    queue.count([]);
    let all = drain(&mut queue);
    // Told once room is made: in the midst of what waited.
    let dirty: Vec<_> = (0..)
        .zip(&all)
        .filter(|(_, event)| event.starts_with("dirty"))
        .collect();
    assert_eq!(dirty.len(), 2);
    assert_eq!(
        (dirty[0].1.as_str(), dirty[1].1.as_str()),
        ("dirty 1000", "dirty 500")
    );
    let half = BULK / 1024 / 2;
    assert!((half..half + 300).contains(&dirty[0].0), "{}", dirty[0].0);
    assert_eq!(all[0], "counted dropped 3001");
    assert!(queue.batch().is_none());
    queue.push(changes("A", 100));
    assert_eq!(drain(&mut queue), ["100"]);
}

#[test]
fn too_many_to_name_is_all() {
    for up in [true, false] {
        let mut queue = Queue::default();
        if up {
            queue.push(Event::spine(Which::Brain, true));
            assert_eq!(drain(&mut queue), ["spine brain up"]);
        }
        fill(&mut queue);
        for index in 0..=DIRTY {
            queue.push(changes(&index.to_string(), 100));
        }
        assert!(queue.dirty.is_empty());
        let all = drain(&mut queue);
        let turns: Vec<_> = all.iter().filter(|e| e.starts_with("spine")).collect();
        if up {
            assert_eq!(turns, ["spine brain down", "spine brain up"]);
        } else {
            assert!(turns.is_empty());
        }
        assert!(!all.iter().any(|event| event.starts_with("dirty")));
    }
}

#[test]
fn the_oldest_queries_give_way() {
    let mut queue = Queue::default();
    fill(&mut queue);
    let each = QUERIES / 8;
    for index in 0..20 {
        queue.push(event(Kind::Query, each - index));
    }
    let all = drain(&mut queue);
    let kept: Vec<String> = (12..20).map(|index| (each - index).to_string()).collect();
    assert_eq!(all[all.len() - 8..], kept);
    assert_eq!(all.len(), BULK / 1024 + 8);
}

#[test]
fn only_the_newest_report_waits() {
    let mut queue = Queue::default();
    for len in 100..1100 {
        queue.push(beat("shield-1", 1, len));
        queue.push(beat("shield-1", 2, len + 2000));
        queue.push(event(
            Kind::Report(Report::Digests("shield-1".into(), 0)),
            len + 4000,
        ));
    }
    assert_eq!(queue.waiting.len(), 3);
    assert_eq!(drain(&mut queue), ["1099", "3099", "5099"]);
    // Many names are bounded too.
    for index in 0..10_000 {
        queue.push(beat(&index.to_string(), 1, 1000));
    }
    assert_eq!(queue.waiting.len(), REPORTS / 1000);
    assert_eq!(queue.reports.len(), queue.waiting.len());
}

#[test]
fn a_connection_that_flaps_is_told_by_its_last_turn() {
    let mut queue = Queue::default();
    queue.push(beat("shield-1", 1, 100));
    for _ in 0..10_000 {
        queue.push(Event::spine(Which::Brain, true));
        queue.push(changes("A", 200));
        queue.push(Event::spine(Which::Brain, false));
    }
    assert!(queue.waiting.len() <= 2 * TURNS);
    let all = drain(&mut queue);
    assert_eq!(all[0], "100");
    assert_eq!(all.last().unwrap(), "spine brain down");
}

#[test]
fn more_credit_than_there_is_is_not_taken() {
    let mut queue = Queue::default();
    queue.give(u64::MAX);
    assert_eq!(queue.credit, CREDIT);
}

#[derive(Debug, Clone)]
enum Step {
    Push(u8, usize),
    Take,
    Give,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (0..6u8, 20..600_000usize).prop_map(|(kind, len)| Step::Push(kind, len));
    prop::collection::vec(
        prop_oneof![6 => push, 1 => Just(Step::Take), 1 => Just(Step::Give)],
        0..200,
    )
}

proptest! {
    #[test]
    fn no_bound_is_ever_passed(steps in steps()) {
        let mut queue = Queue::default();
        let mut owed = 0;
        for step in steps {
            match step {
                Step::Push(0, _) => queue.push(Event::spine(Which::Brain, true)),
                Step::Push(1, len) => queue.push(changes("A", len)),
                Step::Push(2, len) => queue.push(event(Kind::Page, len)),
                Step::Push(3, len) => queue.push(event(Kind::Query, len)),
                Step::Push(_, len) => queue.push(beat("shield-1", len as u64 % 20, len)),
                Step::Take => owed += queue.batch().map_or(0, |frame| read(frame).0),
                Step::Give => queue.give(std::mem::take(&mut owed) as u64),
            }
            prop_assert_eq!(queue.credit + owed, CREDIT);
            prop_assert!(queue.bulk <= BULK);
            prop_assert!(queue.query_bytes <= QUERIES);
            prop_assert!(queue.report_bytes <= REPORTS);
            let waiting: usize = queue.waiting.values().map(|event| event.term.len()).sum();
            let turns = queue.turns[1] * Event::spine(Which::Brain, true).term.len();
            prop_assert_eq!(
                waiting,
                queue.bulk + queue.query_bytes + queue.report_bytes + turns
            );
        }
        queue.give(owed as u64);
        drain(&mut queue);
        prop_assert!(queue.waiting.is_empty() && queue.queries.is_empty());
        prop_assert!(queue.reports.is_empty() && queue.dirty.is_empty());
    }
}
