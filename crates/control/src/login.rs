//! Connections of the control plane to one server.
//!
//! Owns how they are opened and bounded in time, and a small pool for occasional work. Never touches a client's
//! connection. Main type: [`Server`].

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::{
    Client as Pooled, Connect, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod,
};
use pgherd_tls::{Negotiation, SslMode};
use pgherd_topology::{Address, NodeId, ShardId};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode as WireSslMode, SslNegotiation};
use tokio_postgres::{Client, Config, Error};

use crate::error::ControlError;
use crate::host_name::{Found, HostName};
use crate::settings::{ControlLogin, ServerSettings, ShardSettings};
use crate::tls::TlsConnector;

/// Every session of ours: values written the one way that topology reads, no statement for ever, and whatever the
/// role's own settings say, able to write.
const SESSION_OPTIONS: &str = "-c DateStyle=ISO -c TimeZone=UTC -c IntervalStyle=postgres -c bytea_output=hex \
     -c statement_timeout=60s -c lock_timeout=2s -c idle_in_transaction_session_timeout=60s \
     -c default_transaction_read_only=off -c default_transaction_isolation=read\\ committed \
     -c synchronous_commit=on -c client_min_messages=warning -c row_security=off";

/// Of a session that asks how the server itself is set: ours above would hide it.
const PLAIN_OPTIONS: &str = "-c statement_timeout=60s -c client_min_messages=warning";

/// Names mean what is built in, never what somebody has put into another schema. Set afterwards, so that `pg_settings`
/// still tells what a session would have without it.
const SEARCH_PATH: &str = "SET search_path = pg_catalog";

/// Connections for occasional work on one server: the catalog, the commit log, recovery.
const POOL_SIZE: usize = 3;

/// The most connections that a control plane has to one server: one that watches, one that samples, a fresh login, and those for
/// occasional work.
pub const MOST_CONNECTIONS: usize = POOL_SIZE + 3;

/// Those that it has beside them where pgherd promotes: one for the coordinator, one for the heartbeat.
pub const MOST_FAILOVER_CONNECTIONS: usize = 2;

/// The most connections that a [`crate::RoleLookup`] has to one server.
pub const MOST_LOOKUP_CONNECTIONS: usize = POOL_SIZE;

/// One server, as the control plane reaches it.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its number within the database.
    pub(crate) id: NodeId,
    /// Its shard.
    pub(crate) shard: ShardId,
    /// Its name in the configuration.
    pub(crate) name: Box<str>,
    patience: Duration,
    connector: Connector,
    configuration: Config,
    pool: Pool,
    /// How often an address of it was gone.
    moves: AtomicU64,
    /// When it was so last.
    moved: Mutex<Option<Instant>>,
    /// Has it asked at once how it is.
    nudge: Notify,
}

impl Server {
    /// Opens nothing yet.
    pub(crate) fn new(
        id: NodeId,
        shard: (ShardId, &ShardSettings),
        server: &ServerSettings,
        login: &ControlLogin,
        patience: Duration,
    ) -> Self {
        let mode = match server.address {
            // as libpq does: a Unix socket is never encrypted
            Address::Unix { .. } => SslMode::Disable,
            Address::Tcp { .. } => login.tls.mode(),
        };
        let connector = Connector {
            mode,
            tls: TlsConnector::new(login.tls.clone()),
            names: Arc::new(HostName::of(&server.address)),
        };
        let configuration = configuration(&shard.1.server_database, server, login, patience);
        let manager = Manager::from_connect(
            configuration.clone(),
            connector.clone(),
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let pool = Pool::builder(manager)
            .max_size(POOL_SIZE)
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .wait_timeout(Some(patience))
            .create_timeout(Some(patience))
            .build()
            .expect("a pool with time-outs is refused only where it has no runtime");
        Self {
            id,
            shard: shard.0,
            name: server.name.clone(),
            patience,
            connector,
            configuration,
            pool,
            moves: AtomicU64::new(0),
            moved: Mutex::default(),
            nudge: Notify::new(),
        }
    }

    /// Looks up what the host name stands for. Where an address is gone, connections may lead to another machine than the server: unused ones
    /// are closed, and [`Self::moves`] rises. New ones go to what was found; a look-up that fails changes nothing.
    pub(crate) async fn look_up(&self) {
        if self.connector.names.look_up(self.patience).await == Found::Others {
            tracing::info!(server = %self.name, "the server's host name stands for other addresses");
            self.moves.fetch_add(1, Ordering::Relaxed);
            *self.moved() = Some(Instant::now());
        }
        // again and again, for those that were lent meanwhile
        if let Some(moved) = *self.moved() {
            drop(self.pool.retain(|_, metrics| metrics.created > moved));
        }
    }

    fn moved(&self) -> MutexGuard<'_, Option<Instant>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often [`Self::look_up`] found an address gone: connections that were opened before the last time are to be closed.
    pub(crate) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Has its watcher ask it at once: something about it has just changed.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Until somebody nudges. Cancel-safe.
    pub(crate) async fn nudged(&self) {
        self.nudge.notified().await;
    }

    /// How long this server may take to answer.
    pub(crate) const fn patience(&self) -> Duration {
        self.patience
    }

    /// Logs in freshly.
    pub(crate) async fn open(&self) -> Result<OpenConnection, ControlError> {
        self.log_in(&self.configuration).await
    }

    /// Logs in freshly with the server's own settings, to ask for them.
    pub(crate) async fn open_plain(&self) -> Result<OpenConnection, ControlError> {
        let mut configuration = self.configuration.clone();
        configuration.options(PLAIN_OPTIONS);
        self.log_in(&configuration).await
    }

    async fn log_in(&self, configuration: &Config) -> Result<OpenConnection, ControlError> {
        let login = self.connector.connect(configuration);
        match tokio::time::timeout(self.patience, login).await {
            Ok(Ok((client, driver))) => Ok(OpenConnection { client, driver }),
            Ok(Err(source)) => Err(ControlError::Connect {
                server: self.name.clone(),
                source,
            }),
            Err(_) => Err(ControlError::Silent {
                server: self.name.clone(),
                action: "log in",
                after: self.patience,
            }),
        }
    }

    /// A connection of the pool, for some statements; closed unless [`Lease::give_back`] is called.
    pub(crate) async fn lease(&self) -> Result<Lease, ControlError> {
        let silent = || ControlError::Silent {
            server: self.name.clone(),
            action: "log in",
            after: self.patience,
        };
        match self.pool.get().await {
            Ok(client) => Ok(Lease(Some(client))),
            Err(PoolError::Backend(source)) => Err(ControlError::Connect {
                server: self.name.clone(),
                source,
            }),
            Err(PoolError::Timeout(_)) => Err(silent()),
            Err(
                PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_),
            ) => Err(ControlError::Stopped),
        }
    }

    /// Awaits statements for at most `bound`, and says which server failed at what.
    pub(crate) async fn within<T>(
        &self,
        bound: Duration,
        action: &'static str,
        statements: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, ControlError> {
        match tokio::time::timeout(bound, statements).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(ControlError::Statement {
                server: self.name.clone(),
                action,
                source,
            }),
            Err(_) => Err(ControlError::Silent {
                server: self.name.clone(),
                action,
                after: bound,
            }),
        }
    }

    /// An answer that no supported server gives.
    pub(crate) fn unexpected(
        &self,
        action: &'static str,
        detail: impl Into<String>,
    ) -> ControlError {
        ControlError::Unexpected {
            server: self.name.clone(),
            action,
            detail: detail.into(),
        }
    }

    /// Ends the pool's connections.
    pub(crate) fn close(&self) {
        self.pool.close();
    }
}

fn configuration(
    database: &str,
    server: &ServerSettings,
    login: &ControlLogin,
    patience: Duration,
) -> Config {
    let mut configuration = Config::new();
    match &server.address {
        Address::Tcp { host, port } => configuration.host(&**host).port(*port),
        Address::Unix { directory, port } => configuration.host_path(&**directory).port(*port),
    };
    configuration
        .user(&*login.user)
        .dbname(database)
        .application_name("pgherd control")
        .options(SESSION_OPTIONS)
        .connect_timeout(patience)
        .tcp_user_timeout(patience * 2)
        .keepalives_idle(Duration::from_secs(10));
    if login.tls.negotiation() == Negotiation::Direct {
        configuration.ssl_negotiation(SslNegotiation::Direct);
    }
    if let Some(password) = &login.password {
        configuration.password(password.expose());
    }
    configuration
}

/// Opens connections under one of libpq's modes.
#[derive(Clone)]
struct Connector {
    mode: SslMode,
    tls: TlsConnector,
    names: Arc<HostName>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connector")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + 'a>>;

impl Connect for Connector {
    fn connect(&self, configuration: &Config) -> Connecting<'_> {
        let mut configuration = configuration.clone();
        self.names.put_addresses(&mut configuration);
        Box::pin(async move {
            match self.mode {
                SslMode::Disable => self.connect_as(configuration, WireSslMode::Disable).await,
                SslMode::Allow => match self
                    .connect_as(configuration.clone(), WireSslMode::Disable)
                    .await
                {
                    Ok(connected) => Ok(connected),
                    // only a server that answered may want encryption
                    Err(error) if error.as_db_error().is_none() => Err(error),
                    Err(_) => self.connect_as(configuration, WireSslMode::Require).await,
                },
                SslMode::Prefer => self.connect_as(configuration, WireSslMode::Prefer).await,
                SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
                    self.connect_as(configuration, WireSslMode::Require).await
                }
            }
        })
    }
}

impl Connector {
    async fn connect_as(
        &self,
        mut configuration: Config,
        mode: WireSslMode,
    ) -> Result<(Client, JoinHandle<()>), Error> {
        configuration.ssl_mode(mode);
        let (client, connection) = configuration.connect(self.tls.clone()).await?;
        // Its error is also what the next statement on the client fails with: handled there.
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        match client.batch_execute(SEARCH_PATH).await {
            Ok(()) => Ok((client, driver)),
            Err(error) => {
                driver.abort();
                Err(error)
            }
        }
    }
}

/// A connection that stays open.
pub(crate) struct OpenConnection {
    client: Client,
    driver: JoinHandle<()>,
}

impl OpenConnection {
    /// Ends when the server has closed the connection. Cancel-safe.
    pub(crate) async fn closed(&mut self) {
        let _ = (&mut self.driver).await;
    }
}

impl Deref for OpenConnection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for OpenConnection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A pooled connection that is closed when dropped, so that an unanswered statement never meets the next user.
pub(crate) struct Lease(Option<Pooled>);

impl Lease {
    /// Every statement was answered and nothing of the session's state was changed.
    pub(crate) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Deref for Lease {
    type Target = deadpool_postgres::ClientWrapper;

    fn deref(&self) -> &Self::Target {
        self.0
            .as_ref()
            .expect("taken only when the lease itself goes")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0
            .as_mut()
            .expect("taken only when the lease itself goes")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Pooled::take(client));
        }
    }
}
