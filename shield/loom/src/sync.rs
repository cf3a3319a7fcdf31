//! loom's types under the names that Shield knows.

use std::task::Waker;

pub(crate) use loom::sync::Mutex;
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// As that of futures-util, which takes the waker by reference.
pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

// === impl AtomicWaker ===

impl AtomicWaker {
    pub(crate) fn new() -> Self {
        Self(loom::future::AtomicWaker::new())
    }

    pub(crate) fn register(&self, waker: &Waker) {
        self.0.register_by_ref(waker);
    }

    pub(crate) fn wake(&self) {
        self.0.wake();
    }
}
