//! `arq policy bench`: what a policy costs, on this machine.

use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use arqon_policy::{Draft, Limits, Message, Module, Verdict};
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::json;

use super::component::Component;
use super::local::{self, Local};
use super::place::Usage;
use super::settings;
use crate::Globals;
use crate::failure::{Failure, Result};
use crate::output::counted;
use crate::size;

/// Messages before those that are measured: caches and branch predictors are cold at first.
const WARM_UP: u32 = 200;

/// Starts that are measured.
const STARTS: u32 = 200;

/// Measure what a policy costs for each message, here
///
/// The engine alone: no NATS, no WebSocket. The payload is words of ASCII text.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq policy bench greeter.wasm --payload 1KiB --payload 64KiB\n  arq policy bench blocklist --config words.toml"
)]
pub(super) struct Bench {
    /// The component, a core module, or the name of a shipped policy
    file: PathBuf,
    /// The configuration: TOML or JSON, given as JSON; any other file as it is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Bytes of a payload, repeatable [default: 128, 1KiB, 16KiB, 64KiB]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    payload: Vec<usize>,
    /// Messages of each measurement
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    messages: u32,
    #[command(flatten)]
    usage: Usage,
}

/// What one measurement gave.
struct Row {
    payload: usize,
    latency: Histogram<u64>,
    verdicts: Verdicts,
    /// Messages a second with so many threads.
    rates: Vec<(usize, f64)>,
    memory_bytes: usize,
    /// Instances that faults and recycling used up.
    instances: u32,
}

/// What came of the messages.
#[derive(Debug, Default, Clone, Copy)]
struct Verdicts {
    allowed: u64,
    blocked: u64,
    transformed: u64,
    faults: u64,
}

/// Does what was asked.
pub(super) fn run(args: &Bench, globals: &Globals) -> Result {
    let output = &globals.output;
    let config = match &args.config {
        Some(file) => settings::read(file)?,
        // What takes a table is content with an empty one; what takes nothing sees nothing.
        None => Vec::new(),
    };
    let component = Component::find(&args.file)?;
    component.checked(output)?;
    let local = Local::new()?;
    let compiled = local.compile(&component.bytes)?;
    let module = &compiled.module;
    let limits = args.usage.limits()?;
    let mut starts = histogram()?;
    let mut start_memory = 0;
    for _ in 0..STARTS {
        let began = Instant::now();
        let instance = local::start(module, &config, &limits)?;
        record(&mut starts, began.elapsed());
        start_memory = instance.memory_bytes();
    }
    let payloads = if args.payload.is_empty() {
        vec![128, 1 << 10, 16 << 10, 64 << 10]
    } else {
        args.payload.clone()
    };
    let mut rows = Vec::new();
    for payload in payloads {
        rows.push(measure(module, &config, &limits, payload, args.messages)?);
    }
    if output.json {
        return output.object(&json!({
            "policy": component.name,
            "digest": component.digest().to_string(),
            "compile_ms": u64::try_from(compiled.took.as_millis()).unwrap_or(u64::MAX),
            "start_us": {"p50": micros(&starts, 0.5), "p99": micros(&starts, 0.99), "max": micros(&starts, 1.0)},
            "start_memory_bytes": start_memory,
            "payloads": rows.iter().map(|row| json!({
                "payload_bytes": row.payload,
                "messages": row.latency.len(),
                "us": {"p50": micros(&row.latency, 0.5), "p99": micros(&row.latency, 0.99), "max": micros(&row.latency, 1.0)},
                "per_second": row.rates.iter().map(|(threads, rate)| json!({"threads": threads, "messages": rate.round()})).collect::<Vec<_>>(),
                "memory_bytes": row.memory_bytes,
                "instances": row.instances,
                "allowed": row.verdicts.allowed,
                "blocked": row.verdicts.blocked,
                "transformed": row.verdicts.transformed,
                "faults": row.verdicts.faults,
            })).collect::<Vec<_>>(),
        }));
    }
    let table = rows
        .iter()
        .map(|row| {
            let mut cells = vec![
                size::words(row.payload as u64),
                format!("{:.1}", micros(&row.latency, 0.5)),
                format!("{:.1}", micros(&row.latency, 0.99)),
                format!("{:.1}", micros(&row.latency, 1.0)),
            ];
            cells.extend(row.rates.iter().map(|(_, rate)| format!("{rate:.0}/s")));
            cells.extend([
                size::words(row.memory_bytes as u64),
                row.instances.to_string(),
                row.verdicts.words(),
            ]);
            cells
        })
        .collect();
    output.table(
        &[
            "payload",
            "p50 µs",
            "p99 µs",
            "max µs",
            "1 thread",
            "2 threads",
            "memory",
            "instances",
            "verdicts",
        ],
        table,
        "nothing was measured",
    )?;
    output.note(format!(
        "compiled in {} ms; instantiate and configure: p50 {:.0} µs, p99 {:.0} µs, {} of memory; {} for each size",
        compiled.took.as_millis(),
        micros(&starts, 0.5),
        micros(&starts, 0.99),
        size::words(start_memory as u64),
        counted(args.messages as usize, "message")
    ));
    if let Some(row) = rows.iter().find(|row| row.verdicts.faults > 0) {
        output.warn(format!(
            "{} of {} messages of {} were faults, which block",
            row.verdicts.faults,
            row.latency.len(),
            size::words(row.payload as u64)
        ));
    }
    Ok(())
}

fn histogram() -> Result<Histogram<u64>> {
    Histogram::new(3).map_err(|error| Failure::new(error.to_string()))
}

fn record(histogram: &mut Histogram<u64>, took: Duration) {
    // It grows as needed, so every value has a place.
    let _ = histogram.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
}

#[allow(clippy::cast_precision_loss)]
fn micros(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    (histogram.value_at_quantile(quantile) as f64 / 100.0).round() / 10.0
}

impl Verdicts {
    fn count(&mut self, verdict: &Result<Verdict, arqon_policy::Fault>) {
        match verdict {
            Ok(Verdict::Allow) => self.allowed += 1,
            Ok(Verdict::Block(_)) => self.blocked += 1,
            Ok(Verdict::Transform(_)) => self.transformed += 1,
            Err(_) => self.faults += 1,
        }
    }

    fn words(&self) -> String {
        let parts: Vec<String> = [
            ("allow", self.allowed),
            ("block", self.blocked),
            ("transform", self.transformed),
            ("fault", self.faults),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
        parts.join(", ")
    }
}

/// Text of words, so that searches have something to look at.
fn text(bytes: usize) -> Vec<u8> {
    b"The quick brown fox jumps over the lazy dog, and 42 more. "
        .iter()
        .copied()
        .cycle()
        .take(bytes)
        .collect()
}

fn measure(
    module: &Module,
    config: &[u8],
    limits: &Limits,
    payload: usize,
    messages: u32,
) -> Result<Row> {
    let draft = Draft {
        payload: text(payload).into(),
        ..Draft::default()
    };
    let alone = drive(module, config, limits, &draft, messages, &Barrier::new(1))?;
    let both = {
        let barrier = Barrier::new(2);
        let half = || drive(module, config, limits, &draft, messages / 2, &barrier);
        std::thread::scope(|scope| {
            let other = scope.spawn(half);
            let own = half();
            let other = other
                .join()
                .map_err(|_| Failure::new("a measuring thread ended unexpectedly"))?;
            Ok::<_, Failure>([own?, other?])
        })?
    };
    let rate = |drives: &[Drive]| -> f64 {
        let slowest = drives.iter().map(|drive| drive.took).max();
        let messages: u64 = drives.iter().map(|drive| drive.latency.len()).sum();
        #[allow(clippy::cast_precision_loss)]
        let messages = messages as f64;
        messages / slowest.unwrap_or_default().as_secs_f64().max(1e-9)
    };
    let rates = vec![(1, rate(std::slice::from_ref(&alone))), (2, rate(&both))];
    Ok(Row {
        payload,
        verdicts: alone.verdicts,
        memory_bytes: alone.memory_bytes,
        instances: alone.instances,
        latency: alone.latency,
        rates,
    })
}

/// What one thread did.
struct Drive {
    latency: Histogram<u64>,
    took: Duration,
    verdicts: Verdicts,
    memory_bytes: usize,
    instances: u32,
}

/// Messages one after another, as in a session: an instance serves them until it fails or is to
/// be recycled.
fn drive(
    module: &Module,
    config: &[u8],
    limits: &Limits,
    draft: &Draft,
    messages: u32,
    together: &Barrier,
) -> Result<Drive> {
    let message = Message {
        tenant: "acme",
        room: "lobby",
        user: "dev",
        role: "user",
        draft,
    };
    let mut warm = local::start(module, config, limits);
    if let Ok(instance) = &mut warm {
        for _ in 0..WARM_UP {
            if instance.run(&message, limits).result.is_err() {
                break;
            }
        }
    }
    // Both threads come here, also the one that failed.
    together.wait();
    drop(warm?);
    let mut drive = Drive {
        latency: histogram()?,
        took: Duration::ZERO,
        verdicts: Verdicts::default(),
        memory_bytes: 0,
        instances: 1,
    };
    let mut instance = local::start(module, config, limits)?;
    let began = Instant::now();
    for _ in 0..messages {
        let at = Instant::now();
        let result = instance.run(&message, limits).result;
        record(&mut drive.latency, at.elapsed());
        drive.verdicts.count(&result);
        drive.memory_bytes = drive.memory_bytes.max(instance.memory_bytes());
        instance.take_logs();
        if result.is_err() || instance.runs() >= limits.recycle_after {
            instance = local::start(module, config, limits)?;
            drive.instances += 1;
        }
    }
    drive.took = began.elapsed();
    Ok(drive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_size_asked_for() {
        for bytes in [0, 1, 57, 58, 1_024] {
            assert_eq!(text(bytes).len(), bytes);
        }
    }

    #[test]
    fn verdicts_are_told_without_those_that_did_not_come() {
        let mut verdicts = Verdicts::default();
        verdicts.count(&Ok(Verdict::Allow));
        verdicts.count(&Ok(Verdict::Allow));
        verdicts.count(&Err(arqon_policy::Fault::new(
            arqon_policy::FaultClass::Trap,
            "",
        )));
        assert_eq!(verdicts.words(), "2 allow, 1 fault");
    }
}
