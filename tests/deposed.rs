//! A primary that another has taken the place of: whatever it still says, nobody hears.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pgherd_tests::{Cluster, TestCluster, sqlstate};
use tokio_postgres::Client;

/// Some ten seconds of work, in which a backend does not look whether its postmaster lives.
const BUSY: &str =
    "(SELECT count(*) FROM generate_series(1, 10000) a, generate_series(1, 10000) b)::text";

/// How long pgherd may take to follow a promoted server.
const FOLLOWED: Duration = Duration::from_secs(20);

async fn cluster() -> Cluster {
    let cluster = TestCluster::new()
        .shards(1)
        .replicas(1)
        .configure(|configuration| configuration.sharding = String::new())
        .shop()
        .start()
        .await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("INSERT INTO settings VALUES ('a', '1')")
        .await
        .unwrap();
    cluster.wait_for_replay().await;
    cluster
}

/// Waits until writes go to the promoted server.
async fn follows(cluster: &Cluster) {
    let begun = Instant::now();
    loop {
        let fresh = cluster.connect("app").await;
        let update = "UPDATE settings SET value = value WHERE name = 'a'";
        match cluster.trace(&fresh, update).await {
            Ok(traced) if traced.servers == ["s0b"] => return,
            other => assert!(begun.elapsed() < FOLLOWED, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The client's session goes on, on the new primary.
async fn goes_on(client: &Client) {
    client.batch_execute("ROLLBACK").await.unwrap();
    let row = client
        .query_one("SELECT count(*) FROM settings", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 1, "nothing of what was lost");
    client
        .batch_execute("INSERT INTO settings VALUES ('b', '2')")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_outlives_its_postmaster_acknowledges_nothing() {
    let cluster = cluster().await;
    let client = cluster.connect("app").await;
    let late = format!("INSERT INTO settings VALUES ('late', {BUSY})");
    let begun = Instant::now();
    let (written, ()) = tokio::join!(client.batch_execute(&late), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.shard(0).primary().kill_postmaster();
        cluster.shard(0).promote("s0b").await.unwrap();
        follows(&cluster).await;
    });
    assert_eq!(
        sqlstate(&written.unwrap_err()),
        "08007",
        "after {:?}",
        begun.elapsed()
    );
    goes_on(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_on_a_frozen_primary_ends_once_another_reigns() {
    let cluster = cluster().await;
    let client = cluster.connect("app").await;
    for text in ["BEGIN", "INSERT INTO settings VALUES ('late', '3')"] {
        client.batch_execute(text).await.unwrap();
    }
    let old = cluster.shard(0).primary();
    let (slept, ()) = tokio::join!(client.batch_execute("SELECT pg_sleep(3600)"), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        old.freeze();
        cluster.shard(0).promote("s0b").await.unwrap();
        follows(&cluster).await;
    });
    assert_eq!(sqlstate(&slept.unwrap_err()), "40001");
    goes_on(&client).await;
    old.thaw();
}
