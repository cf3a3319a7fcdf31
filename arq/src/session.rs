//! A client's session with Shield, as `arq sub`, `arq pub` and `arq doctor` open it.

use std::io::ErrorKind;

use arqon_client::{Client, ClientError, ConnectParams, Rejection};
use arqon_proto::v1::Welcome;
use clap::Args;

use crate::Globals;
use crate::auth::{DevelopmentKey, TokenOptions, sign};
use crate::context::Context;
use crate::failure::{Failure, Result, chain};

/// How a session is opened.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Session")]
pub(crate) struct SessionOptions {
    /// Where to connect [default: the context's shield_url]
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The token [default: the context's, or one signed with the development key]
    #[arg(long, value_name = "JWT", conflicts_with_all = ["tenant", "user"])]
    pub(crate) token: Option<String>,
    /// Send no token, to see how it is refused
    #[arg(long, hide = true, conflicts_with_all = ["token", "tenant", "user"])]
    pub(crate) no_token: bool,
    /// The tenant of the token that is signed [default: the context's]
    #[arg(long, value_name = "ID")]
    pub(crate) tenant: Option<String>,
    /// The user of the token that is signed [default: the context's]
    #[arg(long, value_name = "ID")]
    pub(crate) user: Option<String>,
}

impl SessionOptions {
    /// The URL in force.
    pub(crate) fn url(&self, context: &Context) -> String {
        let url = self.url.as_ref().unwrap_or(&context.settings.shield_url);
        // `ws://host:port` alone is what people type.
        match url.split_once("://") {
            Some((_, rest)) if !rest.contains('/') => format!("{url}/v1/socket"),
            _ => url.clone(),
        }
    }

    /// The token given, or the context's, or a fresh one.
    pub(crate) fn token(&self, context: &Context, globals: &Globals) -> Result<String> {
        if let Some(token) = &self.token {
            return Ok(token.trim().to_owned());
        }
        if self.tenant.is_none()
            && self.user.is_none()
            && let Some(token) = context.token()?
        {
            return Ok(token);
        }
        let key = DevelopmentKey::open(context, &globals.output)?;
        let options = TokenOptions {
            tenant: self.tenant.clone(),
            user: self.user.clone(),
            ..TokenOptions::default()
        };
        sign(&key, None, &options.claims(context)?)
    }

    /// Opens the session.
    pub(crate) async fn open(
        &self,
        context: &Context,
        globals: &Globals,
    ) -> Result<(Client, Welcome)> {
        let token = self.credential(context, globals)?;
        let url = self.url(context);
        connect(context, &url, token, globals.otlp.traceparent()).await
    }

    /// What the session is opened with.
    pub(crate) fn credential(
        &self,
        context: &Context,
        globals: &Globals,
    ) -> Result<Option<String>> {
        if self.no_token {
            return Ok(None);
        }
        self.token(context, globals).map(Some)
    }
}

/// Opens a session with a token.
pub(crate) async fn connect(
    context: &Context,
    url: &str,
    token: Option<String>,
    traceparent: Option<String>,
) -> Result<(Client, Welcome)> {
    let tls_ca_pem = context.authority()?;
    let params = ConnectParams {
        url: url.to_owned(),
        token,
        tls_ca_pem,
        traceparent,
        ..ConnectParams::default()
    };
    let failed = |error| explain(url, &error);
    let mut client = Client::connect(params).await.map_err(failed)?;
    let welcome = client.welcome().await.map_err(failed)?;
    Ok((client, welcome))
}

/// What a person can do about a session that failed.
pub(crate) fn explain(url: &str, error: &ClientError) -> Failure {
    match error {
        ClientError::Refused { status, code, .. } => {
            let (what, help) = match error.error_code() {
                Some(known) => (format!("{code} (HTTP {status})"), known.help()),
                None => (
                    format!("HTTP {status} {code}").trim_end().to_owned(),
                    "is this a Shield's /v1/socket?",
                ),
            };
            let more = match code.as_str() {
                "TOKEN_UNTRUSTED" => {
                    "; `arq auth inspect` shows the token, `arq tenant issuers` whom the tenant trusts"
                }
                "TENANT_SUSPENDED" => "; `arq tenant resume` lets it in again",
                _ => "",
            };
            Failure::new(format!("{url} refused the connection: {what}"))
                .hint(format!("{help}{more}"))
        }
        ClientError::Closed { code, reason } => match error.close_code() {
            Some(known) => Failure::new(format!("the session was closed: {code} {}", known.name()))
                .hint(known.help()),
            None => Failure::new(
                format!("the session was closed: {code} {reason}")
                    .trim_end()
                    .to_owned(),
            ),
        },
        ClientError::Rejected(rejection) => rejected(rejection),
        other => {
            let hint = match other {
                ClientError::NoAuthorities | ClientError::Tls { .. } => {
                    "`ca_file` of the context names the authority that signed its certificate, in PEM form"
                }
                ClientError::Connect { source, .. } if source.kind() == ErrorKind::NotFound => {
                    "names are looked up in /etc/hosts, then by the DNS servers of /etc/resolv.conf"
                }
                _ => "does it run? `arq dev up` starts it, `arq doctor` checks each hop",
            };
            Failure::new(format!("cannot speak with {url}: {}", chain(other))).hint(hint)
        }
    }
}

/// A typed error of the protocol as a failure.
pub(crate) fn rejected(rejection: &Rejection) -> Failure {
    let mut what = format!("{} {}", rejection.code, rejection.name);
    if !rejection.policy.is_empty() {
        // A policy's words, on a terminal.
        let reason = rejection.reason.escape_debug();
        what = format!("{what} by {}: {reason}", rejection.policy);
    }
    let failure = Failure::new(what);
    match rejection.known() {
        Some(code) => failure.hint(code.help()),
        None if rejection.message.is_empty() => failure,
        None => failure.hint(rejection.message.clone()),
    }
}
