//! POLICY_NAME: blocks messages that hold a word of the configuration. Words
//! are separated by commas or line ends; capitals do not matter.

use arqon_policy_guest::{Message, Policy, Verdict, export};

struct WordList {
    words: Vec<String>,
}

impl Policy for WordList {
    fn configure(config: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(config).map_err(|_| "the configuration is not UTF-8")?;
        let words: Vec<String> = text
            .split([',', '\n', '\r'])
            .map(|word| word.trim().to_lowercase())
            .filter(|word| !word.is_empty())
            .collect();
        if words.is_empty() {
            return Err("no words: give them separated by commas".into());
        }
        Ok(Self { words })
    }

    fn on_message(&mut self, message: &Message) -> Verdict {
        let text = String::from_utf8_lossy(&message.payload).to_lowercase();
        if self.words.iter().any(|word| text.contains(word.as_str())) {
            return Verdict::block("a word of the list");
        }
        Verdict::Allow
    }
}

export!(WordList);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_the_list_is_blocked() {
        let mut policy = WordList::configure(b"malware, virus").unwrap();
        assert_eq!(policy.on_message(&Message::of("fine")), Verdict::Allow);
        let blocked = Verdict::block("a word of the list");
        assert_eq!(policy.on_message(&Message::of("a Virus!")), blocked);
    }

    #[test]
    fn an_empty_list_is_refused() {
        assert!(WordList::configure(b" , ").is_err());
    }
}
