//! What is counted within core modules.

use std::ops::ControlFlow;

use wasmparser::{
    CompositeInnerType, ConstExpr, DataKind, FunctionBody, MemoryType, Operator, TableType, ValType,
};

use super::{
    COMPILER_HINT, GO_ON, MAX_MODULE_TABLES, MAX_PARAMS, MAX_RESULTS, PAGE, Read, STOP, Walk,
};

#[derive(Default)]
pub(super) struct Module {
    pub(super) tables: usize,
    pub(super) memory_bytes: Option<u64>,
    pub(super) stack_pointer: Option<u64>,
    pub(super) saw_global: bool,
}

impl Walk<'_> {
    pub(super) fn core_type(&mut self, ty: &CompositeInnerType) {
        match ty {
            CompositeInnerType::Func(func) => {
                if func.params().len() > MAX_PARAMS || func.results().len() > MAX_RESULTS {
                    self.find(
                        "too_many_params",
                        format!(
                            "a function type has {} parameters and {} results; at most {MAX_PARAMS} and {MAX_RESULTS} are taken",
                            func.params().len(),
                            func.results().len()
                        ),
                        COMPILER_HINT,
                    );
                }
            }
            _ => self.refused("gc", "it declares types of garbage-collected objects"),
        }
    }

    pub(super) fn functions(&mut self, count: u32) -> ControlFlow<()> {
        self.out.functions += count as usize;
        if self.out.functions <= self.limits.functions {
            return GO_ON;
        }
        self.find(
            "too_many_functions",
            format!(
                "it has {} functions or more, over {}",
                self.out.functions, self.limits.functions
            ),
            "leave out libraries that are not needed, and build with link-time optimisation",
        );
        STOP
    }

    pub(super) fn table(&mut self, ty: &TableType) {
        self.tables += 1;
        self.module.tables += 1;
        if self.module.tables > MAX_MODULE_TABLES {
            self.find(
                "too_many_tables",
                format!("a core module has more than {MAX_MODULE_TABLES} tables"),
                COMPILER_HINT,
            );
        }
        self.table_entries = self.table_entries.saturating_add(ty.initial);
        if ty.table64 {
            self.refused("memory64", "a table has 64-bit indices");
        }
        if ty.shared {
            self.refused("threads", "a table is shared");
        }
    }

    pub(super) fn memory(&mut self, ty: &MemoryType) {
        self.memories += 1;
        if ty.memory64 {
            self.refused("memory64", "its memory has 64-bit addresses");
        }
        if ty.shared {
            self.refused("threads", "its memory is shared between threads");
        }
        if ty.page_size_log2.is_some() {
            self.refused(
                "unsupported_feature",
                "its memory has a page size of its own",
            );
        }
        let bytes = ty.initial.saturating_mul(PAGE);
        self.out.initial_memory_bytes = self.out.initial_memory_bytes.saturating_add(bytes);
        self.module.memory_bytes = Some(bytes);
    }

    /// The first mutable `i32` of the module with the memory is the stack
    /// pointer in what all linkers write.
    pub(super) fn global(&mut self, ty: ValType, mutable: bool, init: &ConstExpr<'_>) {
        if self.module.saw_global {
            return;
        }
        self.module.saw_global = true;
        if ty == ValType::I32 && mutable {
            self.module.stack_pointer = constant(init);
        }
    }

    pub(super) fn data(&mut self, kind: &DataKind<'_>, length: usize) {
        let DataKind::Active { offset_expr, .. } = kind else {
            return;
        };
        let Some(offset) = constant(offset_expr) else {
            self.out.data_is_placed = false;
            return;
        };
        let end = offset.saturating_add(length as u64);
        self.out.data_end = self.out.data_end.max(end);
        self.out.data_start = Some(
            self.out
                .data_start
                .map_or(offset, |start| start.min(offset)),
        );
        if self.module.memory_bytes.is_some_and(|memory| end > memory) {
            self.find(
                "data_outside",
                format!("data is to be put at {offset}..{end}, outside of the memory"),
                "no instance of it can ever be made; build it anew",
            );
        }
    }

    pub(super) fn body(&mut self, body: &FunctionBody<'_>) -> Read<()> {
        let length = body.range().len();
        self.out.largest_function_bytes = self.out.largest_function_bytes.max(length);
        if length > self.limits.function_bytes {
            self.large_functions += 1;
            return Ok(());
        }
        let mut locals = 0_u64;
        for local in body.get_locals_reader()? {
            locals += u64::from(local?.0);
        }
        if locals > self.limits.locals as u64 {
            self.find(
                "too_many_locals",
                format!(
                    "a function has {locals} locals, more than {}",
                    self.limits.locals
                ),
                COMPILER_HINT,
            );
        }
        if !self.out.can_grow_memory {
            for operator in body.get_operators_reader()? {
                if matches!(operator?, Operator::MemoryGrow { .. }) {
                    self.out.can_grow_memory = true;
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The value of `i32.const N`, as the unsigned address it is.
fn constant(expression: &ConstExpr<'_>) -> Option<u64> {
    let mut operators = expression.get_operators_reader();
    let Ok(Operator::I32Const { value }) = operators.read() else {
        return None;
    };
    matches!(operators.read(), Ok(Operator::End)).then_some(u64::from(value.cast_unsigned()))
}
