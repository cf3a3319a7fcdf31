//! Logs and the metric catalogue of ArqonBus.
//!
//! `metrics` declares every number a Shield shows, once, with its meaning.
//! `labels` holds the bounded values their labels may take.
//! `log` sets up the log from the manifest alone, and prints error chains.

pub mod labels;
pub mod log;
pub mod metrics;

pub use metrics::Metrics;
pub use prometheus_client::metrics::counter::Counter;
