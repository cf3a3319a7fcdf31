//! `arq sub`: hears a room.

use std::time::Duration;

use arqon_client::{Client, ClientError};
use arqon_proto::envelope::{self, to_text};
use arqon_proto::names::RoomId;
use arqon_proto::v1::envelope::Body;
use arqon_proto::v1::{Envelope, GapReason, Join, PresenceMode};
use clap::Args;
use tokio::time::Instant;

use crate::Globals;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::frame_json;
use crate::output::Paint;
use crate::publish::parse_room;
use crate::session::{SessionOptions, explain, rejected};

/// Hear the messages of a room
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq sub lobby\n  arq sub lobby --json | jq .payload\n  arq sub lobby --count 1 --for 10s"
)]
pub(crate) struct Sub {
    /// The room
    room: String,
    /// Show every frame of the session, field by field
    #[arg(long, conflicts_with = "payload")]
    raw: bool,
    /// Print only the payloads, each followed by a line feed
    #[arg(long)]
    payload: bool,
    /// Be seen in the room by those who ask for its presence
    #[arg(long)]
    presence: bool,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this long; with --count it is a failure to have heard less
    #[arg(long = "for", value_name = "TIME", value_parser = crate::duration::parse)]
    lasting: Option<Duration>,
    #[command(flatten)]
    session: SessionOptions,
}

/// Does what was asked.
pub(crate) fn run(args: &Sub, globals: &Globals) -> Result {
    let room = parse_room(&args.room)?;
    globals.wait(async {
        let context = globals.context()?;
        let deadline = args.lasting.map(|lasting| Instant::now() + lasting);
        let mut listener = Listener {
            args,
            globals,
            context: &context,
            url: args.session.url(&context),
            room,
            heard: 0,
        };
        let ended = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outcome = listener.run() => return outcome,
            () = ended => {}
            // The usual end of listening.
            _ = tokio::signal::ctrl_c() => {}
        }
        match args.count {
            Some(count) if args.lasting.is_some() && listener.heard < count => Err(Failure::new(
                format!("heard {} of {count} messages in time", listener.heard),
            )),
            _ => Ok(()),
        }
    })
}

struct Listener<'a> {
    args: &'a Sub,
    globals: &'a Globals,
    context: &'a Context,
    url: String,
    room: RoomId,
    heard: u64,
}

/// Why a session ended.
enum End {
    /// All that was asked for was heard.
    Enough,
    /// It may be opened again.
    Reconnect(String),
}

impl Listener<'_> {
    /// Listens; a session that the server lets come back is opened again.
    async fn run(&mut self) -> Result {
        let mut client = self.open().await?;
        loop {
            let why = match self.listen(&mut client).await? {
                End::Enough => return Ok(()),
                End::Reconnect(why) => why,
            };
            self.globals
                .output
                .warn(format!("{why}; connecting again, messages may be missed"));
            // Said goodbye to, so that a Shield that drains does not wait for it.
            let _ = tokio::time::timeout(Duration::from_secs(1), client.close()).await;
            client = self.reopen().await?;
        }
    }

    async fn reopen(&self) -> Result<Client> {
        let mut wait = Duration::from_millis(200);
        loop {
            tokio::time::sleep(wait).await;
            match self.open().await {
                Ok(client) => return Ok(client),
                Err(failure) if wait > Duration::from_secs(10) => return Err(failure),
                Err(_) => wait *= 2,
            }
        }
    }

    async fn open(&self) -> Result<Client> {
        let (mut client, welcome) = self.args.session.open(self.context, self.globals).await?;
        let presence = if self.args.presence {
            PresenceMode::Full
        } else {
            PresenceMode::None
        };
        let options = Join {
            presence: presence.into(),
            ..Join::default()
        };
        let frame = envelope::join(self.room.as_str(), 0, options);
        let answer = client
            .request(frame)
            .await
            .map_err(|error| explain(&self.url, &error))?;
        if let Some(Body::Error(error)) = answer.body {
            return Err(rejected(&error.into()));
        }
        let output = &self.globals.output;
        if output.json {
            output.object_line(&frame_json::message(&answer))?;
        } else if self.args.raw {
            output.line(to_text(&envelope::welcome(welcome)))?;
            output.line(to_text(&answer))?;
        } else {
            output.note(output.paint_stderr(
                Paint::Dim,
                &format!(
                    "joined {} of {} as {}; Ctrl-C ends",
                    self.room, welcome.tenant, welcome.user
                ),
            ));
        }
        Ok(client)
    }

    async fn listen(&mut self, client: &mut Client) -> Result<End> {
        let mut leave_at: Option<Instant> = None;
        loop {
            let leaving = async {
                match leave_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let received = tokio::select! {
                received = client.recv() => received,
                () = leaving => {
                    return Ok(End::Reconnect("the Shield asked to go elsewhere".to_owned()));
                }
            };
            let frame = match received {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(End::Reconnect("the session ended".to_owned())),
                Err(error) if reconnects(&error) => {
                    return Ok(End::Reconnect(explain(&self.url, &error).message));
                }
                Err(error) => return Err(explain(&self.url, &error)),
            };
            if let Some(Body::TokenExpiring(_)) = &frame.body
                && self.args.session.token.is_none()
            {
                let token = self.args.session.token(self.context, self.globals)?;
                client
                    .send(envelope::refresh(0, &token))
                    .await
                    .map_err(|error| explain(&self.url, &error))?;
            }
            if let Some(Body::Goaway(goaway)) = &frame.body {
                let spread = rand::random_range(0..=goaway.spread_ms);
                let wait = u64::from(goaway.retry_after_ms) + u64::from(spread);
                leave_at = Some(Instant::now() + Duration::from_millis(wait));
            }
            self.show(&frame)?;
            if let Some(Body::Left(left)) = &frame.body {
                return Err(Failure::new(format!(
                    "the server ended the membership: {} {}",
                    left.code, left.name
                )));
            }
            if matches!(&frame.body, Some(Body::Message(_))) {
                self.heard += 1;
                if self.args.count.is_some_and(|count| self.heard >= count) {
                    return Ok(End::Enough);
                }
            }
        }
    }

    fn show(&self, frame: &Envelope) -> Result {
        let output = &self.globals.output;
        if output.json {
            return output.object_line(&frame_json::message(frame));
        }
        if self.args.raw {
            return output.line(to_text(frame));
        }
        match &frame.body {
            Some(Body::Message(_)) if self.args.payload => {
                let mut line = frame.payload.to_vec();
                line.push(b'\n');
                output.bytes(&line)
            }
            Some(Body::Message(message)) => {
                let user = message
                    .sender
                    .as_ref()
                    .map_or("?", |sender| sender.user.as_str());
                // `2026-01-02T03:04:05.000006Z`: the time of day is what people look for.
                let time = frame
                    .headers
                    .get("X-Timestamp")
                    .and_then(|at| at.get(11..19))
                    .unwrap_or("--:--:--");
                output.line(format!(
                    "{} {} {}",
                    output.paint(Paint::Dim, time),
                    output.paint(Paint::Cyan, &format!("{user}:")),
                    printable(&frame.payload)
                ))
            }
            Some(Body::Gap(gap)) => {
                let reason = GapReason::try_from(gap.reason)
                    .unwrap_or_default()
                    .as_str_name();
                let missed = gap.missed.map_or_else(
                    || "messages".to_owned(),
                    |missed| format!("{missed} messages"),
                );
                output.warn(format!(
                    "{missed} may have been missed ({})",
                    reason.trim_start_matches("GAP_REASON_")
                ));
                Ok(())
            }
            Some(Body::Error(error)) => {
                output.warn(format!("{} {}: {}", error.code, error.name, error.message));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Whether the server lets this session come back.
pub(crate) fn reconnects(error: &ClientError) -> bool {
    match error {
        ClientError::Closed { .. } => error.close_code().is_none_or(|code| code.reconnect()),
        ClientError::Lost(_) => true,
        _ => false,
    }
}

/// Text with control characters shown as escapes, so that no message can steer the terminal.
pub(crate) fn printable(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) => text
            .trim_end_matches('\n')
            .chars()
            .map(|letter| match letter {
                '\n' | '\t' => letter.to_string(),
                letter if letter.is_control() => letter.escape_default().to_string(),
                letter => letter.to_string(),
            })
            .collect(),
        Err(_) => format!(
            "({} bytes that are no text; --json shows them)",
            payload.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_steer_the_terminal() {
        assert_eq!(printable(b"hi\n"), "hi");
        assert_eq!(printable(b"\x1b[2Jhi"), "\\u{1b}[2Jhi");
        assert_eq!(
            printable(&[0xff]),
            "(1 bytes that are no text; --json shows them)"
        );
    }
}
