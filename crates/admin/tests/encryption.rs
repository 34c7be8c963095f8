//! TLS and authentication, with libpq as the other end. The console needs no server, so it is what the clients log in to.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use pgherd_protocol::Verifier;
use pgherd_protocol::auth::{ScramVerifier, md5};
use pgherd_session::{
    ListenSettings, ListenTls, ListenTlsError, ListenTlsSettings, PasswordExchange, User,
};
use pgherd_tls::{ALPN, SslMode, crypto_provider};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use support::{Front, failure, printed, user, write_private};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const SHOW: &str = "SHOW CLIENTS";

/// An authority and what it signed, as files.
struct Certificates {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = authority();
        std::fs::write(directory.path().join("root.crt"), authority.pem()).unwrap();
        let certificates = Self {
            directory,
            authority,
        };
        certificates.sign("server", &certificates.authority);
        certificates
    }

    fn sign(&self, common_name: &str, authority: &CertifiedIssuer<'static, KeyPair>) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        std::fs::write(self.path(&format!("{common_name}.crt")), certificate.pem()).unwrap();
        write_private(
            self.path(&format!("{common_name}.key")),
            &key.serialize_pem(),
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn settings(&self, mode: SslMode) -> ListenTlsSettings {
        ListenTlsSettings {
            mode,
            certificate: self.path("server.crt"),
            key: self.path("server.key"),
            root_certificate: Some(self.path("root.crt")),
        }
    }

    /// libpq's parameters for showing a certificate.
    fn shown(&self, common_name: &str) -> String {
        format!(
            "sslcert={} sslkey={}",
            self.path(&format!("{common_name}.crt")).display(),
            self.path(&format!("{common_name}.key")).display()
        )
    }

    async fn front(&self, mode: SslMode, users: impl IntoIterator<Item = User>) -> Front {
        let settings = ListenSettings {
            tls: ListenTls::new(&self.settings(mode)).unwrap(),
            ..ListenSettings::default()
        };
        Front::start_with(settings, users).await
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "test authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn admin() -> [User; 1] {
    [user("admin", "secret")]
}

/// Whether the client that asked is shown as encrypted.
fn is_encrypted(clients: &str) -> bool {
    clients.contains("TLSv1_3")
}

#[tokio::test]
async fn clients_may_choose_where_the_mode_lets_them() {
    let certificates = Certificates::new();
    for mode in [SslMode::Allow, SslMode::Prefer] {
        let front = certificates.front(mode, admin()).await;
        assert!(!is_encrypted(&printed(
            &front.psql("sslmode=disable", SHOW).await
        )));
        assert!(is_encrypted(&printed(
            &front.psql("sslmode=prefer", SHOW).await
        )));
        let root = certificates.path("root.crt");
        let verified = format!(
            "sslmode=verify-full host=localhost hostaddr=127.0.0.1 sslrootcert={}",
            root.display()
        );
        assert!(is_encrypted(&printed(&front.psql(&verified, SHOW).await)));
        assert!(!is_encrypted(&printed(
            &front.psql_by_socket("", SHOW).await
        )));
    }
    let front = Front::start().await;
    assert!(!is_encrypted(&printed(
        &front.psql("sslmode=prefer", SHOW).await
    )));
    let why = failure(&front.psql("sslmode=require", SHOW).await);
    assert!(why.contains("server does not support SSL"), "{why}");
}

#[tokio::test]
async fn plain_text_is_refused_where_tls_is_required_but_on_the_unix_socket() {
    let certificates = Certificates::new();
    let front = certificates.front(SslMode::Require, admin()).await;
    let why = failure(&front.psql("sslmode=disable", SHOW).await);
    assert!(why.contains("no pg_hba.conf entry for host \"127.0.0.1\", user \"admin\", database \"pgherd\", no encryption"), "{why}");
    // libpq tries again with TLS
    assert!(is_encrypted(&printed(
        &front.psql("sslmode=allow", SHOW).await
    )));
    assert!(!is_encrypted(&printed(
        &front.psql_by_socket("", SHOW).await
    )));
}

#[tokio::test]
async fn the_exchange_is_bound_to_the_certificate() {
    let certificates = Certificates::new();
    let front = certificates.front(SslMode::Prefer, admin()).await;
    let bound = front
        .psql("sslmode=require channel_binding=require", SHOW)
        .await;
    assert!(is_encrypted(&printed(&bound)));
    let unbound = front
        .psql("sslmode=require channel_binding=disable", SHOW)
        .await;
    assert!(is_encrypted(&printed(&unbound)));
    let wrong = front
        .psql(
            "sslmode=require channel_binding=require password=wrong",
            SHOW,
        )
        .await;
    assert!(failure(&wrong).contains("password authentication failed"));
}

#[tokio::test]
async fn verifying_modes_demand_certificates() {
    let certificates = Certificates::new();
    certificates.sign("admin", &certificates.authority);
    certificates.sign("other", &certificates.authority);
    certificates.sign("stranger", &authority());
    for mode in [SslMode::VerifyCa, SslMode::VerifyFull] {
        let front = certificates.front(mode, admin()).await;
        let tls = |shown: &str| format!("sslmode=require {shown}");
        let why = failure(&front.psql("sslmode=require", SHOW).await);
        assert!(
            why.contains("connection requires a valid client certificate"),
            "{why}"
        );
        let own = certificates.shown("admin");
        assert!(is_encrypted(&printed(&front.psql(&tls(&own), SHOW).await)));
        // the certificate does not replace the password here
        let why = failure(
            &front
                .psql(&tls(&format!("{own} password=wrong")), SHOW)
                .await,
        );
        assert!(why.contains("password authentication failed"), "{why}");
        failure(
            &front
                .psql(&tls(&certificates.shown("stranger")), SHOW)
                .await,
        );
        let another = front.psql(&tls(&certificates.shown("other")), SHOW).await;
        if mode == SslMode::VerifyFull {
            assert!(
                failure(&another).contains("certificate authentication failed for user \"admin\"")
            );
        } else {
            printed(&another);
        }
    }
}

#[tokio::test]
async fn a_certificate_can_stand_for_a_password() {
    let certificates = Certificates::new();
    certificates.sign("operator", &certificates.authority);
    certificates.sign("other", &certificates.authority);
    let by_certificate = User {
        certificate: Some("operator".into()),
        ..User::without_password("admin")
    };
    let front = certificates.front(SslMode::Prefer, [by_certificate]).await;
    let shown = format!(
        "sslmode=require password='' {}",
        certificates.shown("operator")
    );
    printed(&front.psql(&shown, SHOW).await);
    let other = format!("sslmode=require {}", certificates.shown("other"));
    let why = failure(&front.psql(&other, SHOW).await);
    assert!(
        why.contains("certificate authentication failed for user \"admin\""),
        "{why}"
    );
    // without a certificate it looks like anybody
    for mode in ["require", "disable"] {
        let why = failure(&front.psql(&format!("sslmode={mode}"), SHOW).await);
        assert!(
            why.contains("password authentication failed for user \"admin\""),
            "{why}"
        );
    }
}

#[tokio::test]
async fn every_kind_of_stored_password_is_checked() {
    let certificates = Certificates::new();
    let secret = "secret".into();
    let hash = Verifier::Md5(md5::hash("admin", &secret));
    let verifier = Verifier::Scram(ScramVerifier::generate(&secret, 4096));
    for stored in [Verifier::Plain(secret.clone()), hash, verifier] {
        let challenged = User::with_password("admin", &stored);
        let cleartext = User {
            exchange: PasswordExchange::Cleartext,
            ..challenged.clone()
        };
        let front = certificates.front(SslMode::Prefer, [challenged]).await;
        for mode in ["disable", "require"] {
            printed(&front.psql(&format!("sslmode={mode}"), SHOW).await);
            let why = failure(
                &front
                    .psql(&format!("sslmode={mode} password=wrong"), SHOW)
                    .await,
            );
            assert!(
                why.contains("password authentication failed for user \"admin\""),
                "{why}"
            );
        }
        let front = certificates.front(SslMode::Prefer, [cleartext]).await;
        printed(&front.psql("sslmode=require", SHOW).await);
        printed(&front.psql_by_socket("", SHOW).await);
        let why = failure(&front.psql("sslmode=require password=wrong", SHOW).await);
        assert!(
            why.contains("password authentication failed for user \"admin\""),
            "{why}"
        );
        let why = failure(&front.psql("sslmode=disable", SHOW).await);
        assert!(why.contains("needs an encrypted connection"), "{why}");
    }
}

#[tokio::test]
async fn trusted_origins_need_no_password() {
    let trusting = |origin: &str| User {
        trust: vec![origin.parse().unwrap()],
        ..User::without_password("admin")
    };
    let network = Front::start_with(ListenSettings::default(), [trusting("127.0.0.0/8")]).await;
    printed(&network.psql("password=''", SHOW).await);
    let why = failure(&network.psql_by_socket("", SHOW).await);
    assert!(why.contains("password authentication failed"), "{why}");
    let socket = Front::start_with(ListenSettings::default(), [trusting("unix")]).await;
    printed(&socket.psql_by_socket("password=''", SHOW).await);
    failure(&socket.psql("", SHOW).await);
}

/// A TLS handshake from the first byte on (libpq 17's `sslnegotiation=direct`).
async fn direct_tls(
    front: &Front,
    certificates: &Certificates,
    protocols: &[&[u8]],
) -> std::io::Result<u8> {
    let mut roots = RootCertStore::empty();
    roots.add(certificates.authority.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let socket = TcpStream::connect(front.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await?;
    let startup = b"\0\0\0\x24\0\x03\0\0user\0admin\0database\0pgherd\0\0";
    assert_eq!(usize::from(startup[3]), startup.len());
    stream.write_all(startup).await?;
    stream.read_u8().await
}

#[tokio::test]
async fn tls_may_begin_at_once_for_those_who_name_postgres() {
    let certificates = Certificates::new();
    let front = certificates.front(SslMode::Prefer, admin()).await;
    assert_eq!(
        direct_tls(&front, &certificates, &[ALPN]).await.unwrap(),
        b'R'
    );
    assert!(direct_tls(&front, &certificates, &[]).await.is_err());
    assert!(
        direct_tls(&front, &certificates, &[b"http/1.1"])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn what_cannot_work_is_said_when_it_is_configured() {
    let certificates = Certificates::new();
    for mode in [SslMode::VerifyCa, SslMode::VerifyFull] {
        let settings = ListenTlsSettings {
            root_certificate: None,
            ..certificates.settings(mode)
        };
        assert!(
            matches!(ListenTls::new(&settings), Err(ListenTlsError::RootsMissing(found)) if found == mode)
        );
    }
    let missing = ListenTlsSettings {
        key: certificates.path("nothing"),
        ..certificates.settings(SslMode::Prefer)
    };
    assert!(matches!(
        ListenTls::new(&missing),
        Err(ListenTlsError::File(_))
    ));
    certificates.sign("other", &certificates.authority);
    let mixed = ListenTlsSettings {
        key: certificates.path("other.key"),
        ..certificates.settings(SslMode::Prefer)
    };
    assert!(matches!(
        ListenTls::new(&mixed),
        Err(ListenTlsError::Configuration(_))
    ));
}
