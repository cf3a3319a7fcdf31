//! The one way out for a tenant's messages: numbered in the order handed over.
//!
//! Number and hand-over happen under one lock, so the order of numbers is the
//! order on the wire. Nothing is handed to a connection that is down, and a
//! message that waits for space holds no number, so a caller may give up at
//! any time. Whoever must wait takes his turn behind `turn`; a change of
//! connection takes it too, so no message is under way between two.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use arqon_proto::{
    codes::ErrorCode,
    headers,
    names::{RoomId, TenantId},
};
use arqon_spine::{
    connect::Closed,
    nats::{self, connection::State as ConnectionState, message::OutboundMessage},
};
use arqon_telemetry::TraceContext;
use bytes::Bytes;
use futures_util::Sink;

use super::{
    barrier::{AckRequest, Barrier, Unproven},
    counters::Counters,
    numbering::Numbering,
    origin::{Origin, Stamped},
};

/// Bytes of `NATS/1.0` with its line end, and of the empty line after headers.
const HEADER_FRAME: usize = "NATS/1.0\r\n\r\n".len();

/// Names made once, for a lookup or an insertion would make one each time.
pub(super) static ORIGIN: nats::HeaderName = nats::HeaderName::from_static(headers::NATS_ORIGIN);
/// See `ORIGIN`.
pub(super) static TRACEPARENT: nats::HeaderName =
    nats::HeaderName::from_static(headers::TRACEPARENT);
/// See `ORIGIN`.
pub(super) static BEACON: nats::HeaderName = nats::HeaderName::from_static(headers::NATS_BEACON);

/// What leads to the server: one connection.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) client: nats::Client,
    pub(super) closed: Closed,
    pub(super) barrier: Arc<Barrier>,
}

/// The outgoing side of a tenant.
#[derive(Debug)]
pub(super) struct Publisher {
    /// The account's limit for one message, headers included.
    max_bytes: usize,
    state: Mutex<State>,
    turn: tokio::sync::Mutex<()>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct State {
    line: Option<Line>,
    /// Callers that wait for their turn: while there are any, nobody passes them.
    waiting: usize,
    /// Of the one whose turn it is, while the connection's queue is full.
    stalled: Option<Waker>,
    numbering: Numbering,
}

/// Counts a caller among those that wait.
struct Waiting<'a>(&'a Publisher);

/// What a message carries beside its Envelope.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stamp {
    /// When it was published, microseconds since the Unix epoch.
    pub sent_us: u64,
    /// The span of its publication, where it is traced.
    pub trace: Option<TraceContext>,
}

/// A message or a beacon on its way.
struct Parcel<'a> {
    room: &'a RoomId,
    payload: &'a Bytes,
    stamp: Stamp,
    beacon: Option<Origin>,
    /// Taken once it is handed over.
    ack: &'a mut Option<AckRequest>,
}

// === impl Publisher ===

impl Publisher {
    pub(super) fn new(
        tenant: TenantId,
        max_bytes: usize,
        beacon_after: Duration,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            max_bytes,
            state: Mutex::new(State {
                line: None,
                waiting: 0,
                stalled: None,
                numbering: Numbering::new(tenant, beacon_after),
            }),
            turn: tokio::sync::Mutex::new(()),
            counters,
        }
    }

    /// Hands a message to the connection, if that can be told without waiting.
    /// `SPINE_UNAVAILABLE` if there is none.
    pub(super) fn publish_now(
        &self,
        room: &RoomId,
        payload: &Bytes,
        stamp: Stamp,
        ack: &mut Option<AckRequest>,
    ) -> Option<Result<(), ErrorCode>> {
        self.count(self.send_now(&mut Parcel::message(room, payload, stamp, ack)))
    }

    /// As `publish_now`, after waiting for a turn while the connection's queue is full.
    pub(super) async fn publish(
        &self,
        room: &RoomId,
        payload: &Bytes,
        stamp: Stamp,
        ack: &mut Option<AckRequest>,
    ) -> Result<(), ErrorCode> {
        let mut parcel = Parcel::message(room, payload, stamp, ack);
        let result = self.send(&mut parcel).await;
        self.count(Some(result)).unwrap_or(result)
    }

    fn count(&self, result: Option<Result<(), ErrorCode>>) -> Option<Result<(), ErrorCode>> {
        if result == Some(Ok(())) {
            self.counters.messages_in.inc();
        }
        result
    }

    /// Sends the beacons that are due.
    pub(super) async fn send_beacons(&self) {
        let due = self.lock().numbering.due(Instant::now());
        for (room, origin) in due {
            let mut parcel = Parcel {
                room: &room,
                payload: &Bytes::new(),
                stamp: Stamp::default(),
                beacon: Some(origin),
                ack: &mut None,
            };
            if self.send(&mut parcel).await.is_err() {
                return; // they stay due
            }
        }
    }

    /// Puts another connection in place, or none.
    pub(super) fn set_line(&self, line: Option<Line>) {
        self.lock().put(line);
    }

    /// Changes over to another connection once the server has all that was
    /// handed to the present one; callers wait meanwhile.
    pub(super) async fn switch(&self, next: Line) -> Result<(), Unproven> {
        let _waiting = Waiting::new(self);
        let _turn = self.turn.lock().await;
        let barrier = self.lock().line.as_ref().map(|line| line.barrier.clone());
        if let Some(barrier) = barrier {
            match barrier.round_trip().await {
                // What a dead connection lost shows as a jump in the numbers.
                Ok(()) | Err(Unproven::Lost) => {}
                Err(Unproven::TimedOut) => return Err(Unproven::TimedOut),
            }
        }
        self.lock().put(Some(next));
        Ok(())
    }

    fn send_now(&self, parcel: &mut Parcel<'_>) -> Option<Result<(), ErrorCode>> {
        let mut state = self.lock();
        if state.waiting > 0 {
            return None;
        }
        let cx = Context::from_waker(Waker::noop());
        match self.attempt(&mut state, &cx, parcel) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    async fn send(&self, parcel: &mut Parcel<'_>) -> Result<(), ErrorCode> {
        if let Some(result) = self.send_now(parcel) {
            return result;
        }
        let _waiting = Waiting::new(self);
        let _turn = self.turn.lock().await;
        poll_fn(|cx| self.attempt(&mut self.lock(), cx, parcel)).await
    }

    /// Hands over if there is space. Only the holder of the turn may bring a
    /// waker that matters, for the connection's queue remembers one.
    fn attempt(
        &self,
        state: &mut State,
        cx: &Context<'_>,
        parcel: &mut Parcel<'_>,
    ) -> Poll<Result<(), ErrorCode>> {
        let Some(line) = state.line.as_mut().filter(|line| line.is_up()) else {
            return Poll::Ready(Err(ErrorCode::SpineUnavailable));
        };
        let unavailable = |_| ErrorCode::SpineUnavailable;
        let mut cx = Context::from_waker(cx.waker());
        match Pin::new(&mut line.client).poll_ready(&mut cx) {
            Poll::Pending => {
                state.stalled = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(ready) => ready.map_err(unavailable)?,
        }
        let now = Instant::now();
        let (name, subject, origin) = match parcel.beacon {
            None => {
                let (subject, origin) = state.numbering.next(parcel.room, now);
                (&ORIGIN, subject, origin)
            }
            Some(origin) => match state.numbering.still_last(parcel.room, origin) {
                Some(subject) => (&BEACON, subject, origin),
                // Something was published meanwhile, so it is no longer due.
                None => return Poll::Ready(Ok(())),
            },
        };
        let Stamp { sent_us, trace } = parcel.stamp;
        let value = match parcel.beacon {
            None => Stamped { origin, sent_us }.to_string(),
            Some(_) => origin.to_string(),
        };
        let trace = trace.map(|trace| trace.to_string());
        let mut header_bytes = HEADER_FRAME + line_bytes(name, &value);
        if let Some(trace) = &trace {
            header_bytes += line_bytes(&TRACEPARENT, trace);
        }
        let limit = self.max_bytes.min(line.client.max_payload());
        if header_bytes + parcel.payload.len() > limit {
            return Poll::Ready(Err(ErrorCode::PayloadTooLarge));
        }
        let mut headers = nats::HeaderMap::new();
        headers.insert(name.clone(), value);
        if let Some(trace) = trace {
            headers.insert(TRACEPARENT.clone(), trace);
        }
        let message = OutboundMessage {
            subject,
            reply: None,
            payload: parcel.payload.clone(),
            headers: Some(headers),
        };
        let handed_over = Pin::new(&mut line.client).start_send(message);
        handed_over.map_err(unavailable)?;
        match parcel.beacon {
            None => state.numbering.commit(parcel.room, now),
            Some(_) => state.numbering.told(parcel.room),
        }
        if let Some(ack) = parcel.ack.take() {
            line.barrier.acknowledge(ack);
        }
        Poll::Ready(Ok(()))
    }

    /// The connection in use, while it is up.
    pub(super) fn client_up(&self) -> Option<nats::Client> {
        let state = self.lock();
        let line = state.line.as_ref().filter(|line| line.is_up())?;
        Some(line.client.clone())
    }

    /// The connection in use.
    pub(super) fn client(&self) -> Option<nats::Client> {
        self.lock().line.as_ref().map(|line| line.client.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of one header with its line end.
fn line_bytes(name: &nats::HeaderName, value: &str) -> usize {
    let name: &[u8] = name.as_ref();
    name.len() + ": \r\n".len() + value.len()
}

// === impl Parcel ===

impl<'a> Parcel<'a> {
    fn message(
        room: &'a RoomId,
        payload: &'a Bytes,
        stamp: Stamp,
        ack: &'a mut Option<AckRequest>,
    ) -> Self {
        Self {
            room,
            payload,
            stamp,
            beacon: None,
            ack,
        }
    }
}

// === impl State ===

impl State {
    /// The queue of the line before cannot wake anyone any more.
    fn put(&mut self, line: Option<Line>) {
        self.line = line;
        if let Some(waker) = self.stalled.take() {
            waker.wake();
        }
    }
}

// === impl Line ===

impl Line {
    fn is_up(&self) -> bool {
        !self.closed.is_closed() && self.client.connection_state() == ConnectionState::Connected
    }
}

// === impl Waiting ===

impl<'a> Waiting<'a> {
    fn new(publisher: &'a Publisher) -> Self {
        publisher.lock().waiting += 1;
        Self(publisher)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}
