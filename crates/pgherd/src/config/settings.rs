//! The configuration as pgherd uses it: every value read, every default filled in, every name known to exist.
//!
//! Owns no rule: values of these types are made by the conversion alone, which has checked them. Comparable, so that a
//! reload can tell what changed. The main type is [`Config`].

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use pgherd_control::{FailoverMode, FailoverSettings};
pub use pgherd_pool::TcpSettings;
use pgherd_session::{HbaRules, OnDemandLimits, Timeouts};
use pgherd_topology::{Address, Declarations, RelationName, TableRule, Unlisted};

pub use super::raw::{
    CleartextPassword, Consistency, Exchange, LogFormat, PoolMode, ReadsFrom, Right,
};
pub use pgherd_tls::{SslMode, TlsSettings};

/// A whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients connect.
    pub listen: Listen,
    /// How many threads serve clients; 0 means one for each core.
    pub workers: usize,
    /// The most connections in clients' pools.
    pub max_server_connections: Option<usize>,
    /// The console, if there is one.
    pub admin: Option<Admin>,
    /// Where metrics and health are served, if they are.
    pub http: Option<ListenAddress>,
    /// Where the bucket table is kept.
    pub state_file: PathBuf,
    /// For how long it is believed what servers' host names stand for.
    pub dns_ttl: Duration,
    /// The log.
    pub log: Log,
    /// The databases, in the file's order.
    pub databases: Vec<Database>,
}

/// A host (or `*` for all) and a port; port 0 lets the system choose.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// A host name, an IP address without brackets, or `*`.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
}

impl ListenAddress {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        is_local_host(&self.host)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(formatter, "[{}]:{}", self.host, self.port),
            false => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

/// Whether a host is this machine, by its name alone.
pub(super) fn is_local_host(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// TCP addresses.
    pub addresses: Vec<ListenAddress>,
    /// The directory of the Unix socket, if there is one. Its port is that of the first address.
    pub unix: Option<PathBuf>,
    /// TLS towards clients, unless it is disabled.
    pub tls: Option<ListenTls>,
    /// How they are noticed to be gone.
    pub tcp: TcpSettings,
    /// The most clients at once.
    pub max_clients: usize,
    /// How long a login may take.
    pub authentication_timeout: Duration,
    /// The longest message, in bytes.
    pub max_message: usize,
    /// How long transactions may run on after SIGTERM.
    pub drain_timeout: Duration,
    /// Who may connect from where, if rules say so.
    pub hba: Option<HbaRules>,
    /// Startup parameters that are passed over.
    pub ignore_startup_parameters: Vec<Box<str>>,
}

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenTls {
    /// Never [`SslMode::Disable`].
    pub mode: SslMode,
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who signs clients' certificates.
    pub root_certificate: Option<PathBuf>,
}

/// The operator's console.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// The name of its database.
    pub database: Box<str>,
    /// Who may use it.
    pub users: Vec<User>,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Its format.
    pub format: LogFormat,
    /// Its level, or directives.
    pub level: Box<str>,
}

/// A secret. Not shown by [`fmt::Debug`].
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub(super) String);

impl Database {
    /// The database whose rows and control plane these are: its own name, or the one that it is like.
    pub fn owner(&self) -> &str {
        self.like.as_deref().unwrap_or(&self.name)
    }
}

impl Password {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

/// Someone who may connect.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// The name.
    pub name: Box<str>,
    /// The password or its verifier.
    pub password: Option<Password>,
    /// The common name that a certificate must bear to do without a password.
    pub certificate: Option<Box<str>>,
    /// From where no password is needed.
    pub trust: Vec<Trusted>,
    /// How the password is asked for.
    pub exchange: Exchange,
    /// The most clients as this user.
    pub max_clients: Option<usize>,
    /// How long its clients may take.
    pub timeouts: Timeouts,
    /// What its sessions begin with, by name.
    pub settings: Vec<(String, String)>,
    /// What is different in its pools.
    pub pool: UserPool,
    /// What it may do on the console.
    pub right: Right,
}

/// What one user's pools have otherwise than the database's. `None` is as there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserPool {
    /// When a connection goes back.
    pub mode: Option<PoolMode>,
    /// Connections it may have on one server.
    pub size: Option<usize>,
    /// Of them kept open when idle.
    pub min: Option<usize>,
    /// More for who has waited long.
    pub reserve: Option<usize>,
    /// Of them kept by clients beyond their transactions.
    pub max_pinned: Option<usize>,
}

/// Clients that need no password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// Those at the Unix socket.
    Unix,
    /// Those whose address begins with the network's first `prefix` bits.
    Network {
        /// The network.
        address: std::net::IpAddr,
        /// How many of its bits count.
        prefix: u8,
    },
}

/// A login on the servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Login {
    /// The role.
    pub user: Box<str>,
    /// Its password.
    pub password: Option<Password>,
    /// TLS towards the servers.
    pub tls: TlsSettings,
}

/// The name of the template of databases that are named nowhere.
pub const WILDCARD: &str = "*";

/// How users are looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// The question, if it is not the default one.
    pub query: Option<Box<str>>,
    /// Whom to ask as.
    pub login: Login,
    /// In which database.
    pub database: Box<str>,
    /// How long an answer is believed.
    pub cache: Duration,
}

/// One database.
#[derive(Clone, Debug, PartialEq)]
pub struct Database {
    /// Its name for clients; [`WILDCARD`] is the template of those named nowhere.
    pub name: Box<str>,
    /// The database whose shards these are, if they are another's.
    pub like: Option<Box<str>>,
    /// Its name on the servers.
    pub server_database: Box<str>,
    /// Who may connect.
    pub users: Vec<User>,
    /// Where others are looked up, if anywhere.
    pub auth: Option<Auth>,
    /// The most clients of this database.
    pub max_clients: Option<usize>,
    /// How long its clients may take.
    pub timeouts: Timeouts,
    /// One login for all users; without it each logs in as itself.
    pub server_login: Option<Login>,
    /// The login of the control connections.
    pub control_login: Login,
    /// TLS towards the servers for users that log in as themselves.
    pub server_tls: TlsSettings,
    /// How servers are noticed to be gone.
    pub server_tcp: TcpSettings,
    /// The pools.
    pub pool: Pool,
    /// Where reads go.
    pub reads: Reads,
    /// The bounds of databases made by this template; set for [`WILDCARD`] alone.
    pub on_demand: Option<OnDemandLimits>,
    /// What happens when a primary fails; of a database that is like another, that one's counts.
    pub failover: FailoverSettings,
    /// The shards, in order: the first one is shard 0.
    pub shards: Vec<Shard>,
    /// What lies where.
    pub sharding: Sharding,
}

impl Database {
    /// Its servers, shard by shard.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.shards.iter().flat_map(|shard| &shard.servers)
    }

    /// The most connections to each of its servers that are in no pool: those of its control plane, those that ask for roles, and the
    /// one that listens for all its clients.
    #[must_use]
    pub fn own_connections(&self) -> usize {
        let control = if self.like.is_some() {
            0
        } else {
            match self.failover.mode {
                FailoverMode::Observe => pgherd_control::MOST_CONNECTIONS,
                FailoverMode::Promote => {
                    pgherd_control::MOST_CONNECTIONS + pgherd_control::MOST_FAILOVER_CONNECTIONS
                }
            }
        };
        let lookup = if self.auth.is_some() {
            pgherd_control::MOST_LOOKUP_CONNECTIONS
        } else {
            0
        };
        control + lookup + 1
    }
}

/// The pools of server connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// When a connection goes back.
    pub mode: PoolMode,
    /// Connections a user may have on one server.
    pub size: usize,
    /// Of them kept open when idle.
    pub min: usize,
    /// More for who has waited long.
    pub reserve: usize,
    /// How long that is.
    pub reserve_after: Duration,
    /// Of them kept by clients beyond their transactions; `None` is half.
    pub max_pinned: Option<usize>,
    /// The most connections of the database.
    pub max_connections: Option<usize>,
    /// How long a query waits for one.
    pub checkout_timeout: Duration,
    /// How long opening one may take.
    pub connect_timeout: Duration,
    /// How long one may lie idle.
    pub idle_timeout: Duration,
    /// How old one may become.
    pub lifetime: Duration,
    /// What is run on each new one.
    pub connect_query: Option<Box<str>>,
    /// Whether a server may have a plain password over TCP without TLS.
    pub cleartext_password: CleartextPassword,
}

/// Where reads go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reads {
    /// Which servers answer them.
    pub from: ReadsFrom,
    /// What a client may rely on.
    pub consistency: Consistency,
    /// How far behind a replica may be.
    pub max_lag: Duration,
    /// The zone whose servers are taken first.
    pub zone: Option<Box<str>>,
    /// Whether there is nothing but reads.
    pub only: bool,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its name.
    pub name: Box<str>,
    /// Its share of the buckets.
    pub weight: u32,
    /// Its servers.
    pub servers: Vec<Server>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: Box<str>,
    /// Where it listens.
    pub address: Address,
    /// The most connections of clients' pools to it.
    pub max_connections: Option<usize>,
    /// Its zone.
    pub zone: Option<Box<str>>,
    /// Its rank among candidates.
    pub priority: u32,
}

/// What lies where.
#[derive(Clone, Debug, PartialEq)]
pub struct Sharding {
    /// How many buckets.
    pub buckets: u16,
    /// The sharded tables; `with` names the root of each co-location.
    pub tables: Vec<TableRule>,
    /// The tables every shard has a copy of.
    pub reference: Vec<RelationName>,
    /// What happens to all other tables.
    pub unlisted: Unlisted,
    /// What is vouched for.
    pub declarations: Declarations,
}
