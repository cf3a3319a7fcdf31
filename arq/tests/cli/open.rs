//! `arq dev open`: what its server gives to whom, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Answer, Bus, Folder, PATIENCE, free_port, signal};

/// A running `arq dev open --json`.
struct Console {
    child: Child,
    /// What it printed.
    ready: Value,
    port: u16,
    key: String,
}

/// An answer over HTTP.
#[derive(Debug)]
struct Heard {
    status: u16,
    head: String,
    body: String,
}

impl Heard {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Console {
    fn start(folder: &Folder, options: &[&str]) -> Self {
        let arguments = [&["--json", "dev", "open"], options].concat();
        // No desktop: whoever runs the tests wants no window.
        let mut child = folder
            .command(&arguments)
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY")
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).ok();
            panic!("{error}: {line:?} {said:?}")
        });
        let port = ready["port"].as_u64().unwrap().try_into().unwrap();
        let url = ready["url"].as_str().unwrap();
        let (address, key) = url.split_once("#key=").unwrap();
        assert_eq!(address, format!("http://127.0.0.1:{port}/"));
        let key = key.to_owned();
        Self {
            child,
            ready,
            port,
            key,
        }
    }

    /// A request as it stands; the connection is closed after it.
    fn raw(&self, request: &str) -> Heard {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        heard(&answer)
    }

    fn get(&self, path: &str, host: &str) -> Heard {
        self.raw(&format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ))
    }

    /// The page's own question, with some headers changed; an empty value leaves one out.
    fn ask(&self, what: &str, question: &Value, change: &[(&str, &str)]) -> Heard {
        let host = format!("127.0.0.1:{}", self.port);
        let origin = format!("http://{host}");
        let mut headers = vec![
            ("Host", host.as_str()),
            ("Origin", origin.as_str()),
            ("Content-Type", "application/json"),
            ("Arqon-Console-Key", self.key.as_str()),
        ];
        for (name, value) in change {
            headers.retain(|(usual, _)| usual != name);
            if !value.is_empty() {
                headers.push((name, value));
            }
        }
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let body = question.to_string();
        self.raw(&format!(
            "POST /api/{what} HTTP/1.1\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ))
    }

    /// Ends it by a signal: what it said, and its exit code.
    fn end(mut self, name: &str) -> Answer {
        signal(&self.child, name);
        let mut err = String::new();
        let mut said = self.child.stderr.take().unwrap();
        said.read_to_string(&mut err).unwrap();
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        Answer {
            code,
            out: String::new(),
            err,
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn heard(answer: &str) -> Heard {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Heard {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

#[test]
fn the_page_is_served_to_this_machine_with_its_policy() {
    let folder = Folder::new();
    let console = Console::start(&folder, &["--no-browser"]);
    let own = format!("127.0.0.1:{}", console.port);
    let page = console.get("/", &own);
    assert_eq!(page.status, 200);
    assert!(page.body.starts_with("<!DOCTYPE html>"));
    assert!(
        !page.body.contains(&console.key),
        "the page holds no secret"
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "{policy}"
    );
    assert!(
        policy.contains("connect-src 'self' ws://127.0.0.1:8080;"),
        "{policy}"
    );
    for (name, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("content-type", "text/html; charset=utf-8"),
    ] {
        assert_eq!(page.header(name), Some(value), "{name}");
    }
    let by_name = format!("localhost:{}", console.port);
    assert_eq!(console.get("/", &by_name).status, 200);
    assert_eq!(console.get("/other", &own).status, 404);
    assert_eq!(console.get("/api/session", &own).status, 405);

    // Other addresses of this machine are not listened on.
    assert!(TcpStream::connect(("127.0.0.2", console.port)).is_err());
}

#[test]
fn only_its_own_page_gets_a_token() {
    let folder = Folder::new();
    folder.arq(&["auth", "gen"]).ok();
    let console = Console::start(&folder, &["--no-browser"]);
    let question = json!({"tenant": "acme", "user": "ann"});
    let given = console.ask("token", &question, &[]);
    assert_eq!(given.status, 200, "{given:?}");
    assert_eq!(given.header("access-control-allow-origin"), None);
    let token = given.json()["token"].as_str().unwrap().to_owned();
    let shown = folder.arq_with_input(&["auth", "inspect"], &token);
    assert!(shown.out.contains("ann"), "{shown:?}");

    let port = console.port;
    let neighbour = format!("http://127.0.0.1:{}", port ^ 1);
    for (header, value, status) in [
        ("Host", "evil.example", 421),
        ("Origin", "https://evil.example", 403),
        ("Origin", neighbour.as_str(), 403),
        ("Origin", "null", 403),
        ("Origin", "", 403),
        ("Sec-Fetch-Site", "cross-site", 403),
        ("Arqon-Console-Key", "wrong", 403),
        ("Arqon-Console-Key", "", 403),
        ("Content-Type", "text/plain", 415),
    ] {
        let refused = console.ask("token", &question, &[(header, value)]);
        assert_eq!(refused.status, status, "{header}: {value}: {refused:?}");
        assert!(!refused.body.contains("eyJ"), "{refused:?}");
        assert!(refused.json()["hint"].is_string());
    }
    let preflight = console.raw(&format!(
        "OPTIONS /api/token HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: https://evil.example\r\n\
         Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: arqon-console-key\r\nConnection: close\r\n\r\n"
    ));
    assert_eq!(preflight.status, 405);
    assert!(!preflight.head.to_lowercase().contains("access-control"));

    let bad = console.ask("token", &json!({"tenant": "NOT ONE", "user": "ann"}), &[]);
    assert_eq!(bad.status, 400);
    assert!(bad.json()["error"].as_str().unwrap().contains("NOT ONE"));
    let unknown = console.ask(
        "token",
        &json!({"tenant": "acme", "user": "a", "ttl": 1}),
        &[],
    );
    assert_eq!(unknown.status, 400);
    let large = json!({"token": "x".repeat(100 * 1024)});
    assert_eq!(console.ask("refusal", &large, &[]).status, 413);

    // Nothing of it was told to the terminal, or to a log.
    let ended = console.end("TERM");
    assert_eq!(ended.code, 0);
    assert!(!ended.err.contains("eyJ"), "{ended:?}");
}

#[test]
fn another_user_of_the_machine_is_refused() {
    let folder = Folder::new();
    folder.arq(&["auth", "gen"]).ok();
    let console = Console::start(&folder, &["--no-browser"]);
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if !root {
        // Nobody else's connection can be made without root's rights; the unit tests of `peer`
        // read the kernel's table all the same.
        return;
    }
    let body = r#"{"tenant":"acme","user":"ann"}"#;
    let (port, key) = (console.port, &console.key);
    let request = format!(
        "POST /api/token HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n\
         Content-Type: application/json\r\nArqon-Console-Key: {key}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let as_user = |uid: u32| {
        use std::os::unix::process::CommandExt;
        let mut child = Command::new("bash")
            .args([
                "-c",
                &format!("exec 3<>/dev/tcp/127.0.0.1/{port}; cat >&3; cat <&3"),
            ])
            .uid(uid)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(request.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        heard(&String::from_utf8(output.stdout).unwrap())
    };
    let stranger = as_user(65_534);
    assert_eq!(stranger.status, 403, "{stranger:?}");
    assert!(stranger.body.contains("another user"), "{stranger:?}");
    assert_eq!(as_user(0).status, 200, "the same by its own user");
}

#[test]
fn it_waits_for_a_bus_and_says_so() {
    let folder = Folder::new();
    let nobody = format!("ws://127.0.0.1:{}", free_port());
    std::fs::create_dir(folder.state()).unwrap();
    let settings = format!(
        "nats = []\nshield_url = \"{nobody}\"\nadmin_url = \"\"\ndefault_tenant = \"acme\"\n\
         default_user = \"dev\"\naudience = \"arqon\"\nissuer = \"arqon-development\"\n"
    );
    std::fs::write(folder.state().join("context.toml"), settings).unwrap();
    let console = Console::start(&folder, &["--no-browser"]);
    assert_eq!(console.ready["shield_answers"], false);
    assert_eq!(console.ready["browser_asked"], false);
    assert_eq!(console.ready["shield_url"], format!("{nobody}/v1/socket"));
    let session = console.ask("session", &json!({}), &[]).json();
    assert_eq!(session["development"], false);
    let no_key = console.ask("token", &json!({"tenant": "acme", "user": "ann"}), &[]);
    assert_eq!(no_key.status, 409);
    assert!(!folder.state().join("dev").exists(), "no key was made");
    let verdict = console.ask("refusal", &json!({"token": "x"}), &[]).json();
    assert_eq!(verdict["outcome"], "unreachable");

    let ended = console.end("INT");
    assert_eq!(ended.code, 0);
    assert!(
        ended
            .err
            .contains(&format!("no Shield answers at {nobody}")),
        "{ended:?}"
    );
    assert!(
        ended.err.contains("hint: `arq dev up` starts it"),
        "{ended:?}"
    );
}

#[test]
fn a_taken_port_names_its_holder() {
    let folder = Folder::new();
    let port = free_port().to_string();
    let console = Console::start(&folder, &["--no-browser", "--port", &port]);
    assert_eq!(console.port.to_string(), port);
    let second = folder.arq(&["dev", "open", "--no-browser", "--port", &port]);
    assert_eq!(second.code, 1);
    let pid = console.child.id();
    let wanted = format!("port {port} for the console is taken by arq (pid {pid})");
    assert!(second.err.contains(&wanted), "{second:?}");
    assert!(second.err.contains("hint: "), "{second:?}");
    assert!(second.out.is_empty());
    assert_eq!(console.end("HUP").code, 0);
}

#[test]
fn shields_refusals_are_told() {
    let bus = Bus::start();
    let console = Console::start(&bus.folder, &["--no-browser"]);
    assert_eq!(console.ready["shield_answers"], true);
    let why = |token: &str| {
        let verdict = console.ask("refusal", &json!({"token": token}), &[]).json();
        (
            verdict["outcome"].clone(),
            verdict["code"].clone(),
            verdict["name"].clone(),
        )
    };
    let expired = bus.arq(&["auth", "gen", "--ttl", "-5m"]).ok().out;
    let refused = json!("refused");
    assert_eq!(
        why(expired.trim()),
        (refused.clone(), json!(1003), json!("TOKEN_EXPIRED"))
    );
    let stranger = Folder::new().arq(&["auth", "gen"]).ok().out;
    assert_eq!(
        why(stranger.trim()),
        (refused.clone(), json!(1005), json!("TOKEN_UNTRUSTED"))
    );
    assert_eq!(
        why("nonsense"),
        (refused, json!(1002), json!("TOKEN_MALFORMED"))
    );
    let good = console
        .ask("token", &json!({"tenant": "acme", "user": "ann"}), &[])
        .json();
    assert_eq!(why(good["token"].as_str().unwrap()).0, "accepted");
}
