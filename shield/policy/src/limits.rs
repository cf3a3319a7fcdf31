//! What a policy may use.

use std::time::Duration;

/// Longest reason of a block.
pub const MAX_REASON_BYTES: usize = 1024;
/// Longest log line that is kept; the rest of it is cut.
pub const MAX_LOG_BYTES: usize = 512;
/// Log lines of one call that are kept.
pub const MAX_LOG_LINES: usize = 16;
/// Largest configuration of a binding.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// What one binding may use while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of linear memory of one instance.
    pub memory_bytes: usize,
    /// CPU time of one message.
    pub cpu: Duration,
    /// Wall-clock time of one message, so that a thread that gets no CPU ends too.
    pub wall: Duration,
    /// CPU time of instantiation and `configure` together.
    pub configure: Duration,
    /// Messages after which an instance is replaced.
    pub recycle_after: u32,
}

/// What a component may look like, checked before anything compiles it.
/// Compile time grows faster than the size of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShapeLimits {
    /// Bytes of the component.
    pub component_bytes: usize,
    /// Bytes of one function's body.
    pub function_bytes: usize,
    /// Functions in all.
    pub functions: usize,
    /// Locals of one function.
    pub locals: usize,
    /// Bytes of memory at the start, and the end of the last data segment.
    pub initial_memory_bytes: usize,
    /// Entries of all tables at the start.
    pub table_entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 4 << 20,
            cpu: Duration::from_millis(1),
            wall: Duration::from_millis(25),
            configure: Duration::from_millis(50),
            recycle_after: 1000,
        }
    }
}

impl Limits {
    /// The most memory that any binding may have: one uninterruptible fill of
    /// it takes milliseconds.
    pub const MAX_MEMORY_BYTES: usize = 16 << 20;
}

impl Default for ShapeLimits {
    fn default() -> Self {
        Self {
            component_bytes: 1 << 20,
            function_bytes: 64 << 10,
            functions: 10_000,
            locals: 1_000,
            initial_memory_bytes: Limits::MAX_MEMORY_BYTES,
            table_entries: 10_000,
        }
    }
}
