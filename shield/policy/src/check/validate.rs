//! Validation with exactly the features that policies have.

use wasmparser::{BinaryReaderError, Validator, WasmFeatures, types::Types};

use super::Finding;

/// Features that are off, with their codes. Tried one after the other when
/// validation fails, to say which of them the component needs.
const REFUSED: [(WasmFeatures, &str); 10] = [
    (WasmFeatures::MEMORY64, "memory64"),
    (WasmFeatures::THREADS, "threads"),
    (WasmFeatures::MULTI_MEMORY, "multi_memory"),
    (WasmFeatures::RELAXED_SIMD, "relaxed_simd"),
    (WasmFeatures::EXCEPTIONS, "exceptions"),
    (WasmFeatures::LEGACY_EXCEPTIONS, "exceptions"),
    (
        WasmFeatures::GC
            .union(WasmFeatures::FUNCTION_REFERENCES)
            .union(WasmFeatures::GC_TYPES),
        "gc",
    ),
    (
        WasmFeatures::CM_ASYNC
            .union(WasmFeatures::CM_ASYNC_STACKFUL)
            .union(WasmFeatures::CM_MORE_ASYNC_BUILTINS)
            .union(WasmFeatures::CM_ERROR_CONTEXT),
        "component_async",
    ),
    (
        WasmFeatures::SHARED_EVERYTHING_THREADS.union(WasmFeatures::CM_THREADING),
        "threads",
    ),
    (
        WasmFeatures::WIDE_ARITHMETIC.union(WasmFeatures::CUSTOM_PAGE_SIZES),
        "unsupported_feature",
    ),
];

/// What WebAssembly a policy may use: version 2 with tail calls and extended
/// constants, in components of synchronous functions. No `externref`: the
/// engine has no garbage collector.
#[must_use]
pub fn features() -> WasmFeatures {
    WasmFeatures::WASM2.difference(WasmFeatures::GC_TYPES)
        | WasmFeatures::TAIL_CALL
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::COMPONENT_MODEL
}

pub(super) fn validate(component: &[u8]) -> Result<Types, Finding> {
    let error = match with(component, features()) {
        Ok(types) => return Ok(types),
        Err(error) => error,
    };
    for (feature, code) in REFUSED {
        let needs_it = match with(component, features() | feature) {
            Ok(_) => true,
            Err(other) => other.offset() != error.offset(),
        };
        if needs_it {
            return Err(Finding::new(
                code,
                format!("it needs a feature that policies do not have: {error}"),
                feature_hint(code),
            ));
        }
    }
    Err(Finding::new(
        "invalid",
        format!("it is not valid: {error}"),
        "the file is damaged or its compiler is at fault; build it anew",
    ))
}

fn with(component: &[u8], features: WasmFeatures) -> Result<Types, BinaryReaderError> {
    Validator::new_with_features(features).validate_all(component)
}

pub(super) fn feature_hint(code: &str) -> &'static str {
    match code {
        "memory64" => "build for wasm32, not for wasm64",
        "threads" => {
            "build without threads, atomics and shared memory: an instance judges one message at a time"
        }
        "multi_memory" => "a policy has one memory",
        "relaxed_simd" => "build without relaxed-simd: a verdict must not depend on the processor",
        "exceptions" => "build without exceptions (Rust: panic=abort, C++: -fno-exceptions)",
        "gc" => "languages that need garbage collection of the host are not supported",
        "component_async" => "both functions of a policy are synchronous",
        _ => "build for plain wasm32",
    }
}
