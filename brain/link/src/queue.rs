//! What waits for Brain's credit: bounded, with a rule for each kind of event.
//!
//! Credit is bytes. A Brain that stands still costs no more than the bounds
//! here, and when it goes on it is told what it missed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::counters::Counter;
use crate::etf::Writer;
use crate::inbound::{Event, Kind, Report, Which};

/// Credit at the start, and the most there is.
pub const CREDIT: usize = 4 * 1024 * 1024;
/// Bytes of a batch, unless one event alone is larger.
pub const BATCH: usize = 256 * 1024;
/// Bytes of changes and pages. Beyond, pages are dropped, and changes too,
/// but Brain is told whose.
pub const BULK: usize = 8 * 1024 * 1024;
/// Bytes of queries. Beyond, the oldest are dropped: they time out first.
pub const QUERIES: usize = 1024 * 1024;
/// Bytes of reports, of which only the newest is kept. Beyond, new ones are
/// dropped: the next comes in a second.
pub const REPORTS: usize = 4 * 1024 * 1024;
/// Whose changes were dropped, at most. Beyond, everybody's.
pub const DIRTY: usize = 100_000;
/// Comings and goings of one connection. Beyond, all that waits of it is
/// dropped but the last going: Brain compares all when it comes again.
pub const TURNS: usize = 64;
/// Of the dirty, so many are told in one event.
const DIRTY_TOLD: usize = 1000;

/// See the module.
#[derive(Debug)]
pub struct Queue {
    credit: usize,
    /// By number, so that any can be taken out.
    waiting: BTreeMap<u64, Event>,
    next: u64,
    bulk: usize,
    query_bytes: usize,
    report_bytes: usize,
    queries: VecDeque<u64>,
    reports: HashMap<Report, u64>,
    turns: [usize; 2],
    dirty: BTreeSet<(Box<str>, Box<str>)>,
    all_dirty: bool,
    /// Whether Brain believes that it is connected to BRAIN.
    brain_up: bool,
    counted: [u64; Counter::ALL.len()],
    counts_due: bool,
}

/// A batch in the making.
struct Batch {
    events: Writer,
    bytes: usize,
    count: usize,
    credit: usize,
}

// === impl Queue ===

impl Default for Queue {
    fn default() -> Self {
        Self {
            credit: CREDIT,
            waiting: BTreeMap::new(),
            next: 0,
            bulk: 0,
            query_bytes: 0,
            report_bytes: 0,
            queries: VecDeque::new(),
            reports: HashMap::new(),
            turns: [0; 2],
            dirty: BTreeSet::new(),
            all_dirty: false,
            brain_up: false,
            counted: [0; Counter::ALL.len()],
            counts_due: false,
        }
    }
}

impl Queue {
    /// Adds an event, or does with it what its kind's rule says.
    pub fn push(&mut self, event: Event) {
        let len = event.term.len();
        match &event.kind {
            Kind::Spine(which, up) => {
                if !up && self.turns[*which as usize] >= TURNS {
                    self.forget(*which);
                }
            }
            Kind::Changes { account, shield } if self.bulk + len > BULK => {
                self.soil(account.clone(), shield.clone());
                return self.drop_one();
            }
            Kind::Page if self.bulk + len > BULK => return self.drop_one(),
            Kind::Changes { .. } | Kind::Page => {}
            Kind::Query => {
                while self.query_bytes + len > QUERIES {
                    let Some(oldest) = self.queries.front().copied() else {
                        return self.drop_one();
                    };
                    self.remove(oldest);
                    self.drop_one();
                }
            }
            Kind::Report(report) => {
                if let Some(older) = self.reports.get(report).copied() {
                    self.remove(older);
                }
                if self.report_bytes + len > REPORTS {
                    return self.drop_one();
                }
            }
        }
        let number = self.next;
        self.next += 1;
        match &event.kind {
            Kind::Spine(which, _) => self.turns[*which as usize] += 1,
            Kind::Changes { .. } | Kind::Page => self.bulk += len,
            Kind::Query => {
                self.query_bytes += len;
                self.queries.push_back(number);
            }
            Kind::Report(report) => {
                self.report_bytes += len;
                self.reports.insert(report.clone(), number);
            }
        }
        self.waiting.insert(number, event);
    }

    /// Brain has processed as much.
    pub fn give(&mut self, credit: u64) {
        let credit = usize::try_from(credit).unwrap_or(usize::MAX);
        self.credit = self.credit.saturating_add(credit).min(CREDIT);
    }

    /// Adds counts, to be told with the next batch.
    pub fn count(&mut self, counts: impl IntoIterator<Item = (Counter, u64)>) {
        for (counter, n) in counts {
            self.counted[counter as usize] += n;
        }
        self.counts_due = self.counted.iter().any(|n| *n > 0);
    }

    /// The next batch: a whole frame, if there is something to tell and credit
    /// to tell it.
    pub fn batch(&mut self) -> Option<Vec<u8>> {
        let mut batch = Batch {
            events: Writer::part(0),
            bytes: 0,
            count: 0,
            credit: self.credit,
        };
        self.tell_counts(&mut batch);
        if self.bulk <= BULK / 2 {
            self.tell_dirty(&mut batch);
        }
        while let Some(first) = self.waiting.first_entry() {
            if !batch.add(&first.get().term) {
                break;
            }
            let number = *first.key();
            if let Some(Kind::Spine(Which::Brain, up)) = self.remove(number) {
                self.brain_up = up;
            }
        }
        if batch.count == 0 {
            return None;
        }
        self.credit -= batch.bytes;
        Some(batch.finish())
    }

    fn tell_counts(&mut self, batch: &mut Batch) {
        if !std::mem::take(&mut self.counts_due) {
            return;
        }
        for counter in Counter::ALL {
            let n = &mut self.counted[counter as usize];
            if *n == 0 {
                continue;
            }
            let mut term = Writer::part(32);
            term.tagged(3, "counted");
            term.atom(counter.name());
            term.uint(*n);
            if batch.add(&term.finish()) {
                *n = 0;
            } else {
                self.counts_due = true;
            }
        }
    }

    /// Once half of the queue has gone, so that a Brain that is merely slow
    /// does not fetch the same again and again.
    fn tell_dirty(&mut self, batch: &mut Batch) {
        if self.all_dirty {
            // Where Brain believes BRAIN to be down, its coming is still to be told.
            let turns = if self.brain_up {
                [false, true].map(|up| Event::spine(Which::Brain, up).term)
            } else {
                [Vec::new(), Vec::new()]
            };
            let turns = turns.concat();
            if !turns.is_empty() && !batch.add_many(&turns, 2) {
                return;
            }
            self.all_dirty = false;
        }
        while !self.dirty.is_empty() {
            let some: Vec<_> = self.dirty.iter().take(DIRTY_TOLD).cloned().collect();
            let mut term = Writer::part(128 * some.len());
            term.tagged(2, "dirty");
            term.each(&some, |term, (account, shield)| {
                term.tuple(2);
                term.binary(account.as_bytes());
                term.binary(shield.as_bytes());
            });
            if !batch.add(&term.finish()) {
                return;
            }
            for pair in &some {
                self.dirty.remove(pair);
            }
        }
    }

    fn soil(&mut self, account: Box<str>, shield: Box<str>) {
        if self.all_dirty {
            return;
        }
        self.dirty.insert((account, shield));
        if self.dirty.len() > DIRTY {
            self.dirty = BTreeSet::new();
            self.all_dirty = true;
        }
    }

    fn drop_one(&mut self) {
        self.counted[Counter::Dropped as usize] += 1;
    }

    /// Drops all that waits of one connection.
    fn forget(&mut self, which: Which) {
        let of = |event: &Event| match event.kind {
            Kind::Spine(of, _) => of,
            Kind::Report(_) => Which::Control,
            Kind::Changes { .. } | Kind::Page | Kind::Query => Which::Brain,
        };
        let numbers = self.waiting.iter().filter(|(_, event)| of(event) == which);
        let numbers: Vec<u64> = numbers.map(|(number, _)| *number).collect();
        for number in numbers {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Kind> {
        let event = self.waiting.remove(&number)?;
        let len = event.term.len();
        match &event.kind {
            Kind::Spine(which, _) => self.turns[*which as usize] -= 1,
            Kind::Changes { .. } | Kind::Page => self.bulk -= len,
            Kind::Query => {
                self.query_bytes -= len;
                // In order of their numbers, and taken out from the front, but
                // for a connection that is forgotten whole.
                if self.queries.front() == Some(&number) {
                    self.queries.pop_front();
                } else {
                    self.queries.retain(|query| *query != number);
                }
            }
            Kind::Report(report) => {
                self.report_bytes -= len;
                self.reports.remove(report);
            }
        }
        Some(event.kind)
    }
}

// === impl Batch ===

impl Batch {
    /// Adds an event if there is room and credit for it.
    fn add(&mut self, term: &[u8]) -> bool {
        self.add_many(term, 1)
    }

    fn add_many(&mut self, terms: &[u8], count: usize) -> bool {
        let bytes = self.bytes + terms.len();
        // An event larger than a batch goes alone; none is larger than all credit.
        if bytes > self.credit || (bytes > BATCH && self.count > 0) {
            return false;
        }
        self.events.raw(terms);
        self.bytes = bytes;
        self.count += count;
        true
    }

    fn finish(self) -> Vec<u8> {
        let mut frame = Writer::term();
        frame.tagged(3, "batch");
        frame.uint(self.bytes as u64);
        frame.list(self.count);
        frame.raw(&self.events.finish());
        frame.nil();
        frame.finish()
    }
}

#[cfg(test)]
mod tests;
