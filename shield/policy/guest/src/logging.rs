//! Lines for the policy's author.

use crate::Level;

/// Writes a line to the log of the policy. At most 512 bytes of it are kept,
/// and at most 16 lines of one call. On a machine that is no Wasm host, in
/// tests, it goes to standard error.
pub fn log(level: Level, text: &str) {
    #[cfg(target_family = "wasm")]
    crate::bindings::arqon::policy::host::log(level, text);
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{level:?}: {text}");
}
