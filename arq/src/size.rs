//! Numbers of bytes as people write and read them.

/// Bytes from `512`, `64k`, `64KiB`, `1m`, `1MiB`; always powers of 1,024.
pub(crate) fn parse(text: &str) -> Result<usize, String> {
    let wrong = || format!("`{text}` is no size; write for instance 512, 64k or 1MiB");
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        _ => return Err(wrong()),
    };
    number
        .parse::<u32>()
        .ok()
        .and_then(|number| (number as usize).checked_mul(1 << shift))
        .ok_or_else(wrong)
}

/// `512 B`, `64 KiB`, `1.5 MiB`.
pub(crate) fn words(bytes: u64) -> String {
    let scaled = |unit: u64, name: &str| {
        let tenths = bytes.saturating_mul(10).saturating_add(unit / 2) / unit;
        if tenths.is_multiple_of(10) {
            format!("{} {name}", tenths / 10)
        } else {
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
    };
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => scaled(1 << 10, "KiB"),
        _ => scaled(1 << 20, "MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_written() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64k", 65_536),
            ("64KiB", 65_536),
            ("1MiB", 1 << 20),
            ("2m", 2 << 20),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "1.5k", "-1", "1g", "99999999999", "1 k"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        assert_eq!(words(1_023), "1023 B");
        assert_eq!(words(1_024), "1 KiB");
        assert_eq!(words(1_536), "1.5 KiB");
        assert_eq!(words(4 << 20), "4 MiB");
    }
}
