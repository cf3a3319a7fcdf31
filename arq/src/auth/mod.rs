//! `arq auth`: tokens for development, a look into any token, and tokens revoked.

mod inspect;
mod keys;
mod revoke;
mod rotate;
mod token;

pub(crate) use keys::DevelopmentKey;
pub(crate) use token::{TokenOptions, sign};

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::Globals;
use crate::failure::Result;

/// Tokens: made for development, looked into, revoked
#[derive(Debug, Args)]
pub(crate) struct Auth {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a signed token; only the token goes to stdout
    ///
    /// Signed with RS256 by the development key pair, which is made on first use. Production
    /// tokens come from your identity provider; `arq tenant issuers` tells a tenant to trust it.
    Gen(Box<GenArgs>),
    /// Show what a token says, and what is wrong with it
    Inspect(InspectArgs),
    Revoke(revoke::RevokeArgs),
    Revocations(revoke::RevocationsArgs),
    /// The development key pair: show it, or put another in its place
    #[command(subcommand)]
    Keys(rotate::KeysCommand),
    /// Print the development public keys as a JWKS document
    Jwks,
}

/// What `arq auth gen` takes.
#[derive(Debug, Args)]
struct GenArgs {
    #[command(flatten)]
    token: TokenOptions,
    /// Sign with this RSA private key (PEM) instead of the development key
    #[arg(long, value_name = "FILE", help_heading = "Key")]
    key: Option<PathBuf>,
    /// The `kid` in the token's header [default: the key's RFC 7638 thumbprint]
    #[arg(long, value_name = "KID", help_heading = "Key")]
    kid: Option<String>,
}

#[derive(Debug, Args)]
struct InspectArgs {
    /// The token, or `-` for stdin
    #[arg(default_value = "-", hide_default_value = true)]
    token: String,
}

/// Does what was asked.
pub(crate) fn run(auth: Auth, globals: &Globals) -> Result {
    let context = globals.context()?;
    match auth.command {
        Command::Gen(args) => {
            let key = match &args.key {
                Some(file) => DevelopmentKey::read(file)?,
                None => DevelopmentKey::open(&context, &globals.output)?,
            };
            let claims = args.token.claims(&context)?;
            let token = sign(&key, args.kid.as_deref(), &claims)?;
            if globals.output.json {
                globals.output.object(&json!({
                    "token": token,
                    "kid": args.kid.as_deref().unwrap_or(&key.kid),
                    "claims": claims,
                }))
            } else {
                globals.output.line(token)
            }
        }
        Command::Inspect(args) => inspect::run(&args.token, &context, &globals.output),
        Command::Revoke(args) => revoke::revoke(&args, globals),
        Command::Revocations(args) => revoke::list(&args, globals),
        Command::Keys(command) => rotate::run(&command, globals),
        Command::Jwks => globals
            .output
            .object(&DevelopmentKey::jwks(&context, &globals.output)?),
    }
}
