//! Thousands that come back at once: how they are served, and what those who stayed notice.
//!
//! Some connections stay and talk to each other all the time. The others are cut, all in one
//! moment, and come back: who is answered `503` waits as long as the answer says and tries again.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::{
    dialect::{Signal, Template, join},
    engine::{Endpoint, Engine, Event},
    process::{self, Process},
};
use crate::failure::{Doing, Failure, Result};
use crate::progress::Progress;

const OPENING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(60);
/// How often memory is read.
const LOOK: Duration = Duration::from_millis(250);
/// Members of each room of those that come back.
const ROOM_OF: usize = 100;

/// What to do.
pub(super) struct Plan {
    /// Who is cut and comes back.
    pub(super) clients: usize,
    /// Pairs that stay.
    pub(super) stayers: usize,
    /// Publishes a second, over all pairs.
    pub(super) rate: f64,
    /// How long the pairs are timed before.
    pub(super) calm: Duration,
}

/// What came of it.
pub(super) struct Outcome {
    /// What a message took between those who stayed, before and during.
    pub(super) stayed: [Histogram<u64>; 2],
    /// From connect to WELCOME, of attempts that were admitted.
    pub(super) handshake: Histogram<u64>,
    /// From the cut until the last was in its room again.
    pub(super) all_back: Duration,
    /// Attempts that were told to come back later.
    pub(super) told_later: u64,
    /// Attempts that ended otherwise, and were made again.
    pub(super) failed: BTreeMap<String, u64>,
    /// Messages between those who stayed that did not arrive.
    pub(super) stayers_lost: u64,
    /// Resident bytes: with all connected before, and the most while they came back.
    pub(super) rss: [u64; 2],
}

/// One that is to be connected: which client, its try, and since when.
#[derive(Clone, Copy)]
struct Attempt {
    client: usize,
    since: u64,
}

struct Run<'a> {
    plan: &'a Plan,
    tokens: &'a [String],
    engine: Engine,
    /// By connection. None: one of those who stay.
    attempts: Vec<Option<Attempt>>,
    /// Who tries again when: nanoseconds and client.
    later: BinaryHeap<Reverse<(u64, usize)>>,
    publishers: Vec<(usize, Template)>,
    next: usize,
    sent: u64,
    tally: Tally,
}

struct Tally {
    storm: bool,
    opened: Vec<usize>,
    ended: Vec<(usize, String)>,
    joined: usize,
    heard: u64,
    stayed: [Histogram<u64>; 2],
    problems: BTreeMap<String, u64>,
}

pub(super) fn run(
    endpoint: &Endpoint,
    tokens: &[String],
    plan: &Plan,
    processes: &[Process],
) -> Result<Outcome> {
    let mut run = Run::build(endpoint, tokens, plan)?;
    let rss = || process::rss(processes).map(|all| all.values().sum::<u64>());
    run.talk_for(plan.calm)?;
    let before = rss()?;
    let mut outcome = run.storm(&rss)?;
    outcome.rss[0] = before;
    Ok(outcome)
}

impl<'a> Run<'a> {
    /// Connects everybody, at a pace that is no storm.
    fn build(endpoint: &Endpoint, tokens: &'a [String], plan: &'a Plan) -> Result<Self> {
        let new = || Histogram::new_with_bounds(1_000, 120_000_000_000, 3);
        let mut run = Self {
            plan,
            tokens,
            engine: Engine::new(endpoint.clone()).doing("cannot make a poll")?,
            attempts: Vec::new(),
            later: BinaryHeap::new(),
            publishers: Vec::new(),
            next: 0,
            sent: 0,
            tally: Tally {
                storm: false,
                opened: Vec::new(),
                ended: Vec::new(),
                joined: 0,
                heard: 0,
                stayed: [new()?, new()?],
                problems: BTreeMap::new(),
            },
        };
        let peer = run.engine.peer();
        let stay = 2 * plan.stayers;
        let total = stay + plan.clients;
        let (mut open, mut progress) = (0, Instant::now());
        let bar = Progress::counted("opening connections", total);
        while run.tally.joined < total {
            while run.attempts.len() < total && run.attempts.len() < open + OPENING {
                let client = run.attempts.len().checked_sub(stay);
                run.open(client)?;
            }
            let seen = open + run.tally.joined;
            run.turn(Duration::from_millis(2))?;
            for id in std::mem::take(&mut run.tally.opened) {
                open += 1;
                run.join(id);
            }
            if let Some((_, why)) = run.tally.ended.first() {
                return Err(Failure::new(format!("a connection does not stand: {why}")));
            }
            if open + run.tally.joined > seen {
                progress = Instant::now();
                bar.done(run.tally.joined);
            } else if progress.elapsed() > PATIENCE {
                return Err(Failure::new(format!(
                    "{} of {total} connections joined in time: {:?}",
                    run.tally.joined, run.tally.problems
                )));
            }
        }
        run.publishers = (0..plan.stayers)
            .map(|pair| (2 * pair, Template::new(peer, &stayers_room(pair), 128)))
            .collect();
        Ok(run)
    }

    fn open(&mut self, client: Option<usize>) -> Result {
        let since = self.engine.now();
        let number = client.unwrap_or(self.attempts.len());
        let token = self.tokens.get(number % self.tokens.len().max(1));
        self.engine
            .open(token.map(String::as_str))
            .doing("cannot open a connection")?;
        self.attempts
            .push(client.map(|client| Attempt { client, since }));
        Ok(())
    }

    fn join(&mut self, id: usize) {
        let room = match self.attempts[id] {
            Some(attempt) => format!("bench.storm{}", attempt.client / ROOM_OF),
            None => stayers_room(id / 2),
        };
        let peer = self.engine.peer();
        let echo = self.attempts[id].is_some() || id % 2 == 1;
        self.engine
            .send(id, |out| out.extend_from_slice(&join(peer, &room, echo)));
    }

    fn talk_for(&mut self, time: Duration) -> Result {
        let bar = Progress::timed("those who stay talk", time);
        let (begun, start, sent) = (Instant::now(), self.engine.now(), self.sent);
        while begun.elapsed() < time {
            self.talk(start, sent);
            self.turn(Duration::from_millis(1))?;
            bar.passed(begun.elapsed());
        }
        Ok(())
    }

    /// Publishes what is due between those who stay.
    fn talk(&mut self, start: u64, before: u64) {
        let interval = 1e9 / self.plan.rate;
        let due = before + ((self.engine.now() - start) as f64 / interval) as u64;
        while self.sent < due {
            let at = start + ((self.sent - before) as f64 * interval) as u64;
            let (id, template) = &self.publishers[self.next];
            self.engine.send(*id, |out| template.write(out, at));
            self.next = (self.next + 1) % self.publishers.len();
            self.sent += 1;
        }
    }

    /// Cuts everybody but those who stay, and brings them back.
    fn storm(mut self, rss: &dyn Fn() -> std::io::Result<u64>) -> Result<Outcome> {
        let stay = 2 * self.plan.stayers;
        for id in stay..self.attempts.len() {
            self.engine.close(id);
        }
        self.tally.storm = true;
        self.tally.joined = 0;
        let mut outcome = Outcome {
            stayed: [
                Histogram::new_with_bounds(1_000, 120_000_000_000, 3)?,
                Histogram::new_with_bounds(1_000, 120_000_000_000, 3)?,
            ],
            handshake: Histogram::new_with_bounds(1_000, 120_000_000_000, 3)?,
            all_back: Duration::ZERO,
            told_later: 0,
            failed: BTreeMap::new(),
            stayers_lost: 0,
            rss: [0, 0],
        };
        let bar = Progress::counted("they come back", self.plan.clients);
        let (start, sent, begun) = (self.engine.now(), self.sent, Instant::now());
        let (mut looked, mut progress, mut seen) = (Instant::now(), Instant::now(), 0);
        let mut first = 0..self.plan.clients;
        while self.tally.joined < self.plan.clients {
            // As fast as a socket can be had: that is the storm.
            for client in first.by_ref().take(256) {
                self.open(Some(client))?;
            }
            while let Some(Reverse((due, client))) = self.later.peek().copied() {
                if due > self.engine.now() {
                    break;
                }
                self.later.pop();
                self.open(Some(client))?;
            }
            self.talk(start, sent);
            self.turn(Duration::from_micros(500))?;
            for id in std::mem::take(&mut self.tally.opened) {
                if let Some(attempt) = self.attempts[id] {
                    let took = self.engine.now().saturating_sub(attempt.since);
                    outcome.handshake.saturating_record(took);
                }
                self.join(id);
            }
            for (id, why) in std::mem::take(&mut self.tally.ended) {
                let Some(attempt) = self.attempts[id] else {
                    return Err(Failure::new(format!("one who stayed was cut: {why}")));
                };
                let wait = match later(&why) {
                    Some(wait) => {
                        outcome.told_later += 1;
                        wait
                    }
                    None => {
                        *outcome.failed.entry(why).or_insert(0) += 1;
                        Duration::from_secs(1)
                    }
                };
                let due = self.engine.now() + wait.as_nanos() as u64;
                self.later.push(Reverse((due, attempt.client)));
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                outcome.rss[1] = outcome.rss[1].max(rss()?);
                bar.done(self.tally.joined);
            }
            if self.tally.joined > seen {
                (seen, progress) = (self.tally.joined, Instant::now());
            } else if progress.elapsed() > PATIENCE {
                return Err(Failure::new(format!(
                    "{seen} of {} came back in time: {:?} {:?}",
                    self.plan.clients, outcome.failed, self.tally.problems
                )));
            }
        }
        outcome.all_back = begun.elapsed();
        outcome.rss[1] = outcome.rss[1].max(rss()?);
        drop(bar);
        let mut progress = Instant::now();
        while self.tally.heard < self.sent && progress.elapsed() < Duration::from_secs(3) {
            let heard = self.tally.heard;
            self.turn(Duration::from_millis(5))?;
            if self.tally.heard > heard {
                progress = Instant::now();
            }
        }
        outcome.stayers_lost = self.sent.saturating_sub(self.tally.heard);
        outcome.stayed = self.tally.stayed;
        for (what, count) in self.tally.problems {
            *outcome.failed.entry(what).or_insert(0) += count;
        }
        Ok(outcome)
    }

    fn turn(&mut self, timeout: Duration) -> std::io::Result<()> {
        let (tally, stay) = (&mut self.tally, 2 * self.plan.stayers);
        let clock = self.engine.clock();
        self.engine.turn(timeout, &mut |id, event| match event {
            Event::Told(Signal::Open) => tally.opened.push(id),
            Event::Told(Signal::Joined) => tally.joined += 1,
            Event::Told(Signal::Delivered(delivery)) if id < stay => {
                tally.heard += 1;
                if let Some(stamp) = delivery.stamp() {
                    let took = clock.now().saturating_sub(stamp);
                    tally.stayed[usize::from(tally.storm)].saturating_record(took);
                }
            }
            Event::Told(Signal::Delivered(_)) => {}
            Event::Told(Signal::Gap { reason, .. }) => {
                *tally.problems.entry(format!("GAP {reason}")).or_insert(0) += 1;
            }
            Event::Told(Signal::Problem(what)) => *tally.problems.entry(what).or_insert(0) += 1,
            Event::Ended(why) => tally.ended.push((id, why)),
        })
    }
}

fn stayers_room(pair: usize) -> String {
    format!("bench.stay{pair}")
}

/// How long a refusal asks to wait.
fn later(why: &str) -> Option<Duration> {
    let (_, rest) = why.split_once("retry-after: ")?;
    let seconds = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    seconds.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_how_long_to_wait() {
        let why = "refused: HTTP/1.1 503 Service Unavailable, retry-after: 3 {\"code\":3707}";
        assert_eq!(later(why), Some(Duration::from_secs(3)));
        assert_eq!(later("the server hung up"), None);
    }
}
