//! Cancel requests: each reaches the request that it was sent for, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgherd_tests::wire::{Message, RawClient, cancel, parse, query, sync, unnamed};
use pgherd_tests::{Cluster, TestCluster};
use tokio::time::{sleep, timeout};

use crate::{TRUSTED, unsharded};

const SOON: Duration = Duration::from_secs(30);

async fn log_in(cluster: &Cluster) -> RawClient {
    RawClient::log_in(&cluster.endpoint(), "app", "shop").await
}

/// The SQLSTATE of an answer that holds an error.
fn failure(answer: &[Message]) -> Option<String> {
    let error = answer.iter().find(|message| message.tag == b'E')?;
    error.field(b'C')
}

async fn small() -> Cluster {
    unsharded(|configuration| configuration.database = "pool: { size: 1 }".into())
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_the_queue_is_told_that_its_statement_was_cancelled() {
    let cluster = small().await;
    let (mut first, mut second) = (log_in(&cluster).await, log_in(&cluster).await);
    first.send(&query("SELECT pg_sleep(600)")).await;
    let runs = "SELECT 1 FROM pg_stat_activity WHERE usename = 'app' AND state = 'active'";
    cluster.shard(0).primary().wait_until(runs).await.unwrap();
    second.send(&query("SELECT 2")).await;
    cancel(&cluster.endpoint(), &second.cancel_key()).await;
    let answer = timeout(SOON, second.until_ready()).await.unwrap();
    assert_eq!(answer[0].field(b'C').as_deref(), Some("57014"));
    assert_eq!(
        answer[0].field(b'M').as_deref(),
        Some("canceling statement due to user request")
    );
    // the other's runs on, until it is cancelled itself
    cancel(&cluster.endpoint(), &first.cancel_key()).await;
    let answer = timeout(SOON, first.until_ready()).await.unwrap();
    assert_eq!(failure(&answer).as_deref(), Some("57014"));
    assert_eq!(failure(&second.query("SELECT 2").await), None);
}

/// Cancels statements of one client that take from nothing to two milliseconds, while another shares its only connection. No statement
/// that was begun after a cancel request had ended may feel it.
async fn cancelled_at_any_moment(pinned: bool) {
    let cluster = small().await;
    let endpoint = cluster.endpoint();
    let mut client = log_in(&cluster).await;
    if pinned {
        // its connection stays with it
        client.query("CREATE TEMP TABLE own (a int)").await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let bystander = (!pinned).then(|| {
        let (endpoint, stop) = (endpoint.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut other = RawClient::log_in(&endpoint, "app", "shop").await;
            while !stop.load(Ordering::Relaxed) {
                let answer = other.query("SELECT 1 FROM pg_sleep(0.0005)").await;
                assert_eq!(failure(&answer), None);
            }
        })
    });
    let mut cancelled = 0;
    for round in 0..400_u32 {
        let length = round % 5 * 500;
        let sql = format!("SELECT pg_sleep(0.{length:06})");
        client.send(&query(&sql)).await;
        let (endpoint, key) = (endpoint.clone(), client.cancel_key());
        let cancelling = tokio::spawn(async move {
            sleep(Duration::from_micros(u64::from(round % 7 * 300))).await;
            cancel(&endpoint, &key).await;
        });
        let answer = timeout(SOON, client.until_ready()).await.unwrap();
        cancelled += u32::from(failure(&answer).is_some());
        timeout(SOON, cancelling).await.unwrap().unwrap();
        let next = client.query("SELECT 1 FROM pg_sleep(0.0005)").await;
        assert_eq!(failure(&next), None, "round {round}");
    }
    assert!(cancelled > 0, "no cancel request came in time");
    stop.store(true, Ordering::Relaxed);
    if let Some(bystander) = bystander {
        bystander.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cancel_request_hits_the_next_statement_or_another_client() {
    cancelled_at_any_moment(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cancel_request_hits_the_next_statement_on_a_connection_of_its_own() {
    cancelled_at_any_moment(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parse_that_was_cancelled_in_the_queue_has_prepared_nothing() {
    let cluster = small().await;
    let (mut first, mut second) = (log_in(&cluster).await, log_in(&cluster).await);
    first.send(&query("SELECT pg_sleep(600)")).await;
    let runs = "SELECT 1 FROM pg_stat_activity WHERE usename = 'app' AND state = 'active'";
    cluster.shard(0).primary().wait_until(runs).await.unwrap();
    let mut prepare = parse("s", "SELECT 2", &[]);
    prepare.extend_from_slice(&sync());
    second.send(&prepare).await;
    cancel(&cluster.endpoint(), &second.cancel_key()).await;
    let answer = timeout(SOON, second.until_ready()).await.unwrap();
    assert_eq!(failure(&answer).as_deref(), Some("57014"));
    cancel(&cluster.endpoint(), &first.cancel_key()).await;
    timeout(SOON, first.until_ready()).await.unwrap();
    second.send(&prepare).await;
    assert_eq!(failure(&second.until_ready().await), None);
}

/// It comes by another connection, and overtakes its statement on a busy machine: while that lies in the socket, waits for a connection, or is
/// being written to one.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_on_the_heels_of_its_statement_is_not_lost() {
    let cluster = unsharded(|configuration| configuration.database = "pool: { size: 6 }".into())
        .start()
        .await;
    let mut clients = Vec::new();
    for number in 0..24 {
        let mut client = log_in(&cluster).await;
        let endpoint = cluster.endpoint();
        clients.push(tokio::spawn(async move {
            for round in 0..25 {
                if number < 3 {
                    client.query("BEGIN").await;
                }
                let mut statement = query("SELECT pg_sleep(600)");
                if round % 2 == 1 {
                    statement = unnamed("SELECT pg_sleep(600)");
                    statement.extend_from_slice(&sync());
                }
                client.send(&statement).await;
                cancel(&endpoint, &client.cancel_key()).await;
                let answer = timeout(SOON, client.until_ready())
                    .await
                    .expect("it is cancelled");
                assert_eq!(failure(&answer).as_deref(), Some("57014"));
                if number < 3 {
                    client.query("ROLLBACK").await;
                }
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_statement_leaves_its_connection_to_others() {
    let cluster = small().await;
    let mut client = log_in(&cluster).await;
    let pid =
        async |client: &mut RawClient| client.query("SELECT pg_backend_pid()").await[1].clone();
    let before = pid(&mut client).await;
    client.send(&query("SELECT pg_sleep(600)")).await;
    let runs = "SELECT 1 FROM pg_stat_activity WHERE usename = 'app' AND state = 'active'";
    cluster.shard(0).primary().wait_until(runs).await.unwrap();
    cancel(&cluster.endpoint(), &client.cancel_key()).await;
    let answer = timeout(SOON, client.until_ready()).await.unwrap();
    assert_eq!(failure(&answer).as_deref(), Some("57014"));
    assert_eq!(pid(&mut client).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_for_every_shard_is_cancelled_on_all() {
    let cluster = TestCluster::new()
        .shop()
        .configure(|configuration| configuration.users = TRUSTED.into())
        .start()
        .await;
    let primary = cluster.shard(1).primary();
    let blocker = format!(
        "host=127.0.0.1 port={} user=app password=app dbname=shop",
        primary.port()
    );
    let blocker = cluster.try_connect(&blocker).await.unwrap();
    blocker
        .batch_execute("BEGIN; LOCK TABLE countries")
        .await
        .unwrap();
    let mut client = log_in(&cluster).await;
    client
        .send(&query("INSERT INTO countries VALUES ('xx', 'Xx')"))
        .await;
    let waits = "SELECT 1 FROM pg_locks WHERE NOT granted";
    primary.wait_until(waits).await.unwrap();
    cancel(&cluster.endpoint(), &client.cancel_key()).await;
    let answer = timeout(SOON, client.until_ready()).await.unwrap();
    assert_eq!(failure(&answer).as_deref(), Some("57014"));
    blocker.batch_execute("COMMIT").await.unwrap();
    let count = "SELECT count(*) FROM countries";
    assert_eq!(cluster.on_each_primary(count).await, ["0", "0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_requests_never_split_a_commit_over_shards() {
    let cluster = TestCluster::new()
        .shop()
        .configure(|configuration| configuration.users = TRUSTED.into())
        .start()
        .await;
    let mut client = log_in(&cluster).await;
    let (endpoint, key) = (cluster.endpoint(), client.cancel_key());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let cancelling = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            cancel(&endpoint, &key).await;
        }
    });
    let mut kept = 0;
    for round in 0..60 {
        client.query("BEGIN").await;
        client
            .query(&format!("INSERT INTO countries VALUES ('{round}', '')"))
            .await;
        let answer = timeout(SOON, client.query("COMMIT")).await.unwrap();
        match failure(&answer).as_deref() {
            None => kept += i32::from(answer[0].body.starts_with(b"COMMIT")),
            Some("57014") => {
                client.query("ROLLBACK").await;
            }
            Some(other) => panic!("{other}: {answer:?}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    timeout(SOON, cancelling).await.unwrap().unwrap();
    let prepared = "SELECT count(*) FROM pg_prepared_xacts";
    assert_eq!(cluster.on_each_primary(prepared).await, ["0", "0"]);
    let count = "SELECT count(*) FROM countries";
    let kept = kept.to_string();
    assert_eq!(cluster.on_each_primary(count).await, [kept.clone(), kept]);
}
