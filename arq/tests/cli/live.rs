//! Commands against a real nats-server and Shield.

use std::process::Stdio;

use serde_json::json;

use crate::common::{Bus, Folder, free_port, runs, signal_pid, until};

#[test]
fn the_first_minutes() {
    let mut bus = Bus::start();
    assert_eq!(bus.ready["tenants"], json!(["acme", "globex"]));

    // Heard within the tenant, silent across; the control message proves the other one listens.
    let alice = bus.hear(&["lobby", "--user", "alice"]);
    let carol = bus.hear(&["lobby", "--tenant", "globex", "--user", "carol"]);
    bus.arq(&["pub", "lobby", "to acme", "--user", "bob"]).ok();
    alice.hears("to acme");
    bus.arq(&["pub", "lobby", "to globex", "--tenant", "globex"])
        .ok();
    carol.hears("to globex");
    assert_eq!(alice.count("MESSAGE"), 1);
    assert_eq!(carol.count("MESSAGE"), 1);
    let heard = &alice.frames("MESSAGE")[0];
    assert_eq!(heard["user"], "bob");
    assert!(
        heard["headers"]["X-Timestamp"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );

    let acknowledged = bus.arq(&["pub", "lobby", "acknowledged", "--ack"]).ok();
    alice.hears("acknowledged");
    let last = alice.frames("MESSAGE").pop().unwrap();
    assert_eq!(last["headers"]["X-Twist-ID"], acknowledged.out.trim());

    // Counted by the Shield's next report.
    until("the sessions are counted", || {
        bus.arq(&["--json", "status"]).json()["sessions"].as_u64() >= Some(2)
    });
    let status = bus.arq(&["--json", "status"]).ok().json();
    assert_eq!(status["healthy"], true);
    assert_eq!(status["shields"][0]["id"], "shield-1");
    assert!(
        status["nats"][0]["version"]
            .as_str()
            .unwrap()
            .starts_with("2.")
    );
    let acme = &status["tenants"][0];
    assert_eq!(
        (&acme["id"], &acme["sessions"], &acme["rooms"]),
        (&json!("acme"), &json!(1), &json!(1))
    );
    let shown = bus.arq(&["status"]).ok();
    assert!(
        shown
            .out
            .starts_with("ArqonBus is healthy: 2 sessions in 2 rooms on 1 of 1 Shields ready"),
        "{}",
        shown.out
    );
    drop(carol);

    let doctor = bus.arq(&["doctor"]).ok();
    assert!(doctor.out.contains("every hop is well"), "{}", doctor.out);
    assert!(!doctor.out.contains("skipped"), "{}", doctor.out);

    let again = bus.arq(&["dev", "up"]).ok();
    assert!(again.err.contains("already runs"), "{}", again.err);
    assert!(bus.arq(&["dev", "status"]).ok().out.contains("shield"));
    let raw = bus.arq(&["sub", "lobby", "--raw", "--for", "1s"]).ok();
    for frame in ["WELCOME", "JOINED"] {
        assert!(raw.out.contains(frame), "{frame}: {}", raw.out);
    }

    bus.arq(&["dev", "down"]).ok();
    assert_eq!(bus.child.wait().unwrap().code(), Some(0));
    assert_eq!(alice.count("GOAWAY"), 1, "whoever is there is told");
    assert_eq!(bus.arq(&["dev", "status"]).code, 1);
}

#[test]
fn what_is_piped_in_comes_out() {
    let bus = Bus::start();
    let listener = bus.hear(&["logs.app", "--count", "3"]);
    let lines = bus
        .folder
        .arq_with_input(&["pub", "logs.app", "-", "--lines"], "one\ntwo\n\nfour\n");
    lines.ok();
    let (code, said) = listener.wait();
    assert_eq!(code, 0, "{said}");

    let listener = bus.hear(&["logs.app"]);
    bus.folder
        .arq_with_input(&["pub", "logs.app", "-"], "whole\ntext\n")
        .ok();
    listener.hears("whole\ntext\n");
    let none = bus.arq(&["sub", "quiet", "--count", "1", "--for", "1s"]);
    assert_eq!(none.code, 1);
    assert!(
        none.err.contains("heard 0 of 1 messages in time"),
        "{}",
        none.err
    );
}

#[test]
fn refusals_are_explained() {
    let bus = Bus::start();
    let stranger = Folder::new();
    let expired = bus.arq(&["auth", "gen", "--ttl", "-5m"]).ok().out;
    let wrong_key = stranger.arq(&["auth", "gen"]).ok().out;
    let unknown = bus.arq(&["auth", "gen", "--tenant", "nobody"]).ok().out;
    for (code, token) in [
        ("TOKEN_EXPIRED", expired.trim()),
        ("TOKEN_UNTRUSTED", wrong_key.trim()),
        ("TOKEN_UNTRUSTED", unknown.trim()),
        ("TOKEN_MALFORMED", "nonsense"),
    ] {
        let answer = bus.arq(&["sub", "lobby", "--token", token]);
        assert_eq!(answer.code, 1, "{code}: {answer:?}");
        assert!(
            answer
                .err
                .contains(&format!("refused the connection: {code} (HTTP 401)")),
            "{answer:?}"
        );
        assert!(answer.err.contains("\nhint: "), "{answer:?}");
        assert_eq!(answer.out, "");
    }
    let missing = bus.arq(&["sub", "lobby", "--no-token"]);
    assert!(missing.err.contains("TOKEN_MISSING"), "{missing:?}");

    let observer = bus.arq(&["auth", "gen", "--role", "observer"]).ok().out;
    let refused = bus.arq(&["pub", "lobby", "hi", "--token", observer.trim()]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.err.contains("arq: 3005 PUBLISH_FORBIDDEN"),
        "{refused:?}"
    );
    let narrow = bus.arq(&["auth", "gen", "--join", "team.*"]).ok().out;
    let refused = bus.arq(&["sub", "lobby", "--token", narrow.trim()]);
    assert!(
        refused.err.contains("arq: 3004 JOIN_FORBIDDEN"),
        "{refused:?}"
    );
}

#[test]
fn a_tenant_is_made_suspended_resumed_and_deleted() {
    let bus = Bus::start();
    let made = bus
        .arq(&[
            "--json",
            "tenant",
            "create",
            "initech",
            "--max-rooms-per-session",
            "5",
        ])
        .ok()
        .json();
    assert_eq!(made["existed"], false);
    assert_eq!(made["limits"]["max_rooms_per_session"], 5);
    assert_eq!(
        made["issuers"][0]["development"], true,
        "a development context trusts its own key"
    );
    let again = bus
        .arq(&["--json", "tenant", "create", "initech"])
        .ok()
        .json();
    assert_eq!(again["existed"], true);
    assert_eq!(again["account"], made["account"]);
    bus.folder
        .until_ok(&["pub", "lobby", "hi", "--tenant", "initech"]);

    assert_eq!(
        bus.arq(&["tenant", "list", "--names"]).ok().out,
        "acme\nglobex\ninitech\n"
    );
    assert!(bus.arq(&["tenant", "list"]).ok().out.starts_with("TENANT "));
    assert!(
        bus.arq(&["tenant", "show", "initech"])
            .ok()
            .out
            .contains("initech.>")
    );

    let listener = bus.hear(&["lobby", "--tenant", "initech"]);
    bus.arq(&["tenant", "suspend", "initech"]).ok();
    let (code, said) = listener.wait();
    assert_eq!(code, 1);
    assert!(said.contains("TENANT_GONE"), "{said}");
    until("its sessions are refused", || {
        bus.arq(&["sub", "lobby", "--tenant", "initech", "--for", "1s"])
            .err
            .contains("TENANT_SUSPENDED")
    });
    assert_eq!(
        bus.arq(&["--json", "tenant", "show", "initech"]).json()["state"],
        "suspended"
    );
    bus.arq(&["tenant", "resume", "initech"]).ok();
    bus.folder
        .until_ok(&["pub", "lobby", "hi", "--tenant", "initech"]);

    let asked = bus.arq(&["tenant", "delete", "initech"]);
    assert_eq!(asked.code, 1, "without a terminal the answer is no");
    assert!(asked.err.contains("hint: --force"), "{asked:?}");
    bus.arq(&["tenant", "delete", "initech", "--force"]).ok();
    assert_eq!(
        bus.arq(&["tenant", "list", "--names"]).ok().out,
        "acme\nglobex\n"
    );
    let gone = bus.arq(&["tenant", "show", "initech"]);
    assert_eq!(gone.code, 1);
    assert!(
        gone.err
            .contains("arq: there is no tenant `initech`\nhint: `arq tenant list`"),
        "{gone:?}"
    );

    let nowhere = bus.arq(&["tenant", "create", "hooli", "--pool", "nowhere"]);
    assert_eq!(nowhere.code, 1);
    assert!(
        nowhere.err.contains("there is no pool `nowhere`"),
        "{nowhere:?}"
    );
    for id in ["Bad", ">", "control", "a.b"] {
        assert_eq!(bus.arq(&["tenant", "create", id]).code, 2, "{id}");
    }
}

#[test]
fn issuers_are_added_and_removed() {
    let bus = Bus::start();
    let jwks = "https://id.example/jwks.json";
    let added = bus
        .arq(&[
            "--json",
            "tenant",
            "issuers",
            "acme",
            "--add",
            "https://id.example",
            "--jwks",
            jwks,
            "--audience",
            "app",
        ])
        .ok()
        .json();
    assert_eq!(added[1]["iss"], "https://id.example");
    assert_eq!(added[1]["keys"]["jwks_url"], jwks);
    assert_eq!(added[1]["audiences"], json!(["app"]));
    assert!(
        bus.arq(&["tenant", "issuers", "acme"])
            .ok()
            .out
            .contains(jwks)
    );
    bus.arq(&["tenant", "issuers", "acme", "--remove", "arqon-development"])
        .ok();
    until("the development key is no longer trusted", || {
        bus.arq(&["sub", "lobby", "--for", "1s"])
            .err
            .contains("TOKEN_UNTRUSTED")
    });
    bus.arq(&["tenant", "issuers", "acme", "--add-development"])
        .ok();
    bus.folder.until_ok(&["pub", "lobby", "hi"]);
    let unknown = bus.arq(&["tenant", "issuers", "acme", "--remove", "nobody"]);
    assert!(
        unknown.err.contains("does not trust `nobody`"),
        "{unknown:?}"
    );

    // A key of one's own, by its public half.
    let other = Folder::new();
    other.arq(&["auth", "gen"]).ok();
    let kid = other.arq(&["auth", "jwks"]).json()["keys"][0]["kid"]
        .as_str()
        .unwrap()
        .to_owned();
    let public = other.state().join("dev/token-key.pub.pem");
    let arguments = [
        "tenant",
        "issuers",
        "acme",
        "--add",
        "mine",
        "--kid",
        &kid,
        "--pem",
        public.to_str().unwrap(),
    ];
    bus.arq(&arguments).ok();
    let token = other.arq(&["auth", "gen", "--issuer", "mine"]).ok().out;
    bus.folder
        .until_ok(&["pub", "lobby", "hi", "--token", token.trim()]);
    let private = other.state().join("dev/token-key.pem");
    let arguments = [
        "tenant",
        "issuers",
        "acme",
        "--add",
        "mine",
        "--kid",
        "k",
        "--pem",
        private.to_str().unwrap(),
    ];
    assert_eq!(
        bus.arq(&arguments).code,
        1,
        "a private key is no public key"
    );
}

#[test]
fn credentials_for_debugging_read_one_tenant_only() {
    use std::os::unix::fs::PermissionsExt;
    let bus = Bus::start();
    let file = bus.folder.path().join("acme.creds");
    let made = bus.arq(&["tenant", "creds", "acme", "--ttl", "5m"]).ok();
    assert_eq!(made.out.trim(), "acme.creds");
    assert!(made.err.contains("nats --server "), "{}", made.err);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let server = bus.ready["nats"][0].as_str().unwrap().to_owned();

    // As any NATS program would use the file.
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        use arqon_spine::nats;
        use futures_util::StreamExt;
        let (events, mut refused) = tokio::sync::mpsc::unbounded_channel();
        let client = nats::ConnectOptions::with_credentials_file(&file)
            .await
            .unwrap()
            .event_callback(move |event| {
                let events = events.clone();
                async move {
                    let _ = events.send(event.to_string());
                }
            })
            .connect(&server)
            .await
            .unwrap();
        let mut tap = client.subscribe("acme.>").await.unwrap();
        client.flush().await.unwrap();
        let message = loop {
            bus.arq(&["pub", "lobby", "seen from NATS"]).ok();
            // The subscription may come after the first message.
            let wait = std::time::Duration::from_millis(500);
            if let Ok(message) = tokio::time::timeout(wait, tap.next()).await {
                break message.unwrap();
            }
        };
        assert_eq!(message.subject.as_str(), "acme.lobby");
        let frame = arqon_proto::envelope::decode_server(message.payload).unwrap();
        assert_eq!(frame.payload, "seen from NATS");

        client.publish("acme.lobby", "forged".into()).await.unwrap();
        let other = client.subscribe("globex.>").await.unwrap();
        client.flush().await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let event = tokio::time::timeout(crate::common::PATIENCE, refused.recv())
                .await
                .unwrap()
                .unwrap();
            if event.to_lowercase().contains("permissions violation") {
                seen.push(event.to_lowercase());
            }
        }
        assert!(seen[0].contains("publish to \"acme.lobby\""), "{seen:?}");
        assert!(seen[1].contains("subscription to \"globex.>\""), "{seen:?}");
        drop(other);
    });

    let written = bus
        .arq(&[
            "--json", "tenant", "creds", "acme", "--write", "--ttl", "5m",
        ])
        .ok();
    assert!(written.err.contains("warning: "), "{}", written.err);
    assert_eq!(written.json()["file"], "acme-write.creds");
    let audit = std::fs::read_to_string(bus.folder.state().join("spine/audit.log")).unwrap();
    let last: serde_json::Value = serde_json::from_str(audit.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["tenant"], &last["write"]),
        (&json!("acme"), &json!(true))
    );
    assert_eq!(bus.arq(&["tenant", "creds", "nobody"]).code, 1);
    assert_eq!(
        bus.arq(&["tenant", "creds", "acme", "--ttl", "30d"]).code,
        2
    );
}

#[test]
fn a_fleet_key_is_replaced_while_people_talk() {
    let bus = Bus::start();
    let before = bus.arq(&["--json", "pool", "list"]).ok().json();
    let listener = bus.hear(&["lobby"]);
    bus.arq(&["pub", "lobby", "before"]).ok();
    let rotated = bus.arq(&["--json", "pool", "rotate-key", "default"]).ok();
    assert!(
        rotated.err.contains("shield-1 signs with the new key"),
        "{}",
        rotated.err
    );
    assert_eq!(rotated.json()["fleet_keys"].as_array().unwrap().len(), 1);
    assert_ne!(rotated.json()["fleet_keys"], before[0]["fleet_keys"]);
    bus.arq(&["pub", "lobby", "after"]).ok();
    listener.hears("after");
    assert_eq!(listener.count("MESSAGE"), 2);
    assert_eq!(listener.count("GAP"), 0);
    let other = bus.arq(&["--json", "pool", "create", "spare"]).ok().json();
    assert_eq!(other["existed"], false);
    assert_eq!(
        bus.arq(&["--json", "pool", "create", "spare"]).ok().json()["existed"],
        true
    );
    assert!(bus.arq(&["pool", "list"]).ok().out.contains("spare"));
    assert_eq!(bus.arq(&["pool", "rotate-key", "nowhere"]).code, 1);
}

#[test]
fn an_operator_sets_up_a_server_by_hand() {
    struct Server(std::process::Child);
    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let folder = Folder::new();
    folder.arq(&["spine", "init"]).ok();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let store = folder.path().join("store");
    let config = folder.path().join("nats.conf");
    let (store, config) = (store.to_str().unwrap(), config.to_str().unwrap());
    folder
        .arq(&[
            "spine", "config", "--listen", &listen, "--store", store, "--out", config,
        ])
        .ok();
    let context = folder.state().join("context.toml");
    let text = std::fs::read_to_string(&context).unwrap();
    std::fs::write(&context, text.replace(":4222", &format!(":{port}"))).unwrap();
    let down = folder.arq(&["tenant", "list"]);
    assert_eq!(down.code, 1);
    assert!(
        down.err
            .contains(&format!("arq: cannot reach NATS at nats://{listen}")),
        "{down:?}"
    );

    let server = arqon_spine::server::find().unwrap();
    let _server = Server(
        std::process::Command::new(server.path)
            .args(["-c", config])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    until("nats-server listens", || {
        std::net::TcpStream::connect(&listen).is_ok()
    });
    let fresh = folder.arq(&["tenant", "list"]);
    assert_eq!(fresh.code, 1);
    assert!(
        fresh
            .err
            .contains("hint: is this server new? `arq pool create"),
        "{fresh:?}"
    );
    folder.until_ok(&["pool", "create", "main"]);
    let bare = folder
        .arq(&["tenant", "create", "acme", "--pool", "main"])
        .ok();
    assert!(
        bare.err.contains("trusts no issuer of tokens yet"),
        "{bare:?}"
    );
    let jwks = "https://id.example/keys";
    let made = folder
        .arq(&[
            "--json", "tenant", "create", "globex", "--pool", "main", "--issuer", "id", "--jwks",
            jwks,
        ])
        .ok()
        .json();
    assert_eq!(made["issuers"][0]["keys"]["jwks_url"], jwks);
    assert_eq!(made["issuers"][0]["development"], false);
    let status = folder.arq(&["status"]);
    assert_eq!(status.code, 1);
    assert!(
        status
            .out
            .contains("problem: no Shield of pool main is ready"),
        "{}",
        status.out
    );
}

#[test]
fn a_taken_port_names_its_holder() {
    let folder = Folder::new();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port().to_string();
    let answer = folder.arq(&[
        "dev",
        "up",
        "--native",
        "--port-base",
        "0",
        "--shield-port",
        &port,
    ]);
    assert_eq!(answer.code, 1, "{answer:?}");
    let wanted = format!("arq: port {port} for Shield is taken by ");
    assert!(answer.err.contains(&wanted), "{answer:?}");
    assert!(
        answer
            .err
            .contains(&format!("(pid {})", std::process::id())),
        "{answer:?}"
    );
    assert!(
        answer.err.contains("hint: ") && answer.err.contains("--port-base"),
        "{answer:?}"
    );
}

#[test]
fn the_death_of_a_part_stops_everything_and_names_it() {
    let mut bus = Bus::start();
    let (nats, shield) = (bus.part("nats"), bus.part("shield"));
    signal_pid(shield, "KILL");
    assert_eq!(bus.child.wait().unwrap().code(), Some(1));
    let said = std::fs::read_to_string(bus.folder.path().join("up.err")).unwrap();
    assert!(
        said.contains("arq: shield ended by itself (signal 9)"),
        "{said}"
    );
    assert!(said.contains("shield.log"), "{said}");
    until("nats-server is stopped too", || !runs(nats));
}

#[test]
fn after_a_crash_it_comes_up_as_it_was() {
    let mut bus = Bus::start();
    bus.arq(&["tenant", "create", "initech"]).ok();
    bus.arq(&["tenant", "delete", "globex", "--force"]).ok();
    let (nats, shield) = (bus.part("nats"), bus.part("shield"));
    bus.end("KILL");
    // Its children outlive it; the next start on the same ports stops them first.
    let url = bus.ready["shield_url"].clone();
    let Bus { folder, .. } = &bus;
    let arguments = ["dev", "up", "--native", "--quiet", "--json", "--no-brain"];
    let log = std::fs::File::create(folder.path().join("again.err")).unwrap();
    let mut child = folder
        .command(&arguments)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    until("it is up again", || {
        let status = folder.arq(&["--json", "dev", "status"]);
        status.code == 0 && folder.arq(&["sub", "lobby", "--for", "1s"]).code == 0
    });
    for pid in [nats, shield] {
        assert!(!runs(pid), "an old part still runs");
    }
    let said = std::fs::read_to_string(folder.path().join("again.err")).unwrap();
    assert!(
        said.contains("stopped 2 processes that an earlier"),
        "{said}"
    );
    assert_eq!(
        folder.arq(&["--json", "dev", "status"]).json()["shield_url"],
        url
    );
    assert_eq!(
        folder.arq(&["tenant", "list", "--names"]).ok().out,
        "acme\ninitech\n"
    );
    folder.until_ok(&["pub", "lobby", "hi", "--tenant", "initech"]);
    crate::common::signal(&child, "INT");
    assert_eq!(
        child.wait().unwrap().code(),
        Some(0),
        "Ctrl-C is a good end"
    );
}

#[test]
fn receivers_of_telemetry_are_kept_until_others_are_named() {
    // Nobody is there, which is no error.
    let asked = [
        "--otlp-traces",
        "http://127.0.0.1:9",
        "--otlp-metrics",
        "http://127.0.0.1:9/api/v1/otlp/v1/metrics",
    ];
    let free = ["--port-base", "0", "--no-brain"];
    let mut bus = Bus::start_in(Folder::new(), &[&free[..], &asked].concat());
    let telemetry = |folder: &Folder| {
        let text = std::fs::read_to_string(folder.state().join("config.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        manifest["telemetry"].as_table().unwrap().clone()
    };
    let first = telemetry(&bus.folder);
    assert_eq!(first["traces_endpoint"].as_str(), Some(asked[1]));
    assert_eq!(first["traces_protocol"].as_str(), Some("grpc"));
    assert_eq!(first["metrics_endpoint"].as_str(), Some(asked[3]));
    assert_eq!(first["metrics_protocol"].as_str(), Some("http"));
    let status = bus.arq(&["--json", "dev", "status"]).json();
    assert_eq!(status["nats_monitor"], bus.ready["nats_monitor"]);
    let monitor = status["nats_monitor"].as_str().unwrap();
    let address = monitor.strip_prefix("http://").unwrap();
    assert!(std::net::TcpStream::connect(address).is_ok());
    assert!(bus.arq(&["dev", "status"]).ok().out.contains(monitor));

    assert_eq!(bus.end("TERM"), Some(0));
    let folder = std::mem::replace(&mut bus.folder, Folder::new());
    let mut bus = Bus::start_in(folder, &["--no-brain"]);
    assert_eq!(telemetry(&bus.folder), first);
    assert_eq!(bus.end("TERM"), Some(0));
    let folder = std::mem::replace(&mut bus.folder, Folder::new());
    let bus = Bus::start_in(folder, &["--no-brain", "--otlp-traces", "off"]);
    let without = telemetry(&bus.folder);
    assert!(!without.contains_key("traces_endpoint"));
    assert_eq!(without["metrics_endpoint"], first["metrics_endpoint"]);
}

#[test]
fn a_reset_deletes_what_was_made() {
    let folder = Folder::new();
    folder.arq(&["spine", "init"]).ok();
    folder.arq(&["auth", "gen"]).ok();
    assert_eq!(
        folder.arq(&["dev", "reset"]).code,
        1,
        "without a terminal the answer is no"
    );
    assert!(folder.state().join("spine").exists());
    folder.arq(&["dev", "reset", "--force"]).ok();
    assert!(!folder.state().exists());
    let mut bus = Bus::start_in(folder, &["--port-base", "0", "--no-brain"]);
    bus.arq(&["dev", "reset", "--force"]).ok();
    assert_eq!(bus.child.wait().unwrap().code(), Some(0));
    assert!(!bus.folder.state().exists());
}

#[test]
fn the_status_tells_what_is_not_well() {
    let bus = Bus::start();
    bus.arq(&["pool", "create", "spare"]).ok();
    bus.arq(&["tenant", "create", "initech", "--pool", "spare"])
        .ok();
    let status = bus.arq(&["status"]);
    assert_eq!(status.code, 1);
    assert!(
        status
            .out
            .contains("problem: no Shield of pool spare is ready"),
        "{}",
        status.out
    );
    let json = bus.arq(&["--json", "status"]);
    assert_eq!(json.code, 1);
    assert_eq!(json.json()["healthy"], false);
    bus.arq(&["tenant", "suspend", "acme"]).ok();
    let doctor = bus.arq(&["--json", "doctor"]);
    assert_eq!(doctor.json()["failed"], "tenant account");
    let elsewhere = bus.arq(&[
        "doctor",
        "--url",
        &format!("ws://127.0.0.1:{}", free_port()),
        "--tenant",
        "globex",
    ]);
    assert!(
        elsewhere
            .err
            .contains("the first hop that fails: Shield TCP"),
        "{elsewhere:?}"
    );
}
