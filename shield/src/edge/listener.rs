//! The public listener: accepts, and gives each connection its place.
//!
//! A connection that has said nothing is one of the silent. They take no place;
//! of too many the one that has been silent longest gives way, so that a flood
//! of them costs the others nothing. Handshakes begin at `listen.accept_rate` and `listen.max_handshakes` are
//! under way at once; more wait in turn, since clients that come back all at
//! once are to be served, not sent away. Past that the answer is `503` with a
//! `Retry-After` that says how long the line is and spreads them; telling it
//! costs a handshake of TLS, so past a rate connections are closed without a
//! word. Nothing that accept() can fail with ends the listener.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arqon_spine::manifest::Listen;
use arqon_telemetry::labels::ConnectionRefusal;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Edge, connection};
use crate::pace::Pace;

/// Connections that wait in turn for each place of a handshake. With the
/// default of 512 places a storm of over 4,000 finds room; one takes about a kilobyte.
const WAITING_PER_PLACE: usize = 8;
/// Connections that may be silent at once, for each place. An honest client
/// speaks a round trip after it is accepted, so under a flood it needs to be
/// among the newest only: with the default 4,096 may come within its round trip.
const SILENT_PER_PLACE: usize = 8;
/// Refusals being said at once, and in a burst. Past that connections are closed without a word.
const MAX_REFUSING: u32 = 256;
/// A refusal is said to one of so many that `listen.accept_rate` would serve:
/// it costs as much as the first half of a handshake.
const REFUSALS_PER_TURN: u32 = 4;
/// Out of file descriptors, accept() fails at once again: wait for some to come free.
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LAST_BACKOFF: Duration = Duration::from_secs(1);

/// Open connections, at the most, of which none is a session: what a limit of
/// files must leave room for.
pub fn most_waiting(listen: &Listen) -> usize {
    let for_each_place = 1 + WAITING_PER_PLACE + SILENT_PER_PLACE;
    let places = listen.max_handshakes.saturating_mul(for_each_place);
    places.saturating_add(MAX_REFUSING as usize)
}

/// The places of all handshakes.
pub(super) struct Places {
    /// Fair: the first who waits is the first served.
    pub(super) running: Semaphore,
    /// When the next may begin.
    pub(super) pace: Pace,
    /// Connections that spoke, running or waiting.
    present: AtomicUsize,
    refusing: AtomicUsize,
    most_present: usize,
    /// When the next refusal may be said.
    refusals: Pace,
    silent: Mutex<Silent>,
}

/// Connections that have said nothing yet, by when they came.
struct Silent {
    next: u64,
    /// Dropped, the sender ends its connection.
    by_age: BTreeMap<u64, oneshot::Sender<()>>,
    most: usize,
}

/// One of the silent, until it speaks or is dropped.
pub(super) struct Silence {
    places: Arc<Places>,
    number: u64,
    over: oneshot::Receiver<()>,
}

/// Counts one connection while it lives.
pub(super) struct Presence {
    places: Arc<Places>,
    count: fn(&Places) -> &AtomicUsize,
}

/// Binds a listening socket. The kernel queues connections from here on.
///
/// # Errors
/// The address is taken or not ours.
pub fn bind(
    address: SocketAddr,
    backlog: u32,
    send_buffer_bytes: Option<usize>,
) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if let Some(bytes) = send_buffer_bytes {
        // Inherited by accepted sockets. Left alone the kernel would hold
        // megabytes for each client that does not read.
        socket.set_send_buffer_size(bytes)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

/// Accepts until `stop`. Handshakes run in `tasks` and may outlive this.
pub async fn serve(
    listener: TcpListener,
    edge: Arc<Edge>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let places = Arc::new(Places::new(&edge.listen));
    let router = connection::router(&edge);
    let mut backoff = FIRST_BACKOFF;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff = FIRST_BACKOFF;
                edge.metrics.connections_accepted.inc();
                place(stream, peer, &edge, &router, &places, &tasks);
            }
            Err(error) if is_of_one_connection(&error) => refused(&edge, ConnectionRefusal::Accept),
            Err(error) => {
                refused(&edge, ConnectionRefusal::Accept);
                tracing::warn!(
                    %error, retry_ms = backoff.as_millis(),
                    "Cannot accept connections"
                );
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(backoff) => {}
                }
                backoff = LAST_BACKOFF.min(backoff * 2);
            }
        }
    }
}

fn place(
    stream: TcpStream,
    peer: SocketAddr,
    edge: &Arc<Edge>,
    router: &axum::Router,
    places: &Arc<Places>,
    tasks: &TaskTracker,
) {
    let since = Instant::now();
    // Fails only on a connection that is gone, which the first read will tell.
    let _ = SockRef::from(&stream).set_tcp_nodelay(true);
    let edge = Arc::clone(edge);
    let (router, places) = (router.clone(), Arc::clone(places));
    // Counted here, not in the task: the next accept may come before it runs.
    let silence = Silence::begin(&places);
    tasks.spawn(async move {
        connection::handshake(stream, peer, since, &edge, router, silence, &places).await;
    });
}

/// Tells a client to come back when the line is shorter, unless too many are being told so.
pub(super) async fn turn_away(
    stream: TcpStream,
    reason: ConnectionRefusal,
    line: Duration,
    edge: &Edge,
    places: &Arc<Places>,
) {
    let told = Presence::below(MAX_REFUSING as usize, places, |places| &places.refusing)
        .filter(|_| places.may_refuse());
    match told {
        Some(_told) => {
            refused(edge, reason);
            connection::refuse(stream, line, edge).await;
        }
        None => refused(edge, ConnectionRefusal::Untold),
    }
}

pub(super) fn refused(edge: &Edge, reason: ConnectionRefusal) {
    edge.metrics
        .connections_refused
        .get_or_create(&reason)
        .inc();
}

/// The client gave up between its SYN and our accept; the next may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

// === impl Places ===

impl Places {
    fn new(listen: &Listen) -> Self {
        let max_handshakes = listen.max_handshakes;
        Self {
            pace: Pace::new(
                listen.accept_rate,
                listen.accept_burst,
                std::time::Instant::now(),
            ),
            running: Semaphore::new(max_handshakes.min(Semaphore::MAX_PERMITS)),
            present: AtomicUsize::new(0),
            refusing: AtomicUsize::new(0),
            most_present: max_handshakes.saturating_mul(1 + WAITING_PER_PLACE),
            refusals: Pace::new(
                listen.accept_rate / REFUSALS_PER_TURN,
                MAX_REFUSING,
                std::time::Instant::now(),
            ),
            silent: Mutex::new(Silent {
                next: 0,
                by_age: BTreeMap::new(),
                most: max_handshakes.saturating_mul(SILENT_PER_PLACE),
            }),
        }
    }

    /// A place for a connection that spoke; None if all are taken.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Presence> {
        Presence::below(self.most_present, self, |places| &places.present)
    }

    fn may_refuse(&self) -> bool {
        let now = std::time::Instant::now();
        self.refusals.take(now, Duration::ZERO).is_ok()
    }

    fn silent(&self) -> MutexGuard<'_, Silent> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Silence ===

impl Silence {
    /// One more; of too many the oldest ends.
    fn begin(places: &Arc<Places>) -> Self {
        let (end, over) = oneshot::channel();
        let mut silent = places.silent();
        let number = silent.next;
        silent.next += 1;
        silent.by_age.insert(number, end);
        if silent.by_age.len() > silent.most {
            silent.by_age.pop_first();
        }
        Self {
            places: Arc::clone(places),
            number,
            over,
        }
    }

    /// Ends when this one has to give way.
    pub(super) async fn over(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.over).await;
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.places.silent().by_age.remove(&self.number);
    }
}

// === impl Presence ===

impl Presence {
    fn below(
        most: usize,
        places: &Arc<Places>,
        count: fn(&Places) -> &AtomicUsize,
    ) -> Option<Self> {
        let counted = count(places).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            (now < most).then_some(now + 1)
        });
        counted.ok().map(|_| Self {
            places: Arc::clone(places),
            count,
        })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        (self.count)(&self.places).fetch_sub(1, Ordering::Relaxed);
    }
}
