//! HTTP as bytes: one request, one answer, nothing hidden.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body, as text.
    pub body: String,
}

/// GETs a path with further header lines, each without its line end.
///
/// # Errors
/// If nothing that looks like HTTP comes back.
pub async fn get(addr: SocketAddr, path: &str, headers: &[&str]) -> io::Result<Answer> {
    get_over(TcpStream::connect(addr).await?, path, headers).await
}

/// As [`get`], over a stream that is open.
///
/// # Errors
/// If nothing that looks like HTTP comes back.
pub async fn get_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    headers: &[&str],
) -> io::Result<Answer> {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n");
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let (mut answer, rest) = read_head(&mut stream).await?;
    answer.body = read_body(&mut stream, &answer, rest).await?;
    Ok(answer)
}

/// Reads up to the blank line that ends a head; what was read beyond comes back too.
pub(crate) async fn read_until_blank(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = find(&bytes, b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("closed after {text:?}"),
            ));
        }
    };
    let rest = bytes.split_off(end + 4);
    Ok((bytes, rest))
}

/// Reads status and headers; what was read beyond comes back too.
pub(crate) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<(Answer, Vec<u8>)> {
    let (bytes, rest) = read_until_blank(stream).await?;
    let head = String::from_utf8_lossy(&bytes);
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, head.clone().into_owned()))?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let body = String::new();
    Ok((
        Answer {
            status,
            headers,
            body,
        },
        rest,
    ))
}

pub(crate) async fn read_body(
    stream: &mut (impl AsyncRead + Unpin),
    answer: &Answer,
    mut bytes: Vec<u8>,
) -> io::Result<String> {
    if answer.header("transfer-encoding") == Some("chunked") {
        while !bytes.ends_with(b"0\r\n\r\n") && stream.read_buf(&mut bytes).await? > 0 {}
        bytes = unchunk(&bytes);
    } else if let Some(len) = answer
        .header("content-length")
        .and_then(|len| len.parse().ok())
    {
        while bytes.len() < len && stream.read_buf(&mut bytes).await? > 0 {}
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(at) = find(bytes, b"\r\n") {
        let size = std::str::from_utf8(&bytes[..at])
            .ok()
            .and_then(|hex| usize::from_str_radix(hex, 16).ok())
            .unwrap_or(0);
        let end = at + 2 + size;
        if size == 0 || bytes.len() < end {
            break;
        }
        whole.extend_from_slice(&bytes[at + 2..end]);
        bytes = bytes.get(end + 2..).unwrap_or_default();
    }
    whole
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}

// === impl Answer ===

impl Answer {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }
}
