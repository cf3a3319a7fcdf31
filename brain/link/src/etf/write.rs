//! Writes terms, front to back.

use super::{
    BINARY, INTEGER, LIST, MAP, NIL, SMALL_ATOM_UTF8, SMALL_BIG, SMALL_INTEGER, SMALL_TUPLE,
    VERSION,
};

/// Terms as bytes. The caller writes as many elements as it announced.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

// === impl Writer ===

impl Writer {
    /// For terms that will be part of another.
    #[must_use]
    pub fn part(capacity: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(capacity),
        }
    }

    /// For one whole external term.
    #[must_use]
    pub fn term() -> Self {
        Self {
            bytes: vec![VERSION],
        }
    }

    /// The bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// A tuple of `arity` elements, which follow.
    pub fn tuple(&mut self, arity: u8) {
        self.bytes.extend_from_slice(&[SMALL_TUPLE, arity]);
    }

    /// A tuple that begins with an atom, which is one of its elements.
    pub fn tagged(&mut self, arity: u8, tag: &str) {
        self.tuple(arity);
        self.atom(tag);
    }

    /// A list of `len` elements, which follow, and [`Writer::nil`] after them.
    pub fn list(&mut self, len: usize) {
        if len > 0 {
            self.bytes.push(LIST);
            self.len(len);
        }
    }

    /// The end of a list, or an empty one.
    pub fn nil(&mut self) {
        self.bytes.push(NIL);
    }

    /// A list, its elements written by `each`.
    pub fn each<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.list(items.len());
        for item in items {
            each(self, item);
        }
        self.nil();
    }

    /// A map of `len` pairs, which follow.
    pub fn map(&mut self, len: usize) {
        self.bytes.push(MAP);
        self.len(len);
    }

    /// An atom of at most 255 bytes.
    pub fn atom(&mut self, text: &str) {
        let len = u8::try_from(text.len()).expect("atoms are names in this program");
        self.bytes.extend_from_slice(&[SMALL_ATOM_UTF8, len]);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// `true` or `false`.
    pub fn bool(&mut self, value: bool) {
        self.atom(if value { "true" } else { "false" });
    }

    /// A number.
    pub fn uint(&mut self, value: u64) {
        if let Ok(small) = u8::try_from(value) {
            self.bytes.extend_from_slice(&[SMALL_INTEGER, small]);
        } else if let Ok(medium) = i32::try_from(value) {
            self.bytes.push(INTEGER);
            self.bytes.extend_from_slice(&medium.to_be_bytes());
        } else {
            let digits = value.to_le_bytes();
            let len = 8 - value.leading_zeros() / 8;
            let len = u8::try_from(len).expect("at most 8");
            self.bytes.extend_from_slice(&[SMALL_BIG, len, 0]);
            self.bytes.extend_from_slice(&digits[..usize::from(len)]);
        }
    }

    /// A binary.
    pub fn binary(&mut self, bytes: &[u8]) {
        self.bytes.push(BINARY);
        self.len(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// A binary that holds the external term that `write` writes.
    pub fn blob(&mut self, write: impl FnOnce(&mut Self)) {
        self.bytes.push(BINARY);
        let at = self.bytes.len();
        self.len(0);
        self.bytes.push(VERSION);
        write(self);
        let len = self.bytes.len() - at - 4;
        let len = u32::try_from(len).expect("no message is that long");
        self.bytes[at..at + 4].copy_from_slice(&len.to_be_bytes());
    }

    /// Terms written before.
    pub fn raw(&mut self, terms: &[u8]) {
        self.bytes.extend_from_slice(terms);
    }

    fn len(&mut self, len: usize) {
        let len = u32::try_from(len).expect("no message is that long");
        self.bytes.extend_from_slice(&len.to_be_bytes());
    }
}
