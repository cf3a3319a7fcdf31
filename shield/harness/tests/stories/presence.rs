//! Who is in a room, as clients hear of it: a real Shield and a real Brain.

use std::time::Duration;

use arqon_harness::{
    Client, Spine, TestBrain, TestShield, TestTenant, Watcher, eventually, seen_as,
};
use arqon_proto::codes::ErrorCode;
use arqon_proto::envelope;
use arqon_proto::v1::{Opcode, PresenceMode, PresenceState, envelope::Body};

/// A Spine, a tenant, a Brain, a Shield.
pub(crate) struct Stage {
    pub(crate) shield: TestShield,
    pub(crate) brain: TestBrain,
    pub(crate) acme: TestTenant,
    pub(crate) spine: Spine,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with("presence.leave_delay_ms = 0", "").await
    }

    pub(crate) async fn with(shield: &str, brain: &str) -> Self {
        let spine = Spine::start().await;
        let acme = spine.tenant("acme").await;
        let brain = spine.brain("brain-1").with(brain).launch();
        let shield = spine.shield().with(shield).start().await;
        brain.warm().await;
        Self {
            shield,
            brain,
            acme,
            spine,
        }
    }

    pub(crate) async fn user(&self, user: &str) -> Client {
        self.shield
            .connect(&self.acme.token().user(user).sign())
            .await
    }

    /// A user who is in the room, seen, and keeps what it hears.
    pub(crate) async fn full(&self, user: &str) -> Watcher {
        Watcher::join(self.user(user).await, "lobby", PresenceMode::Full).await
    }

    pub(crate) async fn watch(&self) -> Watcher {
        Watcher::join(self.user("owl").await, "lobby", PresenceMode::Watch).await
    }
}

/// Asks for a room; all pages.
pub(crate) async fn ask(client: &mut Client, room: &str) -> Result<PresenceState, String> {
    let reference = client.reference();
    client
        .send(envelope::presence_get(room, reference, false))
        .await;
    let mut whole = PresenceState::default();
    loop {
        let frame = client.next().await;
        match frame.body {
            Some(Body::PresenceState(page)) if frame.r#ref == reference => {
                whole.members.extend(page.members);
                whole.count = page.count;
                whole.truncated = page.truncated;
                if page.last_page {
                    return Ok(whole);
                }
            }
            Some(Body::Error(error)) if frame.r#ref == reference => return Err(error.name),
            _ => {}
        }
    }
}

/// Asks how many are in a room.
pub(crate) async fn count(client: &mut Client, room: &str) -> Result<u32, String> {
    let reference = client.reference();
    client
        .send(envelope::presence_get(room, reference, true))
        .await;
    loop {
        let frame = client.next().await;
        match frame.body {
            Some(Body::PresenceCount(told)) if frame.r#ref == reference => return Ok(told.count),
            Some(Body::Error(error)) if frame.r#ref == reference => return Err(error.name),
            _ => {}
        }
    }
}

#[tokio::test]
async fn who_joins_is_told_who_is_there_and_hears_who_comes_and_leaves() {
    let stage = Stage::new().await;
    let alice = stage.full("alice").await;
    eventually!(alice.sees(&["alice"]), "{:?}", alice.now());
    let bob = stage.full("bob").await;
    eventually!(alice.sees(&["alice", "bob"]), "{:?}", alice.now());
    eventually!(bob.sees(&["alice", "bob"]), "{:?}", bob.now());
    assert_eq!(
        alice.now().states,
        1,
        "then changes only: {:?}",
        alice.now()
    );
    drop(bob);
    eventually!(alice.sees(&["alice"]), "{:?}", alice.now());
    assert_eq!(alice.now().left, ["bob"]);

    // In good order too, and from one room only.
    let mut carol = stage.user("carol").await;
    for room in ["lobby", "news"] {
        let options = seen_as(PresenceMode::Full, &[]);
        carol.send(envelope::join(room, 1, options)).await;
    }
    eventually!(alice.sees(&["alice", "carol"]), "{:?}", alice.now());
    carol.send(envelope::leave("lobby", 2)).await;
    eventually!(alice.sees(&["alice"]), "{:?}", alice.now());
    let mut asker = stage.user("dave").await;
    asker.join("news").await;
    let news = ask(&mut asker, "news").await.unwrap();
    assert_eq!((news.count, news.members[0].user.as_str()), (1, "carol"));
    assert_eq!(stage.brain.metric("gaps_total").await, 0.0);
}

#[tokio::test]
async fn modes_count_none_and_watch_are_seen_and_hear_as_they_should() {
    let stage = Stage::new().await;
    let full = stage.full("full").await;
    let counted = Watcher::join(stage.user("counted").await, "lobby", PresenceMode::Count).await;
    let watch = stage.watch().await;
    let none = Watcher::join(stage.user("none").await, "lobby", PresenceMode::None).await;
    for seer in [&full, &watch] {
        eventually!(seer.sees(&["counted", "full"]), "{:?}", seer.now());
    }
    eventually!(counted.now().count == 2, "{:?}", counted.now());
    let late = stage.full("late").await;
    eventually!(
        watch.sees(&["counted", "full", "late"]),
        "{:?}",
        watch.now()
    );
    eventually!(counted.now().count == 3, "{:?}", counted.now());
    drop(late);
    eventually!(counted.now().count == 2, "{:?}", counted.now());
    eventually!(watch.sees(&["counted", "full"]), "{:?}", watch.now());
    assert!(counted.now().members.is_empty(), "{:?}", counted.now());
    assert_eq!(counted.now().left, [""; 0], "a count names nobody");
    assert_eq!(none.now().frames, 0, "{:?}", none.now());
    // Who is not seen takes part in messages all the same.
    let mut talker = stage.user("talker").await;
    talker.join("lobby").await;
    talker.publish("lobby", "hello").await;
    for seer in [&full, &counted, &watch, &none] {
        eventually!(seer.now().messages == ["hello"], "{:?}", seer.now());
    }
}

#[tokio::test]
async fn metas_are_set_changed_and_bounded() {
    let stage = Stage::with(
        "presence.leave_delay_ms = 0\npresence.max_meta_bytes = 16",
        "",
    )
    .await;
    let watch = stage.watch().await;
    let mut alice = stage.user("alice").await;
    let too_big = seen_as(PresenceMode::Full, &[("mood", "0123456789abc")]);
    let refusal = alice.join_with("lobby", too_big).await.unwrap_err();
    assert_eq!(refusal.name, ErrorCode::MetaTooLarge.name());
    let options = seen_as(PresenceMode::Full, &[("mood", "0123456789ab")]);
    alice.join_with("lobby", options).await.unwrap();
    let mood = |watch: &Watcher| {
        watch.knows(|now| {
            let alice = now.members.get("alice")?;
            alice.sessions[0].meta.get("mood").cloned()
        })
    };
    eventually!(
        mood(&watch).as_deref() == Some("0123456789ab"),
        "{:?}",
        watch.now()
    );
    let set = |value: &str| {
        let meta = [("mood".to_owned(), value.to_owned())].into();
        envelope::presence_set("lobby", 9, meta)
    };
    for value in ["", "glad", "sad"] {
        alice.send(set(value)).await;
        eventually!(mood(&watch).as_deref() == Some(value), "{:?}", watch.now());
    }
    alice.send(set("0123456789abc")).await;
    eventually!({
        let frame = alice.next().await;
        matches!(&frame.body, Some(Body::Error(error)) if error.name == ErrorCode::MetaTooLarge.name())
    });
    assert_eq!(mood(&watch).as_deref(), Some("sad"), "as it was");
    assert_eq!(watch.now().left, [""; 0], "a change is no leave");
    // Many changes at once: the last one counts, told in fewer words.
    for number in 0..500 {
        alice.send(set(&number.to_string())).await;
    }
    alice.send(set("last")).await;
    eventually!(mood(&watch).as_deref() == Some("last"), "{:?}", watch.now());
    assert!(watch.now().frames < 250, "{:?}", watch.now());
    // Bytes that are no UTF-8 are no frame of the protocol.
    let mut bytes = prost::Message::encode_to_vec(&set("wrong"));
    let at = bytes.windows(5).position(|word| word == b"wrong").unwrap();
    bytes[at] = 0xff;
    let mut client = alice.into_inner();
    client
        .send_raw(arqon_client::RawMessage::Binary(bytes.into()))
        .await
        .unwrap();
    eventually!({
        let frame = client.recv().await.unwrap().unwrap();
        frame.op() == Opcode::Error
    });
    assert_eq!(mood(&watch).as_deref(), Some("last"));
}

#[tokio::test]
async fn a_user_with_two_sessions_comes_with_the_first_and_leaves_with_the_last() {
    let stage = Stage::new().await;
    let watch = stage.watch().await;
    let sessions = |watch: &Watcher| {
        watch
            .now()
            .members
            .get("alice")
            .map_or(0, |alice| alice.sessions.len())
    };
    let first = stage.full("alice").await;
    eventually!(sessions(&watch) == 1, "{:?}", watch.now());
    let second = stage.full("alice").await;
    eventually!(sessions(&watch) == 2, "{:?}", watch.now());
    assert_eq!(watch.now().count, 1, "a user counts once");
    drop(first);
    eventually!(sessions(&watch) == 1, "{:?}", watch.now());
    assert_eq!(watch.now().left, [""; 0], "alice is still there");
    drop(second);
    eventually!(watch.sees(&[]), "{:?}", watch.now());
    assert_eq!(watch.now().left, ["alice"]);
}

#[tokio::test]
async fn presence_is_told_on_demand_in_pages_and_by_count() {
    let stage = Stage::with(
        "presence.leave_delay_ms = 0\npresence.page_members = 3",
        "full_limit = 10",
    )
    .await;
    let mut asker = stage.user("asker").await;
    asker.join("lobby").await;
    assert_eq!(ask(&mut asker, "lobby").await.unwrap().count, 0);
    let mut here = Vec::new();
    for number in 0..10 {
        here.push(stage.full(&format!("user-{number:02}")).await);
    }
    // A question may overtake a change of another Shield, never one of its own.
    let whole = ask(&mut asker, "lobby").await.unwrap();
    let users: Vec<_> = whole.members.iter().map(|it| it.user.as_str()).collect();
    let expected: Vec<_> = (0..10).map(|it| format!("user-{it:02}")).collect();
    assert_eq!(users, expected, "all of them, by user");
    assert!(!whole.truncated);
    let watch = stage.watch().await;
    eventually!(watch.now().members.len() == 10, "{:?}", watch.now());
    assert!(watch.now().frames >= 4, "in pages of three");

    // Above the limit only the count is told.
    let eleventh = stage.full("user-10").await;
    let twelfth = stage.full("user-11").await;
    let state = ask(&mut asker, "lobby").await.unwrap();
    assert_eq!((state.count, state.truncated), (12, true));
    assert_eq!(state.members, []);
    assert_eq!(count(&mut asker, "lobby").await, Ok(12));
    eventually!(watch.now().count == 12, "{:?}", watch.now());
    // And all again below it.
    drop((eleventh, twelfth));
    eventually!(
        watch.now().count == 10 && watch.now().members.len() == 10 && !watch.now().truncated,
        "{:?}",
        watch.now()
    );
    let whole = ask(&mut asker, "lobby").await.unwrap();
    assert_eq!((whole.count, whole.members.len()), (10, 10));
}

#[tokio::test]
async fn a_short_absence_is_hidden_where_a_delay_is_set() {
    let stage = Stage::with("presence.leave_delay_ms = 1500", "").await;
    let watch = stage.watch().await;
    let alice = stage.full("alice").await;
    let bob = stage.full("bob").await;
    eventually!(watch.sees(&["alice", "bob"]), "{:?}", watch.now());
    drop((alice, bob));
    let alice = stage.full("alice").await;
    // Bob's leave shows that alice's time is over too.
    eventually!(watch.sees(&["alice"]), "{:?}", watch.now());
    assert_eq!(watch.now().left, ["bob"]);
    drop(alice);
    eventually!(watch.sees(&[]), "{:?}", watch.now());
}

#[tokio::test]
async fn two_shields_see_each_other_and_another_tenant_sees_nothing() {
    let stage = Stage::new().await;
    let globex = stage.spine.tenant("globex").await;
    let other = stage
        .spine
        .shield()
        .id("shield-2")
        .with("presence.leave_delay_ms = 0")
        .start()
        .await;
    let stranger = other.connect(&globex.token().user("stranger").sign()).await;
    let stranger = Watcher::join(stranger, "lobby", PresenceMode::Full).await;
    let alice = stage.full("alice").await;
    let bob = other.connect(&stage.acme.token().user("bob").sign()).await;
    let bob = Watcher::join(bob, "lobby", PresenceMode::Full).await;
    for seer in [&alice, &bob] {
        eventually!(seer.sees(&["alice", "bob"]), "{:?}", seer.now());
    }
    eventually!(stranger.sees(&["stranger"]), "{:?}", stranger.now());
    // A user on two Shields is one user.
    let twin = other
        .connect(&stage.acme.token().user("alice").sign())
        .await;
    let twin = Watcher::join(twin, "lobby", PresenceMode::Full).await;
    eventually!(
        bob.now().members["alice"].sessions.len() == 2,
        "{:?}",
        bob.now()
    );
    drop(alice);
    eventually!(
        bob.now().members["alice"].sessions.len() == 1,
        "{:?}",
        bob.now()
    );
    // A drain is a goodbye: at once, not after the time of a crash.
    drop(twin);
    eventually!(bob.sees(&["bob"]), "{:?}", bob.now());
    let alice = stage.full("alice").await;
    eventually!(bob.sees(&["alice", "bob"]), "{:?}", bob.now());
    drop(bob);
    other.drain().await;
    eventually!(alice.sees(&["alice"]), "{:?}", alice.now());
    assert!(stranger.now().frames <= 1, "{:?}", stranger.now());
}

#[tokio::test]
async fn activity_moves_the_mark_and_tells_nobody() {
    let stage = Stage::new().await;
    let watch = stage.watch().await;
    let mut alice = stage.user("alice").await;
    alice
        .join_with("lobby", seen_as(PresenceMode::Full, &[]))
        .await
        .unwrap();
    eventually!(watch.sees(&["alice"]), "{:?}", watch.now());
    let frames = watch.now().frames;
    let mut asker = stage.user("asker").await;
    asker.join("lobby").await;
    let state = ask(&mut asker, "lobby").await.unwrap();
    let first = state.members[0].sessions[0].clone();
    // A mark is told once in 15 s at most, so what moves it comes again and again.
    let patience = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        alice.publish("lobby", "still here").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let state = ask(&mut asker, "lobby").await.unwrap();
        let session = &state.members[0].sessions[0];
        assert_eq!(session.joined_at_ms, first.joined_at_ms);
        if session.last_active_at_ms > first.last_active_at_ms {
            break;
        }
        assert!(tokio::time::Instant::now() < patience, "{state:?}");
    }
    assert_eq!(watch.now().frames, frames, "{:?}", watch.now());
}

#[tokio::test]
async fn a_tenant_that_is_deleted_is_gone_from_brain() {
    let stage = Stage::new().await;
    let _alice = stage.full("alice").await;
    eventually!(stage.brain.metric("members").await == 1.0);
    stage.spine.delete("acme").await;
    eventually!(stage.brain.metric("members").await == 0.0);
    // The next one of the name begins empty.
    let acme = stage.spine.tenant("acme").await;
    eventually!(stage.shield.metric("tenants_known", "").await == 1.0);
    let mut asker = stage.shield.connect(&acme.token().sign()).await;
    asker.join("lobby").await;
    assert_eq!(ask(&mut asker, "lobby").await.unwrap().count, 0);
}
