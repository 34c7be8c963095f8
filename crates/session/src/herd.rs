//! What all sessions share.
//!
//! Owns: the databases by name, the listener's and the console's settings, who is connected, and whether pgherd drains. What a reload
//! changes lies behind [`ArcSwap`]s: a session reads it when it needs it. Never does: reading files, or finding out who is primary
//! (control publishes that through channels, and sessions never call it). Main types: [`Herd`], [`Database`].

mod database;
mod on_demand;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use pgherd_pool::TcpSettings;
use pgherd_protocol::MockSecret;
use pgherd_telemetry::Metrics;
use tokio::sync::watch;
use tokio::time::sleep;

pub use self::database::{
    CatalogRequest, CatalogRequests, Consistency, Database, DatabaseParts, ReadSettings, ReadsFrom,
    Rules, TwoPhase,
};
pub use self::on_demand::{OnDemand, OnDemandLimits};
use crate::cancelling::forward;
use crate::hba::HbaRules;
use crate::registry::{CancelCause, ClientId, ClientRegistry};
use crate::tls::ListenTls;
use crate::users::Users;

/// The longest message taken from a client, in bytes, where the configuration says nothing.
pub const DEFAULT_MAX_MESSAGE: usize = 256 * 1024 * 1024;

/// The other name of the console's database, so that what was made for PgBouncer finds it.
pub const CONSOLE_ALIAS: &str = "pgbouncer";

/// How clients are listened to.
#[derive(Debug, Clone)]
pub struct ListenSettings {
    /// TLS as they are offered it.
    pub tls: ListenTls,
    /// How they are noticed to be gone.
    pub tcp: TcpSettings,
    /// How many may be connected; the console's users are not counted.
    pub max_clients: usize,
    /// How long one may take from its first byte to being logged in.
    pub authentication_timeout: Duration,
    /// The longest message taken from one that is logged in, in bytes.
    pub max_message: usize,
    /// How long a drain waits for transactions to end.
    pub drain_timeout: Duration,
    /// Who may connect from where and must show what; `None`: each user's own settings say.
    pub hba: Option<Arc<HbaRules>>,
    /// Parameters of startup messages that are passed over.
    pub ignored_parameters: Arc<[Box<str>]>,
}

impl Default for ListenSettings {
    fn default() -> Self {
        Self {
            tls: ListenTls::disabled(),
            tcp: TcpSettings::default(),
            max_clients: 10_000,
            authentication_timeout: Duration::from_secs(60),
            max_message: DEFAULT_MAX_MESSAGE,
            drain_timeout: Duration::from_secs(30),
            hba: None,
            ignored_parameters: Arc::default(),
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

/// How long a session keeps what a request needs: it costs more to allocate for each than to keep for so long.
const REST_AFTER: Duration = Duration::from_secs(1);

/// What all sessions share.
#[derive(Debug)]
pub struct Herd {
    databases: ArcSwap<HashMap<Box<str>, Arc<Database>>>,
    on_demand: ArcSwapOption<OnDemand>,
    settings: ArcSwap<ListenSettings>,
    /// Of those settings, as each request asks for it.
    max_message: AtomicUsize,
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
            on_demand: ArcSwapOption::empty(),
            max_message: AtomicUsize::new(settings.max_message),
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

    /// All databases by name, those made on demand among them.
    pub fn databases(&self) -> Arc<HashMap<Box<str>, Arc<Database>>> {
        let named = self.databases.load_full();
        let made = self.on_demand().map_or_else(Vec::new, |made| made.all());
        if made.is_empty() {
            return named;
        }
        let mut all = HashMap::clone(&named);
        for database in made {
            // one that the configuration names by now goes first
            all.entry(database.name().into()).or_insert(database);
        }
        Arc::new(all)
    }

    /// Who makes databases that the configuration does not name, if any are made.
    pub fn on_demand(&self) -> Option<Arc<OnDemand>> {
        self.on_demand.load_full()
    }

    /// Changes that. Sessions on databases that were made keep them.
    pub fn set_on_demand(&self, on_demand: Option<Arc<OnDemand>>) {
        self.on_demand.store(on_demand);
    }

    /// Replaces the databases. Sessions on one that is gone keep it until they end.
    pub fn set_databases(&self, databases: impl IntoIterator<Item = Arc<Database>>) {
        let by_name = databases
            .into_iter()
            .map(|database| (database.name().into(), database))
            .collect();
        self.databases.store(Arc::new(by_name));
    }

    /// How clients are listened to now.
    pub fn settings(&self) -> Arc<ListenSettings> {
        self.settings.load_full()
    }

    /// Changes how clients are listened to; those connected stay.
    pub fn set_settings(&self, settings: ListenSettings) {
        self.max_message
            .store(settings.max_message, Ordering::Relaxed);
        self.settings.store(Arc::new(settings));
    }

    /// The longest message taken from a client now, in bytes.
    pub fn max_message(&self) -> usize {
        self.max_message.load(Ordering::Relaxed)
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
        self.clients.ring_all();
    }

    /// Ends a client as soon as what it runs is cancelled: it hears of 57P01, and what it has begun is rolled back. Returns whether it is there. Must
    /// be called within a tokio runtime.
    pub fn send_away(&self, id: ClientId) -> bool {
        let clients = self.clients.snapshot();
        let Some(client) = clients.iter().find(|client| client.id() == id) else {
            return false;
        };
        client.call_to_leave();
        tokio::spawn(forward(client.begin_cancel(CancelCause::Operator)));
        true
    }

    /// Has sessions whose clients are silent for a second give back what only a request needs; never returns. Cancel-safe.
    pub async fn tend(&self) {
        loop {
            sleep(REST_AFTER).await;
            self.clients.rest_after(REST_AFTER);
        }
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
