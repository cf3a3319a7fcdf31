//! Whole WebSocket frames as the server sends them.
//!
//! A server's frame is not masked, so it is the same for every member of a
//! room: header and payload are laid out once, in one allocation, and each
//! session's queue holds a counted reference to it.

use std::{borrow::Cow, cell::OnceCell, fmt, sync::Arc};

use arqon_proto::{codes::ErrorCode, envelope, json, v1};
use bytes::BufMut;
use prost::Message;

/// FIN and opcode 1.
const TEXT: u8 = 0x81;
/// FIN and opcode 2.
const BINARY: u8 = 0x82;
/// FIN and opcode 8.
const CLOSE: u8 = 0x88;
/// FIN and opcode 9.
const PING: u8 = 0x89;
/// FIN and opcode 10.
const PONG: u8 = 0x8a;
/// The largest payload of a control frame, by RFC 6455 §5.5.
const CONTROL_PAYLOAD_MAX: usize = 125;
/// Bytes of the time in front of a frame.
const STAMP: usize = size_of::<u64>();
/// First byte, length byte and an eight-byte length.
const HEADER_MAX: usize = 10;

/// One whole frame, header included, ready for the socket. Cheap to clone.
///
/// When a message was published stands in front of its bytes: a field of its
/// own would be paid for in every member's queue.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Arc<[u8]>);

/// How a session's Envelopes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Protobuf in binary frames.
    #[default]
    Binary,
    /// ProtoJSON in text frames.
    Json,
}

/// What is said to many sessions. Its JSON form is made for the first that
/// speaks it, and for none where none does.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    binary: T,
    json: OnceCell<T>,
}

/// What has a JSON form.
pub(crate) trait InJson {
    /// That form.
    fn in_json(&self) -> Self;
}

// === impl Frame ===

impl Frame {
    /// When the message was published, microseconds since the Unix epoch; None
    /// of another frame, or if it is not known.
    pub fn sent_us(&self) -> Option<u64> {
        let (stamp, _) = self.0.split_first_chunk()?;
        Some(u64::from_be_bytes(*stamp)).filter(|sent_us| *sent_us > 0)
    }

    /// A binary frame that carries these bytes.
    pub fn binary(payload: &[u8]) -> Self {
        Self::message(payload, 0)
    }

    /// A binary frame that carries an encoded MESSAGE, published then.
    pub fn message(payload: &[u8], sent_us: u64) -> Self {
        let mut bytes = begin(sent_us, payload.len());
        put_header(&mut bytes, BINARY, payload.len());
        bytes.extend_from_slice(payload);
        Self(bytes.into())
    }

    /// A text frame that carries these bytes, which are UTF-8.
    pub fn text(text: &[u8]) -> Self {
        let mut bytes = begin(0, text.len());
        put_header(&mut bytes, TEXT, text.len());
        bytes.extend_from_slice(text);
        Self(bytes.into())
    }

    /// A binary frame that carries this Envelope.
    pub fn envelope(envelope: &v1::Envelope) -> Self {
        let len = envelope.encoded_len();
        let mut bytes = begin(0, len);
        put_header(&mut bytes, BINARY, len);
        envelope
            .encode(&mut bytes)
            .expect("a Vec takes all bytes of an Envelope");
        Self(bytes.into())
    }

    /// Whether it carries an encoded Envelope, which a session of text must get as JSON.
    fn is_binary(&self) -> bool {
        self.as_bytes()[0] == BINARY
    }

    /// A ping without payload.
    pub fn ping() -> Self {
        Self::bare([PING, 0])
    }

    /// A pong with the payload of the ping it answers, cut at 125 bytes.
    pub fn pong(payload: &[u8]) -> Self {
        let payload = &payload[..payload.len().min(CONTROL_PAYLOAD_MAX)];
        let mut bytes = begin(0, payload.len());
        put_header(&mut bytes, PONG, payload.len());
        bytes.extend_from_slice(payload);
        Self(bytes.into())
    }

    /// A close with its code and a reason, cut where a control frame ends.
    pub fn close(code: u16, reason: &str) -> Self {
        let reason = &reason[..reason.floor_char_boundary(CONTROL_PAYLOAD_MAX - 2)];
        let mut bytes = begin(0, 2 + reason.len());
        put_header(&mut bytes, CLOSE, 2 + reason.len());
        bytes.put_u16(code);
        bytes.extend_from_slice(reason.as_bytes());
        Self(bytes.into())
    }

    /// The answer to a client's close: its own code, or none if it gave none.
    pub fn close_reply(code: Option<u16>) -> Self {
        match code {
            Some(code) => Self::close(code, ""),
            None => Self::bare([CLOSE, 0]),
        }
    }

    /// A frame of two bytes.
    fn bare(bytes: [u8; 2]) -> Self {
        let mut all = begin(0, 0);
        all.extend_from_slice(&bytes);
        Self(all.into())
    }

    /// Bytes of the whole frame, header included.
    #[allow(clippy::len_without_is_empty, reason = "a frame has a header")]
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// The whole frame, header included.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0[STAMP..]
    }

    /// The payload behind the header.
    pub fn payload(&self) -> &[u8] {
        let header = match self.as_bytes()[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        &self.as_bytes()[header..]
    }
}

// === impl Encoding ===

impl Encoding {
    /// A frame as it goes to such a session. Control frames are the same for all.
    pub(super) fn of(self, frame: &Frame) -> Cow<'_, Frame> {
        match self {
            Self::Json if frame.is_binary() => Cow::Owned(frame.in_json()),
            _ => Cow::Borrowed(frame),
        }
    }

    /// The most bytes of a client's frame, where a binary one may have so many.
    /// A payload is a third longer in base64; the rest is for names of fields
    /// and for what JSON escapes. How long the Envelope is counts once it is decoded.
    pub(super) fn max_frame(self, binary: usize) -> usize {
        match self {
            Self::Binary => binary,
            Self::Json => binary * 2,
        }
    }
}

// === impl Shared ===

impl<T: InJson> Shared<T> {
    pub(crate) fn new(binary: T) -> Self {
        Self {
            binary,
            json: OnceCell::new(),
        }
    }

    /// The form for sessions that speak this.
    pub(crate) fn in_encoding(&self, encoding: Encoding) -> &T {
        match encoding {
            Encoding::Binary => &self.binary,
            Encoding::Json => self.json.get_or_init(|| self.binary.in_json()),
        }
    }
}

impl InJson for Frame {
    fn in_json(&self) -> Self {
        let text = json::encode(self.payload()).unwrap_or_else(|error| {
            // All frames were made by a Shield, or read as one of a Shield's.
            tracing::error!(%error, "A frame has no JSON form");
            let told = envelope::error(ErrorCode::Internal, "", 0, None, 0);
            json::encode(&told.encode_to_vec()).unwrap_or_default()
        });
        let mut bytes = begin(self.sent_us().unwrap_or(0), text.len());
        put_header(&mut bytes, TEXT, text.len());
        bytes.extend_from_slice(text.as_bytes());
        Self(bytes.into())
    }
}

impl InJson for Vec<Frame> {
    fn in_json(&self) -> Self {
        self.iter().map(Frame::in_json).collect()
    }
}

/// Room for a frame of a payload of this length, with its time in front.
fn begin(sent_us: u64, payload: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(STAMP + HEADER_MAX + payload);
    bytes.put_u64(sent_us);
    bytes
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Frame({:#04x}, {} bytes)",
            self.as_bytes()[0],
            self.as_bytes().len()
        )
    }
}

fn put_header(out: &mut Vec<u8>, first: u8, len: usize) {
    out.put_u8(first);
    match len {
        0..=125 => out.put_u8(len as u8),
        126..=0xffff => {
            out.put_u8(126);
            out.put_u16(len as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_forms_of_the_header_are_those_of_rfc_6455() {
        for (len, header) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let payload = vec![7; len];
            let frame = Frame::binary(&payload);
            assert_eq!(&frame.as_bytes()[..header.len()], header);
            assert_eq!(frame.payload(), payload);
            assert_eq!(frame.len(), header.len() + len);
        }
    }

    #[test]
    fn control_frames_never_exceed_125_bytes() {
        assert_eq!(Frame::ping().as_bytes(), [0x89, 0]);
        assert_eq!(Frame::pong(&[1; 200]).len(), 2 + 125);
        let close = Frame::close(4002, &"ä".repeat(100));
        assert_eq!(&close.as_bytes()[..4], [0x88, 124, 0x0f, 0xa2]);
        assert!(std::str::from_utf8(&close.payload()[2..]).is_ok());
    }

    #[test]
    fn a_session_of_text_gets_text_and_the_same_control_frames() {
        let message = Frame::message(&envelope::pong(7, vec![1].into()).encode_to_vec(), 99);
        let text = Encoding::Json.of(&message);
        assert_eq!(text.as_bytes()[0], TEXT);
        assert_eq!(
            text.payload(),
            br#"{"op":"OPCODE_PONG","ref":"7","payload":"AQ=="}"#
        );
        assert_eq!(text.sent_us(), Some(99));
        // Once more changes nothing.
        assert_eq!(Encoding::Json.of(&text), text);
        for frame in [Frame::ping(), Frame::close(4001, "x")] {
            assert_eq!(*Encoding::Json.of(&frame), frame);
        }
        assert_eq!(*Encoding::Binary.of(&message), message);
    }

    #[test]
    fn the_json_form_is_made_once_and_only_if_it_is_wanted() {
        let shared = Shared::new(Frame::envelope(&envelope::pong(7, vec![1].into())));
        let _ = shared.in_encoding(Encoding::Binary);
        assert!(shared.json.get().is_none());
        let first = shared.in_encoding(Encoding::Json).as_bytes().as_ptr();
        let second = shared.in_encoding(Encoding::Json).as_bytes().as_ptr();
        assert_eq!(first, second);
    }

    #[test]
    fn an_envelope_is_framed_as_its_own_encoding() {
        let envelope = v1::Envelope {
            op: v1::Opcode::Pong as i32,
            r#ref: 9,
            payload: vec![1; 300].into(),
            ..Default::default()
        };
        assert_eq!(
            Frame::envelope(&envelope),
            Frame::binary(&envelope.encode_to_vec())
        );
    }
}
