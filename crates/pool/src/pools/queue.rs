//! What passes between a pool and those who want its connections.
//!
//! Owns the values by which nothing is lost when one who waits goes away: each, dropped, gives itself back. Never
//! decides who gets what: [`NodePool`] does. Main types: [`Grant`], [`Slot`], [`Place`].

use std::sync::Arc;
use std::time::Instant;

use pgherd_topology::Epoch;
use tokio::sync::oneshot;

use super::Member;
use super::checkout::Checkout;
use super::node_pool::NodePool;
use crate::error::PoolError;
use crate::server::ServerConnection;

/// One who waits, as the pool sees him.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) id: u64,
    pub(super) epoch: Epoch,
    pub(super) since: Instant,
    pub(super) sender: oneshot::Sender<Grant>,
}

/// What one who waits is given. Dropped unread, it goes back to the pool by itself.
#[derive(Debug)]
pub(super) enum Grant {
    Connection(Checkout),
    Slot(Slot),
    Refused(PoolError),
}

/// A place in the queue; dropped, it is given up.
pub(super) struct Place {
    pub(super) receiver: oneshot::Receiver<Grant>,
    pub(super) pool: Arc<NodePool>,
    pub(super) id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.receiver.close();
        self.pool.leave(self.id);
    }
}

/// The right to one of the pool's connections. Dropped, it goes to the next who waits.
#[derive(Debug)]
pub(super) struct Slot(pub(super) Option<(Arc<NodePool>, Arc<Member>)>);

impl Slot {
    /// Turns the right into the thing.
    pub(super) fn fill(mut self, connection: Box<ServerConnection>) -> Option<Checkout> {
        let (pool, _) = self.0.take()?;
        Some(Checkout::new(connection, pool))
    }

    pub(super) fn member(&self) -> Option<&Arc<Member>> {
        self.0.as_ref().map(|(_, member)| member)
    }

    /// Gives up the right without its being handed on: the caller has the lock and does so itself.
    pub(super) fn defuse(mut self) -> Option<Arc<Member>> {
        self.0.take().map(|(_, member)| member)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some((pool, member)) = self.0.take() {
            pool.release(&member);
        }
    }
}
