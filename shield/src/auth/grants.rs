//! What a token allows within its tenant.

use arqon_proto::names::{RoomId, RoomPattern};

/// Patterns in one list of the `rooms` claim. They are kept by the session and
/// tried in turn at each JOIN and PUBLISH.
const MAX_PATTERNS: usize = 128;

/// What kind of client a token is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Joins, and publishes to rooms it has joined.
    #[default]
    User,
    /// Joins only.
    Observer,
    /// Publishes also to rooms it has not joined.
    Service,
    /// As a user, so far.
    Admin,
}

/// The rooms a token covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomGrants(
    /// None: all rooms. Boxed, since most sessions have none.
    Option<Box<Patterns>>,
);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Patterns {
    join: Box<[RoomPattern]>,
    publish: Box<[RoomPattern]>,
}

// === impl Role ===

impl Role {
    /// The role of that name in the `role` claim.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "user" => Self::User,
            "observer" => Self::Observer,
            "service" => Self::Service,
            "admin" => Self::Admin,
            _ => return None,
        })
    }

    /// Its name in the `role` claim.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Observer => "observer",
            Self::Service => "service",
            Self::Admin => "admin",
        }
    }

    /// Whether this role publishes at all.
    pub fn may_publish(self) -> bool {
        self != Self::Observer
    }

    /// Whether this role publishes to rooms it has not joined.
    pub fn may_publish_unjoined(self) -> bool {
        self == Self::Service
    }
}

// === impl RoomGrants ===

impl RoomGrants {
    /// Every room, for joining and for publishing.
    pub fn all() -> Self {
        Self(None)
    }

    /// Only what these patterns cover. The error names the pattern.
    pub fn parse(join: &[String], publish: &[String]) -> Result<Self, String> {
        Ok(Self(Some(Box::new(Patterns {
            join: patterns("rooms.join", join)?,
            publish: patterns("rooms.publish", publish)?,
        }))))
    }

    /// Whether the token lets its session join this room.
    pub fn may_join(&self, room: &RoomId) -> bool {
        self.0
            .as_ref()
            .is_none_or(|patterns| covers(&patterns.join, room))
    }

    /// Whether the token lets its session publish to this room. The role may
    /// forbid it still.
    pub fn may_publish(&self, room: &RoomId) -> bool {
        self.0
            .as_ref()
            .is_none_or(|patterns| covers(&patterns.publish, room))
    }
}

fn covers(patterns: &[RoomPattern], room: &RoomId) -> bool {
    patterns.iter().any(|pattern| pattern.matches(room))
}

fn patterns(claim: &str, texts: &[String]) -> Result<Box<[RoomPattern]>, String> {
    if texts.len() > MAX_PATTERNS {
        return Err(format!("{claim} has over {MAX_PATTERNS} patterns"));
    }
    texts
        .iter()
        .map(|text| RoomPattern::parse(text).map_err(|error| format!("{claim}: {error}")))
        .collect()
}
