//! Failures of primaries under a load that writes: nothing that was acknowledged may be lost where replication is synchronous.
#![allow(clippy::unwrap_used)]

#[path = "failover/checker.rs"]
mod checker;
#[path = "failover/writers.rs"]
mod writers;

use std::time::{Duration, Instant};

use pgherd_tests::Cluster;
use pgherd_tests::asking::unsharded;

use crate::checker::{COLUMNS, Verdict};
use crate::writers::{TABLE, Writers};

async fn cluster() -> Cluster {
    let cluster = unsharded(|configuration| {
        configuration.users = "- { name: app, password: app, trust: 127.0.0.1 }".into();
    })
    .replicas(1)
    .start()
    .await;
    let client = cluster.connect("app").await;
    client.batch_execute(TABLE).await.unwrap();
    cluster.wait_for_replay().await;
    cluster
}

/// Kills the primary and promotes the standby by hand; returns what it has cost when writes flow again.
async fn killed_and_promoted(cluster: &Cluster, writers: Writers) -> Verdict {
    let shard = cluster.shard(0);
    let fault = Instant::now();
    shard.primary().kill9();
    shard.promote("s0b").await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let record = writers.stop().await;
    assert!(
        record.acknowledged.last().unwrap().at > fault,
        "no write after the promotion: {}",
        record.errors.last().unwrap()
    );
    Verdict::reach(record, shard.primary(), fault).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_on_an_asynchronous_shard_is_seen() {
    let cluster = cluster().await;
    let writers = Writers::start(&cluster.endpoint());
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.shard(0).primary().freeze_walsenders();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let verdict = killed_and_promoted(&cluster, writers).await;
    println!("{COLUMNS}\n{verdict}");
    assert!(!verdict.lost.is_empty(), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_on_a_synchronous_shard() {
    let cluster = cluster().await;
    let primary = cluster.shard(0).primary();
    for statement in [
        "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (s0b)'",
        "SELECT pg_reload_conf()",
    ] {
        primary.sql(statement).await.unwrap();
    }
    primary
        .wait_until("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'quorum'")
        .await
        .unwrap();
    let writers = Writers::start(&cluster.endpoint());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let verdict = killed_and_promoted(&cluster, writers).await;
    println!("{COLUMNS}\n{verdict}");
    assert!(
        verdict.acknowledged > 0 && verdict.lost.is_empty(),
        "{verdict:?}"
    );
}
