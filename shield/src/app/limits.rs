//! Open files: each session is one, and the usual soft limit is 1,024.

use arqon_spine::manifest::Manifest;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{edge, session};

/// Files beside clients' sockets: listeners, the Spine's connections, policies.
const RESERVE: usize = 1024;

/// Files that a Shield with this manifest may need: each client is one, whether
/// it is a session, not yet one, or one no more.
fn wanted(manifest: &Manifest) -> u64 {
    let clients = manifest
        .session
        .max_sessions
        .saturating_add(edge::most_waiting(&manifest.listen))
        .saturating_add(session::MAX_FAREWELLS);
    u64::try_from(clients.saturating_add(RESERVE)).unwrap_or(u64::MAX)
}

/// Raises the soft limit to the hard one, and says so if that is too few.
pub(super) fn raise_open_files(manifest: &Manifest) {
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
    let wanted = wanted(manifest);
    // None: unlimited.
    if let Some(files) = getrlimit(Resource::Nofile).current
        && files < wanted
    {
        tracing::info!(
            files,
            wanted,
            "The limit of open files is below what session.max_sessions and listen.max_handshakes need"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arqon_spine::manifest::SecretMode;

    use super::*;

    #[test]
    fn every_client_that_may_be_connected_has_a_file() {
        let text = "[node]\nid = \"shield-1\"\n[listen]\nmax_handshakes = 100\n\
                    [session]\nmax_sessions = 5000\n[spine]\n\
                    control_creds_file = \"creds\"\nfleet_key_file = \"key\"\n";
        let manifest = Manifest::parse(text, Path::new("."), SecretMode::Unchecked);
        // In a handshake, waiting for one, silent, being refused; and slow readers that are closed.
        let beside = 100 + 800 + 800 + 256 + 2048;
        assert_eq!(wanted(&manifest.expect("a manifest")), 5000 + beside + 1024);
    }
}
