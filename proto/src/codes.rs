//! The codes that clients see, generated from `codes.toml`.

use std::fmt;

include!(concat!(env!("OUT_DIR"), "/codes.rs"));

/// Whether, and after what, the same request may succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// It cannot.
    Never,
    /// Later, unchanged.
    Later,
    /// With another token.
    NewToken,
}

struct Info {
    public: ErrorCode,
    retry: Retry,
    http: Option<u16>,
}

impl ErrorCode {
    /// The stable number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The code to tell a client: another one where the exact code would let
    /// it tell tenants apart. Everything sent to a client is taken from this.
    #[must_use]
    pub const fn public(self) -> Self {
        self.info().public
    }

    /// Whether, and after what, the same request may succeed.
    #[must_use]
    pub const fn retry(self) -> Retry {
        self.info().retry
    }

    /// True where the same request may succeed later, unchanged.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(self.info().retry, Retry::Later)
    }

    /// True where another token is needed first.
    #[must_use]
    pub const fn needs_new_token(self) -> bool {
        matches!(self.info().retry, Retry::NewToken)
    }

    /// The status of a refusal before the upgrade; `None` for a code that is
    /// told only on a live session.
    #[must_use]
    pub const fn http_status(self) -> Option<u16> {
        self.info().http
    }
}

impl CloseCode {
    /// The number sent in the WebSocket close frame.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Whether the client should connect again.
    #[must_use]
    pub const fn reconnect(self) -> bool {
        self.number() < 4500
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for ErrorCode {}
