//! The epoch: a thread that ticks while any instance is alive.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use wasmtime::Engine;

use crate::engine::TICK;

/// Counts the instances that are alive, and ticks while there are some. The
/// count changes with instances, not with messages, so no message takes the lock.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    alive: u32,
    ended: bool,
}

impl Ticker {
    pub(crate) fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("policy-epoch".into())
            .spawn(move || {
                while of_thread.wait() {
                    thread::sleep(TICK);
                    engine.increment_epoch();
                }
            })?;
        Ok(Self { shared })
    }

    /// Counts one more instance, if there are fewer than `most`.
    pub(crate) fn enter(&self, most: u32) -> bool {
        let mut state = self.shared.lock();
        if state.alive >= most {
            return false;
        }
        state.alive += 1;
        if state.alive == 1 {
            self.shared.wake.notify_one();
        }
        true
    }

    /// Counts one instance less.
    pub(crate) fn leave(&self) {
        let mut state = self.shared.lock();
        state.alive = state.alive.saturating_sub(1);
    }

    pub(crate) fn alive(&self) -> u32 {
        self.shared.lock().alive
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Two numbers that no panic can leave half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an instance; false at the end.
    fn wait(&self) -> bool {
        let mut state = self.lock();
        while state.alive == 0 && !state.ended {
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !state.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticker() -> Ticker {
        Ticker::start(Engine::default()).expect("thread")
    }

    #[test]
    fn no_more_enter_than_may() {
        let ticker = ticker();
        assert!(ticker.enter(2) && ticker.enter(2));
        assert!(!ticker.enter(2));
        assert_eq!(ticker.alive(), 2);
        ticker.leave();
        assert!(ticker.enter(2));
        assert!(!ticker.enter(0));
    }

    #[test]
    fn the_thread_ends_with_the_ticker() {
        for alive in [0, 1] {
            let ticker = ticker();
            for _ in 0..alive {
                assert!(ticker.enter(1));
            }
            // The thread holds the other one; the test hangs if it stays.
            let shared = Arc::downgrade(&ticker.shared);
            drop(ticker);
            while shared.strong_count() > 0 {
                thread::yield_now();
            }
        }
    }
}
