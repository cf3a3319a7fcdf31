//! What becomes of a room's messages for a member that reads too slowly.

use arqon_proto::{
    names::{RoomId, RoomPattern},
    v1,
};
use arqon_spine::manifest::Overflow;

/// The rules of one tenant. The first that covers a room holds for it.
#[derive(Debug)]
pub(crate) struct OverflowRules {
    rooms: Vec<(RoomPattern, Overflow)>,
    otherwise: Overflow,
}

// === impl OverflowRules ===

impl OverflowRules {
    /// The rules of a tenant's record, over those of the manifest.
    pub(crate) fn of(record: &v1::TenantRecord, otherwise: Overflow) -> Self {
        let rooms = record.overflow.iter().filter_map(|rule| {
            let overflow = match rule.overflow() {
                v1::Overflow::CloseAndReconnect => Overflow::CloseAndReconnect,
                v1::Overflow::DropOldest => Overflow::DropOldest,
                v1::Overflow::LatestOnly => Overflow::LatestOnly,
                // Of a later version.
                v1::Overflow::Unspecified => return None,
            };
            Some((RoomPattern::parse(&rule.rooms).ok()?, overflow))
        });
        Self {
            rooms: rooms.collect(),
            otherwise,
        }
    }

    pub(crate) fn of_room(&self, room: &RoomId) -> Overflow {
        let found = self.rooms.iter().find(|(pattern, _)| pattern.matches(room));
        found.map_or(self.otherwise, |(_, overflow)| *overflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_covers_a_room_holds() {
        let rule = |rooms: &str, overflow: v1::Overflow| v1::RoomOverflow {
            rooms: rooms.to_owned(),
            overflow: overflow.into(),
        };
        let mut unknown = rule("later.>", v1::Overflow::DropOldest);
        unknown.overflow = 99;
        let record = v1::TenantRecord {
            overflow: vec![
                rule("ticker.slow", v1::Overflow::DropOldest),
                rule("no pattern", v1::Overflow::DropOldest),
                unknown,
                rule("ticker.>", v1::Overflow::LatestOnly),
            ],
            ..Default::default()
        };
        let rules = OverflowRules::of(&record, Overflow::CloseAndReconnect);
        for (room, expected) in [
            ("ticker.slow", Overflow::DropOldest),
            ("ticker.fast", Overflow::LatestOnly),
            ("later.x", Overflow::CloseAndReconnect),
            ("lobby", Overflow::CloseAndReconnect),
        ] {
            let room = RoomId::parse(room).expect("a valid name");
            assert_eq!(rules.of_room(&room), expected, "{room}");
        }
    }
}
