//! libpq's six modes against servers with right, wrong and no certificates.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use pgherd_pool::{PoolError, PoolSettings, Pools, Transport};
use pgherd_protocol::{Credential, FirstPacket, SqlState, read_first_packet};
use pgherd_tls::{
    ClientCertificate, ClientTls, Negotiation, Roots, SslMode, TlsSettings, crypto_provider,
};
use pgherd_topology::{Address, NodeId, NodeState};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    PKCS_ECDSA_P384_SHA384,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::server::{TestServer, checkout, login, password, query, superuser};

/// An authority, a server certificate that it signed, and the files.
struct Certificates {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("root.crt"), authority.pem()).unwrap();
        Self {
            directory,
            authority,
        }
    }

    fn roots(&self) -> Roots {
        Roots::File(self.directory.path().join("root.crt"))
    }

    /// Certificate and key, for these alternative names and this common name.
    fn sign(&self, names: &[&str], common_name: &str) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

/// With the authority that client certificates must come from, if any.
async fn server_with(
    hba: &str,
    (certificate, key): &(String, String),
    root: Option<&str>,
) -> TestServer {
    let mut files = vec![("server.crt", &**certificate), ("server.key", &**key)];
    let mut settings = "ssl = on".to_owned();
    if let Some(root) = root {
        files.push(("root.crt", root));
        settings.push_str("\nssl_ca_file = 'root.crt'");
    }
    TestServer::start_with(hba, &settings, &files).await
}

fn pools(tls: TlsSettings) -> Pools {
    Pools::new(PoolSettings {
        tls: Arc::new(ClientTls::new(&tls).unwrap()),
        tls_settings: tls,
        ..PoolSettings::new("postgres")
    })
}

fn mode(mode: SslMode) -> TlsSettings {
    TlsSettings {
        mode,
        ..TlsSettings::default()
    }
}

/// Whether the connection is encrypted.
async fn connect(tls: TlsSettings, node: &NodeState) -> Result<bool, PoolError> {
    let mut lent = checkout(&pools(tls), &superuser(), node).await?;
    let told = query(
        &mut lent,
        "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    )
    .await
    .unwrap();
    assert_eq!(told, [if lent.transport.is_tls() { "t" } else { "f" }]);
    Ok(lent.transport.is_tls())
}

const TRUST: &str = "host all all 127.0.0.1/32 trust";

#[tokio::test]
async fn each_mode_encrypts_and_verifies_what_it_should() {
    let right = Certificates::new();
    let wrong = Certificates::new();
    let server = server_with(TRUST, &right.sign(&["localhost"], "db"), None).await;
    let (by_name, by_address) = (server.named("localhost"), server.tcp());
    for (tls, encrypted) in [
        (SslMode::Disable, false),
        (SslMode::Allow, false),
        (SslMode::Prefer, true),
        (SslMode::Require, true),
    ] {
        assert_eq!(
            connect(mode(tls), &by_name).await.unwrap(),
            encrypted,
            "{tls}"
        );
    }
    let verify = |tls, roots: Roots| TlsSettings { roots, ..mode(tls) };
    for tls in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        assert!(
            connect(verify(tls, right.roots()), &by_name).await.unwrap(),
            "{tls}"
        );
        let error = connect(verify(tls, wrong.roots()), &by_name)
            .await
            .unwrap_err();
        assert!(
            matches!(error, PoolError::TlsHandshake { .. }),
            "{tls}: {error}"
        );
    }
    assert!(
        connect(verify(SslMode::VerifyCa, right.roots()), &by_address)
            .await
            .unwrap()
    );
    let error = connect(verify(SslMode::VerifyFull, right.roots()), &by_address).await;
    assert!(
        matches!(error, Err(PoolError::TlsHandshake { .. })),
        "another host's certificate"
    );
    // prefer asks for nothing, so that roots keep nobody out
    assert!(
        connect(verify(SslMode::Prefer, wrong.roots()), &by_name)
            .await
            .unwrap()
    );
    // a Unix socket has no TLS, whatever the mode
    let unix = server.unix();
    assert!(
        !connect(verify(SslMode::VerifyFull, right.roots()), &unix)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_common_name_does_where_there_are_no_alternative_names() {
    let authority = Certificates::new();
    let server = server_with(TRUST, &authority.sign(&[], "LOCALHOST"), None).await;
    let tls = TlsSettings {
        roots: authority.roots(),
        ..mode(SslMode::VerifyFull)
    };
    assert!(
        connect(tls.clone(), &server.named("localhost"))
            .await
            .unwrap()
    );
    assert!(connect(tls, &server.tcp()).await.is_err());
}

#[tokio::test]
async fn a_self_signed_certificate_is_its_own_root() {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let files = Certificates::new();
    let roots = Roots::File(files.write("self.crt", &certificate));
    let server = server_with(TRUST, &(certificate, key.serialize_pem()), None).await;
    for tls in [SslMode::VerifyCa, SslMode::VerifyFull] {
        let tls = TlsSettings {
            roots: roots.clone(),
            ..mode(tls)
        };
        assert!(connect(tls, &server.named("localhost")).await.unwrap());
    }
    let tls = TlsSettings {
        roots,
        ..mode(SslMode::VerifyFull)
    };
    assert!(
        connect(tls, &server.tcp()).await.is_err(),
        "the name still counts"
    );
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_required() {
    let server = TestServer::start().await;
    assert!(!connect(mode(SslMode::Prefer), &server.tcp()).await.unwrap());
    let error = connect(mode(SslMode::Require), &server.tcp())
        .await
        .unwrap_err();
    assert!(matches!(error, PoolError::TlsUnavailable { .. }), "{error}");
}

#[tokio::test]
async fn allow_and_prefer_try_the_other_way_where_pg_hba_has_no_line() {
    let authority = Certificates::new();
    let pair = authority.sign(&["localhost"], "db");
    let only_tls = server_with("hostssl all all 127.0.0.1/32 trust", &pair, None).await;
    assert!(
        connect(mode(SslMode::Allow), &only_tls.tcp())
            .await
            .unwrap()
    );
    let error = connect(mode(SslMode::Disable), &only_tls.tcp())
        .await
        .unwrap_err();
    assert_eq!(error.code(), SqlState::INVALID_AUTHORIZATION);
    let only_plain = server_with("hostnossl all all 127.0.0.1/32 trust", &pair, None).await;
    assert!(
        !connect(mode(SslMode::Prefer), &only_plain.tcp())
            .await
            .unwrap()
    );
    let error = connect(mode(SslMode::Require), &only_plain.tcp())
        .await
        .unwrap_err();
    assert_eq!(error.code(), SqlState::INVALID_AUTHORIZATION);
}

#[tokio::test]
async fn scram_is_bound_to_the_certificate_by_each_signature() {
    let authority = Certificates::new();
    let elliptic_384 = {
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    // RSA, and of version 1, as `openssl x509 -req` makes them
    let version_1 = (
        include_str!("fixtures/version1.crt").to_owned(),
        include_str!("fixtures/version1.key").to_owned(),
    );
    for pair in [
        authority.sign(&["localhost"], "db"),
        elliptic_384,
        version_1,
    ] {
        let server = server_with("hostssl all all 127.0.0.1/32 scram-sha-256", &pair, None).await;
        server.sql("CREATE USER app PASSWORD 'secret'").await;
        let lent = checkout(
            &pools(mode(SslMode::Require)),
            &password("app", "secret"),
            &server.tcp(),
        )
        .await
        .unwrap();
        assert!(lent.transport.is_tls());
        let error = checkout(
            &pools(mode(SslMode::Require)),
            &password("app", "wrong"),
            &server.tcp(),
        )
        .await
        .unwrap_err();
        assert_eq!(error.code(), SqlState::INVALID_PASSWORD);
    }
}

#[tokio::test]
async fn a_plain_password_may_be_sent_over_tls() {
    let authority = Certificates::new();
    let pair = authority.sign(&["localhost"], "db");
    let server = server_with("host all all 127.0.0.1/32 password", &pair, None).await;
    server.sql("CREATE USER app PASSWORD 'secret'").await;
    let app = password("app", "secret");
    checkout(&pools(mode(SslMode::Require)), &app, &server.tcp())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_there_is_one() {
    let authority = Certificates::new();
    let pair = authority.sign(&["localhost"], "db");
    let root = authority.authority.pem();
    let server = server_with("hostssl all all 127.0.0.1/32 cert", &pair, Some(&root)).await;
    server.sql("CREATE USER app").await;
    let app = login("app", Credential::Nothing);
    let (certificate, key) = authority.sign(&[], "app");
    let files = ClientCertificate {
        certificate: authority.write("app.crt", &certificate),
        key: authority.write("app.key", &key),
    };
    let tls = TlsSettings {
        certificate: Some(files),
        ..mode(SslMode::Require)
    };
    checkout(&pools(tls), &app, &server.tcp()).await.unwrap();
    checkout(&pools(mode(SslMode::Require)), &app, &server.tcp())
        .await
        .unwrap_err();
}

#[tokio::test]
async fn a_cancel_request_is_encrypted_too() {
    let authority = Certificates::new();
    let pair = authority.sign(&["localhost"], "db");
    let server = server_with("hostssl all all 127.0.0.1/32 trust", &pair, None).await;
    let pools = pools(mode(SslMode::Require));
    let mut lent = checkout(&pools, &superuser(), &server.tcp()).await.unwrap();
    let canceller = lent.canceller().unwrap();
    crate::server::send(&mut lent, "SELECT pg_sleep(60)");
    let (result, ()) = tokio::join!(crate::server::finish(&mut lent), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        canceller.cancel().await.unwrap();
    });
    assert_eq!(result.unwrap_err().code, SqlState::QUERY_CANCELED);
}

#[tokio::test]
async fn megabytes_pass_both_ways_over_tls() {
    let authority = Certificates::new();
    let server = server_with(TRUST, &authority.sign(&["localhost"], "db"), None).await;
    let pools = pools(mode(SslMode::Require));
    let mut lent = checkout(&pools, &superuser(), &server.tcp()).await.unwrap();
    let long = "x".repeat(100_000);
    for _ in 0..100 {
        crate::server::send(&mut lent, &format!("SELECT '{long}'"));
    }
    for _ in 0..100 {
        assert_eq!(
            crate::server::finish(&mut lent).await.unwrap(),
            [long.as_str()]
        );
    }
    assert!(lent.is_clean());
}

/// Takes one connection, and gives it to a server that the test plays.
async fn play<F>(serve: impl FnOnce(Transport) -> F + Send + 'static) -> NodeState
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        serve(Transport::new(
            pgherd_pool::Stream::tcp(socket, &pgherd_pool::TcpSettings::default()).unwrap(),
        ))
        .await;
    });
    NodeState::new(
        NodeId(0),
        "s0a",
        Address::Tcp {
            host: "localhost".into(),
            port,
        },
    )
}

fn acceptor(authority: &Certificates, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &authority.authority)
        .unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// Lets everybody in.
async fn let_in(mut transport: Transport) {
    let packet = loop {
        if let Some(packet) = read_first_packet(&mut transport.inbox).unwrap() {
            break packet;
        }
        assert!(transport.fill().await.unwrap() > 0);
    };
    assert!(matches!(packet, FirstPacket::Startup(_)));
    transport
        .outbox
        .put_slice(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I");
    transport.flush().await.unwrap();
    while transport.fill().await.is_ok_and(|read| read > 0) {}
}

fn direct(authority: &Certificates) -> TlsSettings {
    TlsSettings {
        negotiation: Negotiation::Direct,
        roots: authority.roots(),
        ..mode(SslMode::VerifyFull)
    }
}

#[tokio::test]
async fn direct_tls_begins_at_once_and_insists_on_the_protocols_name() {
    let authority = Certificates::new();
    for (alpn, accepted) in [(&[&b"postgresql"[..]][..], true), (&[], false)] {
        let config = acceptor(&authority, alpn);
        let node = play(async move |transport: Transport| {
            assert_eq!(
                transport.stream().peek_first_byte().await.unwrap(),
                Some(0x16)
            );
            let_in(transport.accept_tls(config).await.unwrap()).await;
        })
        .await;
        let result = checkout(&pools(direct(&authority)), &superuser(), &node).await;
        match result {
            Ok(lent) => assert!(accepted && lent.transport.is_tls() && lent.pid() == 0),
            Err(error) => {
                assert!(
                    !accepted && matches!(error, PoolError::Protocol { .. }),
                    "{error}"
                );
            }
        }
    }
}

#[tokio::test]
async fn plaintext_after_the_answer_to_an_ssl_request_is_refused() {
    for answer in [
        &b"SR\0\0\0\x08\0\0\0\0"[..],
        b"NR\0\0\0\x08\0\0\0\0",
        b"E\0\0",
    ] {
        let node = play(async move |mut transport: Transport| {
            transport.fill().await.unwrap();
            transport.outbox = BytesMut::from(answer);
            transport.flush().await.unwrap();
            while transport.fill().await.is_ok_and(|read| read > 0) {}
        })
        .await;
        let error = checkout(&pools(mode(SslMode::Prefer)), &superuser(), &node)
            .await
            .unwrap_err();
        assert!(matches!(error, PoolError::Protocol { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_lets_us_in_without_its_scram_proof_is_refused() {
    let node = play(async move |mut transport: Transport| {
        transport.fill().await.unwrap();
        transport
            .outbox
            .put_slice(b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0");
        transport.flush().await.unwrap();
        transport.inbox.clear();
        transport.fill().await.unwrap();
        transport
            .outbox
            .put_slice(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I");
        transport.flush().await.unwrap();
    })
    .await;
    let error = checkout(
        &pools(mode(SslMode::Disable)),
        &password("app", "secret"),
        &node,
    )
    .await
    .unwrap_err();
    assert!(matches!(error, PoolError::Authentication { .. }), "{error}");
}
