//! The real program with pipes, as Brain has it, and what stands on the other
//! side of the Spine.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use arqon_brain_link::etf::{Kind, ReadError, Reader, Writer};
use arqon_harness::{GLANCE, Spine, TestTenant, within};
use arqon_proto::names::{NodeId, SessionId};
use arqon_proto::v1;
use arqon_spine::connect::{Connection, TenantOptions, connect_tenant};
use arqon_spine::control::ControlStore;
use arqon_spine::credentials::mint_tenant_user;
use arqon_spine::state::Role;
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;

/// A term as a tree.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Term {
    Int(u64),
    Atom(String),
    Bin(Bytes),
    Tuple(Vec<Term>),
    List(Vec<Term>),
    Map(Vec<(Term, Term)>),
}

/// A link, and Brain's end of the pipe. Dropping it kills it.
pub(crate) struct Link {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    frames: Option<mpsc::UnboundedReceiver<Term>>,
    events: VecDeque<Term>,
    /// Frames that are no batches.
    pub(crate) others: Vec<Term>,
    pings: u64,
    log: PathBuf,
}

/// The manifest of a Brain of this Spine.
pub(crate) fn manifest(spine: &Spine, id: &str) -> PathBuf {
    let creds = |role| spine.state().creds(role, &node(id)).unwrap();
    let text = format!(
        "node.id = {id:?}\n\
         spine.servers = [{:?}]\n\
         spine.control_creds_file = {:?}\n\
         brain.creds_file = {:?}\n\
         log.format = \"json\"\n",
        spine.url(),
        creds(Role::ControlBrain),
        creds(Role::Brain)
    );
    let path = spine.folder().join(format!("{id}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

/// The program, to be started.
pub(crate) fn program(config: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arqon-brain-link"));
    command.arg(config);
    command
}

pub(crate) fn node(id: &str) -> NodeId {
    NodeId::parse(id).unwrap()
}

/// A Shield's connection in a tenant's account.
pub(crate) async fn fleet(spine: &Spine, tenant: &TestTenant, shield: &str) -> Connection {
    let key = spine.state().fleet_key(&node("default")).unwrap();
    let ttl = Duration::from_secs(600);
    let user = mint_tenant_user(&key, &tenant.account, &tenant.id, shield, ttl);
    connect_tenant(&[spine.url()], user, shield, TenantOptions::default())
        .await
        .unwrap()
}

/// A Shield's CONTROL.
pub(crate) async fn control(spine: &Spine, shield: &str) -> (Connection, ControlStore) {
    let creds = spine.state().creds(Role::Shield, &node(shield)).unwrap();
    let connection = spine.connect(&creds).await;
    let store = ControlStore::new(&connection);
    (connection, store)
}

pub(crate) async fn publish(connection: &Connection, subject: &str, message: &impl prost::Message) {
    let body = message.encode_to_vec().into();
    let client = &connection.client;
    client.publish(subject.to_owned(), body).await.unwrap();
    client.flush().await.unwrap();
}

pub(crate) async fn heard<M: prost::Message + Default>(
    subscriber: &mut arqon_spine::nats::Subscriber,
) -> (String, M) {
    use futures_util::StreamExt as _;
    let message = within("a message", subscriber.next()).await.unwrap();
    let body = M::decode(message.payload).unwrap();
    (message.subject.to_string(), body)
}

/// A session that came with change `seq`.
pub(crate) fn entry(room: &str, user: &str, session: SessionId, seq: u64) -> v1::PresenceEntry {
    v1::PresenceEntry {
        key: Some(v1::PresenceKey {
            room: room.to_owned(),
            user: user.to_owned(),
            session: Bytes::copy_from_slice(session.as_bytes()),
        }),
        seq,
        meta: Some(v1::PresenceMap {
            meta: [("name".to_owned(), user.to_owned())].into(),
        }),
        joined_at_ms: 1_779_999_999_123,
        last_active_at_ms: 1_779_999_999_123,
    }
}

pub(crate) fn change(seq: u64, entry: v1::PresenceEntry) -> v1::PresenceChanges {
    v1::PresenceChanges {
        shield: "shield-1".to_owned(),
        epoch: 7,
        first_seq: seq,
        changes: vec![v1::PresenceChange {
            change: Some(v1::presence_change::Change::Put(entry)),
        }],
        ..Default::default()
    }
}

/// One command as a term.
pub(crate) fn command(arity: u8, tag: &str, write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut term = Writer::part(0);
    term.tagged(arity, tag);
    write(&mut term);
    term.finish()
}

pub(crate) fn text(term: &mut Writer, text: &str) {
    term.binary(text.as_bytes());
}

// === impl Link ===

impl Link {
    /// A link that is connected to both accounts.
    pub(crate) async fn start(spine: &Spine, id: &str) -> Self {
        let mut link = Self::spawn(spine, id, program(&manifest(spine, id)));
        link.read();
        link.hello().await;
        link.connected().await;
        link
    }

    /// A link whose output nobody reads.
    pub(crate) fn spawn(spine: &Spine, id: &str, mut command: Command) -> Self {
        let log = spine.folder().join(format!("{id}.log"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            child,
            frames: None,
            events: VecDeque::new(),
            others: Vec::new(),
            pings: 1000,
            log,
        }
    }

    /// Begins to read its output.
    pub(crate) fn read(&mut self) {
        let mut stdout = self.stdout.take().unwrap();
        let (sender, receiver) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let mut len = [0; 4];
            while stdout.read_exact(&mut len).is_ok() {
                let len = u32::from_be_bytes(len);
                assert!(len < 2 * 1024 * 1024, "a frame of {len} bytes");
                let mut frame = vec![0; len as usize];
                stdout.read_exact(&mut frame).unwrap();
                let _ = sender.send(Term::decode(frame.into()));
            }
        });
        self.frames = Some(receiver);
    }

    /// Closes its output unread.
    pub(crate) fn drop_output(&mut self) {
        self.stdout = None;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Kilobytes in memory.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    pub(crate) fn frame(&mut self, frame: &[u8]) {
        let len = u32::try_from(frame.len()).unwrap();
        self.write(&[&len.to_be_bytes(), frame].concat());
    }

    /// Sends `{tag, n}`.
    pub(crate) fn number(&mut self, tag: &str, n: u64) {
        let mut term = Writer::term();
        term.tagged(2, tag);
        term.uint(n);
        self.frame(&term.finish());
    }

    /// Sends commands as one batch.
    pub(crate) fn send(&mut self, cost: u64, commands: &[Vec<u8>]) {
        let mut term = Writer::term();
        term.tagged(3, "batch");
        term.uint(cost);
        term.each(commands, |term, command| term.raw(command));
        self.frame(&term.finish());
    }

    pub(crate) fn serve(&mut self, serve: bool) {
        self.send(1, &[command(2, "serve", |term| term.bool(serve))]);
    }

    /// Brain ends.
    pub(crate) fn close(&mut self) {
        self.stdin = None;
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        within("the link to end", async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(GLANCE).await;
            }
        })
        .await
    }

    pub(crate) async fn hello(&mut self) -> Term {
        let frames = self.frames.as_mut().unwrap();
        let frame = within("the hello", frames.recv()).await.unwrap();
        assert!(frame.is("hello"), "{frame:?}");
        frame
    }

    pub(crate) async fn connected(&mut self) {
        let mut up = Vec::new();
        while up.len() < 2 {
            let event = self.event().await;
            assert!(event.is("spine") && event[2] == "up", "{event:?}");
            up.push(event);
        }
    }

    /// The next event; gives credit back as it comes.
    pub(crate) async fn event(&mut self) -> Term {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            self.frame_in().await;
        }
    }

    /// The next event with this tag; others are dropped.
    pub(crate) async fn next(&mut self, tag: &str) -> Term {
        loop {
            let event = self.event().await;
            if event.is(tag) {
                return event;
            }
        }
    }

    /// What has come by the answer to a ping.
    pub(crate) async fn come(&mut self) -> Vec<Term> {
        self.pings += 1;
        let n = self.pings;
        self.number("ping", n);
        while self.other("pong").await != n {}
        self.events.drain(..).collect()
    }

    /// The next `{tag, n}` frame.
    pub(crate) async fn other(&mut self, tag: &str) -> u64 {
        loop {
            if let Some(index) = self.others.iter().position(|frame| frame.is(tag)) {
                return self.others.remove(index)[1].int();
            }
            self.frame_in().await;
        }
    }

    async fn frame_in(&mut self) {
        let frames = self.frames.as_mut().unwrap();
        let frame = within("a frame", frames.recv())
            .await
            .expect("the link ended");
        if frame.is("batch") {
            self.number("credit", frame[1].int());
            self.events.extend(frame[2].list().iter().cloned());
        } else {
            self.others.push(frame);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

// === impl Term ===

impl Term {
    pub(crate) fn decode(bytes: Bytes) -> Self {
        let mut reader = Reader::new(bytes).unwrap();
        let term = Self::from(&mut reader).unwrap();
        reader.end().unwrap();
        term
    }

    fn from(reader: &mut Reader) -> Result<Self, ReadError> {
        Ok(match reader.kind()? {
            Kind::Integer => Self::Int(reader.uint()?),
            Kind::Atom => Self::Atom(reader.atom()?),
            Kind::Binary => Self::Bin(reader.binary()?),
            Kind::List => Self::List(reader.list(Self::from)?),
            Kind::Tuple => {
                let arity = reader.tuple()?;
                let items: Result<_, _> = (0..arity).map(|_| Self::from(reader)).collect();
                Self::Tuple(items?)
            }
            Kind::Map => {
                let len = reader.map()?;
                let pair = |_| Ok((Self::from(reader)?, Self::from(reader)?));
                Self::Map((0..len).map(pair).collect::<Result<_, ReadError>>()?)
            }
        })
    }

    /// Whether it is a tuple with this tag.
    pub(crate) fn is(&self, tag: &str) -> bool {
        matches!(self, Self::Tuple(items) if items[0] == *tag)
    }

    pub(crate) fn int(&self) -> u64 {
        match self {
            Self::Int(n) => *n,
            other => panic!("{other:?} is no number"),
        }
    }

    pub(crate) fn list(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            other => panic!("{other:?} is no list"),
        }
    }

    /// The list in a blob.
    pub(crate) fn blob(&self) -> Vec<Self> {
        match self {
            Self::Bin(bytes) => Self::decode(bytes.clone()).list().to_vec(),
            other => panic!("{other:?} is no blob"),
        }
    }

    pub(crate) fn get(&self, key: &str) -> &Self {
        match self {
            Self::Map(pairs) => {
                let pair = pairs.iter().find(|(found, _)| found == key);
                &pair.unwrap_or_else(|| panic!("no {key} in {self:?}")).1
            }
            other => panic!("{other:?} is no map"),
        }
    }
}

impl std::ops::Index<usize> for Term {
    type Output = Self;

    fn index(&self, index: usize) -> &Self {
        match self {
            Self::Tuple(items) => &items[index],
            other => panic!("{other:?} is no tuple"),
        }
    }
}

impl PartialEq<str> for Term {
    fn eq(&self, text: &str) -> bool {
        match self {
            Self::Atom(atom) => atom == text,
            Self::Bin(bytes) => bytes == text.as_bytes(),
            _ => false,
        }
    }
}

impl PartialEq<&str> for Term {
    fn eq(&self, text: &&str) -> bool {
        *self == **text
    }
}

impl PartialEq<u64> for Term {
    fn eq(&self, n: &u64) -> bool {
        matches!(self, Self::Int(found) if found == n)
    }
}
