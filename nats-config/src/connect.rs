//! Connections to the Spine that never reconnect by themselves.
//!
//! One client is one TCP connection. A client that reconnected would hand over
//! a barrier's answer that says nothing about what was sent before the break,
//! and would drop messages without a word. So the first disconnect ends the
//! client: streams end with `None`, `publish` fails, [`Events`] ends after
//! `Closed`; the owner opens a new one.
//!
//! async-nats has no such mode. We get it from its server-choice callback: the
//! first choice is the real server, every later one is an address on which
//! nothing can listen, and one failed attempt is all it may make. The auth
//! callback signs once only, as a second lock.

mod events;
mod named;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arqon_resolver::ResolveError;
use async_nats::connection::State;
use async_nats::{
    Auth, AuthError, ConnectErrorKind, ConnectOptions, ReconnectToServer, ServerAddr,
};
use rand::seq::SliceRandom;

pub use events::{Closed, Events, SpineEvent};

use crate::credentials::{CredentialsError, MintedUser, read_creds};
use crate::{server, subjects};

/// Port 0 cannot be listened on: connecting fails at once, without a packet
/// leaving the host.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// How often the client pings an idle server; two unanswered pings end it, so
/// a frozen server or a cut cable is noticed after 15 s at the latest. Whoever
/// needs to know sooner sends a barrier.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long [`abort`] waits to get its word in.
const ABORT: Duration = Duration::from_millis(50);

/// A refusal for an unknown account takes the server's resolver time-out of
/// 1.9 s; this leaves room for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How a tenant's connection is tuned.
#[derive(Debug, Clone)]
pub struct TenantOptions {
    /// Commands queued to the connection before `publish` waits.
    pub client_capacity: usize,
    /// Messages queued per subscription before they are dropped and counted.
    pub subscription_capacity: usize,
    /// Bytes of the read buffer; small ones save memory per tenant.
    pub read_buffer_capacity: u16,
    /// A server of the list to try first.
    pub prefer: Option<String>,
    /// CA certificates (PEM) for servers reached over TLS; none: the system's.
    pub root_certificates: Vec<PathBuf>,
}

/// One open connection.
#[derive(Debug)]
pub struct Connection {
    /// The client; clones share the connection. Dropping it closes nothing
    /// while a subscription lives: see [`Connection::close`].
    pub client: async_nats::Client,
    /// The user, `U…`; its inbox is `_INBOX.<user>.>`.
    pub user: String,
    /// When the server will end it; `None`: never.
    pub expires_at: Option<SystemTime>,
    /// The server connected to, as listed.
    pub server: String,
    /// What happens to it.
    pub events: Events,
    /// Tells when it is over.
    pub closed: Closed,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The list of servers is empty.
    #[error("no NATS server is configured")]
    NoServer,
    /// The address is no URL.
    #[error("`{server}` is no NATS address")]
    Address {
        /// As configured.
        server: String,
        /// The reason.
        source: std::io::Error,
    },
    /// Its name has no address.
    #[error("cannot find {server}")]
    Unresolved {
        /// As configured.
        server: String,
        /// The reason.
        source: ResolveError,
    },
    /// The credentials cannot be read.
    #[error("no usable credentials for the connection")]
    Credentials(#[from] CredentialsError),
    /// The server does not accept the user.
    #[error("{server} refused user {user}")]
    Refused {
        /// As configured.
        server: String,
        /// The user, `U…`.
        user: String,
        /// The reason.
        source: async_nats::ConnectError,
    },
    /// The account has all its connections, or is suspended.
    #[error("the account of user {user} may open no more connections on {server}")]
    AccountFull {
        /// As configured.
        server: String,
        /// The user, `U…`.
        user: String,
        /// The reason.
        source: async_nats::ConnectError,
    },
    /// The server lacks what we use.
    #[error(
        "the nats-server at {server} is version {found}; at least {} is needed: upgrade it",
        server::MINIMUM_VERSION
    )]
    TooOld {
        /// As configured.
        server: String,
        /// Its version.
        found: String,
    },
    /// The server cannot be reached, or does not speak NATS.
    #[error("cannot connect to {server}")]
    Unreachable {
        /// As configured.
        server: String,
        /// The reason.
        source: async_nats::ConnectError,
    },
}

/// Connects a tenant's user, trying each server once, in random order.
pub async fn connect_tenant(
    servers: &[String],
    minted: MintedUser,
    name: &str,
    opts: TenantOptions,
) -> Result<Connection, ConnectError> {
    connect_user(servers, minted, name, &opts).await
}

/// Connects the user of a `.creds` file, trying each server once, in random order.
pub async fn connect_creds(
    servers: &[String],
    creds: &Path,
    name: &str,
) -> Result<Connection, ConnectError> {
    connect_user(servers, read_creds(creds)?, name, &TenantOptions::default()).await
}

/// Connects a user, trying each server once, in random order.
pub async fn connect_user(
    servers: &[String],
    user: MintedUser,
    name: &str,
    opts: &TenantOptions,
) -> Result<Connection, ConnectError> {
    let mut servers: Vec<&String> = servers.iter().collect();
    servers.shuffle(&mut rand::rng());
    if let Some(preferred) = &opts.prefer {
        servers.sort_by_key(|server| *server != preferred);
    }
    let mut outcome = Err(ConnectError::NoServer);
    for server in servers {
        outcome = connect_to(server, &user, name, opts).await;
        match &outcome {
            // Another server can only help where this one could not answer.
            Err(error) if error.is_unreachable() => {}
            _ => break,
        }
    }
    outcome
}

/// Gives a connection up, for a server that no longer answers: it counts as
/// closed at once and ends at once, or, if the client is stuck in the middle of
/// a write, when the server does not answer its pings.
pub async fn abort(client: &async_nats::Client, closed: &Closed) {
    closed.set();
    // "Reconnect" to this client means going nowhere, which ends it.
    let _ = tokio::time::timeout(ABORT, client.force_reconnect()).await;
}

fn parse(server: &str) -> Result<ServerAddr, ConnectError> {
    server.parse().map_err(|source| ConnectError::Address {
        server: server.to_owned(),
        source,
    })
}

/// Tries each address of a server. async-nats is given addresses only: names
/// it would resolve with what a static program lacks.
async fn connect_to(
    server: &str,
    user: &MintedUser,
    name: &str,
    opts: &TenantOptions,
) -> Result<Connection, ConnectError> {
    let named = parse(server)?;
    let found = arqon_resolver::resolve(named.host(), named.port()).await;
    let found = found.map_err(|source| ConnectError::Unresolved {
        server: server.to_owned(),
        source,
    })?;
    let tls = named::tls(named.host(), &opts.root_certificates);
    let mut outcome = Err(ConnectError::NoServer);
    for address in found {
        let address = parse(&format!("{}://{address}", named.scheme()))?;
        outcome = connect_at(server, address, tls.clone(), user, name, opts).await;
        match &outcome {
            Err(error) if error.is_unreachable() => {}
            _ => break,
        }
    }
    outcome
}

async fn connect_at(
    server: &str,
    real: ServerAddr,
    tls: Option<rustls::ClientConfig>,
    user: &MintedUser,
    name: &str,
    opts: &TenantOptions,
) -> Result<Connection, ConnectError> {
    let nowhere = parse(NOWHERE)?;
    let (sink, events, closed) = events::channel();
    let sink = Arc::new(sink);

    let mut options = one_signature(user)
        .name(name)
        .custom_inbox_prefix(subjects::inbox(&user.public_key))
        .client_capacity(opts.client_capacity)
        .subscription_capacity(opts.subscription_capacity)
        .read_buffer_capacity(opts.read_buffer_capacity)
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .ignore_discovered_servers()
        .max_reconnects(1)
        .reconnect_to_server_callback(one_choice(real.clone(), nowhere.clone()))
        .event_callback(move |event| {
            let sink = sink.clone();
            async move { sink.push(event) }
        });
    for path in &opts.root_certificates {
        options = options.add_root_certificates(path.clone());
    }
    if let Some(tls) = tls {
        options = options.tls_client_config(tls);
    }
    // The client's future is some 9 KiB; every caller's would carry it.
    let client = Box::pin(options.connect(&[real, nowhere][..]))
        .await
        .map_err(|source| refusal(server, user, source))?;
    let found = client.server_info().version;
    if server::check_version(&found).is_err() {
        abort(&client, &closed).await;
        return Err(ConnectError::TooOld {
            server: server.to_owned(),
            found,
        });
    }
    Ok(Connection {
        client,
        user: user.public_key.clone(),
        expires_at: user.expires_at,
        server: server.to_owned(),
        events,
        closed,
    })
}

/// Authenticates the first time it is asked, and never again.
fn one_signature(user: &MintedUser) -> ConnectOptions {
    let used = Arc::new(AtomicBool::new(false));
    let user = Arc::new(user.clone());
    ConnectOptions::with_auth_callback(move |nonce| {
        let first = !used.swap(true, Ordering::SeqCst);
        let user = user.clone();
        async move {
            if !first {
                return Err(AuthError::new("this connection is over"));
            }
            let mut auth = Auth::new();
            auth.signature = Some(user.key_pair.sign(&nonce).map_err(AuthError::new)?);
            auth.jwt = Some(user.jwt.clone());
            Ok(auth)
        }
    })
}

/// Chooses the real server the first time, and nowhere from then on.
fn one_choice(
    real: ServerAddr,
    nowhere: ServerAddr,
) -> impl Fn(
    Vec<async_nats::Server>,
    async_nats::ServerInfo,
) -> std::future::Ready<Option<ReconnectToServer>>
+ Send
+ Sync
+ 'static {
    let used = AtomicBool::new(false);
    move |_, _| {
        let first = !used.swap(true, Ordering::SeqCst);
        std::future::ready(Some(ReconnectToServer {
            addr: if first { real.clone() } else { nowhere.clone() },
            delay: Some(Duration::ZERO),
        }))
    }
}

fn refusal(server: &str, user: &MintedUser, source: async_nats::ConnectError) -> ConnectError {
    let server = server.to_owned();
    let user = user.public_key.clone();
    match source.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            ConnectError::Refused {
                server,
                user,
                source,
            }
        }
        // The client has no kind of its own for it; the server's text is all there is.
        _ if source
            .to_string()
            .contains("maximum account active connections") =>
        {
            ConnectError::AccountFull {
                server,
                user,
                source,
            }
        }
        _ => ConnectError::Unreachable { server, source },
    }
}

// === impl ConnectError ===

impl ConnectError {
    /// Whether no server answered at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unresolved { .. })
    }
}

// === impl TenantOptions ===

impl Default for TenantOptions {
    fn default() -> Self {
        TenantOptions {
            // async-nats's own defaults, but for the read buffer: a tenant is
            // one of thousands.
            client_capacity: 2048,
            subscription_capacity: 65_536,
            read_buffer_capacity: 16_384,
            prefer: None,
            root_certificates: Vec::new(),
        }
    }
}

// === impl Connection ===

impl Connection {
    /// Whether it is still up, as far as the client knows.
    pub fn is_open(&self) -> bool {
        !self.closed.is_closed() && self.client.connection_state() == State::Connected
    }

    /// Ends it in order: what was sent is written, what the server has already
    /// delivered is still read, then every stream ends.
    pub async fn close(&self) {
        // The only failure is that it is closed already.
        let _ = self.client.drain().await;
    }

    /// See [`abort`].
    pub async fn abort(&self) {
        abort(&self.client, &self.closed).await;
    }
}
