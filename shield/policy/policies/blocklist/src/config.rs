//! The configuration.

use regex_lite::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::{fold::Folder, words::Words};

/// Most words of a list.
pub const MAX_WORDS: usize = 5_000;
/// Most bytes of all words together: what the automaton of them takes must fit
/// into the default memory of an instance.
pub const MAX_WORD_BYTES: usize = 40_000;
/// Longest word.
pub const MAX_WORD: usize = 256;
/// Most patterns of a list.
pub const MAX_PATTERNS: usize = 50;
/// Most bytes of one compiled pattern.
const MAX_PATTERN_MEMORY: usize = 256 << 10;
/// Longest reason.
const MAX_REASON_BYTES: usize = 1024;

/// What the JSON of a binding says. Keys that are not here are refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Words: any texts, also with blanks inside.
    pub words: Vec<String>,
    /// Regular expressions in the syntax of `regex-lite`, searched in linear
    /// time: `\w`, `\d` and `\b` know ASCII only. `whole_word` is not for them.
    /// Each costs about 50 µs for 1 KiB; ten words cost 7 µs together.
    pub patterns: Vec<String>,
    /// Capitals do not matter, in any alphabet that has them.
    pub ignore_case: bool,
    /// A word counts only where no letter or digit is next to it. `_` is neither.
    pub whole_word: bool,
    /// Names and values of application headers are searched too.
    pub headers: bool,
    /// What the block says. It never names the word.
    pub reason: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            words: Vec::new(),
            patterns: Vec::new(),
            ignore_case: true,
            whole_word: true,
            headers: false,
            reason: "a word of the blocklist".into(),
        }
    }
}

impl Config {
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(config: &[u8]) -> Result<Self, String> {
        if config.trim_ascii().is_empty() {
            return Err(r#"the configuration is empty: give {"words":[…]}"#.into());
        }
        let config: Self =
            serde_json::from_slice(config).map_err(|e| format!("the configuration: {e}"))?;
        if config.words.is_empty() && config.patterns.is_empty() {
            return Err("neither words nor patterns: nothing would be blocked".into());
        }
        if config.reason.len() > MAX_REASON_BYTES {
            return Err(format!("reason: longer than {MAX_REASON_BYTES} bytes"));
        }
        Ok(config)
    }

    /// The words, folded if capitals do not matter.
    pub(crate) fn words(&self, mut folder: Option<&mut Folder>) -> Result<Option<Words>, String> {
        if self.words.is_empty() {
            return Ok(None);
        }
        if self.words.len() > MAX_WORDS {
            return Err(format!(
                "words: {} of at most {MAX_WORDS}",
                self.words.len()
            ));
        }
        let bytes: usize = self.words.iter().map(String::len).sum();
        if bytes > MAX_WORD_BYTES {
            return Err(format!(
                "words: {bytes} bytes together, at most {MAX_WORD_BYTES}"
            ));
        }
        let mut folded = Vec::with_capacity(self.words.len());
        for (at, word) in self.words.iter().enumerate() {
            if word.is_empty() {
                return Err(format!("words[{at}]: empty"));
            }
            if word.len() > MAX_WORD {
                return Err(format!("words[{at}]: longer than {MAX_WORD} bytes"));
            }
            if word.trim() != word {
                return Err(format!("words[{at}]: begins or ends with a blank"));
            }
            let mut text = String::with_capacity(word.len());
            match &mut folder {
                Some(folder) => folder.fold(word, &mut text),
                None => text.push_str(word),
            }
            folded.push(text);
        }
        Words::new(&folded, self.whole_word).map(Some)
    }

    /// The patterns. The text they meet is folded if capitals do not matter.
    pub(crate) fn patterns(&self, mut folder: Option<&mut Folder>) -> Result<Vec<Regex>, String> {
        if self.patterns.len() > MAX_PATTERNS {
            return Err(format!(
                "patterns: {} of at most {MAX_PATTERNS}",
                self.patterns.len()
            ));
        }
        let mut all = Vec::with_capacity(self.patterns.len());
        for (at, pattern) in self.patterns.iter().enumerate() {
            // In the syntax all that is not ASCII stands for itself, so it may
            // be folded; ASCII may not (`\S` is not `\s`).
            let folded = match &mut folder {
                Some(folder) => pattern
                    .chars()
                    .map(|c| if c.is_ascii() { c } else { folder.fold_char(c) })
                    .collect(),
                None => pattern.clone(),
            };
            let regex = RegexBuilder::new(&folded)
                .case_insensitive(self.ignore_case)
                .size_limit(MAX_PATTERN_MEMORY)
                .build()
                .map_err(|e| format!("patterns[{at}]: {e}"))?;
            if regex.is_match("") {
                return Err(format!(
                    "patterns[{at}]: matches the empty text, so all messages"
                ));
            }
            all.push(regex);
        }
        Ok(all)
    }
}
