//! What a request must be to become a WebSocket, and where its token stands.
//!
//! Pure: headers in, an offer or a refusal out. Order: WebSocket headers,
//! origin, subprotocol. The token is only found here, not judged.

use arqon_proto::{
    codes::ErrorCode,
    envelope::{SUBPROTOCOL, SUBPROTOCOL_JSON},
};
use axum::response::{IntoResponse as _, Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::refusal::Refusal;
use crate::session::Encoding;

/// Browsers cannot set headers, so a token may be offered as a subprotocol.
const BEARER_SUBPROTOCOL: &str = "arqon.bearer.";

/// What this listener lets in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    /// Origins of browsers; none: all.
    pub(super) allowed_origins: &'a [String],
    /// Whether JSON is spoken.
    pub(super) json: bool,
}

/// A request that may become a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offer<'a> {
    /// Answers the client's key.
    accept: String,
    /// The subprotocol, if one was offered, and so must be named in the answer.
    named: Option<&'static str>,
    /// What the session speaks. A request that offers no subprotocol is binary.
    pub(super) encoding: Encoding,
    /// The token, wherever it stood.
    pub(super) token: Option<&'a str>,
}

// === impl Offer ===

impl<'a> Offer<'a> {
    /// Checks the request.
    pub(super) fn read(
        method: &Method,
        version: Version,
        headers: &'a HeaderMap,
        terms: Terms<'_>,
    ) -> Result<Self, Refusal> {
        let accept = websocket_key(method, version, headers)?;
        check_origin(headers, terms.allowed_origins)?;
        let offered = || list(headers, &header::SEC_WEBSOCKET_PROTOCOL);
        let agreed = offered().find_map(|protocol| match protocol {
            SUBPROTOCOL => Some((SUBPROTOCOL, Encoding::Binary)),
            SUBPROTOCOL_JSON if terms.json => Some((SUBPROTOCOL_JSON, Encoding::Json)),
            _ => None,
        });
        if agreed.is_none() && headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
            return Err(unsupported(offered().any(|name| name == SUBPROTOCOL_JSON)));
        }
        let token = match authorization(headers)? {
            Some(token) => Some(token),
            None => offered().find_map(|protocol| protocol.strip_prefix(BEARER_SUBPROTOCOL)),
        };
        Ok(Self {
            accept,
            named: agreed.map(|(name, _)| name),
            encoding: agreed.map_or(Encoding::Binary, |(_, encoding)| encoding),
            token,
        })
    }

    /// The answer `101`.
    pub(super) fn accept(self) -> Response {
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(
            header::SEC_WEBSOCKET_ACCEPT,
            HeaderValue::try_from(self.accept).expect("base64 is ASCII"),
        );
        if let Some(name) = self.named {
            headers.insert(
                header::SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static(name),
            );
        }
        response
    }
}

/// None of the subprotocols offered is spoken here, JSON perhaps among them.
fn unsupported(json_offered: bool) -> Refusal {
    let code = ErrorCode::UnsupportedSubprotocol;
    if json_offered {
        let told =
            "arqon.v1+json is off on this Shield. Its manifest turns it on: session.json = true";
        return Refusal::new(code, told).with_message(told);
    }
    Refusal::new(code, "arqon.v1 is not among the subprotocols offered")
}

/// The answer to the client's key, if this is a WebSocket handshake (RFC 6455 §4.2.1).
fn websocket_key(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
) -> Result<String, Refusal> {
    let not_a_websocket = |detail: &str| Refusal::new(ErrorCode::NotAWebsocket, detail);
    if method != Method::GET || version != Version::HTTP_11 {
        return Err(not_a_websocket("not a GET of HTTP/1.1"));
    }
    let has =
        |name, wanted: &str| list(headers, name).any(|item| item.eq_ignore_ascii_case(wanted));
    if !has(&header::UPGRADE, "websocket") || !has(&header::CONNECTION, "upgrade") {
        return Err(not_a_websocket("no upgrade to websocket"));
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .map(HeaderValue::as_bytes)
        != Some(b"13")
    {
        return Err(not_a_websocket("the WebSocket version is not 13"));
    }
    headers
        .get(header::SEC_WEBSOCKET_KEY)
        .filter(|key| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16))
        .map(|key| derive_accept_key(key.as_bytes()))
        .ok_or_else(|| {
            not_a_websocket("Sec-WebSocket-Key is no key").with_status(StatusCode::BAD_REQUEST)
        })
}

/// Only browsers send Origin, and only they need to be kept from lending a
/// user's network position to another site.
fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Refusal> {
    match headers.get(header::ORIGIN) {
        Some(origin) if !allowed.is_empty() => {
            if allowed
                .iter()
                .any(|allowed| allowed.as_bytes() == origin.as_bytes())
            {
                Ok(())
            } else {
                Err(Refusal::new(
                    ErrorCode::OriginForbidden,
                    format!("origin {origin:?} is not in listen.allowed_origins"),
                ))
            }
        }
        _ => Ok(()),
    }
}

/// The token of `Authorization: Bearer`. Another scheme is no token of ours.
fn authorization(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let malformed = |detail| Refusal::new(ErrorCode::TokenMalformed, detail);
    if values.next().is_some() {
        return Err(malformed("more than one Authorization header"));
    }
    let text = value
        .to_str()
        .map_err(|_| malformed("Authorization is not ASCII"))?;
    Ok(text
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty()))
}

/// The items of a header that is a list, over all its lines.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}
