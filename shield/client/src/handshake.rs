//! The upgrade. Written here, since tungstenite's own gives only as much of a
//! refusal's body as happened to come with its head, and logs the token.

use arqon_proto::codes::ErrorCode;
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_LENGTH, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::header::{HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::handshake::client::{Response, generate_key};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse as _;

use crate::{ClientError, TokenIn};

const MAX_HEAD: usize = 16 << 10;
const MAX_BODY: usize = 64 << 10;

/// The request's bytes, and what the answer must fit.
pub(crate) struct Request {
    bytes: Vec<u8>,
    accept: String,
    subprotocol: Option<String>,
}

impl Request {
    pub(crate) fn new(
        authority: &str,
        path: &str,
        token: Option<(TokenIn, &str)>,
        subprotocol: Option<&str>,
        traceparent: Option<&str>,
    ) -> Result<Self, ClientError> {
        let key = generate_key();
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        );
        let mut offered: Vec<String> = subprotocol.map(str::to_owned).into_iter().collect();
        match token {
            None => {}
            Some((TokenIn::Authorization, token)) => {
                let value = checked("token", &format!("Bearer {token}"))?;
                head.push_str(&format!("Authorization: {value}\r\n"));
            }
            Some((TokenIn::Subprotocol, token)) => offered.push(format!("arqon.bearer.{token}")),
        }
        if let Some(traceparent) = traceparent {
            let value = checked("traceparent", traceparent)?;
            head.push_str(&format!("traceparent: {value}\r\n"));
        }
        if !offered.is_empty() {
            let value = checked("subprotocol", &offered.join(", "))?;
            head.push_str(&format!("Sec-WebSocket-Protocol: {value}\r\n"));
        }
        head.push_str("\r\n");
        Ok(Self {
            bytes: head.into_bytes(),
            accept: derive_accept_key(key.as_bytes()),
            subprotocol: subprotocol.map(str::to_owned),
        })
    }
}

/// A value that cannot end its header line.
fn checked(what: &'static str, value: &str) -> Result<String, ClientError> {
    let valid = HeaderValue::from_str(value).is_ok_and(|v| v.to_str().is_ok());
    if valid {
        Ok(value.to_owned())
    } else {
        Err(ClientError::InvalidHeader(what))
    }
}

/// Asks for the upgrade; what was read past the answer belongs to the WebSocket.
pub(crate) async fn upgrade<S>(stream: &mut S, request: &Request) -> Result<Vec<u8>, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(&request.bytes).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut read = Vec::with_capacity(512);
    let response = loop {
        match Response::try_parse(&read) {
            Ok(Some((head, response))) => {
                read.drain(..head);
                break response;
            }
            Ok(None) if read.len() < MAX_HEAD => {}
            _ => return Err(ClientError::Handshake("the answer is not HTTP/1.1")),
        }
        if stream.read_buf(&mut read).await.map_err(lost)? == 0 {
            return Err(ClientError::Lost(None));
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(stream, &response, read).await);
    }
    verify(&response, request)?;
    Ok(read)
}

fn verify(response: &Response, request: &Request) -> Result<(), ClientError> {
    // Both are lists: `Connection: Upgrade, close` is an upgrade too.
    let is = |name: HeaderName, wanted: &str| {
        let value = response.headers().get(name).and_then(|v| v.to_str().ok());
        value.is_some_and(|v| v.split(',').any(|v| v.trim().eq_ignore_ascii_case(wanted)))
    };
    if !is(UPGRADE, "websocket") || !is(CONNECTION, "upgrade") {
        return Err(ClientError::Handshake(
            "101 without an upgrade to websocket",
        ));
    }
    let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT);
    if accept.is_none_or(|v| v.as_bytes() != request.accept.as_bytes()) {
        return Err(ClientError::Handshake("wrong Sec-WebSocket-Accept"));
    }
    let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
    if chosen.map(HeaderValue::as_bytes) != request.subprotocol.as_deref().map(str::as_bytes) {
        return Err(ClientError::Handshake(
            "the subprotocol is not the one offered",
        ));
    }
    Ok(())
}

async fn refusal<S>(stream: &mut S, response: &Response, mut body: Vec<u8>) -> ClientError
where
    S: AsyncRead + Unpin,
{
    let number = |name: HeaderName| {
        let value = response.headers().get(name).and_then(|v| v.to_str().ok());
        value.and_then(|v| v.parse::<u64>().ok())
    };
    // Without a length the body ends with the connection.
    let length = number(CONTENT_LENGTH).and_then(|n| usize::try_from(n).ok());
    let wanted = length.unwrap_or(MAX_BODY).min(MAX_BODY);
    while body.len() < wanted {
        // What came is reported even where the rest is lost.
        match stream.read_buf(&mut body).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    body.truncate(wanted);
    let body = String::from_utf8_lossy(&body).into_owned();
    ClientError::Refused {
        status: response.status().as_u16(),
        code: code_of(&body),
        body,
        retry_after_secs: number(RETRY_AFTER),
    }
}

/// The name of the code, whichever of its two forms the body gives.
fn code_of(body: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let number = json["code"].as_u64().and_then(|n| u16::try_from(n).ok());
    let known = number.and_then(ErrorCode::from_number).map(ErrorCode::name);
    json["name"]
        .as_str()
        .or(known)
        .unwrap_or_default()
        .to_owned()
}

fn lost(error: std::io::Error) -> ClientError {
    ClientError::Lost(Some(Box::new(error.into())))
}
