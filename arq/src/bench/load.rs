//! Messages at a rate: rooms with one publisher and some members each, everything counted.
//!
//! A message carries the time at which it was due, not the time at which the generator came
//! round to writing it, so that a generator or a server that falls behind shows it.

use std::{
    collections::BTreeMap,
    io,
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

/// Connections opened at once while a stage is built.
const OPENING: usize = 64;
/// How long a stage may take to stand, and a backlog to drain, without progress.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often the bar is told of the time; seldom, since what tells it has the core to itself.
const DRAW_NANOS: u64 = 200_000_000;
/// Above this many deliveries a second, one in sixteen is timed.
const SAMPLE_ABOVE: f64 = 200_000.0;

/// Who is connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) rooms: usize,
    pub(super) members: usize,
    pub(super) payload: usize,
}

/// How hard and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Publishes a second, over all rooms.
    pub(super) rate: f64,
    /// Publishes due within one tick are written together; zero: each when it is due.
    pub(super) tick: Duration,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) rate: f64,
    pub(super) lost: u64,
    /// Deliveries a second inside the measured window.
    pub(super) deliveries_per_s: f64,
    pub(super) latency: Histogram<u64>,
    /// Length of that window.
    pub(super) seconds: f64,
    /// CPU seconds in the window, by process.
    pub(super) cpu: BTreeMap<String, f64>,
    /// CPU seconds per million deliveries, by process.
    pub(super) cpu_per_million: BTreeMap<String, f64>,
    pub(super) problems: BTreeMap<String, u64>,
    pub(super) ended: u64,
}

impl Outcome {
    /// A latency quantile in milliseconds.
    pub(super) fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }

    /// Whether the rate was carried: nothing lost, and on time.
    pub(super) fn carried(&self, shape: Shape, p99_limit_ms: f64) -> bool {
        let wanted = self.rate * shape.members as f64;
        self.lost == 0
            && self.ended == 0
            && self.problems.is_empty()
            && self.deliveries_per_s > wanted * 0.97
            && self.ms(0.99) < p99_limit_ms
    }
}

/// Publishers and members, connected and joined.
pub(super) struct Stage {
    engine: Engine,
    publishers: Vec<(usize, Template)>,
    shape: Shape,
    tally: Tally,
}

struct Tally {
    opened: Vec<usize>,
    joined: usize,
    delivered: u64,
    sample_mask: u64,
    timed_from: u64,
    latency: Histogram<u64>,
    problems: BTreeMap<String, u64>,
    ended: u64,
}

// === impl Stage ===

impl Stage {
    /// Connects and joins everybody.
    pub(super) fn build(endpoint: &Endpoint, tokens: &[String], shape: Shape) -> Result<Self> {
        let engine = Engine::new(endpoint.clone()).doing("cannot make a poll")?;
        let peer = engine.peer();
        let tally = Tally {
            opened: Vec::new(),
            joined: 0,
            delivered: 0,
            sample_mask: 0,
            timed_from: 0,
            latency: Histogram::new_with_bounds(1_000, 60_000_000_000, 3)?,
            problems: BTreeMap::new(),
            ended: 0,
        };
        let per_room = shape.members + 1;
        let total = shape.rooms * per_room;
        let room_of = |id: usize| format!("bench.r{}", id / per_room);
        // Of each room the first connection publishes and hears nothing of it.
        let publishes = |id: usize| id.is_multiple_of(per_room);
        let mut stage = Self {
            engine,
            publishers: Vec::new(),
            shape,
            tally,
        };
        let (mut started, mut asked, mut progress) = (0, 0, Instant::now());
        let joining = |id: usize| !publishes(id) || peer == super::dialect::Peer::Shield;
        let expected = (0..total).filter(|&id| joining(id)).count();
        while stage.tally.joined < expected || asked < total {
            while started < total && started < asked + OPENING {
                let token = (!tokens.is_empty())
                    .then(|| tokens[started / per_room % tokens.len()].as_str());
                stage.engine.open(token).doing("cannot open a connection")?;
                started += 1;
            }
            let before = asked + stage.tally.joined;
            stage.turn(Duration::from_millis(5))?;
            for id in std::mem::take(&mut stage.tally.opened) {
                asked += 1;
                if joining(id) {
                    stage.engine.send(id, |out| {
                        out.extend_from_slice(&join(peer, &room_of(id), !publishes(id)))
                    });
                }
            }
            if stage.tally.ended > 0 || !stage.tally.problems.is_empty() {
                return Err(Failure::new(format!(
                    "the connections do not stand: {:?}",
                    stage.tally.problems
                )));
            }
            if asked + stage.tally.joined > before {
                progress = Instant::now();
            } else if progress.elapsed() > PATIENCE {
                return Err(Failure::new(format!(
                    "{asked} of {total} connections opened and {} of {expected} joined in time",
                    stage.tally.joined
                )));
            }
        }
        stage.publishers = (0..total)
            .filter(|&id| publishes(id))
            .map(|id| (id, Template::new(peer, &room_of(id), shape.payload)))
            .collect();
        Ok(stage)
    }

    /// Whether all connections of the stage still live.
    pub(super) fn whole(&self) -> bool {
        self.tally.ended == 0
    }

    /// Publishes at a pace and waits for what is still on its way.
    pub(super) fn run(&mut self, pace: Pace, processes: &[Process]) -> Result<Outcome> {
        let members = self.shape.members as u64;
        let tally = &mut self.tally;
        tally.delivered = 0;
        tally.latency.reset();
        tally.problems.clear();
        tally.sample_mask = if pace.rate * members as f64 > SAMPLE_ABOVE {
            15
        } else {
            0
        };
        let start = self.engine.now();
        let timed_from = start + pace.warmup.as_nanos() as u64;
        let end = timed_from + pace.duration.as_nanos() as u64;
        tally.timed_from = timed_from;
        let interval = 1e9 / pace.rate;
        let tick = pace.tick.as_nanos() as u64;
        let mut sent = 0_u64;
        let mut window = None;
        let mut next_publisher = 0;
        let bar = Progress::timed(
            format!("publishing {:.0}/s", pace.rate),
            pace.warmup + pace.duration,
        );
        let mut drawn = start;
        loop {
            let now = self.engine.now();
            if now - drawn > DRAW_NANOS {
                drawn = now;
                bar.passed(Duration::from_nanos(now - start));
            }
            if window.is_none() && now >= timed_from {
                window = Some((now, self.tally.delivered, process::cpu(processes)?));
            }
            if now >= end {
                break;
            }
            let passed = now - start;
            let whole_ticks = passed
                .checked_div(tick)
                .map_or(passed, |ticks| ticks * tick);
            let due = (whole_ticks as f64 / interval) as u64;
            while sent < due {
                let at = if tick == 0 {
                    start + (sent as f64 * interval) as u64
                } else {
                    start + whole_ticks
                };
                let (id, template) = &self.publishers[next_publisher];
                self.engine.send(*id, |out| template.write(out, at));
                next_publisher = (next_publisher + 1) % self.publishers.len();
                sent += 1;
            }
            // The generator has its core to itself, so it spins: a sleep here wakes late.
            self.turn(Duration::ZERO)?;
            if self.tally.ended > 0 || self.engine.backlog_over(64 << 20) {
                break;
            }
        }
        drop(bar);
        let (from, delivered_before, cpu_before) =
            window.unwrap_or_else(|| (start, 0, process::cpu(processes).unwrap_or_default()));
        let cpu = process::cpu_between(&cpu_before, &process::cpu(processes)?);
        let in_window = self.tally.delivered - delivered_before;
        let seconds = (self.engine.now() - from) as f64 / 1e9;
        let expected = sent * members;
        let (mut seen, mut progress) = (0, Instant::now());
        while self.tally.delivered < expected
            && self.tally.ended == 0
            && progress.elapsed() < Duration::from_secs(3)
        {
            self.turn(Duration::from_millis(5))?;
            if self.tally.delivered > seen {
                (seen, progress) = (self.tally.delivered, Instant::now());
            }
        }
        let millions = in_window as f64 / 1e6;
        Ok(Outcome {
            rate: pace.rate,
            lost: expected.saturating_sub(self.tally.delivered),
            deliveries_per_s: in_window as f64 / seconds,
            latency: self.tally.latency.clone(),
            cpu_per_million: cpu
                .iter()
                .map(|(name, used)| (name.clone(), used / millions))
                .collect(),
            seconds,
            cpu,
            problems: self.tally.problems.clone(),
            ended: self.tally.ended,
        })
    }

    fn turn(&mut self, timeout: Duration) -> io::Result<()> {
        let (engine, tally) = (&mut self.engine, &mut self.tally);
        let clock = engine.clock();
        engine.turn(timeout, &mut |id, event| match event {
            Event::Told(Signal::Delivered(delivery)) => {
                tally.delivered += 1;
                if tally.delivered & tally.sample_mask == 0
                    && let Some(stamp) = delivery.stamp()
                    && stamp >= tally.timed_from
                {
                    tally
                        .latency
                        .saturating_record(clock.now().saturating_sub(stamp));
                }
            }
            Event::Told(Signal::Open) => tally.opened.push(id),
            Event::Told(Signal::Joined) => tally.joined += 1,
            Event::Told(Signal::Gap { reason, .. }) => {
                *tally.problems.entry(format!("GAP {reason}")).or_insert(0) += 1;
            }
            Event::Told(Signal::Problem(what)) => *tally.problems.entry(what).or_insert(0) += 1,
            Event::Ended(why) => {
                tally.ended += 1;
                *tally.problems.entry(why).or_insert(0) += 1;
            }
        })
    }
}

/// The highest rate that is carried with a p99 under the limit: doubled, then bisected.
/// A rate that failed is tried once more, since the machine may have been taken away.
pub(super) fn search(
    endpoint: &Endpoint,
    tokens: &[String],
    shape: Shape,
    mut pace: Pace,
    p99_limit_ms: f64,
    processes: &[Process],
    note: &dyn Fn(String),
) -> Result<Outcome> {
    let mut stage = Stage::build(endpoint, tokens, shape)?;
    let mut best: Option<Outcome> = None;
    let mut ceiling: Option<f64> = None;
    loop {
        let mut outcome = None;
        for _ in 0..2 {
            if !stage.whole() {
                stage = Stage::build(endpoint, tokens, shape)?;
            }
            let tried = stage.run(pace, processes)?;
            let carried = tried.carried(shape, p99_limit_ms);
            note(format!(
                "{:.0}/s: {:.0} deliveries/s, p99 {:.1} ms, lost {}, {}{}",
                pace.rate,
                tried.deliveries_per_s,
                tried.ms(0.99),
                tried.lost,
                if carried { "carried" } else { "not carried" },
                tried
                    .problems
                    .keys()
                    .fold(String::new(), |text, what| text + ", " + what),
            ));
            if carried {
                outcome = Some(tried);
                break;
            }
        }
        match outcome {
            Some(outcome) => best = Some(outcome),
            None => ceiling = Some(pace.rate),
        }
        let floor = best.as_ref().map_or(0.0, |outcome| outcome.rate);
        pace.rate = match ceiling {
            None => pace.rate * 2.0,
            Some(ceiling) if floor == 0.0 && ceiling < 20.0 => {
                return Err(Failure::new("no rate is carried"));
            }
            Some(ceiling) if floor == 0.0 => ceiling / 4.0,
            Some(ceiling) if ceiling / floor < 1.05 => break,
            Some(ceiling) => (ceiling * floor).sqrt(),
        };
    }
    best.ok_or_else(|| Failure::new("no rate is carried"))
}
