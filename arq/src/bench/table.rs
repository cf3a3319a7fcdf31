//! `arq bench table`: recorded runs as one table of medians, and the seed's limits.

use std::{fs, path::PathBuf};

use clap::Args;
use serde_json::json;

use super::report::{Record, Row, number};
use crate::{
    Globals,
    failure::{Doing, Exit, Failure, Result},
    output::Output,
};

/// What `arq bench table` takes.
#[derive(Debug, Args)]
pub(super) struct TableArgs {
    /// A file with one run a line, as `arq bench … --json` prints them
    file: PathBuf,
    /// Judge the runs by SC-001 to SC-004; a miss is a failure
    #[arg(long)]
    seed: bool,
    /// As a Markdown table
    #[arg(long)]
    markdown: bool,
}

/// Does what was asked.
pub(super) fn run(args: &TableArgs, globals: &Globals) -> Result {
    let text = fs::read_to_string(&args.file)
        .doing(format!("cannot read {}", args.file.display()))
        .hint("name a file with what `arq bench ... --json` printed, a run a line")?;
    let records = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(serde_json::from_str::<Record>)
        .collect::<Result<Vec<_>, _>>()
        .doing(format!("{} does not hold", args.file.display()))?;
    if args.seed {
        return seed(&records, globals);
    }
    if globals.output.json {
        let rows: Vec<_> = Row::group(&records)
            .iter()
            .map(|row| {
                let metrics: serde_json::Map<_, _> = row
                    .names()
                    .into_iter()
                    .filter_map(|name| Some((name.to_owned(), serde_json::to_value(row.median(name)?).ok()?)))
                    .collect();
                json!({"bench": row.bench, "label": row.label, "params": row.params, "runs": row.runs.len(), "metrics": metrics})
            })
            .collect();
        return globals.output.object(&rows);
    }
    if args.markdown {
        markdown(&records, &globals.output)
    } else {
        print(&records, &globals.output)
    }
}

/// A table for each benchmark, one row a server, medians in the cells.
pub(super) fn print(records: &[Record], output: &Output) -> Result {
    for (title, head, rows) in tables(records) {
        output.line(title)?;
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        output.table(&head, rows, "")?;
        output.line("")?;
    }
    let problems: Vec<String> = records
        .iter()
        .flat_map(|record| {
            record.problems.iter().map(move |(what, count)| {
                format!("{} {}: {what} ({count})", record.bench, record.label)
            })
        })
        .collect();
    for problem in problems {
        output.warn(problem);
    }
    Ok(())
}

fn markdown(records: &[Record], output: &Output) -> Result {
    for (title, head, rows) in tables(records) {
        output.line(format!("**{title}**\n"))?;
        output.line(format!("| {} |", head.join(" | ")))?;
        output.line(format!("|{}", "---|".repeat(head.len())))?;
        for row in rows {
            output.line(format!("| {} |", row.join(" | ")))?;
        }
        output.line("")?;
    }
    Ok(())
}

type Table = (String, Vec<String>, Vec<Vec<String>>);

fn tables(records: &[Record]) -> Vec<Table> {
    let rows = Row::group(records);
    let mut tables: Vec<(&Row<'_>, Vec<&Row<'_>>)> = Vec::new();
    for row in &rows {
        match tables
            .iter_mut()
            .find(|(first, _)| first.bench == row.bench && first.params == row.params)
        {
            Some((_, rows)) => rows.push(row),
            None => tables.push((row, vec![row])),
        }
    }
    tables
        .into_iter()
        .map(|(first, rows)| {
            let params: Vec<String> = first
                .params
                .iter()
                .map(|(name, value)| format!("{name} {}", value.to_string().trim_matches('"')))
                .collect();
            let mut names: Vec<&str> = rows.iter().flat_map(|row| row.names()).collect();
            names.sort_by_key(|name| (rank(name), *name));
            names.dedup();
            let head = ["server".to_owned(), "runs".to_owned()]
                .into_iter()
                .chain(names.iter().map(|name| name.replace('_', " ")))
                .collect();
            let body = rows
                .iter()
                .map(|row| {
                    let cells = names.iter().map(|name| match row.median(name) {
                        Some(spread) => number(spread.median),
                        None => "-".to_owned(),
                    });
                    [row.label.to_owned(), row.runs.len().to_string()]
                        .into_iter()
                        .chain(cells)
                        .collect()
                })
                .collect();
            (
                format!("{} ({})", first.bench, params.join(", ")),
                head,
                body,
            )
        })
        .collect()
}

/// What people look for first stands first.
fn rank(metric: &str) -> usize {
    const ORDER: [&str; 15] = [
        "deliveries_per_s",
        "kib_per_connection",
        "rss_mib",
        "p50_us",
        "p99_us",
        "p999_us",
        "p50_ms",
        "p99_ms",
        "p999_ms",
        "joined_p50_ms",
        "joined_p99_ms",
        "joined_p999_ms",
        "cpu_s_per_million",
        "cores",
        "cpu_ms_per_handshake",
    ];
    ORDER
        .iter()
        .position(|name| *name == metric)
        .unwrap_or(ORDER.len())
}

/// One criterion of the specification.
struct Criterion {
    id: &'static str,
    what: &'static str,
    limit: &'static str,
    bound: f64,
    bench: &'static str,
    label: &'static str,
    metric: &'static str,
    unit: &'static str,
}

const SEED: [Criterion; 5] = [
    Criterion {
        id: "SC-001",
        what: "TLS handshake with token, p99, warm tenant",
        limit: "< 100 ms",
        bound: 100.0,
        bench: "connect",
        label: "shield-tls",
        metric: "p99_ms",
        unit: "ms",
    },
    Criterion {
        id: "SC-001",
        what: "TLS handshake and first JOIN, p99, cold tenants",
        limit: "< 100 ms",
        bound: 100.0,
        bench: "connect",
        label: "shield-tls-cold",
        metric: "joined_p99_ms",
        unit: "ms",
    },
    Criterion {
        id: "SC-002",
        what: "publish to deliver, p99",
        limit: "< 30 ms",
        bound: 30.0,
        bench: "echo",
        label: "shield",
        metric: "p99_ms",
        unit: "ms",
    },
    Criterion {
        id: "SC-003",
        what: "resident memory, 10,000 idle TLS connections",
        limit: "< 1,024 MiB",
        bound: 1024.0,
        bench: "idle",
        label: "shield-tls",
        metric: "rss_mib",
        unit: "MiB",
    },
    Criterion {
        id: "SC-004",
        what: "policy on a message of 1 KiB, p99",
        limit: "< 2 ms",
        bound: 2000.0,
        bench: "policy latency",
        label: "chain of 1",
        metric: "p99_us",
        unit: "µs",
    },
];

fn seed(records: &[Record], globals: &Globals) -> Result {
    let rows = Row::group(records);
    let mut missed = Vec::new();
    let mut cells = Vec::new();
    let mut objects = Vec::new();
    for criterion in &SEED {
        let found = rows
            .iter()
            .find(|row| row.bench == criterion.bench && row.label == criterion.label)
            .and_then(|row| row.median(criterion.metric));
        let (value, verdict) = match found {
            Some(spread) if spread.median < criterion.bound => (spread.median.into(), "met"),
            Some(spread) => (Some(spread.median), "missed"),
            None => (None, "not measured"),
        };
        if verdict != "met" {
            missed.push(criterion.id);
        }
        let text = value.map_or_else(
            || "-".to_owned(),
            |value| format!("{} {}", number(value), criterion.unit),
        );
        cells.push(vec![
            criterion.id.into(),
            criterion.what.into(),
            criterion.limit.into(),
            text,
            verdict.into(),
        ]);
        objects.push(json!({
            "id": criterion.id, "what": criterion.what, "limit": criterion.bound, "unit": criterion.unit,
            "value": value, "verdict": verdict,
        }));
    }
    if globals.output.json {
        globals.output.object(&objects)?;
    } else {
        globals
            .output
            .table(&["id", "what", "limit", "median", "verdict"], cells, "")?;
    }
    if missed.is_empty() {
        Ok(())
    } else {
        Err(Failure::told(Exit::Failed))
    }
}
