//! Certificates made for one test (an authority, a server's and a client's), and clients that begin TLS by them.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

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

/// TLS for clients that trust this authority (PEM).
///
/// # Panics
/// If it is none.
#[must_use]
pub fn connector(authority: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority.as_bytes());
    roots
        .add(authority.expect("PEM"))
        .expect("it is an authority");
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// TLS as a client begins it, with SSLRequest.
///
/// # Panics
/// If it is refused.
pub async fn begin_tls(mut socket: TcpStream, connector: &TlsConnector) -> TlsStream<TcpStream> {
    let request = [&8_u32.to_be_bytes()[..], &80_877_103_u32.to_be_bytes()].concat();
    socket.write_all(&request).await.expect("it reads");
    assert_eq!(socket.read_u8().await.expect("it answers"), b'S');
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = connector.connect(name, socket).await;
    stream.expect("TLS begins")
}
