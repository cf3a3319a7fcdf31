//! What a host takes for a policy.

use std::sync::OnceLock;

use arqon_policy::{Digest, Host, HostError, HostOptions, Limits};
use proptest::prelude::*;

use crate::guest::{Guest, WIT, componentize, in_both, limits, run};

#[test]
fn what_is_no_policy_does_not_load() {
    in_both(2, |host| {
        let core = Guest::default().core();
        assert!(matches!(
            host.load_component(&core),
            Err(HostError::Compile(_))
        ));
        assert!(host.load_component(b"").is_err());
        assert!(host.load_component(b"(component)").is_err());

        let empty = wat::parse_str("(component)").expect("text");
        let missing = host.load_component(&empty).expect_err("no exports");
        assert!(missing.to_string().contains("configure"), "{missing}");

        // The same core functions under other types.
        let wit = WIT.replace("list<u8>) -> result", "string) -> result");
        let typed = host.load_component(&componentize(core.clone(), &wit));
        assert!(matches!(typed, Err(HostError::Interface(_))), "{typed:?}");
        let wit = WIT.replace("    role: string,\n", "    rank: string,\n");
        let named = host.load_component(&componentize(core.clone(), &wit));
        assert!(matches!(named, Err(HostError::Interface(_))), "{named:?}");
        let wit = WIT.replace("arqon:policy@1.0.0", "arqon:policy@2.0.0");
        let text = core_text("arqon:policy/host@2.0.0");
        let version = host.load_component(&componentize(text, &wit));
        assert!(
            matches!(version, Err(HostError::Interface(_))),
            "{version:?}"
        );

        let clock = r#"(component
            (import "wasi:clocks/monotonic-clock@0.2.0"
                (instance (export "now" (func (result u64))))))"#;
        let clock = host.load_component(&wat::parse_str(clock).expect("text"));
        assert!(matches!(clock, Err(HostError::Interface(_))), "{clock:?}");

        for module in [
            "(memory i64 1)",
            "(memory 1 1 shared)",
            "(memory 1) (memory 1)",
            "(tag)",
            "(table 20000 funcref)",
            "(memory 300)",
        ] {
            let text =
                format!("(component (core module $m {module}) (core instance (instantiate $m)))");
            let Ok(bytes) = wat::parse_str(&text) else {
                continue;
            };
            let error = host.load_component(&bytes).expect_err(module);
            println!("{module}: {error}");
        }
        let many = "(component (core module $m (memory 1))
            (core instance (instantiate $m)) (core instance (instantiate $m)))";
        let error = host
            .load_component(&wat::parse_str(many).expect("text"))
            .expect_err("many");
        println!("many: {error}");
    });
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
    // SAFETY: made by `precompile` just now.
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
    if let Ok(module) = host().load_component(component)
        && let Ok(mut instance) = module.start(b"{}", &limits())
    {
        let _ = run(&mut instance, b"hello");
        assert!(instance.memory_bytes() <= Limits::default().memory_bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

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
