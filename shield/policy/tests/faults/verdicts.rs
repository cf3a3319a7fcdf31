//! What may come out of a policy, and what may not.

use std::collections::BTreeMap;

use arqon_policy::{FaultClass, Limits, MAX_REASON_BYTES, Rewrite, Verdict};
use bytes::Bytes;

use crate::guest::{Guest, in_both, limits, run};

/// Stores these words from 16 on and answers with them.
fn words(words: &[u32]) -> String {
    let mut body = String::new();
    for (index, word) in words.iter().enumerate() {
        let at = 16 + 4 * index;
        body += &format!("(i32.store (i32.const {at}) (i32.const {word})) ");
    }
    body + "(i32.const 16)"
}

#[test]
fn legal_verdicts_come_through() {
    in_both(4, |host| {
        assert_eq!(Guest::default().judge(host), Ok(Verdict::Allow));
        let nothing = Guest::on_message(&words(&[2, 0, 0, 0, 0, 0, 0])).judge(host);
        assert_eq!(nothing, Ok(Verdict::Transform(Rewrite::default())));
        // The message's own payload and headers, as they came in.
        let echo = Guest::on_message(
            "(i32.store (i32.const 20) (i32.const 1))
             (i32.store (i32.const 24) (local.get $payload))
             (i32.store (i32.const 28) (local.get $payload_length))
             (i32.store (i32.const 32) (i32.const 1))
             (i32.store (i32.const 36) (local.get $headers))
             (i32.store (i32.const 40) (local.get $header_count))
             (i32.store (i32.const 16) (i32.const 2))
             (i32.const 16)",
        );
        let expected = Rewrite {
            payload: Some(Bytes::from_static(b"hello")),
            headers: Some(BTreeMap::from([("kind".into(), "chat".into())])),
        };
        assert_eq!(echo.judge(host), Ok(Verdict::Transform(expected)));
        // Who and where, each as the reason of a block.
        for (name, value) in [
            ("tenant", "acme"),
            ("room", "lobby"),
            ("user", "ann"),
            ("role", "user"),
        ] {
            let body = format!("(call $block (local.get ${name}) (local.get ${name}_length))");
            let verdict = Guest::on_message(&body).judge(host);
            assert_eq!(verdict, Ok(Verdict::Block(value.into())));
        }
    });
}

#[test]
fn an_instance_judges_many_messages() {
    in_both(4, |host| {
        let count = "(global.set $count (i32.add (global.get $count) (i32.const 1)))
            (i32.store8 (i32.const 4096) (i32.add (i32.const 48) (global.get $count)))
            (call $block (i32.const 4096) (i32.const 1))";
        let mut instance = Guest::on_message(count).start(host).expect("starts");
        for number in 1..=9 {
            let ran = run(&mut instance, b"");
            assert_eq!(ran.result, Ok(Verdict::Block(number.to_string())));
            assert_eq!(instance.runs(), number);
        }
    });
}

#[test]
fn what_is_no_verdict_is_a_fault() {
    let far = 0xffff_fff0;
    let cases: Vec<(&str, String)> = vec![
        ("no such case", words(&[3])),
        ("no such case, high", words(&[255])),
        ("reason beyond the memory", words(&[1, 65530, 99])),
        ("reason at the end of addresses", words(&[1, far, 99])),
        ("reason as long as can be", words(&[1, 4096, u32::MAX])),
        (
            "payload beyond the memory",
            words(&[2, 1, 65530, 99, 0, 0, 0]),
        ),
        ("payload that wraps", words(&[2, 1, far, 0x20, 0, 0, 0])),
        ("an option of no case", words(&[2, 7, 0, 0, 0, 0, 0])),
        (
            "headers beyond the memory",
            words(&[2, 0, 0, 0, 1, 4096, 0x1000_0000]),
        ),
        (
            "headers whose size wraps",
            words(&[2, 0, 0, 0, 1, 4096, 0x1000_0001]),
        ),
        ("headers out of line", words(&[2, 0, 0, 0, 1, 4097, 1])),
        (
            "a header beyond the memory",
            words(&[2, 0, 0, 0, 1, 48, 1, 0, far, 8, far, 8]),
        ),
        (
            "a header twice",
            words(&[2, 0, 0, 0, 1, 48, 2, 0, 4096, 1, 4096, 1, 4096, 1, 4096, 1]),
        ),
        ("the verdict beyond the memory", "(i32.const 65532)".into()),
        (
            "the verdict at the end of addresses",
            "(i32.const -4)".into(),
        ),
        ("the verdict out of line", "(i32.const 17)".into()),
    ];
    in_both(4, |host| {
        for (name, body) in &cases {
            let class = Guest::on_message(body).fault(host);
            assert_eq!(class, FaultClass::BadVerdict, "{name}");
        }
        for at in ["-16", "65535", "3"] {
            // After the first call, which is that for the configuration.
            let body = format!(
                "(if (global.get $count) (then (return (i32.const {at}))))
                 (global.set $count (i32.const 1))"
            );
            // Headers lie at multiples of four; nothing else would mind 3.
            let guest = Guest::default().with("REALLOC", &body);
            assert_eq!(guest.fault(host), FaultClass::BadVerdict, "room at {at}");
        }
    });
}

#[test]
fn text_that_is_not_utf8_is_a_fault() {
    let bad: [&[u8]; 4] = [
        &[0xff],
        &[0xc3],
        &[0xed, 0xa0, 0x80],
        &[0x61, 0xf4, 0x90, 0x80, 0x80],
    ];
    in_both(4, |host| {
        for bytes in bad {
            let mut body = String::new();
            for (index, byte) in bytes.iter().enumerate() {
                body += &format!(
                    "(i32.store8 (i32.const {}) (i32.const {byte})) ",
                    4096 + index
                );
            }
            let reason = format!(
                "{body} (call $block (i32.const 4096) (i32.const {}))",
                bytes.len()
            );
            assert_eq!(
                Guest::on_message(&reason).fault(host),
                FaultClass::BadVerdict
            );
            let header = words(&[2, 0, 0, 0, 1, 48, 1, 0, 4096, bytes.len() as u32, 4096, 0]);
            let header = Guest::on_message(&format!("{body} {header}"));
            assert_eq!(header.fault(host), FaultClass::BadVerdict);
        }
    });
}

#[test]
fn a_long_reason_is_cut() {
    let fill = |pages: u32, bytes: u32| {
        format!(
            r#"(drop (memory.grow (i32.const {pages})))
            (memory.fill (i32.const 65536) (i32.const 0x62) (i32.const {bytes}))
            (i32.store (i32.const {at}) (i32.const 0x62a9c362))
            (call $block (i32.const 65536) (i32.const {bytes}))"#,
            at = 65536 + MAX_REASON_BYTES - 2,
        )
    };
    in_both(4, |host| {
        let ten_megabytes = fill(160, 10 << 20);
        let more = Limits {
            memory_bytes: Limits::MAX_MEMORY_BYTES,
            cpu: std::time::Duration::from_secs(1),
            ..limits()
        };
        let module = Guest::on_message(&ten_megabytes).module(host);
        let mut instance = module.start(b"", &more).expect("starts");
        // The limits that `run` passes need not be those of the memory.
        let draft = arqon_policy::Draft::default();
        let message = arqon_policy::Message {
            tenant: "",
            room: "",
            user: "",
            role: "",
            draft: &draft,
        };
        let Ok(Verdict::Block(reason)) = instance.run(&message, &more).result else {
            panic!("no block");
        };
        // An é lay across the end.
        assert_eq!(reason, "b".repeat(MAX_REASON_BYTES - 1));
        assert!(reason.capacity() <= MAX_REASON_BYTES);
        // In 4 MiB of memory there is no such reason.
        assert_eq!(
            Guest::on_message(&ten_megabytes).fault(host),
            FaultClass::Memory
        );
    });
}

#[test]
fn a_verdict_takes_no_more_memory_than_the_policy_has() {
    // 50,000 headers, each of the same megabyte: 50 GB, were they all lifted.
    let headers = "(drop (memory.grow (i32.const 40)))
        (loop $again
          (i32.store offset=65536 (local.get $i) (i32.const 4096))
          (i32.store offset=65540 (local.get $i) (i32.const 1))
          (i32.store offset=65544 (local.get $i) (i32.const 1048576))
          (i32.store offset=65548 (local.get $i) (i32.const 1048576))
          (local.set $i (i32.add (local.get $i) (i32.const 16)))
          (br_if $again (i32.lt_u (local.get $i) (i32.const 800000))))";
    in_both(4, |host| {
        let answer = words(&[2, 0, 0, 0, 1, 65536, 50_000]);
        let guest = Guest::on_message(&format!("{headers} {answer}"));
        assert_eq!(guest.fault(host), FaultClass::BadVerdict);
    });
}
