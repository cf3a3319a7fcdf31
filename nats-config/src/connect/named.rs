//! TLS with a server that is known by its name and connected to by its
//! address. async-nats has one text for both, so the name to check is put into
//! the verifier. What it costs is SNI: a server with several certificates
//! answers with its first.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// The configuration for the host of that name; none where it is an address
/// itself, which async-nats checks as it should.
pub(super) fn tls(host: &str, roots: &[PathBuf]) -> Option<ClientConfig> {
    let name = ServerName::try_from(host.to_owned()).ok()?;
    if matches!(name, ServerName::IpAddress(_)) {
        return None;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Named {
        name,
        roots: roots.to_vec(),
        provider: provider.clone(),
        checks: OnceLock::new(),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Some(config)
}

/// Checks certificates as rustls does, against this name.
#[derive(Debug)]
struct Named {
    name: ServerName<'static>,
    roots: Vec<PathBuf>,
    provider: Arc<CryptoProvider>,
    /// Made when the server turns out to speak TLS: most do not, and the
    /// system's authorities are hundreds.
    checks: OnceLock<Result<Arc<WebPkiServerVerifier>, Error>>,
}

impl Named {
    fn checks(&self) -> Result<&WebPkiServerVerifier, Error> {
        let checks = self.checks.get_or_init(|| {
            let roots = Arc::new(trusted(&self.roots)?);
            WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
                .build()
                .map_err(|error| Error::General(error.to_string()))
        });
        checks.as_deref().map_err(Clone::clone)
    }
}

/// The authorities of these files; of the system where there are none.
fn trusted(files: &[PathBuf]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    if files.is_empty() {
        // A system's store often holds a few that rustls does not take.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    for file in files {
        let unusable = |error: String| Error::General(format!("{}: {error}", file.display()));
        let certificates =
            CertificateDer::pem_file_iter(file).map_err(|error| unusable(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate)?;
        }
    }
    Ok(roots)
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _address: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checks = self.checks()?;
        checks.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.checks()?.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.checks()?.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
