//! What this Shield tells of its own sessions in one tenant: the one writer's side.
//!
//! Pure: sessions in, changes, pages and digests out. Every change takes the
//! next number, which never begins again while the process lives, so a Brain
//! can tell what it missed. Changes wait to be sent within a bound; what does
//! not fit is dropped, and the jump in the numbers makes Brains fetch a snapshot.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use arqon_proto::{
    names::{RoomId, SessionId, UserId},
    presence::entry_hash,
    v1,
};
use arqon_telemetry::TraceContext;
use bytes::Bytes;
use prost::Message as _;

/// Changes that wait to be sent.
const PENDING: usize = 10_000;
/// Bytes of those.
const PENDING_BYTES: usize = 1024 * 1024;
/// Around each item of a message: its tag and its length.
const ITEM: usize = 4;
/// Traces that travel with one batch; a Brain reads no more.
const TRACES: usize = 64;
/// A session is told to be active at most this often.
const ACTIVE_EVERY_MS: u64 = 15_000;

/// One session in one room. Never changed, only replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    user: UserId,
    seq: u64,
    meta: Arc<BTreeMap<String, String>>,
    joined_at_ms: u64,
    last_active_ms: u64,
}

/// The sessions of one tenant here.
#[derive(Debug)]
pub(super) struct Writer {
    epoch: u64,
    seq: u64,
    digest: u64,
    count: u64,
    rooms: HashMap<RoomId, HashMap<SessionId, Entry>>,
    pending: VecDeque<v1::PresenceChange>,
    pending_bytes: usize,
    /// Marks to be told, by what they are of.
    active: HashMap<(RoomId, SessionId), u64>,
    /// Of changes and marks that wait to be sent.
    traces: Vec<v1::PresenceTrace>,
    dropped: u64,
}

/// What is told of the tenant in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Summary {
    pub(super) seq: u64,
    pub(super) count: u64,
    pub(super) digest: u64,
}

/// A batch to be sent.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Batch {
    pub(super) first_seq: u64,
    pub(super) changes: Vec<v1::PresenceChange>,
    pub(super) active: Vec<v1::PresenceActive>,
    pub(super) traces: Vec<v1::PresenceTrace>,
}

/// A copy of the table at one version, in the order of its pages.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) seq: u64,
    entries: std::vec::IntoIter<(RoomId, SessionId, Entry)>,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(epoch: u64) -> Self {
        Self {
            epoch,
            seq: 0,
            digest: 0,
            count: 0,
            rooms: HashMap::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            active: HashMap::new(),
            traces: Vec::new(),
            dropped: 0,
        }
    }

    /// A session came into a room, or has another meta.
    pub(super) fn put(
        &mut self,
        room: &RoomId,
        session: SessionId,
        user: &UserId,
        meta: BTreeMap<String, String>,
        now_ms: u64,
    ) {
        self.seq += 1;
        let old = self.rooms.get(room).and_then(|room| room.get(&session));
        let entry = Entry {
            user: user.clone(),
            seq: self.seq,
            meta: Arc::new(meta),
            joined_at_ms: old.map_or(now_ms, |old| old.joined_at_ms),
            last_active_ms: now_ms,
        };
        match old {
            Some(old) => self.digest ^= entry_hash(self.epoch, room.as_str(), session, old.seq),
            None => self.count += 1,
        }
        self.digest ^= entry_hash(self.epoch, room.as_str(), session, self.seq);
        let change = v1::presence_change::Change::Put(wire(room, session, &entry));
        self.push(change);
        let sessions = match self.rooms.get_mut(room) {
            Some(sessions) => sessions,
            None => self.rooms.entry(room.clone()).or_default(),
        };
        sessions.insert(session, entry);
    }

    /// A session left a room; false if it was not told of before.
    pub(super) fn remove(&mut self, room: &RoomId, session: SessionId) -> bool {
        let Some(sessions) = self.rooms.get_mut(room) else {
            return false;
        };
        let Some(entry) = sessions.remove(&session) else {
            return false;
        };
        if sessions.is_empty() {
            self.rooms.remove(room);
        }
        self.seq += 1;
        self.count -= 1;
        self.digest ^= entry_hash(self.epoch, room.as_str(), session, entry.seq);
        if !self.active.is_empty() {
            self.active.remove(&(room.clone(), session));
        }
        self.push(v1::presence_change::Change::Remove(key(
            room,
            session,
            &entry.user,
        )));
        true
    }

    /// A session did something.
    pub(super) fn active(&mut self, room: &RoomId, session: SessionId, now_ms: u64) {
        let Some(sessions) = self.rooms.get_mut(room) else {
            return;
        };
        let Some(entry) = sessions.get_mut(&session) else {
            return;
        };
        if now_ms >= entry.last_active_ms.saturating_add(ACTIVE_EVERY_MS) {
            entry.last_active_ms = now_ms;
            self.active.insert((room.clone(), session), now_ms);
        }
    }

    /// What happens in a room belongs to a trace.
    pub(super) fn trace(
        &mut self,
        room: &RoomId,
        kind: v1::PresenceTraceKind,
        cause: TraceContext,
    ) {
        if self.traces.len() < TRACES {
            self.traces.push(v1::PresenceTrace {
                room: room.to_string(),
                traceparent: cause.to_string(),
                kind: kind as i32,
            });
        }
    }

    /// Whether the session is told of in the room.
    pub(super) fn contains(&self, room: &RoomId, session: SessionId) -> bool {
        self.rooms
            .get(room)
            .is_some_and(|sessions| sessions.contains_key(&session))
    }

    /// The sessions told of in the room.
    pub(super) fn sessions(&self, room: &RoomId) -> Vec<SessionId> {
        let sessions = self.rooms.get(room);
        sessions.map_or_else(Vec::new, |all| all.keys().copied().collect())
    }

    /// Nobody is here any more, and nobody can be told: the tenant's account is
    /// gone. The version stays, in case it is the same account that comes back.
    pub(super) fn clear(&mut self) {
        self.seq += self.count;
        self.count = 0;
        self.digest = 0;
        self.rooms.clear();
        self.active.clear();
        self.traces.clear();
        self.forget_pending();
    }

    pub(super) fn summary(&self) -> Summary {
        Summary {
            seq: self.seq,
            count: self.count,
            digest: self.digest,
        }
    }

    /// Whether there is something to send. Marks of activity alone wait for
    /// company, or for the next look.
    pub(super) fn has_changes(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn has_marks(&self) -> bool {
        !self.active.is_empty() || !self.traces.is_empty()
    }

    /// Changes dropped since the last look.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// The next batch, of about `max_bytes` at most, or None.
    pub(super) fn take_batch(&mut self, max_bytes: usize) -> Option<Batch> {
        let mut batch = Batch {
            first_seq: self.seq + 1 - self.pending.len() as u64,
            ..Batch::default()
        };
        let mut bytes = 0;
        while let Some(change) = self.pending.front() {
            let len = change.encoded_len();
            if bytes + len + ITEM > max_bytes && !batch.changes.is_empty() {
                break;
            }
            bytes += len + ITEM;
            self.pending_bytes -= len;
            batch.changes.extend(self.pending.pop_front());
        }
        if self.pending.is_empty() {
            while let Some((mark, at_ms)) = self.active.iter().next() {
                let ((room, session), at_ms) = (mark.clone(), *at_ms);
                let entry = self.rooms.get(&room).and_then(|room| room.get(&session));
                if let Some(entry) = entry {
                    let active = v1::PresenceActive {
                        key: Some(key(&room, session, &entry.user)),
                        at_ms,
                    };
                    bytes += active.encoded_len() + ITEM;
                    if bytes > max_bytes && !(batch.changes.is_empty() && batch.active.is_empty()) {
                        break;
                    }
                    batch.active.push(active);
                }
                self.active.remove(&(room, session));
            }
        }
        if self.pending.is_empty() {
            batch.traces = std::mem::take(&mut self.traces);
        }
        let some = !batch.changes.is_empty() || !batch.active.is_empty();
        (some || !batch.traces.is_empty()).then_some(batch)
    }

    /// A copy of everything at the present version.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut entries: Vec<_> = self
            .rooms
            .iter()
            .flat_map(|(room, sessions)| {
                let entry = move |(session, entry): (&SessionId, &Entry)| {
                    (room.clone(), *session, entry.clone())
                };
                sessions.iter().map(entry)
            })
            .collect();
        entries.sort_unstable_by(|(room, session, entry), (other, its, another)| {
            let by_room = room.as_str().cmp(other.as_str());
            let by_user = || entry.user.as_str().cmp(another.user.as_str());
            let by_session = || session.as_bytes().cmp(its.as_bytes());
            by_room.then_with(by_user).then_with(by_session)
        });
        Snapshot {
            seq: self.seq,
            entries: entries.into_iter(),
        }
    }

    fn push(&mut self, change: v1::presence_change::Change) {
        let change = v1::PresenceChange {
            change: Some(change),
        };
        let len = change.encoded_len();
        if self.pending.len() >= PENDING || self.pending_bytes + len > PENDING_BYTES {
            // The newest goes with the rest: `first_seq` counts back from the
            // last number, so what is kept must end with it.
            self.dropped += 1;
            self.forget_pending();
            return;
        }
        self.pending_bytes += len;
        self.pending.push_back(change);
    }

    fn forget_pending(&mut self) {
        self.dropped += self.pending.len() as u64;
        self.pending.clear();
        self.pending_bytes = 0;
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// The entries of the next page, of about `max_bytes` at most, and whether
    /// it is the last.
    pub(super) fn next_page(&mut self, max_bytes: usize) -> (Vec<v1::PresenceEntry>, bool) {
        let mut page = Vec::new();
        let mut bytes = 0;
        while let Some((room, session, entry)) = self.entries.as_slice().first() {
            let entry = wire(room, *session, entry);
            bytes += entry.encoded_len() + ITEM;
            if bytes > max_bytes && !page.is_empty() {
                return (page, false);
            }
            page.push(entry);
            self.entries.next();
        }
        (page, true)
    }
}

fn key(room: &RoomId, session: SessionId, user: &UserId) -> v1::PresenceKey {
    v1::PresenceKey {
        room: room.to_string(),
        session: Bytes::copy_from_slice(session.as_bytes()),
        user: user.to_string(),
    }
}

fn wire(room: &RoomId, session: SessionId, entry: &Entry) -> v1::PresenceEntry {
    v1::PresenceEntry {
        key: Some(key(room, session, &entry.user)),
        seq: entry.seq,
        meta: Some(v1::PresenceMap {
            meta: (*entry.meta).clone(),
        }),
        joined_at_ms: entry.joined_at_ms,
        last_active_at_ms: entry.last_active_ms,
    }
}

#[cfg(test)]
mod tests;
