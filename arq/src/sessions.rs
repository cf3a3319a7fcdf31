//! `arq session`: sessions that are open, and closing some.

use std::time::Duration;

use arqon_proto::names::{SessionId, UserId};
use arqon_proto::v1::{KickSessions, ListSessions, SessionFilter, SessionInfo, control::Order};
use arqon_spine::admin::{Answer, Census, ShieldSessions, WaitFor};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::Globals;
use crate::admin::{audit, explain, with};
use crate::duration::{moment, now_secs, words};
use crate::failure::{Doing, Exit, Failure, Result};
use crate::output::counted;
use crate::tenant::parse as parse_tenant;

/// Shields beat once a second; who has not by then is not waited for.
const CENSUS: Duration = Duration::from_millis(1_500);
/// For the answers of those that have.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most that a Shield tells.
const MOST: u32 = 10_000;

/// Sessions that are open: who has them, and closing some
#[derive(Debug, Args)]
pub(crate) struct Session {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the sessions of all Shields, the oldest first
    List(ListArgs),
    /// Close sessions with 4006 KICKED; their clients may come back at once
    ///
    /// To keep a client out, revoke its token: `arq auth revoke`.
    Kick(KickArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only of this tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Only of this user
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Show so many of each Shield at most
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    limit: u32,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq session kick 01890a5d-ac96-774b-bcce-b302099a8057\n  arq session kick --tenant acme --user ann --reason 'ticket 17'"
)]
struct KickArgs {
    /// The session, as `arq session list` shows it
    #[arg(required_unless_present = "user", conflicts_with = "user")]
    session: Option<String>,
    /// All sessions of this user; it takes --tenant
    #[arg(long, value_name = "ID", requires = "tenant")]
    user: Option<String>,
    /// The user's tenant
    #[arg(long, value_name = "ID", requires = "user")]
    tenant: Option<String>,
    /// Why, for the logs of Shields and the audit log; the client is not told
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
}

/// Does what was asked.
pub(crate) fn run(args: Session, globals: &Globals) -> Result {
    match args.command {
        Command::List(args) => list(&args, globals),
        Command::Kick(args) => kick(&args, globals),
    }
}

fn list(args: &ListArgs, globals: &Globals) -> Result {
    let filter = filter(args.tenant.as_deref(), args.user.as_deref())?;
    let limit = args.limit;
    let answers = ask(&filter, globals, |request, filter| {
        Order::ListSessions(ListSessions {
            request,
            filter: Some(filter),
            limit,
        })
    })?;
    let output = &globals.output;
    let mut rows: Vec<(&str, &SessionInfo)> = answers
        .iter()
        .flat_map(|answer| {
            let told = answer.said.iter().flat_map(|said| &said.sessions);
            told.map(|info| (answer.shield.as_str(), info))
        })
        .collect();
    rows.sort_by_key(|(_, info)| (info.opened_at_ms, &info.session));
    let missing = silent(&answers);
    let total = total(&answers);
    if output.json {
        output.object(&json!({
            "sessions": rows.iter().map(|(shield, info)| session_json(shield, info)).collect::<Vec<_>>(),
            "total": total,
            "missing": missing,
        }))?;
    } else {
        let now = now_secs();
        let told = rows.len();
        let rows = rows.iter().map(|(shield, info)| {
            vec![
                info.session.clone(),
                info.tenant.clone(),
                info.user.clone(),
                info.role.clone(),
                (*shield).to_owned(),
                words(now.saturating_sub(info.opened_at_ms / 1_000)),
                moment(info.expires_at),
                match info.jti.as_str() {
                    "" => "-".to_owned(),
                    jti => jti.to_owned(),
                },
            ]
        });
        output.table(
            &[
                "session",
                "tenant",
                "user",
                "role",
                "shield",
                "open for",
                "token until",
                "jti",
            ],
            rows.collect(),
            "no sessions",
        )?;
        if told < total {
            output.warn(format!("{told} of {total} are shown; --limit shows more"));
        }
    }
    all_answered(&missing)
}

fn kick(args: &KickArgs, globals: &Globals) -> Result {
    let mut filter = filter(args.tenant.as_deref(), args.user.as_deref())?;
    if let Some(session) = &args.session {
        SessionId::parse(session)
            .map_err(|error| Failure::usage(format!("`{session}` is no session id: {error}")))
            .hint("`arq session list` shows all")?;
        filter.session.clone_from(session);
    }
    if args.reason.len() > 256 {
        return Err(Failure::usage("--reason has over 256 bytes").hint("one line is enough"));
    }
    let reason = args.reason.clone();
    let answers = ask(&filter, globals, |request, filter| {
        Order::KickSessions(KickSessions {
            request,
            filter: Some(filter),
            reason,
        })
    })?;
    let output = &globals.output;
    let (closed, missing) = (total(&answers), silent(&answers));
    let mut entry = Map::new();
    for (name, value) in [
        ("action", "session kick"),
        ("tenant", &filter.tenant),
        ("user", &filter.user),
        ("session", &filter.session),
        ("reason", &args.reason),
    ] {
        if !value.is_empty() {
            entry.insert(name.to_owned(), value.into());
        }
    }
    entry.insert("closed".to_owned(), closed.into());
    if let Err(failure) = audit(&globals.context()?.spine_folder(), entry) {
        output.warn(format!("not in the audit log: {}", failure.message));
    }
    if output.json {
        output.object(&json!({ "closed": closed, "missing": missing }))?;
    } else if closed > 0 {
        output.note(format!("closed {}", counted(closed, "session")));
    } else if args.session.is_none() {
        output.note(format!(
            "user {} of tenant {} has no session",
            filter.user, filter.tenant
        ));
    }
    all_answered(&missing)?;
    match (&args.session, closed) {
        (Some(_), 0) if output.json => Err(Failure::told(Exit::Failed)),
        (Some(session), 0) => Err(Failure::new(format!("there is no session {session}"))
            .hint("it has ended, or never was; `arq session list` shows all")),
        _ => Ok(()),
    }
}

fn filter(tenant: Option<&str>, user: Option<&str>) -> Result<SessionFilter> {
    let tenant = tenant.map(parse_tenant).transpose()?;
    let parse_user = |user: &str| {
        UserId::parse(user)
            .map_err(|error| Failure::usage(format!("`{user}` is no user id: {error}")))
            .hint("it is the `sub` of the user's tokens")
    };
    let user = user.map(parse_user).transpose()?;
    Ok(SessionFilter {
        tenant: tenant.map(|tenant| tenant.to_string()).unwrap_or_default(),
        user: user.map(|user| user.to_string()).unwrap_or_default(),
        session: String::new(),
    })
}

/// Gives an order to all Shields and hears their answers.
fn ask(
    filter: &SessionFilter,
    globals: &Globals,
    order: impl FnOnce(u64, SessionFilter) -> Order,
) -> Result<Vec<Answer<ShieldSessions>>> {
    with(globals, async |_, admin| {
        if let Ok(tenant) = parse_tenant(&filter.tenant) {
            admin.show(&tenant).await.map_err(explain)?;
        }
        let census = Census::open(admin.control())
            .await
            .doing("cannot listen to the Shields")?;
        let wait = WaitFor {
            census: CENSUS,
            patience: PATIENCE,
        };
        census
            .ask_sessions(|request| order(request, filter.clone()), wait)
            .await
            .doing("cannot hear the Shields")
    })
}

fn total(answers: &[Answer<ShieldSessions>]) -> usize {
    let said = answers.iter().filter_map(|answer| answer.said.as_ref());
    said.map(|said| usize::try_from(said.total).unwrap_or(usize::MAX))
        .sum()
}

fn silent(answers: &[Answer<ShieldSessions>]) -> Vec<&str> {
    let silent = answers.iter().filter(|answer| answer.said.is_none());
    silent.map(|answer| answer.shield.as_str()).collect()
}

/// What a Shield did not tell is missing in what was printed.
fn all_answered(missing: &[&str]) -> Result {
    if missing.is_empty() {
        return Ok(());
    }
    Err(
        Failure::new(format!("nothing was heard from {}", missing.join(", ")))
            .hint("it is live, and slow or of an older version; `arq status` shows all Shields"),
    )
}

/// A session as `--json` prints it.
fn session_json(shield: &str, info: &SessionInfo) -> Value {
    json!({
        "session": info.session,
        "tenant": info.tenant,
        "user": info.user,
        "role": info.role,
        "shield": shield,
        "jti": (!info.jti.is_empty()).then_some(&info.jti),
        "issued_at": info.issued_at,
        "expires_at": info.expires_at,
        "opened_at_ms": info.opened_at_ms,
    })
}
