//! Its beginning, its ends, and the Spine's comings and goings.

use arqon_harness::Spine;
use arqon_proto::names::SessionId;
use arqon_spine::subjects;
use rustix::process::Signal;

use crate::common::{Link, Term, change, command, entry, fleet, manifest, program, publish};

/// What libraries and programs like to obey.
pub(crate) const HOSTILE: [(&str, &str); 17] = [
    ("RUST_LOG", "trace"),
    ("RUST_BACKTRACE", "full"),
    ("NO_COLOR", ""),
    ("OTEL_SERVICE_NAME", "hostile"),
    ("OTEL_SDK_DISABLED", "true"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "hostile=yes"),
    ("HTTP_PROXY", "http://127.0.0.1:9"),
    ("http_proxy", "http://127.0.0.1:9"),
    ("ARQON_CONFIG", "/nonexistent/config.toml"),
    ("ARQON_NODE_ID", "hostile"),
    ("ARQON_LOG_LEVEL", "trace"),
    ("ARQON_SPINE_SERVERS", "nats://127.0.0.1:9"),
    ("NATS_URL", "nats://127.0.0.1:9"),
    ("NATS_CREDS", "/nonexistent.creds"),
    ("ALL_PROXY", "socks5://127.0.0.1:9"),
    ("TOKIO_WORKER_THREADS", "0"),
];

#[test]
fn a_wrong_manifest_is_told_whole_and_ends_with_64() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, "node.id = \"Brain\"\nbrain.tick_ms = 1\nrooms = 3\n").unwrap();
    let output = program(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(output.stdout.is_empty());
    let told = String::from_utf8(output.stderr).unwrap();
    for key in [
        "node.id",
        "brain.tick_ms",
        "rooms",
        "brain.creds_file",
        "spine.control_creds_file",
    ] {
        assert!(told.contains(key), "{key} is not in {told}");
    }
    let output = program(&folder.path().join("absent.toml"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
}

#[tokio::test]
async fn hello_is_what_the_manifest_says_whatever_the_environment() {
    let spine = Spine::start().await;
    let path = manifest(&spine, "brain-1");
    let more = "[brain]\ntick_ms = 50\nforget_after_secs = 7\ndigest_secs = 3\nrepairs = 9\n\
                listen = \"127.0.0.1:0\"\nshards = 3\n";
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, creds) = text.split_once("brain.creds_file").unwrap();
    let (creds, after) = creds.split_once('\n').unwrap();
    let text = format!("{before}{after}{more}creds_file{creds}\n");
    std::fs::write(&path, text).unwrap();

    let mut hellos = Vec::new();
    for environment in [&[][..], &HOSTILE] {
        let mut command = program(&path);
        command.envs(environment.iter().copied());
        let mut link = Link::spawn(&spine, "brain-1", command);
        link.read();
        let hello = link.hello().await;
        assert_eq!(hello[1].int(), 2);
        let Term::Map(mut pairs) = hello[2].clone() else {
            panic!("{hello:?}");
        };
        assert!(hello[2].get("incarnation").int() > 1 << 56);
        pairs.retain(|(key, _)| *key != *"incarnation");
        for (key, value) in [
            ("shards", 3),
            ("tick_ms", 50),
            ("count_tick_ms", 1000),
            ("full_limit", 500),
            ("state_max_bytes", 524_288),
            ("sessions_listed", 16),
            ("down_after_ms", 3000),
            ("forget_after_ms", 7000),
            ("digest_ms", 3000),
            ("repairs", 9),
        ] {
            assert_eq!(hello[2].get(key).int(), value, "{key}");
        }
        for (key, value) in [
            ("id", "brain-1"),
            ("listen", "127.0.0.1:0"),
            ("log_level", "info"),
            ("log_format", "json"),
            ("traces", "false"),
        ] {
            assert!(*hello[2].get(key) == value, "{key}");
        }
        link.connected().await;
        link.close();
        assert_eq!(link.ended().await.code(), Some(0));
        assert!(!link.log().contains("TRACE") && !link.log().contains("DEBUG"));
        hellos.push(pairs);
    }
    assert_eq!(hellos[0], hellos[1]);
}

#[tokio::test]
async fn turns_of_the_spine_are_told_in_order_with_messages() {
    let mut spine = Spine::start().await;
    let tenant = spine.tenant("acme").await;
    let mut link = Link::start(&spine, "brain-1").await;
    let session = SessionId::new();
    for round in 0..3 {
        let shield = fleet(&spine, &tenant, "shield-1").await;
        let sent = 200;
        for seq in 1..=sent {
            let change = change(seq, entry("lobby", "alice", session, seq));
            publish(&shield, subjects::PRESENCE_CHANGE, &change).await;
        }
        // The last one has gone through the server when it has come.
        let mut seen = 0;
        while seen < sent {
            let event = link.next("changes").await;
            seen += 1;
            assert_eq!(event[4].int(), seen, "round {round}");
        }
        spine.kill();
        let mut down = Vec::new();
        while down.len() < 2 {
            let event = link.event().await;
            if event.is("spine") {
                assert!(event[2] == "down", "{event:?}");
                down.push(event);
            }
        }
        assert_ne!(down[0], down[1]);
        // Nothing is kept for a Spine that is away; its credit comes back.
        link.send(
            77,
            &[command(3, "ask", |term| {
                crate::common::text(term, "shield-1");
                term.uint(7);
            })],
        );
        assert_eq!(link.other("credit").await, 77);
        spine.restart();
        let mut up = Vec::new();
        while up.len() < 2 {
            let event = link.event().await;
            if event.is("spine") {
                assert!(event[2] == "up", "{event:?}");
                up.push(event);
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_a_break_too() {
    let spine = Spine::start().await;
    let tenant = spine.tenant("acme").await;
    let mut link = Link::start(&spine, "brain-1").await;
    let shield = fleet(&spine, &tenant, "shield-1").await;
    let session = SessionId::new();
    for seq in 1..=2 {
        spine.freeze().await;
        for _ in 0..2 {
            let event = link.event().await;
            assert!(event.is("spine") && event[2] == "down", "{event:?}");
        }
        spine.thaw();
        link.connected().await;
        let change = change(seq, entry("lobby", "alice", session, seq));
        publish(&shield, subjects::PRESENCE_CHANGE, &change).await;
        assert_eq!(link.event().await[4].int(), seq);
    }
    // The client itself would have noticed too, but only after 15 s.
    assert!(link.log().matches("the server does not answer").count() >= 2);
}

#[tokio::test]
async fn a_ping_is_answered_whatever_nats_does() {
    let spine = Spine::start().await;
    let tenant = spine.tenant("acme").await;
    let mut link = Link::start(&spine, "brain-1").await;
    spine.freeze().await;
    // More than a socket and the queues before it hold.
    let account = &*tenant.account;
    let events = command(6, "events", |term| {
        crate::common::text(term, account);
        term.nil();
        term.nil();
        let rooms: Vec<String> = (0..2000).map(|n| format!("room-{n:060}")).collect();
        term.each(&rooms, |term, room| {
            term.tuple(7);
            crate::common::text(term, room);
            (1..=3).for_each(|n| term.uint(n));
            term.bool(false);
            term.nil();
            term.nil();
        });
        term.nil();
    });
    for _ in 0..200 {
        link.send(1, std::slice::from_ref(&events));
    }
    link.number("ping", 5);
    assert_eq!(link.other("pong").await, 5);
    spine.thaw();
    let mut back = 0;
    while back < 200 {
        back += link.other("credit").await;
    }
    assert_eq!(back, 200);
}

#[tokio::test]
async fn it_ends_with_standard_input_and_what_was_said_is_sent() {
    let spine = Spine::start().await;
    let mut watcher = Link::start(&spine, "brain-2").await;
    let mut link = Link::start(&spine, "brain-1").await;
    // Whoever stops all of a service at once does not take the wire from Brain.
    link.signal(Signal::TERM);
    link.signal(Signal::INT);
    link.number("ping", 1);
    assert_eq!(link.other("pong").await, 1);
    link.send(
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
    link.close();
    assert_eq!(link.ended().await.code(), Some(0));
    let goodbye = watcher.next("brain").await;
    assert!(goodbye[1] == "brain-1" && goodbye[5] == "true");
}

#[tokio::test]
async fn it_ends_when_nobody_reads_its_output() {
    let spine = Spine::start().await;
    let path = manifest(&spine, "brain-1");
    let mut link = Link::spawn(&spine, "brain-1", program(&path));
    link.drop_output();
    link.number("ping", 1);
    assert_eq!(link.ended().await.code(), Some(1));
    assert!(link.log().contains("standard output"), "{}", link.log());
}

#[tokio::test]
async fn a_frame_that_is_none_of_brains_ends_it() {
    let spine = Spine::start().await;
    let unknown = {
        let mut term = arqon_brain_link::etf::Writer::term();
        term.tagged(2, "shutdown");
        term.bool(true);
        let bytes = term.finish();
        [
            &u32::try_from(bytes.len()).unwrap().to_be_bytes()[..],
            &bytes,
        ]
        .concat()
    };
    let cases: [(&[u8], &str); 5] = [
        (&unknown, "shutdown/2"),
        (&[0, 0, 0, 2, 131, 106], "a tuple expected"),
        (&[0, 0, 0, 0], "cut short"),
        (&[255, 255, 255, 255], "4294967295 bytes"),
        (&[0, 0, 0, 9, 131, 104], "within a frame"),
    ];
    for (bytes, told) in cases {
        let path = manifest(&spine, "brain-1");
        let mut link = Link::spawn(&spine, "brain-1", program(&path));
        link.read();
        link.hello().await;
        link.write(bytes);
        link.close();
        assert_eq!(link.ended().await.code(), Some(1), "{told}");
        assert!(link.log().contains(told), "{told} is not in {}", link.log());
    }
}
