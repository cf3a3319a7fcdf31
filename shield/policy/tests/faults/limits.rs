//! Time, stack, memory, slots, log lines.

use arqon_policy::{
    FaultClass, Host, Limits, LogLevel, MAX_LOG_BYTES, MAX_LOG_LINES, Module, Verdict,
};

use crate::guest::{ALLOW, Guest, in_both, limits, run};

const LOOP: &str = "(loop $for_ever (br $for_ever))";

#[test]
fn a_loop_ends_wherever_it_is() {
    in_both(4, |host| {
        let forever = format!("{LOOP} {ALLOW}");
        assert_eq!(Guest::on_message(&forever).fault(host), FaultClass::Timeout);
        let after = Guest::default().with("AFTER", LOOP);
        assert_eq!(after.fault(host), FaultClass::Timeout);
        // Only for a message: its strings are the first to come with length 4.
        let condition = format!("(if (i32.eq (local.get $size) (i32.const 4)) (then {LOOP}))");
        let realloc = Guest::default().with("REALLOC", &condition);
        assert_eq!(realloc.fault(host), FaultClass::Timeout);

        for guest in [
            Guest::default().with("CONFIGURE", LOOP),
            Guest::default().with("REALLOC", LOOP),
            Guest::default().with("EXTRA", &format!("(func $start {LOOP}) (start $start)")),
        ] {
            let detail = guest.refusal(host);
            assert!(detail.starts_with("timeout: "), "{detail}");
        }
    });
}

#[test]
fn a_good_policy_suffers_from_no_other() {
    in_both(8, |host| {
        let bad = Guest::on_message(&format!("{LOOP} {ALLOW}")).module(host);
        let good = Guest::default().module(host);
        let start = |module: &Module| module.start(b"", &limits()).expect("starts");
        std::thread::scope(|scope| {
            // More of them than cores, so that the good one waits for a core.
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let result = run(&mut start(&bad), b"").result;
                        assert_eq!(result.expect_err("loops").class, FaultClass::Timeout);
                    }
                });
            }
            scope.spawn(|| {
                let mut instance = start(&good);
                for _ in 0..10_000 {
                    assert_eq!(run(&mut instance, b"").result, Ok(Verdict::Allow));
                }
            });
        });
    });
}

#[test]
fn a_run_that_is_overdue_costs_cpu_time() {
    in_both(4, |host| {
        let guest = Guest::on_message(&format!("{LOOP} {ALLOW}"));
        let mut instance = guest.start(host).expect("starts");
        let ran = run(&mut instance, b"");
        assert!(ran.cost >= limits().cpu, "{:?}", ran.cost);
    });
}

#[test]
fn traps_are_traps() {
    let kinds = [
        "unreachable",
        "(i32.div_u (i32.const 1) (local.get $i))",
        "(i32.div_s (i32.const 0x80000000) (i32.sub (local.get $i) (i32.const 1)))",
        "(i32.trunc_f64_s (f64.const nan))",
        "(i32.load (i32.const 0x7fffffff))",
        "(i32.load offset=0xffffffff (i32.const -1))",
        "(i32.store (i32.const -4) (i32.const 1)) (call $allow)",
        "(memory.fill (i32.const 0) (i32.const 1) (i32.const -1)) (call $allow)",
        "(call_indirect (type $number) (i32.const 0))",
        "(call_indirect (type $number) (i32.const 99))",
        "(table.set $table (i32.const 0) (ref.func $one))
         (call_indirect (type $nothing) (i32.const 0)) (call $allow)",
    ];
    in_both(4, |host| {
        for kind in kinds {
            assert_eq!(
                Guest::on_message(kind).fault(host),
                FaultClass::Trap,
                "{kind}"
            );
        }
        for place in ["AFTER", "REALLOC"] {
            let once = "(if (i32.eqz (global.get $count))
                (then (global.set $count (i32.const 1))) (else unreachable))";
            // The first call of realloc is that for the configuration.
            let body = if place == "AFTER" {
                "unreachable"
            } else {
                once
            };
            let guest = Guest::default().with(place, body);
            assert_eq!(guest.fault(host), FaultClass::Trap, "{place}");
        }
        let start = Guest::default().with("EXTRA", "(func $start unreachable) (start $start)");
        let segment = Guest::default().with("EXTRA", r#"(data (i32.const 65530) "too far")"#);
        for guest in [
            start,
            segment,
            Guest::default().with("CONFIGURE", "unreachable"),
        ] {
            let detail = guest.refusal(host);
            assert!(detail.starts_with("trap: "), "{detail}");
        }
    });
}

#[test]
fn recursion_ends() {
    let recurse = "(drop (call $recurse (i32.const 0)))";
    in_both(4, |host| {
        let guest = Guest::on_message(&format!("{recurse} {ALLOW}"));
        assert_eq!(guest.fault(host), FaultClass::Stack);
        let detail = Guest::default().with("CONFIGURE", recurse).refusal(host);
        assert!(detail.starts_with("stack: "), "{detail}");
    });
}

#[test]
fn memory_is_bounded() {
    in_both(4, |host| {
        let fails = Guest::on_message("(call $grow_all) unreachable");
        assert_eq!(fails.fault(host), FaultClass::Memory);

        let goes_on = Guest::on_message("(call $grow_all) (call $allow)");
        let mut instance = goes_on.start(host).expect("starts");
        assert_eq!(instance.memory_bytes(), 65536);
        assert_eq!(run(&mut instance, b"").result, Ok(Verdict::Allow));
        assert_eq!(instance.memory_bytes(), limits().memory_bytes);
        drop(instance);

        // A refusal is of its own call: what fails later fails of something else.
        let later = Guest::on_message(
            "(if (global.get $count) (then unreachable))
             (global.set $count (i32.const 1)) (call $grow_all) (call $allow)",
        );
        let mut instance = later.start(host).expect("starts");
        assert_eq!(run(&mut instance, b"").result, Ok(Verdict::Allow));
        let fault = run(&mut instance, b"").result.expect_err("second");
        assert_eq!(fault.class, FaultClass::Trap);
        drop(instance);

        let endless = Guest::on_message("(loop $again (call $grow_all) (br $again)) unreachable");
        assert_eq!(endless.fault(host), FaultClass::Timeout);
        let table = Guest::on_message(
            "(if (i32.eq (i32.const -1)
                (table.grow $table (ref.null func) (i32.const 20000))) (then unreachable))
             (call $allow)",
        );
        assert_eq!(table.fault(host), FaultClass::Memory);

        let configure = Guest::default().with("CONFIGURE", "(call $grow_all) unreachable");
        let at_once = Guest::default().with("PAGES", "65");
        for guest in [configure, at_once] {
            let detail = guest.refusal(host);
            assert!(detail.starts_with("memory: "), "{detail}");
        }
        let more = Limits {
            memory_bytes: Limits::MAX_MEMORY_BYTES,
            ..limits()
        };
        let big = Guest::default().with("PAGES", "65").module(host);
        let instance = big.start(b"", &more).expect("fits now");
        assert_eq!(instance.memory_bytes(), 65 * 65536);
    });
}

#[test]
fn a_full_host_says_so_and_recovers() {
    in_both(256, |host: &Host| {
        let module: Module = Guest::default().module(host);
        let start = || module.start(b"", &limits());
        let mut alive: Vec<_> = (0..256).map(|_| start().expect("a slot")).collect();
        assert_eq!(host.instances(), 256);
        for _ in 0..3 {
            let fault = start().map(drop).expect_err("full");
            assert_eq!(fault.class, FaultClass::NoSlot);
        }
        for instance in &mut alive {
            assert_eq!(run(instance, b"").result, Ok(Verdict::Allow));
        }
        alive.truncate(255);
        let mut one = start().expect("one is free");
        assert_eq!(run(&mut one, b"").result, Ok(Verdict::Allow));
        assert_eq!(
            start().map(drop).expect_err("full").class,
            FaultClass::NoSlot
        );
        // A start that fails gives its slot back.
        drop(one);
        let refuses = Guest::default().with("CONFIGURE", "unreachable");
        for _ in 0..3 {
            refuses.refusal(host);
        }
        assert_eq!(host.instances(), 255);
    });
}

#[test]
fn configure_may_refuse() {
    let refuse = r#"
        (i32.store (i32.const 48) (i32.const 1))
        (i32.store (i32.const 52) (i32.const 4096))
        (i32.store (i32.const 56) (i32.const 16))
        (return (i32.const 48))"#;
    in_both(4, |host| {
        let guest = Guest::default().with("CONFIGURE", refuse);
        assert_eq!(guest.refusal(host), "not in this room");
        // Here only if it is not the empty configuration.
        let body = format!("(if (local.get $length) (then {refuse}))");
        let module = Guest::default().with("CONFIGURE", &body).module(host);
        assert!(module.start(b"", &limits()).is_ok());
        assert!(module.start(b"x", &limits()).is_err());

        let illegal = "(i32.store (i32.const 48) (i32.const 2)) (return (i32.const 48))";
        let detail = Guest::default().with("CONFIGURE", illegal).refusal(host);
        assert!(detail.starts_with("bad_verdict: "), "{detail}");
    });
}

#[test]
fn log_lines_are_few_and_short() {
    let write = "(local.set $i (i32.const 0))
        (loop $again
          (call $log (i32.const 2) (i32.const 4096) (i32.const 1000))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $again (i32.lt_u (local.get $i) (i32.const 100))))
        (call $allow)";
    let hello = "(call $log (i32.const 0) (i32.const 4096) (i32.const 6))";
    in_both(4, |host| {
        let guest = Guest::on_message(write).with("CONFIGURE", hello);
        let mut instance = guest.start(host).expect("starts");
        let lines = instance.take_logs();
        assert_eq!(lines.len(), 1);
        assert_eq!(
            (lines[0].level, &*lines[0].text),
            (LogLevel::Debug, "not in")
        );
        for _ in 0..2 {
            assert_eq!(run(&mut instance, b"").result, Ok(Verdict::Allow));
        }
        let lines = instance.take_logs();
        assert_eq!(lines.len(), MAX_LOG_LINES);
        assert!(lines.iter().all(|line| line.level == LogLevel::Warn));
        assert!(lines.iter().all(|line| line.text.len() == MAX_LOG_BYTES));
        assert!(instance.take_logs().is_empty());
        drop(instance);

        // A level that is none, a text beyond the memory, a text that is none.
        for (call, class) in [
            (
                "(i32.const 4) (i32.const 4096) (i32.const 1)",
                FaultClass::BadVerdict,
            ),
            (
                "(i32.const 0) (i32.const 65530) (i32.const 99)",
                FaultClass::BadVerdict,
            ),
            (
                "(i32.const 0) (i32.const 0) (i32.const -1)",
                FaultClass::BadVerdict,
            ),
            (
                "(i32.const 0) (i32.const 4000) (i32.const 1)",
                FaultClass::BadVerdict,
            ),
        ] {
            let body =
                format!("(i32.store (i32.const 4000) (i32.const 255)) (call $log {call}) {ALLOW}");
            assert_eq!(Guest::on_message(&body).fault(host), class, "{call}");
        }
    });
}
