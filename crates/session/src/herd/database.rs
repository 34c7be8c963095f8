//! One database as clients see it.
//!
//! Owns: its users, its rules and settings as they are now, and the ends of the channels by which control tells of servers and catalogs.
//! Never does: I/O of its own. Main type: [`Database`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use pgherd_pool::{Pools, UserLogin};
use pgherd_protocol::Credential;
use pgherd_router::Planner;
use pgherd_telemetry::DatabaseMetrics;
use pgherd_topology::commit_protocol::{HerdId, InFlight, ProxyId};
use pgherd_topology::{Catalog, Sharding, Topology};
use tokio::sync::{mpsc, oneshot, watch};

use crate::beginning::Beginnings;
use crate::holding::WaitingRooms;
use crate::limits::ClientLimits;
use crate::listening::Listening;
use crate::lookup::UserLookup;
use crate::parameters::ParameterCache;
use crate::timeouts::Timeouts;
use crate::users::{User, Users};

/// How long a catalog reload may take before its caller goes on without.
const CATALOG_RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Versions of open blocks' catalogs begin here: control counts from 1.
const FIRST_BLOCK_CATALOG: u64 = 1 << 63;

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

/// What lies on which shard, under a version.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Rises with each change.
    pub version: u64,
    /// The rules.
    pub sharding: Arc<Sharding>,
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
    changes: Arc<Changes>,
}

/// Definitions that sessions have committed, counted.
#[derive(Debug, Default)]
struct Changes {
    made: AtomicU64,
    /// How many of them had been made when the last reading was asked for.
    read: AtomicU64,
}

impl CatalogRequests {
    /// A channel for requests, and the end that answers them.
    pub fn channel() -> (Self, mpsc::Receiver<CatalogRequest>) {
        let (requests, receiver) = mpsc::channel(64);
        let changes = Arc::default();
        (Self { requests, changes }, receiver)
    }

    /// A session has committed definitions.
    pub fn note_change(&self) {
        self.changes.made.fetch_add(1, Ordering::Release);
    }

    /// Whether definitions were committed since a reload was last asked for.
    #[must_use]
    pub fn are_due(&self) -> bool {
        self.changes.read.load(Ordering::Acquire) < self.changes.made.load(Ordering::Acquire)
    }

    /// Has the catalog read again and waits until that is published, for at most five seconds. Cancel-safe: the reload goes on.
    ///
    /// Returns whether it was published: if not, plans may still be made with the catalog as it was.
    pub async fn reload(&self) -> bool {
        let made = self.changes.made.load(Ordering::Acquire);
        let (request, published) = oneshot::channel();
        let reload = async { self.requests.send(request).await.is_ok() && published.await.is_ok() };
        let read = tokio::time::timeout(CATALOG_RELOAD_TIMEOUT, reload)
            .await
            .unwrap_or(false);
        // nobody waits twice where it cannot be read
        self.changes.read.fetch_max(made, Ordering::Release);
        read
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
    lookup: ArcSwapOption<UserLookup>,
    is_read_only: AtomicBool,
    is_disabled: AtomicBool,
    /// `usize::MAX` is no limit.
    max_clients: AtomicUsize,
    timeouts: ArcSwap<Timeouts>,
    reads: ArcSwap<ReadSettings>,
    rules: ArcSwap<Rules>,
    server_login: ArcSwapOption<UserLogin>,
    topology: watch::Receiver<Arc<Topology>>,
    catalog: watch::Receiver<Arc<Catalog>>,
    catalog_requests: CatalogRequests,
    planner: Planner,
    pools: Pools,
    two_phase: TwoPhase,
    metrics: Arc<DatabaseMetrics>,
    parameters: ParameterCache,
    beginnings: Beginnings,
    block_catalogs: AtomicU64,
    listening: Listening,
    waiting_rooms: Arc<WaitingRooms>,
}

impl Database {
    /// Puts a database together.
    pub fn new(parts: DatabaseParts) -> Self {
        Self {
            name: parts.name,
            users: ArcSwap::from_pointee(parts.users),
            lookup: ArcSwapOption::empty(),
            is_read_only: AtomicBool::new(false),
            is_disabled: AtomicBool::new(false),
            max_clients: AtomicUsize::new(parts.max_clients.unwrap_or(usize::MAX)),
            timeouts: ArcSwap::from_pointee(Timeouts::default()),
            reads: ArcSwap::from_pointee(parts.reads),
            rules: ArcSwap::from_pointee(Rules {
                version: 0,
                sharding: parts.sharding,
            }),
            server_login: ArcSwapOption::new(parts.server_login),
            topology: parts.topology,
            catalog: parts.catalog,
            catalog_requests: parts.catalog_requests,
            planner: parts.planner,
            pools: parts.pools,
            two_phase: parts.two_phase,
            metrics: parts.metrics,
            parameters: ParameterCache::default(),
            beginnings: Beginnings::default(),
            block_catalogs: AtomicU64::new(FIRST_BLOCK_CATALOG),
            listening: Listening::default(),
            waiting_rooms: Arc::default(),
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

    /// Where users are found that [`Database::users`] has not, if anywhere.
    pub fn lookup(&self) -> Option<Arc<UserLookup>> {
        self.lookup.load_full()
    }

    /// Changes where users are looked up; those connected stay.
    pub fn set_lookup(&self, lookup: Option<UserLookup>) {
        self.lookup.store(lookup.map(Arc::new));
    }

    /// Whether clients may only read. The pools' connections must begin with [`crate::READ_ONLY_OPTIONS`] then.
    pub fn is_read_only(&self) -> bool {
        self.is_read_only.load(Ordering::Relaxed)
    }

    /// Changes that, for requests that come from now on.
    pub fn set_read_only(&self, is_read_only: bool) {
        self.is_read_only.store(is_read_only, Ordering::Relaxed);
        self.parameters.clear();
    }

    /// Whether nobody new is let in.
    pub fn is_disabled(&self) -> bool {
        self.is_disabled.load(Ordering::Relaxed)
    }

    /// Changes that; those connected stay.
    pub fn set_disabled(&self, is_disabled: bool) {
        self.is_disabled.store(is_disabled, Ordering::Relaxed);
    }

    /// How many clients this user of the database may have, and the database.
    pub fn client_limits(&self, user: &User) -> ClientLimits {
        ClientLimits {
            database: self.max_clients(),
            user: user.max_clients,
        }
    }

    /// How long its clients may take for what.
    pub fn timeouts(&self) -> Timeouts {
        **self.timeouts.load()
    }

    /// Changes how long clients may take; a request that runs keeps its limit.
    pub fn set_timeouts(&self, timeouts: Timeouts) {
        self.timeouts.store(Arc::new(timeouts));
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

    /// What lies on which shard, and its version, which belong together: plans made under one version are not used under another.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// What lies on which shard. A session takes one for each transaction.
    pub fn sharding(&self) -> Arc<Sharding> {
        Arc::clone(&self.rules.load().sharding)
    }

    /// The version of the rules. Who wants the rules too takes both by [`Database::rules`], as they may change in between.
    pub fn rules_version(&self) -> u64 {
        self.rules.load().version
    }

    /// Changes what lies on which shard.
    pub fn set_sharding(&self, sharding: Arc<Sharding>) {
        self.rules.rcu(|rules| Rules {
            version: rules.version + 1,
            sharding: Arc::clone(&sharding),
        });
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

    /// The one login on the servers for all users, if there is one.
    pub fn shared_server_login(&self) -> Option<Arc<UserLogin>> {
        self.server_login.load_full()
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

    /// The version of that.
    pub fn catalog_version(&self) -> u64 {
        self.catalog.borrow().version()
    }

    /// A version for a catalog of an open block, which no other catalog has.
    pub(crate) fn next_block_catalog(&self) -> u64 {
        self.block_catalogs.fetch_add(1, Ordering::Relaxed)
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

    /// Who listens to what.
    pub(crate) fn listening(&self) -> &Listening {
        &self.listening
    }

    /// How many requests wait for a primary.
    pub(crate) fn waiting_rooms(&self) -> &Arc<WaitingRooms> {
        &self.waiting_rooms
    }

    /// Where is counted.
    pub fn metrics(&self) -> &Arc<DatabaseMetrics> {
        &self.metrics
    }

    /// What its clients begin with.
    pub(crate) fn beginnings(&self) -> &Beginnings {
        &self.beginnings
    }

    /// What servers report at login (ParameterStatus), by user and settings.
    pub fn parameters(&self) -> &ParameterCache {
        &self.parameters
    }
}
