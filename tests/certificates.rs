//! Certificates made for one test: an authority, a server's and a client's.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

/// PEM texts.
#[derive(Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: String,
    /// A server's, for localhost and 127.0.0.1.
    pub server: String,
    /// Its key.
    pub server_key: String,
    /// A client's, with the common name given.
    pub client: String,
    /// Its key.
    pub client_key: String,
}

impl Certificates {
    /// Makes all of them.
    ///
    /// # Panics
    /// If the cryptographic library fails.
    #[must_use]
    pub fn make(client: &str) -> Self {
        let authority_key = KeyPair::generate().expect("keys can be made");
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters
            .distinguished_name
            .push(DnType::CommonName, "the tests' authority");
        let authority = parameters
            .self_signed(&authority_key)
            .expect("it signs itself");
        let issuer = Issuer::new(parameters, authority_key);
        let sign = |name: &str| {
            let key = KeyPair::generate().expect("keys can be made");
            let mut parameters =
                CertificateParams::new(vec!["localhost".into()]).expect("a host's name");
            parameters
                .subject_alt_names
                .push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
            parameters.distinguished_name.push(DnType::CommonName, name);
            let certificate = parameters
                .signed_by(&key, &issuer)
                .expect("the authority signs");
            (certificate.pem(), key.serialize_pem())
        };
        let (server, server_key) = sign("localhost");
        let (client, client_key) = sign(client);
        Self {
            authority: authority.pem(),
            server,
            server_key,
            client,
            client_key,
        }
    }
}
