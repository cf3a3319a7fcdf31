//! One room: members, and delivery to them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arqon_proto::{
    codes::ErrorCode,
    envelope,
    names::{RoomId, SessionId},
    v1,
};
use arqon_spine::{manifest::Overflow, nats};
use arqon_telemetry::labels::GapReason;
use bytes::Bytes;

use super::inspect;
use crate::{
    session::{Frame, Outbox, Shared},
    spine::{
        counters::Counters,
        origin::{Origin, Stamped, Tracker, Verdict},
    },
};

/// A session in a room.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its queue.
    pub outbox: Arc<Outbox>,
    /// Its id.
    pub session: SessionId,
    /// Whether it hears its own messages.
    pub echo: bool,
}

/// A room with members or a subscription here.
#[derive(Debug)]
pub(crate) struct Room {
    id: RoomId,
    subject: nats::Subject,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What becomes of messages for a member that reads too slowly.
    overflow: Overflow,
    members: Vec<Member>,
    /// Where each session stands in `members`.
    places: HashMap<SessionId, usize>,
    /// Members that do not hear themselves: while there is none, no sender is looked at.
    without_echo: usize,
    tracker: Tracker,
    #[cfg(test)]
    skip: usize,
}

/// A room held for a run of messages, so that its lock is taken once.
pub(crate) struct Delivery<'a> {
    room: &'a RoomId,
    state: MutexGuard<'a, State>,
    counters: &'a Counters,
}

// === impl Room ===

impl Room {
    pub(crate) fn new(id: RoomId, subject: nats::Subject, overflow: Overflow) -> Self {
        Self {
            id,
            subject,
            state: Mutex::new(State {
                overflow,
                members: Vec::new(),
                places: HashMap::new(),
                without_echo: 0,
                tracker: Tracker::default(),
                #[cfg(test)]
                skip: 0,
            }),
        }
    }

    /// Another rule holds for slow readers from the next message on.
    pub(crate) fn set_overflow(&self, overflow: Overflow) {
        self.lock().overflow = overflow;
    }

    pub(crate) fn id(&self) -> &RoomId {
        &self.id
    }

    pub(crate) fn subject(&self) -> &nats::Subject {
        &self.subject
    }

    /// Adds a member. `joined` is queued in front of its first message.
    pub(crate) fn add(&self, member: Member, joined: Option<Frame>) {
        self.lock().add(member, joined);
    }

    /// Adds a member if `told` says that it still waits for it. Nothing is
    /// delivered in between, so what it publishes once told comes back to it.
    pub(crate) fn admit(&self, member: Member, joined: Option<Frame>, told: impl FnOnce() -> bool) {
        let mut state = self.lock();
        if told() {
            state.add(member, joined);
        }
    }

    /// Removes a member.
    pub(crate) fn remove(&self, session: SessionId) {
        self.lock().remove(session);
    }

    pub(crate) fn members(&self) -> usize {
        self.lock().members.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().members.is_empty()
    }

    /// Declares a loss of unknown size to every member.
    pub(crate) fn lost(&self, reason: v1::GapReason, label: GapReason, counters: &Counters) {
        let mut state = self.lock();
        state.tracker.loss_declared();
        state.gap(&self.id, reason, None, label, counters);
    }

    /// Puts every member out, with why.
    pub(crate) fn evict(&self, why: ErrorCode) {
        let mut state = self.lock();
        let left = Frame::envelope(&envelope::left(self.id.as_str(), 0, Some(why)));
        let left = Shared::new(left);
        for member in std::mem::take(&mut state.members) {
            let outbox = &member.outbox;
            outbox.push_control(left.in_encoding(outbox.encoding()).clone());
        }
        state.places.clear();
        state.without_echo = 0;
    }

    /// Holds the room to deliver to it.
    pub(crate) fn deliver<'a>(&'a self, counters: &'a Counters) -> Delivery<'a> {
        Delivery {
            room: &self.id,
            state: self.lock(),
            counters,
        }
    }

    /// Makes the room miss the next messages, as if they were lost on the way.
    #[cfg(test)]
    pub(crate) fn skip_next(&self, count: usize) {
        self.lock().skip = count;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it short of a bug; members still deserve their messages.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Delivery ===

impl Delivery<'_> {
    /// A message: dropped if known or malformed, else framed once for everyone, and once more for those who speak JSON.
    /// How many it was queued for.
    pub(crate) fn message(&mut self, stamped: Stamped, payload: Bytes) -> usize {
        let Stamped { origin, sent_us } = stamped;
        #[cfg(test)]
        if self.state.skip > 0 {
            self.state.skip -= 1;
            return 0;
        }
        match self.state.tracker.message(origin) {
            Verdict::Deliver => {}
            Verdict::Duplicate => {
                self.counters.duplicates.inc();
                return 0;
            }
            Verdict::Gap(missed) => self.sequence_gap(missed, GapReason::SequenceJump),
        }
        if self.state.members.is_empty() {
            return 0;
        }
        let skipped = if self.state.without_echo == 0 {
            inspect::is_message(&payload, self.room).then_some(None)
        } else {
            inspect::sender_session(&payload, self.room).map(|id| SessionId::parse(&id).ok())
        };
        let Some(skipped) = skipped else {
            self.counters.malformed.inc();
            return 0;
        };
        let frame = Shared::new(Frame::message(&payload, sent_us));
        let mut queued = 0;
        for member in &self.state.members {
            if !member.echo && Some(member.session) == skipped {
                continue;
            }
            let outbox = &member.outbox;
            let frame = frame.in_encoding(outbox.encoding());
            outbox.push_message(self.room, self.state.overflow, frame);
            queued += 1;
        }
        queued
    }

    /// The room.
    pub(crate) fn room(&self) -> &RoomId {
        self.room
    }

    /// The last number a silent publisher used.
    pub(crate) fn beacon(&mut self, origin: Origin) {
        if let Some(missed) = self.state.tracker.beacon(origin) {
            self.sequence_gap(missed, GapReason::Beacon);
        }
    }

    fn sequence_gap(&mut self, missed: u64, label: GapReason) {
        let reason = v1::GapReason::Sequence;
        self.state
            .gap(self.room, reason, Some(missed), label, self.counters);
    }
}

// === impl State ===

impl State {
    fn add(&mut self, member: Member, joined: Option<Frame>) {
        if let Some(frame) = joined {
            member.outbox.push_control(frame);
        }
        self.remove(member.session);
        self.places.insert(member.session, self.members.len());
        self.without_echo += usize::from(!member.echo);
        self.members.push(member);
    }

    fn remove(&mut self, session: SessionId) {
        let Some(place) = self.places.remove(&session) else {
            return;
        };
        let member = self.members.swap_remove(place);
        self.without_echo -= usize::from(!member.echo);
        if let Some(moved) = self.members.get(place) {
            self.places.insert(moved.session, place);
        }
    }

    fn gap(
        &self,
        room: &RoomId,
        reason: v1::GapReason,
        missed: Option<u64>,
        label: GapReason,
        counters: &Counters,
    ) {
        if self.members.is_empty() {
            return;
        }
        counters.gap(label);
        let frame = Frame::envelope(&envelope::gap(room.as_str(), reason, missed));
        let frame = Shared::new(frame);
        for member in &self.members {
            let outbox = &member.outbox;
            outbox.push_control(frame.in_encoding(outbox.encoding()).clone());
        }
    }
}
