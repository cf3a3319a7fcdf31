//! Numbers of payment cards.
//!
//! 13 to 19 digits of ASCII, with at most one blank or dash between two of
//! them, that begin with 2 to 6 and pass Luhn's check. One in ten numbers of
//! that length passes it by chance. Digits that begin with 1 are no cards here
//! (UATP's would be): they are the milliseconds of today's clocks. A number
//! without blanks or dashes counts as a whole, so one of 20 digits is no card.

use std::ops::Range;

const MIN: usize = 13;
const MAX: usize = 19;

/// Names each number; they may overlap where it is not clear which is meant.
pub fn find(text: &str, mut found: impl FnMut(Range<usize>)) {
    let bytes = text.as_bytes();
    // Of one run: the digits, where each stands, and where groups begin.
    let mut run = Run::default();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            digit @ b'0'..=b'9' => run.push(digit - b'0', at),
            b' ' | b'-' if run.next_is(at) && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => {
                run.separator = true;
            }
            _ => run.finish(&mut found),
        }
        at += 1;
    }
    run.finish(&mut found);
}

#[derive(Default)]
struct Run {
    digits: Vec<u8>,
    places: Vec<usize>,
    /// Indices of the digits that begin a group.
    groups: Vec<usize>,
    separator: bool,
}

impl Run {
    fn push(&mut self, digit: u8, place: usize) {
        if self.digits.is_empty() || self.separator {
            self.groups.push(self.digits.len());
            self.separator = false;
        }
        self.digits.push(digit);
        self.places.push(place);
    }

    /// Whether a digit stands right before this place.
    fn next_is(&self, place: usize) -> bool {
        self.places.last().is_some_and(|last| last + 1 == place)
    }

    /// Each stretch of whole groups that is a card: at most seven lengths for
    /// each begin.
    fn finish(&mut self, found: &mut impl FnMut(Range<usize>)) {
        if self.digits.len() >= MIN {
            self.groups.push(self.digits.len());
            for (index, &start) in self.groups.iter().enumerate() {
                for &end in &self.groups[index + 1..] {
                    if end - start > MAX {
                        break;
                    }
                    if end - start >= MIN && is_card(&self.digits[start..end]) {
                        found(self.places[start]..self.places[end - 1] + 1);
                    }
                }
            }
        }
        self.digits.clear();
        self.places.clear();
        self.groups.clear();
        self.separator = false;
    }
}

fn is_card(digits: &[u8]) -> bool {
    matches!(digits.first(), Some(2..=6)) && luhn(digits)
}

fn luhn(digits: &[u8]) -> bool {
    let mut sum = 0_u32;
    for (place, &digit) in digits.iter().rev().enumerate() {
        let digit = u32::from(digit);
        sum += match place % 2 {
            0 => digit,
            _ if digit > 4 => digit * 2 - 9,
            _ => digit * 2,
        };
    }
    sum.is_multiple_of(10)
}
