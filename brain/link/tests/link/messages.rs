//! What passes, and where it arrives.

use arqon_harness::{GLANCE, Spine, within};
use arqon_proto::names::SessionId;
use arqon_proto::presence::entry_hash;
use arqon_proto::v1::{self, presence_order::Order};
use arqon_spine::connect::Connection;
use arqon_spine::subjects;
use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message as _;

use crate::common::{
    Link, Term, change, command, control, entry, fleet, heard, node, publish, text,
};

fn query(id: u64) -> v1::PresenceQuery {
    v1::PresenceQuery {
        shield: "shield-1".to_owned(),
        epoch: 7,
        id,
        room: "lobby".to_owned(),
        count_only: false,
        after_seq: 3,
    }
}

#[tokio::test]
async fn changes_and_pages_of_each_tenant_come_with_its_account_and_their_hashes() {
    let spine = Spine::start().await;
    let mut link = Link::start(&spine, "brain-1").await;
    let session = SessionId::new();
    for name in ["acme", "globex"] {
        let tenant = spine.tenant(name).await;
        let shield = fleet(&spine, &tenant, "shield-1").await;
        let mut changes = change(5, entry("lobby", "alice", session, 5));
        changes.changes.push(v1::PresenceChange {
            change: Some(v1::presence_change::Change::Remove(v1::PresenceKey {
                room: "lobby".to_owned(),
                user: "bob".to_owned(),
                session: Bytes::copy_from_slice(session.as_bytes()),
            })),
        });
        publish(&shield, subjects::PRESENCE_CHANGE, &changes).await;

        let event = link.next("changes").await;
        let Term::Tuple(fields) = &event else {
            panic!()
        };
        assert_eq!(fields[1], *tenant.account);
        assert_eq!(fields[2], "shield-1");
        assert_eq!([3, 4, 5].map(|at: usize| event[at].int()), [7, 5, 2]);
        let blob = event[7].blob();
        let put = &blob[0];
        assert!(put.is("put"));
        let hash = entry_hash(7, "lobby", session, 5);
        assert_eq!((&put[1][0] == "lobby", &put[1][1] == "alice"), (true, true));
        assert_eq!(
            put[1][2],
            Term::Bin(Bytes::copy_from_slice(session.as_bytes()))
        );
        assert_eq!((put[1][3].int(), put[1][7].int()), (5, hash));
        let Term::Bin(meta) = &put[1][4] else {
            panic!()
        };
        assert_eq!(
            v1::PresenceMap::decode(meta.clone()).unwrap().meta["name"],
            "alice"
        );
        assert!(blob[1].is("gone") && blob[1][2] == "bob");

        let page = v1::PresencePage {
            shield: "shield-1".to_owned(),
            epoch: 7,
            seq: 6,
            request: u64::MAX,
            number: 0,
            last: true,
            entries: vec![entry("lobby", "alice", session, 5)],
        };
        publish(&shield, &subjects::presence_page(&node("brain-2")), &page).await;
        publish(&shield, &subjects::presence_page(&node("brain-1")), &page).await;
        let event = link.event().await;
        assert!(event.is("page") && event[1] == *tenant.account, "{event:?}");
        assert_eq!((event[5].int(), event[8].blob().len()), (u64::MAX, 1));
    }
}

#[tokio::test]
async fn queries_are_shared_by_those_who_serve() {
    let spine = Spine::start().await;
    let tenant = spine.tenant("acme").await;
    let shield = fleet(&spine, &tenant, "shield-1").await;
    let mut links = [
        Link::start(&spine, "brain-1").await,
        Link::start(&spine, "brain-2").await,
    ];
    let [one, other] = &mut links;
    let mut asked = 0;
    // Serving has no answer: ask until one comes.
    one.serve(true);
    while !asked_of(&shield, &mut asked, one).await {}
    assert!(other.come().await.is_empty(), "it does not serve");

    other.serve(true);
    while !asked_of(&shield, &mut asked, other).await {
        one.come().await;
    }
    // From here on both do: each query comes to exactly one.
    let first = asked + 1;
    for id in first..first + 200 {
        publish(&shield, subjects::PRESENCE_QUERY, &query(id)).await;
    }
    let mut seen = Vec::new();
    let mut shares = [0, 0];
    while seen.len() < 200 {
        for (link, share) in [&mut *one, &mut *other].into_iter().zip(&mut shares) {
            let ids: Vec<u64> = link
                .come()
                .await
                .iter()
                .map(|event| event[4].int())
                .collect();
            let new = ids.into_iter().filter(|id| *id >= first);
            let before = seen.len();
            seen.extend(new);
            *share += seen.len() - before;
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (first..first + 200).collect::<Vec<_>>());
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");

    // One leaves: the other gets all.
    asked += 200;
    one.serve(false);
    let mut in_a_row = 0;
    while in_a_row < 20 {
        if asked_of(&shield, &mut asked, other).await {
            in_a_row += 1;
        } else {
            in_a_row = 0;
        }
        one.come().await;
    }
}

/// Asks once; whether this link gets it within a while.
async fn asked_of(shield: &Connection, asked: &mut u64, link: &mut Link) -> bool {
    *asked += 1;
    publish(shield, subjects::PRESENCE_QUERY, &query(*asked)).await;
    for _ in 0..50 {
        let events = link.come().await;
        if events
            .iter()
            .any(|event| event.is("query") && event[4].int() == *asked)
        {
            return true;
        }
        tokio::time::sleep(GLANCE).await;
    }
    false
}

#[tokio::test]
async fn what_brain_says_reaches_the_shields_of_that_tenant_only() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let globex = spine.tenant("globex").await;
    let mut link = Link::start(&spine, "brain-1").await;
    let shield = fleet(&spine, &acme, "shield-1").await;
    let other = fleet(&spine, &globex, "shield-1").await;
    let mut own = shield.client.subscribe("acme._presence.>").await.unwrap();
    let mut foreign = other.client.subscribe("globex._presence.>").await.unwrap();
    shield.client.flush().await.unwrap();
    other.client.flush().await.unwrap();
    let account = &*acme.account;

    let sync = command(5, "sync", |term| {
        text(term, account);
        text(term, "shield-1");
        term.uint(7);
        term.uint(99);
    });
    // Subscriptions of another connection: ask until they are known.
    let mut sent = 0;
    let (subject, order) = loop {
        link.send(10, std::slice::from_ref(&sync));
        sent += 10;
        let first = tokio::time::timeout(std::time::Duration::from_millis(200), own.next());
        if let Ok(Some(message)) = first.await {
            let order = v1::PresenceOrder::decode(message.payload).unwrap();
            break (message.subject.to_string(), order);
        }
    };
    assert_eq!(subject, "acme._presence.shield.shield-1");
    let Some(Order::Sync(sync)) = order.order else {
        panic!()
    };
    assert_eq!((&*sync.brain, sync.epoch, sync.request), ("brain-1", 7, 99));

    // 300 members of 2 KiB: several pages.
    let session = SessionId::new();
    let meta = v1::PresenceMap {
        meta: [("about".to_owned(), "x".repeat(2000))].into(),
    };
    let answer = command(10, "answer", |term| {
        text(term, account);
        text(term, "shield-1");
        term.uint(u64::MAX);
        text(term, "lobby");
        term.uint(1 << 58);
        coverage(term);
        term.uint(300);
        term.bool(false);
        let users: Vec<String> = (0..300).map(|n| format!("user-{n:03}")).collect();
        term.each(&users, |term, user| {
            term.tuple(3);
            text(term, user);
            term.uint(1);
            term.each(&[()], |term, ()| {
                term.tuple(4);
                term.binary(session.as_bytes());
                term.binary(&meta.encode_to_vec());
                term.uint(1);
                term.uint(2);
            });
        });
    });
    let events = command(6, "events", |term| {
        text(term, account);
        coverage(term);
        term.each(&[5_u64], |term, epoch| term.uint(*epoch));
        term.each(&["lobby"], |term, room| {
            term.tuple(7);
            text(term, room);
            (1..=3).for_each(|n| term.uint(n));
            term.bool(false);
            term.nil();
            term.each(&["bob"], |term, user| text(term, user));
        });
        term.nil();
    });
    let digests = command(6, "digests", |term| {
        text(term, account);
        coverage(term);
        text(term, "");
        text(term, "");
        term.each(&["lobby"], |term, room| {
            term.tuple(3);
            text(term, room);
            term.uint(1 << 58);
            term.uint(3);
        });
    });
    link.send(1000, &[answer, events, digests]);

    let mut members = Vec::new();
    loop {
        let (subject, order) = heard::<v1::PresenceOrder>(&mut own).await;
        let Some(Order::Answer(page)) = order.order else {
            continue;
        };
        assert_eq!(subject, "acme._presence.shield.shield-1");
        assert_eq!((page.id, page.coverage.len()), (u64::MAX, 1));
        members.extend(page.members);
        if page.last {
            assert!(page.number > 0);
            break;
        }
    }
    assert_eq!(members.len(), 300);
    assert_eq!(members[299].sessions[0].session, session.to_string());
    assert_eq!(members[299].sessions[0].meta, meta.meta);
    let (subject, events) = heard::<v1::PresenceEvents>(&mut own).await;
    assert_eq!(subject, "acme._presence.events");
    assert_eq!((&*events.brain, &events.gone[..]), ("brain-1", &[5][..]));
    assert_eq!(events.rooms[0].left, ["bob"]);
    let (_, digests) = heard::<v1::PresenceEvents>(&mut own).await;
    assert_eq!(digests.range.unwrap().rooms[0].digest, 1 << 58);

    // All credit comes back, and the other tenant heard nothing.
    let mut back = 0;
    while back < sent + 1000 {
        back += link.other("credit").await;
    }
    assert_eq!(back, sent + 1000);
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(50), foreign.next());
    assert!(nothing.await.is_err());
}

fn coverage(term: &mut arqon_brain_link::etf::Writer) {
    term.each(&[()], |term, ()| {
        term.tuple(2);
        term.uint(7);
        term.uint(3);
    });
}

#[tokio::test]
async fn reports_pass_both_ways() {
    let spine = Spine::start().await;
    let tenant = spine.tenant("acme").await;
    let mut link = Link::start(&spine, "brain-1").await;
    let (_connection, shield) = control(&spine, "shield-1").await;
    let mut asks = shield.subscribe_asks(&node("shield-1")).await.unwrap();
    shield.flush().await.unwrap();

    let digest = v1::TenantDigest {
        account: tenant.account.clone(),
        seq: 3,
        count: 2,
        digest: 1 << 58,
    };
    let beat = v1::ShieldBeat {
        shield: "shield-1".to_owned(),
        incarnation: "0000000000000007".to_owned(),
        uptime_ms: 61_000,
        presence: Some(v1::PresenceSummary {
            epoch: 7,
            root: 12,
            tenants: 1,
            entries: 2,
            recent: vec![digest.clone()],
        }),
        ..Default::default()
    };
    shield.publish_beat(&node("shield-1"), &beat).await.unwrap();
    let event = link.next("beat").await;
    assert_eq!(
        [2, 3, 5, 6, 7].map(|at: usize| event[at].int()),
        [7, 61_000, 12, 1, 2]
    );
    let recent = event[8].list();
    assert!(recent[0][0] == *tenant.account && recent[0][3] == 1 << 58);

    let digests = v1::PresenceDigests {
        shield: "shield-1".to_owned(),
        epoch: 7,
        root: 12,
        number: 0,
        last: true,
        tenants: vec![digest],
    };
    shield
        .publish_presence(&node("shield-1"), &digests)
        .await
        .unwrap();
    let event = link.next("digests").await;
    assert!(event[1] == "shield-1" && event[4] == "true");

    let ask = command(3, "ask", |term| {
        text(term, "shield-1");
        term.uint(7);
    });
    let own = command(2, "beat", |term| {
        term.map(7);
        for key in ["warm", "goodbye"] {
            term.atom(key);
            term.bool(key == "warm");
        }
        for key in ["uptime_ms", "members", "tenants", "shields", "share"] {
            term.atom(key);
            term.uint(5);
        }
    });
    link.send(10, &[own]);
    let event = link.next("brain").await;
    assert!(event[1] == "brain-1" && event[4] == "true" && event[5] == "false");
    // The ask may overtake the Shield's subscription in the server: ask until it is heard.
    loop {
        link.send(10, std::slice::from_ref(&ask));
        let asked = tokio::time::timeout(std::time::Duration::from_millis(200), asks.next());
        if let Ok(asked) = asked.await {
            assert_eq!(asked.unwrap().epoch, 7);
            break;
        }
    }

    // The incarnation is the same in hello and beat.
    let mut second = Link::spawn(
        &spine,
        "brain-2",
        crate::common::program(&crate::common::manifest(&spine, "brain-2")),
    );
    second.read();
    let hello = second.hello().await;
    second.connected().await;
    second.send(
        10,
        &[command(2, "beat", |term| {
            term.map(7);
            for key in ["warm", "goodbye"] {
                term.atom(key);
                term.bool(true);
            }
            for key in ["uptime_ms", "members", "tenants", "shields", "share"] {
                term.atom(key);
                term.uint(5);
            }
        })],
    );
    let event = within("the other's beat", link.next("brain")).await;
    assert!(event[1] == "brain-2" && event[5] == "true");
    assert_eq!(&event[2], hello[2].get("incarnation"));
}

#[tokio::test]
async fn what_is_wrong_is_counted_and_goes_no_further() {
    let spine = Spine::start().await;
    let tenant = spine.tenant("acme").await;
    let mut link = Link::start(&spine, "brain-1").await;
    let shield = fleet(&spine, &tenant, "shield-1").await;
    let (_connection, store) = control(&spine, "shield-1").await;
    let session = SessionId::new();
    let client = &shield.client;

    client
        .publish(subjects::PRESENCE_CHANGE, "\u{1}not protobuf".into())
        .await
        .unwrap();
    let wrong_room = change(1, entry("_presence", "alice", session, 1));
    publish(&shield, subjects::PRESENCE_CHANGE, &wrong_room).await;
    let wrong_seq = change(1, entry("lobby", "alice", session, 9));
    publish(&shield, subjects::PRESENCE_CHANGE, &wrong_seq).await;
    let mut large = entry("lobby", "alice", session, 1);
    large
        .meta
        .as_mut()
        .unwrap()
        .meta
        .insert("x".to_owned(), "y".repeat(5000));
    publish(&shield, subjects::PRESENCE_CHANGE, &change(1, large)).await;
    let beat = v1::ShieldBeat {
        shield: "shield-1".to_owned(),
        incarnation: "0000000000000007".to_owned(),
        time_ms: 1,
        ..Default::default()
    };
    for _ in 0..3 {
        store.publish_beat(&node("shield-1"), &beat).await.unwrap();
    }
    // Another Shield's name on one's own subject.
    let forged = v1::ShieldBeat {
        shield: "shield-2".to_owned(),
        ..beat
    };
    store
        .publish_beat(&node("shield-1"), &forged)
        .await
        .unwrap();
    publish(
        &shield,
        subjects::PRESENCE_CHANGE,
        &change(2, entry("lobby", "alice", session, 2)),
    )
    .await;

    let mut counted = std::collections::BTreeMap::new();
    let (mut beats, mut changes) = (0, 0);
    let expected = [("clock_skew", 3), ("malformed", 3), ("oversized", 1)];
    while counted.values().sum::<u64>() < 7 || changes == 0 {
        let event = link.event().await;
        match &event {
            event if event.is("counted") => {
                let Term::Atom(kind) = &event[1] else {
                    panic!()
                };
                *counted.entry(kind.clone()).or_insert(0) += event[2].int();
            }
            event if event.is("beat") => {
                assert!(event[1] == "shield-1");
                assert_eq!([2, 5, 6, 7].map(|at: usize| event[at].int()), [7, 0, 0, 0]);
                beats += 1;
            }
            event if event.is("changes") => {
                assert_eq!(event[4].int(), 2);
                changes += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    let counted: Vec<_> = counted.iter().map(|(kind, n)| (&**kind, *n)).collect();
    assert_eq!(counted, expected);
    assert_eq!((beats > 0, changes), (true, 1));
    let complaints = link.log().matches("clock is off").count();
    assert_eq!(complaints, 1);
}
