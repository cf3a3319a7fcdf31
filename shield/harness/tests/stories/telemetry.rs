//! What an operator sees: traces that span the platform, metrics, logs. A real
//! receiver decodes what is exported.

use std::collections::BTreeSet;

use arqon_client::ConnectParams;
use arqon_harness::otlp::{Manners, Receiver, Span};
use arqon_harness::{
    Client, Spine, TestShield, TestTenant, Watcher, eventually, metric_at, within,
};
use arqon_proto::v1::{Envelope, Opcode, PresenceMode, envelope::Body};

/// A client's own trace. It says that it is not sampled, which nobody obeys.
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn member(shield: &TestShield, tenant: &TestTenant, user: &str) -> Client {
    let mut client = shield.connect(&tenant.token().user(user).sign()).await;
    client.join("lobby").await;
    client
}

/// Publishes with these headers; the code that refused it, if one did.
async fn publish(client: &mut Client, text: &str, headers: &[(&str, &str)]) -> Option<String> {
    let reference = client.publish_with("lobby", text, headers).await;
    loop {
        let frame = client.next().await;
        match frame.body {
            Some(Body::Ack(_)) if frame.r#ref == reference => return None,
            Some(Body::Error(error)) if frame.r#ref == reference => return Some(error.name),
            _ => {}
        }
    }
}

/// The message of this text, as a client hears it.
async fn heard(client: &mut Client, text: &str) -> Envelope {
    client.hears("lobby", text).await
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = list
        .iter()
        .map(|(name, parent)| ((*name).to_owned(), (*parent).to_owned()))
        .collect();
    pairs.sort();
    pairs
}

/// The one span of this name that says this of itself.
fn find<'a>(spans: &'a [Span], name: &str, key: &str, value: &str) -> Option<&'a Span> {
    spans.iter().find(|span| {
        span.name == name && span.attributes.get(key).is_some_and(|found| found == value)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_the_client_through_two_shields_and_a_brain() {
    let receiver = Receiver::start().await;
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let brain = spine
        .brain("brain-1")
        .telemetry(&receiver.traces())
        .start()
        .await;
    let of = |id: &str| {
        let here = spine.shield().id(id).with(&receiver.traces());
        here.with("presence.leave_delay_ms = 0")
    };
    let (one, two) = (of("shield-1").start().await, of("shield-2").start().await);
    let owl = two.connect(&acme.token().user("owl").sign()).await;
    let owl = Watcher::join(owl, "lobby", PresenceMode::Watch).await;
    let mut bob = member(&two, &acme, "bob").await;
    let seen = arqon_harness::seen_as(PresenceMode::Full, &[]);
    let mut alice = one.connect(&acme.token().user("alice").sign()).await;
    alice.join_with("lobby", seen).await.unwrap();
    eventually!(owl.sees(&["alice"]), "{:?}", owl.now());
    let blocklist = spine.push_shipped("blocklist").await;
    let blocklist = blocklist.config(r#"{"words":["malware"]}"#);
    spine.enforce(&blocklist, &["shield-1", "shield-2"]).await;

    // A message: the client's trace goes on, and its flag is for other clients.
    assert_eq!(
        publish(&mut alice, "hello", &[("traceparent", PARENT)]).await,
        None
    );
    let message = heard(&mut bob, "hello").await;
    let told = &message.headers["traceparent"];
    let tree = pairs(&[
        ("shield.publish", ""),
        ("shield.policy", "shield.publish"),
        ("shield.spine", "shield.publish"),
        ("shield.deliver", "shield.publish"),
        ("shield.deliver", "shield.publish"),
        ("brain.activity", "shield.publish"),
    ]);
    eventually!(receiver.tree(TRACE) == tree, "{:#?}", receiver.tree(TRACE));
    let spans = receiver.spans();
    let publication = find(&spans, "shield.publish", "arqon.room", "lobby").unwrap();
    assert_eq!(publication.parent, "00f067aa0ba902b7", "the client's span");
    assert_eq!(*told, format!("00-{TRACE}-{}-00", publication.id));
    for (key, value) in [
        ("messaging.system", "nats"),
        ("messaging.destination.name", "acme.lobby"),
        ("messaging.operation.type", "send"),
        ("messaging.message.body.size", "5"),
        ("arqon.tenant", "acme"),
    ] {
        assert_eq!(publication.attributes[key], value, "{key}");
    }
    let twist = &message.headers["X-Twist-ID"];
    assert_eq!(publication.attributes["messaging.message.id"], *twist);
    let of = |name: &str| -> BTreeSet<String> {
        let spans = spans.iter().filter(|span| span.trace == TRACE);
        let named = spans.filter(|span| span.name == name);
        named.map(|span| span.instance.clone()).collect()
    };
    let both = BTreeSet::from(["shield-1".to_owned(), "shield-2".to_owned()]);
    assert_eq!(of("shield.deliver"), both);
    assert_eq!(of("brain.activity"), BTreeSet::from(["brain-1".to_owned()]));

    // A join that others see: to Brain and back to whoever watches.
    let mut carol = one.connect(&acme.token().user("carol").sign()).await;
    let seen = arqon_harness::seen_as(PresenceMode::Full, &[]);
    carol.join_with("lobby", seen).await.unwrap();
    eventually!(owl.sees(&["alice", "carol"]), "{:?}", owl.now());
    let tree = pairs(&[
        ("shield.join", ""),
        ("shield.spine", "shield.join"),
        ("brain.track", "shield.join"),
        ("shield.deliver presence", "brain.track"),
        ("shield.deliver presence", "brain.track"),
    ]);
    let joined = || {
        let spans = receiver.spans();
        let mut joins = spans.iter().filter(|span| span.name == "shield.join");
        joins.any(|join| receiver.tree(&join.trace) == tree)
    };
    eventually!(joined(), "{:#?}", receiver.spans());

    // A connect: the token is judged, and exchanged for the tenant's connection
    // by whoever comes first.
    let tree = pairs(&[
        ("shield.connect", ""),
        ("shield.auth", "shield.connect"),
        ("shield.exchange", "shield.connect"),
    ]);
    let spans = receiver.spans();
    let exchange = spans.iter().find(|span| span.name == "shield.exchange");
    assert_eq!(receiver.tree(&exchange.unwrap().trace), tree);
    let services: BTreeSet<&str> = spans.iter().map(|span| span.service.as_str()).collect();
    assert_eq!(services, BTreeSet::from(["arqon-brain", "arqon-shield"]));
    drop(brain);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_trace_of_a_client_is_no_trace_and_harms_nothing() {
    let receiver = Receiver::start().await;
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().with(&receiver.traces()).start().await;
    let mut alice = member(&shield, &acme, "alice").await;
    let mut bob = member(&shield, &acme, "bob").await;
    for (number, bad) in [
        "",
        "00",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-zz",
    ]
    .into_iter()
    .enumerate()
    {
        let text = format!("message {number}");
        assert_eq!(
            publish(&mut alice, &text, &[("traceparent", bad)]).await,
            None
        );
        // A fresh trace of Shield's own is what others are told.
        let told = heard(&mut bob, &text).await.headers["traceparent"].clone();
        assert!(!told.contains(TRACE) && told.ends_with("-01"), "{told}");
        let trace = told.split('-').nth(1).unwrap().to_owned();
        eventually!(!receiver.tree(&trace).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_traced_where_nothing_else_is_and_strangers_too() {
    let receiver = Receiver::start().await;
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let blocklist = spine.push_shipped("blocklist").await;
    let shield = spine
        .shield()
        .with(&receiver.traces())
        .with("telemetry.traces_percent = 0")
        .start()
        .await;
    let blocklist = blocklist.config(r#"{"words":["malware"]}"#);
    spine.enforce(&blocklist, &["shield-1"]).await;
    let mut alice = member(&shield, &acme, "alice").await;
    assert_eq!(
        publish(&mut alice, "fine", &[("traceparent", PARENT)]).await,
        None
    );
    let refused = publish(&mut alice, "malware", &[("traceparent", PARENT)]).await;
    assert_eq!(refused.as_deref(), Some("POLICY_BLOCKED"));
    Client::connect(ConnectParams::new(
        format!("ws://{}", shield.addr()),
        acme.token().expired().sign(),
    ))
    .await
    .unwrap_err();
    let failures = || -> Vec<(String, String)> {
        let spans = receiver.spans();
        let mut failures: Vec<_> = spans
            .iter()
            .map(|span| (span.name.clone(), span.failure.clone().unwrap_or_default()))
            .collect();
        failures.sort();
        failures
    };
    // What is refused before anything is begun for it, too.
    alice.publish("elsewhere", "hello").await;
    let expected = pairs(&[
        ("shield.connect", "TOKEN_EXPIRED"),
        ("shield.publish", "POLICY_BLOCKED"),
        ("shield.request", "NOT_JOINED"),
    ]);
    eventually!(failures() == expected, "{:#?}", receiver.spans());
    assert_eq!(
        receiver
            .spans()
            .iter()
            .filter(|span| span.trace == TRACE)
            .count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_says_a_lot_is_traced_up_to_its_cap() {
    let receiver = Receiver::start().await;
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine
        .shield()
        .with(&receiver.traces())
        .with("telemetry.traces_per_tenant = 1")
        .start()
        .await;
    let mut alice = member(&shield, &acme, "alice").await;
    for number in 0..50 {
        let text = format!("message {number}");
        assert_eq!(publish(&mut alice, &text, &[]).await, None);
    }
    let telemetry = shield.inner().metrics().telemetry();
    assert!(telemetry.traces_capped.get() > 0);
    let sampled = telemetry.traces_sampled.get();
    // A connect and a join among them; one a second, and two saved for a burst.
    assert!((2..40).contains(&sampled), "{sampled}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_refuses_hangs_or_is_away_costs_nobody_a_message() {
    let receiver = Receiver::start().await;
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine
        .shield()
        .with(&receiver.metrics_too())
        .with(
            "log.format = \"json\"\ntelemetry.timeout_ms = 200\ntelemetry.traces_queue = 64\n\
             telemetry.traces_per_tenant = 100000",
        )
        .spawn()
        .await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    alice.join("lobby").await;
    for manners in [Manners::Refuses, Manners::Hangs] {
        receiver.set(manners);
        let before = metric_at(shield.admin, "messages_in_total", "").await;
        for number in 0..200 {
            let text = format!("{manners:?} {number}");
            assert_eq!(publish(&mut alice, &text, &[]).await, None);
        }
        let after = metric_at(shield.admin, "messages_in_total", "").await;
        assert!(after - before >= 200.0);
        let spans = "arqon_telemetry_spans_dropped_total{reason=\"";
        eventually!(sum(&shield, spans).await > 0.0);
        let failed = "arqon_telemetry_exports_failed_total{signal=\"metrics\"";
        eventually!(sum(&shield, failed).await > 0.0);
    }
    receiver.set(Manners::Takes);
    publish(&mut alice, "after", &[]).await;
    let back = || async {
        let log = shield.program.log();
        log.matches("Telemetry is taken again").count() == 2
    };
    eventually!(back().await, "{}", shield.program.log());
    // One line for the whole outage of each signal, whatever its nature.
    let log = shield.program.log();
    assert_eq!(log.matches("Telemetry is not taken").count(), 2, "{log}");
    eventually!(!receiver.spans().is_empty());
}

/// All series of the admin listener that begin so.
async fn sum(shield: &arqon_harness::ShieldProcess, series: &str) -> f64 {
    let text = within(
        "/metrics",
        arqon_harness::http::get(shield.admin, "/metrics", &[]),
    )
    .await
    .unwrap()
    .body;
    let of = |line: &str| {
        let value = line.strip_prefix(series)?;
        value.rsplit_once(' ')?.1.parse::<f64>().ok()
    };
    text.lines().filter_map(of).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_go_out_as_they_are_scraped() {
    let receiver = Receiver::start().await;
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().with(&receiver.metrics_too()).start().await;
    let mut alice = member(&shield, &acme, "alice").await;
    publish(&mut alice, "hello", &[]).await;
    let names = || -> BTreeSet<String> {
        let metrics = receiver.metrics();
        metrics.into_iter().map(|metric| metric.name).collect()
    };
    let wanted = [
        "arqon_shield_messages_in",
        "arqon_shield_deliver_seconds",
        "arqon_shield_publish_seconds",
        "arqon_shield_ack_seconds",
        "arqon_shield_tenant_messages_out",
        "arqon_telemetry_exports",
        "process_cpu_seconds",
    ];
    eventually!(
        wanted.iter().all(|name| names().contains(*name)),
        "{:?}",
        names()
    );
    // Named by now, at zero; what comes next is under the name.
    publish(&mut alice, "again", &[]).await;
    let text = within(
        "/metrics",
        arqon_harness::http::get(shield.admin_addr(), "/metrics", &[]),
    )
    .await
    .unwrap()
    .body;
    for line in [
        "arqon_shield_deliver_seconds_count",
        "arqon_shield_tenant_messages_in_total{tenant=\"acme\"} 1",
        "arqon_shield_tenant_messages_in_total{tenant=\"other\"} 1",
        "arqon_shield_tenant_sessions{tenant=\"acme\"} 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traced_session_is_found_in_the_log_by_its_ids() {
    let receiver = Receiver::start().await;
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine
        .shield()
        .with(&receiver.traces())
        .with("log.format = \"json\"\nlog.level = \"debug\"")
        .spawn()
        .await;
    let alice = shield.connect(&acme.token().sign()).await;
    drop(alice);
    let line = |message: &str| -> Option<serde_json::Value> {
        let log = shield.program.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let mut found = lines.filter(|line: &serde_json::Value| line["message"] == message);
        found.next()
    };
    eventually!(line("Session closed").is_some(), "{}", shield.program.log());
    let (opened, closed) = (
        line("Session opened").unwrap(),
        line("Session closed").unwrap(),
    );
    assert_eq!(opened["trace_id"], closed["trace_id"]);
    let trace = opened["trace_id"].as_str().unwrap().to_owned();
    eventually!(receiver.tree(&trace).len() == 3, "{:?}", receiver.spans());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_only_traced_where_there_is_a_receiver() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let shield = spine.shield().start().await;
    let mut alice = member(&shield, &acme, "alice").await;
    let mut bob = member(&shield, &acme, "bob").await;
    let sampled = PARENT.replace("-00f0", "-00f1").replace("b7-00", "b7-01");
    publish(&mut alice, "hello", &[("traceparent", &sampled)]).await;
    let message = heard(&mut bob, "hello").await;
    assert_eq!(message.op(), Opcode::Message);
    assert_eq!(message.headers["traceparent"], sampled, "as it was sent");
    publish(&mut alice, "bare", &[]).await;
    let message = heard(&mut bob, "bare").await;
    assert!(!message.headers.contains_key("traceparent"));
}
