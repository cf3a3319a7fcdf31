//! What all live Shields say: whether a revocation or a tenant's record is in
//! force, and which sessions there are.

use arqon_proto::v1::{self, control::Order};
use futures_util::StreamExt;

use super::roll::{Roll, Said, WaitFor};
use crate::control::{ControlError, ControlStore};

/// Ears for beats and answers, from when this was opened.
#[derive(Debug)]
pub struct Census {
    roll: Roll<OfShield>,
    /// The number of its one question.
    request: u64,
}

#[derive(Debug, Default)]
struct OfShield {
    revocations: Option<v1::RevocationSummary>,
    tenants_revision: u64,
    answer: Pages,
}

/// An answer that comes page by page.
#[derive(Debug, Default)]
struct Pages {
    /// The page that continues it.
    next: u32,
    whole: bool,
    found: ShieldSessions,
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

// === impl Census ===

impl Census {
    /// Begins to listen; to be opened before the change that is waited for.
    pub async fn open(control: &ControlStore) -> Result<Self, ControlError> {
        let request: u64 = rand::random();
        let answers = control.subscribe_sessions().await?;
        // Others ask too.
        let answers = answers.filter(move |page| std::future::ready(page.request == request));
        let roll = Roll::open(control, answers.boxed()).await?;
        Ok(Self { roll, request })
    }

    /// Waits until every live Shield goes by the revocations as of this revision.
    pub async fn wait_revocations(
        &mut self,
        revision: u64,
        wait: WaitFor,
    ) -> Result<Vec<Answer<()>>, ControlError> {
        let has = |shield: &OfShield| {
            let summary = shield.revocations.as_ref();
            summary.is_some_and(|summary| summary.revision >= revision)
        };
        self.wait(wait, has).await
    }

    /// Waits until every live Shield goes by the tenants as of this revision.
    pub async fn wait_tenants(
        &mut self,
        revision: u64,
        wait: WaitFor,
    ) -> Result<Vec<Answer<()>>, ControlError> {
        let has = |shield: &OfShield| shield.tenants_revision >= revision;
        self.wait(wait, has).await
    }

    async fn wait(
        &mut self,
        wait: WaitFor,
        has: impl Fn(&OfShield) -> bool,
    ) -> Result<Vec<Answer<()>>, ControlError> {
        self.roll.wait(wait, None, |_, shield| has(shield)).await?;
        let answers = self.roll.said().map(|(name, shield)| Answer {
            shield: name.clone(),
            said: has(shield).then_some(()),
        });
        Ok(answers.collect())
    }

    /// Gives an order about sessions to all Shields and waits for their answers.
    /// `order` makes it from the number by which its answers are known; a
    /// second order needs a second census.
    pub async fn ask_sessions(
        mut self,
        order: impl FnOnce(u64) -> Order,
        wait: WaitFor,
    ) -> Result<Vec<Answer<ShieldSessions>>, ControlError> {
        let order = order(self.request);
        let whole = |_: &str, shield: &OfShield| shield.answer.whole;
        self.roll.wait(wait, Some(order), whole).await?;
        let answers = self.roll.said().map(|(name, shield)| Answer {
            shield: name.clone(),
            said: shield.answer.whole.then(|| shield.answer.found.clone()),
        });
        Ok(answers.collect())
    }
}

impl Said for OfShield {
    type Word = v1::SessionsReport;

    fn speaker(page: &v1::SessionsReport) -> (&str, &str) {
        (&page.shield, &page.incarnation)
    }

    fn hear(&mut self, page: v1::SessionsReport) {
        self.answer.take(page);
    }

    fn hear_beat(&mut self, beat: &v1::ShieldBeat) {
        self.revocations = beat.revocations;
        self.tenants_revision = beat.tenants_revision;
    }
}

// === impl Pages ===

impl Pages {
    /// Takes over a page. A Shield that was asked twice answers twice, each time
    /// from page 0: the first whole answer counts.
    fn take(&mut self, page: v1::SessionsReport) {
        if self.whole {
            return;
        }
        if page.page == 0 {
            *self = Self::default();
        } else if page.page != self.next {
            return;
        }
        self.next = page.page + 1;
        self.whole = page.last;
        self.found.total = page.total;
        self.found.sessions.extend(page.sessions);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn page(page: u32, last: bool, sessions: &[&str]) -> v1::SessionsReport {
        let info = |id: &&str| v1::SessionInfo {
            session: (*id).to_owned(),
            ..Default::default()
        };
        v1::SessionsReport {
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
            let mut answer = Pages::default();
            pages.iter().cloned().for_each(|page| answer.take(page));
            let ids = answer.found.sessions.into_iter().map(|info| info.session);
            answer.whole.then(|| ids.collect::<Vec<_>>().join(","))
        };
        assert_eq!(ids(&[]), None);
        assert_eq!(ids(&[page(0, false, &["a"])]), None);
        let two = [page(0, false, &["a"]), page(1, true, &["b"])];
        assert_eq!(ids(&two).unwrap(), "a,b");
        // A page that was lost ends the answer it belongs to, and no other.
        let hole = [page(0, false, &["a"]), page(2, true, &["c"])];
        assert_eq!(ids(&hole), None);
        let again = [&hole[..], &two[..]].concat();
        assert_eq!(ids(&again).unwrap(), "a,b");
        // What comes after a whole answer changes nothing.
        let twice = [&two[..], &two[..1]].concat();
        assert_eq!(ids(&twice).unwrap(), "a,b");
    }

    /// Each page is looked at once: as many as a fleet of a thousand would send.
    #[test]
    fn a_long_answer_is_put_together_without_looking_back() {
        const PAGES: u32 = 40_000;
        let mut answer = Pages::default();
        for number in 0..PAGES {
            answer.take(page(number, number + 1 == PAGES, &["a"; 25]));
        }
        assert!(answer.whole);
        assert_eq!(answer.found.sessions.len(), PAGES as usize * 25);
    }
}
