//! Writes without a block while the primary is killed and pgherd promotes a standby: what was acknowledged is there once, and nothing twice.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pgherd::herd::Durability;
use pgherd_tests::asking::{rows, unsharded};
use pgherd_tests::{Cluster, sqlstate};
use tokio_postgres::Client;

const CLIENTS: i32 = 4;
/// Until when writes must flow again.
const FLOWS: Duration = Duration::from_secs(60);

async fn cluster() -> Cluster {
    let cluster = unsharded(|configuration| {
        configuration.database = "failover: { mode: promote, sync: { acks: 1 } }".into();
    })
    .replicas(2)
    .servers(|herd| herd.durability(Durability::Durable))
    .start()
    .await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("CREATE TABLE written (client int, n int)")
        .await
        .unwrap();
    cluster.wait_for_replay().await;
    cluster
}

/// Inserts one row after the other until it is told to stop, every other client by simple queries. Returns those that were
/// acknowledged, and what was heard of others.
async fn write(
    client: Client,
    number: i32,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU32>,
) -> (Vec<i32>, Vec<(i32, String)>) {
    let text = "INSERT INTO written VALUES ($1, $2) RETURNING n";
    let prepared = client.prepare(text).await.unwrap();
    let (mut kept, mut others) = (Vec::new(), Vec::new());
    for n in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let result = if number % 2 == 0 {
            client
                .query(&prepared, &[&number, &n])
                .await
                .map(|rows| assert_eq!(rows[0].get::<_, i32>(0), n))
        } else {
            let text = format!("INSERT INTO written VALUES ({number}, {n})");
            client.batch_execute(&text).await
        };
        match result {
            Ok(()) => {
                kept.push(n);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => others.push((n, sqlstate(&error))),
        }
    }
    (kept, others)
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_over_a_failover_and_none_is_lost_or_done_twice() {
    let cluster = cluster().await;
    let console = cluster.console().await;
    let begun = Instant::now();
    loop {
        let said = rows(&console, "EXPLAIN FAILOVER SHARD s0").await;
        let is = |item: &str, value: &str| {
            said.iter().any(|row| {
                row["item"].as_deref() == Some(item) && row["value"].as_deref() == Some(value)
            })
        };
        if is("verdict", "well") && !is("would be promoted", "") {
            break;
        }
        assert!(begun.elapsed() < FLOWS, "{said:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster
        .shard(0)
        .primary()
        .wait_until("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'quorum'")
        .await
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU32::new(0));
    let mut writing = Vec::new();
    for number in 0..CLIENTS {
        let client = cluster.connect("app").await;
        let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        writing.push(tokio::spawn(write(client, number, stop, acknowledged)));
    }
    let mut wanted = 200;
    for round in 0..2 {
        let begun = Instant::now();
        while acknowledged.load(Ordering::Relaxed) < wanted {
            assert!(begun.elapsed() < FLOWS, "no writes in round {round}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if round == 0 {
            cluster.shard(0).primary().kill9();
            // those under way are not after it
            wanted = acknowledged.load(Ordering::Relaxed) + 200;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let client = cluster.connect("app").await;
    let mut there: BTreeMap<(i32, i32), i64> = BTreeMap::new();
    let text = "SELECT client, n, count(*) FROM written GROUP BY client, n";
    for row in client.query(text, &[]).await.unwrap() {
        there.insert((row.get(0), row.get(1)), row.get(2));
    }
    for (number, writer) in (0..).zip(writing) {
        let (kept, others) = writer.await.unwrap();
        println!("client {number}: {} acknowledged, {others:?}", kept.len());
        for n in kept {
            let rows = there.get(&(number, n));
            assert_eq!(rows, Some(&1), "client {number}, row {n}");
        }
        for (n, state) in others {
            assert_eq!(state, "08007", "client {number}, row {n}");
            assert!(there.get(&(number, n)).is_none_or(|rows| *rows == 1));
        }
    }
}
