//! The operator's console before a real herd: what it shows is true.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pgherd_tests::asking::rows;
use pgherd_tests::{Cluster, TestCluster, sqlstate};
use tokio_postgres::Client;

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

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

/// The SQLSTATE that a command is refused with.
async fn refused(console: &Client, command: &str) -> String {
    match console.simple_query(command).await {
        Ok(messages) => panic!("{command}: {messages:?}"),
        Err(error) => sqlstate(&error),
    }
}

/// Waits until a row of a command has a value.
async fn wait_for(console: &Client, command: &str, column: &str, value: &str) {
    let begun = Instant::now();
    loop {
        let shown = rows(console, command).await;
        if shown
            .iter()
            .any(|row| row[column].as_deref() == Some(value))
        {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{command}: {shown:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Connections of clients' pools that a shard's server has.
async fn server_connections(cluster: &Cluster) -> String {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND backend_type = 'client backend' AND application_name <> 'pgherd listening'";
    let rows = cluster.shard(0).primary().sql(sql).await.unwrap();
    rows[0][0].clone().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_lets_transactions_end_and_queries_wait_until_resume() {
    let cluster = TestCluster::new()
        .shards(1)
        .configure(|configuration| {
            configuration.database = "pool: { checkout_timeout: 300ms }".into()
        })
        .shop()
        .start()
        .await;
    let console = cluster.console().await;
    let busy = cluster.connect("app").await;
    busy.batch_execute("BEGIN; INSERT INTO settings VALUES ('a', 'b')")
        .await
        .unwrap();
    let pausing = {
        let console = cluster.console().await;
        tokio::spawn(async move { console.batch_execute("PAUSE shop").await })
    };
    wait_for(&console, "SHOW DATABASES LIKE 'shop'", "paused", "1").await;
    let waiting = {
        let client = cluster.connect("app").await;
        tokio::spawn(async move { client.simple_query("SELECT name FROM settings").await })
    };
    wait_for(&console, "SHOW POOLS LIKE 'shop'", "cl_waiting", "1").await;
    assert!(!pausing.is_finished(), "a transaction is open");
    busy.batch_execute("COMMIT").await.unwrap();
    pausing.await.unwrap().unwrap();
    let begun = Instant::now();
    while server_connections(&cluster).await != "0" {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        rows(&console, "SHOW STATE LIKE 'paused'").await[0]["value"].as_deref(),
        Some("yes")
    );
    // longer than anybody may wait for a connection otherwise
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    assert_eq!(refused(&console, "PAUSE shop").await, "55000");
    console.batch_execute("RESUME shop").await.unwrap();
    let rows_seen = waiting.await.unwrap().unwrap();
    assert!(format!("{rows_seen:?}").contains('a'), "{rows_seen:?}");
    assert_eq!(refused(&console, "RESUME").await, "55000");
    assert_eq!(refused(&console, "PAUSE nowhere").await, "3D000");
    busy.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_is_cancelled_is_taken_back() {
    let cluster = TestCluster::new().shards(1).shop().start().await;
    let console = cluster.console().await;
    let busy = cluster.connect("app").await;
    busy.batch_execute("BEGIN; INSERT INTO settings VALUES ('a', 'b')")
        .await
        .unwrap();
    let operator = cluster.console().await;
    let token = operator.cancel_token();
    let pausing = tokio::spawn(async move { operator.batch_execute("PAUSE").await });
    wait_for(&console, "SHOW DATABASES", "paused", "1").await;
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let error = pausing.await.unwrap().unwrap_err();
    assert_eq!(sqlstate(&error), "57014");
    wait_for(&console, "SHOW DATABASES", "paused", "0").await;
    busy.batch_execute("COMMIT").await.unwrap();
    busy.simple_query("SELECT name FROM settings")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_pause_tells_psql_what_it_waits_for() {
    let cluster = TestCluster::new().shards(1).shop().start().await;
    let busy = cluster.connect("app").await;
    busy.batch_execute("BEGIN; INSERT INTO settings VALUES ('a', 'b')")
        .await
        .unwrap();
    let url = cluster.url_to("admin", "admin", "pgherd");
    let psql = tokio::spawn(async move {
        let mut psql = tokio::process::Command::new("psql");
        psql.arg(url).args(["-X", "-c", "PAUSE"]);
        psql.env("PGCONNECT_TIMEOUT", "10").output().await.unwrap()
    });
    let console = cluster.console().await;
    wait_for(&console, "SHOW DATABASES", "paused", "1").await;
    busy.batch_execute("COMMIT").await.unwrap();
    let output = psql.await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("NOTICE:  waiting for 1 server connections that clients have"),
        "{output:?}"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "PAUSE\n");
    let log = cluster.product_log();
    let line = log.lines().find(|line| line.contains("command=\"PAUSE\""));
    let line = line.unwrap_or_else(|| panic!("who paused? {log}"));
    assert!(
        line.contains("user=\"admin\"") && line.contains("127.0.0.1:"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnect_takes_other_connections_and_wait_close_waits_for_the_old_ones() {
    let cluster = TestCluster::new().shards(1).shop().start().await;
    let console = cluster.console().await;
    let client = cluster.connect("app").await;
    let pid = async || -> i32 {
        let row = client
            .query_one(
                "SELECT pg_backend_pid() FROM settings RIGHT JOIN (VALUES (1)) v ON true",
                &[],
            )
            .await;
        row.unwrap().get(0)
    };
    let before = pid().await;
    assert_eq!(pid().await, before);
    console.batch_execute("RECONNECT shop").await.unwrap();
    console.batch_execute("WAIT_CLOSE shop").await.unwrap();
    let after = pid().await;
    assert_ne!(after, before);
    client
        .batch_execute("BEGIN; INSERT INTO settings VALUES ('a', 'b')")
        .await
        .unwrap();
    console.batch_execute("RECONNECT").await.unwrap();
    let waiting = {
        let console = cluster.console().await;
        tokio::spawn(async move { console.batch_execute("WAIT_CLOSE").await })
    };
    wait_for(&console, "SHOW CLIENTS LIKE 'admin'", "activity", "active").await;
    assert!(!waiting.is_finished());
    client.batch_execute("COMMIT").await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_ne!(pid().await, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_database_lets_nobody_new_in() {
    let cluster = TestCluster::new().shop().start().await;
    let console = cluster.console().await;
    let before = cluster.connect("app").await;
    console.batch_execute("DISABLE shop").await.unwrap();
    let error = cluster.try_connect(&cluster.url("app")).await.unwrap_err();
    assert_eq!(sqlstate(&error), "55000");
    before.simple_query("SELECT 1").await.unwrap();
    wait_for(&console, "SHOW DATABASES", "disabled", "1").await;
    console.batch_execute("ENABLE shop").await.unwrap();
    cluster.connect("app").await;
    assert_eq!(refused(&console, "DISABLE").await, "42601");
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_says_what_it_did_and_set_changes_the_level_of_the_log() {
    let mut cluster = TestCluster::new().shop().start().await;
    let console = cluster.console().await;
    let size = async |console: &Client| {
        let key = "SHOW CONFIG LIKE 'databases.shop.pool.size'";
        rows(console, key).await[0]["value"].clone().unwrap()
    };
    assert_ne!(size(&console).await, "3");
    cluster.rewrite(|configuration| {
        configuration.database = "pool: { size: 3 }\nfailover: { silent_after: 20s }".into();
    });
    console.batch_execute("RELOAD").await.unwrap();
    assert_eq!(size(&console).await, "3");
    let restart = "failover of database \"shop\" changed: that takes effect with a restart";
    cluster.wait_for_log(0, restart).await;
    let silent_after = "SHOW CONFIG LIKE '%.failover.silent_after'";
    let silent_after = rows(&console, silent_after).await;
    assert_eq!(silent_after[0]["value"].as_deref(), Some("8s"));
    std::fs::write(cluster.configuration_path(), "listen: [nonsense").unwrap();
    assert_eq!(refused(&console, "RELOAD").await, "F0000");
    assert_eq!(size(&console).await, "3");

    console
        .batch_execute("SET log_level = 'info,pgherd_pool=debug'")
        .await
        .unwrap();
    let level = rows(&console, "SHOW CONFIG LIKE 'telemetry.log.level'").await;
    assert_eq!(level[0]["value"].as_deref(), Some("info,pgherd_pool=debug"));
    console.batch_execute("RECONNECT").await.unwrap();
    let client = cluster.connect("app").await;
    client
        .simple_query("SELECT name FROM settings")
        .await
        .unwrap();
    cluster.wait_for_log(0, "opened a server connection").await;
    assert_eq!(refused(&console, "SET log_level = 'a=b=c'").await, "22023");
    assert_eq!(
        refused(&console, "SET listen.max_clients = 3").await,
        "55P02"
    );
    assert_eq!(refused(&console, "SET nonsense = 3").await, "42704");
    console
        .batch_execute("SET client_encoding TO 'UTF8'; SET TIME ZONE 'UTC'; RESET ALL")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_looks_and_changes_nothing() {
    let cluster = TestCluster::new().shop().start().await;
    let url = cluster.url_to("watcher", "watcher", "pgherd");
    let monitor = cluster.try_connect(&url).await.unwrap();
    for command in ["SHOW POOLS", "SHOW CONFIG", "SHOW HELP"] {
        assert!(!rows(&monitor, command).await.is_empty());
    }
    let users = rows(&monitor, "SHOW USERS LIKE 'watcher'").await;
    assert_eq!(users[0]["current_client_connections"].as_deref(), Some("1"));
    monitor
        .batch_execute("SET extra_float_digits = 3")
        .await
        .unwrap();
    for command in [
        "PAUSE",
        "RESUME",
        "RECONNECT",
        "DISABLE shop",
        "RELOAD",
        "SHUTDOWN",
        "SET log_level = 'debug'",
    ] {
        assert_eq!(refused(&monitor, command).await, "42501", "{command}");
        let error = monitor.execute(command, &[]).await.unwrap_err();
        assert_eq!(sqlstate(&error), "42501", "{command}");
    }
    let databases = rows(&monitor, "SHOW DATABASES LIKE 'shop'").await;
    assert_eq!(databases[0]["paused"].as_deref(), Some("0"));
    cluster.connect("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_waits_for_what_it_is_told_to() {
    // for transactions
    let mut cluster = TestCluster::new().shop().start().await;
    let console = cluster.console().await;
    let busy = cluster.connect("app").await;
    let idle = cluster.connect("app").await;
    busy.batch_execute("BEGIN; INSERT INTO users (id) VALUES (1)")
        .await
        .unwrap();
    console
        .batch_execute("SHUTDOWN WAIT_FOR_SERVERS")
        .await
        .unwrap();
    wait_for(&console, "SHOW STATE LIKE 'draining'", "value", "yes").await;
    let begun = Instant::now();
    while !idle.is_closed() {
        assert!(begun.elapsed() < PATIENCE, "an idle client stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    busy.batch_execute("COMMIT").await.unwrap();
    let status = cluster.product().wait(PATIENCE).await;
    assert_eq!(status.code(), Some(0));

    // for clients
    cluster.restart_product().await;
    let console = cluster.console().await;
    let client = cluster.connect("app").await;
    console
        .batch_execute("SHUTDOWN WAIT_FOR_CLIENTS")
        .await
        .unwrap();
    let begun = Instant::now();
    while cluster.try_connect(&cluster.url("app")).await.is_ok() {
        assert!(begun.elapsed() < PATIENCE, "somebody new is let in");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.simple_query("SELECT 1").await.unwrap();
    assert_eq!(cluster.product().ended(), None);
    drop(client);
    cluster.product().wait(PATIENCE).await;

    // for nobody
    cluster.restart_product().await;
    let console = cluster.console().await;
    let client = cluster.connect("app").await;
    client.batch_execute("BEGIN").await.unwrap();
    drop(console.batch_execute("SHUTDOWN").await);
    cluster.product().wait(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_client_ends_one_client_and_rolls_its_transaction_back() {
    let cluster = TestCluster::new().shards(1).shop().start().await;
    let console = cluster.console().await;
    let id_of = async |client: &Client| -> String {
        let mine = rows(client, "SELECT pg_backend_pid() AS pid").await;
        let pid = mine[0]["pid"].clone().unwrap();
        let servers = rows(&console, "SHOW SERVERS").await;
        let held = servers
            .iter()
            .find(|row| row["remote_pid"].as_ref() == Some(&pid))
            .unwrap();
        let link = held["link"].clone().unwrap();
        link.strip_prefix("client/").unwrap().to_owned()
    };
    // in a block
    let client = cluster.connect("app").await;
    client.batch_execute("BEGIN").await.unwrap();
    client
        .batch_execute("INSERT INTO settings VALUES ('a', 'b')")
        .await
        .unwrap();
    let id = id_of(&client).await;
    let other = cluster.connect("app").await;
    let killed = format!("KILL_CLIENT {id}");
    console.batch_execute(&killed).await.unwrap();
    let begun = Instant::now();
    while !client.is_closed() {
        assert!(begun.elapsed() < PATIENCE, "it stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(rows(&other, "SELECT * FROM settings").await.len(), 0);
    wait_for(&console, "SHOW POOLS LIKE 'shop'", "cl_active", "1").await;
    assert_eq!(refused(&console, &killed).await, "42704");
    assert_eq!(refused(&console, "KILL_CLIENT all").await, "22023");
    // in the middle of a query
    let id = {
        other.batch_execute("BEGIN").await.unwrap();
        id_of(&other).await
    };
    let running = tokio::spawn(async move { other.simple_query("SELECT pg_sleep(60)").await });
    wait_for(&console, "SHOW CLIENTS LIKE 'app'", "activity", "active").await;
    console
        .batch_execute(&format!("KILL_CLIENT {id}"))
        .await
        .unwrap();
    running.await.unwrap().unwrap_err();
    let sql = "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid())";
    cluster.shard(0).primary().wait_until(sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_ends_the_clients_of_a_database_and_pauses_it() {
    let cluster = TestCluster::new().shards(1).shop().start().await;
    let console = cluster.console().await;
    let busy = cluster.connect("app").await;
    let idle = cluster.connect("app").await;
    let running = tokio::spawn(async move { busy.simple_query("SELECT pg_sleep(60)").await });
    wait_for(&console, "SHOW CLIENTS LIKE 'app'", "activity", "active").await;
    console.batch_execute("KILL shop").await.unwrap();
    running.await.unwrap().unwrap_err();
    let begun = Instant::now();
    while !idle.is_closed() {
        assert!(begun.elapsed() < PATIENCE, "it stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server_connections(&cluster).await, "0");
    let shown = rows(&console, "SHOW DATABASES LIKE 'shop'").await;
    assert_eq!(shown[0]["paused"].as_deref(), Some("1"));
    console.batch_execute("RESUME shop").await.unwrap();
    let client = cluster.connect("app").await;
    client.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_leave_a_server_that_is_drained() {
    let cluster = TestCluster::new()
        .shards(1)
        .replicas(2)
        .shop()
        .start()
        .await;
    let console = cluster.console().await;
    let servers = async || -> Vec<String> {
        let mut seen = Vec::new();
        for _ in 0..6 {
            let client = cluster.connect("app").await;
            let read = "SELECT count(*) FROM settings";
            seen.extend(cluster.trace(&client, read).await.unwrap().servers);
        }
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    assert_eq!(servers().await, ["s0b", "s0c"]);
    console.batch_execute("DRAIN SERVER s0b").await.unwrap();
    assert_eq!(servers().await, ["s0c"]);
    let shards = rows(&console, "SHOW SHARDS").await;
    for row in shards {
        let is_drained = row["server"].as_deref() == Some("s0b");
        assert_eq!(row["drained"].as_deref() == Some("t"), is_drained);
    }
    console.batch_execute("DRAIN SERVER s0c").await.unwrap();
    assert_eq!(servers().await, ["s0a"], "the primary is left");
    assert_eq!(refused(&console, "DRAIN SERVER s0a").await, "55000");
    assert_eq!(refused(&console, "DRAIN SERVER s9").await, "42704");
    for server in ["s0b", "s0c"] {
        let undrain = format!("UNDRAIN SERVER {server}");
        console.batch_execute(&undrain).await.unwrap();
    }
    assert_eq!(servers().await, ["s0b", "s0c"]);
}
