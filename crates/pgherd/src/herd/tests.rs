//! A herd of real servers, started, disturbed and stopped.
#![allow(clippy::unwrap_used)]

use super::*;

fn builder(directory: &Path) -> HerdBuilder {
    Herd::builder()
        .directory(directory)
        .durability(Durability::Fast)
}

fn processes_in(directory: &Path) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok())
        .filter(|working| working.starts_with(directory))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_herd_replicates_starts_again_with_its_rows_and_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let herd = builder(&path).shards(2).replicas(1).start().await.unwrap();
    assert!(!herd.is_reused());
    let identifiers = herd.shards().iter().map(Shard::primary);
    let mut seen = Vec::new();
    for primary in identifiers {
        let rows = primary
            .sql("SELECT system_identifier FROM pg_control_system()")
            .await
            .unwrap();
        seen.push(rows[0][0].clone());
    }
    assert_ne!(seen[0], seen[1], "each shard is a cluster of its own");

    let shard = &herd.shards()[0];
    let replica = shard.replica();
    shard
        .primary()
        .sql("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)")
        .await
        .unwrap();
    replica
        .wait_until("SELECT 1 FROM pg_class WHERE relname = 'kept'")
        .await
        .unwrap();
    replica.wait_until("SELECT id FROM kept").await.unwrap();
    replica.pause_replay().await.unwrap();
    shard
        .primary()
        .sql("INSERT INTO kept VALUES (2)")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(replica.sql("SELECT id FROM kept").await.unwrap().len(), 1);
    replica.resume_replay().await.unwrap();
    replica
        .wait_until("SELECT id FROM kept WHERE id = 2")
        .await
        .unwrap();
    assert!(
        replica
            .log_text()
            .unwrap()
            .contains("s0b postgres@shop LOG:  statement: SELECT id FROM kept")
    );

    let second = builder(&path).shards(2).replicas(1).start().await;
    assert!(matches!(second, Err(HerdError::Locked { .. })));
    assert!(processes_in(&path) > 0);
    let ports: Vec<u16> = herd.servers().map(Server::port).collect();
    herd.stop().await;
    assert_eq!(processes_in(&path), 0);

    let other = builder(&path).shards(3).start().await.unwrap_err();
    assert!(other.to_string().contains("2 shard(s)"), "{other}");
    let herd = builder(&path).shards(2).replicas(1).start().await.unwrap();
    assert!(herd.is_reused());
    assert_eq!(herd.servers().map(Server::port).collect::<Vec<_>>(), ports);
    let rows = herd.shards()[0]
        .replica()
        .sql("SELECT count(*) FROM kept")
        .await
        .unwrap();
    assert_eq!(rows, [[Some("2".to_owned())]]);
    drop(herd);
    assert_eq!(processes_in(&path), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_starts_again_and_a_replica_can_take_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let herd = builder(&path).replicas(1).start().await.unwrap();
    let shard = &herd.shards()[0];
    shard.primary().kill9();
    assert!(!shard.primary().is_running());
    shard.primary().start().await.unwrap();
    shard.primary().sql("CREATE TABLE t ()").await.unwrap();
    shard
        .replica()
        .wait_until("SELECT 1 FROM pg_class WHERE relname = 't'")
        .await
        .unwrap();
    shard.primary().stop().await;
    shard.promote("s0b").await.unwrap();
    assert_eq!(shard.primary().name().as_str(), "s0b");
    shard
        .primary()
        .sql("INSERT INTO t DEFAULT VALUES")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_herd_starts_again_after_a_failover_with_the_successor_as_its_primary() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let herd = builder(&path).replicas(1).start().await.unwrap();
    let shard = &herd.shards()[0];
    shard.primary().kill9();
    shard.promote("s0b").await.unwrap();
    herd.stop().await;
    let herd = builder(&path).replicas(1).start().await.unwrap();
    let shard = &herd.shards()[0];
    assert_eq!(shard.primary().name().as_str(), "s0b");
    let deposed = herd.server("s0a").unwrap();
    assert!(deposed.is_running() && !deposed.is_standby());
    assert_eq!((deposed.timeline(), shard.primary().timeline()), (1, 2));
    let slots = shard.primary().sql("SELECT FROM pg_replication_slots");
    assert_eq!(slots.await.unwrap().len(), 0, "nobody streams by one");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roles_have_their_rights_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let herd = builder(&path).start().await.unwrap();
    let port = herd.shards()[0].primary().port();
    let connect = async |user: &str, password: &str| {
        let address = format!("postgresql://{user}:{password}@127.0.0.1:{port}/shop");
        let (client, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok::<_, tokio_postgres::Error>(client)
    };
    let app = connect("app", "app").await.unwrap();
    app.batch_execute("CREATE TABLE mine (id int)")
        .await
        .unwrap();
    let control = connect("pgherd", "pgherd").await.unwrap();
    control
        .batch_execute("CREATE SCHEMA pgherd; SELECT count(*) FROM mine; SELECT pg_reload_conf()")
        .await
        .unwrap();
    let superuser = control
        .query_one(
            "SELECT rolsuper FROM pg_roles WHERE rolname = 'pgherd'",
            &[],
        )
        .await
        .unwrap();
    assert!(!superuser.get::<_, bool>(0));
    assert!(connect("app", "wrong").await.is_err());
    assert!(
        connect("postgres", "").await.is_err(),
        "the superuser does not come in by TCP"
    );
}
