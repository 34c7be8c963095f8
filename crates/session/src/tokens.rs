//! What a client has written and read, so that every replica shows it.
//!
//! Owns: the token of each shard. A token is an (epoch, LSN) that a replica must have replayed before it serves this client, or a
//! moment whose LSN is not known yet: the first sample begun after a write ended is at or past that write, and the first
//! sample of a replica begun after a read ended is at or past all that the read saw. Never does: sampling (control).
//! Main type: [`Tokens`].

use std::time::Instant;

use pgherd_topology::{Epoch, Lsn, NodeId, Sample, ShardId, ShardState};
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

    /// The token of a shard as far as it is known; settles what samples have told meanwhile.
    pub fn settle(&mut self, shard: &ShardState) -> Option<(Epoch, Lsn)> {
        let token = self.token(shard.id);
        let mut known = token.known;
        token.pending.retain(|pending| {
            let Some(node) = shard.nodes.iter().find(|node| node.id == pending.node) else {
                return false;
            };
            match node.samples.first_begun_after(pending.ended) {
                Some((epoch, lsn)) => {
                    known = Some(known.map_or((epoch, lsn), |before| before.max((epoch, lsn))));
                    false
                }
                None => true,
            }
        });
        token.known = known;
        known
    }

    /// Whether every state seen of this shard has a known LSN.
    pub fn is_settled(&mut self, shard: &ShardState) -> bool {
        self.settle(shard);
        self.token(shard.id).pending.is_empty()
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
