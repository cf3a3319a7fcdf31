#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use arqon_telemetry::Metrics;
use proptest::prelude::*;

use super::*;
use crate::session::{Bounds, OutboxLimits};

const DELAYED: Rules = Rules {
    leave_delay: Duration::from_secs(2),
    query_timeout: Duration::from_secs(2),
};
const AT_ONCE: Rules = Rules {
    leave_delay: Duration::ZERO,
    ..DELAYED
};
const NOBODY: [u8; 0] = [];
const EPOCHS: [u64; 2] = [11, 22];

type Version = [u64; 2];
type Users = BTreeSet<u8>;

/// What one Shield had told at each of its versions: users, and the change
/// that made each so.
type History = Vec<BTreeMap<u8, u64>>;

/// The truth of one room: its history on two Shields.
struct Truth([History; 2]);

impl Truth {
    fn new() -> Self {
        Self([vec![BTreeMap::new()], vec![BTreeMap::new()]])
    }

    fn toggle(&mut self, shield: usize, user: u8) {
        let history = &mut self.0[shield];
        let mut next = history.last().unwrap().clone();
        if next.remove(&user).is_none() {
            next.insert(user, history.len() as u64);
        }
        history.push(next);
    }

    fn newest(&self) -> Version {
        [0, 1].map(|shield| self.0[shield].len() as u64 - 1)
    }

    fn at(&self, version: Version) -> [&BTreeMap<u8, u64>; 2] {
        [0, 1].map(|shield| &self.0[shield][version[shield] as usize])
    }

    fn users(&self, version: Version) -> Users {
        let both = self.at(version).into_iter();
        both.flat_map(|users| users.keys().copied()).collect()
    }

    fn digest(&self, version: Version) -> u64 {
        let mut digest = 0;
        for (shield, users) in self.at(version).into_iter().enumerate() {
            for (user, seq) in users {
                // Any hash will do that differs for each entry.
                let entry = (u64::from(*user) << 40) | (seq << 8) | (shield as u64 + 1);
                digest ^= entry.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 50;
            }
        }
        digest
    }

    fn event(&self, before: Version, after: Version) -> v1::PresenceRoomEvent {
        let (old, new) = (self.at(before), self.at(after));
        let (was, is) = (self.users(before), self.users(after));
        let changed = |user: &&u8| {
            let entry = |all: [&BTreeMap<u8, u64>; 2]| all.map(|users| users.get(*user).copied());
            entry(old) != entry(new)
        };
        v1::PresenceRoomEvent {
            room: "room".to_owned(),
            before: self.digest(before),
            after: self.digest(after),
            count: is.len() as u32,
            truncated: false,
            members: is
                .iter()
                .filter(changed)
                .map(|user| member(*user))
                .collect(),
            left: was.difference(&is).map(|user| name(*user)).collect(),
        }
    }

    fn answer(&self, id: u64, version: Version) -> v1::PresenceAnswer {
        let users = self.users(version);
        v1::PresenceAnswer {
            id,
            room: "room".to_owned(),
            number: 0,
            last: true,
            digest: self.digest(version),
            coverage: wire(version),
            count: users.len() as u32,
            truncated: false,
            members: users.into_iter().map(member).collect(),
        }
    }
}

fn name(user: u8) -> String {
    format!("user-{user}")
}

fn number(name: &str) -> u8 {
    name.strip_prefix("user-").unwrap().parse().unwrap()
}

fn member(user: u8) -> v1::PresenceMember {
    v1::PresenceMember {
        user: name(user),
        ..v1::PresenceMember::default()
    }
}

fn wire(version: Version) -> Vec<v1::PresenceCoverage> {
    let both = EPOCHS.into_iter().zip(version);
    both.map(|(epoch, seq)| v1::PresenceCoverage { epoch, seq })
        .collect()
}

fn coverage(version: Version) -> Coverage {
    Coverage::of(&wire(version))
}

fn outbox() -> Arc<Outbox> {
    let bounds = Bounds {
        max_bytes: 1024,
        max_messages: 16,
        tenant_max_bytes: 1 << 20,
        max_unconfirmed: 8,
        max_rooms: 8,
    };
    let limits = Arc::new(OutboxLimits::new(bounds, &Metrics::default()));
    let tenant = arqon_proto::names::TenantId::parse("acme").expect("a valid name");
    Arc::new(Outbox::new(SessionId::new(), &tenant, limits))
}

/// What a client that hears fully knows.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    users: Users,
    count: u32,
    /// The version that its last news told of.
    version: Version,
}

/// A view and its clients.
struct Stage {
    view: View,
    rules: Rules,
    now: Instant,
    full: BTreeMap<SessionId, Option<Known>>,
    counts: BTreeMap<SessionId, Option<u32>>,
    unavailable: usize,
    asked: Option<u64>,
    next_id: u64,
    questions: usize,
}

impl Stage {
    fn new(rules: Rules) -> Self {
        Self {
            view: View::default(),
            rules,
            now: Instant::now(),
            full: BTreeMap::new(),
            counts: BTreeMap::new(),
            unavailable: 0,
            asked: None,
            next_id: 0,
            questions: 0,
        }
    }

    fn watch(&mut self, hears: Hears, reference: u64) -> SessionId {
        let outbox = outbox();
        let session = outbox.session();
        self.view.watch(outbox, hears, reference);
        match hears {
            Hears::Full => drop(self.full.insert(session, None)),
            Hears::Count => drop(self.counts.insert(session, None)),
        }
        session
    }

    fn unwatch(&mut self, session: SessionId) {
        self.view.unwatch(session);
        self.full.remove(&session);
        self.counts.remove(&session);
    }

    fn event(&mut self, truth: &Truth, before: Version, after: Version) -> Verdict {
        let event = truth.event(before, after);
        self.tell(truth, &event, after)
    }

    fn tell(&mut self, truth: &Truth, event: &v1::PresenceRoomEvent, after: Version) -> Verdict {
        let mut effects = Vec::new();
        let (now, rules) = (self.now, self.rules);
        let verdict = self
            .view
            .on_event(event, &coverage(after), now, rules, &mut effects);
        self.perform(effects, truth, Some(after));
        if verdict == Verdict::Applied {
            // A leave that waits is news as well.
            for session in self.view.audience(Hears::Full).map(|one| one.session()) {
                if let Some(known) = self.full.get_mut(&session).unwrap()
                    && !self.view.ahead.contains_key(&session)
                {
                    known.version = after;
                }
            }
        }
        verdict
    }

    fn answer(&mut self, truth: &Truth, version: Version) {
        if let Some(id) = self.asked.take() {
            let mut effects = Vec::new();
            let answer = truth.answer(id, version);
            self.view.on_answer(answer, self.now, &mut effects);
            self.perform(effects, truth, Some(version));
        }
    }

    fn pass(&mut self, truth: &Truth, time: Duration) {
        self.now += time;
        let (mut effects, id) = (Vec::new(), self.next_id);
        self.next_id += 1;
        self.view.on_time(self.now, self.rules, || id, &mut effects);
        self.perform(effects, truth, None);
    }

    /// Time passes and every question has its answer, until there is none.
    fn settle(&mut self, truth: &Truth) {
        for _ in 0..40 {
            self.pass(truth, Duration::from_millis(700));
            self.answer(truth, truth.newest());
        }
        assert!(!self.view.is_restless(), "it comes to rest");
    }

    fn perform(&mut self, effects: Vec<Effect>, truth: &Truth, version: Option<Version>) {
        for effect in effects {
            let (to, word) = match effect {
                Effect::Ask { id, .. } => {
                    self.asked = Some(id);
                    self.questions += 1;
                    continue;
                }
                Effect::Tell(to, word) => (to, word),
            };
            let sessions: Vec<SessionId> = match to {
                To::One(outbox, _) => vec![outbox.session()],
                To::Full(except) => {
                    let all = self.view.audience(Hears::Full).map(|one| one.session());
                    all.filter(|one| !except.contains(one)).collect()
                }
                To::Count => {
                    let all = self.view.audience(Hears::Count);
                    all.map(|one| one.session()).collect()
                }
            };
            for session in sessions {
                self.hear(session, &word, truth, version);
            }
        }
    }

    fn hear(&mut self, session: SessionId, word: &Word, truth: &Truth, version: Option<Version>) {
        match word {
            Word::Count(count) => {
                if let Some(known) = self.counts.get_mut(&session) {
                    *known = Some(*count);
                }
            }
            Word::Unavailable => self.unavailable += 1,
            Word::State { members, count, .. } => {
                let state = Known {
                    users: members.iter().map(|one| number(&one.user)).collect(),
                    count: *count,
                    version: version.unwrap(),
                };
                *self.full.get_mut(&session).unwrap() = Some(state);
            }
            Word::Update { members, count } => {
                let known = self.full.get_mut(&session).unwrap().as_mut();
                let known = known.expect("no update comes before a state");
                known
                    .users
                    .extend(members.iter().map(|one| number(&one.user)));
                known.count = *count;
                known.version = version.unwrap();
            }
            Word::Leave { users, count } => {
                let known = self.full.get_mut(&session).unwrap().as_mut();
                let known = known.expect("no leave comes before a state");
                known.version = version.unwrap_or(known.version);
                for user in users {
                    let present = truth.users(known.version);
                    assert!(
                        !present.contains(&number(user)),
                        "{user} is there at {:?}",
                        known.version
                    );
                    known.users.remove(&number(user));
                }
                known.count = *count;
            }
        }
    }
}

/// A view with one that hears fully and one that hears counts, both told.
fn told(truth: &Truth, rules: Rules) -> (Stage, SessionId, SessionId) {
    let mut stage = Stage::new(rules);
    let (full, count) = (stage.watch(Hears::Full, 1), stage.watch(Hears::Count, 2));
    stage.pass(truth, Duration::ZERO);
    stage.answer(truth, truth.newest());
    assert!(stage.full[&full].is_some() && stage.counts[&count].is_some());
    (stage, full, count)
}

fn users(stage: &Stage, session: SessionId) -> Vec<u8> {
    let known = stage.full[&session].as_ref().unwrap();
    known.users.iter().copied().collect()
}

#[test]
fn all_that_wait_share_one_question() {
    let truth = Truth::new();
    let mut stage = Stage::new(AT_ONCE);
    for _ in 0..1_000 {
        stage.watch(Hears::Full, 0);
    }
    stage.pass(&truth, Duration::ZERO);
    for _ in 0..1_000 {
        stage.watch(Hears::Full, 0);
        stage.pass(&truth, Duration::from_millis(1));
    }
    assert_eq!(stage.questions, 1);
    stage.answer(&truth, truth.newest());
    stage.settle(&truth);
    assert_eq!(stage.questions, 2, "those who came later share the next");
    assert!(stage.full.values().all(Option::is_some));
}

#[test]
fn what_follows_is_told_what_is_known_or_stale_is_not() {
    let mut truth = Truth::new();
    let (mut stage, full, count) = told(&truth, AT_ONCE);
    truth.toggle(0, 1);
    assert_eq!(stage.event(&truth, [0, 0], [1, 0]), Verdict::Applied);
    assert_eq!(users(&stage, full), [1]);
    assert_eq!(stage.counts[&count], Some(1));
    assert_eq!(stage.event(&truth, [0, 0], [1, 0]), Verdict::Known);
    truth.toggle(0, 1);
    assert_eq!(stage.event(&truth, [1, 0], [2, 0]), Verdict::Applied);
    assert_eq!(users(&stage, full), NOBODY);
    assert_eq!(stage.counts[&count], Some(0));
    assert_eq!(stage.event(&truth, [0, 0], [1, 0]), Verdict::Stale);
}

#[test]
fn a_broken_chain_is_asked_for_at_most_once_a_second() {
    let mut truth = Truth::new();
    let (mut stage, full, _) = told(&truth, AT_ONCE);
    let before = stage.questions;
    for user in 0..10 {
        truth.toggle(0, user);
        let seq = u64::from(user);
        if user > 0 {
            let verdict = stage.event(&truth, [seq, 0], [seq + 1, 0]);
            assert_eq!(verdict, Verdict::Broken);
        }
        stage.pass(&truth, Duration::from_millis(90));
    }
    assert_eq!(stage.questions, before + 1);
    stage.settle(&truth);
    assert_eq!(users(&stage, full).len(), 10);
}

/// An answer is of the moment, an event of a tick: the first event after it
/// begins before it.
#[test]
fn who_comes_to_a_fresh_room_within_a_tick_is_an_update() {
    let mut truth = Truth::new();
    truth.toggle(0, 0);
    let (mut stage, full, count) = told(&truth, AT_ONCE);
    truth.toggle(1, 1);
    truth.toggle(0, 2);
    let late = stage.watch(Hears::Full, 3);
    stage.pass(&truth, Duration::from_secs(1));
    stage.answer(&truth, [2, 1]);
    truth.toggle(0, 2);
    let before = stage.questions;
    assert_eq!(stage.event(&truth, [0, 0], [3, 1]), Verdict::Applied);
    assert_eq!(users(&stage, full), [0, 1]);
    assert_eq!(users(&stage, late), [0, 1], "who left within it is gone");
    assert_eq!(stage.counts[&count], Some(2));
    stage.settle(&truth);
    assert_eq!(stage.questions, before);
}

#[test]
fn a_leave_waits_and_a_return_cancels_it() {
    let mut truth = Truth::new();
    truth.toggle(0, 1);
    truth.toggle(0, 2);
    let (mut stage, full, count) = told(&truth, DELAYED);
    truth.toggle(0, 1);
    truth.toggle(0, 2);
    stage.event(&truth, [2, 0], [4, 0]);
    assert_eq!(users(&stage, full), [1, 2], "not yet");
    assert_eq!(stage.counts[&count], Some(2), "counts tell the same");
    stage.pass(&truth, Duration::from_secs(1));
    truth.toggle(1, 1);
    stage.event(&truth, [4, 0], [4, 1]);
    stage.pass(&truth, Duration::from_secs(3));
    assert_eq!(users(&stage, full), [1]);
    assert_eq!(stage.counts[&count], Some(1));
}

/// Who came while a user was away for a moment knows of the return before the
/// view does.
#[test]
fn a_delayed_leave_is_not_told_to_one_whose_state_is_newer() {
    let mut truth = Truth::new();
    truth.toggle(0, 1);
    let (mut stage, _, _) = told(&truth, DELAYED);
    truth.toggle(0, 1);
    stage.event(&truth, [1, 0], [2, 0]);
    truth.toggle(1, 1);
    let late = stage.watch(Hears::Full, 5);
    stage.pass(&truth, Duration::from_secs(1));
    stage.answer(&truth, [2, 1]);
    assert_eq!(users(&stage, late), [1]);
    // The event that tells the return is late.
    stage.pass(&truth, Duration::from_secs(3));
    assert_eq!(users(&stage, late), [1]);
    stage.event(&truth, [2, 0], [2, 1]);
    stage.settle(&truth);
    assert!(stage.full.keys().all(|one| users(&stage, *one) == [1]));
}

/// An event may know what a state does not and lack what it has.
#[test]
fn a_state_and_an_event_that_each_lack_something_are_settled_by_another_state() {
    let mut truth = Truth::new();
    truth.toggle(0, 1);
    let (mut stage, _, _) = told(&truth, AT_ONCE);
    truth.toggle(1, 1);
    let late = stage.watch(Hears::Full, 5);
    stage.pass(&truth, Duration::from_secs(1));
    stage.answer(&truth, [1, 1]);
    truth.toggle(0, 1);
    // User 1 has left the one Shield, and is on the other, which this lacks.
    assert_eq!(stage.event(&truth, [1, 0], [2, 0]), Verdict::Applied);
    assert_eq!(users(&stage, late), [1], "no false leave");
    stage.event(&truth, [2, 0], [2, 1]);
    stage.settle(&truth);
    assert!(stage.full.keys().all(|one| users(&stage, *one) == [1]));
}

#[test]
fn over_the_limit_only_the_count_is_told_and_below_it_all_is_asked_for() {
    let mut truth = Truth::new();
    let (mut stage, full, count) = told(&truth, AT_ONCE);
    let before = stage.questions;
    for user in 0..5 {
        truth.toggle(0, user);
    }
    let truncated = |before: u64, after: u64| v1::PresenceRoomEvent {
        truncated: true,
        members: Vec::new(),
        left: Vec::new(),
        ..truth.event([before, 0], [after, 0])
    };
    let event = truncated(0, 3);
    assert_eq!(stage.tell(&truth, &event, [3, 0]), Verdict::Applied);
    assert_eq!(stage.full[&full].as_ref().unwrap().count, 3);
    assert_eq!(stage.counts[&count], Some(3));
    // It need not follow: a count is all there is to know.
    let event = truncated(4, 5);
    assert_eq!(stage.tell(&truth, &event, [5, 0]), Verdict::Applied);
    assert_eq!(stage.full[&full].as_ref().unwrap().count, 5);
    stage.pass(&truth, Duration::from_secs(2));
    assert_eq!(stage.questions, before, "nothing to ask for");
    let again = v1::PresenceRoomEvent {
        members: Vec::new(),
        ..truth.event([5, 0], [5, 0])
    };
    assert_eq!(stage.tell(&truth, &again, [5, 0]), Verdict::Broken);
    stage.settle(&truth);
    assert_eq!(users(&stage, full).len(), 5);
}

#[test]
fn a_shield_that_is_gone_does_not_make_all_others_stale() {
    let mut truth = Truth::new();
    truth.toggle(0, 1);
    truth.toggle(1, 2);
    let (mut stage, full, _) = told(&truth, AT_ONCE);
    let known = v1::PresenceRoomEvent {
        room: "room".to_owned(),
        before: truth.digest([1, 1]),
        after: truth.digest([1, 0]),
        count: 1,
        left: vec![name(2)],
        ..v1::PresenceRoomEvent::default()
    };
    let only = Coverage::of(&wire([1, 0])[..1]);
    let mut effects = Vec::new();
    let (now, rules) = (stage.now, stage.rules);
    let verdict = stage.view.on_event(&known, &only, now, rules, &mut effects);
    assert_eq!(verdict, Verdict::Stale);
    stage.view.on_gone(&[EPOCHS[1]]);
    let verdict = stage.view.on_event(&known, &only, now, rules, &mut effects);
    assert_eq!(verdict, Verdict::Applied);
    stage.perform(effects, &truth, Some([1, 0]));
    assert_eq!(users(&stage, full), [1]);
}

#[test]
fn an_answer_that_lags_is_asked_for_again_and_at_last_taken() {
    let mut truth = Truth::new();
    truth.toggle(0, 1);
    let (mut stage, _, _) = told(&truth, AT_ONCE);
    let late = stage.watch(Hears::Full, 5);
    let before = stage.questions;
    for _ in 0..=LAGS {
        assert_eq!(stage.full[&late], None);
        stage.pass(&truth, Duration::from_secs(1));
        stage.answer(&truth, [0, 0]);
    }
    assert_eq!(stage.questions, before + LAGS as usize + 1);
    assert_eq!(users(&stage, late), NOBODY, "better old than nothing");
    truth.toggle(0, 2);
    assert_eq!(stage.event(&truth, [1, 0], [2, 0]), Verdict::Broken);
    stage.settle(&truth);
    assert_eq!(users(&stage, late), [1, 2]);
}

#[test]
fn silence_is_told_once_and_the_state_comes_by_itself() {
    let truth = Truth::new();
    let mut stage = Stage::new(AT_ONCE);
    let session = stage.watch(Hears::Full, 5);
    let asks = |stage: &mut Stage, reference| {
        let get = Get {
            outbox: outbox(),
            reference,
            count_only: true,
        };
        assert!(stage.view.get(get));
    };
    asks(&mut stage, 6);
    for _ in 0..60 {
        stage.pass(&truth, Duration::from_secs(1));
    }
    assert_eq!(stage.unavailable, 2);
    assert!(stage.questions < 20, "{} questions", stage.questions);
    // A pause is not longer than the patience of one who comes in it.
    asks(&mut stage, 7);
    let before = stage.questions;
    stage.pass(&truth, Duration::from_secs(2));
    stage.pass(&truth, Duration::from_secs(1));
    stage.pass(&truth, Duration::from_secs(2));
    assert!(stage.questions > before);
    assert_eq!(stage.unavailable, 3);
    stage.settle(&truth);
    assert!(stage.full[&session].is_some());
}

#[test]
fn nobody_asks_for_a_room_that_nobody_watches() {
    let mut truth = Truth::new();
    let (mut stage, full, count) = told(&truth, AT_ONCE);
    truth.toggle(0, 1);
    truth.toggle(0, 2);
    assert_eq!(stage.event(&truth, [1, 0], [2, 0]), Verdict::Broken);
    stage.unwatch(full);
    stage.unwatch(count);
    assert!(!stage.view.is_used());
}

#[test]
fn after_a_break_of_the_connection_all_is_asked_for() {
    let mut truth = Truth::new();
    let (mut stage, full, count) = told(&truth, DELAYED);
    truth.toggle(0, 1);
    let now = stage.now;
    stage.view.suspect(now);
    stage.settle(&truth);
    assert_eq!(users(&stage, full), [1]);
    assert_eq!(stage.counts[&count], Some(1));
}

#[test]
fn one_that_reads_too_slowly_is_told_a_state_later() {
    let mut truth = Truth::new();
    let (mut stage, full, _) = told(&truth, AT_ONCE);
    let now = stage.now;
    stage.view.missed(full, now);
    truth.toggle(0, 1);
    stage.event(&truth, [0, 0], [1, 0]);
    assert_eq!(users(&stage, full), NOBODY, "nothing in between");
    stage.settle(&truth);
    assert_eq!(users(&stage, full), [1]);
}

#[derive(Debug, Clone)]
enum Step {
    Toggle(usize, u8),
    /// An emitter goes on, and sends what changed.
    Emit(usize, u64, u64),
    Deliver(usize, bool),
    Lose(usize),
    Answer(usize),
    Pass(u64),
    Watch(bool),
    Unwatch(usize),
    Digest(usize),
    Suspect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2_usize, 0..5_u8).prop_map(|(shield, user)| Step::Toggle(shield, user)),
        6 => (0..2_usize, 0..4_u64, 0..4_u64).prop_map(|(k, a, b)| Step::Emit(k, a, b)),
        8 => (0..4_usize, any::<bool>()).prop_map(|(at, again)| Step::Deliver(at, again)),
        1 => (0..4_usize).prop_map(Step::Lose),
        4 => (0..2_usize).prop_map(Step::Answer),
        6 => (0..1_500_u64).prop_map(Step::Pass),
        2 => any::<bool>().prop_map(Step::Watch),
        1 => (0..4_usize).prop_map(Step::Unwatch),
        1 => (0..2_usize).prop_map(Step::Digest),
        1 => Just(Step::Suspect),
    ]
}

fn play(rules: Rules, steps: Vec<Step>) {
    let mut truth = Truth::new();
    let mut stage = Stage::new(rules);
    let mut emitters = [[0, 0], [0, 0]];
    let mut flying: Vec<(Version, Version)> = Vec::new();
    for step in steps {
        match step {
            Step::Toggle(shield, user) => truth.toggle(shield, user),
            Step::Emit(k, a, b) => {
                let (before, newest) = (emitters[k], truth.newest());
                let after = [
                    (before[0] + a).min(newest[0]),
                    (before[1] + b).min(newest[1]),
                ];
                if after != before {
                    emitters[k] = after;
                    flying.push((before, after));
                }
            }
            Step::Deliver(at, again) => {
                if let Some((before, after)) = flying.get(at).copied() {
                    if !again {
                        flying.remove(at);
                    }
                    stage.event(&truth, before, after);
                }
            }
            Step::Lose(at) => {
                if at < flying.len() {
                    flying.remove(at);
                }
            }
            Step::Answer(k) => stage.answer(&truth, emitters[k]),
            Step::Pass(millis) => stage.pass(&truth, Duration::from_millis(millis)),
            Step::Watch(full) => {
                let hears = if full { Hears::Full } else { Hears::Count };
                stage.watch(hears, 1);
            }
            Step::Unwatch(at) => {
                let all = stage.full.keys().chain(stage.counts.keys());
                if let Some(session) = all.copied().nth(at) {
                    stage.unwatch(session);
                }
            }
            Step::Digest(k) => {
                let digest = truth.digest(emitters[k]);
                stage.view.on_digest(digest, &coverage(emitters[k]));
            }
            Step::Suspect => {
                let now = stage.now;
                stage.view.suspect(now);
            }
        }
        if rules.leave_delay.is_zero() {
            // What a client knows is the room at one version, never a mixture.
            for known in stage.full.values().flatten() {
                assert_eq!(known.users, truth.users(known.version));
                assert_eq!(known.count as usize, known.users.len());
            }
        }
    }
    // Whatever was lost, the digests find it.
    stage.settle(&truth);
    let newest = truth.newest();
    stage
        .view
        .on_digest(truth.digest(newest), &coverage(newest));
    stage.settle(&truth);
    let users = truth.users(newest);
    for known in stage.full.values() {
        let known = known.as_ref().expect("told a state");
        assert_eq!(known.users, users);
        assert_eq!(known.count as usize, users.len());
    }
    for count in stage.counts.values() {
        assert_eq!(*count, Some(users.len() as u32));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Two emitters, late, lost and doubled events, old answers: a client's
    /// picture is always that of one moment, and at last the newest.
    #[test]
    fn a_picture_is_of_one_moment_and_at_last_the_newest(
        steps in prop::collection::vec(step(), 0..80),
    ) {
        play(AT_ONCE, steps);
    }

    /// The same with delayed leaves: none is told of a user who is there in the
    /// newest that the client was told.
    #[test]
    fn no_leave_is_told_of_one_who_is_there(
        steps in prop::collection::vec(step(), 0..80),
    ) {
        play(DELAYED, steps);
    }
}
