//! Who is primary, how far each server is, and whether it can commit over shards: seen on real servers.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use pgherd_topology::{Epoch, Health, Lsn, NodeId, Role, Sharding, TwoPhase};
use support::{TestServer, ready, settings, until};

fn one_shard() -> Sharding {
    Sharding::unsharded("s0")
}

#[tokio::test]
async fn a_promoted_replica_is_followed_and_the_old_primary_never_again() {
    let primary = TestServer::start();
    let replica = primary.replica();
    let settings = settings(&[&[&primary, &replica]], one_shard());
    let state = settings.state.clone();
    let control = ready(settings).await;
    until(&control, "a replica", |topology| {
        topology.shards[0].replicas().count() == 1
    })
    .await;
    let seen = control.topology().borrow().clone();
    assert_eq!(
        (seen.shards[0].primary, seen.shards[0].epoch),
        (Some(NodeId(0)), Epoch(1))
    );
    assert_eq!(seen.shards[0].max_prepared_transactions, Some(20));

    primary.stop("immediate");
    let noticed = until(&control, "the primary is down", |topology| {
        topology.shards[0]
            .primary()
            .is_some_and(|primary| primary.health == Health::Down)
    })
    .await;
    assert!(noticed < Duration::from_secs(1), "{noticed:?}");

    replica.promote();
    let followed = until(&control, "the promoted one", |topology| {
        topology.shards[0].primary == Some(NodeId(1))
    })
    .await;
    assert!(followed < Duration::from_secs(2), "{followed:?}");
    assert_eq!(control.topology().borrow().shards[0].epoch, Epoch(2));

    primary.boot();
    until(&control, "the old one is up", |topology| {
        topology.shards[0].nodes[0].health == Health::Up
    })
    .await;
    let seen = control.topology().borrow().clone();
    assert_eq!(seen.shards[0].nodes[0].role, Role::Unknown);
    assert_eq!(seen.shards[0].primary, Some(NodeId(1)));

    // A later run knows it too, even with the right one gone.
    until(&control, "two-phase", |topology| {
        topology.shards[0].two_phase == TwoPhase::Ready
    })
    .await;
    control.shutdown().await;
    assert_eq!(
        state
            .reign("shop", "s0")
            .map(|reign| (reign.epoch, reign.timeline)),
        Some((2, 2))
    );
    replica.stop("immediate");
    let mut again = support::settings(&[&[&primary, &replica]], one_shard());
    again.state = state;
    let control = pgherd_control::Control::start(again);
    until(&control, "the old one is up", |topology| {
        topology.shards[0].nodes[0].health == Health::Up
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        control.topology().borrow().shards[0].nodes[0].role,
        Role::Unknown
    );
    control.shutdown().await;
}

#[tokio::test]
async fn samples_rise_come_often_and_cover_what_was_written_before_them() {
    let primary = TestServer::start();
    let replica = primary.replica();
    let control = ready(settings(&[&[&primary, &replica]], one_shard())).await;
    until(&control, "a replica", |topology| {
        topology.shards[0].replicas().count() == 1
    })
    .await;
    let topology = control.topology().borrow().clone();
    let [of_primary, of_replica] =
        [0, 1].map(|node| topology.shards[0].nodes[node].samples.clone());
    primary.sql("CREATE TABLE t (x int)").await;
    let client = primary.connect().await;
    for round in 0..20 {
        client
            .batch_execute(&format!("INSERT INTO t VALUES ({round})"))
            .await
            .unwrap();
        let lsn: String = primary.value("pg_current_wal_insert_lsn()").await.unwrap();
        let lsn: Lsn = lsn.parse().unwrap();
        let written = Instant::now();
        let sampled = loop {
            if let Some(sample) = of_primary.first_begun_after(written) {
                break sample;
            }
            assert!(
                written.elapsed() < Duration::from_secs(1),
                "no sample after a write"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        assert!(sampled.0 == Epoch(1) && sampled.1 >= lsn);
        // The replica gets there, and a reader would find the row.
        let waited = Instant::now();
        while of_replica
            .latest()
            .is_none_or(|sample| sample.lsn < sampled.1)
        {
            assert!(
                waited.elapsed() < Duration::from_secs(5),
                "the replica never got there"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(
            replica.value("SELECT max(x) FROM t").await,
            Some(round.to_string())
        );
    }
    let begun = of_primary.latest().unwrap().begun;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut moment = begun;
    let mut last = Lsn(0);
    let mut count = 0;
    while let Some((_, lsn)) = of_primary.first_begun_after(moment) {
        assert!(lsn >= last);
        (last, count, moment) = (lsn, count + 1, moment + Duration::from_millis(10));
    }
    assert!(count > 50, "{count}");
    control.shutdown().await;
}

#[tokio::test]
async fn lag_grows_while_replay_is_paused_and_stays_small_on_an_idle_primary() {
    let primary = TestServer::start();
    let replica = primary.replica();
    let control = ready(settings(&[&[&primary, &replica]], one_shard())).await;
    let lag =
        |control: &pgherd_control::Control| control.topology().borrow().shards[0].nodes[1].lag;
    until(&control, "a lag", |topology| {
        topology.shards[0].nodes[1].lag.is_some()
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        lag(&control).unwrap() < Duration::from_secs(1),
        "{:?}",
        lag(&control)
    );
    replica.sql("SELECT pg_wal_replay_pause()").await;
    primary.sql("CREATE TABLE t (x int)").await;
    until(&control, "a lag above 2 s", |topology| {
        topology.shards[0].nodes[1]
            .lag
            .is_some_and(|lag| lag > Duration::from_secs(2))
    })
    .await;
    replica.sql("SELECT pg_wal_replay_resume()").await;
    until(&control, "no lag", |topology| {
        topology.shards[0].nodes[1]
            .lag
            .is_some_and(|lag| lag < Duration::from_secs(1))
    })
    .await;
    control.shutdown().await;
}

#[tokio::test]
async fn the_commit_log_is_installed_once_and_clients_cannot_touch_it() {
    let server = TestServer::start();
    server.sql("CREATE ROLE app LOGIN").await;
    let (first, second) = tokio::join!(
        ready(settings(&[&[&server]], one_shard())),
        ready(settings(&[&[&server]], one_shard())),
    );
    for control in [&first, &second] {
        until(control, "two-phase", |topology| {
            topology.shards[0].two_phase == TwoPhase::Ready
        })
        .await;
    }
    let made = server
        .value("SELECT xmin FROM pg_class WHERE relname = 'commit_log'")
        .await;
    first.shutdown().await;
    second.shutdown().await;
    let third = ready(settings(&[&[&server]], one_shard())).await;
    until(&third, "two-phase", |topology| {
        topology.shards[0].two_phase == TwoPhase::Ready
    })
    .await;
    assert_eq!(
        server
            .value("SELECT xmin FROM pg_class WHERE relname = 'commit_log'")
            .await,
        made
    );
    let client = server.connect_as("app").await;
    for forbidden in [
        "SELECT * FROM pgherd.commit_log",
        "DELETE FROM pgherd.commit_log",
        "SELECT pgherd.require_secret('', '')",
        "CREATE TABLE pgherd.mine ()",
    ] {
        let error = client.batch_execute(forbidden).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42501", "{forbidden}");
    }
    third.shutdown().await;
}

#[tokio::test]
async fn where_two_phase_commit_is_impossible_the_reason_is_published() {
    let without = TestServer::with("max_prepared_transactions = 0");
    let control = ready(settings(&[&[&without]], one_shard())).await;
    let reason = |control: &pgherd_control::Control| match control.topology().borrow().shards[0]
        .two_phase
        .clone()
    {
        TwoPhase::Impossible(reason) => Some(reason),
        TwoPhase::Ready | TwoPhase::Unknown => None,
    };
    let impossible = |topology: &pgherd_topology::Topology| {
        matches!(topology.shards[0].two_phase, TwoPhase::Impossible(_))
    };
    until(&control, "a reason", impossible).await;
    assert!(
        reason(&control)
            .unwrap()
            .contains("max_prepared_transactions is 0")
    );
    control.shutdown().await;

    let server = TestServer::start();
    server
        .sql("CREATE ROLE control LOGIN; CREATE ROLE stranger")
        .await;
    let as_control = || {
        let mut settings = settings(&[&[&server]], one_shard());
        settings.login.user = "control".into();
        settings
    };
    let control = ready(as_control()).await;
    until(&control, "a reason", impossible).await;
    assert!(
        reason(&control).unwrap().contains("grant it CREATE"),
        "{:?}",
        reason(&control)
    );
    control.shutdown().await;

    server.sql("GRANT CREATE ON DATABASE postgres TO control; CREATE SCHEMA pgherd AUTHORIZATION stranger").await;
    let control = ready(as_control()).await;
    until(&control, "a reason", impossible).await;
    assert!(
        reason(&control).unwrap().contains("belong to stranger"),
        "{:?}",
        reason(&control)
    );
    control.shutdown().await;

    server.sql("DROP SCHEMA pgherd").await;
    let control = ready(as_control()).await;
    until(&control, "two-phase", |topology| {
        topology.shards[0].two_phase == TwoPhase::Ready
    })
    .await;
    control.shutdown().await;
}
