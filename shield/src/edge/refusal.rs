//! Answers to requests that do not become sessions: a status, a code and a
//! sentence, never more than a stranger may know.

use std::time::Duration;

use arqon_proto::codes::ErrorCode;
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use rand::RngExt as _;

/// Clients that were turned away come back over this many seconds, not at once.
const RETRY_SPREAD_SECS: u64 = 5;

/// A refused request.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The exact code, for log and metric.
    pub(super) code: ErrorCode,
    /// For the log only.
    pub(super) detail: String,
    /// For the client, in place of the code's help.
    message: Option<&'static str>,
    status: StatusCode,
    /// How long the line is that the client would have to stand in.
    line: Duration,
}

// === impl Refusal ===

impl Refusal {
    pub(super) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        let status = code
            .http_status()
            .and_then(|status| StatusCode::from_u16(status).ok())
            .unwrap_or(StatusCode::BAD_REQUEST);
        Self {
            code,
            detail: detail.into(),
            message: None,
            status,
            line: Duration::ZERO,
        }
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(super) fn in_line(mut self, line: Duration) -> Self {
        self.line = line;
        self
    }

    pub(super) fn with_message(mut self, message: &'static str) -> Self {
        self.message = Some(message);
        self
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let public = self.code.public();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                // RFC 6750: no error where no token was sent.
                let challenge = if public == ErrorCode::TokenMissing {
                    HeaderValue::from_static("Bearer")
                } else {
                    let text = format!(
                        "Bearer error=\"invalid_token\", error_description=\"{}\"",
                        public.name()
                    );
                    HeaderValue::try_from(text).expect("names of codes are ASCII")
                };
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            StatusCode::UPGRADE_REQUIRED => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(
                    header::SEC_WEBSOCKET_VERSION,
                    HeaderValue::from_static("13"),
                );
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, retry_after(self.line).into());
            }
            _ => {}
        }
        headers
    }

    fn body(&self) -> String {
        let public = self.code.public();
        serde_json::json!({
            "code": public.number(),
            "name": public.name(),
            "message": self.message.unwrap_or(public.help()),
        })
        .to_string()
    }

    /// The whole answer as bytes, for a connection that never reaches HTTP.
    pub(super) fn to_http(&self) -> Vec<u8> {
        let body = self.body();
        let mut head = format!("HTTP/1.1 {}\r\n", self.status);
        for (name, value) in &self.headers() {
            if let Ok(value) = value.to_str() {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str(&format!(
            "content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        ));
        head.into_bytes()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers();
        response
    }
}

/// Whole seconds, at least one: the line, and a spread beyond it.
fn retry_after(line: Duration) -> u64 {
    line.as_secs() + rand::rng().random_range(1..=RETRY_SPREAD_SECS)
}
