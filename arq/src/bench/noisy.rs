//! A tenant that publishes far beyond its quota, and what another one notices of it.
//!
//! Pairs of the quiet tenant are timed at one rate in three spans: alone, while the other tenant
//! publishes as much as it may, and while it publishes a multiple of that.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::json;

use super::{
    Measured,
    dialect::{Signal, Template, join},
    engine::{Endpoint, Engine, Event},
    process::{self, Process},
    quantiles,
    report::Record,
    target::Target,
};
use crate::Globals;
use crate::auth::{DevelopmentKey, TokenOptions, sign};
use crate::failure::{Doing, Failure, Result};
use crate::progress::Progress;

const PATIENCE: Duration = Duration::from_secs(20);
/// Of a span, this much at its start is not timed.
const SETTLE: f64 = 0.25;
/// What a refused PUBLISH is answered with.
const REFUSED: &str = "ERROR RATE_LIMITED";

#[derive(Debug, Args)]
pub(super) struct NoisyArgs {
    #[command(flatten)]
    target: Target,
    /// The noisy tenant
    #[arg(long, value_name = "ID")]
    noisy_tenant: String,
    /// Pairs of the quiet tenant
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    quiet: u32,
    /// Their publishes a second, over all pairs
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Sessions of the noisy tenant
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    noisy: u32,
    /// What the noisy tenant may publish a second: its `messages_per_sec`
    #[arg(long, default_value_t = 1000.0)]
    quota: f64,
    /// How many times that it publishes in the last span
    #[arg(long, default_value_t = 10.0)]
    times: f64,
    /// Payload bytes
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Seconds of each span
    #[arg(long, default_value_t = 20.0)]
    span: f64,
}

/// What came of it.
struct Outcome {
    /// What the quiet tenant's messages took: alone, beside the quota, beside a multiple of it.
    quiet: [Histogram<u64>; 3],
    /// Of its messages, how many never arrived.
    lost: u64,
    /// What the other one published in the second and third span.
    published: [u64; 2],
    /// What of it was refused.
    refused: [u64; 2],
    /// CPU seconds of the processes a second, in each span.
    cores: [f64; 3],
    problems: BTreeMap<String, u64>,
}

/// Measures, and tells what came of it.
pub(super) fn noisy(args: &NoisyArgs, globals: &Globals) -> Result<Record> {
    let (endpoint, tokens) = args.target.prepare(globals)?;
    let context = globals.context()?;
    let key = DevelopmentKey::open(&context, &globals.output)?;
    let claims = TokenOptions {
        tenant: Some(args.noisy_tenant.clone()),
        ..TokenOptions::default()
    }
    .claims(&context)?;
    let noisy_token = sign(&key, None, &claims)?;
    let measured = Measured::begin();
    let outcome = run(&endpoint, &tokens, &noisy_token, args)?;
    let mut record = args.target.record("noisy", &endpoint);
    record.params.extend([
        ("quiet_pairs".into(), json!(args.quiet)),
        ("quiet_rate".into(), json!(args.rate)),
        ("noisy_sessions".into(), json!(args.noisy)),
        ("quota".into(), json!(args.quota)),
        ("times".into(), json!(args.times)),
    ]);
    let prefixes = ["alone_", "quota_", "flood_"];
    for (prefix, latency) in prefixes.into_iter().zip(&outcome.quiet) {
        quantiles(&mut record, prefix, latency);
    }
    let p99 = |span: usize| outcome.quiet[span].value_at_quantile(0.99).max(1) as f64;
    let metrics = &mut record.metrics;
    metrics.insert("p99_flood_to_quota".into(), p99(2) / p99(1));
    metrics.insert("p99_flood_to_alone".into(), p99(2) / p99(0));
    metrics.insert("quiet_lost".into(), outcome.lost as f64);
    for (prefix, span) in [("quota_", 0), ("flood_", 1)] {
        let (published, refused) = (outcome.published[span], outcome.refused[span]);
        metrics.insert(format!("{prefix}published"), published as f64);
        metrics.insert(format!("{prefix}refused"), refused as f64);
    }
    if !args.target.processes.is_empty() {
        for (prefix, cores) in prefixes.into_iter().zip(outcome.cores) {
            metrics.insert(format!("{prefix}cores"), cores);
        }
    }
    record.problems = outcome.problems;
    measured.end(&mut record);
    Ok(record)
}

struct Tally {
    quiet_until: usize,
    opened: Vec<usize>,
    joined: usize,
    span: usize,
    timed: bool,
    heard: u64,
    quiet: [Histogram<u64>; 3],
    refused: [u64; 3],
    problems: BTreeMap<String, u64>,
    ended: Option<String>,
}

/// Publishes at an even rate by some connections in turn.
struct Voice {
    templates: Vec<(usize, Template)>,
    rate: f64,
    start: u64,
    /// Since it began.
    sent: u64,
    /// Ever.
    all: u64,
}

/// The quiet tenant's connections come first, two for each pair.
fn run(
    endpoint: &Endpoint,
    quiet_tokens: &[String],
    noisy_token: &str,
    args: &NoisyArgs,
) -> Result<Outcome> {
    let (mut engine, mut tally) = open(endpoint, quiet_tokens, noisy_token, args)?;
    let (quiet_pairs, span) = (args.quiet as usize, Duration::from_secs_f64(args.span));
    let processes: &[Process] = &args.target.processes;
    let peer = engine.peer();
    let voice = |count: usize, id: &dyn Fn(usize) -> usize, name: &dyn Fn(usize) -> String| {
        let all = (0..count).map(|at| (id(at), Template::new(peer, &name(at), args.payload)));
        all.collect::<Vec<_>>()
    };
    let mut quiet = Voice::new(voice(quiet_pairs, &|at| 2 * at, &quiet_room));
    let ids = |at: usize| 2 * quiet_pairs + at;
    let mut noisy = Voice::new(voice(args.noisy as usize, &ids, &noisy_room));
    let (mut published, mut cores) = ([0; 2], [0.0; 3]);
    let spans = ["alone", "beside the quota", "beside a multiple of it"];
    for (at, name) in spans.into_iter().enumerate() {
        let rate = [0.0, args.quota, args.quota * args.times][at];
        tally.span = at;
        tally.timed = false;
        quiet.begin(engine.now(), args.rate);
        noisy.begin(engine.now(), rate);
        let bar = Progress::timed(name, span);
        let begun = Instant::now();
        let cpu = process::cpu(processes).doing("cannot read the CPU time")?;
        while begun.elapsed() < span {
            quiet.speak(&mut engine);
            noisy.speak(&mut engine);
            turn(&mut engine, &mut tally, Duration::from_micros(500))?;
            tally.timed = begun.elapsed().as_secs_f64() > SETTLE * args.span;
            bar.passed(begun.elapsed());
            if let Some(why) = &tally.ended {
                return Err(Failure::new(format!("a connection ended: {why}")));
            }
        }
        let used = process::cpu(processes).doing("cannot read the CPU time")?;
        let used: f64 = used.iter().map(|(name, now)| now - cpu[name]).sum();
        cores[at] = used / begun.elapsed().as_secs_f64();
        if at > 0 {
            published[at - 1] = noisy.sent;
        }
    }
    let mut progress = Instant::now();
    tally.timed = false;
    while progress.elapsed() < Duration::from_secs(2) {
        let heard = tally.heard;
        turn(&mut engine, &mut tally, Duration::from_millis(5))?;
        if tally.heard > heard {
            progress = Instant::now();
        }
    }
    Ok(Outcome {
        quiet: tally.quiet,
        lost: quiet.all.saturating_sub(tally.heard),
        published,
        refused: [tally.refused[1], tally.refused[2]],
        cores,
        problems: tally.problems,
    })
}

fn open(
    endpoint: &Endpoint,
    quiet_tokens: &[String],
    noisy_token: &str,
    args: &NoisyArgs,
) -> Result<(Engine, Tally)> {
    let mut engine = Engine::new(endpoint.clone()).doing("cannot make a poll")?;
    let new = || Histogram::new_with_bounds(1_000, 120_000_000_000, 3);
    let quiet = 2 * args.quiet as usize;
    let total = quiet + args.noisy as usize;
    let mut tally = Tally {
        quiet_until: quiet,
        opened: Vec::new(),
        joined: 0,
        span: 0,
        timed: false,
        heard: 0,
        quiet: [new()?, new()?, new()?],
        refused: [0; 3],
        problems: BTreeMap::new(),
        ended: None,
    };
    for id in 0..total {
        let of_quiet = quiet_tokens.get(id % quiet_tokens.len().max(1));
        let token = match of_quiet.filter(|_| id < quiet) {
            Some(token) => token.as_str(),
            None => noisy_token,
        };
        engine.open(Some(token)).doing("cannot open a connection")?;
    }
    let peer = engine.peer();
    let begun = Instant::now();
    while tally.joined < total {
        turn(&mut engine, &mut tally, Duration::from_millis(5))?;
        for id in std::mem::take(&mut tally.opened) {
            // Whoever publishes does not hear itself.
            let (room, echo) = match id.checked_sub(quiet) {
                Some(noisy) => (noisy_room(noisy), false),
                None => (quiet_room(id / 2), id % 2 == 1),
            };
            engine.send(id, |out| out.extend_from_slice(&join(peer, &room, echo)));
        }
        if tally.ended.is_some() || begun.elapsed() > PATIENCE {
            return Err(Failure::new(format!(
                "{} of {total} connections joined: {:?} {:?}",
                tally.joined, tally.ended, tally.problems
            )));
        }
    }
    Ok((engine, tally))
}

fn turn(engine: &mut Engine, tally: &mut Tally, timeout: Duration) -> std::io::Result<()> {
    let clock = engine.clock();
    engine.turn(timeout, &mut |id, event| match event {
        Event::Told(Signal::Open) => tally.opened.push(id),
        Event::Told(Signal::Joined) => tally.joined += 1,
        Event::Told(Signal::Delivered(delivery)) if id < tally.quiet_until => {
            tally.heard += 1;
            if let Some(stamp) = delivery.stamp().filter(|_| tally.timed) {
                let took = clock.now().saturating_sub(stamp);
                tally.quiet[tally.span].saturating_record(took);
            }
        }
        Event::Told(Signal::Delivered(_)) => {}
        Event::Told(Signal::Problem(what)) if what == REFUSED && id >= tally.quiet_until => {
            tally.refused[tally.span] += 1;
        }
        Event::Told(Signal::Gap { reason, .. }) => tally.problem(format!("GAP {reason}")),
        Event::Told(Signal::Problem(what)) => tally.problem(what),
        Event::Ended(why) => tally.ended = Some(why),
    })
}

fn quiet_room(pair: usize) -> String {
    format!("bench.quiet{pair}")
}

fn noisy_room(session: usize) -> String {
    format!("bench.noisy{session}")
}

// === impl Tally ===

impl Tally {
    fn problem(&mut self, what: String) {
        *self.problems.entry(what).or_insert(0) += 1;
    }
}

// === impl Voice ===

impl Voice {
    fn new(templates: Vec<(usize, Template)>) -> Self {
        Self {
            templates,
            rate: 0.0,
            start: 0,
            sent: 0,
            all: 0,
        }
    }

    /// Begins anew, at this rate.
    fn begin(&mut self, now: u64, rate: f64) {
        (self.start, self.rate, self.sent) = (now, rate, 0);
    }

    /// Publishes what is due.
    fn speak(&mut self, engine: &mut Engine) {
        if self.rate <= 0.0 {
            return;
        }
        let interval = 1e9 / self.rate;
        let due = ((engine.now() - self.start) as f64 / interval) as u64;
        while self.sent < due {
            let (id, template) = &self.templates[self.sent as usize % self.templates.len()];
            let at = self.start + (self.sent as f64 * interval) as u64;
            engine.send(*id, |out| template.write(out, at));
            self.sent += 1;
            self.all += 1;
        }
    }
}
