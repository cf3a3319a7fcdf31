//! What a history must not show. Pure.
//!
//! Judged for each session and each room it was in:
//!
//! - isolation: only messages of its tenant, of that room, while it is in it, from who they say;
//! - order: of one publisher's session the numbers rise, so nothing comes twice;
//! - loss: where numbers are left out, a GAP stands in between, and its count suffices;
//!   who is there at the end has heard, or been told of, the last ones too;
//! - refusal: what `ERROR` said nobody gets, nobody got.
//!
//! Two losses are excused, and counted, where the Spine was in trouble, for nobody is left or there
//! yet who could tell. Messages of a publisher whose Shield was not heard before in that room: the
//! first number heard is where counting begins. And the last messages of a Shield that ended before
//! its beacon was due.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use super::ROOMS;
use super::history::{Event, Life, Message, Reason, Record};

/// What servers tell each other of a new subscription takes a moment even where all is well.
const INTEREST: Duration = Duration::from_secs(1);
/// A fault of the Spine goes on beyond its end: routes are dialled again, clients come back.
const AFTERMATH: Duration = Duration::from_secs(5);
/// A Shield that lives on for so long after its last message to a room has sent the room's beacon.
const BEACON: Duration = Duration::from_secs(10);
/// A publisher that lived on for so long had the answers to what it sent.
const ANSWERED: Duration = Duration::from_secs(5);

/// What is judged.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// All that happened.
    pub records: Vec<Record>,
    /// When the Spine was in trouble.
    pub troubled: Vec<(Duration, Duration)>,
    /// When a Shield ended.
    pub ends: Vec<Duration>,
    /// Sessions that were there at the end, when all had been said.
    pub alive: BTreeSet<Life>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// What must not be.
    pub violations: Vec<Violation>,
    /// Deliveries that were looked at.
    pub deliveries: usize,
    /// Messages that were lost and declared.
    pub declared: usize,
    /// Acknowledged messages that were lost and that nobody could declare.
    pub excused: Vec<Violation>,
}

/// What must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule is broken.
    pub rule: Rule,
    /// By whose ears.
    pub who: Life,
    /// In which room.
    pub room: u8,
    /// Whose messages.
    pub publisher: Life,
    /// Their numbers.
    pub seqs: Vec<u32>,
    /// Where in the records it begins and ends.
    pub between: (usize, usize),
}

/// A rule that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A message of another tenant, or of a sender it does not have.
    Isolation,
    /// A message of another room, or outside of `JOINED` to `LEFT`, or none of ours.
    Membership,
    /// A number that is not above the last.
    Order,
    /// An acknowledged message is missing, and no GAP says so.
    Loss,
    /// A message that was not acknowledged is missing, and no GAP says so.
    UntoldLoss,
    /// The GAPs tell fewer than are missing.
    Count,
    /// A message that `ERROR` said nobody gets.
    Refusal,
}

/// The fate of a message as its publisher knows it.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    sent: Duration,
    acked: bool,
    refused: bool,
}

/// What publishers know.
#[derive(Debug, Default)]
struct Fates {
    of: HashMap<Message, Fate>,
    /// The highest number of each publisher and room, for what nobody heard.
    last_sent: BTreeMap<(Life, u8), u32>,
    /// The last sign of each session.
    last_seen: HashMap<Life, Duration>,
}

/// A room as a session is in it.
#[derive(Debug)]
struct Membership {
    joined: Duration,
    joined_at_record: usize,
    /// The counts of the GAPs since.
    gaps: Vec<Option<u64>>,
    heard: HashMap<Life, Heard>,
}

/// How far a publisher was heard.
#[derive(Clone, Copy, Debug)]
struct Heard {
    seq: u32,
    at_record: usize,
    /// GAPs before.
    gaps: usize,
}

struct Judge<'a> {
    evidence: &'a Evidence,
    fates: Fates,
    rooms: HashMap<(Life, u8), Membership>,
    /// Numbers heard in a session, over memberships too.
    order: HashMap<(Life, u8, Life), u32>,
    found: Judgement,
}

/// Judges a history.
#[must_use]
pub fn judge(evidence: &Evidence) -> Judgement {
    let mut judge = Judge {
        evidence,
        fates: Fates::of(&evidence.records),
        rooms: HashMap::new(),
        order: HashMap::new(),
        found: Judgement::default(),
    };
    for (at, record) in evidence.records.iter().enumerate() {
        judge.take(at, record);
    }
    judge.end();
    judge.found
}

// === impl Fates ===

impl Fates {
    fn of(records: &[Record]) -> Self {
        let mut fates = Self::default();
        for record in records {
            let publisher = record.who;
            fates.last_seen.insert(publisher, record.at);
            let message = |room, seq| Message {
                publisher,
                room,
                seq,
            };
            match record.event {
                Event::Sent { room, seq, .. } => {
                    fates.of.entry(message(room, seq)).or_default().sent = record.at;
                    fates.last_sent.insert((publisher, room), seq);
                }
                Event::Acked(room, seq) => {
                    fates.of.entry(message(room, seq)).or_default().acked = true;
                }
                Event::Refused(room, seq, _) => {
                    fates.of.entry(message(room, seq)).or_default().refused = true;
                }
                _ => {}
            }
        }
        fates
    }

    /// Whether it was not sent, or nobody was to get it.
    fn is_no_loss(&self, message: Message) -> bool {
        self.of.get(&message).is_none_or(|fate| fate.refused)
    }

    fn is_acked(&self, message: Message) -> bool {
        self.of.get(&message).is_some_and(|fate| fate.acked)
    }

    /// Whether its publisher would know if it had been refused.
    fn is_answered(&self, message: Message) -> bool {
        let seen = self.last_seen.get(&message.publisher).copied();
        let sent = self.of.get(&message).map(|fate| fate.sent);
        sent.zip(seen)
            .is_some_and(|(sent, seen)| seen >= sent + ANSWERED)
    }
}

// === impl Judge ===

impl Judge<'_> {
    fn take(&mut self, at: usize, record: &Record) {
        let who = record.who;
        match &record.event {
            Event::Joined(room) => {
                let membership = Membership {
                    joined: record.at,
                    joined_at_record: at,
                    gaps: Vec::new(),
                    heard: HashMap::new(),
                };
                self.rooms.insert((who, *room), membership);
            }
            Event::Left(room) => {
                self.rooms.remove(&(who, *room));
            }
            Event::Closed(_) => {
                for room in 0..ROOMS.len() as u8 {
                    self.rooms.remove(&(who, room));
                }
            }
            Event::Gap(room, reason, missed) => {
                // Only numbers that were skipped are counted in full.
                let missed = missed.filter(|_| *reason == Reason::Sequence);
                if let Some(membership) = self.rooms.get_mut(&(who, *room)) {
                    membership.gaps.push(missed);
                }
            }
            Event::Strange(room, _) => self.strange(at, who, *room),
            Event::Heard {
                room,
                message,
                forged,
            } => self.hear(at, who, *room, *message, *forged),
            _ => {}
        }
    }

    fn strange(&mut self, at: usize, who: Life, room: u8) {
        self.break_rule(Rule::Membership, who, room, who, Vec::new(), (at, at));
    }

    fn hear(&mut self, at: usize, who: Life, room: u8, message: Message, forged: bool) {
        self.found.deliveries += 1;
        let publisher = message.publisher;
        let one = vec![message.seq];
        if publisher.tenant != who.tenant || forged {
            self.break_rule(Rule::Isolation, who, room, publisher, one, (at, at));
            return;
        }
        if self.fates.of.get(&message).is_some_and(|fate| fate.refused) {
            self.break_rule(Rule::Refusal, who, room, publisher, one.clone(), (at, at));
        }
        let was = self.order.insert((who, room, publisher), message.seq);
        if was.is_some_and(|was| message.seq <= was) {
            self.break_rule(Rule::Order, who, room, publisher, one.clone(), (at, at));
        }
        let in_it = self.rooms.contains_key(&(who, room));
        if message.room != room || !in_it {
            self.break_rule(Rule::Membership, who, room, publisher, one, (at, at));
            return;
        }
        self.look_for_loss(who, room, publisher, message.seq, at);
        if let Some(membership) = self.rooms.get_mut(&(who, room)) {
            let heard = Heard {
                seq: message.seq,
                at_record: at,
                gaps: membership.gaps.len(),
            };
            membership.heard.insert(publisher, heard);
        }
    }

    /// Who is there at the end has everything behind it.
    fn end(&mut self) {
        let sent: Vec<_> = self.fates.last_sent.clone().into_iter().collect();
        let last = self.evidence.records.len();
        for who in &self.evidence.alive {
            for ((publisher, room), seq) in &sent {
                let is_theirs = publisher.tenant == who.tenant;
                if is_theirs && self.rooms.contains_key(&(*who, *room)) {
                    self.look_for_loss(*who, *room, *publisher, seq + 1, last);
                }
            }
        }
    }

    /// What of a publisher is missing before this number, which is heard, or one beyond the last.
    fn look_for_loss(&mut self, who: Life, room: u8, publisher: Life, seq: u32, at: usize) {
        let Some(membership) = self.rooms.get(&(who, room)) else {
            return;
        };
        let is_end = at == self.evidence.records.len();
        let before = membership.heard.get(&publisher).copied();
        let message = |seq| Message {
            publisher,
            room,
            seq,
        };
        let first = before.map_or(1, |heard| heard.seq + 1);
        let missing = (first..seq).map(message);
        let missing: Vec<Message> = missing.filter(|it| !self.fates.is_no_loss(*it)).collect();
        let (acked, others): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|it| self.fates.is_acked(*it));
        let begin = before.map_or(membership.joined_at_record, |heard| heard.at_record);
        let told = &membership.gaps[before.map_or(0, |heard| heard.gaps)..];
        if before.is_none() {
            let joined = membership.joined;
            let covered = !told.is_empty();
            let lost: Vec<_> = acked
                .into_iter()
                .filter(|it| self.fates.of[it].sent > joined + INTEREST)
                .collect();
            if covered {
                self.found.declared += lost.len();
                return;
            }
            let is_excused = |it: &Message| self.is_troubled(joined, self.fates.of[it].sent);
            let (excused, lost): (Vec<_>, Vec<_>) = lost.into_iter().partition(is_excused);
            self.excuse(who, &excused, (begin, at));
            self.lose(Rule::Loss, who, &lost, (begin, at));
            return;
        }
        if told.is_empty() {
            let is_last_word = |it: &Message| is_end && self.is_last_word(self.fates.of[it].sent);
            let (excused, acked): (Vec<_>, Vec<_>) = acked.into_iter().partition(is_last_word);
            self.excuse(who, &excused, (begin, at));
            self.lose(Rule::Loss, who, &acked, (begin, at));
            // At the end a publisher's last words may have died with its own connection.
            let answered = |it: &Message| self.fates.is_answered(*it);
            let others: Vec<_> = others.into_iter().filter(answered).collect();
            if !is_end {
                self.lose(Rule::UntoldLoss, who, &others, (begin, at));
            }
            return;
        }
        let count: Option<u64> = told.iter().copied().sum();
        if count.is_some_and(|count| count < acked.len() as u64) {
            self.lose(Rule::Count, who, &acked, (begin, at));
        } else {
            self.found.declared += acked.len();
        }
    }

    fn is_troubled(&self, from: Duration, to: Duration) -> bool {
        let mut troubled = self.evidence.troubled.iter();
        troubled.any(|(begin, end)| *begin <= to && *end + AFTERMATH >= from)
    }

    /// Whether a Shield may have ended before it told that this was its last message.
    fn is_last_word(&self, sent: Duration) -> bool {
        let mut ends = self.evidence.ends.iter();
        self.is_troubled(sent, sent + AFTERMATH)
            && ends.any(|end| *end >= sent && *end <= sent + BEACON)
    }

    fn lose(&mut self, rule: Rule, who: Life, lost: &[Message], between: (usize, usize)) {
        let lost = Violation::of(rule, who, lost, between);
        self.found.violations.extend(lost);
    }

    fn excuse(&mut self, who: Life, lost: &[Message], between: (usize, usize)) {
        let lost = Violation::of(Rule::Loss, who, lost, between);
        self.found.excused.extend(lost);
    }

    fn break_rule(
        &mut self,
        rule: Rule,
        who: Life,
        room: u8,
        publisher: Life,
        seqs: Vec<u32>,
        between: (usize, usize),
    ) {
        self.found.violations.push(Violation {
            rule,
            who,
            room,
            publisher,
            seqs,
            between,
        });
    }
}

// === impl Violation ===

impl Violation {
    /// Of messages of one publisher; None where there are none.
    fn of(rule: Rule, who: Life, lost: &[Message], between: (usize, usize)) -> Option<Self> {
        let first = lost.first()?;
        Some(Self {
            rule,
            who,
            room: first.room,
            publisher: first.publisher,
            seqs: lost.iter().map(|it| it.seq).collect(),
            between,
        })
    }
}

impl Judgement {
    /// How many messages are excused.
    #[must_use]
    pub fn excused(&self) -> usize {
        self.excused.iter().map(|it| it.seqs.len()).sum()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let room = ROOMS.get(usize::from(self.room)).unwrap_or(&"?");
        write!(
            f,
            "{:?}: {} in {room}, of {}: {:?}",
            self.rule, self.who, self.publisher, self.seqs
        )
    }
}
