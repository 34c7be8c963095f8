//! From a configuration to what serves it.
//!
//! Owns the databases' control planes, from their start to their end. Never reads a file but for the state store and
//! certificates. Main type: [`Assembled`].

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use pgherd_admin::Order;
use pgherd_control::{Control, ControlError, ControlSettings, FileStore, Origin, State};
use pgherd_pool::{Budget, Pools, Resolver};
use pgherd_protocol::auth::scram::DEFAULT_ITERATIONS;
use pgherd_protocol::{AuthError, MockSecret};
use pgherd_router::Planner;
use pgherd_session::{
    CatalogRequests, Database, DatabaseParts, Herd, ListenTlsError, TwoPhase, UserLookup,
};
use pgherd_telemetry::Metrics;
use pgherd_tls::TlsError;
use pgherd_topology::commit_protocol::{InFlight, ProxyId};
use pgherd_topology::{Catalog, ShardMapError, Sharding, ShardingError};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::deposing::cut_off_deposed;
use super::warming::keep_warm;
use super::{on_demand, placement, requests, translate};
use crate::config::settings::{self, Config, WILDCARD};

/// How many plans a database's cache holds.
const PLANS: usize = 10_000;

/// How often it is looked whether the last session on a database that was taken out has ended.
const RETIRING_PACE: Duration = Duration::from_secs(1);

/// Why a configuration that is right in itself cannot be put to work.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The state store, or a certificate of the control plane.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// TLS towards servers.
    #[error("database \"{database}\": {source}")]
    Tls {
        /// The database.
        database: Box<str>,
        /// Why.
        source: TlsError,
    },
    /// TLS towards clients.
    #[error("listen.tls: {0}")]
    ListenTls(#[from] ListenTlsError),
    /// The stored bucket table does not fit the configuration.
    #[error(
        "database \"{database}\": the stored bucket table does not fit the configured shards: {source}"
    )]
    Map {
        /// The database.
        database: Box<str>,
        /// Why.
        source: ShardMapError,
    },
    /// The number of buckets cannot change while there are rows.
    #[error(
        "database \"{database}\": its rows lie in {stored} buckets, so that `buckets` cannot be {configured}"
    )]
    Buckets {
        /// The database.
        database: Box<str>,
        /// What is stored.
        stored: u16,
        /// What the configuration says.
        configured: u16,
    },
    /// The rules contradict each other.
    #[error("database \"{database}\": {source}")]
    Sharding {
        /// The database.
        database: Box<str>,
        /// Why.
        source: ShardingError,
    },
    /// A password that is neither plain nor a verifier.
    #[error("user \"{user}\": {source}")]
    Password {
        /// The user.
        user: Box<str>,
        /// Why, without the password.
        source: AuthError,
    },
}

/// Everything that serves.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) herd: Arc<Herd>,
    /// How many server connections all databases may have together.
    pub(super) budget: Budget,
    /// What the host names of all their servers stand for.
    pub(super) resolver: Resolver,
    controls: HashMap<Box<str>, Watched>,
    /// Databases that were taken out, until their last session has ended.
    retiring: JoinSet<()>,
    state: Arc<State>,
    proxy: ProxyId,
    /// One for the process: recovery of one database must know what sessions on another commit on the same servers.
    in_flight: InFlight,
}

/// Who watches a database's servers, and the way to ask for a newer catalog: one for all entries to the same servers, so that each of them knows of
/// what was defined through another.
#[derive(Debug, Clone)]
struct Watched {
    control: Arc<Control>,
    catalog_requests: CatalogRequests,
}

impl Watched {
    fn new(control: Control) -> Self {
        Self {
            catalog_requests: requests::catalog_requests(control.reloader(), async {}),
            control: Arc::new(control),
        }
    }
}

impl Assembled {
    /// Opens the state store, starts the control planes and puts the databases together.
    pub(super) fn new(config: &Config) -> Result<Self, AssembleError> {
        let store = FileStore::exclusive(&config.state_file)?;
        let (state, origin) = State::load_or_create(Box::new(store))?;
        match origin {
            Origin::Loaded => {}
            Origin::Created => tracing::info!(
                file = %config.state_file.display(),
                "there was no state file: this is a new herd"
            ),
        }
        let herd = Herd::new(
            translate::listen_settings(&config.listen)?,
            translate::console_settings(config.admin.as_ref())?,
            Metrics::new(),
            MockSecret::new(state.mock_key(), DEFAULT_ITERATIONS),
        );
        let mut assembled = Self {
            herd: Arc::new(herd),
            budget: Budget::new(config.max_server_connections),
            resolver: Resolver::new(config.dns_ttl),
            controls: HashMap::new(),
            retiring: JoinSet::new(),
            state: Arc::new(state),
            proxy: ProxyId(rand::random()),
            in_flight: InFlight::default(),
        };
        let mut databases = Vec::with_capacity(config.databases.len());
        for database in in_order(&config.databases) {
            let started = assembled.start_database(database)?;
            if *database.name != *WILDCARD {
                databases.push(started);
            }
        }
        assembled.herd.set_databases(databases);
        Ok(assembled)
    }

    /// The rules that a database would have under another configuration.
    pub(super) fn sharding(
        &self,
        database: &settings::Database,
    ) -> Result<Arc<Sharding>, AssembleError> {
        placement::sharding(database, &self.state).map(Arc::new)
    }

    /// Puts other rules in force; the shards must be the same.
    pub(super) fn replace_sharding(&self, database: &Database, sharding: Arc<Sharding>) {
        if let Some(watched) = self.controls.get(database.name()) {
            watched.control.replace_sharding(Arc::clone(&sharding));
        }
        database.set_sharding(sharding);
    }

    /// Starts the control plane of a database that was not served so far; one that is like another has that one's. Clients find it once it is in the
    /// herd; the template of those named nowhere is in force at once.
    pub(super) fn start_database(
        &mut self,
        database: &settings::Database,
    ) -> Result<Arc<Database>, AssembleError> {
        let sharding = self.sharding(database)?;
        let users = translate::users(&database.users)?;
        let pools = translate::pool_settings(database, &self.resolver)?;
        let server_login = translate::server_login(database)?;
        let settings = self.control_settings(database, &sharding)?;
        let shared = self
            .controls
            .get(database.owner())
            .filter(|_| database.like.is_some());
        let (watched, is_shared) = match shared {
            Some(watched) => (watched.clone(), true),
            None if database.on_demand.is_some() => {
                (Watched::new(Control::start_plain(&settings)), false)
            }
            None => (Watched::new(Control::start(settings.clone())), false),
        };
        let control = &watched.control;
        let lookup = translate::role_lookup(database, &settings, control.topology())?;
        let made = Arc::new(Database::new(DatabaseParts {
            name: database.name.clone(),
            users,
            max_clients: database.max_clients,
            reads: translate::read_settings(&database.reads),
            sharding,
            server_login,
            topology: control.topology(),
            catalog: control.catalog(),
            catalog_requests: watched.catalog_requests.clone(),
            planner: Planner::new(PLANS),
            pools: Pools::within(self.budget.clone(), pools),
            two_phase: TwoPhase {
                herd: self.state.herd(database.owner()),
                proxy: self.proxy,
                in_flight: self.in_flight.clone(),
            },
            metrics: self.herd.metrics().database(&database.name),
        }));
        let servers = database.servers().map(|server| &server.address);
        made.pools().reserve(servers, database.own_connections());
        made.set_lookup(lookup.map(|lookup| requests::user_lookup(lookup, database)));
        made.set_read_only(database.reads.only);
        made.set_timeouts(database.timeouts);
        tokio::spawn(cut_off_deposed(Arc::downgrade(&made), control.topology()));
        if database.on_demand.is_none() {
            tokio::spawn(keep_warm(Arc::downgrade(&made)));
        }
        if !is_shared {
            tokio::spawn(report_faults(Arc::downgrade(&made), control.catalog()));
        }
        if let Some(limits) = database.on_demand {
            let template = Arc::clone(&made);
            let on_demand = on_demand::start(template, limits, settings, control.topology());
            self.herd.set_on_demand(Some(on_demand));
        }
        self.controls.insert(database.name.clone(), watched);
        Ok(made)
    }

    fn control_settings(
        &self,
        database: &settings::Database,
        sharding: &Arc<Sharding>,
    ) -> Result<ControlSettings, AssembleError> {
        let mut settings = translate::control_settings(
            database,
            &self.state,
            Arc::clone(sharding),
            self.proxy,
            self.in_flight.clone(),
        )?;
        settings.pace.names = self.resolver.ttl();
        Ok(settings)
    }

    /// Where the users of a served database would be looked up under another configuration.
    pub(super) fn user_lookup(
        &self,
        database: &settings::Database,
        serving: &Database,
    ) -> Result<Option<UserLookup>, AssembleError> {
        let settings = self.control_settings(database, &serving.sharding())?;
        let lookup = translate::role_lookup(database, &settings, serving.watch_topology())?;
        Ok(lookup.map(|lookup| requests::user_lookup(lookup, database)))
    }

    /// What serves a database of the configuration.
    pub(super) fn serving(&self, name: &str) -> Option<Arc<Database>> {
        match name {
            WILDCARD => Some(Arc::clone(self.herd.on_demand()?.template())),
            name => self.herd.database(name),
        }
    }

    /// Ends the control plane of a database that is no longer in the herd, once its last session has ended.
    pub(super) fn retire_database(&mut self, database: Arc<Database>) {
        let Some(Watched { control, .. }) = self.controls.remove(database.name()) else {
            return;
        };
        self.retiring.spawn(async move {
            // sessions hold the database
            while Arc::strong_count(&database) > 1 {
                tokio::time::sleep(RETIRING_PACE).await;
            }
            database.pools().close();
            // another entry to the same shards, or a database made by this template, may go on
            if let Ok(control) = Arc::try_unwrap(control) {
                control.shutdown().await;
            }
            tracing::info!(
                database = database.name(),
                "the last session ended, the database is closed"
            );
        });
    }

    /// Has control carry out what an operator asks of a shard; who asked is told.
    pub(super) fn carry_out(&self, order: Order) {
        let Some(watched) = self.controls.get(&order.database) else {
            let gone = format!("database \"{}\" is gone", order.database);
            // who asked may be gone too
            drop(order.done.send(Err(gone)));
            return;
        };
        let control = Arc::clone(&watched.control);
        tokio::spawn(async move {
            let done = control.order(order.shard, order.command, order.progress);
            let done = done.await.map_err(|error| error.to_string());
            drop(order.done.send(done));
        });
    }

    /// Begins or ends maintenance.
    ///
    /// # Errors
    /// As [`State::set_maintenance`]. Blocks on the disk.
    pub(super) fn set_maintenance(&self, on: bool) -> Result<(), ControlError> {
        self.state.set_maintenance(on)
    }

    /// Waits until every shard has a primary and every catalog is read, but not for ever; says what is missing then.
    pub(super) async fn wait_ready(&self, patience: Duration) {
        let mut waiting = JoinSet::new();
        for (name, watched) in &self.controls {
            let (name, control) = (name.clone(), Arc::clone(&watched.control));
            waiting.spawn(async move {
                if let Err(error) = control.wait_ready(patience).await {
                    tracing::error!(database = &*name, %error, "clients are let in all the same");
                }
            });
        }
        waiting.join_all().await;
    }

    /// Ends the control planes and closes the pools.
    pub(super) async fn shutdown(&mut self) {
        self.retiring.shutdown().await;
        for database in self.herd.databases().values() {
            database.pools().close();
        }
        for watched in self.controls.values() {
            watched.control.shutdown().await;
        }
    }
}

/// Databases with shards of their own before those that are like them.
pub(super) fn in_order(
    databases: &[settings::Database],
) -> impl Iterator<Item = &settings::Database> {
    let (own, like): (Vec<_>, Vec<_>) = databases
        .iter()
        .partition(|database| database.like.is_none());
    own.into_iter().chain(like)
}

/// Says of each new catalog what the rules and it have against each other, each fault once. Ends with the database.
async fn report_faults(database: Weak<Database>, mut catalogs: watch::Receiver<Arc<Catalog>>) {
    let mut known: Vec<ShardingError> = Vec::new();
    loop {
        let catalog = Arc::clone(&catalogs.borrow_and_update());
        let Some(database) = database.upgrade() else {
            return;
        };
        if catalog.version() > 0 {
            let faults = database.sharding().check_keys(&catalog);
            for fault in faults.iter().filter(|fault| !known.contains(fault)) {
                tracing::error!(database = database.name(), %fault, "a sharding rule does not fit the table");
            }
            known = faults;
        }
        drop(database);
        if catalogs.changed().await.is_err() {
            return;
        }
    }
}
