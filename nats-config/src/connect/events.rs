//! What happens to a connection, in a queue that cannot grow without bound.
//!
//! async-nats calls back for each event and waits for the call; a flood (one
//! event for each dropped message) must neither block it nor push out what
//! matters. So losses of one subscription are added up in one entry.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Event, ServerError};
use tokio::sync::{Notify, watch};

/// Entries kept for an owner that does not read; further errors are dropped,
/// the rest needs no more room than its kinds.
const CAPACITY: usize = 256;

/// Something that happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpineEvent {
    /// The server's text, for example a permissions violation.
    ServerError(String),
    /// Messages were dropped because the subscription's queue was full.
    SlowConsumer {
        /// Subscriptions of one client are numbered from 1 in the order made.
        sid: u64,
        /// How many since the last event of this subscription.
        dropped: u64,
    },
    /// The server is about to shut down and takes no new connections.
    LameDuck,
    /// The connection broke; `Closed` follows.
    Disconnected,
    /// It is over.
    Closed,
}

/// The events of one connection, in order; ends after [`SpineEvent::Closed`].
#[derive(Debug)]
pub struct Events {
    shared: Arc<Shared>,
}

/// Tells when a connection is over; clones tell the same. What the server had
/// delivered by then may still be in the streams.
#[derive(Debug, Clone)]
pub struct Closed {
    over: Arc<watch::Sender<bool>>,
}

/// The callback's end. The client drops it when it is over.
#[derive(Debug)]
pub(super) struct Sink {
    shared: Arc<Shared>,
    closed: Closed,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<SpineEvent>,
    over: bool,
}

/// The two ends, and what tells that it is over.
pub(super) fn channel() -> (Sink, Events, Closed) {
    let shared = Arc::new(Shared::default());
    let closed = Closed {
        over: Arc::new(watch::Sender::new(false)),
    };
    let sink = Sink {
        shared: shared.clone(),
        closed: closed.clone(),
    };
    (sink, Events { shared }, closed)
}

// === impl Events ===

impl Events {
    /// The next event; `None` after the last.
    pub async fn recv(&mut self) -> Option<SpineEvent> {
        loop {
            let woken = self.shared.wake.notified();
            {
                let mut queue = self.shared.lock();
                if let Some(event) = queue.events.pop_front() {
                    return Some(event);
                }
                if queue.over {
                    return None;
                }
            }
            woken.await;
        }
    }

    /// The next event, if there is one now.
    pub fn try_recv(&mut self) -> Option<SpineEvent> {
        self.shared.lock().events.pop_front()
    }
}

// === impl Closed ===

impl Closed {
    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        *self.over.borrow()
    }

    /// Returns when it is over.
    pub async fn closed(&self) {
        // It cannot fail: this value holds the sender.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Says that it is over, or as good as over.
    pub(super) fn set(&self) {
        self.over.send_replace(true);
    }
}

// === impl Sink ===

impl Sink {
    /// Queues what the client tells.
    pub(super) fn push(&self, event: Event) {
        match event {
            Event::SlowConsumer(sid) => self.shared.lost_one(sid),
            Event::ServerError(ServerError::SlowConsumer(sid)) => self.shared.lost_one(sid),
            Event::ServerError(error) => {
                let text = match error {
                    ServerError::Other(text) => text,
                    other => other.to_string(),
                };
                if self.shared.lock().events.len() < CAPACITY {
                    self.shared.add(SpineEvent::ServerError(text));
                }
            }
            Event::LameDuckMode => self.shared.add(SpineEvent::LameDuck),
            Event::Disconnected => {
                self.shared.add(SpineEvent::Disconnected);
                self.closed.set();
            }
            Event::Connected | Event::Draining | Event::Closed | Event::ClientError(_) => {}
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        {
            let mut queue = self.shared.lock();
            queue.events.push_back(SpineEvent::Closed);
            queue.over = true;
        }
        self.shared.wake.notify_one();
        self.closed.set();
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while holding it; a poisoned queue is still a queue.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, event: SpineEvent) {
        self.lock().events.push_back(event);
        self.wake.notify_one();
    }

    fn lost_one(&self, lost: u64) {
        {
            let mut queue = self.lock();
            let entry = queue.events.iter_mut().find_map(|event| match event {
                SpineEvent::SlowConsumer { sid, dropped } if *sid == lost => Some(dropped),
                _ => None,
            });
            match entry {
                Some(dropped) => *dropped += 1,
                None => queue.events.push_back(SpineEvent::SlowConsumer {
                    sid: lost,
                    dropped: 1,
                }),
            }
        }
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn losses_add_up_and_the_end_is_told() {
        let (sink, mut events, closed) = channel();
        for _ in 0..1000 {
            sink.push(Event::SlowConsumer(7));
        }
        sink.push(Event::Disconnected);
        assert!(closed.is_closed());
        drop(sink);
        closed.closed().await;
        let mut seen = Vec::new();
        while let Some(event) = events.recv().await {
            seen.push(event);
        }
        assert_eq!(
            seen,
            [
                SpineEvent::SlowConsumer {
                    sid: 7,
                    dropped: 1000
                },
                SpineEvent::Disconnected,
                SpineEvent::Closed
            ]
        );
    }

    #[test]
    fn a_flood_of_errors_is_bounded() {
        let (sink, mut events, _closed) = channel();
        for _ in 0..10_000 {
            sink.push(Event::ServerError(ServerError::Other("no".into())));
        }
        let kept = std::iter::from_fn(|| events.try_recv()).count();
        assert_eq!(kept, CAPACITY);
    }
}
