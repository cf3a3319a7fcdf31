//! What names an account on the wire.

/// Whether a text has the form of an account's public key.
pub(crate) fn is_account(text: &str) -> bool {
    let base32 = |byte: u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte);
    text.len() == 56 && text.starts_with('A') && text.bytes().all(base32)
}
