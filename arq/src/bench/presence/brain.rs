//! A Brain of the benchmark's own, with limits that let large rooms be told.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use arqon_proto::names::NodeId;
use arqon_spine::state::{Role, StateFolder};

use super::super::process::Process;
use crate::{
    dev::find_brain,
    failure::{Doing, Failure, Result},
    http,
};

/// A running Brain, killed when dropped.
pub(super) struct Brain {
    child: Child,
    url: String,
    pub(super) name: &'static str,
}

// === impl Brain ===

impl Brain {
    /// Starts one; how long it took to be warm.
    pub(super) async fn start(
        state: &StateFolder,
        servers: &[String],
        folder: &std::path::Path,
        name: &'static str,
    ) -> Result<(Self, Duration)> {
        let node = NodeId::parse(name)?;
        let port = arqon_spine::ports::free_port()?;
        let manifest = folder.join(format!("{name}.toml"));
        let text = format!(
            "[node]\nid = {name:?}\n[spine]\nservers = {servers:?}\ncontrol_creds_file = {:?}\n\
             [brain]\ncreds_file = {:?}\nlisten = \"127.0.0.1:{port}\"\nfull_limit = 20000\n\
             state_max_bytes = 16777216\n[log]\nlevel = \"warn\"\n",
            state.creds(Role::ControlBrain, &node)?,
            state.creds(Role::Brain, &node)?,
        );
        std::fs::write(&manifest, text).doing("cannot write the manifest of a Brain")?;
        let program: PathBuf = find_brain().ok_or_else(|| {
            Failure::new("there is no release of Brain").hint("scripts/brain builds it")
        })?;
        let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
        let begun = Instant::now();
        let child = Command::new(program)
            .arg("start")
            .env("ARQON_CONFIG", &manifest)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .doing("cannot start Brain")?;
        let url = format!("http://127.0.0.1:{port}");
        let mut brain = Self { child, url, name };
        let ready = format!("{}/readyz", brain.url);
        while !matches!(http::get(&ready, None).await, Ok((200, _))) {
            if let Some(status) = brain.child.try_wait()? {
                return Err(Failure::new(format!("Brain ended: {status}")));
            }
            if begun.elapsed() > Duration::from_secs(120) {
                return Err(Failure::new("Brain does not get warm"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok((brain, begun.elapsed()))
    }

    /// A number of its metrics.
    pub(super) async fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = http::get(&format!("{}/metrics", self.url), None).await?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.and_then(|value| value.trim().parse().ok());
        value.ok_or_else(|| Failure::new(format!("Brain does not tell {name}")))
    }

    /// The BEAM and the link, to be measured.
    pub(super) fn processes(&self) -> Vec<Process> {
        let mut all = vec![Process::new("beam", self.child.id())];
        all.extend(
            descendant(self.child.id(), "arqon-brain-lin").map(|pid| Process::new("link", pid)),
        );
        all
    }
}

impl Drop for Brain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process of this name below another. The kernel cuts names at 15 bytes.
fn descendant(root: u32, name: &str) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").ok()?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parent = |pid: u32| -> Option<(String, u32)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, rest) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        Some((name, rest.split_ascii_whitespace().nth(1)?.parse().ok()?))
    };
    pids.filter(|pid| parent(*pid).is_some_and(|(found, _)| found == name))
        .find(|pid| {
            let mut above = *pid;
            while let Some((_, next)) = parent(above) {
                if next == root {
                    return true;
                }
                above = next;
            }
            false
        })
}
