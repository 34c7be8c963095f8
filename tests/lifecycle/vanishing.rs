//! Clients that close their socket, or are killed, while something is asked for them.

use std::time::Duration;

use pgherd_tests::wire::{RawClient, copy_data, query};
use pgherd_tests::{Cluster, TestCluster};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::{TRUSTED, unsharded};

/// Far less than the statements of vanished clients would take.
const SOON: Duration = Duration::from_secs(30);

const PIDS: &str = "SELECT pid::text FROM pg_stat_activity \
    WHERE usename = 'app' AND backend_type = 'client backend' ORDER BY 1";

async fn pool_of(size: usize) -> Cluster {
    unsharded(|configuration| configuration.database = format!("pool: {{ size: {size} }}"))
        .start()
        .await
}

async fn pids(cluster: &Cluster) -> Vec<Option<String>> {
    let rows = cluster.shard(0).primary().sql(PIDS).await.unwrap();
    rows.into_iter().flatten().collect()
}

/// Waits until so many of the endpoint's connections are in that state of pg_stat_activity.
async fn wait_for(cluster: &Cluster, count: usize, state: &str) {
    let counted = format!(
        "SELECT 1 FROM pg_stat_activity WHERE usename = 'app' AND state = '{state}' \
         HAVING count(*) = {count}"
    );
    cluster
        .shard(0)
        .primary()
        .wait_until(&counted)
        .await
        .unwrap();
}

async fn asks(cluster: &Cluster, sql: &str) -> RawClient {
    let mut client = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    client.send(&query(sql)).await;
    client
}

async fn value(cluster: &Cluster, sql: &str) -> String {
    let client = cluster.connect("app").await;
    let asked = client.simple_query(sql);
    let messages = timeout(SOON, asked)
        .await
        .expect("no slot stays taken")
        .unwrap();
    messages
        .iter()
        .find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn vanished_clients_do_not_keep_a_pool_full_and_their_connections_serve_on() {
    let cluster = pool_of(3).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(asks(&cluster, "SELECT pg_sleep(600)").await);
    }
    wait_for(&cluster, 3, "active").await;
    let before = pids(&cluster).await;
    drop(clients);
    assert_eq!(value(&cluster, "SELECT 1").await, "1");
    wait_for(&cluster, 3, "idle").await;
    assert_eq!(pids(&cluster).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_psql_is_noticed() {
    let cluster = pool_of(1).await;
    let mut psql = std::process::Command::new("psql")
        .arg(cluster.url("app"))
        .args(["-X", "-c", "SELECT pg_sleep(600)"])
        .spawn()
        .unwrap();
    wait_for(&cluster, 1, "active").await;
    psql.kill().unwrap();
    psql.wait().unwrap();
    assert_eq!(value(&cluster, "SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vanished_client_began_is_rolled_back() {
    let cluster = pool_of(1).await;
    value(&cluster, "CREATE TABLE t (a int); SELECT 1").await;
    for (sql, state) in [
        (
            "BEGIN; INSERT INTO t VALUES (1); SELECT pg_sleep(600)",
            "active",
        ),
        ("BEGIN; INSERT INTO t VALUES (2)", "idle in transaction"),
        (
            "BEGIN; INSERT INTO t VALUES (3); SELECT 1 / 0",
            "idle in transaction (aborted)",
        ),
    ] {
        let client = asks(&cluster, sql).await;
        wait_for(&cluster, 1, state).await;
        let before = pids(&cluster).await;
        drop(client);
        assert_eq!(
            value(&cluster, "SELECT count(*) FROM t").await,
            "0",
            "{sql}"
        );
        assert_eq!(pids(&cluster).await, before, "{sql}");
    }
    // what stays on the server is not for the next
    let client = asks(&cluster, "SELECT pg_advisory_lock(7); SELECT pg_sleep(600)").await;
    wait_for(&cluster, 1, "active").await;
    drop(client);
    let lock = "SELECT pg_try_advisory_lock(7)";
    cluster
        .shard(0)
        .primary()
        .wait_until("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' HAVING count(*) = 0")
        .await
        .unwrap();
    assert_eq!(value(&cluster, lock).await, "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_while_it_is_sent_a_large_result_is_noticed() {
    let cluster = pool_of(1).await;
    let rows = "SELECT repeat('x', 1000) FROM generate_series(1, 100000000)";
    let client = asks(&cluster, rows).await;
    // its answer fills all buffers on the way
    cluster
        .shard(0)
        .primary()
        .wait_until(
            "SELECT 1 FROM pg_stat_activity WHERE usename = 'app' AND wait_event = 'ClientWrite'",
        )
        .await
        .unwrap();
    drop(client);
    assert_eq!(value(&cluster, "SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_client_vanishes_keeps_nothing() {
    let cluster = pool_of(1).await;
    value(&cluster, "CREATE TABLE t (a int); SELECT 1").await;
    let mut client = asks(&cluster, "COPY t FROM STDIN").await;
    assert_eq!(client.message().await.unwrap().tag, b'G');
    let before = pids(&cluster).await;
    client.send(&copy_data("1\n2\n")).await;
    // and half a message
    client.send(&copy_data("3\n")[..6]).await;
    drop(client);
    assert_eq!(value(&cluster, "SELECT count(*) FROM t").await, "0");
    assert_eq!(pids(&cluster).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_from_the_queue_is_not_served() {
    let cluster = pool_of(1).await;
    value(&cluster, "CREATE TABLE t (a int); SELECT 1").await;
    let mut first = asks(&cluster, "SELECT pg_sleep(1)").await;
    wait_for(&cluster, 1, "active").await;
    let second = asks(&cluster, "INSERT INTO t VALUES (1)").await;
    let console = cluster.console().await;
    timeout(SOON, async {
        loop {
            let clients = console.simple_query("SHOW CLIENTS").await.unwrap();
            let states: Vec<_> = clients
                .iter()
                .filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get("state"),
                    _ => None,
                })
                .collect();
            if states.contains(&"waiting") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    drop(second);
    first.until_ready().await;
    assert_eq!(value(&cluster, "SELECT count(*) FROM t").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_ahead_is_kept_while_its_server_is_silent() {
    let cluster = pool_of(1).await;
    let mut client = asks(&cluster, "SELECT pg_sleep(0.5)").await;
    let long = "x".repeat(3000);
    for index in 0..100 {
        client
            .send(&query(&format!("SELECT '{index} {long}'")))
            .await;
    }
    client.until_ready().await;
    for index in 0..100 {
        let answer = client.until_ready().await;
        let row = answer.iter().find(|message| message.tag == b'D').unwrap();
        let text = String::from_utf8_lossy(&row.body[6..]).into_owned();
        assert_eq!(text, format!("{index} {long}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_only_ends_its_sending_half_reads_a_short_answer() {
    let cluster = pool_of(1).await;
    let mut client = asks(&cluster, "SELECT 'here' FROM pg_sleep(0.05)").await;
    client.stream().shutdown().await.unwrap();
    let answer = timeout(SOON, client.until_ready()).await.unwrap();
    let row = answer.iter().find(|message| message.tag == b'D').unwrap();
    assert_eq!(&row.body[6..], b"here");
    // a long one is cancelled
    let mut client = asks(&cluster, "SELECT pg_sleep(600)").await;
    client.stream().shutdown().await.unwrap();
    let answer = timeout(SOON, client.until_ready()).await.unwrap();
    let error = answer.iter().find(|message| message.tag == b'E').unwrap();
    assert_eq!(error.field(b'C').as_deref(), Some("57014"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_for_every_shard_is_taken_back_when_its_client_vanishes() {
    let cluster = TestCluster::new()
        .shop()
        .configure(|configuration| configuration.users = TRUSTED.into())
        .start()
        .await;
    let (locker, connection) = tokio_postgres::connect(
        &format!(
            "host=127.0.0.1 port={} user=app password=app dbname=shop",
            cluster.shard(1).primary().port()
        ),
        tokio_postgres::NoTls,
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    locker
        .batch_execute("BEGIN; LOCK TABLE users IN ACCESS SHARE MODE")
        .await
        .unwrap();
    let client = asks(&cluster, "ALTER TABLE users ADD COLUMN added int").await;
    let waits = "SELECT 1 FROM pg_locks WHERE NOT granted";
    cluster.shard(1).primary().wait_until(waits).await.unwrap();
    drop(client);
    let gone = format!("{waits} HAVING count(*) = 0");
    cluster.shard(1).primary().wait_until(&gone).await.unwrap();
    locker.batch_execute("COMMIT").await.unwrap();
    let columns = "SELECT count(*) FROM pg_attribute WHERE attname = 'added'";
    assert_eq!(cluster.on_each_primary(columns).await, ["0", "0"]);
    // and the connections serve on
    let client = cluster.connect("app").await;
    let add = "ALTER TABLE users ADD COLUMN added int";
    client.batch_execute(add).await.unwrap();
}
