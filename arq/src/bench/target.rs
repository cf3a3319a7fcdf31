//! The server under measurement, as it is named on the command line.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;

use super::{dialect::Peer, engine::Endpoint, process::Process, report::Record};
use crate::{
    Globals,
    auth::{DevelopmentKey, TokenOptions, sign},
    failure::{Doing, Failure, Result},
};

/// Whom to measure.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// What answers there
    #[arg(long, value_enum, default_value_t = Peer::Shield)]
    peer: Peer,
    /// ws://, wss:// or nats:// address [default: the context's Shield]
    #[arg(long)]
    url: Option<String>,
    /// The server's name in tables [default: the peer]
    #[arg(long, overrides_with = "label")]
    label: Option<String>,
    /// A token to connect with, repeatable [default: one of the context's default tenant]
    #[arg(long = "token", value_name = "JWT")]
    tokens: Vec<String>,
    /// A file with one token a line
    #[arg(long, value_name = "FILE", conflicts_with = "tokens")]
    tokens_file: Option<PathBuf>,
    /// PEM file of the authority that signed the server's certificate
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A server process whose CPU and memory count, NAME=PID, repeatable
    #[arg(long = "pid", value_name = "NAME=PID")]
    pub(super) processes: Vec<Process>,
    /// Loopback addresses 127.0.0.x to connect from
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=200))]
    sources: u8,
}

// === impl Target ===

impl Target {
    /// An empty record of this server.
    pub(super) fn record(&self, bench: &str, endpoint: &Endpoint) -> Record {
        let peer =
            clap::ValueEnum::to_possible_value(&self.peer).map(|value| value.get_name().to_owned());
        let tls = endpoint.tls.is_some();
        Record {
            bench: bench.to_owned(),
            label: self.label.clone().or(peer).unwrap_or_default(),
            params: BTreeMap::from([("tls".to_owned(), Value::Bool(tls))]),
            metrics: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    /// Where to connect, and with which tokens.
    pub(super) fn prepare(&self, globals: &Globals) -> Result<(Endpoint, Vec<String>)> {
        let context = globals.context()?;
        let url = match (&self.url, self.peer) {
            (Some(url), _) => url.clone(),
            (None, Peer::Shield) => context.settings.shield_url.clone(),
            (None, _) => return Err(Failure::usage("where is it? name it with --url")),
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| {
            Failure::usage(format!("`{url}` is no address"))
                .hint("write for instance ws://127.0.0.1:8080/v1/socket")
        })?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let addr = resolve(authority)?;
        if !addr.ip().is_loopback() {
            return Err(Failure::usage(format!(
                "{addr} is another machine; the generator loads only this one"
            )));
        }
        let ca = self.ca.as_deref().or(context.settings.ca_file.as_deref());
        let tls = match (scheme, ca) {
            ("wss", Some(ca)) => Some(tls(ca)?),
            ("wss", None) => {
                return Err(Failure::usage(
                    "whom to trust? name the authority with --ca",
                ));
            }
            ("ws" | "nats", _) => None,
            _ => {
                return Err(Failure::usage(format!(
                    "`{scheme}` is none of ws, wss and nats"
                )));
            }
        };
        let tokens = match &self.tokens_file {
            Some(file) => std::fs::read_to_string(file)
                .doing(format!("cannot read {}", file.display()))?
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect(),
            None if !self.tokens.is_empty() => self.tokens.clone(),
            None if self.peer == Peer::Shield => {
                let key = DevelopmentKey::open(&context, &globals.output)?;
                vec![sign(
                    &key,
                    None,
                    &TokenOptions::default().claims(&context)?,
                )?]
            }
            None => Vec::new(),
        };
        let host = authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host)
            .to_owned();
        let endpoint = Endpoint {
            peer: self.peer,
            addr,
            host,
            path: format!("/{path}"),
            tls,
            sources: self.sources,
        };
        Ok((endpoint, tokens))
    }
}

fn resolve(authority: &str) -> Result<SocketAddr> {
    let split = authority.rsplit_once(':');
    let (host, port) = split
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .ok_or_else(|| Failure::usage(format!("`{authority}` is no host with a port")))?;
    let found = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(arqon_resolver::resolve(host, port))?;
    found
        .into_iter()
        .find(SocketAddr::is_ipv4)
        .ok_or_else(|| Failure::new(format!("`{authority}` has no IPv4 address")))
}

/// Writes a self-signed certificate for 127.0.0.1 and its key.
pub(super) fn certificate(folder: &Path) -> Result {
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).doing("cannot make a certificate")?;
    crate::context::create_folder(folder)?;
    crate::context::write_private(
        &folder.join("key.pem"),
        made.signing_key.serialize_pem().as_bytes(),
    )?;
    crate::context::write_private(&folder.join("cert.pem"), made.cert.pem().as_bytes())
}

/// TLS with one authority and without session tickets: every handshake is a full one.
fn tls(ca: &Path) -> Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(ca).doing(format!("cannot read {}", ca.display()))?
    {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
