//! What a policy costs: `cargo run --example overhead [RUNS] [guarded]`.
//!
//! The policy looks at every byte of the payload for one it does not find.
//! Under `strace -c -f` the number of system calls must not grow with RUNS.

use std::{
    collections::BTreeMap,
    error::Error,
    time::{Duration, Instant},
};

use arqon_policy::{Draft, Host, HostOptions, Instance, Limits, Message, Module, Verdict, wrap};
use hdrhistogram::Histogram;

const TEMPLATE: &str = include_str!("../tests/fixtures/policy.wat");
const SCAN: &str = "
    (block $done
      (loop $again
        (br_if $done (i32.ge_u (local.get $i) (local.get $payload_length)))
        (if (i32.eqz (i32.load8_u (i32.add (local.get $payload) (local.get $i))))
          (then (return (call $block (i32.const 4096) (i32.const 16)))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $again)))
    (call $allow)";

fn main() -> Result<(), Box<dyn Error>> {
    let mut runs = 20_000_u32;
    let mut options = HostOptions::default();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "guarded" => options.guarded = true,
            number => runs = number.parse()?,
        }
    }
    let host = Host::new(&options)?;
    let module = host.load_component(&component()?)?;
    println!("{options:?}, {runs} runs each, µs");
    println!(
        "{:>8} {:>8} {:>8} {:>8} {:>8}",
        "payload", "", "p50", "p99", "mean"
    );
    for bytes in [128, 1 << 10, 16 << 10] {
        let draft = Draft {
            headers: BTreeMap::from([("content-type".into(), "text/plain".into())]),
            payload: vec![b'a'; bytes].into(),
        };
        let mut kept = module.start(b"{}", &Limits::default())?;
        print(bytes, "kept", runs, || judge(&mut kept, &draft))?;
        // `configure` reads the CPU clock, a system call of its own.
        print(bytes, "fresh", runs / 20, || fresh(&module, &draft))?;
    }
    Ok(())
}

fn component() -> Result<Vec<u8>, Box<dyn Error>> {
    let mut text = TEMPLATE
        .replace("@PAGES@", "1")
        .replace("@ON_MESSAGE@", SCAN);
    for place in ["@REALLOC@", "@EXTRA@", "@CONFIGURE@", "@AFTER@"] {
        text = text.replace(place, "");
    }
    Ok(wrap::componentize(&wat::parse_str(&text)?)?)
}

fn judge(instance: &mut Instance, draft: &Draft) -> Verdict {
    let message = Message {
        tenant: "acme",
        room: "lobby",
        user: "ann",
        role: "user",
        draft,
    };
    let ran = instance.run(&message, &Limits::default());
    ran.result.unwrap_or_else(|fault| panic!("{fault}"))
}

fn fresh(module: &Module, draft: &Draft) -> Verdict {
    let started = module.start(b"{}", &Limits::default());
    let mut instance = started.unwrap_or_else(|fault| panic!("{fault}"));
    judge(&mut instance, draft)
}

fn print(
    bytes: usize,
    kind: &str,
    runs: u32,
    mut call: impl FnMut() -> Verdict,
) -> Result<(), Box<dyn Error>> {
    // Bounds given: one that resizes itself does not do so when it saturates.
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 10_000_000_000, 3)?;
    let all = Instant::now();
    for _ in 0..runs {
        let start = Instant::now();
        let verdict = call();
        histogram.saturating_record(nanoseconds(start.elapsed()));
        assert_eq!(verdict, Verdict::Allow);
    }
    // By one clock around all runs: what the histogram must agree with.
    let mean = all.elapsed().as_secs_f64() * 1e6 / f64::from(runs);
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "{bytes:>8} {kind:>8} {:>8.1} {:>8.1} {mean:>8.1}",
        at(0.5),
        at(0.99)
    );
    Ok(())
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
