//! TLS towards the servers: libpq's six modes, roots, a client certificate, and how the handshake begins.
//!
//! Owns what is decided before a connection exists. Never reads from one or writes to one. Main types:
//! [`SslMode`], [`ClientTls`]. Follows the Postgres documentation, chapter 34.19 (SSL support).

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::{self, ClientConfig};

use crate::files::{read_certificates, read_private_key};
use crate::verifier::{Identity, Trust, Verifier};

/// The application protocol name of Postgres, sent in every handshake and required with direct TLS.
pub const ALPN: &[u8] = b"postgresql";

/// How much TLS a connection to a server must have: libpq's `sslmode`. On a Unix socket it means nothing: Postgres
/// offers no TLS there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only if the server refuses us without.
    Allow,
    /// If the server has it, else without.
    #[default]
    Prefer,
    /// Always, with whatever certificate; where roots are given, as [`SslMode::VerifyCa`].
    Require,
    /// Always, with a certificate that a root signed.
    VerifyCa,
    /// Always, with a certificate that a root signed for this host name.
    VerifyFull,
}

impl SslMode {
    /// Every mode, weakest first.
    pub const ALL: [Self; 6] = [
        Self::Disable,
        Self::Allow,
        Self::Prefer,
        Self::Require,
        Self::VerifyCa,
        Self::VerifyFull,
    ];

    /// The name as libpq and the configuration write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SslMode {
    type Err = TlsError;

    fn from_str(text: &str) -> Result<Self, TlsError> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| TlsError::UnknownMode(text.into()))
    }
}

/// How the handshake begins: libpq's `sslnegotiation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Negotiation {
    /// Asked for by an SSLRequest. Every server knows it.
    #[default]
    Request,
    /// Begun at once, saving a round trip: Postgres 17 and later.
    Direct,
}

/// Which certificates may sign a server's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Roots {
    /// None are given.
    #[default]
    None,
    /// The operating system's. Anyone gets a certificate from these, so only `verify-full` may use them.
    System,
    /// A PEM file of one or more.
    File(PathBuf),
}

/// A certificate with its key to show to servers, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// The chain, our own certificate first.
    pub certificate: PathBuf,
    /// The unencrypted private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

/// What [`ClientTls`] is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsSettings {
    /// How much TLS there must be.
    pub mode: SslMode,
    /// How it begins.
    pub negotiation: Negotiation,
    /// Who may sign.
    pub roots: Roots,
    /// What to show, if anything.
    pub certificate: Option<ClientCertificate>,
}

/// Why TLS cannot be had as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A mode of another name.
    #[error(
        "unknown TLS mode \"{0}\": expected disable, allow, prefer, require, verify-ca or verify-full"
    )]
    UnknownMode(Box<str>),
    /// A file that cannot be read or holds no PEM of the kind.
    #[error("cannot read the {what} from \"{}\": {source}", path.display())]
    File {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A verifying mode with nothing to verify against.
    #[error("TLS mode {0} needs root certificates to verify against")]
    RootsMissing(SslMode),
    /// The operating system's roots with a mode that does not check the host name.
    #[error("TLS mode {0} must not be used with the system's root certificates: use verify-full")]
    SystemRootsTooWeak(SslMode),
    /// The operating system has no readable roots.
    #[error("the system's root certificates cannot be read: {0}")]
    SystemRoots(String),
    /// Direct TLS cannot fall back, so that it needs a mode that always encrypts.
    #[error("direct TLS needs mode require, verify-ca or verify-full, not {0}")]
    DirectTooWeak(SslMode),
    /// rustls refuses the certificate, its key, or the protocol versions.
    #[error("the TLS configuration is not usable: {0}")]
    Configuration(#[from] rustls::Error),
    /// The host can be neither a DNS name nor an IP address.
    #[error("\"{0}\" is no host name that a certificate could be checked against")]
    HostName(Box<str>),
}

/// A ready TLS configuration for connections to servers; share it in an `Arc`.
#[derive(Clone, Debug)]
pub struct ClientTls {
    mode: SslMode,
    negotiation: Negotiation,
    config: Option<Arc<ClientConfig>>,
}

impl ClientTls {
    /// No TLS at all.
    #[must_use]
    pub fn disabled() -> Self {
        Self {
            mode: SslMode::Disable,
            negotiation: Negotiation::Request,
            config: None,
        }
    }

    /// Reads the files and builds the configuration. Blocks on the disk: call it at start and reload only.
    ///
    /// # Errors
    /// Files that cannot be read, and combinations that libpq refuses as well ([`TlsError`]).
    pub fn new(settings: &TlsSettings) -> Result<Self, TlsError> {
        let mode = settings.mode;
        match (mode, settings.negotiation) {
            (SslMode::Disable, Negotiation::Request) => return Ok(Self::disabled()),
            (SslMode::Disable | SslMode::Allow | SslMode::Prefer, Negotiation::Direct) => {
                return Err(TlsError::DirectTooWeak(mode));
            }
            _ => {}
        }
        let provider = crypto_provider();
        let verifier = Verifier::new(Arc::clone(&provider), identity(mode, &settings.roots)?);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &settings.certificate {
            Some(files) => builder.with_client_auth_cert(
                read_certificates(&files.certificate)?,
                read_private_key(&files.key)?,
            )?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Postgres issues no tickets worth keeping, and a resumed session shows no certificate to bind to
        config.resumption = Resumption::disabled();
        Ok(Self {
            mode,
            negotiation: settings.negotiation,
            config: Some(Arc::new(config)),
        })
    }

    /// The mode.
    #[must_use]
    pub fn mode(&self) -> SslMode {
        self.mode
    }

    /// How the handshake begins.
    #[must_use]
    pub fn negotiation(&self) -> Negotiation {
        self.negotiation
    }

    /// What to shake hands with; `None` where the mode is `disable`.
    #[must_use]
    pub fn config(&self) -> Option<&Arc<ClientConfig>> {
        self.config.as_ref()
    }

    /// The name to ask for in the handshake and, with `verify-full`, to find in the certificate.
    ///
    /// # Errors
    /// [`TlsError::HostName`].
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        ServerName::try_from(host.to_owned()).map_err(|_| TlsError::HostName(host.into()))
    }
}

/// What cryptography is made with: aws-lc-rs, passed wherever it is needed and never installed as the process'
/// default, which would be a global.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// What of a server's certificate is checked.
fn identity(mode: SslMode, roots: &Roots) -> Result<Identity, TlsError> {
    match (mode, roots) {
        // libpq checks the chain here too if it finds roots, and then goes on in plaintext when that fails, which
        // keeps nobody out
        (SslMode::Disable | SslMode::Allow | SslMode::Prefer, _)
        | (SslMode::Require, Roots::None) => Ok(Identity::Unverified),
        (SslMode::VerifyCa | SslMode::VerifyFull, Roots::None) => Err(TlsError::RootsMissing(mode)),
        (SslMode::Require | SslMode::VerifyCa, Roots::System) => {
            Err(TlsError::SystemRootsTooWeak(mode))
        }
        (SslMode::Require | SslMode::VerifyCa, Roots::File(path)) => {
            Ok(Identity::Chain(read_roots(path)?))
        }
        (SslMode::VerifyFull, Roots::File(path)) => Ok(Identity::ChainAndName(read_roots(path)?)),
        (SslMode::VerifyFull, Roots::System) => Ok(Identity::ChainAndName(system_roots()?)),
    }
}

fn read_roots(path: &Path) -> Result<Trust, TlsError> {
    Ok(Trust::new(read_certificates(path)?)?)
}

fn system_roots() -> Result<Trust, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    Trust::from_usable(found.certs).ok_or_else(|| {
        let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        TlsError::SystemRoots(if reasons.is_empty() {
            "there are none".to_owned()
        } else {
            reasons.join("; ")
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn settings(mode: SslMode, roots: Roots) -> TlsSettings {
        TlsSettings {
            mode,
            roots,
            ..TlsSettings::default()
        }
    }

    #[test]
    fn every_mode_reads_back_from_its_name() {
        for mode in SslMode::ALL {
            assert_eq!(mode.to_string().parse::<SslMode>().unwrap(), mode);
        }
        assert!("verify".parse::<SslMode>().is_err());
    }

    #[test]
    fn verifying_modes_want_roots_and_weak_modes_refuse_the_systems() {
        for mode in [SslMode::VerifyCa, SslMode::VerifyFull] {
            assert!(matches!(
                ClientTls::new(&settings(mode, Roots::None)),
                Err(TlsError::RootsMissing(_))
            ));
        }
        for mode in [SslMode::Require, SslMode::VerifyCa] {
            assert!(matches!(
                ClientTls::new(&settings(mode, Roots::System)),
                Err(TlsError::SystemRootsTooWeak(_))
            ));
        }
        assert!(ClientTls::new(&settings(SslMode::Require, Roots::None)).is_ok());
    }

    #[test]
    fn direct_tls_wants_a_mode_that_always_encrypts() {
        let direct = |mode| TlsSettings {
            mode,
            negotiation: Negotiation::Direct,
            ..TlsSettings::default()
        };
        assert!(matches!(
            ClientTls::new(&direct(SslMode::Prefer)),
            Err(TlsError::DirectTooWeak(_))
        ));
        assert!(ClientTls::new(&direct(SslMode::Require)).is_ok());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = ClientTls::new(&settings(
            SslMode::VerifyCa,
            Roots::File("/nowhere/root.crt".into()),
        ));
        assert!(error.unwrap_err().to_string().contains("/nowhere/root.crt"));
    }
}
