//! Clients that take too long are cancelled or sent away, in Postgres' words.

use std::time::Duration;

use pgherd_tests::wire::{Message, RawClient, query};
use pgherd_tests::{Cluster, sqlstate};
use tokio::time::timeout;

use crate::{TRUSTED, unsharded};

const SOON: Duration = Duration::from_secs(30);

async fn limited(timeouts: &str) -> Cluster {
    let database = format!("pool: {{ size: 1 }}\ntimeouts: {timeouts}");
    unsharded(|configuration| configuration.database = database)
        .start()
        .await
}

async fn log_in(cluster: &Cluster) -> RawClient {
    RawClient::log_in(&cluster.endpoint(), "app", "shop").await
}

fn told(message: &Message) -> [Option<String>; 3] {
    [b'S', b'C', b'M'].map(|kind| message.field(kind))
}

fn words(severity: &str, code: &str, message: &str) -> [Option<String>; 3] {
    [severity, code, message].map(|text| Some(text.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_too_long_is_cancelled_and_so_is_one_that_waits_for_it() {
    let cluster = limited("{ query: 300ms }").await;
    let (mut first, mut second) = (log_in(&cluster).await, log_in(&cluster).await);
    first.send(&query("SELECT pg_sleep(600)")).await;
    let runs = "SELECT 1 FROM pg_stat_activity WHERE usename = 'app' AND query LIKE '%600%'";
    cluster.shard(0).primary().wait_until(runs).await.unwrap();
    second.send(&query("SELECT pg_sleep(600)")).await;
    for client in [&mut first, &mut second] {
        let answer = timeout(SOON, client.until_ready()).await.unwrap();
        let error = answer.iter().find(|message| message.tag == b'E').unwrap();
        assert_eq!(
            told(error),
            words(
                "ERROR",
                "57014",
                "canceling statement due to statement timeout"
            )
        );
        // the client goes on
        let next = client.query("SELECT 1").await;
        assert!(next.iter().all(|message| message.tag != b'E'));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_transaction_is_rolled_back_and_its_client_sent_away() {
    let cluster = limited("{ idle_in_transaction: 300ms }").await;
    let mut client = log_in(&cluster).await;
    client.query("CREATE TABLE t (a int)").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    client.query("BEGIN").await;
    client.query("INSERT INTO t VALUES (1)").await;
    let last = timeout(SOON, client.message()).await.unwrap().unwrap();
    assert_eq!(
        told(&last),
        words(
            "FATAL",
            "25P03",
            "terminating connection due to idle-in-transaction timeout"
        )
    );
    assert_eq!(timeout(SOON, client.message()).await.unwrap(), None);
    let rows = log_in(&cluster).await.query("SELECT count(*) FROM t").await;
    assert_eq!(&rows[1].body[6..], b"0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_is_sent_away_unless_its_user_may_idle() {
    let cluster = unsharded(|configuration| {
        configuration.users = format!("{TRUSTED}\n- {{ name: patient, password: patient, trust: 127.0.0.1, timeouts: {{ client_idle: 0s }} }}");
        configuration.database =
            "server_login: { user: app, password: app }\ntimeouts: { client_idle: 300ms }".into();
    })
    .start()
    .await;
    let mut patient = RawClient::log_in(&cluster.endpoint(), "patient", "shop").await;
    let mut client = log_in(&cluster).await;
    client.query("BEGIN").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    client.query("COMMIT").await;
    let last = timeout(SOON, client.message()).await.unwrap().unwrap();
    assert_eq!(
        told(&last),
        words(
            "FATAL",
            "57P05",
            "terminating connection due to idle-session timeout"
        )
    );
    assert_eq!(timeout(SOON, client.message()).await.unwrap(), None);
    let answer = patient.query("SELECT 1").await;
    assert!(answer.iter().all(|message| message.tag != b'E'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_takes_too_long_ends() {
    let cluster = unsharded(|configuration| {
        configuration.listen = "authentication_timeout: 1s".into();
    })
    .start()
    .await;
    let mut silent = RawClient::connect(&cluster.endpoint()).await;
    assert_eq!(timeout(SOON, silent.message()).await.unwrap(), None);
    // the timeout of a database is none of a login's
    let url = cluster.url_to("other", "wrong", "shop");
    let wrong = cluster.try_connect(&url);
    assert_eq!(sqlstate(&wrong.await.unwrap_err()), "28P01");
}
