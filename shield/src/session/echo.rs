//! A session's socket with nothing behind it but an echo: what the public
//! conformance suite of WebSocket is run against (`scripts/conformance`).
//!
//! The same `wire` and the same `ending` as a session's, in the same order; only
//! the rules of the protocol are missing between them.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Sleep,
};

use super::{
    ending::{End, Ending, LINGER},
    frame::Frame,
    outbox::{Entry, Load},
    wire::{Inbound, Wire},
};

/// The future of one connection that hears what it says.
#[derive(Debug)]
pub struct Echo<S> {
    wire: Wire<S>,
    batch: VecDeque<Entry>,
    written: Load,
    ending: Option<(Ending, Pin<Box<Sleep>>)>,
}

// === impl Echo ===

impl<S: AsyncRead + AsyncWrite + Unpin> Echo<S> {
    /// Takes over a socket after its upgrade.
    pub fn new(socket: S, read_ahead: Bytes, max_frame: usize) -> Self {
        Self {
            wire: Wire::new(socket, read_ahead, max_frame),
            batch: VecDeque::new(),
            written: Load::default(),
            ending: None,
        }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            // A client that does not read is not read from.
            if ready!(self.poll_write(cx)).is_err() {
                return Poll::Ready(End::Lost);
            }
            let inbound = self.wire.poll_read(cx);
            match inbound {
                Poll::Ready(Inbound::Binary(bytes)) => self.push(Frame::binary(&bytes)),
                Poll::Ready(Inbound::Text(text)) => self.push(Frame::text(&text)),
                Poll::Ready(Inbound::Control) => {}
                Poll::Ready(Inbound::Close(code)) => return Poll::Ready(End::Client(code)),
                Poll::Ready(Inbound::Illegal(code)) => return Poll::Ready(End::Illegal(code)),
                Poll::Ready(Inbound::Lost) => return Poll::Ready(End::Lost),
                // Reading may have left an answer to a ping behind.
                Poll::Pending => {
                    return match self.poll_write(cx) {
                        Poll::Ready(Err(_)) => Poll::Ready(End::Lost),
                        _ => Poll::Pending,
                    };
                }
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.wire.poll_write(cx, &mut self.batch, &mut self.written))?;
        self.wire.poll_flush(cx)
    }

    fn push(&mut self, frame: Frame) {
        self.batch.push_back(Entry::control(frame));
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Echo<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.ending.is_none() {
            let end = ready!(this.poll_open(cx));
            let Some(ending) = Ending::begin(end, &mut this.wire, &mut this.batch) else {
                return Poll::Ready(());
            };
            this.ending = Some((ending, Box::pin(tokio::time::sleep(LINGER))));
        }
        let Some((ending, timer)) = &mut this.ending else {
            return Poll::Ready(());
        };
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        ending.poll(&mut this.wire, cx, &mut this.batch, &mut this.written)
    }
}
