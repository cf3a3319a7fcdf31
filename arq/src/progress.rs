//! How far long work is: a bar or a spinner on stderr, where that is a terminal. It is gone when
//! the work is done, or fails.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often it is drawn at most, so that what is measured beside it is not disturbed.
const DRAWS_PER_SECOND: u8 = 5;

/// Work that takes its time.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Work in steps.
    pub(crate) fn counted(what: impl Into<String>, total: usize) -> Self {
        Self::new(
            what,
            total as u64,
            "{msg} [{bar:30}] {pos}/{len}, {eta} left",
        )
    }

    /// Work that takes this long.
    pub(crate) fn timed(what: impl Into<String>, total: Duration) -> Self {
        let millis = u64::try_from(total.as_millis()).unwrap_or(u64::MAX);
        Self::new(what, millis, "{msg} [{bar:30}] {eta} left")
    }

    /// Work whose end nobody knows; it turns by itself.
    pub(crate) fn waiting(what: impl Into<String>) -> Self {
        let waiting = Self::new(what, 0, "{spinner} {msg}, {elapsed}");
        waiting.bar.enable_steady_tick(Duration::from_millis(200));
        waiting
    }

    fn new(what: impl Into<String>, total: u64, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(
            Some(total),
            ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND),
        );
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> ").tick_chars("-\\|/ "));
        }
        bar.set_message(what.into());
        Self { bar }
    }

    /// So many steps are done.
    pub(crate) fn done(&self, count: usize) {
        self.bar.set_position(count as u64);
    }

    /// So much time has passed.
    pub(crate) fn passed(&self, time: Duration) {
        self.bar
            .set_position(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }

    /// Says something on stderr without the bar in the middle of it.
    pub(crate) fn aside(&self, say: impl FnOnce()) {
        self.bar.suspend(say);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
