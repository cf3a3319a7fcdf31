//! Quarantine of one binding for one tenant: a policy that fails for several
//! senders rests, and is tried now and then.

use std::time::{Duration, Instant};

use arqon_proto::names::{SessionId, UserId};

const WINDOW_SECONDS: u64 = 10;
/// Sessions, users and runs it takes, so that no single sender can silence a tenant.
const SESSIONS: usize = 3;
const USERS: usize = 2;
const RUNS: u32 = 10;
/// Sessions that are remembered; a newer one takes the place of the oldest.
const REMEMBERED: usize = 32;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The state of one binding for one tenant.
#[derive(Debug)]
pub(crate) struct Quarantine {
    start: Instant,
    state: State,
    window: Window,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Open,
    /// Blocks until then; the wait doubles when the try fails.
    Closed {
        until: Instant,
        wait: Duration,
        /// Whether a try is on its way. Runs that began before it closed are none.
        trying: bool,
    },
}

/// Whether a message may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admit {
    Run,
    Refuse,
}

/// What a run changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Entered,
    Lifted,
}

/// Runs and faults of the last ten seconds, second by second, and whom the
/// faults hit.
#[derive(Debug, Default)]
struct Window {
    seconds: [Second; WINDOW_SECONDS as usize],
    /// Who saw it fail, and in which second last.
    hit: Vec<(SessionId, UserId, u64)>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Second {
    number: u64,
    runs: u32,
    faults: u32,
}

impl Quarantine {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            start: now,
            state: State::Open,
            window: Window::default(),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// Asks for one message. While it is closed, one message passes at the end
    /// of each wait; should nothing be heard of it, the next one after the
    /// same wait again.
    pub(crate) fn admit(&mut self, now: Instant) -> Admit {
        match &mut self.state {
            State::Open => Admit::Run,
            State::Closed { until, .. } if now < *until => Admit::Refuse,
            State::Closed {
                until,
                wait,
                trying,
            } => {
                *until = now + *wait;
                *trying = true;
                Admit::Run
            }
        }
    }

    /// A run gave a verdict.
    pub(crate) fn success(&mut self, now: Instant) -> Change {
        match self.state {
            State::Open => {
                self.window.second(self.now(now)).runs += 1;
                Change::None
            }
            State::Closed { trying: false, .. } => Change::None,
            State::Closed { trying: true, .. } => {
                self.state = State::Open;
                self.window = Window::default();
                Change::Lifted
            }
        }
    }

    /// A run failed on a message of this session.
    pub(crate) fn fault(&mut self, now: Instant, session: SessionId, user: &UserId) -> Change {
        if self.is_closed() {
            self.longer(now);
            return Change::None;
        }
        let at = self.now(now);
        let second = self.window.second(at);
        second.runs += 1;
        second.faults += 1;
        self.window.remember(at, session, user);
        if !self.window.is_bad(at) {
            return Change::None;
        }
        self.close(now);
        Change::Entered
    }

    /// It cannot even start: that hits every sender alike.
    pub(crate) fn cannot_start(&mut self, now: Instant) -> Change {
        if self.is_closed() {
            self.longer(now);
            return Change::None;
        }
        self.close(now);
        Change::Entered
    }

    fn close(&mut self, now: Instant) {
        self.window = Window::default();
        self.state = State::Closed {
            until: now + FIRST_WAIT,
            wait: FIRST_WAIT,
            trying: false,
        };
    }

    /// The try failed, if it was one.
    fn longer(&mut self, now: Instant) {
        if let State::Closed {
            until,
            wait,
            trying,
        } = &mut self.state
            && std::mem::take(trying)
        {
            *wait = (*wait * 2).min(LONGEST_WAIT);
            *until = now + *wait;
        }
    }

    /// Seconds since the start, from 1: 0 stands for none.
    fn now(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() + 1
    }
}

impl Window {
    fn second(&mut self, at: u64) -> &mut Second {
        let second = &mut self.seconds[(at % WINDOW_SECONDS) as usize];
        if second.number != at {
            *second = Second {
                number: at,
                ..Second::default()
            };
        }
        second
    }

    fn remember(&mut self, at: u64, session: SessionId, user: &UserId) {
        if let Some(known) = self.hit.iter_mut().find(|known| known.0 == session) {
            known.2 = at;
            return;
        }
        self.hit.retain(|known| recent(at, known.2));
        if self.hit.len() >= REMEMBERED {
            self.hit.remove(0);
        }
        self.hit.push((session, user.clone(), at));
    }

    fn is_bad(&self, at: u64) -> bool {
        let hit: Vec<_> = self
            .hit
            .iter()
            .filter(|known| recent(at, known.2))
            .collect();
        if hit.len() < SESSIONS {
            return false;
        }
        let mut users: Vec<&UserId> = hit.iter().map(|known| &known.1).collect();
        users.sort_unstable();
        users.dedup();
        let seconds = self.seconds.iter().filter(|s| recent(at, s.number));
        let (runs, faults) = seconds.fold((0_u32, 0_u32), |(runs, faults), second| {
            (
                runs.saturating_add(second.runs),
                faults.saturating_add(second.faults),
            )
        });
        users.len() >= USERS && runs >= RUNS && u64::from(faults) * 2 > u64::from(runs)
    }
}

fn recent(at: u64, then: u64) -> bool {
    then != 0 && at.saturating_sub(then) < WINDOW_SECONDS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(n: usize) -> UserId {
        UserId::parse(&format!("u{n}")).expect("a user")
    }

    struct Room {
        sessions: Vec<SessionId>,
        now: Instant,
        it: Quarantine,
    }

    impl Room {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                sessions: (0..8).map(|_| SessionId::new()).collect(),
                now,
                it: Quarantine::new(now),
            }
        }

        fn fault(&mut self, session: usize, of: usize) -> Change {
            self.it.fault(self.now, self.sessions[session], &user(of))
        }

        fn closed() -> Self {
            let mut room = Self::new();
            for n in 0..9 {
                assert_eq!(room.fault(n % 3, n % 3), Change::None, "{n}");
            }
            assert_eq!(room.fault(0, 0), Change::Entered);
            room
        }
    }

    #[test]
    fn three_sessions_of_two_users_and_ten_runs() {
        Room::closed();
        let mut one = Room::new();
        let mut two = Room::new();
        let mut same = Room::new();
        for n in 0..1000 {
            assert_eq!(one.fault(0, 0), Change::None, "one session");
            assert_eq!(two.fault(n % 2, n % 2), Change::None, "two sessions");
            assert_eq!(same.fault(n % 8, 0), Change::None, "one user");
        }
        assert_eq!(two.fault(2, 0), Change::Entered, "three of two");
    }

    #[test]
    fn not_while_half_of_the_runs_succeed() {
        let mut room = Room::new();
        for n in 0..1000 {
            assert_eq!(room.it.success(room.now), Change::None);
            assert_eq!(room.fault(n % 4, n % 4), Change::None, "{n}");
            room.now += Duration::from_millis(37);
        }
    }

    #[test]
    fn what_is_ten_seconds_old_does_not_count() {
        let mut room = Room::new();
        for n in 0..9 {
            room.fault(n % 3, n % 3);
        }
        room.now += Duration::from_secs(10);
        assert_eq!(room.fault(0, 0), Change::None, "one run in ten seconds");
        for n in 0..8 {
            assert_eq!(room.fault(n % 2, n % 2), Change::None, "two sessions");
        }
        assert_eq!(room.fault(2, 2), Change::Entered);
    }

    #[test]
    fn one_try_at_a_time_and_longer_waits() {
        let mut room = Room::closed();
        // On its way while it closed: neither success nor fault is a try.
        assert_eq!(room.it.success(room.now), Change::None);
        assert_eq!(room.fault(5, 5), Change::None);
        for want in [1, 2, 4, 8, 16, 32, 60, 60] {
            let wait = Duration::from_secs(want);
            assert_eq!(
                room.it.admit(room.now + wait - Duration::from_millis(1)),
                Admit::Refuse
            );
            room.now += wait;
            assert_eq!(room.it.admit(room.now), Admit::Run);
            assert_eq!(room.it.admit(room.now), Admit::Refuse, "one at a time");
            assert_eq!(room.fault(0, 0), Change::None);
            assert!(room.it.is_closed());
        }
        room.now += LONGEST_WAIT;
        assert_eq!(room.it.admit(room.now), Admit::Run);
        assert_eq!(room.it.success(room.now), Change::Lifted);
        assert_eq!(room.it.admit(room.now), Admit::Run);
        for n in 0..9 {
            assert_eq!(room.fault(n % 3, n % 3), Change::None, "a new window");
        }
    }

    #[test]
    fn a_try_that_is_never_heard_of_does_not_close_it_for_ever() {
        let mut room = Room::closed();
        room.now += FIRST_WAIT;
        assert_eq!(room.it.admit(room.now), Admit::Run);
        assert_eq!(room.it.admit(room.now), Admit::Refuse);
        room.now += FIRST_WAIT;
        assert_eq!(room.it.admit(room.now), Admit::Run);
        assert_eq!(room.it.success(room.now), Change::Lifted);
    }

    #[test]
    fn what_cannot_start_rests_at_once() {
        let mut room = Room::new();
        assert_eq!(room.it.cannot_start(room.now), Change::Entered);
        assert_eq!(room.it.admit(room.now), Admit::Refuse);
        room.now += FIRST_WAIT;
        assert_eq!(room.it.admit(room.now), Admit::Run);
        assert_eq!(room.it.cannot_start(room.now), Change::None);
        room.now += FIRST_WAIT;
        assert_eq!(room.it.admit(room.now), Admit::Refuse, "two seconds now");
    }

    proptest! {
        /// One session, whatever it does, never closes it for the others; and
        /// memory stays bounded however many come.
        #[test]
        fn no_single_user_closes_it(
            steps in prop::collection::vec((0_u64..3_000, any::<bool>(), 0_usize..200), 1..400),
        ) {
            let sessions: Vec<_> = (0..200).map(|_| SessionId::new()).collect();
            let mut now = Instant::now();
            let mut it = Quarantine::new(now);
            for (gap, fault, session) in steps {
                now += Duration::from_millis(gap);
                prop_assert_eq!(it.admit(now), Admit::Run);
                let change = if fault {
                    it.fault(now, sessions[session], &user(0))
                } else {
                    it.success(now)
                };
                prop_assert_eq!(change, Change::None);
                prop_assert!(it.window.hit.len() <= REMEMBERED);
            }
        }
    }
}
