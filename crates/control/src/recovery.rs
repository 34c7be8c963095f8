//! Finishing what a dead proxy, or a session that gave up, left prepared; and clearing away old decisions.
//!
//! Owns recovery's half of [`pgherd_topology::commit_protocol`], whose head says what is done in which order and why.
//! Never guesses: where the anchor cannot be asked, the half stays prepared. Main type: [`Recovery`].

mod cleanup;
mod halves;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pgherd_topology::commit_protocol::{
    HerdId, InFlight, ProxyId, READ_OUTCOME, TOMBSTONE, TransactionName,
};
use pgherd_topology::{Epoch, ShardId, Topology};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;

use crate::error::ControlError;
use crate::login::Server;
use crate::servers::Servers;
use crate::settings::{ControlSettings, Pace};
use halves::{Finished, Half};

/// How soon recovery sees that a session handed something over.
const GLANCE: Duration = Duration::from_millis(250);

/// A row of ours whose acknowledgement covers everything read before it: on a synchronous shard a decision that was read
/// counts only once the standbys have it.
const BARRIER: &str =
    "SELECT pg_logical_emit_message(true, 'pgherd', 'what was read is to be relied on')";

/// Decides and finishes what is left prepared on the shards of one database.
pub(crate) struct Recovery {
    herd: HerdId,
    proxy: ProxyId,
    in_flight: InFlight,
    servers: Servers,
    topology: watch::Receiver<Arc<Topology>>,
    pace: Pace,
    mentioned: HashSet<String>,
}

/// What a transaction's halves are to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Commit,
    Abort,
}

/// Where a transaction stands after it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ruling {
    Decided(Outcome),
    /// The anchor's own transaction is still open, or the anchor cannot be asked.
    Open,
}

impl Recovery {
    pub(crate) fn new(
        settings: &ControlSettings,
        servers: Servers,
        topology: watch::Receiver<Arc<Topology>>,
    ) -> Self {
        Self {
            herd: settings.herd,
            proxy: settings.proxy,
            in_flight: settings.in_flight.clone(),
            servers,
            topology,
            pace: settings.pace,
            mentioned: HashSet::new(),
        }
    }

    /// Runs until aborted, which is safe at any point: every step can be repeated.
    pub(crate) async fn run(mut self) {
        let mut next_cleanup = Instant::now() + self.pace.log_retention / 4;
        loop {
            let abandoned = self.in_flight.abandoned();
            self.round().await;
            if Instant::now() >= next_cleanup {
                self.clean_up().await;
                next_cleanup = Instant::now() + self.pace.log_retention / 4;
            }
            let next = Instant::now() + self.pace.recovery;
            while Instant::now() < next && self.in_flight.abandoned() == abandoned {
                sleep(GLANCE.min(self.pace.recovery)).await;
            }
        }
    }

    /// Looks once at every shard whose primary answers.
    async fn round(&mut self) {
        let topology = Arc::clone(&self.topology.borrow());
        let mut found = Vec::new();
        for shard in crate::control::shard_ids(&topology) {
            let Ok((server, _)) = self.servers.primary(&topology, shard) else {
                continue;
            };
            match halves::list(server, shard).await {
                Ok(listed) => found.extend(listed),
                Err(error) => tracing::warn!(%error, "cannot look for prepared transactions"),
            }
        }
        for (name, halves) in self.ours(&topology, found) {
            self.settle(&topology, &name, halves).await;
        }
    }

    /// The halves that are recovery's to finish, by transaction. The registry is asked only here, after the listing.
    fn ours(&mut self, topology: &Topology, found: Vec<Half>) -> BTreeMap<String, Vec<Half>> {
        let mut ours: BTreeMap<String, Vec<Half>> = BTreeMap::new();
        for half in found {
            let name = half.gid.transaction();
            let shard_is = topology.shard(half.shard).map(|shard| &*shard.name);
            let reason = if name.herd() != self.herd {
                Some("it belongs to another herd")
            } else if shard_is != Some(half.gid.shard()) {
                Some("it names another shard than the one it is on")
            } else if topology.shard_by_name(name.anchor()).is_none() {
                Some("its anchor is no shard of this database")
            } else {
                None
            };
            if let Some(reason) = reason {
                self.mention(&half.gid.to_string(), reason);
                continue;
            }
            // A living session is known to be at work, or may be: another proxy's is given time.
            if self.in_flight.contains(name)
                || (name.proxy() != self.proxy && half.age < self.pace.orphan)
            {
                continue;
            }
            ours.entry(name.to_string()).or_default().push(half);
        }
        ours
    }

    async fn settle(&mut self, topology: &Topology, text: &str, halves: Vec<Half>) {
        let Some(first) = halves.first() else { return };
        let name = first.gid.transaction();
        let outcome = match self.rule(topology, name, first.gid.anchor_epoch()).await {
            Ok(Ruling::Decided(outcome)) => outcome,
            Ok(Ruling::Open) => return,
            Err(error) => {
                tracing::warn!(transaction = text, %error, "a prepared transaction cannot be decided yet");
                return;
            }
        };
        for half in &halves {
            let shard = half.gid.shard();
            let Ok((server, _)) = self.servers.primary(topology, half.shard) else {
                continue;
            };
            match halves::finish(server, half, outcome).await {
                Ok(Finished::Now) => {
                    tracing::warn!(
                        transaction = text,
                        shard,
                        ?outcome,
                        "finished a transaction that was left prepared"
                    );
                }
                Ok(Finished::Before) => {}
                Ok(Finished::Busy) => tracing::debug!(
                    transaction = text,
                    shard,
                    "the prepared transaction is busy"
                ),
                Ok(Finished::Lost) => tracing::error!(
                    transaction = text,
                    shard,
                    "a transaction was committed on its other shards, and its half here is lost: rows differ between the shards"
                ),
                Err(error) => {
                    tracing::error!(transaction = text, shard, owner = %half.owner, %error, "cannot finish a prepared transaction: its locks stay");
                }
            }
        }
    }

    async fn rule(
        &mut self,
        topology: &Topology,
        name: &TransactionName,
        named_under: Epoch,
    ) -> Result<Ruling, ControlError> {
        let Some(anchor) = topology.shard_by_name(name.anchor()).map(|shard| shard.id) else {
            return Ok(Ruling::Open);
        };
        let (server, epoch) = self.servers.primary(topology, anchor)?;
        let ruling = match named_under.cmp(&epoch) {
            std::cmp::Ordering::Equal => by_tombstone(server, name, epoch).await?,
            std::cmp::Ordering::Less => self.by_witnesses(topology, name).await?,
            std::cmp::Ordering::Greater => {
                self.mention(&name.to_string(), "it was named under a later epoch than its anchor is known to have: is the state file an old one?");
                return Ok(Ruling::Open);
            }
        };
        // What was read counts only if the one that was asked is still the anchor's primary.
        let newest = self
            .topology
            .borrow()
            .shard(anchor)
            .map(|shard| shard.epoch);
        Ok(if newest == Some(epoch) {
            ruling
        } else {
            Ruling::Open
        })
    }

    /// The anchor failed over since, and its decision may be lost: a committed half anywhere says commit; only if every shard
    /// says that it has none is it an abort.
    async fn by_witnesses(
        &self,
        topology: &Topology,
        name: &TransactionName,
    ) -> Result<Ruling, ControlError> {
        let mut seen = None;
        for shard in crate::control::shard_ids(topology) {
            let (server, _) = self.servers.primary(topology, shard)?;
            match read_outcome(server, name).await? {
                Some(Outcome::Commit) => return Ok(Ruling::Decided(Outcome::Commit)),
                Some(Outcome::Abort) => seen = Some(Outcome::Abort),
                None => {}
            }
        }
        Ok(Ruling::Decided(seen.unwrap_or(Outcome::Abort)))
    }

    /// Each reason once per name.
    fn mention(&mut self, name: &str, reason: &str) {
        const MOST: usize = 10_000;
        if self.mentioned.len() < MOST && self.mentioned.insert(name.to_owned()) {
            tracing::warn!(name, "a prepared transaction is left alone: {reason}");
        }
    }

    /// Deletes decisions that nobody can need any more.
    async fn clean_up(&self) {
        let topology = Arc::clone(&self.topology.borrow());
        if let Err(error) =
            cleanup::clean_up(self.herd, &self.servers, &topology, self.pace.log_retention).await
        {
            tracing::warn!(%error, "cannot clear away old decisions of commits over shards");
        }
    }
}

/// Makes the anchor say abort unless it has said something, then reads what it says.
async fn by_tombstone(
    anchor: &Server,
    name: &TransactionName,
    epoch: Epoch,
) -> Result<Ruling, ControlError> {
    const ACTION: &str = "decide a prepared transaction";
    let lease = anchor.lease().await?;
    let epoch = i64::try_from(epoch.0).unwrap_or(i64::MAX);
    // A statement by itself: it is committed, and acknowledged where the shard is synchronous, when it is answered.
    let text = name.to_string();
    let inserted = anchor
        .within(
            anchor.patience(),
            ACTION,
            lease.execute(TOMBSTONE, &[&text, &epoch]),
        )
        .await;
    match inserted {
        Ok(_) => {}
        Err(error) if error.sql_state() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            lease.give_back();
            return Ok(Ruling::Open);
        }
        Err(error) => return Err(error),
    }
    lease.give_back();
    let outcome = read_outcome(anchor, name).await?;
    Ok(outcome.map_or(Ruling::Open, Ruling::Decided))
}

/// The outcome that one shard has on record.
async fn read_outcome(
    server: &Server,
    name: &TransactionName,
) -> Result<Option<Outcome>, ControlError> {
    const ACTION: &str = "read a decision";
    let lease = server.lease().await?;
    let text = name.to_string();
    let row = server
        .within(server.patience(), ACTION, async {
            let row = lease.query_opt(READ_OUTCOME, &[&text]).await?;
            lease.batch_execute(BARRIER).await?;
            Ok(row)
        })
        .await?;
    lease.give_back();
    let Some(row) = row else { return Ok(None) };
    match row.try_get::<_, &str>(0) {
        Ok("commit") => Ok(Some(Outcome::Commit)),
        Ok("abort") => Ok(Some(Outcome::Abort)),
        Ok(other) => Err(server.unexpected(ACTION, other)),
        Err(error) => Err(server.unexpected(ACTION, error.to_string())),
    }
}

/// The shard of a name as the topology numbers it.
fn shard_named(topology: &Topology, name: &str) -> Option<ShardId> {
    topology.shard_by_name(name).map(|shard| shard.id)
}
