//! What the kernel tells of this process, under the names that every Prometheus
//! client uses, so that dashboards of others work.

use std::sync::{Mutex, PoisonError, atomic::AtomicU64};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::catalogue;

/// A counter of seconds.
type Seconds = Counter<f64, AtomicU64>;
/// A gauge with a fraction.
type Fraction = Gauge<f64, AtomicU64>;

catalogue! {
    /// The process itself, looked at whenever metrics are asked for.
    Numbers, PROCESS, "process";
    /// Seconds of CPU used since start, of user and of kernel.
    cpu_seconds: Seconds = Seconds::default(),
    /// Bytes of memory that are really there.
    resident_memory_bytes: Gauge = Gauge::default(),
    /// Bytes of address space.
    virtual_memory_bytes: Gauge = Gauge::default(),
    /// Open files and sockets.
    open_fds: Gauge = Gauge::default(),
    /// Open files and sockets allowed.
    max_fds: Gauge = Gauge::default(),
    /// Threads.
    threads: Gauge = Gauge::default(),
    /// Unix time in seconds at which it began.
    start_time_seconds: Fraction = Fraction::default(),
}

/// The metrics of a process.
#[derive(Debug)]
pub struct ProcessMetrics {
    numbers: Numbers,
    /// CPU seconds that are counted already.
    told: Mutex<f64>,
}

// === impl ProcessMetrics ===

impl ProcessMetrics {
    pub(crate) fn register(registry: &mut prometheus_client::registry::Registry) -> Self {
        Self {
            numbers: Numbers::register(registry),
            told: Mutex::default(),
        }
    }

    /// Brings the numbers up to date; where the kernel has no such files they stay zero.
    pub(crate) fn look(&self) {
        let _ = self.try_look();
    }

    fn try_look(&self) -> Option<()> {
        let numbers = &self.numbers;
        let process = procfs::process::Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let ticks = procfs::ticks_per_second() as f64;
        let used = (stat.utime + stat.stime) as f64 / ticks;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if used > *told {
            numbers.cpu_seconds.inc_by(used - *told);
            *told = used;
        }
        drop(told);
        numbers
            .resident_memory_bytes
            .set(whole(stat.rss * procfs::page_size()));
        numbers.virtual_memory_bytes.set(whole(stat.vsize));
        numbers.threads.set(stat.num_threads);
        numbers.open_fds.set(whole(process.fd_count().ok()? as u64));
        let limit = process.limits().ok()?.max_open_files.soft_limit;
        if let procfs::process::LimitValue::Value(limit) = limit {
            numbers.max_fds.set(whole(limit));
        }
        let booted = procfs::boot_time_secs().ok()? as f64;
        numbers
            .start_time_seconds
            .set(booted + stat.starttime as f64 / ticks);
        Some(())
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_tells_of_this_process() {
        let metrics =
            ProcessMetrics::register(&mut prometheus_client::registry::Registry::default());
        metrics.look();
        assert!(metrics.numbers.resident_memory_bytes.get() > 1_000_000);
        assert!(metrics.numbers.open_fds.get() > 2);
        assert!(metrics.numbers.start_time_seconds.get() > 1e9);
        let before = metrics.numbers.cpu_seconds.get();
        metrics.look();
        assert!(metrics.numbers.cpu_seconds.get() >= before);
    }
}
