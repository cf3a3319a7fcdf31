//! What is a policy, and what is not: hostile bytes, wrong worlds, features
//! that policies do not have, shapes that cost too much.

use arqon_policy::{
    Host, HostOptions, ShapeLimits,
    check::{Finding, Shape, check},
};
use proptest::prelude::*;

mod wasm;
use wasm::{Core, holding, leb, module, on_message, one_large_function, section, with_more};

fn checked(component: &[u8]) -> Result<Shape, Vec<Finding>> {
    let result = check(component, &ShapeLimits::default());
    if let Err(findings) = &result {
        assert!(!findings.is_empty());
        for finding in findings {
            assert!(!finding.code.is_empty() && !finding.hint.is_empty());
            assert!(finding.message.len() < 10_000, "{}", finding.message.len());
        }
    }
    result
}

fn codes(component: &[u8]) -> Vec<&'static str> {
    match checked(component) {
        Ok(_) => Vec::new(),
        Err(findings) => findings.iter().map(|finding| finding.code).collect(),
    }
}

#[track_caller]
fn refused(component: &[u8], code: &str) {
    let codes = codes(component);
    assert!(codes.contains(&code), "{code} is not in {codes:?}");
}

fn lints(core: &Core) -> Vec<&'static str> {
    let shape = checked(&core.component()).expect("a policy");
    shape.lints.iter().map(|lint| lint.code).collect()
}

/// A component from text, whatever it is.
fn component(wat: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {wat})")).expect("the text of the component")
}

#[test]
fn a_policy_has_a_shape() {
    let component = Core::default().component();
    let shape = checked(&component).expect("a policy");
    assert_eq!(shape.bytes, component.len());
    assert_eq!(shape.initial_memory_bytes, 65_536);
    assert!(shape.functions >= 3 && shape.core_modules >= 1);
    assert!(!shape.can_grow_memory && !shape.start_function);
    assert_eq!(shape.stack_bytes, Some(4096));
    assert_eq!(shape.imports[0], "arqon:policy/host@1.0.0");
    let lints: Vec<_> = shape.lints.iter().map(|lint| lint.code).collect();
    assert_eq!(lints, [] as [&str; 0]);
}

/// What real compilers write (Rust, C, Zig), as it is in the repository.
#[test]
fn the_components_of_the_repository_fit_and_leave_room() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("built");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "wasm") {
            continue;
        }
        let bytes = std::fs::read(&path).expect("the file");
        let shape = checked(&bytes).unwrap_or_else(|found| panic!("{}: {found:?}", path.display()));
        let lints: Vec<_> = shape.lints.iter().map(|lint| lint.code).collect();
        let expected: &[_] = if shape.can_grow_memory {
            &["grows_memory"]
        } else {
            &[]
        };
        assert_eq!(lints, expected, "{}: {shape:?}", path.display());
        let limits = ShapeLimits::default();
        assert!(shape.functions * 2 < limits.functions, "{shape:?}");
        assert!(
            shape.largest_function_bytes * 2 < limits.function_bytes,
            "{shape:?}"
        );
        seen += 1;
    }
    assert!(seen >= 5, "{seen} components");
}

// --- what is no component ---

#[test]
fn every_beginning_of_a_policy_is_refused() {
    let component = Core::default().component();
    for length in 0..component.len() {
        // What follows the last export are custom sections, which nobody needs.
        let only_custom_is_cut = component[length] == 0 && length > 1_000;
        let is_refused = checked(&component[..length]).is_err();
        assert!(is_refused || only_custom_is_cut, "{length} bytes");
    }
    refused(&component[..component.len() - 1], "truncated");
    refused(&component[..4], "truncated");
    refused(b"", "truncated");
}

#[test]
fn other_files_are_called_what_they_are() {
    refused(b"hello, world", "not_wasm");
    refused(&[0; 4096], "not_wasm");
    refused(&Core::default().bytes(), "core_module");
    let findings = checked(&Core::default().bytes()).expect_err("a core module");
    assert!(findings[0].hint.contains("arq policy build"));
    // Of a version that does not exist.
    refused(b"\0asm\x63\0\x01\0\0\0\0\0", "not_wasm");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert!(check(&bytes, &ShapeLimits::default()).is_err());
    }

    #[test]
    fn no_bytes_behind_a_header_make_it_panic(
        id in 0_u8..14,
        bytes in prop::collection::vec(any::<u8>(), 0..500),
    ) {
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        component.extend(section(id, &bytes));
        let _ = check(&component, &ShapeLimits::default());
        let core = module(&[(id, bytes)]);
        let _ = check(&holding(&core), &ShapeLimits::default());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// What passes the check compiles and loads: else a version would be pushed
    /// that no Shield can run.
    #[test]
    fn a_damaged_policy_is_refused_or_runs(
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut component = damageable().to_vec();
        for (at, byte) in damages {
            let at = at.index(component.len());
            component[at] = byte;
        }
        if check(&component, &ShapeLimits::default()).is_ok() {
            let loaded = host().load_component(&component);
            prop_assert!(loaded.is_ok(), "{:?}", loaded.err());
        }
    }
}

fn damageable() -> &'static [u8] {
    static COMPONENT: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    COMPONENT.get_or_init(|| {
        Core {
            more: r#"(table 4 funcref) (elem (i32.const 0) $f) (data (i32.const 100) "some data")
                (func $f (drop (memory.grow (i32.const 1))))"#
                .into(),
            ..Core::default()
        }
        .component()
    })
}

fn host() -> &'static Host {
    static HOST: std::sync::OnceLock<Host> = std::sync::OnceLock::new();
    HOST.get_or_init(|| Host::new(&HostOptions::default()).expect("a host"))
}

// --- the world ---

#[test]
fn a_component_without_the_exports_is_another_world() {
    refused(&component(""), "world_mismatch");
    let findings = checked(&component("")).expect_err("empty");
    assert_eq!(findings.len(), 2);
    refused(
        &component(
            r#"(core module $m (func (export "f")))
            (core instance $i (instantiate $m))
            (func $f (canon lift (core func $i "f")))
            (export "run" (func $f))"#,
        ),
        "world_mismatch",
    );
}

#[test]
fn wrong_signatures_are_named() {
    let component = component(
        r#"(core module $m (func (export "f")))
        (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (export "configure" (func $f))
        (export "on-message" (func $f))"#,
    );
    assert_eq!(codes(&component), ["wrong_signature"; 2]);
    let findings = checked(&component).expect_err("wrong");
    assert!(
        findings[0].message.contains("func()") && findings[0].message.contains("result<_,string>"),
        "{}",
        findings[0]
    );
}

#[test]
fn a_further_export_is_another_world() {
    let component = with_more(
        &Core::default().component(),
        r#"(core module $m (func (export "f")))"#,
    );
    // One more core module alone is no harm.
    checked(&component).expect("a policy");
    let mut component = Core::default().component();
    // Exports the first function once more, under another name.
    let mut export = vec![1, 0];
    export.extend(leb(5));
    export.extend(b"extra");
    export.extend([1, 0, 0]);
    component.extend(section(11, &export));
    refused(&component, "world_mismatch");
}

#[test]
fn wasi_is_refused_with_the_way_out() {
    let component = component(
        r#"(import "wasi:clocks/monotonic-clock@0.2.0" (instance (export "now" (func (result u64)))))"#,
    );
    refused(&component, "wasi_import");
    let findings = checked(&component).expect_err("wasi");
    assert!(findings[0].hint.contains("wasm32-unknown-unknown"));
}

#[test]
fn imports_that_no_policy_gets_are_refused() {
    for (import, code) in [
        (r#"(import "a:b/c" (instance))"#, "unknown_import"),
        (r#"(import "f" (func))"#, "unknown_import"),
        (
            r#"(import "arqon:policy/host@1.0.1" (instance))"#,
            "world_mismatch",
        ),
        (
            r#"(import "arqon:policy/host" (instance))"#,
            "world_mismatch",
        ),
        (
            r#"(import "arqon:policy/clock@1.0.0" (instance))"#,
            "world_mismatch",
        ),
        (
            r#"(import "arqon:policy/host@1.0.0" (instance (export "now" (func (result u64)))))"#,
            "unknown_import",
        ),
        (
            r#"(import "arqon:policy/host@1.0.0" (instance (export "log" (func (param "text" string)))))"#,
            "wrong_signature",
        ),
        (
            r#"(import "arqon:policy/host@1.0.0" (instance (export "r" (type (sub resource)))))"#,
            "world_mismatch",
        ),
        (
            r#"(import "arqon:policy/types@1.0.0" (instance (type $h (record (field "name" u8))) (export "header" (type (eq $h)))))"#,
            "world_mismatch",
        ),
        (
            r#"(import "arqon:policy/host@1.0.0" (func))"#,
            "world_mismatch",
        ),
    ] {
        refused(&component(import), code);
    }
}

#[test]
fn types_that_grow_without_end_are_not_written_out() {
    // Each refers twice to the one before: 2^30 fields.
    let mut text = String::from("(type $t0 (record (field \"a\" u8)))");
    for n in 1..30 {
        let before = n - 1;
        text.push_str(&format!(
            "(type $t{n} (variant (case \"a\" $t{before}) (case \"b\" $t{before})))"
        ));
    }
    text.push_str(r#"(import "f" (func (param "a" $t29)))"#);
    let wat = format!("(component {text})");
    let bytes = wat::parse_str(wat).expect("the text");
    assert!(checked(&bytes).is_err());
}

// --- features ---

#[test]
fn features_that_policies_lack_are_named() {
    for (core, code) in [
        ("(memory i64 1)", "memory64"),
        ("(table i64 1 funcref)", "memory64"),
        ("(memory 1 2 shared)", "threads"),
        (
            "(memory 1) (func (drop (i32.atomic.load (i32.const 0))))",
            "threads",
        ),
        ("(memory 1) (memory 1)", "multi_memory"),
        (
            "(func (param v128 v128 v128) (result v128) (f32x4.relaxed_madd (local.get 0) (local.get 1) (local.get 2)))",
            "relaxed_simd",
        ),
        ("(tag (param i32))", "exceptions"),
        ("(func (try_table (catch_all 0)))", "exceptions"),
        ("(type (struct (field i32)))", "gc"),
        ("(type $f (func)) (func (param (ref $f)))", "gc"),
        ("(func (param externref))", "gc"),
    ] {
        let bytes = component(&format!("(core module {core})"));
        refused(&bytes, code);
    }
}

#[test]
fn asynchronous_functions_are_refused() {
    let lifted = component(
        r#"(core module $m (func (export "f") (result i32) i32.const 0)
            (func (export "c") (param i32 i32 i32) (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $f async (canon lift (core func $i "f") async (callback (func $i "c"))))
        (export "on-message" (func $f))"#,
    );
    refused(&lifted, "component_async");
    refused(
        &component("(core func (canon task.cancel))"),
        "component_async",
    );
}

#[test]
fn tail_calls_and_vectors_are_allowed() {
    let core = Core {
        more: "(func $f (return_call $f))
            (func (drop (i8x16.splat (i32.const 1))))
            (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 9)))"
            .into(),
        ..Core::default()
    };
    let component = core.component();
    checked(&component).expect("a policy");
    host().load_component(&component).expect("a module");
}

// --- shapes ---

#[test]
fn large_functions_and_files_are_refused() {
    refused(&holding(&one_large_function(70_000)), "function_too_large");
    refused(&holding(&one_large_function(397_000)), "function_too_large");
    refused(&holding(&one_large_function(2_000_000)), "too_large");
    let generous = ShapeLimits {
        component_bytes: 4 << 20,
        ..ShapeLimits::default()
    };
    let findings = check(&holding(&one_large_function(2_000_000)), &generous).expect_err("large");
    assert_eq!(findings[0].code, "function_too_large");
}

/// A core module with so many functions that do nothing.
fn functions(count: usize) -> Vec<u8> {
    let mut declared = leb(count);
    declared.extend(vec![0; count]);
    let mut code = leb(count);
    code.extend([2, 0, 0x0b].repeat(count));
    module(&[(1, vec![1, 0x60, 0, 0]), (3, declared), (10, code)])
}

#[test]
fn many_functions_are_refused_wherever_they_are() {
    refused(&holding(&functions(50_000)), "too_many_functions");
    // No way round by more modules.
    let mut component = holding(&functions(6_000));
    component.extend(section(1, &functions(6_000)));
    refused(&component, "too_many_functions");
    // A count that the file does not hold.
    let mut declared = leb(4_000_000_000);
    declared.push(0);
    let lying = module(&[(1, vec![1, 0x60, 0, 0]), (3, declared)]);
    refused(&holding(&lying), "too_many_functions");
}

#[test]
fn many_locals_and_parameters_are_refused() {
    let locals = |text: &str| component(&format!("(core module (func {text}))"));
    refused(
        &locals(&format!("(local {})", "i32 ".repeat(1_001))),
        "too_many_locals",
    );
    // Fifty thousand in a few bytes.
    let body = [vec![1], leb(50_000), vec![0x7f, 0x0b]].concat();
    let code = [vec![1], leb(body.len()), body].concat();
    let short = module(&[(1, vec![1, 0x60, 0, 0]), (3, vec![1, 0]), (10, code)]);
    refused(&holding(&short), "too_many_locals");
    refused(
        &locals(&format!("(param {})", "i32 ".repeat(200))),
        "too_many_params",
    );
    let results = format!("(result {}) unreachable", "i32 ".repeat(20));
    refused(&locals(&results), "too_many_params");
}

#[test]
fn large_memories_and_tables_are_refused() {
    let core = |text: &str| component(&format!("(core module {text})"));
    refused(&core("(memory 257)"), "memory_too_large");
    refused(&core("(memory 65536)"), "memory_too_large");
    refused(&core("(table 10000000 funcref)"), "table_too_large");
    refused(
        &core("(table 6000 funcref) (table 6000 funcref)"),
        "table_too_large",
    );
    refused(&core(&"(table 1 funcref)".repeat(3)), "too_many_tables");
    refused(
        &core(&"(global i32 (i32.const 0))".repeat(1_001)),
        "too_many_globals",
    );
    // One memory each in two modules.
    let two = component("(core module (memory 1)) (core module (memory 1))");
    refused(&two, "multi_memory");
}

#[test]
fn data_outside_of_the_memory_is_refused() {
    let core = |text: &str| component(&format!("(core module {text})"));
    refused(
        &core(r#"(memory 1) (data (i32.const 65535) "ab")"#),
        "data_outside",
    );
    refused(
        &core(r#"(memory 1) (data (i32.const -1) "a")"#),
        "data_outside",
    );
    // Sparse, but within: allowed, and it compiles to a small image.
    let sparse = Core {
        memory: r#"(memory (export "memory") 64)"#.into(),
        more: r#"(data (i32.const 8192) "a") (data (i32.const 4000000) "b")"#.into(),
        ..Core::default()
    };
    let sparse = sparse.component();
    checked(&sparse).expect("a policy");
    host().load_component(&sparse).expect("a module");
    let many = r#"(data (i32.const 0) "")"#.repeat(20_001);
    refused(&core(&format!("(memory 1) {many}")), "too_many_items");
}

#[test]
fn nesting_is_no_way_round() {
    let policy = Core::default().component();
    refused(&component("(component)"), "nested_component");
    let mut holder = b"\0asm\x0d\0\x01\0".to_vec();
    holder.extend(section(4, &policy));
    refused(&holder, "nested_component");
    // Two thousand deep.
    let mut deep = b"\0asm\x0d\0\x01\0".to_vec();
    for _ in 0..2_000 {
        let inner = deep;
        deep = b"\0asm\x0d\0\x01\0".to_vec();
        deep.extend(section(4, &inner));
    }
    refused(&deep, "nested_component");
    let many = component(&"(component)".repeat(10_000));
    refused(&many, "nested_component");
    let modules = component(&"(core module)".repeat(9));
    refused(&modules, "too_many_modules");
    let instances = format!(
        "(core module $m) {}",
        "(core instance (instantiate $m))".repeat(5)
    );
    refused(&component(&instances), "too_many_instances");
    refused(&component(&"(type u8)".repeat(1_001)), "too_many_items");
}

/// The parser of component types recurses: 300,000 levels would end the process.
#[test]
fn types_that_are_nested_without_end_are_refused() {
    for kind in [0x41, 0x42] {
        let mut types = vec![1];
        for _ in 0..300_000 {
            types.extend([kind, 0x01, 0x01]);
        }
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        component.extend(section(7, &types));
        refused(&component, "deep_types");
        // And just within the length.
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        component.extend(section(7, &types[..20_000]));
        refused(&component, "deep_types");
    }
}

#[test]
fn a_file_that_breaks_a_rule_a_thousand_times_is_told_once() {
    let core = format!("(core module {})", "(memory i64 1)".repeat(90));
    assert_eq!(
        codes(&component(&core)),
        ["memory64", "multi_memory", "memory_too_large"][..2]
    );
}

// --- lints ---

#[test]
fn what_could_be_better_is_said() {
    let memory = |pages: u32| Core {
        memory: format!(r#"(memory (export "memory") {pages})"#),
        ..Core::default()
    };
    assert_eq!(lints(&memory(4)), [] as [&str; 0]);
    assert_eq!(lints(&memory(5)), ["large_memory"]);

    // As linkers lay out a stack of 1 MiB: first, and after the data.
    let stack_first = Core {
        globals: "(global $heap (mut i32) (i32.const 1048576))".into(),
        more: r#"(data (i32.const 1048576) "data")"#.into(),
        ..memory(17)
    };
    assert_eq!(lints(&stack_first), ["large_memory", "large_stack"]);
    let stack_last = Core {
        globals: "(global $heap (mut i32) (i32.const 1049600))".into(),
        more: r#"(data (i32.const 1020) "data")"#.into(),
        ..memory(17)
    };
    let shape = checked(&stack_last.component()).expect("a policy");
    assert_eq!(shape.stack_bytes, Some(1_048_576));
    assert_eq!(lints(&stack_last), ["large_memory", "large_stack"]);

    let grows = Core {
        on_message: on_message("(drop (memory.grow (i32.const 1))) (i32.const 32)"),
        ..Core::default()
    };
    assert_eq!(lints(&grows), ["grows_memory"]);
    let starts = Core {
        more: "(func $s) (start $s)".into(),
        ..Core::default()
    };
    assert_eq!(lints(&starts), ["start_function"]);
}

#[test]
fn names_that_were_left_in_are_counted() {
    let mut core = Core::default().bytes();
    let mut name = leb(10);
    name.extend(b".debug_str");
    name.extend([7; 2_000]);
    core.extend(section(0, &name));
    let component = arqon_policy::wrap::componentize(&core).expect("a component");
    let shape = checked(&component).expect("a policy");
    assert!(shape.debug_bytes >= 2_000);
    let lints: Vec<_> = shape.lints.iter().map(|lint| lint.code).collect();
    assert_eq!(lints, ["debug_names"]);
}
