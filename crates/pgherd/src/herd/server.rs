//! One Postgres server process and its data directory.
//!
//! Owns the process: it ends with the value. Never decides who is primary; that is [`Shard`](super::Shard)'s.
//! Main type: [`Server`].

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::binaries::{Postgres, last_lines};
use super::error::{HerdError, Naming};
use super::host::Host;
use super::process::{POLL, kill_all, pid_of, postmaster_in, send, wait_at_most};

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
    host: Option<Host>,
    process: Arc<Mutex<Option<Child>>>,
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
    pub(super) host: Option<Host>,
}

/// Between two looks whether somebody has killed it.
const REAP_PACE: Duration = Duration::from_millis(200);

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
            host,
        } = parts;
        Self {
            name,
            port,
            database,
            postgres,
            data,
            log,
            sockets,
            host,
            process: Arc::default(),
        }
    }

    /// Its name, which is also the start of each line of its log after the process id.
    #[must_use]
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    pub(super) fn postgres_major(&self) -> u32 {
        self.postgres.major()
    }

    /// Where it listens: 127.0.0.1, if it has no [`Host`] of its own.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.host
            .as_ref()
            .map_or(Ipv4Addr::LOCALHOST, |host| host.address)
    }

    /// Its port there.
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

    /// The highest timeline that its data directory knows of; a deposed primary's does not know that of its successor.
    #[must_use]
    pub fn timeline(&self) -> u32 {
        let Ok(files) = std::fs::read_dir(self.data.join("pg_wal")) else {
            return 0;
        };
        files
            .flatten()
            .filter_map(|file| {
                let name = file.file_name();
                let number = name.to_str()?.strip_suffix(".history")?;
                u32::from_str_radix(number, 16).ok()
            })
            .max()
            .unwrap_or(1)
    }

    /// Whether its process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.main_process().is_some()
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
        if let Some(process) = self.main_process() {
            send(process, Signal::SIGINT);
        }
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
        if self.is_running() {
            return Ok(());
        }
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .naming(|| format!("opening {}", self.log.display()))?;
        // who starts it after a rejoin writes there by its name
        self.postgres.runs_as().give(&self.log)?;
        let mut command = match &self.host {
            Some(host) => host.command(&self.postgres),
            None => self.postgres.command("postgres"),
        };
        let child = command
            .arg("-D")
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // out of the terminal's group: at a Ctrl-C the proxy drains before its servers go
            .process_group(0)
            .spawn()
            .naming(|| format!("starting server {}", self.name))?;
        *self.lock() = Some(child);
        reap_when_killed(Arc::downgrade(&self.process));
        Ok(())
    }

    /// Waits for a process that was asked to stop, with more and more emphasis.
    fn reap(&self) {
        if !self.ends_within(super::FAST_STOP_LIMIT) {
            if let Some(process) = self.main_process() {
                send(process, Signal::SIGQUIT);
            }
            if !self.ends_within(IMMEDIATE_STOP_LIMIT) {
                kill_all(&self.data);
            }
        }
        self.forget();
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let begun = Instant::now();
        if let Some(child) = self.lock().as_mut()
            && wait_at_most(child, limit).is_none()
        {
            return false;
        }
        while self.is_running() {
            if begun.elapsed() > limit {
                return false;
            }
            std::thread::sleep(POLL);
        }
        true
    }

    /// Waits for our child, which has ended or is just being killed.
    pub(super) fn forget(&self) {
        if let Some(mut child) = self.lock().take() {
            let _ = child.wait();
        }
    }

    /// The postmaster: our child, or one that others started on the data directory, as a rejoin does.
    pub(super) fn main_process(&self) -> Option<Pid> {
        let ours = self.lock().as_mut().and_then(|child| {
            // not reaped yet, so the id is still this process's
            matches!(child.try_wait(), Ok(None)).then(|| pid_of(child))
        });
        ours.or_else(|| postmaster_in(&self.data))
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

/// Takes notice of the end of a child that somebody kills: as long as nobody does, its id counts as running, and Postgres does not start on its
/// data directory again.
fn reap_when_killed(process: Weak<Mutex<Option<Child>>>) {
    std::thread::spawn(move || {
        while let Some(process) = process.upgrade() {
            let mut process = process.lock().unwrap_or_else(PoisonError::into_inner);
            let runs = process
                .as_mut()
                .is_some_and(|child| matches!(child.try_wait(), Ok(None)));
            drop(process);
            if !runs {
                return;
            }
            std::thread::sleep(REAP_PACE);
        }
    });
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
