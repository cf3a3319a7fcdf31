//! Which faults befall the bus, and when: the same for the same seed. Pure.

use std::fmt;
use std::time::Duration;

use super::{BRAINS, CLIENTS, DOORS, SERVERS, SERVERS_OF, SHIELDS, TENANTS};
use crate::chance::Chance;

/// Faults at a time. With more, nothing is left that could go wrong.
const AT_ONCE: usize = 3;
/// The bus runs alone before the first fault.
const CALM: Duration = Duration::from_secs(2);
/// Longest pause between two beginnings.
const PAUSE: Duration = Duration::from_millis(2_500);

/// A fault with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// When it begins, after the start.
    pub begin: Duration,
    /// When it ends.
    pub end: Duration,
    /// What happens.
    pub kind: Kind,
}

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A Shield.
    Shield(usize),
    /// A Brain.
    Brain(usize),
    /// A nats-server.
    Server(usize),
}

/// A way that leads through proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From a Shield or a Brain to one server.
    Spine(Target, usize),
    /// From a Shield or a Brain to every server.
    Island(Target),
    /// Between two servers: 0 and 1, 0 and 2, 1 and 2.
    Route(usize),
    /// From clients to a Shield.
    Door(usize, usize),
}

/// What is wrong with a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Connections are closed, and new ones.
    Cut,
    /// Connections are closed once.
    Break,
    /// Nothing passes to the server, and nobody is told.
    MuteUp,
    /// Nothing passes from the server, and nobody is told.
    MuteDown,
    /// Nothing passes.
    Mute,
    /// All is late by about so many milliseconds.
    Late(u64),
    /// Pieces of so many bytes.
    Trickle(usize),
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SIGKILL, and a start at the end.
    Kill(Target),
    /// SIGTERM, and a start at the end; a server is sent into its lame duck mode.
    Retire(Target),
    /// SIGSTOP, and SIGCONT at the end.
    Freeze(Target),
    /// A way is bad.
    Bad(Way, Trouble),
    /// All Shields replace their credentials.
    Rotate,
    /// A tenant is suspended.
    Suspend(usize),
    /// Tokens of a user that were issued until now are revoked.
    Revoke(usize, u8),
}

/// The faults of so much time, by their beginning.
#[must_use]
pub fn draw(seed: u64, time: Duration) -> Vec<Fault> {
    let mut chance = Chance::new(seed);
    let mut all: Vec<Fault> = Vec::new();
    let mut now = CALM;
    while now < time {
        let kind = draw_kind(&mut chance);
        let (shortest, longest) = kind.lasts();
        let lasts = chance.between(shortest, longest);
        let pause = chance.between(Duration::from_millis(100), PAUSE);
        let running = || all.iter().filter(|fault| fault.end > now);
        let fits = running().count() < AT_ONCE
            && running().all(|other| !other.kind.is_in_the_way_of(kind));
        if fits {
            all.push(Fault {
                begin: now,
                end: (now + lasts).min(time),
                kind,
            });
        }
        now += pause;
    }
    all
}

fn draw_kind(chance: &mut Chance) -> Kind {
    match chance.below(100) {
        0..18 => Kind::Kill(draw_target(chance)),
        18..24 => Kind::Retire(draw_target(chance)),
        24..42 => Kind::Freeze(draw_target(chance)),
        42..86 => Kind::Bad(draw_way(chance), draw_trouble(chance)),
        86..94 => Kind::Rotate,
        94..96 => Kind::Suspend(chance.below(TENANTS.len())),
        _ => Kind::Revoke(
            chance.below(TENANTS.len()),
            chance.below(CLIENTS.into()) as u8,
        ),
    }
}

fn draw_target(chance: &mut Chance) -> Target {
    match chance.below(SHIELDS + BRAINS + SERVERS) {
        number if number < SHIELDS => Target::Shield(number),
        number if number < SHIELDS + BRAINS => Target::Brain(number - SHIELDS),
        number => Target::Server(number - SHIELDS - BRAINS),
    }
}

fn draw_way(chance: &mut Chance) -> Way {
    let dialler = match chance.below(SHIELDS + BRAINS) {
        number if number < SHIELDS => Target::Shield(number),
        number => Target::Brain(number - SHIELDS),
    };
    match chance.below(10) {
        0..3 => {
            let server = match dialler {
                Target::Shield(number) => SERVERS_OF[number][chance.below(2)],
                _ => chance.below(SERVERS),
            };
            Way::Spine(dialler, server)
        }
        3..5 => Way::Island(dialler),
        5..8 => Way::Route(chance.below(SERVERS)),
        _ => Way::Door(chance.below(SHIELDS), chance.below(DOORS)),
    }
}

fn draw_trouble(chance: &mut Chance) -> Trouble {
    match chance.below(12) {
        0..3 => Trouble::Cut,
        3..5 => Trouble::Break,
        5 => Trouble::MuteUp,
        6 => Trouble::MuteDown,
        7 => Trouble::Mute,
        8..10 => Trouble::Late([5, 40, 150, 400][chance.below(4)]),
        _ => Trouble::Trickle([61, 256, 1_024][chance.below(3)]),
    }
}

// === impl Fault ===

impl Fault {
    /// Whether NATS may lose or hold messages by it, or its servers each other's interest.
    #[must_use]
    pub fn is_of_the_spine(&self) -> bool {
        match self.kind {
            Kind::Kill(target) | Kind::Retire(target) | Kind::Freeze(target) => {
                !matches!(target, Target::Brain(_))
            }
            Kind::Bad(way, _) => !matches!(way, Way::Door(..)),
            Kind::Rotate | Kind::Suspend(_) | Kind::Revoke(..) => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (begin, end) = (self.begin.as_secs_f64(), self.end.as_secs_f64());
        write!(f, "{begin:7.2} to {end:7.2} {}", self.kind)
    }
}

// === impl Kind ===

impl Kind {
    fn lasts(self) -> (Duration, Duration) {
        let ms = Duration::from_millis;
        match self {
            Self::Kill(_) => (ms(100), ms(6_000)),
            // A drain of the stories' Shields takes 5 s; a lame duck goes on for 30.
            Self::Retire(_) => (ms(3_000), ms(8_000)),
            Self::Freeze(_) => (ms(200), ms(8_000)),
            Self::Bad(_, Trouble::Break) | Self::Rotate | Self::Revoke(..) => (ms(0), ms(0)),
            Self::Bad(..) => (ms(200), ms(8_000)),
            Self::Suspend(_) => (ms(1_000), ms(4_000)),
        }
    }

    /// Whether the ends of both would undo each other.
    fn is_in_the_way_of(self, other: Self) -> bool {
        let target = |kind| match kind {
            Self::Kill(target) | Self::Retire(target) | Self::Freeze(target) => Some(target),
            _ => None,
        };
        let same_target = target(self).is_some() && target(self) == target(other);
        let same_way = match (self, other) {
            (Self::Bad(one, _), Self::Bad(two, _)) => one.shares_with(two),
            _ => false,
        };
        let same_tenant = match (self, other) {
            (Self::Suspend(one), Self::Suspend(two)) => one == two,
            _ => false,
        };
        same_target || same_way || same_tenant
    }

    /// The word for it in a summary.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill(Target::Shield(_)) => "kill shield",
            Self::Kill(Target::Brain(_)) => "kill brain",
            Self::Kill(Target::Server(_)) => "kill nats",
            Self::Retire(Target::Shield(_)) => "drain shield",
            Self::Retire(Target::Brain(_)) => "end brain",
            Self::Retire(Target::Server(_)) => "lame duck nats",
            Self::Freeze(Target::Shield(_)) => "freeze shield",
            Self::Freeze(Target::Brain(_)) => "freeze brain",
            Self::Freeze(Target::Server(_)) => "freeze nats",
            Self::Bad(Way::Spine(..), _) => "bad way to a server",
            Self::Bad(Way::Island(_), _) => "bad way to all servers",
            Self::Bad(Way::Route(_), _) => "bad route",
            Self::Bad(Way::Door(..), _) => "bad way of clients",
            Self::Rotate => "rotate credentials",
            Self::Suspend(_) => "suspend tenant",
            Self::Revoke(..) => "revoke user",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Kill(target) | Self::Retire(target) | Self::Freeze(target) => {
                let (Target::Shield(at) | Target::Brain(at) | Target::Server(at)) = target;
                write!(f, " {}", at + 1)
            }
            Self::Bad(way, trouble) => write!(f, ": {way:?} {trouble:?}"),
            Self::Rotate => Ok(()),
            Self::Suspend(tenant) => write!(f, " {}", TENANTS[*tenant]),
            Self::Revoke(tenant, client) => write!(f, " {} of {}", client, TENANTS[*tenant]),
        }
    }
}

// === impl Way ===

impl Way {
    fn shares_with(self, other: Self) -> bool {
        match (self, other) {
            (Self::Island(one), Self::Island(two) | Self::Spine(two, _))
            | (Self::Spine(one, _), Self::Island(two)) => one == two,
            _ => self == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_seed_is_one_plan_and_another_seed_another() {
        assert_eq!(draw(1, HOUR), draw(1, HOUR));
        assert_ne!(draw(1, HOUR), draw(2, HOUR));
    }

    #[test]
    fn faults_are_bounded_and_none_undoes_another() {
        for seed in 0..20 {
            let all = draw(seed, HOUR);
            for (at, fault) in all.iter().enumerate() {
                assert!(fault.begin >= CALM && fault.begin <= fault.end && fault.end <= HOUR);
                let running: Vec<_> = all[..at].iter().filter(|it| it.end > fault.begin).collect();
                assert!(running.len() < AT_ONCE, "{running:?}");
                let disturbed = running
                    .iter()
                    .find(|it| it.kind.is_in_the_way_of(fault.kind));
                assert_eq!(disturbed, None, "{fault:?}");
            }
        }
    }

    #[test]
    fn an_hour_has_every_kind_and_a_minute_a_few() {
        let names: BTreeSet<_> = draw(1, HOUR).iter().map(|it| it.kind.name()).collect();
        assert_eq!(names.len(), 16, "{names:?}");
        assert!(draw(1, Duration::from_secs(60)).len() > 15);
    }
}
