//! Server connections that stay with a client beyond its transactions: how many, why, and until when.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pgherd_tests::asking::{PID, one, refusal, unsharded};
use pgherd_tests::{TestCluster, sqlstate};
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_secs(20);

const LOCKS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";

#[tokio::test(flavor = "multi_thread")]
async fn what_would_pin_beyond_the_bound_is_refused_before_it_runs() {
    let cluster = unsharded(|configuration| {
        configuration.database = "pool: { size: 4, max_pinned: 0 }".into();
        configuration.users = "
- { name: app, password: app, pool: { max_pinned: 2 } }
- { name: pgherd, password: pgherd }"
            .into();
    })
    .start()
    .await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(cluster.connect("app").await);
    }
    clients[0]
        .batch_execute("CREATE SEQUENCE numbers; CREATE TEMP TABLE mine (a int)")
        .await
        .unwrap();
    one(&clients[1], "SELECT pg_advisory_lock(1)").await;
    let third = &clients[2];
    for sql in [
        "CREATE TEMP TABLE third (a int)",
        "SELECT pg_advisory_lock(9)",
        "SELECT 1; SELECT pg_try_advisory_lock(9)",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "LOAD 'plpgsql'",
    ] {
        let error = refusal(third, sql).await;
        assert_eq!(error.code().code(), "53300", "{sql}");
        let detail = error.detail().unwrap();
        for part in [
            "2 of 2 connections are kept",
            "for temporary table",
            "for advisory lock",
            "user \"app\"",
        ] {
            assert!(detail.contains(part), "{sql}: {detail}");
        }
        let hint = error.hint().unwrap();
        assert!(hint.contains("SHOW PINS") && hint.contains("mode: session"));
    }
    let error = third
        .query("SELECT pg_advisory_lock($1)", &[&9_i64])
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&error), "53300");
    assert_eq!(cluster.on_each_primary(LOCKS).await, ["1"]);
    assert_eq!(
        one(
            third,
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        )
        .await,
        "1"
    );

    // in a block it fails the block, and what ends with the block is no matter
    third.batch_execute("BEGIN").await.unwrap();
    let error = refusal(third, "SELECT pg_advisory_lock(9)").await;
    assert_eq!(error.code().code(), "53300");
    let error = refusal(third, "SELECT 1").await;
    assert_eq!(error.code().code(), "25P02");
    third.batch_execute("ROLLBACK").await.unwrap();
    for sql in [
        "BEGIN",
        "CREATE TEMP TABLE short (a int) ON COMMIT DROP",
        "INSERT INTO short VALUES (1)",
        "COMMIT",
    ] {
        third.batch_execute(sql).await.unwrap();
    }
    // without a connection of one's own there are numbers, and none that was drawn last
    assert_eq!(one(third, "SELECT nextval('numbers')").await, "1");
    one(&clients[3], "SELECT 1").await;
    let current = third.simple_query("SELECT currval('numbers')").await;
    if let Err(error) = current {
        assert_eq!(sqlstate(&error), "55000");
    }

    assert_eq!(cluster.show("SERVER_POOLS", "max_pinned").await, ["2"]);
    assert_eq!(cluster.pool("pinned").await, "2");
    let mut reasons = cluster.show("PINS", "reason").await;
    reasons.sort();
    assert_eq!(reasons, ["advisory lock", "temporary table"]);
    for (metric, value) in [
        (
            r#"pgherd_pins_total{database="shop",reason="advisory lock"}"#,
            1.0,
        ),
        (
            r#"pgherd_pinned_server_connections{database="shop",shard="s0",server="s0a"}"#,
            2.0,
        ),
    ] {
        assert_eq!(cluster.metric(metric).await, Some(value), "{metric}");
    }
    let other = cluster.connect("pgherd").await;
    let error = refusal(&other, "SELECT pg_advisory_lock(10)").await;
    assert_eq!(error.code().code(), "53300");
    assert!(error.detail().unwrap().contains("0 of 0 connections"));

    // a place that is given up is another's
    clients[0].batch_execute("DROP TABLE mine").await.unwrap();
    cluster.wait_for_pool("pinned", "1").await;
    third
        .batch_execute("CREATE TEMP TABLE third (a int)")
        .await
        .unwrap();
    drop(clients);
    cluster.wait_for_pool("pinned", "0").await;
}

/// What is done, and whether the connection is the client's afterwards.
const STEPS: &[(&str, bool)] = &[
    ("CREATE TEMP TABLE a (); CREATE TEMP TABLE b ()", true),
    ("DROP TABLE a", true),
    ("DROP TABLE b", false),
    ("CREATE TEMP TABLE a (n serial)", true),
    ("DISCARD TEMP", false),
    ("CREATE TEMP TABLE a ()", true),
    ("DISCARD ALL", false),
    ("CREATE TEMP TABLE a () ON COMMIT DROP", false),
    ("CREATE TEMP TABLE f (); SELECT 1/0", false),
    (
        "BEGIN; CREATE TEMP TABLE a () ON COMMIT DROP; COMMIT",
        false,
    ),
    ("BEGIN; CREATE TEMP TABLE a (); ROLLBACK", false),
    ("BEGIN; CREATE TEMP TABLE a (); COMMIT", true),
    ("BEGIN; DROP TABLE a; ROLLBACK", true),
    ("BEGIN; DROP TABLE a; COMMIT", false),
    ("SELECT pg_advisory_lock(1)", true),
    ("SELECT pg_advisory_lock(1)", true),
    ("SELECT pg_advisory_unlock(1)", true),
    ("SELECT pg_advisory_unlock(1)", false),
    (
        "SELECT pg_advisory_lock(1); SELECT pg_advisory_lock_shared(2)",
        true,
    ),
    ("SELECT pg_advisory_unlock_all()", false),
    ("SELECT pg_advisory_unlock(77)", false),
    ("SELECT pg_try_advisory_lock(4711)", false),
    ("SELECT pg_try_advisory_lock(1)", true),
    ("SELECT pg_advisory_unlock(1)", false),
    ("SELECT pg_advisory_xact_lock(1)", false),
    (
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1; DECLARE d CURSOR WITH HOLD FOR SELECT 1",
        true,
    ),
    ("CLOSE c", true),
    ("CLOSE d", false),
    ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", true),
    ("CLOSE ALL", false),
    (
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; ROLLBACK",
        false,
    ),
    ("CREATE TEMP TABLE a (); SELECT pg_advisory_lock(1)", true),
    ("DROP TABLE a", true),
    ("SELECT pg_advisory_unlock(1)", false),
    ("PREPARE lock AS SELECT pg_advisory_lock(1)", false),
    ("EXECUTE lock", true),
    ("SELECT pg_advisory_unlock(1)", false),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_back_once_nothing_is_left_on_it() {
    let cluster = unsharded(|configuration| {
        configuration.database = "pool: { size: 1, checkout_timeout: 20s }".into();
    })
    .start()
    .await;
    let server = cluster.shard(0).primary();
    // somebody else has this one, beside the pool
    let url = format!("postgresql://app:app@127.0.0.1:{}/shop", server.port());
    let (beside, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    beside
        .batch_execute("SELECT pg_advisory_lock(4711)")
        .await
        .unwrap();

    let (client, other) = (cluster.connect("app").await, cluster.connect("app").await);
    let pid = one(&other, PID).await;
    for (index, (sql, stays)) in STEPS.iter().enumerate() {
        // each statement of a block by itself, as drivers send them
        let parts = if sql.starts_with("BEGIN") {
            sql.split("; ").collect()
        } else {
            vec![*sql]
        };
        for part in parts {
            let done = client.simple_query(part).await;
            assert_eq!(done.is_err(), part.contains("1/0"), "{sql}: {done:?}");
        }
        // its server was asked by now, if it was to be
        one(&client, "SELECT 1").await;
        let pins = cluster.show("PINS", "reason").await;
        assert_eq!(pins.len(), usize::from(*stays), "{index}: {sql}: {pins:?}");
        if !*stays {
            assert_eq!(one(&other, PID).await, pid, "{index}: {sql}: closed");
        }
    }
    assert_eq!(cluster.show("PINS", "reason").await.len(), 0);
    assert_eq!(cluster.pool("opened").await, "1", "none was closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_sharded_database_names_mean_what_they_did_once_temporary_tables_are_gone() {
    let cluster = TestCluster::new().shop().start().await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("INSERT INTO users (id, name) VALUES (7, 'lasting')")
        .await
        .unwrap();
    for round in 0..3 {
        client
            .batch_execute("CREATE TEMP TABLE users (id bigint, name text)")
            .await
            .unwrap();
        let insert = format!("INSERT INTO users VALUES (7, 'passing {round}')");
        client.batch_execute(&insert).await.unwrap();
        let query = "SELECT name FROM users WHERE id = 7";
        assert_eq!(one(&client, query).await, format!("passing {round}"));
        assert_eq!(cluster.show("PINS", "shard").await, ["s0"]);
        client.batch_execute("DROP TABLE users").await.unwrap();
        assert_eq!(one(&client, query).await, "lasting");
        assert_eq!(cluster.show("PINS", "shard").await.len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_lock_is_lost_with_its_server_hears_of_it() {
    let cluster = unsharded(|_| {}).start().await;
    let client = cluster.connect("app").await;
    one(&client, "SELECT pg_advisory_lock(1)").await;
    let pid = one(&client, PID).await;
    let end = format!("SELECT pg_terminate_backend({pid})");
    cluster.shard(0).primary().sql(&end).await.unwrap();
    let begun = Instant::now();
    while !client.is_closed() {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_hear_of_the_numbers_that_they_have_drawn() {
    let cluster = unsharded(|configuration| {
        // one connection, and nobody keeps it for what it was asked
        configuration.database = "pool: { size: 1, max_pinned: 0 }".into();
    })
    .start()
    .await;
    let clients = [cluster.connect("app").await, cluster.connect("app").await];
    clients[0]
        .batch_execute("CREATE TABLE numbered (id serial, by int); CREATE TABLE bare (a int)")
        .await
        .unwrap();
    for round in 0..3 {
        for (index, client) in clients.iter().enumerate() {
            let error = refusal(client, "SELECT lastval()").await;
            assert_eq!(error.code().code(), "55000", "{round}: the other's");
            client.batch_execute("BEGIN").await.unwrap();
            let insert = format!("INSERT INTO numbered (by) VALUES ({index}) RETURNING id");
            let id = one(client, &insert).await;
            assert_eq!(one(client, "SELECT lastval()").await, id);
            let current = "SELECT currval(pg_get_serial_sequence('numbered', 'id'))";
            assert_eq!(one(client, current).await, id);
            client.batch_execute("COMMIT").await.unwrap();
        }
    }
}
