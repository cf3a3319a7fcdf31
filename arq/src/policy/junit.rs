//! Results of cases as JUnit XML, which CI systems read.

use std::fmt::Write;
use std::time::Duration;

/// One case's result.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) took: Duration,
    /// Why it failed.
    pub(super) failure: Option<&'a str>,
}

/// The whole document.
pub(super) fn document(suite: &str, entries: &[Entry<'_>]) -> String {
    let failures = entries
        .iter()
        .filter(|entry| entry.failure.is_some())
        .count();
    let total: Duration = entries.iter().map(|entry| entry.took).sum();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" errors=\"0\" time=\"{:.6}\">\n",
        escaped(suite),
        entries.len(),
        total.as_secs_f64()
    );
    for entry in entries {
        // Writing into a String cannot fail.
        let _ = write!(
            text,
            "    <testcase classname=\"{}\" name=\"{}\" time=\"{:.6}\"",
            escaped(suite),
            escaped(entry.name),
            entry.took.as_secs_f64()
        );
        match entry.failure {
            None => text.push_str("/>\n"),
            Some(why) => {
                let why = escaped(why);
                let _ = write!(
                    text,
                    ">\n      <failure message=\"{why}\">{why}</failure>\n    </testcase>\n"
                );
            }
        }
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}

/// Text for an attribute or an element. XML 1.0 has no form at all for most control characters.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\n' => safe.push_str("&#10;"),
            '\t' => safe.push_str("&#9;"),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => {
                safe.push('\u{fffd}');
            }
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_reasons_cannot_break_the_document() {
        let entry = |name, failure| Entry {
            name,
            took: Duration::from_micros(1_500),
            failure,
        };
        let text = document(
            "a\"b",
            &[
                entry("clean", None),
                entry("<&>", Some("expected \"allow\"\ncame \u{1b}[31m")),
            ],
        );
        assert_eq!(
            text,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"a&quot;b\" tests=\"2\" failures=\"1\" errors=\"0\" time=\"0.003000\">\n    <testcase classname=\"a&quot;b\" name=\"clean\" time=\"0.001500\"/>\n    <testcase classname=\"a&quot;b\" name=\"&lt;&amp;&gt;\" time=\"0.001500\">\n      <failure message=\"expected &quot;allow&quot;&#10;came \u{fffd}[31m\">expected &quot;allow&quot;&#10;came \u{fffd}[31m</failure>\n    </testcase>\n  </testsuite>\n</testsuites>\n"
        );
    }
}
