//! Says whether bytes are a policy, without compiling or running anything.
//!
//! The bytes are hostile. The order matters: first what is counted while the
//! file is read once ([`walk`]), which bounds the work of everything after it;
//! then validation; then the types of the world.

mod validate;
mod walk;
mod world;

use std::{borrow::Cow, fmt};

pub use validate::features;
pub(crate) use walk::deep_types;

use crate::ShapeLimits;

/// What to do about WASI, wherever it is met.
pub(crate) const WASI_HINT: &str = "policies have no WASI: build for wasm32-unknown-unknown (Zig: wasm32-freestanding), not for wasm32-wasi; in Rust leave out std::fs, std::time, std::env and println!, in C link with -nostdlib; write log lines with the host's `log`";

/// A component that fits, and what there is to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of the component.
    pub bytes: usize,
    /// Core modules in it: the policy, and what the encoder adds.
    pub core_modules: usize,
    /// Functions in all of them.
    pub functions: usize,
    /// Bytes of the largest function's body.
    pub largest_function_bytes: usize,
    /// Bytes of memory at the start.
    pub initial_memory_bytes: u64,
    /// Whether any function can grow the memory.
    pub can_grow_memory: bool,
    /// Bytes of the stack within the memory, as far as that can be told.
    pub stack_bytes: Option<u64>,
    /// Whether code runs at instantiation, before `configure`.
    pub start_function: bool,
    /// Bytes of names and other debug information.
    pub debug_bytes: usize,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// What could be better. None of it is an error.
    pub lints: Vec<Finding>,
}

/// One thing that is wrong, or could be better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable.
    pub code: &'static str,
    /// What was found.
    pub message: Cow<'static, str>,
    /// What to do about it.
    pub hint: &'static str,
}

impl Finding {
    pub(crate) fn new(
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
        hint: &'static str,
    ) -> Self {
        Self {
            code,
            message: message.into(),
            hint,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.code, self.message, self.hint)
    }
}

/// Checks a component against the world `arqon:policy/policy@1.0.0` and the limits.
///
/// # Errors
///
/// All that is wrong with it, as far as it could be read; never empty.
pub fn check(component: &[u8], limits: &ShapeLimits) -> Result<Shape, Vec<Finding>> {
    recognise(component, limits).map_err(|finding| vec![finding])?;
    let walked = walk::walk(component, limits)?;
    let types = validate::validate(component).map_err(|finding| vec![finding])?;
    let imports = world::fits(types.as_ref(), &walked.imports, &walked.exports)?;

    let mut shape = Shape {
        bytes: component.len(),
        core_modules: walked.core_modules,
        functions: walked.functions,
        largest_function_bytes: walked.largest_function_bytes,
        initial_memory_bytes: walked.initial_memory_bytes,
        can_grow_memory: walked.can_grow_memory,
        stack_bytes: walked.stack_bytes(),
        start_function: walked.start_function,
        debug_bytes: walked.debug_bytes,
        imports,
        lints: Vec::new(),
    };
    shape.lints = lints(&shape);
    Ok(shape)
}

fn recognise(bytes: &[u8], limits: &ShapeLimits) -> Result<(), Finding> {
    if bytes.len() < 8 && b"\0asm".starts_with(&bytes[..bytes.len().min(4)]) {
        return Err(Finding::new(
            "truncated",
            format!("the file ends after {} bytes", bytes.len()),
            walk::TRUNCATED_HINT,
        ));
    }
    if crate::wrap::is_core_module(bytes) {
        return Err(Finding::new(
            "core_module",
            "this is a core module, not a component",
            "`arq policy build` wraps it into a component",
        ));
    }
    if !crate::wrap::is_component(bytes) {
        return Err(Finding::new(
            "not_wasm",
            format!("these {} bytes are no WebAssembly component", bytes.len()),
            "give the .wasm file that `arq policy build` wrote",
        ));
    }
    if bytes.len() > limits.component_bytes {
        return Err(Finding::new(
            "too_large",
            format!(
                "the component has {} bytes, more than {}",
                bytes.len(),
                limits.component_bytes
            ),
            "optimise for size, strip debug information and names; interpreters (Python, JavaScript) do not fit",
        ));
    }
    Ok(())
}

/// More than this at the start costs each new instance tens of microseconds.
const LARGE_MEMORY: u64 = 256 << 10;
/// Fewer bytes of names are what the tools themselves add.
const MANY_NAMES: usize = 1 << 10;

fn lints(shape: &Shape) -> Vec<Finding> {
    let mut lints = Vec::new();
    if shape.initial_memory_bytes > LARGE_MEMORY {
        lints.push(Finding::new(
            "large_memory",
            format!(
                "the memory has {} KiB at the start; each new instance pays for them",
                shape.initial_memory_bytes >> 10
            ),
            "link with a small stack (-zstack-size=32768, Zig: --stack 32768) and keep large tables out of static data",
        ));
    }
    if let Some(stack) = shape.stack_bytes.filter(|stack| *stack > LARGE_MEMORY) {
        lints.push(Finding::new(
            "large_stack",
            format!("the stack has {} KiB", stack >> 10),
            "link with -zstack-size=32768 (Zig: --stack 32768)",
        ));
    }
    if shape.can_grow_memory {
        lints.push(Finding::new(
            "grows_memory",
            "it can grow its memory while it runs",
            "an allocator does that; it is bounded by the binding's limit, and an instance that grew keeps what it has",
        ));
    }
    if shape.start_function {
        lints.push(Finding::new(
            "start_function",
            "code runs at instantiation, before configure",
            "build it as a library (no entry point); what must be prepared belongs into configure",
        ));
    }
    if shape.debug_bytes > MANY_NAMES {
        lints.push(Finding::new(
            "debug_names",
            format!(
                "{} bytes of names and debug information are in it",
                shape.debug_bytes
            ),
            "strip them (-C strip=symbols, -Wl,-s, Zig: -fstrip)",
        ));
    }
    lints
}
