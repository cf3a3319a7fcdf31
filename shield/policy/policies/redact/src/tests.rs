//! What it blocks and what it lets pass.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn policy(config: &str) -> Redact {
    Redact::configure(config.as_bytes()).unwrap()
}

/// What comes out.
fn out(policy: &mut Redact, text: &str) -> String {
    match policy.on_message(&Message::of(text)) {
        Verdict::Allow => text.to_owned(),
        Verdict::Transform(rewrite) => {
            assert_eq!(rewrite.headers, None);
            let payload = String::from_utf8(rewrite.payload.unwrap()).unwrap();
            assert_ne!(payload, text, "a change that changes nothing");
            payload
        }
        Verdict::Block(reason) => panic!("{reason}"),
    }
}

#[test]
fn addresses_go() {
    let mut policy = policy(r##"{"cards":false,"replacement":"#"}"##);
    for (text, want) in [
        ("ann@example.org", "#"),
        ("to ann@example.org.", "to #."),
        ("<ann.b+c_d%e-f@mail.example-site.co.uk>", "<#>"),
        ("{\"mail\":\"ann@example.org\"}", "{\"mail\":\"#\"}"),
        ("a@b.co,c@d.eu;mailto:e@f.de?x", "#,#;mailto:#?x"),
        ("jörg@münchen.de", "#"),
        ("用户@例子.公司", "#"),
        ("x@y.xn--p1ai!", "#!"),
        ("a@b.c.org1", "a@b.c.org1"),
        ("a@b.com.1", "#.1"),
        ("a@b.co-", "#-"),
        ("a@@b.co", "a@@b.co"),
        ("a@b@c.de", "a@#"),
        ("o'brien@example.org", "o'#"),
        ("a@b.co@c.de", "#@c.de"),
        ("ANN@EXAMPLE.ORG", "#"),
        ("a@1.2.3.co", "#"),
    ] {
        assert_eq!(out(&mut policy, text), want, "{text}");
    }
}

#[test]
fn what_is_no_address_stays() {
    let mut policy = policy(r##"{"cards":false}"##);
    for text in [
        "",
        "@",
        "@b.co",
        "a@",
        "a@b",
        "a@b.",
        "a@b.c",
        "a@.co",
        "a @b.co",
        "a@ b.co",
        "a@10.0.0.1",
        "a@b..co",
        "@@@@",
        "a@-",
        "user at example.org",
        "a@b.c1",
    ] {
        assert_eq!(out(&mut policy, text), text);
    }
}

#[test]
fn cards_go() {
    let mut policy = policy(r##"{"emails":false,"replacement":"#"}"##);
    for (text, want) in [
        ("4111111111111111", "#"),
        ("4111 1111 1111 1111", "#"),
        ("4111-1111-1111-1111", "#"),
        ("card: 5500 0000 0000 0004!", "card: #!"),
        ("378282246310005", "#"),
        ("3782 822463 10005", "#"),
        ("4222222222222", "#"),
        ("6011000990139424 and 3530111333300000", "# and #"),
        ("4111 1111 1111 1111 5500 0000 0000 0004", "# #"),
        ("x4111111111111111y", "x#y"),
        ("{\"card\":\"4111 1111 1111 1111\"}", "{\"card\":\"#\"}"),
        ("12 4111 1111 1111 1111 7", "12 # 7"),
        ("6212345678900000003", "#"),
        ("4111 1111 1111 1111-", "#-"),
    ] {
        assert_eq!(out(&mut policy, text), want, "{text}");
    }
}

#[test]
fn what_is_no_card_stays() {
    let mut policy = policy(r##"{"emails":false}"##);
    for text in [
        "4111111111111112",
        "4111  1111 1111 1111",
        "4111-1111--1111-1111",
        "4111.1111.1111.1111",
        "4111\n1111 1111 1111",
        "411111111111",
        "41111111111111111111",
        "0000000000000000",
        "1700000000009",
        "2024-01-02",
        "",
        "-",
        "٤١١١١١١١١١١١١١١١",
    ] {
        assert_eq!(out(&mut policy, text), text);
    }
}

#[test]
fn patterns_go_and_touching_parts_share_a_replacement() {
    let mut policy = policy(
        r##"{"emails":false,"cards":false,"replacement":"#",
            "patterns":[{"name":"iban","pattern":"\\b[A-Z]{2}\\d{2}[A-Z0-9]{11,30}\\b"},
                        {"name":"digit","pattern":"[0-9]"},{"name":"key","pattern":"(?i)key-\\w+"}]}"##,
    );
    assert_eq!(out(&mut policy, "DE89370400440532013000 ok"), "# ok");
    assert_eq!(out(&mut policy, "a123b4"), "a#b#");
    assert_eq!(out(&mut policy, "KEY-abc1"), "#");
    assert_eq!(out(&mut policy, "nothing"), "nothing");
}

#[test]
fn a_replacement_may_be_nothing() {
    let mut policy = policy(r##"{"replacement":""}"##);
    assert_eq!(out(&mut policy, "a@b.co x"), " x");
}

#[test]
fn no_configuration_is_the_default() {
    let mut policy = policy("");
    assert_eq!(
        out(&mut policy, "a@b.co 4111111111111111"),
        "[redacted] [redacted]"
    );
}

#[test]
fn a_payload_that_is_not_utf8_passes_or_is_blocked() {
    let message = Message::of(b"a@b.co \xff".to_vec());
    assert_eq!(policy("{}").on_message(&message), Verdict::Allow);
    let verdict = policy(r##"{"not_utf8":"block"}"##).on_message(&message);
    assert_eq!(verdict, Verdict::block("the payload is not UTF-8"));
}

#[test]
fn bad_configurations_are_refused_in_words() {
    for (config, says) in [
        ("{", "configuration"),
        (r##"{"emails":false,"cards":false}"##, "nothing to look for"),
        (r##"{"email":true}"##, "unknown field `email`"),
        (r##"{"patterns":["a"]}"##, "configuration"),
        (
            r##"{"patterns":[{"name":"n","pattern":"("}]}"##,
            "pattern n:",
        ),
        (
            r##"{"patterns":[{"name":"n","pattern":"a?"}]}"##,
            "matches the empty text",
        ),
        (r##"{"patterns":[{"name":"n"}]}"##, "pattern"),
        (
            r##"{"patterns":[{"name":"n","pattern":"a","x":1}]}"##,
            "unknown field `x`",
        ),
        (r##"{"not_utf8":"maybe"}"##, "maybe"),
    ] {
        match Redact::configure(config.as_bytes()) {
            Ok(_) => panic!("accepted: {config}"),
            Err(why) => assert!(why.contains(says), "{config}: {why}"),
        }
    }
    let config = format!(r##"{{"replacement":"{}"}}"##, "x".repeat(65));
    assert!(Redact::configure(config.as_bytes()).is_err());
}

/// A number of this length that passes Luhn's check.
fn card() -> impl Strategy<Value = String> {
    ("[2-6]", prop::collection::vec(0..10_u8, 11..=17)).prop_map(|(first, rest)| {
        let mut digits: Vec<u8> = first.bytes().map(|b| b - b'0').chain(rest).collect();
        let sum: u32 = digits
            .iter()
            .rev()
            .enumerate()
            .map(|(place, &d)| {
                let doubled = u32::from(d) * if place % 2 == 0 { 2 } else { 1 };
                doubled / 10 + doubled % 10
            })
            .sum();
        digits.push(((10 - sum % 10) % 10) as u8);
        digits.iter().map(|d| char::from(b'0' + d)).collect()
    })
}

proptest! {
    #[test]
    fn an_inserted_address_goes(
        before in any::<String>(),
        after in any::<String>(),
        local in "[a-z0-9._%+-]{1,12}",
        domain in "[a-z0-9]{1,8}\\.[a-z]{2,6}",
    ) {
        let address = format!("{local}@{domain}");
        let shown = out(&mut policy(r##"{"cards":false,"replacement":"#"}"##), &format!("{before} {address} {after}"));
        prop_assert!(!shown.contains(&format!(" {address} ")), "{}", shown);
    }

    #[test]
    fn an_inserted_card_goes(
        before in "[^0-9]{0,20}",
        after in "[^0-9]{0,20}",
        card in card(),
        cut in prop::collection::vec(1..5_usize, 0..6),
        sign in prop::sample::select(vec![' ', '-']),
    ) {
        let mut shown = card.clone();
        let mut at = 0;
        for step in cut {
            at += step;
            if at < shown.len() {
                shown.insert(at, sign);
                at += 1;
            }
        }
        let got = out(&mut policy(r##"{"emails":false,"replacement":"#"}"##), &format!("{before}{shown}{after}"));
        prop_assert_eq!(got, format!("{before}#{after}"));
    }

    /// Each replacement stands for at least one character, and one that stays
    /// is between two of them.
    #[test]
    fn growth_has_a_bound(text in "[a-c1-5@. -]{0,60}") {
        let config = r##"{"replacement":"0123456789","patterns":[{"name":"a","pattern":"a"}]}"##;
        let got = out(&mut policy(config), &text);
        prop_assert!(got.len() <= text.len() + 9 * text.len().div_ceil(2), "{} {}", text, got);
    }

    #[test]
    fn what_came_out_stays(text in "[a-c4@. 1-]{0,60}") {
        let mut policy = policy(r##"{"replacement":"#"}"##);
        let once = out(&mut policy, &text);
        prop_assert_eq!(out(&mut policy, &once), once);
    }

    #[test]
    fn no_input_panics(config in any::<String>(), payload in any::<Vec<u8>>(), text in any::<String>()) {
        let _ = Redact::configure(config.as_bytes());
        let mut policy = policy(r##"{"patterns":[{"name":"n","pattern":"[a-z]{3}"}]}"##);
        let _ = policy.on_message(&Message::of(payload));
        let _ = policy.on_message(&Message::of(text));
    }
}
