//! A Brain that stands still.

use arqon_harness::{GLANCE, Spine, eventually};
use arqon_proto::names::SessionId;
use arqon_spine::connect::Connection;
use arqon_spine::subjects;
use prost::Message as _;
use rustix::process::Signal;

use crate::common::{Link, change, entry, fleet, manifest, program, publish};

/// Changes, each in a message of its own: some seconds at 50,000 a second.
const FLOOD: u64 = 300_000;
/// Kilobytes. The queue's 8 MiB are some 20 with what a small event costs; the
/// rest is what the client reads at once.
const RESIDENT: u64 = 96 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_brain_that_stands_still_costs_no_memory_and_is_told_what_it_missed() {
    let spine = Spine::start().await;
    let tenant = spine.tenant("acme").await;
    let path = manifest(&spine, "brain-1");
    let mut link = Link::spawn(&spine, "brain-1", program(&path));
    eventually!(link.log().matches("\"Connected\"").count() == 2);

    let shield = fleet(&spine, &tenant, "shield-1").await;
    let session = SessionId::new();
    let mut most = 0;
    for seq in 1..=FLOOD {
        let body = change(seq, entry("lobby", "alice", session, seq)).encode_to_vec();
        let published = shield
            .client
            .publish(subjects::PRESENCE_CHANGE, body.into());
        published.await.unwrap();
        if seq % 5000 == 0 {
            shield.client.flush().await.unwrap();
            most = most.max(link.resident());
        }
    }

    // Brain goes on: everything is told, or told to be missing.
    link.read();
    link.hello().await;
    let (mut told, mut missing, mut dirty) = (0, 0, 0);
    let mut before = 0;
    while told + missing < FLOOD {
        let event = link.event().await;
        if event.is("changes") {
            assert!(event[4].int() > before, "out of order");
            before = event[4].int();
            told += 1;
        } else if event.is("counted") {
            assert!(
                event[1] == "dropped" || event[1] == "slow_consumer",
                "{event:?}"
            );
            missing += event[2].int();
        } else if event.is("dirty") {
            let whose = event[1].list();
            assert_eq!(whose.len(), 1);
            assert!(whose[0][0] == *tenant.account && whose[0][1] == "shield-1");
            dirty += 1;
        } else {
            assert!(event.is("spine") && event[2] == "up", "{event:?}");
        }
        most = most.max(if told % 10_000 == 0 {
            link.resident()
        } else {
            0
        });
    }
    assert_eq!(told + missing, FLOOD);
    assert!(missing > 0 && told > 0, "{told} told, {missing} missing");
    assert!(most < RESIDENT, "{most} KiB");

    dirty += goes_on(&shield, session, &mut link).await;
    assert!(dirty > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_stood_still_goes_on_within_its_bounds() {
    let spine = Spine::start().await;
    let tenant = spine.tenant("acme").await;
    let mut link = Link::start(&spine, "brain-1").await;
    let shield = fleet(&spine, &tenant, "shield-1").await;
    let session = SessionId::new();
    link.signal(Signal::STOP);
    flood(&shield, session, &link).await;
    link.signal(Signal::CONT);
    goes_on(&shield, session, &mut link).await;
    let resident = link.resident();
    assert!(resident < RESIDENT, "{resident} KiB");
}

/// Publishes the flood; the most the link had in memory.
async fn flood(shield: &Connection, session: SessionId, link: &Link) -> u64 {
    let mut most = 0;
    for seq in 1..=FLOOD {
        let body = change(seq, entry("lobby", "alice", session, seq)).encode_to_vec();
        let published = shield
            .client
            .publish(subjects::PRESENCE_CHANGE, body.into());
        published.await.unwrap();
        if seq % 5000 == 0 {
            shield.client.flush().await.unwrap();
            most = most.max(link.resident());
        }
    }
    most
}

/// Asserts that a new change comes, as if nothing had been; how many events
/// told of missing ones before.
async fn goes_on(shield: &Connection, session: SessionId, link: &mut Link) -> u64 {
    let mut dirty = 0;
    let mut seq = FLOOD;
    loop {
        // More than one, for the server may have cut a link that stood still.
        seq += 1;
        let change = change(seq, entry("lobby", "alice", session, seq));
        publish(shield, subjects::PRESENCE_CHANGE, &change).await;
        for event in link.come().await {
            dirty += u64::from(event.is("dirty"));
            if event.is("changes") && event[4].int() > FLOOD {
                return dirty;
            }
        }
        tokio::time::sleep(GLANCE).await;
    }
}
