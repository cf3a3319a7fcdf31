//! The policies that come with ArqonBus, and what new ones begin with.

/// A ready-made policy.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// What it is called.
    pub name: &'static str,
    /// Of its sources.
    pub version: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// The component, as scripts/policies built it.
    pub component: &'static [u8],
}

/// A file of a project: its path with `/`, and its text, where `POLICY_NAME`
/// stands for the name.
pub type TemplateFile = (&'static str, &'static str);

const SHIPPED: [Shipped; 3] = [
    Shipped {
        name: "blocklist",
        version: "1.0.0",
        about: "blocks messages with words or patterns of a list",
        component: include_bytes!("../built/blocklist.wasm"),
    },
    Shipped {
        name: "redact",
        version: "1.0.0",
        about: "takes e-mail addresses, card numbers and more out of messages",
        component: include_bytes!("../built/redact.wasm"),
    },
    Shipped {
        name: "size-and-shape",
        version: "1.0.0",
        about: "blocks messages that are too long, of a wrong content type, or broken JSON",
        component: include_bytes!("../built/size-and-shape.wasm"),
    },
];

/// All of them, by name.
#[must_use]
pub fn shipped() -> &'static [Shipped] {
    &SHIPPED
}

const CASES: TemplateFile = ("cases.toml", include_str!("../templates/cases.toml"));
const HEADER: TemplateFile = ("policy.h", include_str!("../guest-c/policy.h"));
const GLUE: TemplateFile = ("policy.c", include_str!("../guest-c/policy.c"));
const RUNTIME_HEADER: TemplateFile = ("runtime.h", include_str!("../guest-c/runtime.h"));
const RUNTIME: TemplateFile = ("runtime.c", include_str!("../guest-c/runtime.c"));

const RUST: &[TemplateFile] = &[
    ("Cargo.toml", include_str!("../templates/rust/package.toml")),
    (
        ".cargo/config.toml",
        include_str!("../templates/rust/cargo-config.toml"),
    ),
    ("src/lib.rs", include_str!("../templates/rust/src/lib.rs")),
    ("README.md", include_str!("../templates/rust/README.md")),
    (".gitignore", "/target/\n/*.wasm\n"),
    CASES,
    ("sdk/guest/Cargo.toml", include_str!("../guest/Cargo.toml")),
    (
        "sdk/guest/src/bindings.rs",
        include_str!("../guest/src/bindings.rs"),
    ),
    ("sdk/guest/src/lib.rs", include_str!("../guest/src/lib.rs")),
    (
        "sdk/guest/src/logging.rs",
        include_str!("../guest/src/logging.rs"),
    ),
    (
        "sdk/guest/src/message.rs",
        include_str!("../guest/src/message.rs"),
    ),
    (
        "sdk/guest/src/state.rs",
        include_str!("../guest/src/state.rs"),
    ),
    ("sdk/wit/policy.wit", include_str!("../wit/policy.wit")),
];

const C: &[TemplateFile] = &[
    ("main.c", include_str!("../templates/c/main.c")),
    HEADER,
    GLUE,
    RUNTIME_HEADER,
    RUNTIME,
    ("README.md", include_str!("../templates/c/README.md")),
    (".gitignore", "/*.wasm\n"),
    CASES,
];

const ZIG: &[TemplateFile] = &[
    ("main.zig", include_str!("../templates/zig/main.zig")),
    ("policy.zig", include_str!("../guest-c/policy.zig")),
    HEADER,
    GLUE,
    RUNTIME_HEADER,
    RUNTIME,
    ("README.md", include_str!("../templates/zig/README.md")),
    (".gitignore", "/*.wasm\n"),
    CASES,
];

/// What a new policy in `rust`, `c` or `zig` begins with: a list of words that
/// are blocked, complete, with cases. No files for another language.
#[must_use]
pub fn template(lang: &str) -> &'static [TemplateFile] {
    match lang {
        "rust" => RUST,
        "c" => C,
        "zig" => ZIG,
        _ => &[],
    }
}
