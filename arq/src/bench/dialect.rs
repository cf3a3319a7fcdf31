//! What each server speaks: Shield, NATS over TCP and over WebSocket, centrifuge.
//!
//! One decoder per connection turns bytes into [`Signal`]s and answers the server's pings.
//! The hot path is a delivery: it is recognised by its first bytes and never parsed,
//! except where a sample of it is timed.

use arqon_proto::v1::{Envelope, Join, Opcode, Publish, envelope::Body};
use prost::Message;

use super::{
    protobuf::{field, put_bytes, put_varint, varint},
    websocket as ws,
};

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    /// ArqonBus.
    Shield,
    /// nats-server over TCP.
    Nats,
    /// nats-server over its own WebSocket listener.
    NatsWs,
    /// A server on the Go library centrifuge, protobuf over WebSocket.
    Centrifuge,
}

/// What a server told.
#[derive(Debug)]
pub(super) enum Signal<'a> {
    /// The session is open: WELCOME, or what stands for it.
    Open,
    /// The room is joined.
    Joined,
    /// A message of a room.
    Delivered(Delivery<'a>),
    /// Messages were missed.
    Gap {
        /// Why, as the protocol names it.
        reason: &'static str,
        /// How many, where that is known.
        missed: Option<u64>,
    },
    /// The server says something is wrong; the connection may live.
    Problem(String),
}

/// A message as it came, parsed only where its time stamp is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery<'a> {
    peer: Peer,
    bytes: &'a [u8],
}

impl Delivery<'_> {
    /// When it was published: the first eight bytes of its payload.
    pub(super) fn stamp(&self) -> Option<u64> {
        let payload = match self.peer {
            Peer::Nats | Peer::NatsWs => self.bytes,
            Peer::Shield => field(self.bytes, 5)?,
            // Reply.push.pub.data
            Peer::Centrifuge => field(field(field(self.bytes, 4)?, 4)?, 4)?,
        };
        Some(u64::from_le_bytes(payload.get(..8)?.try_into().ok()?))
    }
}

/// How one message is published: bytes to send, and where its stamp goes.
#[derive(Clone, Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    stamp_at: usize,
}

impl Template {
    /// A template for `room` with a payload of `size` bytes (8 at least).
    pub(super) fn new(peer: Peer, room: &str, size: usize) -> Self {
        let mut payload = vec![b'x'; size.max(8)];
        payload[..8].copy_from_slice(&MARK);
        let mut bytes = Vec::new();
        match peer {
            Peer::Shield => {
                let envelope = Envelope {
                    op: Opcode::Publish.into(),
                    room: room.to_owned(),
                    payload: payload.into(),
                    body: Some(Body::Publish(Publish { ack: false })),
                    ..Envelope::default()
                };
                ws::frame(&mut bytes, ws::BINARY, &envelope.encode_to_vec());
            }
            Peer::Nats => bytes = nats_pub(room, &payload),
            Peer::NatsWs => ws::frame(&mut bytes, ws::BINARY, &nats_pub(room, &payload)),
            Peer::Centrifuge => {
                // PublishRequest { channel = 1, data = 2 } as Command.publish = 7
                let mut request = Vec::new();
                put_bytes(&mut request, 1, room.as_bytes());
                put_bytes(&mut request, 2, &payload);
                ws::frame(&mut bytes, ws::BINARY, &command(3, 7, &request));
            }
        }
        let stamp_at = bytes
            .windows(8)
            .position(|window| window == MARK)
            .expect("the payload is in its frame");
        Self { bytes, stamp_at }
    }

    /// Appends one message stamped `now`.
    pub(super) fn write(&self, out: &mut Vec<u8>, now: u64) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        out[start + self.stamp_at..start + self.stamp_at + 8].copy_from_slice(&now.to_le_bytes());
    }
}

/// The first bytes of a connection, after TLS.
pub(super) fn hello(peer: Peer, host: &str, path: &str, token: Option<&str>) -> Vec<u8> {
    match peer {
        Peer::Shield => ws::upgrade(host, path, Some("arqon.v1"), token),
        Peer::Nats => NATS_CONNECT.to_vec(),
        Peer::NatsWs => ws::upgrade(host, path, None, None),
        Peer::Centrifuge => ws::upgrade(host, path, Some("centrifuge-protobuf"), None),
    }
}

/// Bytes that join `room`.
pub(super) fn join(peer: Peer, room: &str, echo: bool) -> Vec<u8> {
    let mut out = Vec::new();
    match peer {
        Peer::Shield => {
            let envelope = Envelope {
                op: Opcode::Join.into(),
                room: room.to_owned(),
                r#ref: 1,
                body: Some(Body::Join(Join {
                    echo: Some(echo),
                    ..Join::default()
                })),
                ..Envelope::default()
            };
            ws::frame(&mut out, ws::BINARY, &envelope.encode_to_vec());
        }
        Peer::Nats => out = format!("SUB {room} 1\r\nPING\r\n").into_bytes(),
        Peer::NatsWs => ws::frame(
            &mut out,
            ws::BINARY,
            format!("SUB {room} 1\r\nPING\r\n").as_bytes(),
        ),
        Peer::Centrifuge => {
            let mut request = Vec::new();
            put_bytes(&mut request, 1, room.as_bytes());
            ws::frame(&mut out, ws::BINARY, &command(2, 5, &request));
        }
    }
    out
}

/// The parser of one connection.
#[derive(Debug)]
pub(super) struct Decoder {
    peer: Peer,
    stage: Stage,
    /// Payload bytes of the current WebSocket frame not seen yet (NATS over WebSocket only,
    /// where one frame may hold megabytes).
    frame_left: usize,
    /// The beginning of a NATS message that crosses frames.
    partial: Vec<u8>,
    token: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Upgrading,
    Opening,
    Open,
}

impl Decoder {
    pub(super) fn new(peer: Peer, token: Option<&str>) -> Self {
        let stage = if peer == Peer::Nats {
            Stage::Opening
        } else {
            Stage::Upgrading
        };
        let token = token.filter(|_| peer == Peer::Centrifuge).map(Into::into);
        Self {
            peer,
            stage,
            frame_left: 0,
            partial: Vec::new(),
            token,
        }
    }

    /// Reads what is whole in `data` and returns how many bytes that was; answers go to `reply`.
    /// An error ends the connection.
    pub(super) fn feed(
        &mut self,
        data: &[u8],
        reply: &mut Vec<u8>,
        on: &mut impl FnMut(Signal<'_>),
    ) -> Result<usize, String> {
        let mut at = 0;
        if self.stage == Stage::Upgrading {
            let Some(end) = data.windows(4).position(|window| window == b"\r\n\r\n") else {
                return Ok(0);
            };
            let head = String::from_utf8_lossy(&data[..end]);
            let status = head.lines().next().unwrap_or_default();
            if !status.contains(" 101 ") {
                let body = String::from_utf8_lossy(&data[end + 4..]);
                let later = head
                    .lines()
                    .find(|line| line.to_ascii_lowercase().starts_with("retry-after:"))
                    .map(|line| format!(", {}", line.to_ascii_lowercase()))
                    .unwrap_or_default();
                return Err(format!("refused: {status}{later} {}", body.trim()));
            }
            at = end + 4;
            self.stage = Stage::Opening;
            match self.peer {
                Peer::NatsWs => ws::frame(reply, ws::BINARY, NATS_CONNECT),
                Peer::Centrifuge => {
                    let mut request = Vec::new();
                    if let Some(token) = &self.token {
                        put_bytes(&mut request, 1, token.as_bytes());
                    }
                    ws::frame(reply, ws::BINARY, &command(1, 4, &request));
                }
                Peer::Shield | Peer::Nats => {}
            }
        }
        if self.peer == Peer::Nats {
            return Ok(at + self.nats(&data[at..], reply, on)?);
        }
        loop {
            if self.frame_left > 0 {
                let take = self.frame_left.min(data.len() - at);
                if take == 0 {
                    return Ok(at);
                }
                self.frame_left -= take;
                self.nats_chunk(&data[at..at + take], reply, on)?;
                at += take;
                continue;
            }
            let Some(header) = ws::header(&data[at..]) else {
                return Ok(at);
            };
            let start = at + header.len;
            if self.peer == Peer::NatsWs && header.opcode <= ws::BINARY {
                self.frame_left = header.payload;
                at = start;
                continue;
            }
            let Some(payload) = data.get(start..start + header.payload) else {
                return Ok(at);
            };
            at = start + header.payload;
            match header.opcode {
                ws::PING => ws::frame(reply, ws::PONG, payload),
                ws::PONG => {}
                ws::CLOSE => {
                    let code = payload
                        .first_chunk()
                        .map_or(1005, |code| u16::from_be_bytes(*code));
                    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                    return Err(format!("closed by the server: {code} {reason}"));
                }
                _ if self.peer == Peer::Shield => self.shield(payload, on)?,
                _ => self.centrifuge(payload, reply, on)?,
            }
        }
    }

    #[inline]
    fn shield(&mut self, payload: &[u8], on: &mut impl FnMut(Signal<'_>)) -> Result<(), String> {
        // Field 1 (`op`), varint, MESSAGE: how every delivery begins.
        if payload.starts_with(&[0x08, Opcode::Message as u8]) {
            on(Signal::Delivered(Delivery {
                peer: self.peer,
                bytes: payload,
            }));
            return Ok(());
        }
        let envelope = Envelope::decode(payload).map_err(|e| format!("undecodable frame: {e}"))?;
        match envelope.body {
            Some(Body::Welcome(_)) => {
                self.stage = Stage::Open;
                on(Signal::Open);
            }
            Some(Body::Joined(_)) => on(Signal::Joined),
            Some(Body::Error(error)) => on(Signal::Problem(format!("ERROR {}", error.name))),
            Some(Body::Gap(gap)) => on(Signal::Gap {
                reason: gap.reason().as_str_name(),
                missed: gap.missed,
            }),
            Some(Body::Goaway(_)) => on(Signal::Problem("GOAWAY".into())),
            _ => {}
        }
        Ok(())
    }

    fn centrifuge(
        &mut self,
        mut payload: &[u8],
        reply: &mut Vec<u8>,
        on: &mut impl FnMut(Signal<'_>),
    ) -> Result<(), String> {
        // A frame is a run of length-delimited replies.
        while !payload.is_empty() {
            let Some((len, rest)) = varint(payload) else {
                return Err("bad centrifuge frame".into());
            };
            let Some((message, rest)) = rest.split_at_checked(len as usize) else {
                return Err("bad centrifuge frame".into());
            };
            payload = rest;
            match message.first() {
                // An empty reply is a ping, an empty command the answer.
                None => ws::frame(reply, ws::BINARY, &[0]),
                // Field 4 (`push`) first, so no id: a push. Only publications are asked for.
                Some(0x22) => on(Signal::Delivered(Delivery {
                    peer: self.peer,
                    bytes: message,
                })),
                _ if field(message, 2).is_some() => {
                    on(Signal::Problem("centrifuge error reply".into()))
                }
                _ if field(message, 5).is_some() => {
                    self.stage = Stage::Open;
                    on(Signal::Open);
                }
                _ if field(message, 6).is_some() => on(Signal::Joined),
                _ => {}
            }
        }
        Ok(())
    }

    /// A piece of the NATS stream inside WebSocket frames.
    fn nats_chunk(
        &mut self,
        chunk: &[u8],
        reply: &mut Vec<u8>,
        on: &mut impl FnMut(Signal<'_>),
    ) -> Result<(), String> {
        if self.partial.is_empty() {
            let used = self.nats(chunk, reply, on)?;
            self.partial.extend_from_slice(&chunk[used..]);
        } else {
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(chunk);
            let used = self.nats(&whole, reply, on)?;
            whole.drain(..used);
            self.partial = whole;
        }
        Ok(())
    }

    fn nats(
        &mut self,
        data: &[u8],
        reply: &mut Vec<u8>,
        on: &mut impl FnMut(Signal<'_>),
    ) -> Result<usize, String> {
        let mut at = 0;
        while let Some(end) = data[at..].iter().position(|&byte| byte == b'\n') {
            let line = &data[at..at + end];
            let after = at + end + 1;
            match line.first() {
                Some(b'M') => {
                    let len = trailing_number(line);
                    let Some(payload) = data.get(after..after + len) else {
                        return Ok(at);
                    };
                    if data.len() < after + len + 2 {
                        return Ok(at);
                    }
                    on(Signal::Delivered(Delivery {
                        peer: self.peer,
                        bytes: payload,
                    }));
                    at = after + len + 2;
                    continue;
                }
                Some(b'P') if line.starts_with(b"PING") => match self.peer {
                    Peer::NatsWs => ws::frame(reply, ws::BINARY, b"PONG\r\n"),
                    _ => reply.extend_from_slice(b"PONG\r\n"),
                },
                Some(b'P') if self.stage == Stage::Open => on(Signal::Joined),
                Some(b'P') => {
                    self.stage = Stage::Open;
                    on(Signal::Open);
                }
                Some(b'-') => on(Signal::Problem(
                    String::from_utf8_lossy(line).trim().to_owned(),
                )),
                _ => {}
            }
            at = after;
        }
        Ok(at)
    }
}

const NATS_CONNECT: &[u8] =
    b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"arq\",\"version\":\"1\",\"protocol\":1}\r\nPING\r\n";

/// Stands where the stamp goes until it is found.
const MARK: [u8; 8] = *b"\xfestamp!\xff";

fn nats_pub(room: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("PUB {room} {}\r\n", payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
    out
}

/// The number a NATS `MSG` line ends with.
fn trailing_number(line: &[u8]) -> usize {
    let (mut value, mut scale) = (0, 1);
    for byte in line.iter().rev().skip_while(|byte| !byte.is_ascii_digit()) {
        if !byte.is_ascii_digit() {
            break;
        }
        value += usize::from(byte - b'0') * scale;
        scale *= 10;
    }
    value
}

/// A length-delimited centrifuge command with `id` and one request.
fn command(id: u8, number: u32, request: &[u8]) -> Vec<u8> {
    let mut body = vec![0x08, id];
    put_bytes(&mut body, number, request);
    let mut out = Vec::new();
    put_varint(&mut out, body.len() as u64);
    out.extend_from_slice(&body);
    out
}

#[cfg(test)]
#[path = "dialect_tests.rs"]
mod tests;
