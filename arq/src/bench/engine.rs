//! The generator: one thread, one epoll, one big read buffer, thousands of connections.
//!
//! A connection costs a socket and a few words while it idles; what it received is parsed in
//! the shared buffer and only an incomplete tail is kept. Nothing here waits on anything but
//! the poll, so that a stamp says when a message left and not when a task was scheduled.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

use super::dialect::{Decoder, Peer, Signal, hello};

/// Large enough that a busy socket is emptied in one call.
const READ_BUFFER: usize = 512 * 1024;

/// Where connections go.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) peer: Peer,
    pub(super) addr: SocketAddr,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// How many loopback addresses 127.0.0.x connections leave from; a source address has
    /// some 28,000 ports.
    pub(super) sources: u8,
}

/// What happened to a connection.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// The server told something.
    Told(Signal<'a>),
    /// It is over, and why.
    Ended(String),
}

/// Nanoseconds since a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    /// Now.
    pub(super) fn now(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// All connections of a benchmark.
pub(super) struct Engine {
    poll: Poll,
    events: Events,
    endpoint: Endpoint,
    conns: Vec<Option<Conn>>,
    buffer: Vec<u8>,
    clock: Clock,
    turns: u64,
    dirty: Vec<usize>,
}

struct Conn {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    connected: bool,
    /// Reads nothing.
    stalled: bool,
    decoder: Decoder,
    /// The incomplete tail of what was read.
    tail: Vec<u8>,
    /// Not yet written.
    out: Vec<u8>,
    queued: bool,
}

// === impl Engine ===

impl Engine {
    pub(super) fn new(endpoint: Endpoint) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            endpoint,
            conns: Vec::new(),
            buffer: vec![0; READ_BUFFER],
            clock: Clock(Instant::now()),
            turns: 0,
            dirty: Vec::new(),
        })
    }

    pub(super) fn peer(&self) -> Peer {
        self.endpoint.peer
    }

    /// The clock of all stamps.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// Nanoseconds since the engine began.
    pub(super) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Begins a connection and returns its number.
    pub(super) fn open(&mut self, token: Option<&str>) -> io::Result<usize> {
        let id = self.conns.len();
        let source = 2 + (id % usize::from(self.endpoint.sources.max(1))) as u8;
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if self.endpoint.addr.ip().is_loopback() && self.endpoint.sources > 0 {
            socket.set_reuse_address(true)?;
            socket
                .bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, source)), 0).into())?;
        }
        match socket.connect(&self.endpoint.addr.into()) {
            Err(error)
                if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
            {
                return Err(error);
            }
            _ => {}
        }
        let mut socket = TcpStream::from_std(socket.into());
        self.poll.registry().register(
            &mut socket,
            Token(id),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let tls = match &self.endpoint.tls {
            Some(config) => {
                let name =
                    ServerName::try_from(self.endpoint.host.clone()).map_err(io::Error::other)?;
                Some(Box::new(
                    ClientConnection::new(config.clone(), name).map_err(io::Error::other)?,
                ))
            }
            None => None,
        };
        let endpoint = &self.endpoint;
        self.conns.push(Some(Conn {
            socket,
            tls,
            connected: false,
            stalled: false,
            decoder: Decoder::new(endpoint.peer, token),
            tail: Vec::new(),
            out: hello(endpoint.peer, &endpoint.host, &endpoint.path, token),
            queued: false,
        }));
        Ok(id)
    }

    /// Queues bytes for a connection, written by the next [`Engine::flush`].
    pub(super) fn send(&mut self, id: usize, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(conn) = self.conns.get_mut(id).and_then(Option::as_mut) {
            write(&mut conn.out);
            if !conn.queued {
                conn.queued = true;
                self.dirty.push(id);
            }
        }
    }

    /// Writes what was queued, as far as the sockets take it.
    pub(super) fn flush(&mut self, on: &mut impl FnMut(usize, Event<'_>)) {
        while let Some(id) = self.dirty.pop() {
            let Some(conn) = self.conns[id].as_mut() else {
                continue;
            };
            conn.queued = false;
            if let Err(error) = conn.write() {
                self.end(id, format!("write: {error}"), on);
            }
        }
    }

    /// Whether the server leaves so much unread that more makes no sense. Looked at now and then.
    pub(super) fn backlog_over(&mut self, limit: usize) -> bool {
        self.turns.is_multiple_of(1024)
            && self
                .conns
                .iter()
                .flatten()
                .map(|conn| conn.out.len())
                .sum::<usize>()
                > limit
    }

    /// Reads nothing more of a connection, as a client that hangs does.
    pub(super) fn stall(&mut self, id: usize) {
        if let Some(conn) = self.conns[id].as_mut() {
            conn.stalled = true;
        }
    }

    /// Reads it again, first what came meanwhile: of that no event tells a second time.
    pub(super) fn resume(&mut self, id: usize, on: &mut impl FnMut(usize, Event<'_>)) {
        let Some(conn) = self.conns[id].as_mut() else {
            return;
        };
        conn.stalled = false;
        let read = conn.read(&mut self.buffer, &mut |signal| on(id, Event::Told(signal)));
        if let Err(why) = read {
            self.end(id, why, on);
        }
    }

    /// Closes a connection without ceremony, as a client that goes away does.
    pub(super) fn close(&mut self, id: usize) {
        self.conns[id] = None;
    }

    /// Waits up to `timeout` for something to happen and handles all that did.
    pub(super) fn turn(
        &mut self,
        timeout: Duration,
        on: &mut impl FnMut(usize, Event<'_>),
    ) -> io::Result<()> {
        self.turns += 1;
        self.flush(on);
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            let id = event.token().0;
            let Some(conn) = self.conns[id].as_mut() else {
                continue;
            };
            if let Err(why) = conn.handle(event, &mut self.buffer, &mut |signal| {
                on(id, Event::Told(signal))
            }) {
                self.end(id, why, on);
            }
        }
        self.events = events;
        Ok(())
    }

    fn end(&mut self, id: usize, why: String, on: &mut impl FnMut(usize, Event<'_>)) {
        self.conns[id] = None;
        on(id, Event::Ended(why));
    }
}

// === impl Conn ===

impl Conn {
    fn handle(
        &mut self,
        event: &mio::event::Event,
        buffer: &mut [u8],
        on: &mut impl FnMut(Signal<'_>),
    ) -> Result<(), String> {
        if !self.connected {
            if let Ok(Some(error)) | Err(error) = self.socket.take_error() {
                return Err(format!("connect: {error}"));
            }
            match self.socket.peer_addr() {
                Ok(_) => self.connected = true,
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(format!("connect: {error}")),
            }
        }
        if event.is_readable() && !self.stalled {
            self.read(buffer, on)?;
        }
        if !self.out.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write()) {
            self.write().map_err(|error| format!("write: {error}"))?;
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8], on: &mut impl FnMut(Signal<'_>)) -> Result<(), String> {
        loop {
            let kept = self.tail.len();
            buffer[..kept].copy_from_slice(&self.tail);
            let room = buffer.len() - kept;
            let read = match &mut self.tls {
                Some(tls) => {
                    rustls::Stream::new(tls.as_mut(), &mut self.socket).read(&mut buffer[kept..])
                }
                None => self.socket.read(&mut buffer[kept..]),
            };
            let read = match read {
                Ok(0) => return Err("the server hung up".into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("read: {error}")),
            };
            let filled = kept + read;
            let used = self.decoder.feed(&buffer[..filled], &mut self.out, on)?;
            if used == 0 && filled == buffer.len() {
                return Err("a frame is larger than the read buffer".into());
            }
            self.tail.clear();
            if used < filled {
                self.tail.extend_from_slice(&buffer[used..filled]);
            }
            // A short read empties the socket: the next byte raises a new edge.
            if self.tls.is_none() && read < room {
                return Ok(());
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        if !self.connected {
            return Ok(());
        }
        let written = match &mut self.tls {
            Some(tls) => {
                let mut stream = rustls::Stream::new(tls.as_mut(), &mut self.socket);
                if self.out.is_empty() {
                    stream.flush().map(|()| 0)
                } else {
                    stream.write(&self.out)
                }
            }
            None => self.socket.write(&self.out),
        };
        match written {
            Ok(n) if n == self.out.len() => self.out.clear(),
            Ok(n) => drop(self.out.drain(..n)),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        // Connections that only idle keep nothing.
        if self.out.is_empty() && self.out.capacity() > 4096 {
            self.out = Vec::new();
        }
        Ok(())
    }
}
