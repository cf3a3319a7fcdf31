//! Headers: those of an Envelope, which clients see, and those of a NATS
//! message, which only Shields see.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use crate::codes::ErrorCode;

/// Envelope: the message's id, a UUIDv7; the client's if well formed, else
/// stamped by Shield.
pub const X_TWIST_ID: &str = "X-Twist-ID";
/// Envelope: when Shield took the message, see [`timestamp_now`].
pub const X_TIMESTAMP: &str = "X-Timestamp";
/// Envelope, and NATS where the message is traced: W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// NATS: `<incarnation> <seq> <microseconds since the Unix epoch>` of the Shield that published.
pub const NATS_ORIGIN: &str = "Arqon-Origin";
/// NATS: `<incarnation> <last seq>`, on the empty message after the last one.
pub const NATS_BEACON: &str = "Arqon-Beacon";

/// Longest header name.
const MAX_NAME: usize = 128;
/// Longest value of a header of ours, for these are not counted below.
const MAX_OWN_VALUE: usize = 256;

/// What the application headers of one message may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderLimits {
    /// How many.
    pub max_headers: usize,
    /// Bytes of all names and values.
    pub max_header_bytes: usize,
}

/// Checks what a client sent: `X-Twist-ID` and `traceparent` may be there and
/// are not counted, other names that are ours (in any case) may not. The bytes
/// that are counted.
///
/// # Errors
/// `HEADER_INVALID`, `HEADER_RESERVED` or `HEADERS_TOO_LARGE`.
pub fn check_client_headers(
    headers: &BTreeMap<String, String>,
    limits: &HeaderLimits,
) -> Result<usize, ErrorCode> {
    let (mut count, mut bytes) = (0_usize, 0_usize);
    for (name, value) in headers {
        if !valid_name(name) || value.chars().any(char::is_control) {
            return Err(ErrorCode::HeaderInvalid);
        }
        if name == X_TWIST_ID || name == TRACEPARENT {
            if value.len() > MAX_OWN_VALUE {
                return Err(ErrorCode::HeadersTooLarge);
            }
        } else if reserved(name) {
            return Err(ErrorCode::HeaderReserved);
        } else {
            count += 1;
            bytes += name.len() + value.len();
        }
    }
    if count > limits.max_headers || bytes > limits.max_header_bytes {
        return Err(ErrorCode::HeadersTooLarge);
    }
    Ok(bytes)
}

/// RFC 3339, UTC, always six digits of a second: equal lengths sort as text.
#[must_use]
pub fn timestamp_now() -> String {
    timestamp(OffsetDateTime::now_utc())
}

/// The same for any moment in UTC, before the year 10,000.
///
/// Written by hand: a general formatter costs ten times as much, and every message has one.
///
/// # Panics
/// Never: digits are text.
#[must_use]
pub fn timestamp(at: OffsetDateTime) -> String {
    let mut text = b"0000-00-00T00:00:00.000000Z".to_vec();
    let mut put = |end: usize, mut value: u32| {
        for digit in text[..end]
            .iter_mut()
            .rev()
            .take_while(|digit| digit.is_ascii_digit())
        {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(4, at.year().unsigned_abs());
    put(7, u8::from(at.month()).into());
    put(10, at.day().into());
    put(13, at.hour().into());
    put(16, at.minute().into());
    put(19, at.second().into());
    put(26, at.microsecond());
    String::from_utf8(text).expect("digits are text")
}

/// A token of RFC 9110, so that a header survives any gateway to HTTP.
fn valid_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether a header of that name is the platform's. In any case: else
/// `x-timestamp` would pass for ours where case is ignored.
#[must_use]
pub fn reserved(name: &str) -> bool {
    name.get(..2)
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case("x-"))
        || name.eq_ignore_ascii_case(TRACEPARENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeaderLimits = HeaderLimits {
        max_headers: 2,
        max_header_bytes: 20,
    };

    fn check(headers: &[(&str, &str)]) -> Result<usize, ErrorCode> {
        let map = headers
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        check_client_headers(&map, &LIMITS)
    }

    #[test]
    fn ours_are_allowed_by_exact_name_only() {
        assert_eq!(check(&[("X-Twist-ID", "a"), ("traceparent", "b")]), Ok(0));
        for name in [
            "X-Timestamp",
            "x-timestamp",
            "x-twist-id",
            "X-",
            "X-Other",
            "Traceparent",
            "TRACEPARENT",
        ] {
            assert_eq!(
                check(&[(name, "a")]),
                Err(ErrorCode::HeaderReserved),
                "{name}"
            );
        }
        assert_eq!(
            check(&[("X", "a"), ("tracestate", "b")]),
            Ok(13),
            "not ours"
        );
        let long = "a".repeat(257);
        assert_eq!(
            check(&[("traceparent", &long)]),
            Err(ErrorCode::HeadersTooLarge)
        );
    }

    #[test]
    fn names_and_values_are_safe_to_pass_on() {
        for (name, value) in [
            ("", "a"),
            ("a b", "a"),
            ("a:b", "a"),
            ("ä", "a"),
            ("a\r\nX-Timestamp", "a"),
            ("a", "b\r\nX-Timestamp: c"),
            ("a", "\0"),
            ("a", "\u{85}"),
        ] {
            assert_eq!(
                check(&[(name, value)]),
                Err(ErrorCode::HeaderInvalid),
                "{name:?}: {value:?}"
            );
        }
        assert_eq!(
            check(&[(&"n".repeat(129), "")]),
            Err(ErrorCode::HeaderInvalid)
        );
        assert_eq!(check(&[("ok", "ä ✓")]), Ok(8));
    }

    #[test]
    fn count_and_bytes_have_limits() {
        assert_eq!(check(&[("a", ""), ("b", "")]), Ok(2));
        assert_eq!(
            check(&[("a", ""), ("b", ""), ("c", "")]),
            Err(ErrorCode::HeadersTooLarge)
        );
        assert_eq!(check(&[("a", &"v".repeat(19))]), Ok(20));
        assert_eq!(
            check(&[("a", &"v".repeat(20))]),
            Err(ErrorCode::HeadersTooLarge)
        );
    }

    #[test]
    fn timestamps_have_one_shape() {
        let at =
            OffsetDateTime::from_unix_timestamp_nanos(1_780_000_000_000_001_999).expect("in range");
        assert_eq!(timestamp(at), "2026-05-28T20:26:40.000001Z");
        assert_eq!(
            timestamp(OffsetDateTime::UNIX_EPOCH),
            "1970-01-01T00:00:00.000000Z"
        );
        let last = OffsetDateTime::from_unix_timestamp_nanos(253_402_300_799_999_999_999)
            .expect("in range");
        assert_eq!(timestamp(last), "9999-12-31T23:59:59.999999Z");
        assert_eq!(timestamp_now().len(), 27);
    }
}
