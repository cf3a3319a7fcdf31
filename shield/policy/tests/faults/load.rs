//! What a host takes for a policy.

use std::sync::OnceLock;

use arqon_policy::{Digest, Host, HostError, HostOptions, Limits, wrap};
use proptest::prelude::*;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::guest::{Guest, in_both, limits, load, run};

#[test]
fn what_is_no_policy_does_not_load() {
    in_both(2, |host| {
        let core = Guest::default().core();
        assert!(matches!(load(host, &core), Err(HostError::Compile(_))));
        assert!(matches!(load(host, b""), Err(HostError::Compile(_))));
        assert!(matches!(
            host.load_component(b""),
            Err(HostError::Refused(_))
        ));
        assert!(host.load_component(&Guest::default().component()).is_ok());

        // The same core functions under other types.
        let wit = wrap::WIT.replace("list<u8>) -> result", "string) -> result");
        let typed = load(host, &componentize(core.clone(), &wit));
        assert!(matches!(typed, Err(HostError::Interface(_))), "{typed:?}");
        let wit = wrap::WIT.replace("    role: string,\n", "    rank: string,\n");
        let named = load(host, &componentize(core.clone(), &wit));
        assert!(matches!(named, Err(HostError::Interface(_))), "{named:?}");
        let wit = wrap::WIT.replace("arqon:policy@1.0.0", "arqon:policy@2.0.0");
        let text = core_text("arqon:policy/host@2.0.0");
        let version = load(host, &componentize(text, &wit));
        assert!(
            matches!(version, Err(HostError::Interface(_))),
            "{version:?}"
        );
    });
}

#[test]
fn the_engine_refuses_what_the_check_would() {
    let module = |fields: &str| {
        format!("(component (core module $m {fields}) (core instance (instantiate $m)))")
    };
    let twice = "(component (core module $m (memory 1))
        (core instance (instantiate $m)) (core instance (instantiate $m)))";
    let clock = r#"(component (import "wasi:clocks/monotonic-clock@0.2.0"
        (instance (export "now" (func (result u64))))))"#;
    let cases = [
        (module("(memory i64 1)"), "memory64"),
        (module("(memory 1 1 shared)"), "threads"),
        (module("(memory 1) (memory 1)"), "multiple memories"),
        (module("(tag)"), "exceptions"),
        (module("(table 1 externref)"), "gc types"),
        (module("(table 20000 funcref)"), "20000"),
        (module("(memory 300)"), "19660800"),
        (twice.into(), "2 Wasm linear memories"),
        (clock.into(), "wasi:clocks"),
        ("(component)".into(), "configure"),
    ];
    in_both(2, |host| {
        for (text, why) in &cases {
            let component = wat::parse_str(text).expect("text");
            let error = load(host, &component).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
            let checked = host.load_component(&component);
            assert!(
                matches!(checked, Err(HostError::Refused(_))),
                "{why}: {checked:?}"
            );
        }
    });
}

#[test]
fn the_engine_has_what_the_check_lets_through() {
    let extra = r#"
        (func $tail (return_call $tail))
        (func $simd (result v128) (i32x4.splat (i32.const 1)))
        (func $two (param i32) (result i32 i32) (local.get 0) (i32.extend8_s (local.get 0)))
        (func $saturate (param f32) (result i32) (i32.trunc_sat_f32_s (local.get 0)))
        (table $other 1 funcref)
        (global $sum i32 (i32.add (i32.const 1) (i32.const 2)))"#;
    let component = Guest::default().with("EXTRA", extra).component();
    in_both(2, |host| {
        let loaded = host.load_component(&component);
        assert!(loaded.is_ok(), "{loaded:?}");
    });
}

fn componentize(mut core: Vec<u8>, wit: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", wit).expect("WIT");
    let world = resolve.select_world(&[package], None).expect("world");
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).expect("metadata");
    let encoder = ComponentEncoder::default().module(&core);
    encoder.expect("module").encode().expect("component")
}

/// The template with another version of the interface it imports.
fn core_text(interface: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "{interface}" "log" (func (param i32 i32 i32)))
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "configure") (param i32 i32) (result i32) unreachable)
            (func (export "on-message")
                (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                unreachable))"#
    );
    wat::parse_str(text).expect("text")
}

#[test]
#[allow(unsafe_code)]
fn machine_code_loads_where_it_fits() {
    let dynamic = Host::new(&HostOptions::default()).expect("host");
    let fewer = HostOptions {
        slots: 1,
        ..HostOptions::default()
    };
    let same = Host::new(&fewer).expect("host");
    let guarded = Host::new(&HostOptions {
        guarded: true,
        ..fewer
    })
    .expect("host");
    let component = Guest::default().component();
    let digest = Digest::of(&component);
    let code = dynamic.precompile(&component).expect("compiles");
    // SAFETY: of what `precompile` made, all or a part that is refused.
    let load = |host: &Host, code: &[u8]| unsafe { host.load(digest, code) };
    assert_eq!(load(&dynamic, &code).expect("its own").digest(), digest);
    assert!(load(&same, &code).is_ok());
    assert!(matches!(load(&guarded, &code), Err(HostError::Load(_))));
    for end in [0, 1, code.len() / 2, code.len() - 1] {
        assert!(load(&dynamic, &code[..end]).is_err(), "{end}");
    }
    assert_eq!(dynamic.compatibility(), same.compatibility());
    assert_ne!(dynamic.compatibility(), guarded.compatibility());
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| Host::new(&HostOptions::default()).expect("host"))
}

fn try_it(component: &[u8]) {
    let checked = host().load_component(component);
    let compiled = load(host(), component);
    // The check may be stricter, never laxer.
    if let (Ok(_), Err(error)) = (&checked, &compiled) {
        panic!("checked, but {error}");
    }
    if let Ok(module) = compiled
        && let Ok(mut instance) = module.start(b"{}", &limits())
    {
        let _ = run(&mut instance, b"hello");
        assert!(instance.memory_bytes() <= Limits::default().memory_bytes);
    }
}

proptest! {
    #[test]
    fn any_bytes_load_or_do_not(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        try_it(&bytes);
        let with_header = [&b"\0asm\x0d\0\x01\0"[..], &bytes].concat();
        try_it(&with_header);
    }

    #[test]
    fn a_policy_with_some_bytes_changed_harms_nobody(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        static COMPONENT: OnceLock<Vec<u8>> = OnceLock::new();
        let mut bytes = COMPONENT
            .get_or_init(|| Guest::on_message("(call $grow_all) (call $allow)").component())
            .clone();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        try_it(&bytes);
    }
}
