//! `arq auth revoke` and `arq auth revocations`: tokens that are refused though they are good.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arqon_proto::names::{TenantId, UserId};
use arqon_proto::v1::{Revocation, revocation::Tokens};
use arqon_spine::admin::{Answer, Census, RevokeTokens, Revoked, WaitFor};
use arqon_spine::manifest::MAX_TOKEN_TTL_SECS;
use clap::Args;
use serde_json::{Map, Value, json};

use super::inspect::{bare, take_apart};
use crate::Globals;
use crate::admin::{audit, by, explain, with};
use crate::duration::{moment, now_secs, parse_moment, words};
use crate::failure::{Doing, Failure, Result};
use crate::progress::Progress;
use crate::shields::{heard, in_force};
use crate::tenant::parse as parse_tenant;

/// Clocks of issuers may be ahead by this; further on nothing has been issued yet.
const AHEAD_SECS: u64 = 300;
/// A token may be accepted after its end for as long as the largest leeway, and its session lives
/// for the largest grace from then.
const LEEWAY_SECS: u64 = 600;

/// Refuse tokens that are good, and close the sessions that have them
///
/// Every Shield that is live goes by it within a second, and is waited for. Sessions are closed with 4503
/// TOKEN_REVOKED, new ones are refused with TOKEN_REVOKED. What is revoked stays so until it has
/// expired. A user whose tokens are revoked comes back with one that is issued later: have the
/// identity provider refuse him first, if he shall not.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq auth revoke --token leaked.jwt\n  arq auth revoke --tenant acme --user ann --force\n  arq auth revoke --tenant acme --all --issued-before 2026-01-02T03:04:05Z --force"
)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    tokens: Which,
    /// The tenant; a --token says it itself
    #[arg(long, value_name = "ID", required_unless_present = "token")]
    tenant: Option<String>,
    /// With --user and --all: those issued up to then, RFC 3339 or a length of time ago [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_moment, conflicts_with_all = ["jti", "token"])]
    issued_before: Option<u64>,
    /// Do not ask
    #[arg(long)]
    force: bool,
    /// Wait this long for the Shields
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::duration::parse)]
    timeout: Duration,
    /// Do not wait: when the Shields go by it is not known
    #[arg(long)]
    no_wait: bool,
}

/// Which tokens.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The token in this file, or `-` for stdin; its signature is not checked
    #[arg(long, value_name = "FILE", help_heading = "Tokens")]
    token: Option<PathBuf>,
    /// The token with this `jti`
    #[arg(long, value_name = "ID", help_heading = "Tokens")]
    jti: Option<String>,
    /// All tokens of this user
    #[arg(long, value_name = "ID", help_heading = "Tokens")]
    user: Option<String>,
    /// All tokens of the tenant
    #[arg(long, help_heading = "Tokens")]
    all: bool,
}

/// Show what is revoked
#[derive(Debug, Args)]
pub(super) struct RevocationsArgs {
    /// Only of this tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Delete the records that nobody can read: what they may mean is accepted again
    #[arg(long)]
    drop_unreadable: bool,
    /// Do not ask
    #[arg(long, requires = "drop_unreadable")]
    force: bool,
}

/// Does what was asked.
pub(super) fn revoke(args: &RevokeArgs, globals: &Globals) -> Result {
    let named = args.tenant.as_deref().map(parse_tenant).transpose()?;
    let (tenant, tokens) = args.read(named)?;
    let output = &globals.output;
    let what = describe(&tokens);
    if !matches!(tokens, RevokeTokens::Jti { .. }) && !args.force {
        // Whoever is asked should be asked about something that is there.
        with(globals, async |_, admin| {
            admin.show(&tenant).await.map_err(explain)
        })?;
        let question = format!("Revoke {what} of tenant {tenant} and close their sessions?");
        if !output.confirm(&question) {
            return Err(Failure::new("nothing was revoked").hint("--force revokes without asking"));
        }
    }
    let (revoked, answers) = with(globals, async |context, admin| {
        let mut census = Census::open(admin.control())
            .await
            .doing("cannot listen to the Shields")?;
        let revoked = admin
            .revoke(&tenant, tokens.clone(), &by())
            .await
            .map_err(explain)?;
        if let Err(failure) = audit(&context.spine_folder(), entry(&revoked.record)) {
            // It is in force, and that matters more.
            output.warn(format!("not in the audit log: {}", failure.message));
        }
        if !output.json {
            let until = moment(revoked.record.expires_at);
            output.note(format!("revoked until {until}: {what} of tenant {tenant}"));
        }
        if args.no_wait {
            return Ok((revoked, None));
        }
        let wait = WaitFor {
            patience: args.timeout,
            ..WaitFor::default()
        };
        let progress = Progress::waiting("waiting for the Shields");
        let answers = census
            .wait_revocations(revoked.revision, wait)
            .await
            .doing("it is written, but the Shields cannot be heard any longer")?;
        drop(progress);
        Ok((revoked, Some(answers)))
    })?;
    tell(&revoked, answers.as_deref(), globals)
}

fn tell(revoked: &Revoked, answers: Option<&[Answer<()>]>, globals: &Globals) -> Result {
    let output = &globals.output;
    if output.json {
        let mut object = record_json(&revoked.record);
        object["revision"] = revoked.revision.into();
        object["shields"] = answers.map_or(Value::Null, |answers| {
            let shields = answers
                .iter()
                .map(|answer| json!({"shield": answer.shield, "in_force": answer.said.is_some()}));
            shields.collect()
        });
        output.object(&object)?;
    }
    let Some(answers) = answers else {
        return Ok(());
    };
    let (there, missing) = heard(answers);
    if !missing.is_empty() {
        return Err(Failure::new(format!(
            "revoked, but nothing was heard of it from {}",
            missing.join(", ")
        ))
        .hint("it holds there once that Shield hears the control plane; stop the Shield if that is too late"));
    }
    in_force(&there, globals);
    Ok(())
}

/// Does what was asked.
pub(super) fn list(args: &RevocationsArgs, globals: &Globals) -> Result {
    let tenant = args.tenant.as_deref().map(parse_tenant).transpose()?;
    let output = &globals.output;
    if args.drop_unreadable {
        return drop_unreadable(args.force, globals);
    }
    let records = with(globals, async |_, admin| {
        if let Some(tenant) = &tenant {
            admin.show(tenant).await.map_err(explain)?;
        }
        admin.revocations().await.map_err(explain)
    })?;
    let of_tenant = |found: Option<&TenantId>| {
        // One that may be anybody's is also this tenant's.
        tenant.is_none() || found.is_none() || found == tenant.as_ref()
    };
    let entries: Vec<&Revocation> = records
        .entries
        .iter()
        .filter(|(key, ..)| of_tenant(key.tenant()))
        .map(|(_, record, _)| record)
        .collect();
    let unreadable: Vec<String> = records
        .unreadable
        .iter()
        .filter(|(key, _)| of_tenant(key.tenant()))
        .map(|(key, _)| key.to_string())
        .collect();
    if output.json {
        return output.object(&json!({
            "revocations": entries.iter().map(|record| record_json(record)).collect::<Vec<_>>(),
            "unreadable": unreadable,
        }));
    }
    for key in &unreadable {
        output.warn(format!(
            "the record {key} cannot be read, so all that it may mean is refused; `arq auth revocations --drop-unreadable` deletes it"
        ));
    }
    let rows = entries.iter().map(|record| {
        vec![
            record.tenant.clone(),
            words_of(record),
            moment(record.expires_at),
            moment(record.revoked_at_ms / 1_000),
            record.revoked_by.clone(),
        ]
    });
    output.table(
        &["tenant", "revoked", "until", "since", "by"],
        rows.collect(),
        "nothing is revoked",
    )
}

fn drop_unreadable(force: bool, globals: &Globals) -> Result {
    let output = &globals.output;
    if !force && !output.confirm("Delete the records that cannot be read?") {
        return Err(Failure::new("nothing was deleted").hint("--force deletes without asking"));
    }
    let dropped = with(globals, async |_, admin| {
        admin.drop_unreadable_revocations().await.map_err(explain)
    })?;
    let dropped: Vec<String> = dropped.iter().map(ToString::to_string).collect();
    if output.json {
        return output.object(&json!({ "deleted": dropped }));
    }
    output.note(if dropped.is_empty() {
        "every record can be read".to_owned()
    } else {
        format!("deleted {}", dropped.join(", "))
    });
    Ok(())
}

impl RevokeArgs {
    /// The tenant and its tokens that are meant.
    fn read(&self, named: Option<TenantId>) -> Result<(TenantId, RevokeTokens)> {
        let now = now_secs();
        if let Some(file) = &self.tokens.token {
            let (tenant, tokens) = of_token(&read_token(file)?, now)?;
            return match named {
                Some(named) if named != tenant => Err(Failure::usage(format!(
                    "the token is of tenant {tenant}, not of {named}"
                ))
                .hint("leave --tenant out")),
                _ => Ok((tenant, tokens)),
            };
        }
        let tenant = named.ok_or_else(|| Failure::usage("--tenant is missing"))?;
        if let Some(jti) = &self.tokens.jti {
            let tokens = RevokeTokens::Jti {
                jti: checked_jti(jti)?,
                expires_at: None,
            };
            return Ok((tenant, tokens));
        }
        let issued_before = self.issued_before.unwrap_or(now);
        if issued_before > now + AHEAD_SECS {
            return Err(
                Failure::usage(format!("{} lies in the future", moment(issued_before)))
                    .hint("without --issued-before it is now"),
            );
        }
        if issued_before.saturating_add(MAX_TOKEN_TTL_SECS + LEEWAY_SECS) <= now {
            return Err(Failure::usage(format!(
                "every token issued up to {} has expired",
                moment(issued_before)
            ))
            .hint("no token lives for longer than seven days"));
        }
        let tokens = match &self.tokens.user {
            Some(user) => RevokeTokens::User {
                user: UserId::parse(user)
                    .map_err(|error| Failure::usage(format!("`{user}` is no user id: {error}")))
                    .hint("it is the `sub` of the user's tokens; `arq session list` shows users")?,
                issued_before,
            },
            None => RevokeTokens::All { issued_before },
        };
        Ok((tenant, tokens))
    }
}

fn read_token(file: &Path) -> Result<String> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin()
            .take(1 << 20)
            .read_to_string(&mut text)
            .doing("cannot read stdin")?;
    } else {
        text = std::fs::read_to_string(file)
            .doing(format!("cannot read {}", file.display()))
            .hint("--token takes a file with the token in it, or `-` for stdin")?;
    }
    Ok(bare(&text).to_owned())
}

/// What a token says of itself.
fn of_token(token: &str, now: u64) -> Result<(TenantId, RevokeTokens)> {
    let claims = take_apart(token)?.claims;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let tenant = parse_tenant(text("tenant").unwrap_or_default())
        .doing("the token's claim tenant")
        .hint("`arq auth inspect` shows what is wrong with it")?;
    let expires_at = claims
        .get("exp")
        .and_then(Value::as_u64)
        .ok_or_else(|| Failure::new("the token does not say when it expires"))
        .hint("`arq auth inspect` shows what is wrong with it")?;
    if expires_at.saturating_add(LEEWAY_SECS) <= now {
        let ago = words(now - expires_at);
        return Err(Failure::new(format!("the token expired {ago} ago"))
            .hint("no Shield accepts it; there is nothing to revoke"));
    }
    let jti = text("jti").filter(|jti| !jti.is_empty()).ok_or_else(|| {
        let user = text("sub").unwrap_or("USER");
        Failure::new("the token has no jti, so it cannot be told from others").hint(format!(
            "`arq auth revoke --tenant {tenant} --user '{user}'` revokes all of its user"
        ))
    })?;
    let tokens = RevokeTokens::Jti {
        jti: checked_jti(jti)?,
        // One that says more is refused for that.
        expires_at: Some(expires_at.min(now + MAX_TOKEN_TTL_SECS)),
    };
    Ok((tenant, tokens))
}

fn checked_jti(jti: &str) -> Result<String> {
    if jti.is_empty() || jti.len() > 128 {
        return Err(Failure::usage("a jti has 1 to 128 bytes")
            .hint("`arq auth inspect` shows that of a token, `arq session list` those in use"));
    }
    Ok(jti.to_owned())
}

fn describe(tokens: &RevokeTokens) -> String {
    let up_to = |at: &u64| format!("issued up to {}", moment(*at));
    match tokens {
        RevokeTokens::Jti { jti, .. } => format!("token {jti}"),
        RevokeTokens::User {
            user,
            issued_before,
        } => format!("tokens of user {user}, {},", up_to(issued_before)),
        RevokeTokens::All { issued_before } => format!("all tokens, {},", up_to(issued_before)),
    }
}

fn words_of(record: &Revocation) -> String {
    let up_to = moment(record.issued_before);
    match &record.tokens {
        Some(Tokens::Jti(jti)) => format!("token {jti}"),
        Some(Tokens::User(user)) => format!("user {user}, issued up to {up_to}"),
        Some(Tokens::All(_)) => format!("all, issued up to {up_to}"),
        None => String::new(),
    }
}

/// A record as `--json` prints it.
fn record_json(record: &Revocation) -> Value {
    let (kind, jti, user) = match &record.tokens {
        Some(Tokens::Jti(jti)) => ("jti", Some(jti), None),
        Some(Tokens::User(user)) => ("user", None, Some(user)),
        Some(Tokens::All(_)) => ("all", None, None),
        None => ("unknown", None, None),
    };
    json!({
        "tenant": record.tenant,
        "kind": kind,
        "jti": jti,
        "user": user,
        "issued_before": (kind != "jti").then_some(record.issued_before),
        "expires_at": record.expires_at,
        "revoked_at_ms": record.revoked_at_ms,
        "revoked_by": record.revoked_by,
    })
}

fn entry(record: &Revocation) -> Map<String, Value> {
    let mut entry = Map::new();
    entry.insert("action".to_owned(), "auth revoke".into());
    if let Value::Object(record) = record_json(record) {
        let told = [
            "tenant",
            "kind",
            "jti",
            "user",
            "issued_before",
            "expires_at",
        ];
        let kept = record
            .into_iter()
            .filter(|(name, value)| told.contains(&name.as_str()) && !value.is_null());
        entry.extend(kept);
    }
    entry
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn token(claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.x", part(&json!({"alg": "RS256"})), part(claims))
    }

    #[test]
    fn a_token_is_revoked_by_its_jti_until_it_expires() {
        let claims = json!({"tenant": "acme", "sub": "ann", "jti": "one", "exp": 2_000});
        let (tenant, tokens) = of_token(&token(&claims), 1_500).unwrap();
        assert_eq!(tenant.as_str(), "acme");
        let wanted = RevokeTokens::Jti {
            jti: "one".to_owned(),
            expires_at: Some(2_000),
        };
        assert_eq!(tokens, wanted);
        // Its leeway may not be over yet.
        assert!(of_token(&token(&claims), 2_599).is_ok());
    }

    #[test]
    fn what_cannot_be_revoked_is_refused_with_what_helps() {
        let good = json!({"tenant": "acme", "sub": "ann", "jti": "one", "exp": 2_000});
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            claims
        };
        for (claims, now, named) in [
            (good.clone(), 2_600, "expired 10m ago"),
            (with("jti", json!("")), 0, "no jti"),
            (with("jti", json!(7)), 0, "no jti"),
            (with("jti", json!("x".repeat(129))), 0, "128"),
            (with("exp", json!("soon")), 0, "when it expires"),
            (with("tenant", json!("No!")), 0, "tenant"),
        ] {
            let failure = of_token(&token(&claims), now).unwrap_err();
            assert!(
                failure.message.contains(named),
                "{claims}: {}",
                failure.message
            );
            assert!(failure.hint.is_some(), "{claims}");
        }
        assert!(of_token("garbage", 0).is_err());
    }
}
