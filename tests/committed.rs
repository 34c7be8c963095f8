//! What COMMIT tells where standbys acknowledge it: success is what they have, and nothing else is called success.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use pgherd_tests::wire::{RawClient, query, sync, unnamed};
use pgherd_tests::{Cluster, TestCluster, sqlstate};
use tokio_postgres::Client;

/// The shop on a primary whose commits its replica acknowledges, and which its file has do without.
async fn cluster() -> Cluster {
    let cluster = TestCluster::new()
        .shards(1)
        .replicas(1)
        .servers(|herd| herd.setting("synchronous_commit", "off"))
        .configure(|configuration| {
            configuration.sharding = String::new();
            configuration.users = "- { name: app, password: app, trust: 127.0.0.1 }".into();
            configuration.database = "failover: { sync: { acks: 1 } }".into();
        })
        .shop()
        .start()
        .await;
    let primary = cluster.shard(0).primary();
    for text in [
        "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'",
        "SELECT pg_reload_conf()",
    ] {
        primary.sql(text).await.unwrap();
    }
    primary
        .wait_until("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'quorum'")
        .await
        .unwrap();
    cluster
}

/// Waits for a commit that waits for the standbys.
async fn waits(cluster: &Cluster) {
    let primary = cluster.shard(0).primary();
    primary
        .wait_until("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        .await
        .unwrap();
}

/// Cancels what waits for the standbys, on the server itself.
async fn cancel_wait(cluster: &Cluster) {
    waits(cluster).await;
    let primary = cluster.shard(0).primary();
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    primary.sql(cancel).await.unwrap();
}

async fn refused(client: &Client, text: &str) {
    let error = client.batch_execute(text).await.unwrap_err();
    assert_eq!(sqlstate(&error), "0A000", "{text}: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_does_with_less_than_an_acknowledged_commit() {
    let cluster = cluster().await;
    let client = cluster.connect("app").await;
    let shown = |client: Client| async move {
        let row = client.query_one("SHOW synchronous_commit", &[]).await;
        (row.unwrap().get::<_, String>(0), client)
    };
    let (value, client) = shown(client).await;
    assert_eq!(value, "on", "beats the server's file");
    for text in [
        "SET synchronous_commit = off",
        "SET LOCAL synchronous_commit TO 'local'",
        "SET synchronous_commit = remote_write",
        "SELECT set_config('synchronous_commit', 'off', false)",
        "UPDATE pg_settings SET setting = 'off' WHERE name = 'synchronous_commit'",
    ] {
        refused(&client, text).await;
    }
    for text in [
        "SET synchronous_commit = on",
        "SET synchronous_commit = remote_apply",
        "RESET synchronous_commit",
        "DISCARD ALL",
    ] {
        client.batch_execute(text).await.unwrap();
    }
    let (value, client) = shown(client).await;
    assert_eq!(value, "on");
    let url = format!(
        "{}?options=-c%20synchronous_commit%3Doff",
        cluster.url("app")
    );
    let error = cluster.try_connect(&url).await.unwrap_err();
    assert_eq!(sqlstate(&error), "0A000");
    // what code hides, COMMIT takes back
    client
        .batch_execute(
            "CREATE FUNCTION hides() RETURNS text LANGUAGE sql AS \
             $$SELECT set_config('synchronous_commit', 'off', false)$$",
        )
        .await
        .unwrap();
    for text in ["BEGIN", "INSERT INTO settings SELECT 'hidden', hides()"] {
        client.batch_execute(text).await.unwrap();
    }
    let replica = cluster.shard(0).replica();
    replica.freeze();
    let (committed, ()) = tokio::join!(client.batch_execute("COMMIT"), async {
        waits(&cluster).await;
        replica.thaw();
    });
    committed.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_standbys_that_somebody_cancels_is_no_success_before_they_have_it() {
    let cluster = cluster().await;
    let client = cluster.connect("app").await;
    let replica = cluster.shard(0).replica();
    let mut raw = RawClient::log_in(&cluster.endpoint(), "app", "shop").await;
    let insert = |name: &str| format!("INSERT INTO settings VALUES ('{name}', '1')");
    // what a row written afterwards proves
    let mut extended = unnamed(&insert("extended"));
    extended.extend_from_slice(&sync());
    for text in ["BEGIN".to_owned(), insert("block")] {
        client.batch_execute(&text).await.unwrap();
    }
    for case in 0..3 {
        replica.freeze();
        let thawing = async {
            cancel_wait(&cluster).await;
            // the one that was cancelled, or the row behind it
            waits(&cluster).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            replica.thaw();
        };
        match case {
            0 => {
                let (committed, ()) = tokio::join!(client.batch_execute("COMMIT"), thawing);
                committed.unwrap();
            }
            1 => {
                let autocommit = insert("autocommit");
                let (written, ()) = tokio::join!(client.batch_execute(&autocommit), thawing);
                written.unwrap();
            }
            _ => {
                let asked = async {
                    raw.send(&extended).await;
                    raw.until_ready().await
                };
                let (answers, ()) = tokio::join!(asked, thawing);
                let tags: Vec<u8> = answers.iter().map(|answer| answer.tag).collect();
                assert!(tags.contains(&b'C') && !tags.contains(&b'E'), "{answers:?}");
                assert!(!tags.contains(&b'N'), "the warning is for pgherd");
            }
        }
    }
    // and what none proves
    replica.freeze();
    let write = query(&insert("doubtful"));
    let asked = async {
        raw.send(&write).await;
        raw.until_ready().await
    };
    let (answers, ()) = tokio::join!(asked, async {
        cancel_wait(&cluster).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        cancel_wait(&cluster).await;
    });
    let error = answers.iter().find(|answer| answer.tag == b'E').unwrap();
    assert_eq!(error.field(b'C').as_deref(), Some("08007"), "{answers:?}");
    assert!(
        answers
            .iter()
            .all(|answer| answer.tag != b'C' && answer.tag != b'N')
    );
    assert_eq!(answers.last().unwrap().tag, b'Z');
    replica.thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_waits_for_its_standbys_is_not_cancelled_by_its_client() {
    let cluster = cluster().await;
    let client = cluster.connect("app").await;
    let replica = cluster.shard(0).replica();
    for text in ["BEGIN", "INSERT INTO settings VALUES ('a', '1')"] {
        client.batch_execute(text).await.unwrap();
    }
    replica.freeze();
    let token = client.cancel_token();
    let (committed, ()) = tokio::join!(client.batch_execute("COMMIT"), async {
        waits(&cluster).await;
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        // a cancel request that was forwarded would have ended the wait by then
        tokio::time::sleep(Duration::from_millis(500)).await;
        waits(&cluster).await;
        let told = cluster.shard(0).primary().log_text().unwrap();
        assert!(
            !told.contains("canceling wait for synchronous replication"),
            "{told}"
        );
        replica.thaw();
    });
    committed.unwrap();
}
