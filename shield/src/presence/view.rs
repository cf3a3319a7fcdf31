//! How far the watchers of one room have been told: the receiver's rules of
//! docs/presence.md.
//!
//! Pure: events, answers and the time in; what to tell whom, and what to ask,
//! out. No members are kept, only the digest and the coverage of what was told
//! last, so an event either follows from it, or is known, or is stale, or
//! breaks the chain, and then the room is asked for.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use arqon_proto::{names::SessionId, v1};

use super::coverage::Coverage;
use crate::session::Outbox;

/// Answers that lag behind the view are asked again so many times.
const LAGS: u32 = 3;
/// Least time between two questions for one room.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// The same where the chain is broken, or an answer lagged.
const REFETCH_EVERY: Duration = Duration::from_secs(1);
/// Pauses after a question that nobody answered, the first and the longest.
const SILENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Questions of clients that wait at one room.
const WAITING: usize = 10_000;

/// What a session hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hears {
    Full,
    Count,
}

/// The presence of one room as told here.
#[derive(Debug, Default)]
pub(super) struct View {
    watchers: HashMap<SessionId, Watcher>,
    /// Watchers so far: who came after a question was asked waits for the next.
    came: u64,
    /// Of sessions whose state was ahead of the view: events that this covers
    /// are known to them.
    ahead: HashMap<SessionId, (u64, Arc<Coverage>)>,
    /// While nothing was heard of the emitter, the users of the states given.
    first: Option<HashSet<String>>,
    told: Option<Told>,
    /// Of all events, also those that came before the first state.
    seen: Coverage,
    /// Users whose leave waits for `leave_delay`.
    lingering: HashMap<String, Instant>,
    question: Question,
}

#[derive(Debug)]
struct Watcher {
    outbox: Arc<Outbox>,
    hears: Hears,
    number: u64,
    waits: Waits,
}

/// Whether a watcher has had a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    No,
    /// Its first will carry this reference.
    First(u64),
    /// It was told that presence is unavailable.
    Again,
}

#[derive(Debug, Clone, PartialEq)]
struct Told {
    digest: u64,
    coverage: Coverage,
    count: u32,
    truncated: bool,
}

/// The question that is under way, and those that wait for the next.
#[derive(Debug, Default)]
struct Question {
    under_way: Option<UnderWay>,
    /// Of clients, that came since.
    waiting: Vec<Get>,
    /// Watchers that wait for a state.
    waiters: usize,
    /// The view is broken: the answer is for everybody.
    broken: bool,
    not_before: Option<Instant>,
    asked_at: Option<Instant>,
    /// Somebody came in a pause: it must not outlast his patience.
    hurry: bool,
    lags: u32,
    silences: u32,
}

#[derive(Debug)]
struct UnderWay {
    id: u64,
    deadline: Instant,
    count_only: bool,
    /// Watchers up to this number are answered.
    upto: u64,
    gets: Vec<Get>,
    members: Vec<v1::PresenceMember>,
    pages: u32,
}

/// A client's PRESENCE_GET.
#[derive(Debug, Clone)]
pub(super) struct Get {
    pub(super) outbox: Arc<Outbox>,
    pub(super) reference: u64,
    pub(super) count_only: bool,
}

/// To whom something is told.
#[derive(Debug, Clone)]
pub(super) enum To {
    /// All that hear fully and have a state, but those that know it.
    Full(HashSet<SessionId>),
    /// All that hear counts.
    Count,
    /// One session, with the reference of what it asked.
    One(Arc<Outbox>, u64),
}

/// What is told.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    State {
        members: Arc<Vec<v1::PresenceMember>>,
        count: u32,
        truncated: bool,
    },
    Update {
        members: Vec<v1::PresenceMember>,
        count: u32,
    },
    Leave {
        users: Vec<String>,
        count: u32,
    },
    Count(u32),
    Unavailable,
}

/// What follows.
#[derive(Debug, Clone)]
pub(super) enum Effect {
    Tell(To, Word),
    /// Ask for the room, by this id.
    Ask {
        id: u64,
        count_only: bool,
    },
}

/// What an event was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Applied,
    Known,
    Stale,
    Broken,
    /// Nobody watches, or nobody was told anything yet.
    Unwatched,
}

/// How a view behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) leave_delay: Duration,
    pub(super) query_timeout: Duration,
}

// === impl Word ===

impl Word {
    /// Its name in the metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::State { .. } => "state",
            Self::Update { .. } => "update",
            Self::Leave { .. } => "leave",
            Self::Count(_) => "count",
            Self::Unavailable => "unavailable",
        }
    }
}

// === impl Verdict ===

impl Verdict {
    /// Its name in the metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Known => "known",
            Self::Stale => "stale",
            Self::Broken => "broken",
            Self::Unwatched => "unwatched",
        }
    }
}

// === impl View ===

impl View {
    /// A session watches the room from here on. Its first state will carry `reference`.
    pub(super) fn watch(&mut self, outbox: Arc<Outbox>, hears: Hears, reference: u64) {
        let session = outbox.session();
        self.unwatch(session);
        self.came += 1;
        self.question.waiters += 1;
        self.question.hurry = true;
        let watcher = Watcher {
            outbox,
            hears,
            number: self.came,
            waits: Waits::First(reference),
        };
        self.watchers.insert(session, watcher);
    }

    /// A session watches no more, and asks no more.
    pub(super) fn unwatch(&mut self, session: SessionId) {
        if let Some(watcher) = self.watchers.remove(&session) {
            self.question.waiters -= usize::from(watcher.waits != Waits::No);
        }
        self.ahead.remove(&session);
        if !self.question.waiting.is_empty() {
            self.question
                .waiting
                .retain(|get| get.outbox.session() != session);
        }
    }

    /// A client asks once. False: too many wait.
    pub(super) fn get(&mut self, get: Get) -> bool {
        if self.question.waiting.len() >= WAITING {
            return false;
        }
        self.question.waiting.push(get);
        self.question.hurry = true;
        true
    }

    /// Whether anybody watches or asks.
    pub(super) fn is_used(&self) -> bool {
        let asks = |asked: &UnderWay| !asked.gets.is_empty();
        !self.watchers.is_empty()
            || !self.question.waiting.is_empty()
            || self.question.under_way.as_ref().is_some_and(asks)
    }

    /// Whether time will change something.
    pub(super) fn is_restless(&self) -> bool {
        !self.lingering.is_empty() || self.question.is_open()
    }

    /// Who is meant by `To::Full` and `To::Count`.
    pub(super) fn audience(&self, hears: Hears) -> impl Iterator<Item = &Arc<Outbox>> {
        let watchers = self.watchers.values();
        let told =
            watchers.filter(move |watcher| watcher.hears == hears && watcher.waits == Waits::No);
        told.map(|watcher| &watcher.outbox)
    }

    /// Events may have been lost, and answers: what is told next must be asked
    /// for, not before then.
    pub(super) fn suspect(&mut self, not_before: Instant) {
        let question = &mut self.question;
        question.broken |= self.told.is_some();
        if let Some(asked) = question.under_way.take() {
            question.waiting.splice(0..0, asked.gets);
        }
        question.silences = 0;
        question.not_before = Some(not_before);
    }

    /// A session reads too slowly for what it was told: it is told a state when
    /// there is room again.
    pub(super) fn missed(&mut self, session: SessionId, now: Instant) {
        self.ahead.remove(&session);
        if self.wait_again(session) {
            let later = now + REFETCH_EVERY;
            let not_before = self.question.not_before;
            self.question.not_before = Some(not_before.map_or(later, |at| at.max(later)));
        }
    }

    /// False: it waits already, or watches no more.
    fn wait_again(&mut self, session: SessionId) -> bool {
        let watcher = self.watchers.get_mut(&session);
        let Some(watcher) = watcher.filter(|watcher| watcher.waits == Waits::No) else {
            return false;
        };
        watcher.waits = Waits::Again;
        self.question.waiters += 1;
        true
    }

    /// Something changed in the room.
    pub(super) fn on_event(
        &mut self,
        event: &v1::PresenceRoomEvent,
        coverage: &Coverage,
        now: Instant,
        rules: Rules,
        effects: &mut Vec<Effect>,
    ) -> Verdict {
        let first = self.first.take();
        let full = |watcher: &Watcher| watcher.hears == Hears::Full;
        let follows_any = event.truncated || !self.watchers.values().any(full);
        let Some(told) = &mut self.told else {
            self.seen.join(coverage);
            return Verdict::Unwatched;
        };
        let stale = !coverage.covers(&told.coverage);
        let full_again = told.truncated && !event.truncated && !stale;
        if event.after == told.digest && !full_again && told.truncated == event.truncated {
            told.coverage.join(coverage);
            let digest = told.digest;
            self.caught_up(digest, coverage);
            return Verdict::Known;
        }
        if stale {
            self.first = first;
            return Verdict::Stale;
        }
        self.seen.join(coverage);
        let follows = event.before == told.digest;
        // From an empty room on, all that are there are listed; who was there in
        // between is known from the states that were given.
        let left = match (follows, first) {
            (false, Some(users)) if event.before == 0 => Some(gone_since(users, event)),
            _ => None,
        };
        let follows = follows || left.is_some();
        // A count, and that of a truncated room, follows on anything.
        let broken = full_again || !(follows || follows_any);
        if broken {
            self.question.broken = true;
            return Verdict::Broken;
        }
        let lingering = u32::try_from(self.lingering.len()).unwrap_or(u32::MAX);
        let before = told.count.saturating_add(lingering);
        told.digest = event.after;
        told.coverage.join(coverage);
        told.count = event.count;
        told.truncated = event.truncated;
        let all_listed = left.is_some();
        let left = left.as_ref().unwrap_or(&event.left);
        if event.truncated {
            self.question.broken = false;
        }
        let except = self.who_knows(coverage, event.before, all_listed);
        if event.truncated {
            self.lingering.clear();
            let state = Word::State {
                members: Arc::default(),
                count: event.count,
                truncated: true,
            };
            effects.push(Effect::Tell(To::Full(except), state));
        } else {
            for member in &event.members {
                self.lingering.remove(&member.user);
            }
            let later = !rules.leave_delay.is_zero();
            if later {
                let due = now + rules.leave_delay;
                let left = left.iter().cloned();
                self.lingering.extend(left.map(|user| (user, due)));
            }
            let count = self.shown();
            if !event.members.is_empty() {
                let members = event.members.clone();
                let update = Word::Update { members, count };
                effects.push(Effect::Tell(To::Full(except.clone()), update));
            }
            if !left.is_empty() && !later {
                let users = left.clone();
                effects.push(Effect::Tell(To::Full(except), Word::Leave { users, count }));
            }
        }
        self.tell_count(Some(before), effects);
        Verdict::Applied
    }

    /// The digest of the room, as the emitter has it.
    pub(super) fn on_digest(&mut self, digest: u64, coverage: &Coverage) -> Verdict {
        let Some(told) = &mut self.told else {
            return Verdict::Unwatched;
        };
        if !coverage.covers(&told.coverage) {
            return Verdict::Stale;
        }
        if digest == told.digest {
            told.coverage.join(coverage);
            let digest = told.digest;
            self.caught_up(digest, coverage);
            return Verdict::Known;
        }
        self.seen.join(coverage);
        self.question.broken = true;
        Verdict::Broken
    }

    /// Incarnations are gone: nobody will know of them again.
    pub(super) fn on_gone(&mut self, gone: &[u64]) {
        self.seen.remove(gone);
        for (_, ahead) in self.ahead.values_mut() {
            Arc::make_mut(ahead).remove(gone);
        }
        if let Some(told) = &mut self.told {
            told.coverage.remove(gone);
        }
    }

    /// A page of an answer came.
    pub(super) fn on_answer(
        &mut self,
        answer: v1::PresenceAnswer,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(asked) = &mut self.question.under_way else {
            return;
        };
        if asked.id != answer.id || asked.pages != answer.number {
            return;
        }
        asked.pages += 1;
        asked.members.extend(answer.members);
        if !answer.last {
            return;
        }
        let Some(asked) = self.question.under_way.take() else {
            return;
        };
        self.question.silences = 0;
        let coverage = Coverage::of(&answer.coverage);
        let known = self.told.as_ref().map(|told| &told.coverage);
        let lags = !coverage.covers(&self.seen) || known.is_some_and(|it| !coverage.covers(it));
        if lags && self.question.lags < LAGS {
            self.question.lags += 1;
            self.question.not_before = Some(now + REFETCH_EVERY / LAGS);
            self.question.waiting.splice(0..0, asked.gets);
            return;
        }
        self.question.lags = 0;
        let fresh = Told {
            digest: answer.digest,
            coverage,
            count: answer.count,
            truncated: answer.truncated,
        };
        if self.told.is_none() && !lags && !answer.truncated {
            self.first = Some(HashSet::new());
        }
        if let Some(first) = &mut self.first {
            let users = asked.members.iter().map(|member| member.user.clone());
            first.extend(users);
        }
        let state = Word::State {
            members: Arc::new(asked.members),
            count: answer.count,
            truncated: answer.truncated,
        };
        for get in asked.gets {
            let word = if get.count_only {
                Word::Count(answer.count)
            } else {
                state.clone()
            };
            effects.push(Effect::Tell(To::One(get.outbox, get.reference), word));
        }
        // A count is no state for those who hear fully; they are asked for again.
        if asked.count_only && self.wants_members() {
            return;
        }
        if self.told.is_none() || self.question.broken || lags {
            self.replace(fresh, &state, asked.upto, effects);
        } else {
            self.welcome(&fresh, &state, asked.upto, effects);
        }
    }

    /// What time brings: leaves that are due, questions without an answer,
    /// questions to ask. `id` makes up the name of a question.
    pub(super) fn on_time(
        &mut self,
        now: Instant,
        rules: Rules,
        id: impl FnOnce() -> u64,
        effects: &mut Vec<Effect>,
    ) {
        self.tell_leaves(now, effects);
        self.give_up(now, effects);
        let question = &self.question;
        let paced = |at: Instant| question.hurry && now >= at + REFETCH_EVERY;
        let may = question
            .not_before
            .is_none_or(|not_before| now >= not_before)
            || question.asked_at.is_some_and(paced);
        if question.under_way.is_some() || !question.is_open() || !may {
            return;
        }
        let count_only =
            !self.wants_members() && self.question.waiting.iter().all(|get| get.count_only);
        let broken = self.question.broken;
        let id = id();
        let question = &mut self.question;
        question.under_way = Some(UnderWay {
            id,
            deadline: now + rules.query_timeout,
            count_only,
            upto: self.came,
            gets: std::mem::take(&mut question.waiting),
            members: Vec::new(),
            pages: 0,
        });
        let pause = if broken { REFETCH_EVERY } else { ASK_EVERY };
        question.not_before = Some(now + pause);
        question.asked_at = Some(now);
        question.hurry = false;
        effects.push(Effect::Ask { id, count_only });
    }

    /// The state is for everybody.
    fn replace(&mut self, fresh: Told, state: &Word, upto: u64, effects: &mut Vec<Effect>) {
        let before = self.told.as_ref().map(|_| self.shown());
        self.lingering.clear();
        self.ahead.clear();
        self.seen = fresh.coverage.clone();
        self.question.broken = false;
        let first = self.answer_waiters(upto, state, fresh.count, effects);
        if before.is_some() {
            let everybody = To::Full(first.into_iter().collect());
            effects.push(Effect::Tell(everybody, state.clone()));
        }
        self.told = Some(fresh);
        self.tell_count(before, effects);
    }

    /// The state is for those that wait; it may be ahead of what others know.
    fn welcome(&mut self, fresh: &Told, state: &Word, upto: u64, effects: &mut Vec<Effect>) {
        // Who hears counts is told what the others were, or the next change of
        // it would not be one to all.
        let first = self.answer_waiters(upto, state, self.shown(), effects);
        let Some(told) = &mut self.told else {
            return;
        };
        if told.digest == fresh.digest {
            told.coverage.join(&fresh.coverage);
        } else {
            let ahead = Arc::new(fresh.coverage.clone());
            let first = first.into_iter();
            self.ahead
                .extend(first.map(|session| (session, (fresh.digest, ahead.clone()))));
        }
    }

    /// Gives the state to those that waited for it when it was asked for.
    fn answer_waiters(
        &mut self,
        upto: u64,
        state: &Word,
        count: u32,
        effects: &mut Vec<Effect>,
    ) -> Vec<SessionId> {
        let mut answered = Vec::new();
        if self.question.waiters == 0 {
            return answered;
        }
        for (session, watcher) in &mut self.watchers {
            let reference = match watcher.waits {
                Waits::No => continue,
                _ if watcher.number > upto => continue,
                Waits::First(reference) => reference,
                Waits::Again => 0,
            };
            watcher.waits = Waits::No;
            self.question.waiters -= 1;
            let word = match watcher.hears {
                Hears::Full => state.clone(),
                Hears::Count => Word::Count(count),
            };
            effects.push(Effect::Tell(
                To::One(watcher.outbox.clone(), reference),
                word,
            ));
            answered.push(*session);
        }
        answered
    }

    fn tell_leaves(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let due = self.lingering.iter().filter(|(_, due)| now >= **due);
        let users: Vec<String> = due.map(|(user, _)| user.clone()).collect();
        if users.is_empty() {
            return;
        }
        let before = self.shown();
        for user in &users {
            self.lingering.remove(user);
        }
        let count = self.shown();
        let leave = Word::Leave { users, count };
        // Whose state is ahead knows, and may know of a return already.
        let ahead = self.ahead.keys().copied().collect();
        effects.push(Effect::Tell(To::Full(ahead), leave));
        self.tell_count(Some(before), effects);
    }

    fn give_up(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let question = &mut self.question;
        let late = question
            .under_way
            .as_ref()
            .map(|asked| now >= asked.deadline);
        if late != Some(true) {
            return;
        }
        let Some(asked) = question.under_way.take() else {
            return;
        };
        for get in asked.gets {
            let to = To::One(get.outbox, get.reference);
            effects.push(Effect::Tell(to, Word::Unavailable));
        }
        for watcher in self.watchers.values_mut() {
            if let Waits::First(reference) = watcher.waits
                && watcher.number <= asked.upto
            {
                watcher.waits = Waits::Again;
                let to = To::One(watcher.outbox.clone(), reference);
                effects.push(Effect::Tell(to, Word::Unavailable));
            }
        }
        let pause = SILENCE.0 * 2u32.pow(question.silences.min(3));
        question.silences += 1;
        let pause = pause
            .min(SILENCE.1)
            .mul_f64(0.75 + rand::random::<f64>() / 2.0);
        question.not_before = Some(now + pause);
    }

    /// Users as told: those whose leave is not told yet are there.
    fn shown(&self) -> u32 {
        let count = self.told.as_ref().map_or(0, |told| told.count);
        let lingering = u32::try_from(self.lingering.len()).unwrap_or(u32::MAX);
        count.saturating_add(lingering)
    }

    fn tell_count(&self, before: Option<u32>, effects: &mut Vec<Effect>) {
        let shown = self.shown();
        if before.is_some_and(|before| before != shown) {
            effects.push(Effect::Tell(To::Count, Word::Count(shown)));
        }
    }

    /// The room has this digest as of this. A session whose state was ahead of
    /// the view, and is another, saw someone who came and went unnoticed.
    fn caught_up(&mut self, digest: u64, coverage: &Coverage) {
        let mut torn = Vec::new();
        self.ahead.retain(|session, (its, ahead)| {
            let passed = coverage.covers(ahead);
            if passed && *its != digest {
                torn.push(*session);
            }
            !passed
        });
        for session in torn {
            self.wait_again(session);
        }
    }

    /// The sessions that know this already. Others whose state was ahead are told
    /// if it follows on that, or lists everybody; else another state has to
    /// decide, for who came and went in between is not listed.
    fn who_knows(
        &mut self,
        coverage: &Coverage,
        before: u64,
        all_listed: bool,
    ) -> HashSet<SessionId> {
        let mut torn = Vec::new();
        self.ahead.retain(|session, (digest, ahead)| {
            let knows = ahead.covers(coverage);
            let follows = coverage.covers(ahead) && (all_listed || before == *digest);
            if !knows && !follows {
                torn.push(*session);
            }
            knows
        });
        for session in torn {
            self.wait_again(session);
        }
        self.ahead.keys().copied().collect()
    }

    /// Whether a state with members is wanted by a watcher.
    fn wants_members(&self) -> bool {
        let wanted = |watcher: &Watcher| {
            watcher.hears == Hears::Full && (self.question.broken || watcher.waits != Waits::No)
        };
        (self.question.broken || self.question.waiters > 0) && self.watchers.values().any(wanted)
    }
}

/// Of these users, those that are not there after an event that lists all.
fn gone_since(mut users: HashSet<String>, event: &v1::PresenceRoomEvent) -> Vec<String> {
    users.extend(event.left.iter().cloned());
    for member in &event.members {
        users.remove(&member.user);
    }
    users.into_iter().collect()
}

// === impl Question ===

impl Question {
    fn is_open(&self) -> bool {
        self.under_way.is_some() || self.waiters > 0 || self.broken || !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests;
