//! The servers of one shard: a primary and its replicas.
//!
//! Main type: [`Shard`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::error::HerdError;
use super::server::Server;

const STREAMS_LIMIT: Duration = Duration::from_secs(5);
const NO_SUCH_SERVER: HerdError = HerdError::Shape("no server of that name is in the shard");

/// One shard's servers, which hold the same rows.
#[derive(Debug)]
pub struct Shard {
    name: String,
    servers: Vec<Server>,
    primary: AtomicUsize,
}

impl Shard {
    pub(super) fn new(name: String, servers: Vec<Server>) -> Self {
        // after a failover also the deposed one would start as a primary: the successor knows of one timeline more
        let primary = (0..servers.len())
            .rev()
            .filter(|index| !servers[*index].is_standby())
            .max_by_key(|index| servers[*index].timeline())
            .unwrap_or(0);
        Self {
            name,
            servers,
            primary: AtomicUsize::new(primary),
        }
    }

    /// Its name, such as `s0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All its servers.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The server that takes writes, as far as this herd knows: it was started as the primary, promoted here, or said to be so.
    #[must_use]
    pub fn primary(&self) -> &Server {
        &self.servers[self.primary.load(Ordering::Relaxed)]
    }

    /// The other servers.
    pub fn replicas(&self) -> impl Iterator<Item = &Server> {
        let primary = self.primary.load(Ordering::Relaxed);
        self.servers
            .iter()
            .enumerate()
            .filter(move |(index, _)| *index != primary)
            .map(|(_, server)| server)
    }

    /// The first of [`replicas`](Self::replicas).
    ///
    /// # Panics
    /// If the herd was built without replicas.
    #[must_use]
    pub fn replica(&self) -> &Server {
        self.replicas()
            .next()
            .expect("the caller built the herd with replicas")
    }

    /// Makes a replica the primary. The old one must be down: nothing here fences it.
    ///
    /// # Errors
    /// [`HerdError::Sql`]; [`HerdError::Shape`] for a name that is none of the shard's.
    pub async fn promote(&self, name: &str) -> Result<(), HerdError> {
        let found = self.servers.iter().position(|s| s.name().as_str() == name);
        let index = found.ok_or(NO_SUCH_SERVER)?;
        let server = &self.servers[index];
        server.sql("SELECT pg_promote(true, 30)").await?;
        server
            .wait_until("SELECT 1 WHERE NOT pg_is_in_recovery()")
            .await?;
        self.primary.store(index, Ordering::Relaxed);
        Ok(())
    }

    /// Takes note of a promotion that others have made: of the server that is the primary now.
    ///
    /// # Errors
    /// [`HerdError::Shape`] for a name that is none of the shard's.
    pub fn note_primary(&self, name: &str) -> Result<(), HerdError> {
        let found = self.servers.iter().position(|s| s.name().as_str() == name);
        let index = found.ok_or(NO_SUCH_SERVER)?;
        self.primary.store(index, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the slots that the other servers stream from; each keeps the WAL its replica has not got.
    pub(super) async fn make_slots(&self) -> Result<(), HerdError> {
        // one that no standby streams from would keep WAL for ever
        for replica in self.replicas().filter(|replica| replica.is_standby()) {
            let name = replica.name();
            // the name is ours: letters and digits
            self.primary()
                .sql(&format!(
                    "SELECT pg_create_physical_replication_slot('{name}', true) \
                     WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{name}')"
                ))
                .await?;
        }
        Ok(())
    }

    /// Returns when every replica streams, or after a few seconds.
    pub(super) async fn give_streams_time(&self) -> Result<(), HerdError> {
        match tokio::time::timeout(STREAMS_LIMIT, self.wait_for_streams()).await {
            Ok(streams) => streams,
            Err(_) => Ok(()),
        }
    }

    /// Returns when every replica streams.
    pub(super) async fn wait_for_streams(&self) -> Result<(), HerdError> {
        for replica in self.replicas().filter(|replica| replica.is_standby()) {
            replica
                .wait_until("SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'")
                .await?;
        }
        Ok(())
    }
}
