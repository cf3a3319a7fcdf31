//! All that clients said and heard, in one order.
//!
//! A publish is noted before it is sent and what is heard after it came, so
//! what stands behind in the history cannot have caused what stands before.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{ROOMS, TENANTS};

/// One session of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// Of [`TENANTS`].
    pub tenant: u8,
    /// The client, from 0.
    pub client: u8,
    /// Its sessions are numbered, from 1.
    pub number: u32,
}

/// What names a message. A publisher numbers its messages to each room, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Message {
    /// Who published it.
    pub publisher: Life,
    /// Of [`ROOMS`].
    pub room: u8,
    /// The number.
    pub seq: u32,
}

/// How a room was told of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A number was skipped.
    Sequence,
    /// The connection to NATS broke.
    Reconnected,
    /// Any other.
    Other,
}

/// What happened to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// WELCOME came.
    Opened,
    /// The session is over, for this reason.
    Closed(String),
    /// JOINED came.
    Joined(u8),
    /// LEFT came.
    Left(u8),
    /// A message came in this room. `forged`: its sender is not who it says.
    Heard {
        /// The room of the frame.
        room: u8,
        /// What its payload says.
        message: Message,
        /// Whether Shield's stamp names another publisher.
        forged: bool,
    },
    /// Something came that is none of our messages.
    Strange(u8, String),
    /// GAP came, with the count where it is known.
    Gap(u8, Reason, Option<u64>),
    /// A message is about to be sent.
    Sent {
        /// The room.
        room: u8,
        /// Its number.
        seq: u32,
        /// Whether ACK is wanted.
        ack: bool,
    },
    /// ACK came.
    Acked(u8, u32),
    /// ERROR came, which is no `ACK_UNKNOWN`: nobody gets the message.
    Refused(u8, u32, String),
    /// `ACK_UNKNOWN` came.
    Unknown(u8, u32),
}

/// An event with its time and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// After the start.
    pub at: Duration,
    /// Whose.
    pub who: Life,
    /// What.
    pub event: Event,
}

/// The history being written.
#[derive(Clone, Debug)]
pub struct History {
    start: Instant,
    records: Arc<Mutex<Vec<Record>>>,
}

// === impl History ===

impl History {
    /// Empty, from now on.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            records: Arc::default(),
        }
    }

    /// Notes what happened just now, or is about to.
    pub fn note(&self, who: Life, event: Event) {
        let mut records = self.lock();
        // Under the lock, so that times rise.
        let at = self.start.elapsed();
        records.push(Record { at, who, event });
    }

    /// All of it.
    #[must_use]
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often each kind of event is in a history.
#[must_use]
pub fn count(records: &[Record]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record.event.name()).or_default() += 1;
    }
    counts
}

// === impl Event ===

impl Event {
    /// The room it is about.
    #[must_use]
    pub fn room(&self) -> Option<u8> {
        match self {
            Self::Opened | Self::Closed(_) => None,
            Self::Joined(room)
            | Self::Left(room)
            | Self::Heard { room, .. }
            | Self::Strange(room, _)
            | Self::Gap(room, ..)
            | Self::Sent { room, .. }
            | Self::Acked(room, _)
            | Self::Refused(room, ..)
            | Self::Unknown(room, _) => Some(*room),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Opened => "sessions",
            Self::Closed(_) => "sessions ended",
            Self::Joined(_) => "joins",
            Self::Left(_) => "leaves",
            Self::Heard { .. } => "heard",
            Self::Strange(..) => "strange",
            Self::Gap(_, Reason::Sequence, _) => "gaps: sequence",
            Self::Gap(_, Reason::Reconnected, _) => "gaps: reconnected",
            Self::Gap(_, Reason::Other, _) => "gaps: other",
            Self::Sent { .. } => "sent",
            Self::Acked(..) => "acknowledged",
            Self::Refused(..) => "refused",
            Self::Unknown(..) => "acknowledgement unknown",
        }
    }
}

// === impl Message ===

impl Message {
    /// As a payload, with the session that publishes it.
    #[must_use]
    pub fn to_payload(self, session: &str) -> String {
        let Life {
            tenant,
            client,
            number,
        } = self.publisher;
        let (room, seq) = (self.room, self.seq);
        format!("{tenant} {client} {number} {room} {seq} {session}")
    }

    /// Reads a payload back: the message and the session.
    #[must_use]
    pub fn parse(payload: &str) -> Option<(Self, &str)> {
        let mut parts = payload.split(' ');
        let mut next = || parts.next();
        let publisher = Life {
            tenant: next()?.parse().ok()?,
            client: next()?.parse().ok()?,
            number: next()?.parse().ok()?,
        };
        let (room, seq) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let session = next()?;
        let message = Self {
            publisher,
            room,
            seq,
        };
        next().is_none().then_some((message, session))
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenant = TENANTS.get(usize::from(self.tenant)).unwrap_or(&"?");
        write!(f, "{tenant}/{}#{}", self.client, self.number)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let room = self.event.room().map(usize::from);
        let room = room.and_then(|room| ROOMS.get(room)).unwrap_or(&"");
        write!(f, "{:10.4} {} {room} ", self.at.as_secs_f64(), self.who)?;
        match &self.event {
            Event::Opened => f.write_str("WELCOME"),
            Event::Closed(why) => write!(f, "ended: {why}"),
            Event::Joined(_) => f.write_str("JOINED"),
            Event::Left(_) => f.write_str("LEFT"),
            Event::Heard {
                message, forged, ..
            } => {
                let forged = if *forged { ", FORGED" } else { "" };
                write!(f, "hears {} of {}{forged}", message.seq, message.publisher)
            }
            Event::Strange(_, text) => write!(f, "hears {text:?}"),
            Event::Gap(_, reason, missed) => write!(f, "GAP {reason:?} {missed:?}"),
            Event::Sent { seq, ack, .. } => {
                write!(f, "publishes {seq}{}", if *ack { "" } else { ", no ack" })
            }
            Event::Acked(_, seq) => write!(f, "ACK {seq}"),
            Event::Refused(_, seq, code) => write!(f, "{code} {seq}"),
            Event::Unknown(_, seq) => write!(f, "ACK_UNKNOWN {seq}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_back_and_nothing_else_is_taken() {
        let message = Message {
            publisher: Life {
                tenant: 2,
                client: 5,
                number: 77,
            },
            room: 1,
            seq: 4_000,
        };
        let payload = message.to_payload("one");
        assert_eq!(Message::parse(&payload), Some((message, "one")));
        for bad in ["", "1 2 3 4 5", "1 2 3 4 5 s x", "1 2 3 4 x s", "hello"] {
            assert_eq!(Message::parse(bad), None, "{bad}");
        }
    }
}
