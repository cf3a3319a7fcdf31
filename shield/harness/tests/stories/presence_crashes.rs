//! Presence stays true while Brains, links, Shields, clients and the Spine crash, hang and return.

use std::time::Duration;

use arqon_harness::{
    Proxy, RawPeer, Signal, Spine, TestBrain, Watcher, eventually, seen_as, signal,
};
use arqon_proto::codes::ErrorCode;
use arqon_proto::envelope;
use arqon_proto::v1::PresenceMode;

use crate::presence::{Stage, ask, count};

#[tokio::test]
async fn a_client_that_falls_silent_is_gone_after_its_heartbeat() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let brain = spine.brain("brain-1").launch();
    let shield = spine
        .shield()
        .with("presence.leave_delay_ms = 0\nsession.heartbeat_secs = 1")
        .start()
        .await;
    brain.warm().await;
    let watch = shield.connect(&acme.token().user("owl").sign()).await;
    let watch = Watcher::join(watch, "lobby", PresenceMode::Watch).await;
    // Behind a proxy that falls silent without a word, as a laptop that is closed.
    let proxy = Proxy::start(shield.addr()).await.unwrap();
    let mut params = shield.params(&acme.token().user("bob").sign());
    params.url = format!("ws://localhost:{}", proxy.addr.port());
    let bob = arqon_harness::Client::connect(params).await.unwrap();
    let bob = Watcher::join(bob, "lobby", PresenceMode::Full).await;
    eventually!(watch.sees(&["bob"]), "{:?}", watch.now());
    proxy.pause_up();
    proxy.pause_down();
    eventually!(watch.sees(&[]), "{:?}", watch.now());
    assert_eq!(watch.now().left, ["bob"]);
    drop(bob);
}

#[tokio::test]
async fn a_client_whose_connection_is_reset_leaves_at_once() {
    let stage = Stage::new().await;
    let watch = stage.watch().await;
    let stream = tokio::net::TcpStream::connect(stage.shield.addr())
        .await
        .unwrap();
    // Closing it sends a reset, no end in good order.
    stream.set_zero_linger().unwrap();
    let token = stage.acme.token().user("bob").sign();
    let authorization = format!("Authorization: Bearer {token}");
    let mut bob = RawPeer::ask_over(stream, "/v1/socket", &[&authorization])
        .await
        .unwrap();
    let join = envelope::join("lobby", 1, seen_as(PresenceMode::Full, &[]));
    bob.send_envelope(&join).await.unwrap();
    eventually!(watch.sees(&["bob"]), "{:?}", watch.now());
    drop(bob);
    eventually!(watch.sees(&[]), "{:?}", watch.now());
    assert_eq!(watch.now().left, ["bob"]);
}

#[tokio::test]
async fn the_members_of_a_killed_shield_leave_as_one() {
    let stage = Stage::new().await;
    let doomed = stage
        .spine
        .shield()
        .id("doomed")
        .with("presence.leave_delay_ms = 0");
    let mut doomed = doomed.spawn().await;
    let watch = stage.watch().await;
    let alice = stage.full("alice").await;
    let mut theirs = Vec::new();
    for number in 0..20 {
        let token = stage.acme.token().user(&format!("user-{number}")).sign();
        let client = doomed.connect(&token).await;
        theirs.push(Watcher::join(client, "lobby", PresenceMode::Full).await);
    }
    eventually!(watch.now().count == 21, "{:?}", watch.now());
    doomed.program.kill();
    eventually!(watch.sees(&["alice"]), "{:?}", watch.now());
    assert_eq!(watch.now().left.len(), 20);
    assert_eq!(watch.now().leave_frames, 1, "one diff for the room");
    assert_eq!(alice.now().leave_frames, 1, "one diff for the room");
}

#[tokio::test]
async fn without_a_brain_messages_flow_and_presence_comes_back_by_itself() {
    let mut stage = Stage::with(
        "presence.leave_delay_ms = 0\npresence.query_timeout_ms = 300",
        "",
    )
    .await;
    let alice = stage.full("alice").await;
    eventually!(alice.sees(&["alice"]), "{:?}", alice.now());
    for _ in 0..2 {
        stage.brain.kill();
        let bob = stage.full("bob").await;
        eventually!(bob.now().unavailable > 0, "{:?}", bob.now());
        let mut talker = stage.user("talker").await;
        talker.join("lobby").await;
        let unavailable = Err(ErrorCode::PresenceUnavailable.name().to_owned());
        assert_eq!(count(&mut talker, "lobby").await, unavailable);
        talker.publish("lobby", "hello").await;
        for seer in [&alice, &bob] {
            eventually!(
                seer.now().messages.contains(&"hello".to_owned()),
                "{:?}",
                seer.now()
            );
        }
        let now = alice.now();
        assert!(now.left.iter().all(|user| user == "bob"), "{now:?}");
        assert!(now.members.contains_key("alice"), "{now:?}");
        stage.brain.relaunch();
        eventually!(bob.sees(&["alice", "bob"]), "{:?}", bob.now());
        eventually!(alice.sees(&["alice", "bob"]), "{:?}", alice.now());
        drop(bob);
        eventually!(alice.sees(&["alice"]), "{:?}", alice.now());
        let now = alice.now();
        assert!(now.left.iter().all(|user| user == "bob"), "{now:?}");
    }
}

#[tokio::test]
async fn a_new_brain_warms_up_before_it_answers() {
    let stage = Stage::new().await;
    let _alice = stage.full("alice").await;
    let second = stage.spine.brain("brain-2").launch();
    let mut cold = false;
    eventually!({
        let status = second.status("/readyz").await;
        cold |= status == Some(503);
        status == Some(200)
    });
    assert!(cold, "it is not ready at once");
    assert_eq!(second.status("/healthz").await, Some(200));
    assert_eq!(
        second.metric("members").await,
        1.0,
        "it knows alice when it is warm"
    );
    second.signal(Signal::TERM);
    let mut second = second;
    let status = second.program.wait().await;
    assert!(status.success(), "{status:?}: {}", second.program.log());
}

#[tokio::test]
async fn a_link_that_is_killed_or_hangs_is_replaced_and_the_view_is_right_again() {
    let stage = Stage::with(
        "presence.leave_delay_ms = 0\npresence.query_timeout_ms = 500",
        "",
    )
    .await;
    let alice = stage.full("alice").await;
    let bob = stage.full("bob").await;
    eventually!(alice.sees(&["alice", "bob"]), "{:?}", alice.now());
    let mut guests = Vec::new();
    for (round, which) in [Signal::KILL, Signal::STOP, Signal::KILL]
        .into_iter()
        .enumerate()
    {
        let restarts = stage.brain.metric("link_restarts_total").await;
        let pid = stage.brain.link_pid().expect("a link runs");
        signal(pid, which);
        let name = format!("guest-{round}");
        guests.push(stage.full(&name).await);
        eventually!(
            stage.brain.metric("link_restarts_total").await > restarts,
            "{}",
            stage.brain.program.log()
        );
        let there = 3 + round as u32;
        for seer in [&alice, &bob] {
            eventually!(
                seer.now().count == there && seer.now().members.contains_key(&name),
                "{:?}",
                seer.now()
            );
        }
        assert_ne!(stage.brain.link_pid(), Some(pid));
    }
    for seer in [&alice, &bob] {
        assert_eq!(seer.now().left, [""; 0], "nobody left");
    }
    assert_eq!(stage.brain.status("/healthz").await, Some(200));
}

#[tokio::test]
async fn a_brain_that_is_cut_off_declares_nobody_dead() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let proxy = Proxy::start(spine.addr()).await.unwrap();
    let brain = spine.brain("brain-1").via(&proxy.url()).launch();
    let shield = spine
        .shield()
        .with("presence.leave_delay_ms = 0")
        .start()
        .await;
    brain.warm().await;
    let alice = shield.connect(&acme.token().sign()).await;
    let alice = Watcher::join(alice, "lobby", PresenceMode::Full).await;
    eventually!(alice.sees(&["alice"]), "{:?}", alice.now());
    // Silent, then broken: longer than a Shield may be silent.
    for silent in [true, false] {
        if silent {
            proxy.pause_down();
            tokio::time::sleep(Duration::from_secs(5)).await;
            proxy.resume();
        }
        proxy.refuse(true);
        proxy.cut().await;
        proxy.refuse(true);
        eventually!(brain.status("/readyz").await == Some(503));
        let bob = shield.connect(&acme.token().user("bob").sign()).await;
        let bob = Watcher::join(bob, "lobby", PresenceMode::Full).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(
            brain.metric("members").await,
            1.0,
            "kept while nothing is heard"
        );
        proxy.refuse(false);
        eventually!(bob.sees(&["alice", "bob"]), "{:?}", bob.now());
        drop(bob);
        eventually!(alice.sees(&["alice"]), "{:?}", alice.now());
        let now = alice.now();
        assert!(!now.left.contains(&"alice".to_owned()), "{now:?}");
    }
}

#[tokio::test]
async fn a_restart_of_nats_leaves_no_ghost_and_loses_nobody() {
    let mut stage = Stage::new().await;
    let alice = stage.full("alice").await;
    let bob = stage.full("bob").await;
    eventually!(alice.sees(&["alice", "bob"]), "{:?}", alice.now());
    for _ in 0..3 {
        let ghost = stage.full("ghost").await;
        eventually!(
            alice.now().members.contains_key("ghost"),
            "{:?}",
            alice.now()
        );
        stage.spine.kill();
        // Leaves while nothing can be told.
        drop(ghost);
        tokio::time::sleep(Duration::from_millis(500)).await;
        stage.spine.restart();
        for seer in [&alice, &bob] {
            eventually!(seer.sees(&["alice", "bob"]), "{:?}", seer.now());
            let now = seer.now();
            assert!(now.left.iter().all(|user| user == "ghost"), "{now:?}");
        }
    }
}

/// Brains that serve one fleet; any of them may be killed.
struct Brains {
    all: Vec<TestBrain>,
}

impl Brains {
    /// The one that tells this tenant's watchers; None while it is not known.
    async fn emitter(&self) -> Option<usize> {
        for (index, brain) in self.all.iter().enumerate() {
            if brain.status("/readyz").await == Some(200) && brain.metric("share").await == 1.0 {
                return Some(index);
            }
        }
        None
    }
}

/// Kills the emitter between a change and its tick, over and over: who stays is never told to
/// have left, and in the end everybody knows everybody.
async fn kill_the_emitter(kills: usize) {
    let mut stage = Stage::with("presence.leave_delay_ms = 0", "tick_ms = 100").await;
    let mut brains = Brains { all: Vec::new() };
    for id in ["brain-2", "brain-3"] {
        brains.all.push(stage.spine.brain(id).launch());
    }
    for brain in &brains.all {
        brain.warm().await;
    }
    let first = std::mem::replace(&mut stage.brain, stage.spine.brain("spare").launch());
    brains.all.push(first);
    stage.brain.kill();

    let watch = stage.watch().await;
    let stays = stage.full("stays").await;
    eventually!(watch.sees(&["stays"]), "{:?}", watch.now());
    let mut present: Vec<(String, Watcher)> = Vec::new();
    let mut gone: Vec<String> = Vec::new();
    for round in 0..kills {
        let mut found = brains.emitter().await;
        eventually!({
            found = found.or(brains.emitter().await);
            found.is_some()
        });
        let emitter = &mut brains.all[found.unwrap()];
        // Who joins, and who leaves, and then the death of the one who should have told.
        let name = format!("user-{round}");
        present.push((name.clone(), stage.full(&name).await));
        if present.len() > 3 {
            let (name, watcher) = present.remove(0);
            gone.push(name);
            drop(watcher);
        }
        tokio::time::sleep(Duration::from_millis((round as u64 * 37) % 130)).await;
        emitter.kill();
        emitter.relaunch();
    }
    let mut there: Vec<&str> = present.iter().map(|(name, _)| name.as_str()).collect();
    there.push("stays");
    for seer in [&watch, &stays] {
        eventually!(seer.sees(&there), "{there:?}: {:?}", seer.now());
        let now = seer.now();
        for user in &now.left {
            assert!(gone.contains(user), "{user} was told to have left: {now:?}");
        }
        assert_eq!(now.unavailable, 0, "two others answered");
    }
    for brain in &brains.all {
        brain.warm().await;
        assert_eq!(brain.metric("members").await, there.len() as f64);
    }
}

#[tokio::test]
async fn killing_the_emitter_loses_nobody_and_tells_no_false_leave() {
    kill_the_emitter(10).await;
}

#[tokio::test]
#[ignore = "about three minutes; scripts/test --full runs it"]
async fn killing_the_emitter_a_hundred_times_loses_nobody() {
    kill_the_emitter(100).await;
}

#[tokio::test]
async fn two_emitters_for_a_while_tell_nothing_false() {
    let stage = Stage::new().await;
    let second = stage.spine.brain("brain-2").start().await;
    let alice = stage.full("alice").await;
    eventually!(alice.sees(&["alice"]), "{:?}", alice.now());
    let mut gone = Vec::new();
    for round in 0..2 {
        for brain in [&stage.brain, &second] {
            // Frozen, it is no emitter any more for the others; thawed, it thinks it still is.
            brain.signal(Signal::STOP);
            let name = format!("frozen-{round}-{}", brain.id());
            let guest = stage.full(&name).await;
            eventually!(alice.now().members.contains_key(&name), "{:?}", alice.now());
            brain.signal(Signal::CONT);
            let late = format!("thawed-{round}-{}", brain.id());
            let other = stage.full(&late).await;
            drop(guest);
            gone.push(name);
            eventually!(alice.sees(&["alice", &late]), "{:?}", alice.now());
            drop(other);
            gone.push(late);
            eventually!(alice.sees(&["alice"]), "{:?}", alice.now());
        }
    }
    let now = alice.now();
    assert!(now.left.iter().all(|user| gone.contains(user)), "{now:?}");
    for brain in [&stage.brain, &second] {
        eventually!(brain.metric("members").await == 1.0);
    }
}

#[tokio::test]
async fn a_storm_of_joins_is_told_in_few_frames_and_bytes() {
    storm(2_000, 500).await;
}

#[tokio::test]
#[ignore = "ten thousand sessions; scripts/test --full runs it"]
async fn a_storm_of_ten_thousand_joins_is_told_in_few_frames_and_bytes() {
    storm(10_000, 500).await;
}

async fn storm(joins: usize, limit: usize) {
    let stage = Stage::with(
        "presence.leave_delay_ms = 0",
        &format!("full_limit = {limit}"),
    )
    .await;
    let watch = stage.watch().await;
    let counted = Watcher::join(stage.user("counted").await, "lobby", PresenceMode::Count).await;
    // A process of its own: two ends of each connection are too many files for one.
    let crowded = stage.spine.shield().id("crowded").spawn().await;
    let mut here = Vec::new();
    for number in 0..joins {
        let token = stage.acme.token().user(&format!("user-{number}")).sign();
        let mut client = crowded.connect(&token).await;
        client
            .join_with(
                "lobby",
                seen_as(PresenceMode::Count, &[("mood", "curious")]),
            )
            .await
            .unwrap();
        here.push(client);
    }
    let there = joins as u32 + 1;
    for seer in [&watch, &counted] {
        eventually!(
            seer.knows(|now| now.count) == there,
            "{:?}",
            seer.knows(|now| now.count)
        );
    }
    let (frames, bytes) = watch.knows(|now| (now.frames, now.bytes));
    // Members up to the limit once, some 200 bytes each, and counts above it: not the square.
    assert!(frames < 200 + joins / 10, "{frames} frames");
    assert!(bytes < limit * 600 + joins * 20, "{bytes} bytes");
    assert!(watch.knows(|now| now.truncated));
    let (frames, bytes) = counted.knows(|now| (now.frames, now.bytes));
    assert!(frames < 200 + joins / 10, "{frames} frames");
    assert!(bytes < 40 * frames, "{bytes} bytes");
    let mut asker = stage.user("asker").await;
    asker.join("lobby").await;
    assert_eq!(ask(&mut asker, "lobby").await.unwrap().count, there);
    assert!(stage.brain.metric("mailbox_max").await < 1_000.0);
}
