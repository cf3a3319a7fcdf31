//! Memory of connections that do nothing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    dialect::{Signal, Template, join},
    engine::{Endpoint, Engine, Event},
    process::{self, Process},
};
use crate::failure::{Doing, Failure, Result};
use crate::progress::Progress;

/// Connections in the making at once.
const OPENING: usize = 32;

/// What came of it.
pub(super) struct Outcome {
    pub(super) connections: usize,
    pub(super) seconds: f64,
    /// Resident bytes before, by process.
    pub(super) before: BTreeMap<String, u64>,
    /// With all connections open and settled.
    pub(super) idle: BTreeMap<String, u64>,
    /// After each has heard one message, where asked for.
    pub(super) after: Option<BTreeMap<String, u64>>,
    /// CPU seconds a second of doing nothing, by process.
    pub(super) cpu: BTreeMap<String, f64>,
    pub(super) problems: BTreeMap<String, u64>,
}

/// What to do.
pub(super) struct Plan {
    pub(super) count: usize,
    pub(super) settle: Duration,
    /// Connections of a room; 0: no room is joined.
    pub(super) room_of: usize,
}

/// Opens `count` connections, lets them settle and reads the servers' memory.
pub(super) fn run(
    endpoint: &Endpoint,
    tokens: &[String],
    plan: &Plan,
    processes: &[Process],
) -> Result<Outcome> {
    let mut engine = Engine::new(endpoint.clone()).doing("cannot make a poll")?;
    let peer = engine.peer();
    let before = process::rss(processes)?;
    let mut problems = BTreeMap::new();
    let (mut opened, mut joined, mut heard, mut ended) = (Vec::new(), 0, 0_usize, 0_usize);
    let mut told = |opened: &mut Vec<usize>,
                    joined: &mut usize,
                    heard: &mut usize,
                    ended: &mut usize,
                    id,
                    event: Event<'_>| match event {
        Event::Told(Signal::Open) => opened.push(id),
        Event::Told(Signal::Joined) => *joined += 1,
        Event::Told(Signal::Delivered(_)) => *heard += 1,
        Event::Told(Signal::Gap { reason, .. }) => {
            *problems.entry(format!("GAP {reason}")).or_insert(0) += 1;
        }
        Event::Told(Signal::Problem(what)) => *problems.entry(what).or_insert(0_u64) += 1,
        Event::Ended(why) => {
            *ended += 1;
            *problems.entry(why).or_insert(0) += 1;
        }
    };
    let room = |id: usize| format!("idle.r{}", id.checked_div(plan.room_of).unwrap_or(0));
    let begun = Instant::now();
    let (mut started, mut open, mut progress) = (0, 0, Instant::now());
    let joins = plan.room_of > 0;
    let bar = Progress::counted("opening connections", plan.count);
    while open < plan.count || (joins && joined < plan.count) {
        while started < plan.count && started < open + OPENING {
            let token = (!tokens.is_empty()).then(|| tokens[started % tokens.len()].as_str());
            engine.open(token).doing("cannot open a connection")?;
            started += 1;
        }
        let seen = open + joined;
        engine.turn(Duration::from_millis(5), &mut |id, event| {
            told(&mut opened, &mut joined, &mut heard, &mut ended, id, event);
        })?;
        for id in opened.drain(..) {
            open += 1;
            if joins {
                engine.send(id, |out| {
                    out.extend_from_slice(&join(peer, &room(id), true))
                });
            }
        }
        if ended > 0 {
            break;
        }
        if open + joined > seen {
            progress = Instant::now();
            bar.done(if joins { joined } else { open });
        } else if progress.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
    drop(bar);
    let seconds = begun.elapsed().as_secs_f64();
    let _settling = Progress::waiting("the connections settle");
    let mut wait = |engine: &mut Engine,
                    time: Duration,
                    heard: &mut usize,
                    ended: &mut usize|
     -> std::io::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            engine.turn(Duration::from_millis(20), &mut |id, event| {
                told(&mut Vec::new(), &mut 0, heard, ended, id, event);
            })?;
        }
        Ok(())
    };
    wait(&mut engine, Duration::from_secs(2), &mut heard, &mut ended)?;
    let cpu_before = process::cpu(processes)?;
    wait(&mut engine, plan.settle, &mut heard, &mut ended)?;
    let cpu = process::cpu_between(&cpu_before, &process::cpu(processes)?)
        .into_iter()
        .map(|(name, used)| (name, used / plan.settle.as_secs_f64()))
        .collect();
    let idle = process::rss(processes)?;
    let mut after = None;
    if joins && ended == 0 {
        let rooms: Vec<usize> = (0..plan.count).step_by(plan.room_of).collect();
        for &id in &rooms {
            let now = engine.now();
            engine.send(id, |out| {
                Template::new(peer, &room(id), 512).write(out, now)
            });
        }
        wait(&mut engine, Duration::from_secs(2), &mut heard, &mut ended)?;
        after = Some(process::rss(processes)?);
        if heard != plan.count {
            *problems
                .entry(format!("{heard} of {} heard the message", plan.count))
                .or_insert(0) += 1;
        }
    }
    if ended > 0 || open < plan.count {
        return Err(Failure::new(format!(
            "{open} of {} connections stood, {ended} ended: {problems:?}",
            plan.count
        )));
    }
    Ok(Outcome {
        connections: plan.count,
        seconds,
        before,
        idle,
        after,
        cpu,
        problems,
    })
}
