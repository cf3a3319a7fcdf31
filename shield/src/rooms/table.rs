//! The table of a tenant's rooms: who waits for a subscription, who is in.

use std::{
    collections::{HashMap, hash_map},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arqon_proto::{
    codes::ErrorCode,
    names::{RoomId, SessionId, TenantId, room_subject},
    v1,
};
use arqon_telemetry::labels::GapReason;
use tokio::sync::oneshot;

use super::{Member, OverflowRules, Room};
use crate::{session::Frame, spine::counters::Counters};

/// The rooms of one tenant.
#[derive(Debug)]
pub(crate) struct Rooms {
    tenant: TenantId,
    rules: Mutex<OverflowRules>,
    table: Mutex<HashMap<RoomId, Entry>>,
}

/// What became of a wish to enter a room.
#[derive(Debug)]
pub(crate) enum Entered {
    /// The member is in: events flow.
    Joined,
    /// The answer comes when the subscription is proven.
    Waiting {
        /// The answer.
        answer: oneshot::Receiver<Result<(), ErrorCode>>,
        /// The caller is the first, and must have the room subscribed.
        subscribe: bool,
    },
    /// One room too many.
    Full,
    /// One member too many.
    Crowded,
}

/// How many rooms a tenant may have here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// Rooms with members, or with somebody waiting to get in.
    pub(crate) occupied: usize,
    /// Rooms in all: each has a subscription, and the server refuses beyond its limit.
    pub(crate) subscriptions: usize,
    /// Members of one room, those who wait to get in too.
    pub(crate) members: usize,
}

#[derive(Debug)]
struct Entry {
    room: Arc<Room>,
    phase: Phase,
    /// The subscription was live and broke: members are told when it is live again.
    interrupted: bool,
    empty_since: Option<Instant>,
}

#[derive(Debug)]
enum Phase {
    Waiting(Vec<Waiter>),
    Live,
}

#[derive(Debug)]
struct Waiter {
    member: Member,
    joined: Option<Frame>,
    answer: oneshot::Sender<Result<(), ErrorCode>>,
}

// === impl Rooms ===

impl Rooms {
    pub(crate) fn new(tenant: TenantId, rules: OverflowRules) -> Self {
        Self {
            tenant,
            rules: Mutex::new(rules),
            table: Mutex::default(),
        }
    }

    /// Brings a member into a room, now or when its subscription is live.
    pub(crate) fn enter(
        &self,
        id: &RoomId,
        member: Member,
        joined: Option<Frame>,
        limit: Limit,
    ) -> Entered {
        let mut table = self.lock();
        match table.get(id) {
            None if is_full(&table, limit) => return Entered::Full,
            // It lingers only, so it is one room more.
            Some(entry) if entry.empty_since.is_some() && is_crammed(&table, limit) => {
                return Entered::Full;
            }
            Some(entry) if entry.awaited_members() >= limit.members => return Entered::Crowded,
            _ => {}
        }
        let (entry, subscribe) = match table.entry(id.clone()) {
            hash_map::Entry::Occupied(entry) => (entry.into_mut(), false),
            hash_map::Entry::Vacant(place) => {
                let subject = room_subject(&self.tenant, id).into();
                let entry = Entry {
                    room: Arc::new(Room::new(id.clone(), subject, self.rules().of_room(id))),
                    phase: Phase::Waiting(Vec::new()),
                    interrupted: false,
                    empty_since: None,
                };
                (place.insert(entry), true)
            }
        };
        entry.empty_since = None;
        match &mut entry.phase {
            Phase::Live => {
                entry.room.add(member, joined);
                Entered::Joined
            }
            Phase::Waiting(waiters) => {
                let (sender, answer) = oneshot::channel();
                waiters.push(Waiter {
                    member,
                    joined,
                    answer: sender,
                });
                Entered::Waiting { answer, subscribe }
            }
        }
    }

    /// Other rules hold for slow readers, in the rooms there are too.
    pub(crate) fn set_rules(&self, rules: OverflowRules) {
        // Under the table's lock, so that no room is made by the old rules and missed.
        let table = self.lock();
        for (id, entry) in table.iter() {
            entry.room.set_overflow(rules.of_room(id));
        }
        *self.rules() = rules;
    }

    /// Takes a session out of a room, or out of those that wait for it.
    pub(crate) fn leave(&self, id: &RoomId, session: SessionId) {
        let mut table = self.lock();
        let Some(entry) = table.get_mut(id) else {
            return;
        };
        if let Phase::Waiting(waiters) = &mut entry.phase {
            waiters.retain(|waiter| waiter.member.session != session);
        }
        entry.room.remove(session);
        entry.note_use();
    }

    /// The room, if it is in the table.
    pub(crate) fn get(&self, id: &RoomId) -> Option<Arc<Room>> {
        self.lock().get(id).map(|entry| entry.room.clone())
    }

    /// All rooms of the table.
    pub(crate) fn all(&self) -> Vec<Arc<Room>> {
        let table = self.lock();
        table.values().map(|entry| entry.room.clone()).collect()
    }

    /// The room's subscription is proven: members are told of the
    /// interruption, if there was one, and those that waited come in.
    pub(crate) fn settle(&self, id: &RoomId, counters: &Counters) {
        let mut table = self.lock();
        let Some(entry) = table.get_mut(id) else {
            return;
        };
        if std::mem::take(&mut entry.interrupted) {
            let reason = v1::GapReason::SpineReconnected;
            entry
                .room
                .lost(reason, GapReason::SpineReconnected, counters);
        }
        if let Phase::Waiting(waiters) = std::mem::replace(&mut entry.phase, Phase::Live) {
            for waiter in waiters {
                // A session that gave up is not brought in.
                let told = || waiter.answer.send(Ok(())).is_ok();
                entry.room.admit(waiter.member, waiter.joined, told);
            }
        }
        entry.note_use();
    }

    /// The room's subscription broke; it waits to be live again.
    pub(crate) fn unsettle(&self, id: &RoomId) {
        if let Some(entry) = self.lock().get_mut(id) {
            entry.unsettle();
        }
    }

    /// All subscriptions broke.
    pub(crate) fn unsettle_all(&self) {
        self.lock().values_mut().for_each(Entry::unsettle);
    }

    /// The room cannot be had: nobody is in it any more, and all are told.
    pub(crate) fn refuse(&self, id: &RoomId, why: ErrorCode) {
        let Some(entry) = self.lock().remove(id) else {
            return;
        };
        entry.refuse(why);
    }

    /// Answers all that wait, and lets them wait no longer; rooms stay.
    pub(crate) fn give_up_waiting(&self, why: ErrorCode) {
        for entry in self.lock().values_mut() {
            if let Phase::Waiting(waiters) = &mut entry.phase {
                for waiter in waiters.drain(..) {
                    let _ = waiter.answer.send(Err(why));
                }
                entry.note_use();
            }
        }
    }

    /// Removes the rooms that nobody is in or waits for since `linger`.
    pub(crate) fn expire(&self, now: Instant, linger: Duration) -> Vec<RoomId> {
        let mut expired = Vec::new();
        self.lock().retain(|id, entry| {
            let awaited = matches!(&entry.phase, Phase::Waiting(waiters) if !waiters.is_empty());
            let unused = entry
                .empty_since
                .is_some_and(|since| now.saturating_duration_since(since) >= linger);
            if awaited || !unused {
                return true;
            }
            expired.push(id.clone());
            false
        });
        expired
    }

    /// Declares a loss of unknown size in every room.
    pub(crate) fn lost_everywhere(
        &self,
        reason: v1::GapReason,
        label: GapReason,
        counters: &Counters,
    ) {
        for room in self.all() {
            room.lost(reason, label, counters);
        }
    }

    /// Rooms in the table.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Which rooms have at least one member.
    pub(crate) fn occupied_ids(&self) -> Vec<RoomId> {
        let table = self.lock();
        let occupied = table
            .iter()
            .filter(|(_, entry)| entry.empty_since.is_none() && !entry.room.is_empty());
        occupied.map(|(id, _)| id.clone()).collect()
    }

    /// Rooms with at least one member.
    pub(crate) fn occupied(&self) -> usize {
        let table = self.lock();
        table
            .values()
            .filter(|entry| entry.empty_since.is_none() && !entry.room.is_empty())
            .count()
    }

    fn rules(&self) -> MutexGuard<'_, OverflowRules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RoomId, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Entry ===

impl Entry {
    /// It lingers from when nobody is in it and nobody waits to be.
    fn note_use(&mut self) {
        if self.awaited_members() > 0 {
            self.empty_since = None;
        } else {
            self.empty_since.get_or_insert_with(Instant::now);
        }
    }

    /// Members, and those who wait to be.
    fn awaited_members(&self) -> usize {
        let waiting = match &self.phase {
            Phase::Waiting(waiters) => waiters.len(),
            Phase::Live => 0,
        };
        self.room.members() + waiting
    }

    fn unsettle(&mut self) {
        if matches!(self.phase, Phase::Live) {
            self.phase = Phase::Waiting(Vec::new());
            self.interrupted = true;
        }
    }

    fn refuse(self, why: ErrorCode) {
        self.room.evict(why);
        if let Phase::Waiting(waiters) = self.phase {
            for waiter in waiters {
                let _ = waiter.answer.send(Err(why));
            }
        }
    }
}

/// Whether one room more is too many. Rooms that only linger do not count, so
/// that leaving makes room at once; but each still has its subscription, and of
/// those there is a hard limit.
fn is_full(table: &HashMap<RoomId, Entry>, limit: Limit) -> bool {
    table.len() >= limit.subscriptions || is_crammed(table, limit)
}

/// Whether as many rooms are in use as may be.
fn is_crammed(table: &HashMap<RoomId, Entry>, limit: Limit) -> bool {
    let occupied = || table.values().filter(|entry| entry.empty_since.is_none());
    table.len() >= limit.occupied && occupied().count() >= limit.occupied
}
