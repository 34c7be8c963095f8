//! What can go wrong with a server, done to it on purpose.
//!
//! Extends [`Server`]; only processes are touched here, never files or networks.

use nix::sys::signal::Signal;

use super::error::HerdError;
use super::process::{kill_all, processes_in, processes_titled, send};
use super::server::Server;

impl Server {
    /// The machine loses its power: the postmaster and every process of its is killed at once, nothing is written.
    pub fn kill9(&self) {
        kill_all(self.data_directory());
        self.forget();
    }

    /// Kills the main process alone (`kill -9`): nobody listens any more, and idle backends end, but busy ones go on with what they do.
    pub fn kill_postmaster(&self) {
        if let Some(process) = self.main_process() {
            send(process, Signal::SIGKILL);
        }
        self.forget();
    }

    /// Stops every process of the server where it stands (`SIGSTOP`): it accepts connections no more than it answers.
    pub fn freeze(&self) {
        self.freeze_postmaster();
        for process in processes_in(self.data_directory()) {
            send(process, Signal::SIGSTOP);
        }
    }

    /// Stops the main process alone: what is connected goes on, and whoever connects hangs.
    pub fn freeze_postmaster(&self) {
        if let Some(process) = self.main_process() {
            send(process, Signal::SIGSTOP);
        }
    }

    /// Stops the processes that send WAL to standbys: their connections stay, and nothing comes.
    pub fn freeze_walsenders(&self) {
        for process in processes_titled(self.data_directory(), "walsender") {
            send(process, Signal::SIGSTOP);
        }
    }

    /// Ends all freezing.
    pub fn thaw(&self) {
        for process in processes_in(self.data_directory()) {
            send(process, Signal::SIGCONT);
        }
    }

    /// Kills the backend of some client as the kernel does when memory is short: Postgres then ends every other one, and recovers.
    ///
    /// # Errors
    /// [`HerdError::Sql`]; [`HerdError::Shape`] where no client is connected.
    pub async fn kill_a_backend(&self) -> Result<(), HerdError> {
        let rows = self
            .sql(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1",
            )
            .await?;
        let pid = rows
            .first()
            .and_then(|row| row.first()?.as_deref()?.parse().ok())
            .ok_or(HerdError::Shape("no client is connected to the server"))?;
        send(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        Ok(())
    }

    /// Lets a replica fall behind: it receives WAL but replays no more of it.
    ///
    /// # Errors
    /// [`HerdError::Sql`], on a primary for one.
    pub async fn pause_replay(&self) -> Result<(), HerdError> {
        self.sql("SELECT pg_wal_replay_pause()").await?;
        let paused = if self.postgres_major() >= 14 {
            "SELECT 1 WHERE pg_get_wal_replay_pause_state() = 'paused'"
        } else {
            "SELECT 1 WHERE pg_is_wal_replay_paused()"
        };
        // it is a request: what is being replayed is finished first
        self.wait_until(paused).await
    }

    /// Ends [`pause_replay`](Self::pause_replay).
    ///
    /// # Errors
    /// [`HerdError::Sql`].
    pub async fn resume_replay(&self) -> Result<(), HerdError> {
        self.sql("SELECT pg_wal_replay_resume()").await.map(|_| ())
    }
}
