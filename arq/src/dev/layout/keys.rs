//! Keys of a TOML text, changed in place: comments and every other line stay as they are.

/// Sets one key of a TOML text and leaves every other line as it is.
pub(super) fn set_key(text: &str, section: &str, key: &str, value: &str) -> String {
    let wanted = format!("{key} = {value}");
    let header = format!("[{section}]");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let Some((start, end)) = find_section(&lines, &header) else {
        return format!("{}\n\n{header}\n{wanted}\n", text.trim_end());
    };
    let set = (start..end)
        .find(|&at| names_key(&lines[at], key) && !lines[at].trim_start().starts_with('#'));
    let shown = (start..end).find(|&at| names_key(&lines[at], key));
    match set.or(shown) {
        Some(at) => lines[at] = wanted,
        None => lines.insert(start, wanted),
    }
    lines.join("\n") + "\n"
}

/// Makes a comment of one key of a TOML text, where it is set.
pub(super) fn unset_key(text: &str, section: &str, key: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Some((start, end)) = find_section(&lines, &format!("[{section}]")) {
        for line in &mut lines[start..end] {
            if names_key(line, key) && !line.trim_start().starts_with('#') {
                line.insert_str(0, "# ");
            }
        }
    }
    lines.join("\n") + "\n"
}

/// The lines of a section, without its header.
fn find_section(lines: &[String], header: &str) -> Option<(usize, usize)> {
    let start = lines.iter().position(|line| line.trim() == header)? + 1;
    let end = lines[start..]
        .iter()
        .position(|line| line.trim_start().starts_with('['))
        .map_or(lines.len(), |offset| start + offset);
    Some((start, end))
}

/// Whether a line sets a key, or shows it as a comment.
fn names_key(line: &str, key: &str) -> bool {
    line.split_once('=')
        .is_some_and(|(name, _)| name.trim().trim_start_matches('#').trim() == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_set_and_the_rest_stays() {
        let text =
            "# top\n[listen]\n# public = \"a\"\nadmin = \"b\"\n\n[spine]\n# public = \"x\"\n";
        let once = set_key(text, "listen", "public", "\"c\"");
        assert_eq!(
            once,
            "# top\n[listen]\npublic = \"c\"\nadmin = \"b\"\n\n[spine]\n# public = \"x\"\n"
        );
        assert_eq!(set_key(&once, "listen", "public", "\"c\""), once);
        assert_eq!(set_key("[a]\n", "a", "k", "1"), "[a]\nk = 1\n");
        assert_eq!(set_key("[a]\n", "b", "k", "1"), "[a]\n\n[b]\nk = 1\n");
    }

    #[test]
    fn a_key_becomes_a_comment_and_comes_back() {
        let text = "[a]\nk = 1\n\n[b]\nk = 2\n";
        let off = unset_key(text, "a", "k");
        assert_eq!(off, "[a]\n# k = 1\n\n[b]\nk = 2\n");
        assert_eq!(unset_key(&off, "a", "k"), off);
        assert_eq!(unset_key(&off, "c", "k"), off);
        assert_eq!(set_key(&off, "a", "k", "1"), text);
    }
}
