//! Blocks messages that hold a word or a pattern of a list.
//!
//! ```json
//! {
//!   "words": ["malware", "virus"],
//!   "patterns": ["bit\\.ly/[a-z0-9]+"],
//!   "ignore_case": true,
//!   "whole_word": true,
//!   "headers": false,
//!   "reason": "not here"
//! }
//! ```
//!
//! What it promises is in [`config::Config`] and the module `fold`. The payload
//! is searched as text, whatever it is: what is not UTF-8 reads as U+FFFD.
//! Escapes are not undone: `"\u006dalware"` of a JSON text is not `malware`.

pub mod config;
mod fold;
mod words;

use arqon_policy_guest::{Message, Policy, Verdict, export};
use regex_lite::Regex;

use crate::{config::Config, fold::Folder, words::Words};

/// The policy.
pub struct Blocklist {
    words: Option<Words>,
    patterns: Vec<Regex>,
    /// None where capitals matter.
    folder: Option<Folder>,
    headers: bool,
    reason: String,
    /// Kept for its memory only.
    text: String,
}

impl Policy for Blocklist {
    fn configure(config: &[u8]) -> Result<Self, String> {
        let config = Config::parse(config)?;
        let mut folder = config.ignore_case.then(Folder::new);
        Ok(Self {
            words: config.words(folder.as_mut())?,
            patterns: config.patterns(folder.as_mut())?,
            folder,
            headers: config.headers,
            reason: config.reason,
            text: String::new(),
        })
    }

    fn on_message(&mut self, message: &Message) -> Verdict {
        let in_headers = |list: &mut Self| {
            message.headers.iter().any(|header| {
                list.finds(header.name.as_bytes()) || list.finds(header.value.as_bytes())
            })
        };
        if self.finds(&message.payload) || (self.headers && in_headers(self)) {
            return Verdict::block(self.reason.clone());
        }
        Verdict::Allow
    }
}

impl Blocklist {
    fn finds(&mut self, bytes: &[u8]) -> bool {
        self.text.clear();
        match &mut self.folder {
            Some(folder) => folder.fold_bytes(bytes, &mut self.text),
            None => self.text.push_str(&String::from_utf8_lossy(bytes)),
        }
        self.words
            .as_ref()
            .is_some_and(|words| words.find(&self.text))
            || self
                .patterns
                .iter()
                .any(|pattern| pattern.is_match(&self.text))
    }
}

export!(Blocklist);

#[cfg(test)]
mod tests;
