//! What Brain says, from terms to the messages that carry it.
//!
//! Brain and its link are one program in two processes: a frame that is not
//! what it should be is a bug, and ends the link.

use std::collections::BTreeMap;

use arqon_proto::names::{NodeId, SessionId};
use arqon_proto::v1;
use arqon_telemetry::TraceContext;
use arqon_telemetry::trace::{Attributes, Made};
use bytes::Bytes;
use prost::Message as _;

use crate::etf::{Kind, ReadError, Reader};
use crate::identity::Identity;
use crate::names::is_account;

/// One frame of Brain.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// So much of our batches is processed.
    Credit(u64),
    /// To be answered at once.
    Ping(u64),
    /// What Brain counts and measures, by name.
    Numbers(Vec<(String, u64)>),
    /// All metrics as text are wanted, these among them.
    Scrape {
        /// The answer repeats it.
        id: u64,
        /// As in [`Frame::Numbers`].
        numbers: Vec<(String, u64)>,
    },
    /// Commands, in order.
    Batch {
        /// Brain's own measure, to be given back.
        cost: u64,
        /// The commands.
        commands: Vec<Command>,
    },
}

/// One command.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Whether to take part in the queue group of queries.
    Serve(bool),
    /// To a Shield, in a tenant's account.
    Order {
        /// The account.
        account: String,
        /// The Shield.
        shield: NodeId,
        /// What is said.
        order: v1::presence_order::Order,
    },
    /// To all Shields of a tenant.
    Events {
        /// The account.
        account: String,
        /// What is said.
        events: v1::PresenceEvents,
    },
    /// To a Shield, on CONTROL.
    Ask {
        /// The Shield.
        shield: NodeId,
        /// What is said.
        ask: v1::PresenceAsk,
    },
    /// Our beat, but for the time.
    Beat(v1::BrainBeat),
    /// What Brain has done in traces of others.
    Spans(Vec<Made>),
}

// === impl Frame ===

impl Frame {
    /// Reads a frame.
    ///
    /// # Errors
    /// If it is none of brain/README.md.
    pub fn read(bytes: Bytes, identity: &Identity) -> Result<Self, ReadError> {
        let mut term = Reader::new(bytes)?;
        let arity = term.tuple()?;
        let frame = match (&*term.atom()?, arity) {
            ("credit", 2) => Self::Credit(term.uint()?),
            ("ping", 2) => Self::Ping(term.uint()?),
            ("numbers", 2) => Self::Numbers(term.list(number)?),
            ("scrape", 3) => Self::Scrape {
                id: term.uint()?,
                numbers: term.list(number)?,
            },
            ("batch", 3) => Self::Batch {
                cost: term.uint()?,
                commands: term.list(|term| Command::read(term, identity))?,
            },
            (tag, arity) => return Err(unknown("frame", tag, arity)),
        };
        term.end()?;
        Ok(frame)
    }
}

// === impl Command ===

impl Command {
    /// Reads a command.
    ///
    /// # Errors
    /// If it is none of brain/README.md.
    pub fn read(term: &mut Reader, identity: &Identity) -> Result<Self, ReadError> {
        let arity = term.tuple()?;
        Ok(match (&*term.atom()?, arity) {
            ("serve", 2) => Self::Serve(term.bool()?),
            ("sync", 5) => Self::Order {
                account: account(term)?,
                shield: node(term)?,
                order: v1::presence_order::Order::Sync(v1::PresenceSync {
                    brain: identity.id.to_string(),
                    epoch: term.uint()?,
                    request: term.uint()?,
                }),
            },
            ("ask", 3) => Self::Ask {
                shield: node(term)?,
                ask: v1::PresenceAsk {
                    epoch: term.uint()?,
                },
            },
            ("answer", 10) => Self::Order {
                account: account(term)?,
                shield: node(term)?,
                order: v1::presence_order::Order::Answer(v1::PresenceAnswer {
                    id: term.uint()?,
                    room: term.text()?,
                    digest: term.uint()?,
                    coverage: term.list(coverage)?,
                    count: term.uint32()?,
                    truncated: term.bool()?,
                    members: term.list(member)?,
                    number: 0,
                    last: true,
                }),
            },
            ("events", 6) => Self::Events {
                account: account(term)?,
                events: v1::PresenceEvents {
                    brain: identity.id.to_string(),
                    coverage: term.list(coverage)?,
                    gone: term.list(Reader::uint)?,
                    rooms: term.list(room_event)?,
                    traces: term.list(trace)?,
                    range: None,
                },
            },
            ("digests", 6) => Self::Events {
                account: account(term)?,
                events: v1::PresenceEvents {
                    brain: identity.id.to_string(),
                    coverage: term.list(coverage)?,
                    range: Some(v1::PresenceDigestRange {
                        from: term.text()?,
                        to: term.text()?,
                        rooms: term.list(room_digest)?,
                    }),
                    ..Default::default()
                },
            },
            ("beat", 2) => Self::Beat(beat(term, identity)?),
            ("spans", 2) => Self::Spans(term.list(span)?),
            (tag, arity) => return Err(unknown("command", tag, arity)),
        })
    }
}

fn unknown(what: &str, tag: &str, arity: usize) -> ReadError {
    ReadError::Value(format!("no {what} is called {tag}/{arity}"))
}

fn account(term: &mut Reader) -> Result<String, ReadError> {
    let account = term.text()?;
    if is_account(&account) {
        Ok(account)
    } else {
        Err(ReadError::Value(format!("`{account}` is no account")))
    }
}

fn node(term: &mut Reader) -> Result<NodeId, ReadError> {
    let node = term.text()?;
    NodeId::parse(&node).map_err(|error| ReadError::Value(format!("`{node}`: {error}")))
}

fn coverage(term: &mut Reader) -> Result<v1::PresenceCoverage, ReadError> {
    term.tuple_of(2)?;
    Ok(v1::PresenceCoverage {
        epoch: term.uint()?,
        seq: term.uint()?,
    })
}

fn room_event(term: &mut Reader) -> Result<v1::PresenceRoomEvent, ReadError> {
    term.tuple_of(7)?;
    Ok(v1::PresenceRoomEvent {
        room: term.text()?,
        before: term.uint()?,
        after: term.uint()?,
        count: term.uint32()?,
        truncated: term.bool()?,
        members: term.list(member)?,
        left: term.list(Reader::text)?,
    })
}

fn room_digest(term: &mut Reader) -> Result<v1::PresenceRoomDigest, ReadError> {
    term.tuple_of(3)?;
    Ok(v1::PresenceRoomDigest {
        room: term.text()?,
        digest: term.uint()?,
        count: term.uint32()?,
    })
}

fn trace(term: &mut Reader) -> Result<v1::PresenceTrace, ReadError> {
    term.tuple_of(3)?;
    let room = term.text()?;
    Ok(v1::PresenceTrace {
        room,
        traceparent: context(term)?.to_string(),
        kind: v1::PresenceTraceKind::Change.into(),
    })
}

/// A trace and a span of it.
fn context(term: &mut Reader) -> Result<TraceContext, ReadError> {
    Ok(TraceContext {
        trace_id: u128::from_be_bytes(array(term)?),
        span_id: u64::from_be_bytes(array(term)?),
        sampled: true,
    })
}

fn span(term: &mut Reader) -> Result<Made, ReadError> {
    term.tuple_of(7)?;
    let made = Made {
        name: term.text()?,
        parent: context(term)?,
        span_id: u64::from_be_bytes(array(term)?),
        start_nanos: term.uint()?,
        end_nanos: term.uint()?,
        attributes: Attributes::default(),
    };
    let mut attributes = Attributes::default();
    term.list(|term| {
        term.tuple_of(2)?;
        let key = term.text()?;
        match term.kind()? {
            Kind::Integer => {
                let value = usize::try_from(term.uint()?).unwrap_or(usize::MAX);
                attributes.number(key, value);
            }
            Kind::Atom => attributes.flag(key, term.bool()?),
            _ => attributes.text(key, term.text()?),
        }
        Ok(())
    })?;
    Ok(Made { attributes, ..made })
}

/// An id: of so many bytes, and not 0.
fn array<const N: usize>(term: &mut Reader) -> Result<[u8; N], ReadError> {
    let bytes = term.binary()?;
    match <[u8; N]>::try_from(&bytes[..]) {
        Ok(array) if array != [0; N] => Ok(array),
        _ => Err(ReadError::Value(format!("an id of {} bytes", bytes.len()))),
    }
}

fn number(term: &mut Reader) -> Result<(String, u64), ReadError> {
    term.tuple_of(2)?;
    Ok((term.text()?, term.uint()?))
}

fn member(term: &mut Reader) -> Result<v1::PresenceMember, ReadError> {
    term.tuple_of(3)?;
    Ok(v1::PresenceMember {
        user: term.text()?,
        session_count: term.uint32()?,
        sessions: term.list(session)?,
    })
}

fn session(term: &mut Reader) -> Result<v1::PresenceMeta, ReadError> {
    term.tuple_of(4)?;
    let session = SessionId::from_bytes(&term.binary()?);
    let session = session.map_err(|error| ReadError::Value(error.to_string()))?;
    let meta = v1::PresenceMap::decode(term.binary()?);
    let meta = meta.map_err(|_| ReadError::Value("a meta that is no PresenceMap".to_owned()))?;
    Ok(v1::PresenceMeta {
        session: session.to_string(),
        meta: meta.meta,
        joined_at_ms: term.uint()?,
        last_active_at_ms: term.uint()?,
    })
}

fn beat(term: &mut Reader, identity: &Identity) -> Result<v1::BrainBeat, ReadError> {
    let mut numbers = BTreeMap::new();
    let mut flags = BTreeMap::new();
    for _ in 0..term.map()? {
        let key = term.atom()?;
        if matches!(&*key, "warm" | "goodbye") {
            flags.insert(key, term.bool()?);
        } else {
            numbers.insert(key, term.uint()?);
        }
    }
    if numbers.len() + flags.len() != 7 {
        return Err(ReadError::Value("a beat of other keys".to_owned()));
    }
    let missing = |key: &str| ReadError::Value(format!("a beat without {key}"));
    let number = |key: &str| numbers.get(key).copied().ok_or_else(|| missing(key));
    let flag = |key: &str| flags.get(key).copied().ok_or_else(|| missing(key));
    let small = |key: &str| Ok(u32::try_from(number(key)?).unwrap_or(u32::MAX));
    Ok(v1::BrainBeat {
        brain: identity.id.to_string(),
        incarnation: identity.incarnation,
        version: identity.version.clone(),
        uptime_ms: number("uptime_ms")?,
        warm: flag("warm")?,
        members: number("members")?,
        tenants: small("tenants")?,
        shields: small("shields")?,
        share: small("share")?,
        goodbye: flag("goodbye")?,
        time_ms: 0,
        listen: identity.listen.clone(),
    })
}
