//! `arq bench`: one cheap generator against Shield and the servers it is compared with.
//!
//! A command measures one server once; `scripts/bench` starts the servers, pins them, runs
//! them in turn and puts the medians into one table by `arq bench table`.

mod connect;
mod dialect;
mod engine;
mod idle;
mod load;
mod noisy;
mod policy;
mod presence;
mod process;
mod protobuf;
mod report;
mod slow;
mod storm;
mod table;
mod target;
mod websocket;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use serde_json::json;

use self::{
    load::{Pace, Shape, Stage},
    report::Record,
    target::Target,
};
use crate::{
    Globals,
    failure::{Failure, Result},
};

/// Measure a server: handshakes, latency, throughput, memory
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Handshakes at a rate: TCP, TLS, token, WELCOME
    Connect(ConnectArgs),
    /// Latency from publish to deliver, one to one, at a low rate
    Echo(EchoArgs),
    /// One publisher to many members of a room: the highest rate that is carried
    Fanout(FanoutArgs),
    /// Many rooms with one publisher and one member: the highest rate that is carried
    Pairs(PairsArgs),
    /// Memory of connections that do nothing
    Idle(IdleArgs),
    /// Readers that stop reading: what it costs the server, the others and themselves
    Slow(SlowArgs),
    /// Thousands that come back at once: how they are served, and what those who stayed notice
    Storm(StormArgs),
    /// A tenant that publishes far beyond its quota, and what another one notices of it
    Noisy(noisy::NoisyArgs),
    /// What presence costs Brain, and what a storm of joins costs listeners
    Presence(presence::PresenceArgs),
    /// What policies cost a message, beside an HTTP hook with the same check
    Policy(policy::PolicyArgs),
    /// The HTTP hook of `arq bench policy`
    #[command(hide = true)]
    PolicyHook,
    /// The medians of recorded runs as one table
    Table(table::TableArgs),
    /// A self-signed certificate for 127.0.0.1 and its key, for servers under measurement
    #[command(hide = true)]
    Certificate {
        /// Where cert.pem and key.pem go
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
struct ConnectArgs {
    #[command(flatten)]
    target: Target,
    /// Connections in all
    #[arg(long, default_value_t = 2000)]
    count: usize,
    /// Connections a second
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Also join a room and time it
    #[arg(long)]
    join: bool,
}

#[derive(Debug, Args)]
struct EchoArgs {
    #[command(flatten)]
    target: Target,
    /// Pairs of a publisher and a member
    #[arg(long, default_value_t = 10)]
    pairs: usize,
    /// Publishes a second, over all pairs
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Debug, Args)]
struct FanoutArgs {
    #[command(flatten)]
    target: Target,
    /// Members of each room
    #[arg(long, default_value_t = 100)]
    members: usize,
    /// Rooms, each with a publisher of its own
    #[arg(long, default_value_t = 1)]
    rooms: usize,
    /// Publishes a second [default: search for the highest]
    #[arg(long)]
    rate: Option<f64>,
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Debug, Args)]
struct PairsArgs {
    #[command(flatten)]
    target: Target,
    /// Rooms with one publisher and one member
    #[arg(long, default_value_t = 50)]
    pairs: usize,
    /// Publishes a second [default: search for the highest]
    #[arg(long)]
    rate: Option<f64>,
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Debug, Args)]
struct SearchArgs {
    /// Publishes a second the search starts with
    #[arg(long, default_value_t = 1000.0)]
    from: f64,
    /// A rate is carried while its p99 stays under this, milliseconds
    #[arg(long, default_value_t = 100.0)]
    p99_limit: f64,
    /// Messages due within this many microseconds are written together
    #[arg(long, default_value_t = 1000)]
    tick_us: u64,
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// Payload bytes
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Seconds measured at each rate
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds before that, at the same rate
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
}

#[derive(Debug, Args)]
struct IdleArgs {
    #[command(flatten)]
    target: Target,
    /// Connections
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// Seconds to wait before memory is read
    #[arg(long, default_value_t = 5.0)]
    settle: f64,
    /// Join rooms of this many connections, and read memory again after one message in each
    #[arg(long, default_value_t = 0)]
    room_of: usize,
}

#[derive(Debug, Args)]
struct SlowArgs {
    #[command(flatten)]
    target: Target,
    /// Members of all rooms
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    members: u32,
    /// How many of them stop reading
    #[arg(long, default_value_t = 200)]
    stalled: u32,
    /// Rooms, each with a publisher of its own
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rooms: u32,
    /// Payload bytes
    #[arg(long, default_value_t = 1024)]
    payload: usize,
    /// Megabytes published a second, over all rooms
    #[arg(long, default_value_t = 5.0)]
    megabytes: f64,
    /// Seconds in which all read, before and after
    #[arg(long, default_value_t = 15.0)]
    calm: f64,
    /// Seconds in which some read nothing
    #[arg(long, default_value_t = 60.0)]
    stall: f64,
    /// The server's `session.queue_max_bytes`, for the bound that its memory is held against
    #[arg(long, default_value_t = 1 << 20)]
    queue_bytes: u64,
    /// Its `session.tenant_queue_max_bytes`
    #[arg(long, default_value_t = 256 << 20)]
    tenant_queue_bytes: u64,
}

#[derive(Debug, Args)]
struct StormArgs {
    #[command(flatten)]
    target: Target,
    /// Connections that are cut and come back
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Pairs that stay, and talk all the time
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    stayers: u32,
    /// Publishes a second, over all pairs that stay
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Seconds for which the pairs are timed before
    #[arg(long, default_value_t = 10.0)]
    calm: f64,
}

/// Does what was asked.
pub(crate) fn run(bench: Bench, globals: &Globals) -> Result {
    let record = match bench.command {
        Command::Connect(args) => connect(&args, globals)?,
        Command::Echo(args) => echo(&args, globals)?,
        Command::Fanout(args) => fanout(&args, globals)?,
        Command::Pairs(args) => pairs(&args, globals)?,
        Command::Idle(args) => idle(&args, globals)?,
        Command::Slow(args) => slow(&args, globals)?,
        Command::Storm(args) => storm(&args, globals)?,
        Command::Noisy(args) => noisy::noisy(&args, globals)?,
        Command::Presence(args) => {
            return several(|| presence::run(&args, globals), globals);
        }
        Command::Policy(args) => return several(|| policy::run(&args, globals), globals),
        Command::PolicyHook => return policy::serve_hook(),
        Command::Table(args) => return table::run(&args, globals),
        Command::Certificate { folder } => return target::certificate(&folder),
    };
    if globals.output.json {
        return globals.output.object_line(&record);
    }
    table::print(&[record], &globals.output)
}

/// A benchmark with a record for each thing it measures.
fn several(measure: impl FnOnce() -> Result<Vec<Record>>, globals: &Globals) -> Result {
    let measured = Measured::begin();
    let mut records = measure()?;
    if let Some(first) = records.first_mut() {
        measured.end(first);
    }
    if globals.output.json {
        return records
            .iter()
            .try_for_each(|record| globals.output.object_line(record));
    }
    table::print(&records, &globals.output)
}

fn connect(args: &ConnectArgs, globals: &Globals) -> Result<Record> {
    let (endpoint, tokens) = args.target.prepare(globals)?;
    let room = args.join.then_some("bench.connect");
    let measured = Measured::begin();
    let outcome = connect::run(
        &endpoint,
        &tokens,
        args.count,
        args.rate,
        room,
        &args.target.processes,
    )?;
    let mut record = args.target.record("connect", &endpoint);
    record.params.extend([
        ("rate".into(), json!(args.rate)),
        ("count".into(), json!(args.count)),
        ("tokens".into(), json!(tokens.len())),
    ]);
    quantiles(&mut record, "", &outcome.handshake);
    if args.join {
        quantiles(&mut record, "joined_", &outcome.joined);
    }
    record
        .metrics
        .insert("failed".into(), outcome.failed as f64);
    let cpu: f64 = outcome.cpu.values().sum();
    if cpu > 0.0 {
        record.metrics.insert(
            "cpu_ms_per_handshake".into(),
            cpu * 1e3 / outcome.opened as f64,
        );
    }
    record.problems = outcome.problems;
    measured.end(&mut record);
    Ok(record)
}

fn echo(args: &EchoArgs, globals: &Globals) -> Result<Record> {
    let shape = Shape {
        rooms: args.pairs,
        members: 1,
        payload: args.load.payload,
    };
    let pace = args.load.pace(args.rate, 0);
    throughput("echo", &args.target, shape, pace, None, globals)
}

fn fanout(args: &FanoutArgs, globals: &Globals) -> Result<Record> {
    let shape = Shape {
        rooms: args.rooms,
        members: args.members,
        payload: args.load.payload,
    };
    let pace = args
        .load
        .pace(args.rate.unwrap_or(args.search.from), args.search.tick_us);
    let search = args.rate.is_none().then_some(args.search.p99_limit);
    throughput("fanout", &args.target, shape, pace, search, globals)
}

fn pairs(args: &PairsArgs, globals: &Globals) -> Result<Record> {
    let shape = Shape {
        rooms: args.pairs,
        members: 1,
        payload: args.load.payload,
    };
    let pace = args
        .load
        .pace(args.rate.unwrap_or(args.search.from), args.search.tick_us);
    let search = args.rate.is_none().then_some(args.search.p99_limit);
    throughput("pairs", &args.target, shape, pace, search, globals)
}

fn throughput(
    bench: &str,
    target: &Target,
    shape: Shape,
    pace: Pace,
    p99_limit: Option<f64>,
    globals: &Globals,
) -> Result<Record> {
    let (endpoint, tokens) = target.prepare(globals)?;
    let measured = Measured::begin();
    let outcome = match p99_limit {
        Some(limit) => {
            let note = |text: String| globals.output.note(text);
            load::search(
                &endpoint,
                &tokens,
                shape,
                pace,
                limit,
                &target.processes,
                &note,
            )?
        }
        None => Stage::build(&endpoint, &tokens, shape)?.run(pace, &target.processes)?,
    };
    let mut record = target.record(bench, &endpoint);
    record.params.extend([
        ("rooms".into(), json!(shape.rooms)),
        ("members".into(), json!(shape.members)),
        ("payload".into(), json!(shape.payload)),
    ]);
    match p99_limit {
        Some(limit) => record.params.insert("p99_limit_ms".into(), json!(limit)),
        None => record.params.insert("rate".into(), json!(pace.rate)),
    };
    quantiles(&mut record, "", &outcome.latency);
    record
        .metrics
        .insert("deliveries_per_s".into(), outcome.deliveries_per_s);
    record.metrics.insert("lost".into(), outcome.lost as f64);
    for (name, used) in &outcome.cpu_per_million {
        record
            .metrics
            .insert(format!("cpu_s_per_million_{name}"), *used);
    }
    if !outcome.cpu_per_million.is_empty() {
        record.metrics.insert(
            "cpu_s_per_million".into(),
            outcome.cpu_per_million.values().sum(),
        );
        record.metrics.insert(
            "cores".into(),
            outcome.cpu.values().sum::<f64>() / outcome.seconds,
        );
    }
    record.problems = outcome.problems;
    measured.end(&mut record);
    Ok(record)
}

fn idle(args: &IdleArgs, globals: &Globals) -> Result<Record> {
    let (endpoint, tokens) = args.target.prepare(globals)?;
    if args.target.processes.is_empty() {
        return Err(Failure::usage(
            "memory of what? name the server with --pid NAME=PID",
        ));
    }
    let plan = idle::Plan {
        count: args.count,
        settle: Duration::from_secs_f64(args.settle),
        room_of: args.room_of,
    };
    let measured = Measured::begin();
    let outcome = idle::run(&endpoint, &tokens, &plan, &args.target.processes)?;
    let mut record = args.target.record("idle", &endpoint);
    record.params.extend([
        ("count".into(), json!(args.count)),
        ("room_of".into(), json!(args.room_of)),
    ]);
    let mut growth = |prefix: &str, now: &BTreeMap<String, u64>| {
        let mut sum = 0.0;
        for (name, bytes) in now {
            let grown = bytes.saturating_sub(outcome.before[name]) as f64
                / 1024.0
                / outcome.connections as f64;
            sum += grown;
            if now.len() > 1 {
                record
                    .metrics
                    .insert(format!("{prefix}kib_per_connection_{name}"), grown);
            }
        }
        record
            .metrics
            .insert(format!("{prefix}kib_per_connection"), sum);
        record.metrics.insert(
            format!("{prefix}rss_mib"),
            now.values().sum::<u64>() as f64 / 1048576.0,
        );
    };
    growth("", &outcome.idle);
    if let Some(after) = &outcome.after {
        growth("after_message_", after);
    }
    record.metrics.insert(
        "connections_per_s".into(),
        outcome.connections as f64 / outcome.seconds,
    );
    record
        .metrics
        .insert("cpu_idle".into(), outcome.cpu.values().sum());
    record.problems = outcome.problems;
    measured.end(&mut record);
    Ok(record)
}

fn slow(args: &SlowArgs, globals: &Globals) -> Result<Record> {
    let (endpoint, tokens) = args.target.prepare(globals)?;
    if args.stalled > args.members || args.rooms > args.members {
        return Err(Failure::usage(format!(
            "{} members cannot be {} that stall in {} rooms",
            args.members, args.stalled, args.rooms
        ))
        .hint("raise --members, or lower --stalled or --rooms"));
    }
    let plan = slow::Plan {
        members: args.members as usize,
        stalled: args.stalled as usize,
        rooms: args.rooms as usize,
        payload: args.payload,
        rate: args.megabytes * 1e6 / args.payload.max(8) as f64,
        calm: Duration::from_secs_f64(args.calm),
        stall: Duration::from_secs_f64(args.stall),
    };
    let measured = Measured::begin();
    let outcome = slow::run(&endpoint, &tokens, &plan, &args.target.processes)?;
    let mut record = args.target.record("slow", &endpoint);
    record.params.extend([
        ("members".into(), json!(args.members)),
        ("stalled".into(), json!(args.stalled)),
        ("rooms".into(), json!(args.rooms)),
        ("payload".into(), json!(args.payload)),
        ("megabytes_per_s".into(), json!(args.megabytes)),
        ("stall_s".into(), json!(args.stall)),
    ]);
    let [before, during, after] = &outcome.healthy;
    for (prefix, latency) in [("before_", before), ("during_", during), ("after_", after)] {
        quantiles(&mut record, prefix, latency);
    }
    let p99 = |latency: &Histogram<u64>| latency.value_at_quantile(0.99).max(1) as f64;
    let mib = |bytes: u64| bytes as f64 / 1048576.0;
    let metrics = &mut record.metrics;
    metrics.insert("p99_ratio".into(), p99(during) / p99(before));
    metrics.insert("published".into(), outcome.published as f64);
    metrics.insert("healthy_lost".into(), outcome.healthy_lost as f64);
    metrics.insert("healthy_missed".into(), outcome.healthy_missed as f64);
    metrics.insert("told_slow_reader".into(), outcome.told_slow_reader as f64);
    metrics.insert("told_gap".into(), outcome.told_gap as f64);
    metrics.insert("missed_nothing".into(), outcome.kept_up as f64);
    metrics.insert("stalled_missed".into(), outcome.missed as f64);
    metrics.insert("stalled_unaccounted".into(), outcome.unaccounted as f64);
    if !args.target.processes.is_empty() {
        let [before, most, after] = outcome.rss;
        let queues = u64::from(args.stalled) * args.queue_bytes;
        let bound = queues.min(args.tenant_queue_bytes);
        metrics.insert("rss_before_mib".into(), mib(before));
        metrics.insert("rss_most_mib".into(), mib(most));
        metrics.insert("rss_after_mib".into(), mib(after));
        metrics.insert("grown_mib".into(), mib(most.saturating_sub(before)));
        metrics.insert("bound_mib".into(), mib(bound));
    }
    record.problems = outcome.ended;
    measured.end(&mut record);
    Ok(record)
}

fn storm(args: &StormArgs, globals: &Globals) -> Result<Record> {
    let (endpoint, tokens) = args.target.prepare(globals)?;
    let plan = storm::Plan {
        clients: args.clients as usize,
        stayers: args.stayers as usize,
        rate: args.rate,
        calm: Duration::from_secs_f64(args.calm),
    };
    let measured = Measured::begin();
    let outcome = storm::run(&endpoint, &tokens, &plan, &args.target.processes)?;
    let mut record = args.target.record("storm", &endpoint);
    record.params.extend([
        ("clients".into(), json!(args.clients)),
        ("pairs_that_stay".into(), json!(args.stayers)),
        ("rate".into(), json!(args.rate)),
    ]);
    let [before, during] = &outcome.stayed;
    quantiles(&mut record, "stayed_before_", before);
    quantiles(&mut record, "stayed_during_", during);
    quantiles(&mut record, "handshake_", &outcome.handshake);
    let quantile = |latency: &Histogram<u64>, q| latency.value_at_quantile(q).max(1) as f64;
    let metrics = &mut record.metrics;
    metrics.insert(
        "handshake_p99_to_p50".into(),
        quantile(&outcome.handshake, 0.99) / quantile(&outcome.handshake, 0.5),
    );
    metrics.insert(
        "stayed_p99_ratio".into(),
        quantile(during, 0.99) / quantile(before, 0.99),
    );
    metrics.insert("all_back_s".into(), outcome.all_back.as_secs_f64());
    metrics.insert("told_later".into(), outcome.told_later as f64);
    metrics.insert("stayers_lost".into(), outcome.stayers_lost as f64);
    if !args.target.processes.is_empty() {
        let [before, most] = outcome.rss.map(|bytes| bytes as f64 / 1048576.0);
        metrics.insert("rss_before_mib".into(), before);
        metrics.insert("rss_most_mib".into(), most);
    }
    record.problems = outcome.failed;
    measured.end(&mut record);
    Ok(record)
}

fn quantiles(record: &mut Record, prefix: &str, latency: &Histogram<u64>) {
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
        let ms = latency.value_at_quantile(quantile) as f64 / 1e6;
        record.metrics.insert(format!("{prefix}{name}_ms"), ms);
    }
}

/// What the machine did meanwhile.
struct Measured {
    begun: std::time::Instant,
    stolen: f64,
}

// === impl Measured ===

impl Measured {
    fn begin() -> Self {
        Self {
            begun: std::time::Instant::now(),
            stolen: process::stolen(),
        }
    }

    fn end(self, record: &mut Record) {
        let share = (process::stolen() - self.stolen) / self.begun.elapsed().as_secs_f64();
        record.metrics.insert("stolen_cores".into(), share);
        record.metrics.insert("load".into(), process::load());
    }
}

// === impl LoadArgs ===

impl LoadArgs {
    fn pace(&self, rate: f64, tick_us: u64) -> Pace {
        Pace {
            rate,
            tick: Duration::from_micros(tick_us),
            warmup: Duration::from_secs_f64(self.warmup),
            duration: Duration::from_secs_f64(self.seconds),
        }
    }
}
