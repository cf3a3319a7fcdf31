//! `arq policy` without a platform: make, build, check, test, bench.

use std::path::PathBuf;

use serde_json::json;

use crate::common::{Answer, Folder};

/// A core module in text. By the payload's first byte: `b` blocks, `l` loops, `t` traps, all else
/// passes. A configuration of three bytes is refused.
const CORE: &str = r#"(module
    (memory (export "memory") 1)
    (data (i32.const 100) "no b here")
    (data (i32.const 120) "three bytes are wrong")
    (global $heap (mut i32) (i32.const 4096))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
        (global.set $heap (i32.add (local.get $at) (local.get 3)))
        (local.get $at))
    (func (export "configure") (param i32 i32) (result i32)
        (i32.store8 (i32.const 16) (i32.eq (local.get 1) (i32.const 3)))
        (i32.store (i32.const 20) (i32.const 120))
        (i32.store (i32.const 24) (i32.const 21))
        (i32.const 16))
    (func (export "on-message")
        (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (param $at i32) (param $bytes i32) (result i32)
        (local $first i32)
        (if (local.get $bytes) (then (local.set $first (i32.load8_u (local.get $at)))))
        (if (i32.eq (local.get $first) (i32.const 116)) (then unreachable))
        (if (i32.eq (local.get $first) (i32.const 108)) (then (loop $for_ever (br $for_ever))))
        (i32.store8 (i32.const 32) (i32.eq (local.get $first) (i32.const 98)))
        (i32.store (i32.const 36) (i32.const 100))
        (i32.store (i32.const 40) (i32.const 9))
        (global.set $heap (i32.const 4096))
        (i32.const 32)))"#;

/// Builds a component of [`CORE`].
pub(crate) fn component(folder: &Folder) -> PathBuf {
    let core = folder.path().join("core.wasm");
    std::fs::write(&core, wat::parse_str(CORE).unwrap()).unwrap();
    let built = folder.path().join("letters.wasm");
    folder
        .arq(&["policy", "build", "core.wasm", "-o", "letters.wasm"])
        .ok();
    built
}

fn write(folder: &Folder, name: &str, text: &str) {
    std::fs::write(folder.path().join(name), text).unwrap();
}

#[test]
fn a_core_module_becomes_a_component_once() {
    let folder = Folder::new();
    let built = component(&folder);
    let bytes = std::fs::read(&built).unwrap();
    let again = folder
        .arq(&["--json", "policy", "build", "core.wasm", "-o", "again.wasm"])
        .ok()
        .json();
    assert_eq!(again["wrapped"], true);
    assert_eq!(
        std::fs::read(folder.path().join("again.wasm")).unwrap(),
        bytes
    );
    // In place of what it is made of: no.
    assert_eq!(folder.arq(&["policy", "build", "core.wasm"]).code, 2);
    let checked = folder
        .arq(&["--json", "policy", "check", "letters.wasm"])
        .ok()
        .json();
    assert_eq!(checked["policy"], true);
    assert_eq!(checked["digest"], again["digest"]);
    assert_eq!(checked["bytes"], bytes.len());
    let text = folder.arq(&["policy", "check", "letters.wasm"]).ok();
    assert!(text.out.contains("a policy, compiled in"), "{text:?}");
}

#[test]
fn what_is_no_policy_is_told_with_code_and_hint() {
    let folder = Folder::new();
    let check = |name: &str| -> Answer { folder.arq(&["--json", "policy", "check", name]) };
    write(&folder, "text.wasm", "hello, I am no Wasm at all");
    let text = check("text.wasm");
    assert_eq!(text.code, 1);
    assert_eq!(text.json()["findings"][0]["code"], "not_wasm");
    let mut bytes = std::fs::read(component(&folder)).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(folder.path().join("half.wasm"), &bytes).unwrap();
    let half = check("half.wasm");
    assert_eq!((half.code, &half.json()["policy"]), (1, &json!(false)));
    let missing = check("nowhere.wasm");
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("blocklist"), "{missing:?}");
    // A module that wants WASI is told so.
    let wasi = CORE.replace(
        "(module",
        r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))"#,
    );
    std::fs::write(
        folder.path().join("wasi.wasm"),
        wat::parse_str(wasi).unwrap(),
    )
    .unwrap();
    let wasi = folder.arq(&["policy", "build", "wasi.wasm", "-o", "out.wasm"]);
    assert_eq!(wasi.code, 1);
    assert!(wasi.err.contains("hint: "), "{wasi:?}");
    assert!(!folder.path().join("out.wasm").exists());
}

#[test]
fn cases_are_run_and_compared() {
    let folder = Folder::new();
    component(&folder);
    write(
        &folder,
        "cases.toml",
        r#"
[[case]]
name = "clean"
payload = "apple"
expect = "allow"
[[case]]
name = "blocked"
payload = "banana"
expect = "block"
reason = "no b here"
[[case]]
name = "loops"
payload = "lemon"
expect = "fault"
fault = "timeout"
[[case]]
name = "traps"
payload = "tomato"
expect = "fault"
fault = "trap"
[[case]]
name = "bad configuration"
config = "abc"
expect = "fault"
fault = "configure"
reason_contains = "three bytes"
"#,
    );
    let test = ["policy", "test", "letters.wasm", "--cases", "cases.toml"];
    let done = folder.arq(&test).ok();
    assert!(done.out.ends_with("5 cases, 0 failed\n"), "{done:?}");

    // The same with one wrong expectation, in all three forms.
    let text = std::fs::read_to_string(folder.path().join("cases.toml")).unwrap();
    write(
        &folder,
        "cases.toml",
        &text.replace("payload = \"apple\"", "payload = \"berry <&>\""),
    );
    let failed = folder.arq(&[&test[..], &["--junit", "report.xml"]].concat());
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(
        failed
            .err
            .contains("failed: clean: expected allow, came block \"no b here\""),
        "{failed:?}"
    );
    let report = std::fs::read_to_string(folder.path().join("report.xml")).unwrap();
    assert!(report.contains("tests=\"5\" failures=\"1\""), "{report}");
    assert!(
        report.contains("came block &quot;no b here&quot;"),
        "{report}"
    );
    let json = folder.arq(&[&["--json"], &test[..]].concat());
    assert_eq!(json.code, 1);
    let json = json.json();
    assert_eq!((&json["cases"], &json["failed"]), (&json!(5), &json!(1)));
    assert_eq!(json["results"][0]["ok"], false);
    assert_eq!(json["results"][2]["came"], "fault timeout");
}

#[test]
fn cases_that_do_not_hold_are_refused() {
    let folder = Folder::new();
    component(&folder);
    write(&folder, "cases.toml", "[[case]]\nexpect = 'maybe'\n");
    let answer = folder.arq(&["policy", "test", "letters.wasm", "--cases", "cases.toml"]);
    assert_eq!(answer.code, 1);
    assert!(
        answer.err.contains("`maybe`") && answer.err.contains("hint: "),
        "{answer:?}"
    );
}

#[test]
fn the_shipped_policies_do_what_they_say() {
    let folder = Folder::new();
    let run = |policy: &str, cases: &str| {
        write(&folder, "cases.toml", cases);
        folder
            .arq(&["policy", "test", policy, "--cases", "cases.toml"])
            .ok();
    };
    run(
        "blocklist",
        r#"
config = { words = ["malware", "größe"] }
[[case]]
payload = "All is well"
expect = "allow"
[[case]]
payload = "this is MalWare, look"
expect = "block"
[[case]]
payload = "antimalwares"
expect = "allow"
[[case]]
payload = "die GRÖSSE und die GRÖßE"
expect = "block"
[[case]]
config = { wordz = [] }
expect = "fault"
fault = "configure"
"#,
    );
    run(
        "size-and-shape",
        r#"
config = { max_payload_bytes = 10, json = "always" }
[[case]]
payload = '{"a":1}'
expect = "allow"
[[case]]
payload = '{"a":1'
expect = "block"
[[case]]
payload = "1"
repeat = 11
expect = "block"
"#,
    );
    run(
        "redact",
        r#"
config = { emails = true, cards = true }
[[case]]
payload = "write to alice@example.com"
expect = "transform"
to_payload = "write to [redacted]"
[[case]]
payload = "nothing to hide"
expect = "allow"
"#,
    );
    for policy in ["blocklist", "size-and-shape", "redact"] {
        let checked = folder
            .arq(&["--json", "policy", "check", policy])
            .ok()
            .json();
        assert_eq!(lints(&checked), ["grows_memory"], "{policy}");
    }
}

/// The codes of what `arq policy check` and `build` warn of.
fn lints(json: &serde_json::Value) -> Vec<String> {
    let lints = json["lints"].as_array().unwrap();
    let code = |lint: &serde_json::Value| lint["code"].as_str().unwrap().to_owned();
    lints.iter().map(code).collect()
}

#[test]
fn a_bench_tells_what_was_measured() {
    let folder = Folder::new();
    component(&folder);
    let bench = ["policy", "bench", "letters.wasm", "--messages", "500"];
    let json = folder
        .arq(
            &[
                &["--json"],
                &bench[..],
                &["--payload", "1KiB", "--payload", "0"],
            ]
            .concat(),
        )
        .ok()
        .json();
    let sizes: Vec<_> = json["payloads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["payload_bytes"].as_u64().unwrap())
        .collect();
    assert_eq!(sizes, [1_024, 0]);
    let row = &json["payloads"][0];
    // The text begins with a capital letter, which passes.
    assert_eq!((&row["allowed"], &row["faults"]), (&json!(500), &json!(0)));
    assert!(row["us"]["p50"].as_f64().unwrap() <= row["us"]["max"].as_f64().unwrap());
    assert_eq!(row["per_second"][1]["threads"], 2);
    assert!(row["memory_bytes"].as_u64() >= Some(65_536));
    write(&folder, "wrong.json", "[1]");
    let refused = folder.arq(&["policy", "bench", "letters.wasm", "--config", "wrong.json"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("three bytes are wrong"), "{refused:?}");
}

#[test]
fn a_new_policy_is_a_folder_to_begin_with() {
    let folder = Folder::new();
    for lang in ["rust", "c", "zig"] {
        let made = folder
            .arq(&[
                "--json", "policy", "new", "greeter", "--lang", lang, "--dir", lang,
            ])
            .ok()
            .json();
        assert_eq!(made["lang"], lang);
        let files = made["files"].as_array().unwrap();
        assert!(
            files.contains(&json!(format!("{lang}/cases.toml"))),
            "{files:?}"
        );
        for file in files {
            let file = folder.path().join(file.as_str().unwrap());
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(!text.contains("POLICY_NAME"), "{file:?}");
        }
        let again = folder.arq(&["policy", "new", "greeter", "--lang", lang, "--dir", lang]);
        assert_eq!(again.code, 1);
        assert!(again.err.contains("is not empty"), "{again:?}");
    }
    assert_eq!(folder.arq(&["policy", "new", "Bad.Name"]).code, 2);
}

/// Where a toolchain is there, its template builds, is a policy without lints and holds its cases;
/// else its absence is told with a remedy. No other outcome is right.
#[test]
fn each_template_builds_or_the_remedy_is_told() {
    let folder = Folder::new();
    for (lang, remedy) in [
        ("rust", "rustup target add"),
        ("c", "pip install ziglang"),
        ("zig", "pip install ziglang"),
    ] {
        folder.arq(&["policy", "new", lang, "--lang", lang]).ok();
        let built = folder.arq(&["--json", "policy", "build", lang]);
        if built.code != 0 {
            assert!(built.err.contains(remedy), "{lang}: {built:?}");
            continue;
        }
        // Those with an allocator can grow; nothing else is to be told.
        let lints = lints(&built.json());
        assert!(
            lints.iter().all(|code| code == "grows_memory"),
            "{lang}: {lints:?}"
        );
        let file = format!("{lang}/{lang}.wasm");
        let cases = format!("{lang}/cases.toml");
        folder
            .arq(&["policy", "test", &file, "--cases", &cases])
            .ok();
    }
}

#[test]
fn without_a_toolchain_the_remedy_is_told() {
    let folder = Folder::new();
    for (lang, remedy) in [
        ("rust", "rustup target add"),
        ("c", "ziglang"),
        ("zig", "ziglang"),
    ] {
        folder.arq(&["policy", "new", lang, "--lang", lang]).ok();
        let output = folder
            .command(&["policy", "build", lang])
            .env("PATH", folder.path())
            .output()
            .unwrap();
        let answer = Answer::from(output);
        assert_eq!(answer.code, 1, "{answer:?}");
        assert!(
            answer.err.contains("hint: ") && answer.err.contains(remedy),
            "{answer:?}"
        );
    }
}

#[test]
fn what_is_typed_wrongly_ends_with_2() {
    let folder = Folder::new();
    for line in [
        &["policy", "add", "blocklist", "--words", "a"][..],
        &["policy", "add", "blocklist", "--platform"],
        &[
            "policy",
            "add",
            "blocklist",
            "--words",
            "a",
            "--platform",
            "--tenant",
            "acme",
        ],
        &[
            "policy",
            "add",
            "redact",
            "--pattern",
            "nameless",
            "--platform",
        ],
        &["policy", "bind", "x", "--platform", "--version", "latest"],
        &["policy", "bind", "x", "--platform", "--room", "a..b"],
        &["policy", "unbind", "x"],
        &["policy", "test", "x.wasm"],
    ] {
        let answer = folder.arq(line);
        assert_eq!(answer.code, 2, "{line:?}: {answer:?}");
    }
}
