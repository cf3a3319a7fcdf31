//! `arq presence`: who is in a room, now or as it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arqon_client::Client;
use arqon_proto::codes::ErrorCode;
use arqon_proto::names::RoomId;
use arqon_proto::v1::envelope::Body;
use arqon_proto::v1::{Envelope, Join, PresenceMember, PresenceMode, PresenceState};
use clap::Args;
use serde_json::json;

use crate::Globals;
use crate::context::Context;
use crate::duration::{now_secs, words};
use crate::failure::{Failure, Result};
use crate::frame_json;
use crate::output::{Output, Paint, counted};
use crate::publish::parse_room;
use crate::session::{SessionOptions, explain};
use crate::sub::{printable, reconnects};

/// Show who is in a room
#[derive(Debug, Args)]
#[command(
    after_help = "Who asks or watches is not seen by the others.\n\nExamples:\n  arq presence lobby\n  arq presence lobby --watch\n  arq presence lobby --count --json"
)]
pub(crate) struct Presence {
    /// The room
    room: String,
    /// Go on, and tell who comes, changes and leaves
    #[arg(long, conflicts_with = "count")]
    watch: bool,
    /// Only how many users there are
    #[arg(long)]
    count: bool,
    #[command(flatten)]
    session: SessionOptions,
}

/// Does what was asked.
pub(crate) fn run(args: &Presence, globals: &Globals) -> Result {
    let room = parse_room(&args.room)?;
    globals.wait(async {
        let context = globals.context()?;
        let asker = Asker {
            args,
            globals,
            context: &context,
            url: args.session.url(&context),
            room,
        };
        if !args.watch {
            return asker.ask().await;
        }
        tokio::select! {
            outcome = asker.watch() => outcome,
            // The usual end of watching.
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

struct Asker<'a> {
    args: &'a Presence,
    globals: &'a Globals,
    context: &'a Context,
    url: String,
    room: RoomId,
}

impl Asker<'_> {
    async fn open(&self, presence: PresenceMode) -> Result<Client> {
        let (mut client, _) = self.args.session.open(self.context, self.globals).await?;
        let options = Join {
            presence: presence.into(),
            ..Join::default()
        };
        client
            .join(self.room.as_str(), options)
            .await
            .map_err(|error| self.explain(&error))?;
        Ok(client)
    }

    fn explain(&self, error: &arqon_client::ClientError) -> Failure {
        let failure = explain(&self.url, error);
        match error.error_code() {
            Some(ErrorCode::PresenceUnavailable) => failure
                .hint("no Brain answers; `arq status` shows the Brains and whether they are warm"),
            _ => failure,
        }
    }

    async fn ask(&self) -> Result {
        let mut client = self.open(PresenceMode::None).await?;
        let room = self.room.as_str();
        let output = &self.globals.output;
        if self.args.count {
            let count = client
                .presence_count(room)
                .await
                .map_err(|error| self.explain(&error))?;
            if output.json {
                output.object(&json!({"room": room, "count": count}))?;
            } else {
                output.line(count.to_string())?;
            }
        } else {
            let state = client
                .presence(room)
                .await
                .map_err(|error| self.explain(&error))?;
            show_state(&state, room, output)?;
        }
        // Said goodbye to in good order; how that ends is of no interest.
        let _ = client.close().await;
        Ok(())
    }

    /// Watches; a session that the server lets come back is opened again.
    async fn watch(&self) -> Result {
        let mut watcher = Watcher::default();
        let mut client = self.open(PresenceMode::Watch).await?;
        loop {
            let why = self.follow(&mut client, &mut watcher).await?;
            self.globals
                .output
                .warn(format!("{why}; connecting again, changes may be missed"));
            let _ = tokio::time::timeout(Duration::from_secs(1), client.close()).await;
            let mut wait = Duration::from_millis(200);
            client = loop {
                tokio::time::sleep(wait).await;
                match self.open(PresenceMode::Watch).await {
                    Ok(client) => break client,
                    Err(failure) if wait > Duration::from_secs(10) => return Err(failure),
                    Err(_) => wait *= 2,
                }
            };
        }
    }

    /// Tells what comes until the session ends; gives the reason.
    async fn follow(&self, client: &mut Client, watcher: &mut Watcher) -> Result<String> {
        loop {
            let frame = match client.recv().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok("the session ended".to_owned()),
                Err(error) if reconnects(&error) => return Ok(explain(&self.url, &error).message),
                Err(error) => return Err(explain(&self.url, &error)),
            };
            match &frame.body {
                Some(Body::TokenExpiring(_)) if self.args.session.token.is_none() => {
                    let token = self.args.session.token(self.context, self.globals)?;
                    client
                        .send(arqon_proto::envelope::refresh(0, &token))
                        .await
                        .map_err(|error| explain(&self.url, &error))?;
                }
                Some(Body::Goaway(_)) => {
                    return Ok("the Shield asked to go elsewhere".to_owned());
                }
                Some(Body::Left(left)) => {
                    return Err(Failure::new(format!(
                        "the server ended the membership: {} {}",
                        left.code, left.name
                    )));
                }
                _ => {}
            }
            watcher.show(&frame, &self.globals.output)?;
        }
    }
}

/// Who is known to be there, so that a change is told from an arrival.
#[derive(Debug, Default)]
struct Watcher {
    present: BTreeSet<String>,
    /// Pages of a state that is not complete yet.
    pages: Vec<PresenceMember>,
}

impl Watcher {
    fn show(&mut self, frame: &Envelope, output: &Output) -> Result {
        if output.json {
            return match &frame.body {
                Some(
                    Body::PresenceState(_)
                    | Body::PresenceUpdate(_)
                    | Body::PresenceLeave(_)
                    | Body::PresenceCount(_)
                    | Body::Error(_),
                ) => output.object_line(&frame_json::message(frame)),
                _ => Ok(()),
            };
        }
        match &frame.body {
            Some(Body::PresenceState(page)) => {
                self.pages.extend(page.members.iter().cloned());
                if !page.last_page {
                    return Ok(());
                }
                let whole = PresenceState {
                    members: std::mem::take(&mut self.pages),
                    ..page.clone()
                };
                self.present = whole.members.iter().map(|m| m.user.clone()).collect();
                show_state(&whole, &frame.room, output)
            }
            Some(Body::PresenceUpdate(update)) => {
                for member in &update.members {
                    let (sign, paint) = if self.present.insert(member.user.clone()) {
                        ("+", Paint::Green)
                    } else {
                        ("~", Paint::Yellow)
                    };
                    let sessions = frame_json::session_count(member) as usize;
                    let mut text = format!("({})", counted(sessions, "session"));
                    let meta = meta_of(member);
                    if !meta.is_empty() {
                        text = format!("{meta} {text}");
                    }
                    tell(sign, paint, &member.user, &text, output)?;
                }
                Ok(())
            }
            Some(Body::PresenceLeave(leave)) => {
                for user in &leave.users {
                    self.present.remove(user);
                    tell("-", Paint::Red, user, "", output)?;
                }
                Ok(())
            }
            Some(Body::PresenceCount(told)) => {
                output.line(format!("{} are here", counted(told.count as usize, "user")))
            }
            Some(Body::Error(error)) => {
                output.warn(format!("{} {}: {}", error.code, error.name, error.message));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn tell(sign: &str, paint: Paint, user: &str, more: &str, output: &Output) -> Result {
    let line = format!(
        "{} {} {more}",
        output.paint(paint, sign),
        output.paint(Paint::Cyan, &printable(user.as_bytes()))
    );
    output.line(line.trim_end())
}

fn show_state(state: &PresenceState, room: &str, output: &Output) -> Result {
    if output.json {
        return output.object(&json!({
            "room": room,
            "count": state.count,
            "truncated": state.truncated,
            "members": frame_json::members(&state.members),
        }));
    }
    if state.truncated {
        return output.line(format!(
            "{} are in {room}: too many to be listed (brain.full_limit)",
            counted(state.count as usize, "user")
        ));
    }
    let now = now_secs();
    let ago = |at_ms: Option<u64>| {
        at_ms.map_or_else(String::new, |at| {
            format!("{} ago", words(now.saturating_sub(at / 1_000)))
        })
    };
    let rows = state.members.iter().map(|member| {
        let sessions = &member.sessions;
        vec![
            printable(member.user.as_bytes()),
            frame_json::session_count(member).to_string(),
            meta_of(member),
            ago(sessions.iter().map(|session| session.joined_at_ms).min()),
            ago(sessions
                .iter()
                .map(|session| session.last_active_at_ms)
                .max()),
        ]
    });
    output.table(
        &["user", "sessions", "meta", "joined", "last active"],
        rows.collect(),
        &format!("nobody is in {room}"),
    )
}

/// What a member's sessions say of themselves, the newest session's word last and so in force.
fn meta_of(member: &PresenceMember) -> String {
    let mut sessions: Vec<_> = member.sessions.iter().collect();
    sessions.sort_by_key(|session| session.joined_at_ms);
    let all: BTreeMap<_, _> = sessions.iter().flat_map(|session| &session.meta).collect();
    let pairs: Vec<String> = all
        .iter()
        .map(|(key, value)| {
            format!(
                "{}={}",
                printable(key.as_bytes()),
                printable(value.as_bytes())
            )
        })
        .collect();
    pairs.join(" ")
}
