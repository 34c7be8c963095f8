//! Logging in by each method.

use pgherd_pool::{CleartextPassword, PoolError, PoolSettings, Pools};
use pgherd_protocol::auth::{Credential, ScramKeys, ScramVerifier, md5};
use pgherd_protocol::{ProtocolVersion, Secret, SqlState};

use crate::server::{TestServer, checkout, login, password, query, superuser};

async fn server(method: &str, password_encryption: &str) -> TestServer {
    let server = TestServer::start_with(
        &format!("host all all 127.0.0.1/32 {method}"),
        &format!("password_encryption = '{password_encryption}'"),
        &[],
    )
    .await;
    server.sql("CREATE USER app PASSWORD 'pa55 wörd'").await;
    server
}

#[tokio::test]
async fn trust_asks_for_nothing_and_reports_parameters() {
    let server = TestServer::start().await;
    let pools = Pools::new(PoolSettings {
        application_name: Some("pgherd".into()),
        options: Some("-c work_mem=5MB".into()),
        protocol: ProtocolVersion::V3_2,
        ..PoolSettings::new("postgres")
    });
    let mut connection = checkout(&pools, &superuser(), &server.tcp()).await.unwrap();
    assert_eq!(
        connection.parameters().value("client_encoding"),
        Some("UTF8")
    );
    assert_eq!(
        connection.parameters().value("application_name"),
        Some("pgherd")
    );
    assert!(connection.parameters().value("server_version").is_some());
    assert_eq!(
        query(&mut connection, "SHOW work_mem").await.unwrap(),
        ["5MB"]
    );
    let pid = connection.pid().to_string();
    assert_eq!(
        query(&mut connection, "SELECT pg_backend_pid()")
            .await
            .unwrap(),
        [pid]
    );
}

#[tokio::test]
async fn a_plain_password_is_only_sent_unencrypted_where_that_is_allowed() {
    let server = server("password", "scram-sha-256").await;
    let app = password("app", "pa55 wörd");
    let mut settings = PoolSettings::new("postgres");
    let pools = Pools::new(settings.clone());
    let error = checkout(&pools, &app, &server.tcp()).await.unwrap_err();
    assert!(
        matches!(error, PoolError::CleartextPassword { .. }),
        "{error}"
    );
    assert!(!format!("{error:?} {error} {:?}", error.to_pg_error()).contains("pa55"));
    settings.cleartext_password = CleartextPassword::Anywhere;
    // also forgets that it failed
    pools.reload(settings);
    checkout(&pools, &app, &server.tcp()).await.unwrap();
}

#[tokio::test]
async fn md5_takes_the_password_or_its_hash_and_no_scram_keys() {
    let server = server("md5", "md5").await;
    let secret = Secret::from("pa55 wörd");
    let keys = ScramKeys::derive(&secret, b"0123456789abcdef", 1);
    let try_with = async |credential| {
        let pools = Pools::new(PoolSettings::new("postgres"));
        checkout(&pools, &login("app", credential), &server.tcp()).await
    };
    try_with(Credential::Password(secret.clone()))
        .await
        .unwrap();
    try_with(Credential::Md5Hash(md5::hash("app", &secret)))
        .await
        .unwrap();
    let error = try_with(Credential::ScramKeys(keys)).await.unwrap_err();
    assert!(
        matches!(error, PoolError::Credential { method: "md5", .. }),
        "{error}"
    );
    let error = try_with(Credential::Password(Secret::from("wrong")))
        .await
        .unwrap_err();
    assert_eq!(error.code(), SqlState::INVALID_PASSWORD);
}

#[tokio::test]
async fn scram_takes_the_password_or_the_keys_of_its_verifier_and_no_md5_hash() {
    let server = server("scram-sha-256", "scram-sha-256").await;
    let secret = Secret::from("pa55 wörd");
    let stored = server
        .sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'")
        .await;
    let verifier: ScramVerifier = stored[0].parse().unwrap();
    let keys = ScramKeys::derive(&secret, &verifier.salt, verifier.iterations);
    let try_with = async |credential| {
        let pools = Pools::new(PoolSettings::new("postgres"));
        checkout(&pools, &login("app", credential), &server.tcp()).await
    };
    try_with(Credential::Password(secret.clone()))
        .await
        .unwrap();
    try_with(Credential::ScramKeys(keys)).await.unwrap();
    let error = try_with(Credential::Md5Hash(md5::hash("app", &secret)))
        .await
        .unwrap_err();
    assert!(matches!(error, PoolError::Credential { .. }), "{error}");
    let error = try_with(Credential::Nothing).await.unwrap_err();
    assert_eq!(error.code(), SqlState::INVALID_AUTHORIZATION);
}

#[tokio::test]
async fn a_refused_login_carries_the_servers_own_error() {
    let server = server("scram-sha-256", "scram-sha-256").await;
    let pools = Pools::new(PoolSettings::new("postgres"));
    let error = checkout(&pools, &password("app", "wrong"), &server.tcp())
        .await
        .unwrap_err();
    let PoolError::Login { error: cause, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(cause.code, SqlState::INVALID_PASSWORD);
    assert!(error.to_string().contains("s0a (127.0.0.1:"), "{error}");

    let pools = Pools::new(PoolSettings::new("nowhere"));
    let app = password("app", "pa55 wörd");
    let error = checkout(&pools, &app, &server.tcp()).await.unwrap_err();
    assert_eq!(error.code(), SqlState::INVALID_CATALOG_NAME);
    assert!(
        error
            .to_pg_error()
            .message
            .contains("database \"nowhere\" does not exist")
    );
}
