//! From a configuration to what serves it.
//!
//! Owns the translation of the configuration's types into the other crates', and the start of each database's control
//! plane. Never reads a file but for the state store and certificates. Main type: [`Assembled`].

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgherd_control::{
    Control, ControlError, ControlLogin, ControlSettings, ControlTls, FileStore, Pace,
    ServerSettings, ShardSettings, State,
};
use pgherd_pool::{
    ClientTls, PoolSettings, Pools, Roots, SslMode, TlsError, TlsSettings, UserLogin,
};
use pgherd_protocol::auth::scram::DEFAULT_ITERATIONS;
use pgherd_protocol::{AuthError, Credential, MockSecret, Secret, Verifier};
use pgherd_router::Planner;
use pgherd_session::{
    CatalogRequests, ConsoleSettings, Database, DatabaseParts, Herd, ListenSettings, ListenTls,
    ListenTlsError, ListenTlsSettings, PasswordExchange, ReadSettings, TrustedOrigin, TwoPhase,
    User, Users,
};
use pgherd_telemetry::Metrics;
use pgherd_topology::commit_protocol::{InFlight, ProxyId};
use pgherd_topology::{
    ShardId, ShardMap, ShardMapError, Sharding, ShardingError, WeightedShard, propose,
};

use crate::config::settings::{self, Config};

/// How many plans a database's cache holds.
const PLANS: usize = 10_000;

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
    controls: HashMap<Box<str>, Control>,
}

impl Assembled {
    /// Starts the control planes and puts the databases together.
    pub(super) async fn new(config: &Config) -> Result<Self, AssembleError> {
        let store = FileStore::exclusive(&config.state_file)?;
        let (state, _) = State::load_or_create(Box::new(store))?;
        let state = Arc::new(state);
        let proxy = ProxyId(rand::random());
        let metrics = Metrics::new();
        let mut controls = HashMap::new();
        let mut databases = Vec::with_capacity(config.databases.len());
        for database in &config.databases {
            let (made, control) = start_database(database, &state, proxy, &metrics)?;
            controls.insert(database.name.clone(), control);
            databases.push(Arc::new(made));
        }
        let herd = Herd::new(
            listen_settings(&config.listen)?,
            console_settings(config.admin.as_ref())?,
            metrics,
            MockSecret::random(DEFAULT_ITERATIONS),
        );
        herd.set_databases(databases);
        Ok(Self {
            herd: Arc::new(herd),
            controls,
        })
    }

    /// Waits until every shard has a primary and every catalog is read, but not for ever.
    pub(super) async fn wait_ready(&self, patience: Duration) {
        for (database, control) in &self.controls {
            if let Err(error) = control.wait_ready(patience).await {
                tracing::error!(%database, %error, "serving all the same");
            }
        }
    }

    /// Ends the control planes.
    pub(super) async fn shutdown(&self) {
        for control in self.controls.values() {
            control.shutdown().await;
        }
    }
}

fn start_database(
    database: &settings::Database,
    state: &Arc<State>,
    proxy: ProxyId,
    metrics: &Metrics,
) -> Result<(Database, Control), AssembleError> {
    let sharding = Arc::new(sharding(database, state)?);
    let in_flight = InFlight::default();
    let control = Control::start(ControlSettings {
        database: database.name.clone(),
        login: control_login(&database.control_login),
        shards: database
            .shards
            .iter()
            .map(|shard| shard_settings(database, shard))
            .collect(),
        sharding: Arc::clone(&sharding),
        herd: state.herd(&database.name),
        proxy,
        in_flight: in_flight.clone(),
        state: Arc::clone(state),
        pace: Pace::default(),
    })?;
    let parts = DatabaseParts {
        name: database.name.clone(),
        users: users(&database.users)?,
        max_clients: database.max_clients,
        reads: read_settings(&database.reads),
        sharding,
        server_login: server_login(database)?,
        topology: control.topology(),
        catalog: control.catalog(),
        catalog_requests: catalog_requests(&control),
        planner: Planner::new(PLANS),
        pools: Pools::new(pool_settings(database)?),
        two_phase: TwoPhase {
            herd: state.herd(&database.name),
            proxy,
            in_flight,
        },
        metrics: metrics.database(&database.name),
    };
    Ok((Database::new(parts), control))
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

/// The rules of a database, on the bucket table that is stored; the first start proposes and stores one.
pub(super) fn sharding(
    database: &settings::Database,
    state: &State,
) -> Result<Sharding, AssembleError> {
    let names: Vec<Box<str>> = database
        .shards
        .iter()
        .map(|shard| shard.name.clone())
        .collect();
    let map = bucket_table(database, state, &names)?;
    let mut builder = Sharding::builder(names)
        .map(Arc::new(map))
        .unlisted(database.sharding.unlisted);
    for rule in &database.sharding.tables {
        builder = builder.table(rule.clone());
    }
    for table in &database.sharding.reference {
        builder = builder.reference(table.clone());
    }
    builder.build().map_err(|source| AssembleError::Sharding {
        database: database.name.clone(),
        source,
    })
}

fn bucket_table(
    database: &settings::Database,
    state: &State,
    names: &[Box<str>],
) -> Result<ShardMap, AssembleError> {
    let wrong = |source| AssembleError::Map {
        database: database.name.clone(),
        source,
    };
    if let Some(stored) = state.buckets(&database.name) {
        return stored.load(names).map_err(wrong);
    }
    let shards: Vec<WeightedShard<'_>> = (0..)
        .map(ShardId)
        .zip(&database.shards)
        .map(|(id, shard)| WeightedShard {
            id,
            name: &shard.name,
            weight: shard.weight,
        })
        .collect();
    let map = propose(&shards, database.sharding.buckets, None).map_err(wrong)?;
    state.set_buckets(&database.name, map.store(names))?;
    Ok(map)
}

fn shard_settings(database: &settings::Database, shard: &settings::Shard) -> ShardSettings {
    ShardSettings {
        name: shard.name.clone(),
        server_database: database.server_database.clone(),
        servers: shard
            .servers
            .iter()
            .map(|server| ServerSettings {
                name: server.name.clone(),
                address: server.address.clone(),
                zone: server.zone.clone(),
                priority: server.priority,
            })
            .collect(),
    }
}

fn control_login(login: &settings::Login) -> ControlLogin {
    ControlLogin {
        user: login.user.clone(),
        password: login.password.as_ref().map(secret),
        tls: control_tls(&login.tls),
    }
}

fn control_tls(tls: &TlsSettings) -> ControlTls {
    ControlTls {
        mode: match tls.mode {
            SslMode::Disable => pgherd_control::SslMode::Disable,
            SslMode::Allow => pgherd_control::SslMode::Allow,
            SslMode::Prefer => pgherd_control::SslMode::Prefer,
            SslMode::Require => pgherd_control::SslMode::Require,
            SslMode::VerifyCa => pgherd_control::SslMode::VerifyCa,
            SslMode::VerifyFull => pgherd_control::SslMode::VerifyFull,
        },
        authorities: match &tls.roots {
            Roots::File(path) => Some(path.clone()),
            _ => None,
        },
        client_certificate: tls
            .certificate
            .as_ref()
            .map(|certificate| -> (PathBuf, PathBuf) {
                (certificate.certificate.clone(), certificate.key.clone())
            }),
    }
}

fn secret(password: &settings::Password) -> Secret {
    Secret::from(password.reveal().to_owned())
}

/// Who may connect.
pub(super) fn users(configured: &[settings::User]) -> Result<Users, AssembleError> {
    configured.iter().map(user).collect()
}

fn user(configured: &settings::User) -> Result<User, AssembleError> {
    let mut user = match &configured.password {
        Some(password) => {
            let verifier: Verifier =
                password
                    .reveal()
                    .parse()
                    .map_err(|source| AssembleError::Password {
                        user: configured.name.clone(),
                        source,
                    })?;
            User::with_password(&configured.name, &verifier)
        }
        None => User::without_password(&configured.name),
    };
    user.exchange = match configured.exchange {
        settings::Exchange::Challenge => PasswordExchange::Challenge,
        settings::Exchange::Cleartext => PasswordExchange::Cleartext,
    };
    user.trust = configured
        .trust
        .iter()
        .map(|trusted| match *trusted {
            settings::Trusted::Unix => TrustedOrigin::Unix,
            settings::Trusted::Network { address, prefix } => {
                TrustedOrigin::Network { address, prefix }
            }
        })
        .collect();
    user.certificate.clone_from(&configured.certificate);
    user.max_clients = configured.max_clients;
    Ok(user)
}

/// The one login for all users, if there is one.
pub(super) fn server_login(
    database: &settings::Database,
) -> Result<Option<Arc<UserLogin>>, AssembleError> {
    let Some(login) = &database.server_login else {
        return Ok(None);
    };
    let credential = match &login.password {
        None => Credential::Nothing,
        Some(password) => match password.reveal().parse::<Verifier>() {
            Ok(Verifier::Md5(hash)) => Credential::Md5Hash(hash),
            Ok(Verifier::Plain(_) | Verifier::Scram(_)) => Credential::Password(secret(password)),
            Err(source) => {
                return Err(AssembleError::Password {
                    user: login.user.clone(),
                    source,
                });
            }
        },
    };
    Ok(Some(Arc::new(UserLogin {
        name: login.user.clone(),
        credential,
    })))
}

/// Where reads go.
pub(super) fn read_settings(reads: &settings::Reads) -> ReadSettings {
    ReadSettings {
        from: match reads.from {
            settings::ReadsFrom::Replicas => pgherd_session::ReadsFrom::Replicas,
            settings::ReadsFrom::Any => pgherd_session::ReadsFrom::Any,
            settings::ReadsFrom::Primary => pgherd_session::ReadsFrom::Primary,
        },
        consistency: match reads.consistency {
            settings::Consistency::Session => pgherd_session::Consistency::Session,
            settings::Consistency::Eventual => pgherd_session::Consistency::Eventual,
        },
        max_lag: reads.max_lag,
        zone: reads.zone.clone(),
    }
}

/// The bounds of a database's pools.
pub(super) fn pool_settings(database: &settings::Database) -> Result<PoolSettings, AssembleError> {
    let tls = database
        .server_login
        .as_ref()
        .map_or(&database.server_tls, |login| &login.tls);
    let made = ClientTls::new(tls).map_err(|source| AssembleError::Tls {
        database: database.name.clone(),
        source,
    })?;
    let pool = &database.pool;
    Ok(PoolSettings {
        size: pool.size,
        min: pool.min,
        checkout_timeout: pool.checkout_timeout,
        connect_timeout: pool.connect_timeout,
        idle_timeout: pool.idle_timeout,
        lifetime: pool.lifetime,
        cleartext_password: match pool.cleartext_password {
            settings::CleartextPassword::Protected => pgherd_pool::CleartextPassword::Protected,
            settings::CleartextPassword::Anywhere => pgherd_pool::CleartextPassword::Anywhere,
        },
        application_name: Some("pgherd".into()),
        tls_settings: tls.clone(),
        tls: Arc::new(made),
        ..PoolSettings::new(database.server_database.clone())
    })
}

/// How clients are listened to.
pub(super) fn listen_settings(listen: &settings::Listen) -> Result<ListenSettings, AssembleError> {
    let tls = match &listen.tls {
        None => ListenTls::disabled(),
        Some(tls) => ListenTls::new(&ListenTlsSettings {
            mode: tls.mode,
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
            root_certificate: tls.root_certificate.clone(),
        })?,
    };
    Ok(ListenSettings {
        tls,
        max_clients: listen.max_clients,
        authentication_timeout: listen.authentication_timeout,
        max_message: listen.max_message,
        drain_timeout: listen.drain_timeout,
    })
}

/// The console.
pub(super) fn console_settings(
    admin: Option<&settings::Admin>,
) -> Result<ConsoleSettings, AssembleError> {
    Ok(match admin {
        None => ConsoleSettings::default(),
        Some(admin) => ConsoleSettings {
            database: Some(admin.database.clone()),
            users: Arc::new(users(&admin.users)?),
        },
    })
}
