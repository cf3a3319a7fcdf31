//! Bytes where a frame of Brain should be.

use std::sync::LazyLock;

use arqon_brain_link::{
    commands::{Command, Frame},
    etf::{Kind, ReadError, Reader, Writer},
    identity::Identity,
    outbound,
};
use arqon_proto::{names::NodeId, v1};
use bytes::Bytes;
use prost::Message as _;

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity {
    id: NodeId::parse("brain-1").expect("a node"),
    incarnation: 0x019e_6c1d_3aaa_0042,
    version: "0.1.0".to_owned(),
    listen: "127.0.0.1:8082".to_owned(),
});

/// As deep as terms of the pipe are, and some more.
const DEPTH: u8 = 12;

/// A term as the pipe knows them.
#[derive(Debug, PartialEq)]
enum Term {
    Number(u64),
    Atom(String),
    Binary(Bytes),
    Tuple(Vec<Term>),
    List(Vec<Term>),
    Map(Vec<(Term, Term)>),
}

/// A term is read, written and read again as the same; what is passed over is
/// what is read; the messages of a command are addressed to whom it names, and
/// are what the receiver takes.
///
/// # Panics
/// Where that does not hold.
pub fn etf(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(term) = whole(bytes.clone()) {
        let mut skipped = Reader::new(bytes.clone()).expect("it was read");
        skipped.skip().expect("it was read");
        skipped.end().expect("it was read to its end");
        if let Some(written) = written(&term) {
            assert_eq!(whole(written.into()), Ok(term));
        }
    }
    let Ok(frame) = Frame::read(bytes, &IDENTITY) else {
        return;
    };
    let Frame::Batch { commands, .. } = frame else {
        return;
    };
    for command in commands {
        match command {
            Command::Order {
                account,
                shield,
                order,
            } => {
                for sent in outbound::order(&account, &shield, order, outbound::MAX_MESSAGE) {
                    addressed(&sent.subject);
                    let order = v1::PresenceOrder::decode(sent.payload).expect("an order");
                    assert!(order.order.is_some());
                }
            }
            Command::Events { account, events } => {
                for sent in outbound::events(&account, events, outbound::MAX_MESSAGE) {
                    addressed(&sent.subject);
                    let events = v1::PresenceEvents::decode(sent.payload).expect("events");
                    assert_eq!(events.brain, IDENTITY.id.as_str(), "in our name only");
                }
            }
            Command::Beat(beat) => assert_eq!(beat.brain, IDENTITY.id.as_str()),
            Command::Serve(_) | Command::Ask { .. } | Command::Spans(_) => {}
        }
    }
}

fn addressed(subject: &str) {
    assert!(
        subject
            .split('.')
            .all(|token| !token.is_empty() && !token.contains(['*', '>', ' '])),
        "{subject}"
    );
}

fn whole(bytes: Bytes) -> Result<Term, ReadError> {
    let mut reader = Reader::new(bytes)?;
    let term = read(&mut reader, DEPTH)?;
    reader.end()?;
    Ok(term)
}

fn read(reader: &mut Reader, depth: u8) -> Result<Term, ReadError> {
    let inner = depth
        .checked_sub(1)
        .ok_or_else(|| ReadError::Value("too deep".to_owned()))?;
    Ok(match reader.kind()? {
        Kind::Integer => Term::Number(reader.uint()?),
        Kind::Atom => Term::Atom(reader.atom()?),
        Kind::Binary => Term::Binary(reader.binary()?),
        Kind::Tuple => {
            let arity = reader.tuple()?;
            Term::Tuple(
                (0..arity)
                    .map(|_| read(reader, inner))
                    .collect::<Result<_, _>>()?,
            )
        }
        Kind::List => Term::List(reader.list(|reader| read(reader, inner))?),
        Kind::Map => {
            let pairs = reader.map()?;
            let pair = |_| Ok((read(reader, inner)?, read(reader, inner)?));
            Term::Map((0..pairs).map(pair).collect::<Result<_, _>>()?)
        }
    })
}

/// The term as we write it; None of what we never write: long atoms and tuples.
fn written(term: &Term) -> Option<Vec<u8>> {
    let mut writer = Writer::term();
    write(&mut writer, term)?;
    Some(writer.finish())
}

fn write(writer: &mut Writer, term: &Term) -> Option<()> {
    match term {
        Term::Number(number) => writer.uint(*number),
        Term::Atom(text) if text.len() > 255 => return None,
        Term::Atom(text) => writer.atom(text),
        Term::Binary(bytes) => writer.binary(bytes),
        Term::Tuple(items) => {
            writer.tuple(u8::try_from(items.len()).ok()?);
            for item in items {
                write(writer, item)?;
            }
        }
        Term::List(items) => {
            if !items.is_empty() {
                writer.list(items.len());
            }
            for item in items {
                write(writer, item)?;
            }
            writer.nil();
        }
        Term::Map(pairs) => {
            writer.map(pairs.len());
            for (key, value) in pairs {
                write(writer, key)?;
                write(writer, value)?;
            }
        }
    }
    Some(())
}
