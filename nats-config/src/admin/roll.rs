//! Which Shields are live, and what each has said.
//!
//! Who is live is known by beats: whoever has not beaten within the census is
//! not waited for, and whoever beats and does not answer is named. An order goes
//! to all once and is repeated to those alone that say nothing: what was done
//! by the others must not be done twice. What came is looked at once, when it
//! came, so a wait costs as much as there is to hear.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arqon_proto::names::NodeId;
use arqon_proto::v1::{self, control::Order};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};

use crate::control::{ControlError, ControlStore};

/// A Shield counts as live for so long after a beat.
const LIVE: Duration = Duration::from_secs(3);
/// How often Shields that have not answered are asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a look at what came may take.
const GLANCE: Duration = Duration::from_millis(50);

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub struct WaitFor {
    /// From when listening began; whoever has not beaten by then is not live.
    /// Shields beat once a second and are live for three.
    pub census: Duration,
    /// From the call, for the answers of those that are.
    pub patience: Duration,
}

/// What one Shield has said so far.
pub(super) trait Said: Default {
    /// One message of a Shield, beside its beats.
    type Word;

    /// Who says it: the Shield, and which process it is.
    fn speaker(word: &Self::Word) -> (&str, &str);

    /// Takes over a message.
    fn hear(&mut self, word: Self::Word);

    /// Takes over a beat.
    fn hear_beat(&mut self, _beat: &v1::ShieldBeat) {}
}

/// Ears for beats and words of Shields, from when this was opened.
pub(super) struct Roll<S: Said> {
    control: ControlStore,
    beats: BoxStream<'static, v1::ShieldBeat>,
    words: BoxStream<'static, S::Word>,
    opened: Instant,
    shields: BTreeMap<String, Live<S>>,
}

#[derive(Debug)]
struct Live<S> {
    heard: Instant,
    /// When it last said more than that it lives.
    word: Option<Instant>,
    incarnation: String,
    answered: bool,
    said: S,
}

// === impl WaitFor ===

impl Default for WaitFor {
    fn default() -> Self {
        Self {
            census: LIVE,
            patience: Duration::from_secs(10),
        }
    }
}

// === impl Roll ===

impl<S: Said> Roll<S> {
    /// Begins to listen; to be opened before the change that is waited for.
    pub(super) async fn open(
        control: &ControlStore,
        words: BoxStream<'static, S::Word>,
    ) -> Result<Self, ControlError> {
        let beats = control.subscribe_beats().await?;
        control.flush().await?;
        Ok(Self {
            control: control.clone(),
            beats,
            words,
            opened: Instant::now(),
            shields: BTreeMap::new(),
        })
    }

    /// What each Shield has said, by name.
    pub(super) fn said(&self) -> impl Iterator<Item = (&String, &S)> {
        self.shields.iter().map(|(name, live)| (name, &live.said))
    }

    /// Waits until every live Shield has answered, and gives `order` meanwhile.
    /// `has_answered` is asked about each Shield at first and whenever it said something.
    pub(super) async fn wait(
        &mut self,
        wait: WaitFor,
        order: Option<Order>,
        mut has_answered: impl FnMut(&str, &S) -> bool,
    ) -> Result<(), ControlError> {
        let deadline = Instant::now() + wait.patience.max(wait.census);
        let census_ends = self.opened + wait.census;
        for (name, live) in &mut self.shields {
            live.answered = has_answered(name, &live.said);
        }
        let mut asked: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let all_answered = !self.shields.values().any(|live| live.is_awaited(now));
            if (all_answered && now >= census_ends) || now >= deadline {
                return Ok(());
            }
            if let Some(order) = &order {
                match asked {
                    None => {
                        asked = Some(now);
                        self.control.send_order(None, order.clone()).await?;
                    }
                    Some(at) if now.duration_since(at) >= ASK_AGAIN => {
                        asked = Some(now);
                        self.ask_again(order, now).await?;
                    }
                    Some(_) => {}
                }
            }
            let mut heard = tokio::time::timeout(GLANCE, self.hear()).await.ok();
            // All that is there at once: each look at the clock is a look at every Shield.
            while let Some(name) = heard {
                if let Some(name) = name?
                    && let Some(live) = self.shields.get_mut(&name)
                {
                    live.answered = has_answered(&name, &live.said);
                }
                heard = self.hear().now_or_never();
            }
        }
    }

    async fn ask_again(&self, order: &Order, now: Instant) -> Result<(), ControlError> {
        // Not one that is still saying its answer: it would begin anew.
        let speaks = |live: &Live<S>| {
            live.word
                .is_some_and(|at| now.duration_since(at) < ASK_AGAIN)
        };
        let silent = self
            .shields
            .iter()
            .filter(|(_, live)| live.is_awaited(now) && !speaks(live))
            .filter_map(|(name, _)| NodeId::parse(name).ok());
        for shield in silent {
            let order = order.clone();
            self.control.send_order(Some(&shield), order).await?;
        }
        Ok(())
    }

    /// Takes over what comes next, and names whose it was if that Shield lives.
    async fn hear(&mut self) -> Result<Option<String>, ControlError> {
        tokio::select! {
            beat = self.beats.next() => {
                let beat = beat.ok_or(ControlError::Closed)?;
                if beat.goodbye {
                    self.shields.remove(&beat.shield);
                    return Ok(None);
                }
                self.live(&beat.shield, &beat.incarnation).said.hear_beat(&beat);
                Ok(Some(beat.shield))
            }
            word = self.words.next() => {
                let word = word.ok_or(ControlError::Closed)?;
                let (name, incarnation) = S::speaker(&word);
                let name = name.to_owned();
                let live = self.live(&name, incarnation);
                live.word = Some(live.heard);
                live.said.hear(word);
                Ok(Some(name))
            }
        }
    }

    fn live(&mut self, name: &str, incarnation: &str) -> &mut Live<S> {
        let new = || Live {
            heard: Instant::now(),
            word: None,
            incarnation: incarnation.to_owned(),
            answered: false,
            said: S::default(),
        };
        let live = self.shields.entry(name.to_owned()).or_insert_with(new);
        if live.incarnation != incarnation {
            // What the process before it said is no word of this one.
            *live = new();
        }
        live.heard = Instant::now();
        live
    }
}

impl<S> Live<S> {
    /// Whether it beats and has not answered.
    fn is_awaited(&self, now: Instant) -> bool {
        !self.answered && now.duration_since(self.heard) < LIVE
    }
}

impl<S: Said + std::fmt::Debug> std::fmt::Debug for Roll<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roll")
            .field("shields", &self.shields)
            .finish_non_exhaustive()
    }
}
