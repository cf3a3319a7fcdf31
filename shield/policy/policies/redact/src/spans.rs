//! The parts of a text that go.

use std::ops::Range;

/// Parts, in any order, also overlapping.
#[derive(Debug, Default)]
pub(crate) struct Spans(Vec<Range<usize>>);

impl Spans {
    pub(crate) fn add(&mut self, span: Range<usize>) {
        self.0.push(span);
    }

    /// The text with one replacement for each run of parts that overlap or
    /// touch. None if there is no part.
    pub(crate) fn replace(mut self, text: &str, replacement: &str) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        self.0.sort_unstable_by_key(|span| span.start);
        let mut redacted = String::with_capacity(text.len() + replacement.len());
        let mut kept_to = 0;
        let mut spans = self.0.into_iter().peekable();
        while let Some(mut span) = spans.next() {
            while let Some(next) = spans.next_if(|next| next.start <= span.end) {
                span.end = span.end.max(next.end);
            }
            redacted.push_str(&text[kept_to..span.start]);
            redacted.push_str(replacement);
            kept_to = span.end;
        }
        redacted.push_str(&text[kept_to..]);
        Some(redacted)
    }
}
