//! The configuration's types as the other crates have them.
//!
//! Owns the translation and nothing else; reads certificates and keys, for TLS is made here.

use std::collections::HashMap;
use std::sync::Arc;

use pgherd_control::lookup::DEFAULT_QUERY;
use pgherd_control::{
    ControlLogin, ControlSettings, Pace, RoleLookup, ServerSettings, ShardSettings, State,
};
use pgherd_pool::{PoolMode, PoolSettings, Resolver, UserLogin, UserPool};
use pgherd_protocol::{Credential, Secret, Verifier};
use pgherd_session::{
    ConsoleRight, ConsoleSettings, ListenSettings, ListenTls, ListenTlsSettings, PasswordExchange,
    READ_ONLY_OPTIONS, ReadSettings, TrustedOrigin, User, Users,
};
use pgherd_tls::{ClientTls, TlsSettings};
use pgherd_topology::commit_protocol::{InFlight, ProxyId};
use pgherd_topology::{Sharding, Topology};
use tokio::sync::watch;

use super::AssembleError;
use crate::config::settings;

/// A shard as the control plane knows it.
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

/// What a database's control plane is told.
///
/// # Errors
/// [`AssembleError::Tls`] where a certificate cannot be read.
pub(crate) fn control_settings(
    database: &settings::Database,
    state: &Arc<State>,
    sharding: Arc<Sharding>,
    proxy: ProxyId,
    in_flight: InFlight,
) -> Result<ControlSettings, AssembleError> {
    Ok(ControlSettings {
        database: database.owner().into(),
        login: control_login(database)?,
        shards: database
            .shards
            .iter()
            .map(|shard| shard_settings(database, shard))
            .collect(),
        sharding,
        herd: state.herd(database.owner()),
        proxy,
        in_flight,
        state: Arc::clone(state),
        failover: database.failover.clone(),
        pace: Pace::default(),
    })
}

/// The login of a database's control plane.
///
/// # Errors
/// [`AssembleError::Tls`] where a certificate cannot be read.
fn control_login(database: &settings::Database) -> Result<ControlLogin, AssembleError> {
    let login = &database.control_login;
    Ok(ControlLogin {
        user: login.user.clone(),
        password: login.password.as_ref().map(secret),
        tls: client_tls(database, &login.tls)?,
    })
}

/// Who asks a database's servers about roles, if anybody does.
///
/// # Errors
/// As [`control_settings`], whose result `control` is.
pub(crate) fn role_lookup(
    database: &settings::Database,
    control: &ControlSettings,
    topology: watch::Receiver<Arc<Topology>>,
) -> Result<Option<RoleLookup>, AssembleError> {
    let Some(auth) = &database.auth else {
        return Ok(None);
    };
    let mut control = control.clone();
    control.login = ControlLogin {
        user: auth.login.user.clone(),
        password: auth.login.password.as_ref().map(secret),
        tls: client_tls(database, &auth.login.tls)?,
    };
    for shard in &mut control.shards {
        shard.server_database.clone_from(&auth.database);
    }
    let query = auth.query.clone();
    let query = query.unwrap_or_else(|| DEFAULT_QUERY.into());
    Ok(Some(RoleLookup::new(&control, query, topology)))
}

fn client_tls(
    database: &settings::Database,
    tls: &TlsSettings,
) -> Result<ClientTls, AssembleError> {
    ClientTls::new(tls).map_err(|source| AssembleError::Tls {
        database: database.name.clone(),
        source,
    })
}

fn secret(password: &settings::Password) -> Secret {
    Secret::from(password.reveal().to_owned())
}

/// Who may connect.
pub(crate) fn users(configured: &[settings::User]) -> Result<Users, AssembleError> {
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
    user.timeouts = configured.timeouts;
    user.settings.clone_from(&configured.settings);
    user.right = match configured.right {
        settings::Right::Admin => ConsoleRight::Admin,
        settings::Right::Monitor => ConsoleRight::Monitor,
    };
    Ok(user)
}

/// The one login for all users, if there is one.
pub(crate) fn server_login(
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
pub(crate) fn read_settings(reads: &settings::Reads) -> ReadSettings {
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

/// The bounds of a database's pools, and how they connect.
pub(crate) fn pool_settings(
    database: &settings::Database,
    resolver: &Resolver,
) -> Result<PoolSettings, AssembleError> {
    let tls = database
        .server_login
        .as_ref()
        .map_or(&database.server_tls, |login| &login.tls);
    let made = client_tls(database, tls)?;
    let pool = &database.pool;
    Ok(PoolSettings {
        mode: pool_mode(pool.mode),
        size: pool.size,
        min: pool.min,
        users: database.users.iter().map(user_pool).collect(),
        reserve: pool.reserve,
        reserve_after: pool.reserve_after,
        max_pinned: pool.max_pinned,
        max_connections: pool.max_connections,
        server_limits: server_limits(&database.shards),
        checkout_timeout: pool.checkout_timeout,
        connect_timeout: pool.connect_timeout,
        idle_timeout: pool.idle_timeout,
        lifetime: pool.lifetime,
        connect_query: pool.connect_query.as_deref().map(Into::into),
        cleartext_password: match pool.cleartext_password {
            settings::CleartextPassword::Protected => pgherd_pool::CleartextPassword::Protected,
            settings::CleartextPassword::Anywhere => pgherd_pool::CleartextPassword::Anywhere,
        },
        application_name: Some("pgherd".into()),
        tcp: database.server_tcp,
        resolver: resolver.clone(),
        tls_settings: tls.clone(),
        tls: Arc::new(made),
        options: database.reads.only.then(|| READ_ONLY_OPTIONS.into()),
        ..PoolSettings::new(database.server_database.clone())
    })
}

pub(crate) fn pool_mode(mode: settings::PoolMode) -> PoolMode {
    match mode {
        settings::PoolMode::Session => PoolMode::Session,
        settings::PoolMode::Transaction => PoolMode::Transaction,
        settings::PoolMode::Statement => PoolMode::Statement,
    }
}

fn server_limits(shards: &[settings::Shard]) -> HashMap<Box<str>, usize> {
    shards
        .iter()
        .flat_map(|shard| &shard.servers)
        .filter_map(|server| Some((server.name.clone(), server.max_connections?)))
        .collect()
}

fn user_pool(user: &settings::User) -> (Box<str>, UserPool) {
    let settings::UserPool {
        mode,
        size,
        min,
        reserve,
        max_pinned,
    } = user.pool;
    let pool = UserPool {
        mode: mode.map(pool_mode),
        size,
        min,
        reserve,
        max_pinned,
    };
    (user.name.clone(), pool)
}

/// How clients are listened to.
pub(crate) fn listen_settings(listen: &settings::Listen) -> Result<ListenSettings, AssembleError> {
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
        tcp: listen.tcp,
        max_clients: listen.max_clients,
        authentication_timeout: listen.authentication_timeout,
        max_message: listen.max_message,
        drain_timeout: listen.drain_timeout,
        hba: listen.hba.clone().map(Arc::new),
        ignored_parameters: listen.ignore_startup_parameters.clone().into(),
    })
}

/// The console.
pub(crate) fn console_settings(
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
