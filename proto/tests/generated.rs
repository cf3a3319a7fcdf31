//! What is generated: the registry's checks, and the committed pages.

#![allow(clippy::unwrap_used)]

#[allow(dead_code, unreachable_pub)]
#[path = "../build/registry.rs"]
mod registry;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use arqon_proto::codes::{CloseCode, ErrorCode};
use registry::Registry;

const CODES: &str = include_str!("../codes.toml");

fn problems(text: &str) -> Vec<String> {
    Registry::parse(text).unwrap().problems()
}

fn error(number: u16, name: &str, more: &str) -> String {
    format!(
        "[[error]]\nnumber = {number}\nname = \"{name}\"\nretry = \"never\"\nhelp = \"x\"\n{more}\n"
    )
}

const CLOSE: &str = "[[close]]\nnumber = 4001\nname = \"BYE\"\nhelp = \"x\"\n";
const CLIENT: &str = "[[client]]\nnumber = 5001\nname = \"OWN\"\nretry = \"later\"\nhelp = \"x\"\n";

#[test]
fn pages_are_those_generated_now() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for (page, now) in [
        (
            "codes.md",
            include_str!(concat!(env!("OUT_DIR"), "/codes.md")),
        ),
        (
            "protocol.md",
            include_str!(concat!(env!("OUT_DIR"), "/protocol.md")),
        ),
    ] {
        let committed = fs::read_to_string(docs.join(page)).unwrap_or_default();
        assert!(
            committed == now,
            "proto/docs/{page} is stale: run scripts/gen"
        );
    }
}

#[test]
fn every_message_field_and_value_has_a_comment() {
    let missing = include_str!(concat!(env!("OUT_DIR"), "/uncommented.txt"));
    assert_eq!(
        missing, "",
        "elements of arqon/v1/*.proto without a comment"
    );
}

#[test]
fn the_registry_has_no_problem() {
    assert_eq!(problems(CODES), [] as [String; 0]);
}

#[test]
fn each_rule_of_the_registry_is_checked() {
    let good = error(1001, "A_B2", "http = 401") + CLOSE + CLIENT;
    assert_eq!(problems(&good), [] as [String; 0]);
    for (bad, told) in [
        (error(1001, "A_B2", ""), "A_B2: the name is taken"),
        (error(1001, "C", ""), "C: number 1001 is taken"),
        (error(2001, "BYE", ""), "BYE: the name is taken"),
        (error(2001, "Camel", ""), "Camel: not UPPER_SNAKE"),
        (error(2001, "A__B", ""), "A__B: not UPPER_SNAKE"),
        (error(2001, "2A", ""), "2A: not UPPER_SNAKE"),
        (error(4001, "D", ""), "BYE: number 4001 is taken"),
        (error(3800, "D", ""), "D: 3800 is in no range of errors"),
        (error(999, "D", ""), "D: 999 is in no range of errors"),
        (error(1002, "D", "http = 200"), "D: http must be 400 to 599"),
        (
            error(1002, "D", "public = \"NONE\""),
            "D: public NONE is no error",
        ),
        (
            error(1002, "D", "public = \"BYE\""),
            "D: public BYE is no error",
        ),
        (
            error(1002, "D", "public = \"A_B2\""),
            "D: http differs from that of A_B2",
        ),
        (
            error(1002, "D", "public = \"D\""),
            "D: public D is itself told as another",
        ),
        (
            CLOSE.replace("4001", "5000").replace("BYE", "E"),
            "E: a close code is 4000 to 4999",
        ),
        (
            CLOSE
                .replace("4001", "4002")
                .replace("BYE", "E")
                .replace("\"x\"", "\"\""),
            "E: help must be given and end without a stop",
        ),
        (
            error(1002, "D", "public = \"OWN\""),
            "D: public OWN is no error",
        ),
        (CLIENT.replace("OWN", "F"), "F: number 5001 is taken"),
        (CLIENT.replace("5001", "5002"), "OWN: the name is taken"),
        (
            CLIENT.replace("5001", "4999").replace("OWN", "F"),
            "F: a client's code is 5000 to 5999",
        ),
        (
            CLIENT.replace("5001", "6000").replace("OWN", "F"),
            "F: a client's code is 5000 to 5999",
        ),
        (
            CLIENT
                .replace("5001", "5002")
                .replace("OWN", "F")
                .replace("\"x\"", "\"x.\""),
            "F: help must be given and end without a stop",
        ),
    ] {
        let found = problems(&(good.clone() + &bad));
        assert!(found.iter().any(|p| p == told), "{told}: {found:?}");
    }
    for unreadable in [
        error(1002, "D", "colour = 1"),
        "[[error]]\nnumber = 1".to_owned(),
        error(1002, "D", "").replace("never", "perhaps"),
        error(1002, "D", "").replace("1002", "70000"),
        CLIENT.replace("later", "perhaps"),
        CLIENT.to_owned() + "http = 401\n",
    ] {
        assert!(Registry::parse(&(good.clone() + &unreadable)).is_err());
    }
}

#[test]
fn codes_are_found_by_number_and_by_name() {
    for code in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
        assert_eq!(ErrorCode::from_name(code.name()), Some(*code));
        assert_eq!(code.to_string(), code.name());
    }
    for code in CloseCode::ALL {
        assert_eq!(CloseCode::from_number(code.number()), Some(*code));
        assert_eq!(CloseCode::from_name(code.name()), Some(*code));
        assert_eq!(code.reconnect(), (4000..4500).contains(&code.number()));
    }
    assert_eq!(ErrorCode::from_number(0), None);
    assert_eq!(ErrorCode::from_number(CloseCode::Kicked.number()), None);
    assert_eq!(ErrorCode::from_name("token_expired"), None);
}

#[test]
fn what_is_told_of_an_untrusted_token_does_not_depend_on_why() {
    let told_as_untrusted: Vec<_> = ErrorCode::ALL
        .iter()
        .filter(|c| c.public() == ErrorCode::TokenUntrusted)
        .collect();
    assert!(told_as_untrusted.len() > 7);
    let seen: BTreeSet<_> = told_as_untrusted.iter().map(|c| c.http_status()).collect();
    assert_eq!(seen, [Some(401)].into());
    for code in ErrorCode::ALL {
        assert_eq!(code.public().public(), code.public(), "{code}");
        assert!(!(code.retryable() && code.needs_new_token()), "{code}");
    }
}

#[test]
fn the_released_numbers_stand() {
    for (code, number, http) in [
        (ErrorCode::TokenMissing, 1001, Some(401)),
        (ErrorCode::TokenUntrusted, 1005, Some(401)),
        (ErrorCode::TenantSuspended, 1006, Some(403)),
        (ErrorCode::EnvelopeUndecodable, 2002, None),
        (ErrorCode::RoomLimit, 3003, None),
        (ErrorCode::PolicyBlocked, 3601, None),
        (ErrorCode::Internal, 3799, None),
    ] {
        assert_eq!((code.number(), code.http_status()), (number, http));
    }
    assert_eq!(ErrorCode::PolicyBlocked.help(), "Message blocked by policy");
    assert_eq!(CloseCode::TooManyOffences.number(), 4502);
}
