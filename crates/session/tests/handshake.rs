//! What clients may send before they are logged in, and what they are told.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgherd_protocol::frontend::SaslInitialResponse;
use pgherd_protocol::{BackendMessage, Severity, SqlState};
use pgherd_session::{Accepted, ListenSettings, Refusal, Users};
use support::{Front, LONG, Step, database, scram, step, user};

const V3_0: u32 = 0x0003_0000;
const V3_2: u32 = 0x0003_0002;
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x30];

async fn front() -> Front {
    let users: Users = [user("app", "right")].into_iter().collect();
    Front::start(
        ListenSettings::default(),
        vec![database("shop", users, None)],
    )
    .await
}

fn label(accepted: &Accepted) -> &'static str {
    match accepted {
        Accepted::Closed(refusal) => refusal.label(),
        Accepted::Cancelled => "cancelled",
        Accepted::Application(_) => "application",
        Accepted::Replication(_) => "replication",
        Accepted::Console(_) => "console",
    }
}

#[tokio::test]
async fn garbage_ends_in_a_protocol_violation() {
    let mut front = front().await;
    let mut web = BytesMut::from(&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]);
    for bytes in [
        web.split().freeze(),
        bytes::Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0]),
        bytes::Bytes::from_static(&[0xff; 64]),
        // 10,005 bytes are announced: one more than Postgres takes
        bytes::Bytes::from_static(&[0, 0, 0x27, 0x15, 0, 3, 0, 0]),
    ] {
        let mut client = front.connect().await;
        client.send(&bytes).await;
        let error = client.last_error().await;
        assert_eq!(error.code, SqlState::PROTOCOL_VIOLATION, "{bytes:?}");
        assert_eq!(error.severity, Severity::Fatal);
        assert_eq!(label(&front.next().await), "protocol");
    }
}

#[tokio::test]
async fn versions_that_nobody_speaks_are_refused() {
    let front = front().await;
    for version in [0x0002_0000, 0x0004_0000] {
        let mut client = front.connect().await;
        client.start(version, &[("user", "app")]).await;
        let error = client.last_error().await;
        assert_eq!(error.code, SqlState::FEATURE_NOT_SUPPORTED);
        assert!(
            error.message.starts_with("unsupported frontend protocol"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn who_closes_at_once_is_not_complained_to() {
    let mut front = front().await;
    drop(front.connect().await);
    assert_eq!(label(&front.next().await), "gone");
    let mut client = front.connect().await;
    client.send(&[0, 0]).await;
    drop(client);
    assert_eq!(label(&front.next().await), "gone");
}

#[tokio::test]
async fn half_open_clients_are_ended_in_time() {
    let settings = ListenSettings {
        authentication_timeout: Duration::from_millis(300),
        ..ListenSettings::default()
    };
    let users: Users = [user("app", "right")].into_iter().collect();
    let mut front = Front::start(settings, vec![database("shop", users, None)]).await;
    let started = Instant::now();

    let mut silent = front.connect().await;
    assert!(silent.frame().await.is_none());
    assert_eq!(label(&front.next().await), "timeout");

    let mut half = front.connect().await;
    half.send(&[0, 0, 0, 80, 0, 3]).await;
    assert!(half.frame().await.is_none());
    assert_eq!(label(&front.next().await), "timeout");

    let mut wordless = front.connect().await;
    wordless
        .start(V3_0, &[("user", "app"), ("database", "shop")])
        .await;
    wordless.frame().await.unwrap();
    let error = wordless.last_error().await;
    assert_eq!(error.code, SqlState::QUERY_CANCELED);
    assert_eq!(error.message, "canceling authentication due to timeout");
    assert!(matches!(
        front.next().await,
        Accepted::Closed(Refusal::TimedOut)
    ));
    assert!(started.elapsed() < LONG);
}

#[tokio::test]
async fn no_more_connections_than_clients_and_some_wait_to_be_logged_in() {
    let settings = ListenSettings {
        max_clients: 0,
        ..ListenSettings::default()
    };
    let mut front = Front::start(settings, vec![]).await;
    let mut open = Vec::new();
    for _ in 0..101 {
        open.push(front.connect().await);
    }
    assert_eq!(label(&front.next().await), "crowded");
    open.clear();
    for _ in 0..100 {
        assert_eq!(label(&front.next().await), "gone");
    }
    let mut client = front.connect().await;
    client
        .start(V3_0, &[("user", "admin"), ("database", "pgherd")])
        .await;
    assert!(matches!(step(&mut client).await.unwrap(), Step::Sasl));
}

#[tokio::test]
async fn encryption_that_is_not_there_is_denied_and_the_client_goes_on() {
    let front = front().await;
    let mut client = front.connect().await;
    client.send(&GSSENC_REQUEST).await;
    assert_eq!(client.byte().await, b'N');
    client.send(&SSL_REQUEST).await;
    assert_eq!(client.byte().await, b'N');
    client
        .start(V3_0, &[("user", "admin"), ("database", "pgherd")])
        .await;
    assert!(matches!(step(&mut client).await.unwrap(), Step::Sasl));
}

#[tokio::test]
async fn encryption_may_be_asked_for_once() {
    let front = front().await;
    for request in [SSL_REQUEST, GSSENC_REQUEST] {
        let mut client = front.connect().await;
        client.send(&request).await;
        assert_eq!(client.byte().await, b'N');
        client.send(&request).await;
        assert_eq!(client.last_error().await.code, SqlState::PROTOCOL_VIOLATION);
    }
}

#[tokio::test]
async fn plain_text_after_a_request_for_encryption_is_refused() {
    let front = front().await;
    for request in [SSL_REQUEST, GSSENC_REQUEST] {
        let mut client = front.connect().await;
        let mut stuffed = request.to_vec();
        stuffed.extend_from_slice(b"anything");
        client.send(&stuffed).await;
        let error = client.last_error().await;
        assert_eq!(error.code, SqlState::PROTOCOL_VIOLATION);
        assert!(
            error.message.starts_with("received unencrypted data after"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn direct_tls_without_tls_is_closed() {
    let mut front = front().await;
    let mut client = front.connect().await;
    client.send(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await;
    assert_eq!(label(&front.next().await), "tls");
}

#[tokio::test]
async fn a_newer_minor_version_and_unknown_options_are_negotiated() {
    let front = front().await;
    let mut client = front.connect().await;
    let parameters = [
        ("user", "admin"),
        ("database", "pgherd"),
        ("_pq_.later", "1"),
    ];
    client.start(0x0003_0009, &parameters).await;
    let frame = client.frame().await.unwrap();
    let BackendMessage::NegotiateProtocolVersion(negotiation) =
        BackendMessage::parse(&frame).unwrap()
    else {
        panic!("a negotiation");
    };
    assert_eq!(negotiation.version.to_string(), "3.2");
    let options: Vec<_> = negotiation.options().collect();
    assert_eq!(options, [b"_pq_.later"]);
    assert!(matches!(step(&mut client).await.unwrap(), Step::Sasl));
}

#[tokio::test]
async fn cancel_keys_are_as_long_as_the_version_allows() {
    let front = front().await;
    for (version, length) in [(V3_0, 4), (V3_2, 32)] {
        let mut client = front.connect().await;
        client
            .start(version, &[("user", "admin"), ("database", "pgherd")])
            .await;
        scram(&mut client, "secret").await.unwrap();
        let mut key = Vec::new();
        loop {
            let frame = client.frame().await.unwrap();
            match BackendMessage::parse(&frame).unwrap() {
                BackendMessage::BackendKeyData(data) => key = data.key.to_vec(),
                BackendMessage::ReadyForQuery(_) => break,
                _ => {}
            }
        }
        assert_eq!(key.len(), length);
    }
}

#[tokio::test]
async fn replication_of_no_kind_and_missing_users_are_refused() {
    let front = front().await;
    let mut client = front.connect().await;
    client
        .start(V3_0, &[("user", "app"), ("replication", "logical")])
        .await;
    assert_eq!(
        client.last_error().await.code,
        SqlState::INVALID_PARAMETER_VALUE
    );
    let mut client = front.connect().await;
    client.start(V3_0, &[("database", "shop")]).await;
    assert_eq!(
        client.last_error().await.code,
        SqlState::INVALID_AUTHORIZATION
    );
}

#[tokio::test]
async fn a_wrong_password_and_a_missing_user_look_alike() {
    let front = front().await;
    let mut errors = Vec::new();
    for (name, database) in [("app", "shop"), ("nobody", "shop"), ("nobody", "nowhere")] {
        let mut client = front.connect().await;
        client
            .start(V3_0, &[("user", name), ("database", database)])
            .await;
        let error = scram(&mut client, "wrong").await.unwrap_err();
        assert_eq!(error.code, SqlState::INVALID_PASSWORD);
        errors.push(error.message.replace(name, "?"));
    }
    errors.dedup();
    assert_eq!(errors, ["password authentication failed for user \"?\""]);
}

#[tokio::test]
async fn a_missing_database_is_told_to_who_knows_a_password() {
    let mut front = front().await;
    let mut client = front.connect().await;
    client
        .start(V3_0, &[("user", "app"), ("database", "nowhere")])
        .await;
    let error = scram(&mut client, "right").await.err();
    // AuthenticationOk comes first, as in Postgres
    let error = match error {
        Some(error) => error,
        None => client.last_error().await,
    };
    assert_eq!(error.code, SqlState::INVALID_CATALOG_NAME);
    assert_eq!(error.message, "database \"nowhere\" does not exist");
    assert_eq!(label(&front.next().await), "database");
}

#[tokio::test]
async fn too_many_clients_are_told_so_and_the_console_stays_open() {
    let settings = ListenSettings {
        max_clients: 0,
        ..ListenSettings::default()
    };
    let users: Users = [user("app", "right")].into_iter().collect();
    let mut front = Front::start(settings, vec![database("shop", users, None)]).await;
    let mut client = front.connect().await;
    client
        .start(V3_0, &[("user", "app"), ("database", "shop")])
        .await;
    let error = client.last_error().await;
    assert_eq!(error.code, SqlState::TOO_MANY_CONNECTIONS);
    assert_eq!(error.message, "sorry, too many clients already");
    assert_eq!(label(&front.next().await), "too_many");

    let mut operator = front.connect().await;
    operator
        .start(V3_0, &[("user", "admin"), ("database", "pgbouncer")])
        .await;
    scram(&mut operator, "secret").await.unwrap();
    assert_eq!(label(&front.next().await), "console");
}

#[tokio::test]
async fn nobody_is_let_in_while_pgherd_drains() {
    let front = front().await;
    front.herd.drain();
    let mut client = front.connect().await;
    client
        .start(V3_0, &[("user", "app"), ("database", "shop")])
        .await;
    assert_eq!(client.last_error().await.code, SqlState::CANNOT_CONNECT_NOW);
}

#[tokio::test]
async fn a_cancel_request_for_nobody_is_closed_without_a_word() {
    let mut front = front().await;
    let mut client = front.connect().await;
    client
        .send(&[0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e, 0, 0, 0, 1, 1, 2, 3, 4])
        .await;
    assert!(client.frame().await.is_none());
    assert_eq!(label(&front.next().await), "cancelled");
}

#[tokio::test]
async fn what_is_no_part_of_the_exchange_ends_it() {
    let mut front = front().await;
    let mut endless = vec![b'p'];
    endless.extend_from_slice(&i32::MAX.to_be_bytes());
    let mut unknown_mechanism = BytesMut::new();
    SaslInitialResponse {
        mechanism: b"PLAIN",
        data: Some(b"x"),
    }
    .encode(&mut unknown_mechanism)
    .unwrap();
    for bytes in [
        &b"Q\0\0\0\x0dSELECT 1\0"[..],
        &endless,
        b"p\0\0\0\x04",
        b"p\0\0\0\x00",
        &unknown_mechanism,
    ] {
        let mut client = front.connect().await;
        client
            .start(V3_0, &[("user", "app"), ("database", "shop")])
            .await;
        assert!(matches!(step(&mut client).await.unwrap(), Step::Sasl));
        client.send(bytes).await;
        let error = client.last_error().await;
        assert_eq!(
            error.code,
            SqlState::PROTOCOL_VIOLATION,
            "{bytes:?}: {error}"
        );
        assert_eq!(label(&front.next().await), "protocol");
    }
}

#[tokio::test]
async fn a_database_without_servers_says_so_after_a_while() {
    let users: Users = [user("app", "right")].into_iter().collect();
    let front = Front::start(
        ListenSettings::default(),
        vec![database("shop", users, None)],
    )
    .await;
    let mut client = front.connect().await;
    client
        .start(V3_0, &[("user", "app"), ("database", "shop")])
        .await;
    let error = match scram(&mut client, "right").await {
        Err(error) => error,
        Ok(()) => client.last_error().await,
    };
    assert_eq!(error.code, SqlState::CANNOT_CONNECT_NOW);
    assert_eq!(error.severity, Severity::Fatal);
}
