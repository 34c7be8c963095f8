//! How connections end, and how they begin before anyone asks.

use std::time::Duration;

use pgherd_pool::{PoolError, PoolSettings, Pools, Target};
use pgherd_protocol::SqlState;
use pgherd_topology::{Epoch, NodeId, ShardId};
use tokio::time::{sleep, timeout};

use crate::server::{TestServer, checkout, query, send, settings, superuser, target};

const SOON: Duration = Duration::from_secs(10);

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    timeout(SOON, async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect(what);
}

#[tokio::test]
async fn a_retired_server_keeps_no_connection() {
    let server = TestServer::start().await;
    let pools = Pools::new(settings(3));
    let node = server.tcp();
    let lent = checkout(&pools, &superuser(), &node).await.unwrap();
    drop(checkout(&pools, &superuser(), &node).await.unwrap());
    pools.retire(NodeId(1));
    assert_eq!(pools.pool_snapshots()[0].idle, 1, "another server's");
    pools.retire(NodeId(0));
    assert_eq!(
        (
            pools.pool_snapshots()[0].idle,
            pools.pool_snapshots()[0].active
        ),
        (0, 1)
    );
    let pid = lent.pid();
    drop(lent);
    assert_eq!(pools.pool_snapshots()[0].idle, 0);
    assert_ne!(
        checkout(&pools, &superuser(), &node).await.unwrap().pid(),
        pid
    );
}

#[tokio::test]
async fn connections_and_wishes_of_an_older_epoch_are_refused() {
    let server = TestServer::start().await;
    let pools = Pools::new(PoolSettings {
        checkout_timeout: SOON,
        ..settings(1)
    });
    let node = server.tcp();
    let lent = checkout(&pools, &superuser(), &node).await.unwrap();
    let pid = lent.pid();
    let waiting = {
        let (pools, node) = (pools.clone(), node.clone());
        tokio::spawn(async move { checkout(&pools, &superuser(), &node).await })
    };
    until("it waits", || pools.pool_snapshots()[0].waiting == 1).await;
    pools.retire_older_than(ShardId(1), Epoch(2));
    assert_eq!(pools.pool_snapshots()[0].waiting, 1, "another shard's");
    pools.retire_older_than(ShardId(0), Epoch(2));
    let error = waiting.await.unwrap().unwrap_err();
    assert!(
        matches!(error, PoolError::Superseded { .. }) && error.is_superseded(),
        "{error}"
    );
    assert_eq!(error.code(), SqlState::CANNOT_CONNECT_NOW);
    drop(lent);
    let error = checkout(&pools, &superuser(), &node).await.unwrap_err();
    assert!(error.is_superseded(), "{error}");
    let newer = Target {
        epoch: Epoch(2),
        ..target(&node)
    };
    let lent = pools.checkout(&superuser(), &newer, None).await.unwrap();
    assert_ne!(lent.pid(), pid);
    assert_eq!(lent.epoch(), Epoch(2));
}

#[tokio::test]
async fn a_newer_epoch_retires_what_lies_idle() {
    let server = TestServer::start().await;
    let pools = Pools::new(settings(1));
    let node = server.tcp();
    let pid = checkout(&pools, &superuser(), &node).await.unwrap().pid();
    let newer = Target {
        epoch: Epoch(2),
        ..target(&node)
    };
    let lent = pools.checkout(&superuser(), &newer, None).await.unwrap();
    assert_ne!(lent.pid(), pid);
}

#[tokio::test]
async fn what_is_lent_of_a_deposed_server_is_at_its_end_at_once() {
    let server = TestServer::start().await;
    let pools = Pools::new(settings(3));
    let node = server.tcp();
    let mut waiting = checkout(&pools, &superuser(), &node).await.unwrap();
    let mut answered = checkout(&pools, &superuser(), &node).await.unwrap();
    let mut idle = checkout(&pools, &superuser(), &node).await.unwrap();
    send(&mut answered, "SELECT 1");
    answered.transport.flush().await.unwrap();
    // its answer comes to lie in the socket
    sleep(Duration::from_millis(300)).await;
    // the answer lies in the socket
    sleep(Duration::from_millis(300)).await;
    send(&mut waiting, "SELECT pg_sleep(60)");
    let waiting = tokio::spawn(async move {
        waiting.transport.flush().await?;
        waiting.transport.fill().await
    });
    // another server's, and this one's again in the same reign
    pools.cut_off(NodeId(1), Epoch(2));
    pools.cut_off(NodeId(0), Epoch(1));
    assert_eq!(query(&mut idle, "SELECT 1").await.unwrap(), ["1"]);

    pools.cut_off(NodeId(0), Epoch(2));
    let aborted = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionAborted;
    assert!(aborted(
        timeout(SOON, waiting).await.unwrap().unwrap().unwrap_err()
    ));
    assert!(aborted(answered.transport.fill().await.unwrap_err()));
    assert!(
        answered.transport.inbox.is_empty(),
        "its answer goes nowhere"
    );
    send(&mut idle, "SELECT 1");
    assert!(aborted(idle.transport.flush().await.unwrap_err()));
    drop((answered, idle));
    assert_eq!(pools.pool_snapshots()[0].idle, 0);

    let newer = Target {
        epoch: Epoch(2),
        ..target(&node)
    };
    let mut lent = pools.checkout(&superuser(), &newer, None).await.unwrap();
    pools.cut_off(NodeId(0), Epoch(2));
    assert_eq!(query(&mut lent, "SELECT 1").await.unwrap(), ["1"]);
}

#[tokio::test]
async fn idle_connections_go_down_to_the_minimum() {
    let server = TestServer::start().await;
    let pools = Pools::new(PoolSettings {
        min: 1,
        idle_timeout: Duration::from_millis(200),
        ..settings(3)
    });
    let node = server.tcp();
    let all = [
        checkout(&pools, &superuser(), &node).await.unwrap(),
        checkout(&pools, &superuser(), &node).await.unwrap(),
        checkout(&pools, &superuser(), &node).await.unwrap(),
    ];
    drop(all);
    assert_eq!(pools.pool_snapshots()[0].idle, 3);
    until("two are closed", || pools.pool_snapshots()[0].idle == 1).await;
    sleep(Duration::from_millis(400)).await;
    assert_eq!(pools.pool_snapshots()[0].idle, 1);
}

#[tokio::test]
async fn an_old_connection_is_replaced() {
    let server = TestServer::start().await;
    let pools = Pools::new(PoolSettings {
        lifetime: Duration::from_millis(200),
        ..settings(1)
    });
    let node = server.tcp();
    let mut lent = checkout(&pools, &superuser(), &node).await.unwrap();
    sleep(Duration::from_millis(250)).await;
    query(&mut lent, "SELECT 1").await.unwrap();
    drop(lent);
    assert_eq!(pools.pool_snapshots()[0].idle, 0, "too old to stay");
    drop(checkout(&pools, &superuser(), &node).await.unwrap());
    until("the maintenance closes it", || {
        pools.pool_snapshots()[0].idle == 0
    })
    .await;
}

#[tokio::test]
async fn the_minimum_is_opened_before_anyone_asks_and_after_a_restart() {
    let mut server = TestServer::start().await;
    let pools = Pools::new(PoolSettings {
        min: 2,
        idle_timeout: Duration::from_secs(1),
        ..settings(3)
    });
    pools.warm(&superuser(), &target(&server.tcp()));
    until("two are open", || pools.pool_snapshots()[0].idle == 2).await;
    server.restart().await;
    until("two are open again", || {
        let snapshot = &pools.pool_snapshots()[0];
        snapshot.idle == 2 && snapshot.opened == 4
    })
    .await;
}

#[tokio::test]
async fn a_reload_changes_the_size_at_once_and_drains_where_it_must() {
    let server = TestServer::start().await;
    let pools = Pools::new(PoolSettings {
        checkout_timeout: SOON,
        ..settings(1)
    });
    let (node, login) = (server.tcp(), superuser());
    let first = checkout(&pools, &login, &node).await.unwrap();
    let (second, ()) = tokio::join!(checkout(&pools, &login, &node), async {
        sleep(Duration::from_millis(50)).await;
        pools.reload(PoolSettings {
            checkout_timeout: SOON,
            ..settings(2)
        });
    });
    let second = second.unwrap();
    pools.reload(settings(1));
    drop(second);
    assert_eq!(pools.pool_snapshots()[0].idle, 0, "one more than the bound");
    let pid = first.pid();
    drop(first);
    let same = checkout(&pools, &login, &node).await.unwrap();
    assert_eq!(same.pid(), pid);
    pools.reload(PoolSettings {
        options: Some("-c work_mem=7MB".into()),
        ..settings(1)
    });
    drop(same);
    let mut other = checkout(&pools, &login, &node).await.unwrap();
    assert_eq!(query(&mut other, "SHOW work_mem").await.unwrap(), ["7MB"]);
}

#[tokio::test]
async fn closed_pools_serve_nobody() {
    let server = TestServer::start().await;
    let pools = Pools::new(PoolSettings {
        checkout_timeout: SOON,
        ..settings(1)
    });
    let (node, login) = (server.tcp(), superuser());
    let lent = checkout(&pools, &login, &node).await.unwrap();
    let (error, ()) = tokio::join!(checkout(&pools, &login, &node), async {
        sleep(Duration::from_millis(50)).await;
        pools.close();
    });
    assert_eq!(error.unwrap_err().code(), SqlState::ADMIN_SHUTDOWN);
    drop(lent);
    assert!(matches!(
        checkout(&pools, &login, &node).await,
        Err(PoolError::Closed)
    ));
    let never_asked = server.unix();
    assert!(matches!(
        checkout(&pools, &login, &never_asked).await,
        Err(PoolError::Closed)
    ));
}
