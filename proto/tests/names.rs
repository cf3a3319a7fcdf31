//! Names, from the side of someone who wants out of his tenant.

#![allow(clippy::unwrap_used)]

use arqon_proto::names::{
    NodeId, PolicyName, RoomId, RoomPattern, SessionId, TenantId, TwistId, UserId,
    parse_room_subject, room_subject,
};
use proptest::prelude::*;

/// What a NATS server does, written apart from `RoomPattern`: subject tokens
/// against those of a subscription or permission.
fn nats_matches(pattern: &[&str], subject: &[&str]) -> bool {
    match (pattern, subject) {
        ([], []) => true,
        ([">"], [_, ..]) => true,
        (["*", pattern @ ..], [_, subject @ ..]) => nats_matches(pattern, subject),
        ([p, pattern @ ..], [s, subject @ ..]) => p == s && nats_matches(pattern, subject),
        _ => false,
    }
}

fn covers(pattern: &str, subject: &str) -> bool {
    let pattern: Vec<_> = pattern.split('.').collect();
    let subject: Vec<_> = subject.split('.').collect();
    nats_matches(&pattern, &subject)
}

/// Pieces of text that break out of a subject, and some that do not.
const PIECES: &[&str] = &[
    ".",
    "..",
    "*",
    ">",
    ".*",
    ".>",
    " ",
    "\t",
    "\r\n",
    "\0",
    "\u{7f}",
    "é",
    "ａ",
    "а",
    "。",
    "\u{200b}",
    "\u{202e}",
    "_",
    "-",
    "$",
    "$SYS",
    "_INBOX",
    "_presence",
    "a",
    "b",
    "A",
    "0",
    "acme",
    "lobby",
    "{{",
    "}}",
    "/",
    "\\",
    "%2e",
    "K",
    "ſ",
];

/// Text built of what breaks out of a subject, mixed with what is allowed.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::collection::vec(prop::sample::select(PIECES), 0..6)
            .prop_map(|pieces| pieces.concat()),
        3 => "[a-cA-C0_.-]{0,12}",
        2 => "[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?",
        1 => "[A-Za-z0-9_-]{1,66}(\\.[A-Za-z0-9_-]{1,66}){0,5}",
        1 => ".{0,40}",
        1 => any::<String>(),
    ]
}

/// Valid tenants near each other, so that prefixes and cuts collide.
fn tenant() -> impl Strategy<Value = TenantId> {
    "[ab]([ab-]{0,3}[ab])?".prop_map(|t| TenantId::parse(&t).unwrap())
}

fn room() -> impl Strategy<Value = RoomId> {
    "[abA][ab_-]{0,2}(\\.[ab_-]{1,3}){0,3}".prop_map(|r| RoomId::parse(&r).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_text_leaves_the_prefix_of_its_tenant(t in hostile(), r in hostile(), other in hostile()) {
        let (Ok(tenant), Ok(room)) = (TenantId::parse(&t), RoomId::parse(&r)) else {
            return Ok(());
        };
        let subject = room_subject(&tenant, &room);
        prop_assert_eq!(&subject, &format!("{t}.{r}"), "nothing is rewritten");
        let prefix = format!("{tenant}.");
        prop_assert!(subject.starts_with(&prefix));
        prop_assert!(subject.bytes().all(|b| b.is_ascii_graphic()), "{:?}", subject);
        let special = ['*', '>', '$', '{', '/'];
        prop_assert!(!subject.contains(special));
        let tokens = subject.split('.').count();
        prop_assert!((2..=5).contains(&tokens) && subject.split('.').all(|t| !t.is_empty()));
        prop_assert!(subject.len() <= 63 + 1 + 200);
        // What the platform keeps for itself.
        prop_assert!(!room.as_str().starts_with('_'));
        for kept in ["$SYS.>", "$JS.>", "_INBOX.>", "_arq.>", &format!("{tenant}._presence.>")] {
            prop_assert!(!covers(kept, &subject), "{} is in {}", subject, kept);
        }
        let (tenant_back, room_back) = parse_room_subject(&subject).unwrap();
        prop_assert_eq!((&tenant_back, &room_back), (&tenant, &room));
        if let Ok(other) = TenantId::parse(&other) {
            prop_assert_eq!(covers(&format!("{other}.>"), &subject), other == tenant);
        }
    }

    #[test]
    fn two_rooms_share_a_subject_only_if_they_are_one(
        (t1, r1) in (tenant(), room()),
        (t2, r2) in (tenant(), room()),
    ) {
        let (s1, s2) = (room_subject(&t1, &r1), room_subject(&t2, &r2));
        prop_assert_eq!(s1 == s2, (&t1, &r1) == (&t2, &r2));
        prop_assert_eq!(covers(&s1, &s2), s1 == s2, "a subject is no pattern");
        prop_assert_eq!(covers(&format!("{t1}.>"), &s2), t1 == t2);
    }

    #[test]
    fn no_pattern_of_a_tenant_reaches_another(
        t1 in tenant(),
        (t2, r2) in (tenant(), room()),
        pattern in hostile(),
    ) {
        if let Ok(pattern) = RoomPattern::parse(&pattern) {
            let reaches = covers(&format!("{t1}.{pattern}"), &room_subject(&t2, &r2));
            prop_assert_eq!(reaches, t1 == t2 && pattern.matches(&r2));
        }
    }

    #[test]
    fn any_subject_that_parses_is_spelled_in_that_one_way(subject in hostile()) {
        if let Ok((tenant, room)) = parse_room_subject(&subject) {
            prop_assert_eq!(room_subject(&tenant, &room), subject);
        }
    }

    #[test]
    fn patterns_match_as_nats_does(
        pattern in "([ab*]|>)(\\.([ab*]|>)){0,4}",
        room in "[ab](\\.[ab]){0,3}",
    ) {
        let tokens: Vec<_> = pattern.split('.').collect();
        let rest_at_end = tokens.iter().rev().skip(1).all(|t| *t != ">");
        let parsed = RoomPattern::parse(&pattern);
        prop_assert_eq!(parsed.is_ok(), rest_at_end && tokens.len() <= 4);
        if let Ok(parsed) = parsed {
            let room = RoomId::parse(&room).unwrap();
            prop_assert_eq!(parsed.matches(&room), covers(&pattern, room.as_str()));
        }
    }

    #[test]
    fn a_room_is_a_pattern_of_itself(r1 in room(), r2 in room()) {
        let pattern = RoomPattern::parse(r1.as_str()).unwrap();
        prop_assert_eq!(pattern.matches(&r2), r1 == r2);
    }

    #[test]
    fn every_name_keeps_its_text(text in hostile()) {
        macro_rules! keeps {
            ($($name:ty),*) => {$(
                if let Ok(name) = <$name>::parse(&text) {
                    prop_assert_eq!(name.as_str(), &*text);
                    prop_assert_eq!(name.to_string(), &*text);
                    prop_assert_eq!(&text.parse::<$name>().unwrap(), &name);
                }
            )*};
        }
        keeps!(TenantId, RoomId, UserId, PolicyName, NodeId, RoomPattern);
        if let Ok(user) = UserId::parse(&text) {
            prop_assert!(!user.as_str().chars().any(char::is_control));
        }
    }

    #[test]
    fn errors_are_short_and_printable(text in any::<String>()) {
        for error in [TenantId::parse(&text).err(), RoomId::parse(&text).err(),
                      UserId::parse(&text).err(), RoomPattern::parse(&text).err()]
            .into_iter().flatten()
        {
            let told = error.to_string();
            prop_assert!(told.len() < 120 && !told.chars().any(char::is_control), "{}", told);
        }
    }

    #[test]
    fn uuids_have_one_text(bytes in any::<[u8; 16]>()) {
        let uuid = uuid::Uuid::from_bytes(bytes);
        let v7 = uuid::Builder::from_bytes(bytes).with_version(uuid::Version::SortRand)
            .with_variant(uuid::Variant::RFC4122).into_uuid().to_string();
        prop_assert_eq!(TwistId::parse(&v7).unwrap().to_string(), &*v7);
        prop_assert_eq!(SessionId::parse(&v7.to_uppercase()).unwrap().to_string(), &*v7);
        let is_v7 = uuid.get_version_num() == 7 && uuid.get_variant() == uuid::Variant::RFC4122;
        prop_assert_eq!(TwistId::parse(&uuid.to_string()).is_ok(), is_v7);
    }
}

#[test]
fn tenants() {
    let longest = "a".repeat(63);
    for good in [
        "a", "0", "acme", "a-b", "a--b", "0-0", "arqon1", "system", &longest,
    ] {
        assert!(TenantId::parse(good).is_ok(), "{good}");
    }
    let too_long = "a".repeat(64);
    for bad in [
        "", "-", "-a", "a-", "A", "aB", "a.b", "a_b", ".", "*", ">", "a*", "a>", " a", "a ", "a b",
        "a\n", "a\0", "ä", "а", "ａ", "arqon", "sys", "control", "brain", "$SYS", "_INBOX",
        &too_long,
    ] {
        assert!(TenantId::parse(bad).is_err(), "{bad:?}");
    }
    for node in ["control", "brain", "all"] {
        assert!(NodeId::parse(node).is_ok() && PolicyName::parse(node).is_ok());
    }
    for bad in ["", "a.b", "*", ">", "A", "_a", &too_long] {
        assert!(
            NodeId::parse(bad).is_err() && PolicyName::parse(bad).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn rooms() {
    let token = "t".repeat(64);
    let longest = [&*token, &token, &token, "12345"].join(".");
    assert_eq!(longest.len(), 200);
    for good in [
        "a",
        "A",
        "0",
        "-",
        "-a-",
        "a_",
        "a._presence",
        "a.b.c.d",
        &token,
        &longest,
    ] {
        assert!(RoomId::parse(good).is_ok(), "{good}");
    }
    let too_long = format!("{longest}6");
    let long_token = "t".repeat(65);
    for bad in [
        "",
        ".",
        "..",
        "a.",
        ".a",
        "a..b",
        "a.b.c.d.e",
        "*",
        ">",
        "a.*",
        "a.>",
        "a*",
        "a>",
        "_",
        "_presence",
        "_a.b",
        "a b",
        " a",
        "a ",
        "a\t",
        "a\r\n",
        "a\0",
        "ä",
        "a.ä",
        "$a",
        "a/b",
        &long_token,
        &too_long,
    ] {
        assert!(RoomId::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn users() {
    let longest = "ü".repeat(64);
    for good in [
        "a",
        "alice@example.com",
        "auth0|5f7c8ec7c33c6c004bbafe82",
        "Zoë Müller",
        "用户",
        "👩",
        "a.b.>",
        "*",
        "_",
        &longest,
    ] {
        assert!(UserId::parse(good).is_ok(), "{good}");
    }
    let too_long = format!("{longest}a");
    for bad in [
        "",
        " ",
        " a",
        "a ",
        "a\n",
        "\0",
        "\u{1b}[31m",
        "a\u{85}",
        "a\u{a0}b",
        "a\u{3000}b",
        "a\u{ad}",
        "a\u{200b}",
        "a\u{200d}",
        "\u{202e}a",
        "a\u{2066}",
        "a\u{2028}b",
        "\u{feff}a",
        "\u{e000}",
        "\u{e0061}",
        "\u{ffff}",
        "\u{fdd0}",
        "\u{10ffff}",
        "\u{3164}",
        &too_long,
    ] {
        assert!(UserId::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn patterns() {
    let matches = |pattern: &str, room: &str| {
        RoomPattern::parse(pattern)
            .unwrap()
            .matches(&RoomId::parse(room).unwrap())
    };
    assert!(matches(">", "a") && matches(">", "a.b.c.d"));
    assert!(matches("*", "a") && !matches("*", "a.b"));
    assert!(matches("a.>", "a.b") && matches("a.>", "a.b.c.d"));
    assert!(
        !matches("a.>", "a"),
        "the rest is at least one token, as in NATS"
    );
    assert!(!matches("a.>", "ab.c") && !matches("a", "A"));
    assert!(matches("*.b.*", "a.b.c") && !matches("*.b.*", "a.b"));
    for bad in [
        "",
        ".",
        "a.",
        ">.a",
        "a.>.b",
        "a>",
        "a.b>",
        "a*",
        "**",
        ">>",
        "a.**",
        "_",
        "_presence.>",
        "_*",
        "a b",
        "ä",
        "a.b.c.d.>",
        "*.*.*.*.*",
    ] {
        assert!(RoomPattern::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn uuids() {
    let (a, b) = (SessionId::new(), SessionId::new());
    assert!(
        a < b && a.to_string() < b.to_string(),
        "they ascend, as value and as text"
    );
    assert_eq!(SessionId::parse(&a.to_string()), Ok(a));
    let v7 = "01936f3e-8a5c-7b21-9d43-5e6f708192a3";
    assert!(TwistId::parse(v7).is_ok());
    for bad in [
        "",
        "01936f3e8a5c7b219d435e6f708192a3",
        "{01936f3e-8a5c-7b21-9d43-5e6f708192a3}",
        "urn:uuid:01936f3e-8a5c-7b21-9d43-5e6f708192a3",
        "01936f3e-8a5c-4b21-9d43-5e6f708192a3",
        "01936f3e-8a5c-7b21-cd43-5e6f708192a3",
        "01936f3e-8a5c-7b21-9d43-5e6f708192aé",
        "01936f3e-8a5c-7b21-9d43-5e6f708192a3 ",
        "00000000-0000-0000-0000-000000000000",
    ] {
        assert!(TwistId::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn errors_say_why() {
    for (text, told) in [
        ("", "tenant id is empty"),
        ("a b", "tenant id has a character that is not allowed: ' '"),
        ("a-", "tenant id begins or ends with '-'"),
        ("sys", "tenant id is reserved"),
    ] {
        assert_eq!(TenantId::parse(text).unwrap_err().to_string(), told);
    }
    for (text, told) in [
        ("a.b.c.d.e", "room id has more than 4 tokens"),
        ("a..b", "room id has an empty token"),
        (
            "_presence",
            "room id begins with _, which is kept for the platform",
        ),
    ] {
        assert_eq!(RoomId::parse(text).unwrap_err().to_string(), told);
    }
    let told = parse_room_subject("acme").unwrap_err().to_string();
    assert_eq!(told, "subject is not <tenant>.<room>");
}
