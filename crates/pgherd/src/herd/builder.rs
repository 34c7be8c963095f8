//! Describes a herd, makes what is missing of it and starts it.
//!
//! Main type: [`HerdBuilder`].

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::binaries::Postgres;
use super::bootstrap::{make_primary, make_replica, write_owned};
use super::directory::{self, Sockets, stop_survivors};
use super::error::{HerdError, Naming};
use super::guard::Guard;
use super::record::Record;
use super::server::{CERTIFICATE_FILE, KEY_FILE, SETTINGS_FILE, Server, ServerName, ServerParts};
use super::settings::{ServerSettings, host_based_authentication};
use super::shard::Shard;
use super::{Herd, Host, ports, rejoin, renumber};

/// How many data directories are made at once: each takes one processor.
const MADE_AT_ONCE: usize = 2;
/// Ports are chosen before they are bound; somebody may come between, so a start is tried again.
const START_ATTEMPTS: usize = 3;
const MOST_SERVERS_A_SHARD: u16 = 9;

/// Whether the servers survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Postgres' own: what is committed is on the disk.
    #[default]
    Durable,
    /// `fsync = off`: quicker, for tests that lose no power.
    Fast,
}

/// A step on the way to a running herd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Steps behind us.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    /// What has just been done.
    pub step: String,
}

type Listener = Arc<dyn Fn(Progress) + Send + Sync>;

/// What a herd is to be like. By default: one shard without replicas, database `shop`, durable, in `pgherd-herd` of the working directory.
#[derive(Clone)]
pub struct HerdBuilder {
    shards: u16,
    replicas: u16,
    directory: PathBuf,
    database: String,
    durability: Durability,
    settings: Vec<(String, String)>,
    host_lines: Vec<String>,
    hosts: BTreeMap<String, Host>,
    tls: Option<(String, String)>,
    listener: Listener,
}

impl Default for HerdBuilder {
    fn default() -> Self {
        Self {
            shards: 1,
            replicas: 0,
            directory: "pgherd-herd".into(),
            database: "shop".into(),
            durability: Durability::default(),
            settings: Vec::new(),
            host_lines: Vec::new(),
            hosts: BTreeMap::new(),
            tls: None,
            listener: Arc::new(|_| ()),
        }
    }
}

impl std::fmt::Debug for HerdBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HerdBuilder")
            .field("shards", &self.shards)
            .field("replicas", &self.replicas)
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl HerdBuilder {
    /// How many shards.
    #[must_use]
    pub fn shards(mut self, shards: u16) -> Self {
        self.shards = shards;
        self
    }

    /// How many replicas each shard has beside its primary.
    #[must_use]
    pub fn replicas(mut self, replicas: u16) -> Self {
        self.replicas = replicas;
        self
    }

    /// Where the herd lives. Made if missing; a herd that is there is started again.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// The database's name on every server.
    #[must_use]
    pub fn database(mut self, database: impl Into<String>) -> Self {
        self.database = database.into();
        self
    }

    /// Whether the servers sync.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// A setting of every server, over ours.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// A line at the start of every server's `pg_hba.conf`.
    #[must_use]
    pub fn host_line(mut self, line: impl Into<String>) -> Self {
        self.host_lines.push(line.into());
        self
    }

    /// Where the server of that name runs; others share our network. It takes root, and [`host_line`](Self::host_line)s for the addresses.
    #[must_use]
    pub fn host(mut self, server: impl Into<String>, host: Host) -> Self {
        self.hosts.insert(server.into(), host);
        self
    }

    /// Has the servers offer TLS with this certificate and key (PEM).
    #[must_use]
    pub fn tls(mut self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.tls = Some((certificate.into(), key.into()));
        self
    }

    /// Told of each step of [`start`](Self::start).
    #[must_use]
    pub fn on_progress(mut self, listener: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.listener = Arc::new(listener);
        self
    }

    /// Makes what is missing and starts every server; returns when replicas stream. If it fails, or its future is dropped, what was
    /// started is stopped.
    ///
    /// # Errors
    /// See [`HerdError`].
    pub async fn start(self) -> Result<Herd, HerdError> {
        self.check_shape()?;
        let directory = directory::prepare(&self.directory)?;
        let record = Record::read(&directory)?;
        let postgres = match &record {
            Some(record) => {
                Postgres::find(Some(record.postgres_major)).map_err(|error| match error {
                    HerdError::PostgresMissing => HerdError::VersionMissing {
                        directory: directory.clone(),
                        major: record.postgres_major,
                    },
                    other => other,
                })?
            }
            None => Postgres::find(None)?,
        };
        directory::open_to_servers(postgres.runs_as(), &directory).await?;
        let lock = directory::lock(&directory)?;
        let reused = record.is_some();
        let mut record = self.record(&directory, &postgres, record)?;
        let steps = Steps::new(&self, reused);
        if reused {
            stop_survivors(&postgres, &directory, &record).await?;
        } else {
            self.make_data(&postgres, &directory, &steps).await?;
            record.write(&directory)?;
        }
        let mut attempt = 1;
        let (shards, guard, sockets) = loop {
            let ports = free_ports(&record.ports)?;
            if ports != record.ports {
                renumber::standbys(&postgres, &directory, &record, &ports)?;
                record.ports = ports;
                record.write(&directory)?;
            }
            let launched = self.launch(&postgres, &directory, &record, &steps, reused);
            match launched.await {
                Ok(running) => break running,
                Err(HerdError::Start { reason, .. })
                    if reason.contains("could not create any TCP/IP sockets")
                        && attempt < START_ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Herd {
            rejoin_command: rejoin::install(&postgres, &directory)?,
            shards,
            guard: Some(guard),
            directory,
            database: record.database,
            reused,
            _sockets: sockets,
            _lock: lock,
        })
    }

    fn check_shape(&self) -> Result<(), HerdError> {
        if self.shards == 0 {
            return Err(HerdError::Shape("a herd has at least one shard"));
        }
        if self.replicas >= MOST_SERVERS_A_SHARD {
            return Err(HerdError::Shape("a shard has at most 8 replicas"));
        }
        if self.database.is_empty() || self.database.len() > 63 {
            return Err(HerdError::Shape("a database's name has 1 to 63 bytes"));
        }
        if self.database.contains(['\n', '\r', '\0']) {
            return Err(HerdError::Shape("a database's name is one line"));
        }
        Ok(())
    }

    /// The record that is there, if it is of the shape asked for; else a new one.
    fn record(
        &self,
        directory: &Path,
        postgres: &Postgres,
        found: Option<Record>,
    ) -> Result<Record, HerdError> {
        let asked = Record {
            postgres_major: postgres.major(),
            database: self.database.clone(),
            shards: self.shards,
            replicas: self.replicas,
            ports: found
                .as_ref()
                .map(|found| found.ports.clone())
                .unwrap_or_default(),
        };
        let servers = usize::from(self.shards) * usize::from(self.replicas + 1);
        match found {
            Some(found) if found.shape() != asked.shape() => Err(HerdError::OtherShape {
                directory: directory.to_path_buf(),
                found: found.shape(),
                asked: asked.shape(),
            }),
            Some(found) if found.ports.len() == servers => Ok(found),
            _ => Ok(Record {
                ports: ports::choose(servers)?,
                ..asked
            }),
        }
    }

    /// Makes every data directory: primaries a few at once, then each one's replicas as copies of it.
    async fn make_data(
        &self,
        postgres: &Postgres,
        directory: &Path,
        steps: &Arc<Steps>,
    ) -> Result<(), HerdError> {
        let permits = Arc::new(tokio::sync::Semaphore::new(MADE_AT_ONCE));
        let mut making = tokio::task::JoinSet::new();
        for shard in 0..usize::from(self.shards) {
            let (postgres, directory, database) = (
                postgres.clone(),
                directory.to_path_buf(),
                self.database.clone(),
            );
            let (steps, permits, replicas) =
                (Arc::clone(steps), Arc::clone(&permits), self.replicas);
            making.spawn(async move {
                // never closed
                let _permit = permits.acquire().await;
                let primary = directory::of_server(&directory, shard, 0);
                make_primary(&postgres, &primary, &database).await?;
                steps.done(format!("made {}", ServerName::new(shard, 0)));
                for replica in 1..=usize::from(replicas) {
                    let target = directory::of_server(&directory, shard, replica);
                    make_replica(&postgres, &primary, &target).await?;
                    steps.done(format!("made {}", ServerName::new(shard, replica)));
                }
                Ok(())
            });
        }
        while let Some(made) = making.join_next().await {
            // a panic in there goes on here
            made.map_err(std::io::Error::other)
                .naming(|| "making a server".into())??;
        }
        Ok(())
    }

    /// Starts everything at once: servers that start together are up in the time of one.
    async fn launch(
        &self,
        postgres: &Postgres,
        directory: &Path,
        record: &Record,
        steps: &Arc<Steps>,
        reused: bool,
    ) -> Result<(Vec<Shard>, Guard, Sockets), HerdError> {
        let sockets = Sockets::make(postgres.runs_as(), directory)?;
        let servers_a_shard = usize::from(self.replicas) + 1;
        let mut shards = Vec::new();
        for (shard, ports) in record.ports.chunks(servers_a_shard).enumerate() {
            shards.push(self.configure(postgres, directory, sockets.path(), shard, ports)?);
        }
        let shards = Arc::new(shards);
        let directories: Vec<PathBuf> = shards
            .iter()
            .flat_map(Shard::servers)
            .map(|server| server.data_directory().to_path_buf())
            .collect();
        // before the servers: there is no moment in which nobody would stop them
        let guard = Guard::of_servers(postgres, &directories)?;
        let mut starting = tokio::task::JoinSet::new();
        for shard in 0..shards.len() {
            let (shards, steps) = (Arc::clone(&shards), Arc::clone(steps));
            starting.spawn(async move {
                let shard = &shards[shard];
                for server in shard.servers() {
                    server.start().await?;
                    steps.done(format!(
                        "started {} on port {}",
                        server.name(),
                        server.port()
                    ));
                }
                shard.make_slots().await?;
                match reused {
                    // a failover may have been under way when they were stopped: that is the proxy's to finish
                    true => shard.give_streams_time().await,
                    false => shard.wait_for_streams().await,
                }
            });
        }
        let mut outcome = Ok(());
        while let Some(started) = starting.join_next().await {
            let started = started
                .map_err(std::io::Error::other)
                .naming(|| "starting a server".into());
            outcome = outcome.and(started.and_then(|started| started));
        }
        let shards = Arc::into_inner(shards).ok_or(HerdError::Shape("a server is still in use"));
        match outcome.and(shards) {
            Ok(shards) => Ok((shards, guard, sockets)),
            Err(error) => {
                guard.dismiss();
                Err(error)
            }
        }
    }

    /// Writes the configuration of a shard's servers.
    fn configure(
        &self,
        postgres: &Postgres,
        directory: &Path,
        sockets: &Path,
        shard: usize,
        ports: &[u16],
    ) -> Result<Shard, HerdError> {
        let servers = ports
            .iter()
            .enumerate()
            .map(|(index, port)| {
                let name = ServerName::new(shard, index);
                Server::new(ServerParts {
                    host: self.hosts.get(name.as_str()).cloned(),
                    data: directory.join(name.as_str()),
                    log: directory.join("log").join(format!("{name}.log")),
                    name,
                    port: *port,
                    database: self.database.clone(),
                    postgres: postgres.clone(),
                    sockets: sockets.to_path_buf(),
                })
            })
            .collect();
        let shard = Shard::new(format!("s{shard}"), servers);
        let primary = shard.primary();
        let primary = SocketAddrV4::new(primary.address(), primary.port());
        let runs_as = postgres.runs_as();
        for server in shard.servers() {
            let data = server.data_directory();
            let text = ServerSettings {
                name: server.name().as_str(),
                address: server.address(),
                port: server.port(),
                sockets,
                durability: self.durability,
                follows: (server.port() != primary.port()).then_some(primary),
                has_tls: self.tls.is_some(),
                extra: &self.settings,
            }
            .render();
            write_owned(runs_as, &data.join(SETTINGS_FILE), &text)?;
            let hosts = host_based_authentication(&self.host_lines);
            write_owned(runs_as, &data.join("pg_hba.conf"), &hosts)?;
            if let Some((certificate, key)) = &self.tls {
                write_owned(runs_as, &data.join(CERTIFICATE_FILE), certificate)?;
                write_owned(runs_as, &data.join(KEY_FILE), key)?;
            }
        }
        Ok(shard)
    }
}

/// Counts steps and tells the listener.
struct Steps {
    listener: Listener,
    done: std::sync::atomic::AtomicUsize,
    total: usize,
}

impl Steps {
    fn new(builder: &HerdBuilder, reused: bool) -> Arc<Self> {
        let servers = usize::from(builder.shards) * (usize::from(builder.replicas) + 1);
        Arc::new(Self {
            listener: Arc::clone(&builder.listener),
            done: 0.into(),
            total: if reused { servers } else { 2 * servers },
        })
    }

    fn done(&self, step: String) {
        let before = self.done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (self.listener)(Progress {
            // a start that is tried again counts its steps twice
            done: (before + 1).min(self.total),
            total: self.total,
            step,
        });
    }
}

/// The same ports where they are free, all of them new where one is not: replicas and configuration are written with them anyway.
fn free_ports(wanted: &[u16]) -> Result<Vec<u16>, HerdError> {
    if wanted.iter().all(|port| ports::is_free(*port)) {
        Ok(wanted.to_vec())
    } else {
        ports::choose(wanted.len())
    }
}
