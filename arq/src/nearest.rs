//! What somebody may have meant.

/// The name most like what was typed, if one is like it.
pub(crate) fn nearest<'a>(
    typed: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(typed, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.chars().count() / 4)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_seen_and_another_word_is_not() {
        let names = ["production", "dev", "staging"];
        assert_eq!(nearest("prodution", names), Some("production"));
        assert_eq!(nearest("dve", names), Some("dev"));
        assert_eq!(nearest("unrelated", names), None);
    }
}
