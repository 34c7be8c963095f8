//! What one database's control plane is told at its start.
//!
//! Owns the domain types that the binary makes from its configuration. Never reads a file. Main type: [`ControlSettings`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pgherd_protocol::Secret;
use pgherd_tls::ClientTls;
use pgherd_topology::commit_protocol::{HerdId, InFlight, ProxyId};
use pgherd_topology::{Address, Sharding};

use crate::state_store::State;

/// Everything that [`crate::Control::start`] needs.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// The name that clients connect to: for logs, and the key in the state store.
    pub database: Box<str>,
    /// Whom the control plane logs in as.
    pub login: ControlLogin,
    /// The shards in the order of their [`pgherd_topology::ShardId`]s; servers are numbered through them in this order.
    pub shards: Vec<ShardSettings>,
    /// Which tables are on every shard: they are compared for drift.
    pub sharding: Arc<Sharding>,
    /// Whose prepared transactions are ours: [`State::herd`] of this database.
    pub herd: HerdId,
    /// This process.
    pub proxy: ProxyId,
    /// What this process's sessions are committing over shards now.
    pub in_flight: InFlight,
    /// Where the reigns of primaries are remembered over restarts.
    pub state: Arc<State>,
    /// What happens when a primary fails.
    pub failover: FailoverSettings,
    /// How often everything happens.
    pub pace: Pace,
}

/// The login of the control plane, the same on every server.
#[derive(Clone)]
pub struct ControlLogin {
    /// The role; see the crate's head for the rights it needs.
    pub user: Box<str>,
    /// `None` where the servers trust or ask for a certificate.
    pub password: Option<Secret>,
    /// How the connections are encrypted.
    pub tls: ClientTls,
}

impl fmt::Debug for ControlLogin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ControlLogin")
            .field("user", &self.user)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// One shard.
#[derive(Debug, Clone)]
pub struct ShardSettings {
    /// Its name, in the bounds of [`pgherd_topology::commit_protocol::MAX_SHARD_NAME`] for two-phase commit.
    pub name: Box<str>,
    /// The database's name on this shard's servers.
    pub server_database: Box<str>,
    /// Its servers; which one is the primary is found out.
    pub servers: Vec<ServerSettings>,
}

/// One server.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Its name, unique within the database.
    pub name: Box<str>,
    /// Where it listens.
    pub address: Address,
    /// The zone it is in.
    pub zone: Option<Box<str>>,
    /// Its rank when a new primary is chosen.
    pub priority: u32,
}

/// What happens when a primary fails. The default observes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverSettings {
    /// Who decides.
    pub mode: FailoverMode,
    /// Synchronous replication; `None` where it is not looked after, so that a failover can lose what no standby had yet.
    pub sync: Option<SyncSettings>,
    /// How long a primary must refuse before it counts as dead.
    pub refused_after: Duration,
    /// How long it must be silent before it counts as hung.
    pub silent_after: Duration,
    /// For how long clients' work is held meanwhile.
    pub hold: Duration,
    /// How far behind a candidate may be on an asynchronous shard, in bytes of WAL.
    pub max_lag: u64,
    /// Makes sure that an old primary takes no more writes.
    pub fence_command: Option<Box<str>>,
    /// Lets an old primary rejoin as a standby.
    pub rejoin_command: Option<Box<str>>,
    /// Makes a primary a standby without losing its history.
    pub demote_command: Option<Box<str>>,
    /// Tells someone.
    pub notify_command: Option<Box<str>>,
}

impl Default for FailoverSettings {
    fn default() -> Self {
        Self {
            mode: FailoverMode::Observe,
            sync: None,
            refused_after: Duration::from_secs(1),
            silent_after: Duration::from_secs(8),
            hold: Duration::from_secs(30),
            max_lag: 16 << 20,
            fence_command: None,
            rejoin_command: None,
            demote_command: None,
            notify_command: None,
        }
    }
}

/// Who decides which server is the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailoverMode {
    /// Others; pgherd follows.
    Observe,
    /// pgherd.
    Promote,
}

/// Synchronous replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncSettings {
    /// How many standbys must have a commit before it is acknowledged; at least 1.
    pub acks: u16,
    /// What happens to writes when fewer are left.
    pub when_too_few: WhenTooFew,
}

impl Default for SyncSettings {
    fn default() -> Self {
        Self {
            acks: 1,
            when_too_few: WhenTooFew::Block,
        }
    }
}

/// What happens to writes when too few standbys are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenTooFew {
    /// They wait.
    Block,
    /// They go on without.
    Async,
}

/// How often everything happens. The default is meant for production; tests hurry.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two questions on a server's open connection.
    pub health: Duration,
    /// After a refusal, between two attempts to connect.
    pub after_refusal: Duration,
    /// Between two attempts to log in freshly, which a hung postmaster does not answer.
    pub fresh_login: Duration,
    /// Between two look-ups of a server's host name; zero: it is looked up by each new connection, and what is open stays.
    pub names: Duration,
    /// How long a server may take to answer before it counts as down.
    pub patience: Duration,
    /// Between two samples of a server's WAL position; kept within 10 to 100 ms.
    pub sample: Duration,
    /// Between two looks at the catalogs' digest.
    pub digest: Duration,
    /// Between two looks for prepared transactions.
    pub recovery: Duration,
    /// The age from which a prepared transaction of another proxy counts as left behind.
    pub orphan: Duration,
    /// How long rows of the commit log are kept after they could go.
    pub log_retention: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            health: Duration::from_secs(1),
            after_refusal: Duration::from_millis(200),
            fresh_login: Duration::from_secs(5),
            names: Duration::ZERO,
            patience: Duration::from_secs(3),
            sample: Duration::from_millis(15),
            digest: Duration::from_secs(1),
            recovery: Duration::from_secs(3),
            orphan: Duration::from_secs(5),
            log_retention: Duration::from_secs(600),
        }
    }
}
