//! Shows what comes, and what did not, over one connection after the other.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use arqon_proto::names::{RoomId, UserId};
use arqon_proto::v1::{PresenceEvents, PresenceRoomEvent};
use arqon_spine::connect::SpineEvent;
use arqon_spine::nats;
use futures_util::StreamExt;
use prost::Message as _;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::Wanted;
use super::frame::{Frame, Kind};
use super::sequence::Sequences;
use super::show;
use super::spine::{self, Tap, Trouble};
use crate::context::Context;
use crate::duration::words;
use crate::failure::Result;
use crate::output::{Output, Paint, counted, escaped};

/// Between attempts to connect again: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// How often losses that were not told yet are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Rooms and users that the summary counts; beyond that it says `over`.
const COUNTED: usize = 100_000;

/// Shows what comes, over one connection after the other.
pub(super) struct Tail<'a> {
    wanted: &'a Wanted,
    context: &'a Context,
    count: Option<u64>,
    output: Output,
    started: Instant,
    sequences: Sequences,
    /// Messages that were shown.
    seen: u64,
    payload_bytes: u64,
    malformed: u64,
    /// Connections that were lost.
    breaks: u64,
    rooms: HashSet<RoomId>,
    users: HashSet<String>,
}

/// Why a connection is no longer followed.
enum Ended {
    /// All that was asked for was seen.
    Enough,
    /// It is over.
    Lost,
}

// === impl Tail ===

impl<'a> Tail<'a> {
    pub(super) fn new(
        wanted: &'a Wanted,
        context: &'a Context,
        count: Option<u64>,
        output: Output,
    ) -> Self {
        Self {
            wanted,
            context,
            count,
            output,
            started: Instant::now(),
            sequences: Sequences::default(),
            seen: 0,
            payload_bytes: 0,
            malformed: 0,
            breaks: 0,
            rooms: HashSet::new(),
            users: HashSet::new(),
        }
    }

    /// Returns when enough was seen. What goes wrong at the start is a failure, later it is told
    /// and waited out.
    pub(super) async fn run(&mut self) -> Result {
        let mut tap = match Box::pin(spine::open(self.context, self.wanted)).await {
            Ok(tap) => tap,
            Err(Trouble::Lasting(failure) | Trouble::Passing(failure)) => return Err(failure),
        };
        loop {
            self.listening()?;
            let ended = self.follow(&mut tap).await;
            // Whether it still can end in good order is of no interest.
            tap.connection.abort().await;
            match ended? {
                Ended::Enough => return Ok(()),
                Ended::Lost => {}
            }
            self.breaks += 1;
            self.gap(
                "the connection to NATS was lost; messages are missed until it is there again",
                json!({"reason": "lost_connection", "room": null, "missed": null}),
            )?;
            tap = self.again().await?;
        }
    }

    /// Says that from here on everything is seen.
    fn listening(&self) -> Result {
        let wanted = self.wanted;
        if self.output.json {
            self.output.object_line(&json!({
                "kind": "listening",
                "tenant": wanted.tenant.as_str(),
                "rooms": wanted.rooms.as_str(),
                "user": wanted.user.as_ref().map(UserId::as_str),
            }))?;
            return Ok(());
        }
        let whose = wanted.user.as_ref().map_or_else(String::new, |user| {
            format!(", what {} publishes", escaped(user.as_str()))
        });
        let text = format!(
            "listening to {} of {}{whose}; Ctrl-C ends",
            wanted.rooms, wanted.tenant
        );
        self.output
            .note(self.output.paint_stderr(Paint::Dim, &text));
        Ok(())
    }

    /// Shows what one connection brings.
    async fn follow(&mut self, tap: &mut Tap) -> Result<Ended> {
        let mut look = tokio::time::interval(LOOK);
        let mut told_all = false;
        loop {
            tokio::select! {
                message = tap.messages.next() => match message {
                    Some(message) => {
                        self.message(message)?;
                        if self.count.is_some_and(|count| self.seen >= count) {
                            return Ok(Ended::Enough);
                        }
                    }
                    None => return Ok(Ended::Lost),
                },
                Some(event) = next(&mut tap.presence) => self.presence(&event.payload)?,
                event = tap.connection.events.recv(), if !told_all => match event {
                    Some(event) => self.event(&event)?,
                    // What the client had read before may still be in the streams.
                    None => told_all = true,
                },
                _ = look.tick() => {}
            }
            self.tell_missed()?;
        }
    }

    fn message(&mut self, message: nats::Message) -> Result {
        let received = OffsetDateTime::now_utc();
        let Some(frame) = Frame::read(message, &self.wanted.tenant, received) else {
            return Ok(());
        };
        match (&frame.kind, frame.origin) {
            (Kind::Beacon(last), _) => self.sequences.beacon(&frame.room, *last),
            (_, Some(origin)) => self.sequences.message(&frame.room, origin),
            (_, None) => {}
        }
        match &frame.kind {
            Kind::Beacon(_) => return Ok(()),
            Kind::Message(message) => {
                if self
                    .wanted
                    .user
                    .as_ref()
                    .is_some_and(|user| user.as_str() != message.user)
                {
                    return Ok(());
                }
                self.seen += 1;
                self.payload_bytes += message.payload.len() as u64;
                if self.users.len() < COUNTED {
                    self.users.insert(message.user.clone());
                }
                if self.rooms.len() < COUNTED {
                    self.rooms.insert(frame.room.clone());
                }
            }
            // Nobody knows whose it is.
            Kind::Malformed(..) => self.malformed += 1,
        }
        let shape = self.wanted.shape;
        if self.output.json {
            show::json(&frame, shape).map_or(Ok(()), |object| self.output.object_line(&object))
        } else {
            show::text(&frame, shape, &self.output).map_or(Ok(()), |text| self.output.line(text))
        }
    }

    fn presence(&self, bytes: &[u8]) -> Result {
        let Ok(events) = PresenceEvents::decode(bytes) else {
            self.output.warn("a message about presence cannot be read");
            return Ok(());
        };
        let at = OffsetDateTime::now_utc();
        for event in events.rooms.iter().filter(|event| self.concerns(event)) {
            if self.output.json {
                self.output.object_line(&show::presence_json(event, at))?;
            } else {
                self.output
                    .line(show::presence_text(event, at, &self.output))?;
            }
        }
        Ok(())
    }

    /// Whether a change is in one of the rooms, and of the user.
    fn concerns(&self, event: &PresenceRoomEvent) -> bool {
        let room = RoomId::parse(&event.room);
        let of = |user: &UserId| {
            let mut here = event.members.iter().map(|member| &member.user);
            here.any(|name| name == user.as_str())
                || event.left.iter().any(|name| name == user.as_str())
        };
        room.is_ok_and(|room| self.wanted.rooms.matches(&room))
            && self.wanted.user.as_ref().is_none_or(of)
    }

    fn event(&self, event: &SpineEvent) -> Result {
        match event {
            SpineEvent::SlowConsumer { dropped, .. } => self.gap(
                &format!("{dropped} messages were dropped, for they come faster than they are written here"),
                json!({"reason": "slow_consumer", "room": null, "missed": dropped}),
            ),
            SpineEvent::ServerError(text) => {
                self.output.warn(format!("NATS: {}", escaped(text)));
                Ok(())
            }
            SpineEvent::LameDuck | SpineEvent::Disconnected | SpineEvent::Closed => Ok(()),
        }
    }

    fn tell_missed(&mut self) -> Result {
        let Some(missed) = self.sequences.tell(Instant::now()) else {
            return Ok(());
        };
        let place = match &missed.room {
            Some(room) => format!("of {room}"),
            None => "of several rooms".to_owned(),
        };
        self.gap(
            &format!(
                "{} messages {place} did not come here, by their numbers",
                missed.count
            ),
            json!({
                "reason": "sequence",
                "room": missed.room.as_ref().map(RoomId::as_str),
                "missed": missed.count,
            }),
        )
    }

    /// A loss: a warning, and for programs an object among the others.
    fn gap(&self, text: &str, mut object: Value) -> Result {
        self.output.warn(text);
        if self.output.json {
            object["kind"] = json!("gap");
            self.output.object_line(&object)?;
        }
        Ok(())
    }

    /// Connects again, for as long as it takes, unless waiting cannot help.
    async fn again(&self) -> Result<Tap> {
        let (mut wait, longest) = RETRY;
        // SYS and CONTROL are tried at once, and either may be told of first.
        let mut said = HashSet::new();
        loop {
            tokio::time::sleep(wait).await;
            match Box::pin(spine::open(self.context, self.wanted)).await {
                Ok(tap) => return Ok(tap),
                Err(Trouble::Lasting(failure)) => return Err(failure),
                Err(Trouble::Passing(failure)) => {
                    if said.insert(failure.message.clone()) {
                        self.output
                            .warn(format!("{}; trying again", failure.message));
                    }
                }
            }
            wait = longest.min(wait * 2);
        }
    }

    /// How many messages were shown.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// What was seen, in all.
    pub(super) fn summary(&self) {
        let some = |count: usize, noun: &str| {
            let over = if count < COUNTED { "" } else { "over " };
            format!("{over}{}", counted(count, noun))
        };
        let mut text = format!(
            "{} of {} in {}, {}, in {}",
            counted(usize::try_from(self.seen).unwrap_or(usize::MAX), "message"),
            some(self.users.len(), "user"),
            some(self.rooms.len(), "room"),
            crate::size::words(self.payload_bytes),
            words(self.started.elapsed().as_secs()),
        );
        for (count, what) in [
            (self.malformed, "malformed"),
            (self.sequences.total(), "missed"),
        ] {
            if count > 0 {
                text.push_str(&format!("; {count} {what}"));
            }
        }
        if self.breaks > 0 {
            let breaks = counted(usize::try_from(self.breaks).unwrap_or(usize::MAX), "break");
            text.push_str(&format!("; {breaks} of the connection"));
        }
        self.output
            .note(self.output.paint_stderr(Paint::Dim, &text));
    }
}

/// The next message of a subscription, if there is one.
async fn next(subscriber: &mut Option<nats::Subscriber>) -> Option<nats::Message> {
    match subscriber {
        Some(subscriber) => subscriber.next().await,
        None => std::future::pending().await,
    }
}
