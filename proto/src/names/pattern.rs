//! Patterns of rooms.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::text::{MAX_ROOM, MAX_ROOM_TOKENS, check_length, check_room_token};
use super::{NameError, Problem, RoomId};

/// Rooms by pattern: a room's grammar in which a whole token may be `*` (any
/// one token) and the last may be `>` (one or more tokens), as in NATS. The
/// same in a token's `rooms` claim, in policy scopes and in limits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomPattern(Arc<str>);

impl RoomPattern {
    /// Checks a text.
    ///
    /// # Errors
    /// Where it is no pattern, or one that no room could ever match.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match check(text) {
            Ok(()) => Ok(Self(text.into())),
            Err(problem) => Err(NameError {
                kind: "room pattern",
                problem,
            }),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a room is one of these.
    #[must_use]
    pub fn matches(&self, room: &RoomId) -> bool {
        let mut room = room.as_str().split('.');
        for wanted in self.0.split('.') {
            let token = room.next();
            match (wanted, token) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
        room.next().is_none()
    }
}

fn check(text: &str) -> Result<(), Problem> {
    check_length(text, MAX_ROOM)?;
    let mut tokens = 0;
    let mut ended = false;
    for token in text.split('.') {
        if ended {
            return Err(Problem::MisplacedRest);
        }
        tokens += 1;
        match token {
            "*" => {}
            ">" => ended = true,
            token if token.contains('>') => return Err(Problem::MisplacedRest),
            token => check_room_token(token)?,
        }
    }
    if tokens > MAX_ROOM_TOKENS {
        return Err(Problem::TooManyTokens(MAX_ROOM_TOKENS));
    }
    if text.starts_with('_') {
        return Err(Problem::Underscore);
    }
    Ok(())
}

impl AsRef<str> for RoomPattern {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RoomPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoomPattern({:?})", self.as_str())
    }
}

impl FromStr for RoomPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}
