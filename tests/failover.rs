//! Failures of primaries under a load that writes: nothing that was acknowledged may be lost where replication is synchronous.
//!
//! The first two tests promote by hand, and show that a loss would be seen. In the others pgherd promotes; `make chaos` runs the whole list of
//! [`scenarios::ALL`], or those of `FAULTS=1,3,21`, and those that can be repeated `REPEAT` times.
#![allow(clippy::unwrap_used)]

#[path = "failover/checker.rs"]
mod checker;
#[path = "failover/scenarios.rs"]
mod scenarios;
#[path = "failover/scene.rs"]
mod scene;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_loses_power_is_replaced_and_nothing_acknowledged_is_lost() {
    println!("{COLUMNS}\n{}", scenarios::killed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_primary_that_comes_back_takes_no_writes_until_it_rejoins() {
    println!("{COLUMNS}\n{}", scenarios::returned_and_rejoined().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn planned_changes_of_the_primary_lose_nothing_and_the_old_one_rejoins() {
    println!("{COLUMNS}\n{}", scenarios::orders::switched_over(2).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs in make chaos"]
async fn no_fault_of_the_list_loses_what_was_acknowledged_or_makes_two_primaries() {
    let numbers = std::env::var("FAULTS").ok().map(|text| {
        let numbers = text.split(',').map(|number| number.trim().parse().unwrap());
        numbers.collect::<Vec<u32>>()
    });
    let repeat = std::env::var("REPEAT").map_or(1, |text| text.parse().unwrap());
    let failed = scenarios::run(numbers.as_deref(), repeat).await;
    assert!(failed.is_empty(), "{failed:?}");
}
