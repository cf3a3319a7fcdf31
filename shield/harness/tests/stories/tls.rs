//! TLS on the public listener.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use arqon_harness::{Client, RawPeer, Spine, within};
use arqon_proto::v1::Opcode;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A certificate for `localhost`, its own authority; returns it as PEM.
fn write_certificate(folder: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = made.cert.pem();
    std::fs::write(folder.join("cert.pem"), &certificate).unwrap();
    let key = folder.join("key.pem");
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    certificate
}

fn connector(
    certificate: &str,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

const TLS: &str = "tls.certificate_file = \"cert.pem\"\ntls.key_file = \"key.pem\"\n\
                   listen.handshake_timeout_secs = 2";

#[tokio::test]
async fn sessions_run_over_tls_and_what_is_not_tls_does_no_harm() {
    let spine = Spine::start().await;
    let acme = spine.tenant("acme").await;
    let certificate = write_certificate(spine.folder());
    let shield = spine.shield().with(TLS).start().await;
    let mut alice = shield.connect(&acme.token().sign()).await;
    alice.join("lobby").await;

    // Both versions there are, each proven by a session.
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let stream = TcpStream::connect(shield.addr()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector(&certificate, &[version])
            .connect(name, stream)
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        let authorization = format!("Authorization: Bearer {}", acme.token().sign());
        let mut peer = RawPeer::ask_over(stream, "/v1/socket", &[&authorization])
            .await
            .unwrap();
        assert_eq!(peer.envelope().await.op(), Opcode::Welcome);
    }

    // Plain text, noise, silence and a TLS 1.1 hello are turned away.
    let old_hello = [
        b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x02".as_slice(),
        &[7; 32],
        b"\x00\x00\x02\x00\x2f\x01\x00",
    ]
    .concat();
    let request = format!(
        "GET /v1/socket HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        acme.token().sign()
    );
    for bytes in [
        request.as_bytes(),
        &[0xff; 100],
        b"",
        &old_hello,
        b"\x16\x03\x01",
    ] {
        let mut stream = TcpStream::connect(shield.addr()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good an end as any.
        let _ = within("the end of a connection", stream.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP/1.1 101"), "{answer:02x?}");
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.len() < 512 && !text.contains("WELCOME"), "{text}");
    }

    // One who does not trust the certificate stays out by its own choice.
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let mut params = shield.params(&acme.token().sign());
    params.tls_ca_pem = Some(other.cert.pem().into_bytes());
    assert!(Client::connect(params).await.is_err());

    // Large messages in both directions, and the neighbours heard none of it.
    let mut bob = shield.connect(&acme.token().user("bob").sign()).await;
    bob.join("lobby").await;
    for size in [1, 1_000, 20_000, 60_000] {
        let text = "t".repeat(size);
        bob.publish("lobby", &text).await;
        alice.hears("lobby", &text).await;
        bob.hears("lobby", &text).await;
    }
    alice.ping().await;
}
