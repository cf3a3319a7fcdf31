//! What it blocks and what it lets pass.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn policy(config: &str) -> SizeAndShape {
    SizeAndShape::configure(config.as_bytes()).unwrap()
}

fn reason(policy: &mut SizeAndShape, message: &Message) -> Option<String> {
    match policy.on_message(message) {
        Verdict::Allow => None,
        Verdict::Block(reason) => Some(reason),
        Verdict::Transform(_) => panic!("it changes nothing"),
    }
}

#[test]
fn the_size_is_a_bound_that_may_be_reached() {
    let mut policy = policy(r#"{"max_payload_bytes":3}"#);
    assert_eq!(reason(&mut policy, &Message::of("")), None);
    assert_eq!(reason(&mut policy, &Message::of("abc")), None);
    let why = reason(&mut policy, &Message::of("abcd")).unwrap();
    assert_eq!(why, "the payload has 4 bytes, at most 3 are allowed");
}

#[test]
fn a_bound_of_nothing_lets_only_nothing_pass() {
    let mut policy = policy(r#"{"max_payload_bytes":0}"#);
    assert_eq!(reason(&mut policy, &Message::of("")), None);
    assert!(reason(&mut policy, &Message::of("a")).is_some());
}

#[test]
fn content_types_are_compared_without_case_and_parameters() {
    let mut policy = policy(r#"{"content_types":["application/JSON","text/*"]}"#);
    for good in [
        "application/json",
        "Application/Json; charset=utf-8",
        "text/plain",
        "TEXT/html;q=\"a/b\"",
        " text/csv ",
        "text/vnd.a+b",
    ] {
        let message = Message::of("x").with_header("Content-Type", good);
        assert_eq!(reason(&mut policy, &message), None, "{good}");
    }
    for bad in [
        "application/jsonx",
        "application/xml",
        "image/png",
        "",
        "text",
        "text/",
        "/plain",
        "text/pl ain",
        "text/plain, application/json",
        "text/*",
        "*/*",
        "texts/plain",
        "te\u{308}xt/plain",
    ] {
        let message = Message::of("x").with_header("Content-Type", bad);
        assert!(reason(&mut policy, &message).is_some(), "{bad}");
    }
}

#[test]
fn a_missing_content_type_passes_unless_it_is_required() {
    let message = Message::of("x").with_header("other", "y");
    assert_eq!(
        reason(&mut policy(r#"{"content_types":["text/plain"]}"#), &message),
        None
    );
    let mut strict = policy(r#"{"require_content_type":true}"#);
    assert_eq!(
        reason(&mut strict, &message).unwrap(),
        "the header content-type is missing"
    );
    let named = Message::of("x").with_header("CONTENT-TYPE", "a/b");
    assert_eq!(reason(&mut strict, &named), None);
    let broken = Message::of("x").with_header("content-type", "ab");
    assert!(reason(&mut strict, &broken).is_some());
}

#[test]
fn another_header_may_have_it() {
    let mut policy = policy(r#"{"content_types":["a/b"],"content_type_header":"Kind"}"#);
    let message = Message::of("").with_header("kind", "a/c");
    assert_eq!(
        reason(&mut policy, &message).unwrap(),
        "the content type a/c is not allowed"
    );
    let other = Message::of("").with_header("content-type", "a/c");
    assert_eq!(reason(&mut policy, &other), None);
}

#[test]
fn a_second_header_in_other_capitals_does_not_hide_the_first() {
    let mut policy =
        policy(r#"{"content_types":["text/plain","application/json"],"json":"declared"}"#);
    let message = Message::of("no json")
        .with_header("Content-Type", "text/plain")
        .with_header("content-type", "application/json");
    assert!(reason(&mut policy, &message).unwrap().contains("no JSON"));
    let message = Message::of("x")
        .with_header("Content-Type", "text/plain")
        .with_header("content-type", "image/png");
    assert!(reason(&mut policy, &message).unwrap().contains("image/png"));
}

#[test]
fn any_type_may_be_allowed() {
    let mut policy = policy(r#"{"content_types":["*/*"]}"#);
    assert_eq!(
        reason(
            &mut policy,
            &Message::of("").with_header("content-type", "a/b")
        ),
        None
    );
    assert!(
        reason(
            &mut policy,
            &Message::of("").with_header("content-type", "ab")
        )
        .is_some()
    );
}

const GOOD: &[&str] = &[
    "{}",
    "[]",
    "null",
    "true",
    "-0.5e+3",
    "\"\"",
    " { \"a\" : [1, 2.0, \"x\\n\\u00e9\"] } \r\n",
    "\"\\\"[[[[[[[[\"",
    "{\"a\":1,\"a\":2}",
    "\"日本\"",
    "[[[[[]]]],[[[[]]]]]",
    "\"\\ud800\"",
];
const BAD: &[&str] = &[
    "",
    " ",
    "{",
    "}",
    "[1,]",
    "{\"a\"}",
    "{a:1}",
    "'a'",
    "01",
    "1.",
    ".5",
    "+1",
    "NaN",
    "tru",
    "\"\n\"",
    "\"\\x\"",
    "\"",
    "[]]",
    "{} {}",
    "\u{feff}{}",
    "[1 2]",
    "{\"a\":1,}",
    "\"\\u12\"",
    "// c\n1",
    "]",
    "[}",
    "{]",
];

#[test]
fn only_json_passes_as_json() {
    let mut policy = policy(r#"{"json":"always"}"#);
    for text in GOOD {
        assert_eq!(reason(&mut policy, &Message::of(*text)), None, "{text}");
    }
    for text in BAD {
        assert!(reason(&mut policy, &Message::of(*text)).is_some(), "{text}");
    }
    assert!(
        reason(&mut policy, &Message::of(b"\"\xff\"".to_vec()))
            .unwrap()
            .contains("UTF-8")
    );
}

#[test]
fn json_is_checked_where_it_is_declared() {
    let mut policy = policy(r#"{"json":"declared"}"#);
    let broken = || Message::of("{");
    for content_type in [
        "application/json",
        "Application/JSON;a=b",
        "application/ld+json",
    ] {
        let message = broken().with_header("content-type", content_type);
        assert!(reason(&mut policy, &message).is_some(), "{content_type}");
    }
    for content_type in ["text/plain", "text/json", "json"] {
        let message = broken().with_header("content-type", content_type);
        assert_eq!(reason(&mut policy, &message), None, "{content_type}");
    }
    assert_eq!(reason(&mut policy, &broken()), None);
}

#[test]
fn depth_has_a_bound_that_may_be_reached() {
    let mut policy = policy(r#"{"json":"always","max_json_depth":3}"#);
    assert_eq!(
        reason(&mut policy, &Message::of("[{\"a\":[]},{\"b\":[]}]")),
        None
    );
    let why = reason(&mut policy, &Message::of("[[[[]]]]")).unwrap();
    assert!(why.contains("nested deeper than 3"), "{why}");
    let bomb = "[".repeat(1 << 20);
    assert!(
        reason(&mut policy, &Message::of(bomb))
            .unwrap()
            .contains("deeper")
    );
}

#[test]
fn the_deepest_allowed_is_no_danger_to_the_stack() {
    let mut policy = policy(r#"{"json":"always","max_json_depth":1024}"#);
    let deep = format!("{}{}", "[".repeat(1024), "]".repeat(1024));
    assert_eq!(reason(&mut policy, &Message::of(deep)), None);
}

#[test]
fn bad_configurations_are_refused_in_words() {
    for (config, says) in [
        ("", "empty"),
        ("{}", "nothing to check"),
        (r#"{"json":"never"}"#, "nothing to check"),
        (r#"{"json":"maybe"}"#, "maybe"),
        (r#"{"max_payload_bytes":-1}"#, "configuration"),
        (r#"{"max_payload":1}"#, "unknown field"),
        (r#"{"content_types":[]}"#, "leave it out"),
        (r#"{"content_types":["a/b","json"]}"#, "content_types[1]"),
        (r#"{"content_types":["a/b;c=d"]}"#, "content_types[0]"),
        (r#"{"content_types":["*/json"]}"#, "content_types[0]"),
        (r#"{"json":"always","max_json_depth":0}"#, "max_json_depth"),
        (
            r#"{"json":"always","max_json_depth":1025}"#,
            "max_json_depth",
        ),
        (
            r#"{"require_content_type":true,"content_type_header":""}"#,
            "content_type_header",
        ),
    ] {
        match SizeAndShape::configure(config.as_bytes()) {
            Ok(_) => panic!("accepted: {config}"),
            Err(why) => assert!(why.contains(says), "{config}: {why}"),
        }
    }
}

proptest! {
    /// The parser that builds a tree is the judge.
    #[test]
    fn agrees_with_the_whole_parser(text in r#"[\[\]{}:,"\\a0-9tru.e\- ]{0,16}"#) {
        let mut policy = policy(r#"{"json":"always"}"#);
        let mine = reason(&mut policy, &Message::of(text.clone())).is_none();
        let whole = serde_json::from_str::<serde_json::Value>(&text);
        // Only the tree can be too large a number or half a surrogate pair.
        let theirs = whole.is_ok() || whole.is_err_and(|e| {
            let why = e.to_string();
            why.starts_with("number out of range") || why.contains("surrogate")
        });
        prop_assert_eq!(mine, theirs, "{}", text);
    }

    #[test]
    fn no_input_panics(
        config in any::<String>(),
        payload in any::<Vec<u8>>(),
        content_type in any::<String>(),
    ) {
        let _ = SizeAndShape::configure(config.as_bytes());
        let message = Message::of(payload).with_header("content-type", content_type);
        let _ = policy(r#"{"json":"always","content_types":["text/*"]}"#).on_message(&message);
        let _ = policy(r#"{"json":"declared"}"#).on_message(&message);
    }
}
