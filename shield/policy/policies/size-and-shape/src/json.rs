//! Whether bytes are JSON, without building anything of it.

use serde::de::IgnoredAny;

/// # Errors
///
/// Why not. The text names places, never contents.
pub(crate) fn check(bytes: &[u8], max_depth: usize) -> Result<(), String> {
    // The parser does not look into strings that it ignores.
    let text = std::str::from_utf8(bytes)
        .map_err(|e| format!("no UTF-8 after {} bytes", e.valid_up_to()))?;
    depth_within(text.as_bytes(), max_depth)?;
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(IgnoredAny) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// Counts brackets outside of strings. Right for all JSON; where it is wrong,
/// the text is none and the parser says so. First, since what a parser keeps
/// of open brackets takes memory.
fn depth_within(bytes: &[u8], max: usize) -> Result<(), String> {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for &byte in bytes {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > max {
                    return Err(format!("nested deeper than {max}"));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}
