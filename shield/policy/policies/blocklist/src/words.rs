//! All words at once, in one pass over the text.

use aho_corasick::{AhoCorasick, AhoCorasickKind, automaton::OverlappingState};

/// Bytes of words up to which there is a whole table of states, the fastest
/// form: each byte costs up to 1 KiB of an instance's memory.
const MAX_TABLE_BYTES: usize = 1_000;

/// The words of a list.
pub(crate) struct Words {
    all: AhoCorasick,
    whole: bool,
}

impl Words {
    /// # Errors
    ///
    /// If the words are too many.
    pub(crate) fn new(words: &[String], whole: bool) -> Result<Self, String> {
        let bytes: usize = words.iter().map(String::len).sum();
        let mut builder = AhoCorasick::builder();
        if bytes > MAX_TABLE_BYTES {
            builder
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .dense_depth(1);
        } else {
            builder.kind(Some(AhoCorasickKind::DFA));
        }
        let all = builder.build(words).map_err(|e| format!("words: {e}"))?;
        Ok(Self { all, whole })
    }

    /// Whether one of them is in the text.
    pub(crate) fn find(&self, text: &str) -> bool {
        if !self.whole {
            return self.all.is_match(text);
        }
        // Overlapping: within `malware`, which is not looked for, may end `ware`, which is.
        let mut state = OverlappingState::start();
        loop {
            self.all.find_overlapping(text, &mut state);
            let Some(found) = state.get_match() else {
                return false;
            };
            if stands_alone(text, found.start(), found.end()) {
                return true;
            }
        }
    }
}

/// Whether no letter or digit of any alphabet is next to it.
fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let before = text[..start].chars().next_back();
    let after = text[end..].chars().next();
    ![before, after]
        .into_iter()
        .flatten()
        .any(char::is_alphanumeric)
}
