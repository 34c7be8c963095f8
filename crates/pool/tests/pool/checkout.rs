//! Who gets a connection, when, and which ones come back.

use std::thread;
use std::time::{Duration, Instant};

use pgherd_pool::{Holding, PoolError, PoolSettings, Pools, Target};
use pgherd_protocol::SqlState;
use pgherd_topology::{Address, Epoch, NodeId, NodeState, ShardId};
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use crate::server::{
    TestServer, checkout, free_port, login, query, send, settings, superuser, target,
};
use pgherd_protocol::Credential;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn what_is_given_back_clean_is_lent_again() {
    let server = TestServer::start().await;
    let pools = Pools::new(settings(2));
    let mut first = checkout(&pools, &superuser(), &server.unix())
        .await
        .unwrap();
    assert!(first.transport.stream().is_unix());
    query(&mut first, "SELECT 1").await.unwrap();
    let pid = first.pid();
    drop(first);
    assert_eq!(
        checkout(&pools, &superuser(), &server.unix())
            .await
            .unwrap()
            .pid(),
        pid
    );
    let snapshot = &pools.pool_snapshots()[0];
    assert_eq!((snapshot.idle, snapshot.active, snapshot.opened), (1, 0, 1));
    assert_eq!(pools.server_snapshots()[0].holding, Holding::Idle);
}

#[tokio::test]
async fn the_one_given_back_last_is_lent_first() {
    let server = TestServer::start().await;
    let pools = Pools::new(settings(2));
    let first = checkout(&pools, &superuser(), &server.tcp()).await.unwrap();
    let second = checkout(&pools, &superuser(), &server.tcp()).await.unwrap();
    let pid = first.pid();
    drop(second);
    drop(first);
    assert_eq!(
        checkout(&pools, &superuser(), &server.tcp())
            .await
            .unwrap()
            .pid(),
        pid
    );
}

#[tokio::test]
async fn a_connection_moves_to_the_thread_that_uses_it() {
    let server = TestServer::start().await;
    for target in [server.unix(), server.tcp()] {
        let pools = Pools::new(settings(1));
        let (opened, is_open) = tokio::sync::oneshot::channel();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let opener = thread::spawn({
            let (pools, target) = (pools.clone(), target.clone());
            move || {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async move {
                    let connection = checkout(&pools, &superuser(), &target).await.unwrap();
                    opened.send(connection.pid()).unwrap();
                    drop(connection);
                    ended.await.unwrap_err();
                });
            }
        });
        let pid = is_open.await.unwrap();
        let mut connection = checkout(&pools, &superuser(), &target).await.unwrap();
        assert_eq!(connection.pid(), pid);
        // the runtime in which it was opened is gone
        drop(end);
        opener.join().unwrap();
        query(&mut connection, "SELECT 1").await.unwrap();
        assert!(connection.is_clean());
    }
}

#[tokio::test]
async fn who_came_first_is_served_first() {
    let server = TestServer::start().await;
    let pools = Pools::new(PoolSettings {
        checkout_timeout: SOON,
        ..settings(1)
    });
    let held = checkout(&pools, &superuser(), &server.tcp()).await.unwrap();
    let (sender, mut served) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..5 {
        let (lender, node, sender) = (pools.clone(), server.tcp(), sender.clone());
        tokio::spawn(async move {
            let _lent = checkout(&lender, &superuser(), &node).await.unwrap();
            sender.send(number).unwrap();
        });
        while pools.pool_snapshots()[0].waiting <= number {
            sleep(Duration::from_millis(1)).await;
        }
    }
    drop(held);
    for number in 0..5 {
        assert_eq!(timeout(SOON, served.recv()).await.unwrap(), Some(number));
    }
    assert_eq!(pools.pool_snapshots()[0].opened, 1);
}

#[tokio::test]
async fn a_timeout_says_who_holds_the_connections() {
    let server = TestServer::start().await;
    server.sql("CREATE USER reporting").await;
    let pools = Pools::new(settings(3));
    let node = server.tcp();
    let reporting = login("reporting", Credential::Nothing);
    let _other = checkout(&pools, &reporting, &node).await.unwrap();
    let mut open = checkout(&pools, &superuser(), &node).await.unwrap();
    query(&mut open, "BEGIN").await.unwrap();
    let mut failed = checkout(&pools, &superuser(), &node).await.unwrap();
    query(&mut failed, "BEGIN").await.unwrap();
    query(&mut failed, "SELECT 1/0").await.unwrap_err();
    let mut kept = checkout(&pools, &superuser(), &node).await.unwrap();
    query(&mut kept, "SET work_mem = '1MB'").await.unwrap();

    let begun = Instant::now();
    let error = checkout(&pools, &superuser(), &node).await.unwrap_err();
    assert!(begun.elapsed() >= Duration::from_millis(250));
    assert_eq!(error.code(), SqlState::TOO_MANY_CONNECTIONS);
    let detail = error.to_pg_error().detail.unwrap();
    for part in [
        "3 of 3 connections are taken",
        "1 in a transaction",
        "1 in a failed transaction",
        "1 kept by their sessions",
        "1 of user \"reporting\"",
    ] {
        assert!(detail.contains(part), "{detail}");
    }
    assert_eq!(
        pools
            .pool_snapshots()
            .iter()
            .map(|pool| pool.timeouts)
            .sum::<u64>(),
        1
    );
}

#[tokio::test]
async fn an_earlier_deadline_counts() {
    let server = TestServer::start().await;
    let pools = Pools::new(PoolSettings {
        checkout_timeout: SOON,
        ..settings(1)
    });
    let node = server.tcp();
    let _held = checkout(&pools, &superuser(), &node).await.unwrap();
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = pools
        .checkout(&superuser(), &target(&node), Some(deadline))
        .await
        .unwrap_err();
    assert!(
        matches!(error, PoolError::CheckoutTimeout { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_not_clean_is_closed() {
    let server = TestServer::start().await;
    let pools = Pools::new(settings(1));
    let node = server.tcp();
    let mut before = Vec::new();
    for left in [
        "mark",
        "transaction",
        "unsent",
        "unanswered",
        "unannounced",
        "unread",
    ] {
        let mut lent = checkout(&pools, &superuser(), &node).await.unwrap();
        assert!(!before.contains(&lent.pid()), "{left}: was lent again");
        before.push(lent.pid());
        match left {
            "mark" => lent.mark_dirty("a test"),
            "transaction" => assert!(query(&mut lent, "BEGIN").await.is_ok()),
            "unsent" => send(&mut lent, "SELECT 1"),
            "unanswered" => {
                send(&mut lent, "SELECT 1");
                lent.transport.flush().await.unwrap();
            }
            "unannounced" => {
                lent.transport.outbox.extend_from_slice(b"S\0\0\0\x04");
                lent.transport.flush().await.unwrap();
            }
            _ => {
                query(&mut lent, "SELECT 1").await.unwrap();
                lent.transport.inbox.extend_from_slice(b"N");
            }
        }
        assert!(!lent.is_clean(), "{left}");
    }
    let snapshot = &pools.pool_snapshots()[0];
    assert_eq!((snapshot.closed, snapshot.closed_unclean), (6, 6));
    sleep(Duration::from_millis(200)).await;
    let others = server
        .sql("SELECT pid FROM pg_stat_activity WHERE client_port > 0 AND state <> 'active'")
        .await;
    assert_eq!(others, [""; 0], "the server was told of each");
}

#[tokio::test]
async fn a_pipeline_is_clean_only_after_its_last_answer() {
    let server = TestServer::start().await;
    let pools = Pools::new(settings(1));
    let mut lent = checkout(&pools, &superuser(), &server.tcp()).await.unwrap();
    send(&mut lent, "SELECT 1");
    send(&mut lent, "SELECT 2");
    assert_eq!(crate::server::finish(&mut lent).await.unwrap(), ["1"]);
    lent.transport.inbox.clear();
    assert!(!lent.is_clean());
}

#[tokio::test]
async fn connections_that_the_server_closed_are_not_lent() {
    let mut server = TestServer::start().await;
    let pools = Pools::new(settings(3));
    let node = server.tcp();
    let all = [
        checkout(&pools, &superuser(), &node).await.unwrap(),
        checkout(&pools, &superuser(), &node).await.unwrap(),
        checkout(&pools, &superuser(), &node).await.unwrap(),
    ];
    drop(all);
    assert_eq!(pools.pool_snapshots()[0].idle, 3);
    server.restart().await;
    let mut lent = checkout(&pools, &superuser(), &node).await.unwrap();
    assert_eq!(query(&mut lent, "SELECT 1").await.unwrap(), ["1"]);
    assert_eq!(pools.pool_snapshots()[0].opened, 4);
}

#[tokio::test]
async fn a_checkout_that_is_dropped_leaks_nothing() {
    let server = TestServer::start().await;
    let pools = Pools::new(settings(2));
    let (node, login) = (server.tcp(), superuser());
    for delay in 0..60 {
        // in the queue, while connecting, or just served
        let limit = Duration::from_micros(delay * 200);
        let held = checkout(&pools, &login, &node).await.unwrap();
        let _ = timeout(limit, async {
            tokio::join!(
                checkout(&pools, &login, &node),
                checkout(&pools, &login, &node)
            )
        })
        .await;
        drop(held);
        if delay % 7 == 0 {
            pools.drain();
        }
    }
    sleep(Duration::from_millis(50)).await;
    let snapshot = &pools.pool_snapshots()[0];
    assert_eq!(
        (snapshot.active, snapshot.opening, snapshot.waiting),
        (0, 0, 0)
    );
    let _both = (
        checkout(&pools, &login, &node).await.unwrap(),
        checkout(&pools, &login, &node).await.unwrap(),
    );
}

#[tokio::test]
async fn many_tasks_share_few_connections() {
    let server = TestServer::start().await;
    let pools = Pools::new(PoolSettings {
        checkout_timeout: SOON,
        ..settings(4)
    });
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..64 {
        let (pools, node) = (pools.clone(), server.tcp());
        tasks.spawn(async move {
            let login = superuser();
            for round in 0..20 {
                let mut lent = checkout(&pools, &login, &node).await.unwrap();
                let value = (number * 1000 + round).to_string();
                assert_eq!(
                    query(&mut lent, &format!("SELECT {value}")).await.unwrap(),
                    [value]
                );
                if (number + round) % 50 == 0 {
                    lent.mark_dirty("a test");
                }
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    let snapshot = &pools.pool_snapshots()[0];
    assert_eq!(snapshot.checkouts, 64 * 20);
    assert_eq!((snapshot.active, snapshot.waiting), (0, 0));
    assert!(snapshot.idle <= 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_leaks_however_threads_hand_over_give_up_and_drain() {
    let server = TestServer::start().await;
    let pools = Pools::new(PoolSettings {
        checkout_timeout: SOON,
        ..settings(4)
    });
    let login = superuser();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..32_u64 {
        let (pools, node, login) = (pools.clone(), server.tcp(), login.clone());
        tasks.spawn(async move {
            for round in 0..60 {
                let patience = Duration::from_micros((number * 613 + round * 1709) % 9000);
                let Ok(lent) = timeout(patience, checkout(&pools, &login, &node)).await else {
                    continue;
                };
                let mut lent = lent.unwrap();
                let value = (number * 1000 + round).to_string();
                // some go away while their query runs
                let sql = format!("SELECT {value}");
                if let Ok(told) = timeout(patience, query(&mut lent, &sql)).await {
                    assert_eq!(told.unwrap(), [value]);
                }
                if (number + round) % 97 == 0 {
                    pools.drain();
                }
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    let snapshot = &pools.pool_snapshots()[0];
    assert_eq!(
        (snapshot.active, snapshot.opening, snapshot.waiting),
        (0, 0, 0)
    );
    assert!(snapshot.idle <= 4);
    assert_eq!(snapshot.opened - snapshot.closed, snapshot.idle as u64);
    let all = [
        checkout(&pools, &login, &server.tcp()).await.unwrap(),
        checkout(&pools, &login, &server.tcp()).await.unwrap(),
        checkout(&pools, &login, &server.tcp()).await.unwrap(),
        checkout(&pools, &login, &server.tcp()).await.unwrap(),
    ];
    drop(all);
}

#[tokio::test]
async fn a_server_that_refuses_is_left_alone_for_a_moment() {
    let node = NodeState::new(
        NodeId(0),
        "s0a",
        Address::Tcp {
            host: "127.0.0.1".into(),
            port: free_port(),
        },
    );
    let pools = Pools::new(settings(2));
    let error = checkout(&pools, &superuser(), &node).await.unwrap_err();
    assert!(matches!(error, PoolError::Connect { .. }), "{error}");
    let error = checkout(&pools, &superuser(), &node).await.unwrap_err();
    assert!(matches!(error, PoolError::BackingOff { .. }), "{error}");
    assert!(matches!(error.cause(), PoolError::Connect { .. }));
    assert!(error.is_server_unreachable());
    assert_eq!(pools.pool_snapshots()[0].failed, 1);
    sleep(Duration::from_millis(60)).await;
    let error = checkout(&pools, &superuser(), &node).await.unwrap_err();
    assert!(matches!(error, PoolError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn where_the_server_is_full_a_connection_that_is_open_is_waited_for() {
    let server = TestServer::start_with(
        "host all all 127.0.0.1/32 trust",
        "superuser_reserved_connections = 0",
        &[],
    )
    .await;
    server.sql("CREATE USER app").await;
    server.sql("ALTER USER app CONNECTION LIMIT 2").await;
    let app = login("app", Credential::Nothing);
    let pools = Pools::new(PoolSettings {
        checkout_timeout: SOON,
        ..settings(5)
    });
    let node = server.tcp();
    let first = checkout(&pools, &app, &node).await.unwrap();
    let second = checkout(&pools, &app, &node).await.unwrap();
    let pid = first.pid();
    let (third, ()) = tokio::join!(checkout(&pools, &app, &node), async {
        sleep(Duration::from_millis(300)).await;
        drop(first);
    });
    assert_eq!(third.unwrap().pid(), pid);
    drop(second);
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_named() {
    let pools = Pools::new(settings(1));
    let node = NodeState::new(
        NodeId(0),
        "s0a",
        Address::Tcp {
            host: "nowhere.invalid".into(),
            port: 1,
        },
    );
    let error = checkout(&pools, &superuser(), &node).await.unwrap_err();
    assert!(error.to_string().contains("nowhere.invalid"), "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let node = NodeState::new(
        NodeId(0),
        "s0a",
        Address::Tcp {
            host: "127.0.0.1".into(),
            port,
        },
    );
    let pools = Pools::new(PoolSettings {
        connect_timeout: Duration::from_millis(100),
        checkout_timeout: SOON,
        ..settings(1)
    });
    let error = checkout(&pools, &superuser(), &node).await.unwrap_err();
    assert!(matches!(error, PoolError::ConnectTimeout { .. }), "{error}");
    assert!(error.is_server_unreachable());
}

#[tokio::test]
async fn one_id_that_means_another_server_gets_a_pool_of_its_own() {
    let server = TestServer::start().await;
    let pools = Pools::new(settings(1));
    let lent = checkout(&pools, &superuser(), &server.tcp()).await.unwrap();
    let pid = lent.pid();
    let other = checkout(&pools, &superuser(), &server.unix())
        .await
        .unwrap();
    assert!(other.transport.stream().is_unix());
    drop(lent);
    drop(other);
    let node = server.unix();
    let elsewhere = Target {
        shard: ShardId(1),
        epoch: Epoch(1),
        node: &node,
        synchronous: false,
    };
    let again = pools
        .checkout(&superuser(), &elsewhere, None)
        .await
        .unwrap();
    assert_ne!(again.pid(), pid);
    assert_eq!(again.shard(), ShardId(1));
}
