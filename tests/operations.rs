//! Running it: reload, drain, the console, the HTTP address.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgherd_tests::{TestCluster, sqlstate};
use tokio_postgres::SimpleQueryMessage;

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_lets_a_new_user_in_and_drops_nobody() {
    let mut cluster = TestCluster::new().shop().start().await;
    for shard in cluster.herd().shards() {
        shard
            .primary()
            .sql("CREATE ROLE late LOGIN PASSWORD 'late'")
            .await
            .unwrap();
    }
    let client = cluster.connect("app").await;
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute("INSERT INTO users (id) VALUES (1)")
        .await
        .unwrap();
    let late = cluster.url("late");
    let error = cluster.try_connect(&late).await.unwrap_err();
    assert_eq!(sqlstate(&error), "28P01");
    cluster.rewrite(|configuration| {
        configuration.users += "\n- { name: late, password: late }";
    });
    cluster.product().signal(Signal::SIGHUP);
    let begun = Instant::now();
    while let Err(error) = cluster.try_connect(&late).await {
        assert!(begun.elapsed() < Duration::from_secs(10), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.batch_execute("COMMIT").await.unwrap();
    let rows = client
        .query("SELECT id FROM users WHERE id = 1", &[])
        .await
        .unwrap();
    assert_eq!(rows.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_leaves_the_running_configuration_in_force() {
    let mut cluster = TestCluster::new().start().await;
    let before = cluster.product_log().len();
    std::fs::write(cluster.configuration_path(), "listen: [nonsense").unwrap();
    cluster.product().signal(Signal::SIGHUP);
    let begun = Instant::now();
    while !cluster.product_log()[before..].contains("pgherd.yaml") {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "the log does not say it: {}",
            &cluster.product_log()[before..]
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.connect("app").await;
    assert_eq!(cluster.product().ended(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_transactions_end_and_nobody_new_in() {
    let mut cluster = TestCluster::new().shop().start().await;
    let busy = cluster.connect("app").await;
    let idle = cluster.connect("app").await;
    busy.batch_execute("BEGIN").await.unwrap();
    busy.batch_execute("INSERT INTO users (id) VALUES (1)")
        .await
        .unwrap();
    cluster.product().signal(Signal::SIGTERM);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let url = cluster.url("app");
    assert!(cluster.try_connect(&url).await.is_err());
    assert!(idle.simple_query("SELECT 1").await.is_err());
    assert_eq!(cluster.product().ended(), None, "one still works");
    busy.batch_execute("UPDATE users SET name = 'done' WHERE id = 1")
        .await
        .unwrap();
    busy.batch_execute("COMMIT").await.unwrap();
    let status = cluster.product().wait(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0));
    let done = cluster
        .on_each_primary("SELECT count(*) FROM users WHERE name = 'done'")
        .await;
    assert!(done.contains(&"1".to_owned()), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_ever() {
    let mut cluster = TestCluster::new()
        .shop()
        .configure(|configuration| configuration.listen = "drain_timeout: 1s".into())
        .start()
        .await;
    let busy = cluster.connect("app").await;
    busy.batch_execute("BEGIN").await.unwrap();
    busy.batch_execute("INSERT INTO users (id) VALUES (1)")
        .await
        .unwrap();
    cluster.product().signal(Signal::SIGTERM);
    cluster.product().wait(Duration::from_secs(10)).await;
    let counts = cluster.on_each_primary("SELECT count(*) FROM users").await;
    assert_eq!(counts, ["0", "0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_shows_servers_pools_clients_plans_tables_and_buckets() {
    let cluster = TestCluster::new().replicas(1).shop().start().await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("INSERT INTO users (id) VALUES (1)")
        .await
        .unwrap();
    let console = cluster.console().await;
    let show = async |what: &str| {
        let messages = console
            .simple_query(&format!("SHOW {what}"))
            .await
            .unwrap_or_else(|error| panic!("SHOW {what}: {error:?}"));
        messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(
                    (0..row.len())
                        .map(|column| row.get(column).unwrap_or("").to_owned())
                        .collect::<Vec<_>>(),
                ),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    let servers = show("SHARDS").await;
    for name in ["s0a", "s0b", "s1a", "s1b"] {
        assert!(
            servers
                .iter()
                .any(|row| row.iter().any(|cell| cell == name)),
            "{name} in {servers:?}"
        );
    }
    for what in [
        "VERSION", "SERVERS", "POOLS", "CLIENTS", "PLANS", "TABLES", "BUCKETS",
    ] {
        assert!(!show(what).await.is_empty(), "SHOW {what} is empty");
    }
    show("PINS").await;
    let tables = show("TABLES").await;
    assert!(
        tables
            .iter()
            .any(|row| row.iter().any(|cell| cell.contains("orders"))),
        "{tables:?}"
    );
    // an exporter made for PgBouncer finds it by that name
    let url = cluster.url_to("admin", "admin", "pgbouncer");
    cluster
        .try_connect(&url)
        .await
        .unwrap()
        .simple_query("SHOW VERSION")
        .await
        .unwrap();
    let url = cluster.url_to("admin", "wrong", "pgherd");
    let error = cluster.try_connect(&url).await.unwrap_err();
    assert_eq!(sqlstate(&error), "28P01");
    let url = cluster.url_to("app", "app", "pgherd");
    assert!(
        cluster.try_connect(&url).await.is_err(),
        "an application is no operator"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_served_over_http() {
    let cluster = TestCluster::new().shop().start().await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("INSERT INTO users (id) VALUES (1)")
        .await
        .unwrap();
    assert_eq!(cluster.http("/healthz").await.0, 200);
    assert_eq!(cluster.http("/readyz").await.0, 200);
    assert_eq!(cluster.http("/nothing").await.0, 404);
    let (status, metrics) = cluster.http("/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("pgherd_"), "{metrics}");
    for shard in cluster.herd().shards() {
        shard.primary().stop().await;
    }
    let begun = Instant::now();
    while cluster.http("/readyz").await.0 == 200 {
        assert!(begun.elapsed() < Duration::from_secs(15), "still ready");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(cluster.http("/healthz").await.0, 200);
}

/// The value of a metric, its labels given as they are rendered.
async fn metric(cluster: &pgherd_tests::Cluster, name: &str) -> f64 {
    let (_, text) = cluster.http("/metrics").await;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_clients_and_waits_for_connections_are_counted() {
    let cluster = TestCluster::new().shop().start().await;
    let came_in = "pgherd_client_bytes_total{database=\"shop\",direction=\"in\"}";
    let went_out = "pgherd_client_bytes_total{database=\"shop\",direction=\"out\"}";
    let before = (
        metric(&cluster, came_in).await,
        metric(&cluster, went_out).await,
    );
    let client = cluster.connect("app").await;
    let text = "x".repeat(10_000);
    client
        .batch_execute(&format!("INSERT INTO settings VALUES ('a', '{text}')"))
        .await
        .unwrap();
    for _ in 0..3 {
        client
            .simple_query("SELECT value FROM settings")
            .await
            .unwrap();
    }
    let begun = Instant::now();
    loop {
        let now = (
            metric(&cluster, came_in).await,
            metric(&cluster, went_out).await,
        );
        // the answer to the last request is counted with the next one, or when the client leaves
        if now.0 >= before.0 + 10_000.0 && now.1 >= before.1 + 20_000.0 {
            assert!(now.0 < before.0 + 20_000.0, "{before:?} {now:?}");
            assert!(now.1 < before.1 + 40_000.0, "{before:?} {now:?}");
            break;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{before:?} {now:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let waits = metric(
        &cluster,
        "pgherd_checkout_wait_seconds_count{database=\"shop\"}",
    )
    .await;
    assert!(
        waits >= 1.0,
        "the first connection had to be opened: {waits}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_restarts_is_found_again() {
    let cluster = TestCluster::new().shop().start().await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("INSERT INTO settings VALUES ('a', 'b')")
        .await
        .unwrap();
    cluster.shard(0).primary().stop().await;
    cluster.shard(0).primary().start().await.unwrap();
    let begun = Instant::now();
    loop {
        match client
            .batch_execute("UPDATE settings SET value = 'c'")
            .await
        {
            Ok(()) => break,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(15), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_others_promote_is_followed() {
    let cluster = TestCluster::new()
        .shards(1)
        .replicas(1)
        .shop()
        .start()
        .await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("INSERT INTO settings VALUES ('a', 'b')")
        .await
        .unwrap();
    cluster.wait_for_replay().await;
    cluster.shard(0).primary().kill9();
    cluster.shard(0).promote("s0b").await.unwrap();
    let begun = Instant::now();
    loop {
        let fresh = cluster.connect("app").await;
        match cluster
            .trace(&fresh, "UPDATE settings SET value = 'c'")
            .await
        {
            Ok(traced) => {
                assert_eq!(traced.servers, ["s0b"]);
                break;
            }
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(15), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_within_a_block_leaves_the_block_its_rules() {
    let mut cluster = TestCluster::new().shop().start().await;
    let client = cluster.connect("app").await;
    let other = cluster.connect("app").await;
    let write = |name: &str| format!("INSERT INTO settings VALUES ('{name}', 'x')");
    for statement in ["BEGIN", &write("a")] {
        client.batch_execute(statement).await.unwrap();
    }
    cluster.rewrite(|configuration| {
        configuration.sharding = configuration
            .sharding
            .replace("currencies]", "currencies, settings]");
    });
    cluster.product().signal(Signal::SIGHUP);
    let begun = Instant::now();
    // the other shard has no such table: as a reference table it is refused
    loop {
        let text = format!("INSERT INTO settings VALUES ('b{:?}', '')", begun.elapsed());
        let heard = other.batch_execute(&text).await;
        if heard.is_err_and(|error| sqlstate(&error) == "0A000") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "no reload");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for statement in [&write("c"), "COMMIT"] {
        client.batch_execute(statement).await.expect(statement);
    }
    let refused = client.batch_execute(&write("d")).await.unwrap_err();
    assert_eq!(sqlstate(&refused), "0A000", "{refused:?}");
    let rows = cluster
        .shard(0)
        .primary()
        .sql("SELECT string_agg(name, ',' ORDER BY name) FROM settings WHERE name IN ('a', 'c', 'd')")
        .await
        .unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("a,c"));
}
