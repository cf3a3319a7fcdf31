#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const ACCOUNT: &str = "AACME222222222222222222222222222222222222222222222222222";

fn session(n: u8) -> Bytes {
    let mut bytes = [0; 16];
    (bytes[6], bytes[8], bytes[15]) = (0x70, 0x80, n);
    Bytes::copy_from_slice(&bytes)
}

fn entry(room: &str, n: u8, seq: u64) -> v1::PresenceEntry {
    v1::PresenceEntry {
        key: Some(v1::PresenceKey {
            room: room.to_owned(),
            session: session(n),
            user: "alice".to_owned(),
        }),
        seq,
        ..Default::default()
    }
}

fn put(entry: v1::PresenceEntry) -> v1::PresenceChange {
    v1::PresenceChange {
        change: Some(v1::presence_change::Change::Put(entry)),
    }
}

fn changes(entries: impl IntoIterator<Item = v1::PresenceEntry>) -> v1::PresenceChanges {
    v1::PresenceChanges {
        shield: "shield-1".to_owned(),
        epoch: 1,
        first_seq: 10,
        changes: entries.into_iter().map(put).collect(),
        ..Default::default()
    }
}

fn page(entries: Vec<v1::PresenceEntry>) -> v1::PresencePage {
    v1::PresencePage {
        shield: "shield-1".to_owned(),
        epoch: 1,
        seq: 20,
        entries,
        ..Default::default()
    }
}

fn events(changes: &v1::PresenceChanges) -> Result<usize, Refused> {
    let mut events = Vec::new();
    let body = &changes.encode_to_vec().into();
    let sent = Sent {
        account: ACCOUNT,
        body,
    };
    sent.changes(&mut events)
        .inspect_err(|_| assert!(events.is_empty()))?;
    Ok(events.len())
}

fn paged(page: &v1::PresencePage) -> Result<Event, Refused> {
    let body = &page.encode_to_vec().into();
    let sent = Sent {
        account: ACCOUNT,
        body,
    };
    sent.page()
}

#[test]
fn one_thing_wrong_refuses_the_whole_batch() {
    let good = || changes([entry("a", 1, 10), entry("a", 2, 11)]);
    assert_eq!(events(&good()), Ok(1));
    let with = |change: &dyn Fn(&mut v1::PresenceEntry)| {
        let mut changes = good();
        let Some(v1::presence_change::Change::Put(entry)) = &mut changes.changes[1].change else {
            panic!("it puts");
        };
        change(entry);
        events(&changes)
    };
    let key =
        |change: &dyn Fn(&mut v1::PresenceKey)| with(&|entry| change(entry.key.as_mut().unwrap()));
    let malformed = [
        key(&|key| key.room = "_presence".to_owned()),
        key(&|key| key.room = "a.>".to_owned()),
        key(&|key| key.room = String::new()),
        key(&|key| key.user = "al\u{200b}ice".to_owned()),
        key(&|key| key.user = "x".repeat(129)),
        key(&|key| key.session = Bytes::new()),
        key(&|key| key.session = Bytes::from_static(&[0; 16])),
        with(&|entry| entry.key = None),
        with(&|entry| entry.seq = 12),
        with(&|entry| entry.seq = 0),
        events(&v1::PresenceChanges {
            shield: "Shield".to_owned(),
            ..good()
        }),
        events(&v1::PresenceChanges {
            shield: String::new(),
            ..good()
        }),
        events(&v1::PresenceChanges {
            first_seq: 0,
            ..good()
        }),
        events(&v1::PresenceChanges {
            first_seq: u64::MAX,
            ..good()
        }),
        events(&v1::PresenceChanges {
            changes: vec![Default::default()],
            ..good()
        }),
        events(&v1::PresenceChanges {
            active: vec![Default::default()],
            ..good()
        }),
    ];
    for (index, outcome) in malformed.into_iter().enumerate() {
        assert!(
            matches!(outcome, Err(Refused::Malformed(_))),
            "{index}: {outcome:?}"
        );
    }
    let meta = |len| {
        let meta = [("key".to_owned(), "x".repeat(len))];
        let meta = v1::PresenceMap { meta: meta.into() };
        with(&|entry| entry.meta = Some(meta.clone()))
    };
    assert_eq!(meta(MAX_META - 3), Ok(1));
    assert_eq!(meta(MAX_META - 2), Err(Refused::Oversized("meta")));
}

const TRACED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn trace(room: &str, traceparent: &str, kind: v1::PresenceTraceKind) -> v1::PresenceTrace {
    v1::PresenceTrace {
        room: room.to_owned(),
        traceparent: traceparent.to_owned(),
        kind: kind.into(),
    }
}

/// The events of a batch, and how many of its traces are none.
fn traced(changes: &v1::PresenceChanges) -> (Vec<Event>, usize) {
    let mut events = Vec::new();
    let body = &changes.encode_to_vec().into();
    let sent = Sent {
        account: ACCOUNT,
        body,
    };
    let malformed = sent.changes(&mut events).unwrap();
    (events, malformed)
}

#[test]
fn a_trace_that_is_none_costs_nothing_but_itself() {
    use v1::PresenceTraceKind::{Activity, Change, Unspecified};
    let plain = changes([entry("a", 1, 10)]);
    let with = |traces: Vec<v1::PresenceTrace>| {
        traced(&v1::PresenceChanges {
            traces,
            ..plain.clone()
        })
    };
    let none = with(Vec::new()).0;
    for wrong in [
        trace("", TRACED, Change),
        trace("_presence", TRACED, Change),
        trace("a.>", TRACED, Activity),
        trace("a", "", Change),
        trace("a", &TRACED.to_uppercase(), Change),
        trace("a", &TRACED.replace("-01", "-00"), Change),
        trace("a", &TRACED.replace("-01", "-00"), Activity),
        trace("a", &"x".repeat(100_000), Change),
        trace("a", TRACED, Unspecified),
        v1::PresenceTrace {
            kind: 99,
            ..trace("a", TRACED, Change)
        },
    ] {
        assert_eq!(with(vec![wrong.clone()]), (none.clone(), 1), "{wrong:?}");
        // Beside one that is good it is as if it were not there.
        let good = trace("b", TRACED, Change);
        let alone = with(vec![good.clone()]).0;
        assert_eq!(with(vec![wrong, good]), (alone, 1));
    }
    // Of changes that are not there.
    let marks = v1::PresenceChanges {
        changes: Vec::new(),
        traces: vec![trace("a", TRACED, Change)],
        ..plain.clone()
    };
    assert_eq!(traced(&marks), (Vec::new(), 1));
}

#[test]
fn so_many_traces_and_no_more_are_followed() {
    let batch = |traces| v1::PresenceChanges {
        traces: vec![trace("a", TRACED, v1::PresenceTraceKind::Change); traces],
        ..changes([entry("a", 1, 10)])
    };
    let all = traced(&batch(MAX_TRACES));
    assert_eq!(all.1, 0);
    assert_eq!(traced(&batch(MAX_TRACES + 1)), all);
    assert_eq!(traced(&batch(2000)), all);
    assert_ne!(traced(&batch(MAX_TRACES - 1)), all);
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    for body in [&b"\xff\xff\xff"[..], b"\x0a\x02\xc3\x28"] {
        let body = &Bytes::from_static(body);
        let sent = Sent {
            account: ACCOUNT,
            body,
        };
        assert_eq!(
            sent.changes(&mut Vec::new()),
            Err(Refused::Malformed("body"))
        );
        assert_eq!(sent.page(), Err(Refused::Malformed("body")));
        assert_eq!(sent.query(), Err(Refused::Malformed("body")));
    }
    let body = &Bytes::from(vec![0; MAX_BODY + 1]);
    let sent = Sent {
        account: ACCOUNT,
        body,
    };
    assert_eq!(sent.query(), Err(Refused::Oversized("body")));
    let body = &Bytes::new();
    let sent = Sent {
        account: "acme",
        body,
    };
    assert_eq!(sent.query(), Err(Refused::Malformed("account")));
}

#[test]
fn pages_are_in_order_and_not_newer_than_themselves() {
    let good = vec![
        entry("a", 1, 20),
        entry("a", 2, 1),
        entry("a.b", 1, 3),
        entry("b", 1, 4),
    ];
    assert!(paged(&page(good.clone())).is_ok());
    for (one, other) in [(0, 1), (1, 2), (2, 3)] {
        let mut swapped = good.clone();
        swapped.swap(one, other);
        assert_eq!(
            paged(&page(swapped)),
            Err(Refused::Malformed("entries out of order"))
        );
    }
    let twice = vec![good[0].clone(), good[0].clone()];
    assert!(paged(&page(twice)).is_err());
    assert!(paged(&page(vec![entry("a", 1, 21)])).is_err());
    assert!(paged(&page(vec![entry("a", 1, 0)])).is_err());
}

#[test]
fn reports_that_are_wrong_are_refused() {
    let tenant = |account: &str| v1::TenantDigest {
        account: account.to_owned(),
        ..Default::default()
    };
    let with = |recent| v1::ShieldBeat {
        shield: "shield-1".to_owned(),
        presence: Some(v1::PresenceSummary {
            recent,
            ..Default::default()
        }),
        ..Default::default()
    };
    assert!(beat(&with(vec![tenant(ACCOUNT); 64])).is_ok());
    assert_eq!(
        beat(&with(vec![tenant(ACCOUNT); 65])),
        Err(Refused::Oversized("recent"))
    );
    assert_eq!(
        beat(&with(vec![tenant("acme")])),
        Err(Refused::Malformed("account"))
    );
    let old = |incarnation: &str| v1::ShieldBeat {
        incarnation: incarnation.to_owned(),
        presence: None,
        ..with(Vec::new())
    };
    assert!(beat(&old("0000019e6c1d2f7b")).is_ok());
    assert_eq!(beat(&old("x")), Err(Refused::Malformed("incarnation")));
    assert!(brain(&v1::BrainBeat::default()).is_err());
    assert!(digests(&v1::PresenceDigests::default()).is_err());
}

#[test]
fn a_clock_is_far_off_after_a_minute() {
    let at = |time_ms| v1::ShieldBeat {
        time_ms,
        ..Default::default()
    };
    assert_eq!(skew(&at(100_000), 160_000), None);
    assert_eq!(skew(&at(100_000), 160_001), Some(60_001));
    assert_eq!(skew(&at(160_001), 100_000), Some(60_001));
    // An older Shield tells no time.
    assert_eq!(skew(&at(0), 160_001), None);
}

proptest! {
    #[test]
    fn no_body_does_harm(body: Vec<u8>) {
        let body = &Bytes::from(body);
        let sent = Sent { account: ACCOUNT, body };
        let _ = sent.changes(&mut Vec::new());
        let _ = sent.page();
        let _ = sent.query();
    }
}
