//! `arq auth inspect`: what a token says, and what a Shield would find wrong with it.

use std::io::Read;

use arqon_proto::names::{RoomPattern, TenantId, UserId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::DevelopmentKey;
use super::token::Rooms;
use crate::context::Context;
use crate::duration::{moment_words, now_secs, words};
use crate::failure::{Doing, Exit, Failure, Result};
use crate::output::{Output, Paint};

/// The platform's default limit on a token's lifetime.
const MAX_TTL_SECS: u64 = 86_400;

/// A token taken apart.
pub(super) struct Parts {
    header: Map<String, Value>,
    pub(super) claims: Map<String, Value>,
}

/// Reads the token, prints what it says, and fails where a Shield would refuse it.
pub(super) fn run(token: &str, context: &Context, output: &Output) -> Result {
    let token = read(token)?;
    let parts = take_apart(&token)?;
    let signature = signature(&token, &parts, context, output)?;
    let mut problems = problems(&parts, now_secs());
    if signature == Signature::Wrong {
        problems.push(
            "the signature does not verify with the development key its kid names".to_owned(),
        );
    }
    if output.json {
        output.object(&json!({
            "header": parts.header,
            "claims": parts.claims,
            "signature": signature.name(),
            "problems": problems,
        }))?;
    } else {
        show(&parts, signature, &problems, output)?;
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Failure::told(Exit::Failed))
    }
}

fn read(token: &str) -> Result<String> {
    let text = if token == "-" {
        let mut text = String::new();
        std::io::stdin()
            .take(1 << 20)
            .read_to_string(&mut text)
            .doing("cannot read stdin")?;
        text
    } else {
        token.to_owned()
    };
    Ok(bare(&text).to_owned())
}

/// The token alone: it is pasted from a header, as often as not.
pub(super) fn bare(text: &str) -> &str {
    let text = text.trim();
    let text = text.strip_prefix("Authorization:").unwrap_or(text).trim();
    text.strip_prefix("Bearer ").unwrap_or(text).trim()
}

/// Header and claims of a token.
pub(super) fn take_apart(token: &str) -> Result<Parts> {
    let wrong = |what: &str| {
        Failure::new(format!("this is no JWT: {what}"))
            .hint("a JWT is three base64url parts joined by dots, for instance what `arq auth gen` prints")
    };
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, _signature] = parts.as_slice() else {
        return Err(wrong(&format!("it has {} parts, not 3", parts.len())));
    };
    let decode = |part: &str, name: &str| {
        let bytes = URL_SAFE_NO_PAD
            .decode(part)
            .map_err(|_| wrong(&format!("its {name} is not base64url")))?;
        serde_json::from_slice::<Map<String, Value>>(&bytes)
            .map_err(|_| wrong(&format!("its {name} is no JSON object")))
    };
    Ok(Parts {
        header: decode(header, "header")?,
        claims: decode(claims, "claims part")?,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signature {
    Verified,
    Wrong,
    NotChecked,
}

impl Signature {
    fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Wrong => "wrong",
            Self::NotChecked => "not_checked",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Verified => "verified with the development key",
            Self::Wrong => "does not verify with the development key",
            Self::NotChecked => "not checked (signed by another key than the development key)",
        }
    }
}

fn signature(token: &str, parts: &Parts, context: &Context, output: &Output) -> Result<Signature> {
    let kid = parts.header.get("kid").and_then(Value::as_str);
    if !DevelopmentKey::exists(context) {
        return Ok(Signature::NotChecked);
    }
    let key = DevelopmentKey::open(context, output)?;
    if kid != Some(key.kid.as_str()) || parts.header.get("alg") != Some(&json!("RS256")) {
        return Ok(Signature::NotChecked);
    }
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    Ok(
        match jsonwebtoken::decode::<Value>(token, &key.verifying()?, &validation) {
            Ok(_) => Signature::Verified,
            Err(_) => Signature::Wrong,
        },
    )
}

/// What a Shield would refuse, as far as the token alone tells.
fn problems(parts: &Parts, now: u64) -> Vec<String> {
    let mut found = Vec::new();
    match parts.header.get("alg").and_then(Value::as_str) {
        Some("RS256") => {}
        Some(other) => found.push(format!("alg is {other}; only RS256 is accepted")),
        None => found.push("the header has no alg; RS256 is wanted".to_owned()),
    }
    let claims = &parts.claims;
    for name in ["iss", "aud", "sub", "iat", "exp", "tenant"] {
        if !claims.contains_key(name) {
            found.push(format!("the required claim {name} is missing"));
        }
    }
    for name in ["iss", "sub", "tenant", "role", "jti"] {
        if claims.get(name).is_some_and(|value| !value.is_string()) {
            found.push(format!("the claim {name} is not a string"));
        }
    }
    let mut moments = [None; 3];
    for (slot, name) in moments.iter_mut().zip(["iat", "exp", "nbf"]) {
        if let Some(value) = claims.get(name) {
            *slot = value.as_u64();
            if slot.is_none() {
                found.push(format!("the claim {name} is not a whole number of seconds"));
            }
        }
    }
    let [issued, expires, not_before] = moments;
    if let Some(expires) = expires.filter(|expires| *expires <= now) {
        found.push(format!("it expired {} ago", words(now - expires)));
    }
    for (name, at) in [("iat", issued), ("nbf", not_before)] {
        if let Some(at) = at.filter(|at| *at > now + 5) {
            found.push(format!("{name} lies {} in the future", words(at - now)));
        }
    }
    if let (Some(issued), Some(expires)) = (issued, expires) {
        if expires <= issued {
            found.push("it expires before it was issued".to_owned());
        } else if expires - issued > MAX_TTL_SECS {
            found.push(format!(
                "it lives for {}; a platform allows {} unless set otherwise",
                words(expires - issued),
                words(MAX_TTL_SECS)
            ));
        }
    }
    if let Some(tenant) = claims.get("tenant").and_then(Value::as_str)
        && let Err(error) = TenantId::parse(tenant)
    {
        found.push(format!("tenant `{tenant}` is no tenant id: {error}"));
    }
    if let Some(user) = claims.get("sub").and_then(Value::as_str)
        && let Err(error) = UserId::parse(user)
    {
        found.push(format!("sub `{user}` is no user id: {error}"));
    }
    if let Some(role) = claims.get("role").and_then(Value::as_str)
        && !["user", "observer", "service", "admin"].contains(&role)
    {
        found.push(format!(
            "role `{role}` is none of user, observer, service, admin"
        ));
    }
    if let Some(rooms) = claims.get("rooms") {
        match serde_json::from_value::<Rooms>(rooms.clone()) {
            Ok(rooms) => {
                for pattern in rooms.join.iter().chain(&rooms.publish) {
                    if let Err(error) = RoomPattern::parse(pattern) {
                        found.push(format!("rooms: `{pattern}` is no room pattern: {error}"));
                    }
                }
            }
            Err(error) => found.push(format!("the claim rooms does not hold: {error}")),
        }
    }
    found
}

fn show(parts: &Parts, signature: Signature, problems: &[String], output: &Output) -> Result {
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for (name, value) in &parts.header {
        pairs.push((name, plain(value)));
    }
    for (name, value) in &parts.claims {
        let text = match (name.as_str(), value.as_u64()) {
            ("iat" | "exp" | "nbf", Some(at)) => moment_words(at),
            _ => plain(value),
        };
        pairs.push((name, text));
    }
    pairs.push(("signature", signature.words().to_owned()));
    output.pairs(&pairs)?;
    output.line("")?;
    if problems.is_empty() {
        return output.line(output.paint(Paint::Green, "no problem found"));
    }
    for problem in problems {
        output.line(format!(
            "{} {problem}",
            output.paint(Paint::Red, "problem:")
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parts(header: Value, claims: Value) -> Parts {
        Parts {
            header: header.as_object().unwrap().clone(),
            claims: claims.as_object().unwrap().clone(),
        }
    }

    #[test]
    fn a_good_token_has_no_problems() {
        let found = problems(
            &parts(
                json!({"alg": "RS256"}),
                json!({"iss": "i", "aud": ["a"], "sub": "alice", "iat": 1_000, "exp": 2_000, "tenant": "acme",
                       "role": "user", "rooms": {"join": ["team.*"]}}),
            ),
            1_500,
        );
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn each_fault_is_named_once() {
        let found = problems(
            &parts(
                json!({"alg": "HS256"}),
                json!({"sub": 7, "iat": 10, "exp": 200_000, "tenant": "No Tenant", "role": "root",
                       "rooms": {"join": ["a..b"]}}),
            ),
            300_000,
        );
        let wanted = [
            "alg is HS256",
            "iss is missing",
            "aud is missing",
            "sub is not a string",
            "expired",
            "lives for",
            "no tenant id",
            "role `root`",
            "no room pattern",
        ];
        for part in wanted {
            assert_eq!(
                found.iter().filter(|line| line.contains(part)).count(),
                1,
                "{part}: {found:?}"
            );
        }
        assert_eq!(found.len(), wanted.len(), "{found:?}");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in ["", "a.b", "a.b.c", "e30.e30", "????.e30.x"] {
            assert!(take_apart(text).is_err(), "{text}");
        }
        assert_eq!(
            read("Authorization: Bearer e30.e30.x").unwrap(),
            "e30.e30.x"
        );
    }
}
