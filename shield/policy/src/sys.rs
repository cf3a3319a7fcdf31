//! What only the operating system knows.

use std::time::Duration;

/// CPU time that this thread has used. A system call: only for calls that are overdue.
#[cfg(unix)]
pub(crate) fn thread_cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}
