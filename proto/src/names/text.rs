//! Names that are text.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{NameError, Problem};

/// Tenants whose subjects would be taken for the platform's.
const RESERVED_TENANTS: [&str; 4] = ["arqon", "sys", "control", "brain"];
const MAX_LABEL: usize = 63;
const MAX_USER: usize = 128;
pub(super) const MAX_ROOM: usize = 200;
pub(super) const MAX_ROOM_TOKENS: usize = 4;
const MAX_ROOM_TOKEN: usize = 64;

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a text against the grammar of this name.
            ///
            /// # Errors
            /// Where it does not fit; the error says why.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                match $check(text) {
                    Ok(()) => Ok(Self(text.into())),
                    Err(problem) => Err(NameError { kind: $kind, problem }),
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), self.as_str())
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

text_name!(
    /// A tenant: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`, not `arqon`, `sys`,
    /// `control` or `brain`. One token of a subject, without case, so that no
    /// tool that folds case can merge two tenants.
    TenantId,
    "tenant id",
    check_tenant
);
text_name!(
    /// A room without its tenant: 1 to 4 tokens of `[A-Za-z0-9_-]{1,64}`
    /// joined by dots, at most 200 bytes, not beginning with `_`.
    RoomId,
    "room id",
    check_room
);
text_name!(
    /// A user, the token's `sub`: 1 to 128 bytes of printable UTF-8. Never
    /// part of a subject. Not printable are control characters, white space
    /// but single inner blanks, and what has no shape of its own (zero width,
    /// direction marks): two users that look alike in a log would be two.
    UserId,
    "user id",
    check_user
);
text_name!(
    /// A policy, a KV key: a tenant's grammar, nothing reserved.
    PolicyName,
    "policy name",
    check_label
);
text_name!(
    /// A node or a pool of nodes, part of control subjects: a tenant's
    /// grammar, nothing reserved.
    NodeId,
    "node id",
    check_label
);

fn check_tenant(text: &str) -> Result<(), Problem> {
    check_label(text)?;
    if RESERVED_TENANTS.contains(&text) {
        return Err(Problem::Reserved);
    }
    Ok(())
}

fn check_label(text: &str) -> Result<(), Problem> {
    check_length(text, MAX_LABEL)?;
    let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
    if let Some(c) = text.chars().find(|c| !allowed(c)) {
        return Err(Problem::Character(c));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(Problem::Edge('-'));
    }
    Ok(())
}

fn check_room(text: &str) -> Result<(), Problem> {
    check_length(text, MAX_ROOM)?;
    let mut tokens = 0;
    for token in text.split('.') {
        tokens += 1;
        check_room_token(token)?;
    }
    if tokens > MAX_ROOM_TOKENS {
        return Err(Problem::TooManyTokens(MAX_ROOM_TOKENS));
    }
    if text.starts_with('_') {
        return Err(Problem::Underscore);
    }
    Ok(())
}

pub(super) fn check_room_token(token: &str) -> Result<(), Problem> {
    if token.is_empty() {
        return Err(Problem::EmptyToken);
    }
    if token.len() > MAX_ROOM_TOKEN {
        return Err(Problem::TokenTooLong(MAX_ROOM_TOKEN));
    }
    let allowed = |c: &char| c.is_ascii_alphanumeric() || *c == '_' || *c == '-';
    match token.chars().find(|c| !allowed(c)) {
        Some(c) => Err(Problem::Character(c)),
        None => Ok(()),
    }
}

fn check_user(text: &str) -> Result<(), Problem> {
    check_length(text, MAX_USER)?;
    if let Some(c) = text.chars().find(|c| !printable(*c)) {
        return Err(Problem::Character(c));
    }
    if text.starts_with(' ') || text.ends_with(' ') {
        return Err(Problem::Edge(' '));
    }
    Ok(())
}

pub(super) fn check_length(text: &str, max: usize) -> Result<(), Problem> {
    if text.is_empty() {
        Err(Problem::Empty)
    } else if text.len() > max {
        Err(Problem::TooLong(max))
    } else {
        Ok(())
    }
}

/// By exclusion, since Unicode adds letters each year: an id of a new script
/// passes, while what hides or reorders text is a short and settled list.
fn printable(c: char) -> bool {
    let invisible = matches!(
        u32::from(c),
        0x00AD                      // soft hyphen
            | 0x034F                // combining grapheme joiner
            | 0x061C                // Arabic letter mark
            | 0x115F..=0x1160       // Hangul fillers
            | 0x17B4..=0x17B5       // Khmer inherent vowels
            | 0x180B..=0x180F       // Mongolian selectors
            | 0x200B..=0x200F       // zero width, direction marks
            | 0x2028..=0x202E       // line separators, direction overrides
            | 0x2060..=0x206F       // word joiner, isolates, deprecated formats
            | 0x3164                // Hangul filler
            | 0xE000..=0xF8FF       // private use
            | 0xFE00..=0xFE0F       // variation selectors
            | 0xFEFF                // byte order mark
            | 0xFFA0                // halfwidth Hangul filler
            | 0xFFF0..=0xFFFC       // specials
            | 0x1D173..=0x1D17A     // musical format controls
            | 0xE0000..=0x10_FFFF   // tags, selectors, private use
    );
    // The last two code points of each plane are no characters.
    let noncharacter = u32::from(c) & 0xFFFE == 0xFFFE || ('\u{FDD0}'..='\u{FDEF}').contains(&c);
    c == ' ' || !(c.is_control() || c.is_whitespace() || invisible || noncharacter)
}
