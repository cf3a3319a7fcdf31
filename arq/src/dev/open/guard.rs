//! Who may ask the console's server for what.
//!
//! Four things are checked, each against somebody else: `Host` against names that other sites let
//! point here (DNS rebinding), `Origin` and `Sec-Fetch-Site` against pages of other sites, the key
//! of this run against other programs, and the user of the connection (`peer`) against other users
//! of this machine who saw the key in the command line of a browser.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::{HOST, ORIGIN};
use hyper::{HeaderMap, Method, StatusCode};
use rand::Rng as _;

/// The header that carries the key. A page of another site cannot send it without being asked
/// first (CORS), and is never told yes.
pub(super) const KEY_HEADER: &str = "arqon-console-key";

/// What a server of one run accepts.
#[derive(Debug)]
pub(super) struct Guard {
    port: u16,
    key: String,
}

/// Why a request is refused, for whoever sent it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: String,
    pub(super) hint: String,
}

impl Refusal {
    pub(super) fn new(
        status: StatusCode,
        error: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            status,
            error: error.into(),
            hint: hint.into(),
        }
    }
}

impl Guard {
    /// With a new key.
    pub(super) fn new(port: u16) -> Self {
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        Self {
            port,
            key: URL_SAFE_NO_PAD.encode(bytes),
        }
    }

    /// The address for the person who started this.
    pub(super) fn address(&self) -> String {
        format!("http://127.0.0.1:{}/#key={}", self.port, self.key)
    }

    /// The origin of the page, as the request's `Host` names it.
    pub(super) fn origin(&self, headers: &HeaderMap) -> Result<String, Refusal> {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        ["127.0.0.1", "localhost"]
            .iter()
            .map(|name| format!("{name}:{}", self.port))
            .find(|own| host == Some(own))
            .map(|own| format!("http://{own}"))
            .ok_or_else(|| {
                Refusal::new(
                    StatusCode::MISDIRECTED_REQUEST,
                    "the Host header does not name this console",
                    format!(
                        "open http://127.0.0.1:{}/; a forwarded port must have the same number",
                        self.port
                    ),
                )
            })
    }

    /// Whether a question of the page may be answered.
    pub(super) fn admit(&self, method: &Method, headers: &HeaderMap) -> Result<String, Refusal> {
        let origin = self.origin(headers)?;
        if method != Method::POST {
            return Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this takes POST",
                "only the console's own page asks here",
            ));
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let own = text(ORIGIN.as_str()) == Some(&origin);
        // Not every browser sends it; one that does says the truth.
        let same_site = text("sec-fetch-site").is_none_or(|site| site == "same-origin");
        if !own || !same_site {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "the question does not come from the console's own page",
                "open the address that `arq dev open` printed",
            ));
        }
        let given = text(KEY_HEADER).unwrap_or_default();
        if verify_slices_are_equal(given.as_bytes(), self.key.as_bytes()).is_err() {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "the key of this page is not that of the running `arq dev open`",
                "open the address that it printed; each start has a new one",
            ));
        }
        if text("content-type") != Some("application/json") {
            return Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the question is not application/json",
                "only the console's own page asks here",
            ));
        }
        Ok(origin)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hyper::header::HeaderValue;

    use super::*;

    const GUARD: fn() -> Guard = || Guard {
        port: 4000,
        key: "right".to_owned(),
    };

    fn headers(change: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let usual = [
            ("host", "127.0.0.1:4000"),
            ("origin", "http://127.0.0.1:4000"),
            ("sec-fetch-site", "same-origin"),
            ("content-type", "application/json"),
            (KEY_HEADER, "right"),
        ];
        for (name, value) in usual.iter().chain(change) {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        headers.retain_values();
        headers
    }

    /// An empty value stands for a header that is not sent.
    trait RetainValues {
        fn retain_values(&mut self);
    }

    impl RetainValues for HeaderMap {
        fn retain_values(&mut self) {
            let empty: Vec<_> = self
                .iter()
                .filter(|(_, value)| value.is_empty())
                .map(|(name, _)| name.clone())
                .collect();
            for name in empty {
                self.remove(name);
            }
        }
    }

    #[test]
    fn its_own_page_is_answered() {
        let admitted = GUARD().admit(&Method::POST, &headers(&[]));
        assert_eq!(admitted.unwrap(), "http://127.0.0.1:4000");
        let by_name = [
            ("host", "localhost:4000"),
            ("origin", "http://localhost:4000"),
            ("sec-fetch-site", ""),
        ];
        assert_eq!(
            GUARD().admit(&Method::POST, &headers(&by_name)).unwrap(),
            "http://localhost:4000"
        );
    }

    #[test]
    fn everybody_else_is_refused() {
        for (name, value, status) in [
            ("host", "evil.example:4000", 421),
            ("host", "127.0.0.1", 421),
            ("host", "127.0.0.1:4001", 421),
            ("host", "127.0.0.1:4000.evil.example", 421),
            ("host", "", 421),
            ("origin", "", 403),
            ("origin", "null", 403),
            ("origin", "http://localhost:4000", 403),
            ("origin", "http://127.0.0.1:4001", 403),
            ("origin", "https://127.0.0.1:4000", 403),
            ("sec-fetch-site", "cross-site", 403),
            ("sec-fetch-site", "same-site", 403),
            (KEY_HEADER, "", 403),
            (KEY_HEADER, "wrong", 403),
            (KEY_HEADER, "righ", 403),
            (KEY_HEADER, "rightt", 403),
            ("content-type", "text/plain", 415),
            ("content-type", "", 415),
        ] {
            let refusal = GUARD()
                .admit(&Method::POST, &headers(&[(name, value)]))
                .unwrap_err();
            assert_eq!(refusal.status.as_u16(), status, "{name}: {value}");
        }
        let get = GUARD().admit(&Method::GET, &headers(&[])).unwrap_err();
        assert_eq!(get.status, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn each_run_has_a_key_of_its_own() {
        let (one, two) = (Guard::new(1), Guard::new(1));
        assert_ne!(one.key, two.key);
        assert_eq!(one.key.len(), 43);
        assert!(one.address().ends_with(&format!("/#key={}", one.key)));
    }
}
