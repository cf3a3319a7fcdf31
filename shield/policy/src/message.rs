//! What a policy sees and says, as Rust types.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use sha2::Digest as _;

/// A message as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The TenantID.
    pub tenant: &'a str,
    /// The RoomID.
    pub room: &'a str,
    /// The UserID of the publisher.
    pub user: &'a str,
    /// The role of the publisher.
    pub role: &'a str,
    /// What policies may change.
    pub draft: &'a Draft,
}

/// What of a message policies may change.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Draft {
    /// Application headers: none of the platform's.
    pub headers: BTreeMap<String, String>,
    /// The payload.
    pub payload: Bytes,
}

/// What a policy says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may pass.
    Allow,
    /// Nobody receives it; the reason, cut to [`crate::MAX_REASON_BYTES`].
    Block(String),
    /// It passes, changed.
    Transform(Rewrite),
}

/// A change.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// The new payload.
    pub payload: Option<Bytes>,
    /// All application headers from now on.
    pub headers: Option<BTreeMap<String, String>>,
}

/// SHA-256 of a component: its version.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

// Payloads and headers must not end up in logs.
impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("headers", &self.headers.len())
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}

impl fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rewrite")
            .field("headers", &self.headers.as_ref().map(BTreeMap::len))
            .field("payload_bytes", &self.payload.as_ref().map(Bytes::len))
            .finish()
    }
}

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// From its 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// From its lower-case hexadecimal form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
        Self::from_bytes(&bytes)
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
