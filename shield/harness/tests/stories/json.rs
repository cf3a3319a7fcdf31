//! Sessions of people: `arqon.v1+json`, by a browser's console or wscat.

use arqon_harness::raw::{self, op};
use arqon_harness::{Client, RawPeer, Spine, TestShield, TestTenant, eventually, within};
use arqon_proto::codes::CloseCode;
use arqon_proto::envelope;
use arqon_proto::v1::{Opcode, Sender};
use arqon_spine::nats;
use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};

use crate::bad_input::{Neighbour, stage};
use crate::presence::Stage;

const ON: &str = "session.json = true";

/// A session of text.
struct Person(RawPeer);

impl Person {
    async fn new(shield: &TestShield, tenant: &TestTenant, user: &str) -> Self {
        let authorization = format!("Authorization: Bearer {}", tenant.token().user(user).sign());
        let offer = "Sec-WebSocket-Protocol: arqon.v1+json";
        let peer = RawPeer::ask(shield.addr(), "/v1/socket", &[&authorization, offer])
            .await
            .unwrap();
        assert_eq!(
            peer.answer.header("sec-websocket-protocol"),
            Some("arqon.v1+json")
        );
        let mut person = Self(peer);
        let welcome = person.hears("WELCOME").await;
        assert_eq!(welcome["welcome"]["user"], user);
        person
    }

    async fn says(&mut self, frame: &Value) {
        self.0
            .send(op::TEXT, frame.to_string().as_bytes())
            .await
            .unwrap();
    }

    /// The next frame of text.
    async fn next(&mut self) -> Value {
        loop {
            match self.0.frame().await {
                Some(frame) if frame.opcode == op::PING => {}
                Some(frame) if frame.opcode == op::TEXT && frame.fin => {
                    return serde_json::from_slice(&frame.payload).unwrap();
                }
                other => panic!("a text frame was due, but {other:?} came"),
            }
        }
    }

    async fn hears(&mut self, opcode: &str) -> Value {
        let frame = self.next().await;
        assert_eq!(frame["op"], format!("OPCODE_{opcode}"), "{frame}");
        frame
    }

    async fn joins(&mut self, room: &str) {
        self.says(&json!({"op": "OPCODE_JOIN", "room": room, "ref": 1}))
            .await;
        let joined = self.hears("JOINED").await;
        assert_eq!(joined["ref"], "1");
    }

    async fn refused(&mut self, code: &str) -> Value {
        let error = self.hears("ERROR").await;
        assert_eq!(error["error"]["name"], code, "{error}");
        error
    }

    /// The session lives, and nothing else waits.
    async fn pings(&mut self) {
        self.says(&json!({"op": "OPCODE_PING", "ref": "18446744073709551615", "payload": "aGk="}))
            .await;
        let pong = json!({"op": "OPCODE_PONG", "ref": "18446744073709551615", "payload": "aGk="});
        assert_eq!(self.next().await, pong);
    }
}

#[tokio::test]
async fn a_person_and_a_program_hear_each_other() {
    let (_spine, acme, shield) = stage(ON).await;
    let mut ann = Person::new(&shield, &acme, "ann").await;
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    ann.joins("lobby").await;
    bob.join("lobby").await;
    assert_eq!(shield.metric("json_sessions", "").await, 1.0);
    assert_eq!(shield.metric("sessions", "").await, 2.0);

    ann.says(&json!({
        "op": "OPCODE_PUBLISH", "room": "lobby", "ref": "2", "headers": {"lang": "de"},
        "payload": "R3LDvMOfZQ==", "publish": {"ack": true},
    }))
    .await;
    let heard = bob.hears("lobby", "Grüße").await;
    assert_eq!(heard.headers["lang"], "de");
    // Its own message and the ACK, in whichever order.
    let mut both = [ann.next().await, ann.next().await];
    both.sort_by_key(|frame| frame["op"].to_string());
    let [ack, message] = both;
    assert_eq!(
        (&ack["op"], &ack["ref"]),
        (&json!("OPCODE_ACK"), &json!("2"))
    );
    assert_eq!(ack["ack"]["twistId"], message["headers"]["X-Twist-ID"]);
    assert_eq!(message["payload"], "R3LDvMOfZQ==");
    assert_eq!(message["message"]["sender"]["user"], "ann");

    bob.publish("lobby", "hello, people").await;
    let message = ann.hears("MESSAGE").await;
    assert_eq!(message["room"], "lobby");
    assert_eq!(message["payload"], "aGVsbG8sIHBlb3BsZQ==");
    assert_eq!(message["message"]["sender"]["user"], "bob");

    ann.says(&json!({"op": "OPCODE_LEAVE", "room": "lobby", "ref": 4}))
        .await;
    let left = ann.hears("LEFT").await;
    assert_eq!(
        left,
        json!({"op": "OPCODE_LEFT", "room": "lobby", "ref": "4", "left": {}})
    );
    ann.pings().await;
    let token = acme.token().user("ann").sign();
    ann.says(&json!({"op": "OPCODE_REFRESH", "ref": 5, "refresh": {"token": token}}))
        .await;
    assert_eq!(ann.hears("REFRESHED").await["ref"], "5");
    drop(ann);
    eventually!(shield.metric("json_sessions", "").await == 0.0);
}

#[tokio::test]
async fn who_speaks_what_is_agreed_by_the_order_of_the_offer() {
    let (_spine, acme, shield) = stage(ON).await;
    let authorization = format!("Authorization: Bearer {}", acme.token().sign());
    let bearer = format!("arqon.bearer.{}", acme.token().sign());
    for (offered, agreed, by_header) in [
        ("arqon.v1+json, arqon.v1".to_owned(), "arqon.v1+json", true),
        ("arqon.v1, arqon.v1+json".to_owned(), "arqon.v1", true),
        (
            "graphql-ws, arqon.v1+json".to_owned(),
            "arqon.v1+json",
            true,
        ),
        (format!("arqon.v1+json, {bearer}"), "arqon.v1+json", false),
        (format!("{bearer}, arqon.v1+json"), "arqon.v1+json", false),
    ] {
        let offer = format!("Sec-WebSocket-Protocol: {offered}");
        let mut lines = vec![offer.as_str()];
        if by_header {
            lines.push(&authorization);
        }
        let mut peer = RawPeer::ask(shield.addr(), "/v1/socket", &lines)
            .await
            .unwrap();
        assert_eq!(
            peer.answer.header("sec-websocket-protocol"),
            Some(agreed),
            "{offered}"
        );
        let welcome = peer.frame().await.unwrap();
        let text = agreed.ends_with("json");
        assert_eq!(
            welcome.opcode,
            if text { op::TEXT } else { op::BINARY },
            "{offered}"
        );
    }
}

#[tokio::test]
async fn json_is_off_unless_the_manifest_turns_it_on() {
    let (_spine, acme, shield) = stage("").await;
    let authorization = format!("Authorization: Bearer {}", acme.token().sign());
    let ask = |offer: &'static str| {
        let authorization = authorization.clone();
        let addr = shield.addr();
        async move {
            let offer = format!("Sec-WebSocket-Protocol: {offer}");
            RawPeer::ask(addr, "/v1/socket", &[&authorization, &offer]).await
        }
    };
    let answer = ask("arqon.v1+json").await.err().unwrap();
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(
        answer.body.contains("UNSUPPORTED_SUBPROTOCOL"),
        "{answer:?}"
    );
    assert!(answer.body.contains("session.json = true"), "{answer:?}");
    let mut both = ask("arqon.v1+json, arqon.v1").await.unwrap();
    assert_eq!(
        both.answer.header("sec-websocket-protocol"),
        Some("arqon.v1")
    );
    assert_eq!(both.envelope().await.op(), Opcode::Welcome);
}

#[tokio::test]
async fn what_does_not_fit_is_told_with_its_path_and_the_session_lives() {
    let (_spine, acme, shield) = stage("session.json = true\nsession.max_offences = 1000").await;
    let mut neighbour = Neighbour::new(&shield, &acme).await;
    let mut ann = Person::new(&shield, &acme, "ann").await;
    ann.joins("lobby").await;
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let number = "9".repeat(10_000);
    let large = format!(r#"{{"op":"OPCODE_PING","ref":{number}}}"#);
    let cases: &[(&str, &str, &str, &str)] = &[
        ("", "JSON_INVALID", "", "not JSON"),
        ("hello", "JSON_INVALID", "", "not JSON"),
        (&deep, "JSON_INVALID", "", "recursion"),
        (&large, "JSON_INVALID", "", "number out of range"),
        (
            r#"{"op":"OPCODE_PING","ref":7"#,
            "JSON_INVALID",
            "",
            "not JSON",
        ),
        (r#"{"op":"PING","ref":7}"#, "JSON_INVALID", "7", "`op`"),
        (
            r#"{"op":"OPCODE_PUBLISH","room":"lobby","ref":7,"publish":{"ack":"yes"}}"#,
            "JSON_INVALID",
            "7",
            "`publish.ack`",
        ),
        (
            r#"{"op":"OPCODE_PUBLISH","room":"lobby","ref":"7","payload":"!"}"#,
            "JSON_INVALID",
            "7",
            "`payload`",
        ),
        (
            r#"{"op":"OPCODE_PUBLISH","room":"lobby","ref":7,"text":"hi"}"#,
            "JSON_INVALID",
            "7",
            "`text`",
        ),
        (
            r#"{"op":"OPCODE_PUBLISH","room":"lobby","ref":7,"join":{},"publish":{}}"#,
            "JSON_INVALID",
            "7",
            "`publish`",
        ),
        (
            r#"{"op":"OPCODE_PUBLISH","room":"lobby","ref":7,"headers":{"a":"1","a":"2"}}"#,
            "JSON_INVALID",
            "7",
            "`headers.a`",
        ),
        (
            r#"{"op":"OPCODE_PUBLISH","room":"lobby","ref":7,"headers":{"X-Timestamp":"1"}}"#,
            "HEADER_RESERVED",
            "7",
            "",
        ),
        (
            r#"{"op":"OPCODE_PUBLISH","room":"lobby","ref":7,"join":{}}"#,
            "PROTOCOL_MISMATCH",
            "7",
            "",
        ),
        (
            r#"{"op":"OPCODE_WELCOME","ref":7}"#,
            "UNKNOWN_OPCODE",
            "7",
            "",
        ),
        (r#"{"op":77,"ref":7}"#, "UNKNOWN_OPCODE", "7", ""),
        (
            r#"{"op":"OPCODE_JOIN","room":"no room","ref":7}"#,
            "ROOM_NAME_INVALID",
            "7",
            "",
        ),
        (
            r#"{"op":"OPCODE_PUBLISH","room":"elsewhere","ref":7}"#,
            "NOT_JOINED",
            "7",
            "",
        ),
    ];
    for (text, code, reference, told) in cases {
        ann.0.send(op::TEXT, text.as_bytes()).await.unwrap();
        let error = ann.refused(code).await;
        let echoed = error["ref"].as_str().unwrap_or_default();
        assert_eq!(echoed, *reference, "{error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(told) && message.len() <= 256, "{error}");
    }
    // In fragments it is one text; between them a ping is answered.
    let (first, second) = br#"{"op":"OPCODE_PING","ref":"8"}"#.split_at(11);
    ann.0
        .send_bytes(&raw::masked(false, op::TEXT, first))
        .await
        .unwrap();
    ann.0.send(op::PING, b"x").await.unwrap();
    ann.0
        .send_bytes(&raw::masked(true, op::CONTINUATION, second))
        .await
        .unwrap();
    let pong = within("a pong", ann.0.frame()).await.unwrap();
    assert_eq!((pong.opcode, &pong.payload[..]), (op::PONG, &b"x"[..]));
    assert_eq!(ann.hears("PONG").await["ref"], "8");

    let binary = envelope::ping(1, Bytes::new()).encode_to_vec();
    ann.0.send(op::BINARY, &binary).await.unwrap();
    ann.refused("BINARY_FRAME").await;
    ann.pings().await;
    let faults = cases.iter().filter(|case| case.1 == "JSON_INVALID").count();
    assert_eq!(shield.metric("json_faults_total", "").await, faults as f64);
    neighbour.is_unharmed().await;
}

#[tokio::test]
async fn limits_hold_for_text_as_it_comes_and_for_what_it_holds() {
    let limits =
        "session.json = true\nsession.max_frame_bytes = 4096\nsession.max_payload_bytes = 3600";
    let (_spine, acme, shield) = stage(limits).await;
    let mut neighbour = Neighbour::new(&shield, &acme).await;
    let mut ann = Person::new(&shield, &acme, "ann").await;
    ann.joins("lobby").await;
    let publish = |bytes: usize| {
        let payload = data_encoding::BASE64.encode(&vec![b'x'; bytes]);
        json!({"op": "OPCODE_PUBLISH", "room": "lobby", "ref": 7, "payload": payload})
    };
    // The largest that WELCOME grants: 4,800 bytes of base64, and the names of fields.
    ann.says(&publish(3_600)).await;
    ann.hears("MESSAGE").await;
    // One more; and one with which the Envelope itself is over the limit of frames.
    for bytes in [3_601, 4_100] {
        ann.says(&publish(bytes)).await;
        ann.refused("PAYLOAD_TOO_LARGE").await;
        ann.pings().await;
    }
    // Over 8,192 nobody reads what it would be.
    ann.says(&publish(6_200)).await;
    assert_eq!(ann.0.close_code().await, Some(1009));

    // RFC 6455 leaves no choice: text that is no UTF-8 ends the connection.
    let mut ann = Person::new(&shield, &acme, "ann").await;
    ann.0.send(op::TEXT, b"{\"room\":\"\xff\"}").await.unwrap();
    assert_eq!(ann.0.close_code().await, Some(1007));

    // The neighbour heard the one message that was let through.
    let heard = neighbour_hears(&shield, &acme, &mut neighbour).await;
    assert_eq!(heard, 1);
}

/// Messages that the neighbour was sent by others; it works on.
async fn neighbour_hears(
    shield: &TestShield,
    tenant: &TestTenant,
    neighbour: &mut Neighbour,
) -> usize {
    let mut others = 0;
    let mut bob = shield.connect(&tenant.token().user("carol").sign()).await;
    bob.join("lobby").await;
    bob.publish("lobby", "end").await;
    bob.hears("lobby", "end").await;
    while neighbour.hears_next().await != "end" {
        others += 1;
    }
    others
}

#[tokio::test]
async fn offences_of_text_are_counted_like_all_others() {
    let (_spine, acme, shield) = stage("session.json = true\nsession.max_offences = 3").await;
    let mut ann = Person::new(&shield, &acme, "ann").await;
    for _ in 0..4 {
        ann.0.send(op::TEXT, b"{").await.unwrap();
        ann.refused("JSON_INVALID").await;
    }
    let code = ann.0.close_code().await;
    assert_eq!(code, Some(CloseCode::TooManyOffences.number()));
}

#[tokio::test]
async fn gaps_goaway_and_what_this_version_does_not_know_reach_a_person_too() {
    let (_spine, acme, shield) = stage(ON).await;
    let mut ann = Person::new(&shield, &acme, "ann").await;
    ann.joins("lobby").await;
    let client = shield.inner().pool().nats_client(&acme.id).unwrap();
    let sender = Sender {
        user: "mallory".to_owned(),
        session: "01936f3e-8a5c-7b21-9d43-5e6f708192a3".to_owned(),
    };
    let now_us = 0;
    for seq in [1_u64, 5] {
        let payload = Bytes::from(format!("number {seq}"));
        let message = envelope::message("lobby", [].into(), payload, sender.clone());
        let mut encoded = message.encode_to_vec();
        // A field of a version to come: number 100, a varint.
        encoded.extend([0xa0, 0x06, 0x01]);
        let mut headers = nats::HeaderMap::new();
        headers.insert(
            "Arqon-Origin",
            format!("aaaaaaaaaaaaaaaa {seq} {now_us}").as_str(),
        );
        let subject = format!("{}.lobby", acme.id);
        let sent = client.publish_with_headers(subject, headers, encoded.into());
        sent.await.unwrap();
    }
    assert_eq!(ann.hears("MESSAGE").await["payload"], "bnVtYmVyIDE=");
    let gap = ann.hears("GAP").await;
    assert_eq!(
        gap["gap"],
        json!({"reason": "GAP_REASON_SEQUENCE", "missed": "3"})
    );
    assert_eq!(ann.hears("MESSAGE").await["payload"], "bnVtYmVyIDU=");

    let drained = tokio::spawn(shield.drain());
    assert!(ann.hears("GOAWAY").await["goaway"]["deadlineMs"].is_number());
    assert_eq!(
        ann.0.close_code().await,
        Some(CloseCode::GoingAway.number())
    );
    within("the drain", drained).await.unwrap();
}

#[tokio::test]
async fn a_person_who_does_not_read_is_bounded_by_the_bytes_of_text() {
    let limits = "session.json = true\nsession.queue_max_bytes = 262144\n\
                  session.send_buffer_bytes = 4096\nsession.write_timeout_secs = 60";
    let (_spine, acme, shield) = stage(limits).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let stream = socket.connect(shield.addr()).await.unwrap();
    let authorization = format!("Authorization: Bearer {}", acme.token().user("ann").sign());
    let offer = "Sec-WebSocket-Protocol: arqon.v1+json";
    let peer = RawPeer::ask_over(stream, "/v1/socket", &[&authorization, offer]).await;
    let mut ann = Person(peer.unwrap());
    ann.hears("WELCOME").await;
    ann.joins("lobby").await;
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    bob.join("lobby").await;
    let text = "x".repeat(30_000);
    eventually!({
        bob.publish("lobby", text.clone()).await;
        bob.hears("lobby", &text).await;
        shield.metric("queue_dropped_total", "slow_reader").await > 0.0
    });
    let mut messages = 0;
    let code = loop {
        match ann.0.frame().await {
            Some(frame) if frame.opcode == op::CLOSE => {
                break u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
            }
            Some(frame) if frame.opcode == op::TEXT => messages += 1,
            Some(_) => {}
            None => panic!("closed without a word"),
        }
    };
    assert_eq!(code, CloseCode::SlowReader.number());
    assert!(messages >= 1, "what was on its way came");
    bob.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_who_is_there() {
    let stage = Stage::with("presence.leave_delay_ms = 0\nsession.json = true", "").await;
    let bob = stage.full("bob").await;
    let mut ann = Person::new(&stage.shield, &stage.acme, "ann").await;
    ann.says(&json!({
        "op": "OPCODE_JOIN", "room": "lobby", "ref": 1,
        "join": {"presence": "PRESENCE_MODE_FULL", "meta": {"name": "Ann"}},
    }))
    .await;
    let joined = ann.hears("JOINED").await;
    assert_eq!(joined["joined"]["presence"], "PRESENCE_MODE_FULL");
    // Her own coming may be part of the state, or follow it.
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 {
        let told = ann.next().await;
        let body = match told["op"].as_str().unwrap() {
            "OPCODE_PRESENCE_STATE" => &told["presenceState"],
            "OPCODE_PRESENCE_UPDATE" => &told["presenceUpdate"],
            other => panic!("{other}"),
        };
        for member in body["members"].as_array().unwrap() {
            seen.insert(member["user"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(seen, ["ann".to_owned(), "bob".to_owned()].into());
    eventually!(bob.knows(|seen| format!("{seen:?}").contains("ann")));
}

#[tokio::test]
async fn a_session_of_programs_refuses_text_as_ever() {
    let (_spine, acme, shield) = stage(ON).await;
    let mut peer = RawPeer::open(shield.addr(), &acme.token().sign())
        .await
        .unwrap();
    assert_eq!(peer.envelope().await.op(), Opcode::Welcome);
    peer.send(op::TEXT, br#"{"op":"OPCODE_PING"}"#)
        .await
        .unwrap();
    let error = peer.envelope().await;
    assert_eq!(arqon_harness::error_of(&error).name, "TEXT_FRAME");
    assert!(
        arqon_harness::error_of(&error)
            .message
            .contains("arqon.v1+json")
    );
}

/// Transcoding is done once for all who speak JSON: however many there are, a
/// message to them is one frame more than to none.
#[tokio::test]
async fn many_people_hear_the_same_bytes() {
    let (_spine, acme, shield) = stage(ON).await;
    let mut people = Vec::new();
    for number in 0..20 {
        let mut person = Person::new(&shield, &acme, &format!("p{number}")).await;
        person.joins("lobby").await;
        people.push(person);
    }
    let mut bob: Client = shield.connect(&acme.token().user("bob").sign()).await;
    bob.join("lobby").await;
    bob.publish_with(
        "lobby",
        "to all",
        &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")],
    )
    .await;
    let mut told = std::collections::BTreeSet::new();
    for person in &mut people {
        loop {
            let frame = within("a frame", person.0.frame()).await.unwrap();
            if frame.opcode == op::TEXT {
                told.insert(frame.payload);
                break;
            }
        }
    }
    // Made for each, the order of the headers would differ: it is by chance.
    assert_eq!(told.len(), 1);
}

#[tokio::test]
async fn tenants_of_people_are_apart_too() {
    let spine = Spine::start().await;
    let (acme, globex) = (spine.tenant("acme").await, spine.tenant("globex").await);
    let shield = spine.shield().with(ON).start().await;
    let mut ann = Person::new(&shield, &acme, "ann").await;
    let mut gus = Person::new(&shield, &globex, "gus").await;
    ann.joins("lobby").await;
    gus.joins("lobby").await;
    ann.says(&json!({"op": "OPCODE_PUBLISH", "room": "lobby", "payload": "aGk="}))
        .await;
    ann.hears("MESSAGE").await;
    gus.pings().await;
}
