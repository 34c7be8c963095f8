//! How many server connections there may be, over all pools of a process.
//!
//! Owns the counts (in all, of each database, to each server), who waits for room, and whose connection is closed to make it. Never
//! opens or closes a connection: pools do. Main types: [`Budget`], [`Permit`].
//!
//! # Locks
//! A pool asks under its own lock, so that the budget's lock is taken after a pool's and never before one. What the
//! budget has for a pool is therefore handed over by a task of its own, [`keep`], which holds neither when it calls.
//!
//! # Who comes first
//! A pool that finds no room has a claim as old as the first who waits in it. Newcomers are given nothing while an older claim counts
//! towards a limit of theirs. For the oldest claim the connection that has lain idle longest is closed; and where all
//! are busy, one that comes back, though others wait in its own pool, if they came later.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use pgherd_topology::Address;
use tokio::sync::Notify;

use crate::pools::NodePool;

/// The server connections of a process, counted. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Whether anybody waits for room: looked at whenever a connection comes back.
    is_contended: AtomicBool,
    changed: Arc<Notify>,
    next_id: AtomicU64,
    /// [`usize::MAX`] is no limit.
    limit: AtomicUsize,
    /// One at a time takes connections while it holds others.
    joining: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    total: usize,
    databases: HashMap<u64, usize>,
    servers: HashMap<Address, usize>,
    /// Room that is kept for connections of nobody's pool, by server.
    reserved: HashMap<Address, usize>,
    /// Oldest first.
    claims: Vec<Claim>,
    pools: HashMap<u64, Weak<NodePool>>,
}

/// A pool that waits for room.
#[derive(Clone, Debug)]
struct Claim {
    scope: Scope,
    since: Instant,
    /// A connection is being closed for it.
    is_served: bool,
}

/// Which counts a pool's connections belong to, and their limits at the moment.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) pool: u64,
    pub(crate) database: u64,
    pub(crate) database_limit: Option<usize>,
    pub(crate) server: Address,
    pub(crate) server_limit: Option<usize>,
}

/// One of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// For the process.
    Process,
    /// Of a database.
    Database,
    /// Of a server.
    Server,
}

/// Room for connections that no pool has: they must be had when all others are taken. Dropped, it is the pools' again.
#[derive(Debug)]
pub struct Reservation {
    budget: Weak<Inner>,
    server: Address,
    count: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(budget) = self.budget.upgrade() else {
            return;
        };
        if let Some(count) = budget.state().reserved.get_mut(&self.server) {
            *count -= self.count;
        }
        budget.changed.notify_one();
    }
}

/// The right to one connection. Dropped, it goes to who waits.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Weak<Inner>,
    database: u64,
    server: Address,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(budget) = self.budget.upgrade() else {
            return;
        };
        let mut state = budget.state();
        state.total -= 1;
        less(&mut state.databases, &self.database);
        less(&mut state.servers, &self.server);
        // what was closed for somebody may be it
        for claim in &mut state.claims {
            claim.is_served = false;
        }
        if !state.claims.is_empty() {
            budget.changed.notify_one();
        }
    }
}

fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl State {
    fn used(&self, limit: Limit, scope: &Scope) -> usize {
        match limit {
            Limit::Process => self.total,
            Limit::Database => self.databases.get(&scope.database).copied().unwrap_or(0),
            Limit::Server => self.servers.get(&scope.server).copied().unwrap_or(0),
        }
    }

    /// What counts towards a limit and is no pool's.
    fn reserved(&self, limit: Limit, server: &Address) -> usize {
        match limit {
            Limit::Process => self.reserved.values().sum(),
            Limit::Database => 0,
            Limit::Server => self.reserved.get(server).copied().unwrap_or(0),
        }
    }

    /// The limits that keep a pool from one more connection.
    fn full(&self, scope: &Scope, process: Option<usize>) -> Vec<Limit> {
        scope
            .limits(process)
            .into_iter()
            .filter(|(limit, most)| {
                let used = self.used(*limit, scope) + self.reserved(*limit, &scope.server);
                most.is_some_and(|most| used >= most)
            })
            .map(|(limit, _)| limit)
            .collect()
    }

    fn take(&mut self, scope: &Scope) {
        self.total += 1;
        *self.databases.entry(scope.database).or_default() += 1;
        *self.servers.entry(scope.server.clone()).or_default() += 1;
    }
}

impl Scope {
    fn limits(&self, process: Option<usize>) -> [(Limit, Option<usize>); 3] {
        [
            (Limit::Process, process),
            (Limit::Database, self.database_limit),
            (Limit::Server, self.server_limit),
        ]
    }

    fn shares(&self, limit: Limit, other: &Self) -> bool {
        match limit {
            Limit::Process => true,
            Limit::Database => self.database == other.database,
            Limit::Server => self.server == other.server,
        }
    }
}

impl Inner {
    /// Nothing in here panics between two changes that belong together.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limit(&self) -> Option<usize> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit < usize::MAX)
    }

    fn permit(self: &Arc<Self>, state: &mut State, scope: &Scope) -> Permit {
        state.take(scope);
        Permit {
            budget: Arc::downgrade(self),
            database: scope.database,
            server: scope.server.clone(),
        }
    }

    fn drop_claim(&self, state: &mut State, pool: u64) {
        state.claims.retain(|claim| claim.scope.pool != pool);
        if state.claims.is_empty() {
            self.is_contended.store(false, Ordering::Relaxed);
        }
    }
}

impl Budget {
    /// At most so many connections in all; `None` is no limit. Starts a task on the current tokio runtime, which ends when the budget
    /// and its pools do.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(limit: Option<usize>) -> Self {
        let inner = Arc::new(Inner {
            state: Mutex::default(),
            is_contended: AtomicBool::new(false),
            changed: Arc::default(),
            next_id: AtomicU64::new(0),
            limit: AtomicUsize::new(limit.unwrap_or(usize::MAX)),
            joining: Arc::default(),
        });
        tokio::spawn(keep(Arc::downgrade(&inner), Arc::clone(&inner.changed)));
        Self(inner)
    }

    /// How many connections there may be in all.
    #[must_use]
    pub fn limit(&self) -> Option<usize> {
        self.0.limit()
    }

    /// Changes that. Connections beyond a smaller limit stay until they come back and somebody waits for room.
    pub fn set_limit(&self, limit: Option<usize>) {
        let limit = limit.unwrap_or(usize::MAX);
        self.0.limit.store(limit, Ordering::Relaxed);
        self.0.changed.notify_one();
    }

    /// How many connections there are in all, those being opened among them, and those that room is reserved for.
    #[must_use]
    pub fn total(&self) -> usize {
        let state = self.0.state();
        state.total + state.reserved.values().sum::<usize>()
    }

    /// How many of these lead to a server.
    #[must_use]
    pub fn total_to(&self, server: &Address) -> usize {
        let state = self.0.state();
        state.servers.get(server).copied().unwrap_or(0) + state.reserved(Limit::Server, server)
    }

    /// Keeps room for so many connections to a server that are no pool's.
    #[must_use]
    pub fn reserve(&self, server: &Address, count: usize) -> Reservation {
        *self.0.state().reserved.entry(server.clone()).or_default() += count;
        Reservation {
            budget: Arc::downgrade(&self.0),
            server: server.clone(),
            count,
        }
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.0.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn register(&self, id: u64, pool: &Arc<NodePool>) {
        self.0.state().pools.insert(id, Arc::downgrade(pool));
    }

    /// All pools.
    pub(crate) fn pools(&self) -> Vec<Arc<NodePool>> {
        let pools: Vec<_> = self.0.state().pools.values().cloned().collect();
        // without the lock: the last of one takes it
        pools.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn forget(&self, id: u64) {
        let mut state = self.0.state();
        state.pools.remove(&id);
        self.0.drop_claim(&mut state, id);
    }

    /// Waits until nobody else takes connections while it holds some.
    pub(crate) async fn join(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.0.joining).lock_owned().await
    }

    /// The right to one more connection for somebody who waits since then, unless a limit or an older claim is in the way.
    pub(crate) fn acquire(&self, scope: &Scope, since: Instant) -> Option<Permit> {
        let process = self.0.limit();
        let mut state = self.0.state();
        let is_behind = state.claims.iter().any(|claim| {
            let limits = scope.limits(process);
            let mut shared = limits.iter().filter(|(_, most)| most.is_some());
            claim.scope.pool != scope.pool
                && claim.since < since
                && shared.any(|(limit, _)| scope.shares(*limit, &claim.scope))
        });
        if is_behind || !state.full(scope, process).is_empty() {
            return None;
        }
        Some(self.0.permit(&mut state, scope))
    }

    /// Whether [`Self::acquire`] would give it to a newcomer.
    pub(crate) fn has_room(&self, scope: &Scope) -> bool {
        let state = self.0.state();
        state.claims.is_empty() && state.full(scope, self.0.limit()).is_empty()
    }

    /// Somebody waits for room in a pool, the first of them since then.
    pub(crate) fn claim(&self, scope: Scope, since: Instant) {
        let mut state = self.0.state();
        let known = state
            .claims
            .iter()
            .position(|claim| claim.scope.pool == scope.pool);
        let is_served = known.is_some_and(|index| state.claims.remove(index).is_served);
        let index = state.claims.partition_point(|claim| claim.since <= since);
        let claim = Claim {
            scope,
            since,
            is_served,
        };
        state.claims.insert(index, claim);
        self.0.is_contended.store(true, Ordering::Relaxed);
        self.0.changed.notify_one();
    }

    /// Nobody waits for room in this pool.
    pub(crate) fn withdraw(&self, pool: u64) {
        if self.is_contended() {
            self.0.drop_claim(&mut self.0.state(), pool);
            // those behind it may have their turn
            self.0.changed.notify_one();
        }
    }

    pub(crate) fn is_contended(&self) -> bool {
        self.0.is_contended.load(Ordering::Relaxed)
    }

    /// Whether a connection that came back is to be closed, for somebody in another pool who has waited for longer than the first in its own.
    pub(crate) fn is_owed(&self, scope: &Scope, since: Option<Instant>) -> bool {
        if !self.is_contended() {
            return false;
        }
        let process = self.0.limit();
        let mut state = self.0.state();
        let owed = state.claims.iter().position(|claim| {
            claim.scope.pool != scope.pool
                && !claim.is_served
                && since.is_none_or(|since| claim.since < since)
                && state
                    .full(&claim.scope, process)
                    .iter()
                    .any(|limit| claim.scope.shares(*limit, scope))
        });
        if let Some(claim) = owed.and_then(|index| state.claims.get_mut(index)) {
            claim.is_served = true;
        }
        owed.is_some()
    }

    /// What keeps a pool from one more connection, and which pools have how many of those.
    pub(crate) fn in_the_way(&self, scope: &Scope) -> Vec<Full> {
        let (full, pools) = {
            let state = self.0.state();
            let process = self.0.limit();
            let full: Vec<_> = state
                .full(scope, process)
                .into_iter()
                .map(|limit| {
                    let reserved = state.reserved(limit, &scope.server);
                    (limit, state.used(limit, scope), reserved)
                })
                .collect();
            (full, state.pools.values().cloned().collect::<Vec<_>>())
        };
        if full.is_empty() {
            return Vec::new();
        }
        // without the budget's lock: each pool has its own
        let pools: Vec<_> = pools.iter().filter_map(Weak::upgrade).collect();
        full.into_iter()
            .map(|(limit, used, reserved)| {
                let mut holders: Vec<_> = pools
                    .iter()
                    .filter(|pool| scope.shares(limit, &pool.scope()))
                    .map(|pool| (pool.title(), pool.members().len()))
                    .filter(|(_, count)| *count > 0)
                    .collect();
                holders.sort_by(|(a, more), (b, less)| less.cmp(more).then(a.cmp(b)));
                Full {
                    limit,
                    used: used + reserved,
                    reserved,
                    holders,
                }
            })
            .collect()
    }
}

/// A limit that is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) limit: Limit,
    pub(crate) used: usize,
    /// Of these: not any pool's.
    pub(crate) reserved: usize,
    /// Pools and their connections, the largest first.
    pub(crate) holders: Vec<(String, usize)>,
}

/// What is to be done next for those who wait.
enum Step {
    Grant(Arc<NodePool>, Permit),
    /// One of these pools' idle connections is to be closed.
    Evict(Vec<Arc<NodePool>>),
}

impl Inner {
    fn next_step(self: &Arc<Self>, passed_over: &mut Vec<u64>) -> Option<Step> {
        let process = self.limit();
        // dropped after the lock: the last of them tells the budget
        let mut looked_at = Vec::new();
        let mut state = self.state();
        let claims = state.claims.clone();
        for claim in &claims {
            let Some(pool) = state.pools.get(&claim.scope.pool).and_then(Weak::upgrade) else {
                self.drop_claim(&mut state, claim.scope.pool);
                continue;
            };
            looked_at.push(Arc::clone(&pool));
            let full = state.full(&claim.scope, process);
            let Some(first) = full.first() else {
                // who still waits there claims again
                self.drop_claim(&mut state, claim.scope.pool);
                let permit = self.permit(&mut state, &claim.scope);
                return Some(Step::Grant(pool, permit));
            };
            if claim.is_served || passed_over.contains(&claim.scope.pool) {
                continue;
            }
            passed_over.push(claim.scope.pool);
            let others: Vec<_> = state
                .pools
                .iter()
                .filter(|(id, _)| **id != claim.scope.pool)
                .filter_map(|(_, pool)| pool.upgrade())
                .collect();
            drop(state);
            let sharing = others
                .into_iter()
                .filter(|other| claim.scope.shares(*first, &other.scope()));
            return Some(Step::Evict(sharing.collect()));
        }
        None
    }
}

/// Hands out what becomes free, and closes idle connections for those who wait. Ends with the budget.
async fn keep(budget: Weak<Inner>, changed: Arc<Notify>) {
    loop {
        let Some(inner) = budget.upgrade() else {
            return;
        };
        let mut passed_over = Vec::new();
        while let Some(step) = inner.next_step(&mut passed_over) {
            match step {
                Step::Grant(pool, permit) => pool.take_permit(permit),
                Step::Evict(pools) => {
                    let longest = pools
                        .iter()
                        .filter_map(|pool| Some((pool.idle_since()?, pool)))
                        .min_by_key(|(since, _)| *since);
                    if let Some((_, pool)) = longest {
                        pool.close_longest_idle();
                        passed_over.pop();
                    }
                }
            }
        }
        drop(inner);
        changed.notified().await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}
