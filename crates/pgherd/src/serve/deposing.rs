//! What becomes of a server's connections when it is no longer its shard's primary.
//!
//! Owns noticing it in what control publishes. Never decides who is primary, and never closes a connection: the pools do.
//! Main function: [`cut_off_deposed`].

use std::sync::{Arc, Weak};

use pgherd_pool::Pools;
use pgherd_session::Database;
use pgherd_topology::{CutParty, Epoch, NodeId, ShardState, Topology};
use tokio::sync::watch;

/// One shard, as far as this database relays its answers.
struct Relayed {
    epoch: Epoch,
    primary: Option<NodeId>,
    party: CutParty,
}

impl Relayed {
    fn of(shard: &ShardState) -> Self {
        Self {
            epoch: shard.epoch,
            primary: shard.primary,
            party: shard.cuts.enter(shard.epoch),
        }
    }

    /// In a later reign, or while one is being prepared, nothing more is read from the primary of the one before.
    fn follow(&mut self, shard: &ShardState, pools: &Pools) {
        if shard.epoch > self.epoch {
            pools.retire_older_than(shard.id, shard.epoch);
            let deposed = self.primary.filter(|before| shard.primary != Some(*before));
            if let Some(deposed) = deposed {
                pools.cut_off(deposed, shard.epoch);
            }
            self.party.confirm(shard.epoch);
            self.epoch = shard.epoch;
            self.primary = shard.primary;
        } else if shard.primary.is_some() {
            self.primary = shard.primary;
        }
    }
}

/// Has the pools of a database end what is lent of primaries that are deposed, until the database is gone.
pub(super) async fn cut_off_deposed(
    database: Weak<Database>,
    mut topology: watch::Receiver<Arc<Topology>>,
) {
    let mut relayed: Vec<Relayed> = {
        let now = topology.borrow_and_update();
        now.shards.iter().map(Relayed::of).collect()
    };
    while topology.changed().await.is_ok() {
        let Some(database) = database.upgrade() else {
            return;
        };
        let now = Arc::clone(&topology.borrow_and_update());
        for (shard, relayed) in now.shards.iter().zip(&mut relayed) {
            relayed.follow(shard, database.pools());
        }
    }
}
