//! Open files: each session is one, and the usual soft limit is 1,024.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside sessions: listeners, the Spine's connections, handshakes.
const RESERVE: u64 = 1024;

/// Raises the soft limit to the hard one, and says so if that is too few.
pub(super) fn raise_open_files(max_sessions: usize) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "Cannot raise the limit of open files");
        }
    }
    let wanted = u64::try_from(max_sessions)
        .unwrap_or(u64::MAX)
        .saturating_add(RESERVE);
    // None: unlimited.
    if let Some(files) = getrlimit(Resource::Nofile).current
        && files < wanted
    {
        tracing::info!(
            files,
            wanted,
            "The limit of open files is below what session.max_sessions needs"
        );
    }
}
