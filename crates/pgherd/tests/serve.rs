//! The proxy in this process, in front of one real server: what is bound, reloaded and drained.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgherd::config::{self, Loaded};
use pgherd::herd::{Herd, ports};
use pgherd::serve::{ServeError, Server};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// One server, and the configuration in front of it.
struct Setting {
    directory: TempDir,
    herd: Herd,
}

impl Setting {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let herd = Herd::builder()
            .shards(1)
            .replicas(0)
            .directory(directory.path().join("herd"))
            .start()
            .await
            .unwrap();
        Self { directory, herd }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("pgherd.yaml")
    }

    /// Writes the configuration: the given `listen` keys and top-level keys, and users.
    fn write(&self, listen: &str, top: &str, users: &str) {
        let source = format!(
            "listen: {{ address: \"127.0.0.1:0\", {listen} }}\n{top}databases:\n  shop:\n    users: [{users}]\n    \
             control_login: {{ user: pgherd, password: pgherd }}\n    shards:\n      - name: s0\n        \
             servers: [{{ name: s0a, address: \"127.0.0.1:{}\" }}]\n",
            self.herd.server("s0a").unwrap().port()
        );
        std::fs::write(self.path(), source).unwrap();
    }

    fn load(&self) -> Loaded {
        config::load(&self.path()).unwrap_or_else(|error| panic!("{error}"))
    }

    async fn serve(&self) -> Server {
        Server::start(&self.path(), self.load()).await.unwrap()
    }
}

const APP: &str = "{ name: app, password: app }";

async fn connect(
    server: &Server,
    user: &str,
    database: &str,
) -> Result<Client, tokio_postgres::Error> {
    let port = server.addresses()[0].port();
    let url = format!("postgresql://{user}:{user}@127.0.0.1:{port}/{database}");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    // ends with the client
    tokio::spawn(connection);
    Ok(client)
}

async fn answers(client: &Client) -> bool {
    client.batch_execute("SELECT 1").await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_adds_and_removes_databases_and_drops_nobody() {
    let setting = Setting::new().await;
    setting.write("", "", APP);
    let mut server = setting.serve().await;
    let before = connect(&server, "app", "shop").await.unwrap();
    assert!(answers(&before).await);

    let renamed = std::fs::read_to_string(setting.path())
        .unwrap()
        .replace("  shop:\n", "  other:\n    server_database: shop\n");
    std::fs::write(setting.path(), renamed).unwrap();
    server.reload(None).unwrap();
    let error = connect(&server, "app", "shop").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "3D000");
    let after = connect(&server, "app", "other").await.unwrap();
    // the new database's servers may not have been looked at yet
    tokio::time::timeout(Duration::from_secs(10), async {
        while !answers(&after).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    assert!(answers(&before).await, "those connected stay");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_cannot_be_applied_changes_nothing() {
    let setting = Setting::new().await;
    setting.write("max_clients: 5", "", APP);
    let mut server = setting.serve().await;
    // neither a file that is wrong ...
    std::fs::write(setting.path(), "listen: [").unwrap();
    server.reload(None).unwrap_err();
    assert_eq!(server.herd().settings().max_clients, 5);
    // ... nor one whose certificate is none
    let none = setting.directory.path().join("none.pem");
    std::fs::write(&none, "").unwrap();
    let tls = format!(
        "max_clients: 6, tls: {{ mode: prefer, certificate: {0}, key: {0} }}",
        none.display()
    );
    setting.write(&tls, "", "{ name: app, password: changed }");
    server.reload(None).unwrap_err();
    assert_eq!(server.herd().settings().max_clients, 5);
    assert!(connect(&server, "app", "shop").await.is_ok());
    // a right one is
    setting.write("max_clients: 7", "", APP);
    server.reload(None).unwrap();
    assert_eq!(server.herd().settings().max_clients, 7);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_watch_a_drain_and_does_not_hold_it_up() {
    let setting = Setting::new().await;
    setting.write(
        "drain_timeout: 20s",
        "admin: { users: [{ name: admin, password: admin }] }\n",
        APP,
    );
    let mut server = setting.serve().await;
    let console = connect(&server, "admin", "pgherd").await.unwrap();
    let busy = connect(&server, "app", "shop").await.unwrap();
    let idle = connect(&server, "app", "shop").await.unwrap();
    busy.batch_execute("BEGIN").await.unwrap();
    busy.batch_execute("SELECT 1").await.unwrap();
    let draining = tokio::spawn(async move {
        server.drain().await;
        server
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!draining.is_finished());
    console.simple_query("SHOW CLIENTS").await.unwrap();
    let error = idle.batch_execute("SELECT 1").await.unwrap_err();
    assert!(error.is_closed() || error.code().unwrap().code() == "57P01");
    busy.batch_execute("COMMIT").await.unwrap();
    let server = tokio::time::timeout(Duration::from_secs(5), draining)
        .await
        .unwrap()
        .unwrap();
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_named_after_the_port_replaced_if_stale_and_removed_at_the_end() {
    let setting = Setting::new().await;
    let directory = setting.directory.path().to_owned();
    let port = ports::choose(1).unwrap()[0];
    let listen = |port: u16| {
        setting.write(&format!("unix: {}", directory.display()), "", APP);
        let source = std::fs::read_to_string(setting.path()).unwrap();
        std::fs::write(
            setting.path(),
            source.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")),
        )
        .unwrap();
    };
    listen(port);
    let socket = directory.join(format!(".s.PGSQL.{port}"));
    // left behind by a process that was killed
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let server = setting.serve().await;
    let (client, connection) = tokio_postgres::Config::new()
        .host_path(&directory)
        .port(port)
        .user("app")
        .password("app")
        .dbname("shop")
        .connect(NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    assert!(answers(&client).await);

    let taken = Server::start(&setting.path(), setting.load())
        .await
        .unwrap_err();
    assert!(matches!(taken, ServeError::Listen { .. }), "{taken}");
    let line = taken.to_string();
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.contains(&port.to_string()), "{line}");
    assert!(
        Path::new(&socket).exists(),
        "the one that runs keeps its socket"
    );

    drop(client);
    server.shutdown().await;
    assert!(!socket.exists());
}
