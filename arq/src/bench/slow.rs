//! Readers that stop reading: what it costs the server, its other readers and themselves.
//!
//! Three spans at the same rate: all read; some stall; those read again. What the healthy ones
//! wait for a message is timed in each, the server's memory is looked at all the while, and of
//! every stalled one it is known how many messages it was sent, heard, and was told to have missed.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use arqon_proto::codes::CloseCode;
use hdrhistogram::Histogram;

use super::{
    dialect::{Signal, Template, join},
    engine::{Endpoint, Engine, Event},
    process::{self, Process},
};
use crate::failure::{Doing, Failure, Result};
use crate::progress::Progress;

const OPENING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(20);
/// How often memory is read.
const LOOK: Duration = Duration::from_millis(250);

/// What to do.
pub(super) struct Plan {
    pub(super) members: usize,
    pub(super) stalled: usize,
    pub(super) rooms: usize,
    pub(super) payload: usize,
    /// Publishes a second, over all rooms.
    pub(super) rate: f64,
    pub(super) calm: Duration,
    pub(super) stall: Duration,
}

/// What came of it.
pub(super) struct Outcome {
    /// What the healthy waited, before, while and after others stalled.
    pub(super) healthy: [Histogram<u64>; 3],
    /// Messages that a healthy one neither heard nor was told to have missed.
    pub(super) healthy_lost: u64,
    /// That a healthy one was told to have missed.
    pub(super) healthy_missed: u64,
    /// Resident bytes of all processes: before, the most while some stalled, after.
    pub(super) rss: [u64; 3],
    /// Stalled ones that were closed, and read that it was for reading too slowly.
    pub(super) told_slow_reader: u64,
    /// That are still connected, and were told how much they missed.
    pub(super) told_gap: u64,
    /// That missed nothing.
    pub(super) kept_up: u64,
    /// That ended otherwise.
    pub(super) ended: BTreeMap<String, u64>,
    /// Messages that one still connected neither heard nor was told to have missed.
    pub(super) unaccounted: u64,
    /// Messages that were told as missed.
    pub(super) missed: u64,
    pub(super) published: u64,
}

struct Tally {
    opened: Vec<usize>,
    joined: usize,
    span: usize,
    healthy: [Histogram<u64>; 3],
    heard: Vec<u64>,
    missed: Vec<u64>,
    ended: HashMap<usize, String>,
    problems: BTreeMap<String, u64>,
}

struct Run<'a> {
    plan: &'a Plan,
    engine: Engine,
    tally: Tally,
    publishers: Vec<(usize, Template)>,
    /// Messages to each room.
    sent: Vec<u64>,
    next: usize,
}

/// Members are the first connections, publishers the last, one for each room.
pub(super) fn run(
    endpoint: &Endpoint,
    tokens: &[String],
    plan: &Plan,
    processes: &[Process],
) -> Result<Outcome> {
    let mut run = Run::build(endpoint, tokens, plan)?;
    let rss = || process::rss(processes).map(|all| all.values().sum::<u64>());
    let mut most = 0;
    run.publish(plan.calm, "everybody reads", &mut || Ok(()))?;
    let before = rss()?;
    run.tally.span = 1;
    for id in (0..plan.members).filter(|id| plan.stalls(*id)) {
        run.engine.stall(id);
    }
    run.publish(plan.stall, "some read nothing", &mut || {
        most = rss()?.max(most);
        Ok(())
    })?;
    run.tally.span = 2;
    run.resume();
    run.publish(plan.calm, "they read again", &mut || Ok(()))?;
    run.settle()?;
    let after = rss()?;
    run.outcome([before, most, after])
}

// === impl Plan ===

impl Plan {
    /// The stalled are spread evenly over the rooms.
    fn stalls(&self, id: usize) -> bool {
        (id + 1) * self.stalled / self.members > id * self.stalled / self.members
    }

    fn room(&self, id: usize) -> usize {
        match id.checked_sub(self.members) {
            Some(publisher) => publisher,
            None => id * self.rooms / self.members,
        }
    }
}

// === impl Run ===

impl<'a> Run<'a> {
    fn build(endpoint: &Endpoint, tokens: &[String], plan: &'a Plan) -> Result<Self> {
        let engine = Engine::new(endpoint.clone()).doing("cannot make a poll")?;
        let peer = engine.peer();
        let new = || Histogram::new_with_bounds(1_000, 120_000_000_000, 3);
        let name = |room: usize| format!("bench.slow{room}");
        let mut run = Self {
            plan,
            engine,
            tally: Tally {
                opened: Vec::new(),
                joined: 0,
                span: 0,
                healthy: [new()?, new()?, new()?],
                heard: vec![0; plan.members],
                missed: vec![0; plan.members],
                ended: HashMap::new(),
                problems: BTreeMap::new(),
            },
            publishers: (0..plan.rooms)
                .map(|room| {
                    let template = Template::new(peer, &name(room), plan.payload);
                    (plan.members + room, template)
                })
                .collect(),
            sent: vec![0; plan.rooms],
            next: 0,
        };
        let total = plan.members + plan.rooms;
        let (mut started, mut open, mut progress) = (0, 0, Instant::now());
        let bar = Progress::counted("opening connections", total);
        while run.tally.joined < total {
            while started < total && started < open + OPENING {
                let token = (!tokens.is_empty()).then(|| tokens[started % tokens.len()].as_str());
                run.engine.open(token).doing("cannot open a connection")?;
                started += 1;
            }
            let seen = open + run.tally.joined;
            run.turn(Duration::from_millis(5))?;
            for id in std::mem::take(&mut run.tally.opened) {
                open += 1;
                let room = name(plan.room(id));
                // Publishers do not hear themselves.
                let echo = id < plan.members;
                run.engine
                    .send(id, |out| out.extend_from_slice(&join(peer, &room, echo)));
            }
            if !run.tally.ended.is_empty() || !run.tally.problems.is_empty() {
                break;
            }
            if open + run.tally.joined > seen {
                progress = Instant::now();
                bar.done(run.tally.joined);
            } else if progress.elapsed() > PATIENCE {
                break;
            }
        }
        if run.tally.joined < total {
            return Err(Failure::new(format!(
                "{} of {total} connections joined: {:?} {:?}",
                run.tally.joined,
                run.tally.problems,
                run.tally.ended.values().next()
            )));
        }
        Ok(run)
    }

    /// Publishes for a while and looks about now and then.
    fn publish(
        &mut self,
        time: Duration,
        what: &str,
        look: &mut dyn FnMut() -> std::io::Result<()>,
    ) -> Result {
        let bar = Progress::timed(what.to_owned(), time);
        let begun = Instant::now();
        let start = self.engine.now();
        let interval = 1e9 / self.plan.rate;
        let (mut sent, mut looked) = (0_u64, Instant::now());
        while begun.elapsed() < time {
            let due = ((self.engine.now() - start) as f64 / interval) as u64;
            while sent < due {
                let (id, template) = &self.publishers[self.next];
                let at = start + (sent as f64 * interval) as u64;
                self.engine.send(*id, |out| template.write(out, at));
                self.sent[self.next] += 1;
                self.next = (self.next + 1) % self.publishers.len();
                sent += 1;
            }
            self.turn(Duration::from_millis(1))?;
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                look()?;
                bar.passed(begun.elapsed());
            }
            if let Some((_, why)) = self.tally.ended.iter().find(|(id, _)| self.is_vital(**id)) {
                return Err(Failure::new(format!("a healthy connection ended: {why}")));
            }
        }
        Ok(())
    }

    fn is_vital(&self, id: usize) -> bool {
        id >= self.plan.members || !self.plan.stalls(id)
    }

    fn resume(&mut self) {
        let plan = self.plan;
        for id in (0..plan.members).filter(|id| plan.stalls(*id)) {
            let tally = &mut self.tally;
            let clock = self.engine.clock();
            self.engine.resume(id, &mut |id, event| {
                tally.note(plan, clock.now(), id, event)
            });
        }
    }

    /// Reads what is still on its way.
    fn settle(&mut self) -> Result {
        let (mut seen, mut progress) = (0, Instant::now());
        while progress.elapsed() < Duration::from_secs(2) {
            self.turn(Duration::from_millis(5))?;
            let heard = self.tally.heard.iter().sum::<u64>() + self.tally.ended.len() as u64;
            if heard > seen {
                (seen, progress) = (heard, Instant::now());
            }
        }
        Ok(())
    }

    fn turn(&mut self, timeout: Duration) -> std::io::Result<()> {
        let (plan, tally) = (self.plan, &mut self.tally);
        let clock = self.engine.clock();
        self.engine.turn(timeout, &mut |id, event| {
            tally.note(plan, clock.now(), id, event)
        })
    }

    fn outcome(self, rss: [u64; 3]) -> Result<Outcome> {
        let (plan, tally) = (self.plan, self.tally);
        let mut outcome = Outcome {
            healthy: tally.healthy,
            healthy_lost: 0,
            healthy_missed: 0,
            rss,
            told_slow_reader: 0,
            told_gap: 0,
            kept_up: 0,
            ended: BTreeMap::new(),
            unaccounted: 0,
            missed: 0,
            published: self.sent.iter().sum(),
        };
        let slow_reader = format!(" {} ", CloseCode::SlowReader.number());
        for id in 0..plan.members {
            let known = tally.heard[id] + tally.missed[id];
            let silent = self.sent[plan.room(id)].saturating_sub(known);
            if !plan.stalls(id) {
                outcome.healthy_lost += silent;
                outcome.healthy_missed += tally.missed[id];
                continue;
            }
            outcome.missed += tally.missed[id];
            match tally.ended.get(&id) {
                Some(why) if why.contains(&slow_reader) => outcome.told_slow_reader += 1,
                Some(why) => *outcome.ended.entry(why.clone()).or_insert(0) += 1,
                None => {
                    outcome.unaccounted += silent;
                    match tally.missed[id] {
                        0 => outcome.kept_up += 1,
                        _ => outcome.told_gap += 1,
                    }
                }
            }
        }
        Ok(outcome)
    }
}

// === impl Tally ===

impl Tally {
    fn note(&mut self, plan: &Plan, now: u64, id: usize, event: Event<'_>) {
        match event {
            Event::Told(Signal::Open) => self.opened.push(id),
            Event::Told(Signal::Joined) => self.joined += 1,
            Event::Told(Signal::Delivered(delivery)) if id < plan.members => {
                self.heard[id] += 1;
                if !plan.stalls(id)
                    && let Some(stamp) = delivery.stamp()
                {
                    self.healthy[self.span].saturating_record(now.saturating_sub(stamp));
                }
            }
            Event::Told(Signal::Gap { missed, .. }) if id < plan.members => {
                self.missed[id] += missed.unwrap_or(0);
            }
            Event::Told(Signal::Delivered(_) | Signal::Gap { .. }) => {}
            Event::Told(Signal::Problem(what)) => *self.problems.entry(what).or_insert(0) += 1,
            Event::Ended(why) => {
                self.ended.insert(id, why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stalled_are_spread_and_as_many_as_asked_for() {
        for (members, stalled, rooms) in [(1000, 200, 100), (10, 3, 2), (7, 7, 1), (5, 0, 5)] {
            let plan = Plan {
                members,
                stalled,
                rooms,
                payload: 64,
                rate: 1.0,
                calm: Duration::ZERO,
                stall: Duration::ZERO,
            };
            assert_eq!((0..members).filter(|id| plan.stalls(*id)).count(), stalled);
            let mut of_room = vec![0; rooms];
            (0..members).for_each(|id| of_room[plan.room(id)] += 1);
            assert!(of_room.iter().all(|count| *count > 0), "{of_room:?}");
            assert_eq!(plan.room(members + rooms - 1), rooms - 1);
        }
    }
}
