//! The page and the headers it is served with.

use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{HeaderMap, StatusCode};

use super::guard::Refusal;
use crate::failure::{Failure, Result};

/// Made from arq/console by `scripts/console build`; `scripts/console check` holds it against its
/// sources.
pub(super) const HTML: &[u8] = include_bytes!("../../../console/dist/console.html");

/// Its policy, with the digests of its script and style; `{shield}` stands for Shield's origin.
const POLICY: &str = include_str!("../../../console/dist/console.csp");

/// A WebSocket URL with its path: `ws://host:port` alone is what people write.
pub(super) fn socket_url(url: &str) -> String {
    match url.split_once("://") {
        Some((_, rest)) if !rest.contains('/') => format!("{url}/v1/socket"),
        _ => url.to_owned(),
    }
}

/// The content security policy of a page that may speak to this Shield, and to nobody else.
pub(super) fn policy(shield_url: &str) -> Result<String> {
    let wrong = || {
        Failure::new(format!(
            "shield_url = {shield_url:?} is no ws:// or wss:// URL"
        ))
        .hint("mend it in the context's context.toml: ws://127.0.0.1:8080/v1/socket")
    };
    let (scheme, rest) = shield_url.split_once("://").ok_or_else(wrong)?;
    let authority = rest.split('/').next().unwrap_or_default();
    // Nothing that would end a directive.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte);
    if !matches!(scheme, "ws" | "wss") || authority.is_empty() || !authority.bytes().all(plain) {
        return Err(wrong());
    }
    Ok(POLICY
        .trim_end()
        .replace("{shield}", &format!("{scheme}://{authority}")))
}

/// The headers of every answer.
pub(super) fn headers(content_type: &'static str, policy: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let fixed = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let policy = policy.and_then(|policy| HeaderValue::from_str(policy).ok());
    headers.insert(
        CONTENT_SECURITY_POLICY,
        policy.unwrap_or(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        )),
    );
    headers
}

/// A failure of ours as an answer.
pub(super) fn failed(failure: &Failure) -> Refusal {
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        &failure.message,
        failure.hint.clone().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use aws_lc_rs::digest::{SHA256, digest};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn the_policy_names_one_shield() {
        let policy = policy("ws://127.0.0.1:8080/v1/socket").unwrap();
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert!(
            policy.contains("connect-src 'self' ws://127.0.0.1:8080;"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(!policy.contains('{') && !policy.contains('\n'), "{policy}");
        assert!(super::policy("wss://[::1]:8080/v1/socket").is_ok());
    }

    #[test]
    fn no_address_adds_to_the_policy() {
        for url in [
            "ws://a;script-src *",
            "ws://a *",
            "ws://user@a/",
            "http://127.0.0.1:8080",
            "ws:///v1/socket",
            "127.0.0.1:8080",
        ] {
            assert!(policy(url).is_err(), "{url}");
        }
    }

    #[test]
    fn the_digests_are_those_of_the_page() {
        let html = std::str::from_utf8(HTML).unwrap();
        for (open, close, directive) in [
            ("<script>", "</script>", "script-src"),
            ("<style>", "</style>", "style-src"),
        ] {
            let inner = html
                .split_once(open)
                .unwrap()
                .1
                .split_once(close)
                .unwrap()
                .0;
            let hash = STANDARD.encode(digest(&SHA256, inner.as_bytes()));
            let wanted = format!("{directive} 'sha256-{hash}'");
            assert!(POLICY.contains(&wanted), "{wanted}");
            assert!(html.contains(&wanted), "{wanted} in the page itself");
        }
    }

    #[test]
    fn a_path_is_added_where_there_is_none() {
        assert_eq!(socket_url("ws://a:1"), "ws://a:1/v1/socket");
        assert_eq!(socket_url("ws://a:1/b"), "ws://a:1/b");
    }
}
