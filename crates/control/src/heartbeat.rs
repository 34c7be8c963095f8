//! Whether a primary takes writes: one row, again and again.
//!
//! Owns the writing, where pgherd itself promotes. It goes through all that a client's commit goes through, the acknowledgement of standbys included, and
//! keeps WAL flowing, so that a standby whose primary is silent can tell. Never decides what follows. Main type: [`Heart`].

use std::sync::Arc;
use std::time::Duration;

use pgherd_topology::{Epoch, NodeId, ShardId, Topology};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;

use crate::error::ControlError;
use crate::failover::acknowledged_row;
use crate::line::Line;
use crate::login::Server;

/// Between two writes.
const PACE: Duration = Duration::from_secs(1);
/// A write that takes longer hangs.
const HANGS_AFTER: Duration = Duration::from_secs(2);
/// The longest that one is waited for: below the time-out that the session has.
const LIMIT: Duration = Duration::from_secs(55);

/// What came of writing to a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Beat {
    /// Nothing is known.
    #[default]
    Unknown,
    /// It was written, and acknowledged.
    Taken,
    /// It has waited since then, and the server answers otherwise or not at all.
    Hangs(Instant),
    /// Since then there is no room on the server's disk.
    Full(Instant),
}

/// Writes to the primary of one shard.
pub(crate) struct Heart {
    shard: ShardId,
    name: Box<str>,
    lines: Vec<Line>,
    topology: watch::Receiver<Arc<Topology>>,
    beats: watch::Sender<Beat>,
}

impl Heart {
    pub(crate) fn new(
        (shard, name): (ShardId, Box<str>),
        servers: impl Iterator<Item = Arc<Server>>,
        topology: watch::Receiver<Arc<Topology>>,
        beats: watch::Sender<Beat>,
    ) -> Self {
        Self {
            shard,
            name,
            lines: servers.map(Line::new).collect(),
            topology,
            beats,
        }
    }

    /// Ends by being aborted.
    pub(crate) async fn run(self) {
        let mut last: Option<(NodeId, Epoch)> = None;
        loop {
            let primary = self.primary();
            if primary != last {
                // nothing that was seen of another one says anything of this one
                self.beats.send_replace(Beat::Unknown);
                last = primary;
            }
            if let Some((node, epoch)) = primary
                && let Some(line) = self.lines.iter().find(|line| line.server.id == node)
            {
                self.beat(line, node, epoch).await;
            }
            sleep(PACE).await;
        }
    }

    fn primary(&self) -> Option<(NodeId, Epoch)> {
        let topology = self.topology.borrow();
        let shard = topology.shard(self.shard)?;
        Some((shard.primary?, shard.epoch))
    }

    async fn beat(&self, line: &Line, node: NodeId, epoch: Epoch) {
        let begun = Instant::now();
        let mut writing = Box::pin(acknowledged_row(line, &self.name, epoch.0, LIMIT));
        loop {
            tokio::select! {
                written = &mut writing => {
                    self.note(written);
                    return;
                }
                () = sleep(PACE) => {}
            }
            if self.primary() != Some((node, epoch)) {
                break;
            }
            if begun.elapsed() >= HANGS_AFTER {
                self.beats.send_replace(Beat::Hangs(begun));
            }
        }
        drop(writing);
        // the statement is still under way on it
        line.give_up().await;
    }

    fn note(&self, written: Result<(), ControlError>) {
        let before = *self.beats.borrow();
        let now = match written {
            Ok(()) => Beat::Taken,
            Err(error) if error.sql_state() == Some(&SqlState::DISK_FULL) => match before {
                Beat::Full(since) => Beat::Full(since),
                Beat::Unknown | Beat::Taken | Beat::Hangs(_) => Beat::Full(Instant::now()),
            },
            Err(error) => {
                tracing::debug!(shard = %self.name, %error, "no heartbeat");
                Beat::Unknown
            }
        };
        self.beats.send_replace(now);
    }
}
