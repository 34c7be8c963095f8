//! The operator's console before a real herd: what it shows is true.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use pgherd_tests::{Cluster, TestCluster};
use tokio_postgres::{Client, SimpleQueryMessage};

/// The rows of a command, by column.
async fn rows(console: &Client, command: &str) -> Vec<HashMap<String, Option<String>>> {
    let messages = console
        .simple_query(command)
        .await
        .unwrap_or_else(|error| panic!("{command}: {error:?}"));
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                row.columns()
                    .iter()
                    .enumerate()
                    .map(|(index, column)| {
                        let value = row.get(index).map(str::to_owned);
                        (column.name().to_owned(), value)
                    })
                    .collect(),
            ),
            _ => None,
        })
        .collect()
}

/// As an exporter for PgBouncer connects.
async fn exporter(cluster: &Cluster) -> Client {
    let url = cluster.url_to("admin", "admin", "pgbouncer");
    let client = cluster.try_connect(&url).await.unwrap();
    client
        .batch_execute("SET extra_float_digits = 3")
        .await
        .unwrap();
    client
}

/// What exporters for PgBouncer ask for, and the numbers that they read.
const READ: &[(&str, &str, &[&str])] = &[
    (
        "SHOW STATS",
        "database",
        &[
            "total_xact_count",
            "total_query_count",
            "total_xact_time",
            "total_wait_time",
            "total_query_time",
            "total_received",
            "total_sent",
            "avg_query_count",
            "avg_query_time",
        ],
    ),
    (
        "SHOW STATS_TOTALS",
        "database",
        &[
            "server_assignment_count",
            "xact_count",
            "query_count",
            "bytes_received",
            "bytes_sent",
            "xact_time",
            "query_time",
            "wait_time",
            "client_parse_count",
            "server_parse_count",
            "bind_count",
        ],
    ),
    (
        "SHOW POOLS",
        "user",
        &[
            "cl_active",
            "cl_waiting",
            "cl_active_cancel_req",
            "cl_waiting_cancel_req",
            "sv_active",
            "sv_active_cancel",
            "sv_being_canceled",
            "sv_idle",
            "sv_used",
            "sv_tested",
            "sv_login",
            "maxwait",
            "maxwait_us",
        ],
    ),
    (
        "SHOW DATABASES",
        "database",
        &[
            "pool_size",
            "min_pool_size",
            "reserve_pool_size",
            "max_connections",
            "current_connections",
            "max_client_connections",
            "current_client_connections",
            "paused",
            "disabled",
        ],
    ),
    ("SHOW LISTS", "list", &["items"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_made_for_pgbouncer_finds_its_columns_by_name_and_type() {
    let cluster = TestCluster::new().replicas(1).shop().start().await;
    let console = exporter(&cluster).await;
    for (command, name, numbers) in READ {
        let shown = rows(&console, command).await;
        assert!(!shown.is_empty(), "{command} is empty");
        for row in &shown {
            assert!(row[*name].is_some(), "{command}: {row:?}");
            for column in *numbers {
                let value = row
                    .get(*column)
                    .unwrap_or_else(|| panic!("{command} has no {column}"));
                let value = value.as_deref().unwrap_or_default();
                assert!(value.parse::<i64>().is_ok(), "{command}.{column}: {row:?}");
            }
        }
        // the types that a driver is told
        let shown = console.query(*command, &[]).await.unwrap();
        for row in &shown {
            let _: &str = row.get(*name);
            for column in *numbers {
                let _: i64 = row.get(*column);
            }
        }
    }
    let config = rows(&console, "SHOW CONFIG").await;
    for (key, value) in [("max_client_conn", "10000"), ("max_user_connections", "0")] {
        let row = config
            .iter()
            .find(|row| row["key"].as_deref() == Some(key))
            .unwrap();
        assert_eq!(row["value"].as_deref(), Some(value));
    }
    // series are told apart by these
    let pools = rows(&console, "SHOW POOLS").await;
    let mut names: Vec<_> = pools
        .iter()
        .map(|row| (row["database"].clone(), row["user"].clone()))
        .collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "{pools:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_count_what_was_done() {
    let cluster = TestCluster::new().shards(1).shop().start().await;
    let console = cluster.console().await;
    let count = async || -> [i64; 4] {
        let shown = rows(&console, "SHOW STATS_TOTALS LIKE 'shop'").await;
        assert_eq!(shown.len(), 1);
        ["xact_count", "query_count", "bytes_sent", "query_time"]
            .map(|column| shown[0][column].as_ref().unwrap().parse().unwrap())
    };
    let client = cluster.connect("app").await;
    let before = count().await;
    for _ in 0..3 {
        client
            .simple_query("SELECT name FROM settings")
            .await
            .unwrap();
    }
    client.batch_execute("BEGIN").await.unwrap();
    for name in ["a", "b"] {
        let insert = format!("INSERT INTO settings VALUES ('{name}', repeat('x', 5000))");
        client.batch_execute(&insert).await.unwrap();
    }
    let in_block = count().await;
    assert_eq!(in_block[0], before[0] + 3, "the block has not ended");
    assert_eq!(in_block[1], before[1] + 5);
    client.batch_execute("COMMIT").await.unwrap();
    client
        .simple_query("SELECT value, pg_sleep(0.1) FROM settings LIMIT 1")
        .await
        .unwrap();
    client.simple_query("SELECT 1").await.unwrap();
    let after = count().await;
    assert_eq!(after[0], before[0] + 6, "three queries, a block, two more");
    assert!(after[2] >= before[2] + 5000, "{before:?} {after:?}");
    assert!(after[3] >= before[3] + 100_000, "{before:?} {after:?}");
    let averages = rows(&console, "SHOW STATS_AVERAGES LIKE 'shop'").await;
    let sent: i64 = averages[0]["bytes_sent"].as_ref().unwrap().parse().unwrap();
    assert!(sent > 0, "{averages:?}");
    let totals = rows(&console, "SHOW TOTALS LIKE 'total\\_xact\\_count'").await;
    assert_eq!(totals[0]["value"], Some(after[0].to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_their_server_connections_name_each_other() {
    let cluster = TestCluster::new().shop().start().await;
    let console = cluster.console().await;
    let client = cluster.connect("app").await;
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute("INSERT INTO users (id) VALUES (1)")
        .await
        .unwrap();
    let pid: String = {
        let shown = client.query_one("SELECT pg_backend_pid()", &[]).await;
        shown.unwrap().get::<_, i32>(0).to_string()
    };
    let clients = rows(&console, "SHOW CLIENTS LIKE 'app'").await;
    assert_eq!(clients.len(), 1, "{clients:?}");
    let client_row = &clients[0];
    assert_eq!(client_row["state"].as_deref(), Some("active"));
    assert_eq!(
        client_row["activity"].as_deref(),
        Some("idle in transaction")
    );
    let servers = rows(&console, "SHOW SERVERS").await;
    let held = servers
        .iter()
        .find(|row| row["remote_pid"].as_ref() == Some(&pid))
        .unwrap_or_else(|| panic!("no {pid} in {servers:?}"));
    assert_eq!(held["state"].as_deref(), Some("active"));
    assert_eq!(held["link"], client_row["ptr"]);
    assert_eq!(held["ptr"], client_row["link"]);
    client.batch_execute("COMMIT").await.unwrap();
    client.batch_execute("SELECT 1").await.unwrap();
    let pools = rows(&console, "SHOW POOLS LIKE 'shop'").await;
    assert_eq!(pools.len(), 1, "{pools:?}");
    assert_eq!(pools[0]["cl_active"].as_deref(), Some("1"));
    assert_eq!(pools[0]["sv_active"].as_deref(), Some("0"));
}
