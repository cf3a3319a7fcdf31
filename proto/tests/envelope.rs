//! Envelopes: round trips, hostile bytes, and what a frame may reveal.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use arqon_proto::codes::ErrorCode;
use arqon_proto::envelope::{self, decode_client, decode_server, is_client_opcode, to_text};
use arqon_proto::names::TwistId;
use arqon_proto::v1::envelope::Body;
use arqon_proto::v1::*;
use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

fn text() -> impl Strategy<Value = String> + Clone {
    prop_oneof![
        "[ -~]{0,12}",
        ".{0,8}",
        Just("\u{1b}[2J\n\u{202e}".to_owned())
    ]
}

fn map() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(text(), text(), 0..4)
}

fn members() -> impl Strategy<Value = Vec<PresenceMember>> {
    let meta =
        (text(), map(), any::<(u64, u64)>()).prop_map(|(session, meta, (j, a))| PresenceMeta {
            session,
            meta,
            joined_at_ms: j,
            last_active_at_ms: a,
        });
    let member = (text(), vec(meta, 0..3));
    vec(
        member.prop_map(|(user, sessions)| PresenceMember {
            user,
            sessions,
            session_count: 0,
        }),
        0..3,
    )
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let limits = any::<[u32; 5]>().prop_map(|[a, b, c, d, e]| Limits {
        max_payload_bytes: a,
        max_frame_bytes: b,
        max_rooms: c,
        max_headers: d,
        max_header_bytes: e,
    });
    let texts = (text(), text(), text(), text(), vec(text(), 0..3));
    (texts, option::of(limits), any::<(u32, u32, u64, u64)>()).prop_map(
        |((session_id, user, tenant, shield_id, features), limits, (v, h, now, exp))| Welcome {
            session_id,
            user,
            tenant,
            protocol_version: v,
            limits,
            heartbeat_secs: h,
            server_time_ms: now,
            token_expires_at: exp,
            features,
            shield_id,
        },
    )
}

fn client_body() -> impl Strategy<Value = Body> {
    prop_oneof![
        (option::of(any::<bool>()), -1..9, map()).prop_map(|(echo, presence, meta)| {
            Body::Join(Join {
                echo,
                presence,
                meta,
            })
        }),
        any::<bool>().prop_map(|ack| Body::Publish(Publish { ack })),
        any::<bool>().prop_map(|count_only| Body::PresenceGet(PresenceGet { count_only })),
        map().prop_map(|meta| Body::PresenceSet(PresenceSet { meta })),
        text().prop_map(|token| Body::Refresh(Refresh { token })),
    ]
}

fn server_body() -> impl Strategy<Value = Body> {
    let sender = (text(), text()).prop_map(|(user, session)| Sender { user, session });
    let state = (members(), any::<(u32, bool, bool)>());
    let error = (text(), text(), text(), text(), any::<(u32, bool, u32)>());
    prop_oneof![
        welcome().prop_map(Body::Welcome),
        (any::<bool>(), -1..9).prop_map(|(echo, presence)| Body::Joined(Joined { echo, presence })),
        (any::<u32>(), text()).prop_map(|(code, name)| Body::Left(Left { code, name })),
        text().prop_map(|twist_id| Body::Ack(Ack { twist_id })),
        error.prop_map(|(name, message, policy, reason, rest)| {
            let (code, retryable, retry_after_ms) = rest;
            Body::Error(Error {
                code,
                name,
                message,
                retryable,
                retry_after_ms,
                policy,
                reason,
            })
        }),
        option::of(sender).prop_map(|sender| Body::Message(Message { sender })),
        (-1..9, option::of(any::<u64>()))
            .prop_map(|(reason, missed)| Body::Gap(Gap { reason, missed })),
        state.prop_map(|(members, (count, last_page, truncated))| {
            Body::PresenceState(PresenceState {
                members,
                count,
                last_page,
                truncated,
            })
        }),
        (members(), any::<u32>())
            .prop_map(|(members, count)| Body::PresenceUpdate(PresenceUpdate { members, count })),
        (vec(text(), 0..3), any::<u32>())
            .prop_map(|(users, count)| Body::PresenceLeave(PresenceLeave { users, count })),
        any::<u32>().prop_map(|count| Body::PresenceCount(PresenceCount { count })),
        any::<u64>().prop_map(|expires_at| Body::TokenExpiring(TokenExpiring { expires_at })),
        any::<u64>().prop_map(|expires_at| Body::Refreshed(Refreshed { expires_at })),
        any::<[u32; 3]>().prop_map(|[retry_after_ms, spread_ms, deadline_ms]| {
            Body::Goaway(Goaway {
                retry_after_ms,
                spread_ms,
                deadline_ms,
            })
        }),
    ]
}

/// Any Envelope at all; most break some rule.
fn envelope() -> impl Strategy<Value = Envelope> {
    let op = prop_oneof![3 => 0..80, 1 => any::<i32>()];
    let body = option::of(prop_oneof![client_body(), server_body()]);
    let payload = vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    (op, text(), any::<u64>(), map(), payload, body).prop_map(
        |(op, room, r#ref, headers, payload, body)| Envelope {
            op,
            room,
            r#ref,
            headers,
            payload,
            body,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn encoding_and_decoding_give_the_same(envelope in envelope()) {
        let bytes = Bytes::from(envelope.encode_to_vec());
        prop_assert_eq!(bytes.len(), envelope.encoded_len());
        let decoded = Envelope::decode(bytes.clone()).unwrap();
        prop_assert!(decoded == envelope);
        prop_assert_eq!(decoded.encode_to_vec(), bytes, "encoding is deterministic");
    }

    #[test]
    fn a_frame_is_valid_for_one_side_at_most(envelope in envelope()) {
        let bytes = Bytes::from(envelope.encode_to_vec());
        let (client, server) = (decode_client(bytes.clone()), decode_server(bytes));
        prop_assert!(client.is_err() || server.is_err());
        if let Ok(decoded) = &client {
            prop_assert!(is_client_opcode(decoded.op()) && *decoded == envelope);
        }
        if let Ok(decoded) = &server {
            prop_assert!(!is_client_opcode(decoded.op()) && *decoded == envelope);
        }
        if let Err(fault) = client {
            prop_assert_eq!(fault.reference, envelope.r#ref);
            prop_assert_eq!(fault.room, envelope.room);
            prop_assert_ne!(fault.code, ErrorCode::EnvelopeUndecodable);
        }
    }

    #[test]
    fn no_bytes_bring_a_decoder_down(bytes in vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        let client = decode_client(bytes.clone());
        let server = decode_server(bytes);
        if let Ok(envelope) = client.or(server.map_err(|_| ())) {
            let _ = to_text(&envelope);
        }
    }

    #[test]
    fn nor_does_a_good_frame_with_a_hurt_byte(
        envelope in envelope(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = envelope.encode_to_vec();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = decode_client(bytes.clone().into());
        let _ = decode_server(bytes.into());
    }

    #[test]
    fn text_is_safe_for_a_terminal(envelope in envelope()) {
        let told = to_text(&envelope);
        let safe = |c: char| c == '\n' || !(c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
        prop_assert!(told.chars().all(safe), "{:?}", told);
    }

    #[test]
    fn nothing_secret_is_in_text_or_debug(token in "[A-Z]{20}", payload in "[A-Z]{20}") {
        let refresh = envelope::refresh(1, &token);
        prop_assert!(!to_text(&refresh).contains(&token));
        let debug = format!("{refresh:?} {:?}", refresh.body);
        prop_assert!(!debug.contains(&token));
        let publish = envelope::publish("lobby", 1, payload.clone().into(), true);
        prop_assert!(to_text(&publish).contains(&payload), "arq decode shows payloads");
        let debug = format!("{publish:?}");
        prop_assert!(!debug.contains(&payload));
    }
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    // Groups are the one thing a decoder must follow in unknown fields.
    let groups = vec![0x7b_u8; 100_000];
    assert_eq!(
        decode_server(groups.into()),
        Err(ErrorCode::EnvelopeUndecodable)
    );
}

#[test]
fn every_constructor_makes_a_valid_frame() {
    let clients = [
        envelope::join("a", 1, Join::default()),
        envelope::leave("a", 1),
        envelope::publish("a", 1, Bytes::from_static(b"x"), true),
        envelope::publish("a", 0, Bytes::new(), false),
        envelope::presence_get("a", 1, true),
        envelope::presence_set("a", 1, BTreeMap::new()),
        envelope::refresh(1, "t"),
        envelope::ping(1, Bytes::from_static(b"x")),
    ];
    for frame in clients {
        assert_eq!(
            decode_client(frame.encode_to_vec().into()).as_ref(),
            Ok(&frame)
        );
    }
    let servers = [
        envelope::welcome(Welcome::default()),
        envelope::joined("a", 1, Joined::default()),
        envelope::left("a", 1, None),
        envelope::left("a", 0, Some(ErrorCode::JoinForbidden)),
        envelope::ack("a", 1, &TwistId::new()),
        envelope::error(ErrorCode::NotJoined, "a", 1, None, 0),
        envelope::message("a", BTreeMap::new(), Bytes::new(), Sender::default()),
        envelope::gap("a", GapReason::Sequence, Some(1)),
        envelope::presence_state("a", 1, PresenceState::default()),
        envelope::presence_update("a", PresenceUpdate::default()),
        envelope::presence_leave("a", PresenceLeave::default()),
        envelope::presence_count("a", 1, 2),
        envelope::token_expiring(1),
        envelope::refreshed(1, 2),
        envelope::goaway(Goaway::default()),
        envelope::pong(1, Bytes::new()),
    ];
    for frame in servers {
        assert_eq!(
            decode_server(frame.encode_to_vec().into()).as_ref(),
            Ok(&frame)
        );
    }
}

#[test]
fn an_error_never_tells_what_its_public_code_hides() {
    for code in ErrorCode::ALL {
        let detail = "tenant acme has no such key".to_owned();
        let frame = envelope::error(*code, "", 0, Some(detail.clone()), 0);
        let Some(Body::Error(told)) = frame.body else {
            panic!("no body")
        };
        let public = code.public();
        assert_eq!(told.code, u32::from(public.number()));
        assert_eq!(told.name, public.name());
        assert_eq!(told.retryable, public.retryable());
        assert_eq!(told.message == detail, public == *code, "{code}");
        let left = envelope::left("a", 0, Some(*code));
        assert!(matches!(left.body, Some(Body::Left(l)) if l.name == public.name()));
    }
}

#[test]
fn text_tells_field_by_field() {
    let message = envelope::message(
        "lobby",
        [("X-Twist-ID".to_owned(), "t".to_owned())].into(),
        Bytes::from_static("hé\n".as_bytes()),
        Sender {
            user: "alice".to_owned(),
            session: "s".to_owned(),
        },
    );
    let expected = "\
op                       MESSAGE
room                     \"lobby\"
header                   \"X-Twist-ID\": \"t\"
sender.user              \"alice\"
sender.session           \"s\"
payload                  4 bytes
  text                   \"hé\\n\"
";
    assert_eq!(to_text(&message), expected);
    let binary = envelope::pong(3, Bytes::from_static(&[0xff, 0x00]));
    assert!(
        to_text(&binary)
            .ends_with("payload                  2 bytes\n  hex                    ff 00\n")
    );
    let long = envelope::pong(0, "é".repeat(4000).into_bytes().into());
    assert!(to_text(&long).contains("8000 bytes") && to_text(&long).contains("… cut here"));
    let odd = envelope::pong(0, format!("a{}", "é".repeat(4000)).into_bytes().into());
    assert!(
        to_text(&odd).contains("text"),
        "a character on the edge is no reason for hex"
    );
}
