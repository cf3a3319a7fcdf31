//! The little of RFC 6455 a load generator needs: frame headers, read without copying.
//!
//! Client frames are masked with the key 0, which is legal and leaves the payload as it is,
//! so that the generator spends nothing on it; the server unmasks as it always must.

/// Frame opcodes used here.
pub(super) const BINARY: u8 = 0x2;
/// Close.
pub(super) const CLOSE: u8 = 0x8;
/// Ping.
pub(super) const PING: u8 = 0x9;
/// Pong.
pub(super) const PONG: u8 = 0xA;

/// The header of a server frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The opcode; 0 for a continuation.
    pub(super) opcode: u8,
    /// Bytes of the header itself.
    pub(super) len: usize,
    /// Bytes of the payload.
    pub(super) payload: usize,
}

/// Reads a frame header, or `None` while it is incomplete.
#[inline]
pub(super) fn header(data: &[u8]) -> Option<Header> {
    let [first, second, ..] = *data else {
        return None;
    };
    let masked = usize::from(second >> 7) * 4;
    let (len, payload) = match second & 0x7f {
        126 => (
            4,
            u64::from(u16::from_be_bytes(data.get(2..4)?.try_into().ok()?)),
        ),
        127 => (10, u64::from_be_bytes(data.get(2..10)?.try_into().ok()?)),
        short => (2, u64::from(short)),
    };
    let payload = usize::try_from(payload).unwrap_or(usize::MAX / 2);
    (data.len() >= len + masked).then_some(Header {
        opcode: first & 0x0f,
        len: len + masked,
        payload,
    })
}

/// Appends a final, masked client frame.
pub(super) fn frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

/// The upgrade request.
pub(super) fn upgrade(
    host: &str,
    path: &str,
    subprotocol: Option<&str>,
    token: Option<&str>,
) -> Vec<u8> {
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YXJxb24tYmVuY2gta2V5IQ==\r\n"
    );
    if let Some(name) = subprotocol {
        request.push_str(&format!("Sec-WebSocket-Protocol: {name}\r\n"));
    }
    if let Some(token) = token {
        request.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    request.push_str("\r\n");
    request.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_all_lengths_round_trip() {
        for n in [0, 1, 125, 126, 65_535, 65_536] {
            let mut out = Vec::new();
            frame(&mut out, BINARY, &vec![7; n]);
            let header = header(&out).expect("complete");
            assert_eq!(
                (header.opcode, header.payload, header.len + n),
                (BINARY, n, out.len())
            );
        }
        assert_eq!(header(&[0x82]), None);
        assert_eq!(header(&[0x82, 126, 1]), None);
    }
}
