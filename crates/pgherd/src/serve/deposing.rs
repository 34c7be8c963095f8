//! What becomes of a server's connections when it is no longer its shard's primary.
//!
//! Owns noticing it in what control publishes. Never decides who is primary, and never closes a connection: the pools do.
//! Main function: [`cut_off_deposed`].

use std::sync::{Arc, Weak};

use pgherd_session::Database;
use pgherd_topology::{Epoch, NodeId, ShardState, Topology};
use tokio::sync::watch;

/// Who took a shard's writes last, and in which reign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reign {
    epoch: Epoch,
    primary: NodeId,
}

impl Reign {
    fn of(shard: &ShardState) -> Option<Self> {
        Some(Self {
            epoch: shard.epoch,
            primary: shard.primary?,
        })
    }
}

/// Has the pools of a database end what is lent of primaries that are deposed, until the database is gone.
pub(super) async fn cut_off_deposed(
    database: Weak<Database>,
    mut topology: watch::Receiver<Arc<Topology>>,
) {
    let mut reigns: Vec<Option<Reign>> = topology
        .borrow_and_update()
        .shards
        .iter()
        .map(Reign::of)
        .collect();
    while topology.changed().await.is_ok() {
        let Some(database) = database.upgrade() else {
            return;
        };
        let now = Arc::clone(&topology.borrow_and_update());
        for (shard, last) in now.shards.iter().zip(&mut reigns) {
            let Some(reign) = Reign::of(shard) else {
                // nobody took its place so far
                continue;
            };
            let before = last
                .replace(reign)
                .filter(|before| before.epoch < reign.epoch);
            let Some(before) = before else { continue };
            let pools = database.pools();
            pools.retire_older_than(shard.id, reign.epoch);
            if before.primary != reign.primary {
                pools.cut_off(before.primary, reign.epoch);
            }
        }
    }
}
