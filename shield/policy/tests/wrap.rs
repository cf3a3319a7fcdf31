//! Core modules become components, or one is told why not.

use arqon_policy::{
    ShapeLimits,
    check::check,
    wrap::{self, WrapError},
};

mod wasm;
use wasm::{Core, leb, section};

#[test]
fn a_module_that_fits_becomes_a_policy() {
    let component = Core::default().component();
    assert!(wrap::is_component(&component));
    let shape = check(&component, &ShapeLimits::default()).expect("a policy");
    assert_eq!(
        shape.imports,
        ["arqon:policy/host@1.0.0", "arqon:policy/types@1.0.0"]
    );
}

#[test]
fn the_import_is_not_needed() {
    let core = Core {
        imports: String::new(),
        ..Core::default()
    };
    check(&core.component(), &ShapeLimits::default()).expect("a policy");
}

#[test]
fn wrapping_is_reproducible() {
    let core = Core::default();
    assert_eq!(core.component(), core.component());
}

#[test]
fn what_is_no_module_is_refused() {
    let component = Core::default().component();
    assert_eq!(
        wrap::componentize(&component),
        Err(WrapError::AlreadyComponent)
    );
    assert_eq!(wrap::componentize(b"hello"), Err(WrapError::NotWasm(5)));
    assert_eq!(wrap::componentize(b""), Err(WrapError::NotWasm(0)));
    let mut core = Core::default().bytes();
    core.truncate(core.len() - 3);
    let error = wrap::componentize(&core).expect_err("half a module");
    assert_eq!(error.code(), "invalid");
}

#[test]
fn each_missing_export_is_named() {
    let without = |part: fn(&mut Core)| {
        let mut core = Core::default();
        part(&mut core);
        wrap::componentize(&core.bytes())
    };
    assert_eq!(
        without(|core| core.configure.clear()),
        Err(WrapError::MissingExport("configure"))
    );
    assert_eq!(
        without(|core| core.on_message.clear()),
        Err(WrapError::MissingExport("on-message"))
    );
    assert_eq!(
        without(|core| core.realloc.clear()),
        Err(WrapError::MissingExport("cabi_realloc"))
    );
    assert_eq!(
        without(|core| core.memory = "(memory 1)".into()),
        Err(WrapError::MissingExport("memory"))
    );
}

#[test]
fn a_wrong_export_is_named_with_its_type() {
    let core = Core {
        on_message: r#"(func (export "on-message") (param i32 i32) (result i64) (i64.const 0))"#
            .into(),
        ..Core::default()
    };
    let Err(WrapError::WrongExport { name, found, .. }) = wrap::componentize(&core.bytes()) else {
        panic!("the export fits");
    };
    assert_eq!(
        (name, found.as_str()),
        ("on-message", "(i32, i32) -> (i64)")
    );

    let core = Core {
        memory: r#"(memory 1) (func (export "memory"))"#.into(),
        ..Core::default()
    };
    let error = wrap::componentize(&core.bytes()).expect_err("no memory");
    assert_eq!(error.code(), "wrong_signature");

    let core = Core {
        configure: r#"(global (export "configure") i32 (i32.const 0))"#.into(),
        ..Core::default()
    };
    let error = wrap::componentize(&core.bytes()).expect_err("no function");
    assert_eq!(error.code(), "wrong_signature");
}

#[test]
fn wasi_and_unknown_imports_are_named() {
    let importing = |import: &str| {
        let core = Core {
            imports: import.into(),
            ..Core::default()
        };
        wrap::componentize(&core.bytes()).expect_err("an import that no policy gets")
    };
    let error =
        importing(r#"(import "wasi_snapshot_preview1" "clock_time_get" (func (param i32)))"#);
    assert_eq!(
        error,
        WrapError::Wasi("wasi_snapshot_preview1.clock_time_get".into())
    );
    assert!(error.hint().contains("wasm32-unknown-unknown"));
    let error = importing(r#"(import "env" "memcpy" (func (param i32 i32 i32) (result i32)))"#);
    assert_eq!(error.code(), "unknown_import");
    let error = importing(r#"(import "arqon:policy/host@1.0.0" "clock" (func))"#);
    assert_eq!(error.code(), "unknown_import");
    let error = importing(r#"(import "arqon:policy/host@1.0.0" "log" (func (param i64)))"#);
    assert_eq!(error.code(), "encode");
}

#[test]
fn features_that_policies_lack_are_refused() {
    let core = Core {
        memory: r#"(memory (export "memory") i64 1)"#.into(),
        ..Core::default()
    };
    assert_eq!(
        wrap::componentize(&core.bytes())
            .expect_err("64 bits")
            .code(),
        "invalid"
    );
}

#[test]
fn a_module_may_bring_the_description_of_its_world() {
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve
        .push_source("policy.wit", wrap::WIT)
        .expect("policy.wit");
    let world = resolve
        .select_world(&[package], Some("policy"))
        .expect("the world");
    let mut core = Core::default().bytes();
    wit_component::embed_component_metadata(
        &mut core,
        &resolve,
        world,
        wit_component::StringEncoding::UTF8,
    )
    .expect("metadata");
    let component = wrap::componentize(&core).expect("a component");
    check(&component, &ShapeLimits::default()).expect("a policy");
}

#[test]
fn a_description_of_another_world_is_not_believed() {
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve
        .push_source(
            "other.wit",
            "package a:b; world other { export configure: func(c: list<u8>) -> result<_, list<u8>>; }",
        )
        .expect("the text");
    let world = resolve.select_world(&[package], None).expect("the world");
    let core = Core {
        imports: String::new(),
        ..Core::default()
    };
    let mut core = core.bytes();
    wit_component::embed_component_metadata(
        &mut core,
        &resolve,
        world,
        wit_component::StringEncoding::UTF8,
    )
    .expect("metadata");
    let findings = match wrap::componentize(&core) {
        Ok(component) => check(&component, &ShapeLimits::default()).expect_err("another world"),
        Err(error) => return assert_eq!(error.code(), "encode"),
    };
    let codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
    assert!(codes.contains(&"wrong_signature"), "{findings:?}");
}

/// The encoder's parser recurses into the types; it must not get there.
#[test]
fn a_description_that_is_nested_without_end_is_refused() {
    let mut types = vec![1];
    for _ in 0..200_000 {
        types.extend([0x42, 0x01, 0x01]);
    }
    let mut description = b"\0asm\x0d\0\x01\0".to_vec();
    description.extend(section(7, &types));
    let mut custom = leb("component-type".len());
    custom.extend(b"component-type");
    custom.extend(description);
    let mut core = Core::default().bytes();
    core.extend(section(0, &custom));
    let error = wrap::componentize(&core).expect_err("a bomb");
    assert_eq!(error.code(), "invalid");
}

#[test]
fn every_error_has_a_hint() {
    let errors = [
        WrapError::AlreadyComponent,
        WrapError::NotWasm(1),
        WrapError::TooLarge(1),
        WrapError::Invalid(String::new()),
        WrapError::Wasi(String::new()),
        WrapError::UnknownImport {
            module: String::new(),
            name: String::new(),
        },
        WrapError::MissingExport("memory"),
        WrapError::MissingExport("configure"),
        WrapError::WrongExport {
            name: "configure",
            found: String::new(),
            expected: String::new(),
        },
        WrapError::Encode(String::new()),
    ];
    for error in errors {
        assert!(!error.hint().is_empty() && !error.code().is_empty());
    }
}
