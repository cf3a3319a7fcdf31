//! A frame of a client, and one of a server.

use std::collections::BTreeMap;

use arqon_proto::{
    codes::ErrorCode,
    envelope::{self, decode_client, decode_server, is_client_opcode, to_text},
    headers::{HeaderLimits, TRACEPARENT, X_TIMESTAMP, X_TWIST_ID, check_client_headers},
    names::RoomId,
    v1::{self, Opcode, envelope::Body},
};
use bytes::Bytes;
use prost::Message as _;

const LIMITS: HeaderLimits = HeaderLimits {
    max_headers: 16,
    max_header_bytes: 2048,
};

/// What is accepted means the same after it was encoded again, has an opcode of
/// its side and the body of that opcode, and a message that is stamped out of it
/// says who sent it, whatever the client wrote.
///
/// # Panics
/// Where that does not hold.
pub fn envelope(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let of_client = decode_client(bytes.clone());
    let of_server = decode_server(bytes);
    assert!(
        of_client.is_err() || of_server.is_err(),
        "a frame is of one side only"
    );
    match of_client {
        Ok(frame) => {
            assert!(is_client_opcode(frame.op()), "{:?}", frame.op());
            let again = decode_client(frame.encode_to_vec().into());
            assert_eq!(again.as_ref(), Ok(&frame), "encoded again it says the same");
            let _ = to_text(&frame);
            if frame.op() == Opcode::Publish {
                stamped(frame);
            }
        }
        Err(fault) => {
            assert!(
                matches!(
                    fault.code,
                    ErrorCode::EnvelopeUndecodable
                        | ErrorCode::UnknownOpcode
                        | ErrorCode::ProtocolMismatch
                        | ErrorCode::PayloadTooLarge
                ),
                "{fault:?}"
            );
            assert!(fault.room.len() <= 200, "no more is reflected");
            let error = envelope::error(fault.code, &fault.room, fault.reference, None, 0);
            assert!(decode_server(error.encode_to_vec().into()).is_ok());
        }
    }
    match of_server {
        Ok(frame) => {
            assert!(!is_client_opcode(frame.op()), "{:?}", frame.op());
            let again = decode_server(frame.encode_to_vec().into());
            assert_eq!(again, Ok(frame.clone()), "encoded again it says the same");
            let _ = to_text(&frame);
        }
        Err(code) => assert!(
            matches!(
                code,
                ErrorCode::EnvelopeUndecodable
                    | ErrorCode::UnknownOpcode
                    | ErrorCode::ProtocolMismatch
            ),
            "{code:?}"
        ),
    }
}

fn stamped(frame: v1::Envelope) {
    let Ok(room) = RoomId::parse(&frame.room) else {
        return;
    };
    if check_client_headers(&frame.headers, &LIMITS).is_err() {
        return;
    }
    let own = |name: &String| name == X_TWIST_ID || name == TRACEPARENT;
    let applications = frame.headers.keys().filter(|name| !own(name));
    assert!(applications.clone().count() <= LIMITS.max_headers);
    for name in applications {
        let lower = name.to_ascii_lowercase();
        assert!(
            !lower.starts_with("x-") && lower != TRACEPARENT,
            "{name} is the platform's"
        );
    }
    let mut headers: BTreeMap<_, _> = frame.headers.clone();
    headers.insert(
        X_TIMESTAMP.to_owned(),
        "2026-01-01T00:00:00.000000Z".to_owned(),
    );
    let sender = v1::Sender {
        user: "ann".to_owned(),
        ..v1::Sender::default()
    };
    let message = envelope::message(
        room.as_str(),
        headers,
        frame.payload.clone(),
        sender.clone(),
    );
    let heard = decode_server(message.encode_to_vec().into()).expect("a frame of ours is one");
    let Some(Body::Message(body)) = &heard.body else {
        panic!("MESSAGE without its body");
    };
    assert_eq!(body.sender, Some(sender), "the sender is ours to say");
    assert_eq!((&heard.payload, &heard.room), (&frame.payload, &frame.room));
}
