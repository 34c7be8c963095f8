//! The console as psql and drivers see it.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::SystemTime;

use pgherd_admin::Show;
use support::{Front, failure, printed};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

async fn connect(front: &Front) -> tokio_postgres::Client {
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(front.address.port())
        .user("admin")
        .password("secret")
        .dbname("pgbouncer");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn psql_shows_everything() {
    let front = Front::start().await;
    for show in Show::ALL {
        let command = format!("show {};", show.word.to_lowercase());
        printed(&front.psql("", &command).await);
    }
    let version = printed(&front.psql("", "SHOW VERSION").await);
    assert_eq!(
        version.trim(),
        format!("pgherd {}", env!("CARGO_PKG_VERSION"))
    );
    let help = printed(&front.psql("", "help").await);
    assert!(help.contains("SHOW POOLS"), "{help}");
}

#[tokio::test]
async fn tables_and_buckets_show_what_lies_where() {
    let front = Front::start().await;
    let tables = printed(&front.psql("", "SHOW TABLES").await);
    let lines: Vec<&str> = tables.lines().collect();
    assert_eq!(
        lines,
        [
            "shop|public.orders|sharded|user_id|hash|public.users|||",
            "shop|public.users|sharded|id|hash||||",
            "shop|public.countries|reference||||||",
            "shop|*|unsharded||||s0||",
        ]
    );
    let buckets = printed(&front.psql("", "SHOW BUCKETS").await);
    assert_eq!(buckets, "shop|s0|5|62.5|0-4|3\nshop|s1|3|37.5|5-7|3\n");
    let databases = printed(&front.psql("", "SHOW DATABASES").await);
    assert!(
        databases.starts_with(
            "shop|127.0.0.1|1|shop||20|0|0|3600|transaction||0|0|7|0|0|0|2|2|1|1|replicas|session|10|"
        ),
        "{databases}"
    );
    assert!(databases.contains(
        "|f|shard s0 has no primary that answers; shard s1 has no primary that answers; the catalog was not read yet"
    ));
}

#[tokio::test]
async fn clients_are_shown_with_what_they_do() {
    let front = Front::start().await;
    let _other = connect(&front).await;
    let clients = printed(&front.psql("application_name=me", "SHOW CLIENTS").await);
    let rows: Vec<Vec<&str>> = clients
        .lines()
        .map(|line| line.split('|').collect())
        .collect();
    assert_eq!(rows.len(), 2, "{clients}");
    assert_eq!(rows[0][..5], ["C", "admin", "pgbouncer", "none", "idle"]);
    assert_eq!(
        rows[1][..6],
        ["C", "admin", "pgherd", "none", "active", "127.0.0.1"]
    );
    assert_eq!(rows[1][18], "me");
    assert_eq!(rows[1][22..24], ["3.0", "active"]);
    assert!(printed(&front.psql("", "SHOW PINS").await).is_empty());
}

#[tokio::test]
async fn like_leaves_the_rows_whose_name_is_like_the_pattern() {
    let front = Front::start().await;
    let shown = async |command: &str| printed(&front.psql("", command).await);
    assert_eq!(
        shown("SHOW BUCKETS LIKE 's_'").await.lines().count(),
        2,
        "the shards"
    );
    assert_eq!(
        shown("show lists like 'dns\\_%'").await,
        "dns_names|0\ndns_zones|0\ndns_queries|0\ndns_pending|0\n"
    );
    assert_eq!(shown("SHOW DATABASES LIKE 'Shop'").await, "");
    let help = shown("SHOW HELP LIKE '%BUCKETS%'").await;
    assert!(help.contains("LIKE looks at the column shard."), "{help}");
}

#[tokio::test]
async fn drivers_use_the_extended_protocol_with_binary_results() {
    let front = Front::start().await;
    let client = connect(&front).await;
    let rows = client.query("SHOW CLIENTS", &[]).await.unwrap();
    assert_eq!(rows.len(), 1);
    let id: i64 = rows[0].get("id");
    let user: &str = rows[0].get("user");
    let connected: SystemTime = rows[0].get("connect_time");
    assert_eq!((id, user), (1, "admin"));
    assert!(connected.elapsed().unwrap().as_secs() < 60);
    let row = client.query_one("SHOW BUCKETS", &[]).await;
    assert!(row.is_err(), "two rows are not one");
    let statement = client.prepare("show databases").await.unwrap();
    let row = client.query_one(&statement, &[]).await.unwrap();
    let (ready, lag): (bool, f64) = (row.get("ready"), row.get("max_lag"));
    assert_eq!((ready, lag), (false, 10.0));
}

#[tokio::test]
async fn a_portal_gives_its_rows_in_parts() {
    let front = Front::start().await;
    let mut client = connect(&front).await;
    let all = client.query("SHOW HELP", &[]).await.unwrap();
    assert!(all.len() > Show::ALL.len());
    let block = client.transaction().await.unwrap();
    let portal = block.bind("SHOW HELP", &[]).await.unwrap();
    let mut shown = 0;
    loop {
        let part = block.query_portal(&portal, 4).await.unwrap();
        shown += part.len();
        if part.len() < 4 {
            break;
        }
    }
    assert_eq!(shown, all.len());
    block.commit().await.unwrap();
}

#[tokio::test]
async fn errors_leave_the_connection_usable() {
    let front = Front::start().await;
    let client = connect(&front).await;
    for statement in ["SELECT * FROM users", "SHOW NONSENSE"] {
        let error = client.query(statement, &[]).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::SYNTAX_ERROR));
        let error = client.simple_query(statement).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::SYNTAX_ERROR));
    }
    let error = client.simple_query("SHOW FDS").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED));
    client
        .batch_execute("SET extra_float_digits = 3; ; SHOW VERSION")
        .await
        .unwrap();
    client.batch_execute("").await.unwrap();

    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("nonsense").await.unwrap_err();
    let error = client.batch_execute("SHOW VERSION").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    let ended = client.simple_query("COMMIT").await.unwrap();
    assert!(matches!(
        ended[..],
        [SimpleQueryMessage::CommandComplete(_)]
    ));
    client.batch_execute("SHOW VERSION").await.unwrap();
}

#[tokio::test]
async fn wrong_passwords_and_users_are_refused_in_postgres_words() {
    let front = Front::start().await;
    for connection in ["password=wrong", "user=nobody"] {
        let why = failure(&front.psql(connection, "SHOW VERSION").await);
        assert!(
            why.contains("FATAL:  password authentication failed for user"),
            "{why}"
        );
    }
    let why = failure(&front.psql("dbname=shop", "SELECT 1").await);
    assert!(
        why.contains("password authentication failed"),
        "an operator is no user of a database: {why}"
    );
}
