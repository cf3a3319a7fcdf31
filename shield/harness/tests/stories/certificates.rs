//! TLS certificates that are renewed while a Shield runs, and versions of TLS
//! that are too old.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arqon_harness::{
    Program, RawPeer, Signal, Spine, eventually, free_addr, http, shield_program, signal, within,
};
use arqon_proto::v1::Opcode;
use rustls::HandshakeKind;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const TLS: &str = "tls.certificate_file = \"cert.pem\"\ntls.key_file = \"key.pem\"";

/// A certificate for `localhost`, its own authority, and its key.
struct Pair {
    certificate: String,
    key: String,
}

// === impl Pair ===

impl Pair {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    /// Puts it in place as a careful program does: written beside, renamed over.
    fn put(&self, folder: &Path) {
        self.put_one(folder, "cert.pem", &self.certificate);
        self.put_one(folder, "key.pem", &self.key);
    }

    fn put_one(&self, folder: &Path, name: &str, text: &str) {
        let beside = folder.join("beside");
        fs::write(&beside, text).unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(beside, folder.join(name)).unwrap();
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }
}

/// A client that trusts all of these.
fn trusting(pairs: &[&Pair]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    for pair in pairs {
        roots.add(pair.der()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn connect(
    addr: std::net::SocketAddr,
    connector: &TlsConnector,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(addr).await?;
    let name = ServerName::try_from("localhost").unwrap();
    within("a TLS handshake", connector.connect(name, stream)).await
}

/// The certificate that a new client is shown.
async fn shown(addr: std::net::SocketAddr, pairs: &[&Pair]) -> CertificateDer<'static> {
    let stream = connect(addr, &trusting(pairs)).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_the_next_and_harms_no_session() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let (old, new) = (Pair::new(), Pair::new());
    old.put(spine.folder());
    let shield = spine.shield().with(TLS).start().await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    alice.join("lobby").await;
    let addr = shield.addr();
    let both = [&old, &new];
    assert_eq!(shown(addr, &both).await, old.der());
    let expiry = shield.metric("certificate_expiry_time_seconds", "").await;
    assert!(expiry > 0.0);

    // One with a ticket from before.
    let resuming = trusting(&both);
    let bearer = format!("Authorization: Bearer {}", acme.token().user("bob").sign());
    let stream = connect(addr, &resuming).await.unwrap();
    let mut bob = RawPeer::ask_over(stream, "/v1/socket", &[&bearer])
        .await
        .unwrap();
    assert_eq!(bob.envelope().await.op(), Opcode::Welcome);

    // First a certificate whose key has not come yet, and then half a file: the old one stays.
    new.put_one(spine.folder(), "cert.pem", &new.certificate);
    eventually!(shield.metric("certificate_reloads_total", "failed").await >= 1.0);
    assert_eq!(shown(addr, &both).await, old.der());
    fs::write(spine.folder().join("cert.pem"), &new.certificate[..200]).unwrap();
    eventually!(shield.metric("certificate_reloads_total", "failed").await >= 2.0);
    assert_eq!(shown(addr, &both).await, old.der());
    assert_eq!(shield.metric("certificate_reloads_total", "ok").await, 0.0);

    new.put(spine.folder());
    eventually!(shield.metric("certificate_reloads_total", "ok").await >= 1.0);
    assert_eq!(shown(addr, &both).await, new.der());
    assert!(
        connect(addr, &trusting(&[&old])).await.is_err(),
        "it is not shown any more"
    );

    alice.publish("lobby", "still here").await;
    alice.hears("lobby", "still here").await;
    let again = connect(addr, &resuming).await.unwrap();
    assert_eq!(
        again.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Resumed)
    );
}

#[tokio::test]
async fn the_metric_of_the_expiry_follows() {
    let spine = Spine::start().await;
    Pair::new().put(spine.folder());
    let shield = spine.shield().with(TLS).start().await;
    let before = shield.metric("certificate_expiry_time_seconds", "").await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2077, 7, 7);
    let soon = Pair {
        certificate: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    };
    soon.put(spine.folder());
    let date = 3_392_841_600.0;
    assert_ne!(before, date);
    eventually!(shield.metric("certificate_expiry_time_seconds", "").await == date);
}

#[tokio::test]
async fn sighup_has_it_looked_at_now_and_ends_nothing() {
    let spine = Spine::start().await;
    let (old, new) = (Pair::new(), Pair::new());
    old.put(spine.folder());
    let (public, admin) = (free_addr(), free_addr());
    let manifest = spine
        .shield()
        .with(TLS)
        .with(&format!(
            "listen.public = \"{public}\"\nlisten.admin = \"{admin}\""
        ))
        .write();
    let log = spine.folder().join("shield.log");
    let mut program = Program::start(
        Command::new(shield_program()).arg("--config").arg(manifest),
        &log,
    );
    eventually!(
        http::get(admin, "/readyz", &[])
            .await
            .is_ok_and(|it| it.status == 200)
    );
    signal(program.pid(), Signal::HUP);
    eventually!(
        program.log().contains("certificate has not changed"),
        "{}",
        program.log()
    );
    new.put(spine.folder());
    signal(program.pid(), Signal::HUP);
    eventually!(
        program.log().contains("TLS certificate reloaded"),
        "{}",
        program.log()
    );
    assert_eq!(shown(public, &[&old, &new]).await, new.der());
    // A change that cannot be used is told once, however often it is looked at.
    fs::write(spine.folder().join("cert.pem"), "no certificate").unwrap();
    let warned = || {
        program
            .log()
            .matches("cannot be used; the old one stays")
            .count()
    };
    eventually!(warned() == 1, "{}", program.log());
    assert_eq!(shown(public, &[&old, &new]).await, new.der());
    assert!(program.ended().is_none());
    program.terminate();
    assert_eq!(program.wait().await.code(), Some(0), "{}", program.log());
    let warnings = program
        .log()
        .matches("cannot be used; the old one stays")
        .count();
    assert_eq!(warnings, 1, "{}", program.log());
}

/// A ClientHello as a client of this version sends it, with what any server
/// could agree on.
fn hello(version: [u8; 2]) -> Vec<u8> {
    let suites = [0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x09, 0xc0, 0x13, 0x00, 0x2f];
    let extensions = [
        &[0, 10, 0, 6, 0, 4, 0, 0x1d, 0, 0x17][..],
        &[0, 11, 0, 2, 1, 0],
        &[0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 4, 1],
    ]
    .concat();
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend((suites.len() as u16).to_be_bytes());
    body.extend(suites);
    body.extend([1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut handshake = vec![1, 0];
    handshake.extend((body.len() as u16).to_be_bytes());
    handshake.extend(body);
    let mut record = vec![0x16, 3, 1];
    record.extend((handshake.len() as u16).to_be_bytes());
    record.extend(handshake);
    record
}

#[tokio::test]
async fn tls_below_1_2_is_refused_by_name() {
    let spine = Spine::start().await;
    Pair::new().put(spine.folder());
    let shield = spine.shield().with(TLS).start().await;
    for (version, answer) in [
        // SSL 3.0, TLS 1.0, TLS 1.1: a fatal alert, protocol_version.
        ([3, 0], &[2, 70][..]),
        ([3, 1], &[2, 70]),
        ([3, 2], &[2, 70]),
        // TLS 1.2, the same hello: a ServerHello.
        ([3, 3], &[2]),
    ] {
        let mut stream = TcpStream::connect(shield.addr()).await.unwrap();
        stream.write_all(&hello(version)).await.unwrap();
        let mut head = [0; 5];
        within("an answer", stream.read_exact(&mut head))
            .await
            .unwrap();
        let mut first = vec![0; answer.len()];
        within("its content", stream.read_exact(&mut first))
            .await
            .unwrap();
        let kind = if answer.len() == 2 { 0x15 } else { 0x16 };
        assert_eq!((head[0], first.as_slice()), (kind, answer), "{version:?}");
    }
    assert!(shield.metric("connections_refused_total", "tls").await >= 3.0);
}
