//! `arq policy` against a real nats-server and Shield.

use serde_json::{Value, json};

use crate::common::{Bus, until};
use crate::policy_offline::component;

impl Bus {
    /// Publishes; whether it passed, and what was said.
    fn publish(&self, payload: &str) -> (bool, String) {
        let answer = self.arq(&["pub", "lobby", payload, "--ack", "--user", "bob"]);
        (answer.code == 0, answer.err)
    }

    #[track_caller]
    fn passes(&self, payload: &str) {
        let (passed, said) = self.publish(payload);
        assert!(passed, "`{payload}` was blocked: {said}");
    }

    #[track_caller]
    fn blocked(&self, payload: &str) -> String {
        let (passed, said) = self.publish(payload);
        assert!(!passed, "`{payload}` passed");
        assert!(said.contains("Message blocked by policy"), "{said}");
        said
    }

    /// A command of policies that must succeed, as JSON.
    #[track_caller]
    fn policy(&self, arguments: &[&str]) -> Value {
        let arguments = [&["--json", "policy"], arguments].concat();
        self.arq(&arguments).ok().json()
    }
}

#[test]
fn an_admin_blocks_a_word_watches_goes_back_and_ends_it() {
    let bus = Bus::start();
    let alice = bus.hear(&["lobby", "--user", "alice"]);
    bus.passes("malware before");
    let added = bus.policy(&[
        "add",
        "blocklist",
        "--words",
        "malware,virus",
        "--tenant",
        "acme",
    ]);
    assert_eq!(added["key"], "tenant.acme.blocklist");
    assert_eq!(added["shields"][0]["shield"], "shield-1");
    assert_eq!(added["shields"][0]["state"], "active");

    // Enforced once it is acknowledged, in any case of letters, for acme only.
    let said = bus.blocked("MALWARE after");
    assert!(said.contains("POLICY_BLOCKED"), "{said}");
    assert!(!said.contains("blocklist"), "nothing more is told: {said}");
    bus.passes("clean");
    alice.hears("clean");
    let other = bus.arq(&["pub", "lobby", "malware", "--ack", "--tenant", "globex"]);
    assert_eq!(other.code, 0, "{other:?}");

    // The sender is told more where the binding says so. The words stay as they are.
    bus.policy(&["bind", "blocklist", "--tenant", "acme", "--show-reason"]);
    let said = bus.blocked("a virus");
    assert!(said.contains("a word of the blocklist"), "{said}");

    // In shadow it counts and passes.
    bus.policy(&["bind", "blocklist", "--tenant", "acme", "--shadow"]);
    bus.passes("malware in shadow");
    bus.policy(&["bind", "blocklist", "--tenant", "acme", "--shadow=false"]);
    bus.blocked("malware again");

    // Other words, and back.
    bus.policy(&["add", "blocklist", "--words", "spam", "--tenant", "acme"]);
    bus.passes(
        "malware is no spam, says nobody here"
            .replace("spam", "ham")
            .as_str(),
    );
    bus.blocked("spam");
    bus.policy(&["rollback", "blocklist", "--tenant", "acme"]);
    bus.passes("spam");
    bus.blocked("malware");

    // What happened is told: by status, by show, and in the audit, without a payload.
    until("the Shield's counts are told", || {
        let status = bus.arq(&["--json", "status"]).json();
        let policy = &status["policies"][0];
        policy["key"] == "tenant.acme.blocklist" && policy["counts"]["blocked"].as_u64() >= Some(1)
    });
    let status = bus.arq(&["status"]).ok().out;
    assert!(status.contains("enforced on 1 of 1"), "{status}");
    let shown = bus.policy(&["show", "blocklist", "--tenant", "acme"]);
    let binding = &shown["bindings"][0];
    assert_eq!(binding["config"]["words"], json!(["malware", "virus"]));
    assert_eq!(binding["version"], 1);
    let text = bus.arq(&["policy", "show", "blocklist"]).ok().out;
    assert!(
        text.contains("shipped blocklist") && text.contains("shield-1"),
        "{text}"
    );
    until("the audit tells who was blocked", || {
        let logs = bus
            .arq(&["--json", "policy", "logs", "--tenant", "acme"])
            .ok()
            .out;
        assert!(!logs.contains("MALWARE"), "no payload: {logs}");
        let events: Vec<Value> = logs
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let of = |shadow: bool| {
            events.iter().any(|event| {
                event["user"] == "bob"
                    && event["binding"] == "tenant.acme.blocklist"
                    && event["class"] == "verdict"
                    && event["shadow"] == shadow
            })
        };
        of(false) && of(true)
    });
    let none = bus.arq(&["policy", "logs", "--tenant", "globex"]).ok();
    assert!(none.err.contains("nothing was blocked"), "{none:?}");

    let unbound = bus.policy(&["unbind", "blocklist", "--tenant", "acme"]);
    assert_eq!(unbound["shields"][0]["state"], "active");
    bus.passes("malware at last");
    alice.hears("malware at last");
    let list = bus.policy(&["list"]);
    assert_eq!(list["bindings"], json!([]));
    assert_eq!(list["policies"][0]["name"], "blocklist");
    for payload in ["MALWARE after", "a virus", "malware again"] {
        assert!(
            alice
                .frames("MESSAGE")
                .iter()
                .all(|frame| frame["payload"] != payload),
            "{payload}"
        );
    }
}

#[test]
fn a_policy_of_ones_own_is_pushed_and_bound_for_the_platform() {
    let bus = Bus::start();
    component(&bus.folder);
    let pushed = bus.policy(&["push", "letters.wasm", "--note", "blocks b"]);
    assert_eq!(
        (&pushed["policy"], &pushed["version"]),
        (&json!("letters"), &json!(1))
    );
    assert_eq!(pushed["shields"][0]["state"], "compiled");
    assert_eq!(bus.policy(&["push", "letters.wasm"])["existed"], true);
    bus.passes("banana");

    // What it refuses here is not written at all.
    std::fs::write(bus.folder.path().join("bad.json"), "[1]").unwrap();
    let bind = ["policy", "bind", "letters", "--platform"];
    let refused = bus.arq(&[&bind[..], &["--config", "bad.json"]].concat());
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.err.contains("nothing was written")
            && refused.err.contains("three bytes are wrong"),
        "{refused:?}"
    );
    assert_eq!(bus.policy(&["list"])["bindings"], json!([]));

    let bound = bus
        .arq(&[&bind[..], &["--room", "lobby", "--order", "-1"]].concat())
        .ok();
    assert!(
        bound.out.contains("shield-1") && bound.out.contains("active"),
        "{bound:?}"
    );
    bus.blocked("banana");
    let globex = bus.arq(&["pub", "lobby", "banana", "--ack", "--tenant", "globex"]);
    assert!(
        globex.err.contains("Message blocked by policy"),
        "{globex:?}"
    );
    let elsewhere = bus.arq(&["pub", "hall", "banana", "--ack"]);
    assert_eq!(elsewhere.code, 0, "{elsewhere:?}");

    // A fault blocks as well, and is told apart.
    let (passed, said) = bus.publish("tomato");
    assert!(!passed && said.contains("POLICY_FAULT"), "{said}");
    until("the fault is counted", || {
        let status = bus.arq(&["--json", "status"]).json();
        status["policies"][0]["counts"]["faults"].as_u64() >= Some(1)
    });
    let versions = bus.policy(&["versions", "letters"]);
    assert_eq!(
        versions["versions"][0]["bound"],
        json!(["platform.letters"])
    );
    assert_eq!(versions["versions"][0]["shields"][0]["ready"], true);
}

#[test]
fn two_admins_lose_nothing() {
    let bus = Bus::start();
    bus.policy(&[
        "add",
        "blocklist",
        "--words",
        "one",
        "--platform",
        "--no-wait",
    ]);
    let before = bus.policy(&["list"])["bindings"][0]["revision"]
        .as_u64()
        .unwrap();
    // Both change it at once: one after the other, or one is told that it was too late.
    let change = |order: &str| {
        let line = [
            "policy",
            "bind",
            "blocklist",
            "--platform",
            "--no-wait",
            "--order",
            order,
        ];
        bus.folder.command(&line).spawn().unwrap()
    };
    let (first, second) = (change("1"), change("2"));
    let first = crate::common::Answer::from(first.wait_with_output().unwrap());
    let second = crate::common::Answer::from(second.wait_with_output().unwrap());
    let won = [&first, &second]
        .iter()
        .filter(|answer| answer.code == 0)
        .count();
    assert!(won >= 1, "{first:?} {second:?}");
    for lost in [&first, &second]
        .into_iter()
        .filter(|answer| answer.code != 0)
    {
        assert!(
            lost.err.contains("changed meanwhile") && lost.err.contains("arq policy show"),
            "{lost:?}"
        );
    }
    let list = bus.policy(&["list"]);
    let after = list["bindings"][0]["revision"].as_u64().unwrap();
    assert_eq!(after - before, won as u64, "each success is one revision");
    let missing = bus.arq(&["policy", "unbind", "nothing", "--platform"]);
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("arq policy list"), "{missing:?}");
    let nobody = bus.arq(&["policy", "bind", "blocklist", "--tenant", "nobody"]);
    assert_eq!(nobody.code, 1);
    assert!(
        nobody.err.contains("there is no tenant `nobody`"),
        "{nobody:?}"
    );
    let unknown = bus.arq(&["policy", "bind", "unknown", "--platform"]);
    assert!(unknown.err.contains("arq policy push"), "{unknown:?}");
}

/// A Shield beside the real one, on the real control plane, that says of each binding it is told
/// of that it cannot run it: what a Shield on another host with fewer means would say.
struct Unable {
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Unable {
    fn start(bus: &Bus) -> Self {
        let state =
            arqon_spine::state::StateFolder::open(bus.folder.state().join("spine")).unwrap();
        let nats = bus.ready["nats"][0].as_str().unwrap().to_owned();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap()
                .block_on(async {
                    tokio::select! {
                        () = unable(state, nats, ready) => {}
                        _ = stopped => {}
                    }
                });
        });
        is_ready.recv().unwrap();
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

async fn unable(
    state: arqon_spine::state::StateFolder,
    nats: String,
    ready: std::sync::mpsc::Sender<()>,
) {
    use arqon_proto::v1::{PolicyBindingState, PolicyReport, ShieldBeat, policy_entry::Entry};
    use arqon_spine::connect::{TenantOptions, connect_user};
    use arqon_spine::control::{ControlStore, RecordEvent};
    use futures_util::StreamExt;

    let id = arqon_proto::names::NodeId::parse("shield-9").unwrap();
    let user = state
        .mint(
            arqon_spine::state::Role::Shield,
            &id,
            Some(std::time::Duration::from_secs(600)),
        )
        .unwrap();
    let connection = connect_user(&[nats], user, "shield-9", &TenantOptions::default())
        .await
        .unwrap();
    let control = ControlStore::new(&connection);
    let mut records = control.watch_policies().await.unwrap();
    let mut report = PolicyReport {
        shield: id.to_string(),
        incarnation: "1".to_owned(),
        last: true,
        ..PolicyReport::default()
    };
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(300));
    loop {
        tokio::select! {
            event = records.next() => match event.unwrap().unwrap() {
                RecordEvent::Put(entry, revision) => {
                    report.revision = revision;
                    if let Some(Entry::Binding(_)) = entry.entry {
                        report.bindings = vec![PolicyBindingState {
                            key: entry.key,
                            revision,
                            error: "this one has no room for it".to_owned(),
                            ..PolicyBindingState::default()
                        }];
                    }
                }
                RecordEvent::Deleted(_, revision) => {
                    report.revision = revision;
                    report.bindings.clear();
                }
                _ => {}
            },
            _ = tick.tick() => {
                let beat = ShieldBeat {
                    shield: id.to_string(),
                    incarnation: "1".to_owned(),
                    ready: true,
                    pool: "elsewhere".to_owned(),
                    ..ShieldBeat::default()
                };
                control.publish_beat(&id, &beat).await.unwrap();
                report.number += 1;
                control.publish_policy_report(&id, &report).await.unwrap();
                let _ = ready.send(());
            }
        }
    }
}

#[test]
fn what_fails_on_one_live_shield_is_taken_back_on_all() {
    let bus = Bus::start();
    let unable = Unable::start(&bus);
    let add = [
        "policy",
        "add",
        "blocklist",
        "--words",
        "malware",
        "--platform",
    ];
    let failed = bus.arq(&add);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(
        failed.err.contains("taken back") && failed.err.contains("no room for it"),
        "{failed:?}"
    );
    let row = |shield: &str| {
        let mut lines = failed.out.lines();
        lines
            .find(|line| line.starts_with(shield))
            .unwrap()
            .to_owned()
    };
    assert!(row("shield-1").contains("active"), "{failed:?}");
    assert!(row("shield-9").contains("failed"), "{failed:?}");
    assert_eq!(bus.policy(&["list"])["bindings"], json!([]));
    until("the real Shield has let go of it", || {
        bus.publish("malware").0
    });

    // Without it the same works.
    unable.stop();
    until("it is no longer live", || bus.arq(&add).code == 0);
    bus.blocked("malware");
}
