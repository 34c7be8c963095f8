//! An embedded herd: real Postgres servers on this machine, started and stopped by us.
//!
//! Owns the server processes, their data directories and their ports. Never speaks to them on behalf of a
//! client and never knows of the proxy: `pgherd demo` and the tests put the proxy in front of it.
//!
//! Main type: [`Herd`], built by [`Herd::builder`].
//!
//! # Layout of a herd's directory
//!
//! ```text
//! herd.lock      held while a herd runs on the directory
//! herd.json      what was made here: shards, replicas, database, Postgres version, ports
//! sockets/       the servers' Unix sockets; only the superuser gets in that way, and only from this directory
//! rejoin.sh      makes a deposed primary a standby
//! log/s0a.log    what each server logs, every statement included
//! s0a/ s0b/ ..   the data directories: shard s0's servers are s0a, s0b and so on
//! ```
//!
//! As root every server process runs as the user `postgres` (a Postgres server refuses to run as root).

mod binaries;
mod bootstrap;
mod builder;
mod directory;
mod error;
mod faults;
pub(crate) mod guard;
mod host;
pub mod ports;
mod process;
mod record;
mod rejoin;
mod renumber;
mod server;
mod settings;
mod shard;

pub use binaries::Postgres;
pub use bootstrap::{APPLICATION_PASSWORD, APPLICATION_USER, CONTROL_PASSWORD, CONTROL_USER};
pub use builder::{Durability, HerdBuilder, Progress};
pub use error::HerdError;
pub use host::Host;
pub use server::{Server, ServerName};
pub use shard::Shard;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guard::Guard;

/// How long a server may take to stop when asked politely; after it the stop is an immediate one.
pub(crate) const FAST_STOP_LIMIT: Duration = Duration::from_secs(20);

/// The running servers. Dropping it stops them all (a fast shutdown, waited for).
#[derive(Debug)]
pub struct Herd {
    // order matters: servers stop first, then the guard goes, then the directory is unlocked
    shards: Vec<Shard>,
    guard: Option<Guard>,
    directory: PathBuf,
    database: String,
    reused: bool,
    rejoin_command: String,
    _sockets: directory::Sockets,
    _lock: File,
}

impl Herd {
    /// Starts describing a herd.
    #[must_use]
    pub fn builder() -> HerdBuilder {
        HerdBuilder::default()
    }

    /// The shards, `s0` first.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Every server of every shard.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.shards.iter().flat_map(Shard::servers)
    }

    /// The server of that name, such as `s0b`.
    #[must_use]
    pub fn server(&self, name: &str) -> Option<&Server> {
        self.servers().find(|server| server.name().as_str() == name)
    }

    /// Where the herd lives.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The database that every shard holds a part of.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The command by which a server of this herd rejoins its shard, for `failover.rejoin_command`: pgherd names the server and its primary in
    /// the environment.
    #[must_use]
    pub fn rejoin_command(&self) -> &str {
        &self.rejoin_command
    }

    /// Whether the servers were there already (a second start on one directory).
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Stops every server by a fast shutdown and returns when the last process is gone.
    ///
    /// The same happens on drop; this does not block the runtime meanwhile.
    pub async fn stop(self) {
        // a panic in there would be one of Drop; nothing is left to report it to
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        // all are asked before any is waited for: one after the other would add their times up
        for server in self.shards.iter().flat_map(Shard::servers) {
            server.ask_to_stop();
        }
        self.shards.clear();
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
    }
}

#[cfg(test)]
mod tests;
