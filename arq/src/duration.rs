//! Lengths of time as people write and read them.

use std::time::Duration;

/// Seconds from `90`, `90s`, `15m`, `1h30m`, `7d`; a leading `-` makes it negative.
pub(crate) fn parse_secs(text: &str) -> Result<i64, String> {
    let (sign, body) = match text.strip_prefix('-') {
        Some(body) => (-1, body),
        None => (1, text),
    };
    let wrong =
        || format!("`{text}` is no length of time; write for instance 90s, 15m, 1h30m or 7d");
    if let Ok(secs) = body.parse::<u32>() {
        return Ok(sign * i64::from(secs));
    }
    let mut total: i64 = 0;
    let mut digits = String::new();
    for letter in body.chars() {
        if letter.is_ascii_digit() {
            digits.push(letter);
            continue;
        }
        let number: i64 = digits.parse::<u32>().map_err(|_| wrong())?.into();
        digits.clear();
        total += number
            * match letter {
                's' => 1,
                'm' => 60,
                'h' => 3_600,
                'd' => 86_400,
                'w' => 604_800,
                _ => return Err(wrong()),
            };
    }
    if !digits.is_empty() || body.is_empty() {
        return Err(wrong());
    }
    Ok(sign * total)
}

/// A positive length of time.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    match parse_secs(text)? {
        secs if secs > 0 => Ok(Duration::from_secs(secs.unsigned_abs())),
        _ => Err(format!("`{text}` must be longer than nothing")),
    }
}

/// A moment in seconds since the Unix epoch, from RFC 3339, or from a length of time that has
/// passed since.
pub(crate) fn parse_moment(text: &str) -> Result<u64, String> {
    use time::{OffsetDateTime, format_description::well_known::Rfc3339};
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return u64::try_from(at.unix_timestamp()).map_err(|_| format!("`{text}` is before 1970"));
    }
    match parse_secs(text).map(u64::try_from) {
        Ok(Ok(ago)) => Ok(now_secs().saturating_sub(ago)),
        _ => Err(format!(
            "`{text}` is no moment; write for instance 2026-01-02T03:04:05Z, or 15m for a quarter of an hour ago"
        )),
    }
}

/// `1h 30m`, `45s`, `2d 3h`: the two largest parts.
pub(crate) fn words(secs: u64) -> String {
    let parts = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut left = secs;
    let mut text = Vec::new();
    for (size, unit) in parts {
        if left >= size && text.len() < 2 {
            text.push(format!("{}{unit}", left / size));
            left %= size;
        } else if !text.is_empty() {
            break;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text.join(" ")
    }
}

/// `850µs`, `1.2ms`, `45ms`, `1.2s`.
pub(crate) fn micros(micros: u64) -> String {
    let scaled = |unit: u64, name: &str| {
        let tenths = micros.saturating_mul(10).saturating_add(unit / 2) / unit;
        if tenths >= 100 {
            format!("{}{name}", (micros + unit / 2) / unit)
        } else {
            format!("{}.{}{name}", tenths / 10, tenths % 10)
        }
    };
    match micros {
        0..1_000 => format!("{micros}µs"),
        1_000..999_500 => scaled(1_000, "ms"),
        _ => scaled(1_000_000, "s"),
    }
}

/// Seconds since the Unix epoch.
pub(crate) fn now_secs() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A moment as RFC 3339 in UTC, to the second.
pub(crate) fn moment(secs: u64) -> String {
    i64::try_from(secs)
        .ok()
        .and_then(|secs| time::OffsetDateTime::from_unix_timestamp(secs).ok())
        .and_then(|at| {
            at.format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_else(|| secs.to_string())
}

/// A moment with its distance from now: `2026-01-02T03:04:05Z (in 1h)`.
pub(crate) fn moment_words(secs: u64) -> String {
    let now = now_secs();
    if secs >= now {
        format!("{} (in {})", moment(secs), words(secs - now))
    } else {
        format!("{} ({} ago)", moment(secs), words(now - secs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_written() {
        for (text, secs) in [
            ("90", 90),
            ("90s", 90),
            ("15m", 900),
            ("1h30m", 5_400),
            ("7d", 604_800),
            ("-5m", -300),
            ("1w", 604_800),
        ] {
            assert_eq!(parse_secs(text), Ok(secs), "{text}");
        }
        for text in ["", "h", "1x", "1h2", "--1s", "9999999999s", "1.5h"] {
            assert!(parse_secs(text).is_err(), "{text}");
        }
        assert!(parse("0s").is_err());
        assert!(parse("-1s").is_err());
    }

    #[test]
    fn moments_are_dates_or_lengths_of_time_ago() {
        assert_eq!(parse_moment("1970-01-01T00:01:00Z"), Ok(60));
        assert_eq!(parse_moment("1970-01-01T02:00:00+02:00"), Ok(0));
        let (before, ago, after) = (now_secs(), parse_moment("1h"), now_secs());
        assert!(ago.is_ok_and(|ago| (before - 3_600..=after - 3_600).contains(&ago)));
        for text in ["", "-1h", "yesterday", "1969-01-01T00:00:00Z", "2026-01-02"] {
            assert!(parse_moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn latencies_are_in_the_unit_that_fits() {
        for (of, text) in [
            (0, "0µs"),
            (850, "850µs"),
            (1_240, "1.2ms"),
            (9_960, "10ms"),
            (45_400, "45ms"),
            (999_600, "1.0s"),
            (12_000_000, "12s"),
        ] {
            assert_eq!(micros(of), text);
        }
    }

    #[test]
    fn words_keep_the_two_largest_parts() {
        assert_eq!(words(0), "0s");
        assert_eq!(words(59), "59s");
        assert_eq!(words(3_600), "1h");
        assert_eq!(words(5_430), "1h 30m");
        assert_eq!(words(90_061), "1d 1h");
    }
}
