//! Brains of a story: the real release, as processes that can be killed, frozen and restarted.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use arqon_spine::state::Role;
use toml::{Table, Value};

use crate::program::{Program, Signal, free_addr, signal};
use crate::spine::{Spine, node};
use crate::{GLANCE, http, moved, within};

/// A Brain to be started.
#[derive(Clone, Debug)]
pub struct BrainParams {
    id: String,
    folder: PathBuf,
    manifest: Table,
}

/// A running Brain: the BEAM and its link. Dropping it kills it.
#[derive(Debug)]
pub struct TestBrain {
    /// The BEAM.
    pub program: Program,
    params: BrainParams,
    listen: SocketAddr,
}

// === impl BrainParams ===

impl BrainParams {
    pub(crate) fn new(spine: &Spine, id: &str) -> Self {
        let creds = |role| {
            let file = spine.state().creds(role, &node(id));
            file.expect("a Brain's credentials").display().to_string()
        };
        let manifest = toml::toml! {
            [node]
            id = "brain"
            [spine]
            servers = []
            [brain]
            shards = 2
        };
        let mut params = Self {
            id: id.to_owned(),
            folder: spine.folder().to_owned(),
            manifest,
        };
        params.set("node", "id", id);
        params.set("spine", "control_creds_file", creds(Role::ControlBrain));
        params.set("brain", "creds_file", creds(Role::Brain));
        params.via(&spine.url())
    }

    /// Has it reach the Spine by another address, such as a proxy's.
    #[must_use]
    pub fn via(mut self, url: &str) -> Self {
        self.set("spine", "servers", vec![url.to_owned()]);
        self
    }

    /// Has it reach the Spine by these addresses.
    #[must_use]
    pub fn via_all(mut self, urls: &[String]) -> Self {
        self.set("spine", "servers", urls.to_vec());
        self
    }

    /// Changes its section of the manifest: lines such as `full_limit = 3`.
    ///
    /// # Panics
    /// If that is no TOML.
    #[must_use]
    pub fn with(mut self, lines: &str) -> Self {
        let changes: Table = lines.parse().expect("changes to a manifest are TOML");
        for (key, value) in changes {
            self.set("brain", &key, value);
        }
        self
    }

    /// Changes `[telemetry]`: lines such as `telemetry.traces_endpoint = "…"`.
    ///
    /// # Panics
    /// If that is no TOML, or of another section.
    #[must_use]
    pub fn telemetry(mut self, lines: &str) -> Self {
        let changes: Table = lines.parse().expect("changes to a manifest are TOML");
        let changes = changes["telemetry"].as_table().expect("a section");
        for (key, value) in changes.clone() {
            self.set("telemetry", &key, value);
        }
        self
    }

    fn set(&mut self, section: &str, key: &str, value: impl Into<Value>) {
        let section = self
            .manifest
            .entry(section)
            .or_insert_with(|| Table::new().into());
        if let Value::Table(section) = section {
            section.insert(key.to_owned(), value.into());
        }
    }

    /// Starts it; it warms up on its own.
    ///
    /// # Panics
    /// If its release was not built.
    pub fn launch(mut self) -> TestBrain {
        let listen = free_addr();
        self.set("brain", "listen", listen.to_string());
        let file = self.folder.join(format!("{}.toml", self.id));
        std::fs::write(&file, self.manifest.to_string()).expect("a manifest is written");
        let log = self.folder.join(format!("{}.log", self.id));
        let mut command = Command::new(release());
        command.arg("start").env("ARQON_CONFIG", &file);
        TestBrain {
            program: Program::start(&mut command, &log),
            params: self,
            listen,
        }
    }

    /// Starts it and waits until it is warm.
    pub async fn start(self) -> TestBrain {
        let brain = self.launch();
        brain.warm().await;
        brain
    }
}

/// The release that scripts/brain builds.
///
/// # Panics
/// If it is not there.
fn release() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let release = root.join("brain/_build/prod/rel/brain/bin/brain");
    assert!(
        release.is_file(),
        "{} is missing: run scripts/brain first",
        release.display()
    );
    release
}

impl Drop for TestBrain {
    fn drop(&mut self) {
        moved::note_at(self.listen);
    }
}

// === impl TestBrain ===

impl TestBrain {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.params.id
    }

    /// The status of one of its pages; None where nothing answers.
    pub async fn status(&self, path: &str) -> Option<u16> {
        let answer = tokio::time::timeout(
            std::time::Duration::from_secs(2),
            http::get(self.listen, path, &[]),
        );
        answer.await.ok()?.ok().map(|answer| answer.status)
    }

    /// Waits until it answers queries.
    pub async fn warm(&self) {
        crate::eventually!(
            self.status("/readyz").await == Some(200),
            "{}",
            self.program.log()
        );
    }

    /// A metric's value now, without its prefix; with its labels, as it is written.
    ///
    /// # Panics
    /// If there is no such metric.
    pub async fn metric(&self, name: &str) -> f64 {
        let answered = async {
            loop {
                let answer = http::get(self.listen, "/metrics", &[]).await;
                let answer = answer.expect("metrics are shown");
                if answer.status == 200 {
                    return answer.body;
                }
                // Its link, which has the names, is being started again.
                tokio::time::sleep(GLANCE).await;
            }
        };
        let text = within("/metrics", answered).await;
        moved::note(&text);
        let prefix = format!("arqon_brain_{name} ");
        text.lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// The process of its link; None while there is none.
    pub fn link_pid(&self) -> Option<u32> {
        std::fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .find(|pid| {
                // A name is cut after 15 bytes.
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
                name.is_ok_and(|name| name.trim() == "arqon-brain-lin")
                    && is_below(*pid, self.program.pid())
            })
    }

    /// Sends a signal to the BEAM.
    pub fn signal(&self, which: Signal) {
        signal(self.program.pid(), which);
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.program.kill();
    }

    /// Starts it again after it ended.
    pub fn relaunch(&mut self) {
        *self = self.params.clone().launch();
    }
}

/// Whether a process was started by `ancestor` or by one that was.
fn is_below(mut pid: u32, ancestor: u32) -> bool {
    // The BEAM starts its programs through a helper, so not far.
    for _ in 0..4 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        match parent {
            Some(parent) if parent == ancestor => return true,
            Some(parent) => pid = parent,
            None => return false,
        }
    }
    false
}
