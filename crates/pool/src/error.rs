//! What goes wrong between us and a server, and how a client is told.
//!
//! Owns [`PoolError`]. None of these means that a statement ran: they all happen before a connection is handed out,
//! so that whatever was to be sent may be sent elsewhere or again.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use pgherd_protocol::{AuthError, PgError, SqlState};
use pgherd_tls::{SslMode, TlsError};
use pgherd_topology::Epoch;

use crate::server::Server;

/// Why there is no server connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PoolError {
    /// The server's socket cannot be reached (08001).
    #[error("could not connect to server {server}: {source}")]
    Connect {
        /// Which.
        server: Server,
        /// What the system says.
        #[source]
        source: Arc<io::Error>,
    },
    /// The server did not answer in time, or not to its end (08001).
    #[error("server {server} did not complete the connection within {}", seconds(*after))]
    ConnectTimeout {
        /// Which.
        server: Server,
        /// The limit.
        after: Duration,
    },
    /// The server's host name has no address (08001).
    #[error("could not find the address of server {server}: {source}")]
    Resolve {
        /// Which.
        server: Server,
        /// What the resolver says.
        #[source]
        source: Arc<io::Error>,
    },
    /// The server has no TLS, and the mode wants it (08001).
    #[error("server {server} does not support TLS, which mode {mode} requires")]
    TlsUnavailable {
        /// Which.
        server: Server,
        /// What was asked for.
        mode: SslMode,
    },
    /// The TLS handshake failed: often its certificate (08001).
    #[error("TLS with server {server} failed: {source}")]
    TlsHandshake {
        /// Which.
        server: Server,
        /// What rustls says.
        #[source]
        source: Arc<io::Error>,
    },
    /// TLS with this server is not possible as configured (08001).
    #[error("TLS with server {server} is not possible: {source}")]
    Tls {
        /// Which.
        server: Server,
        /// Why.
        #[source]
        source: Arc<TlsError>,
    },
    /// The server refused the login; passed on with its own SQLSTATE.
    #[error("server {server} refused user \"{user}\": {}", error.message)]
    Login {
        /// Which.
        server: Server,
        /// Whom.
        user: Box<str>,
        /// The server's own words.
        error: Box<PgError>,
    },
    /// The server asks for something that the user's credential cannot answer (28000).
    #[error("server {server} asks user \"{user}\" for {method}, and there is only {credential}")]
    Credential {
        /// Which.
        server: Server,
        /// Whom.
        user: Box<str>,
        /// What it asks for.
        method: &'static str,
        /// What there is; never the secret.
        credential: &'static str,
    },
    /// The server asks for the password itself over an unencrypted connection (28000).
    #[error("server {server} asks for the password of user \"{user}\" unencrypted")]
    CleartextPassword {
        /// Which.
        server: Server,
        /// Whose.
        user: Box<str>,
    },
    /// The server's part of the authentication is wrong: it may not be the server it seems (08001).
    #[error("authentication of user \"{user}\" with server {server} failed: {source}")]
    Authentication {
        /// Which.
        server: Server,
        /// Whose.
        user: Box<str>,
        /// How.
        #[source]
        source: Arc<AuthError>,
    },
    /// The server closed the connection, or it broke, before the login was complete (08006).
    #[error("server {server} closed the connection during the login: {source}")]
    Lost {
        /// Which.
        server: Server,
        /// What the system says.
        #[source]
        source: Arc<io::Error>,
    },
    /// The server does not speak as the protocol has it (08P01).
    #[error("server {server} broke the protocol during the login: {what}")]
    Protocol {
        /// Which.
        server: Server,
        /// What it did.
        what: Box<str>,
    },
    /// The server refused `connect_query`; passed on with its own SQLSTATE.
    #[error("server {server} refused connect_query: {}", error.message)]
    ConnectQuery {
        /// Which.
        server: Server,
        /// The server's own words.
        error: Box<PgError>,
    },
    /// No connection became free in time (53300).
    #[error(
        "no connection of user \"{user}\" to server {server} became free within {}",
        seconds(*waited)
    )]
    CheckoutTimeout {
        /// Which.
        server: Server,
        /// Whose pool.
        user: Box<str>,
        /// How long was waited.
        waited: Duration,
        /// Who holds the connections.
        holders: Box<Holders>,
    },
    /// The server failed a moment ago and is not tried again yet; the code is that of the failure.
    #[error("{failure} (next attempt in {} at most)", seconds(*retry_in))]
    BackingOff {
        /// What happened then.
        failure: Box<PoolError>,
        /// How long it is left alone.
        retry_in: Duration,
    },
    /// The shard has changed hands since the caller looked (57P03): look again and try again.
    #[error("server {server} was asked for in epoch {asked}, and its shard is in epoch {current}")]
    Superseded {
        /// Which.
        server: Server,
        /// The epoch of the caller's topology.
        asked: Epoch,
        /// The one that is known here.
        current: Epoch,
    },
    /// The configuration has changed, and the server is not there any more, or is another one (57P03): look again
    /// and try again.
    #[error("server {server} is no longer configured")]
    Removed {
        /// Which.
        server: Server,
    },
    /// The pools are shut down (57P01).
    #[error("the proxy is shutting down")]
    Closed,
}

impl PoolError {
    pub(crate) fn connect(server: &Server, source: io::Error) -> Self {
        Self::Connect {
            server: server.clone(),
            source: Arc::new(source),
        }
    }

    pub(crate) fn lost(server: &Server, source: io::Error) -> Self {
        Self::Lost {
            server: server.clone(),
            source: Arc::new(source),
        }
    }

    pub(crate) fn protocol(server: &Server, what: impl Into<Box<str>>) -> Self {
        Self::Protocol {
            server: server.clone(),
            what: what.into(),
        }
    }

    /// The SQLSTATE that a client sees.
    #[must_use]
    pub fn code(&self) -> SqlState {
        match self {
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Resolve { .. }
            | Self::TlsUnavailable { .. }
            | Self::TlsHandshake { .. }
            | Self::Tls { .. }
            | Self::Authentication { .. } => SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
            Self::Login { error, .. } | Self::ConnectQuery { error, .. } => error.code,
            Self::Credential { .. } | Self::CleartextPassword { .. } => {
                SqlState::INVALID_AUTHORIZATION
            }
            Self::Lost { .. } => SqlState::CONNECTION_FAILURE,
            Self::Protocol { .. } => SqlState::PROTOCOL_VIOLATION,
            Self::CheckoutTimeout { .. } => SqlState::TOO_MANY_CONNECTIONS,
            Self::BackingOff { failure, .. } => failure.code(),
            Self::Superseded { .. } | Self::Removed { .. } => SqlState::CANNOT_CONNECT_NOW,
            Self::Closed => SqlState::ADMIN_SHUTDOWN,
        }
    }

    /// The name under which it is counted.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "server_connect",
            Self::ConnectTimeout { .. } => "server_connect_timeout",
            Self::Resolve { .. } => "server_resolve",
            Self::TlsUnavailable { .. } | Self::TlsHandshake { .. } | Self::Tls { .. } => {
                "server_tls"
            }
            Self::Login { .. } => "server_login",
            Self::ConnectQuery { .. } => "server_connect_query",
            Self::Credential { .. } | Self::CleartextPassword { .. } => "server_credential",
            Self::Authentication { .. } => "server_authentication",
            Self::Lost { .. } => "server_lost",
            Self::Protocol { .. } => "server_protocol",
            Self::CheckoutTimeout { .. } => "checkout_timeout",
            Self::BackingOff { failure, .. } => failure.label(),
            Self::Superseded { .. } | Self::Removed { .. } => "superseded",
            Self::Closed => "closed",
        }
    }

    /// Whether this server takes no connection now, whoever asks, so that another one may do.
    #[must_use]
    pub fn is_server_unreachable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Resolve { .. }
            | Self::Lost { .. } => true,
            // starting, stopping, or in a state of recovery that takes no connections
            Self::Login { error, .. } => [
                SqlState::CANNOT_CONNECT_NOW,
                SqlState::ADMIN_SHUTDOWN,
                SqlState::CRASH_SHUTDOWN,
            ]
            .contains(&error.code),
            // it went away in the midst of it
            Self::TlsHandshake { source, .. } => [
                io::ErrorKind::UnexpectedEof,
                io::ErrorKind::ConnectionReset,
                io::ErrorKind::BrokenPipe,
            ]
            .contains(&source.kind()),
            Self::BackingOff { failure, .. } => failure.is_server_unreachable(),
            Self::TlsUnavailable { .. }
            | Self::Tls { .. }
            | Self::ConnectQuery { .. }
            | Self::Credential { .. }
            | Self::CleartextPassword { .. }
            | Self::Authentication { .. }
            | Self::Protocol { .. }
            | Self::CheckoutTimeout { .. }
            | Self::Superseded { .. }
            | Self::Removed { .. }
            | Self::Closed => false,
        }
    }

    /// Whether the caller's topology is out of date: with a new snapshot it is worth trying again at once.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        matches!(self, Self::Superseded { .. } | Self::Removed { .. })
    }

    /// What went wrong in the first place, seen through [`PoolError::BackingOff`].
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::BackingOff { failure, .. } => failure.cause(),
            other => other,
        }
    }

    /// Whether the server has no room for one more connection, while those that are open go on.
    #[must_use]
    pub(crate) fn is_server_full(&self) -> bool {
        matches!(self, Self::Login { error, .. } if error.code == SqlState::TOO_MANY_CONNECTIONS)
    }

    /// As a client is told, with severity ERROR.
    #[must_use]
    pub fn to_pg_error(&self) -> PgError {
        let error = PgError::error(self.code(), self.to_string());
        match self {
            Self::CheckoutTimeout { holders, .. } => error.detail(holders.to_string()).hint(
                "Make the pool larger, end transactions sooner, or let clients wait longer \
                 (pool: size, checkout_timeout).",
            ),
            Self::Login { error: cause, .. } | Self::ConnectQuery { error: cause, .. } => {
                let error = match &cause.detail {
                    Some(detail) => error.detail(detail.clone()),
                    None => error,
                };
                match &cause.hint {
                    Some(hint) => error.hint(hint.clone()),
                    None => error,
                }
            }
            Self::Credential { .. } => error.hint(
                "Give the user's plain password in the configuration, or a server_login that can log in.",
            ),
            Self::CleartextPassword { .. } => error.hint(
                "Use TLS to the server, or scram-sha-256 in its pg_hba.conf, or allow it in the configuration.",
            ),
            _ => error,
        }
    }
}

/// Who holds the connections of a pool, counted. Displayed as a sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// The bound.
    pub size: usize,
    /// Being opened.
    pub opening: usize,
    /// Open and unused: on their way to somebody.
    pub idle: usize,
    /// Running a statement outside a transaction block.
    pub running: usize,
    /// In a transaction block.
    pub in_transaction: usize,
    /// In a transaction block that failed.
    pub failed: usize,
    /// Between statements, kept by a session that left something on them.
    pub kept: usize,
    /// How long the one that is held longest has been held.
    pub longest: Duration,
    /// Others who wait in the same pool.
    pub waiting: usize,
    /// Connections to the same server in the pools of other users.
    pub others: Vec<(Box<str>, usize)>,
    /// Limits over several pools that are reached, each as a clause that says who has how many.
    pub limits: Vec<String>,
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken =
            self.opening + self.idle + self.running + self.in_transaction + self.failed + self.kept;
        write!(f, "{taken} of {} connections are taken", self.size)?;
        let states = [
            (self.in_transaction, "in a transaction"),
            (self.failed, "in a failed transaction"),
            (self.running, "running a statement"),
            (self.kept, "kept by their sessions"),
            (self.opening, "being opened"),
            (self.idle, "about to be handed over"),
        ];
        for (index, (count, what)) in states.iter().filter(|(count, _)| *count > 0).enumerate() {
            write!(f, "{} {count} {what}", if index == 0 { ":" } else { "," })?;
        }
        if self.longest > Duration::ZERO {
            write!(f, "; the longest for {}", seconds(self.longest))?;
        }
        if self.waiting > 0 {
            write!(f, "; {} more wait", self.waiting)?;
        }
        for (index, (user, count)) in self.others.iter().enumerate() {
            let lead = if index == 0 {
                "; on this server also"
            } else {
                ","
            };
            write!(f, "{lead} {count} of user \"{user}\"")?;
        }
        for limit in &self.limits {
            write!(f, "; {limit}")?;
        }
        f.write_str(".")
    }
}

/// `5 s`, `0.25 s`.
pub(crate) fn seconds(duration: Duration) -> impl fmt::Display {
    struct Seconds(f64);
    impl fmt::Display for Seconds {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let rounded = (self.0 * 1000.0).round() / 1000.0;
            write!(f, "{rounded} s")
        }
    }
    Seconds(duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_read_as_a_sentence() {
        let holders = Holders {
            size: 4,
            running: 1,
            in_transaction: 3,
            longest: Duration::from_millis(2500),
            waiting: 7,
            others: vec![("reporting".into(), 2)],
            ..Holders::default()
        };
        assert_eq!(
            holders.to_string(),
            "4 of 4 connections are taken: 3 in a transaction, 1 running a statement; the longest \
             for 2.5 s; 7 more wait; on this server also 2 of user \"reporting\"."
        );
    }
}
