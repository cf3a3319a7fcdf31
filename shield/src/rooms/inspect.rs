//! Who sent a MESSAGE, and whether it is one, without building it.
//!
//! Every message is looked at once per Shield, and nearly all were encoded by a
//! Shield: fields in order, each at most once. Those are checked in place.
//! Whatever else may come is left to the real decoder, so both accept the same.

use std::str;

use arqon_proto::{
    envelope,
    names::RoomId,
    v1::{Opcode, envelope::Body},
};
use bytes::Bytes;

const OP: u8 = 1 << 3;
const ROOM: u8 = 2 << 3 | 2;
const REF: u8 = 3 << 3;
const HEADERS: u8 = 4 << 3 | 2;
const PAYLOAD: u8 = 5 << 3 | 2;
/// Field 69 takes two bytes.
const MESSAGE: [u8; 2] = [(69_u16 << 3 | 2) as u8 | 0x80, (69_u16 << 3 >> 7) as u8];
/// The first and second field of a map's entry, of `Message` and of `Sender`, as bytes.
const FIRST: u8 = 1 << 3 | 2;
/// See `FIRST`.
const SECOND: u8 = 2 << 3 | 2;

/// The sender's session, if these bytes are a MESSAGE of this room that every
/// client can read.
pub(super) fn sender_session(payload: &Bytes, room: &RoomId) -> Option<String> {
    match in_place(payload, room) {
        Some(session) => Some(session.to_owned()),
        None => decoded(payload, room),
    }
}

/// As `sender_session`, where nobody asks who it was.
pub(super) fn is_message(payload: &Bytes, room: &RoomId) -> bool {
    in_place(payload, room).is_some() || decoded(payload, room).is_some()
}

fn decoded(payload: &Bytes, room: &RoomId) -> Option<String> {
    let envelope = envelope::decode_server(payload.clone()).ok()?;
    match envelope.body {
        Some(Body::Message(message)) if envelope.room == room.as_str() => {
            Some(message.sender?.session)
        }
        _ => None,
    }
}

/// None: not in the form that a Shield writes.
fn in_place<'a>(payload: &'a [u8], room: &RoomId) -> Option<&'a str> {
    let mut rest = Reader(payload);
    rest.expect(OP)?;
    if rest.varint()? != Opcode::Message as u64 {
        return None;
    }
    rest.expect(ROOM)?;
    if rest.bytes()? != room.as_str().as_bytes() {
        return None;
    }
    if rest.next_is(REF) {
        rest.varint()?;
    }
    while rest.next_is(HEADERS) {
        let mut entry = Reader(rest.bytes()?);
        entry.optional_text(FIRST)?;
        entry.optional_text(SECOND)?;
        entry.end()?;
    }
    if rest.next_is(PAYLOAD) {
        rest.bytes()?;
    }
    rest.0 = rest.0.strip_prefix(&MESSAGE)?;
    let mut message = Reader(rest.bytes()?);
    rest.end()?;
    message.expect(FIRST)?;
    let mut sender = Reader(message.bytes()?);
    message.end()?;
    sender.optional_text(FIRST)?;
    let session = sender.optional_text(SECOND)?;
    sender.end()?;
    Some(session)
}

/// Protobuf, read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next_is(&mut self, key: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == key => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, key: u8) -> Option<()> {
        self.next_is(key).then_some(())
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    /// At most four bytes: longer ones are not what a Shield writes here.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (place, byte) in self.0.iter().enumerate().take(4) {
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                self.0 = &self.0[place + 1..];
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A field that is absent where it is empty.
    fn optional_text(&mut self, key: u8) -> Option<&'a str> {
        if self.next_is(key) {
            str::from_utf8(self.bytes()?).ok()
        } else {
            Some("")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use arqon_proto::v1::Sender;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn lobby() -> RoomId {
        RoomId::parse("lobby").unwrap()
    }

    fn encoded(
        room: &str,
        headers: BTreeMap<String, String>,
        payload: Vec<u8>,
        session: &str,
    ) -> Vec<u8> {
        let sender = Sender {
            user: "alice".to_owned(),
            session: session.to_owned(),
        };
        envelope::message(room, headers, payload.into(), sender).encode_to_vec()
    }

    #[test]
    fn other_rooms_and_other_frames_are_none() {
        let ours = encoded("lobby", BTreeMap::new(), vec![1], "s");
        assert_eq!(in_place(&ours, &lobby()), Some("s"));
        let other = Bytes::from(encoded("kitchen", BTreeMap::new(), vec![1], "s"));
        assert_eq!(sender_session(&other, &lobby()), None);
        let left = Bytes::from(envelope::left("lobby", 0, None).encode_to_vec());
        assert!(!is_message(&left, &lobby()));
        assert!(!is_message(&Bytes::new(), &lobby()));
    }

    proptest! {
        #[test]
        fn what_a_shield_writes_is_read_in_place(
            headers in prop::collection::btree_map("[a-zA-Z-]{0,20}", ".{0,300}", 0..8),
            payload in prop::collection::vec(any::<u8>(), 0..3000),
            session in ".{0,40}",
        ) {
            let bytes = encoded("lobby", headers, payload, &session);
            prop_assert_eq!(in_place(&bytes, &lobby()), Some(session.as_str()));
        }

        /// Whatever is read in place, the decoder reads too, and alike.
        #[test]
        fn the_decoder_has_the_last_word(
            headers in prop::collection::btree_map("[a-z]{0,3}", "[a-zé]{0,3}", 0..3),
            payload in prop::collection::vec(any::<u8>(), 0..8),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
            shorten in any::<bool>(),
        ) {
            let mut bytes = encoded("lobby", headers, payload, "s1");
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if shorten {
                bytes.truncate(cut.index(bytes.len()));
            }
            let bytes = Bytes::from(bytes);
            if let Some(session) = in_place(&bytes, &lobby()) {
                prop_assert_eq!(decoded(&bytes, &lobby()), Some(session.to_owned()));
            }
        }
    }
}
