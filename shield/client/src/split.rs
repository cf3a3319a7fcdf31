//! The two halves of a connection.

use std::collections::VecDeque;

use arqon_proto::envelope::decode_server;
use arqon_proto::v1::Envelope;
use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::stream::{SplitSink, SplitStream};
use prost::Message as _;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::ClientError;
use crate::client::{normal_close, recv_binary};
use crate::stream::Stream;

/// The sending half.
#[derive(Debug)]
pub struct Sender(SplitSink<WebSocketStream<Stream>, Message>);

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    stream: SplitStream<WebSocketStream<Stream>>,
    queued: VecDeque<Envelope>,
}

impl Sender {
    pub(crate) fn new(sink: SplitSink<WebSocketStream<Stream>, Message>) -> Self {
        Self(sink)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn send(&mut self, envelope: Envelope) -> Result<(), ClientError> {
        self.send_raw(Message::Binary(envelope.encode_to_vec().into()))
            .await
    }

    /// Sends any WebSocket message.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn send_raw(&mut self, message: Message) -> Result<(), ClientError> {
        Ok(self.0.send(message).await?)
    }

    /// Says close; the receiving half then ends with the server's answer.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn close(&mut self) -> Result<(), ClientError> {
        self.send_raw(Message::Close(Some(normal_close()))).await
    }
}

impl Receiver {
    pub(crate) fn new(
        stream: SplitStream<WebSocketStream<Stream>>,
        queued: VecDeque<Envelope>,
    ) -> Self {
        Self { stream, queued }
    }

    /// The next frame, as [`crate::Client::recv`].
    ///
    /// # Errors
    /// As [`crate::Client::recv`].
    pub async fn recv(&mut self) -> Result<Option<Envelope>, ClientError> {
        if let Some(envelope) = self.queued.pop_front() {
            return Ok(Some(envelope));
        }
        match recv_binary(&mut self.stream).await? {
            Some(bytes) => decode_server(bytes).map(Some).map_err(ClientError::Frame),
            None => Ok(None),
        }
    }

    /// The next frame as it came, for a caller that only counts.
    ///
    /// # Errors
    /// As [`crate::Client::recv`].
    pub async fn recv_bytes(&mut self) -> Result<Option<Bytes>, ClientError> {
        if let Some(envelope) = self.queued.pop_front() {
            return Ok(Some(envelope.encode_to_vec().into()));
        }
        recv_binary(&mut self.stream).await
    }
}
