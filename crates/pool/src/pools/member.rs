//! What the pool knows of a connection while somebody else has it.
//!
//! Owns the state shown by `SHOW SERVERS` and told in a checkout's timeout. Never decides anything: the states are
//! written with relaxed atomics by whoever holds the connection, once or twice a request. Main type: [`Member`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgherd_topology::Epoch;

use crate::budget::Permit;
use crate::cutoff::Cutoff;

/// What a connection of a pool is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Holding {
    /// It is being opened.
    Opening = 0,
    /// It lies in the pool.
    Idle = 1,
    /// It runs a statement outside a transaction block, or was just handed out to.
    Running = 2,
    /// It is in a transaction block.
    InTransaction = 3,
    /// It is in a transaction block that failed.
    Failed = 4,
    /// It is between statements and kept by its session.
    Kept = 5,
}

impl Holding {
    /// The word in `SHOW SERVERS`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "login",
            Self::Idle => "idle",
            Self::Running => "active",
            Self::InTransaction => "transaction",
            Self::Failed => "failed",
            Self::Kept => "kept",
        }
    }

    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Opening,
            1 => Self::Idle,
            2 => Self::Running,
            3 => Self::InTransaction,
            4 => Self::Failed,
            _ => Self::Kept,
        }
    }
}

/// One connection, open or being opened, as its pool counts it.
#[derive(Debug)]
pub(crate) struct Member {
    born: Instant,
    state: AtomicU8,
    /// Milliseconds from `born` to when it was last handed out, or given back.
    moved: AtomicU64,
    pid: AtomicI32,
    /// Whether its client may keep it beyond its transactions. Set under the pool's lock, which counts them.
    is_pinned: AtomicBool,
    epoch: Epoch,
    cutoff: Arc<Cutoff>,
    /// Given back with the last that knows the connection.
    _permit: Option<Permit>,
}

impl Member {
    /// `permit`: the budget's, where the connection counts towards it. `epoch`: the shard's.
    pub(crate) fn opening(permit: Option<Permit>, epoch: Epoch) -> Self {
        Self {
            _permit: permit,
            born: Instant::now(),
            state: AtomicU8::new(Holding::Opening as u8),
            moved: AtomicU64::new(0),
            pid: AtomicI32::new(0),
            is_pinned: AtomicBool::new(false),
            epoch,
            cutoff: Arc::default(),
        }
    }

    /// Nothing more is read from it if it was begun before this epoch, whoever has it.
    pub(super) fn cut_off_before(&self, epoch: Epoch) {
        if self.epoch < epoch {
            self.cutoff.cut();
        }
    }

    /// What the connection is to end with.
    pub(crate) fn cutoff(&self) -> Arc<Cutoff> {
        Arc::clone(&self.cutoff)
    }

    /// When opening it began, before the settings for it were looked up.
    pub(super) fn born(&self) -> Instant {
        self.born
    }

    /// The state changes within one checkout.
    pub(crate) fn hold(&self, state: Holding) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// It changes hands.
    pub(super) fn hand(&self, state: Holding, now: Instant) {
        let since_birth = now.saturating_duration_since(self.born).as_millis();
        self.moved.store(
            u64::try_from(since_birth).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        self.hold(state);
    }

    pub(super) fn set_pid(&self, pid: i32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    pub(super) fn set_pinned(&self, is_pinned: bool) {
        self.is_pinned.store(is_pinned, Ordering::Relaxed);
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.is_pinned.load(Ordering::Relaxed)
    }

    pub(super) fn holding(&self) -> Holding {
        Holding::from_u8(self.state.load(Ordering::Relaxed))
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    /// How long the present holder has had it.
    pub(super) fn held_for(&self, now: Instant) -> Duration {
        self.age(now)
            .saturating_sub(Duration::from_millis(self.moved.load(Ordering::Relaxed)))
    }
}
