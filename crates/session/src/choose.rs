//! Which server of a shard serves a request.
//!
//! Owns: the choice among a shard's healthy replicas (same zone first, then the least outstanding requests) of those that show all that a client
//! has seen. Never does: I/O; who is primary, who is healthy and how far each is comes with the topology snapshot.
//! Main function: [`replica`].

use pgherd_topology::{Health, NodeId, NodeState, Role, ShardState};

use crate::herd::{Consistency, ReadSettings, ReadsFrom};
use crate::tokens::{Freshness, Tokens};
use std::sync::atomic::Ordering;

/// What came of looking for a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaChoice {
    /// This one serves.
    Serves(NodeId),
    /// Healthy ones are there and will soon have replayed what the client has seen.
    Behind,
    /// Healthy ones are there, but how far one must be is not known before the next sample.
    Unsettled,
    /// None is there: the primary serves.
    None,
}

/// The server that a proven read goes to. `turn` rotates between equals.
pub fn replica(
    shard: &ShardState,
    reads: &ReadSettings,
    tokens: &mut Tokens,
    turn: usize,
) -> ReplicaChoice {
    if reads.from == ReadsFrom::Primary {
        return ReplicaChoice::None;
    }
    let mut best: Option<(bool, usize, usize, NodeId)> = None;
    let mut behind = false;
    for (index, node) in shard.nodes.iter().enumerate() {
        if !serves_reads(node, reads) {
            continue;
        }
        let is_primary = shard.primary == Some(node.id);
        if reads.consistency == Consistency::Session
            && !is_primary
            && tokens.freshness(shard, node.id, node.samples.latest()) == Freshness::NotYet
        {
            behind = true;
            continue;
        }
        let elsewhere = reads.zone.is_some() && node.zone != reads.zone;
        let rank = (
            elsewhere,
            node.load.load(Ordering::Relaxed),
            (index + turn) % shard.nodes.len(),
            node.id,
        );
        if best.is_none_or(|best| rank < best) {
            best = Some(rank);
        }
    }
    match best {
        Some((_, _, _, node)) => ReplicaChoice::Serves(node),
        None if behind && tokens.is_settled(shard) => ReplicaChoice::Behind,
        None if behind => ReplicaChoice::Unsettled,
        None => ReplicaChoice::None,
    }
}

fn serves_reads(node: &NodeState, reads: &ReadSettings) -> bool {
    if node.health != Health::Up || node.is_drained() {
        return false;
    }
    match node.role {
        Role::Replica => node.lag.is_some_and(|lag| lag <= reads.max_lag),
        Role::Primary => reads.from == ReadsFrom::Any,
        Role::Unknown => false,
    }
}
