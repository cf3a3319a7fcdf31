//! The types of `policy.wit`, as Wasmtime lowers and lifts them.

use std::collections::BTreeMap;

use bytes::Bytes;
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::{Fault, FaultClass, MAX_REASON_BYTES, Message, Rewrite, Verdict};

pub(crate) const HOST_INTERFACE: &str = "arqon:policy/host@1.0.0";
pub(crate) const CONFIGURE: &str = "configure";
pub(crate) const ON_MESSAGE: &str = "on-message";

pub(crate) type ConfigureParams<'a> = (&'a [u8],);
pub(crate) type ConfigureResult = (Result<(), String>,);
pub(crate) type MessageParams<'a> = (WireMessage<'a>,);
pub(crate) type MessageResult = (WireVerdict,);

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct WireHeader<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct WireMessage<'a> {
    tenant: &'a str,
    room: &'a str,
    user: &'a str,
    role: &'a str,
    headers: &'a [WireHeader<'a>],
    payload: &'a [u8],
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct GuestHeader {
    name: String,
    value: String,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct GuestRewrite {
    payload: Option<Vec<u8>>,
    headers: Option<Vec<GuestHeader>>,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub(crate) enum WireVerdict {
    #[component(name = "allow")]
    Allow,
    #[component(name = "block")]
    Block(String),
    #[component(name = "transform")]
    Transform(GuestRewrite),
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub enum LogLevel {
    /// For the author only.
    #[component(name = "debug")]
    Debug,
    /// Worth to know.
    #[component(name = "info")]
    Info,
    /// Something is odd.
    #[component(name = "warn")]
    Warn,
    /// Something is wrong.
    #[component(name = "error")]
    Error,
}

pub(crate) fn headers<'a>(message: &Message<'a>) -> Vec<WireHeader<'a>> {
    let headers = message.draft.headers.iter();
    headers
        .map(|(name, value)| WireHeader { name, value })
        .collect()
}

impl<'a> WireMessage<'a> {
    pub(crate) fn new(message: &Message<'a>, headers: &'a [WireHeader<'a>]) -> Self {
        Self {
            tenant: message.tenant,
            room: message.room,
            user: message.user,
            role: message.role,
            headers,
            payload: &message.draft.payload,
        }
    }
}

impl WireVerdict {
    pub(crate) fn into_verdict(self) -> Result<Verdict, Fault> {
        Ok(match self {
            Self::Allow => Verdict::Allow,
            Self::Block(reason) => Verdict::Block(cut(reason, MAX_REASON_BYTES)),
            Self::Transform(rewrite) => Verdict::Transform(Rewrite {
                payload: rewrite.payload.map(Bytes::from),
                headers: rewrite.headers.map(unique).transpose()?,
            }),
        })
    }
}

fn unique(headers: Vec<GuestHeader>) -> Result<BTreeMap<String, String>, Fault> {
    let mut map = BTreeMap::new();
    for GuestHeader { name, value } in headers {
        if map.insert(name, value).is_some() {
            let detail = "it set one header twice";
            return Err(Fault::new(FaultClass::BadVerdict, detail));
        }
    }
    Ok(map)
}

/// The text, cut to `most` bytes at the end of a character, and no more memory than that.
pub(crate) fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_the_end_of_a_character() {
        assert_eq!(cut("abc".into(), 3), "abc");
        assert_eq!(cut("abcd".into(), 3), "abc");
        assert_eq!(cut("aéé".into(), 4), "aé");
        assert_eq!(cut("é".into(), 1), "");
    }

    #[test]
    fn a_header_set_twice_is_no_legal_verdict() {
        let header = |name: &str, value: &str| GuestHeader {
            name: name.into(),
            value: value.into(),
        };
        let both = vec![header("a", "1"), header("a", "2")];
        let fault = unique(both).expect_err("two of one name");
        assert_eq!(fault.class, FaultClass::BadVerdict);
        let map = unique(vec![header("b", "1"), header("a", "2")]).expect("legal");
        assert_eq!(map.into_iter().next(), Some(("a".into(), "2".into())));
    }
}
