//! What a session may expect of rooms: the protocol, told as stories.

use std::collections::{BTreeMap, HashMap};

use arqon_harness::{Spine, TestShield, eventually, text_of, without_echo};
use arqon_proto::codes::ErrorCode;
use arqon_proto::envelope;
use arqon_proto::names::TwistId;
use arqon_proto::v1::{Envelope, Join, Opcode, envelope::Body};
use bytes::Bytes;
use prost::Message as _;

/// A W3C trace context.
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn joined_rooms_are_heard_with_or_without_echo_until_left() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    let mut carol = shield.connect(&acme.token().user("carol").sign()).await;

    let joined = alice.join_with("lobby", Join::default()).await.unwrap();
    assert!(
        joined.echo,
        "a session hears itself unless it says otherwise"
    );
    let joined = bob.join_with("lobby", without_echo()).await.unwrap();
    assert!(!joined.echo);
    carol.join("lobby.upstairs").await;

    alice.publish("lobby", "all but carol").await;
    alice.hears("lobby", "all but carol").await;
    bob.hears("lobby", "all but carol").await;
    bob.publish("lobby", "bob does not hear this").await;
    alice.hears("lobby", "bob does not hear this").await;
    carol.publish("lobby.upstairs", "only upstairs").await;
    carol.hears("lobby.upstairs", "only upstairs").await;

    // Echo is by session, not by user: Bob's other session hears Bob.
    let mut bobs_phone = shield.connect(&acme.token().user("bob").sign()).await;
    bobs_phone.join("lobby").await;
    bob.publish("lobby", "from my desk").await;
    bobs_phone.hears("lobby", "from my desk").await;
    alice.hears("lobby", "from my desk").await;

    // Who left hears nothing more; an answer to PING shows that nothing waits.
    alice.leave("lobby").await;
    bobs_phone.publish("lobby", "without alice").await;
    bob.hears("lobby", "without alice").await;
    bobs_phone.hears("lobby", "without alice").await;
    alice.ping().await;
    carol.ping().await;

    // Back again, the same room works the same.
    alice.join("lobby").await;
    bob.publish("lobby", "welcome back").await;
    alice.hears("lobby", "welcome back").await;
    bobs_phone.hears("lobby", "welcome back").await;
    bob.ping().await;
}

#[tokio::test]
async fn answers_carry_the_ref_and_the_room_of_their_request() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    let answer = |frame: Envelope| (frame.op(), frame.room, frame.r#ref);
    alice.send(envelope::join("a.b", 70, without_echo())).await;
    assert_eq!(
        answer(alice.next().await),
        (Opcode::Joined, "a.b".into(), 70)
    );
    alice
        .send(envelope::publish("a.b", u64::MAX, Bytes::new(), true))
        .await;
    assert_eq!(
        answer(alice.next().await),
        (Opcode::Ack, "a.b".into(), u64::MAX)
    );
    alice
        .send(envelope::publish("c", 71, Bytes::new(), false))
        .await;
    assert_eq!(answer(alice.next().await), (Opcode::Error, "c".into(), 71));
    alice.send(envelope::leave("a.b", 72)).await;
    let left = alice.next().await;
    assert!(matches!(&left.body, Some(Body::Left(left)) if left.code == 0));
    assert_eq!(answer(left), (Opcode::Left, "a.b".into(), 72));
    let payload = Bytes::from(vec![7; 125]);
    alice.send(envelope::ping(73, payload.clone())).await;
    let pong = alice.next().await;
    assert_eq!(pong.payload, payload);
    assert_eq!(answer(pong), (Opcode::Pong, String::new(), 73));
}

#[tokio::test]
async fn headers_are_stamped_and_the_sender_cannot_be_forged() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    alice.join_with("lobby", without_echo()).await.unwrap();
    bob.join("lobby").await;

    // A good X-Twist-ID is kept and acknowledged; what else is ours is made.
    let twist = TwistId::new().to_string();
    let trace = TRACE;
    let reference = alice
        .publish_with(
            "lobby",
            "one",
            &[
                ("X-Twist-ID", &twist),
                ("traceparent", trace),
                ("colour", "blue"),
            ],
        )
        .await;
    let ack = alice.expect(Opcode::Ack).await;
    assert_eq!(ack.r#ref, reference);
    assert!(matches!(&ack.body, Some(Body::Ack(ack)) if ack.twist_id == twist));
    let heard = bob.hears("lobby", "one").await;
    assert_eq!(heard.headers["X-Twist-ID"], twist);
    assert_eq!(heard.headers["traceparent"], trace);
    assert_eq!(heard.headers["colour"], "blue");
    let stamp = &heard.headers["X-Timestamp"];
    assert_eq!(
        (stamp.len(), stamp.as_bytes()[10], stamp.ends_with('Z')),
        (27, b'T', true)
    );
    let Some(Body::Message(message)) = &heard.body else {
        panic!("{heard:?}");
    };
    let sender = message.sender.as_ref().unwrap();
    assert_eq!(sender.user, "alice");
    assert_eq!(sender.session, alice.welcome.session_id);
    assert_eq!(heard.r#ref, 0, "the publisher's ref is its own");

    // One that is not well formed is replaced, and each message has its own.
    let mut seen = vec![twist];
    for forged in ["", "not an id", "00000000-0000-0000-0000-000000000000"] {
        alice
            .publish_with("lobby", "two", &[("X-Twist-ID", forged)])
            .await;
        let heard = bob.hears("lobby", "two").await;
        let made = heard.headers["X-Twist-ID"].clone();
        TwistId::parse(&made).unwrap();
        assert!(!seen.contains(&made));
        let ack = alice.expect(Opcode::Ack).await;
        assert!(matches!(&ack.body, Some(Body::Ack(ack)) if ack.twist_id == made));
        seen.push(made);
    }

    // A client has no words for time or sender.
    for name in ["X-Timestamp", "x-timestamp", "X-Arqon-User", "x-anything"] {
        alice
            .publish_with("lobby", "forged", &[(name, "2020-01-01T00:00:00Z")])
            .await;
        alice.expect_error(ErrorCode::HeaderReserved).await;
    }
    let forged = envelope::message(
        "lobby",
        HashMap::from([("X-Timestamp".to_owned(), "2020".to_owned())])
            .into_iter()
            .collect(),
        Bytes::from_static(b"as bob"),
        arqon_proto::v1::Sender {
            user: "bob".into(),
            session: bob.welcome.session_id.clone(),
        },
    );
    alice.send(forged.clone()).await;
    alice.expect_error(ErrorCode::UnknownOpcode).await;
    alice
        .send(Envelope {
            op: Opcode::Publish.into(),
            ..forged
        })
        .await;
    alice.expect_error(ErrorCode::ProtocolMismatch).await;

    // An empty payload and any bytes pass as they are.
    let bytes: Bytes = (0..=255).collect::<Vec<u8>>().into();
    for payload in [Bytes::new(), bytes] {
        alice
            .send(envelope::publish("lobby", 0, payload.clone(), false))
            .await;
        assert_eq!(bob.expect(Opcode::Message).await.payload, payload);
    }
}

#[tokio::test]
async fn tenants_with_the_same_rooms_never_hear_each_other() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let other = spine.tenant("acme-2").await;
    let shield = spine.shield().start().await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    let mut second = shield.connect(&acme.token().sign()).await;
    let mut eve = shield.connect(&other.token().sign()).await;
    for room in ["lobby", "acme.lobby", "acme-2.lobby", "a.b.c.d"] {
        alice.join(room).await;
        second.join(room).await;
        eve.join(room).await;
        for round in 0..20 {
            let text = format!("{room} {round}");
            alice.publish(room, &text).await;
            alice.hears(room, &text).await;
            second.hears(room, &text).await;
            // The positive control: what she hears next is her own.
            eve.publish(room, format!("eve {round}")).await;
            eve.hears(room, &format!("eve {round}")).await;
        }
    }
    alice.ping().await;
    second.ping().await;
    eve.ping().await;
}

#[tokio::test]
async fn a_publisher_is_heard_in_order_by_everyone_on_every_shield() {
    const MESSAGES: usize = 5_000;
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let manifest = "session.queue_max_messages = 100000\nsession.queue_max_bytes = 67108864";
    let first = spine.shield().with(manifest).start().await;
    let second = spine.shield().id("shield-2").with(manifest).start().await;

    let mut publishers = Vec::new();
    for (index, shield) in [&first, &second, &first].into_iter().enumerate() {
        let user = format!("publisher-{index}");
        let mut publisher = shield.connect(&acme.token().user(&user).sign()).await;
        publisher.join_with("lobby", without_echo()).await.unwrap();
        publishers.push(publisher);
    }
    let mut hearers = Vec::new();
    for shield in [&first, &second] {
        let mut hearer = shield.connect(&acme.token().user("hearer").sign()).await;
        hearer.join("lobby").await;
        hearers.push(hearer);
    }
    let count = publishers.len();
    let mut speaking = Vec::new();
    for mut publisher in publishers {
        speaking.push(tokio::spawn(async move {
            for number in 0..MESSAGES {
                publisher.publish("lobby", number.to_string()).await;
            }
            // What the others said waits unread here; it must not disturb.
            publisher
        }));
    }
    for mut hearer in hearers {
        let mut next: HashMap<String, usize> = HashMap::new();
        for _ in 0..count * MESSAGES {
            let heard = hearer.expect(Opcode::Message).await;
            let Some(Body::Message(message)) = &heard.body else {
                unreachable!("MESSAGE has its body");
            };
            let user = message.sender.clone().unwrap().user;
            let expected = next.entry(user.clone()).or_default();
            assert_eq!(text_of(&heard), expected.to_string(), "of {user}");
            *expected += 1;
        }
        hearer.ping().await;
    }
    for task in speaking {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn two_shields_on_one_spine_are_one() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let first = spine.shield().start().await;
    let second = spine.shield().id("shield-2").start().await;
    let mut alice = first.connect(&acme.token().sign()).await;
    let mut bob = second.connect(&acme.token().user("bob").sign()).await;
    assert_eq!(bob.welcome.shield_id, "shield-2");
    alice.join("lobby").await;
    // JOINED means that events flow: the first message after it is not lost.
    for round in 0..50 {
        bob.join("lobby").await;
        let text = format!("round {round}");
        alice.publish("lobby", &text).await;
        alice.hears("lobby", &text).await;
        bob.hears("lobby", &text).await;
        bob.leave("lobby").await;
    }
}

#[tokio::test]
async fn the_largest_message_there_is_passes_and_a_byte_more_is_refused() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    // Everything that travels with a message is as long as it may be.
    let user = "ü".repeat(64);
    let token = acme.token().user(&user).sign();
    let room = [
        "a".repeat(64),
        "b".repeat(64),
        "c".repeat(64),
        "d".repeat(5),
    ]
    .join(".");
    assert_eq!((user.len(), room.len()), (128, 200));
    let mut alice = shield.connect(&token).await;
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    alice.join(&room).await;
    bob.join(&room).await;
    let limits = alice.welcome.limits.unwrap();
    let headers: BTreeMap<String, String> = (0..limits.max_headers)
        .map(|number| {
            let name = format!("h{number:03}");
            let value = "v".repeat((limits.max_header_bytes / limits.max_headers) as usize - 4);
            (name, value)
        })
        .chain([("traceparent".to_owned(), TRACE.to_owned())])
        .collect();
    let mut sent = None;
    for size in [
        limits.max_payload_bytes as usize,
        limits.max_payload_bytes as usize + 1,
    ] {
        let publish = Envelope {
            headers: headers.clone(),
            ..envelope::publish(&room, 9, Bytes::from(vec![b'x'; size]), true)
        };
        if publish.encoded_len() > limits.max_frame_bytes as usize {
            // The frame is the limit then; its largest is what counts.
            let room_for = limits.max_frame_bytes as usize - (publish.encoded_len() - size);
            let publish = Envelope {
                payload: Bytes::from(vec![b'x'; room_for]),
                ..publish
            };
            assert_eq!(publish.encoded_len(), limits.max_frame_bytes as usize);
            alice.send(publish.clone()).await;
            sent = Some(publish);
            break;
        }
        alice.send(publish.clone()).await;
        if size > limits.max_payload_bytes as usize {
            alice.expect_error(ErrorCode::PayloadTooLarge).await;
        } else {
            sent = Some(publish);
        }
    }
    let sent = sent.unwrap();
    let heard = bob.expect(Opcode::Message).await;
    assert_eq!(heard.payload, sent.payload);
    assert!(
        sent.headers
            .iter()
            .all(|(name, value)| heard.headers.get(name) == Some(value))
    );
    let mut answers = [alice.next().await.op(), alice.next().await.op()];
    answers.sort();
    assert_eq!(answers, [Opcode::Ack, Opcode::Message]);
    alice.ping().await;
    bob.ping().await;
    assert_eq!(shield.metric("spine_reconnects_total", "").await, 0.0);
}

#[tokio::test]
async fn requests_sent_in_one_burst_are_all_answered_in_order() {
    const ROOMS: u64 = 200;
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine
        .shield()
        .with("session.max_rooms = 1000\nsession.max_unconfirmed = 4")
        .start()
        .await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    for number in 1..=ROOMS {
        alice
            .send(envelope::join(
                &format!("room.{number}"),
                number,
                without_echo(),
            ))
            .await;
    }
    for number in 1..=ROOMS {
        let joined = alice.expect(Opcode::Joined).await;
        assert_eq!(joined.r#ref, number);
    }
    // Far more than may be unconfirmed at once: reading pauses, nothing is refused.
    for number in 1..=5 * ROOMS {
        let room = format!("room.{}", 1 + number % ROOMS);
        alice
            .send(envelope::publish(
                &room,
                number,
                Bytes::from_static(b"x"),
                true,
            ))
            .await;
    }
    for number in 1..=5 * ROOMS {
        let ack = alice.expect(Opcode::Ack).await;
        assert_eq!(ack.r#ref, number);
    }
    for number in 1..=ROOMS {
        alice
            .send(envelope::leave(&format!("room.{number}"), number))
            .await;
    }
    for number in 1..=ROOMS {
        assert_eq!(alice.expect(Opcode::Left).await.r#ref, number);
    }
    alice.ping().await;
    assert_eq!(
        shield.metric("acks_total", "acked").await,
        5.0 * ROOMS as f64
    );
}

async fn gauges(shield: &TestShield) -> [f64; 3] {
    [
        shield.metric("sessions", "").await,
        shield.metric("rooms", "").await,
        shield.metric("tenant_links", "").await,
    ]
}

/// Sessions and rooms go as they come: the gauges return to zero.
#[tokio::test]
async fn what_ends_leaves_nothing_behind() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine
        .shield()
        .with("rooms.linger_secs = 0\nspine.idle_close_secs = 1")
        .start()
        .await;
    let mut clients = Vec::new();
    for number in 0..20 {
        let mut client = shield.connect(&acme.token().sign()).await;
        client.join("lobby").await;
        client.join(&format!("own.{number}")).await;
        clients.push(client);
    }
    eventually!(
        gauges(&shield).await == [20.0, 21.0, 1.0],
        "{:?}",
        gauges(&shield).await
    );
    // Some say good-bye, some just go.
    for (number, client) in clients.into_iter().enumerate() {
        if number % 2 == 0 {
            client.into_inner().close().await.unwrap();
        }
    }
    eventually!(
        gauges(&shield).await == [0.0, 0.0, 0.0],
        "{:?}",
        gauges(&shield).await
    );
    let mut again = shield.connect(&acme.token().sign()).await;
    again.join("lobby").await;
    again.publish("lobby", "as ever").await;
    again.hears("lobby", "as ever").await;
}
