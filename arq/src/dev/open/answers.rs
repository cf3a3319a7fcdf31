//! What the page may ask for: where Shield is, a development token, and why Shield refuses.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use rand::Rng as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::guard::Refusal;
use super::page;
use crate::auth::{DevelopmentKey, TokenOptions, sign};
use crate::context::Context;
use crate::failure::{Doing as _, Failure, Result, chain};
use crate::http;
use crate::output::Output;

/// A refusal of Shield is a line of JSON.
const MAX_REFUSAL: usize = 64 * 1024;

/// The claims of a token that is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenQuestion {
    tenant: String,
    user: String,
}

/// A token that Shield did not take.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefusalQuestion {
    token: String,
}

/// What the page starts with.
pub(super) fn session(context: &Context) -> Value {
    let settings = &context.settings;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "shield_url": page::socket_url(&settings.shield_url),
        "development": DevelopmentKey::exists(context),
        "tenant": settings.default_tenant,
        "user": settings.default_user,
    })
}

/// A token signed with the development key, where there is one.
pub(super) fn token(
    context: &Context,
    output: &Output,
    question: &TokenQuestion,
) -> Result<Value, Refusal> {
    let wrong = |failure: Failure| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            failure.message,
            failure.hint.unwrap_or_default(),
        )
    };
    if !DevelopmentKey::exists(context) {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            format!("{} has no development key", context.dev_folder().display()),
            "paste a token of your identity provider",
        ));
    }
    let options = TokenOptions {
        tenant: Some(question.tenant.clone()),
        user: Some(question.user.clone()),
        ..TokenOptions::default()
    };
    let claims = options.claims(context).map_err(wrong)?;
    let token = DevelopmentKey::open(context, output)
        .and_then(|key| sign(&key, None, &claims))
        .map_err(|failure| page::failed(&failure))?;
    Ok(json!({"token": token, "expires_at": claims.exp}))
}

/// A browser is not told why a WebSocket was refused, so the same handshake is made from here: the
/// same origin, the token by subprotocol as there.
pub(super) async fn refusal(
    context: &Context,
    origin: &str,
    question: &RefusalQuestion,
) -> Result<Value> {
    let mut nonce = [0; 16];
    rand::rng().fill_bytes(&mut nonce);
    let request = client(context)?
        .get(http_url(context))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", STANDARD.encode(nonce))
        .header(
            "sec-websocket-protocol",
            format!("arqon.v1, arqon.bearer.{}", question.token),
        )
        .header("origin", origin);
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) => {
            return Ok(json!({"outcome": "unreachable", "detail": chain(&error.without_url())}));
        }
    };
    let status = answer.status().as_u16();
    if status == 101 {
        return Ok(json!({"outcome": "accepted"}));
    }
    let body = beginning(answer).await;
    // What is no Shield answers something else.
    let code: Value = serde_json::from_slice(&body).unwrap_or_default();
    Ok(json!({
        "outcome": "refused",
        "status": status,
        "code": code["code"].as_u64().unwrap_or_default(),
        "name": code["name"].as_str().unwrap_or_default(),
    }))
}

/// The body of a refusal, as much as one may have: whoever is at that address may send for ever.
async fn beginning(mut answer: reqwest::Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < MAX_REFUSAL
        && let Ok(Some(piece)) = answer.chunk().await
    {
        body.extend_from_slice(&piece);
    }
    body
}

/// Whether anything answers at Shield's address.
pub(super) async fn is_shield_there(context: &Context) -> Result {
    let url = page::socket_url(&context.settings.shield_url);
    // Not the socket itself: a request without an upgrade would be a refusal in Shield's log.
    let readyz = http_url(context)
        .parse::<reqwest::Url>()
        .and_then(|url| url.join("/readyz"))
        .doing(format!("shield_url = {url:?} is no URL"))?;
    match client(context)?.get(readyz).send().await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(format!(
            "no Shield answers at {url}: {}",
            chain(&error.without_url())
        ))),
    }
}

fn http_url(context: &Context) -> String {
    // ws to http, wss to https.
    page::socket_url(&context.settings.shield_url).replacen("ws", "http", 1)
}

fn client(context: &Context) -> Result<reqwest::Client> {
    let authority = context.authority()?;
    http::client(
        &http_url(context),
        authority.as_deref(),
        std::time::Duration::from_secs(5),
    )
}
