//! The server's configuration file, made from the state folder.
//!
//! Operator mode with a full resolver: the server keeps the tenants' accounts
//! itself and takes new ones while it runs. The three fixed accounts are
//! preloaded; the server keeps whichever of its own and the preloaded version
//! is newer. The interval is how long a server that was away may go on with
//! old accounts after it is back in its cluster.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use crate::claims::ClaimsError;
use crate::state::{FixedAccount, StateError, StateFolder};

/// What differs from server to server.
#[derive(Debug, Clone)]
pub struct ServerParams {
    /// The server's name; unique in a cluster.
    pub name: String,
    /// Where clients connect. Port 0 is for [`ServerParams::choose_ports`].
    pub listen: SocketAddr,
    /// The monitoring endpoint. It shows JWTs, so it belongs on loopback.
    pub http: Option<SocketAddr>,
    /// The server's own WebSocket listener, without TLS; for measurements.
    pub websocket: Option<SocketAddr>,
    /// Where accounts and JetStream are stored.
    pub store_dir: PathBuf,
    /// The cluster it is part of.
    pub cluster: Option<ClusterParams>,
}

/// A server's place in a cluster.
#[derive(Debug, Clone)]
pub struct ClusterParams {
    /// The cluster's name, the same on all servers.
    pub name: String,
    /// Where the other servers connect.
    pub listen: SocketAddr,
    /// Where to find the others (and itself, which does no harm).
    pub routes: Vec<SocketAddr>,
}

/// Why the configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The state folder cannot be used.
    #[error("cannot read the keys")]
    State(#[from] StateError),
    /// An account cannot be signed.
    #[error("cannot sign the fixed accounts")]
    Claims(#[from] ClaimsError),
    /// The path cannot be written between quotes.
    #[error("{} cannot stand in a configuration file", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
}

/// The whole configuration file of one server. It holds no secret: JWTs are
/// signed, public statements.
pub fn render(state: &StateFolder, params: &ServerParams) -> Result<String, ConfigError> {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut text, state, params)?;
    Ok(text)
}

fn write_all(
    out: &mut String,
    state: &StateFolder,
    params: &ServerParams,
) -> Result<std::fmt::Result, ConfigError> {
    let store = quoted(&params.store_dir)?;
    let accounts = quoted(&params.store_dir.join("accounts"))?;
    let operator = state.operator_jwt()?;
    let system = state.account(FixedAccount::Sys)?;
    let signing = state.operator_signing_key()?;
    let mut preload = String::new();
    for account in FixedAccount::ALL {
        let claims = state.account_claims(account)?;
        let key = claims.subject.clone();
        let _ = writeln!(preload, "  {key}: {}", claims.sign(&signing)?);
    }
    let mut write = || -> std::fmt::Result {
        writeln!(
            out,
            "# Made by ArqonBus from the state folder; changes are lost."
        )?;
        writeln!(out, "server_name: {}", params.name)?;
        writeln!(out, "listen: \"{}\"", params.listen)?;
        if let Some(http) = params.http {
            writeln!(out, "http: \"{http}\"")?;
        }
        writeln!(out, "\noperator: {operator}")?;
        writeln!(out, "system_account: {system}")?;
        writeln!(
            out,
            "resolver {{\n  type: full\n  dir: {accounts}\n  allow_delete: true\n  interval: \"10s\"\n  timeout: \"1.9s\"\n}}"
        )?;
        writeln!(out, "resolver_preload {{\n{preload}}}")?;
        writeln!(
            out,
            "\njetstream {{\n  store_dir: {store}\n  max_memory_store: 64MB\n  max_file_store: 1GB\n}}"
        )?;
        if let Some(cluster) = &params.cluster {
            writeln!(out, "\ncluster {{\n  name: {}", cluster.name)?;
            writeln!(out, "  listen: \"{}\"", cluster.listen)?;
            writeln!(out, "  routes: [")?;
            for route in &cluster.routes {
                writeln!(out, "    \"nats-route://{route}\"")?;
            }
            writeln!(out, "  ]\n}}")?;
        }
        if let Some(websocket) = params.websocket {
            writeln!(
                out,
                "\nwebsocket {{\n  listen: \"{websocket}\"\n  no_tls: true\n}}"
            )?;
        }
        Ok(())
    };
    Ok(write())
}

fn quoted(path: &Path) -> Result<String, ConfigError> {
    path.to_str()
        .filter(|text| !text.contains(['"', '\\']) && !text.chars().any(char::is_control))
        .map(|text| format!("\"{text}\""))
        .ok_or_else(|| ConfigError::Path {
            path: path.to_owned(),
        })
}

// === impl ServerParams ===

impl ServerParams {
    /// One server on loopback, with ports to be chosen and no HTTP.
    pub fn single(store_dir: impl Into<PathBuf>) -> Self {
        ServerParams {
            name: "arqon-spine".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            http: None,
            websocket: None,
            store_dir: store_dir.into(),
            cluster: None,
        }
    }

    /// Replaces each port 0 by a port that is free now.
    pub fn choose_ports(&mut self) -> std::io::Result<()> {
        Self::choose_all(std::slice::from_mut(self))
    }

    /// Replaces each port 0 of the servers of one cluster, and tells each of
    /// them where all are.
    pub fn choose_all(servers: &mut [ServerParams]) -> std::io::Result<()> {
        // All are held until all are chosen, so that none is chosen twice.
        let mut held = Vec::new();
        for server in &mut *servers {
            let addresses = [
                Some(&mut server.listen),
                server.http.as_mut(),
                server.websocket.as_mut(),
                server.cluster.as_mut().map(|cluster| &mut cluster.listen),
            ];
            for address in addresses.into_iter().flatten() {
                if address.port() == 0 {
                    let listener = TcpListener::bind(*address)?;
                    *address = listener.local_addr()?;
                    held.push(listener);
                }
            }
        }
        let routes: Vec<SocketAddr> = servers
            .iter()
            .filter_map(|server| Some(server.cluster.as_ref()?.listen))
            .collect();
        for cluster in servers
            .iter_mut()
            .filter_map(|server| server.cluster.as_mut())
        {
            if cluster.routes.is_empty() {
                cluster.routes.clone_from(&routes);
            }
        }
        Ok(())
    }
}
