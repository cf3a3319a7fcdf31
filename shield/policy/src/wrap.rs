//! Makes a component of a core module, with nothing but this program: the
//! module's author needs a compiler for `wasm32-unknown-unknown`, no more.

use wasmparser::{Parser, Payload, TypeRef, ValType, Validator, types::EntityType};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::check;

/// The interface of policies, as text.
pub const WIT: &str = include_str!("../wit/policy.wit");

/// The module that a core module imports `log` from.
pub const HOST_MODULE: &str = "arqon:policy/host@1.0.0";

/// Longest core module that is looked at. What comes out is checked anew.
const MAX_CORE_BYTES: usize = 16 << 20;

/// The core exports that the world needs, with their canonical signatures.
/// `on-message` has twelve flat parameters: four strings and two lists.
const EXPORTS: [(&str, usize, usize); 2] = [("configure", 2, 1), ("on-message", 12, 1)];

/// Why a core module could not become a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// It is a component already.
    #[error("this is a component already")]
    AlreadyComponent,
    /// It does not begin like a core module.
    #[error("these {0} bytes are no WebAssembly")]
    NotWasm(usize),
    /// Far too long.
    #[error("the module has {0} bytes, more than {MAX_CORE_BYTES}")]
    TooLarge(usize),
    /// It is not valid, or needs what policies may not use.
    #[error("the module is not valid: {0}")]
    Invalid(String),
    /// It asks for WASI.
    #[error("the module imports `{0}` of WASI")]
    Wasi(String),
    /// It imports something that Shield does not have.
    #[error("the module imports `{name}` of `{module}`, which no policy gets")]
    UnknownImport {
        /// Of this module.
        module: String,
        /// Under this name.
        name: String,
    },
    /// An export is missing.
    #[error("the module does not export `{0}`")]
    MissingExport(&'static str),
    /// An export has the wrong type.
    #[error("the module's export `{name}` is {found}, not {expected}")]
    WrongExport {
        /// The export.
        name: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// The encoder refuses it for another reason.
    #[error("the module cannot be made a component: {0}")]
    Encode(String),
}

impl WrapError {
    /// A stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::AlreadyComponent => "already_component",
            Self::NotWasm(_) => "not_wasm",
            Self::TooLarge(_) => "too_large",
            Self::Invalid(_) => "invalid",
            Self::Wasi(_) => "wasi_import",
            Self::UnknownImport { .. } => "unknown_import",
            Self::MissingExport(_) => "missing_export",
            Self::WrongExport { .. } => "wrong_signature",
            Self::Encode(_) => "encode",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::AlreadyComponent => "nothing to do: check and push it as it is",
            Self::NotWasm(_) => {
                "give the .wasm file that the compiler wrote; text (.wat) is to be parsed first"
            }
            Self::TooLarge(_) => {
                "build with optimisation for size, and strip debug information and names"
            }
            Self::Invalid(_) => {
                "build for wasm32-unknown-unknown (wasm32-freestanding) without threads, exceptions, memory64 and relaxed SIMD"
            }
            Self::Wasi(_) => check::WASI_HINT,
            Self::UnknownImport { .. } => {
                "a policy imports nothing but `log` of `arqon:policy/host@1.0.0`; a C function that is only declared becomes an import of `env`"
            }
            Self::MissingExport("memory" | "cabi_realloc") => {
                "the generated header and the Rust crate arqon-policy-guest export it; link with --export-memory (Zig: -rdynamic)"
            }
            Self::MissingExport(_) => {
                "export `configure` and `on-message` by these names (C: export_name, Zig: @export); `arq policy new` makes a project that does"
            }
            Self::WrongExport { .. } => {
                "the canonical signature follows from policy.wit; use the generated header or the Rust crate arqon-policy-guest"
            }
            Self::Encode(_) => "compare with the project that `arq policy new` makes",
        }
    }
}

/// Whether these bytes begin like a component.
#[must_use]
pub fn is_component(bytes: &[u8]) -> bool {
    Parser::is_component(bytes)
}

/// Whether these bytes begin like a core module.
#[must_use]
pub fn is_core_module(bytes: &[u8]) -> bool {
    Parser::is_core_wasm(bytes)
}

/// Wraps a core module into a component of the world `arqon:policy/policy@1.0.0`.
///
/// The module may carry the description of its world (`component-type`, as
/// wit-bindgen writes it); if it does not, that of policies is added.
///
/// # Errors
///
/// If it is no module, or does not fit the world.
pub fn componentize(core: &[u8]) -> Result<Vec<u8>, WrapError> {
    if is_component(core) {
        return Err(WrapError::AlreadyComponent);
    }
    if !is_core_module(core) {
        return Err(WrapError::NotWasm(core.len()));
    }
    if core.len() > MAX_CORE_BYTES {
        return Err(WrapError::TooLarge(core.len()));
    }
    fits(core)?;

    let mut core = core.to_vec();
    if !has_metadata(&core)? {
        embed(&mut core)?;
    }
    ComponentEncoder::default()
        .validate(true)
        .module(&core)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|e| WrapError::Encode(format!("{e:#}")))
}

fn embed(core: &mut Vec<u8>) -> Result<(), WrapError> {
    let mut resolve = Resolve::default();
    resolve
        .push_source("policy.wit", WIT)
        .and_then(|package| resolve.select_world(&[package], Some("policy")))
        .and_then(|world| embed_component_metadata(core, &resolve, world, StringEncoding::UTF8))
        .map_err(|e| WrapError::Encode(format!("{e:#}")))
}

fn has_metadata(core: &[u8]) -> Result<bool, WrapError> {
    let mut has = false;
    for payload in Parser::new(0).parse_all(core) {
        let Ok(Payload::CustomSection(section)) = payload else {
            continue;
        };
        if section.name().starts_with("component-type") {
            has = true;
            // The encoder parses it, and recurses into its types.
            if check::deep_types(section.data()) {
                return Err(WrapError::Invalid(
                    "the description of its world is nested too deeply".to_owned(),
                ));
            }
        }
    }
    Ok(has)
}

/// Says what does not fit in words of the module; the encoder would say it in
/// words of the component model.
fn fits(core: &[u8]) -> Result<(), WrapError> {
    let types = Validator::new_with_features(check::features())
        .validate_all(core)
        .map_err(|e| WrapError::Invalid(e.to_string()))?;
    for payload in Parser::new(0).parse_all(core) {
        let Ok(Payload::ImportSection(imports)) = payload else {
            continue;
        };
        for import in imports.into_imports() {
            let import = import.map_err(|e| WrapError::Invalid(e.to_string()))?;
            judge_import(import.module, import.name, &import.ty)?;
        }
    }

    let types = types.as_ref();
    let exports: Vec<(&str, EntityType)> = types.core_exports().into_iter().flatten().collect();
    // The newer naming scheme has other names for all of this; the encoder knows it.
    if exports.iter().any(|(name, _)| name.starts_with("cm32p2")) {
        return Ok(());
    }
    let find = |wanted: &'static str| {
        exports
            .iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, ty)| ty)
            .ok_or(WrapError::MissingExport(wanted))
    };
    for (name, params, results) in EXPORTS {
        function(&types, name, find(name)?, params, results)?;
    }
    if !matches!(find("memory")?, EntityType::Memory(_)) {
        return Err(WrapError::WrongExport {
            name: "memory",
            found: "no memory".to_owned(),
            expected: "a memory".to_owned(),
        });
    }
    function(&types, "cabi_realloc", find("cabi_realloc")?, 4, 1)
}

fn judge_import(module: &str, name: &str, ty: &TypeRef) -> Result<(), WrapError> {
    let is_wasi = module.starts_with("wasi") || module.starts_with("cm32p2|wasi");
    if is_wasi {
        return Err(WrapError::Wasi(format!("{module}.{name}")));
    }
    let is_host = module == HOST_MODULE || module.starts_with("cm32p2|arqon:policy/host");
    if is_host && name == "log" && matches!(ty, TypeRef::Func(_)) {
        return Ok(());
    }
    Err(WrapError::UnknownImport {
        module: module.to_owned(),
        name: name.to_owned(),
    })
}

fn function(
    types: &wasmparser::types::TypesRef<'_>,
    name: &'static str,
    ty: &EntityType,
    params: usize,
    results: usize,
) -> Result<(), WrapError> {
    let wrong = |found: String| WrapError::WrongExport {
        name,
        found,
        expected: signature(&vec![ValType::I32; params], &vec![ValType::I32; results]),
    };
    let (EntityType::Func(id) | EntityType::FuncExact(id)) = ty else {
        return Err(wrong("no function".to_owned()));
    };
    let wasmparser::CompositeInnerType::Func(func) = &types[*id].composite_type.inner else {
        return Err(wrong("no function".to_owned()));
    };
    let fits = func.params().len() == params
        && func.results().len() == results
        && func
            .params()
            .iter()
            .chain(func.results())
            .all(|t| *t == ValType::I32);
    if fits {
        Ok(())
    } else {
        Err(wrong(signature(func.params(), func.results())))
    }
}

fn signature(params: &[ValType], results: &[ValType]) -> String {
    let list = |types: &[ValType]| {
        let names: Vec<String> = types.iter().take(20).map(ToString::to_string).collect();
        names.join(", ")
    };
    format!("({}) -> ({})", list(params), list(results))
}
