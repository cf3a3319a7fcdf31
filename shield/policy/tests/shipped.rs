//! The committed components, in the host that Shield has, under the limits that
//! a binding has by default.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use arqon_policy::{
    Digest, Draft, FaultClass, Host, HostOptions, Instance, Limits, Message, Module, Verdict,
    shipped::{shipped, template},
};
use bytes::Bytes;

const C: &[u8] = include_bytes!("../built/example-c.wasm");
const ZIG: &[u8] = include_bytes!("../built/example-zig.wasm");
const SUMS: &str = include_str!("../built/SHA256SUMS");

/// The default ones, but for the clocks of what is long: this machine may be busy.
fn limits() -> Limits {
    Limits {
        wall: Duration::from_secs(10),
        configure: Duration::from_secs(10),
        ..Limits::default()
    }
}

fn component(name: &str) -> &'static [u8] {
    match name {
        "example-c" => C,
        "example-zig" => ZIG,
        name => {
            let it = shipped().iter().find(|it| it.name == name);
            it.unwrap().component
        }
    }
}

struct Loaded {
    // Kept: its ticker ends what takes too long.
    _host: Host,
    module: Module,
}

impl Loaded {
    fn new(name: &str) -> Self {
        let host = Host::new(&HostOptions::default()).unwrap();
        let module = host.load_component(component(name)).unwrap();
        Self {
            _host: host,
            module,
        }
    }

    fn start(&self, config: &str) -> Instance {
        let before = Instant::now();
        let instance = self.module.start(config.as_bytes(), &limits()).unwrap();
        println!(
            "started in {:?} with {} KiB",
            before.elapsed(),
            instance.memory_bytes() / 1024
        );
        instance
    }
}

fn judge(instance: &mut Instance, payload: &[u8], headers: &[(&str, &str)]) -> Verdict {
    let draft = Draft {
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        payload: Bytes::copy_from_slice(payload),
    };
    let message = Message {
        tenant: "acme",
        room: "public.hall",
        user: "ann",
        role: "user",
        draft: &draft,
    };
    instance.run(&message, &limits()).result.unwrap()
}

fn block(reason: &str) -> Verdict {
    Verdict::Block(reason.into())
}

/// What a redaction makes of a text.
fn out(instance: &mut Instance, text: &str) -> String {
    match judge(instance, text.as_bytes(), &[]) {
        Verdict::Allow => text.to_owned(),
        Verdict::Transform(rewrite) => {
            assert_eq!(rewrite.headers, None);
            String::from_utf8(rewrite.payload.unwrap().to_vec()).unwrap()
        }
        Verdict::Block(reason) => panic!("{reason}"),
    }
}

#[test]
fn the_digests_are_those_that_were_written_down() {
    let names: Vec<&str> = shipped().iter().map(|it| it.name).collect();
    assert_eq!(names, ["blocklist", "redact", "size-and-shape"]);
    let all = names.into_iter().chain(["example-c", "example-zig"]);
    for name in all {
        let line = format!("{}  {name}.wasm\n", Digest::of(component(name)));
        assert!(SUMS.contains(&line), "{name}");
    }
    assert_eq!(SUMS.lines().count(), 5);
}

#[test]
fn the_blocklist_blocks_its_words() {
    let loaded = Loaded::new("blocklist");
    let mut list = loaded.start(
        r#"{"words":["malware","Größe","οδός"],"patterns":["bit\\.ly/\\w+"],"headers":true,"reason":"no"}"#,
    );
    for bad in [
        "free MALWARE here",
        "(malware)",
        "GRÖẞE",
        "ΟΔΌΣ",
        "see Bit.ly/abc",
    ] {
        assert_eq!(judge(&mut list, bad.as_bytes(), &[]), block("no"), "{bad}");
    }
    assert_eq!(judge(&mut list, b"\xff malware \xff", &[]), block("no"));
    assert_eq!(
        judge(&mut list, b"", &[("subject", "Malware")]),
        block("no")
    );
    for good in ["", "hello", "antimalware", "malwares", "bit.ly", "日本"] {
        assert_eq!(
            judge(&mut list, good.as_bytes(), &[("a", "b")]),
            Verdict::Allow,
            "{good}"
        );
    }
}

/// Lists of the largest size that is accepted, of words that share little.
#[test]
fn a_full_blocklist_fits_into_the_default_limits() {
    let loaded = Loaded::new("blocklist");
    let mixed = |n: u32| n.wrapping_mul(2_654_435_761);
    let hexadecimal = |n: u32| format!("{:08x}", mixed(n));
    let letters = |n: u32| {
        let letter = |i: u32| char::from_u32(0x4e00 + (mixed(n) >> (i * 11)) % 5_000).unwrap();
        (0..2).map(letter).chain(['a', 'b']).collect()
    };
    let long = |n: u32| (0..32).map(|i| hexadecimal(n * 32 + i)).collect::<String>();
    let lists: [(u32, &dyn Fn(u32) -> String); 3] =
        [(5_000, &hexadecimal), (5_000, &letters), (156, &long)];
    for (count, word) in lists {
        let words: Vec<String> = (0..count).map(|n| format!("\"{}\"", word(n))).collect();
        let mut list = loaded.start(&format!("{{\"words\":[{}]}}", words.join(",")));
        let last = format!("x {} y", word(count - 1).to_uppercase());
        let blocked = block("a word of the blocklist");
        assert_eq!(judge(&mut list, last.as_bytes(), &[]), blocked);
        assert_eq!(judge(&mut list, b"x w005000 y", &[]), Verdict::Allow);
    }
}

#[test]
fn size_and_shape_judges_size_type_and_json() {
    let loaded = Loaded::new("size-and-shape");
    let mut shape = loaded.start(
        r#"{"max_payload_bytes":16,"content_types":["application/json","text/*"],"json":"declared","max_json_depth":3}"#,
    );
    let json = [("Content-Type", "application/json; charset=utf-8")];
    for (payload, headers, verdict) in [
        ("x", &[][..], Verdict::Allow),
        ("{\"a\":[1,2]}", &json, Verdict::Allow),
        ("no", &[("content-type", "Text/Plain")], Verdict::Allow),
        (
            "12345678901234567",
            &[],
            block("the payload has 17 bytes, at most 16 are allowed"),
        ),
        (
            "x",
            &[("content-type", "image/png")],
            block("the content type image/png is not allowed"),
        ),
        (
            "[[[[]]]]",
            &json,
            block("the payload is no JSON: nested deeper than 3"),
        ),
        (
            "[1,]",
            &json,
            block("the payload is no JSON: expected value at line 1 column 4"),
        ),
    ] {
        assert_eq!(
            judge(&mut shape, payload.as_bytes(), headers),
            verdict,
            "{payload}"
        );
    }
}

#[test]
fn redact_takes_out_what_it_should() {
    let loaded = Loaded::new("redact");
    let mut redact = loaded.start("");
    for (text, want) in [
        ("hello", "hello"),
        ("to ann@example.org.", "to [redacted]."),
        ("card 4111 1111 1111 1111!", "card [redacted]!"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
    ] {
        assert_eq!(out(&mut redact, text), want);
    }
    assert_eq!(judge(&mut redact, b"a@b.co \xff", &[]), Verdict::Allow);
    let mut own = loaded.start(
        r#"{"emails":false,"cards":false,"patterns":[{"name":"key","pattern":"key-[0-9]+"}],"replacement":"*","not_utf8":"block"}"#,
    );
    assert_eq!(out(&mut own, "a@b.co key-12 x"), "a@b.co * x");
    assert_eq!(
        judge(&mut own, b"\xff", &[]),
        block("the payload is not UTF-8")
    );
}

#[test]
fn a_bad_configuration_is_refused_in_words() {
    for (name, config, says) in [
        ("blocklist", "{}", "neither words nor patterns"),
        ("blocklist", r#"{"word":["x"]}"#, "unknown field `word`"),
        ("redact", r#"{"email":true}"#, "unknown field `email`"),
        ("size-and-shape", "", "the configuration is empty"),
        ("example-c", "", "no words"),
        ("example-zig", " ,\n", "no words"),
    ] {
        let loaded = Loaded::new(name);
        let fault = loaded
            .module
            .start(config.as_bytes(), &limits())
            .err()
            .unwrap();
        assert_eq!(fault.class, FaultClass::Configure, "{name}: {fault}");
        assert!(fault.detail.contains(says), "{name}: {fault}");
    }
}

#[test]
fn the_examples_of_c_and_zig_block_their_words() {
    for name in ["example-c", "example-zig"] {
        let loaded = Loaded::new(name);
        let mut list = loaded.start("malware, Virus\n\nworm");
        for bad in ["malware", "a MALWARES", "vIrUs", "worm"] {
            let verdict = judge(&mut list, bad.as_bytes(), &[("a", "b")]);
            assert_eq!(verdict, block("a word of the list"), "{name} {bad}");
        }
        for good in ["", "viru", "malwar e"] {
            let verdict = judge(&mut list, good.as_bytes(), &[]);
            assert_eq!(verdict, Verdict::Allow, "{name} {good}");
        }
    }
}

/// What is given out must be given back: an instance judges a thousand messages
/// in the memory that it took for the first.
#[test]
fn memory_does_not_grow_from_message_to_message() {
    for (name, config) in [
        ("example-c", "malware"),
        ("example-zig", "malware"),
        ("blocklist", r#"{"words":["malware"],"headers":true}"#),
        ("redact", ""),
        ("size-and-shape", r#"{"json":"always"}"#),
    ] {
        let loaded = Loaded::new(name);
        let mut instance = loaded.start(config);
        let payload = [b"malware a@b.co ".repeat(64), vec![b' '; 4096]].concat();
        let round = |instance: &mut Instance| {
            judge(instance, &payload, &[("name", "value"), ("other", "")]);
            judge(instance, b"", &[]);
        };
        for _ in 0..4 {
            round(&mut instance);
        }
        let after_some = instance.memory_bytes();
        for _ in 0..500 {
            round(&mut instance);
        }
        assert_eq!(instance.memory_bytes(), after_some, "{name}");
    }
}

#[test]
fn templates_are_complete() {
    for lang in ["rust", "c", "zig"] {
        let files = template(lang);
        for wanted in ["README.md", "cases.toml"] {
            assert!(
                files.iter().any(|(path, _)| *path == wanted),
                "{lang} {wanted}"
            );
        }
        assert!(
            files.iter().any(|(_, text)| text.contains("POLICY_NAME")),
            "{lang}"
        );
    }
    assert!(template("cobol").is_empty());
    // What the vendored SDK says that it consists of.
    let rust = template("rust");
    let text = |path: &str| rust.iter().find(|(it, _)| *it == path).unwrap().1;
    for line in text("sdk/guest/src/lib.rs").lines() {
        let name = line.trim_start_matches("pub ").strip_prefix("mod ");
        if let Some(name) = name.and_then(|name| name.strip_suffix(';')) {
            let _ = text(&format!("sdk/guest/src/{name}.rs"));
        }
    }
}
