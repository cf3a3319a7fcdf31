//! The table and its rooms against a plain model: any order of what sessions,
//! the Spine and time do to them, and after each step what every session has
//! heard and been answered, and what the table counts.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arqon_proto::{
    codes::ErrorCode,
    envelope,
    names::{RoomId, SessionId, TenantId},
    v1::{self, envelope::Body},
};
use arqon_spine::manifest::Overflow;
use arqon_telemetry::{Metrics, labels::GapReason};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use tokio::sync::oneshot;

use super::{Entered, Limit, Member, OverflowRules, Rooms};
use crate::{
    session::{Bounds, Frame, Outbox, OutboxLimits, testing::read},
    spine::{
        counters::Counters,
        origin::{Incarnation, Origin, Stamped},
    },
};

const SESSIONS: usize = 4;
const ROOMS: usize = 4;
const SHIELDS: usize = 2;
const LIMIT: Limit = Limit {
    occupied: 2,
    subscriptions: 3,
    members: 3,
};
/// Rooms stay that long, or are gone at the next look.
const LINGER: Duration = Duration::from_secs(3_600);

#[derive(Clone, Copy, Debug)]
enum Step {
    Enter(usize, usize),
    /// The session does not wait any more, and has not said so yet.
    GiveUp(usize, usize),
    Leave(usize, usize),
    Settle(usize),
    Unsettle(usize),
    UnsettleAll,
    Refuse(usize),
    GiveUpWaiting,
    Expire,
    /// A session's message by a Shield, with numbers skipped before it; or an old one again.
    Message(usize, usize, usize, Option<u64>),
    /// A Shield's beacon, after so many that were lost.
    Beacon(usize, usize, u64),
    LostEverywhere,
}

// === The model ===

#[derive(Default)]
struct Model {
    rooms: BTreeMap<usize, ModelRoom>,
    heard: [Vec<String>; SESSIONS],
    answers: BTreeMap<(usize, usize), Vec<Result<(), ErrorCode>>>,
}

#[derive(Default)]
struct ModelRoom {
    live: bool,
    interrupted: bool,
    members: Vec<usize>,
    waiting: Vec<usize>,
    /// The last number of each Shield, and whether a loss was declared since.
    last: BTreeMap<usize, (u64, bool)>,
}

impl ModelRoom {
    /// Somebody is in it or waits to be; else it lingers.
    fn is_in_use(&self) -> bool {
        !self.members.is_empty() || !self.waiting.is_empty()
    }
}

impl Model {
    fn enter(&mut self, session: usize, room: usize) -> &'static str {
        let in_use = self.rooms.values().filter(|it| it.is_in_use()).count();
        if !self.rooms.contains_key(&room) {
            if self.rooms.len() >= LIMIT.subscriptions || in_use >= LIMIT.occupied {
                return "full";
            }
            let fresh = ModelRoom {
                waiting: vec![session],
                ..ModelRoom::default()
            };
            self.rooms.insert(room, fresh);
            return "waits, subscribes";
        }
        let Some(known) = self.rooms.get_mut(&room) else {
            return "full";
        };
        // One that lingers only is one room more.
        if !known.is_in_use() && in_use >= LIMIT.occupied {
            return "full";
        }
        if known.members.len() + known.waiting.len() >= LIMIT.members {
            return "crowded";
        }
        if known.live {
            known.members.push(session);
            self.heard[session].push(format!("JOINED {room}"));
            "joined"
        } else {
            known.waiting.push(session);
            "waits"
        }
    }

    fn leave(&mut self, session: usize, room: usize) {
        if let Some(known) = self.rooms.get_mut(&room) {
            known.waiting.retain(|it| *it != session);
            known.members.retain(|it| *it != session);
        }
    }

    fn tell(&mut self, room: usize, what: &str) {
        for session in self.rooms[&room].members.clone() {
            self.heard[session].push(what.to_owned());
        }
    }

    fn lose(&mut self, room: usize, what: &str) {
        self.tell(room, &format!("GAP {room} {what}"));
        if let Some(known) = self.rooms.get_mut(&room) {
            known.last.values_mut().for_each(|(_, told)| *told = true);
        }
    }

    fn settle(&mut self, room: usize, given_up: &[(usize, usize)]) {
        let Some(known) = self.rooms.get_mut(&room) else {
            return;
        };
        known.live = true;
        let waiting = std::mem::take(&mut known.waiting);
        if std::mem::take(&mut known.interrupted) {
            self.lose(room, "SpineReconnected None");
        }
        for session in waiting {
            if given_up.contains(&(session, room)) {
                continue;
            }
            self.answer(session, room, Ok(()));
            self.heard[session].push(format!("JOINED {room}"));
            self.rooms.entry(room).or_default().members.push(session);
        }
    }

    fn unsettle(&mut self, room: usize) {
        if let Some(known) = self.rooms.get_mut(&room).filter(|known| known.live) {
            known.live = false;
            known.interrupted = true;
        }
    }

    fn refuse(&mut self, room: usize, why: ErrorCode) {
        if let Some(known) = self.rooms.remove(&room) {
            for session in known.members {
                self.heard[session].push(format!("LEFT {room} {}", why.name()));
            }
            for session in known.waiting {
                self.answer(session, room, Err(why));
            }
        }
    }

    fn give_up_waiting(&mut self, why: ErrorCode) {
        let rooms: Vec<usize> = self.rooms.keys().copied().collect();
        for room in rooms {
            let known = self.rooms.entry(room).or_default();
            if known.live {
                continue;
            }
            let waiting = std::mem::take(&mut known.waiting);
            for session in waiting {
                self.answer(session, room, Err(why));
            }
        }
    }

    fn expire(&mut self) {
        self.rooms.retain(|_, known| known.is_in_use());
    }

    fn message(&mut self, by: usize, sender: usize, room: usize, seq: u64) {
        let Some(known) = self.rooms.get_mut(&room) else {
            return;
        };
        let last = known.last.insert(by, (seq, false));
        if let Some((last, told)) = last {
            if seq <= last {
                known.last.insert(by, (last, told));
                return;
            }
            if seq > last + 1 && !told {
                let missed = seq - last - 1;
                self.tell(room, &format!("GAP {room} Sequence Some({missed})"));
            }
        }
        for session in self.rooms[&room].members.clone() {
            // The first session does not hear itself.
            if session != 0 || sender != 0 {
                self.heard[session].push(format!("MESSAGE {room} {by} {seq}"));
            }
        }
    }

    fn beacon(&mut self, by: usize, room: usize, seq: u64) {
        let Some(known) = self.rooms.get_mut(&room) else {
            return;
        };
        if let Some((last, told)) = known.last.insert(by, (seq, false))
            && seq > last
            && !told
        {
            let missed = seq - last;
            self.tell(room, &format!("GAP {room} Sequence Some({missed})"));
        }
    }

    fn answer(&mut self, session: usize, room: usize, answer: Result<(), ErrorCode>) {
        self.answers
            .entry((session, room))
            .or_default()
            .push(answer);
    }

    fn is_in(&self, session: usize, room: usize) -> bool {
        self.rooms
            .get(&room)
            .is_some_and(|it| it.members.contains(&session) || it.waiting.contains(&session))
    }
}

// === The table, driven the same way ===

struct Real {
    rooms: Rooms,
    sessions: Vec<Arc<Outbox>>,
    incarnations: Vec<Incarnation>,
    counters: Counters,
    heard: [Vec<String>; SESSIONS],
    waits: BTreeMap<(usize, usize), oneshot::Receiver<Result<(), ErrorCode>>>,
    answers: BTreeMap<(usize, usize), Vec<Result<(), ErrorCode>>>,
}

impl Real {
    fn new() -> Self {
        let metrics = Metrics::default();
        let bounds = Bounds {
            max_bytes: 1 << 20,
            max_messages: 1 << 10,
            tenant_max_bytes: 1 << 30,
            max_unconfirmed: 64,
            max_rooms: 64,
        };
        let limits = Arc::new(OutboxLimits::new(bounds, &metrics));
        let tenant = TenantId::parse("acme").expect("a valid name");
        let rules = OverflowRules::of(&v1::TenantRecord::default(), Overflow::DropOldest);
        let outbox = |_| Arc::new(Outbox::new(SessionId::new(), &tenant, limits.clone()));
        Self {
            rooms: Rooms::new(tenant.clone(), rules),
            sessions: (0..SESSIONS).map(outbox).collect(),
            incarnations: (0..SHIELDS).map(|_| Incarnation::new()).collect(),
            counters: Counters::new(&metrics),
            heard: Default::default(),
            waits: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    fn enter(&mut self, session: usize, room: usize) -> &'static str {
        let id = name(room);
        let member = Member {
            outbox: self.sessions[session].clone(),
            session: self.sessions[session].session(),
            echo: session != 0,
        };
        let joined = envelope::joined(id.as_str(), 0, v1::Joined::default());
        let joined = Some(Frame::envelope(&joined));
        match self.rooms.enter(&id, member, joined, LIMIT) {
            Entered::Joined => "joined",
            Entered::Waiting { answer, subscribe } => {
                self.waits.insert((session, room), answer);
                match subscribe {
                    true => "waits, subscribes",
                    false => "waits",
                }
            }
            Entered::Full => "full",
            Entered::Crowded => "crowded",
        }
    }

    fn message(&self, by: usize, sender: usize, room: usize, seq: u64) {
        let id = name(room);
        let sender = v1::Sender {
            user: "ann".to_owned(),
            session: self.sessions[sender].session().to_string(),
        };
        let payload = Bytes::from(format!("{by} {seq}"));
        let frame = envelope::message(id.as_str(), BTreeMap::new(), payload, sender);
        if let Some(room) = self.rooms.get(&id) {
            let stamped = Stamped {
                origin: self.origin(by, seq),
                sent_us: 0,
            };
            room.deliver(&self.counters)
                .message(stamped, frame.encode_to_vec().into());
        }
    }

    fn beacon(&self, by: usize, room: usize, seq: u64) {
        if let Some(room) = self.rooms.get(&name(room)) {
            room.deliver(&self.counters).beacon(self.origin(by, seq));
        }
    }

    fn origin(&self, by: usize, seq: u64) -> Origin {
        Origin {
            incarnation: self.incarnations[by],
            seq,
        }
    }

    /// Takes what has come to the sessions.
    fn listen(&mut self) {
        for (session, heard) in self.sessions.iter().zip(&mut self.heard) {
            let (frames, closed) = read(session);
            assert_eq!(closed, None);
            heard.extend(frames.iter().map(told));
        }
        let answers = &mut self.answers;
        self.waits.retain(|key, wait| match wait.try_recv() {
            Ok(answer) => {
                answers.entry(*key).or_default().push(answer);
                false
            }
            Err(oneshot::error::TryRecvError::Empty) => true,
            Err(oneshot::error::TryRecvError::Closed) => false,
        });
    }
}

fn name(room: usize) -> RoomId {
    RoomId::parse(&format!("room-{room}")).expect("a valid name")
}

/// The room of what was heard.
fn of_room(heard: &str) -> Option<String> {
    heard.split(' ').nth(1).map(str::to_owned)
}

/// A frame as the model writes it.
fn told(frame: &Frame) -> String {
    let frame = envelope::decode_server(frame.payload().to_vec().into()).expect("a frame of ours");
    let room = frame.room.trim_start_matches("room-");
    match &frame.body {
        Some(Body::Joined(_)) => format!("JOINED {room}"),
        Some(Body::Left(left)) => format!("LEFT {room} {}", left.name),
        Some(Body::Gap(gap)) => format!("GAP {room} {:?} {:?}", gap.reason(), gap.missed),
        Some(Body::Message(_)) => {
            let text = String::from_utf8_lossy(&frame.payload);
            format!("MESSAGE {room} {text}")
        }
        other => panic!("{other:?}"),
    }
}

// === Steps ===

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (session, room, shield) = (0..SESSIONS, 0..ROOMS, 0..SHIELDS);
    let step = prop_oneof![
        6 => (session.clone(), room.clone()).prop_map(|(s, r)| Step::Enter(s, r)),
        1 => (session.clone(), room.clone()).prop_map(|(s, r)| Step::GiveUp(s, r)),
        3 => (session.clone(), room.clone()).prop_map(|(s, r)| Step::Leave(s, r)),
        6 => room.clone().prop_map(Step::Settle),
        1 => room.clone().prop_map(Step::Unsettle),
        1 => Just(Step::UnsettleAll),
        1 => room.clone().prop_map(Step::Refuse),
        1 => Just(Step::GiveUpWaiting),
        2 => Just(Step::Expire),
        8 => (shield.clone(), session, room.clone(), proptest::option::weighted(0.8, 0_u64..3))
            .prop_map(|(b, s, r, skip)| Step::Message(b, s, r, skip)),
        2 => (shield, room, 0_u64..3).prop_map(|(b, r, lost)| Step::Beacon(b, r, lost)),
        1 => Just(Step::LostEverywhere),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_table_does_what_its_model_does(steps in steps()) {
        let (mut model, mut real) = (Model::default(), Real::new());
        // The last number each Shield has used in each room, over all that happens to the room.
        let mut numbers = [[0_u64; ROOMS]; SHIELDS];
        let mut given_up: Vec<(usize, usize)> = Vec::new();
        let why = ErrorCode::SpineUnavailable;
        for step in &steps {
            match *step {
                // A session asks once for a room that it is in or waits for.
                Step::Enter(session, room) if !model.is_in(session, room) => {
                    given_up.retain(|it| *it != (session, room));
                    prop_assert_eq!(real.enter(session, room), model.enter(session, room));
                }
                Step::Enter(..) => {}
                Step::GiveUp(session, room) => {
                    if real.waits.remove(&(session, room)).is_some() {
                        given_up.push((session, room));
                    }
                }
                Step::Leave(session, room) => {
                    let id = real.sessions[session].session();
                    real.rooms.leave(&name(room), id);
                    model.leave(session, room);
                }
                Step::Settle(room) => {
                    real.rooms.settle(&name(room), &real.counters);
                    model.settle(room, &given_up);
                }
                Step::Unsettle(room) => {
                    real.rooms.unsettle(&name(room));
                    model.unsettle(room);
                }
                Step::UnsettleAll => {
                    real.rooms.unsettle_all();
                    (0..ROOMS).for_each(|room| model.unsettle(room));
                }
                Step::Refuse(room) => {
                    real.rooms.refuse(&name(room), why);
                    model.refuse(room, why);
                }
                Step::GiveUpWaiting => {
                    real.rooms.give_up_waiting(why);
                    model.give_up_waiting(why);
                }
                Step::Expire => {
                    let early = real.rooms.expire(Instant::now(), LINGER);
                    prop_assert!(early.is_empty(), "{:?} lingers still", early);
                    let before: Vec<usize> = model.rooms.keys().copied().collect();
                    model.expire();
                    let gone = before.into_iter().filter(|it| !model.rooms.contains_key(it));
                    let gone: Vec<RoomId> = gone.map(name).collect();
                    let mut expired = real.rooms.expire(Instant::now() + LINGER, LINGER);
                    expired.sort_by(|one, two| one.as_str().cmp(two.as_str()));
                    prop_assert_eq!(expired, gone);
                }
                Step::Message(by, sender, room, skip) => {
                    let last = &mut numbers[by][room];
                    let seq = match skip {
                        Some(skip) => *last + 1 + skip,
                        None => (*last).max(1),
                    };
                    *last = (*last).max(seq);
                    real.message(by, sender, room, seq);
                    model.message(by, sender, room, seq);
                }
                Step::Beacon(by, room, lost) => {
                    let last = &mut numbers[by][room];
                    *last = (*last + lost).max(1);
                    real.beacon(by, room, *last);
                    model.beacon(by, room, *last);
                }
                Step::LostEverywhere => {
                    let reason = v1::GapReason::ShieldOverloaded;
                    real.rooms.lost_everywhere(reason, GapReason::Overflow, &real.counters);
                    let rooms: Vec<usize> = model.rooms.keys().copied().collect();
                    rooms.into_iter().for_each(|room| model.lose(room, "ShieldOverloaded None"));
                }
            }
            real.listen();
            // Who gave up is told nothing.
            for key in &given_up {
                model.answers.remove(key);
                real.answers.remove(key);
            }
            // Between rooms there is no order.
            real.heard.iter_mut().chain(&mut model.heard).for_each(|it| it.sort_by_key(|it| of_room(it)));
            prop_assert_eq!(&real.heard, &model.heard, "after {:?}", step);
            prop_assert_eq!(&real.answers, &model.answers, "after {:?}", step);
            prop_assert_eq!(real.rooms.len(), model.rooms.len());
            let occupied = model.rooms.values().filter(|it| !it.members.is_empty());
            prop_assert_eq!(real.rooms.occupied(), occupied.count());
        }
    }
}

/// Two wait for a room, one of them gives up, the other comes in: the room is his to keep.
#[test]
fn a_room_that_somebody_waited_for_alone_in_the_end_does_not_expire() {
    let mut real = Real::new();
    assert_eq!(real.enter(1, 0), "waits, subscribes");
    assert_eq!(real.enter(2, 0), "waits");
    real.rooms.leave(&name(0), real.sessions[2].session());
    real.rooms.settle(&name(0), &real.counters);
    let expired = real.rooms.expire(Instant::now() + LINGER, LINGER);
    assert_eq!(expired, []);
    real.message(0, 1, 0, 1);
    real.listen();
    assert_eq!(real.heard[1], ["JOINED 0", "MESSAGE 0 0 1"]);
    assert_eq!(real.rooms.occupied(), 1);
}
