//! From a URL to an upgraded connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arqon_proto::envelope::SUBPROTOCOL;
use http::Uri;
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::handshake::{Request, upgrade};
use crate::stream::Stream;
use crate::{ClientError, tls_config};

/// Where the token travels. Never in the URL, which logs keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TokenIn {
    /// `Authorization: Bearer …`
    #[default]
    Authorization,
    /// The offered subprotocol `arqon.bearer.…`, as browsers must.
    Subprotocol,
}

/// How to connect. Fill in from `ConnectParams::default()` or [`ConnectParams::new`].
#[derive(Clone)]
pub struct ConnectParams {
    /// `ws://` or `wss://`, host, port; without a path `/v1/socket`.
    pub url: String,
    /// The JWT; `None` sends none.
    pub token: Option<String>,
    /// Where the token travels.
    pub token_in: TokenIn,
    /// W3C trace context of what this connection is for: told in the upgrade,
    /// and with each JOIN and PUBLISH of the client.
    pub traceparent: Option<String>,
    /// The subprotocol offered; `None` offers none.
    pub subprotocol: Option<String>,
    /// Certificates to trust with `wss://`, as PEM; `None`: the system's.
    pub tls_ca_pem: Option<Vec<u8>>,
    /// A configuration made by [`tls_config`], in place of `tls_ca_pem`, to
    /// share over many connections.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The local address to connect from.
    pub source_addr: Option<IpAddr>,
    /// Bytes of the WebSocket's read buffer.
    pub read_buffer: usize,
    /// Largest frame and message taken from the server.
    pub max_message_bytes: usize,
    /// How long TCP, TLS and upgrade may take together.
    pub timeout: Duration,
}

impl Default for ConnectParams {
    fn default() -> Self {
        Self {
            url: String::new(),
            token: None,
            token_in: TokenIn::default(),
            traceparent: None,
            subprotocol: Some(SUBPROTOCOL.to_owned()),
            tls_ca_pem: None,
            tls: None,
            source_addr: None,
            read_buffer: 4096,
            max_message_bytes: 16 << 20,
            timeout: Duration::from_secs(30),
        }
    }
}

impl ConnectParams {
    /// The usual: a URL and a token.
    pub fn new(url: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: Some(token.into()),
            ..Self::default()
        }
    }
}

impl fmt::Debug for ConnectParams {
    // A token must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectParams")
            .field("url", &self.url)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("token_in", &self.token_in)
            .field("source_addr", &self.source_addr)
            .field("read_buffer", &self.read_buffer)
            .finish_non_exhaustive()
    }
}

/// Connects, by TLS where asked, and upgrades.
pub(crate) async fn connect(
    params: &ConnectParams,
) -> Result<WebSocketStream<Stream>, ClientError> {
    match tokio::time::timeout(params.timeout, Box::pin(connect_unbounded(params))).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ClientError::Timeout(params.timeout)),
    }
}

async fn connect_unbounded(params: &ConnectParams) -> Result<WebSocketStream<Stream>, ClientError> {
    let target = Target::parse(&params.url)?;
    // Made first, so that what cannot be sent is found before any packet.
    let request = Request::new(
        &target.authority,
        &target.path,
        params
            .token
            .as_deref()
            .map(|token| (params.token_in, token)),
        params.subprotocol.as_deref(),
        params.traceparent.as_deref(),
    )?;
    let tls = match (&params.tls, target.tls) {
        (_, false) => None,
        (Some(config), true) => Some(Arc::clone(config)),
        (None, true) => Some(tls_config(params.tls_ca_pem.as_deref())?),
    };
    let tcp = dial(&target, params.source_addr).await?;
    let mut stream = match tls {
        None => Stream::Plain(tcp),
        Some(config) => {
            let name = ServerName::try_from(target.host.clone())
                .map_err(|_| ClientError::InvalidUrl(params.url.clone()))?;
            let connected = TlsConnector::from(config).connect(name, tcp).await;
            Stream::Tls(Box::new(connected.map_err(|source| ClientError::Tls {
                host: target.host.clone(),
                source,
            })?))
        }
    };
    let read_ahead = upgrade(&mut stream, &request).await?;
    let config = WebSocketConfig::default()
        .read_buffer_size(params.read_buffer)
        .write_buffer_size(0)
        .max_message_size(Some(params.max_message_bytes))
        .max_frame_size(Some(params.max_message_bytes));
    Ok(WebSocketStream::from_partially_read(stream, read_ahead, Role::Client, Some(config)).await)
}

async fn dial(target: &Target, source: Option<IpAddr>) -> Result<TcpStream, ClientError> {
    let address = format!("{}:{}", target.host, target.port);
    let failed = |source| ClientError::Connect {
        address: address.clone(),
        source,
    };
    let found = arqon_resolver::resolve(&target.host, target.port)
        .await
        .map_err(|error| failed(error.into()))?;
    let mut last = None;
    for remote in found
        .into_iter()
        .filter(|a| source.is_none_or(|s| s.is_ipv4() == a.is_ipv4()))
    {
        match dial_one(remote, source).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = Some(e),
        }
    }
    match last {
        Some(e) => Err(failed(e)),
        None => Err(ClientError::NoAddress(address)),
    }
}

async fn dial_one(remote: SocketAddr, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = if remote.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(remote).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    tls: bool,
    /// As in the URL, for the `Host` header.
    authority: String,
    /// Without the brackets of IPv6.
    host: String,
    port: u16,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, ClientError> {
        let invalid = || ClientError::InvalidUrl(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let tls = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(invalid()),
        };
        let authority = uri.authority().ok_or_else(invalid)?;
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(invalid());
        }
        let path = match uri.path_and_query().map(http::uri::PathAndQuery::as_str) {
            None | Some("" | "/") => "/v1/socket",
            Some(path) => path,
        };
        Ok(Self {
            tls,
            authority: authority.as_str().to_owned(),
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Option<(bool, String, u16, String)> {
        let t = Target::parse(url).ok()?;
        Some((t.tls, t.host, t.port, t.path))
    }

    #[test]
    fn urls_say_where_to() {
        let some = |tls, host: &str, port, path: &str| Some((tls, host.into(), port, path.into()));
        assert_eq!(target("ws://a"), some(false, "a", 80, "/v1/socket"));
        assert_eq!(target("wss://a/"), some(true, "a", 443, "/v1/socket"));
        assert_eq!(target("ws://[::1]:81/x?y"), some(false, "::1", 81, "/x?y"));
        for bad in [
            "",
            "a",
            "http://a",
            "ws://",
            "ws://user:secret@a",
            "ws:///x",
        ] {
            assert_eq!(target(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_token_is_not_in_debug_text() {
        let params = ConnectParams::new("ws://a", "secret");
        assert!(!format!("{params:?}").contains("secret"));
    }
}
