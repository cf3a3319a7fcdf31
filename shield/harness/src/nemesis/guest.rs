//! A client that comes back, as an SDK does, and notes all it says and hears.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arqon_client::{Client, ClientError, ConnectParams, Receiver, Sender};
use arqon_proto::codes::ErrorCode;
use arqon_proto::envelope;
use arqon_proto::v1::{Envelope, GapReason, PresenceMode, Welcome, envelope::Body};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep, timeout};

use super::ROOMS;
use super::history::{Event, History, Life, Message, Reason};
use crate::chance::Chance;
use crate::presence::{Seen, seen_as};
use crate::spine::TestTenant;

/// Opening a session, and writing a frame, may take so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// A server that says nothing for so long, though it is asked, is given up.
const SILENCE: Duration = Duration::from_secs(7);
/// It is asked by PING after so long.
const ASK_AFTER: Duration = Duration::from_secs(2);
/// Pauses between attempts: by chance, up to twice the last one's bound.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// See `FIRST_PAUSE`.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Of tokens: they are refreshed while the session lives.
const TOKEN_LIFE_SECS: i64 = 40;
/// Pause between two messages, half of it chance.
const PACE: Duration = Duration::from_millis(60);

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Come and go, and talk.
    Busy,
    /// Stay, in all rooms, and talk when asked to.
    Quiet,
    /// End.
    Over,
}

/// What a client is asked to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    /// Publish to each room, acknowledged.
    Speak,
    /// Ask who is in each room.
    Presence,
}

/// Who it is, and where it goes.
#[derive(Clone, Debug)]
pub(super) struct GuestParams {
    pub(super) tenant: u8,
    pub(super) client: u8,
    pub(super) user: String,
    pub(super) account: TestTenant,
    /// The proxies in front of all Shields.
    pub(super) doors: Vec<SocketAddr>,
    pub(super) rooms: BTreeSet<u8>,
}

/// What a client knows now.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Its session, while it has one.
    pub(super) session: Option<(Life, String)>,
    /// Rooms it is in.
    pub(super) joined: BTreeSet<u8>,
    /// The last number sent to each room.
    pub(super) sent: BTreeMap<u8, u32>,
    /// Those that were acknowledged last.
    pub(super) acked: BTreeMap<u8, u32>,
    /// The last number heard.
    pub(super) heard: HashMap<(Life, u8), u32>,
    /// Who is in each room, as it was told.
    pub(super) seen: BTreeMap<u8, Seen>,
    /// The last answer about each room; None while it is awaited.
    pub(super) answers: BTreeMap<u8, Option<Answer>>,
}

/// An answer about a room: sessions by user, or the code that refused.
pub(super) type Answer = Result<BTreeMap<String, BTreeSet<String>>, String>;

/// A running client.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) params: GuestParams,
    known: Arc<Mutex<Known>>,
    asks: mpsc::UnboundedSender<Ask>,
    pub(super) task: tokio::task::JoinHandle<()>,
}

/// What a request was about.
enum Pending {
    Join(u8),
    Leave(u8),
    Publish(u8, u32),
    Presence(u8),
}

struct Actor {
    params: GuestParams,
    history: History,
    known: Arc<Mutex<Known>>,
    chance: Chance,
    phase: watch::Receiver<Phase>,
    asks: mpsc::UnboundedReceiver<Ask>,
    lives: u32,
}

/// A session and what it waits for.
struct Session<'a> {
    actor: &'a mut Actor,
    life: Life,
    id: String,
    sender: Sender,
    pending: HashMap<u64, Pending>,
    next_ref: u64,
    heard_at: Instant,
    pages: BTreeMap<u8, BTreeMap<String, BTreeSet<String>>>,
}

// === impl Guest ===

impl Guest {
    pub(super) fn spawn(
        params: GuestParams,
        history: &History,
        chance: Chance,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let known = Arc::<Mutex<Known>>::default();
        let (asks, receiver) = mpsc::unbounded_channel();
        let actor = Actor {
            params: params.clone(),
            history: history.clone(),
            known: known.clone(),
            chance,
            phase,
            asks: receiver,
            lives: 0,
        };
        Self {
            params,
            known,
            asks,
            task: tokio::spawn(actor.run()),
        }
    }

    pub(super) fn ask(&self, ask: Ask) {
        // It ends with the run only.
        let _ = self.asks.send(ask);
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has a session and is in all its rooms.
    pub(super) fn is_settled(&self) -> bool {
        let known = self.known();
        known.session.is_some() && known.joined == self.params.rooms
    }
}

// === impl Actor ===

impl Actor {
    async fn run(mut self) {
        let mut longest = FIRST_PAUSE;
        loop {
            if *self.phase.borrow() == Phase::Over {
                return;
            }
            match self.open().await {
                Ok((client, welcome)) => {
                    longest = FIRST_PAUSE;
                    self.live(client, welcome).await;
                }
                Err(_) => longest = (longest * 2).min(LONGEST_PAUSE),
            }
            sleep(self.chance.between(Duration::ZERO, longest)).await;
        }
    }

    async fn open(&mut self) -> Result<(Client, Welcome), ClientError> {
        let door = self.params.doors[self.chance.below(self.params.doors.len())];
        let params = ConnectParams {
            timeout: PATIENCE,
            ..ConnectParams::new(format!("ws://{door}"), self.token())
        };
        let opened = async {
            let mut client = Client::connect(params).await?;
            let welcome = client.welcome().await?;
            Ok((client, welcome))
        };
        match timeout(PATIENCE, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(ClientError::Timeout(PATIENCE)),
        }
    }

    fn token(&self) -> String {
        let token = self.params.account.token().user(&self.params.user);
        token.ttl(TOKEN_LIFE_SECS).sign()
    }

    async fn live(&mut self, client: Client, welcome: Welcome) {
        self.lives += 1;
        let life = Life {
            tenant: self.params.tenant,
            client: self.params.client,
            number: self.lives,
        };
        let id = welcome.session_id;
        self.history.note(life, Event::Opened);
        self.know(|known| {
            *known = Known {
                session: Some((life, id.clone())),
                ..Known::default()
            };
        });
        let (sender, receiver) = client.split();
        let session = Session {
            actor: self,
            life,
            id,
            sender,
            pending: HashMap::new(),
            next_ref: 0,
            heard_at: Instant::now(),
            pages: BTreeMap::new(),
        };
        let why = session.run(receiver).await;
        self.history.note(life, Event::Closed(why));
        self.know(|known| *known = Known::default());
    }

    fn know<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Session ===

impl Session<'_> {
    /// Lives until it ends, and says why it did.
    async fn run(mut self, mut receiver: Receiver) -> String {
        match self.serve(&mut receiver).await {
            Ok(()) => "by the client".to_owned(),
            Err(why) => why,
        }
    }

    async fn serve(&mut self, receiver: &mut Receiver) -> Result<(), String> {
        let mut moments = interval(Duration::from_millis(500));
        let mut phase = self.actor.phase.clone();
        let mut next_word = Instant::now() + PACE;
        loop {
            let now = *phase.borrow_and_update();
            if now == Phase::Over {
                return Ok(());
            }
            tokio::select! {
                frame = receiver.recv() => match frame {
                    Ok(Some(frame)) => self.take(&frame).await?,
                    Ok(None) => return Err("closed in good order".to_owned()),
                    Err(error) => return Err(error.to_string()),
                },
                () = tokio::time::sleep_until(next_word), if now == Phase::Busy => {
                    next_word = Instant::now() + PACE / 2 + PACE.mul_f64(self.actor.chance.share());
                    self.talk().await?;
                }
                Some(ask) = self.actor.asks.recv() => self.obey(ask).await?,
                _ = phase.changed() => {}
                _ = moments.tick() => {
                    if self.moment(now).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// What is to be done now and then; whether to end.
    async fn moment(&mut self, phase: Phase) -> Result<bool, String> {
        let silent = self.heard_at.elapsed();
        if silent > SILENCE {
            return Err("nothing was heard".to_owned());
        }
        if silent > ASK_AFTER {
            let ping = envelope::ping(0, Bytes::from_static(b"there?"));
            self.send(ping, None).await?;
        }
        if phase == Phase::Busy {
            // Some thirty seconds each; in good order and not.
            if self.actor.chance.once_in(60) {
                if self.actor.chance.once_in(2) {
                    let _ = timeout(PATIENCE, self.sender.close()).await;
                }
                return Ok(true);
            }
            if self.actor.chance.once_in(25) {
                self.leave_one().await?;
                return Ok(false);
            }
        }
        self.join_missing().await?;
        Ok(false)
    }

    async fn leave_one(&mut self) -> Result<(), String> {
        let joined = self.joined();
        if let Some(room) = self.pick(&joined) {
            let leave = envelope::leave(ROOMS[usize::from(room)], 0);
            self.send(leave, Some(Pending::Leave(room))).await?;
        }
        Ok(())
    }

    async fn join_missing(&mut self) -> Result<(), String> {
        let joined = self.joined();
        for room in self.actor.params.rooms.clone() {
            let asked = |it: &Pending| matches!(it, Pending::Join(other) | Pending::Leave(other) if *other == room);
            if joined.contains(&room) || self.pending.values().any(asked) {
                continue;
            }
            let options = seen_as(PresenceMode::Full, &[]);
            let join = envelope::join(ROOMS[usize::from(room)], 0, options);
            self.send(join, Some(Pending::Join(room))).await?;
        }
        Ok(())
    }

    async fn talk(&mut self) -> Result<(), String> {
        let joined = self.joined();
        match self.pick(&joined) {
            Some(room) => {
                let ack = !self.actor.chance.once_in(3);
                self.publish(room, ack).await
            }
            None => Ok(()),
        }
    }

    async fn obey(&mut self, ask: Ask) -> Result<(), String> {
        for room in self.joined() {
            match ask {
                Ask::Speak => self.publish(room, true).await?,
                Ask::Presence => {
                    self.actor.know(|known| known.answers.insert(room, None));
                    let get = envelope::presence_get(ROOMS[usize::from(room)], 0, false);
                    self.send(get, Some(Pending::Presence(room))).await?;
                }
            }
        }
        Ok(())
    }

    async fn publish(&mut self, room: u8, ack: bool) -> Result<(), String> {
        let seq = self.actor.know(|known| {
            let seq = known.sent.entry(room).or_default();
            *seq += 1;
            *seq
        });
        let message = Message {
            publisher: self.life,
            room,
            seq,
        };
        let payload = message.to_payload(&self.id).into();
        let frame = envelope::publish(ROOMS[usize::from(room)], 0, payload, ack);
        self.note(Event::Sent { room, seq, ack });
        self.send(frame, Some(Pending::Publish(room, seq))).await
    }

    async fn send(&mut self, mut frame: Envelope, pending: Option<Pending>) -> Result<(), String> {
        self.next_ref += 1;
        frame.r#ref = self.next_ref;
        if let Some(pending) = pending {
            self.pending.insert(self.next_ref, pending);
        }
        match timeout(PATIENCE, self.sender.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("nothing can be sent".to_owned()),
        }
    }

    async fn take(&mut self, frame: &Envelope) -> Result<(), String> {
        self.heard_at = Instant::now();
        let room = ROOMS.iter().position(|room| *room == frame.room);
        let room = room.map(|room| room as u8);
        let is_presence = matches!(
            frame.body,
            Some(Body::PresenceState(_) | Body::PresenceUpdate(_) | Body::PresenceLeave(_))
        );
        if let (Some(room), true) = (room, is_presence) {
            self.actor
                .know(|known| known.seen.entry(room).or_default().take(frame));
        }
        match (&frame.body, room) {
            (Some(Body::Message(message)), Some(room)) => {
                let sender = message.sender.clone().unwrap_or_default();
                self.hear(room, &frame.payload, &sender.user, &sender.session);
            }
            (Some(Body::Message(_)), None) => {
                self.note(Event::Strange(u8::MAX, frame.room.clone()));
            }
            (Some(Body::Gap(gap)), Some(room)) => {
                let reason = match gap.reason() {
                    GapReason::Sequence => Reason::Sequence,
                    GapReason::SpineReconnected => Reason::Reconnected,
                    _ => Reason::Other,
                };
                self.note(Event::Gap(room, reason, gap.missed));
            }
            (Some(Body::Joined(_)), Some(room)) => {
                self.pending.remove(&frame.r#ref);
                self.actor.know(|known| {
                    known.joined.insert(room);
                    known.seen.insert(room, Seen::default());
                });
                self.note(Event::Joined(room));
            }
            (Some(Body::Left(_)), Some(room)) => {
                self.pending.remove(&frame.r#ref);
                self.actor.know(|known| known.joined.remove(&room));
                self.note(Event::Left(room));
            }
            (Some(Body::Ack(_)), _) => {
                if let Some(Pending::Publish(room, seq)) = self.pending.remove(&frame.r#ref) {
                    self.actor.know(|known| known.acked.insert(room, seq));
                    self.note(Event::Acked(room, seq));
                }
            }
            (Some(Body::Error(error)), _) => self.refused(frame.r#ref, &error.name),
            (Some(Body::PresenceState(page)), Some(room)) if frame.r#ref != 0 => {
                let so_far = self.pages.entry(room).or_default();
                for member in &page.members {
                    let sessions = member.sessions.iter().map(|it| it.session.clone());
                    so_far.insert(member.user.clone(), sessions.collect());
                }
                if page.last_page {
                    let answer = self.pages.remove(&room).unwrap_or_default();
                    if let Some(Pending::Presence(_)) = self.pending.remove(&frame.r#ref) {
                        let answer = Some(Ok(answer));
                        self.actor.know(|known| known.answers.insert(room, answer));
                    }
                }
            }
            (Some(Body::TokenExpiring(_)), _) => {
                let refresh = envelope::refresh(0, &self.actor.token());
                self.send(refresh, None).await?;
            }
            // What a drain asks for: connect elsewhere, at once.
            (Some(Body::Goaway(_)), _) if self.actor.chance.once_in(2) => {
                return Err("asked to go away".to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    fn hear(&mut self, room: u8, payload: &[u8], user: &str, session: &str) {
        let text = String::from_utf8_lossy(payload);
        let Some((message, says)) = Message::parse(&text) else {
            self.note(Event::Strange(room, text.into_owned()));
            return;
        };
        let forged = session != says || user != user_of(message.publisher.client);
        self.actor
            .know(|known| known.heard.insert((message.publisher, room), message.seq));
        self.note(Event::Heard {
            room,
            message,
            forged,
        });
    }

    fn refused(&mut self, reference: u64, code: &str) {
        match self.pending.remove(&reference) {
            Some(Pending::Publish(room, seq)) => {
                let event = match code == ErrorCode::AckUnknown.name() {
                    true => Event::Unknown(room, seq),
                    false => Event::Refused(room, seq, code.to_owned()),
                };
                self.note(event);
            }
            Some(Pending::Presence(room)) => {
                let answer = Some(Err(code.to_owned()));
                self.actor.know(|known| known.answers.insert(room, answer));
            }
            // Tried again in a moment.
            Some(Pending::Join(_) | Pending::Leave(_)) | None => {}
        }
    }

    fn joined(&self) -> Vec<u8> {
        self.actor
            .know(|known| known.joined.iter().copied().collect())
    }

    fn pick(&mut self, rooms: &[u8]) -> Option<u8> {
        let at = self.actor.chance.below(rooms.len());
        rooms.get(at).copied()
    }

    fn note(&self, event: Event) {
        self.actor.history.note(self.life, event);
    }
}

/// The user of a client: the last two are one.
pub(super) fn user_of(client: u8) -> String {
    format!("user-{}", client.min(super::CLIENTS - 2))
}
