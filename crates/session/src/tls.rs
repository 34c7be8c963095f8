//! TLS towards clients.
//!
//! Owns: the listener's six modes, its certificate, and what a client's certificate is good for (Postgres documentation, chapters 19.9
//! and 21.12). Never reads or writes (see `handshake`). Main type: [`ListenTls`].
//!
//! | mode | clients |
//! |---|---|
//! | disable | none has TLS |
//! | allow, prefer | may use TLS |
//! | require | must (`hostssl`) |
//! | verify-ca | must, with a certificate that a root signed (`clientcert=verify-ca`) |
//! | verify-full | as before, and its common name is the user's name (`clientcert=verify-full`) |
//!
//! A certificate is asked for wherever roots are given, and one that no root signed fails the handshake in every mode. That one is missing
//! is only said after the startup message, so that the client hears it as an error of Postgres' and not as a TLS alert.

use std::path::PathBuf;
use std::sync::Arc;

use pgherd_tls::{
    ALPN, SslMode, TlsError, crypto_provider, read_certificates, read_private_key, server_end_point,
};
use tokio_rustls::rustls::server::{
    NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What [`ListenTls`] is made from. The files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenTlsSettings {
    /// The mode.
    pub mode: SslMode,
    /// The server's chain, its own certificate first.
    pub certificate: PathBuf,
    /// Its private key, unencrypted.
    pub key: PathBuf,
    /// Who may sign clients' certificates.
    pub root_certificate: Option<PathBuf>,
}

/// Why clients cannot be offered TLS as configured.
#[derive(Debug, thiserror::Error)]
pub enum ListenTlsError {
    /// A file.
    #[error(transparent)]
    File(#[from] TlsError),
    /// The key does not belong to the certificate, or the like.
    #[error("the TLS configuration is not usable: {0}")]
    Configuration(#[from] rustls::Error),
    /// The roots are not usable.
    #[error("the root certificates are not usable: {0}")]
    Roots(#[from] VerifierBuilderError),
    /// A verifying mode without roots.
    #[error("TLS mode {0} needs root certificates to verify clients' certificates against")]
    RootsMissing(SslMode),
}

/// TLS as clients are offered it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ListenTls {
    mode: SslMode,
    config: Option<Arc<ServerConfig>>,
    end_point: Option<Arc<[u8]>>,
}

impl ListenTls {
    /// None.
    pub fn disabled() -> Self {
        Self {
            mode: SslMode::Disable,
            config: None,
            end_point: None,
        }
    }

    /// Reads the files. Blocks on the disk: to be called at start and reload only.
    ///
    /// # Errors
    /// See [`ListenTlsError`].
    pub fn new(settings: &ListenTlsSettings) -> Result<Self, ListenTlsError> {
        let mode = settings.mode;
        if mode == SslMode::Disable {
            return Ok(Self::disabled());
        }
        let certificates = read_certificates(&settings.certificate)?;
        let key = read_private_key(&settings.key)?;
        let end_point = certificates
            .first()
            .and_then(|certificate| server_end_point(certificate))
            .map(Arc::from);
        let provider = crypto_provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &settings.root_certificate {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for root in read_certificates(path)? {
                    roots.add(root)?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .allow_unauthenticated()
                        .build()?;
                builder.with_client_cert_verifier(verifier)
            }
            None if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) => {
                return Err(ListenTlsError::RootsMissing(mode));
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(certificates, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // as Postgres: no session is resumed, as a resumed one says nothing new of the client's certificate
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            mode,
            config: Some(Arc::new(config)),
            end_point,
        })
    }

    /// The mode.
    pub fn mode(&self) -> SslMode {
        self.mode
    }

    /// What to shake hands with; `None` where there is no TLS.
    pub fn config(&self) -> Option<&Arc<ServerConfig>> {
        self.config.as_ref()
    }

    /// What SCRAM-SHA-256-PLUS binds to (`tls-server-end-point`); `None` where the certificate's signature has no hash.
    pub fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }
}

/// The common name of a certificate's subject; `None` where it has none, more than one, or one with a NUL in it, which could look like
/// another's.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut names = parsed.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    (names.next().is_none() && !name.contains('\0')).then(|| name.to_owned())
}
