//! A client sees its own writes on any replica, however far behind that is, and never reads backwards.
#![allow(clippy::unwrap_used)]

use pgherd_tests::{Cluster, TestCluster};
use tokio_postgres::Client;

async fn count(client: &Client) -> i64 {
    client
        .query_one("SELECT count(*) FROM settings", &[])
        .await
        .unwrap()
        .get(0)
}

async fn with_paused_replay(change: &str) -> Cluster {
    let reads = change.to_owned();
    let cluster = TestCluster::new()
        .shards(2)
        .replicas(1)
        .configure(|configuration| configuration.database = reads)
        .shop()
        .start()
        .await;
    for shard in cluster.herd().shards() {
        shard.replica().pause_replay().await.unwrap();
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_reads_its_own_write_though_replay_is_paused() {
    let cluster = with_paused_replay("reads: { from: replicas, consistency: session }").await;
    let client = cluster.connect("app").await;
    for n in 1..=5 {
        client
            .batch_execute(&format!("INSERT INTO settings VALUES ('k{n}', 'v')"))
            .await
            .unwrap();
        assert_eq!(count(&client).await, n);
    }
    // who has not written may read what the replica has
    let stranger = cluster.connect("app").await;
    assert_eq!(count(&stranger).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_carries_what_was_seen_to_another_connection() {
    let cluster = with_paused_replay("reads: { from: replicas, consistency: session }").await;
    let writer = cluster.connect("app").await;
    writer
        .batch_execute("INSERT INTO settings VALUES ('k', 'v')")
        .await
        .unwrap();
    let rows = writer.simple_query("SHOW pgherd.token").await.unwrap();
    let token = rows
        .iter()
        .find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .unwrap();
    let reader = cluster.connect("app").await;
    assert_eq!(count(&reader).await, 0);
    reader
        .batch_execute(&format!("SET pgherd.token = '{token}'"))
        .await
        .unwrap();
    assert_eq!(count(&reader).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_serves_the_writer_again_once_it_has_replayed() {
    let cluster = with_paused_replay("reads: { from: replicas, consistency: session }").await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("INSERT INTO settings VALUES ('k', 'v')")
        .await
        .unwrap();
    let behind = cluster
        .trace(&client, "SELECT value FROM settings")
        .await
        .unwrap();
    assert_eq!(behind.rows, [["v"]]);
    assert_eq!(behind.servers, ["s0a"]);
    for shard in cluster.herd().shards() {
        shard.replica().resume_replay().await.unwrap();
    }
    cluster.wait_for_replay().await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let caught_up = cluster
        .trace(&client, "SELECT value FROM settings")
        .await
        .unwrap();
    assert_eq!(caught_up.rows, [["v"]]);
    assert_eq!(caught_up.servers, ["s0b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn eventual_reads_take_what_the_replica_has() {
    let cluster = with_paused_replay("reads: { from: replicas, consistency: eventual }").await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("INSERT INTO settings VALUES ('k', 'v')")
        .await
        .unwrap();
    assert_eq!(count(&client).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_behind_the_lag_limit_is_not_read_from() {
    let cluster =
        with_paused_replay("reads: { from: replicas, consistency: eventual, max_lag: 1s }").await;
    let writer = cluster.connect("app").await;
    writer
        .batch_execute("INSERT INTO settings VALUES ('k', 'v')")
        .await
        .unwrap();
    let reader = cluster.connect("app").await;
    let begun = std::time::Instant::now();
    loop {
        if count(&reader).await == 1 {
            break;
        }
        assert!(
            begun.elapsed().as_secs() < 15,
            "the replica is still read from"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_never_go_backwards_from_a_fresh_replica_to_a_stale_one() {
    let cluster = TestCluster::new()
        .shards(1)
        .replicas(2)
        .configure(|configuration| configuration.sharding.clear())
        .start()
        .await;
    let writer = cluster.connect("app").await;
    writer
        .batch_execute("CREATE TABLE settings (name text, value text)")
        .await
        .unwrap();
    cluster.wait_for_replay().await;
    cluster
        .herd()
        .server("s0c")
        .unwrap()
        .pause_replay()
        .await
        .unwrap();
    let reader = cluster.connect("app").await;
    let mut seen = 0;
    for n in 0..40 {
        writer
            .batch_execute(&format!("INSERT INTO settings VALUES ('k{n}', 'v')"))
            .await
            .unwrap();
        let now = count(&reader).await;
        assert!(now >= seen, "read {now} after {seen}");
        seen = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_dies_is_left_out_and_comes_back() {
    let cluster = TestCluster::new()
        .shards(2)
        .replicas(1)
        .shop()
        .start()
        .await;
    let client = cluster.connect("app").await;
    let replica = cluster.shard(0).replica();
    replica.kill9();
    let begun = std::time::Instant::now();
    // outside a block a read that met the dead one may fail once, within the time it takes to notice
    loop {
        match cluster.trace(&client, "SELECT value FROM settings").await {
            Ok(traced) if traced.servers == ["s0a"] => break,
            other => assert!(begun.elapsed().as_secs() < 5, "{other:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    replica.start().await.unwrap();
    loop {
        let fresh = cluster.connect("app").await;
        let traced = cluster
            .trace(&fresh, "SELECT value FROM settings")
            .await
            .unwrap();
        if traced.servers == ["s0b"] {
            break;
        }
        assert!(
            begun.elapsed().as_secs() < 20,
            "it is never read from again"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
