//! Bytes of each server, whole and in pieces.

#![allow(clippy::unwrap_used)]
use super::*;
use arqon_proto::v1;

/// What a decoder says of `bytes`, given to it in pieces of `step`.
fn told(peer: Peer, bytes: &[u8], step: usize) -> (Vec<String>, Vec<u8>) {
    let (mut decoder, mut reply, mut said) = (Decoder::new(peer, None), Vec::new(), Vec::new());
    let mut tail = Vec::new();
    for piece in bytes.chunks(step) {
        tail.extend_from_slice(piece);
        let used = decoder
            .feed(&tail, &mut reply, &mut |signal| {
                said.push(match signal {
                    Signal::Delivered(delivery) => format!("delivered {:?}", delivery.stamp()),
                    other => format!("{other:?}"),
                });
            })
            .unwrap();
        tail.drain(..used);
    }
    (said, reply)
}

fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 126];
    frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn shield_is_understood_however_its_bytes_arrive() {
    let welcome = Envelope {
        op: Opcode::Welcome.into(),
        body: Some(Body::Welcome(v1::Welcome::default())),
        ..Envelope::default()
    };
    let message = Envelope {
        op: Opcode::Message.into(),
        room: "lobby".into(),
        headers: [("X-Timestamp".to_owned(), "now".to_owned())].into(),
        payload: 77_u64.to_le_bytes().to_vec().into(),
        body: Some(Body::Message(v1::Message::default())),
        ..Envelope::default()
    };
    let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n".to_vec();
    bytes.extend(server_frame(ws::BINARY, &welcome.encode_to_vec()));
    bytes.extend(server_frame(ws::PING, b"hi"));
    bytes.extend(server_frame(ws::BINARY, &message.encode_to_vec()));
    for step in [1, 7, bytes.len()] {
        let (said, reply) = told(Peer::Shield, &bytes, step);
        assert_eq!(said, ["Open", "delivered Some(77)"]);
        assert_eq!(ws::header(&reply).unwrap().opcode, ws::PONG);
    }
}

#[test]
fn nats_is_understood_across_frames() {
    let mut stream = b"INFO {}\r\nPONG\r\nPONG\r\nPING\r\nMSG bench.r0 1 10\r\n".to_vec();
    stream.extend_from_slice(&78_u64.to_le_bytes());
    stream.extend_from_slice(b"\r\n\r\n-ERR 'no'\r\n");
    let expected = [
        "Open",
        "Joined",
        "delivered Some(78)",
        "Problem(\"-ERR 'no'\")",
    ];
    for step in [1, 9, stream.len()] {
        assert_eq!(told(Peer::Nats, &stream, step).0, expected);
    }
    let mut frames = b"HTTP/1.1 101 x\r\n\r\n".to_vec();
    for piece in stream.chunks(11) {
        frames.extend(server_frame(ws::BINARY, piece));
    }
    for step in [1, 9, frames.len()] {
        assert_eq!(told(Peer::NatsWs, &frames, step).0, expected);
    }
}

#[test]
fn centrifuge_replies_are_told_apart() {
    let reply = |number: u32| {
        let mut body = vec![0x08, 1];
        put_bytes(&mut body, number, b"");
        body
    };
    let (mut publication, mut push, mut delivered) = (Vec::new(), Vec::new(), Vec::new());
    put_bytes(&mut publication, 4, &79_u64.to_le_bytes());
    put_bytes(&mut push, 2, b"room");
    put_bytes(&mut push, 4, &publication);
    put_bytes(&mut delivered, 4, &push);
    let mut payload = Vec::new();
    for message in [reply(5), reply(6), Vec::new(), delivered, reply(8)] {
        put_varint(&mut payload, message.len() as u64);
        payload.extend(message);
    }
    let mut bytes = b"HTTP/1.1 101 x\r\n\r\n".to_vec();
    bytes.extend(server_frame(ws::BINARY, &payload));
    let (said, _) = told(Peer::Centrifuge, &bytes, 5);
    assert_eq!(said, ["Open", "Joined", "delivered Some(79)"]);
}

#[test]
fn a_template_carries_its_stamp() {
    for peer in [Peer::Shield, Peer::Nats, Peer::NatsWs, Peer::Centrifuge] {
        let template = Template::new(peer, "bench.r0", 128);
        let mut out = Vec::new();
        template.write(&mut out, 0x0102_0304_0506_0708);
        let stamp = 0x0102_0304_0506_0708_u64.to_le_bytes();
        assert!(out.windows(8).any(|window| window == stamp), "{peer:?}");
        assert!(!out.windows(8).any(|window| window == MARK), "{peer:?}");
    }
}
