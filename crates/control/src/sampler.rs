//! How far a server has come, asked some sixty times a second.
//!
//! Owns one connection per server and the samples it writes. Never has more than one question under way, and asks a
//! slow server less often. Main type: [`Sampler`].

use std::sync::Arc;
use std::time::Duration;

use pgherd_topology::{Epoch, Health, Lsn, Role, SampleLog, Topology};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::Statement;
use tokio_postgres::types::PgLsn;

use crate::login::{OpenConnection, Server};

/// The position together with what the server is at that moment, so that a position of one kind is never taken for the other.
const POSITION: &str = "SELECT r, CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END \
     FROM pg_is_in_recovery() AS r";

/// How long to leave a server alone that cannot be sampled now.
const RETRY: Duration = Duration::from_millis(200);

/// Samples one server for as long as it has a role.
pub(crate) struct Sampler {
    server: Arc<Server>,
    topology: watch::Receiver<Arc<Topology>>,
    samples: Arc<SampleLog>,
    every: Duration,
}

impl Sampler {
    /// `None` if the topology does not have the server.
    pub(crate) fn new(
        server: Arc<Server>,
        topology: watch::Receiver<Arc<Topology>>,
        every: Duration,
    ) -> Option<Self> {
        let samples = Arc::clone(&topology.borrow().node(server.id)?.samples);
        let every = every.clamp(Duration::from_millis(10), Duration::from_millis(100));
        Some(Self {
            server,
            topology,
            samples,
            every,
        })
    }

    /// Ends when the topology is no longer published, or by being aborted.
    pub(crate) async fn run(mut self) {
        let mut line: Option<(OpenConnection, Statement)> = None;
        let mut moves = 0;
        loop {
            if self.server.moves() != moves {
                moves = self.server.moves();
                line = None;
            }
            let Some((role, epoch)) = self.assignment() else {
                line = None;
                if self.topology.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let (connection, statement) = match line.take() {
                Some(open) => line.insert(open),
                None => match self.connect().await {
                    Some(opened) => line.insert(opened),
                    None => {
                        sleep(RETRY).await;
                        continue;
                    }
                },
            };
            // The epoch was read before, the moment is taken before: what the sample says was true no earlier.
            let begun = Instant::now();
            match timeout(self.server.patience(), connection.query_one(statement, &[])).await {
                Ok(Ok(row)) => {
                    let recovering = row.try_get(0).unwrap_or(role != Role::Replica);
                    let position: Option<PgLsn> = row.try_get(1).unwrap_or(None);
                    if let (Some(position), true) =
                        (position, recovering == (role == Role::Replica))
                    {
                        self.samples
                            .record(begun.into_std(), epoch, Lsn(u64::from(position)));
                    }
                    let answered = Instant::now();
                    let took = answered - begun;
                    // A slow server gets at least as long a rest as it took.
                    sleep_until((begun + self.every).max(answered + took / 2)).await;
                }
                Ok(Err(error)) => {
                    tracing::debug!(server = %self.server.name, %error, "sampling interrupted");
                    line = None;
                    sleep(RETRY).await;
                }
                Err(_) => {
                    tracing::warn!(server = %self.server.name, "no answer to a sample");
                    line = None;
                }
            }
        }
    }

    fn assignment(&self) -> Option<(Role, Epoch)> {
        let topology = self.topology.borrow();
        let shard = topology.shard(self.server.shard)?;
        let node = shard.node(self.server.id)?;
        match (node.health, node.role) {
            (Health::Up, Role::Primary | Role::Replica) => Some((node.role, shard.epoch)),
            (Health::Up | Health::Down | Health::Unknown, _) => None,
        }
    }

    async fn connect(&self) -> Option<(OpenConnection, Statement)> {
        let opened = async {
            let connection = self.server.open().await?;
            let prepare = connection.prepare(POSITION);
            let statement = self
                .server
                .within(self.server.patience(), "prepare the sample", prepare)
                .await?;
            Ok::<_, crate::ControlError>((connection, statement))
        };
        match opened.await {
            Ok(line) => Some(line),
            Err(error) => {
                tracing::debug!(server = %self.server.name, %error, "cannot sample");
                None
            }
        }
    }
}
