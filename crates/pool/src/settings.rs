//! What the pools of one database are told by the configuration.
//!
//! Owns [`PoolSettings`] and what of it, when changed, needs new connections. Never reads the configuration itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pgherd_protocol::ProtocolVersion;
use pgherd_tls::{ClientTls, SslMode, TlsSettings};

use crate::resolver::Resolver;
use crate::stream::TcpSettings;

/// Bounds and login of a database's server connections. Replaced as a whole by [`crate::Pools::reload`].
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// The database's name on the servers.
    pub database: Box<str>,
    /// When a connection goes back.
    pub mode: PoolMode,
    /// The most connections of one user to one server, at least 1.
    pub size: usize,
    /// So many connections of one user to one server are kept open although nobody needs them.
    pub min: usize,
    /// So many more for one who has waited for [`Self::reserve_after`]; they go when nobody waits.
    pub reserve: usize,
    /// How long the first who waits has to wait before a connection of the reserve is opened.
    pub reserve_after: Duration,
    /// The most connections of one user to one server that clients may keep beyond their transactions; `None` is half of the size. No
    /// limit in mode session.
    pub max_pinned: Option<usize>,
    /// The most connections of the database, over its users and servers; `None` is no limit.
    pub max_connections: Option<usize>,
    /// The most connections to some servers, by name, over all databases and users.
    pub server_limits: HashMap<Box<str>, usize>,
    /// What is different for some users, by name.
    pub users: foldhash::HashMap<Box<str>, UserPool>,
    /// How long a client waits for a connection, opening one included, before it gets 53300.
    pub checkout_timeout: Duration,
    /// How long a connection may lie unused, beyond `min` of them.
    pub idle_timeout: Duration,
    /// How long a connection may live; it is closed when it next comes back. Up to a tenth less, by chance, so
    /// that those opened together are not closed together.
    pub lifetime: Duration,
    /// How long opening one may take, from name resolution to the first ReadyForQuery.
    pub connect_timeout: Duration,
    /// `application_name` at login; what the server's own configuration says where `None`.
    pub application_name: Option<Box<str>>,
    /// Statements that are run on each new connection, and again after what resets one.
    pub connect_query: Option<Arc<str>>,
    /// `options` at login (`-c name=value`).
    pub options: Option<Box<str>>,
    /// The protocol version to ask for. 3.2 brings cancel keys that cannot be guessed, and is refused by some
    /// other proxies; servers before 18 answer with 3.0.
    pub protocol: ProtocolVersion,
    /// Whether a server may have the plain password over an unencrypted TCP connection.
    pub cleartext_password: CleartextPassword,
    /// How a connection notices that its server is gone.
    pub tcp: TcpSettings,
    /// What the servers' host names stand for.
    pub resolver: Resolver,
    /// TLS, as it was configured: what a reload compares.
    pub tls_settings: TlsSettings,
    /// TLS, ready for use.
    pub tls: Arc<ClientTls>,
}

/// When a server connection goes back to its pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolMode {
    /// When its client ends.
    Session,
    /// At the end of each transaction.
    #[default]
    Transaction,
    /// After each statement: there are no transaction blocks.
    Statement,
}

impl PoolMode {
    /// The word in the configuration and in `SHOW POOLS`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Transaction => "transaction",
            Self::Statement => "statement",
        }
    }
}

/// What one user has otherwise than the rest of the database. `None` is as there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserPool {
    /// When a connection goes back.
    pub mode: Option<PoolMode>,
    /// [`PoolSettings::size`].
    pub size: Option<usize>,
    /// [`PoolSettings::min`].
    pub min: Option<usize>,
    /// [`PoolSettings::reserve`].
    pub reserve: Option<usize>,
    /// [`PoolSettings::max_pinned`].
    pub max_pinned: Option<usize>,
}

/// Whether a server may have the plain password over an unencrypted TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CleartextPassword {
    /// Only over TLS or a Unix socket.
    #[default]
    Protected,
    /// Always, as libpq does.
    Anywhere,
}

impl PoolSettings {
    /// The defaults for a database, without TLS.
    #[must_use]
    pub fn new(database: impl Into<Box<str>>) -> Self {
        Self {
            database: database.into(),
            mode: PoolMode::Transaction,
            size: 20,
            min: 0,
            reserve: 0,
            reserve_after: Duration::from_secs(5),
            max_pinned: None,
            max_connections: None,
            server_limits: HashMap::new(),
            users: foldhash::HashMap::default(),
            checkout_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(600),
            lifetime: Duration::from_secs(3600),
            connect_timeout: Duration::from_secs(5),
            application_name: None,
            connect_query: None,
            options: None,
            protocol: ProtocolVersion::V3_0,
            cleartext_password: CleartextPassword::Protected,
            tcp: TcpSettings::default(),
            resolver: Resolver::default(),
            tls_settings: TlsSettings {
                mode: SslMode::Disable,
                ..TlsSettings::default()
            },
            tls: Arc::new(ClientTls::disabled()),
        }
    }

    /// What is said of this user in particular.
    fn of_user<T>(&self, user: &str, said: impl FnOnce(&UserPool) -> Option<T>) -> Option<T> {
        self.users.get(user).and_then(said)
    }

    /// When a connection of this user's clients goes back.
    #[must_use]
    pub fn mode_of(&self, user: &str) -> PoolMode {
        self.of_user(user, |of| of.mode).unwrap_or(self.mode)
    }

    /// The most connections of this user to one server, at least 1.
    #[must_use]
    pub fn size_of(&self, user: &str) -> usize {
        self.of_user(user, |of| of.size).unwrap_or(self.size).max(1)
    }

    /// So many connections of this user to one server are kept open, never more than there may be.
    #[must_use]
    pub fn min_of(&self, user: &str) -> usize {
        let min = self.of_user(user, |of| of.min).unwrap_or(self.min);
        min.min(self.size_of(user))
    }

    /// The most connections beyond that for one who has waited for [`Self::reserve_after`].
    #[must_use]
    pub fn reserve_of(&self, user: &str) -> usize {
        self.of_user(user, |of| of.reserve).unwrap_or(self.reserve)
    }

    /// The most connections of this user to one server that clients may keep beyond their transactions: half of them, rounded up, unless it
    /// is said otherwise.
    #[must_use]
    pub fn max_pinned_of(&self, user: &str) -> usize {
        self.of_user(user, |of| of.max_pinned)
            .or(self.max_pinned)
            .unwrap_or_else(|| self.size_of(user).div_ceil(2))
    }

    /// Whether connections that were opened under the other settings differ from those that would be opened now.
    #[must_use]
    pub(crate) fn needs_new_connections(&self, other: &Self) -> bool {
        self.database != other.database
            || self.application_name != other.application_name
            || self.connect_query != other.connect_query
            || self.options != other.options
            || self.protocol != other.protocol
            || self.cleartext_password != other.cleartext_password
            || self.tcp != other.tcp
            || self.tls_settings != other.tls_settings
    }
}
