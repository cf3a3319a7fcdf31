//! The certificate authorities that web servers are checked against: the
//! system's, read from where systems keep them. Never from where SSL_CERT_FILE
//! points, which is what the usual crates do: no environment variable may
//! decide whose keys sign for a tenant, or who receives what is traced.

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// The first that can be read is taken.
const BUNDLES: [&str; 5] = [
    // Debian, Ubuntu, Arch, Alpine, Gentoo
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora, RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    // openSUSE
    "/etc/ssl/ca-bundle.pem",
    // Alpine without the package, the BSDs, macOS
    "/etc/ssl/cert.pem",
];

/// The system's authorities; none where the system has no bundle, which only
/// those who speak https will notice.
pub fn system() -> Vec<CertificateDer<'static>> {
    let Some((path, bundle)) = BUNDLES
        .iter()
        .find_map(|path| Some((path, std::fs::read(path).ok()?)))
    else {
        tracing::warn!(
            looked_at = ?BUNDLES,
            "No certificate authorities on this system, https cannot be spoken"
        );
        return Vec::new();
    };
    let roots = usable(&bundle);
    tracing::debug!(
        path,
        authorities = roots.len(),
        "Read certificate authorities"
    );
    roots
}

/// One certificate that rustls does not take must not cost all the others.
fn usable(bundle: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(bundle)
        .filter_map(Result::ok)
        .filter(|der| RootCertStore::empty().add(der.clone()).is_ok())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_bad_certificate_in_a_bundle_is_left_out() {
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let bundle = format!("# a comment\n{bad}{}{bad}", made.cert.pem());
        assert_eq!(usable(bundle.as_bytes()).len(), 1);
        assert!(usable(b"no bundle").is_empty());
    }
}
