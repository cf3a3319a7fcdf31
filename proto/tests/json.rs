//! What a client may write as JSON, and what is wrong where.

#![allow(clippy::unwrap_used)]

use arqon_proto::codes::ErrorCode;
use arqon_proto::envelope::{self, ClientFault};
use arqon_proto::json::{decode_client, encode};
use arqon_proto::v1::{Envelope, Join, PresenceMode, envelope::Body};
use proptest::prelude::*;
use prost::Message as _;

const MAX: usize = 65_536;

fn read(text: &str) -> Envelope {
    decode_client(text.as_bytes(), MAX).unwrap_or_else(|fault| panic!("{text}: {fault:?}"))
}

fn refused(text: &str) -> ClientFault {
    match decode_client(text.as_bytes(), MAX) {
        Ok(envelope) => panic!("{text} is taken: {envelope:?}"),
        Err(fault) => fault,
    }
}

#[test]
fn all_spellings_that_protojson_allows_are_the_same_frame() {
    let join = envelope::join(
        "lobby",
        7,
        Join {
            echo: Some(false),
            presence: PresenceMode::Full.into(),
            meta: [("name".to_owned(), "Ada".to_owned())].into(),
        },
    );
    let join_body = r#""join":{"echo":false,"presence":3,"meta":{"name":"Ada"}}"#;
    for text in [
        r#"{"op":"OPCODE_JOIN","room":"lobby","ref":"7","join":{"echo":false,"presence":"PRESENCE_MODE_FULL","meta":{"name":"Ada"}}}"#,
        &format!(r#"{{"op":1,"room":"lobby","ref":7,{join_body}}}"#),
        &format!(
            r#" {{ {join_body}, "ref":7.0, "room":"lob\u0062y", "op":1, "payload":null, "headers":null }} "#
        ),
        &format!(r#"{{"op":"OPCODE_JOIN","room":"lobby","ref":7e0,"publish":null,{join_body}}}"#),
    ] {
        assert!(read(text) == join, "{text}");
    }
    for (base64, bytes) in [
        ("aGk=", &b"hi"[..]),
        ("aGk", b"hi"),
        ("-_8", &[0xfb, 0xff]),
        ("", b""),
    ] {
        let text = format!(r#"{{"op":"OPCODE_PUBLISH","room":"a","payload":"{base64}"}}"#);
        assert_eq!(read(&text).payload, bytes, "{base64}");
    }
    let by_name = r#"{"op":"OPCODE_PRESENCE_GET","room":"a","presence_get":{"count_only":true}}"#;
    assert!(read(by_name) == envelope::presence_get("a", 0, true));
    let largest = format!(r#"{{"op":"OPCODE_LEAVE","room":"a","ref":"{}"}}"#, u64::MAX);
    assert_eq!(read(&largest).r#ref, u64::MAX);
}

#[test]
fn what_does_not_fit_is_named_with_its_path() {
    let deep = format!(
        r#"{{"op":1,"ref":3,"room":{}1{}}}"#,
        "[".repeat(1_000),
        "]".repeat(1_000)
    );
    let long = format!(r#"{{"ref":3,"{}":1}}"#, "x".repeat(10_000));
    for (text, reference, told) in [
        ("", 0, "not JSON: EOF"),
        ("hello", 0, "not JSON: expected"),
        (r#"{"op":1,"ref":3"#, 0, "not JSON: EOF"),
        (r#"{"op":1,"ref":3} {}"#, 0, "not JSON: trailing characters"),
        (r#"{"op":1,"ref":3,}"#, 0, "not JSON: trailing comma"),
        (r#"{"op":1,"ref":3,"room":"\ud800"}"#, 0, "not JSON: "),
        (&deep, 0, "not JSON: recursion limit"),
        ("[]", 0, "no Envelope: invalid type"),
        ("7", 0, "no Envelope: invalid type"),
        ("null", 0, "no Envelope: invalid type"),
        (
            r#"{"ref":3,"op":"JOIN"}"#,
            3,
            "`op`: unrecognized enum value 'JOIN'",
        ),
        (r#"{"ref":3,"op":true}"#, 3, "`op`: invalid type: boolean"),
        (r#"{"ref":3,"op":1.5}"#, 3, "`op`: "),
        (r#"{"ref":3,"op":2147483648}"#, 3, "`op`: "),
        (r#"{"ref":3,"room":5}"#, 3, "`room`: invalid type: integer"),
        (
            r#"{"ref":3,"room":{"a":{"b":1}}}"#,
            3,
            "`room`: invalid type: map",
        ),
        (r#"{"ref":-1}"#, 0, "`ref`: "),
        (r#"{"ref":1.5}"#, 0, "`ref`: expected integer"),
        (r#"{"ref":"seven"}"#, 0, "`ref`: invalid digit"),
        (
            r#"{"ref":18446744073709551616}"#,
            0,
            "`ref`: the number is too large",
        ),
        (r#"{"ref":1e999}"#, 0, "not JSON: number out of range"),
        (
            r#"{"ref":"18446744073709551616"}"#,
            0,
            "`ref`: number too large",
        ),
        (
            r#"{"ref":3,"payload":"a*b="}"#,
            3,
            "`payload`: invalid base64",
        ),
        (r#"{"ref":3,"payload":"a"}"#, 3, "`payload`: invalid base64"),
        (
            r#"{"ref":3,"payload":[104]}"#,
            3,
            "`payload`: invalid type: sequence",
        ),
        (
            r#"{"ref":3,"headers":{"a":1}}"#,
            3,
            "`headers.a`: invalid type: integer",
        ),
        (
            r#"{"ref":3,"headers":{"a":null}}"#,
            3,
            "`headers.a`: invalid type: null",
        ),
        (
            r#"{"ref":3,"headers":{"a":"1","a":"2"}}"#,
            3,
            "`headers.a`: the key is given twice",
        ),
        (
            r#"{"ref":3,"headers":[]}"#,
            3,
            "`headers`: invalid type: sequence",
        ),
        (
            r#"{"ref":3,"room":"a","room":"b"}"#,
            3,
            "`room`: the field is given twice",
        ),
        (
            r#"{"ref":3,"presenceGet":{"countOnly":true,"count_only":false}}"#,
            3,
            "`presenceGet.count_only`: the field is given twice",
        ),
        (
            r#"{"ref":3,"join":{},"publish":{}}"#,
            3,
            "`publish`: a second body",
        ),
        (
            r#"{"ref":3,"join":{"meta":{"a":true}}}"#,
            3,
            "`join.meta.a`: invalid type: boolean",
        ),
        (
            r#"{"ref":3,"join":{"echo":"yes"}}"#,
            3,
            "`join.echo`: invalid type: string",
        ),
        (
            r#"{"ref":"3","join":{"presence":"FULL"}}"#,
            3,
            "`join.presence`: unrecognized enum value",
        ),
        (
            r#"{"ref":3,"colour":"blue"}"#,
            3,
            "`colour`: Envelope has no such field",
        ),
        (
            r#"{"ref":3,"publish":{"Ack":true}}"#,
            3,
            "`publish.Ack`: Publish has no such field",
        ),
        (&long, 3, "`xxx"),
    ] {
        let fault = refused(text);
        let detail = fault.detail.unwrap();
        assert_eq!(fault.code, ErrorCode::JsonInvalid, "{text}: {detail}");
        assert!(detail.starts_with(told), "{text}: {detail}");
        assert!(detail.len() <= 256, "{detail}");
        assert_eq!(fault.reference, reference, "{text}");
    }
}

#[test]
fn what_fits_the_schema_is_held_to_the_rules_of_the_protocol() {
    for (text, code) in [
        ("{}", ErrorCode::UnknownOpcode),
        (r#"{"op":99}"#, ErrorCode::UnknownOpcode),
        (r#"{"op":"OPCODE_WELCOME"}"#, ErrorCode::UnknownOpcode),
        (
            r#"{"op":"OPCODE_LEAVE","publish":{}}"#,
            ErrorCode::ProtocolMismatch,
        ),
        (
            r#"{"op":"OPCODE_JOIN","payload":"aGk="}"#,
            ErrorCode::ProtocolMismatch,
        ),
    ] {
        let fault = refused(text);
        assert_eq!((fault.code, fault.detail), (code, None), "{text}");
    }
    let fault = refused(r#"{"op":"OPCODE_LEAVE","room":"lobby","ref":"9","join":{}}"#);
    assert_eq!((fault.room.as_str(), fault.reference), ("lobby", 9));
}

#[test]
fn no_text_becomes_a_larger_frame_than_may_be() {
    let text = format!(
        r#"{{"op":"OPCODE_PUBLISH","room":"a","ref":1,"payload":"{}"}}"#,
        "aGVs".repeat(100)
    );
    let whole = read(&text).encoded_len();
    assert!(decode_client(text.as_bytes(), whole).is_ok());
    let fault = decode_client(text.as_bytes(), whole - 1).unwrap_err();
    assert_eq!(
        (fault.code, fault.reference),
        (ErrorCode::PayloadTooLarge, 1)
    );
}

#[test]
fn bytes_that_are_no_envelope_have_no_json() {
    assert!(encode(&[0xff; 8]).is_err());
    assert_eq!(encode(&[]).unwrap(), "{}");
}

proptest! {
    /// Whatever is said in binary comes back the same by way of JSON.
    #[test]
    fn publish_survives_the_way_there_and_back(
        room in "[a-z]{1,20}", reference: u64, ack: bool, payload: Vec<u8>,
        headers in proptest::collection::btree_map("[a-z]{1,8}", ".{0,20}", 0..5),
    ) {
        let sent = Envelope { headers, ..envelope::publish(&room, reference, payload.into(), ack) };
        let text = encode(&sent.encode_to_vec()).unwrap();
        prop_assert!(decode_client(text.as_bytes(), MAX).unwrap() == sent);
    }

    /// No text breaks it, and none is half taken.
    #[test]
    fn any_text_is_taken_or_refused(text in r#"[\[\]{}:,"a-z0-9\\. -]{0,60}|\PC{0,40}"#) {
        let _ = decode_client(text.as_bytes(), MAX);
    }

    /// The same with bytes that are no text.
    #[test]
    fn any_bytes_are_taken_or_refused(bytes: Vec<u8>) {
        let _ = decode_client(&bytes, MAX);
    }

    /// One byte of a good text changed: taken or refused, with the body it has.
    #[test]
    fn a_changed_byte_does_no_harm(at in 0_usize..100, byte: u8) {
        let mut text = br#"{"op":"OPCODE_PUBLISH","room":"a","ref":"1","headers":{"k":"v"},"publish":{"ack":true}}"#.to_vec();
        let at = at % text.len();
        text[at] = byte;
        if let Ok(envelope) = decode_client(&text, MAX) {
            prop_assert!(matches!(envelope.body, None | Some(Body::Publish(_))));
        }
    }
}
