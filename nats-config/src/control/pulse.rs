//! Whether the server still answers: a connection that stays open says nothing.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;

use super::ControlError;
use crate::connect::Connection;
use crate::subjects;

/// Round trips to the server over one connection.
#[derive(Debug)]
pub struct Pulse {
    client: async_nats::Client,
    subject: String,
    answers: async_nats::Subscriber,
    sent: u64,
    answered: u64,
    heard: Instant,
}

// === impl Pulse ===

impl Pulse {
    /// Begins; the connection itself counts as an answer.
    pub async fn open(connection: &Connection) -> Result<Self, ControlError> {
        let client = connection.client.clone();
        let subject = subjects::pulse(&connection.user);
        let answers =
            client
                .subscribe(subject.clone())
                .await
                .map_err(|source| ControlError::Subscribe {
                    subject: subject.clone(),
                    source: source.into(),
                })?;
        Ok(Pulse {
            client,
            subject,
            answers,
            sent: 0,
            answered: 0,
            heard: Instant::now(),
        })
    }

    /// Sends a message to itself; whoever flushes next sends it off.
    pub async fn send(&mut self) -> Result<(), ControlError> {
        self.sent += 1;
        let payload = Bytes::copy_from_slice(&self.sent.to_le_bytes());
        self.client
            .publish(self.subject.clone(), payload)
            .await
            .map_err(|source| ControlError::Publish {
                subject: self.subject.clone(),
                source: source.into(),
            })
    }

    /// Waits for one to come back. Others could write to this inbox by way of
    /// a consumer, so it must be one that was sent and not answered yet.
    pub async fn answer(&mut self) -> Result<(), ControlError> {
        loop {
            let message = self.answers.next().await.ok_or(ControlError::Closed)?;
            let Ok(number) = message.payload[..].try_into().map(u64::from_le_bytes) else {
                continue;
            };
            if number > self.answered && number <= self.sent {
                self.answered = number;
                self.heard = Instant::now();
                return Ok(());
            }
        }
    }

    /// When the server was last known to answer.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Something else was answered just now.
    pub fn was_heard(&mut self) {
        self.heard = Instant::now();
    }

    /// How long it has not answered.
    pub fn silence(&self) -> Duration {
        self.heard.elapsed()
    }
}
