//! What a benchmark found, as JSON to keep and as a table to read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One run of one benchmark against one server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// `connect`, `echo`, `fanout`, `pairs` or `idle`.
    pub(super) bench: String,
    /// Who was measured, for instance `shield` or `nats-ws`.
    pub(super) label: String,
    /// What was asked for.
    pub(super) params: BTreeMap<String, Value>,
    /// What was found; the unit ends the name.
    pub(super) metrics: BTreeMap<String, f64>,
    /// What servers complained of, and how often.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) problems: BTreeMap<String, u64>,
}

/// Several runs of one benchmark against one server.
pub(super) struct Row<'a> {
    pub(super) bench: &'a str,
    pub(super) label: &'a str,
    pub(super) params: &'a BTreeMap<String, Value>,
    pub(super) runs: Vec<&'a Record>,
}

// === impl Row ===

impl<'a> Row<'a> {
    /// Groups records that measure the same, in the order of their first run.
    pub(super) fn group(records: &'a [Record]) -> Vec<Self> {
        let mut rows: Vec<Self> = Vec::new();
        for record in records {
            let same = |row: &&mut Self| {
                row.bench == record.bench
                    && row.label == record.label
                    && *row.params == record.params
            };
            match rows.iter_mut().find(same) {
                Some(row) => row.runs.push(record),
                None => rows.push(Self {
                    bench: &record.bench,
                    label: &record.label,
                    params: &record.params,
                    runs: vec![record],
                }),
            }
        }
        rows
    }

    /// The metrics any run has.
    pub(super) fn names(&self) -> Vec<&'a str> {
        let mut names: Vec<&str> = self
            .runs
            .iter()
            .flat_map(|run| run.metrics.keys().map(String::as_str))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The median of a metric, and the least and greatest it was.
    pub(super) fn median(&self, metric: &str) -> Option<Spread> {
        let mut values: Vec<f64> = self
            .runs
            .iter()
            .filter_map(|run| run.metrics.get(metric).copied())
            .collect();
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[half - 1], values[half])
        } else {
            values[half]
        };
        Some(Spread {
            median,
            least,
            greatest,
        })
    }
}

/// A median and how far runs lay from it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) greatest: f64,
}

/// A number with three significant digits, and separators from 10,000 on.
pub(super) fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 {
        let digits = format!("{magnitude:.0}");
        let mut text = String::new();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        if value < 0.0 {
            format!("-{text}")
        } else {
            text
        }
    } else if magnitude >= 100.0 {
        format!("{value:.0}")
    } else if magnitude >= 10.0 {
        format!("{value:.1}")
    } else if magnitude >= 1.0 || magnitude == 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(label: &str, value: f64) -> Record {
        Record {
            bench: "echo".into(),
            label: label.into(),
            params: BTreeMap::new(),
            metrics: BTreeMap::from([("p50_ms".into(), value)]),
            problems: BTreeMap::new(),
        }
    }

    #[test]
    fn runs_are_grouped_and_the_median_is_taken() {
        let records = [
            record("a", 3.0),
            record("b", 9.0),
            record("a", 1.0),
            record("a", 2.0),
            record("b", 10.0),
        ];
        let rows = Row::group(&records);
        assert_eq!(rows.len(), 2);
        assert_eq!(
            rows[0].median("p50_ms"),
            Some(Spread {
                median: 2.0,
                least: 1.0,
                greatest: 3.0
            })
        );
        assert_eq!(
            rows[1].median("p50_ms").map(|spread| spread.median),
            Some(9.5)
        );
        assert_eq!(rows[0].median("p99_ms"), None);
    }

    #[test]
    fn numbers_are_short() {
        let texts: Vec<String> = [0.0, 0.2345, 2.345, 23.45, 234.5, 1_534_000.4]
            .map(number)
            .into();
        assert_eq!(texts, ["0.00", "0.234", "2.35", "23.4", "234", "1,534,000"]);
    }
}
