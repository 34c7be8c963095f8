//! The server connections of one database, kept for use by one client after another.
//!
//! Owns a bounded pool for each user on each server, what is common to them, and their maintenance. Never decides
//! which server a request goes to, and never puts a byte on a connection that is lent. Main types: [`Pools`],
//! [`Checkout`].
//!
//! # Layout
//! - `node_pool`: one user on one server; the bound, the queue, the back-off. No I/O.
//! - `checkout`: a connection, lent.
//! - `member`, `statistics`: what is shown of them.

mod checkout;
mod member;
mod node_pool;
mod statistics;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pgherd_topology::{Epoch, NodeId, NodeState, ShardId, ShardState};
use tokio::time::{timeout, timeout_at};
use tracing::{debug, warn};

pub use self::checkout::Checkout;
pub use self::member::Holding;
pub(crate) use self::member::Member;
use self::node_pool::{Asked, Grant, NodePool, Place, Slot};
use self::statistics::Counters;
pub use self::statistics::{PoolSnapshot, ServerSnapshot};
use crate::error::PoolError;
use crate::server::{Origin, Server, ServerConnection, UserLogin, open};
use crate::settings::PoolSettings;

/// The pools of one database. Clones are the same pools.
///
/// Dropping the last clone ends them: idle connections are closed, lent ones when they come back.
#[derive(Clone, Debug)]
pub struct Pools(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    pools: RwLock<PoolMap>,
    /// Set under the lock of `pools`: none made later goes unended.
    closed: AtomicBool,
}

/// Two steps, so that looking one up needs no name of its own.
type PoolMap = HashMap<NodeId, HashMap<Box<str>, Arc<NodePool>>>;

/// What all pools of a database have in common.
#[derive(Debug)]
struct Shared {
    settings: ArcSwap<PoolSettings>,
}

impl Shared {
    fn settings(&self) -> Arc<PoolSettings> {
        self.settings.load_full()
    }

    fn size(&self) -> usize {
        self.settings.load().size.max(1)
    }
}

/// The server that a connection is wanted to, as one snapshot of the topology shows it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The shard it belongs to.
    pub shard: ShardId,
    /// The shard's epoch.
    pub epoch: Epoch,
    /// The server.
    pub node: &'a NodeState,
}

impl<'a> Target<'a> {
    /// A server of a shard.
    #[must_use]
    pub fn new(shard: &ShardState, node: &'a NodeState) -> Self {
        Self {
            shard: shard.id,
            epoch: shard.epoch,
            node,
        }
    }
}

impl Pools {
    /// Pools without a connection yet. Starts a maintenance task on the current tokio runtime, which ends when the
    /// pools do.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(settings: PoolSettings) -> Self {
        let shared = Arc::new(Shared {
            settings: ArcSwap::from_pointee(settings),
        });
        let inner = Arc::new(Inner {
            shared,
            pools: RwLock::default(),
            closed: AtomicBool::new(false),
        });
        tokio::spawn(maintain(Arc::downgrade(&inner)));
        Self(inner)
    }

    /// Lends a connection to a server, logged in as the user: one that lies idle, a new one as long as the bound
    /// allows, else one that comes back, first come first served. Waits until `checkout_timeout`, or until the
    /// deadline if that is earlier.
    ///
    /// Cancel-safe: dropped, the place in the queue or the connection under way goes to the next.
    ///
    /// # Errors
    /// [`PoolError::CheckoutTimeout`] (53300) when none came in time; what opening a connection meets;
    /// [`PoolError::BackingOff`] for a short while after that; [`PoolError::Superseded`] when the target is out of
    /// date.
    pub async fn checkout(
        &self,
        login: &Arc<UserLogin>,
        target: &Target<'_>,
        deadline: Option<Instant>,
    ) -> Result<Checkout, PoolError> {
        let pool = self.0.pool(login, target);
        self.0
            .lend(&pool, login, target.epoch, deadline)
            .await
            .map_err(|error| match error {
                PoolError::CheckoutTimeout {
                    server,
                    user,
                    waited,
                    mut holders,
                } => {
                    holders.others = self.0.neighbours(&pool);
                    PoolError::CheckoutTimeout {
                        server,
                        user,
                        waited,
                        holders,
                    }
                }
                other => other,
            })
    }

    /// Makes the pool of a user on a server known, so that its `min` connections are opened before anyone asks.
    pub fn warm(&self, login: &Arc<UserLogin>, target: &Target<'_>) {
        self.0.pool(login, target);
    }

    /// New settings. What can be applied to open connections is applied at once; where it cannot (database, TLS,
    /// options ...), they are drained.
    pub fn reload(&self, settings: PoolSettings) {
        let new = Arc::new(settings);
        let old = self.0.shared.settings.swap(Arc::clone(&new));
        if new.needs_new_connections(&old) {
            self.drain();
        } else {
            self.0.each(|pool| pool.tidy(Instant::now()));
        }
    }

    /// Closes every idle connection now, and every lent one when it comes back.
    pub fn drain(&self) {
        self.0.each(NodePool::retire);
    }

    /// Closes a server's idle connections now, and its lent ones when they come back.
    pub fn retire(&self, node: NodeId) {
        self.0.each(|pool| {
            if pool.server.node == node {
                pool.retire();
            }
        });
    }

    /// The shard has changed hands: connections opened in older epochs are closed, now if idle, else when they come
    /// back. Who waits for one, or asks with an older topology, gets [`PoolError::Superseded`].
    pub fn retire_older_than(&self, shard: ShardId, epoch: Epoch) {
        self.0.each(|pool| {
            if pool.server.shard == shard {
                pool.retire_older_than(epoch);
            }
        });
    }

    /// Ends the pools: who waits or asks gets [`PoolError::Closed`], lent connections are closed when they come back.
    pub fn close(&self) {
        self.0.end();
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Arc<PoolSettings> {
        self.0.shared.settings()
    }

    /// All pools, ordered by server and user: the rows of `SHOW POOLS`.
    #[must_use]
    pub fn pool_snapshots(&self) -> Vec<PoolSnapshot> {
        let now = Instant::now();
        self.0
            .sorted()
            .iter()
            .map(|pool| PoolSnapshot::of(pool, now))
            .collect()
    }

    /// All connections, ordered by server and user: the rows of `SHOW SERVERS`.
    #[must_use]
    pub fn server_snapshots(&self) -> Vec<ServerSnapshot> {
        let now = Instant::now();
        self.0
            .sorted()
            .iter()
            .flat_map(|pool| ServerSnapshot::all_of(pool, now))
            .collect()
    }
}

impl Inner {
    fn read(&self) -> RwLockReadGuard<'_, PoolMap> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, PoolMap> {
        self.pools.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The user's pool on the target; a new one if there is none, or if the id now means another server.
    fn pool(&self, login: &Arc<UserLogin>, target: &Target<'_>) -> Arc<NodePool> {
        let is_same = |pool: &&Arc<NodePool>| {
            pool.server.address == target.node.address && pool.server.shard == target.shard
        };
        let known = self
            .read()
            .get(&target.node.id)
            .and_then(|users| users.get(&login.name))
            .filter(is_same)
            .cloned();
        if let Some(pool) = known {
            return pool;
        }
        let mut pools = self.write();
        let users = pools.entry(target.node.id).or_default();
        // another task may have been quicker
        if let Some(pool) = users.get(&login.name).filter(is_same) {
            return Arc::clone(pool);
        }
        let server = Arc::new(Server {
            node: target.node.id,
            shard: target.shard,
            name: target.node.name.clone(),
            address: target.node.address.clone(),
        });
        let pool = Arc::new(NodePool::new(
            Arc::clone(&self.shared),
            server,
            Arc::clone(login),
            target.epoch,
        ));
        if self.closed.load(Ordering::Relaxed) {
            pool.end(&PoolError::Closed);
        }
        let replaced = users.insert(login.name.clone(), Arc::clone(&pool));
        drop(pools);
        if let Some(old) = replaced {
            old.end(&PoolError::Removed {
                server: Server::clone(&old.server),
            });
        }
        pool
    }

    fn all(&self) -> Vec<Arc<NodePool>> {
        self.read()
            .values()
            .flat_map(HashMap::values)
            .cloned()
            .collect()
    }

    fn sorted(&self) -> Vec<Arc<NodePool>> {
        let mut pools = self.all();
        pools.sort_by(|a, b| (a.server.node, &a.user).cmp(&(b.server.node, &b.user)));
        pools
    }

    fn each(&self, act: impl Fn(&Arc<NodePool>)) {
        self.all().iter().for_each(act);
    }

    fn end(&self) {
        {
            let _pools = self.write();
            self.closed.store(true, Ordering::Relaxed);
        }
        self.each(|pool| pool.end(&PoolError::Closed));
    }

    /// What [`Pools::checkout`] does once the pool is known.
    async fn lend(
        &self,
        pool: &Arc<NodePool>,
        login: &Arc<UserLogin>,
        epoch: Epoch,
        deadline: Option<Instant>,
    ) -> Result<Checkout, PoolError> {
        let mut patience = None;
        loop {
            let asked = pool.ask(login, epoch)?;
            if let Asked::Connection(mut connection) = asked {
                if connection.is_alive() {
                    Counters::add(&pool.counters.checkouts);
                    return Ok(Checkout::new(connection, Arc::clone(pool)));
                }
                debug!(server = %pool.server, pid = connection.pid(), "an idle server connection was closed by the server");
                pool.discard(connection);
                continue;
            }
            let patience = *patience.get_or_insert_with(|| self.patience(deadline));
            let slot = match asked {
                Asked::Connection(_) => continue,
                Asked::Slot(slot) => slot,
                Asked::Wait(place) => match wait(pool, place, patience).await? {
                    Grant::Connection(mut checkout) => {
                        if checkout.is_alive() {
                            Counters::add(&pool.counters.checkouts);
                            return Ok(checkout);
                        }
                        checkout.mark_dirty("the server closed it");
                        continue;
                    }
                    Grant::Slot(slot) => slot,
                    Grant::Refused(error) => return Err(error),
                },
            };
            match open_into(pool, slot, login, epoch, Some(patience)).await {
                Ok(checkout) => {
                    Counters::add(&pool.counters.checkouts);
                    return Ok(checkout);
                }
                // it has room for those that are open: one of them will do, and if there is none, asking says so
                Err(error) if error.is_server_full() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The connections to a pool's server in the pools of other users.
    fn neighbours(&self, pool: &Arc<NodePool>) -> Vec<(Box<str>, usize)> {
        self.sorted()
            .into_iter()
            .filter(|other| other.server == pool.server && other.user != pool.user)
            .map(|other| (other.user.clone(), other.members().len()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Since when a checkout waits, and until when it may.
    fn patience(&self, deadline: Option<Instant>) -> Patience {
        let begun = Instant::now();
        let limit = begun + self.shared.settings.load().checkout_timeout;
        Patience {
            begun,
            until: deadline.map_or(limit, |deadline| deadline.min(limit)),
        }
    }

    /// What the maintenance does each time.
    fn tidy(&self) {
        let now = Instant::now();
        let idle_timeout = self.shared.settings.load().idle_timeout;
        for pool in self.all() {
            pool.tidy(now);
            if let Some(first) = pool.start_warming(now) {
                tokio::spawn(keep_warm(pool, first));
            }
        }
        // Under the write lock nobody can look one up, so that a count of one means that nobody else has it.
        self.write().retain(|_, users| {
            users.retain(|_, pool| {
                Arc::strong_count(pool) > 1 || !pool.is_forgotten(now, idle_timeout)
            });
            !users.is_empty()
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end();
    }
}

/// Since when a checkout waits, and until when it may.
#[derive(Clone, Copy, Debug)]
struct Patience {
    begun: Instant,
    until: Instant,
}

async fn wait(
    pool: &Arc<NodePool>,
    mut place: Place,
    patience: Patience,
) -> Result<Grant, PoolError> {
    let waited = timeout_at(patience.until.into(), &mut place.receiver).await;
    match waited {
        Ok(Ok(grant)) => Ok(grant),
        // only the end of a pool drops who waits unanswered
        Ok(Err(_)) => Err(PoolError::Closed),
        Err(_) => {
            place.receiver.close();
            // it may have come in that very moment
            match place.receiver.try_recv() {
                Ok(grant) => Ok(grant),
                Err(_) => {
                    drop(place);
                    Err(timed_out(pool, patience))
                }
            }
        }
    }
}

fn timed_out(pool: &NodePool, patience: Patience) -> PoolError {
    Counters::add(&pool.counters.timeouts);
    PoolError::CheckoutTimeout {
        server: Server::clone(&pool.server),
        user: pool.user.clone(),
        waited: patience.begun.elapsed(),
        holders: pool.holders(),
    }
}

/// Opens a connection within the slot. However it ends, dropping the slot or the checkout settles the count.
async fn open_into(
    pool: &Arc<NodePool>,
    slot: Slot,
    login: &Arc<UserLogin>,
    epoch: Epoch,
    patience: Option<Patience>,
) -> Result<Checkout, PoolError> {
    // after the slot was made: a reload in between makes the connection outdated, not wrong
    let settings = pool.shared.settings();
    let begun = Instant::now();
    let left = patience.map_or(Duration::MAX, |patience| {
        patience.until.saturating_duration_since(begun)
    });
    let limit = settings.connect_timeout.min(left);
    let error = match timeout(limit, open(&settings, &pool.server, login)).await {
        Ok(Ok(opened)) => {
            pool.note_success();
            return finish(pool, slot, opened, &settings, epoch);
        }
        Ok(Err(error)) => error,
        Err(_) => {
            if let Some(patience) = patience.filter(|_| left < settings.connect_timeout) {
                return Err(timed_out(pool, patience));
            }
            PoolError::ConnectTimeout {
                server: Server::clone(&pool.server),
                after: limit,
            }
        }
    };
    warn!(server = %pool.server, user = %pool.user, error = %error, "could not open a server connection");
    pool.note_failure(&error);
    Err(error)
}

fn finish(
    pool: &Arc<NodePool>,
    slot: Slot,
    opened: crate::server::Opened,
    settings: &PoolSettings,
    epoch: Epoch,
) -> Result<Checkout, PoolError> {
    let Some(member) = slot.member().map(Arc::clone) else {
        return Err(PoolError::Closed);
    };
    let now = Instant::now();
    member.set_pid(opened.pid);
    member.hand(Holding::Running, now);
    let origin = Origin {
        server: Arc::clone(&pool.server),
        tls: Arc::clone(&settings.tls),
        epoch,
        pid: opened.pid,
        cancel_key: opened.cancel_key,
        created: now,
        expires: now.checked_add(lifetime(settings.lifetime)),
        member,
    };
    let connection = ServerConnection::new(opened.transport, opened.parameters, origin);
    debug!(server = %pool.server, user = %pool.user, pid = connection.pid(), "opened a server connection");
    slot.fill(Box::new(connection)).ok_or(PoolError::Closed)
}

/// Up to a tenth less.
fn lifetime(most: Duration) -> Duration {
    most.mul_f64(1.0 - rand::random::<f64>() / 10.0)
}

/// Opens what is missing to `min`, one after the other, and stops at the first failure: the maintenance comes again.
async fn keep_warm(pool: Arc<NodePool>, first: (Slot, Arc<UserLogin>, Epoch)) {
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
async fn maintain(inner: Weak<Inner>) {
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
