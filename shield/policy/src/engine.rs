//! How Wasmtime is set up. What stands here decides whether machine code fits,
//! so the compile child and Shield must both come through here.

use std::time::Duration;

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::{Limits, ShapeLimits, host::HostError};

/// One tick of the epoch.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// Wasm stack of a call. Recursion costs 30 µs until it ends there.
const STACK_BYTES: usize = 256 << 10;
/// Memory that a slot keeps and zeroes by hand, which needs no system call.
const KEEP_RESIDENT: usize = 256 << 10;
/// A component with imports is three core modules: its own, and two that the
/// component tools add to tie the knot. One more for a component's adapter.
pub(crate) const CORE_INSTANCES: u32 = 4;
/// The module's own table, that of the knot, and one to spare.
pub(crate) const TABLES: u32 = 3;

/// What a host may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// Guard pages and signals, and with them Cranelift's heap mitigations
    /// against Spectre, in place of bounds checks. Costs system calls for
    /// policies that grow their memory.
    pub guarded: bool,
    /// Instances that may be alive at once.
    pub slots: u32,
    /// The most linear memory of any instance.
    pub max_memory_bytes: usize,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            guarded: false,
            slots: 256,
            max_memory_bytes: Limits::MAX_MEMORY_BYTES,
        }
    }
}

pub(crate) fn engine(options: &HostOptions) -> Result<Engine, HostError> {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .memory_init_cow(true)
        .max_wasm_stack(STACK_BYTES)
        // Anyone can make a policy trap: a trap must be cheap.
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false)
        .concurrency_support(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        // Its results differ between machines.
        .wasm_relaxed_simd(false);
    if !options.guarded {
        config
            .signals_based_traps(false)
            .memory_reservation(options.max_memory_bytes as u64)
            .memory_reservation_for_growth(0)
            .memory_guard_size(0);
    }
    let mut pool = PoolingAllocationConfig::new();
    // `pagemap_scan` stays off: in this release it can leave swapped pages of a
    // former tenant in place (bytecodealliance/wasmtime#14357).
    pool.total_component_instances(options.slots)
        .total_core_instances(options.slots.saturating_mul(CORE_INSTANCES))
        .max_core_instances_per_component(CORE_INSTANCES)
        .total_memories(options.slots)
        .max_memories_per_component(1)
        .total_tables(options.slots.saturating_mul(TABLES))
        .max_tables_per_component(TABLES)
        .max_tables_per_module(TABLES - 1)
        .table_elements(ShapeLimits::default().table_entries)
        .max_memory_size(options.max_memory_bytes)
        .max_core_instance_size(1 << 20)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(64 << 10)
        .max_unused_warm_slots(options.slots);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config).map_err(|error| HostError::Engine(format!("{error:#}")))
}
