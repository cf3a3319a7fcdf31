//! Who may sign a tenant's tokens.

use std::path::PathBuf;

use arqon_proto::v1::{Issuer, PemKey, PemKeys, issuer::Keys};
use clap::Args;
use serde_json::{Value, json};

use super::{parse, tenant_json};
use crate::Globals;
use crate::admin::{explain, with};
use crate::context::Context;
use crate::failure::{Doing, Failure, Result};
use crate::output::Output;

/// The keys of an issuer as they are typed; the argument `issuer` stands beside them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Issuer")]
pub(super) struct IssuerKeys {
    /// Its keys: a JWKS document
    #[arg(long, value_name = "URL", requires = "issuer", conflicts_with = "pem")]
    jwks: Option<String>,
    /// Its keys: an RSA public key in PEM form, repeatable
    #[arg(long, value_name = "FILE", requires = "issuer")]
    pem: Vec<PathBuf>,
    /// The `kid` of each --pem, in the same order
    #[arg(long, value_name = "KID", requires = "pem")]
    kid: Vec<String>,
    /// An `aud` it may name, repeatable [default: the platform's]
    #[arg(long, value_name = "AUD", requires = "issuer")]
    audience: Vec<String>,
}

impl IssuerKeys {
    /// The issuer typed.
    pub(super) fn issuer(&self, iss: &str) -> Result<Issuer> {
        let keys = match &self.jwks {
            Some(url) => {
                if !url.starts_with("https://") && !url.starts_with("http://") {
                    return Err(Failure::usage(format!(
                        "`{url}` is no http:// or https:// URL"
                    )));
                }
                Keys::JwksUrl(url.clone())
            }
            None => Keys::Pem(self.pem_keys()?),
        };
        Ok(Issuer {
            iss: iss.to_owned(),
            audiences: self.audience.clone(),
            keys: Some(keys),
            development: false,
        })
    }

    fn pem_keys(&self) -> Result<PemKeys> {
        if self.pem.is_empty() {
            return Err(Failure::usage("an issuer needs keys")
                .hint("--jwks URL names its JWKS document, --pem FILE --kid KID a public key"));
        }
        if self.pem.len() != self.kid.len() {
            return Err(Failure::usage("each --pem needs its --kid").hint(
                "the `kid` is in the header of the issuer's tokens; `arq auth inspect` shows it",
            ));
        }
        let keys = self.pem.iter().zip(&self.kid).map(|(file, kid)| {
            let pem =
                std::fs::read_to_string(file).doing(format!("cannot read {}", file.display()))?;
            jsonwebtoken::DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| {
                Failure::new(format!(
                    "{} holds no RSA public key in PEM form",
                    file.display()
                ))
                .hint("`openssl rsa -in private.pem -pubout` prints one")
            })?;
            if pem.contains("PRIVATE KEY") {
                return Err(Failure::new(format!("{} is a private key", file.display()))
                    .hint("`openssl rsa -in private.pem -pubout` prints its public half"));
            }
            Ok(PemKey {
                kid: kid.clone(),
                pem,
            })
        });
        Ok(PemKeys {
            keys: keys.collect::<Result<_>>()?,
        })
    }
}

/// Whom a tenant made without naming an issuer trusts: in a development context its own issuer.
pub(super) fn default_issuers(context: &Context, output: &Output) -> Result<Vec<Issuer>> {
    if !crate::auth::DevelopmentKey::exists(context) {
        return Ok(Vec::new());
    }
    Ok(vec![crate::dev::development_issuer(context, output)?])
}

/// Show or change who may sign a tenant's tokens
#[derive(Debug, Args)]
pub(super) struct IssuersArgs {
    /// The tenant
    id: String,
    /// Trust tokens whose `iss` is this; replaces the one of the same name
    #[arg(
        id = "issuer",
        long = "add",
        value_name = "ISS",
        help_heading = "Issuer"
    )]
    add: Option<String>,
    #[command(flatten)]
    keys: IssuerKeys,
    /// Trust the development key of this context
    #[arg(long, conflicts_with = "issuer")]
    add_development: bool,
    /// Trust this issuer no more, repeatable
    #[arg(long, value_name = "ISS")]
    remove: Vec<String>,
}

/// Does what was asked.
pub(super) fn run(args: &IssuersArgs, globals: &Globals) -> Result {
    let id = parse(&args.id)?;
    let output = &globals.output;
    let mut added = match &args.add {
        Some(iss) => Some(args.keys.issuer(iss)?),
        None => None,
    };
    let record = with(globals, async |context, admin| {
        let mut record = admin.show(&id).await.map_err(explain)?;
        if args.add_development {
            added = Some(crate::dev::development_issuer(context, output)?);
        }
        if added.is_none() && args.remove.is_empty() {
            return Ok(record);
        }
        for iss in &args.remove {
            let before = record.issuers.len();
            record.issuers.retain(|issuer| issuer.iss != *iss);
            if record.issuers.len() == before {
                return Err(Failure::new(format!("tenant {id} does not trust `{iss}`"))
                    .hint(format!("`arq tenant issuers {id}` shows whom it trusts")));
            }
        }
        if let Some(added) = added {
            record.issuers.retain(|issuer| issuer.iss != added.iss);
            record.issuers.push(added);
        }
        admin
            .set_issuers(&id, record.issuers)
            .await
            .map_err(explain)
    })?;
    if output.json {
        return output.object(&tenant_json(&record)["issuers"]);
    }
    let rows = record
        .issuers
        .iter()
        .map(|issuer| {
            vec![
                issuer.iss.clone(),
                keys_words(issuer),
                if issuer.audiences.is_empty() {
                    "the platform's".to_owned()
                } else {
                    issuer.audiences.join(", ")
                },
                if issuer.development {
                    "development"
                } else {
                    ""
                }
                .to_owned(),
            ]
        })
        .collect();
    output.table(
        &["issuer", "keys", "audiences", ""],
        rows,
        "it trusts no issuer: no token is accepted",
    )
}

/// An issuer in one line.
pub(super) fn words(issuer: &Issuer) -> String {
    let development = if issuer.development {
        " (development)"
    } else {
        ""
    };
    format!("{}{development}, {}", issuer.iss, keys_words(issuer))
}

fn keys_words(issuer: &Issuer) -> String {
    match &issuer.keys {
        Some(Keys::JwksUrl(url)) => url.clone(),
        Some(Keys::Pem(pem)) => {
            let kids: Vec<&str> = pem.keys.iter().map(|key| key.kid.as_str()).collect();
            format!("kid {}", kids.join(", "))
        }
        None => "no keys".to_owned(),
    }
}

/// An issuer as `--json` prints it.
pub(super) fn issuer_json(issuer: &Issuer) -> Value {
    let keys = match &issuer.keys {
        Some(Keys::JwksUrl(url)) => json!({"jwks_url": url}),
        Some(Keys::Pem(pem)) => {
            json!({"pem": pem.keys.iter().map(|key| json!({"kid": key.kid, "pem": key.pem})).collect::<Vec<_>>()})
        }
        None => Value::Null,
    };
    json!({
        "iss": issuer.iss,
        "audiences": issuer.audiences,
        "keys": keys,
        "development": issuer.development,
    })
}
