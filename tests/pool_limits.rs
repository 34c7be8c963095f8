//! Limits on server connections over several pools, and the reserve of one.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pgherd_tests::asking::{refusal, unsharded};
use pgherd_tests::{Cluster, TestCluster, sqlstate};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_secs(30);

/// One shard without sharding, a second entry to it, and users `app` and `pgherd`.
fn two_entries(database: &str, top: &str) -> TestCluster {
    unsharded(|configuration| {
        configuration.database = database.to_owned();
        configuration.databases = "other: { like: shop }".into();
        configuration.users = "
- { name: app, password: app }
- { name: pgherd, password: pgherd }"
            .into();
        configuration.top = top.to_owned();
    })
}

/// What pgherd keeps room for itself on the server of these.
const OWN: usize = 8;

async fn connect(cluster: &Cluster, user: &str, database: &str) -> Client {
    let url = cluster.url_to(user, user, database);
    cluster.try_connect(&url).await.unwrap()
}

/// Clients' connections on the server, by its own word.
async fn on_server(cluster: &Cluster) -> usize {
    let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgherd' AND backend_type = 'client backend'";
    cluster.on_each_primary(query).await[0].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_of_another_pool_makes_room() {
    let cluster = two_entries("", "max_server_connections: 9").start().await;
    for (user, database) in [
        ("app", "shop"),
        ("pgherd", "shop"),
        ("app", "other"),
        ("pgherd", "other"),
        ("app", "shop"),
    ] {
        let client = connect(&cluster, user, database).await;
        client.simple_query("SELECT 1").await.unwrap();
        assert_eq!(cluster.sum_of_pools("idle").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_pool_gives_its_connection_to_who_has_waited_longer_elsewhere() {
    let cluster = two_entries(
        "pool: { checkout_timeout: 20s }",
        "max_server_connections: 10",
    )
    .start()
    .await;
    let late = connect(&cluster, "pgherd", "other").await;
    let mut busy = Vec::new();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    for _ in 0..6 {
        let client = connect(&cluster, "app", "shop").await;
        let done = std::sync::Arc::clone(&done);
        busy.push(tokio::spawn(async move {
            // never a moment in which nobody waits for the pool's two
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                client.simple_query("SELECT pg_sleep(0.02)").await.unwrap();
            }
        }));
    }
    sleep(Duration::from_millis(200)).await;
    for _ in 0..5 {
        timeout(PATIENCE, late.simple_query("SELECT 1"))
            .await
            .unwrap()
            .unwrap();
        assert!(on_server(&cluster).await <= 3, "one may be on its way out");
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    for task in busy {
        timeout(PATIENCE, task).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_database_and_of_the_process_say_who_has_the_connections() {
    for (database, top, named) in [
        (
            "pool: { max_connections: 1, checkout_timeout: 300ms }",
            "",
            "pool: max_connections",
        ),
        (
            "pool: { checkout_timeout: 300ms }",
            "max_server_connections: 9",
            "all 9 connections of pgherd (max_server_connections) are taken: 1 of user \"app\" of database \"shop\" on s0a, 8 of pgherd itself",
        ),
    ] {
        let cluster = two_entries(database, top).start().await;
        let waiting = connect(&cluster, "pgherd", "shop").await;
        let holder = connect(&cluster, "app", "shop").await;
        holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
        let error = waiting.simple_query("SELECT 1").await.unwrap_err();
        assert_eq!(sqlstate(&error), "53300");
        let detail = error.as_db_error().unwrap().detail().unwrap().to_owned();
        assert!(detail.contains(named), "{detail}");
        assert!(
            detail.contains("1 of user \"app\" of database \"shop\" on s0a"),
            "{detail}"
        );
        holder.batch_execute("COMMIT").await.unwrap();
        waiting.simple_query("SELECT 1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reserve_is_opened_for_who_has_waited_and_goes_when_nobody_does() {
    let cluster = two_entries(
        "pool: { size: 1, reserve: 1, reserve_after: 200ms, checkout_timeout: 2s }",
        "",
    )
    .start()
    .await;
    let holder = connect(&cluster, "app", "shop").await;
    holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let second = connect(&cluster, "app", "shop").await;
    second.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let third = connect(&cluster, "app", "shop").await;
    let error = third.simple_query("SELECT 1").await.unwrap_err();
    assert_eq!(sqlstate(&error), "53300");
    second.batch_execute("COMMIT").await.unwrap();
    holder.batch_execute("COMMIT").await.unwrap();
    let begun = Instant::now();
    while cluster.sum_of_pools("idle").await + cluster.sum_of_pools("active").await > 1 {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_for_every_shard_get_their_turn_within_a_common_limit() {
    let cluster = TestCluster::new().shop().configure(|configuration| {
        configuration.database = "pool: { max_connections: 2, checkout_timeout: 30s }".into();
    });
    let cluster = cluster.start().await;
    let mut writers = Vec::new();
    for number in 0..6 {
        let client = cluster.connect("app").await;
        writers.push(tokio::spawn(async move {
            for round in 0..5 {
                let insert = format!("INSERT INTO countries VALUES ('{number}-{round}', 'x')");
                client.batch_execute(&insert).await.unwrap();
                let read = format!("SELECT name FROM users WHERE id = {}", number * 7 + round);
                client.batch_execute(&read).await.unwrap();
            }
        }));
    }
    for writer in writers {
        timeout(PATIENCE, writer).await.unwrap().unwrap();
    }
    let copies = cluster
        .on_each_primary("SELECT count(*) FROM countries")
        .await;
    assert_eq!(copies, ["30", "30"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_are_filled_before_anybody_asks_and_again_after_a_server_returned() {
    let cluster = two_entries("pool: { size: 9, min: 6 }", "").start().await;
    // two users, two entries
    for _ in 0..2 {
        let begun = Instant::now();
        while cluster.sum_of_pools("idle").await < 24 {
            assert!(begun.elapsed() < PATIENCE);
            sleep(Duration::from_millis(50)).await;
        }
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgherd'";
        cluster.shard(0).primary().sql(ended).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_limit_holds_over_entries_and_users_and_a_reload_changes_it() {
    let mut cluster = two_entries("pool: { checkout_timeout: 2s }", "")
        .configure(|configuration| configuration.server = format!("max_connections: {}", OWN + 2))
        .start()
        .await;
    // each login looks at the server
    let waiting = connect(&cluster, "pgherd", "shop").await;
    let late = connect(&cluster, "app", "other").await;
    let holders = [
        connect(&cluster, "app", "shop").await,
        connect(&cluster, "pgherd", "other").await,
    ];
    for holder in &holders {
        holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
    }
    let error = refusal(&waiting, "SELECT 1").await;
    assert_eq!(error.code().code(), "53300");
    let detail = error.detail().unwrap();
    for part in [
        "all 10 connections to server \"s0a\" (max_connections) are taken",
        "1 of user \"app\" of database \"shop\"",
        "8 of pgherd itself",
    ] {
        assert!(detail.contains(part), "{detail}");
    }
    let limit = r#"pgherd_server_connection_limit{of="server",name="s0a"}"#;
    let counted = r#"pgherd_server_connections_counted{of="server",name="s0a"}"#;
    assert_eq!(cluster.metric(limit).await, Some(10.0));
    assert_eq!(cluster.metric(counted).await, Some(10.0));
    // what is really there is within it
    let all = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgherd%'";
    let all: usize = cluster.on_each_primary(all).await[0].parse().unwrap();
    assert!((2..=10).contains(&all), "{all}");

    cluster
        .reload(|configuration| configuration.server = format!("max_connections: {}", OWN + 3))
        .await;
    waiting.batch_execute("BEGIN; SELECT 1").await.unwrap();
    assert_eq!(cluster.metric(limit).await, Some(11.0));
    cluster
        .reload(|configuration| {
            configuration.server.clear();
            configuration.top = format!("max_server_connections: {}", OWN + 1);
        })
        .await;
    assert_eq!(cluster.metric(limit).await, Some(0.0));
    // those beyond a smaller limit stay until they come back
    assert_eq!(refusal(&late, "SELECT 1").await.code().code(), "53300");
    for holder in holders.iter().chain([&waiting]) {
        holder.batch_execute("COMMIT").await.unwrap();
    }
    timeout(PATIENCE, late.simple_query("SELECT 1"))
        .await
        .unwrap()
        .unwrap();
}
