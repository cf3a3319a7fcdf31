#![allow(clippy::unwrap_used)]

use arqon_proto::{
    envelope::{decode_client, decode_server},
    headers::{TRACEPARENT, X_TIMESTAMP, X_TWIST_ID},
    names::{TenantId, UserId},
};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use time::macros::datetime;

use super::*;
use crate::{
    auth::{Role, RoomGrants},
    control::Tenant,
    quota::testing,
};

const MAX_OFFENCES: u32 = 5;

fn limits() -> SessionLimits {
    SessionLimits {
        max_frame_bytes: 4096,
        max_payload_bytes: 1000,
        max_rooms: 3,
        headers: HeaderLimits {
            max_headers: 2,
            max_header_bytes: 50,
        },
        max_meta_bytes: 50,
        max_offences: MAX_OFFENCES,
    }
}

fn identity() -> Identity {
    Identity {
        tenant: Arc::new(Tenant {
            id: TenantId::parse("acme").unwrap(),
            record: v1::TenantRecord::default(),
        }),
        user: UserId::parse("alice").unwrap(),
        role: Role::User,
        rooms: RoomGrants::all(),
        jti: None,
        issued_at: 1_000,
        expires_at: 4_600,
    }
}

fn grants(join: &[&str], publish: &[&str]) -> RoomGrants {
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    RoomGrants::parse(&owned(join), &owned(publish)).unwrap()
}

fn state(identity: Identity) -> State {
    let quota = testing::quotas().of(&identity.tenant);
    State::new(SessionId::new(), identity, Arc::new(limits()), quota)
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: datetime!(2026-11-23 22:00:00.000001 UTC),
    }
}

fn room(name: &str) -> RoomId {
    RoomId::parse(name).unwrap()
}

fn list(actions: Actions) -> Vec<Action> {
    actions.into_iter().collect()
}

fn refused(actions: Actions) -> Option<(ErrorCode, u64)> {
    list(actions).into_iter().find_map(|action| match action {
        Action::Refuse(refusal) => Some((refusal.code, refusal.reference)),
        _ => None,
    })
}

/// Feeds bytes as the actor does.
fn feed(state: &mut State, bytes: Vec<u8>) -> Actions {
    match decode_client(bytes.into()) {
        Ok(envelope) => state.on_envelope(envelope, now()),
        Err(fault) => state.on_fault(fault, now()),
    }
}

/// Joins, with the Spine's consent.
fn join(state: &mut State, name: &str) -> Vec<Action> {
    let asked = envelope::join(name, 1, v1::Join::default());
    match list(state.on_envelope(asked, now())).pop() {
        Some(Action::Join(request)) => list(state.on_joined(request, Ok(()))),
        other => panic!("{other:?}"),
    }
}

fn publish(state: &mut State, name: &str) -> Actions {
    let asked = envelope::publish(name, 7, Bytes::from_static(b"hello"), true);
    state.on_envelope(asked, now())
}

fn published(actions: Actions) -> (PublishRequest, v1::Envelope) {
    match list(actions).pop() {
        Some(Action::Publish(request)) => {
            let message = decode_server(request.message.encode_to_vec().into()).unwrap();
            (*request, message)
        }
        other => panic!("{other:?}"),
    }
}

/// The golden table of bad input: what is sent, what is told, whether it is an offence.
#[test]
fn bad_input_is_refused_by_its_code() {
    let raw = |op: i32, room: &str, body| {
        let envelope = v1::Envelope {
            op,
            room: room.to_owned(),
            r#ref: 9,
            body,
            ..Default::default()
        };
        envelope.encode_to_vec()
    };
    let join = |name: &str| envelope::join(name, 9, v1::Join::default()).encode_to_vec();
    let publish = |payload: usize, headers: &[(&str, &str)]| {
        let mut asked = envelope::publish("lobby", 9, vec![0; payload].into(), false);
        asked.headers = headers
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        asked.encode_to_vec()
    };
    let mut truncated = join("lobby");
    truncated.truncate(4);
    let long_token = "x".repeat(65);
    let long = [&"a".repeat(64), &"b".repeat(64), &"c".repeat(64), "defghi"].join(".");
    assert_eq!(long.len(), 201);
    let long_value = "v".repeat(60);
    let meta = v1::Join {
        meta: BTreeMap::from([("a".to_owned(), long_value.clone())]),
        ..Default::default()
    };
    use ErrorCode::*;
    let table: Vec<(&str, Vec<u8>, ErrorCode, u64, bool)> = vec![
        ("random bytes", vec![0xff; 40], EnvelopeUndecodable, 0, true),
        ("truncated", truncated, EnvelopeUndecodable, 0, true),
        ("empty", Vec::new(), UnknownOpcode, 0, true),
        (
            "unknown opcode",
            raw(50, "lobby", None),
            UnknownOpcode,
            9,
            true,
        ),
        (
            "server opcode",
            raw(69, "lobby", None),
            UnknownOpcode,
            9,
            true,
        ),
        (
            "opcode and body disagree",
            raw(1, "lobby", Some(Body::Publish(v1::Publish { ack: true }))),
            ProtocolMismatch,
            9,
            true,
        ),
        ("room *", join("*"), RoomNameInvalid, 9, true),
        ("room >", join(">"), RoomNameInvalid, 9, true),
        ("room with a space", join("a b"), RoomNameInvalid, 9, true),
        ("room with ..", join("a..b"), RoomNameInvalid, 9, true),
        ("no room", join(""), RoomNameInvalid, 9, true),
        ("5 tokens", join("a.b.c.d.e"), RoomNameInvalid, 9, true),
        (
            "65 bytes in a token",
            join(&long_token),
            RoomNameInvalid,
            9,
            true,
        ),
        ("201 bytes", join(&long), RoomNameInvalid, 9, true),
        ("_presence", join("_presence"), RoomNameInvalid, 9, true),
        ("wildcard in a token", join("a.*"), RoomNameInvalid, 9, true),
        (
            "payload over the limit",
            publish(1001, &[]),
            PayloadTooLarge,
            9,
            true,
        ),
        (
            "headers over the count",
            publish(1, &[("a", ""), ("b", ""), ("c", "")]),
            HeadersTooLarge,
            9,
            true,
        ),
        (
            "headers over the size",
            publish(1, &[("a", &long_value)]),
            HeadersTooLarge,
            9,
            true,
        ),
        (
            "reserved header",
            publish(1, &[("X-Timestamp", "a")]),
            HeaderReserved,
            9,
            true,
        ),
        (
            "broken header",
            publish(1, &[("a b", "a")]),
            HeaderInvalid,
            9,
            true,
        ),
        (
            "meta over the size",
            envelope::join("other", 9, meta).encode_to_vec(),
            MetaTooLarge,
            9,
            true,
        ),
        (
            "publish to a room not joined",
            envelope::publish("other", 9, Bytes::new(), false).encode_to_vec(),
            NotJoined,
            9,
            false,
        ),
        ("second JOIN", join("lobby"), AlreadyJoined, 9, false),
        (
            "LEAVE of a room not joined",
            envelope::leave("other", 9).encode_to_vec(),
            NotJoined,
            9,
            false,
        ),
        (
            "presence of a room not joined",
            envelope::presence_get("other", 9, true).encode_to_vec(),
            NotJoined,
            9,
            false,
        ),
    ];
    for (what, bytes, code, reference, offence) in table {
        let mut state = state(identity());
        super::tests::join(&mut state, "lobby");
        assert_eq!(
            refused(feed(&mut state, bytes)),
            Some((code, reference)),
            "{what}"
        );
        assert_eq!(state.offences, u32::from(offence), "{what}");
        // The session goes on.
        published(super::tests::publish(&mut state, "lobby"));
    }
}

#[test]
fn text_frames_and_the_rest_close_after_the_budget() {
    let mut state = state(identity());
    let start = now();
    for _ in 0..MAX_OFFENCES {
        assert_eq!(
            list(state.on_other_kind(ErrorCode::TextFrame, start)).len(),
            1
        );
    }
    let actions = list(state.on_other_kind(ErrorCode::TextFrame, start));
    assert!(matches!(&actions[0], Action::Refuse(refusal) if refusal.code == ErrorCode::TextFrame));
    assert_eq!(actions[1], Action::Close(CloseCode::TooManyOffences));
    let later = Now {
        instant: start.instant + OFFENCE_WINDOW,
        ..start
    };
    assert_eq!(
        list(state.on_other_kind(ErrorCode::TextFrame, later)).len(),
        1,
        "a new minute, a new budget"
    );
}

#[test]
fn a_message_is_stamped_by_shield() {
    let mut state = state(identity());
    join(&mut state, "lobby");
    let twist = TwistId::new();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut asked = envelope::publish("lobby", 7, Bytes::from_static(b"hello"), true);
    asked.headers = BTreeMap::from([
        (X_TWIST_ID.to_owned(), twist.to_string()),
        (TRACEPARENT.to_owned(), parent.to_owned()),
        ("lang".to_owned(), "en".to_owned()),
    ]);
    let (request, message) = published(state.on_envelope(asked, now()));
    assert!(request.ack);
    assert_eq!((request.reference, request.twist), (7, twist));
    assert_eq!(message.op(), Opcode::Message);
    assert_eq!((message.room.as_str(), message.r#ref), ("lobby", 0));
    assert_eq!(message.payload, "hello");
    assert_eq!(message.headers[X_TWIST_ID], twist.to_string());
    assert_eq!(message.headers[X_TIMESTAMP], "2026-11-23T22:00:00.000001Z");
    assert_eq!(message.headers[TRACEPARENT], parent);
    assert_eq!(message.headers["lang"], "en");
    let Some(Body::Message(body)) = message.body else {
        panic!("no message");
    };
    let sender = body.sender.unwrap();
    assert_eq!(sender.user, "alice");
    assert_eq!(sender.session, state.session.to_string());
}

#[test]
fn malformed_ids_are_replaced_and_malformed_traces_dropped() {
    let mut state = state(identity());
    join(&mut state, "lobby");
    for parent in [
        "",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
    ] {
        let mut asked = envelope::publish("lobby", 7, Bytes::new(), false);
        // Version 4, hence no id of ours.
        asked.headers = BTreeMap::from([
            (
                X_TWIST_ID.to_owned(),
                "2d1f0a9e-9c4b-4d5e-8f6a-7b8c9d0e1f2a".to_owned(),
            ),
            (TRACEPARENT.to_owned(), parent.to_owned()),
        ]);
        let (request, message) = published(state.on_envelope(asked, now()));
        assert!(!request.ack);
        assert_eq!(message.headers[X_TWIST_ID], request.twist.to_string());
        assert!(TwistId::parse(&message.headers[X_TWIST_ID]).is_ok());
        assert!(!message.headers.contains_key(TRACEPARENT), "{parent}");
    }
}

#[test]
fn an_id_in_upper_case_is_told_as_ack_tells_it() {
    let mut state = state(identity());
    join(&mut state, "lobby");
    let mut asked = envelope::publish("lobby", 7, Bytes::new(), true);
    let id = "018F3F5E-7B1A-7C3D-8E4F-0123456789AB";
    asked.headers = BTreeMap::from([(X_TWIST_ID.to_owned(), id.to_owned())]);
    let (request, message) = published(state.on_envelope(asked, now()));
    assert_eq!(message.headers[X_TWIST_ID], id.to_lowercase());
    assert_eq!(message.headers[X_TWIST_ID], request.twist.to_string());
}

#[test]
fn roles_and_grants_decide_who_publishes() {
    let with = |role, rooms| {
        let mut state = state(Identity {
            role,
            rooms,
            ..identity()
        });
        join(&mut state, "lobby");
        state
    };
    let forbidden = Some((ErrorCode::PublishForbidden, 7));
    let mut observer = with(Role::Observer, RoomGrants::all());
    assert_eq!(refused(publish(&mut observer, "lobby")), forbidden);
    let mut admin = with(Role::Admin, RoomGrants::all());
    published(publish(&mut admin, "lobby"));
    assert_eq!(
        refused(publish(&mut admin, "other")),
        Some((ErrorCode::NotJoined, 7))
    );
    let mut service = with(Role::Service, RoomGrants::all());
    published(publish(&mut service, "other"));
    let mut reader = with(Role::Service, grants(&["lobby"], &["news.>"]));
    assert_eq!(refused(publish(&mut reader, "lobby")), forbidden);
    published(publish(&mut reader, "news.today"));
    let denied = envelope::join("other", 3, v1::Join::default());
    assert_eq!(
        refused(reader.on_envelope(denied, now())),
        Some((ErrorCode::JoinForbidden, 3))
    );
}

#[test]
fn join_with_presence_joins_and_then_takes_part() {
    let mut state = state(identity());
    let mut options = v1::Join {
        echo: Some(false),
        ..Default::default()
    };
    options.set_presence(v1::PresenceMode::Full);
    let asked = envelope::join("lobby", 4, options);
    let Some(Action::Join(request)) = list(state.on_envelope(asked, now())).pop() else {
        panic!("no JOIN");
    };
    assert!(!request.echo);
    let joined = request.joined();
    assert_eq!((joined.op(), joined.r#ref), (Opcode::Joined, 4));
    let enter = EnterRequest {
        room: room("lobby"),
        reference: 4,
        mode: PresenceMode::Full,
        meta: BTreeMap::new(),
    };
    let actions = list(state.on_joined(request, Ok(())));
    assert_eq!(actions, [Action::Enter(enter)]);
    assert_eq!(state.rooms(), [room("lobby")]);

    let meta = BTreeMap::from([("mood".to_owned(), "good".to_owned())]);
    let set = envelope::presence_set("lobby", 5, meta.clone());
    let set = list(state.on_envelope(set, now()));
    let wanted = MetaRequest {
        room: room("lobby"),
        reference: 5,
        meta,
    };
    assert_eq!(set, [Action::SetMeta(wanted)]);
    let asked = envelope::presence_get("lobby", 6, true);
    let wanted = PresenceRequest {
        room: room("lobby"),
        reference: 6,
        count_only: true,
    };
    assert_eq!(
        list(state.on_envelope(asked, now())),
        [Action::AskPresence(wanted)]
    );
}

#[test]
fn a_refused_join_leaves_no_trace() {
    let mut state = state(identity());
    let asked = envelope::join("lobby", 4, v1::Join::default());
    let Some(Action::Join(request)) = list(state.on_envelope(asked, now())).pop() else {
        panic!("no JOIN");
    };
    let actions = state.on_joined(request, Err(Unjoined::Code(ErrorCode::SpineUnavailable)));
    assert_eq!(refused(actions), Some((ErrorCode::SpineUnavailable, 4)));
    assert!(state.rooms().is_empty());
}

#[test]
fn the_tenants_own_limits_count_where_they_are_lower() {
    let mut limited = identity();
    limited.tenant = Arc::new(Tenant {
        id: limited.tenant.id.clone(),
        record: v1::TenantRecord {
            limits: Some(v1::TenantLimits {
                max_payload_bytes: 3,
                max_rooms_per_session: 1,
                ..Default::default()
            }),
            ..Default::default()
        },
    });
    let mut state = state(limited);
    join(&mut state, "lobby");
    let another = envelope::join("other", 3, v1::Join::default());
    assert_eq!(
        refused(state.on_envelope(another, now())),
        Some((ErrorCode::RoomLimit, 3))
    );
    assert_eq!(
        refused(publish(&mut state, "lobby")),
        Some((ErrorCode::PayloadTooLarge, 7))
    );
    let welcome = state.welcome(Duration::from_secs(25), "shield-1", now());
    let Some(Body::Welcome(welcome)) = welcome.body else {
        panic!("no WELCOME");
    };
    let told = welcome.limits.unwrap();
    assert_eq!((told.max_payload_bytes, told.max_rooms), (3, 1));
    assert_eq!((told.max_headers, told.max_frame_bytes), (2, 4096));
    assert_eq!(welcome.token_expires_at, 4_600);
}

#[test]
fn who_is_over_a_rate_is_told_how_long_to_wait_and_offends_nobody() {
    let mut limited = identity();
    limited.tenant = Arc::new(Tenant {
        id: limited.tenant.id.clone(),
        record: v1::TenantRecord {
            limits: Some(v1::TenantLimits {
                session_messages_per_sec: 2,
                max_header_bytes: 4,
                ..Default::default()
            }),
            ..Default::default()
        },
    });
    let mut state = state(limited);
    join(&mut state, "lobby");
    let asked = |reference| envelope::publish("lobby", reference, "x".into(), false);
    let (mut passed, at) = (0, now());
    for reference in 0..(2 * u64::from(MAX_OFFENCES)) {
        for action in state.on_envelope(asked(reference), at) {
            match action {
                Action::Publish(_) => passed += 1,
                Action::Refuse(refusal) => {
                    assert_eq!(refusal.code, ErrorCode::RateLimited);
                    assert_eq!(
                        (refusal.retry_after_ms, refusal.reference),
                        (500, reference)
                    );
                    assert_eq!(refusal.room, "lobby");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(passed, 2);
    // Other requests are free, and what is wrong in itself is told first.
    assert_eq!(
        refused(state.on_envelope(envelope::leave("elsewhere", 1), now())),
        Some((ErrorCode::NotJoined, 1))
    );
    let mut headers = std::collections::BTreeMap::new();
    headers.insert("a".to_owned(), "1234".to_owned());
    let mut large = asked(9);
    large.headers = headers;
    assert_eq!(
        refused(state.on_envelope(large, now())),
        Some((ErrorCode::HeadersTooLarge, 9))
    );
}

#[test]
fn refresh_takes_the_same_user_and_narrows_rooms() {
    let mut state = state(identity());
    join(&mut state, "lobby");
    join(&mut state, "news");
    let other = |tenant: &str, user: &str| Identity {
        tenant: Arc::new(Tenant {
            id: TenantId::parse(tenant).unwrap(),
            record: v1::TenantRecord::default(),
        }),
        user: UserId::parse(user).unwrap(),
        ..identity()
    };
    for stranger in [other("acme", "bob"), other("other", "alice")] {
        assert_eq!(
            refused(state.on_refreshed(5, Ok(stranger), now())),
            Some((ErrorCode::TokenMismatch, 5))
        );
    }
    let expired = state.on_refreshed(5, Err(ErrorCode::TokenExpired), now());
    assert_eq!(refused(expired), Some((ErrorCode::TokenExpired, 5)));
    let narrowed = Identity {
        rooms: grants(&["news"], &[]),
        expires_at: 9_000,
        ..identity()
    };
    let actions = list(state.on_refreshed(6, Ok(narrowed), now()));
    assert_eq!(actions[0], Action::TokenChanged);
    assert_eq!(actions[1], Action::send(envelope::refreshed(6, 9_000)));
    assert_eq!(actions[2], Action::Leave(room("lobby")));
    let why = Some(ErrorCode::JoinForbidden);
    assert_eq!(actions[3], Action::send(envelope::left("lobby", 0, why)));
    assert_eq!(actions.len(), 4);
    assert_eq!(state.rooms(), [room("news")]);
    assert_eq!(
        refused(publish(&mut state, "news")),
        Some((ErrorCode::PublishForbidden, 7))
    );
}

#[test]
fn tokens_are_not_in_debug_output() {
    let asked = envelope::refresh(1, "secret.jwt.text");
    let actions = list(state(identity()).on_envelope(asked, now()));
    assert!(!format!("{actions:?}").contains("secret"));
}

proptest! {
    /// Whatever bytes come: never a panic, rooms within the limit and granted,
    /// and an answer to everything that is not taken.
    #[test]
    fn any_bytes_are_answered(frames in proptest::collection::vec(
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64),
            ("[a-c*>_. ]{0,5}", 0_i32..12, any::<u64>(), 0_usize..1200).prop_map(
                |(room, op, r#ref, payload)| v1::Envelope {
                    op, room, r#ref, payload: vec![0; payload].into(), ..Default::default()
                }.encode_to_vec()),
        ], 0..60))
    {
        let mut state = state(Identity { rooms: grants(&["a", "b"], &["a"]), ..identity() });
        for bytes in frames {
            let mut actions = list(feed(&mut state, bytes));
            prop_assert!(!actions.is_empty());
            if let Some(Action::Join(request)) = actions.pop_if(|a| matches!(a, Action::Join(_))) {
                actions = list(state.on_joined(request, Ok(())));
            }
            for action in &actions {
                if let Action::Publish(request) = action {
                    prop_assert_eq!(request.room.as_str(), "a");
                    prop_assert!(state.rooms().contains(&request.room));
                }
            }
            prop_assert!(state.rooms().iter().all(|r| ["a", "b"].contains(&r.as_str())));
            prop_assert!(state.rooms().is_sorted());
        }
    }
}
