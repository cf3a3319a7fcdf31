//! What a session hears of a room's presence, all of it, from JOIN to the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use arqon_proto::codes::ErrorCode;
use arqon_proto::v1::{
    Envelope, Join, PresenceMember, PresenceMode, PresenceState, envelope::Body,
};
use prost::Message as _;
use tokio::task::JoinHandle;

use crate::client::Client;

/// A session that only listens.
#[derive(Debug)]
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// What it has heard, and what it knows by that.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Who is there, by user.
    pub members: BTreeMap<String, PresenceMember>,
    /// How many are there, as told last.
    pub count: u32,
    /// Whether only the count is told.
    pub truncated: bool,
    /// Whole states heard.
    pub states: usize,
    /// Every user that was told to have left, in order.
    pub left: Vec<String>,
    /// How many PRESENCE_LEAVE frames told so.
    pub leave_frames: usize,
    /// How often presence was said to be unavailable.
    pub unavailable: usize,
    /// Presence frames.
    pub frames: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Payloads of messages.
    pub messages: Vec<String>,
    /// Whether the session has ended.
    pub ended: bool,
    pages: Vec<PresenceMember>,
}

/// JOIN with a presence mode and a meta.
pub fn seen_as(mode: PresenceMode, meta: &[(&str, &str)]) -> Join {
    Join {
        presence: mode.into(),
        meta: meta
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..Join::default()
    }
}

// === impl Watcher ===

impl Watcher {
    /// Joins a room and listens from then on.
    ///
    /// # Panics
    /// If JOIN is refused.
    pub async fn join(client: Client, room: &str, mode: PresenceMode) -> Self {
        Self::join_with(client, room, seen_as(mode, &[])).await
    }

    /// As [`Watcher::join`], with all options.
    pub async fn join_with(mut client: Client, room: &str, options: Join) -> Self {
        client
            .join_with(room, options)
            .await
            .unwrap_or_else(|refusal| panic!("JOIN {room} was refused: {refusal:?}"));
        Self::over(client)
    }

    /// Listens with a session that has joined.
    pub fn over(mut client: Client) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let known = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok(Some(frame)) = client.recv().await {
                known.lock().expect("no story panics here").take(&frame);
            }
            known.lock().expect("no story panics here").ended = true;
        });
        Self { seen, task }
    }

    /// What it knows now.
    pub fn now(&self) -> Seen {
        self.lock().clone()
    }

    /// A look at what it knows, without a copy.
    pub fn knows<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no story panics here")
    }

    /// Whether these and no others are there, each with one session.
    pub fn sees(&self, users: &[&str]) -> bool {
        let now = self.lock();
        now.states > 0
            && now.count as usize == users.len()
            && now.members.keys().map(String::as_str).eq({
                let mut users = users.to_vec();
                users.sort_unstable();
                users
            })
    }
}

impl Drop for Watcher {
    /// Ends the session as a crash would.
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Seen ===

impl Seen {
    pub(crate) fn take(&mut self, frame: &Envelope) {
        let before = self.frames;
        match &frame.body {
            Some(Body::PresenceState(page)) => self.take_page(page),
            Some(Body::PresenceUpdate(update)) => {
                for member in &update.members {
                    self.members.insert(member.user.clone(), member.clone());
                }
                self.count = update.count;
                self.frames += 1;
            }
            Some(Body::PresenceLeave(leave)) => {
                for user in &leave.users {
                    self.members.remove(user);
                    self.left.push(user.clone());
                }
                self.count = leave.count;
                self.leave_frames += 1;
                self.frames += 1;
            }
            Some(Body::PresenceCount(told)) => {
                self.count = told.count;
                self.frames += 1;
            }
            Some(Body::Error(error)) if error.name == ErrorCode::PresenceUnavailable.name() => {
                self.unavailable += 1;
            }
            Some(Body::Message(_)) => {
                let text = String::from_utf8_lossy(&frame.payload).into_owned();
                self.messages.push(text);
            }
            _ => {}
        }
        if self.frames > before {
            self.bytes += frame.encoded_len();
        }
    }

    fn take_page(&mut self, page: &PresenceState) {
        self.frames += 1;
        self.pages.extend(page.members.iter().cloned());
        if page.last_page {
            let members = std::mem::take(&mut self.pages).into_iter();
            self.members = members.map(|it| (it.user.clone(), it)).collect();
            self.count = page.count;
            self.truncated = page.truncated;
            self.states += 1;
        }
    }
}
