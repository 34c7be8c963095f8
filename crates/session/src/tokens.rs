//! What a client has written and read, so that every replica shows it.
//!
//! Owns: the token of each shard. A token is an (epoch, LSN) that a replica must have replayed before it serves this client, or a
//! moment whose LSN is not known yet: the first sample begun after a write ended is at or past that write, and the first
//! sample of a replica begun after a read ended is at or past all that the read saw. Never does: sampling (control).
//! Main type: [`Tokens`].

use std::time::Instant;

use pgherd_topology::{Epoch, Health, Lsn, NodeId, Sample, ShardId, ShardState};
use smallvec::SmallVec;

/// Something seen on a server whose LSN no sample has told yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pending {
    node: NodeId,
    ended: Instant,
}

/// What a client may rely on of one shard.
#[derive(Debug, Clone, Default)]
struct Token {
    known: Option<(Epoch, Lsn)>,
    pending: SmallVec<[Pending; 1]>,
}

/// Whether a server shows a client all that it has seen already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It does.
    Fresh,
    /// It does not yet, or nobody knows yet.
    NotYet,
}

/// The tokens of one client, by shard.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    shards: SmallVec<[Token; 1]>,
}

impl Tokens {
    /// Notes that something which ended at `ended` on `node` may have shown or made a newer state.
    pub fn observe(&mut self, shard: ShardId, node: NodeId, ended: Instant) {
        let token = self.token(shard);
        match token
            .pending
            .iter_mut()
            .find(|pending| pending.node == node)
        {
            Some(pending) => pending.ended = ended,
            None => token.pending.push(Pending { node, ended }),
        }
    }

    /// Raises a shard's token to what another connection reported (`SET pgherd.token`).
    pub fn raise(&mut self, shard: ShardId, epoch: Epoch, lsn: Lsn) {
        let known = &mut self.token(shard).known;
        *known = Some(known.map_or((epoch, lsn), |before| before.max((epoch, lsn))));
    }

    /// The token of a shard as far as it is known; settles what samples have told meanwhile. Of an earlier reign, and of a server that is
    /// gone, as much is left as the present primary has: its own position.
    pub fn settle(&mut self, shard: &ShardState) -> Option<(Epoch, Lsn)> {
        let token = self.token(shard.id);
        let mut known = token.known;
        let mut see =
            |position| known = Some(known.map_or(position, |before| before.max(position)));
        token.pending.retain(|pending| {
            let Some(node) = shard.nodes.iter().find(|node| node.id == pending.node) else {
                return false;
            };
            let told = match node.samples.first_begun_after(pending.ended) {
                None if node.health != Health::Up && shard.primary != Some(node.id) => {
                    reigning(shard, Some(pending.ended))
                }
                told => told,
            };
            told.map(&mut see).is_none()
        });
        if let Some((epoch, _)) = known
            && epoch < shard.epoch
            && let Some(position) = reigning(shard, None)
        {
            known = Some(position);
        }
        token.known = known;
        known
    }

    /// Whether every state seen of this shard has a known LSN.
    pub fn is_settled(&mut self, shard: &ShardState) -> bool {
        let known = self.settle(shard);
        let is_of_this_reign = known.is_none_or(|(epoch, _)| epoch >= shard.epoch);
        is_of_this_reign && self.token(shard.id).pending.is_empty()
    }

    /// Whether `node`, a replica, shows all that this client has seen of the shard.
    ///
    /// What was seen on the node itself needs no sample: a server never goes back.
    pub fn freshness(
        &mut self,
        shard: &ShardState,
        node: NodeId,
        latest: Option<Sample>,
    ) -> Freshness {
        let known = self.settle(shard);
        if self
            .token(shard.id)
            .pending
            .iter()
            .any(|pending| pending.node != node)
        {
            return Freshness::NotYet;
        }
        match (known, latest) {
            (None, _) => Freshness::Fresh,
            // a position of another history
            (Some((epoch, _)), _) if epoch < shard.epoch => Freshness::NotYet,
            (Some(token), Some(sample)) if (sample.epoch, sample.lsn) >= token => Freshness::Fresh,
            (Some(_), _) => Freshness::NotYet,
        }
    }

    fn token(&mut self, shard: ShardId) -> &mut Token {
        let index = usize::from(shard.0);
        if self.shards.len() <= index {
            self.shards.resize_with(index + 1, Token::default);
        }
        &mut self.shards[index]
    }
}

/// The position of the present primary in its reign, which covers all that is left of earlier ones, if it is known as of after that moment.
fn reigning(shard: &ShardState, after: Option<Instant>) -> Option<(Epoch, Lsn)> {
    let sample = shard.primary()?.samples.latest()?;
    let is_later = after.is_none_or(|after| sample.begun > after);
    (is_later && sample.epoch >= shard.epoch).then_some((sample.epoch, sample.lsn))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::time::Duration;

    use pgherd_topology::{Continuity, NodeState, TwoPhase};

    use super::*;

    /// A shard of three servers, of which the first two come and go as primary.
    fn shard(epoch: u64, primary: u16, nodes: Vec<NodeState>) -> ShardState {
        ShardState {
            id: ShardId(0),
            name: "s0".into(),
            epoch: Epoch(epoch),
            primary: Some(NodeId(primary)),
            nodes,
            max_prepared_transactions: None,
            two_phase: TwoPhase::Unknown,
            outlook: Arc::default(),
            continuity: Continuity::default(),
            cuts: Arc::default(),
            chronicle: Arc::default(),
        }
    }

    fn nodes() -> Vec<NodeState> {
        let node = |id| NodeState {
            health: Health::Up,
            ..NodeState::new(NodeId(id), format!("n{id}"), "localhost".parse().unwrap())
        };
        (0..3).map(node).collect()
    }

    fn fresh(tokens: &mut Tokens, shard: &ShardState, node: usize) -> bool {
        let latest = shard.nodes[node].samples.latest();
        let node = shard.nodes[node].id;
        tokens.freshness(shard, node, latest) == Freshness::Fresh
    }

    #[test]
    fn after_a_failover_a_replica_serves_once_it_has_what_the_next_primary_had() {
        let start = Instant::now();
        let at = |step: u64| start + Duration::from_millis(step);
        let before = shard(1, 0, nodes());
        let mut tokens = Tokens::default();
        tokens.observe(ShardId(0), NodeId(0), at(1));
        before.nodes[0].samples.record(at(2), Epoch(1), Lsn(100));
        before.nodes[2].samples.record(at(3), Epoch(1), Lsn(90));
        assert!(!fresh(&mut tokens, &before, 2));
        let after = shard(2, 1, before.nodes.clone());
        // it knows of the reign, and not yet of the write
        after.nodes[2].samples.record(at(4), Epoch(2), Lsn(90));
        assert!(!fresh(&mut tokens, &after, 2));
        assert!(!tokens.is_settled(&after));
        after.nodes[1].samples.record(at(5), Epoch(2), Lsn(120));
        assert!(!fresh(&mut tokens, &after, 2));
        assert!(tokens.is_settled(&after));
        after.nodes[2].samples.record(at(6), Epoch(2), Lsn(120));
        assert!(fresh(&mut tokens, &after, 2));
    }

    #[test]
    fn what_was_seen_on_a_server_that_is_gone_is_what_the_next_primary_has() {
        let start = Instant::now();
        let at = |step: u64| start + Duration::from_millis(step);
        let mut tokens = Tokens::default();
        let mut after = shard(2, 1, nodes());
        after.nodes[0].health = Health::Down;
        tokens.observe(ShardId(0), NodeId(0), at(1));
        after.nodes[2].samples.record(at(2), Epoch(2), Lsn(90));
        // a position of when it still was a replica
        after.nodes[1].samples.record(at(2), Epoch(1), Lsn(80));
        assert!(!fresh(&mut tokens, &after, 2));
        after.nodes[1].samples.record(at(3), Epoch(2), Lsn(100));
        assert!(!fresh(&mut tokens, &after, 2));
        after.nodes[2].samples.record(at(4), Epoch(2), Lsn(100));
        assert!(fresh(&mut tokens, &after, 2));
    }
}
