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
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
};

use arqon_proto::{
    codes::CloseCode,
    envelope,
    names::{RoomId, SessionId},
    v1,
};
use arqon_spine::manifest::Overflow;
use arqon_telemetry::{
    Counter, Metrics,
    labels::{GapReason, QueueDrop},
};

use super::frame::Frame;

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
    slow_consumers: Counter,
}

/// The queue of one session. Room registry, Spine and registry hold it by `Arc`.
pub struct Outbox {
    session: SessionId,
    /// Set with `Queue::closing`, so that the session's task can look without the lock.
    closing: AtomicBool,
    /// Whether so many answers wait that no further request should be read.
    congested: AtomicBool,
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
    Presence,
    Message,
    /// A MESSAGE that may have to be reported as lost.
    MessageOf(RoomId),
}

/// Frames and bytes, of messages, of presence and of the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) messages: u32,
    pub(super) message_bytes: u32,
    pub(super) control: u32,
    pub(super) control_bytes: u32,
    presence: u32,
    presence_bytes: u32,
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

/// Messages dropped, per room.
#[derive(Default)]
struct Lost(Vec<(RoomId, u64)>);

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// Queued and taken but not yet written.
    load: Load,
    /// Of `load`, what is in `entries` and may be dropped.
    droppable: u32,
    waker: Option<Waker>,
    /// Of a task whose socket takes nothing: only a close wakes it.
    stalled: Option<Waker>,
    /// Messages dropped per room since the last batch; rare, hence boxed.
    lost: Option<Box<Lost>>,
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
                slow_consumers: metrics.slow_consumers.clone(),
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
            closing: AtomicBool::new(false),
            congested: AtomicBool::new(false),
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
        wake(self.push_reserved(frame));
    }

    /// Queues frames of presence, all or none: false if too much of it waits.
    /// What does not fit is never half told; an answer of any size goes to a
    /// session that has none waiting.
    pub(crate) fn push_presence(&self, frames: &[Frame]) -> bool {
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
        queue.entries.extend(frames.iter().map(|frame| Entry {
            frame: frame.clone(),
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
        *queue = Queue {
            ended: true,
            ..Queue::default()
        };
        drop(queue);
        self.limits.counters.session_ended.inc_by(messages.into());
    }

    fn push_reserved(&self, frame: Frame) -> MutexGuard<'_, Queue> {
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
                .position(Entry::is_message)
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
            let keep = !entry.is_message();
            if !keep {
                dropped.add(entry);
            }
            keep
        });
        queue.entries.shrink_to(IDLE_CAPACITY);
        if queue.closing.is_none() {
            self.limits.counters.slow_consumers.inc();
        }
        queue.load.release(dropped);
        queue.droppable = 0;
        self.set_closing(queue, CloseCode::SlowReader);
        self.limits
            .counters
            .slow_reader
            .inc_by(dropped.messages.into());
    }

    /// Tells what was lost, in front of the messages that came after.
    #[cold]
    fn report(&self, queue: &mut Queue, lost: Lost, batch: &mut VecDeque<Entry>) {
        self.limits.counters.slow_consumers.inc();
        for (room, missed) in lost.0 {
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

// === impl Queue ===

impl Queue {
    /// Moves the next frames into the batch, all of them by one swap if they are few.
    fn fill(&mut self, batch: &mut VecDeque<Entry>) {
        let few = self.entries.len() <= BATCH_FRAMES && self.load.bytes() <= BATCH_BYTES as u64;
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
        let lost = &mut self.lost.get_or_insert_default().0;
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
        matches!(self.kind, Kind::Message | Kind::MessageOf(_))
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
        let (frames, bytes) = match entry.kind {
            Kind::Message | Kind::MessageOf(_) => (&mut self.messages, &mut self.message_bytes),
            Kind::Presence => (&mut self.presence, &mut self.presence_bytes),
            Kind::Control => (&mut self.control, &mut self.control_bytes),
        };
        *frames += 1;
        *bytes += len;
    }

    /// Bytes of all frames.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.message_bytes)
            + u64::from(self.control_bytes)
            + u64::from(self.presence_bytes)
    }

    fn release(&mut self, written: Load) {
        self.messages -= written.messages;
        self.message_bytes -= written.message_bytes;
        self.presence -= written.presence;
        self.presence_bytes -= written.presence_bytes;
        self.control -= written.control;
        self.control_bytes -= written.control_bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicU32, task::Wake};

    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicU32);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn outbox(max_bytes: usize, max_messages: usize, overflow: Overflow) -> Outbox {
        let limits =
            OutboxLimits::new(max_bytes, max_messages, overflow, 4, 4, &Metrics::default());
        Outbox::new(SessionId::new(), Arc::new(limits))
    }

    fn room(name: &str) -> RoomId {
        RoomId::parse(name).expect("a valid name")
    }

    fn numbered(number: u32, padding: usize) -> Frame {
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(4 + padding, 0);
        Frame::binary(&payload)
    }

    fn number(entry: &Entry) -> u32 {
        u32::from_be_bytes(entry.frame.payload()[..4].try_into().expect("four bytes"))
    }

    fn load_of(batch: &VecDeque<Entry>) -> Load {
        let mut load = Load::default();
        batch.iter().for_each(|entry| load.add(entry));
        load
    }

    /// The GAP frames of a batch: room and how many.
    fn gaps(batch: &VecDeque<Entry>) -> Vec<(String, u64)> {
        let control = batch.iter().filter(|entry| !entry.is_message());
        control
            .filter_map(|entry| {
                let envelope = v1::Envelope::decode(entry.frame.payload()).ok()?;
                match envelope.body {
                    Some(v1::envelope::Body::Gap(gap)) => {
                        assert_eq!(gap.reason(), v1::GapReason::SlowReader);
                        Some((envelope.room, gap.missed.expect("the count is known")))
                    }
                    _ => None,
                }
            })
            .collect()
    }

    #[test]
    fn the_task_is_woken_once_until_it_found_the_queue_empty() {
        let outbox = outbox(1 << 20, 100, Overflow::CloseAndReconnect);
        let wakes = Arc::new(Wakes::default());
        let waker = wakes.clone().into();
        let cx = Context::from_waker(&waker);
        let mut batch = VecDeque::new();
        assert_eq!(outbox.take(&cx, Load::default(), &mut batch), Take::Empty);
        for n in 0..10 {
            outbox.push_message(&room("a"), &numbered(n, 0));
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(outbox.take(&cx, Load::default(), &mut batch), Take::Frames);
        assert_eq!(
            batch.iter().map(number).collect::<Vec<_>>(),
            Vec::from_iter(0..10)
        );
        outbox.push_message(&room("a"), &numbered(10, 0));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "the task is at work");
    }

    #[test]
    fn a_slow_reader_is_closed_and_its_messages_forgotten_at_once() {
        let outbox = outbox(1 << 20, 16, Overflow::CloseAndReconnect);
        let cx = Context::from_waker(Waker::noop());
        outbox.push_control(Frame::ping());
        for n in 0..17 {
            outbox.push_message(&room("a"), &numbered(n, 0));
        }
        assert_eq!(outbox.lock().load.messages, 0);
        outbox.close(CloseCode::GoingAway);
        let mut batch = VecDeque::new();
        assert_eq!(outbox.take(&cx, Load::default(), &mut batch), Take::Frames);
        assert_eq!(batch.len(), 1, "the ping alone");
        let written = load_of(&batch);
        batch.clear();
        assert_eq!(
            outbox.take(&cx, written, &mut batch),
            Take::Close(CloseCode::SlowReader),
            "the first close wins"
        );
        assert_eq!(outbox.limits.counters.slow_reader.get(), 17);
    }

    #[test]
    fn an_overrun_reserve_closes() {
        let outbox = outbox(1 << 20, 16, Overflow::DropOldest);
        let cx = Context::from_waker(Waker::noop());
        for _ in 0..=outbox.limits.reserve_frames {
            outbox.push_control(Frame::ping());
        }
        let mut batch = VecDeque::new();
        let mut frames = 0;
        let mut written = Load::default();
        let end = loop {
            match outbox.take(&cx, written, &mut batch) {
                Take::Frames => {
                    frames += batch.len();
                    written = load_of(&batch);
                    batch.clear();
                }
                end => break end,
            }
        };
        assert_eq!(end, Take::Close(CloseCode::SlowReader));
        assert_eq!(frames, outbox.limits.reserve_frames);
    }

    #[test]
    fn a_frame_over_the_whole_bound_gives_a_gap_and_nothing_else() {
        let outbox = outbox(100, 16, Overflow::DropOldest);
        let cx = Context::from_waker(Waker::noop());
        outbox.push_message(&room("a"), &numbered(1, 200));
        let mut batch = VecDeque::new();
        assert_eq!(outbox.take(&cx, Load::default(), &mut batch), Take::Frames);
        assert_eq!(gaps(&batch), [("a".to_owned(), 1)]);
        assert_eq!(batch.len(), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Message { room: bool, padding: usize },
        Control,
        Take,
        Written,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (any::<bool>(), 0_usize..300).prop_map(|(room, padding)| Step::Message { room, padding }),
            1 => Just(Step::Control),
            1 => Just(Step::Take),
            1 => Just(Step::Written),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// Bounds hold at every moment, order is kept, only MESSAGE is
        /// dropped, and every dropped one is told before what came after it.
        #[test]
        fn drop_oldest_is_bounded_ordered_and_told(steps in steps()) {
            const BYTES: usize = 1000;
            const MESSAGES: usize = 8;
            let outbox = outbox(BYTES, MESSAGES, Overflow::DropOldest);
            let cx = Context::from_waker(Waker::noop());
            let rooms = [room("a"), room("b")];
            let mut pushed = 0_u32;
            let mut controls = (0, 0);
            let mut told = 0;
            let mut seen = Vec::new();
            let mut batch = VecDeque::new();
            let mut unwritten = Load::default();
            let mut take = |unwritten: &mut Load, batch: &mut VecDeque<Entry>, seen: &mut Vec<u32>| {
                let take = outbox.take(&cx, std::mem::take(unwritten), batch);
                told += gaps(batch).iter().map(|(_, missed)| missed).sum::<u64>();
                controls.1 += batch.iter().filter(|e| e.frame == Frame::ping()).count();
                seen.extend(batch.iter().filter(|e| e.is_message()).map(number));
                // All that is missing before a message was told before it.
                if let Some(last) = seen.last().filter(|_| batch.iter().any(Entry::is_message)) {
                    assert_eq!(u64::from(last + 1), seen.len() as u64 + told);
                }
                take
            };
            for step in steps {
                match step {
                    Step::Message { room, padding } => {
                        outbox.push_message(&rooms[usize::from(room)], &numbered(pushed, padding));
                        pushed += 1;
                    }
                    Step::Control => {
                        outbox.push_control(Frame::ping());
                        controls.0 += 1;
                    }
                    Step::Take if batch.is_empty() => {
                        take(&mut unwritten, &mut batch, &mut seen);
                    }
                    Step::Take => {}
                    Step::Written => {
                        batch.drain(..).for_each(|entry| unwritten.add(&entry));
                    }
                }
                let load = outbox.lock().load;
                prop_assert!(load.messages as usize <= MESSAGES);
                prop_assert!(load.message_bytes as usize <= BYTES);
            }
            loop {
                batch.drain(..).for_each(|entry| unwritten.add(&entry));
                if take(&mut unwritten, &mut batch, &mut seen) == Take::Empty {
                    break;
                }
            }
            prop_assert!(seen.is_sorted());
            prop_assert_eq!(controls.0, controls.1);
            prop_assert_eq!(u64::from(pushed), seen.len() as u64 + told);
            prop_assert_eq!(outbox.lock().load, Load::default());
        }
    }
}
