//! Takes e-mail addresses, card numbers and more out of messages.
//!
//! ```json
//! {
//!   "emails": true,
//!   "cards": true,
//!   "patterns": [{ "name": "iban", "pattern": "\\b[A-Z]{2}\\d{2}[A-Z0-9]{11,30}\\b" }],
//!   "replacement": "[redacted]",
//!   "not_utf8": "allow"
//! }
//! ```
//!
//! What counts is said at the modules [`email`] and [`card`]. The payload is
//! text to it: what a JSON text or a URL escapes is not seen, and a number of a
//! JSON text that is replaced leaves no JSON. Headers stay as they are.

pub mod card;
pub mod config;
pub mod email;
mod spans;

use arqon_policy_guest::{Message, Policy, Verdict, export};

use crate::{
    config::{Config, NotUtf8, Pattern},
    spans::Spans,
};

/// The policy.
pub struct Redact {
    emails: bool,
    cards: bool,
    patterns: Vec<Pattern>,
    replacement: String,
    not_utf8: NotUtf8,
}

impl Policy for Redact {
    fn configure(config: &[u8]) -> Result<Self, String> {
        let config = Config::parse(config)?;
        Ok(Self {
            patterns: config.compiled()?,
            emails: config.emails,
            cards: config.cards,
            replacement: config.replacement,
            not_utf8: config.not_utf8,
        })
    }

    fn on_message(&mut self, message: &Message) -> Verdict {
        let Some(text) = message.text() else {
            return match self.not_utf8 {
                NotUtf8::Allow => Verdict::Allow,
                NotUtf8::Block => Verdict::block("the payload is not UTF-8"),
            };
        };
        match self.redacted(text) {
            Some(redacted) => Verdict::with_payload(redacted),
            None => Verdict::Allow,
        }
    }
}

impl Redact {
    /// None where there is nothing to take out.
    fn redacted(&self, text: &str) -> Option<String> {
        let mut spans = Spans::default();
        if self.emails {
            email::find(text, |span| spans.add(span));
        }
        if self.cards {
            card::find(text, |span| spans.add(span));
        }
        for pattern in &self.patterns {
            for found in pattern
                .regex
                .find_iter(text)
                .filter(|found| !found.is_empty())
            {
                spans.add(found.range());
            }
        }
        spans.replace(text, &self.replacement)
    }
}

export!(Redact);

#[cfg(test)]
mod tests;
