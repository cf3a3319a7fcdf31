//! `arq bench policy`: what policies cost a message, beside an HTTP hook that
//! makes the same check.
//!
//! Host alone: `Policies::judge` as a session calls it, in this process. The
//! whole path of a Shield is `scripts/bench policy`, which binds and measures
//! echoes around it.

mod hook;
mod load;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arqon_policy::{
    Binding, Digest, Host, HostOptions, Isolation, Limits, Module, Policies, PoliciesOptions,
};
use arqon_proto::names::PolicyName;
use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::json;

pub(super) use self::hook::serve as serve_hook;
use self::{hook::Hook, load::Load};
use super::{process, report::Record};
use crate::{
    Globals,
    failure::{Doing, Failure, Result},
};

/// What `arq bench policy` takes.
#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    /// Payloads, bytes
    #[arg(long, value_delimiter = ',', default_value = "128,1024,16384,65536")]
    sizes: Vec<usize>,
    /// Messages judged for each figure
    #[arg(long, default_value_t = 20_000)]
    messages: usize,
    /// Policies loaded at once for the figure of memory
    #[arg(long, default_value_t = 1000)]
    policies: usize,
    /// Guard pages instead of bounds checks (`policy.memory = "guarded"`)
    #[arg(long)]
    guarded: bool,
}

/// Ten words; none is in the payload, so the whole of it is searched.
pub(super) const WORDS: [&str; 10] = [
    "malware",
    "virus",
    "trojan",
    "rootkit",
    "spyware",
    "phishing",
    "botnet",
    "exploit",
    "keylogger",
    "ransom",
];
/// Figures are taken in turns of this many messages, so that noise hits all alike.
const TURN: usize = 1_000;

/// Measures, a record for each figure.
pub(super) fn run(args: &PolicyArgs, globals: &Globals) -> Result<Vec<Record>> {
    let note = |text: &str| globals.output.note(text);
    let options = HostOptions {
        guarded: args.guarded,
        ..HostOptions::default()
    };
    let host = Host::new(&options).doing("cannot start the Wasm engine")?;
    let blocklist = shipped("blocklist")?;
    let module = host
        .load_component(blocklist)
        .doing("cannot load the blocklist")?;
    let mut records = Vec::new();

    note("latency, beside an HTTP hook");
    records.extend(latency(args, &host, &module)?);
    note("threads");
    records.extend(threads(args, &host, &module)?);
    note("latency while a policy compiles");
    records.push(while_compiling(args, &host, &module)?);
    note("memory");
    records.push(memory(args, &options)?);
    Ok(records)
}

/// Chains of one and three in turn with the hook.
fn latency(args: &PolicyArgs, host: &Host, module: &Module) -> Result<Vec<Record>> {
    let hook = Hook::start()?;
    let mut records = Vec::new();
    for &size in &args.sizes {
        let payload = payload(size);
        let mut one = Load::new(policies(host, module, 1)?, "acme", payload.clone())?;
        let mut three = Load::new(policies(host, module, 3)?, "acme", payload.clone())?;
        one.warm()?;
        three.warm()?;
        let mut client = hook.client()?;
        let mut times = [histogram()?, histogram()?, histogram()?];
        let turns = args.messages.div_ceil(TURN);
        for _ in 0..turns {
            one.judge(TURN, &mut times[0])?;
            three.judge(TURN, &mut times[1])?;
            // A tenth: it takes a hundred times as long.
            client.ask(&payload, TURN / 10, &mut times[2])?;
        }
        for (label, times) in ["chain of 1", "chain of 3", "http hook"].iter().zip(&times) {
            records.push(record(
                "policy latency",
                label,
                &[("payload_bytes", size)],
                times,
            ));
        }
    }
    Ok(records)
}

/// Whether two threads judge more than one.
fn threads(args: &PolicyArgs, host: &Host, module: &Module) -> Result<Vec<Record>> {
    let policies = policies(host, module, 1)?;
    let mut records = Vec::new();
    for (label, tenants) in [
        ("1 thread", &["acme"][..]),
        ("2 threads, 2 tenants", &["acme", "globex"]),
        ("2 threads, 1 tenant", &["acme", "acme"]),
    ] {
        let loads = tenants
            .iter()
            .map(|tenant| Load::new(policies.clone(), tenant, payload(1024)))
            .collect::<Result<Vec<_>>>()?;
        let begun = Instant::now();
        let done = std::thread::scope(|scope| {
            let running: Vec<_> = loads
                .into_iter()
                .map(|mut load| {
                    scope.spawn(move || {
                        load.warm()?;
                        load.judge(args.messages * 2, &mut histogram()?)
                    })
                })
                .collect();
            running.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .map_err(|_| Failure::new("a thread of the load ended early"))?
            })
        });
        done?;
        let messages = (args.messages * 2 * tenants.len()) as f64;
        records.push(Record {
            bench: "policy threads".into(),
            label: label.into(),
            params: params(&[("payload_bytes", 1024)]),
            metrics: BTreeMap::from([(
                "messages_per_s".to_owned(),
                messages / begun.elapsed().as_secs_f64(),
            )]),
            problems: BTreeMap::new(),
        });
    }
    Ok(records)
}

/// Live traffic beside the compilation of a large policy, again and again.
fn while_compiling(args: &PolicyArgs, host: &Host, module: &Module) -> Result<Record> {
    let program = std::env::current_exe().doing("cannot find this program")?;
    let command = arqon_policy::compile::CompileCommand {
        program,
        args: vec!["compile-policy".into()],
    };
    let compiler = arqon_policy::compile::Compiler::new(
        host.clone(),
        arqon_policy::compile::CompilerOptions {
            command,
            cache_dir: None,
            cache_key: [0; 32],
            timeout: Duration::from_secs(60),
        },
    )
    .doing("cannot set up the compiler")?;
    let large = shipped("redact")?.to_vec();
    let mut load = Load::new(policies(host, module, 1)?, "acme", payload(1024))?;
    load.warm()?;
    let mut times = histogram()?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let compiling = scope.spawn(|| {
            let mut number = 0_u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // Another digest each time, or the cache would answer.
                number += 1;
                compiler
                    .module(&distinct(&large, number))
                    .doing("cannot compile a policy")?;
            }
            Ok::<_, Failure>(number)
        });
        let judged = load.judge(args.messages * 2, &mut times);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let compiled = compiling
            .join()
            .map_err(|_| Failure::new("the compiling thread ended early"))?;
        judged.and(compiled)
    })?;
    Ok(record(
        "policy while compiling",
        "chain of 1",
        &[("payload_bytes", 1024)],
        &times,
    ))
}

/// Resident memory of many policies: the code of one, loaded as often, each
/// with an instance, as if each were another version.
#[allow(unsafe_code)]
fn memory(args: &PolicyArgs, options: &HostOptions) -> Result<Record> {
    let host = Host::new(options).doing("cannot start the Wasm engine")?;
    let component = shipped("size-and-shape")?;
    let code = host
        .precompile(component)
        .doing("cannot compile the policy")?;
    let own = [process::Process::new("arq", std::process::id())];
    let before = process::rss(&own)?["arq"];
    let modules = (0..args.policies)
        .map(|number| {
            let digest = Digest::of(&distinct(component, number as u32));
            // SAFETY: these bytes are what `precompile` of this engine has made.
            unsafe { host.load(digest, &code) }
        })
        .collect::<Result<Vec<_>, _>>()
        .doing("cannot load the policies")?;
    for module in &modules {
        module
            .start(br#"{"max_payload_bytes":1024}"#, &Limits::default())
            .doing("cannot start a policy")?;
    }
    let grown = process::rss(&own)?["arq"].saturating_sub(before) as f64;
    let count = modules.len().max(1) as f64;
    Ok(Record {
        bench: "policy memory".into(),
        label: "size-and-shape".into(),
        params: params(&[
            ("policies", args.policies),
            ("component_bytes", component.len()),
        ]),
        metrics: BTreeMap::from([
            ("rss_mib".to_owned(), grown / 1_048_576.0),
            ("kib_per_policy".to_owned(), grown / 1024.0 / count),
        ]),
        problems: BTreeMap::new(),
    })
}

fn policies(host: &Host, module: &Module, chain: usize) -> Result<Policies> {
    let options = PoliciesOptions {
        // What is measured is the cost, not the budget.
        tenant_cpu: 1e6,
        ..PoliciesOptions::default()
    };
    let (policies, _audit) = Policies::new(host, &options).doing("cannot start the policies")?;
    let name = PolicyName::parse("blocklist").doing("a name")?;
    let config = json!({ "words": WORDS }).to_string();
    let bindings = (0..chain).map(|number| {
        Arc::new(Binding {
            key: format!("platform.blocklist-{number}").into(),
            name: format!("blocklist-{number}"),
            tenant: None,
            rooms: None,
            policy: name.clone(),
            version: 1,
            digest: module.digest(),
            revision: 1,
            order: number as i32,
            shadow: false,
            isolation: Isolation::Binding,
            limits: Limits::default(),
            show_reason: false,
            config: Bytes::from(config.clone()),
            module: Ok(module.clone()),
        })
    });
    policies.set(bindings.collect());
    Ok(policies)
}

fn shipped(name: &str) -> Result<&'static [u8]> {
    arqon_policy::shipped::shipped()
        .iter()
        .find(|shipped| shipped.name == name)
        .map(|shipped| shipped.component)
        .ok_or_else(|| Failure::new(format!("{name} does not come with arq")))
}

/// The same component with another digest: a custom section more.
fn distinct(component: &[u8], number: u32) -> Vec<u8> {
    let mut bytes = component.to_vec();
    // Section 0, 9 bytes: a name of 4 bytes and the number.
    bytes.extend([0, 9, 4]);
    bytes.extend(b"copy");
    bytes.extend(number.to_le_bytes());
    debug_assert_ne!(Digest::of(&bytes), Digest::of(component));
    bytes
}

/// Words of plain English, cut to size.
fn payload(size: usize) -> Bytes {
    let text = "the quick brown fox jumps over the lazy dog and writes home about it, ";
    text.bytes().cycle().take(size).collect::<Vec<_>>().into()
}

fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).doing("cannot measure")
}

fn params(of: &[(&str, usize)]) -> BTreeMap<String, serde_json::Value> {
    of.iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect()
}

fn record(bench: &str, label: &str, of: &[(&str, usize)], times: &Histogram<u64>) -> Record {
    let us = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1000.0;
    Record {
        bench: bench.to_owned(),
        label: label.to_owned(),
        params: params(of),
        metrics: BTreeMap::from([
            ("p50_us".to_owned(), us(0.5)),
            ("p99_us".to_owned(), us(0.99)),
            ("p999_us".to_owned(), us(0.999)),
        ]),
        problems: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The custom section is well formed: the copy is still a policy.
    #[test]
    fn a_distinct_copy_is_another_version_of_the_same_policy() {
        let component = shipped("blocklist").unwrap();
        let (one, two) = (distinct(component, 1), distinct(component, 2));
        assert_ne!(Digest::of(&one), Digest::of(&two));
        let limits = arqon_policy::ShapeLimits::default();
        arqon_policy::check::check(&two, &limits).unwrap();
    }
}
