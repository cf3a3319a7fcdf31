//! TLS of the public listener, and its certificate, which may be renewed while
//! connections are open.
//!
//! The files are looked at every few seconds and on SIGHUP, through links, so
//! that whoever renews them may write, rename or flip a link. Certificate and
//! key are swapped as one, for handshakes to come; what does not fit leaves the
//! old ones in force. Tickets of resumption outlive the swap: they hold no
//! certificate, and rustls changes their key by itself.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use arqon_spine::manifest::{Tls, check_secret_file};
use arqon_telemetry::{
    Metrics,
    labels::{NoLabel, Outcome},
    log::chain,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use tokio::{sync::Notify, time::MissedTickBehavior};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Pace of looks at the files: a stat of each. Soon enough for a person who waits.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Why the certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {} (`{setting}`)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The manifest's key that names it.
        setting: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold PEM of the kind that is wanted.
    #[error("cannot read {} as PEM (`{setting}`)", path.display())]
    NoPem {
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
    /// Others may read the key.
    #[error("`tls.key_file`: {0}")]
    NoSecret(String),
    /// Certificate and key do not belong together, or are of an unknown kind.
    #[error("the certificate and key of `tls` cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// The certificate in force and the files it came from.
#[derive(Debug)]
pub struct Certificate {
    files: Tls,
    current: ArcSwap<CertifiedKey>,
    looked: Mutex<Looked>,
    asked: Notify,
}

/// What the last look found.
#[derive(Debug)]
struct Looked {
    stamps: [Stamp; 2],
    /// Of what is in force.
    digest: [u8; 32],
    /// Whether it could not be used.
    failed: bool,
}

/// What changes with a file, whatever is done to it; None: there is none.
type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// What a look at the files came to.
#[derive(Debug)]
enum Look {
    /// Nothing new.
    Same,
    /// Another pair is in force.
    Swapped,
    /// There is a change that cannot be used, told for the first time.
    Refused(TlsError),
}

/// Both files as they were read.
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The acceptor that shows this certificate.
///
/// # Errors
/// See [`TlsError`].
pub fn acceptor(certificate: Arc<Certificate>) -> Result<TlsAcceptor, TlsError> {
    // TLS 1.2 and 1.3: rustls has no older ones.
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Resumption without memory on this side: thousands that come back at once
    // bring their own state.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Unusable)?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Looks at the files until `stop`, and tells log and metrics what it found.
pub async fn watch(certificate: Arc<Certificate>, metrics: Metrics, stop: CancellationToken) {
    let show = |certificate: &Certificate| {
        if let Some(expiry) = certificate.expiry() {
            let gauge = &metrics.certificate_expiry_time_seconds;
            gauge.get_or_create(&NoLabel).set(expiry);
        }
    };
    show(&certificate);
    let count = |outcome| metrics.certificate_reloads.get_or_create(&outcome).inc();
    let mut pace = tokio::time::interval(LOOK_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return,
            () = certificate.asked.notified() => true,
            _ = pace.tick() => false,
        };
        let looker = Arc::clone(&certificate);
        match tokio::task::spawn_blocking(move || looker.look(asked)).await {
            Ok(Look::Swapped) => {
                show(&certificate);
                count(Outcome::Ok);
                tracing::info!(
                    expires_at = certificate.expiry(),
                    "TLS certificate reloaded"
                );
            }
            Ok(Look::Refused(error)) => {
                count(Outcome::Failed);
                tracing::warn!(
                    error = chain(&error),
                    "The TLS certificate changed and cannot be used; the old one stays"
                );
            }
            Ok(Look::Same) if asked => tracing::info!("The TLS certificate has not changed"),
            Ok(Look::Same) => {}
            Err(error) => tracing::error!(%error, "The look at the TLS certificate broke"),
        }
    }
}

// === impl Certificate ===

impl Certificate {
    /// Reads the certificate and its key.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(files: &Tls) -> Result<Arc<Self>, TlsError> {
        let stamps = stamps(files);
        let pair = Pair::read(files)?;
        Ok(Arc::new(Self {
            current: ArcSwap::new(Arc::new(pair.parse(files)?)),
            looked: Mutex::new(Looked {
                stamps,
                digest: pair.digest(),
                failed: false,
            }),
            files: files.clone(),
            asked: Notify::new(),
        }))
    }

    /// Has `watch` look at the files now.
    pub fn look_now(&self) {
        self.asked.notify_one();
    }

    /// Unix time at which the certificate in force expires; None if it does not say.
    fn expiry(&self) -> Option<i64> {
        let current = self.current.load();
        let der = current.cert.first()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        Some(certificate.validity().not_after.timestamp())
    }

    /// Takes a pair that is new and fits. Whoever `asked` is told of a failure again.
    fn look(&self, asked: bool) -> Look {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        // Before reading: what is written meanwhile is found by the next look.
        let stamps = stamps(&self.files);
        let changed = stamps != looked.stamps;
        if !changed && !looked.failed && !asked {
            return Look::Same;
        }
        looked.stamps = stamps;
        match self.take(&mut looked) {
            Ok(swapped) => {
                looked.failed = false;
                if swapped { Look::Swapped } else { Look::Same }
            }
            Err(error) => {
                let known = looked.failed && !changed && !asked;
                looked.failed = true;
                if known {
                    Look::Same
                } else {
                    Look::Refused(error)
                }
            }
        }
    }

    /// Whether what is in the files is new and in force now.
    fn take(&self, looked: &mut Looked) -> Result<bool, TlsError> {
        let pair = Pair::read(&self.files)?;
        let digest = pair.digest();
        if digest == looked.digest {
            return Ok(false);
        }
        check_secret_file(&self.files.key_file).map_err(TlsError::NoSecret)?;
        self.current.store(Arc::new(pair.parse(&self.files)?));
        looked.digest = digest;
        Ok(true)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn stamps(files: &Tls) -> [Stamp; 2] {
    [&files.certificate_file, &files.key_file].map(|path| {
        let found = fs::metadata(path).ok()?;
        Some((
            found.dev(),
            found.ino(),
            found.size(),
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        ))
    })
}

// === impl Pair ===

impl Pair {
    fn read(files: &Tls) -> Result<Self, TlsError> {
        let read = |path: &Path, setting| {
            fs::read(path).map_err(|source| TlsError::Unreadable {
                path: path.to_owned(),
                setting,
                source,
            })
        };
        Ok(Self {
            certificate: read(&files.certificate_file, "tls.certificate_file")?,
            key: read(&files.key_file, "tls.key_file")?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update((self.certificate.len() as u64).to_be_bytes());
        hash.update(&self.certificate);
        hash.update(&self.key);
        hash.finalize().into()
    }

    fn parse(&self, files: &Tls) -> Result<CertifiedKey, TlsError> {
        let no_pem = |path: &PathBuf, setting| {
            let path = path.clone();
            move |source| TlsError::NoPem {
                path,
                setting,
                source,
            }
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .map_err(no_pem(&files.certificate_file, "tls.certificate_file"))?;
        if chain.is_empty() {
            return Err(TlsError::Empty(files.certificate_file.clone()));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(no_pem(&files.key_file, "tls.key_file"))?;
        // Refuses a key that is not the certificate's.
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(TlsError::Unusable)
    }
}

#[cfg(test)]
mod tests;
