//! A herd with the proxy in front.
//!
//! Main types: [`TestCluster`], the description, and [`Cluster`], the running thing.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use pgherd::herd::{Durability, Herd, HerdBuilder, Server, Shard};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::configuration::Configuration;
use crate::product::Product;

/// How long the proxy may take until it serves.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// The shop's schema, as a client creates it through the endpoint.
pub const SHOP: &str = "
CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL);
CREATE TABLE users (id bigint PRIMARY KEY, name text, country text);
CREATE TABLE orders (user_id bigint NOT NULL, id bigint NOT NULL, amount numeric(10, 2), PRIMARY KEY (user_id, id));
CREATE TABLE settings (name text PRIMARY KEY, value text)";

/// Describes a herd and its proxy. By default two shards without replicas, user `app` with password `app`.
#[derive(Debug)]
pub struct TestCluster {
    herd: HerdBuilder,
    shards: u16,
    replicas: u16,
    configuration: Configuration,
    shop: bool,
}

impl Default for TestCluster {
    fn default() -> Self {
        Self::new()
    }
}

impl TestCluster {
    /// One server of a shard, two shards.
    #[must_use]
    pub fn new() -> Self {
        Self {
            herd: Herd::builder().durability(Durability::Fast),
            shards: 2,
            replicas: 0,
            configuration: Configuration::new(0, 0),
            shop: false,
        }
    }

    /// How many shards.
    #[must_use]
    pub fn shards(mut self, shards: u16) -> Self {
        self.shards = shards;
        self
    }

    /// How many replicas a shard has.
    #[must_use]
    pub fn replicas(mut self, replicas: u16) -> Self {
        self.replicas = replicas;
        self
    }

    /// Has the shop's tables ([`SHOP`]) created through the endpoint at the start.
    #[must_use]
    pub fn shop(mut self) -> Self {
        self.shop = true;
        self
    }

    /// Changes how the servers are run.
    #[must_use]
    pub fn servers(mut self, change: impl FnOnce(HerdBuilder) -> HerdBuilder) -> Self {
        self.herd = change(self.herd);
        self
    }

    /// Changes the proxy's configuration.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Configuration)) -> Self {
        change(&mut self.configuration);
        self
    }

    /// Starts the servers and the proxy; returns when the endpoint answers.
    ///
    /// # Panics
    /// If anything does not start.
    pub async fn start(self) -> Cluster {
        let shop = self.shop;
        let cluster = self.start_unready().await;
        cluster.wait_until_ready().await;
        if shop {
            let client = cluster.connect("app").await;
            // statement by statement, as a migration does
            for statement in SHOP.split(';') {
                client
                    .batch_execute(statement)
                    .await
                    .expect("the shop's tables can be made");
            }
            cluster.wait_for_replay().await;
        }
        cluster
    }

    /// The same without waiting for the endpoint.
    ///
    /// # Panics
    /// If the servers do not start.
    pub async fn start_unready(mut self) -> Cluster {
        let directory = tempfile::Builder::new()
            .prefix("herd-")
            .tempdir()
            .expect("there is a temporary directory");
        let herd = self
            .herd
            .shards(self.shards)
            .replicas(self.replicas)
            .directory(directory.path())
            .start()
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let path = directory.path().join("pgherd.yaml");
        let log = directory.path().join("pgherd.log");
        let configuration = &mut self.configuration;
        let product = Product::serve_on_free_ports(&path, &log, |port, http_port| {
            configuration.port = port;
            configuration.http_port = http_port;
            write_secret(&path, &configuration.render(&herd));
        })
        .await;
        Cluster {
            product,
            herd,
            configuration: self.configuration,
            directory,
        }
    }
}

/// A running herd with its proxy. Both are stopped on drop.
#[derive(Debug)]
pub struct Cluster {
    // the proxy goes first, the directory last
    product: Product,
    herd: Herd,
    configuration: Configuration,
    directory: TempDir,
}

impl Cluster {
    /// Where clients connect.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.configuration.port)
    }

    /// The connection string of a user whose password is its name.
    #[must_use]
    pub fn url(&self, user: &str) -> String {
        self.url_to(user, user, "shop")
    }

    /// A connection string.
    #[must_use]
    pub fn url_to(&self, user: &str, password: &str, database: &str) -> String {
        format!(
            "postgresql://{user}:{password}@{}/{database}",
            self.endpoint()
        )
    }

    /// Connects to the shop through the endpoint, as a user whose password is its name.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn connect(&self, user: &str) -> Client {
        let url = self.url(user);
        self.try_connect(&url)
            .await
            .unwrap_or_else(|error| panic!("{url}: {error} {error:?}"))
    }

    /// Connects by a connection string.
    ///
    /// # Errors
    /// What the endpoint answers.
    pub async fn try_connect(&self, url: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        // ends with the client
        tokio::spawn(connection);
        Ok(client)
    }

    /// Connects to the operator's console, which speaks the simple protocol.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn console(&self) -> Client {
        let url = self.url_to("admin", "admin", "pgherd");
        self.try_connect(&url).await.expect("the console is there")
    }

    /// The herd.
    #[must_use]
    pub fn herd(&self) -> &Herd {
        &self.herd
    }

    /// The shard of that number.
    #[must_use]
    pub fn shard(&self, number: usize) -> &Shard {
        &self.herd.shards()[number]
    }

    /// The proxy's process.
    #[must_use]
    pub fn product(&mut self) -> &mut Product {
        &mut self.product
    }

    /// What the proxy has logged.
    #[must_use]
    pub fn product_log(&self) -> String {
        self.product.log_text()
    }

    /// Where all files of this cluster are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The configuration in force.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Writes another configuration file, without telling the proxy.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn rewrite(&mut self, change: impl FnOnce(&mut Configuration)) {
        change(&mut self.configuration);
        let text = self.configuration.render(&self.herd);
        write_secret(&self.configuration_path(), &text);
    }

    /// The configuration file.
    #[must_use]
    pub fn configuration_path(&self) -> std::path::PathBuf {
        self.directory.path().join("pgherd.yaml")
    }

    /// Starts the proxy again after it was killed or has ended.
    ///
    /// # Panics
    /// If it does not serve.
    pub async fn restart_product(&mut self) {
        self.product.kill9();
        self.product = Product::serve(
            &self.configuration_path(),
            &self.directory.path().join("pgherd.log"),
        );
        self.wait_until_ready().await;
    }

    /// The servers whose logs show that a client's statement with this text ran there, by name.
    ///
    /// # Panics
    /// If a log cannot be read.
    #[must_use]
    pub fn ran_on(&self, text: &str) -> Vec<String> {
        self.herd
            .servers()
            .filter(|server| ran(server, text))
            .map(|server| server.name().to_string())
            .collect()
    }

    /// Runs a statement with a mark in it and returns its rows and the servers that ran it.
    ///
    /// # Errors
    /// What the endpoint answers.
    pub async fn trace(
        &self,
        client: &Client,
        statement: &str,
    ) -> Result<Traced, tokio_postgres::Error> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mark = format!("/* mark {} */", NUMBER.fetch_add(1, Ordering::Relaxed));
        // behind the first word: a leading comment would be read as a hint
        let (verb, rest) = statement.split_once(' ').unwrap_or((statement, ""));
        let messages = client
            .simple_query(&format!("{verb} {mark} {rest}"))
            .await?;
        let rows = messages
            .iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(
                    (0..row.len())
                        .map(|column| row.get(column).unwrap_or("NULL").to_owned())
                        .collect(),
                ),
                _ => None,
            })
            .collect();
        Ok(Traced {
            rows,
            servers: self.ran_on(&mark),
        })
    }

    /// Waits until every replica has replayed what its primary has written.
    ///
    /// # Panics
    /// If one does not.
    pub async fn wait_for_replay(&self) {
        for shard in self.herd.shards() {
            let rows = shard
                .primary()
                .sql("SELECT pg_current_wal_insert_lsn()")
                .await
                .expect("the primary answers");
            let position = rows[0][0].as_deref().unwrap_or("0/0");
            for replica in shard.replicas() {
                replica
                    .wait_until(&format!(
                        "SELECT 1 WHERE pg_last_wal_replay_lsn() >= '{position}'"
                    ))
                    .await
                    .expect("the replica replays");
            }
        }
    }

    /// One value from every shard's primary, asked directly.
    ///
    /// # Panics
    /// If a shard does not answer.
    pub async fn on_each_primary(&self, query: &str) -> Vec<String> {
        let mut values = Vec::new();
        for shard in self.herd.shards() {
            let rows = shard
                .primary()
                .sql(query)
                .await
                .unwrap_or_else(|error| panic!("{error}"));
            values.push(rows[0][0].clone().unwrap_or_else(|| "NULL".into()));
        }
        values
    }

    /// Runs psql against the endpoint as `app`, unaligned and tuples only, one `-c` for each command.
    ///
    /// # Panics
    /// If there is no psql.
    pub async fn psql(&self, commands: &[&str]) -> Output {
        let mut psql = tokio::process::Command::new("psql");
        psql.arg(self.url("app")).args(["-X", "-A", "-t"]);
        psql.env("PGCONNECT_TIMEOUT", "10").env("LC_ALL", "C");
        for command in commands {
            psql.args(["-c", command]);
        }
        psql.kill_on_drop(true)
            .output()
            .await
            .expect("psql is installed")
    }

    /// Gets a page of the HTTP address: the status code and the body.
    ///
    /// # Panics
    /// If nobody answers.
    pub async fn http(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream =
            tokio::net::TcpStream::connect(("127.0.0.1", self.configuration.http_port))
                .await
                .expect("the HTTP address is listened on");
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it reads");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .expect("it answers");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status.expect("a status line"), body.to_owned())
    }

    /// Waits until the endpoint answers a query.
    ///
    /// # Panics
    /// If it does not within half a minute.
    pub async fn wait_until_ready(&self) {
        let begun = Instant::now();
        loop {
            let last = match self.try_connect(&self.url("app")).await {
                Ok(client) => match client.simple_query("SELECT 1").await {
                    Ok(_) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            assert!(
                begun.elapsed() < READY_LIMIT,
                "the endpoint does not answer: {last} {last:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What a statement yielded and where it ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// The rows, as text.
    pub rows: Vec<Vec<String>>,
    /// The servers' names, in the herd's order.
    pub servers: Vec<String>,
}

/// The SQLSTATE of an error that a server or the proxy has answered with.
///
/// # Panics
/// If it is another kind of error.
#[must_use]
pub fn sqlstate(error: &tokio_postgres::Error) -> String {
    error
        .code()
        .unwrap_or_else(|| panic!("no SQLSTATE in {error:?}"))
        .code()
        .to_owned()
}

/// Writes a file that holds passwords.
fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).expect("the directory is ours");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .expect("the file is ours");
}

/// Whether a server's log shows a statement with this text, not counting the test's own look at it as superuser.
fn ran(server: &Server, text: &str) -> bool {
    let log = server.log_text().expect("the log is ours to read");
    let mut of_client = false;
    log.lines().any(|line| {
        // a statement of several lines goes on in lines that begin with a tab
        if !line.starts_with('\t') {
            of_client = line.contains("LOG:  ") && !line.contains(" postgres@");
        }
        of_client && line.contains(text)
    })
}
