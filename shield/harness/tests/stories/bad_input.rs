//! Bad input gets a typed answer, and harms neither its session nor a neighbour.

use std::collections::BTreeMap;

use arqon_harness::raw::{self, op};
use arqon_harness::{Client, RawPeer, Spine, TestShield, TestTenant, error_of, eventually};
use arqon_proto::codes::{CloseCode, ErrorCode};
use arqon_proto::envelope;
use arqon_proto::v1::{Envelope, Join, Opcode, Publish, envelope::Body};
use bytes::Bytes;
use prost::Message as _;

/// A neighbour in room `lobby` that notices any harm.
pub(crate) struct Neighbour {
    client: Client,
    said: u32,
}

impl Neighbour {
    pub(crate) async fn new(shield: &TestShield, tenant: &TestTenant) -> Self {
        let mut client = shield.connect(&tenant.token().user("bob").sign()).await;
        client.join("lobby").await;
        Self { client, said: 0 }
    }

    /// The next message of its room.
    pub(crate) async fn hears_next(&mut self) -> String {
        arqon_harness::text_of(&self.client.expect(Opcode::Message).await)
    }

    /// Its room still works, and nothing else reached it.
    pub(crate) async fn is_unharmed(&mut self) {
        self.said += 1;
        let text = format!("unharmed {}", self.said);
        self.client.publish("lobby", &text).await;
        self.client.hears("lobby", &text).await;
    }
}

pub(crate) async fn stage(manifest: &str) -> (Spine, TestTenant, TestShield) {
    let spine = Spine::start().await;
    let tenant = spine.tenant("acme").await;
    let shield = spine.shield().with(manifest).start().await;
    (spine, tenant, shield)
}

async fn raw_session(shield: &TestShield, tenant: &TestTenant) -> RawPeer {
    let mut peer = RawPeer::open(shield.addr(), &tenant.token().user("mallory").sign())
        .await
        .unwrap();
    assert_eq!(peer.envelope().await.op(), Opcode::Welcome);
    peer
}

fn frame(envelope: &Envelope) -> Vec<u8> {
    raw::masked(true, op::BINARY, &envelope.encode_to_vec())
}

/// Frames and the ERROR each is answered with. The session is in `lobby`.
fn offences() -> Vec<(String, Vec<u8>, ErrorCode)> {
    use ErrorCode as E;
    let publish = |room: &str, payload: usize| {
        envelope::publish(room, 7, Bytes::from(vec![b'x'; payload]), true)
    };
    let with_headers = |headers: BTreeMap<String, String>| Envelope {
        headers,
        ..publish("lobby", 1)
    };
    let one_header = |name: &str| with_headers([(name.to_owned(), "1".to_owned())].into());
    let whole = publish("lobby", 100).encode_to_vec();
    let mut cases = vec![
        (
            "text".to_owned(),
            raw::masked(true, op::TEXT, b"{\"op\":\"join\"}"),
            E::TextFrame,
        ),
        (
            "empty text".to_owned(),
            raw::masked(true, op::TEXT, b""),
            E::TextFrame,
        ),
        (
            "all ones".to_owned(),
            raw::masked(true, op::BINARY, &[0xff; 64]),
            E::EnvelopeUndecodable,
        ),
        (
            "truncated Envelope".to_owned(),
            raw::masked(true, op::BINARY, &whole[..whole.len() - 1]),
            E::EnvelopeUndecodable,
        ),
        (
            "empty frame".to_owned(),
            raw::masked(true, op::BINARY, b""),
            E::UnknownOpcode,
        ),
        (
            "PUBLISH with the body of JOIN".to_owned(),
            frame(&Envelope {
                body: Some(Body::Join(Join::default())),
                ..publish("lobby", 1)
            }),
            E::ProtocolMismatch,
        ),
        (
            "LEAVE with the body of PUBLISH".to_owned(),
            frame(&Envelope {
                body: Some(Body::Publish(Publish { ack: true })),
                ..envelope::leave("lobby", 7)
            }),
            E::ProtocolMismatch,
        ),
        (
            "payload over the limit".to_owned(),
            frame(&publish("lobby", 4_097)),
            E::PayloadTooLarge,
        ),
        (
            "too many headers".to_owned(),
            frame(&with_headers(
                (0..9).map(|n| (format!("h{n}"), String::new())).collect(),
            )),
            E::HeadersTooLarge,
        ),
        (
            "too many bytes of headers".to_owned(),
            frame(&with_headers([("h".to_owned(), "v".repeat(1_024))].into())),
            E::HeadersTooLarge,
        ),
        (
            "forged time".to_owned(),
            frame(&one_header("X-Timestamp")),
            E::HeaderReserved,
        ),
        (
            "reserved header".to_owned(),
            frame(&one_header("x-arqon-sender")),
            E::HeaderReserved,
        ),
        (
            "PUBLISH elsewhere".to_owned(),
            frame(&publish("elsewhere", 1)),
            E::NotJoined,
        ),
        (
            "LEAVE elsewhere".to_owned(),
            frame(&envelope::leave("elsewhere", 7)),
            E::NotJoined,
        ),
        (
            "second JOIN".to_owned(),
            frame(&envelope::join("lobby", 7, Join::default())),
            E::AlreadyJoined,
        ),
    ];
    for number in [0, 9, 42, 63, 64, 69, 78, 127, 128, 100_000, -1] {
        let envelope = Envelope {
            op: number,
            r#ref: 7,
            ..Envelope::default()
        };
        cases.push((
            format!("opcode {number}"),
            frame(&envelope),
            E::UnknownOpcode,
        ));
    }
    let long = [
        "a".repeat(64),
        "b".repeat(64),
        "c".repeat(64),
        "d".repeat(6),
    ]
    .join(".");
    assert_eq!(long.len(), 201);
    for room in [
        "",
        "*",
        ">",
        "lobby.*",
        "lobby.>",
        "two words",
        "tab\there",
        "..",
        ".",
        "a..b",
        ".a",
        "a.",
        "a.b.c.d.e",
        "_presence",
        "_presence.join",
        "_INBOX.x",
        "caf\u{e9}",
        "a/b",
        "$SYS",
        "lobby\r\nPUB x",
        "lobby\0",
        &long,
        &"t".repeat(65),
    ] {
        for envelope in [
            envelope::join(room, 7, Join::default()),
            publish(room, 1),
            envelope::leave(room, 7),
        ] {
            let what = format!("{:?} of room {room:?}", envelope.op());
            cases.push((what, frame(&envelope), E::RoomNameInvalid));
        }
    }
    cases
}

#[tokio::test]
async fn each_offence_is_answered_by_its_code_and_harms_nobody() {
    let (_spine, acme, shield) = stage(
        "session.max_offences = 10000\nsession.max_payload_bytes = 4096\n\
         session.max_headers = 8\nsession.max_header_bytes = 1024",
    )
    .await;
    let mut bob = Neighbour::new(&shield, &acme).await;
    let mut mallory = raw_session(&shield, &acme).await;
    mallory
        .send_envelope(&envelope::join(
            "lobby",
            1,
            Join {
                echo: Some(false),
                ..Join::default()
            },
        ))
        .await
        .unwrap();
    assert_eq!(mallory.envelope().await.op(), Opcode::Joined);

    for (what, bytes, code) in offences() {
        mallory.send_bytes(&bytes).await.unwrap();
        let answer = loop {
            let answer = mallory.envelope().await;
            if answer.op() != Opcode::Message {
                break answer;
            }
        };
        assert_eq!(answer.op(), Opcode::Error, "{what}: {answer:?}");
        let error = error_of(&answer);
        assert_eq!(error.name, code.name(), "{what}: {answer:?}");
        assert_eq!(error.code, u32::from(code.number()), "{what}");
        assert!(!error.message.is_empty(), "{what}");
        bob.is_unharmed().await;
    }

    // Bytes that are no Envelope, of every length up to a frame's: one ERROR each.
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    for len in (1..400).step_by(7) {
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise as u8
            })
            .collect();
        mallory.send(op::BINARY, &bytes).await.unwrap();
        loop {
            let answer = mallory.envelope().await;
            match answer.op() {
                Opcode::Message => {}
                Opcode::Error => break,
                other => panic!("{bytes:02x?} was answered by {other:?}"),
            }
        }
    }
    bob.is_unharmed().await;

    // The offender's session works as before.
    let text = Bytes::from_static(b"I still can");
    mallory
        .send_envelope(&envelope::publish("lobby", 0, text, false))
        .await
        .unwrap();
    bob.client.hears("lobby", "I still can").await;
}

#[tokio::test]
async fn repeated_offences_close_with_4502_and_only_the_offender() {
    let (_spine, acme, shield) = stage("session.max_offences = 5").await;
    let mut bob = Neighbour::new(&shield, &acme).await;
    let mut mallory = raw_session(&shield, &acme).await;
    for _ in 0..20 {
        // The session may close before all are sent.
        if mallory.send(op::TEXT, b"hello").await.is_err() {
            break;
        }
    }
    let mut errors = 0;
    let code = loop {
        match mallory.frame().await {
            Some(frame) if frame.opcode == op::PING => {}
            Some(frame) if frame.opcode == op::BINARY => errors += 1,
            Some(frame) if frame.opcode == op::CLOSE => {
                break u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
            }
            other => panic!("closed without a code: {other:?}"),
        }
    };
    assert_eq!(code, CloseCode::TooManyOffences.number());
    assert!(
        (4..=6).contains(&errors),
        "{errors} ERRORs before the close"
    );
    bob.is_unharmed().await;
}

#[tokio::test]
async fn a_frame_over_the_hard_cap_closes_1009_before_its_bytes_come() {
    let (_spine, acme, shield) =
        stage("session.max_frame_bytes = 8192\nsession.max_payload_bytes = 4096").await;
    let mut bob = Neighbour::new(&shield, &acme).await;
    for claimed in [8_193, 65_536, 1 << 40] {
        let mut mallory = raw_session(&shield, &acme).await;
        // Only the header: the server must not wait for the rest.
        mallory
            .send_bytes(&raw::header(true, op::BINARY, claimed, true))
            .await
            .unwrap();
        mallory.send_bytes(&[1, 2, 3, 4]).await.unwrap();
        assert_eq!(mallory.close_code().await, Some(1009), "{claimed} bytes");
    }
    // In fragments that are small one by one.
    let mut mallory = raw_session(&shield, &acme).await;
    mallory
        .send_bytes(&raw::masked(false, op::BINARY, &[0; 4_000]))
        .await
        .unwrap();
    for _ in 0..3 {
        let fragment = raw::masked(false, op::CONTINUATION, &[0; 4_000]);
        if mallory.send_bytes(&fragment).await.is_err() {
            break;
        }
    }
    assert_eq!(mallory.close_code().await, Some(1009));
    bob.is_unharmed().await;
}

#[tokio::test]
async fn illegal_framing_closes_1002() {
    let (_spine, acme, shield) = stage("").await;
    let mut bob = Neighbour::new(&shield, &acme).await;
    let start = raw::masked(false, op::BINARY, b"x");
    let unmasked = [raw::header(true, op::BINARY, 1, false), vec![b'x']].concat();
    let mut reserved_bit = raw::masked(true, op::BINARY, b"x");
    reserved_bit[0] |= 0x40;
    let twice = [start.clone(), raw::masked(true, op::BINARY, b"x")].concat();
    for (what, bytes) in [
        ("an unmasked frame", unmasked),
        ("a reserved bit", reserved_bit),
        ("a reserved data opcode", raw::masked(true, 3, b"x")),
        ("a reserved control opcode", raw::masked(true, 11, b"x")),
        (
            "a continuation of nothing",
            raw::masked(true, op::CONTINUATION, b"x"),
        ),
        ("a fragmented ping", raw::masked(false, op::PING, b"x")),
        (
            "a ping of 126 bytes",
            raw::masked(true, op::PING, &[0; 126]),
        ),
        ("a message inside a message", twice),
        ("a close of one byte", raw::masked(true, op::CLOSE, &[3])),
    ] {
        let mut mallory = raw_session(&shield, &acme).await;
        mallory.send_bytes(&bytes).await.unwrap();
        assert_eq!(mallory.close_code().await, Some(1002), "{what}");
        bob.is_unharmed().await;
    }
}

#[tokio::test]
async fn legal_fragments_with_control_frames_between_work() {
    let (_spine, acme, shield) = stage("").await;
    let mut bob = Neighbour::new(&shield, &acme).await;
    let mut carol = raw_session(&shield, &acme).await;
    let join = envelope::join(
        "lobby",
        5,
        Join {
            echo: Some(false),
            ..Join::default()
        },
    );
    carol.send_envelope(&join).await.unwrap();
    assert_eq!(carol.envelope().await.op(), Opcode::Joined);

    let text = "in pieces ".repeat(300);
    let publish = envelope::publish("lobby", 9, Bytes::from(text.clone()), true).encode_to_vec();
    let pieces: Vec<&[u8]> = publish.chunks(700).collect();
    for (index, piece) in pieces.iter().enumerate() {
        let opcode = if index == 0 {
            op::BINARY
        } else {
            op::CONTINUATION
        };
        let last = index == pieces.len() - 1;
        let bytes = raw::masked(last, opcode, piece);
        // Byte by byte at first: a header split over segments is legal too.
        let (slow, rest) = bytes.split_at(12);
        for byte in slow {
            carol.send_bytes(&[*byte]).await.unwrap();
        }
        carol.send_bytes(rest).await.unwrap();
        if !last {
            let payload = format!("between {index}");
            carol.send(op::PING, payload.as_bytes()).await.unwrap();
            let pong = carol.frame().await.unwrap();
            assert_eq!(
                (pong.opcode, &pong.payload[..]),
                (op::PONG, payload.as_bytes())
            );
            carol.send(op::PONG, b"never asked for").await.unwrap();
        }
    }
    let ack = carol.envelope().await;
    assert_eq!((ack.op(), ack.r#ref), (Opcode::Ack, 9), "{ack:?}");
    bob.client.hears("lobby", &text).await;

    // An orderly close is answered.
    carol
        .send(op::CLOSE, &1000_u16.to_be_bytes())
        .await
        .unwrap();
    assert_eq!(carol.close_code().await, Some(1000));
    bob.is_unharmed().await;
}

#[tokio::test]
async fn one_room_more_than_the_limit_is_refused_and_may_be_had_after_a_leave() {
    let (_spine, acme, shield) =
        stage("session.max_rooms = 3\nrooms.max_per_tenant = 5\nrooms.linger_secs = 0").await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    assert_eq!(alice.welcome.limits.as_ref().unwrap().max_rooms, 3);
    for room in ["a1", "a2", "a3"] {
        alice.join(room).await;
    }
    // The session's limit.
    let refusal = alice.join_with("a4", Join::default()).await.unwrap_err();
    assert_eq!(refusal.name, ErrorCode::RoomLimit.name());
    // The tenant's limit on this Shield, below NATS's own which fails silently.
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    bob.join("b1").await;
    bob.join("b2").await;
    let refusal = bob.join_with("b3", Join::default()).await.unwrap_err();
    assert_eq!(refusal.name, ErrorCode::RoomLimit.name());
    // A room that is open already costs nothing more.
    bob.join("a1").await;
    bob.publish("a1", "from bob").await;
    alice.hears("a1", "from bob").await;
    bob.hears("a1", "from bob").await;

    // A room that was left counts until its subscription is given up.
    alice.leave("a3").await;
    eventually!(alice.join_with("a4", Join::default()).await.is_ok());
    alice.publish("a4", "room for me").await;
    alice.hears("a4", "room for me").await;
    bob.ping().await;
}

/// NATS cuts the connection that sends more than the account takes, for all of
/// a tenant's sessions: no Shield can be set to let such a message through.
#[tokio::test]
async fn no_message_is_large_enough_to_cut_the_tenants_connection() {
    let (spine, acme, shield) =
        stage("session.max_frame_bytes = 65536\nsession.max_payload_bytes = 65536").await;
    let larger = spine
        .shield()
        .with("session.max_frame_bytes = 65537")
        .write();
    let error = arqon_spine::manifest::Manifest::load(&larger)
        .unwrap_err()
        .to_string();
    assert!(error.contains("session.max_frame_bytes = 65537"), "{error}");

    let mut bob = Neighbour::new(&shield, &acme).await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    alice.join("big").await;
    for size in [61_440, 65_000, 65_500, 65_510] {
        let text = "x".repeat(size);
        alice.publish("big", &text).await;
        alice.hears("big", &text).await;
        bob.is_unharmed().await;
    }
    assert_eq!(shield.metric("spine_reconnects_total", "").await, 0.0);
}
