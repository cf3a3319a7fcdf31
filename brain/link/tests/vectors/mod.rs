//! The frames of `brain/testdata/`, made from the golden vectors of Protobuf
//! and by what the link itself uses; used by the test and by `gen-vectors`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arqon_brain_link::commands::{Command, Frame};
use arqon_brain_link::counters::Counter;
use arqon_brain_link::etf::Writer;
use arqon_brain_link::identity::Identity;
use arqon_brain_link::inbound::{self, Event, Kind, Sent, Which};
use arqon_brain_link::outbound;
use arqon_brain_link::queue::{BULK, Queue};
use arqon_proto::names::SessionId;
use arqon_proto::v1::{self, presence_order::Order};
use arqon_spine::manifest::{BrainManifest, SecretMode};
use arqon_telemetry::TraceContext;
use arqon_telemetry::labels::{Label as _, SyncReason};
use arqon_telemetry::metrics::BRAIN;
use bytes::Bytes;
use prost::Message as _;

/// The account that subjects name.
pub(crate) const ACCOUNT: &str = "AACME222222222222222222222222222222222222222222222222222";
/// The Shield that orders go to.
pub(crate) const SHIELD: &str = "shield-1";
/// What every command batch of these says it costs.
pub(crate) const COST: u64 = 100;
/// The clock of the beats that the vectors hold.
pub(crate) const TIME_MS: u64 = 1_779_999_999_123;

/// The cause of the span that the vectors hold.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

const MANIFEST: &str = r#"
node.id = "brain-1"
spine.control_creds_file = "control.creds"
brain.creds_file = "presence.creds"
brain.listen = "127.0.0.1:8082"
"#;

/// Frames by the name of their file.
pub(crate) fn frames(proto_testdata: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut frames = BTreeMap::new();
    for vector in vectors(proto_testdata) {
        let name = &vector.name;
        if let Some(events) = events(&vector) {
            frames.insert(format!("{name}.in"), batch(events));
        }
        if let Some(command) = command(&vector) {
            let frame = commands(|term| term.raw(&command));
            let told = messages(&frame);
            assert_eq!(
                told,
                std::slice::from_ref(&vector.body),
                "{name}: what is published"
            );
            frames.insert(format!("{name}.out"), frame);
        }
    }
    frames.extend(plain().map(|(name, frame)| (name.to_owned(), frame)));
    frames
}

/// What the link would publish of a frame of commands.
pub(crate) fn messages(frame: &[u8]) -> Vec<Bytes> {
    let frame = Frame::read(Bytes::copy_from_slice(frame), &identity()).unwrap();
    let Frame::Batch { cost, commands } = frame else {
        panic!("no batch: {frame:?}");
    };
    assert_eq!(cost, COST);
    let message = |command| match command {
        Command::Order {
            account,
            shield,
            order,
        } => {
            assert_eq!((&*account, shield.as_str()), (ACCOUNT, SHIELD));
            bodies(outbound::order(&account, &shield, order, 1 << 20))
        }
        Command::Events { account, events } => {
            assert_eq!(account, ACCOUNT);
            bodies(outbound::events(&account, events, 1 << 20))
        }
        Command::Ask { shield, ask } => {
            assert_eq!(shield.as_str(), SHIELD);
            vec![ask.encode_to_vec().into()]
        }
        Command::Beat(mut beat) => {
            beat.time_ms = TIME_MS;
            vec![beat.encode_to_vec().into()]
        }
        Command::Serve(_) | Command::Spans(_) => Vec::new(),
    };
    commands.into_iter().flat_map(message).collect()
}

/// Who the link is in these.
pub(crate) fn identity() -> Identity {
    Identity {
        incarnation: 0x019e_6c1d_3aaa_0042,
        version: "0.1.0".to_owned(),
        ..Identity::new(&manifest())
    }
}

struct Vector {
    name: String,
    ty: String,
    body: Bytes,
}

fn vectors(folder: &Path) -> Vec<Vector> {
    let mut vectors = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let Some(name) = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".txt"))
        else {
            continue;
        };
        let text = fs::read_to_string(&path).unwrap();
        let Some(ty) = text
            .lines()
            .find_map(|line| line.strip_prefix("type: arqon.v1."))
        else {
            continue;
        };
        let hex = text.split_once("\nbytes:\n").unwrap().1;
        let digits: String = hex
            .lines()
            .take_while(|line| line.starts_with(' '))
            .map(|line| line.split('#').next().unwrap())
            .flat_map(str::chars)
            .filter(|c| !c.is_whitespace())
            .collect();
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        vectors.push(Vector {
            name: name.to_owned(),
            ty: ty.trim().to_owned(),
            body: (0..digits.len()).step_by(2).map(byte).collect(),
        });
    }
    vectors
}

/// The events that a message becomes, if it comes from a Shield or a Brain.
fn events(vector: &Vector) -> Option<Vec<Event>> {
    let body = &vector.body;
    let sent = Sent {
        account: ACCOUNT,
        body,
    };
    Some(match &*vector.ty {
        "PresenceChanges" => {
            let mut events = Vec::new();
            sent.changes(&mut events).unwrap();
            events
        }
        "PresencePage" => vec![sent.page().unwrap()],
        "PresenceQuery" => vec![sent.query().unwrap()],
        "ShieldBeat" => {
            vec![inbound::beat(&v1::ShieldBeat::decode(body.clone()).unwrap()).unwrap()]
        }
        "PresenceDigests" => {
            vec![inbound::digests(&v1::PresenceDigests::decode(body.clone()).unwrap()).unwrap()]
        }
        "BrainBeat" => {
            vec![inbound::brain(&v1::BrainBeat::decode(body.clone()).unwrap()).unwrap()]
        }
        _ => return None,
    })
}

/// The command that a message is made of, if a Brain sends it.
fn command(vector: &Vector) -> Option<Vec<u8>> {
    let body = vector.body.clone();
    let mut term = Writer::part(0);
    match &*vector.ty {
        "PresenceOrder" => match v1::PresenceOrder::decode(body).unwrap().order.unwrap() {
            Order::Sync(sync) => {
                term.tagged(5, "sync");
                text(&mut term, ACCOUNT);
                text(&mut term, SHIELD);
                term.uint(sync.epoch);
                term.uint(sync.request);
            }
            Order::Answer(answer) => {
                term.tagged(10, "answer");
                text(&mut term, ACCOUNT);
                text(&mut term, SHIELD);
                term.uint(answer.id);
                text(&mut term, &answer.room);
                term.uint(answer.digest);
                term.each(&answer.coverage, coverage);
                term.uint(answer.count.into());
                term.bool(answer.truncated);
                term.each(&answer.members, member);
            }
        },
        "PresenceEvents" => {
            let events = v1::PresenceEvents::decode(body).unwrap();
            if let Some(range) = events.range {
                term.tagged(6, "digests");
                text(&mut term, ACCOUNT);
                term.each(&events.coverage, coverage);
                text(&mut term, &range.from);
                text(&mut term, &range.to);
                term.each(&range.rooms, |term, room| {
                    term.tuple(3);
                    text(term, &room.room);
                    term.uint(room.digest);
                    term.uint(room.count.into());
                });
            } else {
                term.tagged(6, "events");
                text(&mut term, ACCOUNT);
                term.each(&events.coverage, coverage);
                term.each(&events.gone, |term, epoch| term.uint(*epoch));
                term.each(&events.rooms, room_event);
                term.each(&events.traces, |term, trace| {
                    term.tuple(3);
                    text(term, &trace.room);
                    context(term, &trace.traceparent);
                });
            }
        }
        "PresenceAsk" => {
            term.tagged(3, "ask");
            text(&mut term, SHIELD);
            term.uint(v1::PresenceAsk::decode(body).unwrap().epoch);
        }
        "BrainBeat" => {
            let beat = v1::BrainBeat::decode(body).unwrap();
            term.tagged(2, "beat");
            term.map(7);
            for (key, value) in [("warm", beat.warm), ("goodbye", beat.goodbye)] {
                term.atom(key);
                term.bool(value);
            }
            for (key, value) in [
                ("uptime_ms", beat.uptime_ms),
                ("members", beat.members),
                ("tenants", beat.tenants.into()),
                ("shields", beat.shields.into()),
                ("share", beat.share.into()),
            ] {
                term.atom(key);
                term.uint(value);
            }
        }
        _ => return None,
    }
    Some(term.finish())
}

/// Frames that have no message behind them.
fn plain() -> [(&'static str, Vec<u8>); 12] {
    let number = |tag: &str, n| {
        let mut term = Writer::term();
        term.tagged(2, tag);
        term.uint(n);
        term.finish()
    };
    let which = [Which::Control, Which::Brain];
    let turns = which.map(|which| [true, false].map(|up| Event::spine(which, up)));
    let mut queue = Queue::default();
    for account in [
        ACCOUNT,
        "AGLOBEX7777777777777777777777777777777777777777777777777",
    ] {
        queue.push(Event {
            kind: Kind::Changes {
                account: account.into(),
                shield: SHIELD.into(),
            },
            term: vec![0; BULK + 1],
        });
    }
    let dirty = queue.batch().unwrap();
    let mut queue = Queue::default();
    queue.count([
        (Counter::SlowConsumer, 1),
        (Counter::Malformed, 300),
        (Counter::Oversized, 3),
        (Counter::ClockSkew, 4),
        (Counter::Dropped, 70_000),
    ]);
    let counted = queue.batch().unwrap();
    let mut serve = Writer::part(0);
    serve.tagged(2, "serve");
    serve.bool(true);
    let serve = serve.finish();
    let mut all = Writer::term();
    all.tagged(2, "numbers");
    numbers(&mut all);
    let mut scrape = Writer::term();
    scrape.tagged(3, "scrape");
    scrape.uint(300);
    numbers(&mut scrape);
    let mut scraped = Writer::term();
    scraped.tagged(3, "scraped");
    scraped.uint(300);
    text(&mut scraped, "# EOF\n");
    [
        ("hello.in", identity().hello(&manifest())),
        ("spine.in", batch(turns.into_iter().flatten().collect())),
        ("dirty.in", dirty),
        ("counted.in", counted),
        ("credit.in", number("credit", 300)),
        ("pong.in", number("pong", 7)),
        ("ping.out", number("ping", 7)),
        ("serve.out", commands(|term| term.raw(&serve))),
        ("numbers.out", all.finish()),
        ("scrape.out", scrape.finish()),
        ("scraped.in", scraped.finish()),
        ("spans.out", commands(spans)),
    ]
}

/// Every number of the catalogue, in its order, each one more than the last.
fn numbers(term: &mut Writer) {
    let names = BRAIN.iter().flat_map(|definition| {
        let name = definition.name.strip_prefix("arqon_brain_").unwrap();
        if definition.label.is_some() {
            let reasons = SyncReason::ALL.iter();
            reasons
                .map(|reason| format!("{name}_{}", reason.value()))
                .collect()
        } else {
            vec![name.to_owned()]
        }
    });
    let names: Vec<_> = (1..).zip(names).collect();
    term.each(&names, |term, (number, name)| {
        term.tuple(2);
        text(term, name);
        term.uint(*number);
    });
}

/// A change that was told, with an attribute of each type.
fn spans(term: &mut Writer) {
    term.tagged(2, "spans");
    term.list(1);
    term.tuple(7);
    text(term, "brain.track");
    context(term, TRACEPARENT);
    term.binary(&0x0123_4567_89ab_cdef_u64.to_be_bytes());
    term.uint(1_779_999_999_123_000_000);
    term.uint(1_779_999_999_223_000_001);
    term.list(3);
    term.tuple(2);
    text(term, "arqon.room");
    text(term, "lobby");
    term.tuple(2);
    text(term, "arqon.changes");
    term.uint(3);
    term.tuple(2);
    text(term, "arqon.told");
    term.bool(true);
    term.nil();
    term.nil();
}

/// A trace, and a span of it.
fn context(term: &mut Writer, traceparent: &str) {
    let context: TraceContext = traceparent.parse().unwrap();
    term.binary(&context.trace_id.to_be_bytes());
    term.binary(&context.span_id.to_be_bytes());
}

fn batch(events: Vec<Event>) -> Vec<u8> {
    let mut queue = Queue::default();
    events.into_iter().for_each(|event| queue.push(event));
    queue.batch().unwrap()
}

fn commands(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut term = Writer::term();
    term.tagged(3, "batch");
    term.uint(COST);
    term.list(1);
    write(&mut term);
    term.nil();
    term.finish()
}

fn manifest() -> BrainManifest {
    BrainManifest::parse(MANIFEST, Path::new("."), SecretMode::Unchecked).unwrap()
}

fn bodies(messages: Vec<outbound::Outgoing>) -> Vec<Bytes> {
    messages
        .into_iter()
        .map(|message| message.payload)
        .collect()
}

fn text(term: &mut Writer, text: &str) {
    term.binary(text.as_bytes());
}

fn coverage(term: &mut Writer, coverage: &v1::PresenceCoverage) {
    term.tuple(2);
    term.uint(coverage.epoch);
    term.uint(coverage.seq);
}

fn room_event(term: &mut Writer, room: &v1::PresenceRoomEvent) {
    term.tuple(7);
    text(term, &room.room);
    term.uint(room.before);
    term.uint(room.after);
    term.uint(room.count.into());
    term.bool(room.truncated);
    term.each(&room.members, member);
    term.each(&room.left, |term, user| text(term, user));
}

fn member(term: &mut Writer, member: &v1::PresenceMember) {
    term.tuple(3);
    text(term, &member.user);
    term.uint(member.session_count.into());
    term.each(&member.sessions, |term, session| {
        term.tuple(4);
        term.binary(SessionId::parse(&session.session).unwrap().as_bytes());
        let meta = v1::PresenceMap {
            meta: session.meta.clone(),
        };
        term.binary(&meta.encode_to_vec());
        term.uint(session.joined_at_ms);
        term.uint(session.last_active_at_ms);
    });
}
