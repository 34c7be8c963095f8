//! Pools: who waits for whom, and how connections are lent in each mode.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use pgherd_tests::{Cluster, TestCluster, sqlstate};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Error};

const PATIENCE: Duration = Duration::from_secs(60);

/// Two user ids that live on different shards.
async fn ids_apart(cluster: &Cluster, client: &Client) -> (i64, i64) {
    let mut first = None;
    for id in 1..200 {
        let query = format!("SELECT id FROM users WHERE id = {id}");
        let traced = cluster.trace(client, &query).await.unwrap();
        let shard = traced.servers[0][..2].to_owned();
        match &first {
            None => first = Some((id, shard)),
            Some((other, elsewhere)) if *elsewhere != shard => return (*other, id),
            Some(_) => {}
        }
    }
    panic!("two hundred ids on one shard");
}

async fn read_user(client: &Client, id: i64) -> Result<(), Error> {
    client
        .batch_execute(&format!("SELECT name FROM users WHERE id = {id}"))
        .await
}

fn small_pools() -> TestCluster {
    TestCluster::new().shop().configure(|configuration| {
        configuration.database = "pool: { size: 1, checkout_timeout: 2s }".into();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_cross_over_two_shards_do_not_wait_for_each_other_for_ever() {
    let cluster = small_pools().start().await;
    let (one, other) = (cluster.connect("app").await, cluster.connect("app").await);
    let (left, right) = ids_apart(&cluster, &one).await;
    one.batch_execute("BEGIN").await.unwrap();
    other.batch_execute("BEGIN").await.unwrap();
    read_user(&one, left).await.unwrap();
    read_user(&other, right).await.unwrap();

    let first = tokio::spawn(async move {
        let crossed = read_user(&one, right).await;
        (one, crossed)
    });
    // the later one has time left when the earlier one has given up
    sleep(Duration::from_millis(1000)).await;
    let second = tokio::spawn(async move {
        let crossed = read_user(&other, left).await;
        (other, crossed)
    });
    let (one, crossed) = timeout(PATIENCE, first).await.unwrap().unwrap();
    let error = crossed.unwrap_err();
    assert_eq!(sqlstate(&error), "40001");
    let detail = error.as_db_error().unwrap().detail().unwrap();
    assert!(detail.contains("1 of 1 connections are taken"), "{detail}");
    let failed = read_user(&one, left).await.unwrap_err();
    assert_eq!(sqlstate(&failed), "25P02");
    one.batch_execute("ROLLBACK").await.unwrap();

    let (other, crossed) = timeout(PATIENCE, second).await.unwrap().unwrap();
    crossed.unwrap();
    other.batch_execute("COMMIT").await.unwrap();
    read_user(&one, left).await.unwrap();
    read_user(&one, right).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_for_every_shard_holds_no_connection_while_it_waits_for_another() {
    let cluster = small_pools().start().await;
    let (holder, writer) = (cluster.connect("app").await, cluster.connect("app").await);
    let (left, right) = ids_apart(&cluster, &holder).await;
    for (held, wanted) in [(left, right), (right, left)] {
        holder.batch_execute("BEGIN").await.unwrap();
        read_user(&holder, held).await.unwrap();
        let insert = format!("INSERT INTO countries VALUES ('c{held}', 'somewhere')");
        let writing = async { writer.batch_execute(&insert).await };
        let crossing = async {
            sleep(Duration::from_millis(300)).await;
            read_user(&holder, wanted).await.unwrap();
            holder.batch_execute("COMMIT").await.unwrap();
        };
        let (written, ()) = timeout(PATIENCE, async { tokio::join!(writing, crossing) })
            .await
            .unwrap();
        written.unwrap();
    }
    let copies = cluster
        .on_each_primary("SELECT count(*) FROM countries")
        .await;
    assert_eq!(copies, ["2", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_for_every_shard_get_their_turn_in_pools_of_one() {
    let cluster = small_pools().configure(|configuration| {
        configuration.database = "pool: { size: 1, checkout_timeout: 30s }".into();
    });
    let cluster = cluster.start().await;
    let mut writers = Vec::new();
    for number in 0..6 {
        let client = cluster.connect("app").await;
        writers.push(tokio::spawn(async move {
            for round in 0..5 {
                let insert = format!("INSERT INTO countries VALUES ('{number}-{round}', 'x')");
                client.batch_execute(&insert).await.unwrap();
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
