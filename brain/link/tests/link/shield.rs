//! The real Shield on the other side: what it says of itself is what the link
//! makes of what it sends.

use std::collections::BTreeMap;

use arqon_client::ConnectParams;
use arqon_harness::{Client, Spine};
use arqon_proto::envelope;
use arqon_proto::presence::tenant_hash;
use arqon_proto::v1::{Join, PresenceMode};

use crate::common::{Link, Term, command, text};

fn join(name: &str) -> Join {
    let mut join = Join {
        meta: [("name".to_owned(), name.to_owned())].into(),
        ..Join::default()
    };
    join.set_presence(PresenceMode::Full);
    join
}

/// Entries by room and session, with their hashes.
type Roster = BTreeMap<(bytes::Bytes, bytes::Bytes), u64>;

fn bin(term: &Term) -> bytes::Bytes {
    match term {
        Term::Bin(bytes) => bytes.clone(),
        other => panic!("{other:?} is no binary"),
    }
}

fn put(roster: &mut Roster, entry: &Term) {
    roster.insert((bin(&entry[0]), bin(&entry[2])), entry[7].int());
}

fn apply(roster: &mut Roster, changes: &Term) {
    for change in changes[7].blob() {
        if change.is("put") {
            put(roster, &change[1]);
        } else {
            assert!(change.is("gone"), "{change:?}");
            roster.remove(&(bin(&change[1]), bin(&change[3])));
        }
    }
}

fn digest(roster: &Roster) -> u64 {
    roster.values().fold(0, |digest, hash| digest ^ hash)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_digests_of_a_shield_are_those_of_what_it_sent() {
    let spine = Spine::start().await;
    let tenant = spine.tenant("acme").await;
    let mut link = Link::start(&spine, "brain-1").await;
    let shield = spine.shield().start().await;
    let mut clients = Vec::new();
    for room in ["lobby", "lobby.side"] {
        for user in ["alice", "bob", "carol"] {
            let token = tenant.token().user(user).sign();
            let params = ConnectParams::new(format!("ws://{}", shield.addr()), token);
            let mut client = Client::connect(params).await.unwrap();
            client.join_with(room, join(user)).await.unwrap();
            clients.push(client);
        }
    }
    clients[0].send(envelope::leave("lobby", 99)).await;

    // Three sessions in each of two rooms, and one that left: 6 puts and 1 gone at least.
    let mut roster = Roster::new();
    let mut version = 0;
    let (epoch, beat) = loop {
        let event = link.event().await;
        if event.is("changes") {
            assert_eq!(event[4].int(), version + 1);
            version += event[5].int();
            apply(&mut roster, &event);
        } else if event.is("beat") && version >= 7 && roster.len() == 5 {
            let recent = event[8].list();
            // A beat may overtake changes, and be older than they are.
            if recent.iter().any(|told| told[1] == version) {
                break (event[2].int(), event);
            }
        }
    };
    let told = &beat[8].list()[0];
    assert!(told[0] == *tenant.account, "{told:?}");
    assert_eq!(
        [1, 2, 3].map(|at: usize| told[at].int()),
        [version, 5, digest(&roster)]
    );
    let root = tenant_hash(&tenant.account, version, digest(&roster));
    assert_eq!([5, 6, 7].map(|at: usize| beat[at].int()), [root, 1, 5]);

    // The snapshot is the same.
    link.send(
        1,
        &[command(5, "sync", |term| {
            text(term, &tenant.account);
            text(term, "shield-1");
            term.uint(epoch);
            term.uint(99);
        })],
    );
    let mut snapshot = Roster::new();
    loop {
        let page = link.next("page").await;
        assert_eq!(
            [3, 4, 5].map(|at: usize| page[at].int()),
            [epoch, version, 99]
        );
        page[8]
            .blob()
            .iter()
            .for_each(|entry| put(&mut snapshot, entry));
        if page[7] == "true" {
            break;
        }
    }
    assert_eq!(snapshot, roster);

    // And so is the list of all tenants.
    link.send(
        1,
        &[command(3, "ask", |term| {
            text(term, "shield-1");
            term.uint(epoch);
        })],
    );
    let digests = link.next("digests").await;
    assert_eq!((digests[2].int(), digests[5].int()), (epoch, root));
    assert_eq!(digests[6].list(), std::slice::from_ref(told));
}
