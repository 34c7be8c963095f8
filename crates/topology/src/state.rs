//! Which servers there are, what each is, and how far it has come.
//!
//! Owns the snapshot that control publishes and sessions read; never finds anything out itself.
//! Main type: [`Topology`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::address::Address;
use crate::chronicle::Chronicle;
use crate::continuity::{Continuity, CutLedger};
use crate::ids::{Epoch, NodeId, ShardId};
use crate::outlook::OutlookCell;
use crate::samples::SampleLog;

/// All shards of one database with their servers, at one moment.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Rises with every change.
    pub version: u64,
    /// The shards, by [`ShardId`].
    pub shards: Vec<ShardState>,
}

impl Topology {
    /// The shard of an id; `None` where the database has no such shard.
    pub fn shard(&self, shard: ShardId) -> Option<&ShardState> {
        self.shards.get(shard.index())
    }

    /// The shard of a name.
    pub fn shard_by_name(&self, name: &str) -> Option<&ShardState> {
        self.shards.iter().find(|shard| &*shard.name == name)
    }

    /// The server of an id, in whichever shard it is.
    pub fn node(&self, node: NodeId) -> Option<&NodeState> {
        self.shards.iter().find_map(|shard| shard.node(node))
    }
}

/// One shard: one primary, if it is known, and its replicas.
#[derive(Clone, Debug)]
pub struct ShardState {
    /// Its id.
    pub id: ShardId,
    /// Its name in the configuration.
    pub name: Box<str>,
    /// The reign of the present primary.
    pub epoch: Epoch,
    /// Who takes writes; `None` while nobody is known to.
    pub primary: Option<NodeId>,
    /// Its servers, in the order of the configuration.
    pub nodes: Vec<NodeState>,
    /// `max_prepared_transactions` of the primary; `None` while it was not read. At 0 nothing that
    /// needs two-phase commit can run.
    pub max_prepared_transactions: Option<u32>,
    /// Whether it can take part in a commit over shards.
    pub two_phase: TwoPhase,
    /// What would come of a failover. Shared by all versions of the snapshot.
    pub outlook: Arc<OutlookCell>,
    /// What clients are promised when the primary changes.
    pub continuity: Continuity,
    /// Who has cut off which reign. Shared by all versions of the snapshot.
    pub cuts: Arc<CutLedger>,
    /// What has happened to it. Shared by all versions of the snapshot.
    pub chronicle: Arc<Chronicle>,
}

/// Whether a shard can take part in a commit over shards ([`crate::commit_protocol`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TwoPhase {
    /// Its primary was not looked at yet: wait a moment, or refuse.
    #[default]
    Unknown,
    /// The commit log is installed, and transactions can be prepared.
    Ready,
    /// It cannot, and why: for the detail of a refusal (0A000).
    Impossible(Box<str>),
}

impl ShardState {
    /// The server that takes writes.
    pub fn primary(&self) -> Option<&NodeState> {
        self.node(self.primary?)
    }

    /// The servers that are up and replay the primary's WAL.
    pub fn replicas(&self) -> impl Iterator<Item = &NodeState> {
        self.nodes.iter().filter(|node| {
            node.role == Role::Replica && node.health == Health::Up && self.primary != Some(node.id)
        })
    }

    /// The server of an id.
    pub fn node(&self, node: NodeId) -> Option<&NodeState> {
        self.nodes.iter().find(|state| state.id == node)
    }
}

/// One server.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// Its id.
    pub id: NodeId,
    /// Its name in the configuration.
    pub name: Box<str>,
    /// Where it listens.
    pub address: Address,
    /// The zone it is in; clients prefer replicas of their own.
    pub zone: Option<Box<str>>,
    /// Chooses between candidates for promotion that have come equally far; 0: never promoted.
    pub priority: u32,
    /// What it says it is.
    pub role: Role,
    /// Whether it answers.
    pub health: Health,
    /// How far its replay is behind the primary, in time; `None` where unknown, and on a primary.
    pub lag: Option<Duration>,
    /// Requests that are running on it now. Shared by all versions of the snapshot.
    pub load: Arc<AtomicUsize>,
    /// An operator wants no new reads on it. Shared by all versions of the snapshot.
    pub drained: Arc<AtomicBool>,
    /// Its WAL positions over time. Shared by all versions of the snapshot.
    pub samples: Arc<SampleLog>,
}

impl NodeState {
    /// A server of which nothing is known yet but what the configuration says.
    pub fn new(id: NodeId, name: impl Into<Box<str>>, address: Address) -> Self {
        Self {
            id,
            name: name.into(),
            address,
            zone: None,
            priority: 1,
            role: Role::Unknown,
            health: Health::Unknown,
            lag: None,
            load: Arc::default(),
            drained: Arc::default(),
            samples: Arc::default(),
        }
    }

    /// Whether reads go elsewhere ([`NodeState::drained`]).
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// The number of requests that are running on it now: a hint, for choosing the least loaded.
    pub fn outstanding(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }
}

/// What a server says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `pg_is_in_recovery()` is false, and it is the one its shard follows.
    Primary,
    /// It replays another server's WAL.
    Replica,
    /// Not asked yet, or it does not answer, or it claims to be a primary besides the real one.
    Unknown,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Unknown => "unknown",
        })
    }
}

/// Whether a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// It answered the last question in time.
    Up,
    /// It refuses connections or is silent.
    Down,
    /// Not asked yet.
    Unknown,
}

impl fmt::Display for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn node(id: u16, role: Role, health: Health) -> NodeState {
        NodeState {
            role,
            health,
            ..NodeState::new(NodeId(id), format!("n{id}"), "localhost".parse().unwrap())
        }
    }

    #[test]
    fn only_servers_that_are_up_and_replay_are_replicas() {
        let shard = ShardState {
            id: ShardId(0),
            name: "s0".into(),
            epoch: Epoch(1),
            primary: Some(NodeId(0)),
            nodes: vec![
                node(0, Role::Primary, Health::Up),
                node(1, Role::Replica, Health::Up),
                node(2, Role::Replica, Health::Down),
                node(3, Role::Unknown, Health::Up),
            ],
            max_prepared_transactions: None,
            two_phase: TwoPhase::Unknown,
            outlook: Arc::default(),
            continuity: Continuity::default(),
            cuts: Arc::default(),
            chronicle: Arc::default(),
        };
        assert_eq!(shard.primary().unwrap().id, NodeId(0));
        let replicas: Vec<_> = shard.replicas().map(|node| node.id.0).collect();
        assert_eq!(replicas, [1]);

        let topology = Topology {
            version: 1,
            shards: vec![shard],
        };
        assert_eq!(&*topology.node(NodeId(2)).unwrap().name, "n2");
        assert!(topology.node(NodeId(9)).is_none());
        assert!(topology.shard(ShardId(1)).is_none());
        assert_eq!(topology.shard_by_name("s0").unwrap().id, ShardId(0));
    }
}
