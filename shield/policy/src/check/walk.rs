//! Reads the file once and counts. Nothing here allocates by a number that the
//! file states, and what is counted bounds validation and compilation.

use std::ops::ControlFlow;

use wasmparser::{
    CanonicalFunction, ComponentInstance, Encoding, Instance, KnownCustom, Parser, Payload,
};

use super::{Finding, validate::feature_hint};
use crate::{ShapeLimits, engine};

mod module;

use module::Module;

type Read<T> = Result<T, wasmparser::BinaryReaderError>;

pub(super) const TRUNCATED_HINT: &str = "the file is not whole; copy or build it anew";
const COMPILER_HINT: &str =
    "split it up: compile time grows faster than size; large tables belong into data";
const SHAPE_HINT: &str =
    "wrap one module with `arq policy build`; composed components are not supported";

/// Core modules: the encoder makes three of a policy.
const MAX_CORE_MODULES: usize = 8;
/// Instances of core modules. Each takes a place in the host's pool.
const MAX_CORE_INSTANCES: usize = engine::CORE_INSTANCES as usize;
/// Tables of all core modules, that of each instance in the pool.
const MAX_TABLES: usize = engine::TABLES as usize;
/// Tables of one core module: the encoder's own module has the other.
const MAX_MODULE_TABLES: usize = MAX_TABLES - 1;
/// Globals in all: each is part of every instance.
const MAX_GLOBALS: usize = 1_000;
/// Types, data segments and the like of all core modules.
const MAX_CORE_ITEMS: usize = 20_000;
/// Parameters, and results, of one core function: a call handles all of them.
const MAX_PARAMS: usize = 128;
const MAX_RESULTS: usize = 16;
/// Items of the component itself. A policy has about forty.
const MAX_COMPONENT_ITEMS: usize = 1_000;
/// Functions that are lifted or lowered. A policy has three.
const MAX_CANONICAL: usize = 16;
/// Bytes of the component's type sections. A policy has some hundred.
const MAX_TYPE_BYTES: usize = 64 << 10;
/// Component types within component types. The parser recurses there.
const MAX_TYPE_DEPTH: usize = 200;
const PAGE: u64 = 64 << 10;

#[derive(Default)]
pub(super) struct Walked {
    pub(super) core_modules: usize,
    pub(super) functions: usize,
    pub(super) largest_function_bytes: usize,
    pub(super) initial_memory_bytes: u64,
    pub(super) can_grow_memory: bool,
    pub(super) start_function: bool,
    pub(super) debug_bytes: usize,
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
    stack_pointer: Option<u64>,
    data_start: Option<u64>,
    data_end: u64,
    data_is_placed: bool,
}

impl Walked {
    /// The linker puts the stack either first, then its pointer starts where
    /// the data begins, or behind the data.
    pub(super) fn stack_bytes(&self) -> Option<u64> {
        let pointer = self.stack_pointer?;
        if pointer == 0 || pointer > self.initial_memory_bytes || !self.data_is_placed {
            return None;
        }
        match self.data_start {
            Some(start) if start < pointer => pointer.checked_sub(self.data_end),
            _ => Some(pointer),
        }
    }
}

struct Walk<'l> {
    limits: &'l ShapeLimits,
    out: Walked,
    findings: Vec<Finding>,
    /// What is open: the component, and a core module within it.
    open: usize,
    module: Module,
    memories: usize,
    tables: usize,
    table_entries: u64,
    globals: usize,
    core_items: usize,
    core_instances: usize,
    component_items: usize,
    canonical: usize,
    type_bytes: usize,
    type_depth: usize,
    large_functions: usize,
}

pub(super) fn walk(bytes: &[u8], limits: &ShapeLimits) -> Result<Walked, Vec<Finding>> {
    let mut walk = Walk {
        limits,
        out: Walked {
            data_is_placed: true,
            ..Walked::default()
        },
        findings: Vec::new(),
        open: 0,
        module: Module::default(),
        memories: 0,
        tables: 0,
        table_entries: 0,
        globals: 0,
        core_items: 0,
        core_instances: 0,
        component_items: 0,
        canonical: 0,
        type_bytes: 0,
        type_depth: 0,
        large_functions: 0,
    };
    for payload in Parser::new(0).parse_all(bytes) {
        let step = match payload {
            Ok(payload) => walk.payload(bytes, payload),
            Err(e) => Err(e),
        };
        match step {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break,
            Err(e) => {
                walk.unreadable(&e);
                break;
            }
        }
    }
    walk.end()
}

/// Whether a file's component types are nested so deeply, or so long, that no
/// parser should be let near them.
pub(crate) fn deep_types(bytes: &[u8]) -> bool {
    let (mut length, mut depth) = (0, 0);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload {
            Ok(Payload::ComponentTypeSection(section)) => {
                let range = section.range();
                length += range.len();
                depth += type_depth(bytes.get(range).unwrap_or_default());
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    length > MAX_TYPE_BYTES || depth > MAX_TYPE_DEPTH
}

/// At least the depth of the types in these bytes: each level begins with one
/// of these two bytes. Names in capital letters are rare enough.
fn type_depth(section: &[u8]) -> usize {
    section
        .iter()
        .filter(|byte| matches!(byte, 0x41 | 0x42))
        .count()
}

const GO_ON: ControlFlow<()> = ControlFlow::Continue(());
const STOP: ControlFlow<()> = ControlFlow::Break(());

impl Walk<'_> {
    fn payload(&mut self, bytes: &[u8], payload: Payload<'_>) -> Read<ControlFlow<()>> {
        match payload {
            Payload::Version { encoding, .. } => return Ok(self.enter(encoding)),
            Payload::End(_) => self.leave(),

            Payload::TypeSection(section) => {
                if self.core_items(section.count()).is_break() {
                    return Ok(STOP);
                }
                for group in section {
                    for ty in group?.types() {
                        self.core_type(&ty.composite_type.inner);
                    }
                }
            }
            Payload::ImportSection(section) => return Ok(self.core_items(section.count())),
            Payload::ExportSection(section) => return Ok(self.core_items(section.count())),
            Payload::FunctionSection(section) => return Ok(self.functions(section.count())),
            Payload::TableSection(section) => {
                for table in section {
                    self.table(&table?.ty);
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    self.memory(&memory?);
                }
            }
            Payload::TagSection(_) => self.refused("exceptions", "it declares exceptions"),
            Payload::GlobalSection(section) => {
                self.globals += section.count() as usize;
                if self.globals > MAX_GLOBALS {
                    self.find(
                        "too_many_globals",
                        format!("it has more than {MAX_GLOBALS} globals"),
                        COMPILER_HINT,
                    );
                    return Ok(STOP);
                }
                for global in section {
                    let global = global?;
                    self.global(global.ty.content_type, global.ty.mutable, &global.init_expr);
                }
            }
            Payload::StartSection { .. } => self.out.start_function = true,
            Payload::ElementSection(section) => return Ok(self.core_items(section.count())),
            Payload::DataSection(section) => {
                if self.core_items(section.count()).is_break() {
                    return Ok(STOP);
                }
                for data in section {
                    let data = data?;
                    self.data(&data.kind, data.data.len());
                }
            }
            Payload::CodeSectionEntry(body) => self.body(&body)?,
            Payload::CustomSection(section) if self.open > 1 => {
                let is_debug = matches!(section.as_known(), KnownCustom::Name(_))
                    || section.name().starts_with(".debug_")
                    || section.name() == "name";
                if is_debug {
                    self.out.debug_bytes += section.data().len();
                }
            }

            Payload::ComponentSection { .. } => {
                self.find(
                    "nested_component",
                    "it contains another component",
                    SHAPE_HINT,
                );
                return Ok(STOP);
            }
            Payload::ModuleSection { .. } => {
                self.out.core_modules += 1;
                if self.out.core_modules > MAX_CORE_MODULES {
                    self.find(
                        "too_many_modules",
                        format!("it has more than {MAX_CORE_MODULES} core modules"),
                        SHAPE_HINT,
                    );
                    return Ok(STOP);
                }
            }
            Payload::InstanceSection(section) => {
                if self.component_items(section.count()).is_break() {
                    return Ok(STOP);
                }
                for instance in section {
                    self.core_instances +=
                        usize::from(matches!(instance?, Instance::Instantiate { .. }));
                }
            }
            Payload::ComponentInstanceSection(section) => {
                if self.component_items(section.count()).is_break() {
                    return Ok(STOP);
                }
                for instance in section {
                    if matches!(instance?, ComponentInstance::Instantiate { .. }) {
                        self.find(
                            "nested_component",
                            "it makes an instance of another component",
                            SHAPE_HINT,
                        );
                    }
                }
            }
            Payload::CoreTypeSection(section) => return Ok(self.component_items(section.count())),
            Payload::ComponentAliasSection(section) => {
                return Ok(self.component_items(section.count()));
            }
            Payload::ComponentTypeSection(section) => {
                let range = section.range();
                self.type_bytes += range.len();
                self.type_depth += type_depth(bytes.get(range).unwrap_or_default());
                if self.type_bytes > MAX_TYPE_BYTES || self.type_depth > MAX_TYPE_DEPTH {
                    self.find(
                        "deep_types",
                        "the component's types are too long or too deep",
                        SHAPE_HINT,
                    );
                    return Ok(STOP);
                }
                return Ok(self.component_items(section.count()));
            }
            Payload::ComponentCanonicalSection(section) => {
                self.canonical += section.count() as usize;
                if self.canonical > MAX_CANONICAL {
                    self.find(
                        "too_many_functions",
                        format!("it lifts and lowers more than {MAX_CANONICAL} functions"),
                        SHAPE_HINT,
                    );
                    return Ok(STOP);
                }
                for function in section {
                    self.canonical_function(&function?);
                }
            }
            Payload::ComponentImportSection(section) => {
                if self.component_items(section.count()).is_break() {
                    return Ok(STOP);
                }
                for import in section {
                    self.out.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) => {
                if self.component_items(section.count()).is_break() {
                    return Ok(STOP);
                }
                for export in section {
                    self.out.exports.push(export?.name.name.to_owned());
                }
            }
            Payload::ComponentStartSection { .. } => {
                self.find(
                    "component_start",
                    "the component has a start function of its own",
                    SHAPE_HINT,
                );
            }
            // Counts of data, custom sections of the component, the start of
            // the code; and whatever is unknown, which validation refuses.
            _ => {}
        }
        Ok(GO_ON)
    }

    fn enter(&mut self, encoding: Encoding) -> ControlFlow<()> {
        self.open += 1;
        if encoding == Encoding::Module {
            self.module = Module::default();
        }
        GO_ON
    }

    fn leave(&mut self) {
        self.open = self.open.saturating_sub(1);
        if self.module.memory_bytes.is_some() {
            self.out.stack_pointer = self.module.stack_pointer;
        }
        self.module = Module::default();
    }

    fn canonical_function(&mut self, function: &CanonicalFunction) {
        use wasmparser::CanonicalOption::{Async, Callback};
        let options = match function {
            CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
                options
            }
            CanonicalFunction::ThreadSpawnRef { .. }
            | CanonicalFunction::ThreadSpawnIndirect { .. }
            | CanonicalFunction::ThreadAvailableParallelism => {
                return self.refused("threads", "it starts threads");
            }
            CanonicalFunction::ResourceNew { .. }
            | CanonicalFunction::ResourceDrop { .. }
            | CanonicalFunction::ResourceRep { .. } => {
                return self.find("world_mismatch", "it uses resources", SHAPE_HINT);
            }
            _ => return self.refused("component_async", "it uses asynchronous functions"),
        };
        if options
            .iter()
            .any(|option| matches!(option, Async | Callback(_)))
        {
            self.refused(
                "component_async",
                "it lifts or lowers an asynchronous function",
            );
        }
    }

    fn core_items(&mut self, count: u32) -> ControlFlow<()> {
        self.core_items += count as usize;
        if self.core_items <= MAX_CORE_ITEMS {
            return GO_ON;
        }
        self.find(
            "too_many_items",
            format!("it has more than {MAX_CORE_ITEMS} types, imports, exports and segments"),
            "leave out what is not needed, and let the linker merge data segments",
        );
        STOP
    }

    fn component_items(&mut self, count: u32) -> ControlFlow<()> {
        self.component_items += count as usize;
        if self.component_items <= MAX_COMPONENT_ITEMS {
            return GO_ON;
        }
        self.find(
            "too_many_items",
            format!("the component has more than {MAX_COMPONENT_ITEMS} items of its own"),
            SHAPE_HINT,
        );
        STOP
    }

    fn refused(&mut self, code: &'static str, message: &'static str) {
        self.find(code, message, feature_hint(code));
    }

    /// One finding for each code: a file may break a rule a million times.
    fn find(
        &mut self,
        code: &'static str,
        message: impl Into<std::borrow::Cow<'static, str>>,
        hint: &'static str,
    ) {
        if self.findings.iter().all(|found| found.code != code) {
            self.findings.push(Finding::new(code, message, hint));
        }
    }

    fn unreadable(&mut self, error: &wasmparser::BinaryReaderError) {
        let text = error.to_string();
        if text.contains("unexpected end") {
            self.find(
                "truncated",
                format!("the file ends too early: {text}"),
                TRUNCATED_HINT,
            );
        } else {
            self.find(
                "invalid",
                format!("it cannot be read: {text}"),
                "the file is damaged or its compiler is at fault; build it anew",
            );
        }
    }

    fn end(mut self) -> Result<Walked, Vec<Finding>> {
        if self.large_functions > 0 {
            let (count, limit) = (self.large_functions, self.limits.function_bytes);
            let largest = self.out.largest_function_bytes;
            self.find(
                "function_too_large",
                format!("{count} functions have more than {limit} bytes, the largest {largest}"),
                COMPILER_HINT,
            );
        }
        if self.memories > 1 {
            self.find(
                "multi_memory",
                format!("it has {} memories", self.memories),
                feature_hint("multi_memory"),
            );
        }
        let memory = self.out.initial_memory_bytes;
        if memory > self.limits.initial_memory_bytes as u64 {
            self.find(
                "memory_too_large",
                format!(
                    "its memory has {memory} bytes at the start, more than {}",
                    self.limits.initial_memory_bytes
                ),
                "link with a small stack (-zstack-size=32768) and less static data",
            );
        }
        if self.table_entries > self.limits.table_entries as u64 {
            self.find(
                "table_too_large",
                format!(
                    "its tables have {} entries, more than {}",
                    self.table_entries, self.limits.table_entries
                ),
                COMPILER_HINT,
            );
        }
        if self.tables > MAX_TABLES {
            self.find(
                "too_many_tables",
                format!("it has {} tables, more than {MAX_TABLES}", self.tables),
                SHAPE_HINT,
            );
        }
        if self.core_instances > MAX_CORE_INSTANCES {
            self.find(
                "too_many_instances",
                format!(
                    "it makes {} instances of core modules, more than {MAX_CORE_INSTANCES}",
                    self.core_instances
                ),
                SHAPE_HINT,
            );
        }
        if self.findings.is_empty() {
            Ok(self.out)
        } else {
            Err(self.findings)
        }
    }
}
