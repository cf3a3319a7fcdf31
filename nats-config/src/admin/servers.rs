//! The NATS servers as they report themselves.

use std::time::Duration;

use futures_util::StreamExt;
use serde::Deserialize;

use super::push::refused;
use super::{Admin, AdminError};

/// Every server answers within milliseconds; how many there are is not known before.
const PATIENCE: Duration = Duration::from_millis(500);
/// The first answer may take longer, on a machine under load.
const FIRST: Duration = Duration::from_secs(5);

const PING: &str = "$SYS.REQ.SERVER.PING";

/// One NATS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// Its id, `N…`.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Connections open now.
    pub connections: u64,
    /// Seconds since it started.
    pub uptime_secs: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Connections it has cut for reading too slowly.
    pub slow_consumers: u64,
}

#[derive(Debug, Deserialize)]
struct Pong {
    server: Server,
    statsz: Stats,
}

#[derive(Debug, Deserialize)]
struct Server {
    name: String,
    id: String,
    ver: String,
    time: String,
}

#[derive(Debug, Deserialize)]
struct Stats {
    start: String,
    #[serde(default)]
    mem: u64,
    #[serde(default)]
    connections: u64,
    #[serde(default)]
    slow_consumers: u64,
}

impl Admin {
    /// Asks all servers of the cluster; by name.
    pub async fn servers(&self) -> Result<Vec<ServerStatus>, AdminError> {
        let client = &self.system.client;
        let inbox = client.new_inbox();
        let mut answers = client
            .subscribe(inbox.clone())
            .await
            .map_err(|source| refused(PING, source))?;
        client
            .publish_with_reply(PING, inbox, "".into())
            .await
            .map_err(|source| refused(PING, source))?;
        let mut servers: Vec<ServerStatus> = Vec::new();
        let mut patience = FIRST;
        while let Ok(Some(answer)) = tokio::time::timeout(patience, answers.next()).await {
            let pong: Pong =
                serde_json::from_slice(&answer.payload).map_err(|source| refused(PING, source))?;
            servers.push(pong.into());
            patience = PATIENCE;
        }
        if servers.is_empty() {
            return Err(refused(PING, "no answer"));
        }
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(servers)
    }
}

impl From<Pong> for ServerStatus {
    fn from(pong: Pong) -> Self {
        let uptime = moment(&pong.server.time)
            .zip(moment(&pong.statsz.start))
            .map_or(0, |(now, start)| (now - start).whole_seconds());
        ServerStatus {
            name: pong.server.name,
            id: pong.server.id,
            version: pong.server.ver,
            connections: pong.statsz.connections,
            uptime_secs: u64::try_from(uptime).unwrap_or(0),
            memory_bytes: pong.statsz.mem,
            slow_consumers: pong.statsz.slow_consumers,
        }
    }
}

fn moment(text: &str) -> Option<time::OffsetDateTime> {
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()
}
