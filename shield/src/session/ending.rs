//! The end of a socket: what was begun, the close frame, and what the client still says.
//!
//! A socket closed with unread bytes would be reset, and the client might lose
//! the close frame; so its side is read to the end, for a while.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
    time::Duration,
};

use arqon_proto::codes::CloseCode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    frame::Frame,
    outbox::{Entry, Load},
    wire::Wire,
};

/// How long a closed session waits for the client to take the close frame and
/// end its side. Two round trips of a bad mobile line.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By the platform.
    Code(CloseCode),
    /// By the client, with its code.
    Client(Option<u16>),
    /// The client broke the framing: RFC 6455's code.
    Illegal(u16),
    /// The connection is gone.
    Lost,
}

/// A socket on which the close frame was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    /// Whether the close frame and the end of the stream are out.
    sent: bool,
    wait: Wait,
}

/// What a closed session waits for, `LINGER` long at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Nothing: the client has closed.
    Nothing,
    /// The client's close frame.
    Answer,
    /// The end of a stream that makes no sense any more.
    End,
}

// === impl Ending ===

impl Ending {
    /// Says why on the socket; None if nobody is there to hear it. Of the batch
    /// only a frame begun is still written.
    pub(super) fn begin<S: AsyncRead + AsyncWrite + Unpin>(
        end: End,
        wire: &mut Wire<S>,
        batch: &mut VecDeque<Entry>,
    ) -> Option<Self> {
        wire.keep_begun(batch);
        let (close, wait) = match end {
            End::Code(code) => (Frame::close(code.number(), code.name()), Wait::Answer),
            End::Client(code) => (Frame::close_reply(code), Wait::Nothing),
            End::Illegal(code) => (Frame::close(code, ""), Wait::End),
            End::Lost => return None,
        };
        wire.push_close(&close);
        Some(Self { sent: false, wait })
    }

    /// Whether the close frame is out, and with it the end of the stream.
    pub(super) fn is_sent(&self) -> bool {
        self.sent
    }

    /// Ready when the socket may be dropped. How long that may take is the
    /// caller's to bound.
    pub(super) fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
        cx: &mut Context<'_>,
        batch: &mut VecDeque<Entry>,
        written: &mut Load,
    ) -> Poll<()> {
        if !self.sent {
            let sent = match wire.poll_write(cx, batch, written) {
                Poll::Ready(Ok(())) => wire.poll_shutdown(cx),
                other => other,
            };
            match sent {
                Poll::Ready(Ok(())) => self.sent = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        // Also before all is sent: a client may write all it has before it reads.
        match self.wait {
            Wait::Nothing => {}
            Wait::Answer => ready!(wire.poll_close_answer(cx)),
            Wait::End => ready!(wire.poll_discard(cx)),
        }
        self.wait = Wait::Nothing;
        match self.sent {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
