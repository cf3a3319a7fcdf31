//! A WebSocket peer made of bytes: it can break every rule of RFC 6455 and of
//! the protocol, which a proper client would not let a story do.

use std::io;
use std::net::SocketAddr;

use arqon_proto::envelope;
use arqon_proto::v1::Envelope;
use bytes::Bytes;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::{self, Answer};
use crate::within;

/// Opcodes of RFC 6455.
pub mod op {
    /// Goes on with a fragmented message.
    pub const CONTINUATION: u8 = 0;
    /// Text.
    pub const TEXT: u8 = 1;
    /// Binary.
    pub const BINARY: u8 = 2;
    /// Close.
    pub const CLOSE: u8 = 8;
    /// Ping.
    pub const PING: u8 = 9;
    /// Pong.
    pub const PONG: u8 = 10;
}

/// Any byte stream: TCP or TLS over it.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A peer past the upgrade.
pub struct RawPeer {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
    /// What the upgrade was answered with.
    pub answer: Answer,
}

/// One frame from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFrame {
    /// Whether it ends its message.
    pub fin: bool,
    /// See [`op`].
    pub opcode: u8,
    /// Its payload.
    pub payload: Bytes,
}

/// The header lines of a proper upgrade, without a token.
pub const UPGRADE: [&str; 4] = [
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// A client frame, masked as it must be.
pub fn masked(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x21, 0x43, 0x65, 0x87];
    let mut bytes = header(fin, opcode, payload.len() as u64, true);
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(a, b)| a ^ b));
    bytes
}

/// The header of a frame that claims this length.
pub fn header(fin: bool, opcode: u8, len: u64, mask: bool) -> Vec<u8> {
    let mut bytes = vec![u8::from(fin) << 7 | opcode];
    let mask = u8::from(mask) << 7;
    match len {
        0..=125 => bytes.push(mask | len as u8),
        126..=0xffff => {
            bytes.push(mask | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask | 127);
            bytes.extend_from_slice(&len.to_be_bytes());
        }
    }
    bytes
}

// === impl RawPeer ===

impl RawPeer {
    /// Asks for an upgrade on `/v1/socket` with this bearer token.
    ///
    /// # Errors
    /// The answer that refused it.
    pub async fn open(addr: SocketAddr, token: &str) -> Result<Self, Answer> {
        let authorization = format!("Authorization: Bearer {token}");
        Self::ask(addr, "/v1/socket", &[&authorization]).await
    }

    /// Asks for an upgrade with these header lines beside those of [`UPGRADE`].
    ///
    /// # Errors
    /// The answer that refused it.
    pub async fn ask(addr: SocketAddr, path: &str, headers: &[&str]) -> Result<Self, Answer> {
        let stream = within("a TCP connection", TcpStream::connect(addr))
            .await
            .expect("the address is listened on");
        Self::ask_over(stream, path, headers).await
    }

    /// The same over any stream.
    ///
    /// # Errors
    /// The answer that refused it.
    pub async fn ask_over(
        stream: impl Stream + 'static,
        path: &str,
        headers: &[&str],
    ) -> Result<Self, Answer> {
        within("an HTTP answer", Self::try_ask(stream, path, headers))
            .await
            .expect("an HTTP answer comes")
    }

    /// As [`RawPeer::open`]; None where nobody listens or it is refused.
    pub async fn open_if_listening(addr: SocketAddr, token: &str) -> Option<Self> {
        let stream = TcpStream::connect(addr).await.ok()?;
        let authorization = format!("Authorization: Bearer {token}");
        Self::try_ask(stream, "/v1/socket", &[&authorization])
            .await
            .ok()?
            .ok()
    }

    async fn try_ask(
        mut stream: impl Stream + 'static,
        path: &str,
        headers: &[&str],
    ) -> io::Result<Result<Self, Answer>> {
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: arqon.test\r\n");
        for line in UPGRADE.iter().chain(headers) {
            request.push_str(line);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        let (mut answer, unread) = http::read_head(&mut stream).await?;
        if answer.status != 101 {
            answer.body = http::read_body(&mut stream, &answer, unread).await?;
            return Ok(Err(answer));
        }
        Ok(Ok(Self {
            stream: Box::new(stream),
            unread,
            answer,
        }))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Sends one whole message.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn send(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        self.send_bytes(&masked(true, opcode, payload)).await
    }

    /// Sends an Envelope, whatever it holds.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn send_envelope(&mut self, envelope: &Envelope) -> io::Result<()> {
        self.send(op::BINARY, &envelope.encode_to_vec()).await
    }

    /// The next frame; None where the connection ends.
    pub async fn frame(&mut self) -> Option<RawFrame> {
        within("a frame", self.read_frame()).await
    }

    async fn read_frame(&mut self) -> Option<RawFrame> {
        let [first, second] = *self.take(2).await? else {
            unreachable!("two bytes were asked for")
        };
        assert_eq!(second & 0x80, 0, "a server's frame is never masked");
        let len = match second {
            126 => self.take(2).await?.iter().fold(0, shift_in),
            127 => self.take(8).await?.iter().fold(0, shift_in),
            len => usize::from(len),
        };
        let payload = self.take(len).await?.into();
        Some(RawFrame {
            fin: first & 0x80 != 0,
            opcode: first & 0x0f,
            payload,
        })
    }

    async fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.unread.len() < len {
            // A reset and an orderly end are both the end.
            if self.stream.read_buf(&mut self.unread).await.unwrap_or(0) == 0 {
                return None;
            }
        }
        let rest = self.unread.split_off(len);
        Some(std::mem::replace(&mut self.unread, rest))
    }

    /// The next Envelope, pings of the server aside.
    ///
    /// # Panics
    /// If anything else comes.
    pub async fn envelope(&mut self) -> Envelope {
        loop {
            match self.frame().await {
                Some(frame) if frame.opcode == op::PING => {}
                Some(frame) if frame.opcode == op::BINARY && frame.fin => {
                    return envelope::decode_server(frame.payload)
                        .expect("a server sends valid Envelopes");
                }
                other => panic!("an Envelope was due, but {other:?} came"),
            }
        }
    }

    /// Reads to the end; the close code, or None where the connection just broke.
    pub async fn close_code(&mut self) -> Option<u16> {
        while let Some(frame) = self.frame().await {
            if frame.opcode == op::CLOSE {
                let code = frame.payload.get(..2)?;
                return Some(u16::from_be_bytes([code[0], code[1]]));
            }
        }
        None
    }

    /// The stream under it, for a story that goes below frames.
    pub fn into_stream(self) -> Box<dyn Stream> {
        self.stream
    }
}

fn shift_in(sum: usize, byte: &u8) -> usize {
    sum << 8 | usize::from(*byte)
}
