//! Who this process is, and what it tells Brain first.

use std::time::Duration;

use arqon_proto::names::NodeId;
use arqon_spine::manifest::{BrainManifest, LogFormat};

use crate::etf::Writer;

/// The version of the pipe.
const PIPE: u64 = 2;

/// A process from its start to its end.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The Brain's id.
    pub id: NodeId,
    /// New at each start: 6 bytes of time in milliseconds, 2 of chance.
    pub incarnation: u64,
    /// The version of the program.
    pub version: String,
    /// Where Brain listens.
    pub listen: String,
}

// === impl Identity ===

impl Identity {
    /// A process of this manifest that starts now.
    #[must_use]
    pub fn new(manifest: &BrainManifest) -> Self {
        Self {
            id: manifest.id.clone(),
            incarnation: now_ms() << 16 | u64::from(rand::random::<u16>()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listen: manifest.listen.to_string(),
        }
    }

    /// The first frame: what Brain needs of the manifest.
    #[must_use]
    pub fn hello(&self, manifest: &BrainManifest) -> Vec<u8> {
        let size = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let numbers = [
            ("shards", size(manifest.shards)),
            ("tick_ms", millis(manifest.tick)),
            ("count_tick_ms", millis(manifest.count_tick)),
            ("full_limit", size(manifest.full_limit)),
            ("state_max_bytes", size(manifest.state_max_bytes)),
            ("sessions_listed", size(manifest.sessions_listed)),
            ("down_after_ms", millis(manifest.down_after)),
            ("forget_after_ms", millis(manifest.forget_after)),
            ("digest_ms", millis(manifest.digest)),
            ("repairs", size(manifest.repairs)),
            ("incarnation", self.incarnation),
        ];
        let texts = [
            ("id", self.id.as_str()),
            ("version", &self.version),
            ("listen", &self.listen),
        ];
        let mut term = Writer::term();
        term.tagged(3, "hello");
        term.uint(PIPE);
        term.map(numbers.len() + texts.len() + 3);
        for (key, value) in numbers {
            term.atom(key);
            term.uint(value);
        }
        for (key, value) in texts {
            term.atom(key);
            term.binary(value.as_bytes());
        }
        term.atom("traces");
        term.bool(manifest.telemetry.traces.is_some());
        term.atom("log_level");
        term.atom(&manifest.log.level);
        term.atom("log_format");
        term.atom(match manifest.log.format {
            LogFormat::Json => "json",
            LogFormat::Pretty => "pretty",
        });
        term.finish()
    }
}

/// The clock, milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
