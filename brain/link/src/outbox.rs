//! What is on its way to Brain: the queue of events, and what needs no credit.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::counters::{Counter, Counters};
use crate::etf::Writer;
use crate::inbound::Event;
use crate::queue::Queue;

/// Answers to pings that wait; beyond, the oldest are dropped.
const PONGS: usize = 64;
/// Answers to scrapes that wait, likewise. Brain gives each up after a second.
const SCRAPES: usize = 32;

/// Shared by all who have something to tell. Clones share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    counters: Counters,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    pongs: VecDeque<u64>,
    scrapes: VecDeque<(u64, String)>,
    /// Credit to be given back.
    spent: u64,
}

// === impl Outbox ===

impl Outbox {
    /// Adds events in order.
    pub(crate) fn push(&self, events: impl IntoIterator<Item = Event>) {
        let mut state = self.lock();
        events.into_iter().for_each(|event| state.queue.push(event));
        self.shared.wake.notify_one();
    }

    /// Brain gives credit.
    pub(crate) fn give(&self, credit: u64) {
        self.lock().queue.give(credit);
        self.shared.wake.notify_one();
    }

    /// Gives Brain's credit back.
    pub(crate) fn spent(&self, cost: u64) {
        let mut state = self.lock();
        state.spent = state.spent.saturating_add(cost);
        self.shared.wake.notify_one();
    }

    /// Answers a ping.
    pub(crate) fn pong(&self, n: u64) {
        let mut state = self.lock();
        if state.pongs.len() == PONGS {
            state.pongs.pop_front();
        }
        state.pongs.push_back(n);
        self.shared.wake.notify_one();
    }

    /// Answers a scrape.
    pub(crate) fn scraped(&self, id: u64, text: String) {
        let mut state = self.lock();
        if state.scrapes.len() == SCRAPES {
            state.scrapes.pop_front();
        }
        state.scrapes.push_back((id, text));
        self.shared.wake.notify_one();
    }

    /// Counts something, to be told within a second.
    pub(crate) fn count(&self, counter: Counter, n: u64) {
        self.shared.counters.add(counter, n);
    }

    /// Tells what was counted; to be called once a second.
    pub(crate) fn tell_counts(&self) {
        self.lock().queue.count(self.shared.counters.take());
        self.shared.wake.notify_one();
    }

    /// The next frames, each behind its length; waits for there to be some.
    pub(crate) fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        loop {
            let mut bytes = Vec::new();
            for n in state.pongs.drain(..) {
                frame(&mut bytes, &number("pong", n));
            }
            for (id, text) in state.scrapes.drain(..) {
                let mut term = Writer::term();
                term.tagged(3, "scraped");
                term.uint(id);
                term.binary(text.as_bytes());
                frame(&mut bytes, &term.finish());
            }
            if state.spent > 0 {
                frame(&mut bytes, &number("credit", state.spent));
                state.spent = 0;
            }
            if let Some(batch) = state.queue.batch() {
                frame(&mut bytes, &batch);
            }
            if !bytes.is_empty() {
                return bytes;
            }
            state = self
                .shared
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; a poisoned queue is still a queue.
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a frame behind its length.
pub(crate) fn frame(out: &mut Vec<u8>, body: &[u8]) {
    let len = u32::try_from(body.len()).expect("no frame is that long");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(body);
}

fn number(tag: &str, n: u64) -> Vec<u8> {
    let mut term = Writer::term();
    term.tagged(2, tag);
    term.uint(n);
    term.finish()
}
