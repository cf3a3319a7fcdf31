//! Names that are UUIDv7.

use std::fmt;
use std::str::FromStr;

use uuid::{Uuid, Variant};

use super::{NameError, Problem};

macro_rules! uuid_name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new one, of this moment; those of one process ascend.
            #[must_use]
            #[allow(clippy::new_without_default, reason = "a default that differs each time misleads")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Checks a text: 36 characters, hyphens in place, version 7. Upper
            /// case is taken, as RFC 9562 asks, and told in lower case.
            ///
            /// # Errors
            /// Where it is anything else.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                parse(text).map(Self).ok_or(NameError { kind: $kind, problem: Problem::NotUuidV7 })
            }

            /// The UUID.
            #[must_use]
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }

            /// The 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// Checks 16 bytes: version 7.
            ///
            /// # Errors
            /// Where they are anything else.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, NameError> {
                let uuid = Uuid::from_slice(bytes).ok();
                let uuid = uuid.filter(|uuid| {
                    uuid.get_version_num() == 7 && uuid.get_variant() == Variant::RFC4122
                });
                uuid.map(Self).ok_or(NameError { kind: $kind, problem: Problem::NotUuidV7 })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }
    };
}

uuid_name!(
    /// A session: one WebSocket connection from upgrade to close.
    SessionId,
    "session id"
);
uuid_name!(
    /// A message, its `X-Twist-ID`.
    TwistId,
    "twist id"
);

/// `Uuid::parse_str` alone would also take braces, `urn:uuid:` and bare hex.
fn parse(text: &str) -> Option<Uuid> {
    if text.len() != 36 {
        return None;
    }
    let uuid = Uuid::try_parse(text).ok()?;
    (uuid.get_version_num() == 7 && uuid.get_variant() == Variant::RFC4122).then_some(uuid)
}
