//! Clients whose machine is gone without a word: no end of their connection ever comes.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::unsharded;

/// Logs in, asks for something long, waits for a line, and is gone: a socket that is closed in repair mode says no goodbye (tcp(7)). Needs
/// CAP_NET_ADMIN.
const VANISHING: &str = r#"
import socket, struct, sys
TCP_REPAIR = 19
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
startup = struct.pack("!I", 3 << 16) + b"user\0app\0database\0shop\0\0"
client.sendall(struct.pack("!I", len(startup) + 4) + startup)
answer = b""
while not answer.endswith(b"Z\0\0\0\5I"):
    answer += client.recv(65536)
query = b"SELECT pg_sleep(600)\0"
client.sendall(b"Q" + struct.pack("!I", len(query) + 4) + query)
print("asked", flush=True)
sys.stdin.readline()
client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
client.close()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_machine_is_gone_is_noticed_and_its_connection_serves_on() {
    let cluster = unsharded(|configuration| {
        configuration.listen =
            "tcp: { keepalive_idle: 1s, keepalive_interval: 1s, keepalive_count: 1 }".into();
        configuration.database = "pool: { size: 1, checkout_timeout: 20s }".into();
    })
    .start()
    .await;
    let mut client = Command::new("python3")
        .args(["-c", VANISHING, &cluster.configuration().port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(client.stdout.take().unwrap()).lines();
    if said.next_line().await.unwrap().as_deref() != Some("asked") {
        let failed = client.wait_with_output().await.unwrap();
        let why = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(why.contains("PermissionError"), "{why}");
        eprintln!("skipped: only root can have a socket vanish");
        return;
    }
    let primary = cluster.shard(0).primary();
    let asked = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%sleep(600)%' AND usename = 'app'";
    primary.wait_until(asked).await.unwrap();
    let before = primary.sql(asked).await.unwrap().len();
    assert_eq!(before, 1);
    client.stdin.take().unwrap().write_all(b"\n").await.unwrap();
    assert!(client.wait().await.unwrap().success());

    // the pool's one connection is free again; without keepalive it would not be for ten minutes
    let next = cluster.connect("app").await;
    next.batch_execute("SELECT 1").await.unwrap();
    assert!(primary.sql(asked).await.unwrap().is_empty());
}
