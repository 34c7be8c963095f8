//! Cancelling what runs.

use std::time::{Duration, Instant};

use pgherd_pool::Pools;
use pgherd_protocol::SqlState;

use crate::server::{TestServer, checkout, finish, query, send, settings, superuser};

async fn cancels(node: impl FnOnce(&TestServer) -> pgherd_topology::NodeState) {
    let server = TestServer::start().await;
    let pools = Pools::new(settings(2));
    let mut connection = checkout(&pools, &superuser(), &node(&server))
        .await
        .unwrap();
    let canceller = connection.canceller().unwrap();
    let begun = Instant::now();
    send(&mut connection, "SELECT pg_sleep(60)");
    let (result, ()) = tokio::join!(finish(&mut connection), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        canceller.cancel().await.unwrap();
    });
    assert_eq!(result.unwrap_err().code, SqlState::QUERY_CANCELED);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(query(&mut connection, "SELECT 1").await.unwrap(), ["1"]);
    assert!(connection.is_clean());
}

#[tokio::test]
async fn a_sleep_is_cancelled_over_tcp() {
    cancels(TestServer::tcp).await;
}

#[tokio::test]
async fn a_sleep_is_cancelled_over_a_unix_socket() {
    cancels(TestServer::unix).await;
}
