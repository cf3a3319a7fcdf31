//! One publisher's messages, judged one after another.

use std::time::Instant;

use arqon_policy::{Caps, Decision, Draft, Policies, Sender, Subject};
use arqon_proto::{
    headers::HeaderLimits,
    names::{RoomId, SessionId, TenantId, UserId},
};
use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::failure::{Doing, Failure, Result};

/// A publisher.
pub(super) struct Load {
    policies: Policies,
    tenant: TenantId,
    room: RoomId,
    user: UserId,
    session: SessionId,
    sender: Sender,
    payload: Bytes,
    runtime: tokio::runtime::Runtime,
}

const CAPS: Caps = Caps {
    max_payload: 64 << 10,
    headers: HeaderLimits {
        max_headers: 32,
        max_header_bytes: 8 << 10,
    },
};

// === impl Load ===

impl Load {
    pub(super) fn new(policies: Policies, tenant: &str, payload: Bytes) -> Result<Self> {
        Ok(Self {
            policies,
            tenant: TenantId::parse(tenant).doing("a tenant")?,
            room: RoomId::parse("lobby").doing("a room")?,
            user: UserId::parse("alice").doing("a user")?,
            session: SessionId::new(),
            sender: Sender::default(),
            payload,
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .doing("cannot start a runtime")?,
        })
    }

    /// Has instances made, and code in the processor's caches.
    pub(super) fn warm(&mut self) -> Result<()> {
        self.judge(500, &mut super::histogram()?)
    }

    /// Judges so many messages, and keeps the time of each.
    pub(super) fn judge(&mut self, messages: usize, times: &mut Histogram<u64>) -> Result<()> {
        let subject = Subject {
            tenant: &self.tenant,
            room: &self.room,
            user: &self.user,
            role: "user",
            session: self.session,
        };
        self.runtime.block_on(async {
            for _ in 0..messages {
                let mut draft = Draft {
                    payload: self.payload.clone(),
                    ..Draft::default()
                };
                let begun = Instant::now();
                let decision = self
                    .policies
                    .judge(subject, &mut draft, &self.sender, &CAPS)
                    .await;
                let took = begun.elapsed();
                if decision != Decision::Pass {
                    return Err(Failure::new(format!(
                        "a good message was not passed: {decision:?}"
                    )));
                }
                times.saturating_record(took.as_nanos() as u64);
            }
            Ok(())
        })
    }
}
