//! The queue inside an outbox: entries in order, what they weigh, what was lost.
//!
//! Pure: bounds and rules are the outbox's, here is the bookkeeping.

use std::{collections::VecDeque, task::Waker};

use arqon_proto::{codes::CloseCode, names::RoomId, v1};

use super::{BATCH_BYTES, BATCH_FRAMES, IDLE_CAPACITY};
use crate::session::frame::Frame;

/// One queued frame.
#[derive(Debug)]
pub(in crate::session) struct Entry {
    pub(in crate::session) frame: Frame,
    pub(super) kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Control,
    Presence,
    /// A MESSAGE without which the session must not go on.
    Message,
    /// A MESSAGE that may give way, and is then reported as lost.
    MessageOf(RoomId),
}

/// Frames and bytes, of messages, of presence and of the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::session) struct Load {
    pub(in crate::session) messages: u32,
    pub(super) message_bytes: u32,
    pub(in crate::session) control: u32,
    pub(super) control_bytes: u32,
    pub(super) presence: u32,
    pub(super) presence_bytes: u32,
}

/// Messages of one room that gave way.
#[derive(Debug)]
pub(super) struct Missed {
    pub(super) room: RoomId,
    pub(super) reason: v1::GapReason,
    pub(super) count: u64,
}

/// Where the waiting message of a room stands of which only the latest counts,
/// counted from the first entry there ever was.
#[derive(Debug)]
struct Latest {
    room: RoomId,
    at: u64,
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) entries: VecDeque<Entry>,
    /// Queued and taken but not yet written.
    pub(super) load: Load,
    /// What the tenant's backlog is charged for this queue.
    pub(super) charged: u32,
    /// Of `entries`, those that may give way.
    pub(super) droppable: u32,
    pub(super) waker: Option<Waker>,
    /// Of a task whose socket takes nothing: only a close wakes it.
    pub(super) stalled: Option<Waker>,
    /// Messages that gave way since the last batch; rare, hence boxed.
    #[allow(clippy::box_collection, reason = "a word in each session, not three")]
    pub(super) lost: Option<Box<Vec<Missed>>>,
    #[allow(clippy::box_collection, reason = "a word in each session, not three")]
    latest: Option<Box<Vec<Latest>>>,
    /// Entries taken from the front so far.
    front: u64,
    pub(super) closing: Option<CloseCode>,
    pub(super) ended: bool,
}

// === impl Queue ===

impl Queue {
    /// One that takes nothing any more.
    pub(super) fn over() -> Self {
        Self {
            ended: true,
            ..Self::default()
        }
    }

    /// Moves the next frames into the batch, all of them by one swap if they are few.
    pub(super) fn fill(&mut self, batch: &mut VecDeque<Entry>) {
        let few = self.entries.len() <= BATCH_FRAMES && self.load.bytes() <= BATCH_BYTES as u64;
        if few && batch.is_empty() {
            self.front += self.entries.len() as u64;
            std::mem::swap(&mut self.entries, batch);
            self.droppable = 0;
            self.latest = None;
            return;
        }
        let mut bytes = 0;
        while batch.len() < BATCH_FRAMES && bytes < BATCH_BYTES {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.front += 1;
            bytes += entry.frame.len();
            if entry.is_droppable() {
                self.droppable -= 1;
            }
            batch.push_back(entry);
        }
        let front = self.front;
        if let Some(latest) = &mut self.latest {
            latest.retain(|latest| latest.at >= front);
        }
    }

    /// Appends a MESSAGE.
    pub(super) fn push_message(&mut self, frame: Frame, kind: Kind) {
        self.load.messages += 1;
        self.load.message_bytes += frame.len() as u32;
        self.droppable += u32::from(matches!(kind, Kind::MessageOf(_)));
        self.entries.push_back(Entry { frame, kind });
    }

    /// Notes that what was pushed last is the only one of its room that may wait.
    pub(super) fn note_latest(&mut self, room: &RoomId) {
        let at = self.front + self.entries.len() as u64 - 1;
        let room = room.clone();
        self.latest
            .get_or_insert_default()
            .push(Latest { room, at });
    }

    /// Takes out the waiting message of a room of which only the latest counts.
    pub(super) fn replace_latest(&mut self, room: &RoomId) -> bool {
        let found = self.latest.as_ref().and_then(|all| {
            let latest = all.iter().find(|latest| latest.room == *room)?;
            usize::try_from(latest.at - self.front).ok()
        });
        let Some(at) = found else {
            return false;
        };
        self.give_way(at, v1::GapReason::LatestOnly);
        true
    }

    /// Takes out the oldest message that may give way.
    pub(super) fn drop_oldest(&mut self) {
        if let Some(at) = self.entries.iter().position(Entry::is_droppable) {
            self.give_way(at, v1::GapReason::SlowReader);
        }
    }

    fn give_way(&mut self, at: usize, reason: v1::GapReason) {
        let Some(entry) = self.entries.remove(at) else {
            return;
        };
        let place = self.front + at as u64;
        if let Some(latest) = &mut self.latest {
            latest.retain(|latest| latest.at != place);
            for latest in latest.iter_mut().filter(|latest| latest.at > place) {
                latest.at -= 1;
            }
        }
        self.droppable -= 1;
        self.load.messages -= 1;
        self.load.message_bytes -= entry.frame.len() as u32;
        if let Kind::MessageOf(room) = entry.kind {
            self.lose(room, reason);
        }
    }

    /// Forgets all messages; how many there were.
    pub(super) fn forget_messages(&mut self) -> u32 {
        let mut dropped = Load::default();
        self.entries.retain(|entry| {
            let keep = !entry.is_message();
            if !keep {
                dropped.add(entry);
            }
            keep
        });
        self.entries.shrink_to(IDLE_CAPACITY);
        self.load.release(dropped);
        self.droppable = 0;
        self.latest = None;
        dropped.messages
    }

    pub(super) fn lose(&mut self, room: RoomId, reason: v1::GapReason) {
        let lost = self.lost.get_or_insert_default();
        let known = lost
            .iter_mut()
            .find(|missed| missed.reason == reason && missed.room == room);
        match known {
            Some(missed) => missed.count += 1,
            None => lost.push(Missed {
                room,
                reason,
                count: 1,
            }),
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Whether it is a MESSAGE.
    pub(in crate::session) fn is_message(&self) -> bool {
        matches!(self.kind, Kind::Message | Kind::MessageOf(_))
    }

    /// Whether it may give way.
    fn is_droppable(&self) -> bool {
        matches!(self.kind, Kind::MessageOf(_))
    }

    /// A frame that never was in an outbox.
    pub(in crate::session) fn control(frame: Frame) -> Self {
        Self {
            frame,
            kind: Kind::Control,
        }
    }
}

// === impl Load ===

impl Load {
    /// Counts this entry too.
    pub(in crate::session) fn add(&mut self, entry: &Entry) {
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
    pub(in crate::session) fn bytes(&self) -> u64 {
        u64::from(self.message_bytes)
            + u64::from(self.control_bytes)
            + u64::from(self.presence_bytes)
    }

    pub(super) fn release(&mut self, written: Load) {
        self.messages -= written.messages;
        self.message_bytes -= written.message_bytes;
        self.presence -= written.presence;
        self.presence_bytes -= written.presence_bytes;
        self.control -= written.control;
        self.control_bytes -= written.control_bytes;
    }
}
