//! Taking several server connections without a deadlock that no Postgres can see: one client holds a connection and waits for a
//! second, which another holds who waits for the first.
//!
//! Owns: the order in which a statement for several shards takes its connections (all or none, lowest shard first), and what a block is told
//! that waited in vain to join a shard. Never does: taking one (`taking`). Main function: [`Session::take_each`].

use std::time::Instant;

use pgherd_pool::{PoolError, Target};
use pgherd_protocol::{PgError, SqlState};
use pgherd_router::Access;
use pgherd_topology::{NodeId, Role, ShardId};

use crate::failure::Failure;
use crate::session::Session;
use crate::taking::shard_state;

/// So often a statement gives back what it has and waits for the one connection that is not to be had; then it waits while it holds others,
/// which lowest shard first makes safe.
const ROUNDS: u32 = 3;

impl Session {
    /// Takes a connection to each of these shards, given lowest first, before anything is sent on any. Outside of a block none is
    /// held while another must be waited for.
    ///
    /// # Errors
    /// As [`Session::leg`]; 53300 or, in a block, 40001 where one does not become free within `checkout_timeout`, for all together.
    pub(crate) async fn take_each(&mut self, shards: &[ShardId]) -> Result<(), Failure> {
        let mut deadline = Instant::now() + self.database.pools().settings().checkout_timeout;
        let pools = self.database.pools().clone();
        // a limit over several pools has no order in which taking them is safe: one at a time holds some and waits
        let _turn = if self.block.is_none() && shards.len() > 1 {
            pools.turn(deadline).await
        } else {
            None
        };
        if self.block.is_none() {
            for _ in 0..ROUNDS {
                let Some((shard, node, role)) = self.first_busy(shards).await? else {
                    break;
                };
                self.legs.release();
                self.take_before(shard, node, role, &mut deadline).await?;
            }
        }
        for shard in shards {
            if let Some((node, role)) = self.missing(*shard).await? {
                self.take_before(*shard, node, role, &mut deadline).await?;
            }
        }
        Ok(())
    }

    /// The first of the shards whose connection would have to be waited for.
    async fn first_busy(
        &mut self,
        shards: &[ShardId],
    ) -> Result<Option<(ShardId, NodeId, Role)>, Failure> {
        for shard in shards {
            let Some((node, role)) = self.missing(*shard).await? else {
                continue;
            };
            let topology = self.topology();
            let state = shard_state(&topology, *shard)?;
            let server = state.nodes.iter().find(|server| server.id == node);
            let at_hand = server.is_none_or(|server| {
                self.database
                    .pools()
                    .is_at_hand(&self.user, &Target::new(state, server))
            });
            if !at_hand {
                return Ok(Some((*shard, node, role)));
            }
        }
        Ok(None)
    }

    /// The server of a shard to which no connection is held yet.
    async fn missing(&mut self, shard: ShardId) -> Result<Option<(NodeId, Role)>, Failure> {
        if self.held(shard).is_some() {
            return Ok(None);
        }
        let (node, role) = self.server(shard, Access::Write).await?;
        Ok(self.legs.get(node).is_none().then_some((node, role)))
    }

    /// What a client hears whose block waited in vain for a connection to one more shard. `None` where that is not what happened.
    pub(crate) fn not_joined(&self, error: &PoolError) -> Option<Failure> {
        let PoolError::CheckoutTimeout {
            server,
            user,
            waited,
            holders,
        } = error
        else {
            return None;
        };
        let holds_others = self.block.is_some() && self.legs.iter().any(|leg| leg.in_block);
        holds_others.then(|| {
            PgError::error(
                SqlState::SERIALIZATION_FAILURE,
                format!(
                    "the transaction could not be joined by server \"{}\": no connection of user \"{user}\" became free within {} ms",
                    server.name,
                    waited.as_millis()
                ),
            )
            .detail(format!("It holds connections that others may be waiting for. {holders}"))
            .hint("Nothing of the block is kept. Roll back and try again; where that happens often, make the pool larger (pool: size).")
            .into()
        })
    }
}
