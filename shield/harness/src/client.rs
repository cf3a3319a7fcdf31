//! A client as a story tells of it: what it says, and what it hears next.

use std::collections::BTreeMap;

use arqon_client::{ClientError, ConnectParams};
use arqon_proto::codes::ErrorCode;
use arqon_proto::envelope;
use arqon_proto::v1::{Envelope, Error, Join, Joined, Opcode, Welcome, envelope::Body};
use bytes::Bytes;

use crate::within;

/// A session that keeps the protocol.
#[derive(Debug)]
pub struct Client {
    inner: arqon_client::Client,
    /// What the session began with.
    pub welcome: Welcome,
    reference: u64,
}

// === impl Client ===

impl Client {
    /// Connects and takes the WELCOME.
    ///
    /// # Errors
    /// As [`arqon_client::Client::connect`].
    pub async fn connect(params: ConnectParams) -> Result<Self, ClientError> {
        let mut inner = within("a session", arqon_client::Client::connect(params)).await?;
        let first = within("WELCOME", inner.recv())
            .await?
            .expect("a session begins with WELCOME");
        let Some(Body::Welcome(welcome)) = first.body else {
            panic!("a session begins with WELCOME, not {first:?}");
        };
        Ok(Self {
            inner,
            welcome,
            reference: 0,
        })
    }

    /// A correlation id not used before.
    pub fn reference(&mut self) -> u64 {
        self.reference += 1;
        self.reference
    }

    /// Sends any frame.
    pub async fn send(&mut self, envelope: Envelope) {
        self.inner.send(envelope).await.expect("a frame is sent");
    }

    /// Joins a room; hears itself.
    pub async fn join(&mut self, room: &str) {
        self.join_with(room, Join::default())
            .await
            .unwrap_or_else(|refusal| panic!("JOIN {room} was refused: {refusal:?}"));
    }

    /// Joins a room with options.
    ///
    /// # Errors
    /// The ERROR that answered.
    pub async fn join_with(&mut self, room: &str, options: Join) -> Result<Joined, Error> {
        let reference = self.reference();
        self.send(envelope::join(room, reference, options)).await;
        let answer = self.next().await;
        assert_eq!(
            (answer.r#ref, answer.room.as_str()),
            (reference, room),
            "{answer:?}"
        );
        match answer.body {
            Some(Body::Joined(joined)) => Ok(joined),
            Some(Body::Error(error)) => Err(error),
            other => panic!("JOIN {room} was answered by {other:?}"),
        }
    }

    /// Leaves a room.
    pub async fn leave(&mut self, room: &str) {
        let reference = self.reference();
        self.send(envelope::leave(room, reference)).await;
        let left = self.expect(Opcode::Left).await;
        assert_eq!((left.r#ref, left.room.as_str()), (reference, room));
    }

    /// Publishes a text, unacknowledged.
    pub async fn publish(&mut self, room: &str, text: impl Into<String>) {
        let payload = Bytes::from(text.into());
        self.send(envelope::publish(room, 0, payload, false)).await;
    }

    /// Publishes a text with headers and a wish for an ACK; gives its ref.
    pub async fn publish_with(
        &mut self,
        room: &str,
        text: impl Into<String>,
        headers: &[(&str, &str)],
    ) -> u64 {
        let reference = self.reference();
        let headers: BTreeMap<_, _> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let envelope = Envelope {
            headers,
            ..envelope::publish(room, reference, Bytes::from(text.into()), true)
        };
        self.send(envelope).await;
        reference
    }

    /// The next frame.
    ///
    /// # Panics
    /// If the session ends instead.
    pub async fn next(&mut self) -> Envelope {
        match within("the next frame", self.inner.recv()).await {
            Ok(Some(envelope)) => envelope,
            other => panic!("a frame was due, but {other:?}"),
        }
    }

    /// The next frame, or how the session ended; without a time limit.
    ///
    /// # Errors
    /// As [`arqon_client::Client::recv`].
    pub async fn recv(&mut self) -> Result<Option<Envelope>, ClientError> {
        self.inner.recv().await
    }

    /// The next frame, which must be of this kind.
    pub async fn expect(&mut self, opcode: Opcode) -> Envelope {
        let envelope = self.next().await;
        assert_eq!(envelope.op(), opcode, "{}", envelope::to_text(&envelope));
        envelope
    }

    /// The next frame, which must be this ERROR.
    pub async fn expect_error(&mut self, code: ErrorCode) -> Envelope {
        let envelope = self.expect(Opcode::Error).await;
        assert_eq!(error_of(&envelope).name, code.name(), "{envelope:?}");
        envelope
    }

    /// The next frame, which must be this MESSAGE.
    pub async fn hears(&mut self, room: &str, text: &str) -> Envelope {
        let envelope = self.expect(Opcode::Message).await;
        assert_eq!(
            (envelope.room.as_str(), text_of(&envelope).as_str()),
            (room, text)
        );
        envelope
    }

    /// Asks for a PONG, which must be the next frame: nothing else was waiting.
    pub async fn ping(&mut self) {
        let reference = self.reference();
        self.send(envelope::ping(
            reference,
            Bytes::from_static(b"still there"),
        ))
        .await;
        let pong = self.expect(Opcode::Pong).await;
        assert_eq!(
            (pong.r#ref, &pong.payload[..]),
            (reference, &b"still there"[..])
        );
    }

    /// Reads to the end of the session: its close code, and the frames before.
    pub async fn closed(&mut self) -> (Option<u16>, Vec<Envelope>) {
        let mut frames = Vec::new();
        loop {
            match within("the end of the session", self.inner.recv()).await {
                Ok(Some(envelope)) => frames.push(envelope),
                Err(ClientError::Closed { code, .. }) => return (Some(code), frames),
                Ok(None) | Err(_) => return (None, frames),
            }
        }
    }

    /// What the session is made of.
    pub fn into_inner(self) -> arqon_client::Client {
        self.inner
    }
}

/// JOIN of a session that does not hear itself.
pub fn without_echo() -> Join {
    Join {
        echo: Some(false),
        ..Join::default()
    }
}

/// The payload as text.
pub fn text_of(envelope: &Envelope) -> String {
    String::from_utf8_lossy(&envelope.payload).into_owned()
}

/// The ERROR in a frame.
///
/// # Panics
/// If it holds none.
pub fn error_of(envelope: &Envelope) -> &Error {
    match &envelope.body {
        Some(Body::Error(error)) => error,
        _ => panic!("no ERROR: {}", envelope::to_text(envelope)),
    }
}
