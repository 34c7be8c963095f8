//! When a server connection goes back to its pool: modes session and statement, by database and by user.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pgherd_tests::asking::{PID, one, unsharded};
use pgherd_tests::{TestCluster, sqlstate};
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_secs(20);

/// One shard without sharding, and `pool` as it is written.
fn plain(pool: &str) -> TestCluster {
    unsharded(|configuration| configuration.database = pool.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_mode_session_keeps_its_connection_and_the_next_gets_it_reset() {
    let cluster = plain("pool: { mode: session, size: 1, checkout_timeout: 1s }")
        .start()
        .await;
    cluster.wait_for_pool("idle", "1").await;
    let first = cluster.connect("app").await;
    let pid = one(&first, PID).await;
    first
        .batch_execute(
            "CREATE TEMP TABLE kept (a int); SET work_mem = '77kB'; PREPARE p AS SELECT 1",
        )
        .await
        .unwrap();
    first.batch_execute("LISTEN news").await.unwrap();
    one(&first, "SELECT pg_advisory_lock(7)").await;
    one(&first, "SELECT set_config('my.setting', 'left', false)").await;
    assert_eq!(one(&first, PID).await, pid);
    assert_eq!(one(&first, "SHOW work_mem").await, "77kB");
    // nobody else gets it meanwhile
    let second = cluster.connect("app").await;
    let error = second.simple_query("SELECT 1").await.unwrap_err();
    assert_eq!(sqlstate(&error), "53300");

    first
        .batch_execute("BEGIN; CREATE TEMP TABLE open ()")
        .await
        .unwrap();
    drop(first);
    cluster.wait_for_pool("idle", "1").await;
    assert_eq!(one(&second, PID).await, pid, "it was not closed");
    assert_eq!(one(&second, "SHOW work_mem").await, "4MB");
    for left in [
        "SELECT count(*) FROM pg_class WHERE relname IN ('kept', 'open') AND relpersistence = 't'",
        "SELECT count(*) FROM pg_prepared_statements",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        "SELECT count(*) FROM pg_listening_channels()",
    ] {
        assert_eq!(one(&second, left).await, "0", "{left}");
    }
    let setting = one(
        &second,
        "SELECT coalesce(current_setting('my.setting', true), '')",
    )
    .await;
    assert_eq!(setting, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_in_mode_session_go_where_the_writes_go() {
    let cluster = plain("pool: { mode: session }").replicas(1).start().await;
    let client = cluster.connect("app").await;
    for _ in 0..4 {
        assert_eq!(one(&client, "SELECT pg_is_in_recovery()").await, "f");
    }
    client
        .batch_execute("CREATE TABLE t (a int)")
        .await
        .unwrap();
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_mode_session_ends_with_its_server_connection() {
    let cluster = plain("pool: { mode: session }").start().await;
    for begin in ["", "BEGIN"] {
        let client = cluster.connect("app").await;
        client.batch_execute(begin).await.unwrap();
        let pid = one(&client, PID).await;
        let server = cluster.shard(0).primary();
        server
            .sql(&format!("SELECT pg_terminate_backend({pid})"))
            .await
            .unwrap();
        let mut fatal = None;
        let begun = Instant::now();
        while !client.is_closed() {
            assert!(begun.elapsed() < PATIENCE);
            match client.simple_query("SELECT 1").await {
                Err(error) => fatal = error.code().map(|code| code.code().to_owned()).or(fatal),
                Ok(_) => sleep(Duration::from_millis(10)).await,
            }
        }
        // the message can come between two requests, when the driver keeps it for itself
        assert!(
            fatal.as_deref().is_none_or(|code| code == "57P01"),
            "{fatal:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mode_statement_refuses_blocks_that_would_stay_open() {
    let cluster = plain("pool: { mode: statement, size: 1 }").start().await;
    let (client, other) = (cluster.connect("app").await, cluster.connect("app").await);
    client
        .batch_execute("CREATE TABLE t (a int)")
        .await
        .unwrap();
    for opens in [
        "BEGIN",
        "START TRANSACTION READ ONLY",
        "BEGIN; SELECT 1",
        "BEGIN; SELECT 1; COMMIT AND CHAIN",
        "SELECT 1; COMMIT; BEGIN",
    ] {
        let error = client.batch_execute(opens).await.unwrap_err();
        assert_eq!(sqlstate(&error), "0A000", "{opens}");
        let error = error.as_db_error().unwrap();
        assert!(error.detail().is_some() && error.hint().is_some());
    }
    let begin = client.prepare("BEGIN").await.unwrap();
    let error = client.execute(&begin, &[]).await.unwrap_err();
    assert_eq!(sqlstate(&error), "0A000");

    client
        .batch_execute("BEGIN; INSERT INTO t VALUES (1); COMMIT")
        .await
        .unwrap();
    client
        .batch_execute("BEGIN; INSERT INTO t VALUES (2); ROLLBACK")
        .await
        .unwrap();
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, "1");
    // a block that failed within its string holds no server
    let error = client
        .batch_execute("BEGIN; SELECT 1/0; COMMIT")
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&error), "22012");
    assert_eq!(one(&other, "SELECT count(*) FROM t").await, "1");
    let error = client.simple_query("SELECT 1").await.unwrap_err();
    assert_eq!(sqlstate(&error), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_have_modes_and_sizes_of_their_own() {
    let cluster = plain("pool: { size: 5 }")
        .configure(|configuration| {
            configuration.users = "
- { name: app, password: app, pool: { mode: statement, size: 2 } }
- { name: pgherd, password: pgherd, pool: { mode: session, size: 3, min: 1 } }"
                .into();
        })
        .start()
        .await;
    let app = cluster.connect("app").await;
    let error = app.batch_execute("BEGIN").await.unwrap_err();
    assert_eq!(sqlstate(&error), "0A000");
    assert_eq!(cluster.pool("size").await, "2");
    assert_eq!(cluster.pool("mode").await, "statement");
    let kept = cluster.connect("pgherd").await;
    kept.batch_execute("BEGIN; COMMIT").await.unwrap();
    let reasons = cluster.show("PINS", "reason").await;
    assert_eq!(reasons, ["mode session"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_query_is_in_force_on_each_connection_whoever_had_it_before() {
    for mode in ["session", "transaction"] {
        let cluster = plain(&format!(
            "pool: {{ mode: {mode}, size: 1, connect_query: \"SET work_mem = '123kB'; SET statement_timeout = '77s'\" }}"
        ))
        .start()
        .await;
        let url = format!("{}?options=-c%20work_mem%3D99kB", cluster.url("app"));
        let asking = cluster.try_connect(&url).await.unwrap();
        assert_eq!(one(&asking, "SHOW work_mem").await, "99kB");
        assert_eq!(one(&asking, "SHOW statement_timeout").await, "77s");
        let pid = one(&asking, PID).await;
        drop(asking);
        cluster.wait_for_pool("idle", "1").await;
        let other = cluster.connect("app").await;
        assert_eq!(one(&other, PID).await, pid, "{mode}");
        assert_eq!(one(&other, "SHOW work_mem").await, "123kB", "{mode}");
        assert_eq!(one(&other, "SHOW statement_timeout").await, "77s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_query_that_fails_closes_the_connection_and_says_why() {
    for (query, code) in [("SELECT 1/0", "22012"), ("BEGIN", "25001")] {
        let cluster = plain(&format!("pool: {{ connect_query: \"{query}\" }}"))
            .start_unready()
            .await;
        let url = cluster.url("app");
        let begun = Instant::now();
        loop {
            let error = cluster.try_connect(&url).await.unwrap_err();
            if error.code().is_some_and(|is| is.code() == code) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{error:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}
