//! Handshakes at a rate: TCP, TLS where asked for, the token, and the first server frame.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use hdrhistogram::Histogram;

use super::{
    dialect::{Signal, join},
    engine::{Endpoint, Engine, Event},
    process::{self, Process},
};
use crate::failure::{Doing, Failure, Result};
use crate::progress::Progress;

/// What came of it.
pub(super) struct Outcome {
    pub(super) opened: u64,
    pub(super) failed: u64,
    pub(super) handshake: Histogram<u64>,
    /// From the first byte to JOINED, where a room is joined.
    pub(super) joined: Histogram<u64>,
    pub(super) cpu: BTreeMap<String, f64>,
    pub(super) problems: BTreeMap<String, u64>,
}

/// Opens `count` connections at `rate` a second, the i-th with the i-th token in turn, and
/// closes each once it stands (and has joined `room`). Latency counts from when it was due.
pub(super) fn run(
    endpoint: &Endpoint,
    tokens: &[String],
    count: usize,
    rate: f64,
    room: Option<&str>,
    processes: &[Process],
) -> Result<Outcome> {
    let mut engine = Engine::new(endpoint.clone()).doing("cannot make a poll")?;
    let (peer, clock) = (engine.peer(), engine.clock());
    let histogram = || Histogram::new_with_bounds(1_000, 60_000_000_000, 3);
    let mut outcome = Outcome {
        opened: 0,
        failed: 0,
        handshake: histogram()?,
        joined: histogram()?,
        cpu: BTreeMap::new(),
        problems: BTreeMap::new(),
    };
    let cpu_before = process::cpu(processes)?;
    let start = clock.now();
    let interval = 1e9 / rate;
    let due = |i: usize| start + (i as f64 * interval) as u64;
    let (mut started, mut done, mut progress) = (0, 0, start);
    let mut stand = VecDeque::new();
    let mut finished = Vec::new();
    let bar = Progress::counted("connecting", count);
    while done < count {
        while started < count && clock.now() >= due(started) {
            let token = (!tokens.is_empty()).then(|| tokens[started % tokens.len()].as_str());
            engine.open(token).doing("cannot open a connection")?;
            started += 1;
        }
        engine.turn(Duration::ZERO, &mut |id, event| {
            let took = clock.now().saturating_sub(due(id));
            match event {
                Event::Told(Signal::Open) => {
                    outcome.opened += 1;
                    outcome.handshake.saturating_record(took);
                    stand.push_back(id);
                }
                Event::Told(Signal::Joined) => {
                    outcome.joined.saturating_record(took);
                    finished.push(id);
                }
                Event::Told(Signal::Delivered(_) | Signal::Gap { .. }) => {}
                Event::Told(Signal::Problem(what)) => {
                    *outcome.problems.entry(what).or_insert(0) += 1
                }
                Event::Ended(why) => {
                    outcome.failed += 1;
                    done += 1;
                    *outcome.problems.entry(why).or_insert(0) += 1;
                }
            }
        })?;
        for id in stand.drain(..) {
            match room {
                Some(room) => engine.send(id, |out| out.extend_from_slice(&join(peer, room, true))),
                None => finished.push(id),
            }
        }
        for id in finished.drain(..) {
            engine.close(id);
            done += 1;
            bar.done(done);
            progress = clock.now();
        }
        if clock
            .now()
            .saturating_sub(progress.max(due(started.saturating_sub(1))))
            > 15_000_000_000
        {
            return Err(Failure::new(format!(
                "{done} of {count} connections stood; the others hang: {:?}",
                outcome.problems
            )));
        }
    }
    outcome.cpu = process::cpu_between(&cpu_before, &process::cpu(processes)?);
    Ok(outcome)
}
