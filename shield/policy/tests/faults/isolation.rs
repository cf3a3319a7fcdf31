//! A new instance finds nothing of the one that had its slot before.

use std::time::Duration;

use arqon_policy::{Limits, Verdict};

use crate::guest::{Guest, in_both, limits};

/// Leaves marks everywhere, or looks for them: blocks if there are any.
const MARK: &str = "
    (global.set $count (i32.const 77))
    (table.set $table (i32.const 3) (ref.func $one))
    (drop (table.grow $table (ref.func $one) (i32.const 8)))
    (drop (memory.grow (i32.const 20)))
    (memory.fill (i32.const 0) (i32.const 0xaa)
        (i32.mul (memory.size) (i32.const 65536)))";
const SEEK: &str = "
    (if (i32.ne (global.get $count) (i32.const 0)) (then (return (i32.const 1))))
    (if (i32.eqz (ref.is_null (table.get $table (i32.const 3)))) (then (return (i32.const 2))))
    (if (i32.ne (table.size $table) (i32.const 4)) (then (return (i32.const 3))))
    (if (i32.ne (memory.size) (i32.const 1)) (then (return (i32.const 4))))
    (if (i32.ne (i32.load8_u (i32.const 4096)) (i32.const 110)) (then (return (i32.const 5))))
    (if (i32.lt_s (table.grow $table (ref.null func) (i32.const 8)) (i32.const 0))
        (then (return (i32.const 6))))
    (if (i32.eqz (ref.is_null (table.get $table (i32.const 11)))) (then (return (i32.const 7))))
    (if (i32.lt_s (memory.grow (i32.const 30)) (i32.const 0)) (then (return (i32.const 8))))
    ;; Past what Shield passed in.
    (local.set $i (i32.const 16384))
    (loop $again
      (if (i64.ne (i64.load (local.get $i)) (i64.const 0)) (then (return (i32.const 9))))
      (local.set $i (i32.add (local.get $i) (i32.const 8)))
      (br_if $again (i32.lt_u (local.get $i) (i32.mul (memory.size) (i32.const 65536)))))
    (i32.const 0)";

fn patient() -> Limits {
    Limits {
        cpu: Duration::from_secs(5),
        configure: Duration::from_secs(5),
        ..limits()
    }
}

#[test]
fn nothing_of_a_former_tenant_is_left() {
    let seek = format!("(func $seek (result i32) (local $i i32) {SEEK})");
    // The number of what was found, as a text.
    let tell = "(local.set $i (call $seek))
        (if (i32.eqz (local.get $i)) (then (return (call $allow))))
        (i32.store8 (i32.const 64) (i32.add (i32.const 48) (local.get $i)))
        (call $block (i32.const 64) (i32.const 1))";
    let seeker = Guest::on_message(tell).with("EXTRA", &seek);
    let marks = Guest::on_message(&format!("{MARK} (call $allow)"));
    let marks_and_fails = Guest::on_message(&format!("{MARK} unreachable"));
    let both = Guest::on_message(&format!(
        "(if (i32.eqz (local.get $payload_length)) (then {MARK} (return (call $allow)))) {tell}"
    ))
    .with("EXTRA", &seek);
    // One slot, so that it is the same one.
    in_both(1, |host| {
        let look = |guest: &Guest| {
            let mut instance = guest.module(host).start(b"", &patient()).expect("starts");
            run(&mut instance, b"look")
        };
        let spoil = |guest: &Guest| {
            let mut instance = guest.module(host).start(b"", &patient()).expect("starts");
            run(&mut instance, b"")
        };
        // It does find what is there: in an instance that is not new.
        let mut instance = both.module(host).start(b"", &patient()).expect("starts");
        assert_eq!(run(&mut instance, b"look"), Ok(Verdict::Allow));
        assert_eq!(run(&mut instance, b"look"), Ok(Verdict::Block("3".into())));
        drop(instance);
        for _ in 0..20 {
            assert!(spoil(&marks).is_ok());
            assert_eq!(look(&seeker), Ok(Verdict::Allow));
            assert!(spoil(&marks_and_fails).is_err());
            assert_eq!(look(&seeker), Ok(Verdict::Allow));
            // Of the same module too: its image may be kept in the slot.
            assert!(spoil(&both).is_ok());
            assert_eq!(look(&both), Ok(Verdict::Allow));
        }
    });
}

fn run(instance: &mut arqon_policy::Instance, payload: &'static [u8]) -> Result<Verdict, String> {
    let draft = arqon_policy::Draft {
        payload: bytes::Bytes::from_static(payload),
        ..Default::default()
    };
    let message = arqon_policy::Message {
        tenant: "acme",
        room: "lobby",
        user: "ann",
        role: "user",
        draft: &draft,
    };
    let ran = instance.run(&message, &patient());
    ran.result.map_err(|fault| fault.to_string())
}
