//! Content types, as far as a policy compares them.

use std::fmt;

/// `type/subtype` in small letters. The parameters are gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ContentType {
    kind: String,
    subtype: String,
}

/// One or many of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// None is any.
    kind: Option<String>,
    /// None is any.
    subtype: Option<String>,
}

impl ContentType {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (essence, _parameters) = text.split_once(';').unwrap_or((text, ""));
        let (kind, subtype) = halves(essence)?;
        // A token may hold a star, but a message has one type, not a range of them.
        (kind != "*" && subtype != "*").then_some(Self { kind, subtype })
    }

    pub(crate) fn is_json(&self) -> bool {
        (self.kind == "application" && self.subtype == "json") || self.subtype.ends_with("+json")
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.subtype)
    }
}

impl Range {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (kind, subtype) = halves(text)?;
        let given = |part: String| (part != "*").then_some(part);
        let (kind, subtype) = (given(kind), given(subtype));
        (kind.is_some() || subtype.is_none()).then_some(Self { kind, subtype })
    }

    pub(crate) fn contains(&self, content_type: &ContentType) -> bool {
        let fits = |want: &Option<String>, have: &String| want.as_ref().is_none_or(|w| w == have);
        fits(&self.kind, &content_type.kind) && fits(&self.subtype, &content_type.subtype)
    }
}

fn halves(text: &str) -> Option<(String, String)> {
    let (kind, subtype) = text.trim_matches([' ', '\t']).split_once('/')?;
    (is_token(kind) && is_token(subtype))
        .then(|| (kind.to_ascii_lowercase(), subtype.to_ascii_lowercase()))
}

/// As RFC 9110 has it.
fn is_token(text: &str) -> bool {
    let sign = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(sign)
}
