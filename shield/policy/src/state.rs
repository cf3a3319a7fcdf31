//! What belongs to one instance and is reached from within its calls: its
//! limits, its deadline, its log.

use std::time::{Duration, Instant};

use wasmtime::{ResourceLimiter, StoreContextMut, UpdateDeadline, component::WasmStr};

use crate::{
    MAX_LOG_BYTES, MAX_LOG_LINES, ShapeLimits, engine::TICK, host::Slot, sys, wire::LogLevel,
};

/// Ticks after which a call is overdue. Two, since the first comes at any moment.
pub(crate) const OVERDUE_TICKS: u64 = 2;

/// A line that a policy wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters.
    pub level: LogLevel,
    /// The line, cut to [`crate::MAX_LOG_BYTES`].
    pub text: String,
}

pub(crate) struct State {
    pub(crate) memory: Memory,
    pub(crate) deadline: Deadline,
    pub(crate) log: Vec<LogLine>,
    // Dropped with the store, so that the count never exceeds the pool.
    _slot: Slot,
}

/// The limiter of linear memory.
pub(crate) struct Memory {
    most: usize,
    pub(crate) bytes: usize,
    before: usize,
    /// Whether this call was refused memory: what it fails of after that, it
    /// fails for want of memory.
    pub(crate) refused: bool,
}

/// When a call ends. Nothing is read on the fast path but the clock that needs
/// no system call.
pub(crate) struct Deadline {
    started: Instant,
    cpu_budget: Duration,
    wall_cap: Duration,
    overdue: Option<Overdue>,
    ticked: bool,
}

#[derive(Clone, Copy)]
struct Overdue {
    /// CPU time of the thread when counting began.
    cpu: Duration,
    /// What is charged for the time before that.
    before: Duration,
}

impl State {
    pub(crate) fn new(slot: Slot, memory_bytes: usize) -> Self {
        Self {
            memory: Memory {
                most: memory_bytes,
                bytes: 0,
                before: 0,
                refused: false,
            },
            deadline: Deadline::new(Duration::ZERO, Duration::ZERO),
            log: Vec::new(),
            _slot: slot,
        }
    }

    /// Begins a call. Log lines that nobody took are gone.
    pub(crate) fn begin(&mut self, deadline: Deadline) {
        self.deadline = deadline;
        self.memory.refused = false;
        self.log.clear();
    }
}

impl Deadline {
    /// Of a call whose CPU time is counted only once it is overdue: a thread
    /// that got no CPU must not block a good message.
    pub(crate) fn new(cpu_budget: Duration, wall_cap: Duration) -> Self {
        Self {
            started: Instant::now(),
            cpu_budget,
            wall_cap,
            overdue: None,
            ticked: false,
        }
    }

    /// Of a call whose CPU time is counted from now on, for a system call.
    pub(crate) fn exact(cpu_budget: Duration, wall_cap: Duration) -> Self {
        Self {
            overdue: Some(Overdue {
                cpu: sys::thread_cpu(),
                before: Duration::ZERO,
            }),
            ..Self::new(cpu_budget, wall_cap)
        }
    }

    /// Called by each tick of a call that is overdue. The first only looks: it
    /// may be the thread that got no CPU for long, and a good policy is done
    /// before the second.
    pub(crate) fn tick(&mut self) -> UpdateDeadline {
        let cpu = sys::thread_cpu();
        let wall = self.started.elapsed();
        let overdue = *self.overdue.get_or_insert_with(|| Overdue {
            cpu,
            before: wall.min(TICK * OVERDUE_TICKS as u32),
        });
        let first = !std::mem::replace(&mut self.ticked, true);
        let used = cpu.saturating_sub(overdue.cpu);
        // A thread that got no CPU has done no wrong: past the wall-clock cap
        // it still has a quarter of its budget.
        let spent =
            used >= self.cpu_budget || (wall >= self.wall_cap && used >= self.cpu_budget / 4);
        if spent && !first {
            UpdateDeadline::Interrupt
        } else {
            UpdateDeadline::Continue(1)
        }
    }

    /// What the call cost: CPU time where it was counted, else the time that passed.
    pub(crate) fn cost(&self) -> Duration {
        match self.overdue {
            Some(overdue) => overdue.before + sys::thread_cpu().saturating_sub(overdue.cpu),
            None => self.started.elapsed(),
        }
    }
}

impl ResourceLimiter for State {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let memory = &mut self.memory;
        if desired > memory.most || maximum.is_some_and(|most| desired > most) {
            memory.refused = true;
            return Ok(false);
        }
        memory.before = current;
        memory.bytes = desired;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        let memory = &mut self.memory;
        memory.bytes = memory.before;
        memory.refused = true;
        Ok(())
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let most = ShapeLimits::default().table_entries;
        let fits = desired <= maximum.map_or(most, |maximum| maximum.min(most));
        self.memory.refused |= !fits;
        Ok(fits)
    }
}

/// The import `log`.
pub(crate) fn log(
    mut cx: StoreContextMut<'_, State>,
    (level, text): (LogLevel, WasmStr),
) -> wasmtime::Result<()> {
    if cx.data().log.len() >= MAX_LOG_LINES {
        return Ok(());
    }
    let text = {
        let whole = text.to_str(&cx)?;
        whole[..whole.floor_char_boundary(MAX_LOG_BYTES)].to_owned()
    };
    cx.data_mut().log.push(LogLine { level, text });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn interrupts(deadline: &mut Deadline) -> bool {
        matches!(deadline.tick(), UpdateDeadline::Interrupt)
    }

    #[test]
    fn the_first_tick_ends_nothing() {
        for mut spent in [
            Deadline::new(Duration::ZERO, LONG),
            Deadline::exact(Duration::ZERO, LONG),
        ] {
            assert!(!interrupts(&mut spent));
            assert!(interrupts(&mut spent));
        }
    }

    /// A thread that got no CPU is past the wall-clock cap for no fault of the
    /// policy's; one that runs is not.
    #[test]
    fn past_the_wall_clock_cap_a_quarter_of_the_budget_ends_it() {
        let mut starved = Deadline::new(LONG, Duration::ZERO);
        assert!(!interrupts(&mut starved));
        assert!(!interrupts(&mut starved));

        let budget = Duration::from_millis(40);
        let mut running = Deadline::new(budget, Duration::ZERO);
        assert!(!interrupts(&mut running));
        let before = sys::thread_cpu();
        while sys::thread_cpu() - before < budget / 4 {}
        assert!(interrupts(&mut running));
    }

    #[test]
    fn what_is_within_both_limits_goes_on() {
        let mut deadline = Deadline::new(LONG, LONG);
        for _ in 0..1000 {
            assert!(!interrupts(&mut deadline));
        }
    }

    #[test]
    fn time_before_the_first_tick_is_charged_for_two_ticks_at_most() {
        let mut late = Deadline::new(LONG, LONG);
        late.started = Instant::now()
            .checked_sub(Duration::from_secs(20))
            .expect("up for longer");
        assert!(late.cost() >= Duration::from_secs(20));
        late.tick();
        assert_eq!(late.overdue.map(|overdue| overdue.before), Some(TICK * 2));
        assert!(late.cost() < Duration::from_secs(20));
    }
}
