//! Which server certificates are accepted, by libpq's rules on top of rustls' checks.
//!
//! Owns the decision per mode: nothing, the chain, the chain and the name. Never skips the proof that the server
//! holds its certificate's key. Main type: [`Verifier`].

use std::net::IpAddr;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// What of a server's identity is checked.
#[derive(Debug)]
pub(crate) enum Identity {
    /// Nothing: the line is encrypted, to whomever.
    Unverified,
    /// One of these roots signed its certificate.
    Chain(Trust),
    /// One of these roots signed its certificate for the host name we connect to.
    ChainAndName(Trust),
}

/// The certificates that are trusted.
#[derive(Debug)]
pub(crate) struct Trust {
    roots: RootCertStore,
    /// As given: a server's own certificate may be among them.
    certificates: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// From certificates that must all be usable as roots.
    pub(crate) fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone())?;
        }
        Ok(Self {
            roots,
            certificates,
        })
    }

    /// From certificates of which some may be unusable. `None`: all are.
    pub(crate) fn from_usable(certificates: Vec<CertificateDer<'static>>) -> Option<Self> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates);
        (added > 0).then_some(Self {
            roots,
            certificates: Vec::new(),
        })
    }

    /// A self-signed server certificate that is itself among the roots. rustls refuses it as a root that poses as
    /// a server, OpenSSL (and so libpq) accepts it, and it is how many a single server is set up.
    fn pins(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        self.certificates
            .iter()
            .any(|trusted| trusted == certificate)
            && X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| {
                i64::try_from(now.as_secs())
                    .ok()
                    .and_then(|seconds| ASN1Time::from_timestamp(seconds).ok())
                    .is_some_and(|time| parsed.validity().is_valid_at(time))
            })
    }
}

/// rustls' hook for it.
#[derive(Debug)]
pub(crate) struct Verifier {
    provider: Arc<CryptoProvider>,
    identity: Identity,
}

impl Verifier {
    pub(crate) fn new(provider: Arc<CryptoProvider>, identity: Identity) -> Self {
        Self { provider, identity }
    }

    fn verify_chain(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        trust: &Trust,
        now: UnixTime,
    ) -> Result<(), Error> {
        if trust.pins(certificate, now) {
            return Ok(());
        }
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(certificate)?,
            &trust.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.identity {
            Identity::Unverified => {}
            Identity::Chain(trust) => self.verify_chain(end_entity, intermediates, trust, now)?,
            Identity::ChainAndName(trust) => {
                self.verify_chain(end_entity, intermediates, trust, now)?;
                verify_name(end_entity, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    // Also where nothing else is verified: SCRAM's channel binding hashes the certificate, which anyone can show;
    // only this proves that who shows it holds its key.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match (&self.identity, ParsedCertificate::try_from(certificate)) {
            // `openssl x509 -req` makes version 1 certificates, which rustls reads no further than the version
            (Identity::Unverified, Err(_)) => {
                let (_, parsed) = X509Certificate::from_der(certificate)
                    .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
                let key = SubjectPublicKeyInfoDer::from(parsed.tbs_certificate.subject_pki.raw);
                verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
            }
            _ => verify_tls13_signature(message, certificate, signature, algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// As rustls does by the subject's alternative names; where a certificate has none, by its common name, as libpq
/// does and as the certificates of Postgres' own documentation (chapter 19.9.5) need it.
fn verify_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let refused = match verify_server_name(&ParsedCertificate::try_from(certificate)?, name) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    match common_name_without_alternatives(certificate) {
        Some(common_name) if common_name_matches(&common_name, name) => Ok(()),
        _ => Err(refused),
    }
}

fn common_name_without_alternatives(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let alternatives = parsed.subject_alternative_name().ok()?;
    let has_names = alternatives.is_some_and(|extension| {
        extension
            .value
            .general_names
            .iter()
            .any(|name| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_)))
    });
    if has_names {
        return None;
    }
    let mut names = parsed.subject().iter_common_name();
    let only = names.next()?.as_str().ok()?.to_owned();
    names.next().is_none().then_some(only)
}

/// libpq's rule: letter by letter without regard to case, or `*.` for exactly one leading label.
fn common_name_matches(common_name: &str, name: &ServerName<'_>) -> bool {
    match name {
        ServerName::DnsName(host) => {
            let host = host.as_ref();
            common_name.eq_ignore_ascii_case(host)
                || common_name.strip_prefix("*.").is_some_and(|rest| {
                    host.split_once('.').is_some_and(|(label, host_rest)| {
                        !label.is_empty() && rest.eq_ignore_ascii_case(host_rest)
                    })
                })
        }
        ServerName::IpAddress(address) => common_name
            .parse::<IpAddr>()
            .is_ok_and(|parsed| parsed == IpAddr::from(*address)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn common_names_match_as_libpq_does() {
        let name = |text: &str| ServerName::try_from(text.to_owned()).unwrap();
        assert!(common_name_matches(
            "DB.example.com",
            &name("db.example.com")
        ));
        assert!(common_name_matches(
            "*.example.com",
            &name("db.example.com")
        ));
        assert!(!common_name_matches(
            "*.example.com",
            &name("a.db.example.com")
        ));
        assert!(!common_name_matches("*.example.com", &name("example.com")));
        assert!(!common_name_matches("db", &name("db.example.com")));
        assert!(common_name_matches("127.0.0.1", &name("127.0.0.1")));
        assert!(!common_name_matches("*.0.0.1", &name("127.0.0.1")));
    }
}
