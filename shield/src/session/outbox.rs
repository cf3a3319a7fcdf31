//! What waits for one session's socket, bounded in bytes and in messages.
//!
//! Anyone may push; nobody ever waits. The session's task is woken once when
//! the queue stops being empty and then takes whole batches. Only MESSAGE is
//! ever dropped: all other frames have a reserve of their own, and a session
//! that overruns even that is closed. What a batch holds counts until it is
//! written, so the bound covers everything between a room and the kernel.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

use arqon_proto::{
    codes::CloseCode,
    envelope,
    names::{RoomId, SessionId},
    v1,
};
use arqon_telemetry::{
    Counter,
    Metrics,
    labels::{GapReason, QueueDrop},
};

use super::frame::Frame;

/// Frames of one batch: what one vectored write is given. The kernel takes
/// 1,024 slices; beyond some hundred the call's own cost no longer shows.
pub(super) const BATCH_FRAMES: usize = 256;
/// Bytes after which a batch takes no further frame, so that one batch of large
/// frames does not withdraw half a queue from the overflow rule.
const BATCH_BYTES: usize = 256 * 1024;
/// Frames kept allocated by an idle queue after `trim`.
const IDLE_CAPACITY: usize = 4;

/// What happens to a session whose queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Forget its messages and close it with SLOW_READER; it reconnects.
    CloseAndReconnect,
    /// Drop its oldest messages and tell it by GAP.
    DropOldest,
}

/// The bounds of every outbox of a Shield, and what is counted.
#[derive(Debug)]
pub struct OutboxLimits {
    /// Bytes of MESSAGE frames.
    pub max_bytes: usize,
    /// MESSAGE frames.
    pub max_messages: usize,
    /// The reserve of all other frames, in bytes.
    pub reserve_bytes: usize,
    /// The reserve of all other frames, in frames.
    pub reserve_frames: usize,
    /// What happens beyond.
    pub overflow: Overflow,
    counters: Counters,
}

#[derive(Debug)]
struct Counters {
    drop_oldest: Counter,
    slow_reader: Counter,
    session_ended: Counter,
    gaps: Counter,
}

/// The queue of one session. Room registry, Spine and registry hold it by `Arc`.
pub struct Outbox {
    session: SessionId,
    limits: Arc<OutboxLimits>,
    queue: Mutex<Queue>,
}

/// One queued frame.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) frame: Frame,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Control,
    Message,
    /// A MESSAGE that may have to be reported as lost.
    MessageOf(RoomId),
}

/// Frames and bytes, of messages and of the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) messages: u32,
    pub(super) message_bytes: u32,
    pub(super) control: u32,
    pub(super) control_bytes: u32,
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

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// Queued and taken but not yet written.
    load: Load,
    /// Of `load`, what is in `entries` and may be dropped.
    droppable: u32,
    waker: Option<Waker>,
    /// Messages dropped per room since the last batch; rare, hence boxed.
    lost: Option<Box<Vec<(RoomId, u64)>>>,
    closing: Option<CloseCode>,
    ended: bool,
}

// === impl OutboxLimits ===

impl OutboxLimits {
    /// Limits whose drops are counted in these metrics.
    ///
    /// The reserve is derived from what a well-behaved session can be owed at
    /// once: an answer for each unconfirmed publish, and a GAP and a LEFT for each room.
    pub fn new(
        max_bytes: usize,
        max_messages: usize,
        overflow: Overflow,
        max_unconfirmed: usize,
        max_rooms: usize,
        metrics: &Metrics,
    ) -> Self {
        // Beside those: WELCOME, GOAWAY, pings, and answers to one burst of requests.
        let reserve_frames = 256 + max_unconfirmed + 2 * max_rooms;
        Self {
            max_bytes: max_bytes.min(u32::MAX as usize / 2),
            max_messages: max_messages.min(u32::MAX as usize / 2),
            // A room name of 200 bytes, a code's name and its help fit.
            reserve_bytes: reserve_frames * 512,
            reserve_frames,
            overflow,
            counters: Counters {
                drop_oldest: metrics
                    .queue_dropped
                    .get_or_create_owned(&QueueDrop::DropOldest),
                slow_reader: metrics
                    .queue_dropped
                    .get_or_create_owned(&QueueDrop::SlowReader),
                session_ended: metrics
                    .queue_dropped
                    .get_or_create_owned(&QueueDrop::SessionEnded),
                gaps: metrics.gaps.get_or_create_owned(&GapReason::SlowReader),
            },
        }
    }
}

// === impl Outbox ===

impl Outbox {
    /// An empty queue.
    pub fn new(session: SessionId, limits: Arc<OutboxLimits>) -> Self {
        Self {
            session,
            limits,
            queue: Mutex::default(),
        }
    }

    /// The session it belongs to.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Queues a MESSAGE of this room. Full: the overflow rule applies.
    pub fn push_message(&self, room: &RoomId, frame: &Frame) {
        let len = frame.len() as u32;
        let mut queue = self.lock();
        if queue.closing.is_some() || queue.ended {
            drop(queue);
            self.limits.counters.session_ended.inc();
            return;
        }
        if !self.has_room_for(&queue, len) && !self.make_room(&mut queue, room, len) {
            return wake(queue);
        }
        let kind = match self.limits.overflow {
            Overflow::CloseAndReconnect => Kind::Message,
            Overflow::DropOldest => Kind::MessageOf(room.clone()),
        };
        queue.load.messages += 1;
        queue.load.message_bytes += len;
        queue.droppable += 1;
        queue.entries.push_back(Entry {
            frame: frame.clone(),
            kind,
        });
        wake(queue);
    }

    /// Queues any other frame. Reserve full: the session is closed as a slow reader.
    pub fn push_control(&self, frame: Frame) {
        let len = frame.len() as u32;
        let mut queue = self.lock();
        if queue.closing.is_some() || queue.ended {
            return;
        }
        if queue.load.control as usize >= self.limits.reserve_frames
            || queue.load.control_bytes as usize + len as usize > self.limits.reserve_bytes
        {
            self.give_up(&mut queue);
            return wake(queue);
        }
        queue.load.control += 1;
        queue.load.control_bytes += len;
        queue.entries.push_back(Entry {
            frame,
            kind: Kind::Control,
        });
        wake(queue);
    }

    /// Has the session closed with this code after what is queued was tried.
    /// The first close wins; nothing is taken after it.
    pub fn close(&self, code: CloseCode) {
        let mut queue = self.lock();
        if queue.closing.is_none() {
            queue.closing = Some(code);
        }
        wake(queue);
    }

    /// Frees what was `written` and moves the next frames into `batch`, which is empty.
    pub(super) fn take(&self, cx: &Context<'_>, written: Load, batch: &mut VecDeque<Entry>) -> Take {
        debug_assert!(batch.is_empty());
        let mut queue = self.lock();
        queue.load.release(written);
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
        match &queue.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => queue.waker = Some(cx.waker().clone()),
        }
        Take::Empty
    }

    /// Frees what was `written` without taking more, and tells whether so many
    /// answers wait that no further request should be read.
    pub(super) fn release(&self, written: Load) -> bool {
        let mut queue = self.lock();
        queue.load.release(written);
        queue.load.control as usize * 2 > self.limits.reserve_frames
            || queue.load.control_bytes as usize * 2 > self.limits.reserve_bytes
    }

    /// Gives back memory that a burst left behind.
    pub(super) fn trim(&self) {
        self.lock().entries.shrink_to(IDLE_CAPACITY);
    }

    /// The session is over: what still waits is counted and forgotten.
    pub(super) fn end(&self) {
        let mut queue = self.lock();
        let messages = queue.load.messages;
        *queue = Queue {
            ended: true,
            ..Queue::default()
        };
        drop(queue);
        self.limits.counters.session_ended.inc_by(messages.into());
    }

    fn has_room_for(&self, queue: &Queue, len: u32) -> bool {
        (queue.load.messages as usize) < self.limits.max_messages
            && queue.load.message_bytes as usize + len as usize <= self.limits.max_bytes
    }

    /// Applies the overflow rule; whether the new message may be queued now.
    #[cold]
    fn make_room(&self, queue: &mut Queue, room: &RoomId, len: u32) -> bool {
        if self.limits.overflow == Overflow::CloseAndReconnect {
            self.give_up(queue);
            self.limits.counters.slow_reader.inc();
            return false;
        }
        while !self.has_room_for(queue, len) && queue.droppable > 0 {
            let oldest = queue
                .entries
                .iter()
                .position(|entry| entry.kind != Kind::Control)
                .and_then(|at| queue.entries.remove(at))
                .expect("a droppable entry is a queued message");
            queue.droppable -= 1;
            queue.load.messages -= 1;
            queue.load.message_bytes -= oldest.frame.len() as u32;
            if let Kind::MessageOf(room) = oldest.kind {
                queue.lose(room);
            }
            self.limits.counters.drop_oldest.inc();
        }
        let fits = self.has_room_for(queue, len);
        if !fits {
            // All that could give way has: the rest is on its way to the socket.
            queue.lose(room.clone());
            self.limits.counters.drop_oldest.inc();
        }
        fits
    }

    /// Forgets all messages at once, for a slow reader would keep them in memory.
    #[cold]
    fn give_up(&self, queue: &mut Queue) {
        let mut dropped = Load::default();
        queue.entries.retain(|entry| {
            let keep = entry.kind == Kind::Control;
            if !keep {
                dropped.add(entry);
            }
            keep
        });
        queue.entries.shrink_to(IDLE_CAPACITY);
        queue.load.release(dropped);
        queue.droppable = 0;
        queue.closing = Some(CloseCode::SlowReader);
        self.limits.counters.slow_reader.inc_by(dropped.messages.into());
    }

    /// Tells what was lost, in front of the messages that came after.
    #[cold]
    fn report(&self, queue: &mut Queue, lost: Vec<(RoomId, u64)>, batch: &mut VecDeque<Entry>) {
        for (room, missed) in lost {
            let gap = envelope::gap(room.as_str(), v1::GapReason::SlowReader, Some(missed));
            let entry = Entry {
                frame: Frame::envelope(&gap),
                kind: Kind::Control,
            };
            queue.load.add(&entry);
            batch.push_back(entry);
            self.limits.counters.gaps.inc();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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
    if let Some(waker) = queue.waker.take() {
        drop(queue);
        waker.wake();
    }
}

// === impl Queue ===

impl Queue {
    /// Moves the next frames into the batch, all of them by one swap if they are few.
    fn fill(&mut self, batch: &mut VecDeque<Entry>) {
        let few = self.entries.len() <= BATCH_FRAMES
            && (self.load.message_bytes + self.load.control_bytes) as usize <= BATCH_BYTES;
        if few && batch.is_empty() {
            std::mem::swap(&mut self.entries, batch);
            self.droppable = 0;
            return;
        }
        let mut bytes = 0;
        while batch.len() < BATCH_FRAMES && bytes < BATCH_BYTES {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            bytes += entry.frame.len();
            if entry.is_message() {
                self.droppable -= 1;
            }
            batch.push_back(entry);
        }
    }

    fn lose(&mut self, room: RoomId) {
        let lost = self.lost.get_or_insert_default();
        match lost.iter_mut().find(|(lost, _)| *lost == room) {
            Some((_, missed)) => *missed += 1,
            None => lost.push((room, 1)),
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Whether it is a MESSAGE.
    pub(super) fn is_message(&self) -> bool {
        self.kind != Kind::Control
    }

    /// A frame that never was in an outbox.
    #[cfg(test)]
    pub(super) fn control(frame: Frame) -> Self {
        Self {
            frame,
            kind: Kind::Control,
        }
    }
}

// === impl Load ===

impl Load {
    /// Counts this entry too.
    pub(super) fn add(&mut self, entry: &Entry) {
        let len = entry.frame.len() as u32;
        if entry.is_message() {
            self.messages += 1;
            self.message_bytes += len;
        } else {
            self.control += 1;
            self.control_bytes += len;
        }
    }

    fn release(&mut self, written: Load) {
        self.messages -= written.messages;
        self.message_bytes -= written.message_bytes;
        self.control -= written.control;
        self.control_bytes -= written.control_bytes;
    }
}
