//! A read that its replica cannot finish is done on the primary, as long as nothing of it was handed to the client.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use pgherd_tests::wire::{RawClient, query};
use pgherd_tests::{Cluster, TestCluster, sqlstate};

/// Long enough to be met in the middle.
const LONG: &str = "FROM settings, generate_series(1, 4000000) n";

async fn cluster() -> Cluster {
    let cluster = TestCluster::new()
        .shards(1)
        .replicas(1)
        .servers(|herd| {
            herd.setting("max_standby_streaming_delay", "0")
                .setting("hot_standby_feedback", "off")
        })
        .configure(|configuration| {
            configuration.sharding = String::new();
            configuration.users = "- { name: app, password: app, trust: 127.0.0.1 }".into();
            configuration.database = "reads: { from: replicas, consistency: eventual }".into();
        })
        .shop()
        .start()
        .await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("INSERT INTO settings VALUES ('a', '1'), ('b', '2')")
        .await
        .unwrap();
    cluster.wait_for_replay().await;
    cluster
}

/// Removes rows that a query on the replica may still see.
async fn conflict(cluster: &Cluster) {
    let primary = cluster.shard(0).primary();
    primary
        .sql("DELETE FROM settings WHERE name = 'b'")
        .await
        .unwrap();
    primary.sql("VACUUM settings").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_turns_out_to_write_is_done_on_the_primary() {
    let cluster = cluster().await;
    let client = cluster.connect("app").await;
    client
        .batch_execute(
            "CREATE FUNCTION writes() RETURNS text LANGUAGE plpgsql VOLATILE AS \
             'BEGIN INSERT INTO settings VALUES (''c'', ''3''); RETURN ''done''; END';
             CREATE FUNCTION pretends() RETURNS text LANGUAGE plpgsql STABLE AS \
             'BEGIN RETURN writes(); END'",
        )
        .await
        .unwrap();
    cluster.wait_for_replay().await;
    // the planner trusts no function of a user's: the client says that it reads
    let statement = "/* pgherd: role=replica */ SELECT pretends() AS once";
    let row = client.query_one(statement, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "done");
    let servers = cluster.ran_on("AS once");
    assert_eq!(servers, ["s0a", "s0b"], "the replica was tried");
    // by a simple query too, of another client: what such a function leaves keeps its caller on that server
    let client = cluster.connect("app").await;
    client
        .batch_execute("DELETE FROM settings WHERE name = 'c'")
        .await
        .unwrap();
    cluster.wait_for_replay().await;
    client
        .batch_execute("/* pgherd: role=replica */ SELECT pretends() AS twice")
        .await
        .unwrap();
    assert_eq!(cluster.ran_on("AS twice"), ["s0a", "s0b"]);
    // in a block the client has to know
    client.batch_execute("BEGIN READ ONLY").await.unwrap();
    let error = client.batch_execute("SELECT pretends()").await.unwrap_err();
    assert_eq!(sqlstate(&error), "25006");
    client.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_conflicts_with_recovery_is_done_on_the_primary() {
    let cluster = cluster().await;
    let client = cluster.connect("app").await;
    let statement = format!("SELECT count(*) {LONG}");
    let (traced, ()) = tokio::join!(cluster.trace(&client, &statement), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        conflict(&cluster).await;
    });
    let traced = traced.unwrap();
    assert_eq!(traced.rows, [["4000000"]], "as of the primary");
    assert_eq!(traced.servers, ["s0a", "s0b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_rows_were_handed_over_is_not_done_twice() {
    let cluster = cluster().await;
    let mut client = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    // a result that no buffer on the way holds
    client
        .send(&query(
            "SELECT name, generate_series(1, 1000000), repeat('x', 20) FROM settings",
        ))
        .await;
    while client.message().await.unwrap().tag != b'D' {}
    conflict(&cluster).await;
    let answers = client.until_ready().await;
    let error = answers.iter().find(|answer| answer.tag == b'E').unwrap();
    assert_eq!(error.field(b'C').as_deref(), Some("40001"));
    assert_eq!(cluster.ran_on("repeat('x', 20)"), ["s0b"]);
    let answers = client.query("SELECT 1").await;
    assert!(answers.iter().all(|answer| answer.tag != b'E'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_goes_on_when_its_replica_is_killed() {
    let cluster = cluster().await;
    let client = cluster.connect("app").await;
    let statement = format!("SELECT count(*) {LONG}");
    let (traced, ()) = tokio::join!(cluster.trace(&client, &statement), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.shard(0).replica().kill9();
    });
    let traced = traced.unwrap();
    assert_eq!(traced.rows, [["8000000"]]);
    assert_eq!(traced.servers, ["s0a", "s0b"]);
    // and so do those that come after it
    let rows = client
        .query("SELECT name FROM settings", &[])
        .await
        .unwrap();
    assert_eq!(rows.len(), 2);
}
