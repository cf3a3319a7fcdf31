//! TLS by rustls with the workspace's one provider.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::ClientError;

/// The configuration for `wss://`: trusts the certificates given as PEM and
/// no other, or without any the system's. Build it once for many connections.
///
/// # Errors
/// Where no certificate can be used.
pub fn tls_config(ca_pem: Option<&[u8]>) -> Result<Arc<ClientConfig>, ClientError> {
    let invalid = |e: String| ClientError::InvalidCertificates(e);
    let mut roots = RootCertStore::empty();
    if let Some(pem) = ca_pem {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| invalid(e.to_string()))?;
            roots.add(certificate).map_err(|e| invalid(e.to_string()))?;
        }
    } else {
        // A system's store often holds a few that rustls does not take.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(match ca_pem {
            Some(_) => invalid("none found".to_owned()),
            None => ClientError::NoAuthorities,
        });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
