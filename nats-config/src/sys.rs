//! The only place of this crate with calls that exist on one kind of system.

use std::fs::Metadata;
use std::path::Path;

/// Refuses a secret file that others can read.
#[cfg(unix)]
pub(crate) fn check_secret(path: &Path, metadata: &Metadata) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;

    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(format!(
            "keep the secret to its owner: chmod 600 {} (it has {mode:o})",
            path.display()
        ))
    }
}

/// Windows keeps access lists, which this program does not judge.
#[cfg(not(unix))]
pub(crate) fn check_secret(_path: &Path, _metadata: &Metadata) -> Result<(), String> {
    Ok(())
}
