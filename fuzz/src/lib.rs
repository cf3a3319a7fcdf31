//! What must hold for any bytes that reach ArqonBus, one function for each way in.
//!
//! Each takes bytes as they come from a stranger and panics where a property does
//! not hold. `targets/` has cargo-fuzz call them with what libFuzzer thinks of
//! (`scripts/fuzz`); `tests/corpus.rs` calls them with all of `corpus/`.

mod envelope;
mod etf;
mod manifest;
mod names;
mod token;
mod verdict;

pub use envelope::envelope;
pub use etf::etf;
pub use manifest::manifest;
pub use names::names;
pub use token::token;
pub use verdict::verdict;

/// Takes an input, and panics where something does not hold.
pub type Property = fn(&[u8]);

/// Every property by the name of its target and of its folder in `corpus/`.
pub const ALL: [(&str, Property); 6] = [
    ("envelope", envelope),
    ("names", names),
    ("token", token),
    ("manifest", manifest),
    ("etf", etf),
    ("verdict", verdict),
];
