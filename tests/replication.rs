//! Replication connections through the endpoint, with the programs that Postgres has for them.
#![allow(clippy::unwrap_used)]

use std::process::Stdio;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use pgherd_tests::wire::{RawClient, cancel, query};
use pgherd_tests::{Cluster, TestCluster};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
const TRUSTED: &str = "- { name: app, password: app, trust: 127.0.0.1 }";

async fn start(cluster: TestCluster) -> Cluster {
    let cluster = cluster
        .servers(|herd| herd.host_line("host replication app 127.0.0.1/32 scram-sha-256"))
        .start()
        .await;
    for shard in cluster.herd().shards() {
        shard
            .primary()
            .sql("ALTER ROLE app REPLICATION")
            .await
            .unwrap();
    }
    cluster
}

async fn unsharded() -> Cluster {
    let cluster = TestCluster::new().shards(1).configure(|configuration| {
        configuration.sharding.clear();
        configuration.users = TRUSTED.into();
    });
    start(cluster).await
}

/// One of the server's own programs.
fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .env("PGPASSWORD", "app")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn run(command: &mut Command) -> String {
    let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{errors}");
    said
}

fn recvlogical(cluster: &Cluster) -> Command {
    let mut command = program("pg_recvlogical");
    command.args(["--dbname", &cluster.url("app"), "--slot", "changes"]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_recvlogical_streams_what_is_written() {
    let cluster = unsharded().await;
    let client = cluster.connect("app").await;
    client
        .batch_execute("CREATE TABLE things (id int)")
        .await
        .unwrap();
    run(recvlogical(&cluster).args(["--create-slot", "--plugin", "test_decoding"])).await;
    let mut stream = recvlogical(&cluster)
        .args(["--start", "--file", "-"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    client
        .batch_execute("INSERT INTO things VALUES (42)")
        .await
        .unwrap();
    let mut changes = BufReader::new(stream.stdout.take().unwrap()).lines();
    let seen = timeout(PATIENCE, async {
        while let Some(line) = changes.next_line().await.unwrap() {
            if line.contains("id[integer]:42") {
                return true;
            }
        }
        false
    });
    assert!(seen.await.unwrap());

    // it is a client like others, and holds a server connection
    let console = cluster.console().await;
    let rows = console.simple_query("SHOW CLIENTS").await.unwrap();
    let is_shown = rows.iter().any(|row| match row {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            row.get("application_name") == Some("pg_recvlogical")
        }
        _ => false,
    });
    assert!(is_shown);
    let rows = console.simple_query("SHOW SHARDS").await.unwrap();
    let used = rows.iter().find_map(|row| match row {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get("connections_used"),
        _ => None,
    });
    assert_eq!(used, Some("1"));

    stream.kill().await.unwrap();
    let primary = cluster.shard(0).primary();
    let gone = "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'changes' AND NOT active";
    primary.wait_until(gone).await.unwrap();
    run(recvlogical(&cluster).arg("--drop-slot")).await;
    assert!(
        primary
            .sql("SELECT 1 FROM pg_replication_slots")
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_basebackup_gets_what_a_server_gives() {
    let cluster = unsharded().await;
    let directory = tempfile::tempdir().unwrap();
    let port = cluster.configuration().port.to_string();
    let at = ["--host", "127.0.0.1", "--port", &port, "--username", "app"];
    let backup = directory.path().join("backup");
    // two connections: the files, and the log that is written meanwhile
    run(program("pg_basebackup")
        .args(at)
        .args([
            "--checkpoint",
            "fast",
            "--wal-method",
            "stream",
            "--no-sync",
            "--pgdata",
        ])
        .arg(&backup))
    .await;
    for file in ["PG_VERSION", "backup_manifest", "global/pg_control"] {
        assert!(backup.join(file).exists(), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_database_wants_a_shard() {
    let cluster = start(TestCluster::new().shards(2)).await;
    let psql = |options: &str| {
        let port = cluster.configuration().port;
        let mut command = program("psql");
        command
            .args(["-X", "-A", "-t", "-c", "IDENTIFY_SYSTEM"])
            .arg(format!(
                "host=127.0.0.1 port={port} user=app dbname=shop replication=database {options}"
            ));
        command
    };
    let refused = psql("").output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(said.contains("must name its shard"), "{said}");
    assert!(said.contains("-c pgherd.shard=NAME"), "{said}");

    for (number, shard) in ["s0", "s1"].into_iter().enumerate() {
        let said = run(&mut psql(&format!("options='-c pgherd.shard={shard}'"))).await;
        let primary = cluster.shard(number).primary();
        let system = primary
            .sql("SELECT system_identifier::text FROM pg_control_system()")
            .await
            .unwrap();
        assert_eq!(said.split('|').next(), system[0][0].as_deref());
        assert!(said.trim_end().ends_with("|shop"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_for_replication_decide_on_physical_replication() {
    let cluster = TestCluster::new().shards(1).configure(|configuration| {
        configuration.sharding.clear();
        configuration.users =
            "- { name: app, password: app }\n- { name: other, password: other }".into();
        configuration.listen =
            "hba: [host all all samehost scram-sha-256, host replication app samehost scram-sha-256]"
                .into();
    });
    let cluster = start(cluster).await;
    let port = cluster.configuration().port;
    let psql = |user: &str, kind: &str| {
        let mut command = program("psql");
        command
            .args(["-X", "-A", "-t", "-c", "IDENTIFY_SYSTEM"])
            .arg(format!(
                "host=127.0.0.1 port={port} user={user} dbname=shop replication={kind}"
            ));
        command
    };
    run(&mut psql("app", "true")).await;
    let refused = psql("other", "on").output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("no pg_hba.conf entry for replication connection from host \"127.0.0.1\", user \"other\""),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_reaches_a_replication_connection() {
    let cluster = unsharded().await;
    let mut startup = BytesMut::new();
    startup.put_u32(3 << 16);
    startup.put_slice(b"user\0app\0database\0shop\0replication\0database\0\0");
    let mut client = RawClient::connect(&cluster.endpoint()).await;
    let length = u32::try_from(startup.len() + 4).unwrap();
    client.send(&length.to_be_bytes()).await;
    client.send(&startup).await;
    let greeting = client.until_ready().await;
    let key = greeting.iter().find(|message| message.tag == b'K').unwrap();
    client.send(&query("SELECT pg_sleep(600)")).await;
    let primary = cluster.shard(0).primary();
    let runs =
        "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND backend_type = 'walsender'";
    primary.wait_until(runs).await.unwrap();
    cancel(&cluster.endpoint(), &key.body).await;
    let answer = timeout(PATIENCE, client.until_ready()).await.unwrap();
    let error = answer.iter().find(|message| message.tag == b'E').unwrap();
    assert_eq!(error.field(b'C').as_deref(), Some("57014"));
    // and goes on
    let answer = client.query("SELECT 1").await;
    assert!(answer.iter().any(|message| message.tag == b'D'));
}
