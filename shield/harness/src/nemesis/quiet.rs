//! After the faults: all is well again within a while, and everybody knows the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::guest::{Ask, Guest};
use super::world::World;
use super::{BRAINS, ROOMS, TENANTS};
use crate::chance::Chance;

/// How long the bus may take to recover from everything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
const GLANCE: Duration = Duration::from_millis(200);
/// Words that everybody says until all hear all.
const ROUNDS: usize = 8;
/// How long a round may take.
const ROUND: Duration = Duration::from_secs(10);

/// Sessions in a room, by user.
pub(super) type Room = BTreeMap<String, BTreeSet<String>>;

/// Waits until all is as it should be; what is not.
pub(super) async fn settle(
    world: &mut World,
    guests: &[Guest],
    chance: &mut Chance,
) -> Vec<String> {
    let mut missing = Vec::new();
    let ready = until(async || world.unready().await).await;
    missing.extend(ready.into_iter().map(|it| format!("after the faults {it}")));
    let joined = until(async || unsettled(guests)).await;
    missing.extend(
        joined
            .into_iter()
            .map(|it| format!("after the faults {it}")),
    );
    let deaf = speak(guests).await;
    missing.extend(
        deaf.into_iter()
            .map(|it| format!("after {ROUNDS} rounds {it}")),
    );
    if !missing.is_empty() {
        // Presence cannot be right where clients are not in.
        return missing;
    }
    missing.extend(until(async || presence(world, guests).await).await);
    // Each Brain has it alone too.
    world.lose_brain(chance.below(BRAINS));
    let alone = until(async || presence(world, guests).await).await;
    missing.extend(alone.into_iter().map(|it| format!("with one Brain {it}")));
    missing
}

/// Looks until nothing is missing, or for long enough; what is missing then.
async fn until(mut look: impl AsyncFnMut() -> Vec<String>) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let missing = look().await;
        if missing.is_empty() || Instant::now() > deadline {
            return missing;
        }
        sleep(GLANCE).await;
    }
}

fn unsettled(guests: &[Guest]) -> Vec<String> {
    let out = guests.iter().filter(|guest| !guest.is_settled());
    out.map(|guest| {
        let known = guest.known();
        let (session, joined) = (known.session.is_some(), &known.joined);
        format!("{} has a session: {session}; is in {joined:?}", name(guest))
    })
    .collect()
}

/// Everybody speaks in every room until all have heard all in one round.
async fn speak(guests: &[Guest]) -> Vec<String> {
    let mut deaf = Vec::new();
    for _ in 0..ROUNDS {
        guests.iter().for_each(|guest| guest.ask(Ask::Speak));
        let deadline = Instant::now() + ROUND;
        // A moment for the question to be taken up.
        sleep(GLANCE).await;
        loop {
            deaf = unheard(guests);
            if deaf.is_empty() {
                return deaf;
            }
            if Instant::now() > deadline {
                break;
            }
            sleep(GLANCE).await;
        }
    }
    deaf
}

fn unheard(guests: &[Guest]) -> Vec<String> {
    let mut missing = unsettled(guests);
    for speaker in guests {
        let said = speaker.known().clone();
        let Some((life, _)) = said.session else {
            continue;
        };
        for (room, seq) in &said.sent {
            if said.acked.get(room) != Some(seq) {
                missing.push(format!("{} has no ACK for {seq}", name(speaker)));
            }
            let others = guests
                .iter()
                .filter(|it| it.params.tenant == speaker.params.tenant);
            for other in others.filter(|it| it.params.rooms.contains(room)) {
                let heard = other.known().heard.get(&(life, *room)).copied();
                if heard < Some(*seq) {
                    let (other, room) = (name(other), ROOMS[usize::from(*room)]);
                    missing.push(format!("{other} does not hear {life} in {room}"));
                }
            }
        }
    }
    missing
}

/// What watchers know, what Brains answer and what they hold, beside what is so.
async fn presence(world: &World, guests: &[Guest]) -> Vec<String> {
    let truth = truth(guests);
    let mut wrong = unsettled(guests);
    for guest in guests {
        let awaited = guest.params.rooms.iter().map(|room| (*room, None));
        guest.known().answers = awaited.collect();
        guest.ask(Ask::Presence);
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    let waits = |guest: &Guest| guest.known().answers.values().any(Option::is_none);
    while guests.iter().any(waits) && Instant::now() < deadline {
        sleep(GLANCE).await;
    }
    for guest in guests {
        let known = guest.known().clone();
        for room in &guest.params.rooms {
            let there = &truth[&(guest.params.tenant, *room)];
            let place = format!("{} in {}", name(guest), ROOMS[usize::from(*room)]);
            match known.answers.get(room) {
                Some(Some(Ok(answer))) => {
                    wrong.extend(differs(&format!("{place} is answered"), answer, there));
                }
                other => wrong.push(format!("{place} gets no presence: {other:?}")),
            }
            let seen = known.seen.get(room).map(|seen| {
                let members = seen.members.iter();
                let sessions = |it: &arqon_proto::v1::PresenceMember| {
                    it.sessions.iter().map(|it| it.session.clone()).collect()
                };
                members
                    .map(|(user, it)| (user.clone(), sessions(it)))
                    .collect()
            });
            let seen: Room = seen.unwrap_or_default();
            wrong.extend(differs(&format!("{place} was told"), &seen, there));
        }
    }
    let entries: usize = truth
        .values()
        .flat_map(BTreeMap::values)
        .map(BTreeSet::len)
        .sum();
    for (brain, members) in world.members().await {
        if members != entries as f64 {
            wrong.push(format!("{brain} holds {members} entries of {entries}"));
        }
    }
    wrong
}

fn truth(guests: &[Guest]) -> BTreeMap<(u8, u8), Room> {
    let mut truth = BTreeMap::<_, Room>::new();
    for tenant in 0..TENANTS.len() as u8 {
        for room in 0..ROOMS.len() as u8 {
            truth.insert((tenant, room), Room::new());
        }
    }
    for guest in guests {
        let known = guest.known();
        let Some((_, session)) = &known.session else {
            continue;
        };
        for room in &known.joined {
            let there = truth.entry((guest.params.tenant, *room)).or_default();
            let sessions = there.entry(guest.params.user.clone()).or_default();
            sessions.insert(session.clone());
        }
    }
    truth
}

/// How what is said differs from what is so.
fn differs(what: &str, said: &Room, truth: &Room) -> Vec<String> {
    let mut wrong = Vec::new();
    let users: BTreeSet<_> = said.keys().chain(truth.keys()).collect();
    for user in users {
        let none = BTreeSet::new();
        let (said, there) = (
            said.get(user).unwrap_or(&none),
            truth.get(user).unwrap_or(&none),
        );
        for ghost in said.difference(there) {
            wrong.push(format!("{what} a ghost: {user} {ghost}"));
        }
        for lost in there.difference(said) {
            wrong.push(format!("{what} without {user} {lost}"));
        }
    }
    wrong
}

fn name(guest: &Guest) -> String {
    let tenant = TENANTS[usize::from(guest.params.tenant)];
    format!("{tenant}/{}", guest.params.client)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(members: &[(&str, &[&str])]) -> Room {
        let sessions = |all: &[&str]| all.iter().map(|it| (*it).to_owned()).collect();
        let members = members.iter();
        members
            .map(|(user, all)| ((*user).to_owned(), sessions(all)))
            .collect()
    }

    #[test]
    fn ghosts_and_who_is_lost_are_found() {
        let truth = room(&[("ann", &["1", "2"]), ("bob", &["3"])]);
        assert_eq!(differs("is told", &truth, &truth), [""; 0]);
        let ghost = room(&[("ann", &["1", "2", "9"]), ("bob", &["3"])]);
        assert_eq!(
            differs("is told", &ghost, &truth),
            ["is told a ghost: ann 9"]
        );
        let lost = room(&[("ann", &["1", "2"])]);
        assert_eq!(differs("is told", &lost, &truth), ["is told without bob 3"]);
        let other = room(&[("ann", &["1", "2"]), ("bob", &["4"])]);
        assert_eq!(differs("is told", &other, &truth).len(), 2);
    }
}
