//! What all sessions share.
//!
//! Owns: the databases by name, the listener's and the console's settings, who is connected, and whether pgherd drains. What a reload
//! changes lies behind [`ArcSwap`]s: a session reads it when it needs it. Never does: reading files, or finding out who is primary
//! (control publishes that through channels, and sessions never call it). Main types: [`Herd`], [`Database`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use pgherd_pool::{Pools, UserLogin};
use pgherd_protocol::{Credential, MockSecret};
use pgherd_router::Planner;
use pgherd_telemetry::{DatabaseMetrics, Metrics};
use pgherd_topology::commit_protocol::{HerdId, InFlight, ProxyId};
use pgherd_topology::{Catalog, Sharding, Topology};
use tokio::sync::{mpsc, oneshot, watch};

use crate::limits::ClientLimits;
use crate::parameters::ParameterCache;
use crate::registry::ClientRegistry;
use crate::tls::ListenTls;
use crate::users::{User, Users};

/// The longest message taken from a client, in bytes, where the configuration says nothing.
pub const DEFAULT_MAX_MESSAGE: usize = 256 * 1024 * 1024;

/// The other name of the console's database, so that what was made for PgBouncer finds it.
pub const CONSOLE_ALIAS: &str = "pgbouncer";

/// How long a catalog reload may take before its caller goes on without.
const CATALOG_RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How clients are listened to.
#[derive(Debug, Clone)]
pub struct ListenSettings {
    /// TLS as they are offered it.
    pub tls: ListenTls,
    /// How many may be connected; the console's users are not counted.
    pub max_clients: usize,
    /// How long one may take from its first byte to being logged in.
    pub authentication_timeout: Duration,
    /// The longest message taken from one that is logged in, in bytes.
    pub max_message: usize,
    /// How long a drain waits for transactions to end.
    pub drain_timeout: Duration,
}

impl Default for ListenSettings {
    fn default() -> Self {
        Self {
            tls: ListenTls::disabled(),
            max_clients: 10_000,
            authentication_timeout: Duration::from_secs(60),
            max_message: DEFAULT_MAX_MESSAGE,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// The operator's console.
#[derive(Debug, Clone, Default)]
pub struct ConsoleSettings {
    /// Its database's name; `None`: there is no console.
    pub database: Option<Box<str>>,
    /// Who may use it.
    pub users: Arc<Users>,
}

impl ConsoleSettings {
    /// Whether a client that asks for this database asks for the console. A database of the configuration with the alias' name goes first.
    pub fn is_named(&self, database: &str) -> bool {
        self.database
            .as_deref()
            .is_some_and(|name| name == database || database == CONSOLE_ALIAS)
    }
}

/// Whether pgherd takes new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It does.
    Running,
    /// It is about to end: sessions end with their transactions, and nobody is let in any more.
    Draining,
}

/// What all sessions share.
#[derive(Debug)]
pub struct Herd {
    databases: ArcSwap<HashMap<Box<str>, Arc<Database>>>,
    settings: ArcSwap<ListenSettings>,
    console: ArcSwap<ConsoleSettings>,
    clients: Arc<ClientRegistry>,
    phase: watch::Sender<Phase>,
    metrics: Metrics,
    mock_secret: MockSecret,
}

impl Herd {
    /// A herd without databases.
    ///
    /// `mock_secret` makes the salts that unknown users are shown: where it stays the same over restarts, they cannot be told from known ones.
    pub fn new(
        settings: ListenSettings,
        console: ConsoleSettings,
        metrics: Metrics,
        mock_secret: MockSecret,
    ) -> Self {
        Self {
            databases: ArcSwap::default(),
            settings: ArcSwap::from_pointee(settings),
            console: ArcSwap::from_pointee(console),
            clients: Arc::default(),
            phase: watch::Sender::new(Phase::Running),
            metrics,
            mock_secret,
        }
    }

    /// The database that clients know by this name.
    pub fn database(&self, name: &str) -> Option<Arc<Database>> {
        self.databases.load().get(name).cloned()
    }

    /// All databases by name.
    pub fn databases(&self) -> Arc<HashMap<Box<str>, Arc<Database>>> {
        self.databases.load_full()
    }

    /// Replaces the databases. Sessions on one that is gone keep it until they end.
    pub fn set_databases(&self, databases: impl IntoIterator<Item = Arc<Database>>) {
        let by_name = databases
            .into_iter()
            .map(|database| (database.name.clone(), database))
            .collect();
        self.databases.store(Arc::new(by_name));
    }

    /// How clients are listened to now.
    pub fn settings(&self) -> Arc<ListenSettings> {
        self.settings.load_full()
    }

    /// Changes how clients are listened to; those connected stay.
    pub fn set_settings(&self, settings: ListenSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// The console now.
    pub fn console(&self) -> Arc<ConsoleSettings> {
        self.console.load_full()
    }

    /// Changes the console.
    pub fn set_console(&self, console: ConsoleSettings) {
        self.console.store(Arc::new(console));
    }

    /// Who is connected.
    pub fn clients(&self) -> &Arc<ClientRegistry> {
        &self.clients
    }

    /// Whether pgherd drains, and when that changes.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Starts to drain. There is no way back.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Where is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What unknown users' salts are made from.
    pub fn mock_secret(&self) -> &MockSecret {
        &self.mock_secret
    }
}

/// Which servers answer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadsFrom {
    /// Replicas, and the primary where no replica can.
    #[default]
    Replicas,
    /// Any server.
    Any,
    /// The primary alone.
    Primary,
}

/// What a client may rely on when it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// It sees its own writes and never reads backwards.
    #[default]
    Session,
    /// It sees what the replica has.
    Eventual,
}

/// Where reads go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadSettings {
    /// To which servers.
    pub from: ReadsFrom,
    /// With which promise.
    pub consistency: Consistency,
    /// How far behind a replica may be.
    pub max_lag: Duration,
    /// The zone that pgherd runs in: its replicas go first.
    pub zone: Option<Box<str>>,
}

impl Default for ReadSettings {
    fn default() -> Self {
        Self {
            from: ReadsFrom::default(),
            consistency: Consistency::default(),
            max_lag: Duration::from_secs(10),
            zone: None,
        }
    }
}

/// What a commit over several shards is named with, and which of them this process has under way.
#[derive(Debug, Clone)]
pub struct TwoPhase {
    /// The herd: transactions of another are left alone.
    pub herd: HerdId,
    /// This process.
    pub proxy: ProxyId,
    /// Transactions that recovery must leave to their sessions.
    pub in_flight: InFlight,
}

/// A request to read the catalog again; answered once one that was begun afterwards is published.
pub type CatalogRequest = oneshot::Sender<()>;

/// Asks for catalog reloads. Whoever reads the catalog holds the other end.
#[derive(Debug, Clone)]
pub struct CatalogRequests {
    requests: mpsc::Sender<CatalogRequest>,
}

impl CatalogRequests {
    /// A channel for requests, and the end that answers them.
    pub fn channel() -> (Self, mpsc::Receiver<CatalogRequest>) {
        let (requests, receiver) = mpsc::channel(64);
        (Self { requests }, receiver)
    }

    /// Has the catalog read again and waits until that is published, for at most five seconds. Cancel-safe: the reload goes on.
    ///
    /// Returns whether it was published: if not, plans may still be made with the catalog as it was.
    pub async fn reload(&self) -> bool {
        let (request, published) = oneshot::channel();
        let reload = async { self.requests.send(request).await.is_ok() && published.await.is_ok() };
        tokio::time::timeout(CATALOG_RELOAD_TIMEOUT, reload)
            .await
            .unwrap_or(false)
    }
}

/// What a [`Database`] is made from.
#[derive(Debug)]
pub struct DatabaseParts {
    /// The name that clients connect to.
    pub name: Box<str>,
    /// Who may connect.
    pub users: Users,
    /// How many clients there may be; `None` is no limit but the listener's.
    pub max_clients: Option<usize>,
    /// Where reads go.
    pub reads: ReadSettings,
    /// What lies on which shard.
    pub sharding: Arc<Sharding>,
    /// One login on the servers for all users; `None`: each logs in as itself.
    pub server_login: Option<Arc<UserLogin>>,
    /// Which servers there are, as control publishes it.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// What the servers' catalogs say, as control publishes it.
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// How a newer catalog is asked for.
    pub catalog_requests: CatalogRequests,
    /// Who plans.
    pub planner: Planner,
    /// Connections to the servers.
    pub pools: Pools,
    /// Commits over several shards.
    pub two_phase: TwoPhase,
    /// Where is counted.
    pub metrics: Arc<DatabaseMetrics>,
}

/// One database as clients see it.
#[derive(Debug)]
pub struct Database {
    name: Box<str>,
    users: ArcSwap<Users>,
    /// `usize::MAX` is no limit.
    max_clients: AtomicUsize,
    reads: ArcSwap<ReadSettings>,
    sharding: ArcSwap<Sharding>,
    /// Rises with each change of `sharding`.
    rules_version: AtomicU64,
    server_login: ArcSwapOption<UserLogin>,
    topology: watch::Receiver<Arc<Topology>>,
    catalog: watch::Receiver<Arc<Catalog>>,
    catalog_requests: CatalogRequests,
    planner: Planner,
    pools: Pools,
    two_phase: TwoPhase,
    metrics: Arc<DatabaseMetrics>,
    parameters: ParameterCache,
}

impl Database {
    /// Puts a database together.
    pub fn new(parts: DatabaseParts) -> Self {
        Self {
            name: parts.name,
            users: ArcSwap::from_pointee(parts.users),
            max_clients: AtomicUsize::new(parts.max_clients.unwrap_or(usize::MAX)),
            reads: ArcSwap::from_pointee(parts.reads),
            sharding: ArcSwap::new(parts.sharding),
            rules_version: AtomicU64::new(0),
            server_login: ArcSwapOption::new(parts.server_login),
            topology: parts.topology,
            catalog: parts.catalog,
            catalog_requests: parts.catalog_requests,
            planner: parts.planner,
            pools: parts.pools,
            two_phase: parts.two_phase,
            metrics: parts.metrics,
            parameters: ParameterCache::default(),
        }
    }

    /// The name that clients connect to.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who may connect.
    pub fn users(&self) -> Arc<Users> {
        self.users.load_full()
    }

    /// Changes who may connect; those connected stay.
    pub fn set_users(&self, users: Users) {
        self.users.store(Arc::new(users));
        self.parameters.clear();
    }

    /// How many clients this user of the database may have, and the database.
    pub fn client_limits(&self, user: &User) -> ClientLimits {
        ClientLimits {
            database: self.max_clients(),
            user: user.max_clients,
        }
    }

    /// Changes how many clients there may be.
    pub fn set_max_clients(&self, max_clients: Option<usize>) {
        self.max_clients
            .store(max_clients.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// How many clients there may be, if that is limited.
    pub fn max_clients(&self) -> Option<usize> {
        Some(self.max_clients.load(Ordering::Relaxed)).filter(|limit| *limit < usize::MAX)
    }

    /// Where reads go.
    pub fn reads(&self) -> arc_swap::Guard<Arc<ReadSettings>> {
        self.reads.load()
    }

    /// Changes where reads go.
    pub fn set_reads(&self, reads: ReadSettings) {
        self.reads.store(Arc::new(reads));
    }

    /// What lies on which shard. A session takes one for each transaction.
    pub fn sharding(&self) -> Arc<Sharding> {
        self.sharding.load_full()
    }

    /// Rises with each change of what lies on which shard; plans made under another version are not used.
    pub fn rules_version(&self) -> u64 {
        self.rules_version.load(Ordering::Acquire)
    }

    /// Changes what lies on which shard.
    pub fn set_sharding(&self, sharding: Arc<Sharding>) {
        self.sharding.store(sharding);
        self.rules_version.fetch_add(1, Ordering::Release);
    }

    /// What a user's sessions log in to the servers with: the database's own login, or the user's, for which `credential` is what its login
    /// to pgherd taught.
    pub fn server_login(&self, user: &User, credential: Credential) -> Arc<UserLogin> {
        self.server_login.load_full().unwrap_or_else(|| {
            Arc::new(UserLogin {
                name: user.name.clone(),
                credential: user.server_credential(credential),
            })
        })
    }

    /// Changes the login on the servers.
    pub fn set_server_login(&self, login: Option<Arc<UserLogin>>) {
        self.server_login.store(login);
        self.parameters.clear();
    }

    /// Which servers there are now. A session takes one for each transaction.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.borrow())
    }

    /// To wait for another topology with.
    pub fn watch_topology(&self) -> watch::Receiver<Arc<Topology>> {
        self.topology.clone()
    }

    /// What the catalogs say now.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.borrow())
    }

    /// To wait for another catalog with.
    pub fn watch_catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.clone()
    }

    /// How a newer catalog is asked for.
    pub fn catalog_requests(&self) -> &CatalogRequests {
        &self.catalog_requests
    }

    /// Who plans.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// Connections to the servers.
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Commits over several shards.
    pub fn two_phase(&self) -> &TwoPhase {
        &self.two_phase
    }

    /// Where is counted.
    pub fn metrics(&self) -> &Arc<DatabaseMetrics> {
        &self.metrics
    }

    /// What servers report at login (ParameterStatus), by user and settings.
    pub fn parameters(&self) -> &ParameterCache {
        &self.parameters
    }
}
