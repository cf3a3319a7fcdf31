//! What all live Shields say: whether a revocation or a tenant's record is in
//! force, and which sessions there are.
//!
//! Who is live is known by beats, so whoever has not beaten within the census
//! is not waited for, and whoever beats and does not answer is named.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arqon_proto::names::NodeId;
use arqon_proto::v1::{self, control::Order};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::policies::WaitFor;
use crate::control::{ControlError, ControlStore};

/// How often Shields that have not answered are asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a look at what came may take.
const GLANCE: Duration = Duration::from_millis(50);
/// A Shield counts as live for so long after a beat.
const LIVE: Duration = Duration::from_secs(3);

/// Ears for beats and answers, from when this was opened.
pub struct Census {
    control: ControlStore,
    beats: BoxStream<'static, v1::ShieldBeat>,
    answers: BoxStream<'static, v1::SessionsReport>,
    opened: Instant,
    shields: BTreeMap<String, Shield>,
}

#[derive(Debug)]
struct Shield {
    heard: Instant,
    incarnation: String,
    revocations: Option<v1::RevocationSummary>,
    tenants_revision: u64,
    pages: Vec<v1::SessionsReport>,
}

/// One Shield's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer<T> {
    /// The Shield.
    pub shield: String,
    /// What it said; `None`: it is live and has not answered.
    pub said: Option<T>,
}

/// What a Shield says of sessions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShieldSessions {
    /// How many the order concerned.
    pub total: u32,
    /// Those that were told.
    pub sessions: Vec<v1::SessionInfo>,
}

impl Census {
    /// Begins to listen; to be opened before the change that is waited for.
    pub async fn open(control: &ControlStore) -> Result<Self, ControlError> {
        let beats = control.subscribe_beats().await?;
        let answers = control.subscribe_sessions().await?;
        control.flush().await?;
        Ok(Self {
            control: control.clone(),
            beats,
            answers,
            opened: Instant::now(),
            shields: BTreeMap::new(),
        })
    }

    /// Waits until every live Shield goes by the revocations as of this revision.
    pub async fn wait_revocations(
        &mut self,
        revision: u64,
        wait: WaitFor,
    ) -> Result<Vec<Answer<()>>, ControlError> {
        let has = |shield: &Shield| {
            let summary = shield.revocations.as_ref()?;
            (summary.revision >= revision).then_some(())
        };
        self.wait(wait, None, has).await
    }

    /// Waits until every live Shield goes by the tenants as of this revision.
    pub async fn wait_tenants(
        &mut self,
        revision: u64,
        wait: WaitFor,
    ) -> Result<Vec<Answer<()>>, ControlError> {
        let has = |shield: &Shield| (shield.tenants_revision >= revision).then_some(());
        self.wait(wait, None, has).await
    }

    /// Gives an order about sessions to all Shields, or to one, and waits for their answers.
    /// `order` makes it from the number by which its answers are known.
    pub async fn ask_sessions(
        &mut self,
        order: impl FnOnce(u64) -> Order,
        wait: WaitFor,
    ) -> Result<Vec<Answer<ShieldSessions>>, ControlError> {
        let request: u64 = rand::random();
        let order = order(request);
        self.wait(wait, Some(order), |shield| whole(&shield.pages, request))
            .await
    }

    async fn wait<T>(
        &mut self,
        wait: WaitFor,
        order: Option<Order>,
        said: impl Fn(&Shield) -> Option<T>,
    ) -> Result<Vec<Answer<T>>, ControlError> {
        let deadline = Instant::now() + wait.patience.max(wait.census);
        let census_ends = self.opened + wait.census;
        let mut asked: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let silent = |shield: &Shield| now.duration_since(shield.heard) >= LIVE;
            let all_said = self
                .shields
                .values()
                .all(|shield| silent(shield) || said(shield).is_some());
            if (all_said && now >= census_ends) || now >= deadline {
                break;
            }
            let due = asked.is_none_or(|asked| !all_said && now.duration_since(asked) >= ASK_AGAIN);
            if let Some(order) = order.as_ref().filter(|_| due) {
                let first = asked.replace(now).is_none();
                if first {
                    self.control.send_order(None, order.clone()).await?;
                } else {
                    // Not those that answered: they would kick again who came back.
                    let missing = self
                        .shields
                        .iter()
                        .filter(|(_, shield)| !silent(shield) && said(shield).is_none())
                        .filter_map(|(name, _)| NodeId::parse(name).ok());
                    for shield in missing {
                        let order = order.clone();
                        self.control.send_order(Some(&shield), order).await?;
                    }
                }
            }
            if let Ok(heard) = tokio::time::timeout(GLANCE, self.hear()).await {
                heard?;
            }
        }
        let answers = self.shields.iter().map(|(name, shield)| Answer {
            shield: name.clone(),
            said: said(shield),
        });
        Ok(answers.collect())
    }

    async fn hear(&mut self) -> Result<(), ControlError> {
        tokio::select! {
            beat = self.beats.next() => {
                let beat = beat.ok_or(ControlError::Closed)?;
                if beat.goodbye {
                    self.shields.remove(&beat.shield);
                } else {
                    let shield = self.shield(beat.shield, &beat.incarnation);
                    shield.revocations = beat.revocations;
                    shield.tenants_revision = beat.tenants_revision;
                }
            }
            answer = self.answers.next() => {
                let answer = answer.ok_or(ControlError::Closed)?;
                self.shield(answer.shield.clone(), &answer.incarnation)
                    .pages
                    .push(answer);
            }
        }
        Ok(())
    }

    fn shield(&mut self, name: String, incarnation: &str) -> &mut Shield {
        let new = || Shield {
            heard: Instant::now(),
            incarnation: incarnation.to_owned(),
            revocations: None,
            tenants_revision: 0,
            pages: Vec::new(),
        };
        let shield = self.shields.entry(name).or_insert_with(new);
        if shield.incarnation != incarnation {
            // What the process before it said is no word of this one.
            *shield = new();
        }
        shield.heard = Instant::now();
        shield
    }
}

impl std::fmt::Debug for Census {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Census")
            .field("shields", &self.shields)
            .finish_non_exhaustive()
    }
}

/// The answer to a request, once all its pages are there. A Shield that was
/// asked twice answers twice, each time from page 0: the first whole answer counts.
fn whole(pages: &[v1::SessionsReport], request: u64) -> Option<ShieldSessions> {
    let mut found = ShieldSessions::default();
    let mut next = 0;
    for page in pages.iter().filter(|page| page.request == request) {
        if page.page == 0 {
            found = ShieldSessions::default();
        } else if page.page != next {
            continue;
        }
        next = page.page + 1;
        found.total = page.total;
        found.sessions.extend_from_slice(&page.sessions);
        if page.last {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn page(request: u64, page: u32, last: bool, sessions: &[&str]) -> v1::SessionsReport {
        let info = |id: &&str| v1::SessionInfo {
            session: (*id).to_owned(),
            ..Default::default()
        };
        v1::SessionsReport {
            request,
            page,
            last,
            total: 9,
            sessions: sessions.iter().map(info).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn an_answer_counts_once_all_its_pages_came_in_order() {
        let ids = |pages: &[v1::SessionsReport]| {
            let found = whole(pages, 1)?;
            let ids: Vec<_> = found
                .sessions
                .into_iter()
                .map(|info| info.session)
                .collect();
            Some(ids.join(","))
        };
        assert_eq!(ids(&[]), None);
        assert_eq!(ids(&[page(1, 0, false, &["a"])]), None);
        assert_eq!(ids(&[page(2, 0, true, &["a"])]), None);
        let two = [page(1, 0, false, &["a"]), page(1, 1, true, &["b"])];
        assert_eq!(ids(&two).unwrap(), "a,b");
        // A page that was lost ends the answer it belongs to, and no other.
        let hole = [page(1, 0, false, &["a"]), page(1, 2, true, &["c"])];
        assert_eq!(ids(&hole), None);
        let again = [&hole[..], &two[..]].concat();
        assert_eq!(ids(&again).unwrap(), "a,b");
        assert_eq!(whole(&two, 1).unwrap().total, 9);
    }
}
