//! A primary that another has taken the place of: whatever it still says, nobody hears.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgherd_tests::asking::{Row, rows};
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

/// What the console says would come of a failover of the shard.
async fn explained(cluster: &Cluster) -> HashMap<String, String> {
    let console = cluster.console().await;
    let rows = rows(&console, "EXPLAIN FAILOVER SHARD s0").await;
    let pairs = rows.into_iter().filter_map(|mut row| {
        let value = |column: &str, row: &mut Row| row.remove(column).flatten();
        Some((value("item", &mut row)?, value("value", &mut row)?))
    });
    pairs.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_explains_what_would_come_of_a_failover() {
    let cluster = cluster().await;
    let value =
        |rows: &HashMap<String, String>, item: &str| rows.get(item).cloned().unwrap_or_default();
    let begun = Instant::now();
    let well = loop {
        let rows = explained(&cluster).await;
        if value(&rows, "verdict") == "well" && value(&rows, "would be promoted") == "s0b" {
            break rows;
        }
        assert!(begun.elapsed() < FOLLOWED, "{rows:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(value(&well, "shard"), "shop.s0");
    assert!(
        value(&well, "primary").starts_with("s0a, epoch "),
        "{well:?}"
    );
    assert!(
        value(&well, "server s0b").starts_with("streams, timeline 1, has "),
        "{well:?}"
    );
    cluster.shard(0).primary().kill9();
    loop {
        let rows = explained(&cluster).await;
        if value(&rows, "verdict").starts_with("dead: it refuses connections") {
            assert_eq!(value(&rows, "would be promoted"), "s0b", "{rows:?}");
            break;
        }
        assert!(begun.elapsed() < 2 * FOLLOWED, "{rows:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let unknown = cluster.console().await;
    let unknown = unknown.simple_query("EXPLAIN FAILOVER SHARD s9").await;
    assert_eq!(sqlstate(&unknown.unwrap_err()), "42704");
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
