//! Names of hosts to addresses, in Rust: a static program cannot use the C
//! library's resolver, which loads parts of itself when it runs.
//!
//! As that one does, each look-up reads `/etc/hosts` first and then asks the
//! servers of `/etc/resolv.conf`, with its search list, and nothing is kept
//! from one look-up to the next: both files may change while a Shield runs.
//! What is absent: other sources of `nsswitch.conf` (LDAP, mDNS), and zones of
//! link-local addresses.

mod adapters;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};

pub use adapters::Names;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name cannot be that of a host.
    #[error("`{0}` is no name of a host")]
    Invalid(String),
    /// Neither `/etc/hosts` nor DNS knows it.
    #[error("no host is named `{0}`")]
    Unknown(String),
    /// No DNS server told.
    #[error("no DNS server answers for `{host}`")]
    Unanswered {
        /// The name.
        host: String,
        /// What came instead.
        source: Box<NetError>,
    },
}

/// The addresses of a host, those first that this machine has a route to, of
/// IPv6 before those of IPv4. Whoever connects tries one after the other.
///
/// `host` may be an address already, without brackets.
///
/// # Errors
/// Where it has none.
pub async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let invalid = || ResolveError::Invalid(host.to_owned());
    let name = Name::from_utf8(host).map_err(|_| invalid())?;
    if name.num_labels() == 0 {
        return Err(invalid());
    }
    let mut found = in_hosts(&name);
    if found.is_empty() {
        found = if is_localhost(&name) {
            vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]
        } else {
            in_dns(host, name).await?
        };
    }
    let mut found: Vec<SocketAddr> = found
        .into_iter()
        .map(|address| SocketAddr::new(address, port))
        .collect();
    found.sort_by_key(|address| (!has_route(address), address.is_ipv4()));
    Ok(found)
}

/// RFC 6761: no server is asked for this one, and no domain of the search list
/// is put behind it. Keys may travel to it without TLS, so no network may say
/// where it is.
fn is_localhost(name: &Name) -> bool {
    let mut labels = name.iter();
    labels
        .next()
        .is_some_and(|label| label.eq_ignore_ascii_case(b"localhost"))
        && labels.next().is_none()
}

/// What `/etc/hosts` says. A name that stands there for one family is not
/// looked for in the other.
fn in_hosts(name: &Name) -> Vec<IpAddr> {
    // A machine without the file, such as an empty image, is fine.
    let hosts = Hosts::from_system().unwrap_or_default();
    [RecordType::AAAA, RecordType::A]
        .into_iter()
        .filter_map(|kind| hosts.lookup_static_host(&Query::query(name.clone(), kind)))
        .flat_map(|lookup| {
            let answers = lookup.answers().iter();
            answers
                .filter_map(|record| address(&record.data))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

async fn in_dns(host: &str, name: Name) -> Result<Vec<IpAddr>, ResolveError> {
    let unanswered = |error| ResolveError::Unanswered {
        host: host.to_owned(),
        source: Box::new(error),
    };
    let (config, mut options) = system_conf::read_system_conf().unwrap_or_else(|_| local());
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(unanswered)?;
    match resolver.lookup_ip(name).await {
        Ok(found) => Ok(found.iter().collect()),
        Err(error) if error.is_no_records_found() => Err(ResolveError::Unknown(host.to_owned())),
        Err(error) => Err(unanswered(error)),
    }
}

/// What resolv.conf(5) says of a machine that names no server: its own.
fn local() -> (ResolverConfig, ResolverOpts) {
    let server = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    (config, ResolverOpts::default())
}

/// Whether packets to an address could leave this machine; connecting UDP
/// sends none.
fn has_route(address: &SocketAddr) -> bool {
    let own = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    UdpSocket::bind(own).is_ok_and(|socket| socket.connect(address).is_ok())
}

impl From<ResolveError> for io::Error {
    fn from(error: ResolveError) -> Self {
        let kind = match &error {
            ResolveError::Invalid(_) => io::ErrorKind::InvalidInput,
            ResolveError::Unknown(_) => io::ErrorKind::NotFound,
            ResolveError::Unanswered { .. } => io::ErrorKind::TimedOut,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn an_address_is_its_own_name() {
        let found = resolve("127.0.0.1", 80).await.unwrap();
        assert_eq!(found, ["127.0.0.1:80".parse().unwrap()]);
        let found = resolve("::1", 80).await.unwrap();
        assert_eq!(found, ["[::1]:80".parse().unwrap()]);
    }

    #[tokio::test]
    async fn localhost_is_here() {
        for name in ["localhost", "LocalHost."] {
            let found = resolve(name, 1).await.unwrap();
            assert!(found.contains(&"127.0.0.1:1".parse().unwrap()), "{found:?}");
            assert!(found.iter().all(|address| address.ip().is_loopback()));
        }
    }

    #[test]
    fn localhost_is_left_to_no_server() {
        let is = |name| is_localhost(&Name::from_utf8(name).unwrap());
        assert!(is("localhost") && is("LOCALHOST."));
        assert!(!is("localhost.example") && !is("local") && !is("a.localhost"));
    }

    #[tokio::test]
    async fn what_is_no_name_is_told() {
        for host in ["", ".", "a..b", "[::1]", &"a".repeat(64)] {
            let outcome = resolve(host, 1).await;
            assert!(
                matches!(outcome, Err(ResolveError::Invalid(_))),
                "{host}: {outcome:?}"
            );
        }
    }

    #[test]
    fn loopback_has_a_route() {
        assert!(has_route(&"127.0.0.1:1".parse().unwrap()));
    }
}
