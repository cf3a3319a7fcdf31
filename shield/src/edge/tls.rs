//! TLS of the public listener.

use std::{path::PathBuf, sync::Arc};

use arqon_spine::manifest::Tls;
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _};
use tokio_rustls::TlsAcceptor;

/// Why the certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("cannot read {} (`{setting}`)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The manifest's key that names it.
        setting: &'static str,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The file of the certificate holds none.
    #[error("{} holds no certificate (`tls.certificate_file`)", .0.display())]
    Empty(PathBuf),
    /// Certificate and key do not belong together, or are of an unknown kind.
    #[error("the certificate and key of `tls` cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// Unix time at which the certificate expires; None if it does not say.
pub fn certificate_expiry(tls: &Tls) -> Option<i64> {
    let der = CertificateDer::from_pem_file(&tls.certificate_file).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Reads the certificate and its key.
///
/// # Errors
/// See [`TlsError`].
pub fn acceptor(tls: &Tls) -> Result<TlsAcceptor, TlsError> {
    let unreadable = |path: &PathBuf, setting| {
        let path = path.clone();
        move |source| TlsError::Unreadable {
            path,
            setting,
            source,
        }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&tls.certificate_file)
        .and_then(Iterator::collect)
        .map_err(unreadable(&tls.certificate_file, "tls.certificate_file"))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(tls.certificate_file.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key_file)
        .map_err(unreadable(&tls.key_file, "tls.key_file"))?;

    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Resumption without memory on this side: thousands that come back at once
    // bring their own state.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Unusable)?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(TlsAcceptor::from(Arc::new(config)))
}
