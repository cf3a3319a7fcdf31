//! Writes `docs/metrics.md` from the catalogue; with `--check` only says
//! whether it is what it should be. Called by `scripts/gen`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use arqon_telemetry::metrics::CATALOGUE;

const HEAD: &str = "# Metrics

Every metric of ArqonBus, made from the catalogue in `shield/telemetry/src/metrics/` by `scripts/gen`.
Names are Prometheus's, whether it scrapes `/metrics` or takes OTLP: of a counter the name there ends in `_total`, a
histogram has `_bucket`, `_sum` and `_count`, seconds and bytes are in the name. Series whose labels are of a short
list (reasons, outcomes, codes of an upgrade) are there from the start, so that a first event is a rise; others (codes
of ERROR frames and of limits, classes of faults) appear when they first move. All stay until the process ends, but for tenants that are not among the busiest any more.
";

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let check = match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--check"] => true,
        _ => {
            eprintln!("usage: gen-metrics [--check]");
            return Ok(ExitCode::from(2));
        }
    };
    let text = page();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(ExitCode::SUCCESS);
    }
    if check {
        eprintln!("docs/metrics.md is stale: run scripts/gen");
        return Ok(ExitCode::FAILURE);
    }
    fs::write(path, text)?;
    println!("docs/metrics.md");
    Ok(ExitCode::SUCCESS)
}

fn page() -> String {
    let mut out = HEAD.to_owned();
    for (part, metrics) in CATALOGUE {
        let _ = write!(out, "\n## {part}\n\n");
        out.push_str("| name | kind | unit | label | what it counts, and when it moves |\n");
        out.push_str("|---|---|---|---|---|\n");
        for metric in *metrics {
            let unit = match metric.unit() {
                "s" => "seconds",
                "By" => "bytes",
                _ => "",
            };
            let label = metric
                .label
                .map_or(String::new(), |label| format!("`{label}`"));
            let _ = writeln!(
                out,
                "| `{}` | {} | {unit} | {label} | {} |",
                metric.prometheus_name(),
                metric.kind,
                metric.help.trim()
            );
        }
    }
    out
}
