//! One connection.

use std::collections::VecDeque;
use std::time::Duration;

use arqon_proto::envelope::{self, decode_server};
use arqon_proto::headers;
use arqon_proto::v1::envelope::Body;
use arqon_proto::v1::{Ack, Envelope, Join, Joined, Left, PresenceState, Refreshed, Welcome};
use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WsCloseCode;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::stream::Stream;
use crate::{ClientError, ConnectParams, Receiver, Rejection, Sender, connect};

/// How long the other side may take to answer a close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// A connection to Shield. Frames that arrive while an answer is awaited are
/// kept and come out of [`Client::recv`] in their order.
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<Stream>,
    queued: VecDeque<Envelope>,
    next_ref: u64,
    traceparent: Option<String>,
}

impl Client {
    /// Connects and upgrades. The first frame to come is WELCOME.
    ///
    /// # Errors
    /// Where any step fails; [`ClientError::Refused`] where Shield says no.
    pub async fn connect(params: ConnectParams) -> Result<Self, ClientError> {
        Ok(Self {
            socket: connect::connect(&params).await?,
            queued: VecDeque::new(),
            next_ref: 1,
            traceparent: params.traceparent,
        })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn send(&mut self, envelope: Envelope) -> Result<(), ClientError> {
        self.send_raw(Message::Binary(envelope.encode_to_vec().into()))
            .await
    }

    /// Sends any WebSocket message, well formed or not in our protocol.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn send_raw(&mut self, message: Message) -> Result<(), ClientError> {
        Ok(self.socket.send(message).await?)
    }

    /// The next frame; `None` once the connection was closed in good order
    /// (code 1000). May be dropped and called again without loss.
    ///
    /// # Errors
    /// [`ClientError::Closed`] with the server's code, [`ClientError::Lost`],
    /// or what the server broke.
    pub async fn recv(&mut self) -> Result<Option<Envelope>, ClientError> {
        match self.queued.pop_front() {
            Some(envelope) => Ok(Some(envelope)),
            None => self.recv_from_socket().await,
        }
    }

    /// Waits for WELCOME; what else comes is kept.
    ///
    /// # Errors
    /// As [`Client::recv`]; [`ClientError::Lost`] where the connection ends first.
    pub async fn welcome(&mut self) -> Result<Welcome, ClientError> {
        let found = self
            .wait_for(|e| matches!(e.body, Some(Body::Welcome(_))))
            .await?;
        match found.body {
            Some(Body::Welcome(welcome)) => Ok(welcome),
            _ => Err(ClientError::Protocol("WELCOME without its body")),
        }
    }

    /// Sends a request and waits for the frame that answers it, be it ERROR.
    /// A `ref` of 0 is replaced by one not used on this connection.
    ///
    /// # Errors
    /// As [`Client::recv`]; [`ClientError::Lost`] where the connection ends first.
    pub async fn request(&mut self, mut envelope: Envelope) -> Result<Envelope, ClientError> {
        if envelope.r#ref == 0 {
            envelope.r#ref = self.next_ref;
        }
        self.next_ref = self.next_ref.max(envelope.r#ref).wrapping_add(1).max(1);
        let reference = envelope.r#ref;
        self.send(envelope).await?;
        self.wait_for(|e| e.r#ref == reference).await
    }

    /// Joins a room.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] where Shield answers ERROR, or as [`Client::recv`].
    pub async fn join(&mut self, room: &str, options: Join) -> Result<Joined, ClientError> {
        let frame = self.traced(envelope::join(room, 0, options));
        match self.ask(frame).await? {
            Some(Body::Joined(joined)) => Ok(joined),
            _ => Err(ClientError::Protocol("JOIN was not answered by JOINED")),
        }
    }

    fn traced(&self, mut frame: Envelope) -> Envelope {
        if let Some(traceparent) = &self.traceparent {
            let name = headers::TRACEPARENT.to_owned();
            frame.headers.insert(name, traceparent.clone());
        }
        frame
    }

    /// Leaves a room.
    ///
    /// # Errors
    /// As [`Client::join`].
    pub async fn leave(&mut self, room: &str) -> Result<Left, ClientError> {
        match self.ask(envelope::leave(room, 0)).await? {
            Some(Body::Left(left)) => Ok(left),
            _ => Err(ClientError::Protocol("LEAVE was not answered by LEFT")),
        }
    }

    /// Publishes; with `ack` waits for the outcome.
    ///
    /// # Errors
    /// As [`Client::join`]; without `ack` a rejection comes out of [`Client::recv`].
    pub async fn publish(
        &mut self,
        room: &str,
        payload: impl Into<Bytes>,
        ack: bool,
    ) -> Result<Option<Ack>, ClientError> {
        let frame = self.traced(envelope::publish(room, 0, payload.into(), ack));
        if !ack {
            self.send(frame).await?;
            return Ok(None);
        }
        match self.ask(frame).await? {
            Some(Body::Ack(ack)) => Ok(Some(ack)),
            _ => Err(ClientError::Protocol("PUBLISH was not answered by ACK")),
        }
    }

    /// Asks who is in a room: all pages as one.
    ///
    /// # Errors
    /// As [`Client::join`].
    pub async fn presence(&mut self, room: &str) -> Result<PresenceState, ClientError> {
        const WRONG: ClientError =
            ClientError::Protocol("PRESENCE_GET was not answered by PRESENCE_STATE");
        let first = self.request(envelope::presence_get(room, 0, false)).await?;
        let reference = first.r#ref;
        let mut next = first.body;
        let mut members = Vec::new();
        loop {
            let mut page = match next {
                Some(Body::PresenceState(page)) => page,
                Some(Body::Error(error)) => {
                    return Err(ClientError::Rejected(Box::new(Rejection::from(error))));
                }
                _ => return Err(WRONG),
            };
            members.append(&mut page.members);
            if page.last_page {
                return Ok(PresenceState { members, ..page });
            }
            next = self.wait_for(|e| e.r#ref == reference).await?.body;
        }
    }

    /// Asks how many users are in a room.
    ///
    /// # Errors
    /// As [`Client::join`].
    pub async fn presence_count(&mut self, room: &str) -> Result<u32, ClientError> {
        match self.ask(envelope::presence_get(room, 0, true)).await? {
            Some(Body::PresenceCount(answer)) => Ok(answer.count),
            _ => Err(ClientError::Protocol(
                "PRESENCE_GET was not answered by PRESENCE_COUNT",
            )),
        }
    }

    /// Swaps the session's token.
    ///
    /// # Errors
    /// As [`Client::join`].
    pub async fn refresh(&mut self, token: &str) -> Result<Refreshed, ClientError> {
        match self.ask(envelope::refresh(0, token)).await? {
            Some(Body::Refreshed(refreshed)) => Ok(refreshed),
            _ => Err(ClientError::Protocol(
                "REFRESH was not answered by REFRESHED",
            )),
        }
    }

    /// Sends PING and waits for PONG.
    ///
    /// # Errors
    /// As [`Client::join`]; where PONG brings back another payload.
    pub async fn ping(&mut self, payload: impl Into<Bytes>) -> Result<(), ClientError> {
        let payload = payload.into();
        let answer = self.request(envelope::ping(0, payload.clone())).await?;
        if let Some(Body::Error(error)) = answer.body {
            return Err(ClientError::Rejected(Box::new(Rejection::from(error))));
        }
        if answer.payload != payload {
            return Err(ClientError::Protocol("PONG with another payload"));
        }
        Ok(())
    }

    /// Closes in good order: says so, reads what is still on the way, waits
    /// (not for ever) for the answer.
    ///
    /// # Errors
    /// As [`Client::recv`], where the connection did not end in good order.
    pub async fn close(mut self) -> Result<(), ClientError> {
        match self.socket.close(Some(normal_close())).await {
            Ok(()) => {}
            Err(tungstenite::Error::ConnectionClosed) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        let drain = async {
            // Frames on the way are of no use now, however they look.
            loop {
                match recv_binary(&mut self.socket).await {
                    Ok(Some(_)) | Err(ClientError::Protocol(_)) => {}
                    Ok(None) => return Ok(()),
                    Err(e) => return Err(e),
                }
            }
        };
        match tokio::time::timeout(CLOSE_PATIENCE, drain).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ClientError::Timeout(CLOSE_PATIENCE)),
        }
    }

    /// Two halves for two tasks. Frames kept while an answer was awaited come
    /// first out of the receiver.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver) {
        let (sink, stream) = self.socket.split();
        (Sender::new(sink), Receiver::new(stream, self.queued))
    }

    async fn ask(&mut self, envelope: Envelope) -> Result<Option<Body>, ClientError> {
        match self.request(envelope).await?.body {
            Some(Body::Error(error)) => {
                Err(ClientError::Rejected(Box::new(Rejection::from(error))))
            }
            body => Ok(body),
        }
    }

    async fn wait_for(
        &mut self,
        wanted: impl Fn(&Envelope) -> bool,
    ) -> Result<Envelope, ClientError> {
        if let Some(at) = self.queued.iter().position(&wanted) {
            // The position was found just now.
            return self.queued.remove(at).ok_or(ClientError::Lost(None));
        }
        loop {
            match self.recv_from_socket().await? {
                Some(envelope) if wanted(&envelope) => return Ok(envelope),
                Some(envelope) => self.queued.push_back(envelope),
                None => return Err(ClientError::Lost(None)),
            }
        }
    }

    async fn recv_from_socket(&mut self) -> Result<Option<Envelope>, ClientError> {
        match recv_binary(&mut self.socket).await? {
            Some(bytes) => decode_server(bytes).map(Some).map_err(ClientError::Frame),
            None => Ok(None),
        }
    }
}

/// The next binary message; `None` at an end in good order.
pub(crate) async fn recv_binary<S>(socket: &mut S) -> Result<Option<Bytes>, ClientError>
where
    S: futures_util::Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
{
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => return Ok(Some(bytes)),
            // tungstenite answers a ping with the next read.
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(frame))) => {
                // Reading on writes our half of the close. Not awaited: the
                // outcome is known, and a caller that gives up must not lose it.
                let _ = socket.next().now_or_never();
                return closed(frame);
            }
            Some(Ok(Message::Text(_))) => return Err(ClientError::Protocol("a text frame")),
            Some(Ok(Message::Frame(_))) => return Err(ClientError::Protocol("a raw frame")),
            Some(Err(tungstenite::Error::ConnectionClosed)) => return Ok(None),
            Some(Err(e)) => return Err(e.into()),
            None => return Err(ClientError::Lost(None)),
        }
    }
}

pub(crate) fn normal_close() -> CloseFrame {
    CloseFrame {
        code: WsCloseCode::Normal,
        reason: "".into(),
    }
}

fn closed(frame: Option<CloseFrame>) -> Result<Option<Bytes>, ClientError> {
    match frame {
        Some(frame) if frame.code == WsCloseCode::Normal => Ok(None),
        Some(frame) => Err(ClientError::Closed {
            code: frame.code.into(),
            reason: frame.reason.to_string(),
        }),
        // RFC 6455 names a close without a code 1005.
        None => Err(ClientError::Closed {
            code: WsCloseCode::Status.into(),
            reason: String::new(),
        }),
    }
}
