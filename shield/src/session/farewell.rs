//! Slow readers that wait to learn why they were closed.
//!
//! A client that reads nothing can't be told anything. Its session is over for
//! everyone else, and what stays is the socket, a close frame and at most one
//! message begun, until the client reads again or its time is up. How many stay
//! is bounded; who comes beyond that is cut off without a word.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use arqon_telemetry::Gauge;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Sockets that may wait at once.
const MAX_WAITING: usize = 1024;

/// The places of those that wait.
#[derive(Debug)]
pub(super) struct Farewells {
    places: Arc<Semaphore>,
    over: CancellationToken,
}

/// Ends when the wait is over.
pub(super) type Farewell = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Counts one that waits.
struct Waiting(Gauge);

// === impl Farewells ===

impl Farewells {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_WAITING)),
            over: CancellationToken::new(),
        }
    }

    /// A place for so long; None if there is none.
    pub(super) fn begin(&self, patience: Duration, waiting: &Gauge) -> Option<Farewell> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let over = self.over.clone();
        let waiting = Waiting::new(waiting);
        Some(Box::pin(async move {
            let _held = (place, waiting);
            let _ = tokio::time::timeout(patience, over.cancelled()).await;
        }))
    }

    /// Nobody waits any more, now or later.
    pub(super) fn end(&self) {
        self.places.close();
        self.over.cancel();
    }
}

// === impl Waiting ===

impl Waiting {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_bounded_and_end_with_a_drain() {
        let (all, gauge) = (Farewells::new(), Gauge::default());
        let begin = || all.begin(Duration::from_secs(3600), &gauge);
        let mut waiting: Vec<_> = (0..MAX_WAITING)
            .map(|_| begin().expect("there are places"))
            .collect();
        assert!(begin().is_none());
        drop(waiting.pop());
        let last = begin().expect("a place came free");
        all.end();
        last.await;
        assert!(begin().is_none(), "a drain waits for nobody");
        drop(waiting);
        assert_eq!(gauge.get(), 0);
    }
}
