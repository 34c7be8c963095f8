//! What goes on while nobody asks for anything.
//!
//! Owns when it is done; what is done, each pool knows ([`super::upkeep`]). Ends when the pools are gone.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use pgherd_topology::Epoch;

use super::Inner;
use super::lending::open_into;
use super::node_pool::NodePool;
use super::queue::Slot;
use crate::server::UserLogin;
use crate::settings::PoolSettings;

/// Opens what is missing to `min`, one after the other, and stops at the first failure: the maintenance comes again.
pub(super) async fn keep_warm(pool: Arc<NodePool>, first: (Slot, Arc<UserLogin>, Epoch)) {
    let mut next = Some(first);
    while let Some((slot, login, epoch)) = next {
        let opened = open_into(&pool, slot, &login, epoch, None).await;
        pool.warmed();
        // dropping it puts it into the pool
        next = opened.ok().and_then(|checkout| {
            drop(checkout);
            pool.start_warming(Instant::now())
        });
    }
}

/// Until the pools are gone.
pub(super) async fn maintain(inner: Weak<Inner>) {
    loop {
        let Some(pause) = inner
            .upgrade()
            .map(|inner| pause(&inner.shared.settings.load()))
        else {
            return;
        };
        tokio::time::sleep(pause).await;
        match inner.upgrade() {
            Some(inner) => inner.tidy(),
            None => return,
        }
    }
}

/// Often enough for the shortest of the times that it sees to, and no more often than 20 times a second.
fn pause(settings: &PoolSettings) -> Duration {
    let shortest = settings.idle_timeout.min(settings.lifetime) / 4;
    shortest.clamp(Duration::from_millis(50), Duration::from_secs(1))
}
