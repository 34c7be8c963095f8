//! The servers, the proxy over them and the plain databases beside them.
//!
//! One herd carries all: for each number of shards a database of its own over so many of the servers, which pgherd serves, and a
//! plain one on the first server, which nobody shards. Owns the start, the rows that a round begins with, and the question whether
//! both sides hold the same. Main types: [`World`], [`Pair`].

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use pgherd::herd::{Durability, Herd, Server, ports};
use tempfile::TempDir;

use super::client::{Answer, Connection, Part};
use super::comparison::describe;
use super::watch::{Watch, kept};
use crate::product::{Product, binary};

/// How long the proxy may take until it serves, or sees a table.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// What the databases are to hold.
#[derive(Debug, Clone)]
pub struct Plot {
    /// One database over so many shards each.
    pub shard_counts: Vec<u16>,
    /// Replicas of each shard.
    pub replicas: u16,
    /// The `sharding:` of the configuration.
    pub sharding: &'static str,
    /// Further keys of each database in the configuration, such as `reads: { from: primary }`.
    pub database: &'static str,
    /// DDL, run on every server behind pgherd's back.
    pub behind: Vec<String>,
    /// DDL after it, sent through pgherd; what it refuses is run on every server instead.
    pub definitions: Vec<String>,
    /// The first rows, one INSERT each.
    pub rows: Vec<String>,
    /// Run after those on every database: rows made from rows that lie there.
    pub direct: Vec<String>,
    /// Sharded tables.
    pub sharded: Vec<&'static str>,
    /// Further sharded tables, without rows at first.
    pub empty: Vec<&'static str>,
    /// Reference tables.
    pub reference: Vec<&'static str>,
    /// Tables of the first shard.
    pub unlisted: Vec<&'static str>,
}

/// All that runs. Stopped on drop.
#[derive(Debug)]
pub struct World {
    // the proxy goes first, the directory last
    product: Product,
    herd: Herd,
    configuration: PathBuf,
    _directory: TempDir,
    pairs: Vec<Pair>,
    /// Definitions that pgherd refused.
    pub refused_definitions: Vec<String>,
    /// Definitions that failed through pgherd, and not on one Postgres.
    pub failed_definitions: Vec<String>,
}

/// A sharded database and the plain one beside it.
#[derive(Debug, Clone)]
pub struct Pair {
    /// How many shards.
    pub shards: u16,
    /// Where pgherd listens.
    pub endpoint: String,
    /// The database behind pgherd and on each of its servers.
    pub database: String,
    /// Where the plain one is.
    pub plain_endpoint: String,
    /// Its name.
    pub plain_database: String,
    /// The primaries, by shard.
    pub servers: Vec<String>,
    pub(super) plot: Plot,
}

impl World {
    /// Starts everything; returns when both sides hold the first rows.
    ///
    /// # Panics
    /// If anything does not start, or the first rows cannot be written through pgherd.
    pub async fn start(plot: Plot) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("oracle-")
            .tempdir()
            .expect("there is a temporary directory");
        let most = plot.shard_counts.iter().copied().max().unwrap_or(1);
        let herd = Herd::builder()
            .durability(Durability::Fast)
            .setting("log_statement", "none")
            .setting("log_min_messages", "fatal")
            .host_line("host all app 127.0.0.1/32 trust")
            .shards(most)
            .replicas(plot.replicas)
            .directory(directory.path())
            .start()
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let port = ports::choose(1).expect("one of seventeen thousand ports is free")[0];
        let address = |server: &Server| format!("127.0.0.1:{}", server.port());
        let servers: Vec<String> = herd
            .shards()
            .iter()
            .map(|shard| address(shard.primary()))
            .collect();
        let pairs: Vec<Pair> = plot
            .shard_counts
            .iter()
            .map(|shards| Pair {
                shards: *shards,
                endpoint: format!("127.0.0.1:{port}"),
                database: format!("over{shards}"),
                plain_endpoint: servers[0].clone(),
                plain_database: format!("plain{shards}"),
                servers: servers[..usize::from(*shards)].to_vec(),
                plot: plot.clone(),
            })
            .collect();
        make_databases(&herd, &pairs).await;
        let configuration = directory.path().join("pgherd.yaml");
        write_secret(&configuration, &configuration_text(&herd, &plot, &pairs));
        let product = Product::serve(&configuration, &directory.path().join("pgherd.log"));
        let mut world = Self {
            product,
            herd,
            configuration,
            _directory: directory,
            pairs,
            refused_definitions: Vec::new(),
            failed_definitions: Vec::new(),
        };
        world.fill().await;
        world
    }

    /// The databases, in the order of the plot's numbers of shards.
    #[must_use]
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// The herd.
    #[must_use]
    pub fn herd(&self) -> &Herd {
        &self.herd
    }

    /// What the proxy has logged.
    #[must_use]
    pub fn product_log(&self) -> String {
        self.product.log_text()
    }

    /// Runs `pgherd check --rows` and returns what it says.
    ///
    /// # Errors
    /// What it says where it finds a row on the wrong shard.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn check_rows(&self) -> Result<String, String> {
        let output = Command::new(binary())
            .args(["check", "--rows", "--config"])
            .arg(&self.configuration)
            .output()
            .expect("the binary was just built");
        let text = [output.stdout, output.stderr]
            .iter()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .collect();
        if output.status.success() {
            Ok(text)
        } else {
            Err(text)
        }
    }

    async fn fill(&mut self) {
        for pair in &self.pairs {
            let mut client = wait_until_ready(pair).await;
            let mut plain = Connection::open(&pair.plain_endpoint, &pair.plain_database).await;
            for definition in &pair.plot.behind {
                expect_done(&mut plain, definition).await;
                for server in &pair.servers {
                    let mut direct = Connection::open(server, &pair.database).await;
                    expect_done(&mut direct, definition).await;
                }
            }
            for definition in &pair.plot.definitions {
                expect_done(&mut plain, definition).await;
                let answer = client.simple(definition).await;
                let Some(failure) = answer.failure() else {
                    continue;
                };
                let refused = answer.is_refused();
                for server in &pair.servers {
                    let mut direct = Connection::open(server, &pair.database).await;
                    let made = direct.simple(definition).await;
                    assert!(
                        !refused || made.failure().is_none(),
                        "{definition}\n{}",
                        describe(&made)
                    );
                }
                if refused {
                    self.refused_definitions.push(definition.clone());
                } else {
                    self.failed_definitions.push(format!(
                        "{definition}: {} {}",
                        failure.state, failure.message
                    ));
                }
            }
            for row in &pair.plot.rows {
                expect_done(&mut plain, row).await;
                let begun = Instant::now();
                loop {
                    let answer = client.simple(row).await;
                    if answer.failure().is_none() {
                        break;
                    }
                    // what was made behind pgherd's back is seen within a second
                    assert!(
                        begun.elapsed() < READY_LIMIT,
                        "{row}\n{}",
                        describe(&answer)
                    );
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            for statement in &pair.plot.direct {
                expect_done(&mut plain, statement).await;
                for server in &pair.servers {
                    let mut direct = Connection::open(server, &pair.database).await;
                    expect_done(&mut direct, statement).await;
                }
            }
            pair.keep_first_rows().await;
        }
        if !self.refused_definitions.is_empty() {
            // seen within a second or two
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        for pair in &self.pairs {
            pair.watch()
                .await
                .sides_agree()
                .await
                .unwrap_or_else(|why| panic!("{why}"));
        }
    }
}

impl Pair {
    /// A client of pgherd.
    pub async fn client(&self) -> Connection {
        Connection::open(&self.endpoint, &self.database).await
    }

    /// A client of the plain database.
    pub async fn plain(&self) -> Connection {
        Connection::open(&self.plain_endpoint, &self.plain_database).await
    }

    /// The first column of a query on one of its servers, asked directly.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn values(&self, server: &str, sql: &str) -> Vec<String> {
        let mut direct = Connection::open(server, &self.database).await;
        let answer = expect_done(&mut direct, sql).await;
        let rows = answer.parts.iter().filter_map(|part| match part {
            Part::Row(values) => values.first(),
            _ => None,
        });
        rows.map(|value| String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned())
            .collect()
    }

    /// Every database with the tables that it holds: the plain one, then the shards.
    fn holders(&self) -> Vec<(&str, &str, Vec<&'static str>)> {
        let plot = &self.plot;
        let spread = [plot.sharded.as_slice(), &plot.empty, &plot.reference].concat();
        let all = [spread.as_slice(), &plot.unlisted].concat();
        let mut holders = vec![(
            self.plain_endpoint.as_str(),
            self.plain_database.as_str(),
            all.clone(),
        )];
        for (shard, server) in self.servers.iter().enumerate() {
            let tables = if shard == 0 {
                all.clone()
            } else {
                spread.clone()
            };
            holders.push((server, &self.database, tables));
        }
        holders
    }

    /// Copies what is there now, to begin each round with.
    async fn keep_first_rows(&self) {
        for (endpoint, database, tables) in self.holders() {
            let mut direct = Connection::open(endpoint, database).await;
            expect_done(&mut direct, "CREATE SCHEMA fixture").await;
            for table in tables {
                let copy = format!("CREATE TABLE {} AS SELECT * FROM ONLY {table}", kept(table));
                expect_done(&mut direct, &copy).await;
            }
        }
    }

    /// A look into every database.
    pub async fn watch(&self) -> Watch {
        let mut connections = Vec::new();
        for (endpoint, database, tables) in self.holders() {
            connections.push((Connection::open(endpoint, database).await, tables));
        }
        Watch {
            pair: self.clone(),
            connections,
        }
    }
}

/// Runs statements that must succeed.
async fn expect_done(connection: &mut Connection, sql: &str) -> Answer {
    let answer = connection.simple(sql).await;
    assert!(answer.failure().is_none(), "{sql}\n{}", describe(&answer));
    answer
}

/// Databases on the first so many servers each, and the plain ones on the first.
async fn make_databases(herd: &Herd, pairs: &[Pair]) {
    for pair in pairs {
        for shard in &herd.shards()[..usize::from(pair.shards)] {
            make_database(shard.primary(), &pair.database).await;
        }
        make_database(herd.shards()[0].primary(), &pair.plain_database).await;
    }
}

async fn make_database(server: &Server, name: &str) {
    for statement in [
        format!("CREATE DATABASE {name} OWNER app"),
        format!("GRANT CREATE ON DATABASE {name} TO pgherd"),
    ] {
        server
            .sql_in("postgres", &statement)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

fn configuration_text(herd: &Herd, plot: &Plot, pairs: &[Pair]) -> String {
    let mut text = format!(
        "listen: {{ address: {} }}\nstate: {{ file: state.json }}\nworkers: 1\ndatabases:\n",
        pairs[0].endpoint
    );
    for pair in pairs {
        let _ = write!(
            text,
            "  {}:\n    users: [{{ name: app, trust: 127.0.0.1 }}]\n    server_login: {{ user: app, password: app }}\n    \
             control_login: {{ user: pgherd, password: pgherd }}\n",
            pair.database
        );
        push_indented(&mut text, plot.database, 4);
        text += "    shards:\n";
        for shard in &herd.shards()[..usize::from(pair.shards)] {
            let _ = writeln!(text, "      - name: {}\n        servers:", shard.name());
            for server in shard.servers() {
                let _ = writeln!(
                    text,
                    "          - {{ name: {}, address: \"127.0.0.1:{}\" }}",
                    server.name(),
                    server.port()
                );
            }
        }
        text += "    sharding:\n";
        push_indented(&mut text, plot.sharding, 6);
    }
    text
}

fn push_indented(text: &mut String, lines: &str, by: usize) {
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let _ = writeln!(text, "{:by$}{line}", "");
    }
}

async fn wait_until_ready(pair: &Pair) -> Connection {
    let begun = Instant::now();
    loop {
        if tokio::net::TcpStream::connect(&pair.endpoint).await.is_ok() {
            let client = Connection::try_open(&pair.endpoint, &pair.database).await;
            if let Ok(mut client) = client
                && client.simple("SELECT 1").await.failure().is_none()
            {
                return client;
            }
        }
        assert!(
            begun.elapsed() < READY_LIMIT,
            "the endpoint does not answer"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Writes a file that holds passwords.
fn write_secret(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).expect("the directory is ours");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .expect("the file is ours");
}
