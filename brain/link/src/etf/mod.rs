//! Erlang's external term format, as far as the pipe needs it.
//!
//! Written by hand: a change becomes bytes without a tree of terms between,
//! and commands are read straight into their types, so that no frame makes us
//! allocate more than its own size.

mod read;
mod write;

pub use read::{Kind, ReadError, Reader};
pub use write::Writer;

/// The first byte of every external term.
const VERSION: u8 = 131;

const SMALL_INTEGER: u8 = 97;
const INTEGER: u8 = 98;
const ATOM: u8 = 100;
const SMALL_TUPLE: u8 = 104;
const LARGE_TUPLE: u8 = 105;
const NIL: u8 = 106;
const STRING: u8 = 107;
const LIST: u8 = 108;
const BINARY: u8 = 109;
const SMALL_BIG: u8 = 110;
const SMALL_ATOM: u8 = 115;
const MAP: u8 = 116;
const ATOM_UTF8: u8 = 118;
const SMALL_ATOM_UTF8: u8 = 119;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// As `term_to_binary/1` of OTP 25 writes them: older atoms, and lists of
    /// small numbers as strings.
    #[test]
    fn what_the_beam_writes_is_read() {
        // {true, [1, 2], [300], <<"ab">>, [], 18446744073709551615}
        let term = [
            &[131, 104, 6, 100, 0, 4][..],
            b"true",
            &[107, 0, 2, 1, 2],
            &[108, 0, 0, 0, 1, 98, 0, 0, 1, 44, 106],
            &[109, 0, 0, 0, 2],
            b"ab",
            &[106, 110, 8, 0, 255, 255, 255, 255, 255, 255, 255, 255],
        ]
        .concat();
        let bytes = bytes::Bytes::from(term);
        let mut reader = Reader::new(bytes).unwrap();
        assert_eq!(reader.tuple().unwrap(), 6);
        assert!(reader.bool().unwrap());
        assert_eq!(reader.list(Reader::uint).unwrap(), [1, 2]);
        assert_eq!(reader.list(Reader::uint).unwrap(), [300]);
        assert_eq!(&reader.binary().unwrap()[..], b"ab");
        assert!(reader.list(Reader::uint).unwrap().is_empty());
        assert_eq!(reader.uint().unwrap(), u64::MAX);
        reader.end().unwrap();
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let refused = |bytes: &'static [u8]| {
            Reader::new(bytes::Bytes::from_static(bytes)).and_then(|mut r| {
                r.list(Reader::uint)?;
                r.end()
            })
        };
        refused(&[131, 106]).unwrap();
        for bytes in [
            &[][..],
            &[130, 106],
            &[131],
            &[131, 106, 106],
            // Compressed, a float, a negative number, an improper list.
            &[131, 80, 0, 0, 0, 1, 0],
            &[131, 108, 0, 0, 0, 1, 70, 0, 0, 0, 0, 0, 0, 0, 0, 106],
            &[131, 108, 0, 0, 0, 1, 98, 255, 255, 255, 255, 106],
            &[131, 108, 0, 0, 0, 1, 97, 1, 97, 2],
            // A list that claims four billion elements.
            &[131, 108, 255, 255, 255, 255, 97, 1],
            // A number of nine bytes.
            &[
                131, 108, 0, 0, 0, 1, 110, 9, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 106,
            ],
        ] {
            assert!(refused(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number: u64, text: String, flag: bool, blob: Vec<u8>) {
            let mut writer = Writer::term();
            writer.tuple(4);
            writer.uint(number);
            writer.binary(text.as_bytes());
            writer.bool(flag);
            writer.blob(|inner| {
                inner.list(1);
                inner.binary(&blob);
                inner.nil();
            });
            let mut reader = Reader::new(writer.finish().into()).unwrap();
            prop_assert_eq!(reader.tuple().unwrap(), 4);
            prop_assert_eq!(reader.uint().unwrap(), number);
            prop_assert_eq!(reader.text().unwrap(), text);
            prop_assert_eq!(reader.bool().unwrap(), flag);
            let mut inner = Reader::new(reader.binary().unwrap()).unwrap();
            prop_assert_eq!(inner.list(Reader::binary).unwrap(), [blob]);
            inner.end().unwrap();
            reader.end().unwrap();
        }

        #[test]
        fn no_bytes_make_the_reader_fail_otherwise_than_by_an_error(bytes: Vec<u8>) {
            let bytes = [vec![131], bytes].concat();
            if let Ok(mut reader) = Reader::new(bytes.into()) {
                while reader.skip().is_ok() {}
            }
        }
    }
}
