//! What makes messages and verdicts handy.

use crate::{Header, Message, Rewrite, Verdict};

impl Message {
    /// A message with this payload: by user `user` of role `user` into room
    /// `room` of tenant `tenant`, without headers. For tests.
    #[must_use]
    pub fn of(payload: impl Into<Vec<u8>>) -> Self {
        Self {
            tenant: "tenant".into(),
            room: "room".into(),
            user: "user".into(),
            role: "user".into(),
            headers: Vec::new(),
            payload: payload.into(),
        }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(Header {
            name: name.into(),
            value: value.into(),
        });
        self.headers.sort_by(|a, b| a.name.cmp(&b.name));
        self
    }

    /// The value of the first header of this name. Capitals of ASCII do not matter.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value.as_str())
    }

    /// The payload as text, if it is UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.payload).ok()
    }
}

impl Verdict {
    /// Blocks, for this reason.
    #[must_use]
    pub fn block(reason: impl Into<String>) -> Self {
        Self::Block(reason.into())
    }

    /// Passes with another payload and the headers it has.
    #[must_use]
    pub fn with_payload(payload: impl Into<Vec<u8>>) -> Self {
        Self::Transform(Rewrite {
            payload: Some(payload.into()),
            headers: None,
        })
    }

    /// Passes with other headers and the payload it has.
    #[must_use]
    pub fn with_headers(headers: Vec<Header>) -> Self {
        Self::Transform(Rewrite {
            payload: None,
            headers: Some(headers),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_sorted_and_found_in_any_case() {
        let message = Message::of("x")
            .with_header("b", "2")
            .with_header("Content-Type", "text/plain");
        assert_eq!(message.headers[0].name, "Content-Type");
        assert_eq!(message.header("content-type"), Some("text/plain"));
        assert_eq!(message.header("c"), None);
    }

    #[test]
    fn a_payload_is_text_only_if_it_is_utf8() {
        assert_eq!(Message::of("für").text(), Some("für"));
        assert_eq!(Message::of(vec![0xff]).text(), None);
    }

    #[test]
    fn a_change_names_only_what_it_changes() {
        let Verdict::Transform(rewrite) = Verdict::with_payload("x") else {
            panic!("no change");
        };
        assert_eq!(rewrite.payload.as_deref(), Some(&b"x"[..]));
        assert_eq!(rewrite.headers, None);
        let Verdict::Transform(rewrite) = Verdict::with_headers(Vec::new()) else {
            panic!("no change");
        };
        assert_eq!(rewrite.payload, None);
        assert_eq!(rewrite.headers, Some(Vec::new()));
    }
}
