//! Presence of one tenant on this Shield: its sessions' entries, and the views
//! of the rooms that they watch. Sessions call in, under one short lock; the
//! task of the tenant's link sends and receives.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arqon_proto::{
    codes::ErrorCode,
    envelope,
    names::{RoomId, SessionId, TenantId, UserId},
    v1::{self, PresenceMode, PresenceTraceKind},
};
use arqon_spine::manifest::Manifest;
use arqon_telemetry::{
    Metrics, Span, TraceContext,
    labels::{Code, PresenceVerdict, PresenceWord},
};
use prost::Message as _;
use tokio::sync::Notify;

use super::{
    coverage::Coverage,
    link::Requests,
    view::{Effect, Get, Hears, Rules, To, Verdict, View, Word},
    writer::{Batch, Snapshot, Summary, Writer},
};
use crate::session::{Frame, Outbox, Shared};

/// A session that takes part in a room's presence.
#[derive(Debug, Clone)]
pub(crate) struct Entrant {
    pub(crate) room: RoomId,
    pub(crate) user: UserId,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) mode: PresenceMode,
    pub(crate) meta: BTreeMap<String, String>,
    /// Of the JOIN: the first state carries it.
    pub(crate) reference: u64,
    /// The span of the JOIN, where it is traced.
    pub(crate) cause: Option<TraceContext>,
}

/// Presence of one tenant.
#[derive(Debug)]
pub(crate) struct TenantPresence {
    settings: PresenceSettings,
    tenant: TenantId,
    metrics: Metrics,
    state: Mutex<State>,
    /// Snapshots that were asked for lately, over whichever connection.
    pub(super) requests: Requests,
    /// There is something to send, or a question to ask.
    pub(super) work: Notify,
}

/// What a Shield's presence is set to.
#[derive(Debug, Clone, Copy)]
pub struct PresenceSettings {
    /// This process, new and higher at each start.
    pub epoch: u64,
    /// From the last session's end to PRESENCE_LEAVE.
    pub leave_delay: Duration,
    /// Longest wait for an answer.
    pub query_timeout: Duration,
    /// Changes are gathered so long.
    pub flush: Duration,
    /// Members on one page of PRESENCE_STATE.
    pub page_members: usize,
    /// Bytes of one page of PRESENCE_STATE.
    pub page_bytes: usize,
    /// Bytes of the entries in one message to Brain.
    pub message_bytes: usize,
}

/// Traced changes of one event that are followed.
const DELIVERIES: usize = 64;
/// Who hears nothing of a change for so long will not be timed by it.
const TIMED: Duration = Duration::from_secs(10);
/// Rooms that are asked for again are so by this pace, but all within `SPREAD`.
const SPREAD_STEP: Duration = Duration::from_millis(2);
/// See `SPREAD_STEP`.
const SPREAD: Duration = Duration::from_secs(2);

// === impl PresenceSettings ===

impl PresenceSettings {
    /// As the manifest says, for a process that starts now.
    pub fn from_manifest(manifest: &Manifest, max_message_bytes: usize) -> Self {
        let presence = &manifest.presence;
        Self {
            epoch: epoch(),
            leave_delay: presence.leave_delay,
            query_timeout: presence.query_timeout,
            flush: presence.flush,
            page_members: presence.page_members,
            page_bytes: manifest.session.max_frame_bytes / 2,
            // Half: each entry has a tag and a length around it, and a message
            // over the account's limit would cut the tenant's connection.
            message_bytes: max_message_bytes / 2,
        }
    }
}

/// The time in milliseconds, and chance.
pub(crate) fn epoch() -> u64 {
    now_ms() << 16 | u64::from(rand::random::<u16>())
}

#[derive(Debug)]
struct State {
    /// The tenant's account.
    account: String,
    writer: Writer,
    changed_at: Option<Instant>,
    /// One change at a time is timed until Brain tells of it.
    timed: Option<(u64, Instant)>,
    views: HashMap<RoomId, View>,
    restless: HashSet<RoomId>,
}

/// What the link's task has to send for a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) room: RoomId,
    pub(super) id: u64,
    pub(super) count_only: bool,
    pub(super) after_seq: u64,
}

// === impl State ===

impl State {
    fn changed(&mut self) {
        let now = Instant::now();
        self.changed_at = Some(now);
        if self.timed.is_none_or(|(_, since)| now - since > TIMED) {
            self.timed = Some((self.writer.summary().seq, now));
        }
    }
}

// === impl TenantPresence ===

impl TenantPresence {
    pub(super) fn new(tenant: TenantId, settings: PresenceSettings, metrics: &Metrics) -> Self {
        Self {
            settings,
            tenant,
            metrics: metrics.clone(),
            requests: Requests::default(),
            state: Mutex::new(State {
                account: String::new(),
                writer: Writer::new(settings.epoch),
                changed_at: None,
                timed: None,
                views: HashMap::new(),
                restless: HashSet::new(),
            }),
            work: Notify::new(),
        }
    }

    /// A session takes part in a room's presence as its JOIN says.
    pub(crate) fn enter(&self, entrant: Entrant) {
        let Entrant {
            room,
            user,
            outbox,
            mode,
            meta,
            reference,
            cause,
        } = entrant;
        let session = outbox.session();
        let mut state = self.lock();
        if matches!(mode, PresenceMode::Count | PresenceMode::Full) {
            state.writer.put(&room, session, &user, meta, now_ms());
            state.changed();
            if let Some(cause) = cause {
                state.writer.trace(&room, PresenceTraceKind::Change, cause);
            }
        }
        let hears = match mode {
            PresenceMode::Full | PresenceMode::Watch => Hears::Full,
            PresenceMode::Count => Hears::Count,
            PresenceMode::None | PresenceMode::Unspecified => return,
        };
        state.restless.insert(room.clone());
        let view = state.views.entry(room).or_default();
        view.watch(outbox, hears, reference);
        drop(state);
        self.work.notify_one();
    }

    /// A session's other meta. `PRESENCE_NOT_SEEN` if others do not see it in the room.
    pub(crate) fn set_meta(
        &self,
        room: &RoomId,
        session: SessionId,
        user: &UserId,
        meta: BTreeMap<String, String>,
    ) -> Result<(), ErrorCode> {
        let mut state = self.lock();
        if !state.writer.contains(room, session) {
            return Err(ErrorCode::PresenceNotSeen);
        }
        state.writer.put(room, session, user, meta, now_ms());
        state.changed();
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// A session asks who is in a room. `PRESENCE_UNAVAILABLE` if too many do.
    pub(crate) fn get(
        &self,
        room: &RoomId,
        outbox: &Arc<Outbox>,
        reference: u64,
        count_only: bool,
    ) -> Result<(), ErrorCode> {
        let mut state = self.lock();
        state.restless.insert(room.clone());
        let asked = state.views.entry(room.clone()).or_default().get(Get {
            outbox: outbox.clone(),
            reference,
            count_only,
        });
        drop(state);
        self.work.notify_one();
        if asked {
            Ok(())
        } else {
            Err(ErrorCode::PresenceUnavailable)
        }
    }

    /// A session left a room, or is gone.
    pub(crate) fn leave(&self, room: &RoomId, session: SessionId) {
        let mut state = self.lock();
        let removed = state.writer.remove(room, session);
        if removed {
            state.changed();
        }
        if let hash_map::Entry::Occupied(mut view) = state.views.entry(room.clone()) {
            view.get_mut().unwatch(session);
            if !view.get().is_used() {
                view.remove();
                state.restless.remove(room);
            }
        }
        drop(state);
        if removed {
            self.work.notify_one();
        }
    }

    /// A session did something in a room.
    pub(crate) fn active(&self, room: &RoomId, session: SessionId) {
        self.lock().writer.active(room, session, now_ms());
    }

    /// A traced message of a session that is seen in the room.
    pub(crate) fn trace_activity(&self, room: &RoomId, session: SessionId, cause: TraceContext) {
        let mut state = self.lock();
        if state.writer.contains(room, session) {
            state.writer.trace(room, PresenceTraceKind::Activity, cause);
        }
    }

    /// The room cannot be had: nobody is in it any more.
    pub(crate) fn evict(&self, room: &RoomId) {
        let mut state = self.lock();
        let sessions = state.writer.sessions(room);
        for session in &sessions {
            state.writer.remove(room, *session);
        }
        if !sessions.is_empty() {
            state.changed();
        }
        state.views.remove(room);
        state.restless.remove(room);
        drop(state);
        self.work.notify_one();
    }

    /// The tenant cannot be told any more; nobody of it is here.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        state.writer.clear();
        state.changed_at = None;
    }

    /// The link lost its connection and has one again.
    pub(crate) fn reconnected(&self) {
        let mut state = self.lock();
        let State {
            views, restless, ..
        } = &mut *state;
        // One after the other: all that lost their connection come back at once.
        let count = u32::try_from(views.len()).unwrap_or(u32::MAX).max(1);
        let step = SPREAD_STEP.min(SPREAD / count);
        let mut at = Instant::now();
        for (room, view) in views {
            view.suspect(at);
            at += step;
            if view.is_restless() {
                restless.insert(room.clone());
            }
        }
        drop(state);
        self.work.notify_one();
    }

    /// What the presence of the tenant comes to, and when it changed last.
    pub(super) fn summary(&self) -> (String, Summary, Option<Instant>) {
        let state = self.lock();
        let account = state.account.clone();
        (account, state.writer.summary(), state.changed_at)
    }

    /// Rooms that are watched or asked for.
    pub(super) fn watched(&self) -> usize {
        self.lock().views.len()
    }

    pub(super) fn set_account(&self, account: &str) {
        let mut state = self.lock();
        if state.account != account {
            account.clone_into(&mut state.account);
        }
    }

    /// Whether no change waits to be sent.
    pub(super) fn is_flushed(&self) -> bool {
        !self.lock().writer.has_changes()
    }

    /// The next batch of changes.
    pub(super) fn take_batch(&self, with_marks: bool) -> Option<Batch> {
        let mut state = self.lock();
        if !(state.writer.has_changes() || with_marks && state.writer.has_marks()) {
            return None;
        }
        let dropped = state.writer.take_dropped();
        let batch = state.writer.take_batch(self.settings.message_bytes);
        drop(state);
        self.metrics.presence_changes_dropped.inc_by(dropped);
        if let Some(batch) = &batch {
            let changes = batch.changes.len() as u64;
            self.metrics.presence_changes.inc_by(changes);
        }
        batch
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.lock().writer.snapshot()
    }

    /// Does what time brings; the questions to ask now.
    pub(super) fn on_time(&self) -> Vec<Question> {
        let now = Instant::now();
        let mut questions = Vec::new();
        let mut state = self.lock();
        let after_seq = state.writer.summary().seq;
        let State {
            views, restless, ..
        } = &mut *state;
        let mut effects = Vec::new();
        restless.retain(|room| {
            let Some(view) = views.get_mut(room) else {
                return false;
            };
            view.on_time(now, self.rules(), rand::random, &mut effects);
            for effect in effects.drain(..) {
                match effect {
                    Effect::Tell(to, word) => self.tell(room, view, to, word),
                    Effect::Ask { id, count_only } => questions.push(Question {
                        room: room.clone(),
                        id,
                        count_only,
                        after_seq,
                    }),
                }
            }
            if !view.is_used() {
                views.remove(room);
                return false;
            }
            view.is_restless()
        });
        questions
    }

    /// Whether there is anything for `on_time` to look at.
    pub(super) fn is_restless(&self) -> bool {
        let state = self.lock();
        !state.restless.is_empty() || state.writer.has_changes()
    }

    /// What changed in the tenant's rooms.
    pub(super) fn on_events(&self, events: &v1::PresenceEvents) {
        let now = Instant::now();
        let coverage = Coverage::of(&events.coverage);
        let spans = self.begin_deliveries(events);
        let mut state = self.lock();
        self.observe(&mut state, events, now);
        let State {
            views, restless, ..
        } = &mut *state;
        if !events.gone.is_empty() {
            views
                .values_mut()
                .for_each(|view| view.on_gone(&events.gone));
        }
        let mut effects = Vec::new();
        for event in &events.rooms {
            let Some((room, view)) = find(views, &event.room) else {
                continue;
            };
            let verdict = view.on_event(event, &coverage, now, self.rules(), &mut effects);
            self.count(verdict);
            for effect in effects.drain(..) {
                if let Effect::Tell(to, word) = effect {
                    self.tell(&room, view, to, word);
                }
            }
            if view.is_restless() {
                restless.insert(room);
            }
        }
        if let Some(range) = &events.range {
            let listed: HashMap<&str, u64> = range
                .rooms
                .iter()
                .map(|room| (room.room.as_str(), room.digest))
                .collect();
            for (room, view) in views.iter_mut() {
                let name = room.as_str();
                if name <= range.from.as_str() || (!range.to.is_empty() && name > range.to.as_str())
                {
                    continue;
                }
                let digest = listed.get(name).copied().unwrap_or_default();
                self.count(view.on_digest(digest, &coverage));
                if view.is_restless() {
                    restless.insert(room.clone());
                }
            }
        }
        let due = !restless.is_empty();
        drop(state);
        for (span, room) in spans {
            span.end(Ok(()), |found| {
                found.text("messaging.system", "nats");
                found.text("messaging.operation.type", "process");
                found.text("messaging.operation.name", "deliver");
                found.text("arqon.tenant", self.tenant.as_str());
                found.text("arqon.room", room);
            });
        }
        if due {
            self.work.notify_one();
        }
    }

    /// The spans of traced changes that somebody here hears of.
    fn begin_deliveries<'e>(&self, events: &'e v1::PresenceEvents) -> Vec<(Span, &'e str)> {
        let tracer = self.metrics.tracer();
        if events.traces.is_empty() || !tracer.is_on() {
            return Vec::new();
        }
        // Asked for when it is needed: this lives longer than the tenant's sessions.
        let meter = self.metrics.tenants().of(&self.tenant);
        let views = &self.lock().views;
        let heard = events.traces.iter().take(DELIVERIES).filter(|trace| {
            let room = RoomId::parse(&trace.room);
            room.is_ok_and(|room| views.contains_key(&room))
        });
        heard
            .filter_map(|trace| {
                let cause = trace.traceparent.parse().ok()?;
                let name = "shield.deliver presence";
                let span = tracer.follow_delivery(name, &meter, cause, SystemTime::now());
                Some((span, trace.room.as_str()))
            })
            .collect()
    }

    /// How long Brain took to tell of a change of ours.
    fn observe(&self, state: &mut State, events: &v1::PresenceEvents, now: Instant) {
        let Some((seq, since)) = state.timed else {
            return;
        };
        let ours = events
            .coverage
            .iter()
            .find(|known| known.epoch == self.settings.epoch);
        if ours.is_some_and(|known| known.seq >= seq) {
            state.timed = None;
            let took = now - since;
            // One that Brain had nothing to tell of waited for another's.
            if took <= TIMED {
                self.metrics.presence_seconds.observe(took);
            }
        }
    }

    /// A page of an answer.
    pub(super) fn on_answer(&self, answer: v1::PresenceAnswer) {
        let mut state = self.lock();
        let State {
            views, restless, ..
        } = &mut *state;
        let Some((room, view)) = find(views, &answer.room) else {
            return;
        };
        let mut effects = Vec::new();
        view.on_answer(answer, Instant::now(), &mut effects);
        for effect in effects {
            if let Effect::Tell(to, word) = effect {
                self.tell(&room, view, to, word);
            }
        }
        if view.is_restless() {
            restless.insert(room.clone());
        }
        if !view.is_used() {
            views.remove(&room);
            restless.remove(&room);
        }
    }

    pub(super) fn settings(&self) -> &PresenceSettings {
        &self.settings
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn rules(&self) -> Rules {
        Rules {
            leave_delay: self.settings.leave_delay,
            query_timeout: self.settings.query_timeout,
        }
    }

    /// Frames are made once and shared by all who hear them.
    fn tell(&self, room: &RoomId, view: &mut View, to: To, word: Word) {
        let mut missed = Vec::new();
        let mut told = |outbox: &Arc<Outbox>, frames: &Shared<Vec<Frame>>| {
            if !outbox.push_presence(frames.in_encoding(outbox.encoding())) {
                missed.push(outbox.session());
            }
        };
        match to {
            To::One(outbox, reference) => {
                let frames = self.frames(room, reference, &word);
                if matches!(word, Word::Unavailable) {
                    frames
                        .into_iter()
                        .for_each(|frame| outbox.push_control(frame));
                } else if !outbox.push_presence(&frames) {
                    // Without a reference nobody asked.
                    if reference != 0 {
                        let refused = self.frames(room, reference, &Word::Unavailable);
                        refused
                            .into_iter()
                            .for_each(|frame| outbox.push_control(frame));
                    }
                    missed.push(outbox.session());
                }
            }
            To::Full(except) => {
                let frames = Shared::new(self.frames(room, 0, &word));
                for outbox in view.audience(Hears::Full) {
                    if except.is_empty() || !except.contains(&outbox.session()) {
                        told(outbox, &frames);
                    }
                }
            }
            To::Count => {
                let frames = Shared::new(self.frames(room, 0, &word));
                view.audience(Hears::Count)
                    .for_each(|outbox| told(outbox, &frames));
            }
        }
        let now = Instant::now();
        for session in missed {
            self.metrics.presence_postponed.inc();
            view.missed(session, now);
        }
    }

    fn frames(&self, room: &RoomId, reference: u64, word: &Word) -> Vec<Frame> {
        let room = room.as_str();
        let envelopes = match word {
            Word::State {
                members,
                count,
                truncated,
            } => {
                let pages = pages(
                    members,
                    self.settings.page_members,
                    self.settings.page_bytes,
                );
                let last = pages.len() - 1;
                let page = |(number, members): (usize, &[v1::PresenceMember])| {
                    let state = v1::PresenceState {
                        members: members.to_vec(),
                        count: *count,
                        last_page: number == last,
                        truncated: *truncated,
                    };
                    envelope::presence_state(room, reference, state)
                };
                pages.into_iter().enumerate().map(page).collect()
            }
            Word::Update { members, count } => {
                let pages = pages(
                    members,
                    self.settings.page_members,
                    self.settings.page_bytes,
                );
                let page = |members: &[v1::PresenceMember]| {
                    let update = v1::PresenceUpdate {
                        members: members.to_vec(),
                        count: *count,
                    };
                    envelope::presence_update(room, update)
                };
                pages.into_iter().map(page).collect()
            }
            Word::Leave { users, count } => {
                // Users have 128 bytes at most, so pages of members are enough.
                let pages = users.chunks(self.settings.page_members.min(100));
                let page = |users: &[String]| {
                    let (users, count) = (users.to_vec(), *count);
                    envelope::presence_leave(room, v1::PresenceLeave { users, count })
                };
                pages.map(page).collect()
            }
            Word::Count(count) => vec![envelope::presence_count(room, reference, *count)],
            Word::Unavailable => {
                let code = ErrorCode::PresenceUnavailable;
                let label = Code(code.name());
                self.metrics.errors.get_or_create(&label).inc();
                let meter = self.metrics.tenants().of(&self.tenant);
                meter.errors.fetch_add(1, Ordering::Relaxed);
                vec![envelope::error(code, room, reference, None, 0)]
            }
        };
        let told = PresenceWord(word.name());
        self.metrics.presence_told.get_or_create(&told).inc();
        envelopes.iter().map(Frame::envelope).collect()
    }

    fn count(&self, verdict: Verdict) {
        let label = PresenceVerdict(verdict.name());
        self.metrics.presence_events.get_or_create(&label).inc();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it short of a bug; others are still to be told.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find<'v>(views: &'v mut HashMap<RoomId, View>, room: &str) -> Option<(RoomId, &'v mut View)> {
    let room = RoomId::parse(room).ok()?;
    let view = views.get_mut(&room)?;
    Some((room, view))
}

/// At least one page, each within both limits unless one member alone is larger.
fn pages(members: &[v1::PresenceMember], most: usize, bytes: usize) -> Vec<&[v1::PresenceMember]> {
    let mut pages = Vec::new();
    let mut rest = members;
    loop {
        let mut len = 0;
        let fits = rest.iter().take(most).take_while(|member| {
            len += member.encoded_len();
            len <= bytes
        });
        let count = fits.count().max(1).min(rest.len());
        let (page, next) = rest.split_at(count);
        pages.push(page);
        rest = next;
        if rest.is_empty() {
            return pages;
        }
    }
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
