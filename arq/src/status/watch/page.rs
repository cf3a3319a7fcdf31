//! A picture as lines: a head, and a table for each kind of thing, cut to a screen.

use arqon_proto::v1::Latency;

use super::lines::{Column, Line, Span, Table};
use super::picture::{Brain, Picture, Policies, Shield, ShieldState, Tenant};
use super::rates::{Rate, sum};
use crate::duration::{micros, words};
use crate::output::{Paint, counted};

/// A table that is cut shows its head, one row, and how many more there are.
const LEAST: usize = 3;

/// On a screen that is not as high as this, what helps is left out.
const LOW: usize = 12;

/// What cannot be told.
const UNKNOWN: &str = "–";

/// What is written of rates and latencies.
const NUMBER: usize = "12.3k".len();
/// What is written of a length of time.
const TIME: usize = "59m 59s".len();

const fn column(head: &'static str, rank: u8) -> Column {
    least(head, rank, 0)
}

const fn least(head: &'static str, rank: u8, least: usize) -> Column {
    Column {
        head,
        rank,
        least,
        text: false,
    }
}

const fn text(head: &'static str, rank: u8) -> Column {
    Column {
        text: true,
        ..column(head, rank)
    }
}

const SHIELDS: &[Column] = &[
    text("SHIELD", 0),
    text("STATE", 1),
    column("SESSIONS", 4),
    column("ROOMS", 8),
    least("IN/S", 2, NUMBER),
    least("OUT/S", 3, NUMBER),
    least("ERR/S", 5, NUMBER),
    least("P50", 9, NUMBER),
    least("P95", 7, NUMBER),
    least("P99", 6, NUMBER),
    column("SLOW/S", 11),
    column("REFUSED/S", 12),
    least("UP", 10, TIME),
    text("POOL", 13),
    text("VERSION", 14),
];

const TENANTS: &[Column] = &[
    text("TENANT", 0),
    text("STATE", 5),
    column("SESSIONS", 2),
    column("ROOMS", 6),
    least("IN/S", 1, NUMBER),
    least("OUT/S", 3, NUMBER),
    least("ERR/S", 4, NUMBER),
    text("POOL", 7),
];

const POLICIES: &[Column] = &[
    text("POLICIES ON", 0),
    column("ACTIVE", 4),
    column("BROKEN", 1),
    column("QUARANTINED", 5),
    column("ALLOWED/S", 7),
    column("BLOCKED/S", 2),
    column("CHANGED/S", 6),
    column("FAULTS/S", 3),
];

const BRAINS: &[Column] = &[
    text("BRAIN", 0),
    text("STATE", 1),
    column("MEMBERS", 2),
    column("TENANTS", 4),
    column("TELLS OF", 3),
    column("SHIELDS", 5),
    least("UP", 6, TIME),
    text("VERSION", 7),
];

const SERVERS: &[Column] = &[
    text("NATS SERVER", 0),
    column("CONNECTIONS", 1),
    column("SLOW CONSUMERS", 2),
    column("MEMORY", 3),
    least("UP", 4, TIME),
    text("VERSION", 5),
];

/// The whole picture, as wide and as high as it is.
pub(super) fn block(picture: &Picture) -> Vec<Line> {
    let mut lines = vec![health(picture)];
    lines.extend(problems(picture, usize::MAX));
    lines.extend(totals(picture));
    for table in tables(picture) {
        lines.extend(table.lines(usize::MAX, usize::MAX));
    }
    lines
}

/// Exactly as many lines as a screen has.
pub(super) fn screen(picture: &Picture, width: usize, height: usize, every_secs: u64) -> Vec<Line> {
    let mut lines = vec![health(picture)];
    lines.extend(problems(picture, (height / 8).max(1)));
    lines.extend(totals(picture));
    let foot = usize::from(height >= LOW);
    let tables = tables(picture);
    let room = height.saturating_sub(lines.len() + foot);
    let needs: Vec<usize> = tables.iter().map(Table::height).collect();
    let heights = share(&needs, room);
    // An empty line before each table, where there are lines to spare.
    let spare = room.saturating_sub(heights.iter().sum()) >= tables.len();
    for (table, height) in tables.iter().zip(heights) {
        if spare {
            lines.push(Line::default());
        }
        lines.extend(table.lines(width, height));
    }
    lines.resize(height.saturating_sub(foot), Line::default());
    if foot > 0 {
        let help = format!("every {} · q ends", words(every_secs));
        lines.push(Line::of(Span::painted(Paint::Dim, help)));
    }
    lines
}

/// Which table gets how many of `room` lines. First each gets the least it makes sense with, in
/// order; then one line after the other goes round to those that need more.
fn share(needs: &[usize], room: usize) -> Vec<usize> {
    let mut left = room;
    let mut heights: Vec<usize> = needs
        .iter()
        .map(|need| {
            let least = (*need).min(LEAST);
            let height = if least <= left { least } else { 0 };
            left -= height;
            height
        })
        .collect();
    loop {
        let before = left;
        for (height, need) in heights.iter_mut().zip(needs) {
            if left > 0 && *height > 0 && *height < *need {
                *height += 1;
                left -= 1;
            }
        }
        if left == before {
            return heights;
        }
    }
}

fn health(picture: &Picture) -> Line {
    let time = arqon_proto::headers::timestamp(picture.at);
    let time = time.get(..19).unwrap_or_default().replace('T', " ");
    let health = match (&picture.lost, picture.problems.len()) {
        (Some((_, secs)), _) => {
            let lost = format!("NATS is lost for {}, trying again", words(*secs));
            Span::painted(Paint::Red, lost)
        }
        _ if picture.listening => Span::painted(Paint::Yellow, "listening"),
        (None, 0) => Span::painted(Paint::Green, "healthy"),
        (None, count) => Span::painted(
            Paint::Red,
            format!("not well, {}", counted(count, "problem")),
        ),
    };
    let ready = format!(
        "  {} of {} ready",
        picture.total.ready,
        counted(picture.shields.len(), "Shield")
    );
    let mut spans = vec![Span::plain("ArqonBus: "), health];
    if picture.lost.is_none() {
        spans.push(Span::plain(ready));
    }
    spans.push(Span::painted(Paint::Dim, format!("  {time}Z")));
    Line(spans)
}

fn problems(picture: &Picture, most: usize) -> Vec<Line> {
    let all = match &picture.lost {
        // What else is not well cannot be told meanwhile.
        Some((why, _)) => std::slice::from_ref(why),
        None => &picture.problems[..],
    };
    let shown = if all.len() > most {
        most - 1
    } else {
        all.len()
    };
    let line = |text: String| {
        Line(vec![
            Span::painted(Paint::Red, "problem: "),
            Span::plain(text),
        ])
    };
    let mut lines: Vec<Line> = all[..shown].iter().cloned().map(line).collect();
    if shown < all.len() {
        lines.push(line(format!("… {} more", all.len() - shown)));
    }
    lines
}

fn totals(picture: &Picture) -> [Line; 2] {
    let total = &picture.total;
    let mut counts = Vec::new();
    for (name, value) in [
        ("sessions", total.sessions.to_string()),
        ("  rooms", total.rooms.to_string()),
        ("  in", format!("{}/s", rate(total.messages_in))),
        ("  out", format!("{}/s", rate(total.messages_out))),
        ("  errors", format!("{}/s", rate(total.errors))),
    ] {
        counts.push(Span::painted(Paint::Dim, format!("{name} ")));
        counts.push(Span::plain(value));
    }
    let mut delivery = vec![Span::painted(Paint::Dim, "delivery ")];
    match &total.slowest {
        None => delivery.push(Span::plain(UNKNOWN)),
        Some((shield, latency)) => {
            let text = format!(
                "p50 {}  p95 {}  p99 {}",
                micros(latency.p50_us),
                micros(latency.p95_us),
                micros(latency.p99_us)
            );
            delivery.push(Span::plain(text));
            if picture.shields.len() > 1 {
                let whose = format!("  on {shield}, the slowest");
                delivery.push(Span::painted(Paint::Dim, whose));
            }
        }
    }
    [Line(counts), Line(delivery)]
}

fn tables(picture: &Picture) -> [Table; 5] {
    let table = |columns, rows, empty| Table {
        columns,
        rows,
        empty,
        note: None,
    };
    let in_force = |row: &&Policies| row.active > 0 || row.broken > 0 || row.quarantined > 0;
    [
        table(
            SHIELDS,
            picture.shields.iter().map(shield).collect(),
            "no Shield reports",
        ),
        Table {
            note: picture.unnamed_tenants.then_some(
                "a Shield reports only the 100 tenants with most sessions; others have more than is shown",
            ),
            ..table(
                TENANTS,
                picture.tenants.iter().map(tenant).collect(),
                "no tenants",
            )
        },
        table(
            POLICIES,
            picture.policies.iter().filter(in_force).map(policies).collect(),
            "no policy is in force",
        ),
        table(
            BRAINS,
            picture.brains.iter().map(brain).collect(),
            "no Brain is heard: presence is unavailable, messages flow",
        ),
        table(
            SERVERS,
            picture.servers.iter().map(server).collect(),
            "no NATS server has answered yet",
        ),
    ]
}

fn shield(shield: &Shield) -> Vec<Span> {
    let state = match shield.state {
        ShieldState::Ready => Span::painted(Paint::Green, "ready"),
        ShieldState::NotReady => Span::painted(Paint::Red, "not ready"),
        ShieldState::Draining => Span::painted(Paint::Yellow, "draining"),
        ShieldState::Silent(secs) => Span::painted(Paint::Red, format!("silent {}", words(secs))),
    };
    let latency = |of: fn(&Latency) -> u64| {
        let text = shield.delivery.as_ref().map(|latency| micros(of(latency)));
        Span::plain(text.unwrap_or_else(|| UNKNOWN.to_owned()))
    };
    vec![
        Span::painted(Paint::Cyan, shield.id.clone()),
        state,
        number(shield.sessions.into()),
        number(shield.rooms.into()),
        Span::plain(rate(shield.messages_in)),
        Span::plain(rate(shield.messages_out)),
        wrong(shield.errors),
        latency(|latency| latency.p50_us),
        latency(|latency| latency.p95_us),
        latency(|latency| latency.p99_us),
        wrong(shield.slow_readers),
        wrong(shield.auth_failures),
        Span::plain(words(shield.uptime_ms / 1_000)),
        Span::plain(shield.pool.clone()),
        Span::plain(shield.version.clone()),
    ]
}

fn tenant(tenant: &Tenant) -> Vec<Span> {
    let state = if tenant.suspended {
        Span::painted(Paint::Yellow, "suspended")
    } else if tenant.pool.is_empty() {
        Span::painted(Paint::Yellow, "no record")
    } else {
        Span::plain("active")
    };
    vec![
        Span::painted(Paint::Cyan, tenant.id.clone()),
        state,
        number(tenant.sessions),
        number(tenant.rooms),
        Span::plain(rate(tenant.rates.messages_in)),
        Span::plain(rate(tenant.rates.messages_out)),
        wrong(tenant.rates.errors),
        Span::plain(tenant.pool.clone()),
    ]
}

fn policies(policies: &Policies) -> Vec<Span> {
    let bad = |count: u32| match count {
        0 => number(0),
        count => Span::painted(Paint::Red, count.to_string()),
    };
    let rates = &policies.rates;
    vec![
        Span::painted(Paint::Cyan, policies.shield.clone()),
        number(policies.active.into()),
        bad(policies.broken),
        bad(policies.quarantined),
        Span::plain(rate(rates.allowed)),
        Span::plain(rate(rates.blocked)),
        Span::plain(rate(rates.transformed)),
        // As `arq status` counts them: both block what should have been judged.
        wrong(sum([rates.faults, rates.unavailable])),
    ]
}

fn brain(brain: &Brain) -> Vec<Span> {
    let state = match (brain.silent_secs, brain.warm) {
        (Some(secs), _) => Span::painted(Paint::Red, format!("silent {}", words(secs))),
        (None, true) => Span::painted(Paint::Green, "warm"),
        (None, false) => Span::painted(Paint::Yellow, "warming up"),
    };
    vec![
        Span::painted(Paint::Cyan, brain.id.clone()),
        state,
        number(brain.members),
        number(brain.tenants.into()),
        Span::plain(format!("{} of {}", brain.share, brain.tenants)),
        number(brain.shields.into()),
        Span::plain(words(brain.uptime_ms / 1_000)),
        Span::plain(brain.version.clone()),
    ]
}

fn server(server: &arqon_spine::admin::ServerStatus) -> Vec<Span> {
    let slow = match server.slow_consumers {
        0 => number(0),
        count => Span::painted(Paint::Yellow, count.to_string()),
    };
    vec![
        Span::painted(Paint::Cyan, server.name.clone()),
        number(server.connections),
        slow,
        Span::plain(crate::size::words(server.memory_bytes)),
        Span::plain(words(server.uptime_secs)),
        Span::plain(server.version.clone()),
    ]
}

fn number(number: u64) -> Span {
    Span::plain(number.to_string())
}

/// A rate of what should not happen.
fn wrong(of: Rate) -> Span {
    match of {
        Some(some) if some > 0.0 => Span::painted(Paint::Yellow, rate(of)),
        _ => Span::plain(rate(of)),
    }
}

/// Three digits, as far as a number has them: `–`, `0`, `0.25`, `3.2`, `42`, `950`, `12.3k`, `1.98M`.
fn rate(rate: Rate) -> String {
    let Some(rate) = rate else {
        return UNKNOWN.to_owned();
    };
    let short = |value: f64| match value {
        0.0 => "0".to_owned(),
        // Rounded up to here it would be 10.0 and 100.
        value if value < 9.995 => {
            let text = format!("{value:.2}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        value if value < 99.95 => {
            let text = format!("{value:.1}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        value => format!("{value:.0}"),
    };
    match rate {
        rate if rate < 999.5 => short(rate),
        rate if rate < 999_500.0 => format!("{}k", short(rate / 1e3)),
        rate => format!("{}M", short(rate / 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short() {
        for (of, text) in [
            (None, "–"),
            (Some(0.0), "0"),
            (Some(0.25), "0.25"),
            (Some(3.0), "3"),
            (Some(3.2), "3.2"),
            (Some(9.999), "10"),
            (Some(99.96), "100"),
            (Some(999.4), "999"),
            (Some(999.9), "1k"),
            (Some(12_345.0), "12.3k"),
            (Some(999_600.0), "1M"),
            (Some(1_984_000.0), "1.98M"),
        ] {
            assert_eq!(rate(of), text);
        }
    }

    #[test]
    fn each_table_gets_the_least_it_needs_and_the_rest_goes_round() {
        assert_eq!(share(&[2, 50, 1, 2, 2], 100), [2, 50, 1, 2, 2]);
        assert_eq!(share(&[2, 50, 1, 2, 2], 20), [2, 13, 1, 2, 2]);
        assert_eq!(share(&[9, 9, 9], 13), [5, 4, 4]);
        assert_eq!(share(&[9, 9, 9], 7), [4, 3, 0]);
        assert_eq!(share(&[9, 9, 1], 7), [3, 3, 1]);
        assert_eq!(share(&[9, 9], 2), [0, 0]);
        assert_eq!(share(&[9, 9], 0), [0, 0]);
    }
}
