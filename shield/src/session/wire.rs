//! The socket of one session: WebSocket frames in, queued frames out.
//!
//! tungstenite reads: it unmasks, joins fragments, refuses what is illegal and
//! answers pings. It never writes to the socket itself; what it has to say goes
//! into `Socket::control`, and `poll_write` puts that between two frames of the
//! queue, never into the middle of one. Everything that waits goes out in one
//! vectored write, and a flush follows only when nothing is left.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        error::ProtocolError,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{
    frame::Frame,
    outbox::{BATCH_FRAMES, Entry, Load},
};

/// Grows on demand; the default of 128 KiB would be paid by every idle session.
const READ_BUFFER: usize = 1024;
/// Answers to control frames that may wait before reading pauses: some thirty
/// of the largest. A client that pings and never reads costs no more.
const CONTROL_MAX: usize = 4 * 1024;

/// Normal words of RFC 6455 §7.4.1 for what ends a session on its own level.
pub(super) const CLOSE_PROTOCOL_ERROR: u16 = 1002;
pub(super) const CLOSE_NOT_UTF8: u16 = 1007;
pub(super) const CLOSE_TOO_BIG: u16 = 1009;

/// One session's socket.
#[derive(Debug)]
pub(super) struct Wire<S> {
    reader: WebSocketStream<Socket<S>>,
    /// Bytes written of the first frame of the batch.
    offset: usize,
    unflushed: bool,
    progressed: bool,
}

/// What a client did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inbound {
    /// A whole binary message.
    Binary(Bytes),
    /// A whole text message, which is UTF-8.
    Text(Bytes),
    /// A ping (answered already) or a pong.
    Control,
    /// It closes, with this code.
    Close(Option<u16>),
    /// It broke the framing: close with this code.
    Illegal(u16),
    /// The connection is gone.
    Lost,
}

/// The raw socket as tungstenite sees it.
#[derive(Debug)]
struct Socket<S> {
    io: S,
    /// What was read together with the handshake.
    read_ahead: Bytes,
    /// Whole control frames, to be written at the next end of a frame.
    control: Vec<u8>,
    /// Bytes of `control` that are written.
    control_offset: usize,
    /// A close frame was queued: nothing may follow it.
    muted: bool,
    /// Bytes read.
    heard: u64,
}

// === impl Wire ===

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Takes over a socket after its upgrade. Frames and messages over
    /// `max_frame` are refused before they are buffered.
    pub(super) fn new(io: S, read_ahead: Bytes, max_frame: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(max_frame))
            .max_frame_size(Some(max_frame));
        let socket = Socket {
            io,
            read_ahead,
            control: Vec::new(),
            control_offset: 0,
            muted: false,
            heard: 0,
        };
        Self {
            reader: new_reader(socket, config),
            offset: 0,
            unflushed: false,
            progressed: false,
        }
    }

    /// Whether so many answers to the client's control frames wait that none of
    /// its messages is read: nothing wakes for those then.
    pub(super) fn is_clogged(&self) -> bool {
        self.socket().control.len() > CONTROL_MAX
    }

    /// The next message of the client. Pauses while answers to its control
    /// frames cannot be written.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Inbound> {
        if self.is_clogged() {
            return Poll::Pending;
        }
        let Some(message) = ready!(Pin::new(&mut self.reader).poll_next(cx)) else {
            return Poll::Ready(Inbound::Lost);
        };
        Poll::Ready(match message {
            Ok(Message::Binary(bytes)) => Inbound::Binary(bytes),
            Ok(Message::Text(text)) => Inbound::Text(text.into()),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Inbound::Control,
            Ok(Message::Close(frame)) => Inbound::Close(frame.map(|frame| frame.code.into())),
            Err(tungstenite::Error::Capacity(_)) => Inbound::Illegal(CLOSE_TOO_BIG),
            Err(tungstenite::Error::Utf8(_)) => Inbound::Illegal(CLOSE_NOT_UTF8),
            Err(tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                Inbound::Lost
            }
            Err(tungstenite::Error::Protocol(_)) => Inbound::Illegal(CLOSE_PROTOCOL_ERROR),
            Err(_) => Inbound::Lost,
        })
    }

    /// Writes the batch and what control frames wait. Ready when all of it is
    /// out; `written` counts whole frames of the batch.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut VecDeque<Entry>,
        written: &mut Load,
    ) -> Poll<io::Result<()>> {
        let offset = &mut self.offset;
        let socket = self.reader.get_mut();
        while !batch.is_empty() || !socket.control.is_empty() {
            let n = ready!(socket.poll_write_some(cx, batch, *offset))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.progressed = true;
            socket.advance(n, batch, offset, written);
        }
        Poll::Ready(Ok(()))
    }

    /// Flushes, once nothing more waits.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.reader.get_mut().io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the socket took a byte since this was asked last.
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progressed)
    }

    /// Puts a ping behind what control frames wait.
    pub(super) fn push_ping(&mut self) {
        let control = &mut self.reader.get_mut().control;
        control.extend_from_slice(Frame::ping().as_bytes());
    }

    /// Puts the last frame behind what control frames wait.
    pub(super) fn push_close(&mut self, close: &Frame) {
        let socket = self.reader.get_mut();
        socket.control.extend_from_slice(close.as_bytes());
        socket.muted = true;
    }

    /// Forgets a batch that will not be written, but for a frame begun.
    pub(super) fn keep_begun(&self, batch: &mut VecDeque<Entry>) {
        batch.truncate(usize::from(self.offset > 0));
    }

    /// Bytes heard from the client since this was asked last.
    pub(super) fn take_heard(&mut self) -> u64 {
        std::mem::take(&mut self.reader.get_mut().heard)
    }

    /// Ends the writing side, so that the client sees the end of what was sent.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader.get_mut().io).poll_shutdown(cx)
    }

    /// Reads and forgets until the client answers the close.
    pub(super) fn poll_close_answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match ready!(self.poll_read(cx)) {
                Inbound::Binary(_) | Inbound::Text(_) | Inbound::Control => {}
                Inbound::Close(_) | Inbound::Illegal(_) | Inbound::Lost => return Poll::Ready(()),
            }
        }
    }

    /// Reads and forgets until the client's stream ends, whatever it holds.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 2048];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            let io = Pin::new(&mut self.reader.get_mut().io);
            match ready!(io.poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    fn socket(&self) -> &Socket<S> {
        self.reader.get_ref()
    }
}

/// `WebSocketStream::from_raw_socket` is `async` without ever waiting.
fn new_reader<S: AsyncRead + AsyncWrite + Unpin>(
    socket: Socket<S>,
    config: WebSocketConfig,
) -> WebSocketStream<Socket<S>> {
    use futures_util::FutureExt;
    WebSocketStream::from_raw_socket(socket, Role::Server, Some(config))
        .now_or_never()
        .expect("there is no handshake to wait for")
}

// === impl Socket ===

impl<S: AsyncWrite + Unpin> Socket<S> {
    /// One write of as much as fits into it: the rest of a frame begun, then
    /// control frames, then the queue.
    fn poll_write_some(
        &mut self,
        cx: &mut Context<'_>,
        batch: &VecDeque<Entry>,
        offset: usize,
    ) -> Poll<io::Result<usize>> {
        let control = &self.control[self.control_offset..];
        let io = Pin::new(&mut self.io);
        if batch.is_empty() {
            return io.poll_write(cx, control);
        }
        if batch.len() == 1 && control.is_empty() {
            return io.poll_write(cx, &batch[0].frame.as_bytes()[offset..]);
        }
        let mut slices = [IoSlice::new(&[]); BATCH_FRAMES];
        let mut used = 0;
        let mut frames = batch.iter().map(|entry| entry.frame.as_bytes());
        if offset > 0
            && let Some(begun) = frames.next()
        {
            slices[used] = IoSlice::new(&begun[offset..]);
            used += 1;
        }
        if !control.is_empty() {
            slices[used] = IoSlice::new(control);
            used += 1;
        }
        for (slice, frame) in slices[used..].iter_mut().zip(frames) {
            *slice = IoSlice::new(frame);
            used += 1;
        }
        io.poll_write_vectored(cx, &slices[..used])
    }

    /// Takes `n` written bytes off, in the order in which they were offered.
    fn advance(
        &mut self,
        mut n: usize,
        batch: &mut VecDeque<Entry>,
        offset: &mut usize,
        written: &mut Load,
    ) {
        if *offset > 0 {
            n = take_front(n, batch, offset, written);
        }
        let control = n.min(self.control.len() - self.control_offset);
        self.control_offset += control;
        n -= control;
        if self.control_offset == self.control.len() {
            self.control = Vec::new();
            self.control_offset = 0;
        }
        while n > 0 {
            n = take_front(n, batch, offset, written);
        }
    }
}

/// Takes written bytes off the first frame; how many are left for the next.
fn take_front(
    n: usize,
    batch: &mut VecDeque<Entry>,
    offset: &mut usize,
    written: &mut Load,
) -> usize {
    let Some(entry) = batch.front() else {
        return 0;
    };
    let left = entry.frame.len() - *offset;
    if n < left {
        *offset += n;
        return 0;
    }
    *offset = 0;
    written.add(entry);
    batch.pop_front();
    n - left
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read_ahead.has_remaining() {
            let n = this.read_ahead.len().min(buffer.remaining());
            buffer.put_slice(&this.read_ahead.split_to(n));
            this.heard += n as u64;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        this.heard += (buffer.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl<S: Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.muted {
            this.control.extend_from_slice(bytes);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
