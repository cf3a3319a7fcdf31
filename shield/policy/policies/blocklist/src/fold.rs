//! Simple case folding: one character for one character, as Unicode's
//! CaseFolding.txt (C and S) has it.
//!
//! So `ẞ` is `ß` but `SS` is not, `ς` is `Σ`, and `İ` and `ı` are only
//! themselves. Nothing is normalised: `é` in one character and `e` with a
//! combining accent are different texts.

/// Entries of the memory; a power of two.
const KNOWN: usize = 1024;

/// Folds, and remembers the characters of the alphabets it meets: the tables
/// of the standard library take tens of nanoseconds a look-up.
pub(crate) struct Folder {
    known: Box<[(char, char)]>,
}

impl Folder {
    pub(crate) fn new() -> Self {
        // NUL folds to itself, so an empty entry is a true one.
        Self {
            known: vec![('\0', '\0'); KNOWN].into_boxed_slice(),
        }
    }

    /// Appends the folded form of the bytes. What is not UTF-8 becomes U+FFFD.
    pub(crate) fn fold_bytes(&mut self, bytes: &[u8], into: &mut String) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.fold(text, into),
            Err(_) => {
                for chunk in bytes.utf8_chunks() {
                    self.fold(chunk.valid(), into);
                    if !chunk.invalid().is_empty() {
                        into.push(char::REPLACEMENT_CHARACTER);
                    }
                }
            }
        }
    }

    /// Appends the folded form of the text.
    pub(crate) fn fold(&mut self, text: &str, into: &mut String) {
        let mut rest = text;
        loop {
            let ascii = rest.bytes().take_while(u8::is_ascii).count();
            let start = into.len();
            into.push_str(&rest[..ascii]);
            into[start..].make_ascii_lowercase();
            rest = &rest[ascii..];
            let mut chars = rest.chars();
            let Some(first) = chars.next() else { return };
            into.push(self.fold_char(first));
            rest = chars.as_str();
        }
    }

    pub(crate) fn fold_char(&mut self, c: char) -> char {
        if c.is_ascii() {
            return c.to_ascii_lowercase();
        }
        if has_no_case(c) {
            return c;
        }
        let place = &mut self.known[c as usize % KNOWN];
        if place.0 != c {
            *place = (c, fold_char(c));
        }
        place.1
    }
}

/// Whole blocks without cases, from CJK to Hangul and above Adlam, whose
/// characters are too many to remember.
fn has_no_case(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{a63f}' | '\u{ac00}'..='\u{faff}' | '\u{1e944}'..)
}

fn fold_char(c: char) -> char {
    match c {
        // Its capital is I, which folds to i; but it is another letter.
        'ı' => return c,
        // Simple folds whose full capitals are several characters.
        '\u{1fd3}' => return '\u{0390}',
        '\u{1fe3}' => return '\u{03b0}',
        '\u{fb05}' => return '\u{fb06}',
        _ => {}
    }
    let upper = single(c.to_uppercase()).unwrap_or(c);
    single(upper.to_lowercase()).unwrap_or(upper)
}

fn single(mut chars: impl Iterator<Item = char>) -> Option<char> {
    let first = chars.next()?;
    chars.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashMap;

    use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

    use super::*;

    fn folded(text: &str) -> String {
        let mut into = String::new();
        Folder::new().fold(text, &mut into);
        into
    }

    #[test]
    fn letters_of_many_alphabets_fold() {
        for (one, other) in [
            ("MALWARE", "malware"),
            ("ÄÖÜ", "äöü"),
            ("STRAẞE", "straße"),
            ("ΟΔΟΣ", "οδος"),
            ("οδοσ", "οδος"),
            ("ВИРУС", "вирус"),
            ("\u{212a}", "k"),
            ("ſ", "S"),
            ("ǅ", "ǆ"),
            ("ᾼ", "ᾳ"),
            ("Ꭰ", "ꭰ"),
            ("𐐀", "𐐨"),
            ("𞤀", "𞤢"),
            ("µ", "Μ"),
        ] {
            assert_eq!(folded(one), folded(other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_no_simple_fold_stays_apart() {
        for (one, other) in [
            ("STRASSE", "straße"),
            ("İ", "i"),
            ("ı", "i"),
            ("é", "e\u{301}"),
        ] {
            assert_ne!(folded(one), folded(other), "{one} {other}");
        }
    }

    /// The characters that regex-syntax knows: the standard library may know newer ones.
    fn known() -> Vec<char> {
        let hir = regex_syntax::parse(r"\p{age:16.0}").unwrap();
        let HirKind::Class(Class::Unicode(class)) = hir.kind() else {
            panic!("no class");
        };
        class.iter().flat_map(|r| r.start()..=r.end()).collect()
    }

    /// A character and what regex-syntax says it folds with have one form, and
    /// nothing else has it.
    #[test]
    fn the_classes_are_those_of_unicode() {
        let mut classes: HashMap<char, Vec<char>> = HashMap::new();
        for c in known() {
            classes.entry(Folder::new_fold(c)).or_default().push(c);
        }
        assert!(classes.len() > 140_000);
        for members in classes.values() {
            let mut class = ClassUnicode::new([ClassUnicodeRange::new(members[0], members[0])]);
            class.try_case_fold_simple().unwrap();
            let theirs: Vec<char> = class
                .ranges()
                .iter()
                .flat_map(|r| r.start()..=r.end())
                .collect();
            assert_eq!(*members, theirs, "{members:?}");
        }
    }

    /// Whole words are judged on the folded text.
    #[test]
    fn a_fold_stays_a_letter() {
        for c in '\0'..=char::MAX {
            assert_eq!(
                c.is_alphanumeric(),
                Folder::new_fold(c).is_alphanumeric(),
                "{c:?}"
            );
        }
    }

    impl Folder {
        fn new_fold(c: char) -> char {
            if c.is_ascii() {
                return c.to_ascii_lowercase();
            }
            let shown = fold_char(c);
            assert!(!has_no_case(c) || shown == c, "{c:?} has a case");
            shown
        }
    }

    #[test]
    fn the_memory_does_not_mix_characters_up() {
        let mut folder = Folder::new();
        // Both share an entry.
        let (one, other) = ('Ж', char::from_u32('Ж' as u32 + 1024 * 3).unwrap());
        for _ in 0..2 {
            assert_eq!(folder.fold_char(one), 'ж');
            assert_eq!(folder.fold_char(other), fold_char(other));
        }
    }

    #[test]
    fn broken_utf8_becomes_marks() {
        let mut into = String::new();
        Folder::new().fold_bytes(b"A\xffB\xc3", &mut into);
        assert_eq!(into, "a\u{fffd}b\u{fffd}");
    }
}
