//! A shard of three durable servers behind a pgherd that promotes, with clients that write all the time.
//!
//! Owns what scenarios ask and wait for. Main type: [`Scene`].

use std::future::Future;
use std::time::{Duration, Instant};

use pgherd::herd::{Durability, Server};
use pgherd_tests::Cluster;
use pgherd_tests::asking::{Row, rows, unsharded};
use tokio_postgres::{Client, NoTls};

use crate::checker::Verdict;
use crate::writers::{TABLE, Writers};

/// Long enough for anything that comes at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of a server's log, in the account of a failure.
const LAST_LINES: usize = 20;
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);
/// After a server is asked around pgherd, so long for an answer: a frozen one gives none.
const DIRECT_LIMIT: Duration = Duration::from_secs(3);
/// Writes flow again once so many more were acknowledged.
const FLOWING: u64 = 200;

/// Whether standbys acknowledge commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    Synchronous,
    Asynchronous,
}

/// The shard, and who writes to it.
#[derive(Debug)]
pub struct Scene {
    pub cluster: Cluster,
    replication: Replication,
    writers: Option<Writers>,
    fault: Instant,
}

impl Scene {
    /// Servers as Postgres runs them, with a standby that acknowledges.
    pub async fn new() -> Self {
        Self::of(Replication::Synchronous).await
    }

    /// With standbys that acknowledge or do not.
    pub async fn of(replication: Replication) -> Self {
        let sync = match replication {
            Replication::Synchronous => "mode: promote\nsync: { acks: 1 }",
            Replication::Asynchronous => "mode: promote",
        };
        let cluster = unsharded(|configuration| {
            configuration.users = "- { name: app, password: app, trust: 127.0.0.1 }".into();
            configuration.failover = sync.into();
        })
        .replicas(2)
        .servers(|herd| herd.durability(Durability::Durable))
        .start()
        .await;
        let client = cluster.connect("app").await;
        client.batch_execute(TABLE).await.unwrap();
        cluster.wait_for_replay().await;
        let mut scene = Self {
            cluster,
            replication,
            writers: None,
            fault: Instant::now(),
        };
        scene.wait_until_acknowledged_by(2).await;
        scene.writers = Some(Writers::start(&scene.cluster.endpoint()));
        scene.writes_flow().await;
        scene
    }

    pub fn server(&self, name: &str) -> &Server {
        self.cluster.herd().server(name).unwrap()
    }

    pub fn primary(&self) -> &Server {
        self.cluster.shard(0).primary()
    }

    pub fn primary_name(&self) -> String {
        self.primary().name().to_string()
    }

    /// The others.
    pub fn standby_names(&self) -> Vec<String> {
        let standbys = self.cluster.shard(0).replicas();
        standbys.map(|server| server.name().to_string()).collect()
    }

    /// From now on it is counted how long nothing is written.
    pub fn fault_begins(&mut self) {
        self.fault = Instant::now();
    }

    pub async fn rows(&self, command: &str) -> Vec<Row> {
        rows(&self.cluster.console().await, command).await
    }

    /// The servers that pgherd sends writes to.
    pub async fn reigning(&self) -> Vec<String> {
        let servers = self.rows("SHOW SHARDS").await;
        servers
            .iter()
            .filter(|row| row["role"].as_deref() == Some("primary"))
            .filter_map(|row| row["server"].clone())
            .collect()
    }

    pub async fn role(&self, server: &str) -> String {
        let servers = self.rows("SHOW SHARDS").await;
        let row = servers
            .iter()
            .find(|row| row["server"].as_deref() == Some(server));
        row.unwrap()["role"].clone().unwrap()
    }

    /// Gives an order on the console, and returns what it is refused with.
    pub async fn order(&self, command: &str) -> Result<(), String> {
        let console = self.cluster.console().await;
        let done = console.simple_query(command).await;
        done.map(drop).map_err(|error| {
            let told = error.as_db_error().map(|error| error.message().to_owned());
            told.unwrap_or_else(|| error.to_string())
        })
    }

    /// Waits for another primary than this one, and returns its name.
    pub async fn successor_of(&self, old: &str) -> String {
        self.until("another primary", async || {
            let reigning = self.reigning().await;
            reigning.into_iter().find(|server| server != old)
        })
        .await
    }

    /// The same, and tells the herd.
    pub async fn promoted_after(&self, old: &str) -> String {
        let new = self.successor_of(old).await;
        self.cluster.shard(0).note_primary(&new).unwrap();
        new
    }

    /// How many changes of primary came to an end with another one.
    pub async fn promotions(&self) -> usize {
        let changes = self.rows("SHOW FAILOVERS").await;
        let promoted = |row: &&Row| row["outcome"].as_deref() == Some("promoted");
        changes.iter().filter(promoted).count()
    }

    /// Waits for an event of this kind whose text has this in it.
    pub async fn event(&self, kind: &str, text: &str) {
        self.until(&format!("the event {kind}: {text}"), async || {
            self.has_event(kind, text).await.then_some(())
        })
        .await;
    }

    pub async fn has_event(&self, kind: &str, text: &str) -> bool {
        let events = self.rows("SHOW EVENTS").await;
        events.iter().any(|row| {
            row["event"].as_deref() == Some(kind)
                && row["text"].as_deref().unwrap_or_default().contains(text)
        })
    }

    /// Waits until so many standbys acknowledge commits; where they do not have to, until they stream.
    pub async fn wait_until_acknowledged_by(&self, standbys: usize) {
        let state = match self.replication {
            Replication::Synchronous => "quorum",
            Replication::Asynchronous => "async",
        };
        let query = format!(
            "SELECT 1 FROM pg_stat_replication WHERE sync_state = '{state}' AND state = 'streaming' HAVING count(*) = {standbys}"
        );
        self.primary().wait_until(&query).await.unwrap();
    }

    /// Makes a standby of a deposed primary.
    pub async fn rejoin(&self, server: &str) {
        // the server is put in quarantine after the successor is there
        self.until("a rejoin", async || {
            let done = self.order(&format!("REJOIN SERVER {server}")).await;
            match done {
                Ok(()) => Some(()),
                Err(told) if told.contains("is being changed already") => None,
                Err(told) if told.contains("follows the primary already") => Some(()),
                Err(told) => panic!("REJOIN SERVER {server}: {told}"),
            }
        })
        .await;
        assert!(self.server(server).is_standby());
        assert_eq!(self.role(server).await, "replica");
    }

    /// Waits for further acknowledgements.
    pub async fn writes_flow(&self) {
        let writers = self.writers.as_ref().unwrap();
        let before = writers.acknowledged();
        self.until("acknowledged writes", async || {
            (writers.acknowledged() >= before + FLOWING).then_some(())
        })
        .await;
    }

    /// A connection to a server around pgherd.
    pub async fn direct(&self, server: &str) -> Result<Client, String> {
        let port = self.server(server).port();
        let url = format!("host=127.0.0.1 port={port} user=app password=app dbname=shop");
        let connecting = tokio::time::timeout(DIRECT_LIMIT, tokio_postgres::connect(&url, NoTls));
        let (client, connection) = match connecting.await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(format!("{error:?}")),
            Err(_) => return Err("no answer".into()),
        };
        tokio::spawn(connection);
        Ok(client)
    }

    /// Ends the load, and asserts that one server reigns, takes writes, and has all that was acknowledged where that was promised.
    pub async fn end(mut self) -> Verdict {
        self.wait_until_one_reigns().await;
        self.writes_flow().await;
        for change in self.rows("SHOW FAILOVERS").await {
            let [kind, from, to, outcome, took, steps] =
                ["kind", "from", "to", "outcome", "took", "steps"]
                    .map(|column| change[column].as_deref().unwrap_or("nobody"));
            println!("       {kind} from {from} to {to}: {outcome} in {took} s ({steps})");
        }
        let record = self.writers.take().unwrap().stop().await;
        self.wait_until_one_reigns().await;
        let verdict = Verdict::reach(record, self.primary(), self.fault).await;
        if self.replication == Replication::Synchronous {
            let lost = &verdict.lost;
            assert!(lost.is_empty(), "lost: {lost:?}\n{}", self.account().await);
        }
        verdict
    }

    /// What pgherd has done, for who looks for the cause of a failure.
    pub async fn account(&self) -> String {
        let mut text = String::new();
        for server in self.cluster.shard(0).servers() {
            let log = server.log_text().unwrap_or_default();
            let lines: Vec<&str> = log
                .lines()
                .filter(|line| !line.contains("LOG:  statement") && !line.contains("LOG:  execute"))
                .collect();
            text += &lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
            text += "\n";
        }
        for command in ["SHOW SHARDS", "SHOW FAILOVERS", "SHOW EVENTS"] {
            for row in self.rows(command).await {
                text += &format!("{row:?}\n");
            }
        }
        text
    }

    /// Waits until pgherd knows one primary, and every other server that answers is a standby or fenced.
    pub async fn wait_until_one_reigns(&self) {
        let reigning = self
            .until("one primary", async || {
                let reigning = self.reigning().await;
                assert!(reigning.len() < 2, "{reigning:?}");
                reigning.into_iter().next()
            })
            .await;
        self.cluster.shard(0).note_primary(&reigning).unwrap();
        for server in self.cluster.shard(0).replicas() {
            self.until("a fence", async || is_harmless(server).await.then_some(()))
                .await;
        }
    }

    async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut look: impl FnMut() -> F,
    ) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            if begun.elapsed() > PATIENCE {
                panic!("waited in vain for {what}\n{}", self.account().await);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Whether nobody can be acknowledged a write by the server: it does not answer, is a standby, or waits for nobody.
async fn is_harmless(server: &Server) -> bool {
    let asking = server.sql(
        "SELECT pg_is_in_recovery() OR current_setting('synchronous_standby_names') LIKE '\"pgherd\\_fenced\\_%'",
    );
    match tokio::time::timeout(DIRECT_LIMIT, asking).await {
        Ok(Ok(rows)) => rows[0][0].as_deref() == Some("t"),
        Ok(Err(_)) | Err(_) => true,
    }
}
