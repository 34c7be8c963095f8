//! The control plane: what one database's servers are, what is in them, and what a dead proxy left behind.
//!
//! Never on a client's path: it publishes snapshots, and sessions read them. It talks to the servers as a client of its
//! own (tokio-postgres, pooled by deadpool-postgres), so its login needs rights of its own.
//!
//! # Layout
//! - [`settings`]: what it is told. [`control`]: its start, its handle, its end.
//! - `login`, `line`, `host_name`, `tls`, `servers`: connections to the servers.
//! - `heartbeat` writes to each primary where pgherd promotes.
//! - `health` asks each server (`testimony`: what, and what it says), `roles` decides who is primary, `monitor` publishes, `lag` measures replicas.
//! - `failover`: whether a primary is dead, who is promoted, and how; `recorded`: who is primary where pgherd promotes.
//! - `sampler`: the WAL positions on which reading one's own writes rests.
//! - [`catalog`]: reads the system catalogs, compares the shards, notices DDL.
//! - `commit_log`, `recovery`: the two halves of committing over shards that are not the session's.
//! - [`state_store`]: what outlives a restart.
//! - [`lookup`]: asks the servers about a role that logs in.
//! - `preflight`: what a shard lacks for a failover.
//! - [`keys`]: whether rows can be placed by the tables' keys; [`rows`]: looks for rows on the wrong shard.
//!
//! # Rights of the control login
//! CONNECT and CREATE on the database (for the schema `pgherd`, once), `pg_monitor` (to see at once which timeline a
//! standby receives), and membership in the roles whose prepared transactions it may have to finish. A superuser has
//! all of them. What a failover takes beside them is in `preflight`. Reading rows for [`rows::check_rows`] needs SELECT on the sharded tables.
//!
//! # Cost
//! Per server two connections stay open (health, samples) and on primaries one or two more (catalog digest, recovery).

pub mod catalog;
mod commit_log;
pub mod control;
pub mod error;
mod failover;
mod health;
mod heartbeat;
mod host_name;
pub mod keys;
mod lag;
mod line;
mod login;
pub mod lookup;
mod monitor;
mod preflight;
mod recorded;
mod recovery;
mod roles;
pub mod rows;
mod sampler;
mod servers;
pub mod settings;
pub mod state_store;
mod testimony;
mod tls;

pub use catalog::CatalogReloader;
pub use control::Control;
pub use error::ControlError;
pub use failover::coordinator::FailoverCommand;
pub use keys::{KeyTrouble, check_keys};
pub use login::{MOST_CONNECTIONS, MOST_FAILOVER_CONNECTIONS, MOST_LOOKUP_CONNECTIONS};
pub use lookup::RoleLookup;
pub use preflight::{Fix, Preflight, Purpose, Severity, Shortfall, ShortfallAt, check_failover};
pub use rows::{MisplacedRows, check_rows};
pub use settings::{
    ControlLogin, ControlSettings, FailoverMode, FailoverSettings, Pace, ServerSettings,
    ShardSettings, SyncSettings, WhenTooFew,
};
pub use state_store::{FileStore, MemoryStore, Origin, Reign, State, StateStore, StoredState};
