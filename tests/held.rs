//! What clients see while a shard's primary is gone and another takes its place: work that has not begun waits, what certainly did not run
//! is run again, and nothing that was acknowledged is lost where standbys acknowledge it too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgherd_tests::{Cluster, TestCluster, sqlstate};
use tokio_postgres::Client;

/// The shop on one shard of a primary and a replica.
fn two_servers(database: &str) -> TestCluster {
    let database = database.to_owned();
    TestCluster::new()
        .shards(1)
        .replicas(1)
        .configure(|configuration| {
            configuration.sharding = String::new();
            configuration.database = database;
        })
        .shop()
}

async fn promote_after(cluster: &Cluster, pause: Duration) {
    tokio::time::sleep(pause).await;
    cluster.shard(0).promote("s0b").await.unwrap();
}

async fn count(client: &Client, condition: &str) -> i64 {
    let text = format!("SELECT count(*) FROM settings WHERE {condition}");
    client.query_one(&text, &[]).await.unwrap().get(0)
}

/// Ends what runs a statement with this text on the primary, once it does.
async fn terminate(cluster: &Cluster, text: &str) {
    let primary = cluster.shard(0).primary();
    let found = format!(
        "FROM pg_stat_activity WHERE query LIKE '%{text}%' AND state = 'active' AND pid <> pg_backend_pid()"
    );
    primary
        .wait_until(&format!("SELECT 1 {found}"))
        .await
        .unwrap();
    primary
        .sql(&format!("SELECT pg_terminate_backend(pid) {found}"))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_begun_waits_for_the_next_primary() {
    let cluster = two_servers("").start().await;
    let writer = cluster.connect("app").await;
    let block = cluster.connect("app").await;
    let reached = cluster.connect("app").await;
    let reader = cluster.connect("app").await;
    block.batch_execute("BEGIN").await.unwrap();
    for text in ["BEGIN", "INSERT INTO settings VALUES ('lost', '0')"] {
        reached.batch_execute(text).await.unwrap();
    }
    cluster.shard(0).primary().kill9();
    let late = async {
        block
            .batch_execute("INSERT INTO settings VALUES ('block', '2')")
            .await?;
        block.batch_execute("COMMIT").await
    };
    let locking = "SELECT name FROM settings FOR UPDATE";
    let (written, committed, read, ()) = tokio::join!(
        writer.batch_execute("INSERT INTO settings VALUES ('writer', '1')"),
        late,
        reader.batch_execute(locking),
        promote_after(&cluster, Duration::from_secs(1))
    );
    written.unwrap();
    committed.unwrap();
    read.unwrap();
    // what its server had begun is gone with it, and the client goes on
    let error = reached.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(sqlstate(&error), "40001");
    let error = reached.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(sqlstate(&error), "25P02");
    reached.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(count(&reached, "name IN ('writer', 'block')").await, 2);
    assert_eq!(count(&reached, "name = 'lost'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_longer_than_the_hold_window() {
    let cluster = two_servers("failover: { hold: 1s }\npool: { checkout_timeout: 200ms }")
        .start()
        .await;
    let client = cluster.connect("app").await;
    let canceller = cluster.connect("app").await;
    cluster.shard(0).primary().kill9();
    let write = "INSERT INTO settings VALUES ('a', '1')";
    let error = client.batch_execute(write).await.unwrap_err();
    assert_eq!(sqlstate(&error), "57P03", "{error:?}");
    let token = canceller.cancel_token();
    let (written, ()) = tokio::join!(canceller.batch_execute(write), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    });
    assert_eq!(sqlstate(&written.unwrap_err()), "57014");
    cluster.shard(0).promote("s0b").await.unwrap();
    let begun = std::time::Instant::now();
    while let Err(error) = client.batch_execute(write).await {
        assert_eq!(sqlstate(&error), "57P03");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_session_was_ended_runs_again_once() {
    let cluster = two_servers("").start().await;
    let client = cluster.connect("app").await;
    let write = "INSERT INTO settings SELECT 'again', pg_sleep(2)::text";
    let (written, ()) = tokio::join!(client.batch_execute(write), terminate(&cluster, "again"));
    written.unwrap();
    let client = cluster.connect("app").await;
    let write = "INSERT INTO settings SELECT $1, pg_sleep(2)::text";
    let (written, ()) = tokio::join!(
        client.execute(write, &[&"prepared"]),
        terminate(&cluster, "SELECT $1, pg_sleep")
    );
    assert_eq!(written.unwrap(), 1);
    assert_eq!(count(&client, "name IN ('again', 'prepared')").await, 2);
    // what may have committed in its midst is not
    let block = "DO 'BEGIN INSERT INTO settings VALUES (''do''); COMMIT; PERFORM pg_sleep(5); END'";
    let (done, ()) = tokio::join!(
        client.batch_execute(block),
        terminate(&cluster, "COMMIT; PERFORM")
    );
    assert_eq!(sqlstate(&done.unwrap_err()), "08007");
    assert_eq!(count(&client, "name = 'do'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_server_nothing_is_held() {
    let cluster = TestCluster::new()
        .shards(1)
        .configure(|configuration| configuration.sharding = String::new())
        .shop()
        .start()
        .await;
    let client = cluster.connect("app").await;
    let write = "INSERT INTO settings SELECT 'again', pg_sleep(5)::text";
    let (written, ()) = tokio::join!(client.batch_execute(write), terminate(&cluster, "again"));
    assert_eq!(sqlstate(&written.unwrap_err()), "40001");
    cluster.shard(0).primary().kill9();
    let error = client.batch_execute(write).await.unwrap_err();
    assert_ne!(sqlstate(&error), "57P03", "{error:?}");
}

/// What a writer heard of the rows that it wrote one by one.
#[derive(Default)]
struct Heard {
    acknowledged: BTreeSet<i64>,
    errors: Vec<String>,
}

async fn write_on(client: Client, writer: i64, stop: Arc<AtomicBool>) -> Heard {
    let mut heard = Heard::default();
    let mut row = writer * 1_000_000;
    while !stop.load(Ordering::Relaxed) {
        row += 1;
        let write = format!("INSERT INTO users VALUES ({row})");
        match client.batch_execute(&write).await {
            Ok(()) => {
                heard.acknowledged.insert(row);
            }
            Err(error) => heard.errors.push(sqlstate(&error)),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_hear_of_nothing_but_what_was_under_way_and_keep_what_was_acknowledged() {
    const WRITERS: i64 = 8;
    let cluster = two_servers("failover: { sync: { acks: 1 } }")
        .servers(|herd| herd.setting("synchronous_commit", "off"))
        .start()
        .await;
    let old = cluster.shard(0).primary();
    for text in [
        "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'",
        "SELECT pg_reload_conf()",
    ] {
        old.sql(text).await.unwrap();
    }
    old.wait_until("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'quorum'")
        .await
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = cluster.connect("app").await;
        writers.push(tokio::spawn(write_on(client, writer, Arc::clone(&stop))));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    old.kill9();
    promote_after(&cluster, Duration::from_secs(1)).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    stop.store(true, Ordering::Relaxed);
    let promoted = cluster.shard(0).primary();
    let mut acknowledged = BTreeSet::new();
    for writer in writers {
        let heard = writer.await.unwrap();
        assert!(heard.errors.len() <= 1, "{:?}", heard.errors);
        assert!(
            heard.errors.iter().all(|code| code == "08007"),
            "{:?}",
            heard.errors
        );
        acknowledged.extend(heard.acknowledged);
    }
    let rows = promoted.sql("SELECT id FROM users").await.unwrap();
    let rows: BTreeSet<i64> = rows
        .into_iter()
        .filter_map(|row| row[0].as_deref()?.parse().ok())
        .collect();
    let lost: Vec<_> = acknowledged.difference(&rows).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(
        promoted.sql("SELECT pg_is_in_recovery()").await.unwrap()[0][0].as_deref() == Some("f")
    );
}
