//! E-mail addresses.
//!
//! Letters and digits of any alphabet and `. _ % + -` before the `@`, then a
//! domain of at least two labels whose last one is of two letters or more (or
//! begins with `xn--`). Quoted local parts and rarer signs of RFC 5322 are not
//! known: of `o'brien@example.org` the part from `brien` on goes.

use std::ops::Range;

/// Names each address, from left to right, in linear time.
pub fn find(text: &str, mut found: impl FnMut(Range<usize>)) {
    let mut from = 0;
    while let Some(at) = text[from..].find('@').map(|at| from + at) {
        // Not before the last `@`, so that no character is read more than twice.
        let local = text[from..at].trim_end_matches(is_local).len() + from;
        match domain(&text[at + 1..]) {
            Some(domain) if local < at => {
                found(local..at + 1 + domain);
                from = at + 1 + domain;
            }
            _ => from = at + 1,
        }
    }
}

fn is_local(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '_' | '%' | '+' | '-')
}

/// How long the domain is that the text begins with.
fn domain(text: &str) -> Option<usize> {
    let mut end = None;
    let mut labels = 0;
    let mut start = 0;
    loop {
        let rest = &text[start..];
        let label = rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '-');
        let label = &rest[..rest.len() - label.len()];
        if label.is_empty() {
            return end;
        }
        labels += 1;
        let stop = start + label.len();
        if labels >= 2
            && let Some(length) = top_level(label)
        {
            end = Some(start + length);
        }
        if !text[stop..].starts_with('.') {
            return end;
        }
        start = stop + 1;
    }
}

/// How much of a label may end a domain: `com` of `com` and of `com-`.
fn top_level(label: &str) -> Option<usize> {
    if label
        .get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case("xn--"))
    {
        return Some(label.trim_end_matches('-').len());
    }
    let letters = label.split('-').next().unwrap_or_default();
    let enough = letters.chars().count() >= 2 && letters.chars().all(char::is_alphabetic);
    enough.then_some(letters.len())
}
