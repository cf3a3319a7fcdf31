//! What can go wrong.

use std::io;

use arqon_proto::codes::{CloseCode, ErrorCode};
use tokio_tungstenite::tungstenite;

/// A failure of the connection or of a request on it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is not `ws://host[:port][/path]` or `wss://…`.
    #[error("the URL {0:?} is not ws:// or wss:// with a host")]
    InvalidUrl(String),
    /// The token, or the subprotocol, cannot be sent in an HTTP header.
    #[error("the {0} has characters that a header cannot carry")]
    InvalidHeader(&'static str),
    /// The certificates to trust cannot be read.
    #[error("the trusted certificates cannot be used: {0}")]
    InvalidCertificates(String),
    /// No certificates were given, and the system has none.
    #[error("this machine knows no certificate authority")]
    NoAuthorities,
    /// The host has no address, or none that goes with `source_addr`.
    #[error("no usable address for {0}")]
    NoAddress(String),
    /// No TCP connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No TLS session.
    #[error("the TLS handshake with {host} failed")]
    Tls {
        /// The name the certificate was checked against.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The upgrade was answered with a refusal.
    #[error("refused with HTTP {status} {code}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The name of the code that the body tells, or empty.
        code: String,
        /// The body as it came.
        body: String,
        /// Seconds of the `Retry-After` header.
        retry_after_secs: Option<u64>,
    },
    /// The answer to the upgrade is not that of a WebSocket server of ours.
    #[error("the upgrade failed: {0}")]
    Handshake(&'static str),
    /// Connecting took longer than allowed.
    #[error("no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// The server closed the connection with a code.
    #[error("closed by the server with {code} {reason:?}")]
    Closed {
        /// The close code, see [`CloseCode`] for those of ours.
        code: u16,
        /// The reason it gave.
        reason: String,
    },
    /// The connection ended without a close.
    #[error("the connection was lost")]
    Lost(#[source] Option<Box<tungstenite::Error>>),
    /// The server broke the protocol.
    #[error("the server sent what is not of the protocol: {0}")]
    Protocol(&'static str),
    /// The server sent a frame that does not decode.
    #[error("the server sent a frame that is not of the protocol")]
    Frame(#[source] ErrorCode),
    /// A request was answered with ERROR.
    #[error("{0}")]
    Rejected(Box<Rejection>),
}

/// An ERROR frame that answered a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// Stable number.
    pub code: u32,
    /// Stable name.
    pub name: String,
    /// For people.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Milliseconds to wait first; 0 where not said.
    pub retry_after_ms: u32,
    /// The binding that blocked a message, where that may be told.
    pub policy: String,
    /// Its reason, likewise.
    pub reason: String,
}

impl Rejection {
    /// The code, where this version knows it.
    #[must_use]
    pub fn known(&self) -> Option<ErrorCode> {
        ErrorCode::from_name(&self.name)
    }
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.code, self.name, self.message)
    }
}

impl From<arqon_proto::v1::Error> for Rejection {
    fn from(error: arqon_proto::v1::Error) -> Self {
        Self {
            code: error.code,
            name: error.name,
            message: error.message,
            retryable: error.retryable,
            retry_after_ms: error.retry_after_ms,
            policy: error.policy,
            reason: error.reason,
        }
    }
}

impl ClientError {
    /// The close code, where the server closed with one of ours.
    #[must_use]
    pub fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Closed { code, .. } => CloseCode::from_number(*code),
            _ => None,
        }
    }

    /// The error code, where the server refused or rejected with one of ours.
    #[must_use]
    pub fn error_code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => ErrorCode::from_name(code),
            Self::Rejected(rejection) => rejection.known(),
            _ => None,
        }
    }
}

impl From<tungstenite::Error> for ClientError {
    fn from(error: tungstenite::Error) -> Self {
        use tungstenite::Error;
        match error {
            Error::ConnectionClosed | Error::AlreadyClosed => Self::Lost(None),
            other => Self::Lost(Some(Box::new(other))),
        }
    }
}
