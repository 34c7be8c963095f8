//! Servers that are configured by host name, and move.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pgherd::herd::{Durability, Herd, ports};
use pgherd_tests::configuration::Configuration;
use pgherd_tests::product::{Product, binary};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

const HOST: &str = "moving.test";
/// Far more than a look-up a second takes.
const PATIENCE: Duration = Duration::from_secs(40);

/// An address by which a server can be reached.
struct Gate {
    address: std::net::SocketAddr,
    open: Arc<AtomicUsize>,
    opened: Arc<AtomicUsize>,
}

impl Gate {
    async fn to(server: u16, address: (&str, u16)) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let gate = Self {
            address: listener.local_addr().unwrap(),
            open: Arc::default(),
            opened: Arc::default(),
        };
        let (open, opened) = (Arc::clone(&gate.open), Arc::clone(&gate.opened));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let open = Arc::clone(&open);
                open.fetch_add(1, Ordering::Relaxed);
                opened.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        gate
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Waits until so many connections lead through it.
    async fn wait_for(&self, open: usize) {
        let begun = Instant::now();
        while self.open.load(Ordering::Relaxed) != open {
            assert!(
                begun.elapsed() < PATIENCE,
                "{} connections lead through {}, not {open}",
                self.open.load(Ordering::Relaxed),
                self.address
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A name service for one process: its own /etc/hosts. Written in place, as it is mounted there.
fn write_hosts(path: &Path, address: Option<&str>) {
    let named = address.map_or(String::new(), |address| format!("{address} {HOST}\n"));
    std::fs::write(path, format!("127.0.0.1 localhost\n{named}")).unwrap();
}

fn may_mount() -> bool {
    let tried = Command::new("unshare").args(["--mount", "true"]).output();
    tried.is_ok_and(|output| output.status.success())
}

fn url(port: u16) -> String {
    format!("postgresql://app:app@127.0.0.1:{port}/shop")
}

/// A client, and what ends it.
async fn connect_to_listen(port: u16) -> (Client, JoinHandle<Result<(), tokio_postgres::Error>>) {
    let (client, connection) = tokio_postgres::connect(&url(port), NoTls).await.unwrap();
    (client, tokio::spawn(connection))
}

async fn connect(port: u16) -> Client {
    let url = url(port);
    let begun = Instant::now();
    loop {
        match tokio_postgres::connect(&url, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error} {error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_follow_a_host_name_and_stay_where_it_cannot_be_resolved() {
    if !may_mount() {
        eprintln!("skipped: only root can give a process name service of its own");
        return;
    }
    let directory = tempfile::Builder::new().prefix("names-").tempdir().unwrap();
    let herd = Herd::builder()
        .directory(directory.path())
        .durability(Durability::Fast)
        .start()
        .await
        .unwrap();
    let server = herd.shards()[0].primary().port();
    let first = Gate::to(server, ("127.0.0.2", 0)).await;
    let second = Gate::to(server, ("127.0.0.3", first.address.port())).await;
    let hosts = directory.path().join("hosts");
    write_hosts(&hosts, Some("127.0.0.2"));

    let ports = ports::choose(2).unwrap();
    let mut configuration = Configuration::new(ports[0], ports[1]);
    configuration.sharding.clear();
    configuration.top = "dns: { ttl: 1s }".into();
    configuration.database = "pool: { size: 2 }".into();
    let text = configuration.render(&herd).replace(
        &format!("\"127.0.0.1:{server}\""),
        &format!("\"{HOST}:{}\"", first.address.port()),
    );
    let path = directory.path().join("pgherd.yaml");
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c"])
        .arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"")
        .arg(&hosts)
        .arg(binary());
    let product = Product::serve_by(command, &path, &directory.path().join("pgherd.log"));

    let (busy, other) = (connect(ports[0]).await, connect(ports[0]).await);
    let (listener, ended) = connect_to_listen(ports[0]).await;
    listener.batch_execute("LISTEN news").await.unwrap();
    busy.batch_execute("BEGIN; SELECT 1").await.unwrap();
    other.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(second.opened(), 0);

    // idle connections go, pgherd's own as well; the one in a transaction stays until its end
    write_hosts(&hosts, Some("127.0.0.3"));
    first.wait_for(1).await;
    // who listened there may have missed something
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    let error = ended.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::ADMIN_SHUTDOWN), "{error:?}");
    let (listener, _running) = connect_to_listen(ports[0]).await;
    listener.batch_execute("LISTEN news").await.unwrap();
    busy.batch_execute("SELECT 1").await.unwrap();
    other.batch_execute("SELECT 1").await.unwrap();
    busy.batch_execute("COMMIT").await.unwrap();
    first.wait_for(0).await;

    // with no answer the last one is good
    write_hosts(&hosts, None);
    let begun = Instant::now();
    while !product.log_text().contains("cannot be resolved") {
        assert!(begun.elapsed() < PATIENCE, "nobody looked the name up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = second.opened();
    busy.batch_execute("BEGIN; SELECT 1").await.unwrap();
    other
        .batch_execute("BEGIN; SELECT 1; COMMIT")
        .await
        .unwrap();
    busy.batch_execute("COMMIT").await.unwrap();
    assert!(second.opened() > before);
    let log = product.log_text();
    assert_eq!(log.matches("cannot be resolved").count(), 1, "{log}");
}
