//! A client's way from its first byte to being logged in.
//!
//! Owns: encryption, cancel requests, the startup message, who is let in, and the greeting that ends with ReadyForQuery (Postgres
//! documentation, chapter 55.2.1). Everything before that is bounded: in bytes by Postgres' own limits (10,000 for a first packet,
//! 64 KiB for a message of the exchange), and in time by `authentication_timeout`. Never does: running a session (see `session`) or the console (see the
//! admin crate). Main function: [`accept`].
//!
//! # What an attacker learns
//! A user that does not exist, one that no password lets in and a wrong password go through the same exchange and the same words (28P01).
//! Whether a database exists is said (3D000) only to who has shown a password that is right in another one.

mod encryption;
mod entrance;
mod greeting;
mod opening;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pgherd_pool::{ServerConnection, Stream, Transport, UserLogin};
use pgherd_protocol::{CancelKey, Credential, PgError, ProtocolVersion, SqlState, StartupMessage};
use tokio::time::{Instant, timeout, timeout_at};

use crate::authentication::{Candidate, authenticate};
use crate::cancelling::forward;
use crate::hba::HbaClient;
use crate::herd::{Database, Herd, ListenSettings, OnDemand, Phase};
use crate::insisting;
use crate::limits::Admission;
use crate::local;
use crate::options::{Replication, StartupOptions};
use crate::parameters::Parameters;
use crate::read_only;
use crate::registry::{ClientIdentity, Registration};
use crate::replication::{self, ReplicationLogin};
use crate::users::User;
use encryption::{check_certificate, check_encryption};
use entrance::{
    Entrance, find_entrance, find_entrance_of_server, find_user, no_database, wait_for_catalog,
};
pub use greeting::CONSOLE_SERVER_VERSION;
use opening::{Opened, open};

/// How long a client may take to receive the error that ends its connection.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// How many bytes of a refused client are read, so that its unread bytes do not reset the connection before it has read why.
const FAREWELL_BYTES: usize = 64 * 1024;

/// What became of a connection.
#[derive(Debug)]
pub enum Accepted {
    /// An application has logged in to a database.
    Application(Box<Login>),
    /// A client has logged in to replicate.
    Replication(Box<ReplicationLogin>),
    /// An operator has logged in to the console.
    Console(Box<ConsoleLogin>),
    /// A cancel request was forwarded, or named nobody; the connection is closed.
    Cancelled,
    /// The client was not let in; it has been told, and the connection is closed.
    Closed(Refusal),
}

/// A client that has logged in and been greeted: it waits to send its first query.
#[derive(Debug)]
pub struct Login {
    /// The connection; what the client has sent already is in its inbox.
    pub transport: Transport,
    /// What all sessions share.
    pub herd: Arc<Herd>,
    /// The database.
    pub database: Arc<Database>,
    /// The user.
    pub user: Arc<User>,
    /// What its sessions log in to the servers with.
    pub server_login: Arc<UserLogin>,
    /// Its place in the registry.
    pub client: Registration,
    /// The settings that it asked for, in order, each name once; a server has accepted them. A value is as `set_config` takes it, not SET
    /// (`search_path`). Names that start with `pgherd.` are pgherd's own.
    pub settings: Vec<(String, String)>,
    /// The parameters that it was told of.
    pub told: Arc<Parameters>,
    /// The version of the protocol that is spoken.
    pub version: ProtocolVersion,
}

/// An operator that has logged in to the console and been greeted.
#[derive(Debug)]
pub struct ConsoleLogin {
    /// The connection.
    pub transport: Transport,
    /// What all sessions share.
    pub herd: Arc<Herd>,
    /// The user.
    pub user: Arc<User>,
    /// Its place in the registry.
    pub client: Registration,
}

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It closed the connection, as port scanners and health checks do.
    #[error("the client closed the connection before it was logged in")]
    Gone,
    /// The connection broke.
    #[error("the connection broke before the client was logged in: {0}")]
    Broken(#[from] io::Error),
    /// The TLS handshake failed.
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// It took too long.
    #[error("the client took too long to log in")]
    TimedOut,
    /// Too many connections are in this state.
    #[error("too many connections are waiting to be logged in")]
    Crowded,
    /// It was told why.
    #[error("{0}")]
    Refused(#[from] PgError),
}

impl Refusal {
    /// The label under which it is counted.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Broken(_) => "broken",
            Self::Tls(_) => "tls",
            Self::TimedOut => "timeout",
            Self::Crowded => "crowded",
            Self::Refused(error) => match error.code {
                SqlState::INVALID_PASSWORD => "password",
                SqlState::INVALID_AUTHORIZATION => "authorization",
                SqlState::INVALID_CATALOG_NAME => "database",
                SqlState::TOO_MANY_CONNECTIONS => "too_many",
                SqlState::PROTOCOL_VIOLATION => "protocol",
                SqlState::CANNOT_CONNECT_NOW => "draining",
                SqlState::FEATURE_NOT_SUPPORTED => "unsupported",
                _ => "error",
            },
        }
    }
}

/// Takes a connection to where it is logged in, or has ended. Not cancel-safe: dropped, the connection is closed.
pub async fn accept(stream: Stream, herd: &Arc<Herd>) -> Accepted {
    let peer = stream.peer_address().ok();
    let accepted = admit(stream, herd).await;
    if let Accepted::Closed(refusal) = &accepted {
        herd.metrics().login_failed(refusal.label());
        let peer = peer.map(tracing::field::display);
        // it may quote a name that the client made up, line breaks and all
        let reason = refusal.to_string();
        let reason = reason.escape_debug();
        match refusal {
            Refusal::Gone => tracing::debug!(peer, %reason, "not let in"),
            Refusal::Broken(_)
            | Refusal::Tls(_)
            | Refusal::TimedOut
            | Refusal::Crowded
            | Refusal::Refused(_) => tracing::info!(peer, %reason, "not let in"),
        }
    }
    accepted
}

async fn admit(stream: Stream, herd: &Arc<Herd>) -> Accepted {
    let settings = herd.settings();
    let deadline = Instant::now() + settings.authentication_timeout;
    let Some(_place) = herd.clients().begin_handshake(settings.max_clients) else {
        return Accepted::Closed(Refusal::Crowded);
    };
    let opened = match timeout_at(deadline, open(Transport::new(stream), &settings.tls)).await {
        Ok(opened) => opened,
        // as Postgres: who has not even said that it is a client is told nothing
        Err(_) => return Accepted::Closed(Refusal::TimedOut),
    };
    let (mut transport, startup) = match opened {
        Opened::Startup(transport, startup) => (transport, startup),
        Opened::Cancel(transport, pid, key) => {
            forward_cancel(herd, pid, &key).await;
            drop(transport);
            return Accepted::Cancelled;
        }
        Opened::Closed(refusal) => return Accepted::Closed(refusal),
        Opened::Refused(transport, error) => return refuse(transport, error).await,
    };
    let login = log_in(&mut transport, herd, &settings, &startup);
    match timeout_at(deadline, login).await {
        Ok(Ok(entered)) => entered.into_accepted(transport, herd),
        Ok(Err(Refusal::Refused(error))) => refuse(transport, error).await,
        Ok(Err(refusal)) => Accepted::Closed(refusal),
        Err(_) => {
            let error = PgError::fatal(
                SqlState::QUERY_CANCELED,
                "canceling authentication due to timeout",
            );
            let _told = refuse(transport, error).await;
            Accepted::Closed(Refusal::TimedOut)
        }
    }
}

/// Tells a client why its connection ends, and ends it.
async fn refuse(mut transport: Transport, error: PgError) -> Accepted {
    error.encode(&mut transport.outbox);
    let farewell = async {
        transport.shutdown().await?;
        let mut read = 0;
        while read < FAREWELL_BYTES {
            match transport.fill().await? {
                0 => break,
                more => read += more,
            }
            transport.inbox.clear();
        }
        io::Result::Ok(())
    };
    // whether it was heard makes no difference to us
    let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
    Accepted::Closed(Refusal::Refused(error))
}

/// Cancels what a client has running on servers, or its wait for one. The servers stay with that client until this has ended.
async fn forward_cancel(herd: &Herd, pid: i32, key: &CancelKey) {
    let Some(handle) = herd.clients().cancel(pid, key) else {
        // as Postgres, which says so in its log alone
        tracing::info!(
            pid,
            "cancel request for a client that is not there, or with a wrong key"
        );
        return;
    };
    forward(handle).await;
}

/// Who has come in, and where.
enum Entered {
    Application {
        database: Arc<Database>,
        user: Arc<User>,
        server_login: Arc<UserLogin>,
        client: Registration,
        settings: Vec<(String, String)>,
        told: Arc<Parameters>,
        version: ProtocolVersion,
    },
    Replication {
        database: Arc<Database>,
        server: Box<ServerConnection>,
        client: Registration,
    },
    Console {
        user: Arc<User>,
        client: Registration,
    },
}

impl Entered {
    fn into_accepted(self, transport: Transport, herd: &Arc<Herd>) -> Accepted {
        let herd = Arc::clone(herd);
        match self {
            Self::Application {
                database,
                user,
                server_login,
                client,
                settings,
                told,
                version,
            } => Accepted::Application(Box::new(Login {
                transport,
                herd,
                database,
                user,
                server_login,
                client,
                settings,
                told,
                version,
            })),
            Self::Replication {
                database,
                server,
                client,
            } => Accepted::Replication(Box::new(ReplicationLogin {
                client: transport,
                server: *server,
                herd,
                database,
                registration: client,
            })),
            Self::Console { user, client } => Accepted::Console(Box::new(ConsoleLogin {
                transport,
                herd,
                user,
                client,
            })),
        }
    }
}

/// From the startup message to the greeting, which is written.
async fn log_in(
    transport: &mut Transport,
    herd: &Arc<Herd>,
    settings: &ListenSettings,
    startup: &StartupMessage,
) -> Result<Entered, Refusal> {
    if let Some(negotiation) = startup.negotiation() {
        negotiation
            .encode(&mut transport.outbox)
            .map_err(internal)?;
    }
    let version = startup.effective_version();
    let mut options =
        StartupOptions::read_without(&startup.parameters, &settings.ignored_parameters)?;
    let peer = transport.peer_address()?;
    let entrance = match options.replication {
        None | Some(Replication::Logical) => find_entrance(herd, &options.database),
        Some(Replication::Physical) => find_entrance_of_server(herd, &options.database),
    };
    let admission = let_in(herd, settings, &entrance)?;
    check_encryption(transport, settings.tls.mode(), &peer, &options)?;
    check_certificate(transport, settings.tls.mode(), &options.user)?;
    let demand = match &settings.hba {
        None => None,
        Some(rules) => Some(rules.demand(HbaClient {
            peer: &peer,
            is_tls: transport.is_tls(),
            user: &options.user,
            database: &options.database,
            is_physical: options.replication == Some(Replication::Physical),
        })?),
    };
    let (user, looked) = find_user(herd, &entrance, &options.user).await?;
    let candidate = Candidate {
        user,
        looked,
        demand,
        name: &options.user,
        peer: &peer,
        end_point: settings.tls.end_point(),
        mock_secret: herd.mock_secret(),
    };
    let (user, learnt) = authenticate(transport, candidate).await?;
    greeting::put_authenticated(&mut transport.outbox)?;
    options.begin_with(&user.settings);
    let identity = ClientIdentity {
        peer,
        tls: transport.stream().tls_description().map(Box::from),
        user: user.name.clone(),
        database: options.database.as_str().into(),
        version,
        application_name: options
            .setting("application_name")
            .unwrap_or_default()
            .into(),
        replication: options.replication,
    };
    let newcomer = Newcomer {
        user,
        learnt,
        options,
        identity,
        admission,
    };
    let entered = match entrance {
        Entrance::Nowhere => return Err(no_database(&newcomer.options.database).into()),
        Entrance::Console if newcomer.options.replication.is_some() => {
            return Err(PgError::fatal(
                SqlState::FEATURE_NOT_SUPPORTED,
                "the console takes no replication connections",
            )
            .into());
        }
        Entrance::Console => {
            let Newcomer { user, options, .. } = newcomer;
            let client = herd
                .clients()
                .register(newcomer.admission, newcomer.identity);
            greeting::put_console_parameters(&mut transport.outbox, &options)?;
            greeting::put_ready(&mut transport.outbox, &client)?;
            Entered::Console { user, client }
        }
        Entrance::Application(database) => enter(transport, herd, database, None, newcomer).await?,
        Entrance::OnDemand(maker) => {
            let database = maker.database(&newcomer.options.database)?;
            enter(transport, herd, database, Some(&maker), newcomer).await?
        }
    };
    transport.flush().await?;
    Ok(entered)
}

/// A client that has shown who it is.
struct Newcomer {
    user: Arc<User>,
    /// What its login has shown that may log it in to servers.
    learnt: Credential,
    options: StartupOptions,
    identity: ClientIdentity,
    admission: Admission,
}

/// Lets a client into a database: within its limits, and as far as a server takes its settings. `maker` is who made the database for it.
async fn enter(
    transport: &mut Transport,
    herd: &Herd,
    database: Arc<Database>,
    maker: Option<&OnDemand>,
    newcomer: Newcomer,
) -> Result<Entered, Refusal> {
    let Newcomer {
        user,
        learnt,
        mut options,
        identity,
        mut admission,
    } = newcomer;
    if database.is_disabled() {
        let refused = format!(
            "database \"{}\" is not currently accepting connections",
            identity.database
        );
        return Err(PgError::fatal(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, refused).into());
    }
    if options.replication.is_none() {
        options.name_application();
    }
    local::check_startup(&options.settings, &database.rules().sharding)?;
    insisting::check_startup(&options.settings, &database.topology())?;
    let replication = options.replication;
    let version = identity.version;
    if database.is_read_only() {
        read_only::check_startup(&options.settings)?;
    }
    let limits = database.client_limits(&user);
    herd.clients()
        .admit_to(&mut admission, database.name(), &user.name, limits)
        .map_err(PgError::from)?;
    let server_login = database.server_login(&user, learnt);
    if let Some(kind) = replication {
        let connected = replication::connect(&database, &server_login, kind, &options).await;
        if let (Err(error), Some(maker)) = (&connected, maker)
            && error.code == SqlState::INVALID_CATALOG_NAME
        {
            maker.give_up(&database);
        }
        let server = connected?;
        let client = herd.clients().register(admission, identity);
        greeting::put_parameters(&mut transport.outbox, server.parameters())?;
        greeting::put_ready(&mut transport.outbox, &client)?;
        return Ok(Entered::Replication {
            database,
            server: Box::new(server),
            client,
        });
    }
    let parameters = database
        .parameters()
        .fetch(&database, &server_login, &options.settings)
        .await;
    if let Some(maker) = maker {
        if let Err(error) = &parameters
            && error.code == SqlState::INVALID_CATALOG_NAME
        {
            maker.give_up(&database);
            return Err(no_database(&options.database).into());
        }
        if parameters.is_ok() {
            wait_for_catalog(&database).await?;
        }
    }
    let parameters = parameters?;
    let client = herd.clients().register(admission, identity);
    // its first cancel request may come before its session has begun
    client.look_out(true);
    greeting::put_parameters(&mut transport.outbox, &parameters)?;
    greeting::put_ready(&mut transport.outbox, &client)?;
    Ok(Entered::Application {
        database,
        user,
        server_login,
        client,
        settings: options.settings,
        told: parameters,
        version,
    })
}

fn let_in(
    herd: &Herd,
    settings: &ListenSettings,
    entrance: &Entrance,
) -> Result<Admission, PgError> {
    if let Entrance::Console = entrance {
        // the console stays open when all else is full or ends: that is when it is needed
        return Ok(herd.clients().admit_operator());
    }
    if *herd.phase().borrow() == Phase::Draining {
        return Err(PgError::fatal(
            SqlState::CANNOT_CONNECT_NOW,
            "the database system is shutting down",
        ));
    }
    herd.clients()
        .admit(settings.max_clients)
        .map_err(PgError::from)
}

/// Something that cannot be written or had: not the client's fault.
fn internal(error: impl std::fmt::Display) -> PgError {
    PgError::fatal(SqlState::INTERNAL_ERROR, error.to_string())
}
