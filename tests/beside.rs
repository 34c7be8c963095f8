//! The same bytes to pgherd and to a plain Postgres: the best oracle for the protocol.
//!
//! Owns: the plain server beside the herd, and answers in a form that can be compared. Main types: [`Beside`], [`Talk`].

use std::fmt::Write;
use std::time::Duration;

use pgherd::herd::{Durability, Herd};
use tempfile::TempDir;

use crate::cluster::{Cluster, TestCluster};
use crate::wire::{Message, RawClient};

/// So long a server that answers nothing more is waited for.
const QUIET: Duration = Duration::from_millis(400);
/// So long an answer that must come is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who may come in without a password.
const TRUSTED: &str = "- { name: app, password: app, trust: 127.0.0.1 }";

/// What the answers to some bytes end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// So many ReadyForQuery.
    Ready(usize),
    /// So many messages, after which nothing more comes by itself.
    Quiet,
    /// The end of the connection.
    Closed,
}

/// Bytes to send, one after the other, each with what its answers end with.
#[derive(Debug, Clone, Default)]
pub struct Talk {
    steps: Vec<(Vec<u8>, Until)>,
}

impl Talk {
    /// Says nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends messages and waits for what they end with.
    #[must_use]
    pub fn say<Part: AsRef<[u8]>>(
        mut self,
        messages: impl IntoIterator<Item = Part>,
        until: Until,
    ) -> Self {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.extend_from_slice(message.as_ref());
        }
        self.steps.push((bytes, until));
        self
    }

    /// Sends messages that one ReadyForQuery answers.
    #[must_use]
    pub fn ready<Part: AsRef<[u8]>>(self, messages: impl IntoIterator<Item = Part>) -> Self {
        self.say(messages, Until::Ready(1))
    }

    /// Sends messages that no ReadyForQuery answers.
    #[must_use]
    pub fn quiet<Part: AsRef<[u8]>>(self, messages: impl IntoIterator<Item = Part>) -> Self {
        self.say(messages, Until::Quiet)
    }
}

/// A herd with its proxy, and one plain Postgres.
#[derive(Debug)]
pub struct Beside {
    /// The herd.
    pub cluster: Cluster,
    plain: Herd,
    _directory: TempDir,
}

impl Beside {
    /// One shard, nothing sharded: what every Postgres does, pgherd does.
    ///
    /// # Panics
    /// If anything does not start.
    pub async fn unsharded() -> Self {
        Self::with(
            TestCluster::new()
                .shards(1)
                .configure(|configuration| configuration.sharding = String::new()),
        )
        .await
    }

    /// As [`Beside::unsharded`], with two connections for all clients.
    ///
    /// # Panics
    /// If anything does not start.
    pub async fn two_connections() -> Self {
        Self::with(TestCluster::new().shards(1).configure(|configuration| {
            configuration.sharding = String::new();
            configuration.database = "pool: { size: 2 }".into();
        }))
        .await
    }

    /// Three shards with the shop's tables.
    ///
    /// # Panics
    /// If anything does not start.
    pub async fn sharded() -> Self {
        Self::with(TestCluster::new().shards(3)).await
    }

    async fn with(cluster: TestCluster) -> Self {
        let cluster = cluster
            .shop()
            .configure(|configuration| configuration.users = TRUSTED.into())
            .start()
            .await;
        let directory = tempfile::tempdir().expect("there is a temporary directory");
        let plain = Herd::builder()
            .directory(directory.path())
            .durability(Durability::Fast)
            .host_line("host all app 127.0.0.1/32 trust")
            .start()
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let beside = Self {
            cluster,
            plain,
            _directory: directory,
        };
        let mut client = RawClient::log_in(&beside.plain_endpoint(), "app", "shop").await;
        let answers = client.query(crate::cluster::SHOP).await;
        assert!(answers.iter().all(|answer| answer.tag != b'E'));
        beside
    }

    /// Runs a text on the plain server and on each primary of the herd, as their superuser.
    ///
    /// # Panics
    /// If one refuses it.
    pub async fn sql_on_both(&self, sql: &str) {
        let herds = [&self.plain, self.cluster.herd()];
        for shard in herds.into_iter().flat_map(Herd::shards) {
            shard
                .primary()
                .sql(sql)
                .await
                .unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Where the plain server listens.
    #[must_use]
    pub fn plain_endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.plain.shards()[0].primary().port())
    }

    /// What the plain server and pgherd answer, line by line, up to the first step whose answers differ.
    ///
    /// # Panics
    /// If one cannot be logged in to, or the plain server does not answer.
    pub async fn answers(&self, talk: &Talk) -> (Vec<String>, Vec<String>) {
        let mut plain = RawClient::log_in(&self.plain_endpoint(), "app", "shop").await;
        let mut ours = RawClient::log_in(&self.cluster.endpoint(), "app", "shop").await;
        let (mut expected, mut got) = (Vec::new(), Vec::new());
        for (bytes, until) in &talk.steps {
            send(&mut plain, bytes).await;
            let from_plain = read(&mut plain, *until, None).await;
            send(&mut ours, bytes).await;
            let from_ours = read(&mut ours, *until, Some(from_plain.len())).await;
            let differ = from_plain != from_ours;
            expected.extend(from_plain);
            got.extend(from_ours);
            if differ {
                // what follows would differ for this reason
                break;
            }
        }
        (expected, got)
    }

    /// `None` where pgherd answers a talk as the plain server does, or refuses it with 0A000 where it may.
    ///
    /// # Panics
    /// See [`Beside::answers`].
    pub async fn difference(&self, name: &str, talk: &Talk, may_refuse: bool) -> Option<String> {
        let (expected, got) = self.answers(talk).await;
        if got == expected {
            return None;
        }
        if may_refuse && let Some(refusal) = got.iter().find(|line| line.starts_with("E 0A000")) {
            eprintln!("{name}: {refusal}");
            return None;
        }
        let mut text = format!("{name}\n");
        for index in 0..expected.len().max(got.len()) {
            let (theirs, ours) = (expected.get(index), got.get(index));
            let mark = if theirs == ours { ' ' } else { '!' };
            writeln!(
                text,
                "  {mark} Postgres {:50} pgherd {}",
                theirs.map_or("-", String::as_str),
                ours.map_or("-", String::as_str)
            )
            .expect("a string takes all");
        }
        Some(text)
    }
}

/// Sends what the other side takes; one that does not read has to answer for that in what is read of it.
async fn send(client: &mut RawClient, bytes: &[u8]) {
    let _ = tokio::time::timeout(PATIENCE, client.send(bytes)).await;
}

/// Reads to the end of an answer. With `expected`, that many messages are waited for before it is thought to be quiet.
async fn read(client: &mut RawClient, until: Until, expected: Option<usize>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut ready = 0;
    loop {
        let patience = match until {
            Until::Quiet if expected.is_none_or(|expected| lines.len() >= expected) => QUIET,
            _ => PATIENCE,
        };
        match tokio::time::timeout(patience, client.message()).await {
            Err(_) if until == Until::Quiet && patience == QUIET => return lines,
            Err(_) => {
                lines.push("nothing more comes".into());
                return lines;
            }
            Ok(None) => {
                lines.push("closed".into());
                return lines;
            }
            Ok(Some(message)) => {
                ready += usize::from(message.tag == b'Z');
                lines.push(summary(&message));
                if until == Until::Ready(ready) {
                    return lines;
                }
            }
        }
    }
}

/// A message in one line: all that a client can tell, without what differs from server to server.
#[must_use]
pub fn summary(message: &Message) -> String {
    let tag = char::from(message.tag);
    match message.tag {
        // the words for what cannot be read are each one's own
        b'E' if message.field(b'C').as_deref() == Some("08P01") => "E 08P01".into(),
        b'E' | b'N' => format!(
            "{tag} {} {}",
            message.field(b'C').unwrap_or_default(),
            message.field(b'M').unwrap_or_default()
        ),
        b'T' => format!("T {}", columns(&message.body)),
        // the process that notified
        b'A' => format!("A {}", String::from_utf8_lossy(&message.body[4..])),
        _ => {
            let body = &message.body[..message.body.len().min(200)];
            format!("{tag} {}", body.escape_ascii())
        }
    }
}

/// The names, types and formats of a RowDescription; ids of tables differ from server to server.
fn columns(body: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = &body[2..];
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let fixed = &rest[end + 1..end + 19];
        let has_table = fixed[..4] != [0; 4];
        write!(
            text,
            "{}:{}{:?} ",
            String::from_utf8_lossy(&rest[..end]),
            if has_table { "table " } else { "" },
            &fixed[4..]
        )
        .expect("a string takes all");
        rest = &rest[end + 19..];
    }
    text
}
