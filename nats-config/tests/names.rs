//! A server is found by its name, and its certificate is checked against that
//! name, though async-nats is given an address.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use arqon_resolver::ResolveError;
use arqon_spine::connect::{ConnectError, Connection, TenantOptions, connect_user};
use arqon_spine::server;
use arqon_spine::server_config::{ServerParams, render};
use arqon_spine::state::{Role, StateFolder};
use common::{PATIENCE, node};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// A nats-server that speaks TLS as `localhost`, by a certificate of the authority `ca`.
struct Secure {
    folder: tempfile::TempDir,
    state: StateFolder,
    port: u16,
    child: Child,
}

impl Secure {
    async fn start(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::create(folder.path().join("spine")).unwrap();
        let mut params = ServerParams::single(folder.path().join("store"));
        params.choose_ports().unwrap();
        for authority in ["ca", "other"] {
            let issuer = authority_named(authority);
            let file = folder.path().join(format!("{authority}.pem"));
            std::fs::write(file, issuer.pem()).unwrap();
            if authority == "ca" {
                let key = KeyPair::generate().unwrap();
                let asked = CertificateParams::new([name.to_owned()]).unwrap();
                let certificate = asked.signed_by(&key, &issuer).unwrap();
                std::fs::write(folder.path().join("cert.pem"), certificate.pem()).unwrap();
                std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
            }
        }
        let text = render(&state, &params).unwrap();
        let at = folder.path().display();
        let tls = format!("\ntls {{ cert_file: \"{at}/cert.pem\", key_file: \"{at}/key.pem\" }}\n");
        let config = folder.path().join("nats.conf");
        std::fs::write(&config, text + &tls).unwrap();
        let child = Command::new(server::find().unwrap().path)
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let port = params.listen.port();
        let up = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_err()
            {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, up).await.unwrap();
        Self {
            folder,
            state,
            port,
            child,
        }
    }

    fn authority(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.pem"))
    }

    async fn connect(&self, host: &str, authority: &str) -> Result<Connection, ConnectError> {
        let user = self.state.mint(Role::Admin, &node("test"), None).unwrap();
        let options = TenantOptions {
            root_certificates: vec![self.authority(authority)],
            ..TenantOptions::default()
        };
        let server = format!("tls://{host}:{}", self.port);
        connect_user(&[server], user, "test", &options).await
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn authority_named(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The text of an error and of its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_checked_against_the_name() {
    let server = Secure::start("localhost").await;
    let connection = server.connect("localhost", "ca").await.unwrap();
    assert!(connection.is_open());
    assert_eq!(
        connection.server,
        format!("tls://localhost:{}", server.port)
    );

    let refused = server.connect("localhost", "other").await.unwrap_err();
    assert!(refused.is_unreachable(), "{refused:?}");
    assert!(
        told(&refused).contains("UnknownIssuer"),
        "{}",
        told(&refused)
    );
    // The address is not what the certificate names.
    let refused = server.connect("127.0.0.1", "ca").await.unwrap_err();
    assert!(
        told(&refused).contains("not valid for name"),
        "{}",
        told(&refused)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_name_is_refused() {
    let server = Secure::start("bus.example").await;
    let refused = server.connect("localhost", "ca").await.unwrap_err();
    assert!(refused.is_unreachable(), "{refused:?}");
    let told = told(&refused);
    assert!(told.contains("localhost"), "{told}");
    assert!(told.contains("bus.example"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_knows_is_told_and_the_next_server_is_tried() {
    let (spine, _admin) = common::Spine::start().await;
    let gone = "nats://nats.invalid:4222".to_owned();
    let user = || spine.state.mint(Role::Admin, &node("test"), None).unwrap();
    let options = TenantOptions {
        prefer: Some(gone.clone()),
        ..TenantOptions::default()
    };
    let servers = [gone.clone(), spine.server.url()];
    let connection = connect_user(&servers, user(), "test", &options)
        .await
        .unwrap();
    assert_eq!(connection.server, spine.server.url());

    let refused = connect_user(std::slice::from_ref(&gone), user(), "test", &options)
        .await
        .unwrap_err();
    let ConnectError::Unresolved { server, source } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(server, gone);
    assert!(matches!(source, ResolveError::Unknown(name) if name == "nats.invalid"));
}
