//! The way of a message through the policies of its tenant.

use std::sync::Arc;

use arqon_policy::{Caps, Decision, Draft, Policies, Sender, Subject};
use arqon_proto::{
    codes::ErrorCode,
    headers,
    names::{RoomId, TenantId},
    v1,
};

use super::state::{Publisher, Unpublished};
use crate::control::Tenants;

/// What judges a session's messages.
pub(super) struct Gate {
    pub(super) policies: Policies,
    /// For how fresh the control plane is.
    pub(super) tenants: Arc<Tenants>,
    pub(super) sender: Arc<Sender>,
}

// === impl Gate ===

impl Gate {
    /// Sends a MESSAGE through its chain; it comes out as the policies want it.
    pub(super) async fn pass(
        &self,
        subject: Subject<'_>,
        message: &mut v1::Envelope,
        caps: &Caps,
    ) -> Result<(), Unpublished> {
        // What is bound now may be stricter than what is known here.
        if self.tenants.stale() {
            return Err(Unpublished::Code(ErrorCode::ControlStale));
        }
        let mut headers = std::mem::take(&mut message.headers);
        let own: Vec<_> = headers
            .extract_if(.., |name, _| headers::reserved(name))
            .collect();
        let mut draft = Draft {
            headers,
            payload: std::mem::take(&mut message.payload),
        };
        let judged = self.policies.judge(subject, &mut draft, &self.sender, caps);
        match judged.await {
            Decision::Pass => {}
            Decision::Blocked(block) => return Err(Unpublished::Blocked(block)),
            Decision::Limited { retry_after } => return Err(Unpublished::Limited(retry_after)),
        }
        message.payload = draft.payload;
        message.headers = draft.headers;
        message.headers.extend(own);
        Ok(())
    }
}

// === impl Publisher ===

impl Publisher {
    /// Whose message it is, for the policies.
    pub(super) fn subject<'a>(&'a self, tenant: &'a TenantId, room: &'a RoomId) -> Subject<'a> {
        Subject {
            tenant,
            room,
            user: &self.user,
            role: self.role.as_str(),
            session: self.session,
        }
    }
}
