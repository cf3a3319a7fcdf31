//! `arq doctor`: checks each hop from here to an echo, and names the one that fails.

use std::time::Duration;

use arqon_client::Client;
use arqon_proto::codes::ErrorCode;
use arqon_proto::names::TenantId;
use arqon_proto::v1::envelope::Body;
use arqon_proto::v1::{Join, TenantState, Welcome, issuer::Keys};
use arqon_spine::admin::Admin;
use arqon_spine::connect::{TenantOptions, connect_user};
use clap::Args;
use futures_util::StreamExt;
use serde_json::json;
use tokio::net::TcpStream;

use crate::Globals;
use crate::auth::DevelopmentKey;
use crate::context::Context;
use crate::failure::{Doing, Exit, Failure, Result};
use crate::http;
use crate::output::{Output, Paint, counted};
use crate::session::{SessionOptions, connect, explain};

/// How long one hop may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Check each hop from here to an echo, and name the one that fails
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    session: SessionOptions,
}

/// One hop.
struct Check {
    name: &'static str,
    /// None: not tried, for one before it failed.
    outcome: Option<Result<String>>,
}

/// Does what was asked.
pub(crate) fn run(args: &Doctor, globals: &Globals) -> Result {
    globals.wait(Box::pin(async {
        let mut report = Report {
            checks: Vec::new(),
            output: globals.output,
        };
        Box::pin(examine(args, globals, &mut report)).await?;
        report.finish()
    }))
}

async fn examine(args: &Doctor, globals: &Globals, report: &mut Report) -> Result {
    let Some(context) = report
        .check("context", async { find_context(globals) })
        .await?
    else {
        return Ok(());
    };
    let context = &context;
    let options = &args.session;
    let tenant = options
        .tenant
        .as_deref()
        .unwrap_or(&context.settings.default_tenant)
        .to_owned();

    // Who only opens sessions has no admin's keys, and misses nothing by that.
    if context.name.is_some() && !context.spine_folder().is_dir() {
        for name in SPINE_HOPS {
            report.skip::<()>(name)?;
        }
    } else {
        spine_hops(context, &tenant, report).await?;
    }

    let url = options.url(context);
    let Some(()) = report.check("Shield TCP", reach(&url)).await? else {
        for name in [
            "Shield is alive",
            "Shield is ready",
            "token",
            "WebSocket WELCOME",
            "echo",
            "presence",
        ] {
            report.skip::<()>(name)?;
        }
        return Ok(());
    };
    report
        .check("Shield is alive", answers(context, &url, "healthz"))
        .await?;
    report
        .check("Shield is ready", answers(context, &url, "readyz"))
        .await?;
    let token = report
        .check("token", async { make_token(options, context, globals) })
        .await?;
    let session = match token {
        Some(token) => {
            report
                .check("WebSocket WELCOME", welcome(context, &url, token))
                .await?
        }
        None => report.skip("WebSocket WELCOME")?,
    };
    let session = match session {
        Some(client) => report.check("echo", echo(client, &url)).await?,
        None => report.skip("echo")?,
    };
    match session {
        Some(session) => {
            report
                .check("presence", presence(session, context, &url))
                .await?
        }
        None => report.skip("presence")?,
    };
    Ok(())
}

/// The hops that an admin's keys open.
const SPINE_HOPS: [&str; 5] = [
    "state folder",
    "NATS TCP",
    "NATS authentication",
    "CONTROL data",
    "tenant account",
];

async fn spine_hops(context: &Context, tenant: &str, report: &mut Report) -> Result {
    let state = report
        .check("state folder", async {
            Ok((
                context.spine_state()?,
                context.spine_folder().display().to_string(),
            ))
        })
        .await?;
    let nats = report.check("NATS TCP", reach_nats(context)).await?;
    let admin = match (&state, nats) {
        (Some(_), Some(())) => {
            report
                .check("NATS authentication", sign_in(context))
                .await?
        }
        _ => report.skip("NATS authentication")?,
    };
    match &admin {
        Some(admin) => {
            report.check("CONTROL data", read_control(admin)).await?;
            report
                .check("tenant account", enter_tenant(admin, context, tenant))
                .await?;
            admin.close().await;
        }
        None => {
            report.skip::<()>("CONTROL data")?;
            report.skip::<()>("tenant account")?;
        }
    }
    Ok(())
}

/// The outcome of a hop: what the next ones need, and what is said of it.
type Found<T> = Result<(T, String)>;

struct Report {
    checks: Vec<Check>,
    output: Output,
}

impl Report {
    /// Makes one check; None where it failed.
    async fn check<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Found<T>>,
    ) -> Result<Option<T>> {
        let outcome = match tokio::time::timeout(LIMIT, Box::pin(work)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new(format!(
                "no answer within {} s",
                LIMIT.as_secs()
            ))),
        };
        let (found, outcome) = match outcome {
            Ok((found, detail)) => (Some(found), Ok(detail)),
            Err(failure) => (None, Err(failure)),
        };
        self.add(Check {
            name,
            outcome: Some(outcome),
        })?;
        Ok(found)
    }

    /// Leaves one out, for what it needs is not there.
    fn skip<T>(&mut self, name: &'static str) -> Result<Option<T>> {
        self.add(Check {
            name,
            outcome: None,
        })?;
        Ok(None)
    }

    /// Shows a hop as soon as it is known.
    fn add(&mut self, check: Check) -> Result {
        let output = self.output;
        if !output.json {
            let (mark, detail) = match &check.outcome {
                Some(Ok(detail)) => (output.paint(Paint::Green, "ok     "), detail.clone()),
                Some(Err(failure)) => {
                    (output.paint(Paint::Red, "FAILED "), failure.message.clone())
                }
                None => (output.paint(Paint::Dim, "skipped"), String::new()),
            };
            output.line(format!("{mark} {:20} {detail}", check.name).trim_end())?;
        }
        self.checks.push(check);
        Ok(())
    }

    fn finish(self) -> Result {
        let failed = self.checks.iter().find_map(|check| match &check.outcome {
            Some(Err(failure)) => Some((check.name, failure)),
            _ => None,
        });
        if self.output.json {
            let checks: Vec<_> = self
                .checks
                .iter()
                .map(|check| match &check.outcome {
                    Some(Ok(detail)) => {
                        json!({"name": check.name, "outcome": "ok", "detail": detail})
                    }
                    Some(Err(failure)) => json!({
                        "name": check.name,
                        "outcome": "failed",
                        "detail": failure.message,
                        "hint": failure.hint,
                    }),
                    None => json!({"name": check.name, "outcome": "skipped"}),
                })
                .collect();
            self.output.object(&json!({
                "well": failed.is_none(),
                "failed": failed.map(|(name, _)| name),
                "checks": checks,
            }))?;
            return if failed.is_some() {
                Err(Failure::told(Exit::Failed))
            } else {
                Ok(())
            };
        }
        match failed {
            None => self.output.line(format!(
                "\n{}",
                self.output.paint(Paint::Green, "every hop is well")
            )),
            Some((name, failure)) => {
                let mut told = Failure::new(format!("the first hop that fails: {name}"));
                told.hint = failure.hint.clone();
                Err(told)
            }
        }
    }
}

fn find_context(globals: &Globals) -> Found<Context> {
    let context = globals.context()?;
    let file = context.folder.join("context.toml");
    let detail = if file.exists() {
        file.display().to_string()
    } else {
        format!("no {}; the defaults are taken", file.display())
    };
    Ok((context, detail))
}

async fn reach_nats(context: &Context) -> Found<()> {
    let mut last = Failure::new("no server is named in context.toml");
    for server in &context.settings.nats {
        match reach(server).await {
            Ok(found) => return Ok(found),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// Opens a TCP connection to the host of a URL.
async fn reach(url: &str) -> Found<()> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split('/').next().unwrap_or(rest);
    let port = match scheme {
        "ws" | "http" => 80,
        "wss" | "https" => 443,
        _ => 4222,
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, text)) => text.parse().map_or((authority, port), |port| (host, port)),
        None => (authority, port),
    };
    let address = format!("{host}:{port}");
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = arqon_resolver::resolve(host, port).await.hint(
        "the name is looked up in /etc/hosts, then by the DNS servers of /etc/resolv.conf; context.toml holds \
         the addresses",
    )?;
    match TcpStream::connect(&found[..]).await {
        Ok(_) => Ok(((), address)),
        Err(error) => Err(Failure::new(format!("{address}: {error}"))
            .hint("nothing listens there: `arq dev up` starts everything; context.toml holds the addresses")),
    }
}

async fn sign_in(context: &Context) -> Found<Admin> {
    let state = context.spine_state()?;
    let admin = Admin::connect(&state, &context.settings.nats).await.hint(
        "another NATS server listens there, or one with the keys of another state folder: restart it with \
         the configuration that `arq spine config` prints",
    )?;
    let servers = admin.servers().await.map_err(crate::admin::explain)?;
    let versions: Vec<String> = servers
        .iter()
        .map(|server| format!("{} {}", server.name, server.version))
        .collect();
    for server in &servers {
        arqon_spine::server::check_version(&server.version)
            .hint("scripts/setup fetches a newer nats-server")?;
    }
    Ok((admin, format!("SYS and CONTROL, {}", versions.join(", "))))
}

async fn read_control(admin: &Admin) -> Found<()> {
    let hint =
        "the buckets are made by `arq dev up` and `arq pool create`; JetStream's store may be lost";
    let tenants = admin.list().await.hint(hint)?;
    let pools = admin.list_pools().await.hint(hint)?;
    Ok((
        (),
        format!(
            "{}, {}",
            counted(tenants.len(), "tenant"),
            counted(pools.len(), "pool")
        ),
    ))
}

async fn enter_tenant(admin: &Admin, context: &Context, tenant: &str) -> Found<()> {
    let id = TenantId::parse(tenant)?;
    let record = admin.show(&id).await.map_err(crate::admin::explain)?;
    if record.state() == TenantState::Suspended {
        return Err(Failure::new(format!("{tenant} is suspended"))
            .hint(format!("`arq tenant resume {tenant}`")));
    }
    let user = admin.creds(&id, false, Duration::from_secs(60)).await?;
    let connection = connect_user(&context.settings.nats, user, "arq-doctor", &TenantOptions::default())
        .await
        .doing(format!("NATS refuses a user of {tenant}"))
        .hint("the account on the server differs from its record; `arq dev up` or `arq tenant create` pushes it again")?;
    connection.close().await;
    let trusts = DevelopmentKey::exists(context)
        && {
            let key = DevelopmentKey::open(context, &Output::new(true))?;
            record.issuers.iter().any(|issuer| {
            matches!(&issuer.keys, Some(Keys::Pem(pem)) if pem.keys.iter().any(|known| known.kid == key.kid))
        })
        };
    let note = if trusts {
        "trusts the development key"
    } else {
        "does not trust the development key"
    };
    Ok(((), format!("{tenant}, {note}")))
}

async fn answers(context: &Context, url: &str, path: &str) -> Found<()> {
    let base = url.replacen("ws", "http", 1);
    let base = base.trim_end_matches("/v1/socket").trim_end_matches('/');
    let address = format!("{base}/{path}");
    let (status, body) = http::get(&address, context.authority()?.as_deref()).await?;
    if status == 200 {
        return Ok(((), address));
    }
    Err(
        Failure::new(format!("{address} answers {status} {}", body.trim()))
            .hint("Shield's log says what it waits for; `arq dev up` shows it"),
    )
}

fn make_token(options: &SessionOptions, context: &Context, globals: &Globals) -> Found<String> {
    let token = options.token(context, globals)?;
    let origin = if options.token.is_some() {
        "given"
    } else if context.settings.token_file.is_some()
        && options.tenant.is_none()
        && options.user.is_none()
    {
        "the context's"
    } else {
        "signed with the development key"
    };
    Ok((token, origin.to_owned()))
}

async fn welcome(context: &Context, url: &str, token: String) -> Found<Client> {
    let (
        client,
        Welcome {
            tenant,
            user,
            shield_id,
            ..
        },
    ) = connect(context, url, Some(token), None).await?;
    Ok((client, format!("{user} of {tenant} at {shield_id}")))
}

/// A session and the room it has joined.
type Joined = (Client, String);

/// Asks who is in a room where the asker is not seen: what counts is that a Brain answers.
async fn presence((mut client, room): Joined, context: &Context, url: &str) -> Found<()> {
    let failed = |error| explain(url, &error);
    match client.presence_count(&room).await {
        Ok(_) => Ok(((), "a Brain answers".to_owned())),
        Err(error) if error.error_code() == Some(ErrorCode::PresenceUnavailable) => {
            if !context.spine_folder().is_dir() {
                return Ok((
                    (),
                    "no Brain answers: presence is unavailable, messages flow".to_owned(),
                ));
            }
            if brain_is_heard(context).await? {
                return Err(
                    failed(error).hint("`arq status` shows the Brains and whether they are warm")
                );
            }
            Ok((
                (),
                "no Brain runs: presence is unavailable, messages flow".to_owned(),
            ))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Whether any Brain reports; they do so once a second.
async fn brain_is_heard(context: &Context) -> Result<bool> {
    let admin = Admin::connect(&context.spine_state()?, &context.settings.nats).await?;
    let mut beats = admin.control().subscribe_brain_beats().await?;
    let heard = tokio::time::timeout(Duration::from_millis(1_600), beats.next()).await;
    admin.close().await;
    Ok(matches!(heard, Ok(Some(_))))
}

async fn echo(mut client: Client, url: &str) -> Found<Joined> {
    let failed = |error| explain(url, &error);
    // A room of its own, so that nobody is disturbed.
    let room = format!("arq-doctor.{}", uuid::Uuid::now_v7());
    client.join(&room, Join::default()).await.map_err(failed)?;
    let began = std::time::Instant::now();
    let ack = client
        .publish(&room, room.clone(), true)
        .await
        .map_err(failed)?;
    loop {
        let frame = client
            .recv()
            .await
            .map_err(failed)?
            .ok_or_else(|| Failure::new("the session ended"))?;
        if matches!(frame.body, Some(Body::Message(_))) && frame.payload == room.as_bytes() {
            break;
        }
    }
    let took = began.elapsed();
    let known = if ack.is_some() {
        "acknowledged and heard"
    } else {
        "heard"
    };
    Ok((
        (client, room),
        format!("{known} after {:.1} ms", took.as_secs_f64() * 1_000.0),
    ))
}
