//! Orders about single sessions: which there are, and closing some.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use arqon_proto::{
    names::{NameError, NodeId, SessionId, TenantId, UserId},
    v1,
};
use arqon_spine::control::ControlStore;
use tracing::{info, warn};

use crate::{
    auth::Identity,
    session::{SessionFilter, Sessions},
};

/// Sessions told in one answer at most, whatever was asked for.
const MOST: usize = 10_000;
/// Sessions of one page: with the longest names some 200 KB.
const PAGE: usize = 250;

/// Orders to close that are remembered: more than are given at a time.
const REMEMBERED: usize = 64;

/// The last orders to close that were obeyed, by number, with how many sessions
/// each closed. Who missed an answer asks again under the same number and is told
/// the same; whoever has come back meanwhile stays.
#[derive(Debug, Default)]
pub(super) struct Kicks(VecDeque<(u64, usize)>);

/// The answer to an order, page by page.
pub(super) struct Answer {
    shield: NodeId,
    incarnation: String,
    request: u64,
    total: usize,
    sessions: Vec<v1::SessionInfo>,
}

impl Answer {
    /// Does what an order to list says.
    pub(super) fn list(
        sessions: &Sessions,
        order: &v1::ListSessions,
        shield: &NodeId,
        incarnation: &str,
    ) -> Self {
        let filter = filter(order.filter.as_ref());
        let limit = usize::try_from(order.limit).unwrap_or(MOST).min(MOST);
        let (found, total) = match filter {
            Ok(filter) => sessions.list(&filter, limit),
            Err(_) => Default::default(),
        };
        Self {
            shield: shield.clone(),
            incarnation: incarnation.to_owned(),
            request: order.request,
            total,
            sessions: found
                .iter()
                .map(|(session, identity)| describe(*session, identity))
                .collect(),
        }
    }

    /// Does what an order to kick says.
    pub(super) fn kick(
        sessions: &Sessions,
        kicks: &Mutex<Kicks>,
        order: &v1::KickSessions,
        shield: &NodeId,
        incarnation: &str,
    ) -> Self {
        let mut kicks = kicks.lock().unwrap_or_else(PoisonError::into_inner);
        let total = kicks.once(order.request, || Self::obey(sessions, order));
        Self {
            shield: shield.clone(),
            incarnation: incarnation.to_owned(),
            request: order.request,
            total,
            sessions: Vec::new(),
        }
    }

    fn obey(sessions: &Sessions, order: &v1::KickSessions) -> usize {
        let reason = &order.reason;
        match filter(order.filter.as_ref()) {
            // Nobody kicks a whole platform by leaving everything out, nor a user of every tenant.
            Ok(filter) if filter.tenant.is_some() || filter.session.is_some() => {
                let count = sessions.kick(&filter);
                info!(
                    sessions = count,
                    ?filter,
                    reason,
                    "Ordered to close sessions"
                );
                count
            }
            _ => {
                warn!("An order to close sessions does not say which");
                0
            }
        }
    }

    /// Sends it. Who asked asks again if this fails.
    pub(super) async fn send(self, store: ControlStore) {
        let pages = self.sessions.len().div_ceil(PAGE).max(1);
        let clamp = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        for page in 0..pages {
            let sessions = self.sessions.iter().skip(page * PAGE).take(PAGE);
            let report = v1::SessionsReport {
                shield: self.shield.to_string(),
                incarnation: self.incarnation.clone(),
                request: self.request,
                page: clamp(page),
                last: page + 1 == pages,
                total: clamp(self.total),
                sessions: sessions.cloned().collect(),
            };
            if store.publish_sessions(&self.shield, &report).await.is_err() {
                return;
            }
        }
    }
}

// === impl Kicks ===

impl Kicks {
    /// How many were closed under this number, by `close` if that is new.
    fn once(&mut self, request: u64, close: impl FnOnce() -> usize) -> usize {
        if let Some((_, total)) = self.0.iter().find(|(known, _)| *known == request) {
            return *total;
        }
        let total = close();
        self.0.truncate(REMEMBERED - 1);
        self.0.push_front((request, total));
        total
    }
}

/// What is empty does not matter; a name that is none fits nobody.
fn filter(order: Option<&v1::SessionFilter>) -> Result<SessionFilter, NameError> {
    fn name<T>(
        text: &str,
        parse: impl Fn(&str) -> Result<T, NameError>,
    ) -> Result<Option<T>, NameError> {
        (!text.is_empty()).then(|| parse(text)).transpose()
    }
    let Some(order) = order else {
        return Ok(SessionFilter::default());
    };
    Ok(SessionFilter {
        tenant: name(&order.tenant, TenantId::parse)?,
        user: name(&order.user, UserId::parse)?,
        session: name(&order.session, SessionId::parse)?,
    })
}

fn describe(session: SessionId, identity: &Identity) -> v1::SessionInfo {
    v1::SessionInfo {
        session: session.to_string(),
        tenant: identity.tenant.id.to_string(),
        user: identity.user.to_string(),
        role: identity.role.as_str().to_owned(),
        jti: identity.jti.as_deref().unwrap_or_default().to_owned(),
        issued_at: identity.issued_at,
        expires_at: identity.expires_at,
        opened_at_ms: opened_at_ms(session),
    }
}

/// A UUIDv7 begins with the milliseconds at which it was made.
fn opened_at_ms(session: SessionId) -> u64 {
    let mut bytes = [0; 8];
    bytes[2..].copy_from_slice(&session.as_bytes()[..6]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_obeyed_once_and_answered_each_time() {
        let mut kicks = Kicks::default();
        let mut closed = 0;
        for request in [7, 8, 7, 7] {
            let total = kicks.once(request, || {
                closed += 1;
                request as usize
            });
            assert_eq!(total, request as usize);
        }
        assert_eq!(closed, 2);
        // What is remembered is bounded.
        for request in 100..200 {
            kicks.once(request, || 1);
        }
        assert_eq!(kicks.0.len(), REMEMBERED);
        assert_eq!(kicks.once(7, || 0), 0);
    }
}
