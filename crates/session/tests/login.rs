//! Logging in to a database whose server is a real one.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use pgherd_protocol::{BackendMessage, Verifier};
use pgherd_session::{Call, ListenSettings, PasswordExchange, TrustedOrigin, User, Users};
use support::server::Server;
use support::{Client, Front, database, scram, user};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};

const V3_0: u32 = 0x0003_0000;

/// A server on which `app` has the password `right`.
async fn server() -> Server {
    let server = Server::start().await;
    let client = server.connect().await;
    client
        .batch_execute("CREATE ROLE app LOGIN PASSWORD 'right'; CREATE SCHEMA AUTHORIZATION app")
        .await
        .unwrap();
    server
}

/// What the server keeps of `app`'s password.
async fn stored_verifier(server: &Server) -> Verifier {
    let client = server.connect().await;
    let query = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'";
    let stored: String = client.query_one(query, &[]).await.unwrap().get(0);
    stored.parse().unwrap()
}

async fn front(server: &Server, users: impl IntoIterator<Item = User>) -> Front {
    let users: Users = users.into_iter().collect();
    let databases = vec![database("shop", users, Some(server.tcp()))];
    Front::start(ListenSettings::default(), databases)
        .await
        .serve()
}

fn config(front: &Front) -> Config {
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(front.address.port())
        .user("app")
        .password("right")
        .dbname("shop")
        .ssl_mode(SslMode::Disable);
    config
}

async fn connect(config: &Config) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// What the server that answers says of the user.
async fn whoami(client: &tokio_postgres::Client) -> String {
    client
        .query_one("SELECT session_user::text", &[])
        .await
        .unwrap()
        .get(0)
}

fn code(error: &tokio_postgres::Error) -> &SqlState {
    error
        .code()
        .unwrap_or_else(|| panic!("an SQLSTATE in {error:?}"))
}

#[tokio::test]
async fn users_log_in_to_the_servers_as_themselves() {
    let server = server().await;
    let learnt = User::with_password("app", &stored_verifier(&server).await);
    assert!(learnt.server_password.is_none());
    let cleartext = User {
        exchange: PasswordExchange::Cleartext,
        ..learnt.clone()
    };
    let trust: TrustedOrigin = "127.0.0.0/8".parse().unwrap();
    let mut trusted = User {
        trust: vec![trust],
        ..User::without_password("app")
    };
    trusted.server_password = Some("right".into());

    for one in [user("app", "right"), learnt, trusted] {
        let front = front(&server, [one]).await;
        let client = connect(&config(&front)).await.unwrap();
        assert_eq!(whoami(&client).await, "app");
    }
    // in clear over plain TCP: never asked for
    let front = front(&server, [cleartext]).await;
    let error = connect(&config(&front)).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
}

#[tokio::test]
async fn a_password_that_the_server_does_not_take_is_the_servers_error() {
    let server = server().await;
    let front = front(&server, [user("app", "other")]).await;
    let error = connect(config(&front).password("other")).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::INVALID_PASSWORD);
    let message = error.as_db_error().unwrap().message();
    assert!(message.contains("s0a"), "{message}");
}

#[tokio::test]
async fn settings_of_the_startup_message_are_the_servers_to_judge() {
    let server = server().await;
    let front = front(&server, [user("app", "right")]).await;
    let refused = [
        ("-c no_such_setting=1", SqlState::UNDEFINED_OBJECT),
        ("-c work_mem=much", SqlState::INVALID_PARAMETER_VALUE),
        (
            "-c data_directory=/tmp",
            SqlState::CANT_CHANGE_RUNTIME_PARAM,
        ),
        ("-c log_statement=all", SqlState::INSUFFICIENT_PRIVILEGE),
        ("-q", SqlState::SYNTAX_ERROR),
    ];
    for (options, expected) in refused {
        let error = connect(config(&front).options(options)).await.unwrap_err();
        assert_eq!(code(&error), &expected, "{options}");
        assert_eq!(error.as_db_error().unwrap().severity(), "FATAL");
    }
    let options = r"-c search_path=app,\ pg_catalog --work-mem=3MB -c DateStyle=German";
    let client = connect(config(&front).options(options)).await.unwrap();
    let query = "SELECT current_setting('search_path'), current_setting('work_mem'), current_setting('DateStyle')";
    let row = client.query_one(query, &[]).await.unwrap();
    let found: [String; 3] = [row.get(0), row.get(1), row.get(2)];
    assert_eq!(found, ["app, pg_catalog", "3MB", "German, DMY"]);
}

#[tokio::test]
async fn a_client_is_told_the_parameters_that_its_settings_make() {
    let server = server().await;
    let front = front(&server, [user("app", "right")]).await;
    for (date_style, expected) in [
        ("ISO", "ISO, MDY"),
        ("German", "German, DMY"),
        ("ISO", "ISO, MDY"),
    ] {
        let mut client = front.connect().await;
        let parameters = [
            ("user", "app"),
            ("database", "shop"),
            ("application_name", "test"),
            ("DateStyle", date_style),
        ];
        client.start(V3_0, &parameters).await;
        scram(&mut client, "right").await.unwrap();
        let reported = reported(&mut client).await;
        let value = |name: &str| {
            let found = reported.iter().find(|(known, _)| known == name);
            found
                .unwrap_or_else(|| panic!("{name} in {reported:?}"))
                .1
                .as_str()
        };
        assert_eq!(value("DateStyle"), expected);
        assert_eq!(value("application_name"), "test");
        assert_eq!(value("session_authorization"), "app");
        assert!(value("server_version").starts_with(|digit: char| digit.is_ascii_digit()));
        assert_eq!(value("server_encoding"), "UTF8");
    }
}

/// The ParameterStatus messages up to ReadyForQuery.
async fn reported(client: &mut Client) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    loop {
        let frame = client.frame().await.expect("a message");
        match BackendMessage::parse(&frame).unwrap() {
            BackendMessage::ParameterStatus { name, value } => {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                parameters.push((text(name), text(value)));
            }
            BackendMessage::ReadyForQuery(_) => return parameters,
            BackendMessage::BackendKeyData(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn databases_and_users_have_limits_that_the_end_of_a_session_frees() {
    let server = server().await;
    let limited = User {
        max_clients: Some(1),
        ..user("app", "right")
    };
    let front = front(&server, [limited]).await;
    let first = connect(&config(&front)).await.unwrap();
    let error = connect(&config(&front)).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::TOO_MANY_CONNECTIONS);
    assert_eq!(
        error.as_db_error().unwrap().message(),
        "too many connections for role \"app\""
    );
    drop(first);
    while front.herd.clients().count_of_database("shop") > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    front
        .herd
        .database("shop")
        .unwrap()
        .set_max_clients(Some(0));
    let error = connect(&config(&front)).await.unwrap_err();
    assert_eq!(
        error.as_db_error().unwrap().message(),
        "too many connections for database \"shop\""
    );
}

#[tokio::test]
async fn a_cancel_request_reaches_the_server_that_works_for_the_client() {
    let server = server().await;
    let front = front(&server, [user("app", "right")]).await;
    let client = connect(&config(&front)).await.unwrap();
    let cancel = client.cancel_token();
    let sleeping = tokio::spawn(async move {
        let slept = client.batch_execute("SELECT pg_sleep(60)").await;
        (client, slept)
    });
    let registry = front.herd.clients();
    while registry
        .snapshot()
        .iter()
        .all(|client| client.held().is_empty())
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // the server may not have begun yet
    tokio::time::sleep(Duration::from_millis(200)).await;
    cancel.cancel_query(NoTls).await.unwrap();
    let (client, slept) = sleeping.await.unwrap();
    assert_eq!(code(&slept.unwrap_err()), &SqlState::QUERY_CANCELED);
    // the client goes on, and what it gets next is not cancelled
    assert_eq!(whoami(&client).await, "app");
    cancel.cancel_query(NoTls).await.unwrap();
    // which returns while the request is on its way
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(whoami(&client).await, "app");
}

#[tokio::test]
async fn a_cancel_request_with_a_wrong_key_reaches_nobody() {
    let server = server().await;
    let mut front = Front::start(
        ListenSettings::default(),
        vec![database(
            "shop",
            [user("app", "right")].into_iter().collect(),
            Some(server.tcp()),
        )],
    )
    .await;
    let mut client = front.connect().await;
    client
        .start(V3_0, &[("user", "app"), ("database", "shop")])
        .await;
    scram(&mut client, "right").await.unwrap();
    reported(&mut client).await;
    let pgherd_session::Accepted::Application(login) = front.next().await else {
        panic!("an application");
    };
    let key = pgherd_protocol::CancelKey::new(&[0; 4]).unwrap();
    assert!(
        front
            .herd
            .clients()
            .cancel(login.client.pid(), &key)
            .is_none()
    );
    assert!(
        front
            .herd
            .clients()
            .cancel(login.client.pid(), login.client.key())
            .is_some()
    );
    assert_eq!(login.client.identity().application_name.as_ref(), "");
}

#[tokio::test]
async fn servers_are_not_given_back_while_a_cancel_request_is_on_its_way() {
    use pgherd_session::{HeldServer, Release};
    use pgherd_topology::{NodeId, ShardId};
    let server = server().await;
    let mut front = Front::start(
        ListenSettings::default(),
        vec![database(
            "shop",
            [user("app", "right")].into_iter().collect(),
            Some(server.tcp()),
        )],
    )
    .await;
    let mut client = front.connect().await;
    client
        .start(V3_0, &[("user", "app"), ("database", "shop")])
        .await;
    scram(&mut client, "right").await.unwrap();
    let pgherd_session::Accepted::Application(login) = front.next().await else {
        panic!("an application");
    };
    let hold = || {
        login.client.hold(HeldServer {
            shard: ShardId(0),
            node: NodeId(0),
            pid: 1,
            canceller: None,
            pin: None,
        })
    };
    let held = hold();
    assert_eq!(login.client.try_release(held), Release::Released);
    let cancel = || {
        let clients = front.herd.clients();
        clients
            .cancel(login.client.pid(), login.client.key())
            .unwrap()
    };
    // from the greeting on, one that has overtaken its request is for that, though the session has not begun
    let early = cancel();
    assert!(login.client.is_called(Call::LookOut));
    login.client.begin_request(std::time::Instant::now());
    assert!(login.client.begin_sending().is_err());
    assert!(!login.client.end_request());
    drop(early);
    login.client.look_out(false);
    let held = hold();
    login.client.begin_request(std::time::Instant::now());
    let handle = cancel();
    assert_eq!(login.client.try_release(held), Release::CancelOnItsWay);
    // the request is over: nothing is sent for it, and no other begins
    assert!(login.client.end_request());
    assert!(handle.cancellers().await.is_empty());
    let ending = login.client.cancels_ended();
    tokio::pin!(ending);
    let early = tokio::time::timeout(Duration::from_millis(100), ending.as_mut()).await;
    assert!(early.is_err());
    drop(handle);
    assert!(ending.await);
    assert!(login.client.held().is_empty());
    // what comes while nothing runs is for nothing
    let _held = hold();
    let late = cancel();
    login.client.begin_request(std::time::Instant::now());
    assert!(login.client.cancel_cause().is_none());
    assert!(login.client.end_request());
    assert!(late.cancellers().await.is_empty());
    drop(late);

    // unless its session looks for what it may have overtaken
    login.client.look_out(true);
    let (early, another) = (cancel(), cancel());
    login.client.begin_request(std::time::Instant::now());
    assert!(early.cancellers().await.is_empty() && another.cancellers().await.is_empty());
    assert!(login.client.begin_sending().is_err());
    assert!(!login.client.end_request());
    login.client.begin_request(std::time::Instant::now());
    assert!(login.client.begin_sending().is_ok());
    assert!(!login.client.end_request());
    drop((early, another));
    let early = cancel();
    assert!(login.client.is_called(Call::LookOut));
    login.client.nothing_to_cancel();
    assert!(early.cancellers().await.is_empty());
    login.client.begin_request(std::time::Instant::now());
    assert!(login.client.begin_sending().is_ok());
    // what is being written is not cancelled before it is
    let handle = cancel();
    let cancellers = handle.cancellers();
    tokio::pin!(cancellers);
    let soon = tokio::time::timeout(Duration::from_millis(100), cancellers.as_mut()).await;
    assert!(soon.is_err());
    login.client.note_sent();
    assert!(cancellers.await.is_empty(), "no server gave a key");
}
