//! What it blocks and what it lets pass.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn list(config: &str) -> Blocklist {
    Blocklist::configure(config.as_bytes()).unwrap()
}

fn refusal(config: &str) -> String {
    match Blocklist::configure(config.as_bytes()) {
        Ok(_) => panic!("accepted: {config}"),
        Err(why) => why,
    }
}

fn blocks(list: &mut Blocklist, payload: impl Into<Vec<u8>>) -> bool {
    match list.on_message(&Message::of(payload)) {
        Verdict::Allow => false,
        Verdict::Block(_) => true,
        Verdict::Transform(_) => panic!("a blocklist changes nothing"),
    }
}

#[test]
fn words_are_found_whatever_their_case() {
    let mut list = list(r#"{"words":["malware","Größe","οδός","ВИРУС"]}"#);
    for text in [
        "malware",
        "MALWARE",
        "some MalWare here",
        "(malware)",
        "malware_x",
        "malware\n",
        "GRÖßE",
        "GRÖẞE",
        "ΟΔΌΣ",
        "οδόσ",
        "вирус",
        "ein Вирус!",
        "{\"a\":\"malware\"}",
        "日本、malware、日本",
    ] {
        assert!(blocks(&mut list, text), "{text}");
    }
}

#[test]
fn what_only_looks_like_a_word_passes() {
    let mut list = list(r#"{"words":["malware","é"]}"#);
    for text in [
        "",
        "malwar",
        "malwares",
        "antimalware",
        "malware2",
        "1malware",
        "malwareß",
        "日malware",
        "mal ware",
        "e\u{301}",
        "İmalware",
    ] {
        assert!(!blocks(&mut list, text), "{text}");
    }
}

#[test]
fn part_of_a_word_counts_if_asked_for() {
    let mut list = list(r#"{"words":["ware"],"whole_word":false}"#);
    assert!(blocks(&mut list, "malwares"));
    assert!(!blocks(&mut list, "wart"));
}

#[test]
fn capitals_matter_if_asked_for() {
    let mut list = list(r#"{"words":["Virus"],"patterns":["X[0-9]"],"ignore_case":false}"#);
    assert!(blocks(&mut list, "a Virus"));
    assert!(!blocks(&mut list, "a virus"));
    assert!(blocks(&mut list, "X1"));
    assert!(!blocks(&mut list, "x1"));
}

#[test]
fn a_longer_word_does_not_hide_a_shorter_one() {
    let mut list = list(r#"{"words":["ab cd ef","cd","bcd"]}"#);
    assert!(blocks(&mut list, "ab cd e"));
    assert!(blocks(&mut list, "xab cd ef"));
    assert!(!blocks(&mut list, "xcd efg"));
}

#[test]
fn a_payload_that_is_not_utf8_is_searched() {
    let mut list = list(r#"{"words":["virus"]}"#);
    assert!(blocks(&mut list, b"\xff\xfeVIRUS\xff".to_vec()));
    assert!(!blocks(&mut list, b"vi\xffrus".to_vec()));
    let mut exact = self::list(r#"{"words":["virus"],"ignore_case":false}"#);
    assert!(blocks(&mut exact, b"\xc3virus\xc3".to_vec()));
}

#[test]
fn patterns_are_searched_in_the_folded_text() {
    let mut list = list(r#"{"patterns":["bit\\.ly/\\w+","ÄRGER\\d","\\Sx\\S"]}"#);
    for text in ["see BIT.LY/abc", "ärger7", "Ärger7", "axb"] {
        assert!(blocks(&mut list, text), "{text}");
    }
    for text in ["bit.ly/", "ärger", "a x b"] {
        assert!(!blocks(&mut list, text), "{text}");
    }
}

#[test]
fn headers_count_only_if_asked_for() {
    let message = Message::of("fine").with_header("subject", "a Virus");
    assert_eq!(
        list(r#"{"words":["virus"]}"#).on_message(&message),
        Verdict::Allow
    );
    let mut both = list(r#"{"words":["virus"],"headers":true,"reason":"no"}"#);
    assert_eq!(both.on_message(&message), Verdict::block("no"));
    let named = Message::of("fine").with_header("virus", "x");
    assert_eq!(both.on_message(&named), Verdict::block("no"));
    assert_eq!(
        both.on_message(&Message::of("fine").with_header("a", "b")),
        Verdict::Allow
    );
}

#[test]
fn the_reason_does_not_name_the_word() {
    let verdict = list(r#"{"words":["virus"]}"#).on_message(&Message::of("virus"));
    assert_eq!(verdict, Verdict::block("a word of the blocklist"));
}

#[test]
fn bad_configurations_are_refused_in_words() {
    for (config, says) in [
        ("", "empty"),
        ("  ", "empty"),
        ("[", "configuration"),
        ("{}", "neither"),
        (r#"{"words":[]}"#, "neither"),
        (r#"{"word":["x"]}"#, "unknown field `word`"),
        (r#"{"words":"x"}"#, "expected a sequence"),
        (r#"{"words":["a",""]}"#, "words[1]: empty"),
        (r#"{"words":[" a"]}"#, "words[0]: begins or ends"),
        (r#"{"patterns":["a","("]}"#, "patterns[1]"),
        (r#"{"patterns":["a*"]}"#, "matches the empty text"),
        (r#"{"patterns":["(a{900}){900}"]}"#, "patterns[0]"),
        (r#"{"words":["a"],"whole_word":1}"#, "boolean"),
    ] {
        let why = refusal(config);
        assert!(why.contains(says), "{config}: {why}");
    }
    let reason = "x".repeat(1025);
    assert!(refusal(&format!(r#"{{"words":["a"],"reason":"{reason}"}}"#)).contains("reason"));
    let words = vec![r#""a""#; config::MAX_WORDS + 1].join(",");
    assert!(refusal(&format!(r#"{{"words":[{words}]}}"#)).contains("words: 5001"));
    let word = "x".repeat(config::MAX_WORD + 1);
    assert!(refusal(&format!(r#"{{"words":["{word}"]}}"#)).contains("words[0]: longer"));
    let words = vec![format!("\"{}\"", "x".repeat(250)); 161].join(",");
    assert!(refusal(&format!(r#"{{"words":[{words}]}}"#)).contains("bytes together"));
}

#[test]
fn a_full_list_works() {
    let words: Vec<String> = (0..config::MAX_WORDS).map(|n| format!("w{n:06}")).collect();
    let config = format!(r#"{{"words":["{}"]}}"#, words.join(r#"",""#));
    let mut list = list(&config);
    assert!(blocks(&mut list, "at last W004999."));
    assert!(!blocks(&mut list, "at last w005000."));
}

proptest! {
    #[test]
    fn an_inserted_word_is_found(
        before in any::<String>(),
        after in any::<String>(),
        word in "[a-zA-Zäß日]{1,8}",
        upper in any::<bool>(),
    ) {
        let config = serde_json::json!({ "words": ["other", word] }).to_string();
        // Capitals of the whole may be other letters (ß), so only ASCII's.
        let shown = if upper { word.to_ascii_uppercase() } else { word };
        let found = blocks(&mut list(&config), format!("{before} {shown}.{after}"));
        prop_assert!(found);
    }

    #[test]
    fn an_inserted_word_is_found_among_any_bytes(
        before in any::<Vec<u8>>(),
        after in any::<Vec<u8>>(),
        word in "[a-z]{1,8}",
    ) {
        let config = serde_json::json!({ "words": [word] }).to_string();
        let payload = [&before[..], b" ", word.as_bytes(), b" ", &after[..]].concat();
        prop_assert!(blocks(&mut list(&config), payload));
    }

    #[test]
    fn whole_words_agree_with_a_plain_search(
        text in "[ab .ß]{0,24}",
        words in prop::collection::vec("[ab][ab ]{0,2}[ab]|[ab]", 1..4),
    ) {
        let config = serde_json::json!({ "words": words }).to_string();
        let plain = words.iter().any(|word| text.match_indices_overlapping(word).any(|at| {
            let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            !letter(text[..at].chars().next_back()) && !letter(text[at + word.len()..].chars().next())
        }));
        prop_assert_eq!(blocks(&mut list(&config), text), plain);
    }

    #[test]
    fn no_configuration_panics(config in any::<String>()) {
        let _ = Blocklist::configure(config.as_bytes());
    }
}

trait Overlapping {
    fn match_indices_overlapping(&self, word: &str) -> impl Iterator<Item = usize>;
}

impl Overlapping for String {
    fn match_indices_overlapping(&self, word: &str) -> impl Iterator<Item = usize> {
        self.char_indices()
            .map(|(at, _)| at)
            .filter(move |at| self[*at..].starts_with(word))
    }
}
