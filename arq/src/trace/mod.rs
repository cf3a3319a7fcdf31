//! `arq trace`: the metadata of a tenant's messages as they pass, for who debugs.
//!
//! [`spine`] opens a connection that may only listen, [`tail`] follows it and opens the next,
//! [`frame`] reads what comes, [`sequence`] tells what did not come, [`show`] makes text or JSON
//! of it.

mod frame;
mod sequence;
mod show;
mod spine;
mod tail;

use std::time::Duration;

use arqon_proto::names::{RoomPattern, TenantId, UserId};
use clap::Args;

use crate::Globals;
use crate::failure::{Failure, Result};
use crate::stops::Stops;
use show::Shape;
use tail::Tail;

/// What of a payload is shown where no length is given: enough to recognise it.
const PAYLOAD_BYTES: &str = "256";

/// Show the metadata of messages as they pass; for admins, to debug
///
/// One line for each message: when Shield took it, room, user and the end of the session's id,
/// size, application headers, how long it took to come here, X-Twist-ID, Arqon-Origin (a run of
/// numbering of one Shield for that room, and the number), and the trace's id. The payload is not
/// shown unless asked for. How long it took is by the clocks of two hosts; where that is negative
/// it says skew.
///
/// It listens in the tenant's account of NATS, past Shield, with a user that may read and not
/// write; for that it takes the admin's state folder. Each time is written to its audit log.
#[derive(Debug, Args)]
#[command(
    after_help = "WHAT is a room, a pattern of rooms (`*` stands for one part between dots, `>` at the end for all \
that follow), or user:NAME for the messages of one user in all rooms.\n\n\
Examples:\n  arq trace lobby\n  arq trace 'team.>' --tenant globex --user alice\n  arq trace user:alice --payload=64 --headers\n  \
arq trace '>' --json | jq 'select(.latency_us > 50000)'"
)]
pub(crate) struct Trace {
    /// A room, a pattern of rooms, or user:NAME
    #[arg(required_unless_present = "user")]
    what: Option<String>,
    /// Only what this user publishes [with no WHAT: in all rooms]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The tenant [default: the context's]
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Show payloads too, at most so many bytes of each [default of BYTES: 256]
    #[arg(
        long,
        value_name = "BYTES",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = PAYLOAD_BYTES,
        value_parser = crate::size::parse
    )]
    payload: Option<usize>,
    /// Show the application's headers too
    #[arg(long)]
    headers: bool,
    /// Show who comes and leaves too, as a Brain tells it
    #[arg(long)]
    presence: bool,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this long; with --count it is a failure to have seen less
    #[arg(long = "for", value_name = "TIME", value_parser = crate::duration::parse)]
    lasting: Option<Duration>,
}

/// What is to be seen.
#[derive(Debug)]
struct Wanted {
    tenant: TenantId,
    rooms: RoomPattern,
    user: Option<UserId>,
    presence: bool,
    shape: Shape,
}

/// Why it ended.
enum End {
    /// All that was asked for was seen.
    Enough,
    /// The time is over.
    Time,
    /// Somebody has seen enough.
    Stopped,
}

/// Does what was asked.
pub(crate) fn run(args: &Trace, globals: &Globals) -> Result {
    let (rooms, user) = target(args.what.as_deref(), args.user.as_deref())?;
    let named = args
        .tenant
        .as_deref()
        .map(crate::tenant::parse)
        .transpose()?;
    globals.wait(async {
        let context = globals.context()?;
        spine::check_rights(&context)?;
        let tenant = match named {
            Some(tenant) => tenant,
            None => crate::tenant::parse(&context.settings.default_tenant)?,
        };
        let wanted = Wanted {
            tenant,
            rooms,
            user,
            presence: args.presence,
            shape: Shape {
                payload: args.payload,
                headers: args.headers,
            },
        };
        let mut stops = Stops::new()?;
        let mut tail = Tail::new(&wanted, &context, args.count, globals.output);
        let over = async {
            match args.lasting {
                Some(lasting) => tokio::time::sleep(lasting).await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            ended = Box::pin(tail.run()) => ended.map(|()| End::Enough)?,
            () = over => End::Time,
            () = stops.next() => End::Stopped,
        };
        tail.summary();
        match (end, args.count) {
            (End::Time, Some(count)) => Err(Failure::new(format!(
                "saw {} of {count} messages in time",
                tail.seen()
            ))),
            _ => Ok(()),
        }
    })
}

/// Which rooms and which user are meant.
fn target(what: Option<&str>, user: Option<&str>) -> Result<(RoomPattern, Option<UserId>)> {
    let (rooms, named) = match what {
        Some(what) => match what.strip_prefix("user:") {
            // No room has a colon in its name.
            Some(user) => (">", Some(user)),
            None => (what, None),
        },
        None => (">", None),
    };
    if named.is_some() && user.is_some() {
        return Err(Failure::usage(
            "the user is named twice: user:NAME and --user",
        ));
    }
    let rooms = RoomPattern::parse(rooms).map_err(|error| {
        Failure::usage(format!("`{rooms}` is no pattern of rooms: {error}")).hint(
            "a room, with `*` for one part between dots and `>` for all that follow; `>` alone for all rooms; \
             user:NAME for a user",
        )
    })?;
    let user = named.or(user).map(|name| {
        UserId::parse(name).map_err(|error| Failure::usage(format!("`{name}` is no user: {error}")))
    });
    Ok((rooms, user.transpose()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_room_a_pattern_or_a_user_is_meant() {
        let parsed = |what, user| {
            let (rooms, user) = target(what, user).unwrap();
            (rooms.to_string(), user.map(|user| user.to_string()))
        };
        let alice = Some("alice".to_owned());
        assert_eq!(parsed(Some("lobby"), None), ("lobby".to_owned(), None));
        assert_eq!(
            parsed(Some("a.*.c.>"), Some("alice")),
            ("a.*.c.>".to_owned(), alice.clone())
        );
        assert_eq!(
            parsed(Some("user:alice"), None),
            (">".to_owned(), alice.clone())
        );
        assert_eq!(parsed(None, Some("alice")), (">".to_owned(), alice));
        for (what, user) in [
            (Some("a..b"), None),
            (Some("_presence.>"), None),
            (Some("user:"), None),
            (Some("user:alice"), Some("bob")),
            (Some(">.a"), None),
        ] {
            let failure = target(what, user).unwrap_err();
            assert_eq!(failure.exit, crate::failure::Exit::Usage, "{what:?}");
        }
    }
}
