//! The Envelope as canonical ProtoJSON, for the subprotocol `arqon.v1+json`.
//!
//! Both ways go through the encoded Envelope, so that the rules of the binary
//! protocol hold here too. A text is read twice: first for what ProtoJSON
//! forbids and its decoder lets pass (a field given twice) or places badly (a
//! field that is unknown), then into the message.

mod strict;

use std::sync::LazyLock;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde::de::DeserializeSeed as _;

use crate::codes::ErrorCode;
use crate::envelope::{self, ClientFault, MAX_ECHOED_ROOM};
use crate::v1::Envelope;

/// Longest detail of a fault: enough for a path and a reason, and no echo of a frame.
const MAX_DETAIL: usize = 256;

static ENVELOPE: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let set = include_bytes!(concat!(env!("OUT_DIR"), "/envelope.bin"));
    let pool = DescriptorPool::decode(&set[..]).expect("build.rs made it");
    pool.get_message_by_name("arqon.v1.Envelope")
        .expect("build.rs compiled it")
});

/// An encoded Envelope that cannot be told as JSON.
#[derive(Debug, thiserror::Error)]
#[error("no Envelope that JSON can tell")]
pub struct Untold;

/// An encoded Envelope as canonical ProtoJSON. Fields that this version does
/// not know are left out.
///
/// # Errors
/// [`Untold`] if the bytes are no Envelope.
pub fn encode(encoded: &[u8]) -> Result<String, Untold> {
    let message = DynamicMessage::decode(ENVELOPE.clone(), encoded).map_err(|_| Untold)?;
    serde_json::to_string(&message).map_err(|_| Untold)
}

/// Decodes a client's text frame by ProtoJSON, then by the rules of
/// [`envelope::decode_client`]. Encoded it may have `max_frame` bytes at most.
///
/// # Errors
/// `JSON_INVALID` with what is wrong where; `PAYLOAD_TOO_LARGE`; and those of
/// [`envelope::decode_client`].
pub fn decode_client(text: &[u8], max_frame: usize) -> Result<Envelope, ClientFault> {
    let message =
        parse(text).map_err(|detail| fault(ErrorCode::JsonInvalid, text, Some(detail)))?;
    if message.encoded_len() > max_frame {
        return Err(fault(ErrorCode::PayloadTooLarge, text, None));
    }
    envelope::decode_client(message.encode_to_vec().into())
}

fn parse(text: &[u8]) -> Result<DynamicMessage, String> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    if let Err(error) = strict::Strict::message(&ENVELOPE).deserialize(tracked) {
        return Err(detail(&track.path(), &error));
    }
    json.end().map_err(|error| format!("not JSON: {error}"))?;

    let mut json = serde_json::Deserializer::from_slice(text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    DynamicMessage::deserialize(ENVELOPE.clone(), tracked)
        .map_err(|error| detail(&track.path(), &error))
}

fn detail(path: &serde_path_to_error::Path, error: &serde_json::Error) -> String {
    let mut detail = match (error.classify(), path.iter().next()) {
        (serde_json::error::Category::Data, Some(_)) => format!("`{path}`: {error}"),
        (serde_json::error::Category::Data, None) => format!("no Envelope: {error}"),
        _ => format!("not JSON: {error}"),
    };
    detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
    detail
}

/// With the correlation id and the room, if the text is JSON and they can be read.
fn fault(code: ErrorCode, text: &[u8], detail: Option<String>) -> ClientFault {
    let value = serde_json::from_slice::<serde_json::Value>(text).unwrap_or_default();
    let reference = &value["ref"];
    let of_text = || reference.as_str().and_then(|text| text.parse().ok());
    let room = value["room"].as_str().unwrap_or_default();
    ClientFault {
        code,
        reference: reference.as_u64().or_else(of_text).unwrap_or(0),
        room: match room.len() {
            ..=MAX_ECHOED_ROOM => room.to_owned(),
            _ => String::new(),
        },
        detail,
    }
}
