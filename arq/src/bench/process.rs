//! What the measured servers and the machine spent, from `/proc`.

use std::{collections::BTreeMap, fs, io};

/// A server process under measurement, `NAME=PID`.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(super) name: String,
    pub(super) pid: u32,
}

impl Process {
    pub(super) fn new(name: &str, pid: u32) -> Self {
        Self {
            name: name.to_owned(),
            pid,
        }
    }
}

impl std::str::FromStr for Process {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, pid) = text.split_once('=').ok_or("not NAME=PID")?;
        let pid = pid
            .parse()
            .map_err(|_| format!("`{pid}` is not a process id"))?;
        Ok(Self {
            name: name.to_owned(),
            pid,
        })
    }
}

/// CPU seconds each process has used so far, by name.
pub(super) fn cpu(processes: &[Process]) -> io::Result<BTreeMap<String, f64>> {
    let mut all = BTreeMap::new();
    for process in processes {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid))?;
        // The fields after the command, which may hold blanks: utime and stime are 14 and 15.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: f64 = rest
            .split_ascii_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|n| n.parse::<f64>().ok())
            .sum();
        *all.entry(process.name.clone()).or_insert(0.0) += ticks / clock_ticks();
    }
    Ok(all)
}

/// What each process used between two readings.
pub(super) fn cpu_between(
    before: &BTreeMap<String, f64>,
    after: &BTreeMap<String, f64>,
) -> BTreeMap<String, f64> {
    after
        .iter()
        .map(|(name, end)| (name.clone(), end - before.get(name).unwrap_or(&0.0)))
        .collect()
}

/// Resident bytes of each process, by name.
pub(super) fn rss(processes: &[Process]) -> io::Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for process in processes {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid))?;
        let kib: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse().ok())
            .unwrap_or(0);
        *all.entry(process.name.clone()).or_insert(0) += kib * 1024;
    }
    Ok(all)
}

/// Seconds the hypervisor gave to others, of all processors.
pub(super) fn stolen() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: f64 = stat
        .lines()
        .next()
        .and_then(|line| line.split_ascii_whitespace().nth(8))
        .and_then(|n| n.parse().ok())
        .unwrap_or(0.0);
    ticks / clock_ticks()
}

/// The machine's one-minute load.
pub(super) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_ascii_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0.0)
}

fn clock_ticks() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}
