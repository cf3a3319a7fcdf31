//! The server's configuration file, made from the state folder.
//!
//! The text is in the templates `nats.conf`, `cluster.conf` and
//! `websocket.conf` of this crate; here is only what is put into them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::claims::ClaimsError;
use crate::ports::free_port;
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
    /// `HOST:PORT` of the others (and of itself, which does no harm).
    pub routes: Vec<String>,
    /// `HOST:PORT` that the other servers are told of this one, where it is not `listen`.
    pub advertise: Option<String>,
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
    /// The name cannot stand in the file as it is.
    #[error(
        "`{name}` cannot be the name of a server or cluster: letters, digits, `-`, `_` and `.` after a letter"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The route is none.
    #[error("`{route}` is no HOST:PORT of another server")]
    Route {
        /// The route.
        route: String,
    },
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
    let signing = state.operator_signing_key()?;
    let mut preload = String::new();
    for account in FixedAccount::ALL {
        let claims = state.account_claims(account)?;
        let key = claims.subject.clone();
        preload += &format!("  {key}: {}\n", claims.sign(&signing)?);
    }
    let http = params
        .http
        .map(|http| format!("http: \"{http}\"\n"))
        .unwrap_or_default();
    let mut text = fill(
        include_str!("../nats.conf"),
        &[
            ("name", plain(&params.name)?),
            ("listen", params.listen.to_string()),
            ("http", http),
            ("operator", state.operator_jwt()?),
            ("system", state.account(FixedAccount::Sys)?),
            ("accounts", quotable(&params.store_dir.join("accounts"))?),
            ("preload", preload),
            ("store", quotable(&params.store_dir)?),
        ],
    );
    if let Some(cluster) = &params.cluster {
        let mut routes = String::new();
        for route in &cluster.routes {
            routes += &format!("    \"nats-route://{}\"\n", host_and_port(route)?);
        }
        let advertise = match &cluster.advertise {
            Some(address) => format!("  advertise: \"{}\"\n", host_and_port(address)?),
            None => String::new(),
        };
        text += &fill(
            include_str!("../cluster.conf"),
            &[
                ("cluster", plain(&cluster.name)?),
                ("listen", cluster.listen.to_string()),
                ("advertise", advertise),
                ("routes", routes),
            ],
        );
    }
    if let Some(websocket) = params.websocket {
        let listen = [("listen", websocket.to_string())];
        text += &fill(include_str!("../websocket.conf"), &listen);
    }
    Ok(text)
}

/// Puts values into the `@name@` places of a template.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    text
}

/// A path that can stand between double quotes.
fn quotable(path: &Path) -> Result<String, ConfigError> {
    path.to_str()
        .filter(|text| !text.contains(['"', '\\']) && !text.chars().any(char::is_control))
        .map(str::to_owned)
        .ok_or_else(|| ConfigError::Path {
            path: path.to_owned(),
        })
}

/// A host, by name or address, and a port.
fn host_and_port(route: &str) -> Result<&str, ConfigError> {
    let fits = route.rsplit_once(':').is_some_and(|(host, port)| {
        let name = host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        let address = route.parse::<SocketAddr>().is_ok();
        port.parse::<u16>().is_ok() && !host.is_empty() && (name || address)
    });
    fits.then_some(route).ok_or_else(|| ConfigError::Route {
        route: route.to_owned(),
    })
}

/// A name that can stand without quotes and is no variable or number.
fn plain(name: &str) -> Result<String, ConfigError> {
    let fits = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits {
        Ok(name.to_owned())
    } else {
        Err(ConfigError::Name {
            name: name.to_owned(),
        })
    }
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
        for server in &mut *servers {
            let addresses = [
                Some(&mut server.listen),
                server.http.as_mut(),
                server.websocket.as_mut(),
                server.cluster.as_mut().map(|cluster| &mut cluster.listen),
            ];
            for address in addresses.into_iter().flatten() {
                if address.port() == 0 {
                    address.set_port(free_port()?);
                }
            }
        }
        let routes: Vec<String> = servers
            .iter()
            .filter_map(|server| Some(server.cluster.as_ref()?.listen.to_string()))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_place_is_filled_and_no_secret_gets_in() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::create(folder.path().join("spine")).unwrap();
        let mut params = ServerParams::single("/var/lib/arqon/nats");
        params.http = Some(SocketAddr::from(([127, 0, 0, 1], 8222)));
        params.websocket = Some(SocketAddr::from(([127, 0, 0, 1], 8223)));
        params.cluster = Some(ClusterParams {
            name: "arqon".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 6222)),
            routes: vec![
                "127.0.0.1:6223".to_owned(),
                "nats-3.example:6222".to_owned(),
            ],
            advertise: Some("nats-1.example:6222".to_owned()),
        });
        let text = render(&state, &params).unwrap();
        assert!(!text.contains('@'), "{text}");
        // Seeds begin with S and are 58 characters of base32.
        let seeds = text
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| word.starts_with('S') && word.len() == 58);
        assert_eq!(seeds.count(), 0);
        assert!(text.contains("http: \"127.0.0.1:8222\""));
        assert!(text.contains("nats-route://127.0.0.1:6223"));
        assert!(text.contains("nats-route://nats-3.example:6222"));
        assert!(text.contains("advertise: \"nats-1.example:6222\""));
    }

    #[test]
    fn nothing_breaks_out_of_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::create(folder.path().join("spine")).unwrap();
        let mut params = ServerParams::single("/tmp/a\" http: 1");
        assert!(matches!(
            render(&state, &params),
            Err(ConfigError::Path { .. })
        ));
        params.store_dir = "/tmp/a".into();
        for name in ["", "a b", "1a", "$x", "a\nb", "a}"] {
            params.name = name.to_owned();
            assert!(matches!(
                render(&state, &params),
                Err(ConfigError::Name { .. })
            ));
        }
        params.name = "n1".to_owned();
        for route in ["a", "a:", ":1", "a:99999", "a\"b:1", "a b:1", "u:p@a:1"] {
            params.cluster = Some(ClusterParams {
                name: "arqon".to_owned(),
                listen: SocketAddr::from(([127, 0, 0, 1], 6222)),
                routes: vec![route.to_owned()],
                advertise: None,
            });
            assert!(
                matches!(render(&state, &params), Err(ConfigError::Route { .. })),
                "{route}"
            );
        }
    }
}
