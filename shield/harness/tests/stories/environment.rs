//! The program as a process: no environment variable changes it, a bad
//! manifest is reported whole, a signal drains it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use arqon_client::ConnectParams;
use arqon_harness::{
    Client, Program, Spine, TestTenant, eventually, free_addr, http, metric_at, shield_program,
    within,
};
use arqon_proto::v1::Opcode;

/// What libraries and programs like to obey.
const HOSTILE: [(&str, &str); 22] = [
    ("RUST_LOG", "trace"),
    ("RUST_BACKTRACE", "full"),
    ("RUST_LOG_STYLE", "always"),
    ("NO_COLOR", ""),
    ("CLICOLOR_FORCE", "1"),
    ("OTEL_SDK_DISABLED", "false"),
    ("OTEL_SERVICE_NAME", "hostile"),
    ("OTEL_LOG_LEVEL", "debug"),
    ("OTEL_TRACES_EXPORTER", "otlp"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
    ("OTEL_RESOURCE_ATTRIBUTES", "hostile=1"),
    ("ARQON_CONFIG", "/nonexistent/config.toml"),
    ("ARQON_NODE_ID", "hostile"),
    ("ARQON_LISTEN_PUBLIC", "127.0.0.1:9"),
    ("ARQON_LOG_LEVEL", "trace"),
    ("ARQON_SPINE_SERVERS", "nats://127.0.0.1:9"),
    ("NATS_URL", "nats://127.0.0.1:9"),
    ("NATS_CREDS", "/nonexistent.creds"),
    ("HTTP_PROXY", "http://127.0.0.1:9"),
    ("HTTPS_PROXY", "http://127.0.0.1:9"),
    ("ALL_PROXY", "socks5://127.0.0.1:9"),
    ("TOKIO_WORKER_THREADS", "0"),
];

/// What is the same whatever the time, the ports and the order of tasks.
fn essence(log: &str) -> Vec<String> {
    let mut lines: Vec<String> = log
        .lines()
        .map(|line| {
            let record: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|_| panic!("JSON log: {line}"));
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let message = [&record["fields"]["message"], &record["message"]]
                .map(text)
                .concat();
            format!("{} {message}", text(&record["level"]))
        })
        .collect();
    lines.sort();
    lines
}

async fn say_something(addr: SocketAddr, tenant: &TestTenant) -> Client {
    let params = ConnectParams::new(format!("ws://{addr}"), tenant.token().sign());
    let mut client = Client::connect(params).await.unwrap();
    client.join("lobby").await;
    client.publish("lobby", "secret words").await;
    client.hears("lobby", "secret words").await;
    client
}

/// Runs a Shield with these variables through one session and a drain; its log.
async fn run(spine: &Spine, tenant: &TestTenant, variables: &[(&str, &str)]) -> String {
    let (public, admin) = (free_addr(), free_addr());
    let manifest = spine
        .shield()
        .with(&format!(
            "listen.public = \"{public}\"\nlisten.admin = \"{admin}\"\nlog.format = \"json\"\n\
             drain.timeout_secs = 1"
        ))
        .write();
    let log = spine.folder().join("shield.log");
    let mut program = Program::start(
        Command::new(shield_program())
            .arg("--config")
            .arg(&manifest)
            .envs(variables.iter().copied()),
        &log,
    );
    eventually!(
        http::get(public, "/readyz", &[])
            .await
            .is_ok_and(|answer| answer.status == 200),
        "{}",
        program.log()
    );
    let mut client = say_something(public, tenant).await;
    assert_eq!(client.welcome.shield_id, "shield-1");
    assert_eq!(metric_at(admin, "sessions", "").await, 1.0);

    program.terminate();
    client.expect(Opcode::Goaway).await;
    let (code, _) = client.closed().await;
    assert_eq!(code, Some(4001));
    let status = program.wait().await;
    assert_eq!(status.code(), Some(0), "{}", program.log());
    program.log()
}

#[tokio::test]
async fn no_environment_variable_changes_shield() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let plain = run(&spine, &acme, &[]).await;
    let hostile = run(&spine, &acme, &HOSTILE).await;
    assert_eq!(essence(&plain), essence(&hostile));
    assert!(!plain.is_empty());
    for log in [&plain, &hostile] {
        assert!(!log.contains("secret words"), "a payload in the log: {log}");
        assert!(!log.contains("eyJ"), "a token in the log: {log}");
        assert!(
            !log.contains("\"level\":\"DEBUG\"") && !log.contains("TRACE"),
            "{log}"
        );
    }
}

fn fails(folder: &Path, manifest: &str) -> (Option<i32>, String) {
    let path = folder.join("bad.toml");
    std::fs::write(&path, manifest).unwrap();
    let output = Command::new(shield_program())
        .arg("--config")
        .arg(&path)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn five_mistakes_in_a_manifest_are_five_problems_and_no_open_port() {
    let folder = tempfile::tempdir().unwrap();
    let (public, admin) = (free_addr(), free_addr());
    // Held by us: one who opened them would fail on that instead.
    let _held = (
        TcpListener::bind(public).unwrap(),
        TcpListener::bind(admin).unwrap(),
    );
    let (code, text) = fails(
        folder.path(),
        &format!(
            "[node]\nid = \"Shield One\"\n\
             [listen]\npublic = \"{public}\"\nadmin = \"{admin}\"\n\
             [spine]\nservers = [\"http://127.0.0.1\"]\n\
             control_creds_file = \"missing.creds\"\nfleet_key_file = \"/dev/null\"\n\
             [session]\nmax_rooms = 0\n\
             [sesion]\nheartbeat_secs = 3\n"
        ),
    );
    assert_eq!(code, Some(64), "{text}");
    let keys = [
        "node.id",
        "spine.servers",
        "spine.control_creds_file",
        "session.max_rooms",
        "sesion",
    ];
    for key in keys {
        assert!(text.contains(key), "{key} is not in:\n{text}");
    }
    let problems = text.lines().filter(|line| line.starts_with("  ")).count();
    assert!(
        problems == 5 || problems == 6,
        "{problems} problems:\n{text}"
    );
    assert!(
        text.contains("session"),
        "a misspelt section is told the right one:\n{text}"
    );

    let (code, text) = fails(folder.path(), "this is no TOML");
    assert_eq!(code, Some(64), "{text}");
    let missing = Command::new(shield_program())
        .args(["--config", "/nonexistent/config.toml"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(64), "{missing:?}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_nothing_is_left_running() {
    let spine = Spine::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let manifest = spine
        .shield()
        .with(&format!("listen.public = \"{addr}\""))
        .write();
    let log = spine.folder().join("shield.log");
    let mut program = Program::start(
        Command::new(shield_program()).arg("--config").arg(manifest),
        &log,
    );
    let status = program.wait().await;
    assert_eq!(status.code(), Some(1), "{}", program.log());
    assert!(
        program.log().contains(&addr.to_string()),
        "{}",
        program.log()
    );
}

#[tokio::test]
async fn a_shield_waits_for_its_spine_and_is_not_ready_before() {
    let mut spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    spine.kill();
    let (public, admin) = (free_addr(), free_addr());
    let manifest = spine
        .shield()
        .with(&format!(
            "listen.public = \"{public}\"\nlisten.admin = \"{admin}\""
        ))
        .write();
    let log = spine.folder().join("shield.log");
    let _program = Program::start(
        Command::new(shield_program()).arg("--config").arg(manifest),
        &log,
    );
    eventually!(http::get(public, "/healthz", &[]).await.is_ok());
    let answer = within("an answer", http::get(public, "/readyz", &[]))
        .await
        .unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    let authorization = format!("Authorization: Bearer {}", acme.token().sign());
    let refused = arqon_harness::RawPeer::ask(public, "/v1/socket", &[&authorization]).await;
    let answer = refused.err().unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains("NOT_READY"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");

    spine.restart();
    eventually!(
        http::get(public, "/readyz", &[])
            .await
            .is_ok_and(|answer| answer.status == 200)
    );
    say_something(public, &acme).await.ping().await;
}

#[tokio::test]
async fn an_order_to_drain_ends_the_program_as_a_signal_does() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let (public, admin) = (free_addr(), free_addr());
    let manifest = spine
        .shield()
        .with(&format!(
            "listen.public = \"{public}\"\nlisten.admin = \"{admin}\"\ndrain.timeout_secs = 1"
        ))
        .write();
    let log = spine.folder().join("shield.log");
    let mut program = Program::start(
        Command::new(shield_program()).arg("--config").arg(manifest),
        &log,
    );
    eventually!(
        http::get(public, "/readyz", &[])
            .await
            .is_ok_and(|answer| answer.status == 200)
    );
    let mut client = say_something(public, &acme).await;
    let drain = arqon_proto::v1::control::Order::Drain(arqon_proto::v1::Drain {});
    spine.order(Some("shield-1"), drain).await;
    client.expect(Opcode::Goaway).await;
    assert_eq!(client.closed().await.0, Some(4001));
    assert_eq!(program.wait().await.code(), Some(0), "{}", program.log());
}
