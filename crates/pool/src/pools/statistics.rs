//! What `SHOW POOLS` and `SHOW SERVERS` show of the pools.
//!
//! Owns the counters of one pool and the snapshots made of them. Never influences what a pool does. Main types:
//! [`PoolSnapshot`], [`ServerSnapshot`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::node_pool::NodePool;
use super::{Holding, Member};
use crate::server::Server;
use crate::settings::PoolMode;

/// Counted since the pool came to be.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) checkouts: AtomicU64,
    pub(super) waits: AtomicU64,
    pub(super) wait_micros: AtomicU64,
    pub(super) longest_wait_micros: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) closed_unclean: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn waited(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self::add(&self.waits);
        self.wait_micros.fetch_add(micros, Ordering::Relaxed);
        self.longest_wait_micros
            .fetch_max(micros, Ordering::Relaxed);
    }
}

/// One pool (one user on one server) at one moment: a row of `SHOW POOLS`.
#[derive(Clone, Debug)]
pub struct PoolSnapshot {
    /// The server.
    pub server: Arc<Server>,
    /// Whose pool.
    pub user: Box<str>,
    /// When a connection goes back; under one login for all users, what the database says.
    pub mode: PoolMode,
    /// The most connections it may have.
    pub size: usize,
    /// How many more for one who has waited for long.
    pub reserve: usize,
    /// The most that clients may keep beyond their transactions; `None` in mode session.
    pub max_pinned: Option<usize>,
    /// Handed out.
    pub active: usize,
    /// Of those: kept by a session between its statements.
    pub kept: usize,
    /// Handed out to clients that keep them beyond their transactions, by `max_pinned`.
    pub pinned: usize,
    /// Lying unused.
    pub idle: usize,
    /// Being opened.
    pub opening: usize,
    /// Clients that wait.
    pub waiting: usize,
    /// How long the first of them has waited.
    pub longest_waiting: Duration,
    /// Connections handed out, ever.
    pub checkouts: u64,
    /// Checkouts that had to wait for another's connection.
    pub waits: u64,
    /// How long those waited, together.
    pub wait_total: Duration,
    /// How long the one that waited longest waited.
    pub wait_max: Duration,
    /// Checkouts that gave up (53300).
    pub timeouts: u64,
    /// Connections opened, ever.
    pub opened: u64,
    /// Attempts that failed, ever.
    pub failed: u64,
    /// Connections closed, ever.
    pub closed: u64,
    /// Of those: closed because a session left something on them.
    pub closed_unclean: u64,
    /// The failure that keeps new connections from being tried, if one does.
    pub backing_off: Option<String>,
}

/// One connection at one moment: a row of `SHOW SERVERS`.
#[derive(Clone, Debug)]
pub struct ServerSnapshot {
    /// The server.
    pub server: Arc<Server>,
    /// Who is logged in.
    pub user: Box<str>,
    /// The backend's process id; 0 while it is being opened.
    pub pid: i32,
    /// What it does.
    pub holding: Holding,
    /// How long it has been in the same hands.
    pub held_for: Duration,
    /// How long ago it was opened.
    pub age: Duration,
    /// Whether a client replicates over it.
    pub replicates: bool,
}

impl PoolSnapshot {
    pub(super) fn of(pool: &NodePool, now: Instant) -> Self {
        let holders = pool.holders();
        let (longest_waiting, backing_off) = pool.troubles(now);
        let counters = &pool.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mode = pool.shared.settings().mode_of(&pool.user);
        let members = pool.members();
        Self {
            server: Arc::clone(&pool.server),
            user: pool.user.clone(),
            mode,
            size: holders.size,
            reserve: pool.shared.settings().reserve_of(&pool.user),
            max_pinned: (mode != PoolMode::Session).then(|| pool.max_pinned()),
            pinned: members.iter().filter(|member| member.is_pinned()).count(),
            active: holders.running + holders.in_transaction + holders.failed + holders.kept,
            kept: holders.kept,
            idle: holders.idle,
            opening: holders.opening,
            waiting: holders.waiting,
            longest_waiting,
            checkouts: read(&counters.checkouts),
            waits: read(&counters.waits),
            wait_total: Duration::from_micros(read(&counters.wait_micros)),
            wait_max: Duration::from_micros(read(&counters.longest_wait_micros)),
            timeouts: read(&counters.timeouts),
            opened: read(&counters.opened),
            failed: read(&counters.failed),
            closed: read(&counters.closed),
            closed_unclean: read(&counters.closed_unclean),
            backing_off,
        }
    }
}

impl ServerSnapshot {
    pub(super) fn all_of(pool: &NodePool, now: Instant) -> Vec<Self> {
        pool.members()
            .iter()
            .map(|member| Self::of(&pool.server, &pool.user, member, now))
            .collect()
    }

    pub(super) fn of(server: &Arc<Server>, user: &str, member: &Member, now: Instant) -> Self {
        Self {
            server: Arc::clone(server),
            user: user.into(),
            pid: member.pid(),
            holding: member.holding(),
            held_for: member.held_for(now),
            age: member.age(now),
            replicates: false,
        }
    }
}
