//! Traces, numbers, and where they are sent.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use arqon_harness::otlp::{Manners, Receiver};
use arqon_harness::{Spine, eventually, free_addr, moved, within};
use arqon_proto::names::SessionId;
use arqon_proto::v1;
use arqon_spine::{server, subjects};
use arqon_telemetry::TraceContext;
use futures_util::StreamExt as _;

use crate::common::{Link, Term, change, command, entry, fleet, manifest, program, publish, text};
use crate::process::HOSTILE;

const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const CAUSE: u64 = 0x00f0_67aa_0ba9_02b7;
const OWN: u64 = 0x0123_4567_89ab_cdef;

fn traceparent(span_id: u64) -> String {
    let trace_id = TRACE;
    let context = TraceContext {
        trace_id,
        span_id,
        sampled: true,
    };
    context.to_string()
}

fn trace(room: &str, kind: v1::PresenceTraceKind) -> v1::PresenceTrace {
    v1::PresenceTrace {
        room: room.to_owned(),
        traceparent: traceparent(CAUSE),
        kind: kind.into(),
    }
}

/// A link whose manifest has these lines too.
async fn started(spine: &Spine, lines: &str) -> Link {
    let path = manifest(spine, "brain-1");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{lines}")).unwrap();
    let mut command = program(&path);
    command.envs(HOSTILE);
    let mut link = Link::spawn(spine, "brain-1", command);
    link.read();
    let hello = link.hello().await;
    let traced = lines.contains("traces_endpoint");
    assert!(*hello[2].get("traces") == *if traced { "true" } else { "false" });
    link.connected().await;
    link
}

/// Sends `{:numbers, numbers}`, or with an id `{:scrape, id, numbers}`.
fn numbers(link: &mut Link, scrape: Option<u64>, numbers: &[(&str, u64)]) {
    let mut term = arqon_brain_link::etf::Writer::term();
    if let Some(id) = scrape {
        term.tagged(3, "scrape");
        term.uint(id);
    } else {
        term.tagged(2, "numbers");
    }
    term.each(numbers, |term, (name, value)| {
        term.tuple(2);
        text(term, name);
        term.uint(*value);
    });
    link.frame(&term.finish());
}

/// The link's metrics as text.
async fn scrape(link: &mut Link, id: u64) -> String {
    numbers(link, Some(id), &[]);
    loop {
        let found = link.others.iter().position(|frame| frame.is("scraped"));
        if let Some(index) = found {
            let frame = link.others.remove(index);
            assert_eq!(frame[1].int(), id);
            let Term::Bin(text) = &frame[2] else {
                panic!("{frame:?}");
            };
            let text = String::from_utf8(text.to_vec()).unwrap();
            // Brain's own numbers are made up here; the others have really moved.
            let ours = |line: &&str| !line.starts_with("arqon_brain_");
            moved::note(&text.lines().filter(ours).collect::<Vec<_>>().join("\n"));
            return text;
        }
        link.come().await;
    }
}

fn span(name: &str, own: u64) -> Vec<u8> {
    command(2, "spans", |term| {
        term.each(&[()], |term, ()| {
            term.tuple(7);
            text(term, name);
            term.binary(&TRACE.to_be_bytes());
            term.binary(&CAUSE.to_be_bytes());
            term.binary(&own.to_be_bytes());
            term.uint(1_779_999_999_123_000_000);
            term.uint(1_779_999_999_223_000_000);
            term.list(3);
            term.tuple(2);
            text(term, "arqon.room");
            text(term, "lobby");
            term.tuple(2);
            text(term, "arqon.changes");
            term.uint(3);
            term.tuple(2);
            text(term, "arqon.told");
            term.bool(true);
            term.nil();
        });
    })
}

#[tokio::test]
async fn traces_come_with_what_they_belong_to_and_go_out_with_their_rooms() {
    use v1::PresenceTraceKind::{Activity, Change};
    let spine = Spine::start().await;
    let tenant = spine.tenant("acme").await;
    let mut link = Link::start(&spine, "brain-1").await;
    let shield = fleet(&spine, &tenant, "shield-1").await;
    let mut own = shield.client.subscribe("acme._presence.>").await.unwrap();
    shield.client.flush().await.unwrap();

    let mut changes = change(5, entry("lobby", "alice", SessionId::new(), 5));
    let unsampled = traceparent(CAUSE).replace("-01", "-00");
    let wrong = |room: &str, traceparent: String| v1::PresenceTrace {
        room: room.to_owned(),
        traceparent,
        kind: Change.into(),
    };
    changes.traces = vec![
        wrong("_presence", traceparent(CAUSE)),
        trace("lobby", Change),
        wrong("lobby", unsampled),
        trace("lobby.side", Activity),
    ];
    publish(&shield, subjects::PRESENCE_CHANGE, &changes).await;
    let ids = |event: &Term, at: usize| {
        let traces = event[at].list().to_vec();
        assert_eq!(traces.len(), 1, "{event:?}");
        let bin = |bytes: &[u8]| Term::Bin(bytes.to_vec().into());
        assert_eq!(traces[0][1], bin(&TRACE.to_be_bytes()));
        assert_eq!(traces[0][2], bin(&CAUSE.to_be_bytes()));
        traces[0][0].clone()
    };
    let event = link.next("changes").await;
    assert_eq!([4, 5].map(|at: usize| event[at].int()), [5, 1]);
    assert!(ids(&event, 6) == *"lobby");
    assert_eq!(event[7].blob().len(), 1);
    let event = link.next("active").await;
    assert!(ids(&event, 4) == *"lobby.side");
    assert!(event[5].blob().is_empty());
    let counted = link.next("counted").await;
    assert!(counted[1] == *"malformed");
    assert_eq!(counted[2].int(), 2);

    let account = &*tenant.account;
    let events = command(6, "events", |term| {
        text(term, account);
        term.nil();
        term.nil();
        term.each(&["lobby"], |term, room| {
            term.tuple(7);
            text(term, room);
            (1..=3).for_each(|n| term.uint(n));
            term.bool(false);
            term.nil();
            term.nil();
        });
        term.each(&[OWN], |term, own| {
            term.tuple(3);
            text(term, "lobby");
            term.binary(&TRACE.to_be_bytes());
            term.binary(&own.to_be_bytes());
        });
    });
    // Subscriptions of another connection: tell until they are known.
    let told = loop {
        link.send(10, std::slice::from_ref(&events));
        let told = tokio::time::timeout(std::time::Duration::from_millis(200), own.next());
        if let Ok(Some(message)) = told.await {
            break <v1::PresenceEvents as prost::Message>::decode(message.payload).unwrap();
        }
    };
    let expected = v1::PresenceTrace {
        traceparent: traceparent(OWN),
        ..trace("lobby", Change)
    };
    assert_eq!(told.traces, [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_and_numbers_are_sent_whatever_the_environment() {
    let spine = Spine::start().await;
    let receiver = Receiver::start().await;
    let mut link = started(&spine, &receiver.metrics_too()).await;
    numbers(&mut link, None, &[("members", 7), ("syncs_gap", 3)]);
    link.send(77, &[span("brain.track", OWN)]);
    assert_eq!(link.other("credit").await, 77);
    eventually!(receiver.spans().len() == 1);
    let told = receiver.spans().remove(0);
    assert_eq!(
        (&*told.service, &*told.instance, &*told.name),
        ("arqon-brain", "brain-1", "brain.track")
    );
    assert_eq!(
        (told.trace, told.parent, told.id),
        (
            format!("{TRACE:032x}"),
            format!("{CAUSE:016x}"),
            format!("{OWN:016x}")
        )
    );
    assert_eq!(told.took, 100_000_000);
    let attributes = [
        ("arqon.changes", "3"),
        ("arqon.room", "lobby"),
        ("arqon.told", "true"),
    ];
    let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(told.attributes, BTreeMap::from(attributes));

    let value = |name: &str| {
        let metrics = receiver.metrics();
        let metric = metrics.iter().find(|metric| metric.name == name)?;
        Some(format!("{:?}", metric.data))
    };
    let shows = |name, what: &str| value(name).is_some_and(|text| text.contains(what));
    eventually!(shows("arqon_brain_members", "AsDouble(7.0)"));
    assert!(shows("arqon_brain_syncs", "AsDouble(3.0)"));
    eventually!(shows("arqon_telemetry_spans_exported", "AsDouble(1.0)"));

    // What was said last is sent before it ends.
    link.send(1, &[span("brain.activity", OWN + 1)]);
    numbers(&mut link, None, &[("members", 8)]);
    link.close();
    assert_eq!(link.ended().await.code(), Some(0));
    assert_eq!(receiver.spans().len(), 2);
    assert!(shows("arqon_brain_members", "AsDouble(8.0)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_holds_nothing_up() {
    let spine = Spine::start().await;
    let receiver = Receiver::start().await;
    receiver.set(Manners::Hangs);
    let lines = format!("{}telemetry.timeout_ms = 60000\n", receiver.metrics_too());
    let mut link = started(&spine, &lines).await;
    // Far more than wait for an export: the rest is dropped and counted.
    let spans = vec![span("brain.track", OWN); 200];
    let mut back = 0;
    for _ in 0..100 {
        link.send(10, &spans);
    }
    while back < 1000 {
        back += link.other("credit").await;
    }
    let metrics = scrape(&mut link, 5).await;
    let dropped = "arqon_telemetry_spans_dropped_total{reason=\"queue_full\"} ";
    assert!(metrics.contains(dropped), "{metrics}");
    link.close();
    assert_eq!(link.ended().await.code(), Some(0));
    assert!(link.log().contains("\"exported\":false"), "{}", link.log());
}

#[tokio::test]
async fn grpc_is_spoken_from_the_one_thread_there_is() {
    let spine = Spine::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let begun = tokio::task::spawn_blocking(move || {
        let mut preface = [0; 24];
        listener
            .accept()
            .unwrap()
            .0
            .read_exact(&mut preface)
            .unwrap();
        preface
    });
    let lines = format!("telemetry.traces_endpoint = \"http://{addr}\"\n");
    let mut link = started(&spine, &lines).await;
    link.send(1, &[span("brain.track", OWN)]);
    let preface = within("a connection", begun).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // The connection is gone: that is told, and the link goes on.
    eventually!(link.log().contains("Telemetry is not taken"));
    link.number("ping", 9);
    assert_eq!(link.other("pong").await, 9);
}

#[tokio::test]
async fn a_scrape_is_the_numbers_of_both() {
    let spine = Spine::start().await;
    let mut link = Link::start(&spine, "brain-1").await;
    numbers(&mut link, None, &[("members", 7), ("changes", 5)]);
    numbers(&mut link, Some(40), &[("changes", 1 << 40)]);
    let text = scrape(&mut link, 40).await;
    // The answer to the first, which came with its numbers.
    for line in [
        "arqon_brain_members 7",
        "arqon_brain_changes_total 1099511627776",
        "arqon_telemetry_spans_exported_total 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    assert!(text.contains("process_resident_memory_bytes "));
}

#[tokio::test]
async fn a_number_that_the_catalogue_does_not_have_ends_it() {
    let spine = Spine::start().await;
    for scrape in [None, Some(7)] {
        let mut link = Link::start(&spine, "brain-1").await;
        numbers(&mut link, scrape, &[("members", 7), ("whims", 1)]);
        assert_eq!(link.ended().await.code(), Some(1));
        let log = link.log();
        let told = "not of one version: no number of a Brain is called `whims`";
        assert!(log.contains(told), "{log}");
    }
}

#[test]
fn what_cannot_be_sent_as_the_manifest_wants_ends_it_before_anything() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    file("some.creds", "");
    file(
        "headers",
        "authorization: Bearer s3cret\nno header at all s3cret\n",
    );
    let path = folder.path().join("config.toml");
    let text = "node.id = \"brain-1\"\n\
                spine.control_creds_file = \"some.creds\"\n\
                brain.creds_file = \"some.creds\"\n\
                telemetry.headers_file = \"headers\"\n\
                telemetry.traces_endpoint = \"http://127.0.0.1:9\"\n";
    std::fs::write(&path, text).unwrap();
    let output = program(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(output.stdout.is_empty());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("line 2") && told.contains("telemetry.headers_file"),
        "{told}"
    );
    assert!(!told.contains("s3cret"), "{told}");
}

/// A nats-server with monitoring. Dropping it kills it.
struct Monitored(Child);

impl Monitored {
    fn start(name: &str, http: SocketAddr) -> Self {
        let mut command = Command::new(&server::find().unwrap().path);
        command.args(["-a", "127.0.0.1", "-p", "-1", "-n", name]);
        command.args(["-m", &http.port().to_string()]);
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Monitored {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_of_nats_servers_are_told_and_their_absence_once() {
    let spine = Spine::start().await;
    let http = free_addr();
    // One whose answer would fill any memory, and one that sends us elsewhere.
    let endless = hostile(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
        while stream.write_all(&[b' '; 65_536]).is_ok() {}
    });
    let elsewhere = hostile(move |stream| {
        let to = format!(
            "HTTP/1.1 302 Found\r\nlocation: http://{http}/varz\r\ncontent-length: 0\r\n\r\n"
        );
        let _ = stream.write_all(to.as_bytes());
    });
    let nats = Monitored::start("nats-under-test", http);
    eventually!(tokio::net::TcpStream::connect(http).await.is_ok());
    let urls = format!("[\"http://{http}/\", \"http://{endless}\", \"http://{elsewhere}\"]");
    let mut link = started(&spine, &format!("telemetry.nats_monitors = {urls}\n")).await;

    let up = |name: &str, up: u8| format!("arqon_nats_up{{server=\"{name}\"}} {up}\n");
    let mut id = 100;
    let text = loop {
        id += 1;
        let text = scrape(&mut link, id).await;
        if text.contains(&up("nats-under-test", 1))
            && text.contains(&up(&endless.to_string(), 0))
            && text.contains(&up(&elsewhere.to_string(), 0))
        {
            break text;
        }
        tokio::time::sleep(arqon_harness::GLANCE).await;
    };
    let server = "{server=\"nats-under-test\"}";
    for name in [
        "connections",
        "connections_opened_total",
        "subscriptions",
        "slow_consumers_total",
        "messages_in_total",
        "messages_out_total",
        "bytes_in_total",
        "bytes_out_total",
        "memory_bytes",
        "cpu_percent",
        "routes",
        "uptime_seconds",
    ] {
        let line = format!("arqon_nats_{name}{server} ");
        assert!(text.contains(&line), "{line} in {text}");
    }
    let memory = format!("arqon_nats_memory_bytes{server} 0\n");
    assert!(
        !text.contains(&memory) && !text.contains(&http.to_string()),
        "{text}"
    );
    assert!(link.log().contains("longer than 1048576 bytes"));
    assert!(link.log().contains("302 Found"));

    drop(nats);
    while !scrape(&mut link, id + 1)
        .await
        .contains(&up("nats-under-test", 0))
    {
        id += 1;
        tokio::time::sleep(arqon_harness::GLANCE).await;
    }
    // Another server in its place: its name, and nothing of the old one.
    let nats = Monitored::start("the-next", http);
    id += 1000;
    loop {
        id += 1;
        let text = scrape(&mut link, id).await;
        if text.contains(&up("the-next", 1)) {
            assert!(!text.contains("nats-under-test"), "{text}");
            break;
        }
        tokio::time::sleep(arqon_harness::GLANCE).await;
    }
    drop(nats);
    let log = link.log();
    let line = |what: &str| {
        let of = format!("http://{http}/varz");
        log.lines()
            .filter(|line| line.contains(what) && line.contains(&of))
            .count()
    };
    // An outage is one line, and its end another.
    assert_eq!(line("answers again"), 1, "{log}");
    assert!(line("tells nothing") <= 2, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_number_of_a_nats_server_is_told_as_what_it_is() {
    let spine = Spine::start().await;
    // The name is what somebody chose.
    let varz = r#"{"server_name": "a \"b\"\n", "server_id": "NAAA", "connections": 1,
        "total_connections": 2, "subscriptions": 3, "slow_consumers": 4, "in_msgs": 5,
        "out_msgs": 6, "in_bytes": 18446744073709551615, "out_bytes": 8, "mem": 9, "cpu": 10.6,
        "routes": 11, "uptime": "1d2h3m4s", "future": {"field": [1]}}"#;
    let addr = hostile(move |stream| {
        let len = varz.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n");
        let _ = stream.write_all(&[head.as_bytes(), varz.as_bytes()].concat());
    });
    let lines = format!("telemetry.nats_monitors = [\"http://{addr}\"]\n");
    let mut link = started(&spine, &lines).await;
    let mut id = 0;
    let text = loop {
        id += 1;
        let text = scrape(&mut link, id).await;
        if text.contains("arqon_nats_up{") {
            break text;
        }
        tokio::time::sleep(arqon_harness::GLANCE).await;
    };
    for (name, value) in [
        ("up", "1"),
        ("connections", "1"),
        ("connections_opened_total", "2"),
        ("subscriptions", "3"),
        ("slow_consumers_total", "4"),
        ("messages_in_total", "5"),
        ("messages_out_total", "6"),
        ("bytes_in_total", "18446744073709551615"),
        ("bytes_out_total", "8"),
        ("memory_bytes", "9"),
        ("cpu_percent", "11"),
        ("routes", "11"),
        ("uptime_seconds", "93784"),
    ] {
        let line = format!("arqon_nats_{name}{{server=\"a__b__\"}} {value}");
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

/// A server of one habit.
fn hostile(mut habit: impl FnMut(&mut std::net::TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            habit(&mut stream);
        }
    });
    addr
}
