//! What passes between a pool and those who want its connections.
//!
//! Owns the values by which nothing is lost when one who waits goes away: each, dropped, gives itself back. Never
//! decides who gets what: [`NodePool`] does. Main types: [`Grant`], [`Slot`], [`Place`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

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
    pub(super) thread: ThreadId,
    pub(super) sender: oneshot::Sender<Grant>,
}

/// Who begin to wait within so short a time come together: which of them is seen first is for the threads' turns to decide.
const TOGETHER: Duration = Duration::from_millis(20);

/// Takes out who gets a connection that comes back: the first who waits, or, of those who came together with him, the first on the
/// thread that drives the connection, so that no thread has to wake another.
pub(super) fn take_turn(waiters: &mut VecDeque<Waiter>, home: Option<ThreadId>) -> Option<Waiter> {
    let until = waiters.front()?.since + TOGETHER;
    let together = waiters.iter().take_while(|waiter| waiter.since <= until);
    let near = together
        .map(|waiter| Some(waiter.thread))
        .position(|thread| thread == home);
    waiters.remove(near.unwrap_or(0))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::thread;

    use super::*;

    /// Two threads.
    fn threads() -> (ThreadId, ThreadId) {
        let other = thread::spawn(|| thread::current().id());
        (thread::current().id(), other.join().unwrap())
    }

    /// Waiters with their numbers, in order: how long after the first each came, and on which thread.
    fn queue(came: &[(Duration, ThreadId)]) -> VecDeque<Waiter> {
        let begun = Instant::now();
        let waiters = came.iter().zip(0..);
        let waiters = waiters.map(|((after, thread), id)| Waiter {
            id,
            epoch: Epoch(1),
            since: begun + *after,
            thread: *thread,
            sender: oneshot::channel().0,
        });
        waiters.collect()
    }

    fn turns(mut waiters: VecDeque<Waiter>, home: Option<ThreadId>) -> Vec<u64> {
        std::iter::from_fn(|| take_turn(&mut waiters, home).map(|waiter| waiter.id)).collect()
    }

    #[test]
    fn of_those_who_came_together_the_connections_thread_goes_first() {
        let (here, there) = threads();
        let came = [
            (Duration::ZERO, there),
            (TOGETHER / 2, here),
            (TOGETHER, here),
            (TOGETHER + Duration::from_nanos(1), here),
        ];
        assert_eq!(turns(queue(&came), Some(here)), [1, 2, 0, 3]);
        assert_eq!(turns(queue(&came), Some(there)), [0, 1, 2, 3]);
        assert_eq!(turns(queue(&came), None), [0, 1, 2, 3]);
    }
}
