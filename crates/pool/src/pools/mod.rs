//! The server connections of one database, kept for use by one client after another.
//!
//! Owns a bounded pool for each user on each server, what is common to them, and their maintenance. Never decides
//! which server a request goes to, and never puts a byte on a connection that is lent. Main types: [`Pools`],
//! [`Checkout`].
//!
//! # Layout
//! - `node_pool`: one user on one server: who gets what. No I/O. `upkeep`: what else is done to it.
//! - `queue`, `failure`: what it deals in: places, rights, connections; pauses after a failure.
//! - `lending`: the awaiting side: asking, waiting, opening. `checkout`: a connection, lent.
//! - `apart`: connections that are nobody else's.
//! - `maintenance`: what goes on while nobody asks.
//! - `member`, `statistics`: what is shown of them.

mod apart;
mod checkout;
mod failure;
mod lending;
mod maintenance;
mod member;
mod node_pool;
mod queue;
mod statistics;
mod upkeep;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use arc_swap::ArcSwap;
use foldhash::HashMap;
use pgherd_topology::{Address, Epoch, NodeId, NodeState, ShardId, ShardState};

use self::apart::Guest;
pub use self::checkout::Checkout;
use self::lending::lend;
pub use self::member::Holding;
pub(crate) use self::member::Member;
pub(crate) use self::node_pool::NodePool;
pub use self::statistics::{PoolSnapshot, ServerSnapshot};
pub use self::upkeep::AllPinned;
use crate::budget::{Budget, Limit, Reservation};
use crate::error::PoolError;
use crate::server::{Server, UserLogin};
use crate::settings::PoolSettings;

/// So many pools are named to one who waited in vain.
const MOST_NAMED: usize = 5;

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
    /// Set under the same lock: none made later lends anything.
    paused: AtomicBool,
    /// Room for connections to their servers that are not theirs.
    reservations: Mutex<Vec<Reservation>>,
}

/// Two steps, so that looking one up needs no name of its own.
type PoolMap = HashMap<NodeId, HashMap<Box<str>, Arc<NodePool>>>;

/// What all pools of a database have in common.
#[derive(Debug)]
struct Shared {
    settings: ArcSwap<PoolSettings>,
    budget: Budget,
    /// The database's number in the budget.
    id: u64,
    guests: Mutex<Vec<Guest>>,
    /// Connections that pools which are gone have handed out.
    past_checkouts: AtomicU64,
}

impl Shared {
    fn settings(&self) -> Arc<PoolSettings> {
        self.settings.load_full()
    }

    fn guests(&self) -> MutexGuard<'_, Vec<Guest>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Whether standbys acknowledge the shard's commits ([`Server::synchronous`]).
    pub synchronous: bool,
}

impl<'a> Target<'a> {
    /// A server of a shard.
    #[must_use]
    pub fn new(shard: &ShardState, node: &'a NodeState) -> Self {
        Self {
            shard: shard.id,
            epoch: shard.epoch,
            node,
            synchronous: shard.continuity.synchronous,
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
        Self::within(Budget::new(None), settings)
    }

    /// As [`Self::new`], within a budget that other databases' pools share.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn within(budget: Budget, settings: PoolSettings) -> Self {
        let shared = Arc::new(Shared {
            settings: ArcSwap::from_pointee(settings),
            id: budget.next_id(),
            budget,
            guests: Mutex::default(),
            past_checkouts: AtomicU64::new(0),
        });
        let inner = Arc::new(Inner {
            shared,
            pools: RwLock::default(),
            closed: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            reservations: Mutex::default(),
        });
        tokio::spawn(maintenance::maintain(Arc::downgrade(&inner)));
        Self(inner)
    }

    /// Lends a connection to a server, logged in as the user: one that lies idle, a new one as long as the bound
    /// allows, else one that comes back, first come first served; of those who come within 20 ms, one on the connection's
    /// thread before the others, where threads have a runtime each. Waits until `checkout_timeout`, or until the deadline
    /// if that is earlier.
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
        lend(&pool, login, target.epoch, deadline)
            .await
            .map_err(|error| match error {
                PoolError::CheckoutTimeout {
                    server,
                    user,
                    waited,
                    mut holders,
                } => {
                    holders.others = self.0.neighbours(&pool);
                    holders.limits = self.0.limits(&pool);
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

    /// The turn to take connections of several pools, holding some while others must be waited for. `None` where no limit is common to
    /// pools, so that taking them in one order is enough, and where the turn does not come before the deadline.
    pub async fn turn(&self, deadline: Instant) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        let settings = self.0.shared.settings();
        let budget = &self.0.shared.budget;
        if budget.limit().is_none()
            && settings.max_connections.is_none()
            && settings.server_limits.is_empty()
        {
            return None;
        }
        tokio::time::timeout_at(deadline.into(), budget.join())
            .await
            .ok()
    }

    /// Keeps room in the budget, as long as these pools live, for connections that are theirs not, but of whoever serves the database beside
    /// them: so many to each of these servers, and no more what was said before.
    pub fn reserve<'a>(&self, servers: impl IntoIterator<Item = &'a Address>, count: usize) {
        let budget = self.budget();
        let servers = servers.into_iter();
        let reserved = servers.map(|server| budget.reserve(server, count));
        let mut reservations = reserved.collect();
        let known = &self.0.reservations;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *known, &mut reservations);
    }

    /// What the connections are counted in, with those of other databases.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.0.shared.budget
    }

    /// How many connections the database has, over its users and servers.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.all().iter().map(|pool| pool.members().len()).sum()
    }

    /// How often a connection was handed out since the start.
    #[must_use]
    pub fn checkouts(&self) -> u64 {
        let shared = &self.0.shared;
        // one that was replaced may still have connections out
        let pools = shared.budget.pools();
        let own = pools
            .iter()
            .filter(|pool| Arc::ptr_eq(&pool.shared, shared));
        let counted: u64 = own
            .map(|pool| pool.counters.checkouts.load(Ordering::Relaxed))
            .sum();
        counted + shared.past_checkouts.load(Ordering::Relaxed)
    }

    /// Whether [`Self::checkout`] would give a connection at once, or open one, rather than wait for another's. That may be different a
    /// moment later.
    #[must_use]
    pub fn is_at_hand(&self, login: &Arc<UserLogin>, target: &Target<'_>) -> bool {
        self.0.pool(login, target).is_at_hand()
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

    /// The shard was taken from this server in `epoch`: connections to it from older epochs are closed, and those that are lent are at their
    /// end at once, also where an answer is on its way: it may be of a backend that goes on after its postmaster was killed, and tell of
    /// what nobody else will ever know. To read or write on them is `ConnectionAborted`.
    pub fn cut_off(&self, node: NodeId, epoch: Epoch) {
        self.0.each(|pool| {
            if pool.server.node == node {
                pool.cut_off_before(epoch);
            }
        });
        self.0.shared.cut_off_guests(node, epoch);
    }

    /// Lends nothing any more until [`Self::resume`]: who asks waits, however long `checkout_timeout` is. Idle connections are closed now, lent
    /// ones when they come back.
    pub fn pause(&self) {
        {
            let _pools = self.0.write();
            self.0.paused.store(true, Ordering::Relaxed);
        }
        self.0.each(|pool| pool.pause());
    }

    /// Lends again, first to those who have waited.
    pub fn resume(&self) {
        {
            let _pools = self.0.write();
            self.0.paused.store(false, Ordering::Relaxed);
        }
        self.0.each(NodePool::resume);
    }

    /// Whether nothing is lent.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.0.paused.load(Ordering::Relaxed)
    }

    /// How many connections are still open, or being opened, that are to be closed when they come back ([`Self::drain`], [`Self::reload`]).
    #[must_use]
    pub fn outdated(&self) -> usize {
        self.0.all().iter().map(|pool| pool.outdated()).sum()
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

    /// All connections, ordered by server and user, then those that clients have for themselves: the rows of `SHOW SERVERS`.
    #[must_use]
    pub fn server_snapshots(&self) -> Vec<ServerSnapshot> {
        let now = Instant::now();
        let pools = self.0.sorted();
        let pooled = pools
            .iter()
            .flat_map(|pool| ServerSnapshot::all_of(pool, now));
        pooled.chain(self.0.shared.guest_snapshots(now)).collect()
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
            pool.server.address == target.node.address
                && pool.server.shard == target.shard
                && pool.server.synchronous == target.synchronous
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
            synchronous: target.synchronous,
        });
        let pool = Arc::new(NodePool::new(
            Arc::clone(&self.shared),
            server,
            Arc::clone(login),
            target.epoch,
        ));
        self.shared.budget.register(pool.id, &pool);
        if self.closed.load(Ordering::Relaxed) {
            pool.end(&PoolError::Closed);
        }
        if self.paused.load(Ordering::Relaxed) {
            pool.pause();
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

    /// The connections to a pool's server in the pools of other users.
    fn neighbours(&self, pool: &Arc<NodePool>) -> Vec<(Box<str>, usize)> {
        self.sorted()
            .into_iter()
            .filter(|other| other.server == pool.server && other.user != pool.user)
            .map(|other| (other.user.clone(), other.members().len()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// The limits that keep a pool from one more connection, each with who has how many.
    fn limits(&self, pool: &Arc<NodePool>) -> Vec<String> {
        let full = self.shared.budget.in_the_way(&pool.scope());
        full.iter()
            .map(|full| {
                let what = match full.limit {
                    Limit::Process => "of pgherd (max_server_connections)".to_owned(),
                    Limit::Database => format!(
                        "of database \"{}\" (pool: max_connections)",
                        self.shared.settings.load().database
                    ),
                    Limit::Server => {
                        format!("to server \"{}\" (max_connections)", pool.server.name)
                    }
                };
                let own =
                    (full.reserved > 0).then(|| format!("{} of pgherd itself", full.reserved));
                let holders = full.holders.iter().take(MOST_NAMED);
                let holders: Vec<String> = holders
                    .map(|(title, count)| format!("{count} of {title}"))
                    .chain(own)
                    .collect();
                let more = match full.holders.len().saturating_sub(MOST_NAMED) {
                    0 => String::new(),
                    more => format!(", and {more} more pools"),
                };
                format!(
                    "all {} connections {what} are taken: {}{more}",
                    full.used,
                    holders.join(", ")
                )
            })
            .collect()
    }

    /// What the maintenance does each time.
    fn tidy(&self) {
        let now = Instant::now();
        let idle_timeout = self.shared.settings.load().idle_timeout;
        for pool in self.all() {
            pool.refresh_addresses();
            pool.tidy(now);
            while let Some(first) = pool.start_warming(now) {
                tokio::spawn(maintenance::keep_warm(Arc::clone(&pool), first));
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
