//! The data that SCRAM-SHA-256-PLUS binds to a TLS connection: a hash of the server's certificate.
//!
//! Owns RFC 5929's choice of hash. Never takes part in the exchange itself. Main item: [`server_end_point`].

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_parser::oid_registry::{
    OID_HASH_SHA1, OID_NIST_HASH_SHA256, OID_NIST_HASH_SHA384, OID_NIST_HASH_SHA512,
    OID_PKCS1_MD5WITHRSAENC, OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA1WITHRSA, OID_PKCS1_SHA224WITHRSA,
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_DSA_WITH_SHA1, OID_SIG_ECDSA_WITH_SHA224, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::x509::AlgorithmIdentifier;

/// The `tls-server-end-point` channel binding of a server certificate (DER): its hash by the hash function that
/// signed it, SHA-256 in place of MD5 and SHA-1 (RFC 5929, section 4.1).
///
/// `None` where the RFC defines none: Ed25519 and other signatures without a hash of their own, or bytes that are
/// no certificate. Channel binding is then not possible, in Postgres neither.
#[must_use]
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(match signature_hash(&parsed.signature_algorithm)? {
        Hash::Sha224 => Sha224::digest(certificate).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

fn signature_hash(algorithm: &AlgorithmIdentifier<'_>) -> Option<Hash> {
    let oid = &algorithm.algorithm;
    if *oid == OID_PKCS1_RSASSAPSS {
        // the hash is a parameter here, and SHA-1 where it is left out
        return match SignatureAlgorithm::try_from(algorithm).ok()? {
            SignatureAlgorithm::RSASSA_PSS(parameters) => {
                let hash = parameters.hash_algorithm_oid().clone();
                [
                    (OID_HASH_SHA1, Hash::Sha256),
                    (OID_NIST_HASH_SHA256, Hash::Sha256),
                    (OID_NIST_HASH_SHA384, Hash::Sha384),
                    (OID_NIST_HASH_SHA512, Hash::Sha512),
                ]
                .into_iter()
                .find_map(|(known, result)| (known == hash).then_some(result))
            }
            _ => None,
        };
    }
    [
        (OID_PKCS1_MD5WITHRSAENC, Hash::Sha256),
        (OID_PKCS1_SHA1WITHRSA, Hash::Sha256),
        (OID_SIG_DSA_WITH_SHA1, Hash::Sha256),
        (OID_PKCS1_SHA224WITHRSA, Hash::Sha224),
        (OID_PKCS1_SHA256WITHRSA, Hash::Sha256),
        (OID_PKCS1_SHA384WITHRSA, Hash::Sha384),
        (OID_PKCS1_SHA512WITHRSA, Hash::Sha512),
        (OID_SIG_ECDSA_WITH_SHA224, Hash::Sha224),
        (OID_SIG_ECDSA_WITH_SHA256, Hash::Sha256),
        (OID_SIG_ECDSA_WITH_SHA384, Hash::Sha384),
        (OID_SIG_ECDSA_WITH_SHA512, Hash::Sha512),
    ]
    .into_iter()
    .find_map(|(known, result)| (known == *oid).then_some(result))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::new(vec!["localhost".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap()
            .der()
            .to_vec()
    }

    #[test]
    fn the_hash_follows_the_signature() {
        let sha256 = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(
            server_end_point(&sha256).unwrap(),
            Sha256::digest(&sha256).to_vec()
        );
        let sha384 = certificate(&PKCS_ECDSA_P384_SHA384);
        assert_eq!(
            server_end_point(&sha384).unwrap(),
            Sha384::digest(&sha384).to_vec()
        );
    }

    #[test]
    fn no_hash_no_binding() {
        assert_eq!(server_end_point(&certificate(&PKCS_ED25519)), None);
        assert_eq!(server_end_point(b"no certificate"), None);
    }
}
