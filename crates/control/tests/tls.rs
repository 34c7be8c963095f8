//! The control login under each of libpq's TLS modes, on a real server.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use pgherd_control::{Control, ControlSettings};
use pgherd_tls::{ClientTls, Roots, SslMode, TlsSettings};
use pgherd_topology::{Address, Sharding};
use support::{TestServer, settings};

/// A server that takes passwords over TLS only, with the role `control`, its own certificate for `names`, and a stranger's certificate.
async fn server(names: &[&str]) -> TestServer {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let own = rcgen::generate_simple_self_signed(names).unwrap();
    let stranger = rcgen::generate_simple_self_signed(vec!["stranger".to_owned()]).unwrap();
    let files = [
        ("server.crt", own.cert.pem()),
        ("server.key", own.signing_key.serialize_pem()),
        ("stranger.crt", stranger.cert.pem()),
    ];
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let configuration =
        "ssl = on\nssl_cert_file = 'DIRECTORY/server.crt'\nssl_key_file = 'DIRECTORY/server.key'";
    let hba = "hostnossl all control all reject\nhostssl all control all scram-sha-256";
    let server = TestServer::with_files(configuration, hba, &files);
    std::fs::set_permissions(
        server.path("stranger.crt"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let role = "SET password_encryption = 'scram-sha-256'; CREATE ROLE control LOGIN SUPERUSER PASSWORD 's3cret'";
    server.sql(role).await;
    server
}

fn as_control(server: &TestServer, mode: SslMode, authority: Option<PathBuf>) -> ControlSettings {
    let mut settings = settings(&[&[server]], Sharding::unsharded("s0"));
    settings.login.user = "control".into();
    settings.login.password = Some("s3cret".into());
    settings.login.tls = ClientTls::new(&TlsSettings {
        mode,
        roots: authority.map_or(Roots::None, Roots::File),
        ..TlsSettings::default()
    })
    .unwrap();
    settings
}

async fn gets_in(settings: ControlSettings) -> bool {
    let control = Control::start(settings);
    let ready = control.wait_ready(Duration::from_secs(3)).await;
    control.shutdown().await;
    ready.is_ok()
}

#[tokio::test]
async fn each_mode_encrypts_and_verifies_as_libpq_does() {
    let server = server(&["127.0.0.1"]).await;
    let (own, stranger) = (server.path("server.crt"), server.path("stranger.crt"));
    for (mode, authority, expected) in [
        (SslMode::Disable, None, false),
        (SslMode::Allow, None, true),
        (SslMode::Prefer, None, true),
        (SslMode::Require, None, true),
        // with roots it verifies, as libpq does
        (SslMode::Require, Some(&own), true),
        (SslMode::Require, Some(&stranger), false),
        (SslMode::VerifyCa, Some(&own), true),
        (SslMode::VerifyFull, Some(&own), true),
        (SslMode::VerifyCa, Some(&stranger), false),
        (SslMode::VerifyFull, Some(&stranger), false),
    ] {
        let settings = as_control(&server, mode, authority.cloned());
        assert_eq!(gets_in(settings).await, expected, "{mode:?} {authority:?}");
    }
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.usename = 'control'";
    let control = support::ready(as_control(&server, SslMode::Prefer, None)).await;
    assert_eq!(server.value(encrypted).await.as_deref(), Some("true"));
    control.shutdown().await;
    let mut wrong = as_control(&server, SslMode::Require, None);
    wrong.login.password = Some("guess".into());
    assert!(!format!("{wrong:?}").contains("guess"));
    assert!(!gets_in(wrong).await);
}

#[tokio::test]
async fn a_unix_socket_is_never_encrypted_whatever_the_mode() {
    let server = server(&["127.0.0.1"]).await;
    let directory = server.path("").to_str().unwrap().into();
    let address = Address::Unix {
        directory,
        port: server.port,
    };
    for mode in [SslMode::Disable, SslMode::Prefer, SslMode::VerifyFull] {
        let mut settings = as_control(&server, mode, Some(server.path("server.crt")));
        settings.shards[0].servers[0].address = address.clone();
        assert!(gets_in(settings).await, "{mode:?}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_reached_without_it() {
    let server = TestServer::start();
    server.sql("CREATE ROLE control LOGIN SUPERUSER").await;
    for (mode, expected) in [
        (SslMode::Disable, true),
        (SslMode::Prefer, true),
        (SslMode::Require, false),
    ] {
        let settings = as_control(&server, mode, None);
        assert_eq!(gets_in(settings).await, expected, "{mode:?}");
    }
}

#[tokio::test]
async fn only_the_full_mode_looks_at_the_name() {
    let server = server(&["elsewhere.example"]).await;
    let own = server.path("server.crt");
    assert!(gets_in(as_control(&server, SslMode::VerifyCa, Some(own.clone()))).await);
    assert!(!gets_in(as_control(&server, SslMode::VerifyFull, Some(own))).await);
}
