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

/// A beat, and whose it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pulse {
    reign: Option<(NodeId, Epoch)>,
    beat: Beat,
}

impl Pulse {
    /// What it says of a primary in its reign: of another one nothing.
    pub(crate) fn of(&self, primary: NodeId, epoch: Epoch) -> Beat {
        if self.reign == Some((primary, epoch)) {
            self.beat
        } else {
            Beat::Unknown
        }
    }
}

/// Writes to the primary of one shard.
pub(crate) struct Heart {
    shard: ShardId,
    name: Box<str>,
    lines: Vec<Line>,
    topology: watch::Receiver<Arc<Topology>>,
    beats: watch::Sender<Pulse>,
}

impl Heart {
    pub(crate) fn new(
        (shard, name): (ShardId, Box<str>),
        servers: impl Iterator<Item = Arc<Server>>,
        topology: watch::Receiver<Arc<Topology>>,
        beats: watch::Sender<Pulse>,
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
        loop {
            if let Some(reign) = self.primary()
                && let Some(line) = self.lines.iter().find(|line| line.server.id == reign.0)
            {
                self.beat(line, reign).await;
            }
            sleep(PACE).await;
        }
    }

    fn primary(&self) -> Option<(NodeId, Epoch)> {
        let topology = self.topology.borrow();
        let shard = topology.shard(self.shard)?;
        Some((shard.primary?, shard.epoch))
    }

    async fn beat(&self, line: &Line, reign: (NodeId, Epoch)) {
        let begun = Instant::now();
        let mut writing = Box::pin(acknowledged_row(line, &self.name, reign.1.0, LIMIT));
        loop {
            tokio::select! {
                written = &mut writing => {
                    self.note(reign, begun, written);
                    return;
                }
                () = sleep(PACE) => {}
            }
            if self.primary() != Some(reign) {
                break;
            }
            if begun.elapsed() >= HANGS_AFTER {
                self.tell(reign, Beat::Hangs(self.hangs_since(reign, begun)));
            }
        }
        drop(writing);
        // the statement is still under way on it
        line.give_up().await;
    }

    fn note(&self, reign: (NodeId, Epoch), begun: Instant, written: Result<(), ControlError>) {
        let before = self.beats.borrow().of(reign.0, reign.1);
        let now = match written {
            Ok(()) => Beat::Taken,
            Err(error) if error.sql_state() == Some(&SqlState::DISK_FULL) => match before {
                Beat::Full(since) => Beat::Full(since),
                Beat::Unknown | Beat::Taken | Beat::Hangs(_) => Beat::Full(Instant::now()),
            },
            // one before it waits for its acknowledgement, and has the row
            Err(error)
                if error.sql_state() == Some(&SqlState::LOCK_NOT_AVAILABLE)
                    || matches!(error, ControlError::Silent { .. }) =>
            {
                Beat::Hangs(self.hangs_since(reign, begun))
            }
            Err(error) => {
                tracing::debug!(shard = %self.name, %error, "no heartbeat");
                Beat::Unknown
            }
        };
        self.tell(reign, now);
    }

    fn hangs_since(&self, reign: (NodeId, Epoch), begun: Instant) -> Instant {
        match self.beats.borrow().of(reign.0, reign.1) {
            Beat::Hangs(since) => since,
            Beat::Unknown | Beat::Taken | Beat::Full(_) => begun,
        }
    }

    fn tell(&self, reign: (NodeId, Epoch), beat: Beat) {
        self.beats.send_replace(Pulse {
            reign: Some(reign),
            beat,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_one_primary_hangs_says_nothing_of_the_next() {
        let beat = Beat::Hangs(Instant::now());
        let pulse = Pulse {
            reign: Some((NodeId(0), Epoch(1))),
            beat,
        };
        assert_eq!(pulse.of(NodeId(0), Epoch(1)), beat);
        assert_eq!(pulse.of(NodeId(1), Epoch(2)), Beat::Unknown);
        // the same server again, after a change that was undone
        assert_eq!(pulse.of(NodeId(0), Epoch(3)), Beat::Unknown);
        assert_eq!(Pulse::default().of(NodeId(0), Epoch(1)), Beat::Unknown);
    }
}
