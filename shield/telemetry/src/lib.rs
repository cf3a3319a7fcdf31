//! Logs, traces and the metric catalogue of ArqonBus.
//!
//! `metrics` declares every number that is shown, once, with its meaning.
//! `labels` holds the bounded values their labels may take.
//! `trace` decides what is traced and makes spans. `otlp` sends both.
//! `log` sets up the log from the manifest alone, and prints error chains.

pub mod labels;
pub mod log;
pub mod metrics;
pub mod otlp;
pub mod roots;
pub mod trace;

pub use metrics::Metrics;
pub use otlp::Telemetry;
pub use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
pub use trace::{Span, TraceContext, Tracer};
