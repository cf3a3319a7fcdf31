//! The only place of this crate with calls that exist on one kind of system.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::process::Command;

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

/// Creates a folder, and those above it, that only its owner can enter.
#[cfg(unix)]
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;

    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// See above; access is inherited from the folder above.
#[cfg(not(unix))]
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

/// Opens a file for writing that was not there, a link included. One that is
/// private can be read by its owner only.
#[cfg(unix)]
pub(crate) fn create_new_file(path: &Path, private: bool) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    File::options()
        .write(true)
        .create_new(true)
        .mode(if private { 0o600 } else { 0o666 })
        .open(path)
}

/// See above; access is inherited from the folder.
#[cfg(not(unix))]
pub(crate) fn create_new_file(path: &Path, _private: bool) -> io::Result<File> {
    File::create_new(path)
}

/// Has the names in a folder reach the disk.
#[cfg(unix)]
pub(crate) fn flush_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A folder cannot be opened there.
#[cfg(not(unix))]
pub(crate) fn flush_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// The permissions of a file or folder, if they let others in.
#[cfg(unix)]
pub(crate) fn open_to_others(metadata: &Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;

    let mode = metadata.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

/// See [`check_secret`].
#[cfg(not(unix))]
pub(crate) fn open_to_others(_metadata: &Metadata) -> Option<u32> {
    None
}

/// What a server can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// End.
    Terminate,
    /// Freeze.
    Stop,
    /// Go on after [`Signal::Stop`].
    Continue,
    /// End in its own time (nats-server's lame duck mode).
    LameDuck,
}

/// Sends a signal to a process.
#[cfg(unix)]
pub(crate) fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    use rustix::process::{Pid, Signal as Raw, kill_process};

    let raw = match signal {
        Signal::Terminate => Raw::TERM,
        Signal::Stop => Raw::STOP,
        Signal::Continue => Raw::CONT,
        Signal::LameDuck => Raw::USR2,
    };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(kill_process(pid, raw)?)
}

/// There are none.
#[cfg(not(unix))]
pub(crate) fn signal(_pid: u32, _signal: Signal) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Puts the process into a group of its own, so that Ctrl-C in a terminal
/// reaches only its parent.
#[cfg(unix)]
pub(crate) fn own_group(command: &mut Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

/// See above.
#[cfg(not(unix))]
pub(crate) fn own_group(_command: &mut Command) {}
