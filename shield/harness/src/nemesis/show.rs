//! What came of a run, for people, for programs, and as files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::checker::Violation;
use super::history::{self, Event, Record};
use super::run::Outcome;

/// Lines of the history that are shown of one violation.
const EXCERPT: usize = 60;
/// Violations that are written as files.
const FILES: usize = 20;

/// How often each kind of fault befell it.
fn faults(outcome: &Outcome) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for fault in &outcome.faults {
        *counts.entry(fault.kind.name()).or_default() += 1;
    }
    counts
}

/// A table.
#[must_use]
pub fn table(outcome: &Outcome) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<34}{value:>10}");
    };
    for (name, count) in faults(outcome) {
        row(&format!("fault: {name}"), count.to_string());
    }
    for (name, count) in history::count(&outcome.records) {
        row(name, count.to_string());
    }
    let found = &outcome.judgement;
    row("losses declared by a GAP", found.declared.to_string());
    row("losses nobody could declare", found.excused().to_string());
    row(
        "recovery, s",
        format!("{:.1}", outcome.recovery.as_secs_f64()),
    );
    row("largest Shield, MiB", (outcome.memory >> 20).to_string());
    row("violations", found.violations.len().to_string());
    row("problems", outcome.problems.len().to_string());
    text
}

/// As JSON.
#[must_use]
pub fn json(outcome: &Outcome, seed: u64) -> Value {
    let found = &outcome.judgement;
    let violations = found.violations.iter().map(ToString::to_string);
    json!({
        "seed": seed,
        "faults": faults(outcome),
        "events": history::count(&outcome.records),
        "declared": found.declared,
        "excused": found.excused(),
        "recovery_secs": outcome.recovery.as_secs_f64(),
        "largest_shield_bytes": outcome.memory,
        "violations": violations.collect::<Vec<_>>(),
        "problems": outcome.problems,
        "folder": outcome.folder,
    })
}

/// The part of the history that shows a violation.
#[must_use]
pub fn excerpt(outcome: &Outcome, violation: &Violation) -> String {
    let mut text = format!("{violation}\n");
    let records = &outcome.records;
    let (begin, end) = violation.between;
    let end = end.min(records.len().saturating_sub(1));
    let (Some(first), Some(last)) = (records.get(begin), records.get(end)) else {
        return text;
    };
    let seqs = &violation.seqs;
    // What the publisher sent may stand before.
    let from = records.iter().position(|it| is_about(it, violation));
    let from = from.unwrap_or(begin).min(begin);
    let lines: Vec<&Record> = records[from..=end]
        .iter()
        .enumerate()
        .filter(|(at, it)| is_about(it, violation) || (from + at >= begin && is_ear(it, violation)))
        .map(|(_, it)| it)
        .collect();
    let since = lines.first().map_or(first.at, |it| it.at);
    for fault in &outcome.faults {
        if fault.begin <= last.at && fault.end >= since {
            let _ = writeln!(text, "  {fault}");
        }
    }
    let shown = |text: &mut String, lines: &[&Record]| {
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    };
    if lines.len() <= EXCERPT {
        shown(&mut text, &lines);
    } else {
        shown(&mut text, &lines[..EXCERPT / 2]);
        let _ = writeln!(text, "  … {} lines", lines.len() - EXCERPT);
        shown(&mut text, &lines[lines.len() - EXCERPT / 2..]);
    }
    let _ = writeln!(text, "  {} numbers: {seqs:?}", seqs.len());
    text
}

/// Whether it tells the fate of a message that is at issue.
fn is_about(record: &Record, violation: &Violation) -> bool {
    let is_one = |room: u8, seq: u32| room == violation.room && violation.seqs.contains(&seq);
    let own = record.who == violation.publisher;
    match &record.event {
        Event::Sent { room, seq, .. }
        | Event::Acked(room, seq)
        | Event::Refused(room, seq, _)
        | Event::Unknown(room, seq) => own && is_one(*room, *seq),
        Event::Heard { message, .. } => {
            message.publisher == violation.publisher && is_one(message.room, message.seq)
        }
        _ => false,
    }
}

/// Whether it is what the one who missed something heard around it.
fn is_ear(record: &Record, violation: &Violation) -> bool {
    let of_him = match &record.event {
        Event::Heard { message, .. } => message.publisher == violation.publisher,
        Event::Sent { .. } | Event::Acked(..) => false,
        _ => true,
    };
    let room = record.event.room();
    record.who == violation.who && of_him && room.is_none_or(|room| room == violation.room)
}

/// The history, and each violation and each excused loss, as files.
///
/// # Errors
/// Where they cannot be written.
pub fn write(outcome: &Outcome, folder: &Path) -> io::Result<()> {
    let mut text = String::new();
    for fault in &outcome.faults {
        let _ = writeln!(text, "{fault}");
    }
    for problem in &outcome.problems {
        let _ = writeln!(text, "{problem}");
    }
    std::fs::write(folder.join("faults.txt"), text)?;
    let mut text = String::new();
    for record in &outcome.records {
        let _ = writeln!(text, "{record}");
    }
    std::fs::write(folder.join("history.txt"), text)?;
    let found = &outcome.judgement;
    for (name, all) in [
        ("violation", &found.violations),
        ("excused", &found.excused),
    ] {
        for (number, violation) in all.iter().take(FILES).enumerate() {
            let file = folder.join(format!("{name}-{}.txt", number + 1));
            std::fs::write(file, excerpt(outcome, violation))?;
        }
    }
    Ok(())
}
