//! The configuration.

use regex_lite::{Regex, RegexBuilder};
use serde::Deserialize;

/// Most patterns.
pub const MAX_PATTERNS: usize = 50;
/// Longest replacement.
pub const MAX_REPLACEMENT_BYTES: usize = 64;
/// Most bytes of one compiled pattern.
const MAX_PATTERN_MEMORY: usize = 256 << 10;

/// What the JSON of a binding says. Keys that are not here are refused, and so
/// is a configuration that looks for nothing. None at all is the default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// E-mail addresses go.
    pub emails: bool,
    /// Card numbers go.
    pub cards: bool,
    /// What else goes.
    pub patterns: Vec<NamedPattern>,
    /// What comes instead: one for parts that touch.
    pub replacement: String,
    /// What is to become of a payload that is not UTF-8.
    pub not_utf8: NotUtf8,
}

/// A pattern with a name, by which errors call it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPattern {
    /// The name.
    pub name: String,
    /// A regular expression in the syntax of `regex-lite`: `\w`, `\d` and `\b`
    /// know ASCII only. Capitals matter unless it begins with `(?i)`.
    pub pattern: String,
}

/// What is to become of a payload that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotUtf8 {
    /// It passes as it is.
    Allow,
    /// It is blocked.
    Block,
}

pub(crate) struct Pattern {
    pub(crate) regex: Regex,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            emails: true,
            cards: true,
            patterns: Vec::new(),
            replacement: "[redacted]".into(),
            not_utf8: NotUtf8::Allow,
        }
    }
}

impl Config {
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(config: &[u8]) -> Result<Self, String> {
        if config.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let config: Self =
            serde_json::from_slice(config).map_err(|e| format!("the configuration: {e}"))?;
        if !config.emails && !config.cards && config.patterns.is_empty() {
            return Err("nothing to look for: set emails, cards or patterns".into());
        }
        if config.replacement.len() > MAX_REPLACEMENT_BYTES {
            return Err(format!(
                "replacement: longer than {MAX_REPLACEMENT_BYTES} bytes"
            ));
        }
        if config.patterns.len() > MAX_PATTERNS {
            return Err(format!(
                "patterns: {} of at most {MAX_PATTERNS}",
                config.patterns.len()
            ));
        }
        Ok(config)
    }

    pub(crate) fn compiled(&self) -> Result<Vec<Pattern>, String> {
        self.patterns.iter().map(NamedPattern::compiled).collect()
    }
}

impl NamedPattern {
    fn compiled(&self) -> Result<Pattern, String> {
        let name = &self.name;
        let regex = RegexBuilder::new(&self.pattern)
            .size_limit(MAX_PATTERN_MEMORY)
            .build()
            .map_err(|e| format!("pattern {name}: {e}"))?;
        if regex.is_match("") {
            return Err(format!(
                "pattern {name}: matches the empty text, so everywhere"
            ));
        }
        Ok(Pattern { regex })
    }
}
