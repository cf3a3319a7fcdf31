//! Which bindings of a list apply to a room, without a look at those that
//! cannot: a tenant may have a binding for each of its rooms.

use std::collections::HashMap;

use arqon_proto::names::{RoomId, RoomPattern};

/// An index over a list of patterns.
#[derive(Debug, Default)]
pub(crate) struct RoomIndex {
    patterns: Vec<Option<RoomPattern>>,
    /// Patterns that are one room.
    exact: HashMap<Box<str>, Vec<usize>>,
    /// Patterns whose first token is no wildcard.
    first: HashMap<Box<str>, Vec<usize>>,
    /// The others, and those of all rooms.
    rest: Vec<usize>,
}

/// The places that apply to one room, ascending.
#[derive(Clone)]
pub(crate) struct Places<'a> {
    index: &'a RoomIndex,
    room: &'a RoomId,
    lists: [&'a [usize]; 3],
}

impl RoomIndex {
    pub(crate) fn new(patterns: impl Iterator<Item = Option<RoomPattern>>) -> Self {
        let mut index = Self {
            patterns: patterns.collect(),
            ..Self::default()
        };
        for (place, pattern) in index.patterns.iter().enumerate() {
            let text = pattern.as_ref().map_or(">", RoomPattern::as_str);
            let is_wild = |token: &str| token == "*" || token == ">";
            let first = text.split('.').next().unwrap_or(text);
            if is_wild(first) {
                index.rest.push(place);
            } else if text.split('.').any(is_wild) {
                index.first.entry(first.into()).or_default().push(place);
            } else {
                index.exact.entry(text.into()).or_default().push(place);
            }
        }
        index
    }

    pub(crate) fn of<'a>(&'a self, room: &'a RoomId) -> Places<'a> {
        fn list<'a>(map: &'a HashMap<Box<str>, Vec<usize>>, key: &str) -> &'a [usize] {
            map.get(key).map_or(&[], Vec::as_slice)
        }
        let text = room.as_str();
        let first = text.split('.').next().unwrap_or(text);
        Places {
            index: self,
            room,
            lists: [
                list(&self.exact, text),
                list(&self.first, first),
                &self.rest,
            ],
        }
    }
}

impl Iterator for Places<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            let heads = self.lists.iter().enumerate();
            let (list, place) = heads
                .filter_map(|(list, places)| Some((list, *places.first()?)))
                .min_by_key(|(_, place)| *place)?;
            self.lists[list] = &self.lists[list][1..];
            match &self.index.patterns[place] {
                Some(pattern) if !pattern.matches(self.room) => {}
                _ => return Some(place),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Option<RoomPattern> {
        (!text.is_empty()).then(|| RoomPattern::parse(text).expect("a pattern"))
    }

    #[test]
    fn in_the_order_of_the_list() {
        let texts = ["", "a.b", "a.*", "b", ">", "a.b", "*.b", "a.>", "*"];
        let index = RoomIndex::new(texts.into_iter().map(pattern));
        let of = |room: &str| -> Vec<usize> {
            index.of(&RoomId::parse(room).expect("a room")).collect()
        };
        assert_eq!(of("a.b"), [0, 1, 2, 4, 5, 6, 7]);
        assert_eq!(of("b"), [0, 3, 4, 8]);
        assert_eq!(of("a"), [0, 4, 8]);
        assert_eq!(of("z.y.x"), [0, 4]);
    }

    proptest! {
        #[test]
        fn as_a_look_at_each_of_them(
            texts in prop::collection::vec("([ab*](\\.[ab*]){0,2}(\\.>)?)?|>", 0..30),
            room in "[abc](\\.[abc]){0,3}",
        ) {
            let room = RoomId::parse(&room).expect("a room");
            let patterns: Vec<_> = texts.iter().map(|text| pattern(text)).collect();
            let index = RoomIndex::new(patterns.iter().cloned());
            let want: Vec<usize> = patterns
                .iter()
                .enumerate()
                .filter(|(_, pattern)| pattern.as_ref().is_none_or(|p| p.matches(&room)))
                .map(|(place, _)| place)
                .collect();
            prop_assert_eq!(index.of(&room).collect::<Vec<_>>(), want);
        }
    }
}
