//! Each rule is broken by hand and must be found; what is allowed must not be.

use super::*;

fn life(tenant: u8, client: u8) -> Life {
    Life {
        tenant,
        client,
        number: 1,
    }
}

const ROOM: u8 = 0;

/// A history told by hand. Alice (0) publishes, Bob (1) listens.
#[derive(Default)]
struct Tale {
    evidence: Evidence,
    seconds: u64,
}

impl Tale {
    /// Both are in the room for long.
    fn begin() -> Self {
        let mut tale = Self::default();
        for client in [0, 1] {
            tale.say(life(0, client), Event::Opened);
            tale.say(life(0, client), Event::Joined(ROOM));
        }
        tale.wait(60);
        tale
    }

    fn wait(&mut self, seconds: u64) -> &mut Self {
        self.seconds += seconds;
        self
    }

    fn say(&mut self, who: Life, event: Event) -> &mut Self {
        let at = Duration::from_secs(self.seconds);
        self.evidence.records.push(Record { at, who, event });
        self
    }

    /// Alice publishes these, acknowledged.
    fn acked(&mut self, seqs: impl IntoIterator<Item = u32>) -> &mut Self {
        for seq in seqs {
            self.sent(seq).say(life(0, 0), Event::Acked(ROOM, seq));
        }
        self
    }

    fn sent(&mut self, seq: u32) -> &mut Self {
        let ack = true;
        let room = ROOM;
        self.say(life(0, 0), Event::Sent { room, seq, ack })
    }

    /// Bob hears these of Alice.
    fn heard(&mut self, seqs: impl IntoIterator<Item = u32>) -> &mut Self {
        for seq in seqs {
            self.hears(ROOM, life(0, 0), ROOM, seq, false);
        }
        self
    }

    fn hears(
        &mut self,
        room: u8,
        publisher: Life,
        of_room: u8,
        seq: u32,
        forged: bool,
    ) -> &mut Self {
        let message = Message {
            publisher,
            room: of_room,
            seq,
        };
        let heard = Event::Heard {
            room,
            message,
            forged,
        };
        self.say(life(0, 1), heard)
    }

    fn gap(&mut self, missed: Option<u64>) -> &mut Self {
        let reason = match missed {
            Some(_) => Reason::Sequence,
            None => Reason::Reconnected,
        };
        self.say(life(0, 1), Event::Gap(ROOM, reason, missed))
    }

    fn alive(&mut self) -> &mut Self {
        self.evidence.alive = [life(0, 0), life(0, 1)].into();
        self
    }

    /// The rules that are broken, each with the numbers.
    fn broken(&self) -> Vec<(Rule, Vec<u32>)> {
        let found = judge(&self.evidence).violations;
        found.into_iter().map(|it| (it.rule, it.seqs)).collect()
    }
}

#[test]
fn a_history_without_fault_is_clean() {
    let mut tale = Tale::begin();
    tale.acked(1..=5).heard(1..=5);
    // What the publisher hears of itself counts too; it has its own ears.
    let found = judge(&tale.evidence);
    assert_eq!(found.violations, []);
    assert_eq!(found.deliveries, 5);
}

#[test]
fn a_message_of_another_tenant_is_found() {
    let mut tale = Tale::begin();
    tale.hears(ROOM, life(1, 0), ROOM, 1, false);
    assert_eq!(tale.broken(), [(Rule::Isolation, vec![1])]);
}

#[test]
fn a_forged_sender_is_found() {
    let mut tale = Tale::begin();
    tale.acked([1]).hears(ROOM, life(0, 0), ROOM, 1, true);
    assert_eq!(tale.broken(), [(Rule::Isolation, vec![1])]);
}

#[test]
fn a_message_of_another_room_or_after_left_or_of_nobody_is_found() {
    let mut tale = Tale::begin();
    tale.acked([1]).hears(ROOM, life(0, 0), 1, 1, false);
    assert_eq!(tale.broken(), [(Rule::Membership, vec![1])]);

    let mut tale = Tale::begin();
    tale.say(life(0, 1), Event::Left(ROOM))
        .acked([1])
        .heard([1]);
    assert_eq!(tale.broken(), [(Rule::Membership, vec![1])]);

    let mut tale = Tale::begin();
    tale.say(life(0, 1), Event::Strange(ROOM, "what".to_owned()));
    assert_eq!(tale.broken(), [(Rule::Membership, vec![])]);
}

#[test]
fn disorder_and_duplicates_are_found() {
    let mut tale = Tale::begin();
    tale.acked(1..=3).heard([1, 3, 2]);
    let broken = tale.broken();
    assert!(broken.contains(&(Rule::Order, vec![2])), "{broken:?}");

    let mut tale = Tale::begin();
    tale.acked(1..=2).heard([1, 2, 2]);
    assert_eq!(tale.broken(), [(Rule::Order, vec![2])]);

    // Over a second membership of the same session too.
    let mut tale = Tale::begin();
    tale.acked(1..=2).heard([1, 2]);
    tale.say(life(0, 1), Event::Left(ROOM))
        .say(life(0, 1), Event::Joined(ROOM));
    tale.heard([2]);
    assert_eq!(tale.broken(), [(Rule::Order, vec![2])]);
}

#[test]
fn an_acknowledged_message_that_is_missing_is_found() {
    let mut tale = Tale::begin();
    tale.acked(1..=5).heard([1, 2, 5]);
    assert_eq!(tale.broken(), [(Rule::Loss, vec![3, 4])]);
    // Trouble of the Spine is no excuse: the number before was heard.
    tale.evidence.troubled = vec![(Duration::ZERO, Duration::from_secs(1_000))];
    assert_eq!(tale.broken(), [(Rule::Loss, vec![3, 4])]);
}

#[test]
fn a_gap_in_the_hole_declares_it_and_one_elsewhere_does_not() {
    for missed in [Some(2), None] {
        let mut tale = Tale::begin();
        tale.acked(1..=5).heard([1, 2]).gap(missed).heard([5]);
        assert_eq!(tale.broken(), []);
        assert_eq!(judge(&tale.evidence).declared, 2);

        let mut tale = Tale::begin();
        tale.acked(1..=5).heard([1]).gap(missed).heard([2, 5]);
        assert_eq!(tale.broken(), [(Rule::Loss, vec![3, 4])]);

        let mut tale = Tale::begin();
        tale.acked(1..=5).heard([1, 2, 5]).gap(missed);
        assert_eq!(tale.broken(), [(Rule::Loss, vec![3, 4])]);
    }
}

#[test]
fn a_gap_that_tells_too_few_is_found() {
    let mut tale = Tale::begin();
    tale.acked(1..=5).heard([1]).gap(Some(2)).heard([5]);
    assert_eq!(tale.broken(), [(Rule::Count, vec![2, 3, 4])]);
}

#[test]
fn the_last_messages_must_be_heard_by_who_is_there_at_the_end() {
    let mut tale = Tale::begin();
    tale.acked(1..=5).heard([1, 2, 3]);
    assert_eq!(tale.broken(), [], "he may have gone");
    let own = |seq| Event::Heard {
        room: ROOM,
        message: Message {
            publisher: life(0, 0),
            room: ROOM,
            seq,
        },
        forged: false,
    };
    for seq in 1..=5 {
        tale.say(life(0, 0), own(seq));
    }
    tale.alive();
    assert_eq!(tale.broken(), [(Rule::Loss, vec![4, 5])]);
    tale.gap(Some(2));
    assert_eq!(tale.broken(), []);
}

#[test]
fn the_last_words_of_a_shield_are_excused_only_with_trouble_and_its_end() {
    let seconds = Duration::from_secs;
    let mut tale = Tale::begin();
    tale.acked(1..=3).heard([1]);
    tale.evidence.alive = [life(0, 1)].into();
    let loss = [(Rule::Loss, vec![2, 3])];
    assert_eq!(tale.broken(), loss);
    tale.evidence.ends = vec![seconds(62)];
    assert_eq!(tale.broken(), loss);
    tale.evidence.troubled = vec![(seconds(59), seconds(61))];
    assert_eq!(tale.broken(), []);
    assert_eq!(judge(&tale.evidence).excused(), 2);
    tale.evidence.ends = vec![seconds(59), seconds(80)];
    assert_eq!(tale.broken(), loss);
}

#[test]
fn who_never_heard_a_publisher_has_lost_all_since_it_joined() {
    let mut tale = Tale::begin();
    tale.acked(1..=3).heard([3]);
    assert_eq!(tale.broken(), [(Rule::Loss, vec![1, 2])]);
    tale.evidence.troubled = vec![(Duration::from_secs(30), Duration::from_secs(31))];
    assert_eq!(tale.broken(), [], "a route may have been down");
    assert_eq!(judge(&tale.evidence).excused(), 2);

    let mut tale = Tale::begin();
    tale.acked(1..=3);
    tale.evidence.alive = [life(0, 1)].into();
    assert_eq!(tale.broken(), [(Rule::Loss, vec![1, 2, 3])]);

    // What was said before it came is not its loss.
    let mut tale = Tale::default();
    tale.acked(1..=2).say(life(0, 1), Event::Opened);
    tale.say(life(0, 1), Event::Joined(ROOM))
        .acked([3])
        .heard([3]);
    assert_eq!(tale.broken(), []);
}

#[test]
fn what_was_refused_is_no_loss_and_must_not_be_heard() {
    let mut tale = Tale::begin();
    let refused = || Event::Refused(ROOM, 2, "SPINE_UNAVAILABLE".to_owned());
    tale.acked([1])
        .sent(2)
        .say(life(0, 0), refused())
        .acked([3]);
    tale.heard([1, 3]);
    assert_eq!(tale.broken(), []);

    let mut tale = Tale::begin();
    tale.acked([1]).heard([1]).sent(2).heard([2]);
    tale.say(life(0, 0), refused());
    assert_eq!(tale.broken(), [(Rule::Refusal, vec![2])]);
}

#[test]
fn what_was_not_acknowledged_is_missed_where_its_publisher_lived_on() {
    let mut tale = Tale::begin();
    tale.acked([1]).sent(2).acked([3]).heard([1, 3]);
    assert_eq!(tale.broken(), [], "its refusal may not have come");
    tale.wait(60).acked([4]).heard([4]);
    assert_eq!(tale.broken(), [(Rule::UntoldLoss, vec![2])]);
}

#[test]
fn a_session_that_ended_hears_nothing_and_a_new_one_begins_anew() {
    let mut tale = Tale::begin();
    tale.acked(1..=2)
        .heard([1])
        .say(life(0, 1), Event::Closed("cut".to_owned()));
    tale.acked([3]);
    assert_eq!(tale.broken(), []);
    tale.heard([2]);
    assert_eq!(tale.broken(), [(Rule::Membership, vec![2])]);
}
