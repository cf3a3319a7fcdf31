//! From messages of NATS to events for Brain. Nothing passes that is not
//! exactly what it should be, for the BEAM does not look again.

use arqon_proto::names::{NodeId, RoomId, SessionId, UserId};
use arqon_proto::presence::entry_hash;
use arqon_proto::v1;
use arqon_telemetry::TraceContext;
use bytes::Bytes;
use prost::Message;

use crate::counters::Counter;
use crate::etf::Writer;
use crate::names::is_account;

/// Bytes of one message. Shields stay far below, as their accounts do.
pub const MAX_BODY: usize = 256 * 1024;

/// Bytes of the keys and values of one meta; no manifest may allow more.
pub const MAX_META: usize = 4096;

/// Tenants a beat may name.
pub const MAX_RECENT: usize = 64;

/// Traces of one message, either way. More are not followed.
pub const MAX_TRACES: usize = 64;

/// A beat whose clock is further off than this is counted.
const MAX_SKEW_MS: u64 = 60_000;

/// One event, as its term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What may become of it where it has to wait.
    pub kind: Kind,
    /// The term, as an element of a batch.
    pub term: Vec<u8>,
}

/// What may become of an event that has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A connection came or went: never dropped.
    Spine(Which, bool),
    /// Changes: may be dropped if Brain is told whose.
    Changes {
        /// The tenant's account.
        account: Box<str>,
        /// The Shield.
        shield: Box<str>,
    },
    /// A page of a snapshot: the request times out without it.
    Page,
    /// A query: the asker asks again.
    Query,
    /// A report: a newer one makes it worthless.
    Report(Report),
}

/// Whose report, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Report {
    /// A beat of a Shield's incarnation.
    Beat(Box<str>, u64),
    /// A page of a Shield's digests.
    Digests(Box<str>, u32),
    /// A beat of a Brain's incarnation.
    Brain(Box<str>, u64),
}

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// To CONTROL.
    Control,
    /// To BRAIN.
    Brain,
}

/// Why a message is dropped as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is not what it should be.
    Malformed(&'static str),
    /// It is too large, or a part of it is.
    Oversized(&'static str),
}

/// The traces of a batch, by what they belong to.
#[derive(Default)]
struct Traces<'a> {
    changes: Vec<(&'a str, TraceContext)>,
    marks: Vec<(&'a str, TraceContext)>,
    malformed: usize,
}

/// The account in a subject, and the message.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    /// Written into the subject by the server, so it is no claim.
    pub account: &'a str,
    /// The body.
    pub body: &'a Bytes,
}

// === impl Which ===

impl Which {
    /// The atom by which Brain knows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Brain => "brain",
        }
    }
}

// === impl Event ===

impl Event {
    /// A connection came or went.
    #[must_use]
    pub fn spine(which: Which, up: bool) -> Self {
        let mut term = Writer::part(32);
        term.tagged(3, "spine");
        term.atom(which.name());
        term.atom(if up { "up" } else { "down" });
        Self {
            kind: Kind::Spine(which, up),
            term: term.finish(),
        }
    }
}

// === impl Refused ===

impl Refused {
    pub(crate) const fn counter(self) -> Counter {
        match self {
            Self::Malformed(_) => Counter::Malformed,
            Self::Oversized(_) => Counter::Oversized,
        }
    }
}

// === impl Traces ===

impl<'a> Traces<'a> {
    fn of(batch: &'a v1::PresenceChanges) -> Self {
        use v1::PresenceTraceKind::{Activity, Change};
        let mut traces = Self::default();
        for trace in batch.traces.iter().take(MAX_TRACES) {
            let room = RoomId::parse(&trace.room);
            let context = trace.traceparent.parse::<TraceContext>();
            match (room, context, trace.kind()) {
                (Ok(_), Ok(context), Change) if context.sampled && !batch.changes.is_empty() => {
                    traces.changes.push((&trace.room, context));
                }
                (Ok(_), Ok(context), Activity) if context.sampled => {
                    traces.marks.push((&trace.room, context));
                }
                _ => traces.malformed += 1,
            }
        }
        traces
    }
}

// === impl Sent ===

impl Sent<'_> {
    /// A `PresenceChanges`: the changes, the marks of activity, or both. How
    /// many of its traces are none: they cost nothing but themselves.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn changes(self, out: &mut Vec<Event>) -> Result<usize, Refused> {
        let batch: v1::PresenceChanges = self.decode()?;
        let shield = self.sender(&batch.shield)?;
        let kind = || Kind::Changes {
            account: self.account.into(),
            shield: shield.as_str().into(),
        };
        if batch.first_seq == 0 {
            return Err(Refused::Malformed("versions begin at 1"));
        }
        let traces = Traces::of(&batch);
        let changes = if batch.changes.is_empty() {
            None
        } else {
            let mut term = self.event(8, "changes", &shield, batch.epoch);
            term.uint(batch.first_seq);
            term.uint(batch.changes.len() as u64);
            put_traces(&mut term, &traces.changes);
            blob_of(&mut term, &batch.changes, |term, index, change| {
                put_change(term, &batch, index, change)
            })?;
            Some(term)
        };
        // A message may be traced whose sender was marked a moment before.
        let active = if batch.active.is_empty() && traces.marks.is_empty() {
            None
        } else {
            let mut term = self.event(6, "active", &shield, batch.epoch);
            put_traces(&mut term, &traces.marks);
            blob_of(&mut term, &batch.active, |term, _, active| {
                let (room, user, session) = key(active.key.as_ref())?;
                term.tuple(4);
                term.binary(room.as_str().as_bytes());
                term.binary(user.as_str().as_bytes());
                term.binary(session.as_bytes());
                term.uint(active.at_ms);
                Ok(())
            })?;
            Some(term)
        };
        out.extend([changes, active].into_iter().flatten().map(|term| Event {
            kind: kind(),
            term: term.finish(),
        }));
        Ok(traces.malformed)
    }

    /// A `PresencePage`.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn page(self) -> Result<Event, Refused> {
        let page: v1::PresencePage = self.decode()?;
        let shield = self.sender(&page.shield)?;
        let mut term = self.event(9, "page", &shield, page.epoch);
        term.uint(page.seq);
        term.uint(page.request);
        term.uint(page.number.into());
        term.bool(page.last);
        let mut before: Option<(&str, &str, &[u8])> = None;
        blob_of(&mut term, &page.entries, |term, _, entry| {
            put_entry(term, page.epoch, entry)?;
            if entry.seq == 0 || entry.seq > page.seq {
                return Err(Refused::Malformed("an entry newer than its page"));
            }
            let key = entry.key.as_ref();
            let key = key.map(|key| (&*key.room, &*key.user, &*key.session));
            if before.is_some() && before >= key {
                return Err(Refused::Malformed("entries out of order"));
            }
            before = key;
            Ok(())
        })?;
        Ok(Event {
            kind: Kind::Page,
            term: term.finish(),
        })
    }

    /// A `PresenceQuery`.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn query(self) -> Result<Event, Refused> {
        let query: v1::PresenceQuery = self.decode()?;
        let shield = self.sender(&query.shield)?;
        let room = RoomId::parse(&query.room).map_err(|_| Refused::Malformed("room"))?;
        let mut term = self.event(8, "query", &shield, query.epoch);
        term.uint(query.id);
        term.binary(room.as_str().as_bytes());
        term.bool(query.count_only);
        term.uint(query.after_seq);
        Ok(Event {
            kind: Kind::Query,
            term: term.finish(),
        })
    }

    fn decode<M: Message + Default>(self) -> Result<M, Refused> {
        if self.body.len() > MAX_BODY {
            return Err(Refused::Oversized("body"));
        }
        M::decode(self.body.clone()).map_err(|_| Refused::Malformed("body"))
    }

    fn sender(self, shield: &str) -> Result<NodeId, Refused> {
        if !is_account(self.account) {
            return Err(Refused::Malformed("account"));
        }
        node(shield)
    }

    /// The beginning that all of these have in common.
    fn event(self, arity: u8, tag: &str, shield: &NodeId, epoch: u64) -> Writer {
        // An entry grows by its hash and its tags, to less than twice its size.
        let mut term = Writer::part(2 * self.body.len() + 128);
        term.tagged(arity, tag);
        term.binary(self.account.as_bytes());
        term.binary(shield.as_str().as_bytes());
        term.uint(epoch);
        term
    }
}

/// A Shield's beat. An older Shield's tells no presence: it has none.
///
/// # Errors
/// Why it is dropped.
pub fn beat(beat: &v1::ShieldBeat) -> Result<Event, Refused> {
    let shield = node(&beat.shield)?;
    let none = v1::PresenceSummary::default();
    let summary = beat.presence.as_ref().unwrap_or(&none);
    let epoch = match beat.presence {
        Some(_) => summary.epoch,
        None => u64::from_str_radix(&beat.incarnation, 16)
            .map_err(|_| Refused::Malformed("incarnation"))?,
    };
    if summary.recent.len() > MAX_RECENT {
        return Err(Refused::Oversized("recent"));
    }
    let mut term = Writer::part(128 + 96 * summary.recent.len());
    term.tagged(9, "beat");
    term.binary(shield.as_str().as_bytes());
    term.uint(epoch);
    term.uint(beat.uptime_ms);
    term.bool(beat.goodbye);
    term.uint(summary.root);
    term.uint(summary.tenants.into());
    term.uint(summary.entries);
    put_digests(&mut term, &summary.recent)?;
    Ok(Event {
        kind: Kind::Report(Report::Beat(shield.as_str().into(), epoch)),
        term: term.finish(),
    })
}

/// By how much a Shield's clock is off ours, in milliseconds, if that is much.
#[must_use]
pub fn skew(beat: &v1::ShieldBeat, now_ms: u64) -> Option<u64> {
    let off = beat.time_ms.abs_diff(now_ms);
    (beat.time_ms != 0 && off > MAX_SKEW_MS).then_some(off)
}

/// A page of a Shield's digests.
///
/// # Errors
/// Why it is dropped.
pub fn digests(digests: &v1::PresenceDigests) -> Result<Event, Refused> {
    let shield = node(&digests.shield)?;
    if digests.encoded_len() > MAX_BODY {
        return Err(Refused::Oversized("body"));
    }
    let mut term = Writer::part(128 + 96 * digests.tenants.len());
    term.tagged(7, "digests");
    term.binary(shield.as_str().as_bytes());
    term.uint(digests.epoch);
    term.uint(digests.number.into());
    term.bool(digests.last);
    term.uint(digests.root);
    put_digests(&mut term, &digests.tenants)?;
    Ok(Event {
        kind: Kind::Report(Report::Digests(shield.as_str().into(), digests.number)),
        term: term.finish(),
    })
}

/// A Brain's beat.
///
/// # Errors
/// Why it is dropped.
pub fn brain(beat: &v1::BrainBeat) -> Result<Event, Refused> {
    let id = node(&beat.brain)?;
    let mut term = Writer::part(128);
    term.tagged(6, "brain");
    term.binary(id.as_str().as_bytes());
    term.uint(beat.incarnation);
    term.uint(beat.uptime_ms);
    term.bool(beat.warm);
    term.bool(beat.goodbye);
    Ok(Event {
        kind: Kind::Report(Report::Brain(id.as_str().into(), beat.incarnation)),
        term: term.finish(),
    })
}

fn put_traces(term: &mut Writer, traces: &[(&str, TraceContext)]) {
    term.each(traces, |term, (room, context)| {
        term.tuple(3);
        term.binary(room.as_bytes());
        term.binary(&context.trace_id.to_be_bytes());
        term.binary(&context.span_id.to_be_bytes());
    });
}

fn put_change(
    term: &mut Writer,
    batch: &v1::PresenceChanges,
    index: u64,
    change: &v1::PresenceChange,
) -> Result<(), Refused> {
    use v1::presence_change::Change;
    match &change.change {
        Some(Change::Put(entry)) => {
            if Some(entry.seq) != batch.first_seq.checked_add(index) {
                return Err(Refused::Malformed("an entry out of its place"));
            }
            term.tagged(2, "put");
            put_entry(term, batch.epoch, entry)
        }
        Some(Change::Remove(gone)) => {
            let (room, user, session) = key(Some(gone))?;
            term.tagged(4, "gone");
            term.binary(room.as_str().as_bytes());
            term.binary(user.as_str().as_bytes());
            term.binary(session.as_bytes());
            Ok(())
        }
        None => Err(Refused::Malformed("an empty change")),
    }
}

fn put_entry(term: &mut Writer, epoch: u64, entry: &v1::PresenceEntry) -> Result<(), Refused> {
    let (room, user, session) = key(entry.key.as_ref())?;
    let meta = entry.meta.as_ref().map_or_else(Vec::new, |meta| {
        // Our own encoding of it: what Brain keeps decodes again.
        meta.encode_to_vec()
    });
    let pairs = entry.meta.iter().flat_map(|meta| &meta.meta);
    if pairs
        .map(|(key, value)| key.len() + value.len())
        .sum::<usize>()
        > MAX_META
    {
        return Err(Refused::Oversized("meta"));
    }
    term.tuple(8);
    term.binary(room.as_str().as_bytes());
    term.binary(user.as_str().as_bytes());
    term.binary(session.as_bytes());
    term.uint(entry.seq);
    term.binary(&meta);
    term.uint(entry.joined_at_ms);
    term.uint(entry.last_active_at_ms);
    term.uint(entry_hash(epoch, room.as_str(), session, entry.seq));
    Ok(())
}

fn put_digests(term: &mut Writer, tenants: &[v1::TenantDigest]) -> Result<(), Refused> {
    if !tenants.iter().all(|tenant| is_account(&tenant.account)) {
        return Err(Refused::Malformed("account"));
    }
    term.each(tenants, |term, tenant| {
        term.tuple(4);
        term.binary(tenant.account.as_bytes());
        term.uint(tenant.seq);
        term.uint(tenant.count);
        term.uint(tenant.digest);
    });
    Ok(())
}

/// A blob of a list, as long as each element is what it should be.
fn blob_of<'a, T>(
    term: &mut Writer,
    items: &'a [T],
    mut put: impl FnMut(&mut Writer, u64, &'a T) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let mut outcome = Ok(());
    term.blob(|term| {
        term.list(items.len());
        outcome = (0..)
            .zip(items)
            .try_for_each(|(index, item)| put(term, index, item));
        term.nil();
    });
    outcome
}

fn node(text: &str) -> Result<NodeId, Refused> {
    NodeId::parse(text).map_err(|_| Refused::Malformed("node"))
}

fn key(key: Option<&v1::PresenceKey>) -> Result<(RoomId, UserId, SessionId), Refused> {
    let key = key.ok_or(Refused::Malformed("key"))?;
    Ok((
        RoomId::parse(&key.room).map_err(|_| Refused::Malformed("room"))?,
        UserId::parse(&key.user).map_err(|_| Refused::Malformed("user"))?,
        SessionId::from_bytes(&key.session).map_err(|_| Refused::Malformed("session"))?,
    ))
}

#[cfg(test)]
mod tests;
