//! One Postgres server process and its data directory.
//!
//! Owns the process: it ends with the value. Never decides who is primary; that is [`Shard`](super::Shard)'s.
//! Main type: [`Server`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::binaries::{Postgres, last_lines};
use super::error::{HerdError, Naming};
use super::process::{POLL, children_of, kill_all, pid_of, wait_at_most};

/// Included by `postgresql.conf`, written anew at each start.
pub(super) const SETTINGS_FILE: &str = "herd.conf";
/// Its presence makes a server start as a replica.
pub(super) const STANDBY_FILE: &str = "standby.signal";
pub(super) const CERTIFICATE_FILE: &str = "server.crt";
pub(super) const KEY_FILE: &str = "server.key";

const START_LIMIT: Duration = Duration::from_secs(60);
/// So many lines may be written while a server fails to start, those of its former life's last processes among them.
const LINES_OF_A_START: usize = 20;
const IMMEDIATE_STOP_LIMIT: Duration = Duration::from_secs(5);

/// A server's name, such as `s0b`: the shard's, then a letter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerName(Box<str>);

impl ServerName {
    pub(super) fn new(shard: usize, server: usize) -> Self {
        let letter = char::from(b'a'.saturating_add(u8::try_from(server).unwrap_or(u8::MAX)));
        Self(format!("s{shard}{letter}").into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One Postgres server. Stopped (fast, waited for) on drop.
#[derive(Debug)]
pub struct Server {
    name: ServerName,
    port: u16,
    database: String,
    postgres: Postgres,
    data: PathBuf,
    log: PathBuf,
    sockets: PathBuf,
    process: Mutex<Option<Child>>,
}

/// What a [`Server`] is made from.
#[derive(Debug)]
pub(super) struct ServerParts {
    pub(super) name: ServerName,
    pub(super) port: u16,
    pub(super) database: String,
    pub(super) postgres: Postgres,
    pub(super) data: PathBuf,
    pub(super) log: PathBuf,
    pub(super) sockets: PathBuf,
}

impl Server {
    pub(super) fn new(parts: ServerParts) -> Self {
        let ServerParts {
            name,
            port,
            database,
            postgres,
            data,
            log,
            sockets,
        } = parts;
        Self {
            name,
            port,
            database,
            postgres,
            data,
            log,
            sockets,
            process: Mutex::new(None),
        }
    }

    /// Its name, which is also the start of each line of its log after the process id.
    #[must_use]
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its Unix socket is, by which the superuser `postgres` gets in without a password.
    #[must_use]
    pub fn socket_directory(&self) -> &Path {
        &self.sockets
    }

    /// Its data directory.
    #[must_use]
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// The file it logs to.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All it has logged, every statement included.
    ///
    /// # Errors
    /// [`HerdError::Io`] if the log cannot be read.
    pub fn log_text(&self) -> Result<String, HerdError> {
        let bytes =
            std::fs::read(&self.log).naming(|| format!("reading {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether it would start as a replica.
    #[must_use]
    pub fn is_standby(&self) -> bool {
        self.data.join(STANDBY_FILE).exists()
    }

    /// Whether its process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let mut process = self.lock();
        process
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Starts it and returns when it answers. Does nothing if it runs.
    ///
    /// # Errors
    /// [`HerdError::Start`] with the end of its log.
    pub async fn start(&self) -> Result<(), HerdError> {
        let deadline = Instant::now() + START_LIMIT;
        self.spawn()?;
        loop {
            if self.sql_in("postgres", "SELECT 1").await.is_ok() {
                return Ok(());
            }
            if !self.is_running() {
                // after a kill Postgres refuses to start while processes of its former life are still ending
                let leftovers = self
                    .last_log_lines(LINES_OF_A_START)
                    .contains("shared memory block is still in use");
                if !leftovers || Instant::now() > deadline {
                    return Err(self.start_error());
                }
                self.spawn()?;
            }
            if Instant::now() > deadline {
                return Err(self.start_error());
            }
            tokio::time::sleep(2 * POLL).await;
        }
    }

    /// A fast shutdown, waited for: sessions end with 57P01.
    pub async fn stop(&self) {
        self.ask_to_stop();
        let limit = super::FAST_STOP_LIMIT;
        let begun = Instant::now();
        while self.is_running() && begun.elapsed() < limit {
            tokio::time::sleep(POLL).await;
        }
        self.reap();
    }

    /// The machine loses its power: the postmaster and every process of its is killed at once, nothing is written.
    pub fn kill9(&self) {
        let mut process = self.lock();
        let Some(child) = process.as_mut() else {
            return;
        };
        kill_all(child);
        *process = None;
    }

    /// Kills the main process alone (`kill -9`): nobody listens any more, and idle backends end, but busy ones go on with what they do.
    pub fn kill_postmaster(&self) {
        if let Some(mut child) = self.lock().take() {
            // it fails only for a process that has ended meanwhile
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops every process of the server where it stands (`SIGSTOP`): it accepts connections no more than it answers.
    pub fn freeze(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    /// Ends [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    /// Lets a replica fall behind: it receives WAL but replays no more of it.
    ///
    /// # Errors
    /// [`HerdError::Sql`], on a primary for one.
    pub async fn pause_replay(&self) -> Result<(), HerdError> {
        self.sql("SELECT pg_wal_replay_pause()").await?;
        let paused = if self.postgres.major() >= 14 {
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

    /// Runs statements as the superuser in the herd's database; returns the rows of all of them, values as text.
    ///
    /// # Errors
    /// [`HerdError::Sql`].
    pub async fn sql(&self, statements: &str) -> Result<Vec<Vec<Option<String>>>, HerdError> {
        self.sql_in(&self.database, statements).await
    }

    /// The same in another database.
    ///
    /// # Errors
    /// [`HerdError::Sql`].
    pub async fn sql_in(
        &self,
        database: &str,
        statements: &str,
    ) -> Result<Vec<Vec<Option<String>>>, HerdError> {
        self.query(database, statements)
            .await
            .map_err(|source| HerdError::Sql {
                server: self.name.to_string(),
                source,
            })
    }

    /// Waits until a query yields a row, for 30 s.
    ///
    /// # Errors
    /// [`HerdError::Start`] when it does not; [`HerdError::Sql`].
    pub async fn wait_until(&self, query: &str) -> Result<(), HerdError> {
        let deadline = Instant::now() + START_LIMIT / 2;
        while self.sql(query).await?.is_empty() {
            if Instant::now() > deadline {
                return Err(HerdError::Start {
                    server: self.name.to_string(),
                    reason: format!("waited in vain for a row of: {query}"),
                });
            }
            tokio::time::sleep(2 * POLL).await;
        }
        Ok(())
    }

    /// Asks for a fast shutdown without waiting for it.
    pub(super) fn ask_to_stop(&self) {
        self.signal(Signal::SIGINT);
        // a frozen process takes no signal but this one
        self.thaw();
    }

    async fn query(
        &self,
        database: &str,
        statements: &str,
    ) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(&self.sockets)
            .port(self.port)
            .user("postgres")
            .dbname(database)
            .connect_timeout(Duration::from_secs(5))
            .connect(NoTls)
            .await?;
        let running = tokio::spawn(connection);
        let answer = client.simple_query(statements).await;
        drop(client);
        // its error is the query's, which is returned
        let _ = running.await;
        Ok(answer?
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(
                    (0..row.len())
                        .map(|column| row.get(column).map(str::to_owned))
                        .collect(),
                ),
                _ => None,
            })
            .collect())
    }

    /// Starts the process if it does not run.
    fn spawn(&self) -> Result<(), HerdError> {
        use std::os::unix::process::CommandExt;
        let mut process = self.lock();
        if let Some(child) = process.as_mut()
            && matches!(child.try_wait(), Ok(None))
        {
            return Ok(());
        }
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .naming(|| format!("opening {}", self.log.display()))?;
        let child = self
            .postgres
            .command("postgres")
            .arg("-D")
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // out of the terminal's group: at a Ctrl-C the proxy drains before its servers go
            .process_group(0)
            .spawn()
            .naming(|| format!("starting server {}", self.name))?;
        *process = Some(child);
        Ok(())
    }

    /// Waits for a process that was asked to stop, with more and more emphasis.
    fn reap(&self) {
        let mut process = self.lock();
        let Some(child) = process.as_mut() else {
            return;
        };
        let pid = pid_of(child);
        if wait_at_most(child, super::FAST_STOP_LIMIT).is_none() {
            let _ = nix::sys::signal::kill(pid, Signal::SIGQUIT);
            if wait_at_most(child, IMMEDIATE_STOP_LIMIT).is_none() {
                kill_all(child);
            }
        }
        *process = None;
    }

    fn signal(&self, signal: Signal) {
        let mut process = self.lock();
        if let Some(child) = process.as_mut()
            && matches!(child.try_wait(), Ok(None))
        {
            // not reaped yet, so the id is still this process's
            let _ = nix::sys::signal::kill(pid_of(child), signal);
        }
    }

    fn signal_all(&self, signal: Signal) {
        let workers = self
            .lock()
            .as_ref()
            .map(|child| children_of(child.id()))
            .unwrap_or_default();
        self.signal(signal);
        for worker in workers {
            let _ = nix::sys::signal::kill(worker, signal);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        // nothing panics while it is held; if something did, the child is still the child
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_log_lines(&self, count: usize) -> String {
        last_lines(&self.log_text().unwrap_or_default(), count)
    }

    fn start_error(&self) -> HerdError {
        HerdError::Start {
            server: self.name.to_string(),
            reason: self.last_log_lines(3),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ask_to_stop();
        self.reap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_after_their_shard() {
        assert_eq!(ServerName::new(0, 0).as_str(), "s0a");
        assert_eq!(ServerName::new(12, 2).to_string(), "s12c");
    }
}
