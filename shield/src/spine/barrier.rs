//! The proof that the server has what was sent: a message to ourselves.
//!
//! Whoever wants proof queues; one barrier at a time is under way, and its
//! return answers all who queued before it left. The connection never
//! reconnects, so a barrier that comes back passed through the same socket,
//! behind everything handed over before. Silence for the time-out, or the end
//! of the connection: the fate is unknown, and is told as such, never as ACK.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use arqon_proto::{
    codes::ErrorCode,
    envelope,
    names::{RoomId, TwistId},
};
use arqon_spine::{connect::Closed, nats, subjects};
use arqon_telemetry::{labels::Code, metrics::TenantMeter};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{Notify, oneshot};

use super::{counters::Counters, publication::Publication};
use crate::session::{Frame, Outbox};

/// Who wants to hear that a message is with the server.
#[derive(Debug)]
pub struct AckRequest {
    /// Where ACK or ERROR goes.
    pub outbox: Arc<Outbox>,
    /// The room of the message.
    pub room: RoomId,
    /// The client's `ref`.
    pub reference: u64,
    /// The message's X-Twist-ID.
    pub twist: TwistId,
    /// Lowered by one before the answer is queued.
    pub in_flight: Arc<AtomicU32>,
    /// When the PUBLISH was read.
    pub since: Instant,
    /// What the tenant's sessions count on.
    pub meter: Arc<TenantMeter>,
    /// Its trace, which ends with the answer.
    pub trace: Option<Box<Publication>>,
}

/// Why there is no proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unproven {
    /// No answer in time.
    #[error("the server did not answer in time")]
    TimedOut,
    /// The connection ended.
    #[error("the connection ended")]
    Lost,
}

/// The queue for the next barrier of one connection.
#[derive(Debug)]
pub(super) struct Barrier {
    queue: Mutex<Queue>,
    wake: Notify,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Queue {
    waiters: Vec<Waiter>,
    /// The connection is over: no further proof.
    over: bool,
}

#[derive(Debug)]
enum Waiter {
    Ack(AckRequest),
    Signal(oneshot::Sender<Result<(), Unproven>>),
}

// === impl Barrier ===

impl Barrier {
    pub(super) fn new(counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            wake: Notify::new(),
            counters,
        })
    }

    /// Answers the request with the next barrier. The message must have been
    /// handed to the connection before.
    pub(super) fn acknowledge(&self, request: AckRequest) {
        self.enqueue(Waiter::Ack(request));
    }

    /// Returns once the server has all that was handed over before.
    pub(super) async fn round_trip(&self) -> Result<(), Unproven> {
        let (sender, answer) = oneshot::channel();
        self.enqueue(Waiter::Signal(sender));
        answer.await.unwrap_or(Err(Unproven::Lost))
    }

    /// Sends the barriers of a connection until it ends.
    pub(super) async fn run(
        self: Arc<Self>,
        client: nats::Client,
        user: String,
        mut echo: nats::Subscriber,
        closed: Closed,
        timeout: Duration,
    ) {
        let subject: nats::Subject = subjects::barrier(&user).into();
        let mut number = 0_u64;
        loop {
            tokio::select! {
                biased;
                () = closed.closed() => break,
                () = self.wake.notified() => {}
            }
            loop {
                let waiters = std::mem::take(&mut self.lock().waiters);
                if waiters.is_empty() {
                    break;
                }
                number += 1;
                let trip = trip(&client, &subject, &mut echo, number);
                let outcome = match tokio::time::timeout(timeout, trip).await {
                    Ok(outcome) => outcome,
                    Err(_) if closed.is_closed() => Err(Unproven::Lost),
                    Err(_) => Err(Unproven::TimedOut),
                };
                self.answer(waiters, outcome);
                if outcome == Err(Unproven::Lost) {
                    self.end();
                    return;
                }
            }
        }
        self.end();
    }

    /// No further proof will come.
    pub(super) fn end(&self) {
        let waiters = {
            let mut queue = self.lock();
            queue.over = true;
            std::mem::take(&mut queue.waiters)
        };
        self.answer(waiters, Err(Unproven::Lost));
    }

    fn enqueue(&self, waiter: Waiter) {
        let late = {
            let mut queue = self.lock();
            if queue.over {
                Some(waiter)
            } else {
                queue.waiters.push(waiter);
                None
            }
        };
        match late {
            Some(waiter) => self.answer(vec![waiter], Err(Unproven::Lost)),
            None => self.wake.notify_one(),
        }
    }

    fn answer(&self, waiters: Vec<Waiter>, outcome: Result<(), Unproven>) {
        for waiter in waiters {
            match waiter {
                Waiter::Ack(request) => request.answer(outcome, &self.counters),
                // Whoever no longer waits needs no answer.
                Waiter::Signal(sender) => drop(sender.send(outcome)),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One round trip; answers to earlier ones that came too late are passed over.
async fn trip(
    client: &nats::Client,
    subject: &nats::Subject,
    echo: &mut nats::Subscriber,
    number: u64,
) -> Result<(), Unproven> {
    let payload = number.to_be_bytes();
    client
        .publish(subject.clone(), Bytes::copy_from_slice(&payload))
        .await
        .map_err(|_| Unproven::Lost)?;
    while let Some(message) = echo.next().await {
        if message.payload[..] == payload {
            return Ok(());
        }
    }
    Err(Unproven::Lost)
}

// === impl AckRequest ===

impl AckRequest {
    fn answer(self, outcome: Result<(), Unproven>, counters: &Counters) {
        let room = self.room.as_str();
        if let Some(trace) = self.trace {
            trace.end(outcome.map_err(|_| ErrorCode::AckUnknown.name()));
        }
        let answer = match outcome {
            Ok(()) => {
                counters.acked.inc();
                counters.metrics.ack_seconds.observe(self.since.elapsed());
                envelope::ack(room, self.reference, &self.twist)
            }
            Err(_) => {
                counters.unknown.inc();
                let code = Code(ErrorCode::AckUnknown.name());
                counters.metrics.errors.get_or_create(&code).inc();
                self.meter.errors.fetch_add(1, Ordering::Relaxed);
                envelope::error(ErrorCode::AckUnknown, room, self.reference, None, 0)
            }
        };
        // Lowered first: a session that waits for this is woken by the frame.
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.outbox.push_control(Frame::envelope(&answer));
    }
}
