//! What waits for one session's socket, bounded in bytes and in messages.
//!
//! Anyone may push; nobody ever waits. The session's task is woken once when
//! the queue stops being empty and then takes whole batches. Only MESSAGE is
//! ever dropped: all other frames have a reserve of their own, and a session
//! that overruns even that is closed. What a batch holds counts until it is
//! written, so the bound covers everything between a room and the kernel.
//!
//! A room's rule says what becomes of its messages in a full queue. Those of a
//! room with `drop_oldest` or `latest_only` give way, also to those of others;
//! one of a room with `close_and_reconnect` that finds no room ends the session.

mod backlog;
mod limits;
mod queue;

use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
};

use arqon_proto::{
    codes::CloseCode,
    envelope,
    names::{RoomId, SessionId, TenantId},
    v1,
};
use arqon_spine::manifest::Overflow;

pub use self::limits::{Bounds, OutboxLimits};
pub(super) use self::queue::{Entry, Load};
use self::{
    backlog::{Backlog, charge_of},
    queue::{Kind, Missed, Queue},
};
use super::frame::{Encoding, Frame};

/// Frames of one batch: what one vectored write is given. The kernel takes
/// 1,024 slices; beyond some hundred the call's own cost no longer shows.
pub(super) const BATCH_FRAMES: usize = 256;
/// Bytes after which a batch takes no further frame, so that one batch of large
/// frames does not withdraw half a queue from the overflow rule.
const BATCH_BYTES: usize = 256 * 1024;
/// Bytes of presence frames that wait: two states of a full room at Brain's own
/// default limit. Presence has a bound of its own, for its frames are large, and
/// who is not told one is told a state later.
const PRESENCE_BYTES: u32 = 1 << 20;
/// Presence frames that wait.
const PRESENCE_FRAMES: u32 = 1024;
/// Frames kept allocated by an idle queue after `trim`.
const IDLE_CAPACITY: usize = 4;

/// The queue of one session. Room registry, Spine and registry hold it by `Arc`.
pub struct Outbox {
    session: SessionId,
    /// Frames are queued in this form, so that the bounds are those of what is sent.
    encoding: Encoding,
    /// Set with `Queue::closing`, so that the session's task can look without the lock.
    closing: AtomicBool,
    /// Whether so many answers wait that no further request should be read.
    congested: AtomicBool,
    limits: Arc<OutboxLimits>,
    /// What all sessions of its tenant have waiting.
    backlog: Arc<Backlog>,
    queue: Mutex<Queue>,
}

/// What the session's task finds in its outbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// Nothing; the task will be woken.
    Empty,
    /// The batch holds frames.
    Frames,
    /// Nothing more will come: close with this code.
    Close(CloseCode),
}

// === impl Outbox ===

impl Outbox {
    /// An empty queue of a session of this tenant.
    pub fn new(session: SessionId, tenant: &TenantId, limits: Arc<OutboxLimits>) -> Self {
        Self {
            session,
            encoding: Encoding::Binary,
            closing: AtomicBool::new(false),
            congested: AtomicBool::new(false),
            backlog: limits.backlogs.of(tenant),
            limits,
            queue: Mutex::default(),
        }
    }

    /// The same for a session that speaks this.
    #[must_use]
    pub fn speaking(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// What the session speaks. Frames in another form are brought into it.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The session it belongs to.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Queues a MESSAGE of this room, whose rule applies where it finds no room.
    pub fn push_message(&self, room: &RoomId, rule: Overflow, frame: &Frame) {
        let frame = self.encoding.of(frame);
        let len = frame.len() as u32;
        let mut queue = self.lock();
        if queue.closing.is_some() || queue.ended {
            drop(queue);
            self.limits.counters.session_ended.inc();
            return;
        }
        if rule == Overflow::LatestOnly && queue.replace_latest(room) {
            self.limits.counters.latest_only.inc();
        }
        if !self.admits(&mut queue, len) && !self.make_room(&mut queue, room, rule, len) {
            return wake(queue);
        }
        let kind = match rule {
            Overflow::CloseAndReconnect => Kind::Message,
            Overflow::DropOldest | Overflow::LatestOnly => Kind::MessageOf(room.clone()),
        };
        queue.push_message(frame.into_owned(), kind);
        if rule == Overflow::LatestOnly {
            queue.note_latest(room);
        }
        wake(queue);
    }

    /// Queues any other frame. Reserve full: the session is closed as a slow reader.
    pub fn push_control(&self, frame: Frame) {
        wake(self.push_reserved(frame));
    }

    /// Queues frames of presence, all or none: false if too much of it waits.
    /// What does not fit is never half told; an answer of any size goes to a
    /// session that has none waiting.
    pub(crate) fn push_presence(&self, frames: &[Frame]) -> bool {
        let frames = frames.iter().map(|frame| self.encoding.of(frame));
        let frames: Vec<Frame> = frames.map(Cow::into_owned).collect();
        let bytes: u32 = frames.iter().map(|frame| frame.len() as u32).sum();
        let mut queue = self.lock();
        if queue.closing.is_some() || queue.ended {
            return true; // nobody misses it
        }
        let load = &mut queue.load;
        if load.presence > 0
            && (load.presence + frames.len() as u32 > PRESENCE_FRAMES
                || load.presence_bytes.saturating_add(bytes) > PRESENCE_BYTES)
        {
            return false;
        }
        load.presence += frames.len() as u32;
        load.presence_bytes += bytes;
        queue.entries.extend(frames.into_iter().map(|frame| Entry {
            frame,
            kind: Kind::Presence,
        }));
        wake(queue);
        true
    }

    /// The same by the session's own task, which takes before it sleeps.
    pub(super) fn push_own(&self, frame: Frame) {
        drop(self.push_reserved(frame));
    }

    /// Has the session closed with this code after what is queued was tried.
    /// The first close wins; nothing is taken after it.
    pub fn close(&self, code: CloseCode) {
        let mut queue = self.lock();
        self.set_closing(&mut queue, code);
        wake(queue);
    }

    /// As `close`, for one who must hear nothing more: messages that wait are forgotten.
    pub fn cut(&self, code: CloseCode) {
        let mut queue = self.lock();
        if queue.closing.is_none() && !queue.ended {
            let dropped = queue.forget_messages();
            queue.lost = None;
            self.settle(&mut queue);
            self.limits.counters.session_ended.inc_by(dropped.into());
        }
        self.set_closing(&mut queue, code);
        wake(queue);
    }

    /// Whether `close` was called, or an overflow closed.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// The code with which the session is being closed.
    pub(super) fn closing(&self) -> Option<CloseCode> {
        self.lock().closing
    }

    /// Frees what was `written` and moves the next frames into `batch`, which is empty.
    pub(super) fn take(
        &self,
        cx: &Context<'_>,
        written: Load,
        batch: &mut VecDeque<Entry>,
    ) -> Take {
        debug_assert!(batch.is_empty());
        let mut queue = self.lock();
        self.release(&mut queue, written);
        if let Some(lost) = queue.lost.take() {
            self.report(&mut queue, *lost, batch);
        }
        if !queue.entries.is_empty() {
            queue.fill(batch);
        }
        if !batch.is_empty() {
            return Take::Frames;
        }
        if let Some(code) = queue.closing {
            return Take::Close(code);
        }
        keep_waker(&mut queue.waker, cx);
        Take::Empty
    }

    /// The socket takes nothing: frees what was `written`, and asks to be woken
    /// by a close alone.
    pub(super) fn stall(&self, cx: &Context<'_>, written: Load) {
        let mut queue = self.lock();
        self.release(&mut queue, written);
        keep_waker(&mut queue.stalled, cx);
    }

    /// Whether so many answers wait that no further request should be read.
    pub(super) fn is_congested(&self) -> bool {
        self.congested.load(Ordering::Relaxed)
    }

    /// Gives back memory that a burst left behind.
    pub(super) fn trim(&self) {
        self.lock().entries.shrink_to(IDLE_CAPACITY);
    }

    /// Bytes that wait, those of a write begun included.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.lock().load.bytes()
    }

    /// The session is over: what still waits is counted and forgotten.
    pub(super) fn end(&self) {
        let mut queue = self.lock();
        let messages = queue.load.messages;
        self.backlog.lower(queue.charged);
        *queue = Queue::over();
        drop(queue);
        self.limits.counters.session_ended.inc_by(messages.into());
    }

    fn push_reserved(&self, frame: Frame) -> MutexGuard<'_, Queue> {
        let frame = self.encoding.of(&frame).into_owned();
        let len = frame.len() as u32;
        let mut queue = self.lock();
        if queue.closing.is_some() || queue.ended {
            return queue;
        }
        if queue.load.control as usize >= self.limits.reserve_frames
            || queue.load.control_bytes as usize + len as usize > self.limits.reserve_bytes
        {
            self.give_up(&mut queue);
            return queue;
        }
        queue.load.control += 1;
        queue.load.control_bytes += len;
        queue.entries.push_back(Entry {
            frame,
            kind: Kind::Control,
        });
        self.note_congestion(&queue);
        queue
    }

    fn release(&self, queue: &mut Queue, written: Load) {
        queue.load.release(written);
        if queue.charged > 0 {
            self.settle(queue);
        }
        if written.control > 0 {
            self.note_congestion(queue);
        }
    }

    fn note_congestion(&self, queue: &Queue) {
        let congested = queue.load.control as usize * 2 > self.limits.reserve_frames
            || queue.load.control_bytes as usize * 2 > self.limits.reserve_bytes;
        self.congested.store(congested, Ordering::Relaxed);
    }

    fn set_closing(&self, queue: &mut Queue, code: CloseCode) {
        queue.closing.get_or_insert(code);
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether a MESSAGE of this length fits, by the session's bounds and its tenant's.
    fn admits(&self, queue: &mut Queue, len: u32) -> bool {
        if queue.load.messages as usize >= self.limits.max_messages
            || queue.load.message_bytes as usize + len as usize > self.limits.max_bytes
        {
            return false;
        }
        let charge = charge_of(queue.load.message_bytes + len);
        if charge <= queue.charged {
            return true;
        }
        let raised = self.backlog.raise(queue.charged, charge);
        if raised {
            queue.charged = charge;
        }
        raised
    }

    /// Gives back what the queue is charged and does not hold any more.
    fn settle(&self, queue: &mut Queue) {
        let charge = charge_of(queue.load.message_bytes);
        if charge < queue.charged {
            self.backlog.lower(queue.charged - charge);
            queue.charged = charge;
        }
    }

    /// Lets messages give way that may; whether the new one may be queued now.
    #[cold]
    fn make_room(&self, queue: &mut Queue, room: &RoomId, rule: Overflow, len: u32) -> bool {
        let mut admitted = false;
        while !admitted && queue.droppable > 0 {
            queue.drop_oldest();
            self.limits.counters.drop_oldest.inc();
            admitted = self.admits(queue, len);
        }
        if !admitted {
            if rule == Overflow::CloseAndReconnect {
                self.give_up(queue);
                self.limits.counters.slow_reader.inc();
            } else {
                // All that could give way has: the rest is on its way to the socket.
                queue.lose(room.clone(), v1::GapReason::SlowReader);
                self.limits.counters.drop_oldest.inc();
            }
        }
        admitted
    }

    /// Forgets all messages at once, for a slow reader would keep them in memory.
    #[cold]
    fn give_up(&self, queue: &mut Queue) {
        let dropped = queue.forget_messages();
        self.settle(queue);
        let counters = &self.limits.counters;
        if queue.closing.is_none() {
            counters.slow_consumers.inc();
        }
        self.set_closing(queue, CloseCode::SlowReader);
        counters.slow_reader.inc_by(dropped.into());
    }

    /// Tells what was lost, in front of the messages that came after.
    #[cold]
    fn report(&self, queue: &mut Queue, lost: Vec<Missed>, batch: &mut VecDeque<Entry>) {
        let counters = &self.limits.counters;
        let mut slow = false;
        for missed in lost {
            if missed.reason == v1::GapReason::LatestOnly {
                counters.gaps_latest_only.inc();
            } else {
                counters.gaps.inc();
                slow = true;
            }
            let gap = envelope::gap(missed.room.as_str(), missed.reason, Some(missed.count));
            let entry = Entry {
                frame: self.encoding.of(&Frame::envelope(&gap)).into_owned(),
                kind: Kind::Control,
            };
            queue.load.add(&entry);
            batch.push_back(entry);
        }
        if slow {
            counters.slow_consumers.inc();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let queue = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.backlog.lower(queue.charged);
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.lock();
        f.debug_struct("Outbox")
            .field("session", &self.session)
            .field("load", &queue.load)
            .field("closing", &queue.closing)
            .finish_non_exhaustive()
    }
}

/// Wakes the session's task, if it sleeps, after the lock is free again.
fn wake(mut queue: MutexGuard<'_, Queue>) {
    let stalled = match queue.closing {
        Some(_) => queue.stalled.take(),
        None => None,
    };
    let waker = queue.waker.take();
    drop(queue);
    if let Some(waker) = waker.or(stalled) {
        waker.wake();
    }
}

fn keep_waker(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests;
