//! When a session must act of itself: its first frame, heartbeats and the end of its token.
//!
//! Pure, and all moments in one place, so that one timer serves a session.

use std::time::{Duration, Instant};

/// TOKEN_EXPIRING comes so long before the end, or after two thirds of a
/// shorter life.
const WARN_BEFORE: Duration = Duration::from_secs(30);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Ping the client.
    Ping,
    /// It was silent for two heartbeats.
    HeartbeatLost,
    /// It has not spoken at all.
    FirstFrameMissed,
    /// Its token will expire soon.
    TokenExpiring,
    /// Its token has expired, and the grace is over.
    TokenExpired,
}

/// The moments of one session.
#[derive(Debug)]
pub(super) struct Timers {
    heartbeat: Duration,
    heard: Instant,
    /// When its first frame must have come; None once it has.
    first_frame: Option<Instant>,
    ping: Instant,
    warn: Option<Instant>,
    /// None once it was told: a session that cannot be closed yet is not told for ever.
    end: Option<Instant>,
}

// === impl Timers ===

impl Timers {
    /// Timers from now on. The first ping comes after `first`, by which
    /// sessions opened together are spread.
    pub(super) fn new(heartbeat: Duration, first: Duration, life: TokenLife, now: Instant) -> Self {
        let mut timers = Self {
            heartbeat,
            heard: now,
            first_frame: None,
            ping: now + first,
            warn: None,
            end: None,
        };
        timers.set_token(life, now);
        timers
    }

    /// The client must be heard by then.
    pub(super) fn expect_frame(&mut self, by: Instant) {
        self.first_frame = Some(by);
    }

    /// Another token is in force.
    pub(super) fn set_token(&mut self, life: TokenLife, now: Instant) {
        let before = WARN_BEFORE.min(life.whole / 3);
        self.warn = Some(now + life.left.saturating_sub(before));
        self.end = Some(now + life.left + life.grace);
    }

    /// The client gave a sign of life, or could not be listened to.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.first_frame = None;
    }

    /// When to ask `due` again at the latest.
    pub(super) fn next(&self) -> Instant {
        let others = [self.warn, self.first_frame, self.end];
        others.into_iter().flatten().fold(self.ping, Instant::min)
    }

    /// What is due now, one at a time until there is nothing.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        // First, so that a Shield that slept through both still says it: a client
        // may count on one warning before the end.
        if self.warn.is_some_and(|warn| now >= warn) {
            self.warn = None;
            return Some(Due::TokenExpiring);
        }
        if self.end.is_some_and(|end| now >= end) {
            self.end = None;
            return Some(Due::TokenExpired);
        }
        if self.first_frame.is_some_and(|by| now >= by) {
            return Some(Due::FirstFrameMissed);
        }
        if now < self.ping {
            return None;
        }
        if now.duration_since(self.heard) >= self.heartbeat * 2 {
            return Some(Due::HeartbeatLost);
        }
        // Not `ping + heartbeat`: a process that slept owes no burst of pings.
        // A silent client is looked at exactly when its two heartbeats end.
        self.ping = (now + self.heartbeat)
            .min((self.heard + self.heartbeat * 2).max(now + self.heartbeat / 4));
        Some(Due::Ping)
    }
}

/// The life of a token, seen from now.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenLife {
    /// From issue to expiry.
    pub(super) whole: Duration,
    /// Until expiry.
    pub(super) left: Duration,
    /// How long after expiry the session ends.
    pub(super) grace: Duration,
}

impl TokenLife {
    /// Out of a token's claims and the clock, all in Unix seconds.
    pub(super) fn new(issued_at: u64, expires_at: u64, now: f64, grace: Duration) -> Self {
        Self {
            whole: Duration::from_secs(expires_at.saturating_sub(issued_at)),
            left: Duration::try_from_secs_f64(expires_at as f64 - now).unwrap_or_default(),
            grace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(10);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn life(whole: u64) -> TokenLife {
        TokenLife {
            whole: secs(whole),
            left: secs(whole),
            grace: secs(5),
        }
    }

    #[test]
    fn a_silent_client_is_lost_after_two_heartbeats() {
        let start = Instant::now();
        let mut timers = Timers::new(BEAT, secs(7), life(3600), start);
        let mut pings = 0;
        let lost = loop {
            let now = timers.next();
            match timers.due(now) {
                Some(Due::Ping) => pings += 1,
                Some(Due::HeartbeatLost) => break now,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(lost.duration_since(start), BEAT * 2);
        assert!(pings >= 2);
    }

    #[test]
    fn a_client_that_answers_is_pinged_at_the_pace_and_never_lost() {
        let start = Instant::now();
        let mut timers = Timers::new(BEAT, BEAT, life(100_000), start);
        for beat in 1..=100 {
            let now = timers.next();
            assert_eq!(now, start + BEAT * beat);
            assert_eq!(timers.due(now), Some(Due::Ping));
            assert_eq!(timers.due(now), None);
            timers.heard(now);
        }
    }

    #[test]
    fn the_warning_comes_once_and_the_end_after_the_grace() {
        for (whole, warn) in [(3600, 3570), (90, 60), (30, 20), (3, 2)] {
            let start = Instant::now();
            let mut timers = Timers::new(secs(100_000), secs(100_000), life(whole), start);
            assert_eq!(timers.next(), start + secs(warn));
            assert_eq!(timers.due(timers.next()), Some(Due::TokenExpiring));
            assert_eq!(timers.next(), start + secs(whole + 5));
            assert_eq!(timers.due(timers.next()), Some(Due::TokenExpired));
        }
    }

    #[test]
    fn who_sleeps_through_the_warning_gives_it_before_the_end() {
        let start = Instant::now();
        let mut timers = Timers::new(secs(100_000), secs(100_000), life(90), start);
        let late = start + secs(90 + 5 + 1);
        assert_eq!(timers.due(late), Some(Due::TokenExpiring));
        assert_eq!(timers.due(late), Some(Due::TokenExpired));
        assert_eq!(timers.due(late), None);
    }

    #[test]
    fn who_never_speaks_is_due_at_once_and_who_spoke_is_not() {
        let start = Instant::now();
        let mut timers = Timers::new(secs(25), secs(20), life(100_000), start);
        timers.expect_frame(start + secs(10));
        assert_eq!(timers.next(), start + secs(10));
        assert_eq!(timers.due(start + secs(9)), None);
        assert_eq!(timers.due(start + secs(10)), Some(Due::FirstFrameMissed));
        timers.heard(start + secs(10));
        assert_eq!(timers.due(start + secs(11)), None);
        assert_eq!(timers.next(), start + secs(20));
    }

    #[test]
    fn the_end_is_told_once() {
        let start = Instant::now();
        let mut timers = Timers::new(secs(100_000), secs(100_000), life(90), start);
        assert_eq!(timers.due(start + secs(60)), Some(Due::TokenExpiring));
        let end = timers.next();
        assert_eq!(timers.due(end), Some(Due::TokenExpired));
        assert!(
            timers.next() > end,
            "a stalled session would else be woken without end"
        );
    }

    #[test]
    fn a_new_token_moves_the_end() {
        let start = Instant::now();
        let mut timers = Timers::new(secs(100_000), secs(100_000), life(90), start);
        assert_eq!(timers.due(start + secs(60)), Some(Due::TokenExpiring));
        timers.set_token(life(300), start + secs(70));
        assert_eq!(timers.next(), start + secs(70 + 270));
    }
}
