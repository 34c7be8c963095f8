//! From a configuration to what serves it.
//!
//! Owns the databases' control planes, from their start to their end. Never reads a file but for the state store and
//! certificates. Main type: [`Assembled`].

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use pgherd_control::{Control, ControlError, FileStore, Origin, State};
use pgherd_pool::Pools;
use pgherd_protocol::auth::scram::DEFAULT_ITERATIONS;
use pgherd_protocol::{AuthError, MockSecret};
use pgherd_router::Planner;
use pgherd_session::{CatalogRequests, Database, DatabaseParts, Herd, ListenTlsError, TwoPhase};
use pgherd_telemetry::Metrics;
use pgherd_tls::TlsError;
use pgherd_topology::commit_protocol::{InFlight, ProxyId};
use pgherd_topology::{Catalog, ShardMapError, Sharding, ShardingError};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{placement, translate};
use crate::config::settings::{self, Config};

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
    controls: HashMap<Box<str>, Arc<Control>>,
    /// Databases that were taken out, until their last session has ended.
    retiring: JoinSet<()>,
    state: Arc<State>,
    proxy: ProxyId,
    /// One for the process: recovery of one database must know what sessions on another commit on the same servers.
    in_flight: InFlight,
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
            controls: HashMap::new(),
            retiring: JoinSet::new(),
            state: Arc::new(state),
            proxy: ProxyId(rand::random()),
            in_flight: InFlight::default(),
        };
        let mut databases = Vec::with_capacity(config.databases.len());
        for database in &config.databases {
            databases.push(assembled.start_database(database)?);
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
        if let Some(control) = self.controls.get(database.name()) {
            control.replace_sharding(Arc::clone(&sharding));
        }
        database.set_sharding(sharding);
    }

    /// Starts the control plane of a database that was not served so far. Clients find it once it is in the herd.
    pub(super) fn start_database(
        &mut self,
        database: &settings::Database,
    ) -> Result<Arc<Database>, AssembleError> {
        let sharding = self.sharding(database)?;
        let users = translate::users(&database.users)?;
        let pools = translate::pool_settings(database)?;
        let server_login = translate::server_login(database)?;
        let control = Control::start(translate::control_settings(
            database,
            &self.state,
            Arc::clone(&sharding),
            self.proxy,
            self.in_flight.clone(),
        )?);
        let made = Database::new(DatabaseParts {
            name: database.name.clone(),
            users,
            max_clients: database.max_clients,
            reads: translate::read_settings(&database.reads),
            sharding,
            server_login,
            topology: control.topology(),
            catalog: control.catalog(),
            catalog_requests: catalog_requests(&control),
            planner: Planner::new(PLANS),
            pools: Pools::new(pools),
            two_phase: TwoPhase {
                herd: self.state.herd(&database.name),
                proxy: self.proxy,
                in_flight: self.in_flight.clone(),
            },
            metrics: self.herd.metrics().database(&database.name),
        });
        let made = Arc::new(made);
        tokio::spawn(report_faults(Arc::downgrade(&made), control.catalog()));
        self.controls
            .insert(database.name.clone(), Arc::new(control));
        Ok(made)
    }

    /// Ends the control plane of a database that is no longer in the herd, once its last session has ended.
    pub(super) fn retire_database(&mut self, database: Arc<Database>) {
        let Some(control) = self.controls.remove(database.name()) else {
            return;
        };
        self.retiring.spawn(async move {
            // sessions hold the database
            while Arc::strong_count(&database) > 1 {
                tokio::time::sleep(RETIRING_PACE).await;
            }
            database.pools().close();
            control.shutdown().await;
            tracing::info!(
                database = database.name(),
                "the last session ended, the database is closed"
            );
        });
    }

    /// Waits until every shard has a primary and every catalog is read, but not for ever; says what is missing then.
    pub(super) async fn wait_ready(&self, patience: Duration) {
        let mut waiting = JoinSet::new();
        for (name, control) in &self.controls {
            let (name, control) = (name.clone(), Arc::clone(control));
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
        for control in self.controls.values() {
            control.shutdown().await;
        }
    }
}

/// Sessions ask for a newer catalog through a channel; control answers.
fn catalog_requests(control: &Control) -> CatalogRequests {
    let (requests, mut asked) = CatalogRequests::channel();
    let reloader = control.reloader();
    tokio::spawn(async move {
        while let Some(answer) = asked.recv().await {
            let reloader = reloader.clone();
            tokio::spawn(async move {
                match reloader.reload().await {
                    // who asked may have stopped waiting
                    Ok(()) => drop(answer.send(())),
                    Err(error) => tracing::warn!(%error, "the catalog could not be read again"),
                }
            });
        }
    });
    requests
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
